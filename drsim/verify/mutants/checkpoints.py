"""Mutants of checkpoints: the hold, the cut, the seal, the list."""

from collections import deque
from dataclasses import replace
from typing import Any

from drsim.core.catalog import Catalog
from drsim.core.effects import Effect, ReleaseGuests, Send
from drsim.core.messages import Age, Await, Checkpoint, Cut, Held, Hold, Listed, Missed, Reached
from drsim.core.names import Address
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.sender import Sender
from drsim.core.units import Lsn, Ns
from drsim.core.vpg import Vpg
from drsim.core.window import reaches
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("16", "B08", by=("P4", "P5"), cites="ceph/ceph #38740, #53793")
def naive_marker() -> Patch:
    """The marker is put into each stream when the message gets there; no guest is held."""
    hold = ProtectedVra._hold

    def mutated(self: ProtectedVra, message: Hold) -> list[Effect]:
        effects = hold(self, message)
        held = [ReleaseGuests(message.vpg, message.checkpoint)] if message.vpg in self._holds else []
        return [*effects, *held]

    return patched(ProtectedVra, "_hold", mutated)


@mutant("18", "B10", by=("P4",))
def cut_by_wall_clocks() -> Patch:
    """Each host takes its part of a checkpoint when its own clock strikes the agreed time; no guest is held."""
    hold = ProtectedVra._hold
    agreed: set[tuple[Address, str, int]] = set()

    def mutated(self: ProtectedVra, message: Hold) -> list[Effect]:
        time = (self.address, message.vpg, message.checkpoint)
        if message.alone or time in agreed:
            agreed.discard(time)
            effects = hold(self, message)
            held = [ReleaseGuests(message.vpg, message.checkpoint)] if message.vpg in self._holds else []
            return [*effects, *held]
        agreed.add(time)
        return [Send(self.address, message)]  # the clock strikes sooner or later

    return patched(ProtectedVra, "_hold", mutated)


@mutant(by=("P4",))
def sealed_without_confirmation() -> Patch:
    """A checkpoint is sealed when all have held, whether or not they held until the release."""
    held = Vpg._held

    def mutated(self: Vpg, now: Ns, message: Held) -> list[Effect]:
        effects = held(self, now, message)
        attempt = self.attempt
        if attempt is not None and len(attempt.held) == len(self.vras):
            effects += self._seal(now, attempt)
        return effects

    return patched(Vpg, "_held", mutated)


@mutant(by=("P5",))
def open_frame_left_out() -> Patch:
    """A checkpoint's cut is where the frames end that were cut, without the rows that still collect."""
    hold, flush = ProtectedVra._hold, Sender.flush

    def mutated(self: ProtectedVra, message: Hold) -> list[Effect]:
        with several(
            patched(Sender, "flush", lambda sender: [] if sender._open.rows else flush(sender)),
            patched(Sender, "cut", lambda sender: Cut(sender.epoch, sender.numbered)),
        ):
            return hold(self, message)

    return patched(ProtectedVra, "_hold", mutated)


@mutant("34", "B14", by=("P12", "P4"), cites="a rule of the field (products.md 1.4)")
def cut_while_a_vm_syncs() -> Patch:
    """A checkpoint is created although a VM of the group synchronizes."""
    hold = ProtectedVra._hold

    def mutated(self: ProtectedVra, message: Hold) -> list[Effect]:
        with several(
            patched(Sender, "syncing", property(lambda sender: False)),
            patched(Sender, "cut", lambda sender: Cut(sender.epoch, sender.numbered)),
        ):
            return hold(self, message)

    return patched(ProtectedVra, "_hold", mutated)


@mutant("17", by=("P5",))
def first_journal_lists() -> Patch:
    """A checkpoint is listed when the first journal has it, not the last."""
    reached = Catalog._reached

    def mutated(self: Catalog, message: Reached) -> list[Effect]:
        if message.checkpoint in self._arriving:
            self._arriving[message.checkpoint].missing.clear()
        return reached(self, message)

    return patched(Catalog, "_reached", mutated)


@mutant("B12", by=("P6", "P22"))
def latest_of_any_vm() -> Patch:
    """The newest recovery point told is the newest that some VM has, not the newest that all have."""
    reached = Catalog._reached

    def mutated(self: Catalog, message: Reached) -> list[Effect]:
        arriving = self._arriving.get(message.checkpoint)
        effects = reached(self, message)
        if arriving is None or not self.listed:
            return effects
        newest = arriving.checkpoint
        told = Listed(self.vpg, self.listed[-1].id, newest.taken, self.listed[0].taken, len(self.listed))
        return [*effects, Send(self.manager, told)]

    return patched(Catalog, "_reached", mutated)


@mutant("B09", by=("P5", "P3"), cites="miroir #268")
def missing_member_left_out() -> Patch:
    """A checkpoint that one journal will never have is listed for the others."""
    handle = Catalog.handle

    def mutated(self: Catalog, now: Ns, event: Any) -> list[Effect]:
        message = getattr(event, "message", None)
        if isinstance(message, Missed):
            return self._reached(Reached(message.vpg, message.checkpoint, message.stream))
        return handle(self, now, event)

    return patched(Catalog, "handle", mutated)


@mutant("B07", by=("P5", "P3"), cites="ceph/ceph #71553")
def missed_is_reached() -> Patch:
    """A cut that never will be reached is reported as reached."""
    settle = Receiver._settle

    def mutated(self: Receiver) -> list[Effect]:
        return [
            Send(e.to, Reached(e.message.vpg, e.message.checkpoint, e.message.stream))
            if isinstance(e, Send) and isinstance(e.message, Missed)
            else e
            for e in settle(self)
        ]

    return patched(Receiver, "_settle", mutated)


@mutant("19", by=("P4", "P5"))
def marker_overtakes_data() -> Patch:
    """The marker comes on the control channel, and counts as reached when it is there; the data is behind it."""
    fate = Receiver._fate

    def mutated(self: Receiver, cut: Cut) -> bool | None:
        return True if cut.epoch == self.epoch else fate(self, cut)

    return patched(Receiver, "_fate", mutated)


@mutant(by=("P5", "P3", "P11"))
def epoch_of_a_cut_ignored() -> Patch:
    """A cut counts as reached once the numbers have grown past it, in whatever epoch."""

    def mutated(self: Receiver, cut: Cut) -> bool | None:
        return True if reaches(self.durable, cut.position) else None

    return patched(Receiver, "_fate", mutated)


@mutant("B15", by=("P11", "P5", "P3"), cites="ceph/ceph #43359, #44601")
def registered_at_a_trimmed_position() -> Patch:
    """A checkpoint is accepted at a position whose data has left the journal already."""
    fate = Receiver._fate

    def mutated(self: Receiver, cut: Cut) -> bool | None:
        withdrawn = [journal.withdrawn for journal in self.journals.values()]
        for journal in self.journals.values():
            journal.withdrawn = Lsn(0)
        found = fate(self, cut)
        for journal, lsn in zip(self.journals.values(), withdrawn, strict=True):
            journal.withdrawn = lsn
        return found

    return patched(Receiver, "_fate", mutated)


@mutant("B13", by=("P20", "P11"), cites="abbbi/virtnbdbackup #17")
def compared_by_name() -> Patch:
    """Checkpoints are compared by their names, in which 10 comes before 9: the tenth is taken for an old one."""
    sealed = Catalog._sealed

    def mutated(self: Catalog, checkpoint: Checkpoint) -> list[Effect]:
        if self.listed and str(checkpoint.id) <= str(self.listed[-1].id):
            return []
        return sealed(self, checkpoint)

    return patched(Catalog, "_sealed", mutated)


@mutant(by=("P5", "P11"))
def numbers_given_again() -> Patch:
    """A manager that lost its memory numbers its checkpoints from one."""
    init = Vpg.__init__

    def mutated(self: Vpg, *args: Any, first: int = 1, **options: Any) -> None:
        init(self, *args, **options)

    return patched(Vpg, "__init__", mutated)


@mutant("21", by=("P5", "P11", "P22"))
def listed_by_stamp() -> Patch:
    """The list is in the order of the stamps, and a clock that was set back puts a new checkpoint before old ones."""
    listing = Catalog._list

    def mutated(self: Catalog, checkpoint: Checkpoint) -> list[Effect]:
        effects = listing(self, checkpoint)
        self.listed = deque(sorted(self.listed, key=lambda c: c.taken))
        return effects

    return patched(Catalog, "_list", mutated)


@mutant(by=("P20",))
def await_not_repeated() -> Patch:
    """After a lost connection the catalogue does not ask again for what it awaits."""
    ask = Catalog._ask_again

    def mutated(self: Catalog, vra: Address) -> list[Effect]:
        return [e for e in ask(self, vra) if not (isinstance(e, Send) and isinstance(e.message, Await))]

    return patched(Catalog, "_ask_again", mutated)


@mutant(by=("P11", "P5", "P12"))
def aged_before_marked() -> Patch:
    """A VRA that is back hears what may go before it hears what is marked, and takes an unknown mark for none."""
    ask, age = Catalog._ask_again, Receiver.age

    def mutated(self: Catalog, vra: Address) -> list[Effect]:
        return sorted(ask(self, vra), key=lambda e: not (isinstance(e, Send) and isinstance(e.message, Age)))

    def aged(self: Receiver, message: Age) -> list[Effect]:
        known = message.checkpoint is None or all(j.marked(message.checkpoint) for j in self.journals.values())
        return age(self, message if known else replace(message, checkpoint=None))

    return several(patched(Catalog, "_ask_again", mutated), patched(Receiver, "age", aged))
