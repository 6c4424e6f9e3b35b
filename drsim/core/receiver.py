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
A store takes a frame only where its journal ends, so those behind a failed one fail as well.

`Resync` starts a new epoch, after what is on its way to the store has landed. Numbers are skipped up to its
position; what they stood for comes as dirty regions. An epoch begins with an empty frame, the *anchor*, and
`Resynced` is said when that is durable: no crash can forget an epoch, or a number, that a checkpoint may stand in.
From then until `SyncDone` is durable is the *sync window*: the image is no past state of the source, and nobody cuts
a checkpoint.

A checkpoint's cut is awaited here: it is reached when the journals are durable through it *in its own epoch*. A cut
of an ended epoch that was not reached then never will be, although the numbers grow past it. The manager may ask
again after a lost connection; a cut already marked is answered from its mark.

A sender that does not know what is here compares: the digests of what the store holds are read, and the answer says
which regions differ (`Compare`). What cannot be read differs.

After a crash the receiver is built again from what its store holds (`Stored`). Marks are no part of that: `Marks`
brings them back, before anything else that the manager asks. Until then nothing is said about the journal's limit,
because without marks it looks as if no checkpoint could be kept. Which cuts an ended epoch had reached is forgotten:
those not told are missed. A sender that lost its memory asks where the stream stands (`Where`); the answer lies
beyond every epoch and number that the store may hold, whether or not this receiver knows that it does.

VMs that moved to another host come in another stream, which follows this one (`hand_over`): it takes over their
journals, with all marks, and its numbers go on beyond any that this one handed to the store. The epoch of this stream
ends with that, since its frames may hold more of these VMs; of the journals that it shared it only keeps the marks of
checkpoints taken before. A VM that left is discarded when no checkpoint has it any more.

`Age(None)` says that no checkpoint is left. What it lets go is fixed when it arrives, not when the mirror takes it:
a checkpoint may be marked in between. A cut that lies before that position can never be rebuilt and is missed.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from drsim.core.batch import FEW, WriteBatch
from drsim.core.effects import Append, Discard, Effect, Promote, Publish, ReadDigests, Send
from drsim.core.errors import PeerError
from drsim.core.facts import FrameRefused
from drsim.core.journal import Journal, Stored
from drsim.core.messages import (
    Ack,
    Age,
    Await,
    Compare,
    Compared,
    Cut,
    Frame,
    Marks,
    Missed,
    Nack,
    Position,
    Reached,
    Refusal,
    Resync,
    Resynced,
    Standing,
    SyncDone,
    Where,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamSpec, VmId
from drsim.core.units import SECTOR, Lsn
from drsim.core.window import reaches

NOTHING = WriteBatch.of((), (), (), (), (), b"")


def unlike(some: bytes, others: bytes, regions: int) -> bytes:
    """Which of so many digests, one after another, are not the same in both: a byte for each, 0 or 1."""
    if some == others:
        return bytes(regions)
    width = len(some) // regions
    if regions <= FEW:
        each = range(0, len(some), width)
        return bytes([some[at : at + width] != others[at : at + width] for at in each])
    differ = np.frombuffer(some, np.uint8) != np.frombuffer(others, np.uint8)
    found: bytes = differ.reshape(regions, width).any(axis=1).tobytes()
    return found


@dataclass(frozen=True, slots=True)
class _Aging:
    """What may go to the mirror: up to a position, which is `totals` bytes of each VM since the beginning."""

    checkpoint: CheckpointId | None
    upto: Position
    totals: tuple[int, ...]


class Receiver:
    """One stream's receiving half. `room` tells how many bytes of memory the VRA has left.

    `stored`: what the store holds, when an earlier life crashed.
    """

    def __init__(
        self, spec: StreamSpec, catalog: Address, room: Callable[[], int], *, region_bytes: int, generation: int = 1,
        stored: Stored | None = None, epoch: int = 1,
    ) -> None:  # fmt: skip
        self.spec, self.catalog, self.generation = spec, catalog, generation
        self.epoch = epoch
        self.journals = {vm: Journal(vm, limit=spec.limit) for vm in spec.vms}
        self._own = list(enumerate(self.journals.values()))  # those that no other stream has taken over
        self.accepted: Position = (0,) * len(spec.vms)  # taken
        self.durable: Position = self.accepted  # durable.  Invariant: durable <= accepted
        self.pending: deque[Frame] = deque()  # taken and not yet durable, oldest first
        self.stalled = False  # the oldest pending frame failed: it waits to be tried again, or is being tried
        self.blocked: tuple[int, ...] = (0,) * len(spec.vms)  # bytes of the frame that a journal had no room for
        self.syncing = False
        self.swept = False  # the journal holds data of a sync window that no checkpoint closes yet
        self.unmarked = False  # rebuilt, and `Marks` has not come yet
        self._active = set(spec.vms)  # VMs of which frames of this epoch may have rows
        self._fenced = -1  # an epoch of which no frame is taken any more
        self._room, self._region_bytes = room, region_bytes
        self._given = 0  # how many of `pending` the store has been given
        self._window_end: Position | None = None
        self._ended: tuple[int, Position] = (0, self.accepted)  # the last epoch that ended, and where
        self._resync: Resync | None = None  # its epoch has not begun
        self._awaited: deque[Await] = deque()
        self._comparing: Compare | None = None
        self._gap_told = False
        self._owes_ack = False
        self._refused: Refusal | None = None  # why the last frame was not taken, if it was not
        self._age: _Aging | None = None  # wanted next
        self._promoting: _Aging | None = None  # under way
        if stored is not None:
            self._rebuild(stored)
        self._handed = Cut(self.epoch, self.accepted)  # the furthest that the store was ever given

    def _rebuild(self, stored: Stored) -> None:
        self.epoch = stored.epoch
        for n, journal in self._own:
            journal.restore(Lsn(stored.base[n]), Lsn(stored.end[n]), stored.parts[n])
        self.accepted = self.durable = tuple(journal.durable for journal in self.journals.values())
        self.swept = self.epoch > 1
        self.unmarked = True

    # -- generations ------------------------------------------------------------------------------------------

    def fence(self, generation: int) -> None:
        """Nothing of an earlier generation is taken from now on; what was taken before stays."""
        if generation > self.generation:
            self.generation = generation
            self._resync = None

    # -- moves ------------------------------------------------------------------------------------------------

    def hand_over(self, other: "Receiver") -> bool:
        """The VMs of another stream came from this one: their journals are that one's now.

        An epoch that may have more of them ends here as well. False: something is on its way to the store; ask again
        when it has landed.
        """
        if self._active.intersection(other.spec.vms):
            self._fenced = self.epoch
            for frame in list(self.pending)[self._given :]:
                self.pending.remove(frame)
            if self.pending:
                return False
            self._drop_pending()
            if self._resync and any(volume.vm in other.spec.vms for volume in self._resync.spec.volumes):
                self._resync = None  # it counts on these VMs; the sender begins again when it hears that they left
        position = dict(zip(self.spec.vms, self._handed.position, strict=True))
        for vm in other.spec.vms:
            if vm in self.journals:
                other.take_over(vm, self.journals[vm], position[vm])
        self.disown(other.spec.vms)
        return True

    def take_over(self, vm: VmId, journal: Journal, handed: int) -> None:
        """A journal of another stream is ours; its store was given numbers up to `handed`."""
        self.journals[vm] = journal
        self._own = list(enumerate(self.journals.values()))
        at = self.spec.vms.index(vm)
        self.accepted = self.durable = (*self.accepted[:at], journal.durable, *self.accepted[at + 1 :])
        known = self._handed.position
        self._handed = Cut(self.epoch, (*known[:at], max(handed, journal.durable), *known[at + 1 :]))

    def disown(self, vms: Iterable[VmId], rebuilt: Stored | None = None) -> None:
        """Another stream has these journals; here they only keep the marks of older checkpoints.

        `rebuilt`: so it was before a crash, after which this is what the store holds.
        """
        theirs = {n for n, vm in enumerate(self.spec.vms) if vm in set(vms)}
        self._own = [(n, journal) for n, journal in self._own if n not in theirs]
        if rebuilt is not None:
            ends = enumerate(zip(rebuilt.end, self.durable, strict=True))
            self.accepted = self.durable = tuple(end if n in theirs else k for n, (end, k) in ends)

    @property
    def fresh(self) -> bool:
        """Whether no checkpoint has anything of these journals, nor of those that they go on from."""
        return self.spec.follows is None and not any(journal.is_marked for journal in self.journals.values())

    @property
    def owned(self) -> list[tuple[int, Journal]]:
        """The journals that no other stream has taken over, with their places in the stream."""
        return self._own

    @property
    def landing(self) -> int:
        """Frames on their way to the store."""
        return self._given

    @property
    def pending_bytes(self) -> int:
        return sum(frame.nbytes for frame in self.pending)

    # -- data -------------------------------------------------------------------------------------------------

    def frame(self, frame: Frame) -> list[Effect]:
        """A frame arrived."""
        if frame.generation != self.generation or frame.epoch != self.epoch or self._resync is not None:
            return []
        if frame.epoch == self._fenced:
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
        self._gap_told, self._refused = False, None
        self.blocked = (0,) * len(frame.sizes)
        self._take(frame)
        return self._give()

    def _take(self, frame: Frame) -> None:
        self.accepted = frame.upto
        for n, journal in self._own:
            journal.append(Lsn(frame.upto[n]), frame.sizes[n])
        self.pending.append(frame)

    def _give(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._given < len(self.pending):
            frame = self.pending[self._given]
            self._handed = Cut(frame.epoch, frame.upto)
            self._given += 1
            effects.append(Append(frame))
        return effects

    def _refusal(self, frame: Frame) -> Refusal | None:
        if self.stalled:
            return Refusal.FULL
        for n, journal in self._own:
            if not journal.has_room(frame.sizes[n]):
                self.blocked = frame.sizes
                return Refusal.LIMIT
        if self.pending and frame.nbytes > self._room():
            return Refusal.BUSY
        return None

    def _refuse(self, reason: Refusal) -> list[Effect]:
        self._owes_ack = self._owes_ack or reason is not Refusal.GAP
        nack = Send(self.spec.id.source, Nack(self.spec.id, self.generation, self.epoch, self.accepted, reason))
        news = [] if reason is self._refused else [Publish(FrameRefused(self.spec.id, reason.value))]
        self._refused = reason
        return [*news, nack]

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
        self._given -= 1
        self.stalled = False
        self._owes_ack = False
        began = frame.epoch != self.epoch
        if began:
            self._turn(frame.epoch)
        self.durable = frame.upto
        for n, journal in self._own:
            journal.persisted(Lsn(frame.upto[n]), frame.sizes[n])
        self._close_window()
        word = self._resynced() if began else self._ack()
        return [word, *self._settle(), *self._give(), *self._begin_epoch()]

    def append_failed(self, frame: Frame) -> list[Effect]:
        """The store did not take a frame. Keep it, give back the younger ones, and try again later."""
        if not self.pending or self.pending[0] is not frame:
            return []  # a younger one, given back already
        self._drop_pending()
        if self._resync is not None and frame.epoch != self._resync.epoch:
            return self._begin_epoch()  # its content is dirty at the source; no need to try again
        self._take(frame)
        self.stalled = True
        return self._refuse(Refusal.FULL) if frame.epoch == self.epoch else []

    def retry(self) -> list[Effect]:
        """Try the frame again that the store did not take."""
        return self._give() if self.stalled else []

    def _drop_pending(self) -> None:
        self.pending.clear()
        self.stalled, self._given = False, 0
        self.accepted = self.durable
        for _, journal in self._own:
            journal.rollback()

    def restarted(self) -> None:
        """Memory is gone; what is durable stays."""
        self._drop_pending()
        self._age = self._age or self._promoting
        self._promoting, self._resync, self._comparing = None, None, None
        self._awaited.clear()

    # -- epochs -----------------------------------------------------------------------------------------------

    def resync(self, message: Resync) -> list[Effect]:
        """The sender begins a new epoch, perhaps in a generation that only its manager has heard of so far."""
        self.fence(message.generation)
        if message.generation < self.generation or message.epoch < self.epoch:
            return []
        theirs = {volume.vm for volume in message.spec.volumes}.difference(self.spec.vms[n] for n, _ in self._own)
        if theirs:
            return []  # of a sender that does not know yet that these VMs have moved
        if message.epoch == self.epoch:
            return [self._resynced()]
        if self.stalled and not self._given:
            self._drop_pending()
        self._resync = message
        return self._begin_epoch()

    def _begin_epoch(self) -> list[Effect]:
        message = self._resync
        if message is None or self.pending:
            return []
        if not reaches(message.after, self.durable):
            raise PeerError(f"{self.spec.id}: epoch {message.epoch} begins before what is durable")
        at, nothing = message.after, (0,) * len(message.after)
        self._take(Frame(self.spec.id, self.generation, message.epoch, at, at, nothing, True, NOTHING))
        return self._give()

    def _turn(self, epoch: int) -> None:
        """The anchor of an epoch is durable: the one before has ended."""
        if self._resync is not None and self._resync.epoch == epoch:
            self._adopt(self._resync.spec)
            self._resync = None
        self._ended = (self.epoch, self.durable)
        self.epoch = epoch
        self.syncing = self.swept = True
        self._window_end, self._gap_told = None, False
        self.blocked = (0,) * len(self.durable)

    def _adopt(self, spec: StreamSpec) -> None:
        """The sender's configuration as of this epoch."""
        self._active = {volume.vm for volume in spec.volumes}
        self.spec = spec
        for _, journal in self._own:
            journal.limit = spec.limit

    def _resynced(self) -> Send:
        return Send(self.spec.id.source, Resynced(self.spec.id, self.generation, self.epoch))

    def where(self, message: Where) -> list[Effect]:
        """The sender lost its memory."""
        self.fence(message.generation)
        if message.generation < self.generation:
            return []
        self._fenced = self.epoch  # what its earlier life sent may still come; the next epoch begins at our answer
        begun = self._resync
        at = self._handed if begun is None else Cut(begun.epoch, begun.after)
        return [Send(self.spec.id.source, Standing(self.spec.id, self.generation, at.epoch, at.position))]

    def compare(self, message: Compare) -> list[Effect]:
        """The sender wants to know which of these regions differ from what is here."""
        if message.generation != self.generation or message.epoch != self.epoch or self._resync is not None:
            return []
        self._comparing = message
        return [ReadDigests(self.spec.id, self.epoch, message.extent)]

    def digested(self, asked: ReadDigests, digests: bytes | None) -> list[Effect]:
        """The digests of what is here; None: it cannot be read, and is to be written anew."""
        message = self._comparing
        if message is None or asked.epoch != self.epoch or asked.extent != message.extent:
            return []
        self._comparing = None
        regions = -(-asked.extent.sectors * SECTOR // self._region_bytes)
        theirs = len(message.digests)
        if regions < 1 or not theirs or theirs % regions or (digests is not None and len(digests) != theirs):
            raise PeerError(f"{self.spec.id}: digests of {regions} regions have {theirs} bytes")
        differs = b"\x01" * regions if digests is None else unlike(digests, message.digests, regions)
        return [Send(self.spec.id.source, Compared(self.spec.id, self.generation, self.epoch, asked.extent, differs))]

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
        """The manager wants to list a checkpoint. It asks in the order of their numbers, and again after a loss."""
        if self._awaited and message.checkpoint <= self._awaited[-1].checkpoint:
            if message.checkpoint >= self._awaited[0].checkpoint:
                return []  # will be answered
            return [self._again(message)]
        if any(journal.settled(message.checkpoint) for journal in self._cut_through(message.cut)):
            return [self._again(message)]
        self._awaited.append(message)
        return self._settle()

    def _again(self, asked: Await) -> Send:
        marked = all(journal.marked(asked.checkpoint) for journal in self._cut_through(asked.cut))
        return Send(self.catalog, (Reached if marked else Missed)(asked.vpg, asked.checkpoint, self.spec.id))

    def _fate(self, cut: Cut) -> bool | None:
        """True: reached; False: never will be; None: not yet."""
        inside = self._cut_through(cut)
        places = zip(self.journals.values(), cut.position, strict=True)
        if any(lsn < journal.withdrawn and journal in inside for journal, lsn in places):
            return False
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
                self._mark(asked.checkpoint, asked.cut)
                effects.append(Send(self.catalog, Reached(asked.vpg, asked.checkpoint, self.spec.id)))
            else:
                effects.append(Send(self.catalog, Missed(asked.vpg, asked.checkpoint, self.spec.id)))
        return effects

    def put_back(self, message: Marks) -> None:
        """The manager says which checkpoints were marked; after a crash none is."""
        for checkpoint, cut in message.marks.items():
            if not any(journal.settled(checkpoint) for journal in self._cut_through(cut)):
                self._mark(checkpoint, cut)
        self.unmarked = False

    def _mark(self, checkpoint: CheckpointId, cut: Cut) -> None:
        self.swept = self.swept and cut.epoch != self.epoch
        inside = self._cut_through(cut)
        for journal, lsn in zip(self.journals.values(), cut.position, strict=True):
            if journal in inside:
                journal.mark(checkpoint, Lsn(lsn))

    def _cut_through(self, cut: Cut) -> list[Journal]:
        """The journals that a cut goes through: of all VMs but those whose every volume had left the stream."""
        if not cut.without:
            return list(self.journals.values())
        ever = (*self.spec.volumes, *self.spec.left)
        vms = {volume.vm for volume in ever if volume.id not in cut.without}
        return [journal for vm, journal in self.journals.items() if vm in vms]

    # -- aging ------------------------------------------------------------------------------------------------

    def age(self, message: Age) -> list[Effect]:
        """Data before this checkpoint may go to the mirror; one promotion at a time.

        A VM that the checkpoint does not have has left, and no checkpoint has it any more: it is discarded.
        """
        left: list[Effect] = []
        if message.checkpoint is None:
            own = dict(self._own)
            totals = [own[n].durable_total if n in own else j.base_total for n, j in enumerate(self.journals.values())]
            upto = tuple(
                k if n in own else j.base
                for n, (k, j) in enumerate(zip(self.durable, self.journals.values(), strict=True))
            )
            self._age = _Aging(None, upto, tuple(totals))
            for _, journal in self._own:
                journal.withdraw()
        else:
            marked = [j.marked(message.checkpoint) for j in self.journals.values()]
            marks = [
                j.at(message.checkpoint) if has else (j.base, j.base_total)
                for j, has in zip(self.journals.values(), marked, strict=True)
            ]
            self._age = _Aging(message.checkpoint, tuple(lsn for lsn, _ in marks), tuple(t for _, t in marks))
            gone = tuple(self.spec.vms[n] for n, _ in self._own if not marked[n])
            if gone:
                self.disown(gone)
                left.append(Discard(self.spec.id, gone))
        return [*left, *self._promote()]

    def _promote(self) -> list[Effect]:
        if self._age is None or self._promoting is not None:
            return []
        aging, self._age = self._age, None
        journals = self.journals.values()
        nbytes = sum(max(0, t - j.base_total) for t, j in zip(aging.totals, journals, strict=True))
        self._promoting = aging
        return [Promote(self.spec.id, tuple(j.base for j in journals), aging.upto, nbytes, aging.checkpoint)]

    def promoted(self) -> list[Effect]:
        """The mirrors hold everything up to the position."""
        aging, self._promoting = self._promoting, None
        assert aging is not None
        for journal, upto, total in zip(self.journals.values(), aging.upto, aging.totals, strict=True):
            if upto >= journal.base:  # a stream that shares the journal may have aged it further
                journal.age(Lsn(upto), total, aging.checkpoint)
        return [*self.wake(), *self._promote()]

    def wake(self) -> list[Effect]:
        """A sender that was refused hears that there may be room again."""
        word = [self._ack()] if self._owes_ack and not self.stalled else []
        return [*word, *self._begin_epoch()]

    def promote_failed(self) -> None:
        """Try the same again when the VRA's retry timer fires, unless more may go by then."""
        self._age = self._age or self._promoting
        self._promoting = None

    def retry_promote(self) -> list[Effect]:
        """After a failure, try again."""
        return self._promote()
