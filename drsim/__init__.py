"""Simulation and verification test-bed for continuous-replication disaster recovery."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["DrsimError", "Model", "Run", "load_model", "simulate"]

_HOMES = {
    "DrsimError": "drsim.core.errors",
    "Model": "drsim.spec.model",
    "Run": "drsim.sim.run",
    "load_model": "drsim.files.models",
    "simulate": "drsim.sim.run",
}

if TYPE_CHECKING:
    from drsim.core.errors import DrsimError
    from drsim.files.models import load_model
    from drsim.sim.run import Run, simulate
    from drsim.spec.model import Model


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the core can be used without the packages of the layers above it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'drsim' has no attribute {name!r}")
