"""Operations on a timeline: what people and the platform do with VMs and VPGs while a model runs.

VMs and VPGs are single ones: `web-007` of a `web` with a `count`, `shop-02` of a `shop` with a `split`.
"""

from typing import Annotated, Literal

from pydantic import Field

from drsim.spec.base import Name, Spec
from drsim.spec.quantity import Duration


class _Operation(Spec):
    at: Annotated[Duration, Field(ge=0)]
    """Time since the start of the run."""


class VMotion(_Operation):
    """A VM moves to another host of its site, without a pause. The manager hears of it after the inventory delay."""

    kind: Literal["vmotion"] = "vmotion"
    vm: Name
    """Which VM."""
    to: Name
    """The host; on one without a VRA the VM is not protected."""


class AddVm(_Operation):
    """A VM that is in no VPG joins one: its volumes are synchronized while checkpoints go on without it."""

    kind: Literal["add-vm"] = "add-vm"
    vm: Name
    """Which VM."""
    vpg: Name
    """The VPG that it joins."""


class RemoveVm(_Operation):
    """A VM leaves its VPG. Its journal goes when no checkpoint has it any more."""

    kind: Literal["remove-vm"] = "remove-vm"
    vm: Name
    """Which VM."""


class ForceSync(_Operation):
    """All disks of a VPG are compared with the other side, and what differs is sent."""

    kind: Literal["force-sync"] = "force-sync"
    vpg: Name
    """Which VPG."""


class Pause(_Operation):
    """Replication of a VPG stops until it is resumed; what is written meanwhile is sent then."""

    kind: Literal["pause"] = "pause"
    vpg: Name
    """Which VPG."""


class Resume(_Operation):
    """Replication of a paused VPG goes on."""

    kind: Literal["resume"] = "resume"
    vpg: Name
    """Which VPG."""


Operation = Annotated[VMotion | AddVm | RemoveVm | ForceSync | Pause | Resume, Field(discriminator="kind")]
