"""Receiver: the receiving half of one stream inside a recovery VRA.

Theory of operation. A frame is taken when it continues exactly where the stream stands (`accepted`), has room in the
VRA's memory and in every journal it touches, and belongs to the current generation and epoch. It is given to the
store, and acknowledged when durable; the acknowledgement is the contiguous durable end.

    a frame that            answer
    ----------------------  ------------------------------------------------------------------
    continues               `Append`; `Ack` when done
    was received before     `Ack` again, not applied
    overlaps                the rows not yet received are taken
    leaves a gap            `Nack` once, until the stream stands where it should
    finds no room           `Nack`; an `Ack` follows when there is room again
    is of an old epoch or   nothing
    generation

When the store fails, the oldest frame is kept and tried again until it succeeds; the rest is refused and comes again.

`Resync` starts a new epoch, after what is on its way to the store has landed. Numbers are skipped up to its
position; what they stood for comes as dirty regions. From then until `SyncDone` is durable is the *sync window*: the
image is no past state of the source, and nobody cuts a checkpoint.

A checkpoint's cut is awaited here: it is reached when the journals are durable through it *in its own epoch*. A cut
of an ended epoch that was not reached then never will be, although the numbers grow past it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from drsim.core.effects import Append, Effect, Promote, Publish, Send
from drsim.core.errors import PeerError
from drsim.core.facts import FrameRefused
from drsim.core.journal import Journal
from drsim.core.messages import (
    Ack,
    Age,
    Await,
    Cut,
    Frame,
    Missed,
    Nack,
    Position,
    Reached,
    Refusal,
    Resync,
    Resynced,
    SyncDone,
)  # fmt: skip
from drsim.core.names import Address, StreamSpec
from drsim.core.units import Lsn
from drsim.core.window import reaches


class Receiver:
    """One stream's receiving half. `room` tells how many bytes of memory the VRA has left."""

    def __init__(self, spec: StreamSpec, catalog: Address, room: Callable[[], int], *, generation: int = 1) -> None:
        self.spec, self.catalog, self.generation = spec, catalog, generation
        self.epoch = 1
        self.journals = {vm: Journal(vm, limit=spec.limit) for vm in spec.vms}
        self.accepted: Position = (0,) * len(spec.vms)  # taken
        self.durable: Position = self.accepted  # durable.  Invariant: durable <= accepted
        self.pending: deque[Frame] = deque()  # given to the store, oldest first
        self.stalled = False  # the oldest pending frame failed and waits to be tried again
        self.syncing = False
        self._room = room
        self._window_end: Position | None = None
        self._ended: tuple[int, Position] = (0, self.accepted)  # the last epoch that ended, and where
        self._resync: Resync | None = None  # waits until nothing is pending
        self._awaited: deque[Await] = deque()
        self._gap_told = False
        self._owes_ack = False
        self._promoting = False
        self._age: Age | None = None

    @property
    def pending_bytes(self) -> int:
        return sum(frame.nbytes for frame in self.pending)

    # -- data -------------------------------------------------------------------------------------------------

    def frame(self, frame: Frame) -> list[Effect]:
        """A frame arrived."""
        if frame.generation != self.generation or frame.epoch != self.epoch or self._resync is not None:
            return []
        if not reaches(self.accepted, frame.after):
            if self._gap_told:
                return []
            self._gap_told = True
            return self._refuse(Refusal.GAP)
        if reaches(self.accepted, frame.upto):
            return [self._ack()]
        if frame.after != self.accepted:
            frame = self._trim(frame)
        refusal = self._refusal(frame)
        if refusal is not None:
            return self._refuse(refusal)
        self._gap_told = False
        self.accepted = frame.upto
        for journal, upto, nbytes in zip(self.journals.values(), frame.upto, frame.sizes, strict=True):
            journal.append(Lsn(upto), nbytes)
        self.pending.append(frame)
        return [Append(frame)]

    def _refusal(self, frame: Frame) -> Refusal | None:
        if self.stalled:
            return Refusal.FULL
        if not all(j.has_room(n) for j, n in zip(self.journals.values(), frame.sizes, strict=True)):
            return Refusal.LIMIT
        if self.pending and frame.nbytes > self._room():
            return Refusal.BUSY
        return None

    def _refuse(self, reason: Refusal) -> list[Effect]:
        self._owes_ack = reason is not Refusal.GAP
        nack = Nack(self.spec.id, self.generation, self.epoch, self.accepted, reason)
        return [Publish(FrameRefused(self.spec.id, reason.value)), Send(self.spec.id.source, nack)]

    def _trim(self, frame: Frame) -> Frame:
        """The rows of a frame that were not received before."""
        slot = np.searchsorted(np.asarray(self.spec.vms), frame.batch.vm)
        lsn = np.asarray(frame.after)[slot] + 1 + frame.batch.ranks()
        batch = frame.batch.take(lsn > np.asarray(self.accepted)[slot])
        _, sizes = batch.per_vm(self.spec.vms)
        upto = tuple(max(a, u) for a, u in zip(self.accepted, frame.upto, strict=True))
        return replace(frame, after=self.accepted, upto=upto, sizes=sizes, batch=batch)

    def _ack(self) -> Send:
        return Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.durable))

    def appended(self, frame: Frame) -> list[Effect]:
        """The store has a frame."""
        assert self.pending
        assert self.pending[0] is frame, "a store works in order"
        self.pending.popleft()
        self.stalled = False
        self._owes_ack = False
        self.durable = frame.upto
        for journal, upto, nbytes in zip(self.journals.values(), frame.upto, frame.sizes, strict=True):
            journal.persisted(Lsn(upto), nbytes)
        self._close_window()
        return [self._ack(), *self._settle(), *self._begin_epoch()]

    def append_failed(self, frame: Frame) -> list[Effect]:
        """The store did not take a frame. Keep it, give back the younger ones, and try again later."""
        if not self.pending or self.pending[0] is not frame:
            return []  # a younger one, given back already
        self._drop_pending()
        if self._resync is not None:  # its content is dirty at the source; no need to try again
            return self._begin_epoch()
        self.pending.append(frame)
        for journal, upto, nbytes in zip(self.journals.values(), frame.upto, frame.sizes, strict=True):
            journal.append(Lsn(upto), nbytes)
        self.accepted = frame.upto
        self.stalled = True
        return self._refuse(Refusal.FULL)

    def retry(self) -> list[Effect]:
        """Try the frame again that the store did not take."""
        return [Append(self.pending[0])] if self.stalled else []

    def _drop_pending(self) -> None:
        self.pending.clear()
        self.stalled = False
        self.accepted = self.durable
        for journal in self.journals.values():
            journal.rollback()

    def restarted(self) -> None:
        """Memory is gone; what is durable stays."""
        self._drop_pending()
        self._promoting, self._resync = False, None
        self._awaited.clear()

    # -- epochs -----------------------------------------------------------------------------------------------

    def resync(self, message: Resync) -> list[Effect]:
        """The sender begins a new epoch."""
        if message.generation != self.generation or message.epoch < self.epoch:
            return []
        if message.epoch == self.epoch:
            return [Send(self.spec.id.source, Resynced(self.spec.id, self.generation, self.epoch))]
        if self.stalled:
            self._drop_pending()
        self._resync = message
        return self._begin_epoch()

    def _begin_epoch(self) -> list[Effect]:
        message = self._resync
        if message is None or self.pending:
            return []
        if not reaches(message.after, self.durable):
            raise PeerError(f"{self.spec.id}: epoch {message.epoch} begins before what is durable")
        self._resync = None
        self._ended = (self.epoch, self.durable)
        self.epoch = message.epoch
        for journal, after in zip(self.journals.values(), message.after, strict=True):
            journal.skip(Lsn(after))
        self.accepted = self.durable = message.after
        self.syncing, self._window_end, self._gap_told, self._owes_ack = True, None, False, False
        return [Send(self.spec.id.source, Resynced(self.spec.id, self.generation, self.epoch)), *self._settle()]

    def sync_done(self, message: SyncDone) -> list[Effect]:
        """The sync window ends at this position."""
        if message.generation == self.generation and message.epoch == self.epoch:
            self._window_end = message.upto
            self._close_window()
        return []

    def _close_window(self) -> None:
        if self._window_end is not None and reaches(self.durable, self._window_end):
            self.syncing, self._window_end = False, None

    # -- checkpoints ------------------------------------------------------------------------------------------

    def await_cut(self, message: Await) -> list[Effect]:
        """The manager wants to list a checkpoint."""
        self._awaited.append(message)
        return self._settle()

    def _fate(self, cut: Cut) -> bool | None:
        """True: reached; False: never will be; None: not yet."""
        if cut.epoch == self.epoch:
            return True if reaches(self.durable, cut.position) else None
        if cut.epoch > self.epoch:
            return None
        return cut.epoch == self._ended[0] and reaches(self._ended[1], cut.position)

    def _settle(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._awaited and (fate := self._fate(self._awaited[0].cut)) is not None:
            asked = self._awaited.popleft()
            if fate:
                for journal, lsn in zip(self.journals.values(), asked.cut.position, strict=True):
                    journal.mark(asked.checkpoint, Lsn(lsn))
                effects.append(Send(self.catalog, Reached(asked.vpg, asked.checkpoint, self.spec.id)))
            else:
                effects.append(Send(self.catalog, Missed(asked.vpg, asked.checkpoint, self.spec.id)))
        return effects

    # -- aging ------------------------------------------------------------------------------------------------

    def age(self, message: Age) -> list[Effect]:
        """Data before this checkpoint may go to the mirror; one promotion at a time."""
        self._age = message
        return self._promote()

    def _promote(self) -> list[Effect]:
        if self._age is None or self._promoting:
            return []
        message, self._age = self._age, None
        journals = self.journals.values()
        if message.checkpoint is None:
            upto, total = self.durable, [j.durable_total for j in journals]
        else:
            marks = [j.at(message.checkpoint) for j in journals]
            upto, total = tuple(lsn for lsn, _ in marks), [t for _, t in marks]
        nbytes = sum(t - j.base_total for t, j in zip(total, journals, strict=True))
        self._promoting = True
        return [Promote(self.spec.id, tuple(j.base for j in journals), upto, nbytes, message.checkpoint)]

    def promoted(self, effect: Promote) -> list[Effect]:
        """The mirrors hold everything up to the position."""
        self._promoting = False
        for journal, upto in zip(self.journals.values(), effect.upto, strict=True):
            if effect.checkpoint is None:
                journal.age_to(Lsn(upto))
            else:
                journal.age(effect.checkpoint)
        wake = [self._ack()] if self._owes_ack and not self.stalled else []
        return [*wake, *self._promote()]

    def promote_failed(self, effect: Promote) -> None:
        """Try the same again with the next `Age`, or when the VRA's retry timer fires."""
        self._promoting = False
        if self._age is None:
            self._age = Age(self.spec.id.vpg, effect.checkpoint, self.spec.id)

    def retry_promote(self) -> list[Effect]:
        """After a failure, try again."""
        return self._promote()
