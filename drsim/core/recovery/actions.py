"""Actions: all that recovery asks of platforms and managers. Each says what it gives, and what it is when repeated.

    at the manager    Inspect Pin Unpin Fence Unfence Drain Tag CommitRecovery Uncommit Reverse RunScript
    at the source     ShutDown PowerOnSource DeleteSource
    at the target     CreateVm DeleteVm CreateScratch DropScratch CopyDisks AttachDisks DetachDisks Promote ReIp
                      PowerOn PowerOff AwaitGuest RestoreVolume UndoRestore

What undoes something does nothing when there is nothing to undo, and that is no error.
"""

from dataclasses import dataclass

from drsim.core.action import Action
from drsim.core.names import CheckpointId, VmId, VolumeId
from drsim.core.recovery.facts import Facts
from drsim.core.recovery.plan import Nic, Plan, Script
from drsim.core.units import Ns


@dataclass(frozen=True, slots=True)
class Inspect(Action[Facts]):
    """Look at everything that could refuse the plan. Changes nothing."""

    plan: Plan

    def __str__(self) -> str:
        return "check the plan"


@dataclass(frozen=True, slots=True)
class Pin(Action[None]):
    """Keep a checkpoint and all that it needs. Fails when it is not listed any more."""

    vpg: str
    checkpoint: CheckpointId

    def __str__(self) -> str:
        return f"pin checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class Unpin(Action[None]):
    """This operation does not need the checkpoint any more."""

    vpg: str
    checkpoint: CheckpointId

    def __str__(self) -> str:
        return f"unpin checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class RunScript(Action[None]):
    """Run a script at the recovery site. Fails when it fails or takes longer than it may."""

    script: Script

    def __str__(self) -> str:
        return f"run {self.script.command}"


@dataclass(frozen=True, slots=True)
class ShutDown(Action[None]):
    """Stop a VM at the source; with `force`, by power if it has not stopped after `timeout`. Fails if it runs on."""

    vm: VmId
    force: bool
    timeout: Ns

    def __str__(self) -> str:
        return f"shut down VM {self.vm} at the source"


@dataclass(frozen=True, slots=True)
class PowerOnSource(Action[None]):
    """A VM that the operation has shut down runs again at the source; when the sites cannot see each other, then."""

    vm: VmId

    def __str__(self) -> str:
        return f"power on VM {self.vm} at the source"


@dataclass(frozen=True, slots=True)
class Drain(Action[CheckpointId]):
    """With all VMs down: bring everything to the other side and list a checkpoint of it. Gives that checkpoint.

    Fails when that takes longer than `timeout`.
    """

    vpg: str
    timeout: Ns

    def __str__(self) -> str:
        return "take the last checkpoint and drain"


@dataclass(frozen=True, slots=True)
class Fence(Action[bool]):
    """From now on the recovery side takes nothing of an earlier generation. Gives whether the source was told, too."""

    vpg: str
    generation: int

    def __str__(self) -> str:
        return f"fence the source (generation {self.generation})"


@dataclass(frozen=True, slots=True)
class Unfence(Action[None]):
    """The source goes on, in a generation later than all before; what it had not sent is still in its bitmap."""

    vpg: str

    def __str__(self) -> str:
        return "let the source replicate again"


@dataclass(frozen=True, slots=True)
class CreateVm(Action[None]):
    """Make a VM without disks, powered off. Fails when its name is taken by what this operation did not make."""

    name: str
    vm: VmId
    host: str
    cpus: int
    memory: int

    def __str__(self) -> str:
        return f"create {self.name}"


@dataclass(frozen=True, slots=True)
class DeleteVm(Action[None]):
    """Power off and delete a VM that this operation made, without its disks."""

    name: str

    def __str__(self) -> str:
        return f"delete {self.name}"


@dataclass(frozen=True, slots=True)
class CreateScratch(Action[None]):
    """Disks of a VM as of a checkpoint: reads come from mirror and journal, writes go to scratch and nowhere else.

    `instant`: they can be read at once, looked up in the journal write by write; otherwise the journal up to the
    checkpoint is laid out first, which takes its time once.
    """

    name: str
    vm: VmId
    checkpoint: CheckpointId
    instant: bool = False

    def __str__(self) -> str:
        return f"make disks of {self.name} as of checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class DropScratch(Action[None]):
    """Those disks are gone, with all that was written to them."""

    name: str

    def __str__(self) -> str:
        return f"drop the scratch disks of {self.name}"


@dataclass(frozen=True, slots=True)
class CopyDisks(Action[None]):
    """Disks of a VM as of a checkpoint, copied: they share nothing with the VPG."""

    name: str
    vm: VmId
    checkpoint: CheckpointId

    def __str__(self) -> str:
        return f"copy the disks of {self.name} as of checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class DeleteCopy(Action[None]):
    """Copied disks are gone."""

    name: str

    def __str__(self) -> str:
        return f"delete the copied disks of {self.name}"


@dataclass(frozen=True, slots=True)
class AttachDisks(Action[None]):
    """Attach the disks that were made for a VM."""

    name: str

    def __str__(self) -> str:
        return f"attach the disks of {self.name}"


@dataclass(frozen=True, slots=True)
class DetachDisks(Action[None]):
    """Detach them."""

    name: str

    def __str__(self) -> str:
        return f"detach the disks of {self.name}"


@dataclass(frozen=True, slots=True)
class ReIp(Action[None]):
    """Attach a VM to its networks and give it its addresses there; once."""

    name: str
    nics: tuple[Nic, ...]

    def __str__(self) -> str:
        return f"set the networks of {self.name}"


@dataclass(frozen=True, slots=True)
class PowerOn(Action[None]):
    """A recovered VM runs."""

    name: str

    def __str__(self) -> str:
        return f"power on {self.name}"


@dataclass(frozen=True, slots=True)
class PowerOff(Action[None]):
    """It does not."""

    name: str

    def __str__(self) -> str:
        return f"power off {self.name}"


@dataclass(frozen=True, slots=True)
class AwaitGuest(Action[None]):
    """Until its guest has booted and its application answers. Fails after `timeout`."""

    name: str
    timeout: Ns

    def __str__(self) -> str:
        return f"wait for {self.name}"


@dataclass(frozen=True, slots=True)
class CommitRecovery(Action[None]):
    """The recovered VMs are the VPG's from now on. The one point of no return, for all of them at once."""

    vpg: str
    generation: int
    vms: tuple[VmId, ...]

    def __str__(self) -> str:
        return "commit"


@dataclass(frozen=True, slots=True)
class Uncommit(Action[None]):
    """Make sure that a commit whose answer was a failure is not on record. Nothing has been promoted yet."""

    vpg: str

    def __str__(self) -> str:
        return "take the commit back"


@dataclass(frozen=True, slots=True)
class Promote(Action[None]):
    """Bring a VM's mirror disks to a checkpoint, and what was written to scratch on top; the VM runs on meanwhile."""

    name: str
    vm: VmId
    checkpoint: CheckpointId

    def __str__(self) -> str:
        return f"promote {self.name}"


@dataclass(frozen=True, slots=True)
class Tag(Action[None]):
    """Write on a checkpoint what was done with it."""

    vpg: str
    checkpoint: CheckpointId
    text: str

    def __str__(self) -> str:
        return f"tag checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class DeleteSource(Action[None]):
    """Delete a VM at the source, after its move was committed."""

    vm: VmId

    def __str__(self) -> str:
        return f"delete VM {self.vm} at the source"


@dataclass(frozen=True, slots=True)
class Reverse(Action[None]):
    """Protect the recovered VMs the other way, onto the old source's disks, which nobody trusts: all is compared."""

    vpg: str
    generation: int

    def __str__(self) -> str:
        return "protect the other way"


@dataclass(frozen=True, slots=True)
class RestoreVolume(Action[None]):
    """A volume as of a checkpoint: as a new disk beside it, or in its place, with what it held kept aside.

    `export`: nothing is copied; it can be read where it lies.
    """

    vpg: str
    volume: VolumeId
    checkpoint: CheckpointId
    in_place: bool
    export: bool = False

    def __str__(self) -> str:
        return f"restore volume {self.volume} as of checkpoint {self.checkpoint}"


@dataclass(frozen=True, slots=True)
class UndoRestore(Action[None]):
    """What was restored is gone; in place, the volume holds what it held."""

    vpg: str
    volume: VolumeId

    def __str__(self) -> str:
        return f"take back volume {self.volume}"


@dataclass(frozen=True, slots=True)
class KeepRestore(Action[None]):
    """What the volume held before is not kept any more."""

    vpg: str
    volume: VolumeId

    def __str__(self) -> str:
        return f"keep volume {self.volume} as restored"
