"""vSphere: a vCenter as a site, by its API."""

from drsim.real.vsphere.connect import connect

__all__ = ["connect"]
