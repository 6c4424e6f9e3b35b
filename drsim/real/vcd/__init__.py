"""vCloud Director: a tenant as a site, over the vCenter underneath."""

from drsim.real.vcd.connect import connect

__all__ = ["connect"]
