"""Sites: what people write down of sites on platforms (SITES.yaml), for `drsim doctor`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from drsim.spec.aws import AwsSite
from drsim.spec.base import Name, Spec
from drsim.spec.hyperv import HypervSite
from drsim.spec.quantity import Duration, Size
from drsim.spec.vcd import Vcd
from drsim.spec.vsphere import Vsphere

SECOND, GIB = 10**9, 1 << 30


class OnVsphere(Vsphere):
    """A site on vSphere."""

    kind: Literal["vsphere"]


class OnAws(AwsSite):
    """A site at AWS."""

    kind: Literal["aws"]


class OnHyperv(HypervSite):
    """A site of Hyper-V hosts."""

    kind: Literal["hyperv"]


class OnVcd(Vcd):
    """A tenant of a vCloud Director as a site."""

    kind: Literal["vcd"]


Access = Annotated[OnVsphere | OnAws | OnHyperv | OnVcd, Field(discriminator="kind")]
"""Which platform, and how it is reached."""


class PlatformSite(Spec):
    """A site on a platform, and what recovery will use of it."""

    platform: Access
    stores: tuple[str, ...] = ()
    """Where recovered VMs and disks go."""
    networks: tuple[str, ...] = ()
    """Networks of recovered VMs and of tests."""
    hosts: tuple[str, ...] = ()
    room: Size = 10 * GIB
    """What has to be free in each of these stores."""
    clock: Annotated[Duration, Field(ge=SECOND)] = 5 * SECOND
    """How far its clock may be from this machine's."""
    recovers_to: tuple[Name, ...] = ()
    """Sites that its VMs are recovered at."""
    vms: tuple[str, ...] = ()
    """VMs that are protected: whether they can be converted is said before anything starts."""


class Sites(Spec):
    """All of them, by name."""

    sites: Annotated[dict[Name, PlatformSite], Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, site in self.sites.items():
            for other in site.recovers_to:
                if other not in self.sites:
                    raise ValueError(f"site {name} recovers to {other}, which is not one of {', '.join(self.sites)}")
        return self
