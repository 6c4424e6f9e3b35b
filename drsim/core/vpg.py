"""Vpg: the protected manager's machine for one VPG. Coordinates checkpoints, keeps the five regions of its state.

Theory of operation, checkpoints (PROTOCOL 3).

    step      who      what
    --------  -------  -------------------------------------------------------------------------------
    hold      manager  `Hold` to every protected VRA of the VPG; the hold budget starts
    held      VRA      stops acknowledging guests, answers `Held` with all it has captured
    release   manager  when all have answered, `Release` to all
    released  VRA      `Released` if it had held until then, `Aborted` if it had let go before
    seal      manager  when all have answered `Released`: the cut is consistent, and goes to the catalogue

Anything else voids the checkpoint: one `Aborted`, or an answer missing when the budget has run out. A voided
checkpoint is skipped and counted; guests are released; a tag waits for the next one that is due. With one VRA its own
order is the cut, and `Held` seals it.
No checkpoint is tried while a stream synchronizes or the recovery manager cannot be reached.

State. `regions` follows what the VRAs, the catalogue and the connection report; every change is published together
with its cause, by the field's trigger names, so that each second of a missed service level can be attributed.
What was sealed and is not known to be listed is sent again over a new connection to the catalogue.
The cause of a problem stays until a checkpoint is listed that meets the service level again.

After a crash a new manager is built (`first` above 1): it numbers its checkpoints beyond those of earlier lives,
claims no service level until the catalogue tells what is listed, and learns from the VRAs what synchronizes. What was
sealed and not yet listed is lost with its memory; nobody was promised it.
"""

from dataclasses import dataclass, field

from drsim.core.effects import Arm, Effect, Publish, Send
from drsim.core.errors import PeerError
from drsim.core.events import Connected, Event, Fired, Lost, Received, Started, Stopped, TagAsked
from drsim.core.facts import CheckpointSealed, CheckpointSkipped, StateChanged
from drsim.core.messages import (
    Aborted,
    Checkpoint,
    Cut,
    Held,
    Hold,
    Listed,
    Message,
    Release,
    Released,
    Sealed,
    StoreState,
    SyncChanged,
    Trigger,
    Withdrawn,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.status import Health, Peer, Regions, Sync
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

TICK, DEADLINE = "checkpoint", "deadline"
FIRST = CheckpointId(1)


@dataclass(slots=True)
class _Attempt:
    id: CheckpointId
    taken: Ns
    tag: str
    cut: dict[StreamId, Cut] = field(default_factory=dict)
    held: set[Address] = field(default_factory=set)
    released: set[Address] = field(default_factory=set)


class Vpg:
    """One VPG at its protected site. Times in nanoseconds.

    `first`: number of the first checkpoint, beyond any that an earlier life of the manager gave.
    """

    def __init__(
        self, address: Address, name: str, vras: list[Address], catalog: Address, *, interval: Ns, rpo_alert: Ns,
        history: Ns, tweaks: Tweaks, first: CheckpointId = FIRST,
    ) -> None:  # fmt: skip
        self.address, self.name, self.vras, self.catalog = address, name, vras, catalog
        self.interval, self.rpo_alert, self.history, self.tweaks = interval, rpo_alert, history, tweaks
        self._heir = first > FIRST  # of an earlier life, which crashed
        self.regions = Regions(rpo_ok=not self._heir, history_ok=not self._heir)
        self.cause = "manager restart" if self._heir else ""
        self.attempt: _Attempt | None = None
        self.newest: Ns | None = None
        """When the newest listed checkpoint was taken, as far as the catalogue has told. None: not known, or none."""
        self._oldest: Ns | None = None  # likewise
        self._count = first - 1
        self._since: Ns | None = None  # the first start, if it was in this life
        self._syncing: dict[StreamId, SyncChanged] = {}
        self._stores: dict[StreamId, str] = {}  # recovery stores that do not take data, and why
        self._withdrawn = False  # there is no recovery point any more
        self._unlisted: dict[CheckpointId, Checkpoint] = {}  # sealed, and not yet known to be listed
        self._connected = True
        self._skipped = ""  # why the last attempt failed, if it did
        self._tags: list[str] = []

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a manager cannot get."""
        match event:
            case Started():
                return self._started(now)
            case Fired(timer) if timer == TICK:
                begun = self._next_tag(now) or self._begin(now, "")
                return [Arm(TICK, self.interval), *begun, *self._review(now)]
            case Fired(timer) if timer == DEADLINE:
                return self._void("hold budget")
            case TagAsked(tag):
                self._tags.append(tag)
                return self._next_tag(now)
            case Received(_, message):
                return self._received(now, message)
            case Lost(peer) if peer == self.catalog:
                self._connected = False
                return self._review(now)
            case Connected(peer) if peer == self.catalog:
                self._connected = True
                again: list[Effect] = [Send(self.catalog, Sealed(c)) for c in self._unlisted.values()]
                return again + self._review(now)
            case Lost() | Connected() | Stopped():
                return []  # a VRA: it says again what it has to say; a hold that it misses runs out
            case _:
                raise PeerError(f"a VPG manager cannot take {event!r}", place=self.address)

    def _started(self, now: Ns) -> list[Effect]:
        """For the first time, or again: then the attempt under way is given up, and what was listed still counts."""
        if self._since is None and not self._heir:
            self._since = now
        state = Publish(StateChanged(self.name, self.regions, self.cause))
        return [Arm(TICK, self.interval), *self._void("manager restart"), state]

    def _received(self, now: Ns, message: Message) -> list[Effect]:
        match message:
            case Held():
                return self._held(now, message)
            case Released():
                return self._released(now, message)
            case Aborted(checkpoint=checkpoint, reason=reason):
                if self.attempt is None or self.attempt.id != checkpoint:
                    return []
                return self._void(reason)
            case SyncChanged(stream=stream):
                if message.syncing:
                    self._syncing[stream] = message
                else:
                    self._syncing.pop(stream, None)
                return self._review(now)
            case Listed():
                self.newest, self._oldest = message.taken, message.oldest_taken
                self._withdrawn = False
                self._unlisted = {id_: c for id_, c in self._unlisted.items() if id_ > message.checkpoint}
                return self._review(now, listed=True)
            case Withdrawn():
                self.newest = self._oldest = None
                self._withdrawn = True
                return self._review(now)
            case StoreState(stream=stream):
                if message.ok:
                    self._stores.pop(stream, None)
                else:
                    self._stores[stream] = message.reason
                return self._review(now)
            case _:
                raise PeerError(f"a VPG manager cannot take {message!r}", place=self.address)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def _begin(self, now: Ns, tag: str) -> list[Effect]:
        if self.attempt is not None:
            return []
        self._count += 1
        id_ = CheckpointId(self._count)
        reason = "peer unreachable" if not self._connected else "synchronizing" if self._syncing else ""
        if reason:
            if tag:
                self._tags.insert(0, tag)
            return [Publish(CheckpointSkipped(self.name, id_, reason))]
        self.attempt = _Attempt(id_, now, tag)
        alone = len(self.vras) == 1
        return [
            *(Send(vra, Hold(self.name, id_, alone)) for vra in self.vras),
            Arm(DEADLINE, Ns(self.tweaks.hold_budget)),
        ]

    def _next_tag(self, now: Ns) -> list[Effect]:
        if self.attempt is not None or not self._tags:
            return []
        return self._begin(now, self._tags.pop(0))

    def _held(self, now: Ns, message: Held) -> list[Effect]:
        attempt = self.attempt
        if attempt is None or attempt.id != message.checkpoint:
            return []
        attempt.held.add(message.vra)
        attempt.cut.update(message.cut)
        if len(attempt.held) < len(self.vras):
            return []
        if len(self.vras) == 1:
            return self._seal(now, attempt)
        return [Send(vra, Release(self.name, attempt.id)) for vra in self.vras]

    def _released(self, now: Ns, message: Released) -> list[Effect]:
        attempt = self.attempt
        if attempt is None or attempt.id != message.checkpoint:
            return []
        attempt.released.add(message.vra)
        return self._seal(now, attempt) if len(attempt.released) == len(self.vras) else []

    def _seal(self, now: Ns, attempt: _Attempt) -> list[Effect]:
        self.attempt, self._skipped = None, ""
        cut = {stream: attempt.cut[stream] for stream in sorted(attempt.cut)}
        checkpoint = Checkpoint(self.name, attempt.id, attempt.taken, cut, attempt.tag)
        self._unlisted[attempt.id] = checkpoint
        fact = CheckpointSealed(self.name, attempt.id, attempt.taken, attempt.tag)
        return [Publish(fact), Send(self.catalog, Sealed(checkpoint)), *self._next_tag(now)]

    def _void(self, reason: str) -> list[Effect]:
        attempt = self.attempt
        if attempt is None:
            return []
        self.attempt, self._skipped = None, reason
        if attempt.tag:
            self._tags.insert(0, attempt.tag)
        releases = [Send(vra, Release(self.name, attempt.id)) for vra in self.vras] if len(self.vras) > 1 else []
        return [Publish(CheckpointSkipped(self.name, attempt.id, reason)), *releases]

    # -- state ------------------------------------------------------------------------------------------------

    def _review(self, now: Ns, *, listed: bool = False) -> list[Effect]:
        """Derive the regions anew; publish them when they changed."""
        worst = next(iter(self._syncing.values()), None)
        paused = worst is not None and worst.waiting and self._connected
        regions = Regions(
            lifecycle=self.regions.lifecycle,
            phase=self.regions.phase,
            sync=Sync.IN_SYNC if worst is None else Sync.PAUSED_SYSTEM if paused else Sync.BITMAP,
            peer=self._peer(),
            health=Health.JOURNAL_STORAGE if self._stores else Health.OK,
            rpo_ok=self._rpo_ok(now),
            history_ok=self._history_ok(now),
        )
        cause = self._cause(worst, regions)
        if cause or (listed and regions.rpo_ok and regions.history_ok):
            pass
        else:
            cause = self.cause  # the problem is over, its consequence is not yet
        if regions == self.regions and cause == self.cause:
            return []
        self.regions, self.cause = regions, cause
        return [Publish(StateChanged(self.name, regions, cause))]

    def _peer(self) -> Peer:
        if self._withdrawn:
            return Peer.DISCONNECTED_NO_POINTS  # the field's name for it (T8), whether the peer answers or not
        return Peer.CONNECTED if self._connected else Peer.DISCONNECTED

    def _rpo_ok(self, now: Ns) -> bool:
        """Before there is a checkpoint, protection itself is what is young enough."""
        since = self._since if self.newest is None else self.newest
        return since is not None and now - since <= self.rpo_alert

    def _history_ok(self, now: Ns) -> bool:
        """No shorter than it may be, or than it can be; an heir does not know how long protection lasts."""
        oldest = self._since if self._oldest is None else self._oldest
        can_be = self.history if self._since is None else min(self.history, now - self._since)
        return oldest is not None and now - oldest >= can_be - self.tweaks.age_interval - 2 * self.interval

    def _cause(self, worst: SyncChanged | None, regions: Regions) -> str:
        if self._stores:
            return Trigger.RECOVERY_STORAGE_ERROR.value
        if worst is not None:
            return worst.trigger.value
        if not self._connected:
            return Trigger.COMMUNICATION.value
        if self._skipped and not self.cause:
            return "checkpoints voided"
        if not regions.rpo_ok and not self.cause:
            return Trigger.NETWORK_CONGESTION.value
        if not regions.history_ok and not self.cause:
            return "journal limit"
        return ""
