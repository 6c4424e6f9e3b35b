"""RecoveryVra: the machine on a recovery host. Orders, journals, acknowledges what is durable, ages into mirrors.

Theory of operation. Each stream has its own receiver (`receiver.py`). The VRA owns what they share: memory for
frames on their way to the store (a share of the appliance's pool), one retry timer for a store that failed, and the
word to the recovery manager when a journal nears its hard limit or the store does not take data.

After a restart in good order, frames in memory are gone and the journals are as durable as they were; the senders
begin new epochs. After a crash a new VRA is built from what the store holds (`durable`): the manager brings the marks
of its checkpoints back, and is told again about the store and the journals' limits.
"""

from collections.abc import Mapping

from drsim.core.effects import Append, Arm, Effect, Promote, Send
from drsim.core.errors import PeerError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, Received, Started, Stopped
from drsim.core.journal import Stored
from drsim.core.messages import Age, Await, Frame, JournalLimit, Marks, Resync, StoreState, SyncDone, Where
from drsim.core.names import Address, StreamId, StreamSpec
from drsim.core.receiver import Receiver
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

RETRY = "retry store"


class RecoveryVra:
    """The VRA of one recovery host. `pool_bytes` is its whole buffer pool.

    `durable`: what the store holds of every stream, when an earlier life crashed.
    """

    def __init__(
        self, address: Address, catalogs: dict[str, Address], streams: list[StreamSpec], *, pool_bytes: int,
        tweaks: Tweaks, durable: Mapping[StreamId, Stored] | None = None,
    ) -> None:  # fmt: skip
        self.address, self.tweaks = address, tweaks
        self.limit = int(pool_bytes * tweaks.buffer_use_recover)
        self.receivers = {
            s.id: Receiver(s, catalogs[s.id.vpg], self._room, stored=None if durable is None else durable[s.id])
            for s in streams
        }
        self._near_limit: dict[StreamId, tuple[bool, bool]] = {}  # what was told: of a sync window, a frame was refused
        self._not_ok: set[StreamId] = set()  # streams whose store was reported as failing
        self._retrying = False

    @property
    def used(self) -> int:
        """Bytes of frames on their way to the store."""
        return sum(receiver.pending_bytes for receiver in self.receivers.values())

    def _room(self) -> int:
        return self.limit - self.used

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a recovery VRA cannot get."""
        match event:
            case Received(_, Frame() as frame):
                receiver = self.receivers[frame.stream]
                return receiver.frame(frame) + self._check_limit(receiver)
            case Done(_, Append(frame), _):
                return self.receivers[frame.stream].appended(frame) + self._store(frame.stream)
            case Failed(_, Append(frame), error):
                effects = self.receivers[frame.stream].append_failed(frame)
                return effects + self._store(frame.stream, error.message) + self._retry_later()
            case Done(_, Promote() as promote, _):
                self._near_limit.pop(promote.stream, None)
                return self.receivers[promote.stream].promoted()
            case Failed(_, Promote() as promote, _):
                self.receivers[promote.stream].promote_failed()
                return self._retry_later()
            case Received(_, message):
                return self._received(message)
            case Fired(timer) if timer == RETRY:
                self._retrying = False
                return [e for r in self.receivers.values() for e in (*r.retry(), *r.retry_promote())]
            case Started():
                for receiver in self.receivers.values():
                    receiver.restarted()
                self._retrying = False
                return [e for r in self.receivers.values() for e in r.retry_promote()]
            case Connected(peer):
                return self._tell_again(peer)
            case Stopped() | Lost():
                return []
            case _:
                raise PeerError(f"a recovery VRA cannot take {event!r}", place=self.address)

    def _received(self, message: object) -> list[Effect]:
        match message:
            case Resync():
                return self.receivers[message.stream].resync(message)
            case SyncDone():
                return self.receivers[message.stream].sync_done(message)
            case Where():
                return self.receivers[message.stream].where(message)
            case Marks():
                receiver = self.receivers[message.stream]
                receiver.put_back(message)
                return self._check_limit(receiver)
            case Await():
                return self.receivers[message.stream].await_cut(message)
            case Age():
                return self.receivers[message.stream].age(message)
            case _:
                raise PeerError(f"a recovery VRA cannot take {message!r}", place=self.address)

    def _retry_later(self) -> list[Effect]:
        if self._retrying:
            return []
        self._retrying = True
        return [Arm(RETRY, Ns(self.tweaks.retry_pause))]

    def _store(self, id_: StreamId, reason: str = "") -> list[Effect]:
        """Tell when a stream's store stops taking data, and when it takes data again."""
        receiver = self.receivers[id_]
        if receiver.stalled == (id_ in self._not_ok):
            return []
        (self._not_ok.add if receiver.stalled else self._not_ok.discard)(id_)
        return [Send(receiver.catalog, StoreState(id_.vpg, id_, not receiver.stalled, reason))]

    def _tell_again(self, catalog: Address) -> list[Effect]:
        """The catalogue may not have got what it was told about stores and journals near their limit."""
        effects: list[Effect] = []
        for id_, receiver in self.receivers.items():
            if receiver.catalog == catalog:
                reason = "store full" if id_ in self._not_ok else ""
                effects.append(Send(catalog, StoreState(id_.vpg, id_, not reason, reason)))
                self._near_limit.pop(id_, None)
                effects += self._check_limit(receiver)
        return effects

    def _check_limit(self, receiver: Receiver) -> list[Effect]:
        """Ask for early aging when a journal is nearly full or refused a frame; once, until a promotion made room."""
        id_, limit = receiver.spec.id, receiver.spec.limit
        if limit is None or receiver.unmarked:
            return []
        margin = int(limit * self.tweaks.limit_margin)
        wanted, fullest = max(
            zip(receiver.blocked, receiver.journals.values(), strict=True), key=lambda pair: pair[0] + pair[1].nbytes
        )
        if fullest.nbytes + max(wanted, margin) <= limit:
            return []
        told = receiver.swept, any(receiver.blocked)
        if self._near_limit.get(id_) == told:
            return []
        self._near_limit[id_] = told
        keep = fullest.fits_from(limit - max(2 * margin, wanted))
        return [Send(receiver.catalog, JournalLimit(id_.vpg, id_, keep, receiver.swept))]
