"""Mutants of the source side: the tap between guest and disk, and the frame that captured writes collect in."""

from collections.abc import Sequence

import numpy as np

from drsim.core.batch import OpenFrame, WriteBatch
from drsim.core.bitmap import DirtyBitmap
from drsim.core.effects import Capture, Effect
from drsim.core.events import GuestWrote
from drsim.core.messages import Trigger
from drsim.core.protected_vra import ProtectedVra
from drsim.core.sender import IN_SYNC, Sender
from drsim.verify.explorer import Tap
from drsim.verify.guests import Write
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("10", by=("P1", "P12"))
def acknowledged_before_captured() -> Patch:
    """The tap lets the guest go on as soon as the disk has the write, and hands it to the VRA afterwards."""

    def landed(self: Tap, writes: Sequence[Write]) -> None:
        for write in writes:
            write.guest.land(write)
        self.explorer.acknowledge(writes)
        self.capture(writes)

    return patched(Tap, "landed", landed)


@mutant("11", by=("P1",))
def captured_in_order_of_completion() -> Patch:
    """Writes that were in flight together are captured as they complete, which is not how they landed."""

    def landed(self: Tap, writes: Sequence[Write]) -> None:
        for write in writes:
            write.guest.land(write)
        self.capture(list(reversed(writes)))
        self.explorer.acknowledge(writes)

    return patched(Tap, "landed", landed)


@mutant("14", "B24", by=("P1", "P12"), cites="zfs #4050, ydb nbs #1097")
def discards_not_captured() -> Patch:
    """A discard or write-zeroes is passed to the disk and neither captured nor marked dirty."""
    capture = Tap.capture

    def mutated(self: Tap, writes: Sequence[Write]) -> None:
        kept = [write for write in writes if not write.discard]
        if kept:
            capture(self, kept)

    return patched(Tap, "capture", mutated)


@mutant("B01", by=("P2",), cites="oxidecomputer/crucible #1448")
def large_write_deferred() -> Patch:
    """A large write is put off until its frame is sent, and the small ones behind it overtake it."""
    cut = OpenFrame.cut

    def mutated(self: OpenFrame) -> WriteBatch:
        batch = cut(self)
        large = batch.sectors > 4
        if not large.any() or large.all():
            return batch
        order = np.argsort(large, kind="stable")
        return WriteBatch.of(
            batch.vm[order], batch.volume[order], batch.lba[order], batch.sectors[order], batch.issued[order]
        )

    return patched(OpenFrame, "cut", mutated)


@mutant(by=("P10",), hunter="twins")
def frame_cut_where_a_batch_ends() -> Patch:
    """A frame is cut whenever the tap hands writes over, so how they are handed over decides what is sent."""
    capture = Sender.capture

    def mutated(self: Sender, batch: WriteBatch, room: int) -> object:
        effects, taken = capture(self, batch, room)
        return [*effects, *self.flush()] if len(batch) > 2 else effects, taken

    return patched(Sender, "capture", mutated)


@mutant(by=("P10",), hunter="twins")
def overflow_takes_the_whole_batch() -> Patch:
    """When the buffer is full, rows of the batch that were captured while there was room are captured once more."""
    overflow = ProtectedVra._overflow

    def mutated(self: ProtectedVra, sender: Sender, event: GuestWrote, taken: int) -> object:
        return overflow(self, sender, event, 0)

    return patched(ProtectedVra, "_overflow", mutated)


@mutant(by=("P12",))
def last_region_of_a_write_not_marked() -> Patch:
    """A write that reaches into a second region marks only the first."""
    mark = DirtyBitmap.mark

    def mutated(self: DirtyBitmap, batch: WriteBatch) -> None:
        first = np.minimum(batch.sectors, self._sectors - batch.lba % self._sectors)
        mark(self, WriteBatch.of(batch.vm, batch.volume, batch.lba, first, batch.issued))

    return several(patched(DirtyBitmap, "mark", mutated))


@mutant(by=("P12",))
def missed_writes_forgotten() -> Patch:
    """Writes that the tap had no room for make the stream synchronize, but where they went is not marked."""

    def mutated(self: Sender, batch: WriteBatch) -> object:
        return self.fold(Trigger.PROTECTED_VRA) if self.state is IN_SYNC else []

    return patched(Sender, "missed", mutated)


@mutant(by=("P1", "P12"))
def missed_writes_leave_the_stream_in_sync() -> Patch:
    """Where missed writes went is dirty, and the stream counts as in sync all the same."""
    return patched(Sender, "missed", Sender._mark)


@mutant(by=("P20",))
def content_not_asked_for_again() -> Patch:
    """A sweep tells the tap to keep no content, and its end does not take that back."""
    sweep = Sender._sweep

    def mutated(self: Sender) -> list[Effect]:
        return [effect for effect in sweep(self) if not (isinstance(effect, Capture) and effect.content)]

    return patched(Sender, "_sweep", mutated)
