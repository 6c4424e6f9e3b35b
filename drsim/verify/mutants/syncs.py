"""Mutants of synchronization: the dirty bitmap, the sweep, epochs, and what is left of them after a crash."""

from copy import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np

from drsim.core.batch import WriteBatch
from drsim.core.bitmap import DirtyBitmap
from drsim.core.effects import Effect, ReadRegions, Send
from drsim.core.messages import Ack, Compared, Frame, Resynced, Standing, SyncDone, Where
from drsim.core.names import Extent, VmId
from drsim.core.receiver import Receiver
from drsim.core.sender import Sender, SendState
from drsim.core.units import Lsn, Ns
from drsim.verify import explorer
from drsim.verify.disks import StreamDisks
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("29", by=("P12",))
def in_flight_forgotten() -> Patch:
    """A fold marks what is queued, but not what was sent."""
    end = Sender._end_epoch

    def mutated(self: Sender) -> None:
        self.window.clear()
        end(self)

    return patched(Sender, "_end_epoch", mutated)


@mutant(by=("P12",))
def open_frame_forgotten() -> Patch:
    """A fold marks the frames that were cut, but not the rows that still collect."""
    end = Sender._end_epoch

    def mutated(self: Sender) -> None:
        if self._open.rows:
            self._open.cut()
        end(self)

    return patched(Sender, "_end_epoch", mutated)


@mutant("30", by=("P12",))
def clean_when_read() -> Patch:
    """A region counts as clean when it was read for sending, not when it is durable."""
    end = Sender._end_epoch

    def mutated(self: Sender) -> None:
        for frame in [f for f in self.window.clear() if not f.sync]:
            self.window.add(frame)
        end(self)

    return patched(Sender, "_end_epoch", mutated)


def _clear(bitmap: DirtyBitmap, batch: WriteBatch) -> None:
    """Take the regions of these rows out of a bitmap."""
    other = DirtyBitmap(bitmap._sectors * 512, list(bitmap._volumes.values()))
    other.mark(batch)
    for each in (bitmap, other):
        each._merge()
    bitmap._keys = np.setdiff1d(bitmap._keys, other._keys)


@mutant("31", by=("P12",))
def cleared_after_it_was_set_again() -> Patch:
    """A region is cleared when its content is acknowledged, although a guest wrote it again meanwhile."""
    acknowledged = Sender.acknowledged

    def mutated(self: Sender, ack: Ack) -> list[Effect]:
        before = list(self.window)
        effects = acknowledged(self, ack)
        for frame in before:
            if frame.sync and frame not in list(self.window):
                _clear(self.bitmap, frame.batch)
        return effects

    return patched(Sender, "acknowledged", mutated)


@mutant("32", by=("P12",))
def granule_larger_than_what_is_copied() -> Patch:
    """A region of the bitmap is larger than what is copied for it: its last sector stays behind."""
    take = DirtyBitmap.take

    def mutated(self: DirtyBitmap, nbytes: int, now: Ns) -> WriteBatch:
        rows = take(self, nbytes, now)
        shorter = np.maximum(1, rows.sectors - (rows.sectors % self._sectors == 0))
        return WriteBatch.of(rows.vm, rows.volume, rows.lba, shorter, rows.issued)

    return patched(DirtyBitmap, "take", mutated)


@mutant("33", "B29", by=("P12", "P24"), cites="abbbi/virtnbdbackup #225, #266")
def clean_after_a_crash() -> Patch:
    """A VRA that lost its bitmap takes the disks for equal."""
    return patched(DirtyBitmap, "fill", lambda self: None)


@mutant("36", by=("P12",))
def sync_over_with_frames_queued() -> Patch:
    """A sync is declared complete when nothing is dirty any more, with its last frames still on their way."""

    def mutated(self: Sender) -> list[Effect]:
        ended, self.durable = self.durable, self.durable if self._sync_upto is None else self._sync_upto
        effects = end(self)
        self.durable = ended
        return effects

    end = Sender._end_if_durable
    return patched(Sender, "_end_if_durable", mutated)


@mutant("37", by=("P12", "P17"))
def zeros_skipped() -> Patch:
    """A sync skips blocks of zeros, as if the other side had to be empty there."""
    put = StreamDisks._put

    def mutated(self: StreamDisks, vm: VmId, lsn: int, start: int, stop: int, data: bytes, write: Any) -> None:
        if write is None:
            there = self.vms[vm].tip[start:stop]
            data = bytes(new or old for new, old in zip(data, there, strict=True))
        put(self, vm, lsn, start, stop, data, write)

    return patched(StreamDisks, "_put", mutated)


@mutant("B22", by=("P12",), cites="LINBIT/drbd #145")
def handshake_clears_the_bitmap() -> Patch:
    """When both sides meet again and the peer says that it is in the epoch, what is dirty here counts as done."""
    resynced = Sender.resynced

    def mutated(self: Sender, message: Resynced) -> list[Effect]:
        if self.state is SendState.HANDSHAKE and message.epoch == self.epoch:
            self.bitmap.take(1 << 40, Ns(0)) if len(self.bitmap) else None
        return resynced(self, message)

    return patched(Sender, "resynced", mutated)


@mutant("B23", by=("P12",), cites="LINBIT/drbd #118, linstor-server #450")
def stale_bitmap_slot() -> Patch:
    """The bitmap of an earlier handshake is kept, and taken for the present one at the next."""
    resynced = Sender.resynced
    slots: dict[int, tuple[object, list[Any]]] = {}

    def mutated(self: Sender, message: Resynced) -> list[Effect]:
        if self.state is SendState.HANDSHAKE and message.epoch == self.epoch:
            len(self.bitmap)  # merge
            stale = slots.get(id(self))
            now = [self.bitmap._keys, copy(self.bitmap._runs)]
            if stale is not None and stale[0] is self:
                self.bitmap._keys, self.bitmap._runs = stale[1]
            slots[id(self)] = (self, now)
        return resynced(self, message)

    return patched(Sender, "resynced", mutated)


@mutant("B25", by=("P20",), cites="miroir #390, linstor-server #190")
def full_sync_never_starts() -> Patch:
    """After a crash everything is dirty, and when the first question is lost nobody asks again where to begin."""
    reconnected = Sender.reconnected

    def mutated(self: Sender) -> list[Effect]:
        self.connected = self.connected or self.state is SendState.ASKING
        return [] if self.state is SendState.ASKING else reconnected(self)

    return patched(Sender, "reconnected", mutated)


@mutant("B26", by=("P12", "P24"), cites="linstor-server #28, #216")
def good_without_a_sync() -> Patch:
    """A VRA that heard where its stream stands goes on from there, in sync, as if nothing had been written since."""

    def mutated(self: Sender, message: Standing) -> list[Effect]:
        if self.state is not SendState.ASKING:
            return []
        self.epoch = message.epoch
        self.numbered = self.durable = self._swept = message.position
        self.state = SendState.IN_SYNC
        return []

    return patched(Sender, "standing", mutated)


@mutant("B30", by=("P12", "P20"), cites="longhorn #11778, openebs/jiva #87")
def resumed_as_done() -> Patch:
    """A sync that is interrupted after its last frame was sent counts as done when it goes on, whatever is dirty."""
    end = Sender._end_epoch

    def mutated(self: Sender) -> None:
        upto = self._sync_upto
        end(self)
        self._sync_upto = upto

    return patched(Sender, "_end_epoch", mutated)


@mutant("B31", by=("P20",), cites="longhorn #1188")
def read_error_swallowed() -> Patch:
    """A region that cannot be read is left at that; the sync waits for its content for ever."""
    return patched(Sender, "read_failed", lambda self, asked: [])


@mutant("B32", by=("P12", "P5", "P3"), cites="a classic of background copies")
def sync_numbered_when_read() -> Patch:
    """A sync frame gets its place when the content is there, behind writes that are newer than its content."""

    class Asked:
        def __init__(self, batch: WriteBatch) -> None:
            self.batch = batch

    def sweep(self: Sender) -> list[Effect]:
        if self.state not in (SendState.SWEEP, SendState.TAIL) or self._sync_upto is not None:
            return []
        if self.state is SendState.SWEEP and self.bitmap.nbytes <= self._tail_bytes:
            self.state = SendState.TAIL
        if self._reading is not None or any(frame.sync for frame in self._queue):
            return []
        if len(self.bitmap):
            batch = self.bitmap.take(self.tweaks.sync_bytes, Ns(0))
            self._reading = cast(Frame, Asked(batch))
            return [ReadRegions(self.spec.id, batch)]
        self._sync_upto = self.numbered
        done = SyncDone(self.spec.id, self.generation, self.epoch, self.numbered)
        return [Send(self.spec.id.target, done), *self._end_if_durable()]

    def read(self: Sender, asked: ReadRegions, batch: WriteBatch) -> list[Effect]:
        if self._reading is None or self._reading.batch is not asked.batch:
            return []
        self._reading = None
        if self._open.rows:
            self._enqueue(self._open.cut(), sync=False)
        self._enqueue(batch, sync=True)
        return self._pump()

    end = Sender._end_epoch

    def end_epoch(self: Sender) -> None:
        if self._reading is not None:
            self.bitmap.mark(self._reading.batch)
        end(self)

    return several(
        patched(Sender, "_sweep", sweep), patched(Sender, "read", read), patched(Sender, "_end_epoch", end_epoch)
    )


@mutant("48", by=("P2", "P12", "P24"))
def numbers_begin_again() -> Patch:
    """A new VRA takes over a protected VM and numbers from one, in the first epoch, without asking the peer."""
    started = Sender.started

    def mutated(self: Sender) -> list[Effect]:
        if self.state is not SendState.ASKING:
            return started(self)
        self.epoch, self.state = 1, SendState.WAITING
        return self._restart()

    def reconnected(self: Sender) -> list[Effect]:
        if self.state is SendState.ASKING:
            self.epoch, self.state = 1, SendState.WAITING
        return again(self)

    again = Sender.reconnected
    return several(patched(Sender, "started", mutated), patched(Sender, "reconnected", reconnected))


@mutant(by=("P24", "P20", "P5"))
def epoch_used_again() -> Patch:
    """A VRA that lost its memory goes on in the epoch that its peer is in."""
    standing = Sender.standing

    def mutated(self: Sender, message: Standing) -> list[Effect]:
        return standing(self, Standing(message.stream, message.generation, message.epoch - 1, message.position))

    return patched(Sender, "standing", mutated)


@mutant(by=("P11", "P20", "P5"))
def anchor_forgotten() -> Patch:
    """An epoch begins when it is heard of, before that is durable."""

    def mutated(self: Receiver) -> list[Effect]:
        message = self._resync
        if message is None or self.pending:
            return []
        self._turn(message.epoch)
        for journal, after in zip(self.journals.values(), message.after, strict=True):
            journal.append(Lsn(after), 0)
            journal.persisted(Lsn(after), 0)
        self.accepted = self.durable = message.after
        return [self._resynced(), *self._settle()]

    return patched(Receiver, "_begin_epoch", mutated)


@mutant(by=("P24", "P20", "P12"))
def only_durable_told() -> Patch:
    """A sender that lost its memory is told what is durable, not what the store was given."""

    def mutated(self: Receiver, message: Where) -> list[Effect]:
        return [Send(self.spec.id.source, Standing(self.spec.id, self.generation, self.epoch, self.durable))]

    return patched(Receiver, "where", mutated)


@mutant(by=("P22",))
def sync_bytes_counted_when_asked() -> Patch:
    """The bytes that a sync has sent are counted when a read is asked for, also when it comes to nothing."""
    sweep = Sender._sweep

    def mutated(self: Sender) -> list[Effect]:
        before = self._reading
        effects = sweep(self)
        if self._reading is not None and self._reading is not before:
            self._sync_sent += self._reading.nbytes
        return effects

    return patched(Sender, "_sweep", mutated)


# -- comparisons --------------------------------------------------------------------------------------------------


@mutant("B33", by=("P12", "P5", "P3"), cites="a classic of delta syncs")
def weak_digest() -> Patch:
    """The digest of a region is the sum of its bytes, so that content which only changed places counts as equal."""

    def mutated(content: bytes | bytearray, sectors: int) -> bytes:
        size, whole = 2 * sectors, bytes(content)
        return b"".join(sum(whole[at : at + size]).to_bytes(4, "little") for at in range(0, len(whole), size))

    return patched(explorer, "digests", mutated)


@mutant(by=("P12", "P5", "P3"), cites="B33: a classic of delta syncs")
def wrong_side_as_source() -> Patch:
    """A comparison takes the other side for the one that is right: what differs there is not sent."""
    compared = Sender.compared

    def mutated(self: Sender, message: Compared) -> list[Effect]:
        return compared(self, replace(message, differs=bytes(len(message.differs))))

    return patched(Sender, "compared", mutated)


@mutant(by=("P12",))
def equal_although_written_meanwhile() -> Patch:
    """A region that was equal when it was compared is clean, although a guest wrote it before the answer came."""
    settle = DirtyBitmap.settle

    def mutated(self: DirtyBitmap, extent: Extent, differs: bytes) -> None:
        self._take_out([self._covered(extent)])
        settle(self, extent, differs)

    return patched(DirtyBitmap, "settle", mutated)


@mutant(by=("P12",))
def comparison_forgotten() -> Patch:
    """A fold forgets the regions that are being compared."""
    end = Sender._end_epoch

    def mutated(self: Sender) -> None:
        self._comparing = None
        end(self)

    return patched(Sender, "_end_epoch", mutated)


@mutant(by=("P20",))
def pause_lets_frames_through() -> Patch:
    """A stream that is in sync goes on sending while its VPG is paused."""
    pause = Sender.pause

    def mutated(self: Sender, paused: bool) -> list[Effect]:
        if self.state is SendState.IN_SYNC:
            self.paused = paused
            return []
        return pause(self, paused)

    return patched(Sender, "pause", mutated)
