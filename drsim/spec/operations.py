"""Operations on a timeline: what people and the platform do with VMs and VPGs while a model runs.

VMs and VPGs are single ones: `web-007` of a `web` with a `count`, `shop-02` of a `shop` with a `split`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.protect import HOUR, LONGEST_HISTORY, Limit, VolumeSize
from drsim.spec.quantity import Bandwidth, Duration
from drsim.spec.recovery import Script


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
    """A VM joins a VPG: its volumes are synchronized while the VPG's checkpoints go on without it."""

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
    vpg: Name | None = None
    """The VPG that it leaves; the one that it is in, when it is in one only."""


class AddVolume(_Operation):
    """A VM gets a disk more, all of which is sent. The workload goes on with the disks that it has."""

    kind: Literal["add-volume"] = "add-volume"
    vm: Name
    """Which VM."""
    volume: Name
    """A new name within the VM."""
    size: VolumeSize
    """Up to 64 TiB."""


class GrowVolume(_Operation):
    """A disk of a VM becomes larger; what is new of it is sent. The workload goes on within what there was."""

    kind: Literal["grow-volume"] = "grow-volume"
    vm: Name
    """Which VM."""
    volume: Name
    """Which of its disks."""
    size: VolumeSize
    """More than it has."""


class RemoveVolume(_Operation):
    """A disk of a VM is removed; what the workload would write to it is not written. Replication rests until the

    manager knows.
    """

    kind: Literal["remove-volume"] = "remove-volume"
    vm: Name
    """Which VM."""
    volume: Name
    """Which of its disks; not its last one."""


class DetachVolume(_Operation):
    """A protected disk is not there for a while, so the VPG's replication is paused by the system."""

    kind: Literal["detach-volume"] = "detach-volume"
    vm: Name
    """Which VM; what it would write to the disk is not written."""
    volume: Name
    """Which of its disks."""


class AttachVolume(_Operation):
    """A detached disk is there again. Nobody knows what happened to it: it is compared."""

    kind: Literal["attach-volume"] = "attach-volume"
    vm: Name
    """Which VM."""
    volume: Name
    """Which of its disks."""


class ChangeJournal(_Operation):
    """The journals of a VPG keep something else from now on; what is not given stays."""

    kind: Literal["change-journal"] = "change-journal"
    vpg: Name
    """Which VPG."""
    history: Annotated[Duration, Field(ge=HOUR, le=LONGEST_HISTORY)] | None = None
    """How far back checkpoints go."""
    hard_limit: Limit | None = None
    """Most journal per VM."""
    fail_safe: Annotated[Duration, Field(ge=0, le=LONGEST_HISTORY)] | None = None
    """History that is kept at any price."""


class Retarget(_Operation):
    """A VM is recovered by another host's VRA from now on, which gets all of it; the old history stays where it is."""

    kind: Literal["retarget"] = "retarget"
    vm: Name
    """Which VM."""
    to: Name
    """A host of the VPG's recovery site; the datastore stays."""
    vpg: Name | None = None
    """The VPG in which it is; the one that it is in, when it is in one only."""


class DeleteVpg(_Operation):
    """A VPG is deleted on both sides, with its checkpoints and journals."""

    kind: Literal["delete-vpg"] = "delete-vpg"
    vpg: Name
    """Which VPG."""
    keep_disks: bool = False
    """Whether the recovery disks stay, with all that was replicated, to preseed another VPG."""


class ForceSync(_Operation):
    """All disks of a VPG, or those of some VMs, are compared with the other side, and what differs is sent."""

    kind: Literal["force-sync"] = "force-sync"
    vpg: Name
    """Which VPG."""
    vms: tuple[Name, ...] = ()
    """Of these VMs only."""
    full: bool = False
    """Send everything, and compare nothing: for a copy that is not worth a comparison."""


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


class _Recovery(_Operation):
    """What recovery operations have in common."""

    vpg: Name
    """Which VPG."""
    vms: tuple[Name, ...] = ()
    """These VMs of it only."""
    checkpoint: Annotated[Duration, Field(ge=0)] | Literal["latest", "latest tagged"] = "latest"
    """Which one: the newest, the newest with a tag, or the newest that is at least so old when the operation begins."""
    detect: Annotated[Duration, Field(ge=0)] = 0
    """From `at` until somebody knows that something is wrong."""
    decide: Annotated[Duration, Field(ge=0)] = 0
    """From then until somebody has decided; then the operation begins."""
    on_failure: Literal["stop", "go on"] = "stop"
    """What one VM's failure does: undo everything, or leave it out."""
    instant: bool = False
    """Boot at once, reading through the journal, instead of laying it out first."""


class _Runs(_Recovery):
    pre: Script | None = None
    """Before anything is touched."""
    post: Script | None = None
    """After all VMs answer."""


class _InPlace(_Runs):
    commit: Literal["commit", "rollback", "none"] = "commit"
    """What happens when nobody has decided in time."""
    wait: Annotated[Duration, Field(ge=0)] = 0
    """How long the VMs can be looked at before that: 0, or 300 s to 86400 s (products.md 1.5)."""
    verdict: Literal["commit", "rollback"] | None = None
    """What an operator decides."""
    after: Annotated[Duration, Field(ge=0)] = 0
    """How long after all VMs answer."""
    reverse: bool = False
    """Protect the VPG the other way afterwards, onto the old source's disks, which are compared (products.md T23).
    Another failover or move of the VPG then brings it back. Fidelity fluid only."""


class Failover(_InPlace):
    """The VPG's VMs run at the recovery site in place of the source."""

    kind: Literal["failover"] = "failover"
    shutdown: Literal["none", "graceful", "force"] = "none"
    """What is done to the VMs at the source first."""


class FailoverTest(_Runs):
    """The VPG's VMs run at the recovery site beside the source, and are gone afterwards."""

    kind: Literal["test"] = "test"
    lasts: Annotated[Duration, Field(gt=0)] = 3600 * 10**9
    """How long they run before somebody stops it."""
    writes: Annotated[Bandwidth, Field(ge=0)] = 0
    """What each VM writes to its scratch meanwhile; when that is full its test writes no more (products.md T15)."""
    note: str = "passed"
    """What is written on the checkpoint."""


class Move(_InPlace):
    """The VPG's VMs are shut down, everything is brought over, and they run at the recovery site. Nothing is lost."""

    kind: Literal["move"] = "move"
    shutdown: Literal["graceful", "force"] = "graceful"
    """How the VMs at the source are shut down."""
    keep_source: bool = False
    """Do not delete them."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "Move":
        if self.keep_source and self.reverse:
            raise ValueError("a move that keeps the source cannot be reversed (T27); choose one of the two")
        return self


class Clone(_Recovery):
    """Copies of the VPG's VMs as of a checkpoint, powered off."""

    kind: Literal["clone"] = "clone"


class Restore(_Operation):
    """A volume as of a checkpoint, as a new disk at the recovery site."""

    kind: Literal["restore"] = "restore"
    vpg: Name
    """Which VPG."""
    vm: Name
    """Which VM of it."""
    volume: Name
    """Which volume of that."""
    checkpoint: Annotated[Duration, Field(ge=0)] | Literal["latest", "latest tagged"] = "latest"
    """Which one, as for the others."""
    detect: Annotated[Duration, Field(ge=0)] = 0
    """From `at` until somebody knows that something is wrong."""
    decide: Annotated[Duration, Field(ge=0)] = 0
    """From then until somebody has decided; then the operation begins."""


RecoveryOperation = Failover | FailoverTest | Move | Clone | Restore
RECOVERIES = (Failover, FailoverTest, Move, Clone, Restore)

Operation = Annotated[
    Failover | FailoverTest | Move | Clone | Restore | VMotion | AddVm | RemoveVm | AddVolume | GrowVolume
    | RemoveVolume | DetachVolume | AttachVolume | ChangeJournal | Retarget | DeleteVpg | ForceSync | Pause | Resume,
    Field(discriminator="kind"),
]  # fmt: skip
