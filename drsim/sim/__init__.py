"""The simulation world: SimPy time and modelled resources around the shared core."""
