"""Mutants of a stream in sync: frames, acknowledgements, resends, the window."""

from dataclasses import replace

import numpy as np

from drsim.core.effects import Append, Effect, Publish, Send
from drsim.core.messages import Ack, Frame, Nack, Refusal
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.sender import Sender
from drsim.core.window import Window, reaches
from drsim.verify.mutants.base import Patch, mutant, patched


def _numbered_on_arrival(receiver: Receiver, frame: Frame) -> Frame:
    """The frame as if its rows followed what the receiver has, whatever it says itself."""
    counts, _ = frame.batch.per_vm(receiver.spec.vms)
    upto = tuple(a + n for a, n in zip(receiver.accepted, counts, strict=True))
    return replace(frame, after=receiver.accepted, upto=upto)


def _is_current(receiver: Receiver, frame: Frame) -> bool:
    own = frame.generation == receiver.generation and frame.epoch == receiver.epoch
    return own and receiver._resync is None


@mutant("1", by=("P2", "P3"))
def gap_not_seen() -> Patch:
    """A frame beyond a gap is applied, as if it followed what came before."""
    take = Receiver.frame

    def mutated(self: Receiver, frame: Frame) -> list[Effect]:
        if _is_current(self, frame) and not reaches(self.accepted, frame.after):
            frame = _numbered_on_arrival(self, frame)
        return take(self, frame)

    return patched(Receiver, "frame", mutated)


@mutant("2", by=("P9",))
def duplicate_applied() -> Patch:
    """A frame that was received before is applied again."""
    take = Receiver.frame

    def mutated(self: Receiver, frame: Frame) -> list[Effect]:
        if _is_current(self, frame) and reaches(self.accepted, frame.upto):
            frame = _numbered_on_arrival(self, frame)
        return take(self, frame)

    return patched(Receiver, "frame", mutated)


def _trims(late: int) -> Patch:
    """The rows of a frame not received before, from `late` rows after the first of them."""

    def trim(self: Receiver, frame: Frame) -> Frame:
        slot = np.searchsorted(np.asarray(self.spec.vms), frame.batch.vm)
        lsn = np.asarray(frame.after)[slot] + 1 + frame.batch.ranks()
        batch = frame.batch.take(lsn > np.asarray(self.accepted)[slot] + late)
        counts, sizes = batch.per_vm(self.spec.vms)
        upto = tuple(a + n for a, n in zip(self.accepted, counts, strict=True))
        return replace(frame, after=self.accepted, upto=upto, sizes=sizes, batch=batch)

    return patched(Receiver, "_trim", trim)


@mutant("3", by=("P2",))
def resend_one_late() -> Patch:
    """Of a frame that is sent again and overlaps, the first row not yet received is left out."""
    return _trims(1)


@mutant("4", by=("P9",))
def resend_one_early() -> Patch:
    """Of a frame that is sent again and overlaps, the last row already received is taken again."""
    return _trims(-1)


@mutant("5", by=("P8",))
def acknowledged_when_taken() -> Patch:
    """A frame is acknowledged when it is taken, not when it is durable."""
    take = Receiver.frame

    def mutated(self: Receiver, frame: Frame) -> list[Effect]:
        effects = take(self, frame)
        early = Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.accepted))
        return [*effects, early] if any(isinstance(e, Append) for e in effects) else effects

    return patched(Receiver, "frame", mutated)


@mutant("6", by=("P8", "P2"))
def highest_acknowledged() -> Patch:
    """An acknowledgement tells the highest number received, not the contiguous durable end."""

    def mutated(self: Receiver) -> Send:
        return Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.accepted))

    return patched(Receiver, "_ack", mutated)


@mutant("7", by=("P8", "P12"))
def freed_when_sent() -> Patch:
    """The sender forgets a frame when it is sent, not when it is acknowledged."""
    return patched(Window, "add", lambda self, frame: None)


@mutant("8", by=("P2", "P3"))
def frames_merged_by_arrival() -> Patch:
    """Frames go over two connections, and are numbered in the order in which they get through."""
    pump = Sender._pump

    def mutated(self: Sender) -> list[Effect]:
        effects = pump(self)
        frames = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Frame)]
        if len(frames) != 2:
            return effects
        a, b = (f.message for f in frames)
        if not isinstance(a, Frame) or not isinstance(b, Frame) or a.sync or b.sync:
            return effects
        if len(a.batch) != len(b.batch) or (a.batch.vm != b.batch.vm).any():
            return effects
        late, early = replace(a, batch=b.batch, sizes=b.sizes), replace(b, batch=a.batch, sizes=a.sizes)
        swapped = {id(frames[0]): Send(frames[0].to, late), id(frames[1]): Send(frames[1].to, early)}
        return [swapped.get(id(e), e) for e in effects]

    return patched(Sender, "_pump", mutated)


@mutant("B03", by=("P2", "P9"), cites="HBASE-29501 (apache/hbase #7194)")
def retried_behind_the_queue() -> Patch:
    """What was refused is sent again behind what waits, and numbers are given anew."""
    refuse = Sender.refuse

    def mutated(self: Sender, nack: Nack) -> list[Effect]:
        again = [f for f in self.window if not reaches(nack.expected, f.upto)]
        waiting = list(self._queue)
        if nack.epoch != self.epoch or self._reading is not None or not again or not waiting:
            return refuse(self, nack)
        at, moved = again[0].after, []
        if at != nack.expected:
            return refuse(self, nack)
        for frame in [*waiting, *again]:
            counts, _ = frame.batch.per_vm(self.spec.vms)
            upto = tuple(n + c for n, c in zip(at, counts, strict=True))
            moved.append(replace(frame, after=at, upto=upto))
            at = upto
        for frame in self.window.clear():
            if frame not in again:
                self.window.add(frame)
        self._queue.clear()
        self._queue.extend(moved)
        self._queued_bytes = sum(frame.nbytes for frame in moved)
        if nack.reason is not Refusal.GAP:
            self.refused = nack.reason
        return self._pump()

    return patched(Sender, "refuse", mutated)


@mutant("9", by=("P16", "P3"))
def old_generation_taken() -> Patch:
    """A frame of an old generation is accepted after a reconnect."""
    take = Receiver.frame

    def mutated(self: Receiver, frame: Frame) -> list[Effect]:
        current, self.generation = self.generation, frame.generation
        effects = take(self, frame)
        self.generation = current
        return effects

    return patched(Receiver, "frame", mutated)


@mutant(by=("P9", "P2", "P3"))
def old_epoch_taken() -> Patch:
    """A frame of an epoch that has ended is applied at the end of the next one."""
    take = Receiver.frame

    def mutated(self: Receiver, frame: Frame) -> list[Effect]:
        if frame.epoch < self.epoch and not frame.sync and self._resync is None:
            frame = replace(_numbered_on_arrival(self, frame), epoch=self.epoch)
        return take(self, frame)

    return patched(Receiver, "frame", mutated)


@mutant(by=("P20",))
def gap_cancels_the_debt() -> Patch:
    """A gap told after a refusal makes the receiver forget that it owes an acknowledgement."""
    refuse = Receiver._refuse

    def mutated(self: Receiver, reason: Refusal) -> list[Effect]:
        effects = refuse(self, reason)
        self._owes_ack = reason is not Refusal.GAP
        return effects

    return patched(Receiver, "_refuse", mutated)


@mutant(by=("P20",))
def refusal_not_taken_back() -> Patch:
    """A sender that was refused goes on only when the acknowledgement covers something new."""
    acknowledged = Sender.acknowledged

    def mutated(self: Sender, ack: Ack) -> list[Effect]:
        if self.refused is not None and ack.epoch == self.epoch and reaches(self.durable, ack.durable):
            return []
        return acknowledged(self, ack)

    return patched(Sender, "acknowledged", mutated)


@mutant("51", by=("P20", "P26"))
def refusal_stops_the_neighbours() -> Patch:
    """A refusal of one VPG's frame stops every VPG of the VRA; only the one refused is ever told to go on."""
    received = ProtectedVra._received

    def mutated(self: ProtectedVra, message: object) -> list[Effect]:
        if isinstance(message, Nack) and message.reason is not Refusal.GAP:
            for sender in self._to(message.stream.target):
                sender.refused = sender.refused or message.reason
        return received(self, message)

    return patched(ProtectedVra, "_received", mutated)


@mutant("B17", by=("P22",), cites="ceph/ceph #49614")
def skipped_rows_counted() -> Patch:
    """Of a frame that came in part before, the journal counts all rows and stores the rest: it grows for ever."""
    trim = Receiver._trim

    def mutated(self: Receiver, frame: Frame) -> Frame:
        return replace(trim(self, frame), sizes=frame.sizes)

    return patched(Receiver, "_trim", mutated)


@mutant(by=("P22",))
def resend_not_counted() -> Patch:
    """What goes back from the window into the queue is not counted as queued, so the buffer looks emptier."""
    refuse = Sender.refuse

    def mutated(self: Sender, nack: Nack) -> list[Effect]:
        before = self.window.nbytes
        effects = refuse(self, nack)
        if self.window.nbytes < before and self._queued_bytes >= before - self.window.nbytes:
            self._queued_bytes -= before - self.window.nbytes
        return effects

    return patched(Sender, "refuse", mutated)


@mutant(by=("P20",))
def refusal_unspoken() -> Patch:
    """A recovery VRA with no room drops the frame and says nothing."""
    refuse = Receiver._refuse

    def mutated(self: Receiver, reason: Refusal) -> list[Effect]:
        effects = refuse(self, reason)
        silent = reason is Refusal.BUSY
        return [e for e in effects if isinstance(e, Publish)] if silent else effects

    return patched(Receiver, "_refuse", mutated)
