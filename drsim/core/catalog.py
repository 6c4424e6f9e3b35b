"""Catalog: the recovery manager's machine for one VPG. Lists, retires and pins checkpoints.

Theory of operation. A sealed checkpoint arrives from the protected manager. The catalogue asks every recovery VRA to
tell when its stream is durable through the cut. When all have, the checkpoint is kept durably, and then it is
*listed*: it can be recovered from. If one never will be, the checkpoint is dropped and counted.

Retention. Once per age interval, and when a journal nears its limit, the oldest checkpoints are retired: first they
leave the durable list (`Forget`), and only when that is done may the VRAs age their data into the mirrors (`Age`).
History is measured back from when the newest listed checkpoint was taken, so one clock counts, the protected site's,
and while nothing new comes, nothing old goes.
Streams come with the checkpoints that have them. One that the checkpoint that became the oldest does not have, nor any
after it, has ended and is closed. A journal that fills before its stream is in any checkpoint may age at will.
When the VPG is deleted (T30), everything is withdrawn, and then all streams are closed. A stream is told to close
until its VRA says that its journals are gone. While the protected manager
cannot be reached, the catalogue says what the recovery site can do alone (T13).
Generations (PROTOCOL 2). When an operation fences the source (`FenceAsked`), the recovery VRAs and the protected
manager are told, and told again over every new connection. A checkpoint that a manager of an earlier generation sealed
afterwards, because it has not heard, is not listed. The same word with a later generation lets the source go on.

A pinned checkpoint and everything after it stays; so does the fail-safe history, whatever room there is: replication
stops instead. The newest is never retired for age or size. Only when the sync window alone fills the journal are all
checkpoints withdrawn, in one step: there is no recovery point then. Those on their way are given up too, because their
data may go. The same happens when a journal is full and nothing is listed.

After a crash a new catalogue is built from the durable list (`kept`). What is in it is listed again, at once: also
what was about to be forgotten, which is safe because data ages only after that. Everything else is asked or told
again over every new connection. A recovery VRA hears the marks of all that its journal has reached and that may be
in the durable list, then what is awaited, then what may be aged. The protected manager hears what is listed, or that
nothing is; what was on its way to the list it sends again by itself.

Invariant: every checkpoint in the durable list has a mark in every journal at or after that journal's base, or will
have when the VRA that lost it is connected.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from drsim.core.effects import Arm, Effect, Forget, Keep, Publish, Send
from drsim.core.errors import PeerError
from drsim.core.events import (
    Connected,
    Done,
    Event,
    Failed,
    FenceAsked,
    Fired,
    Lost,
    PinAsked,
    Received,
    Started,
    Stopped,
)
from drsim.core.facts import (
    CheckpointListed,
    CheckpointSkipped,
    CheckpointsRetired,
    GenerationChanged,
    RecoverySideChanged,
)
from drsim.core.messages import (
    Age,
    Await,
    Checkpoint,
    Close,
    Closed,
    Delete,
    Deleted,
    JournalLimit,
    Lineage,
    Listed,
    Marks,
    Members,
    Message,
    Missed,
    Reached,
    Retention,
    Sealed,
    StoreState,
    Withdrawn,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.status import Peer
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

AGE = "age"


@dataclass(slots=True)
class _Arriving:
    checkpoint: Checkpoint
    missing: set[StreamId] = field(default_factory=set)


class Catalog:
    """The checkpoints of one VPG at its recovery site.

    `kept`: the durable list, oldest first, when an earlier life crashed; `pins`: what operations still need of it.
    `deleting`: the VPG was deleted meanwhile, with or without keeping its disks. `generation`, `fenced`: as operations
    have left them.
    """

    def __init__(
        self, address: Address, vpg: str, manager: Address, streams: list[StreamId], *, retention: Retention,
        tweaks: Tweaks, kept: Sequence[Checkpoint] | None = None, pins: Iterable[CheckpointId] = (),
        deleting: bool | None = None, generation: int = 1, fenced: bool = False,
    ) -> None:  # fmt: skip
        self.lineage = Lineage(vpg, generation, fenced)
        self.address, self.vpg, self.manager = address, vpg, manager
        self.streams = list(dict.fromkeys([*streams, *(s for c in kept or () for s in c.cut)]))
        self.retention, self.tweaks = retention, tweaks
        self.listed: deque[Checkpoint] = deque(kept or ())  # oldest first
        self.pins: set[CheckpointId] = {c.id for c in self.listed}.intersection(pins)
        self.newest_seen = self.listed[-1].id if self.listed else CheckpointId(0)  # the newest that ever came
        self._arriving: dict[CheckpointId, _Arriving] = {}
        self._keeping: dict[CheckpointId, Checkpoint] = {}  # reached, not yet durably kept
        self._limits: dict[StreamId, JournalLimit] = {}  # journals that are still too full
        self._forget: Forget | None = None  # not yet done; nothing is aged or retired before it is
        self._forgetting = False  # it is under way
        self._leaving: list[Checkpoint] = []  # not listed any more, perhaps still in the durable list
        self._aged: dict[StreamId, CheckpointId] = {}  # the last `Age` sent
        self._stores: dict[StreamId, StoreState] = {}
        self._withdrawn = kept is not None and not kept  # all checkpoints were, and none has been listed since
        self._limited = False  # a journal's limit took checkpoints in this life
        self._connected, self._side = True, Peer.CONNECTED  # to the protected manager, and what was said of it
        self._members: tuple[StreamId, ...] | None = None  # the only streams that still bring data, if it was told
        self._deleting = deleting  # the VPG is being deleted: whether its disks stay
        self._ended: dict[StreamId, Close] = {}  # streams that were told to close
        self._closing: set[StreamId] = set()  # those that are not known to be gone
        self._fresh = kept is None  # never started

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a catalogue cannot get."""
        effects = self._step(event)
        alone = Peer.RECOVERY_POSSIBLE if self.listed else Peer.DISCONNECTED_NO_POINTS
        side = Peer.CONNECTED if self._connected else alone
        if side is not self._side:
            self._side = side
            effects.append(Publish(RecoverySideChanged(self.vpg, side)))
        return effects

    def _step(self, event: Event) -> list[Effect]:
        match event:
            case Started():
                resumed = [] if self._fresh else self._resume()
                self._fresh = False
                return [Arm(AGE, Ns(self.tweaks.age_interval)), *resumed]
            case Fired(timer) if timer == AGE:
                return [Arm(AGE, Ns(self.tweaks.age_interval)), *self._forget_again(), *self._retire_old()]
            case Received():
                return self._received(event.message)
            case Done(_, Keep(checkpoint), _):
                return self._list(checkpoint)
            case Done(_, Forget(_, before), _):
                return self._forgotten(before)
            case Failed(_, Keep(checkpoint), error):
                self._keeping.pop(checkpoint.id, None)
                return [Publish(CheckpointSkipped(self.vpg, checkpoint.id, error.message)), *self._shrink()]
            case Failed(_, Forget(), _):
                self._forgetting = False  # asked again at the next age interval
                return []
            case FenceAsked(generation, fenced):
                return self._fence(Lineage(self.vpg, generation, fenced))
            case PinAsked(checkpoint, pinned):
                return self._pin(CheckpointId(checkpoint), pinned)
            case Connected(peer):
                self._connected = self._connected or peer == self.manager
                return self._tell_again() if peer == self.manager else self._ask_again(peer)
            case Lost(peer):
                self._connected = self._connected and peer != self.manager
                return []
            case Stopped():
                return []
            case _:
                raise PeerError(f"a catalogue cannot take {event!r}", place=self.address)

    def _received(self, message: Message) -> list[Effect]:
        match message:
            case Sealed():
                return self._sealed(message.checkpoint)
            case Reached():
                return self._reached(message)
            case Missed():
                if self._arriving.pop(message.checkpoint, None) is None:
                    return []
                return [Publish(CheckpointSkipped(self.vpg, message.checkpoint, "synchronizing")), *self._shrink()]
            case JournalLimit():
                self._limits[message.stream] = message
                return self._shrink()
            case StoreState():
                met = self._meet(message.stream)
                if message.stream not in self.streams:
                    return met
                self._stores[message.stream] = message
                return [*met, Send(self.manager, message)]
            case Members():
                self._members = message.streams
                self.retention = message.retention or self.retention
                return self._shrink()
            case Delete():
                return self._delete(keep_disks=message.keep_disks)
            case Closed():
                self._closing.discard(message.stream)
                return self._deleted()
            case _:
                raise PeerError(f"a catalogue cannot take {message!r}", place=self.address)

    def _forgotten(self, before: CheckpointId | None) -> list[Effect]:
        """What was listed before this one (None: all) is not any more, for ever; its data can age."""
        self._forget, self._forgetting = None, False
        if self._deleting is not None:
            return self._delete_streams()
        closed = self._close()
        self._leaving.clear()
        return [*closed, *self._age(self._aged_by(before), before), *self._shrink()]

    def _pin(self, id_: CheckpointId, pinned: bool) -> list[Effect]:
        """Only what is listed can be pinned; what is on its way out must not hold up the rest for ever."""
        if not pinned:
            self.pins.discard(id_)
            return self._shrink()
        if any(checkpoint.id == id_ for checkpoint in self.listed):
            self.pins.add(id_)
        return []

    def _fence(self, lineage: Lineage) -> list[Effect]:
        if lineage.generation <= self.lineage.generation:
            return []
        self.lineage = lineage
        told = [self.manager, *dict.fromkeys(s.target for s in self.streams)]
        changed = GenerationChanged(self.vpg, lineage.generation, lineage.fenced)
        return [Publish(changed), *(Send(to, lineage) for to in told)]

    def _tell_lineage(self, to: Address) -> list[Effect]:
        """It may have missed the word; of the first generation nobody has to be told."""
        return [Send(to, self.lineage)] if self.lineage.generation > 1 else []

    # -- listing ----------------------------------------------------------------------------------------------

    def _sealed(self, checkpoint: Checkpoint) -> list[Effect]:
        met = [e for stream in checkpoint.cut for e in self._meet(stream)]
        if checkpoint.id <= self.newest_seen:
            return met  # the protected manager could not know that it had come, and perhaps was given up
        self.newest_seen = checkpoint.id
        if checkpoint.generation != self.lineage.generation or self.lineage.fenced:
            return [*met, Publish(CheckpointSkipped(self.vpg, checkpoint.id, "fenced"))]
        if self._withdrawing:
            return [*met, Publish(CheckpointSkipped(self.vpg, checkpoint.id, "history withdrawn"))]
        self._arriving[checkpoint.id] = _Arriving(checkpoint, set(checkpoint.cut))
        asked = (Send(s.target, Await(self.vpg, checkpoint.id, s, cut)) for s, cut in checkpoint.cut.items())
        return [*met, *asked]

    def _reached(self, message: Reached) -> list[Effect]:
        arriving = self._arriving.get(message.checkpoint)
        if arriving is None:
            return []
        arriving.missing.discard(message.stream)
        if arriving.missing:
            return []
        del self._arriving[message.checkpoint]
        # A journal reaches checkpoints in their order, so only one of an earlier configuration can be overtaken.
        late = [id_ for id_ in self._arriving if id_ < message.checkpoint]
        for id_ in late:
            del self._arriving[id_]
        self._keeping[message.checkpoint] = arriving.checkpoint
        return [
            *(Publish(CheckpointSkipped(self.vpg, id_, "configuration")) for id_ in late),
            Keep(arriving.checkpoint),
        ]

    def _list(self, checkpoint: Checkpoint) -> list[Effect]:
        if self._keeping.pop(checkpoint.id, None) is None:
            return []  # withdrawn before it was listed
        assert not self.listed or checkpoint.id > self.listed[-1].id, "checkpoints are listed in order"
        self.listed.append(checkpoint)
        self._withdrawn = False
        fact = CheckpointListed(self.vpg, checkpoint.id, checkpoint.taken, checkpoint.tag, checkpoint.quiesced)
        shrunk = self._shrink()
        return [Publish(fact), *([self._newest()] if self.listed else []), *shrunk]

    def _newest(self) -> Send:
        newest = self.listed[-1]
        oldest = self.listed[0].taken
        limited = self._limited and oldest > newest.taken - self.retention.history
        told = Listed(self.vpg, newest.id, newest.taken, oldest, len(self.listed), limited)
        return Send(self.manager, told)

    # -- the end ----------------------------------------------------------------------------------------------

    def _delete(self, *, keep_disks: bool) -> list[Effect]:
        """First nothing is listed any more, then the journals go."""
        if self._deleting is not None:
            return self._deleted()
        self._deleting = keep_disks
        self.pins.clear()
        return self._withdraw("deleted") if self._forget is None else []

    def _deleted(self) -> list[Effect]:
        over = self._deleting is not None and self._forget is None and not self._closing
        return [Send(self.manager, Deleted(self.vpg))] if over else []

    def _delete_streams(self) -> list[Effect]:
        if self.listed or self._keeping:
            return self._withdraw("deleted")
        streams, self.streams = self.streams, []
        return [*self._tell_close(streams, keep_disks=bool(self._deleting)), *self._deleted()]

    def _tell_close(self, streams: Iterable[StreamId], *, keep_disks: bool = False) -> list[Effect]:
        closes = {s: Close(self.vpg, s, keep_disks) for s in streams}
        self._ended.update(closes)
        self._closing.update(closes)
        return [Send(s.target, close) for s, close in closes.items()]

    # -- after a loss -----------------------------------------------------------------------------------------

    def _resume(self) -> list[Effect]:
        """The manager restarted: what was under way may or may not have been done, and is asked again."""
        self._forgetting = False
        if self._deleting is not None:
            return self._forget_again() or self._delete_streams()
        asked = [e for vra in dict.fromkeys(s.target for s in self.streams) for e in self._ask_again(vra)]
        return [*map(Keep, self._keeping.values()), *self._forget_again(), *asked, *self._tell_again()]

    def _ask_again(self, vra: Address) -> list[Effect]:
        """A recovery VRA may have forgotten what it was asked or all it knew, or its answer was lost."""
        streams = [s for s in self.streams if s.target == vra]
        closes = [Send(vra, self._ended[s]) for s in self._ended if s.target == vra and s in self._closing]
        marks = [Send(vra, self._marks(stream)) for stream in streams]
        awaits = [
            Send(vra, Await(self.vpg, arriving.checkpoint.id, stream, arriving.checkpoint.cut[stream]))
            for arriving in self._arriving.values()
            for stream in arriving.checkpoint.cut
            if stream in arriving.missing and stream.target == vra
        ]
        for stream in streams:
            self._aged.pop(stream, None)
        oldest = self.listed[0] if self._forget is None and self.listed else None
        ages = self._age([s for s in streams if s in oldest.cut], oldest.id) if oldest else []
        return [*self._tell_lineage(vra), *closes, *marks, *awaits, *ages]

    def _meet(self, stream: StreamId) -> list[Effect]:
        """A stream that is new here, as is all that could be told of it; or it has ended, and was opened again."""
        if stream in self.streams:
            return []
        if stream in self._ended:
            self._closing.add(stream)
            return [Send(stream.target, self._ended[stream])]
        if self._deleting is not None and self._forget is None:
            return self._tell_close([stream], keep_disks=self._deleting)
        self.streams.append(stream)
        return [*self._tell_lineage(stream.target), Send(stream.target, self._marks(stream))]

    def _marks(self, stream: StreamId) -> Marks:
        """All that the stream has reached and that is, or may come to be, in the durable list."""
        arriving = [a.checkpoint for a in self._arriving.values() if stream not in a.missing]
        reached = [*self._leaving, *self.listed, *self._keeping.values(), *arriving]
        return Marks(self.vpg, stream, {c.id: c.cut[stream] for c in reached if stream in c.cut})

    def _tell_again(self) -> list[Effect]:
        """The protected manager may have missed the last word."""
        stores = [*self._tell_lineage(self.manager), *(Send(self.manager, state) for state in self._stores.values())]
        if self._withdrawn:
            return [*stores, Send(self.manager, Withdrawn(self.vpg))]
        return [*stores, self._newest()] if self.listed else stores

    # -- retention --------------------------------------------------------------------------------------------

    @property
    def _withdrawing(self) -> bool:
        return self._forget is not None and self._forget.before is None

    def _retire_old(self) -> list[Effect]:
        if not self.listed:
            return []
        return self._retire(self._kept_for(self.retention.history), "history")

    def _kept_for(self, history: Ns) -> CheckpointId:
        """The oldest checkpoint of so much history."""
        horizon = self.listed[-1].taken - history
        return next(c.id for c in self.listed if c.taken >= horizon)

    def _shrink(self) -> list[Effect]:
        """Journals are too full: retire what it takes, or age what no checkpoint needs, if either can be had."""
        if not self._limits or self._forget is not None:
            return []
        aging = self._age_unlisted()
        if aging:
            return [*aging, *self._shrink()]
        limits = self._limits.values()
        if not self.listed:
            return self._withdraw("journal limit")
        free = not self.pins and not self.retention.fail_safe
        if len(self.listed) == 1 and free and any(m.syncing and not self._helps(m) for m in limits):
            return self._withdraw("sync window fills the journal")
        newest, oldest = self.listed[-1].id, self.listed[0].id
        wanted = max(min(m.keep_from or newest, newest) for m in limits)
        if self.retention.fail_safe:
            wanted = min(wanted, self._kept_for(self.retention.fail_safe))
        effects = self._retire(wanted, "journal limit")
        if effects:
            self._limits.clear()
            return effects
        # Nothing can be retired. What lies before the oldest checkpoint may still be in the journal.
        # A stream that is not in that one may share a journal with one that is.
        cut = self.listed[0].cut
        near = [s for s in self._limits if s in cut]
        streams = [s for s in (near if len(near) == len(self._limits) else cut) if self._aged.get(s) != oldest]
        for stream in streams:
            self._limits.pop(stream, None)
        return self._age(streams, oldest)

    def _age_unlisted(self) -> list[Effect]:
        """Full journals of streams that no checkpoint has, because they have not been in sync yet, age at will.

        A checkpoint on its way that has such a stream is given up, since its data may go.
        """
        known = {s for c in (*self.listed, *self._keeping.values()) for s in c.cut}
        found = [s for s, limit in self._limits.items() if limit.fresh and s not in known]
        for stream in found:
            del self._limits[stream]
        given_up = [id_ for id_, a in self._arriving.items() if not a.checkpoint.cut.keys().isdisjoint(found)]
        for id_ in given_up:
            del self._arriving[id_]
        skipped = [Publish(CheckpointSkipped(self.vpg, id_, "journal limit")) for id_ in given_up]
        return [*skipped, *self._age(found, None)]

    def _helps(self, limit: JournalLimit) -> bool:
        """Whether a journal fits again with a checkpoint that is listed, or may yet be."""
        keep_from = limit.keep_from
        if keep_from is None:
            return False
        may_be = (
            id_ for id_, a in self._arriving.items() if self._members is None or a.missing.issubset(self._members)
        )
        return keep_from <= self.listed[-1].id or any(id_ >= keep_from for id_ in (*self._keeping, *may_be))

    def _aged_by(self, before: CheckpointId | None) -> list[StreamId]:
        """The streams that have data to age: those of the checkpoint that is the oldest now; all when there is none."""
        if before is None or not self.listed or self.listed[0].id != before:
            return self.streams
        return list(self.listed[0].cut)

    def _close(self) -> list[Effect]:
        """Streams that only the forgotten checkpoints had: they have ended, since every new checkpoint has all."""
        if not self.listed:
            return []
        needed = self._cut_through()
        ended = dict.fromkeys(s for c in self._leaving for s in c.cut if s not in needed)
        self.streams = [s for s in self.streams if s not in ended]
        self._stores = {s: state for s, state in self._stores.items() if s not in ended}
        return self._tell_close(ended)

    def _cut_through(self) -> set[StreamId]:
        """The streams of all checkpoints that are listed, or may yet be."""
        arriving = [a.checkpoint for a in self._arriving.values()]
        return {s for c in (*self.listed, *self._keeping.values(), *arriving) for s in c.cut}

    def _age(self, streams: Iterable[StreamId], checkpoint: CheckpointId | None) -> list[Effect]:
        ages: list[Effect] = []
        for stream in streams:
            if checkpoint is None:
                self._aged.pop(stream, None)
            else:
                self._aged[stream] = checkpoint
            ages.append(Send(stream.target, Age(self.vpg, checkpoint, stream)))
        return ages

    def _retire(self, keep_from: CheckpointId, reason: str) -> list[Effect]:
        if self._forget is not None:
            return []
        keep_from = min([keep_from, *self.pins])
        if not self.listed or self.listed[0].id >= keep_from:
            return []
        while self.listed[0].id < keep_from:
            self._leaving.append(self.listed.popleft())
        oldest = self.listed[0]
        self._limited = self._limited or reason != "history"
        fact = CheckpointsRetired(self.vpg, oldest.id, oldest.taken, reason)
        return [Publish(fact), self._newest(), *self._ask_forget(oldest.id)]

    def _withdraw(self, reason: str) -> list[Effect]:
        effects: list[Effect] = [Publish(CheckpointsRetired(self.vpg, None, None, reason))] if self.listed else []
        if self.listed:
            effects.append(Send(self.manager, Withdrawn(self.vpg)))
            self._withdrawn = self._limited = True
        given_up = [*self._keeping, *self._arriving]
        effects += [Publish(CheckpointSkipped(self.vpg, id_, reason)) for id_ in given_up]
        self._leaving += [*self.listed, *self._keeping.values()]
        self.listed.clear()
        self._keeping.clear()
        self._arriving.clear()
        self._limits.clear()
        return [*effects, *self._ask_forget(None)]

    def _ask_forget(self, before: CheckpointId | None) -> list[Effect]:
        self._forget = Forget(self.vpg, before)
        return self._forget_again()

    def _forget_again(self) -> list[Effect]:
        if self._forget is None or self._forgetting:
            return []
        self._forgetting = True
        return [self._forget]
