"""vCloud Director: what people write down of a tenant that is a site, and of the vCenter underneath."""

from typing import Annotated

from pydantic import Field

from drsim.spec.base import Spec
from drsim.spec.platform import Secret
from drsim.spec.quantity import Duration
from drsim.spec.vsphere import Called, Vsphere

SECOND = 10**9


class Vcd(Spec):
    """A vCloud Director, as its provider sees it: only the provider can bring VMs with their disks in."""

    address: str = Field(min_length=1, pattern=r"^[^\s/:]+$")
    """Its name, as in its certificate."""
    port: Annotated[int, Field(ge=1, le=65535)] = 443
    user: str = Field(min_length=1)
    """A system administrator."""
    password: Secret
    ca: str | None = Field(default=None, min_length=1)
    """A file with the authority of its certificate, from this file's folder; none: those that this machine believes."""
    org: Called
    """The tenant."""
    server: Called
    """The vCenter underneath, as it is registered there."""
    policies: Annotated[dict[Called, Called], Field(min_length=1)]
    """The tenant's storage policies, and for each the datastore on which disks of that policy are made."""
    vcenter: Vsphere
    """That vCenter: VMs are built there, with their disks, and then imported."""
    poll: Annotated[Duration, Field(ge=SECOND // 10)] = 5 * SECOND
    """Between looks at what has changed."""
