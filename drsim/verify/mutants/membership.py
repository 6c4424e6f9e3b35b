"""Mutants of membership and of what operators ask for: VMs added, removed, moved; pauses and tags."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from drsim.core.catalog import Catalog
from drsim.core.effects import Effect, Send
from drsim.core.events import Reconfigured
from drsim.core.journal import Journal
from drsim.core.messages import Checkpoint, Configure, Cut, Frame, Standing, Start, Where
from drsim.core.names import StreamId, VmId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.sender import Sender
from drsim.core.units import Ns
from drsim.core.vpg import Vpg
from drsim.verify.mutants.base import Patch, mutant, patched


@mutant(by=("P24", "P2"))
def numbers_begin_anew_after_a_move() -> Patch:
    """A VM that moved to another host gets its numbers from the beginning."""
    where = Receiver.where

    def mutated(self: Receiver, message: Where) -> list[Effect]:
        effects = where(self, message)
        if self.spec.follows is None or self.epoch:
            return effects
        return [
            Send(e.to, replace(e.message, position=(0,) * len(self.spec.vms)))
            if isinstance(e, Send) and isinstance(e.message, Standing) else e
            for e in effects
        ]  # fmt: skip

    return patched(Receiver, "where", mutated)


@mutant("49", by=("P23",))
def added_to_earlier_checkpoints() -> Patch:
    """A VM that was added belongs, with empty disks, to the checkpoints that were there before it."""
    marks = Catalog._sealed

    def mutated(self: Catalog, checkpoint: Checkpoint) -> list[Effect]:
        for earlier in self.listed:
            for stream, cut in checkpoint.cut.items():
                earlier.cut.setdefault(stream, Cut(cut.epoch, (0,) * len(cut.position)))
        return marks(self, checkpoint)

    return patched(Catalog, "_sealed", mutated)


@mutant("B28", by=("P12",), cites="abbbi/virtnbdbackup #135, #240")
def added_without_a_sync() -> Patch:
    """A VM that was added counts as in sync from the beginning."""
    configure = ProtectedVra._configure

    def mutated(self: ProtectedVra, message: Configure) -> list[Effect]:
        starts: dict[StreamId, Start] = {
            id_: Start.EQUAL if s is Start.INITIAL else s for id_, s in message.starts.items()
        }
        return configure(self, replace(message, starts=starts))

    return patched(ProtectedVra, "_configure", mutated)


@mutant(by=("P12",))
def moved_with_a_clean_bitmap() -> Patch:
    """A VM that moved to another host counts as clean there, although nobody captured what it wrote meanwhile."""
    init = Sender.__init__

    def mutated(self: Sender, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        if options.get("start") is Start.MOVED:
            self.bitmap._unsure.clear()

    return patched(Sender, "__init__", mutated)


@mutant(by=("P4", "P5", "P12", "P23", "P6"))
def vouching_for_a_vm_that_left() -> Patch:
    """A VRA goes on answering holds for a VM that runs on another host by now."""
    return patched(ProtectedVra, "_left", lambda self, vm: [])


@mutant(by=("P2", "P9", "P3", "P5", "P12", "P24", "P11", "P22"))
def old_host_goes_on_writing() -> Patch:
    """Frames of the host that a VM left are taken after the new one has taken over."""

    def mutated(self: Receiver, frame: Frame) -> list[Effect]:
        self._fenced = -1
        return take(self, frame)

    take = Receiver.frame
    return patched(Receiver, "frame", mutated)


@mutant(by=("P11", "P20"))
def marks_stay_behind() -> Patch:
    """A stream that follows begins with journals without the marks of the checkpoints before."""
    over = Receiver.take_over

    def mutated(self: Receiver, vm: VmId, journal: Journal, handed: int) -> None:
        journal.withdraw()
        over(self, vm, journal, handed)

    return patched(Receiver, "take_over", mutated)


@mutant(by=("P23", "P11"))
def discarded_too_early() -> Patch:
    """The journals of a VM that was removed go at once, although older checkpoints have it."""

    def mutated(self: Catalog, checkpoint: Checkpoint) -> list[Effect]:
        effects = listed(self, checkpoint)
        self._leaving += list(self.listed)[:-1]
        kept, self.listed = self.listed, type(self.listed)(list(self.listed)[-1:])
        effects += self._close()
        self.listed = kept
        self._leaving.clear()
        return effects

    listed = Catalog._list
    return patched(Catalog, "_list", mutated)


@mutant(by=("P23", "P20", "P5"))
def configuration_forgotten() -> Patch:
    """A manager that was built again takes the VPG for what it was in the beginning."""
    init = Vpg.__init__

    def mutated(self: Vpg, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "configured": None})

    return patched(Vpg, "__init__", mutated)


@mutant(by=("P20",))
def told_once_of_a_configuration() -> Patch:
    """A VRA that did not hear of a configuration is not told again when it is back."""
    return patched(Vpg, "_tell_configuration", _only_when_it_changes(Vpg._tell_configuration))


def _only_when_it_changes(tell: Any) -> Any:
    def mutated(self: Vpg, vras: Iterable[Any]) -> Any:
        return [] if isinstance(vras, list) else tell(self, vras)

    return mutated


@mutant(by=("P18",))
def pause_forgotten() -> Patch:
    """A manager that was built again does not know that replication is to be paused."""
    init = Vpg.__init__

    def mutated(self: Vpg, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "paused": False})

    return patched(Vpg, "__init__", mutated)


@mutant(by=("P18", "P23"))
def sealed_while_unprotected() -> Patch:
    """Checkpoints go on without the VM that runs on a host without a VRA."""
    begin = Vpg._reconfigured

    def mutated(self: Vpg, event: Reconfigured) -> list[Effect]:
        return begin(self, replace(event, unprotected=()))

    return patched(Vpg, "_reconfigured", mutated)


@mutant(by=("P18", "P20"))
def tag_sealed_again() -> Patch:
    """A tag is not taken off the list when its checkpoint is sealed, and comes again with the next one."""
    seal = Vpg._seal

    def mutated(self: Vpg, now: Ns, attempt: Any) -> list[Effect]:
        if attempt.tag.name:
            self._tags.append(attempt.tag)
        return seal(self, now, attempt)

    return patched(Vpg, "_seal", mutated)


@mutant(by=("P20",))
def deletion_forgotten() -> Patch:
    """A manager that was built again does not know that its VPG is being deleted."""
    init = Vpg.__init__

    def mutated(self: Vpg, *args: Any, **options: Any) -> None:
        init(self, *args, **{**options, "deleting": None})

    return patched(Vpg, "__init__", mutated)
