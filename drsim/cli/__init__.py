"""Commands, nothing else."""
