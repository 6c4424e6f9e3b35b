"""RecoveryVra: the machine on a recovery host. Orders, journals, acknowledges what is durable, ages into mirrors.

Theory of operation. Each stream has its own receiver (`receiver.py`). The VRA owns what they share: memory for
frames on their way to the store (a share of the appliance's pool), one retry timer for a store that failed, and the
word to the recovery manager when a journal nears its hard limit or the store does not take data.

After a restart, memory is gone and the journals are as durable as they were; the senders begin new epochs.
"""

from drsim.core.effects import Append, Arm, Effect, Promote, Send
from drsim.core.errors import PeerError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, Received, Started, Stopped
from drsim.core.messages import Age, Await, Frame, JournalLimit, Resync, StoreState, SyncDone
from drsim.core.names import Address, StreamId, StreamSpec
from drsim.core.receiver import Receiver
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

RETRY = "retry store"


class RecoveryVra:
    """The VRA of one recovery host. `pool_bytes` is its whole buffer pool."""

    def __init__(
        self, address: Address, catalogs: dict[str, Address], streams: list[StreamSpec], *, pool_bytes: int,
        tweaks: Tweaks,
    ) -> None:  # fmt: skip
        self.address, self.tweaks = address, tweaks
        self.limit = int(pool_bytes * tweaks.buffer_use_recover)
        self.receivers = {s.id: Receiver(s, catalogs[s.id.vpg], self._room) for s in streams}
        self._near_limit: set[StreamId] = set()
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
                receiver = self.receivers[frame.stream]
                was_stalled = receiver.stalled
                effects = receiver.appended(frame)
                return effects + (self._store(receiver, ok=True, reason="") if was_stalled else [])
            case Failed(_, Append(frame), error):
                receiver = self.receivers[frame.stream]
                was_stalled = receiver.stalled
                effects = receiver.append_failed(frame)
                if receiver.stalled and not was_stalled:
                    effects += self._store(receiver, ok=False, reason=error.message)
                return effects + self._retry_later()
            case Done(_, Promote() as promote, _):
                self._near_limit.discard(promote.stream)
                return self.receivers[promote.stream].promoted(promote)
            case Failed(_, Promote() as promote, _):
                self.receivers[promote.stream].promote_failed(promote)
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
            case Stopped() | Lost() | Connected():
                return []
            case _:
                raise PeerError(f"a recovery VRA cannot take {event!r}", place=self.address)

    def _received(self, message: object) -> list[Effect]:
        match message:
            case Resync():
                return self.receivers[message.stream].resync(message)
            case SyncDone():
                return self.receivers[message.stream].sync_done(message)
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

    def _store(self, receiver: Receiver, *, ok: bool, reason: str) -> list[Effect]:
        id_ = receiver.spec.id
        return [Send(receiver.catalog, StoreState(id_.vpg, id_, ok, reason))]

    def _check_limit(self, receiver: Receiver) -> list[Effect]:
        """Ask for early aging when a journal is nearly full; once, until a promotion has made room."""
        id_, limit = receiver.spec.id, receiver.spec.limit
        if limit is None or id_ in self._near_limit:
            return []
        margin = int(limit * self.tweaks.limit_margin)
        fullest = max(receiver.journals.values(), key=lambda j: j.nbytes)
        if fullest.nbytes <= limit - margin:
            return []
        self._near_limit.add(id_)
        keep = fullest.fits_from(limit - 2 * margin)
        return [Send(receiver.catalog, JournalLimit(id_.vpg, id_, keep, receiver.syncing))]
