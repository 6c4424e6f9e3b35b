"""RecoveryVra: the machine on a recovery host. Orders, journals, acknowledges what is durable, ages into mirrors.

Theory of operation. Each stream has its own receiver (`receiver.py`). The VRA owns what they share: memory for
frames on their way to the store (a share of the appliance's pool), one retry timer for a store that failed, and the
word to the recovery manager when a journal nears its hard limit or the store does not take data.

Streams come and go. One is opened by the first word of its sender, which says all that is to be known of it, and
closed by the manager when no checkpoint has it. When the manager says that a VPG is in a later generation (`Lineage`),
nothing of an earlier one is taken any more, by no stream of it.

After a restart in good order, frames in memory are gone and the journals are as durable as they were; the senders
begin new epochs. After a crash a new VRA is built from what the store holds (`durable`): the manager brings the marks
of its checkpoints back, and is told again about the store and the journals' limits.
"""

from collections.abc import Mapping

from drsim.core.effects import Append, Arm, Discard, Effect, Promote, Publish, ReadDigests, Send
from drsim.core.errors import DrsimError, PeerError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, Received, Started, Stopped
from drsim.core.facts import StoreChanged
from drsim.core.journal import Stored
from drsim.core.messages import (
    Age,
    Await,
    Close,
    Closed,
    Compare,
    Frame,
    JournalLimit,
    Lineage,
    Marks,
    Missed,
    Resync,
    StoreState,
    SyncDone,
    Where,
)
from drsim.core.names import Address, Directory, StreamId, StreamSpec
from drsim.core.receiver import Receiver
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

RETRY = "retry store"
FIRST: Mapping[str, int] = {}


def stream_of(event: Event) -> StreamId | None:
    """The stream that an event is about, if it is about one."""
    match event:
        case Received():
            return getattr(event.message, "stream", None)
        case Done() | Failed():
            effect = event.effect
            match effect:
                case Append():
                    return effect.frame.stream
                case Promote() | ReadDigests():
                    return effect.stream
    return None


class RecoveryVra:
    """The VRA of one recovery host. `pool_bytes` is its whole buffer pool.

    `durable`: what the store holds of every stream, when an earlier life crashed; `generations`: of the VPGs that are
    not in their first, by the site's record.
    """

    def __init__(
        self, address: Address, catalogs: Directory, streams: list[StreamSpec], *, pool_bytes: int,
        tweaks: Tweaks, durable: Mapping[StreamId, Stored] | None = None,
        generations: Mapping[str, int] = FIRST,
    ) -> None:  # fmt: skip
        self._generations = dict(generations)
        self.address, self.tweaks = address, tweaks
        self.limit = int(pool_bytes * tweaks.buffer_use_recover)
        self.receivers = {
            s.id: Receiver(
                s,
                catalogs[s.id.vpg],
                self._room,
                region_bytes=tweaks.region_bytes,
                generation=generations.get(s.id.vpg, 1),
                stored=None if durable is None else durable[s.id],
            )
            for s in streams
        }
        for receiver in sorted(self.receivers.values(), key=lambda r: r.spec.id.part):
            self._share(receiver, durable or {})
        self._catalogs = catalogs
        self._asking: dict[StreamId, Where | Resync] = {}  # of streams that wait for another one's frames to land
        self._ended: set[StreamId] = set()  # that were closed, and are never opened again in this life
        self._discarding: dict[StreamId, Discard] = {}  # under way, or failed, or to come
        self._landing: dict[StreamId, int] = {}  # frames of closed streams that are on their way to the store
        self._near_limit: dict[StreamId, tuple[bool, bool]] = {}  # what was told: of a sync window, a frame was refused
        self.failing: dict[StreamId, str] = {}
        """Streams whose store was reported as failing, and what it said."""
        self._retrying = False

    @property
    def used(self) -> int:
        """Bytes of frames on their way to the store."""
        return sum(receiver.pending_bytes for receiver in self.receivers.values())

    def _room(self) -> int:
        return self.limit - self.used

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a recovery VRA cannot get."""
        stream = stream_of(event)
        if stream is not None and stream not in self.receivers:
            return self._unknown(event)
        match event:
            case Received():
                return self._received(event.message)
            case Done():
                return self._done(event.effect, event.value)
            case Failed():
                return self._failed(event.effect, event.error)
            case Fired(timer) if timer == RETRY:
                self._retrying = False
                discards = [discard for stream, discard in self._discarding.items() if stream not in self._landing]
                return [*discards, *(e for r in self.receivers.values() for e in (*r.retry(), *r.retry_promote()))]
            case Started():
                self._landing.clear()
                for receiver in self.receivers.values():
                    receiver.restarted()
                self._retrying = False
                return [*self._discarding.values(), *(e for r in self.receivers.values() for e in r.retry_promote())]
            case Connected(peer):
                return self._tell_again(peer)
            case Stopped() | Lost():
                return []
            case _:
                raise PeerError(f"a recovery VRA cannot take {event!r}", place=self.address)

    def _received(self, message: object) -> list[Effect]:
        match message:
            case Frame():
                receiver = self.receivers[message.stream]
                return receiver.frame(message) + self._check_limit(receiver)
            case SyncDone():
                return self.receivers[message.stream].sync_done(message)
            case Compare():
                return self.receivers[message.stream].compare(message)
            case Where() | Resync():
                return self._begins(message)
            case Close(_, stream, keep_disks):
                return self._close(stream, keep_disks=keep_disks)
            case Marks():
                receiver = self.receivers[message.stream]
                receiver.put_back(message)
                return self._check_limit(receiver)
            case Lineage(vpg, generation):
                self._generations[vpg] = max(generation, self._generations.get(vpg, 1))
                for receiver in self.receivers.values():
                    if receiver.spec.id.vpg == vpg:
                        receiver.fence(generation)
                return []
            case Await():
                return self.receivers[message.stream].await_cut(message)
            case Age():
                return self.receivers[message.stream].age(message)
            case _:
                raise PeerError(f"a recovery VRA cannot take {message!r}", place=self.address)

    def _done(self, effect: Effect, value: object) -> list[Effect]:
        match effect:
            case Append():
                frame = effect.frame
                effects = self.receivers[frame.stream].appended(frame) + self._store(frame.stream)
                return effects + self._ask_again()
            case Promote():
                return self.receivers[effect.stream].promoted() + self._made_room(effect.stream)
            case ReadDigests():
                return self.receivers[effect.stream].digested(effect, value)  # type: ignore[arg-type]
            case Discard():
                self._discarding.pop(effect.stream, None)
                return self._closed(effect.stream)
            case _:
                raise PeerError(f"a recovery VRA did not ask for {effect!r}", place=self.address)

    def _failed(self, effect: Effect, error: DrsimError) -> list[Effect]:
        match effect:
            case Append(frame):
                effects = self.receivers[frame.stream].append_failed(frame)
                place = f"{error.place}: " if error.place else ""
                effects += self._store(frame.stream, place + error.message) + self._retry_later()
                return effects + self._ask_again()
            case Promote(stream):
                self.receivers[stream].promote_failed()
                return self._retry_later()
            case ReadDigests(stream):
                return self.receivers[stream].digested(effect, None)
            case Discard():
                return self._retry_later()
            case _:
                raise PeerError(f"a recovery VRA did not ask for {effect!r}", place=self.address)

    def _made_room(self, stream: StreamId) -> list[Effect]:
        """A promotion is done: journals that others of the VPG share with this stream have room as well."""
        effects: list[Effect] = []
        for id_, receiver in self.receivers.items():
            if id_.vpg == stream.vpg:
                self._near_limit.pop(id_, None)
                effects += [] if id_ == stream else receiver.wake()
        return effects

    # -- streams that come and go -----------------------------------------------------------------------------

    def _begins(self, message: Where | Resync) -> list[Effect]:
        """A sender asks where its stream stands, or begins an epoch; a stream that is new here is opened."""
        spec = message.spec
        effects: list[Effect] = []
        receiver = self.receivers.get(spec.id)
        if receiver is None:
            if spec.id in self._ended:
                return []  # the sender has not heard of it yet
            if any(r.spec.id.part > spec.id.part for r in self._owners(spec)):
                return []  # the VMs have moved on since
            if message.generation < self._generations.get(spec.id.vpg, 1):
                return []  # the sender has not heard that it is fenced
            receiver = Receiver(
                spec, self._catalogs[spec.id.vpg], self._room, region_bytes=self.tweaks.region_bytes, epoch=0,
                generation=message.generation,
            )  # fmt: skip
            owners = self._owners(spec) if spec.follows is not None else []
            if not all(owner.hand_over(receiver) for owner in owners):
                self._asking[spec.id] = message
                return []
            self.receivers[spec.id] = receiver
            effects.append(Send(receiver.catalog, StoreState(spec.id.vpg, spec.id, True, "")))
            for owner in owners:
                effects += [*owner.wake(), *self._store(owner.spec.id)]
        return effects + (receiver.where(message) if isinstance(message, Where) else receiver.resync(message))

    def _unknown(self, event: Event) -> list[Effect]:
        """Of a stream that is closed or was never opened: only its sender opens one."""
        match event:
            case Received(_, Where() | Resync() as message):
                return self._begins(message)
            case Received(_, Await(vpg, checkpoint, stream)):
                return [Send(self._catalogs[vpg], Missed(vpg, checkpoint, stream))]
            case Done(_, Append(frame)) | Failed(_, Append(frame)) if frame.stream in self._landing:
                return self._landed(frame.stream)
            case Received(_, Close(_, stream)):
                return [] if stream in self._discarding else self._closed(stream)
            case _:
                return []

    def _ask_again(self) -> list[Effect]:
        if not self._asking:
            return []
        asking, self._asking = self._asking, {}
        return [e for message in asking.values() for e in self._begins(message)]

    def _owners(self, spec: StreamSpec) -> list[Receiver]:
        """The streams of the VPG that have the journals of these VMs at present, if those are the stream's own.

        Of a VM that had left and came back there are others.
        """
        return [
            r for r in self.receivers.values()
            if r.spec.id.vpg == spec.id.vpg and r.spec.id.part >= spec.origin
            and any(r.spec.vms[n] in spec.vms for n, _ in r.owned)
        ]  # fmt: skip

    def _share(self, receiver: Receiver, durable: Mapping[StreamId, Stored]) -> None:
        """After a crash: a stream that follows has taken over the journals of the streams before."""
        spec = receiver.spec
        for earlier in self.receivers.values() if spec.follows is not None else ():
            if earlier.spec.id.vpg == spec.id.vpg and spec.origin <= earlier.spec.id.part < spec.id.part:
                earlier.journals.update({vm: receiver.journals[vm] for vm in spec.vms if vm in earlier.journals})
                earlier.disown(spec.vms, durable.get(earlier.spec.id))

    def _close(self, stream: StreamId, *, keep_disks: bool) -> list[Effect]:
        receiver = self.receivers.pop(stream)
        self._ended.add(stream)
        calm: list[Effect] = [Publish(StoreChanged(stream, True, ""))] if stream in self.failing else []
        self.failing.pop(stream, None)
        discard = Discard(stream, tuple(receiver.spec.vms[n] for n, _ in receiver.owned), keep_disks)
        self._discarding[stream] = discard
        if receiver.landing:
            self._landing[stream] = receiver.landing
            return calm
        return [*calm, discard]

    def _landed(self, stream: StreamId) -> list[Effect]:
        """A frame of a closed stream is in the store, or will not be; after the last one its journals can go."""
        self._landing[stream] -= 1
        if self._landing[stream]:
            return []
        del self._landing[stream]
        return [self._discarding[stream]]

    def _closed(self, stream: StreamId) -> list[Effect]:
        return [Send(self._catalogs[stream.vpg], Closed(stream.vpg, stream))]

    def _retry_later(self) -> list[Effect]:
        if self._retrying:
            return []
        self._retrying = True
        return [Arm(RETRY, Ns(self.tweaks.retry_pause))]

    def _store(self, id_: StreamId, reason: str = "") -> list[Effect]:
        """Tell when a stream's store stops taking data, and when it takes data again."""
        receiver = self.receivers[id_]
        if receiver.stalled == (id_ in self.failing):
            return []
        if receiver.stalled:
            self.failing[id_] = reason
        else:
            del self.failing[id_]
        fact = Publish(StoreChanged(id_, not receiver.stalled, reason))
        return [fact, Send(receiver.catalog, StoreState(id_.vpg, id_, not receiver.stalled, reason))]

    def _tell_again(self, catalog: Address) -> list[Effect]:
        """The catalogue may not have got what it was told about stores and journals near their limit."""
        effects: list[Effect] = []
        for id_, receiver in self.receivers.items():
            if receiver.catalog == catalog:
                ok = id_ not in self.failing
                effects.append(Send(catalog, StoreState(id_.vpg, id_, ok, self.failing.get(id_, ""))))
                self._near_limit.pop(id_, None)
                effects += self._check_limit(receiver)
        return effects

    def _check_limit(self, receiver: Receiver) -> list[Effect]:
        """Ask for early aging when a journal is nearly full or refused a frame; once, until a promotion made room."""
        id_, limit = receiver.spec.id, receiver.spec.limit
        if limit is None or receiver.unmarked or not receiver.owned:
            return []
        margin = int(limit * self.tweaks.limit_margin)
        wanted, fullest = max(
            ((receiver.blocked[n], journal) for n, journal in receiver.owned), key=lambda pair: pair[0] + pair[1].nbytes
        )
        if fullest.nbytes + max(wanted, margin) <= limit:
            return []
        told = receiver.swept, any(receiver.blocked)
        if self._near_limit.get(id_) == told:
            return []
        self._near_limit[id_] = told
        keep = fullest.fits_from(limit - max(2 * margin, wanted))
        return [Send(receiver.catalog, JournalLimit(id_.vpg, id_, keep, receiver.swept, receiver.fresh))]
