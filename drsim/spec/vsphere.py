"""vSphere: what people write down of a vCenter that is a site."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from drsim.spec.base import Spec
from drsim.spec.platform import Secret

Called = Annotated[str, Field(min_length=1, max_length=80)]
"""A name in the vCenter's inventory, as its administrators see it."""


class Vsphere(Spec):
    """A vCenter, and which part of it is the site's."""

    address: str = Field(min_length=1, pattern=r"^[^\s/:]+$")
    """Its name, as in its certificate."""
    port: Annotated[int, Field(ge=1, le=65535)] = 443
    user: str = Field(min_length=1)
    password: Secret
    ca: str | None = Field(default=None, min_length=1)
    """A file with the authority of its certificate, from this file's folder; none: those that this machine believes."""
    datacenter: Called
    pool: Called | None = None
    """The resource pool of recovered VMs; none: that of their host or its cluster."""
    folder: Called | None = None
    """The VM folder of recovered VMs, right in the datacenter; none: the datacenter itself."""
    appliance: Called
    """The VM that this VRA runs in: it has the mirror disks."""
    datastores: dict[Called, Annotated[str, Field(min_length=1)]] = {}
    """Datastores that this machine has mounted too (NFS), and where, from this file's folder."""
    devices: str = Field(default="/dev/disk/by-id", min_length=1)
    """Where this machine names its disks by their identity, for all other datastores."""
    guest: str = Field(default="otherLinux64Guest", min_length=1)
    """What vCenter calls the operating system of recovered VMs; it has to know it, to give guests their addresses."""
    windows: str = Field(default="windows9Server64Guest", pattern="^win")
    """The same of those whose guest is known to be Windows. (This one is Windows Server 2016 and later.)"""
    domain: str = Field(default="localdomain", min_length=1)
    """The DNS domain of guests that get new addresses."""
    controller: Literal["pvscsi", "lsilogic", "lsisas"] = "pvscsi"
    """The SCSI controller of recovered VMs: their guests need its driver."""
    tools: bool = True
    """Whether recovered guests have VMware Tools: then a VM counts as up when they answer, else when it is on."""
    connections: Annotated[int, Field(ge=1, le=32)] = 4
    """How many calls are under way at once."""

    @model_validator(mode="after")
    def _no_brackets(self) -> "Vsphere":
        for name in self.datastores:
            if set(name) & set("[]"):
                raise ValueError(f"a datastore is written without brackets: {name}")
        return self
