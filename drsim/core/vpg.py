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
order is the cut, and `Held` seals it. A tag may ask for applications at rest: then there is a freeze around its
checkpoint (`quiesce.py`).
No checkpoint is tried while a stream synchronizes or the recovery manager cannot be reached.

Epochs. VMs whose writes nobody can tap are captured by epochs: snapshots, and what changed between two. Then there is
one checkpoint for each epoch, tried at every tick until it is sealed, and a tag in between is of the same epoch (or
waits for the first). It says that it was taken when the epoch was (`EpochCaptured`), so that reported RPO is never
better than true RPO. After a VM has moved (`VmMoved`) an epoch is due at once (`EpochDue`): if the platform has lost
track of its changes, all of it has to be read, and that is to begin, and to show, now and not a period later.

State. `regions` follows what the VRAs, the catalogue and the connection report; every change is published together
with its cause, by the field's trigger names, so that each second of a missed service level can be attributed.
What was sealed and is not known to be listed is sent again over a new connection to the catalogue.
Pause (T7). An operator may pause replication: nothing is sent, and what is written becomes dirty. The manager does so
itself, once in each sync and for `replication_pause`, when a sync leaves so few checkpoints that the history might run
out. The VRAs are told, and told again over every new connection.

Generations. When the catalogue says that the VPG was recovered at its site (`Lineage`, fenced), no checkpoint is tried
and the VRAs are told, and told again over every new connection, until it gives the VPG back in a later generation.

Configuration (T3, T10, T12). Which streams the VPG has is decided by whoever places VMs (`Reconfigured`); the manager
tells every VRA, and tells it again over every new connection. A connection keeps order, so a hold finds the
configuration that it is for: a checkpoint has all streams of one. A stream that was added synchronizes beside:
checkpoints go on without it until it is in sync for the first time.

The cause of a problem stays until a checkpoint is listed that meets the service level again.

After a crash a new manager is built (`first` above 1): it numbers its checkpoints beyond those of earlier lives,
claims no service level until the catalogue tells what is listed, and learns from the VRAs what synchronizes. What was
sealed and not yet listed is lost with its memory; nobody was promised it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from drsim.core.effects import Arm, Effect, Publish, Send
from drsim.core.errors import PeerError
from drsim.core.events import (
    Connected,
    DeleteAsked,
    EpochCaptured,
    Event,
    Fired,
    Lost,
    PauseAsked,
    Received,
    Reconfigured,
    Started,
    Stopped,
    SyncAsked,
    TagAsked,
    VmMoved,
)
from drsim.core.facts import CheckpointSealed, CheckpointSkipped, EpochDue, StateChanged, VpgDeleted
from drsim.core.messages import (
    Aborted,
    Checkpoint,
    Configure,
    Cut,
    Delete,
    Deleted,
    Forced,
    ForceSync,
    Frozen,
    Held,
    Hold,
    Lineage,
    Listed,
    Members,
    Message,
    Pause,
    Release,
    Released,
    Sealed,
    StoreState,
    SyncChanged,
    Trigger,
    Withdrawn,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamId, VmId
from drsim.core.quiesce import FREEZE, UNTAGGED, Quiesce, Tag
from drsim.core.status import GRAVITY, Health, Lifecycle, Peer, Regions, Sync
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

TICK, DEADLINE, REST = "checkpoint", "deadline", "rest"
FIRST = CheckpointId(1)


@dataclass(slots=True)
class _Attempt:
    id: CheckpointId
    taken: Ns
    tag: Tag
    vras: tuple[Address, ...]
    cut: dict[StreamId, Cut] = field(default_factory=dict)
    frozen: set[VmId] = field(default_factory=set)
    held: set[Address] = field(default_factory=set)
    released: set[Address] = field(default_factory=set)


class Vpg:
    """One VPG at its protected site. Times in nanoseconds.

    `first`: number of the first checkpoint, beyond any that an earlier life of the manager gave. `creating`: its
    initial sync is not over. `paused`: an operator wants it so. `configured`: what it was last told to consist of.
    `epochs`: its VMs are captured by epochs; then a checkpoint is of the last one, and there is one for each.
    `deleting`: the VPG is being deleted, with or without keeping its disks.
    """

    def __init__(
        self, address: Address, name: str, vras: list[Address], catalog: Address, *, interval: Ns, rpo_alert: Ns,
        history: Ns, tweaks: Tweaks, first: CheckpointId = FIRST, creating: bool = False, paused: bool = False,
        configured: Reconfigured | None = None, deleting: bool | None = None, epochs: bool = False,
    ) -> None:  # fmt: skip
        self.address, self.name, self.vras, self.catalog = address, name, vras, catalog
        self.interval, self.rpo_alert, self.history, self.tweaks = interval, rpo_alert, history, tweaks
        self._heir = first > FIRST  # of an earlier life, which crashed
        lifecycle = Lifecycle.CREATING if creating else Lifecycle.PROTECTING
        lifecycle = Lifecycle.DELETING if deleting is not None else lifecycle
        self.regions = Regions(lifecycle=lifecycle, rpo_ok=not self._heir, history_ok=not self._heir)
        self.cause = "manager restart" if self._heir else ""
        self.attempt: _Attempt | None = None
        self.newest: Ns | None = None
        """When the newest listed checkpoint was taken, as far as the catalogue has told. None: not known, or none."""
        self._oldest: Ns | None = None  # likewise
        self._count = first - 1
        self._since: Ns | None = None  # protection began, if it was in this life
        self._syncing: dict[StreamId, SyncChanged] = {}
        self._stores: dict[StreamId, str] = {}  # recovery stores that do not take data, and why
        self._withdrawn = False  # there is no recovery point any more
        self._unlisted: dict[CheckpointId, Checkpoint] = {}  # sealed, and not yet known to be listed
        self._connected = True
        self._configured = configured
        if configured is not None:
            self.vras = list(dict.fromkeys(spec.id.source for spec in configured.streams))
        self.lineage = Lineage(name)  # as far as the catalogue has told
        self._deleting = deleting  # the recovery site has not answered: whether the disks stay
        self.paused = paused  # by an operator
        self._resting = False  # by ourselves, for a while
        self._rested = False  # in this sync already
        self._left: int | None = None  # checkpoints listed, as far as the catalogue has told
        self._limited = False  # there would be more if a journal had not reached its limit
        self._forcing: dict[Address, ForceSync] = {}  # what VRAs were asked for and have not answered
        self._skipped = ""  # why the last attempt failed, if it did
        self._epoch = Ns(0) if epochs else None  # when the last one was taken; 0: none yet in this life
        self._owed = not epochs  # whether a tick brings a checkpoint: of the last epoch there is none yet
        self._tags: list[Tag] = []
        self.freeze = Quiesce(name, tweaks)

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a manager cannot get."""
        match event:
            case Received():
                return self._received(now, event.message)
            case Started():
                return self._started(now)
            case Fired():
                return self._fired(now, event.timer)
            case DeleteAsked(keep_disks):
                return self._delete(now, keep_disks=keep_disks)
            case Reconfigured():
                return [*self._reconfigured(event), *self._review(now)]
            case PauseAsked(paused):
                self.paused = paused
                return [*self._tell_pause(self.vras), *self._review(now)]
            case SyncAsked(full, volumes):
                wish = ForceSync(self.name, full, volumes)
                self._forcing = {vra: wish.and_(self._forcing.get(vra, wish)) for vra in self.vras}
                return [Send(vra, asked) for vra, asked in self._forcing.items()]
            case EpochCaptured(taken):
                self._epoch, self._owed = taken, True
                return self._next_tag(now) or self._begin(now, UNTAGGED)
            case VmMoved(vm, host):
                ends = self._epoch is None or self.regions.lifecycle is Lifecycle.DELETING
                return [] if ends else [Publish(EpochDue(self.name, vm, host))]
            case TagAsked(tag, quiesce):
                self._tags.append(Tag(tag, quiesce))
                return self._next_tag(now)
            case Lost(peer) if peer == self.catalog:
                self._connected = False
                return self._review(now)
            case Connected(peer) if peer == self.catalog:
                self._connected = True
                again: list[Effect] = [Send(self.catalog, Sealed(c)) for c in self._unlisted.values()]
                return [*again, *self._tell_members(), *self._tell_deletion(), *self._review(now)]
            case Connected(vra):
                forced: list[Effect] = [Send(vra, self._forcing[vra])] if vra in self._forcing else []
                again = [*self._tell_configuration([vra]), *self._tell_lineage([vra]), *self._tell_pause([vra])]
                return [*again, *forced]
            case Lost() | Stopped():
                return []  # a VRA: it says again what it has to say; a hold that it misses runs out
            case _:
                raise PeerError(f"a VPG manager cannot take {event!r}", place=self.address)

    def _fired(self, now: Ns, timer: str) -> list[Effect]:
        if timer == TICK:
            begun = self._next_tag(now) or (self._begin(now, UNTAGGED) if self._owed else [])
            return [Arm(TICK, self.interval), *begun, *self._review(now)]
        if timer == DEADLINE:
            return [*self._void("hold budget"), *self._frozen_tag(now)]
        if timer == FREEZE:
            self.freeze.timeout()
            return self._frozen_tag(now)
        if timer == REST:
            self._resting = False
            return [*self._tell_pause(self.vras), *self._review(now)]
        raise PeerError(f"a VPG manager has no timer {timer!r}", place=self.address)

    def _started(self, now: Ns) -> list[Effect]:
        """For the first time, or again: then the attempt under way is given up, and what was listed still counts."""
        if self._since is None and not self._heir:
            self._since = now
        state = Publish(StateChanged(self.name, self.regions, self.cause))
        rest: list[Effect] = [Arm(REST, Ns(self.tweaks.replication_pause))] if self._resting else []
        given_up = self._void("manager restart")
        if self.freeze.tag is not None:
            self._tags.insert(0, self.freeze.tag)
        return [Arm(TICK, self.interval), *rest, *given_up, *self.freeze.end(), state]

    def _received(self, now: Ns, message: Message) -> list[Effect]:
        match message:
            case Held():
                return self._held(now, message)
            case Released():
                return self._released(now, message)
            case Aborted(checkpoint=checkpoint, reason=reason):
                if self.attempt is None or self.attempt.id != checkpoint:
                    return []
                return [*self._void(reason), *self._frozen_tag(now)]
            case Frozen():
                self.freeze.frozen(message)
                return self._frozen_tag(now)
            case SyncChanged() | StoreState():
                if not self._has(message.stream):
                    return []  # of a configuration that is over
                return [*self._changed(message), *self._review(now)]
            case Deleted():
                gone, self._deleting = self._deleting is not None, None
                return [Publish(VpgDeleted(self.name))] if gone else []
            case Forced(vra=vra):
                self._forcing.pop(vra, None)
                return []
            case Listed():
                self.newest, self._oldest, self._left = message.taken, message.oldest_taken, message.count
                self._withdrawn, self._limited = False, message.limited
                self._unlisted = {id_: c for id_, c in self._unlisted.items() if id_ > message.checkpoint}
                return [*self._rest(), *self._review(now, listed=True)]
            case Lineage(_, generation):
                if generation <= self.lineage.generation:
                    return []
                self.lineage = message
                return [*self._void("fenced"), *self._tell_lineage(self.vras), *self._review(now)]
            case Withdrawn():
                self.newest = self._oldest = self._left = None
                self._withdrawn = True
                return self._review(now)
            case _:
                raise PeerError(f"a VPG manager cannot take {message!r}", place=self.address)

    def _changed(self, message: SyncChanged | StoreState) -> list[Effect]:
        """A stream began to synchronize or is in sync again, or its store takes data, or no longer."""
        stream = message.stream
        if isinstance(message, StoreState):
            if message.ok:
                self._stores.pop(stream, None)
            else:
                self._stores[stream] = message.reason
            return []
        if message.sync is Sync.IN_SYNC:
            self._syncing.pop(stream, None)
        else:
            self._syncing[stream] = message
        self._rested = self._rested and bool(self._syncing)
        return self._rest()

    # -- checkpoints ------------------------------------------------------------------------------------------

    @property
    def asked(self) -> bool:
        """Whether somebody asked for a checkpoint that is not there yet."""
        under_way = self.attempt is not None and self.attempt.tag != UNTAGGED
        return under_way or bool(self._tags) or self.freeze.tag is not None

    def _begin(self, now: Ns, tag: Tag) -> list[Effect]:
        if self.attempt is not None or self.regions.lifecycle is Lifecycle.DELETING:
            return []
        self._count += 1
        id_ = CheckpointId(self._count)
        reason = "peer unreachable" if not self._connected else "synchronizing" if self._out_of_sync() else ""
        reason = reason or ("VM not protected" if self._configured and self._configured.unprotected else "")
        reason = reason or ("paused" if self.paused or self._resting else "")
        reason = "fenced" if self.lineage.fenced else reason
        if reason:
            if tag != UNTAGGED:
                self._tags.insert(0, tag)
            return [Publish(CheckpointSkipped(self.name, id_, reason)), *(self.freeze.end() if tag.quiesce else ())]
        members = self._members()
        if tag.quiesce and not self.freeze.ready:
            return self.freeze.begin(id_, tag, members)
        self.attempt = _Attempt(id_, now if self._epoch is None else self._epoch, tag, members)
        return [
            *(Send(vra, Hold(self.name, id_, len(members) == 1)) for vra in members),
            Arm(DEADLINE, Ns(self.tweaks.hold_budget)),
        ]

    def _next_tag(self, now: Ns) -> list[Effect]:
        if self.freeze.tag is not None:
            return self._frozen_tag(now)
        if self.attempt is not None or not self._tags or self._epoch == 0:
            return []
        return self._begin(now, self._tags.pop(0))

    def _frozen_tag(self, now: Ns) -> list[Effect]:
        """The checkpoint of the tag whose guests are frozen, if there is nothing more to wait for."""
        if self.attempt is not None or not self.freeze.ready or self.freeze.tag is None:
            return []
        return self._begin(now, self.freeze.tag)

    def _held(self, now: Ns, message: Held) -> list[Effect]:
        attempt = self.attempt
        if attempt is None or attempt.id != message.checkpoint:
            return []
        attempt.held.add(message.vra)
        attempt.cut.update(message.cut)
        attempt.frozen.update(message.frozen)
        if len(attempt.held) < len(attempt.vras):
            return []
        if len(attempt.vras) == 1:
            return self._seal(now, attempt)
        return [Send(vra, Release(self.name, attempt.id)) for vra in attempt.vras]

    def _released(self, now: Ns, message: Released) -> list[Effect]:
        attempt = self.attempt
        if attempt is None or attempt.id != message.checkpoint:
            return []
        attempt.released.add(message.vra)
        return self._seal(now, attempt) if len(attempt.released) == len(attempt.vras) else []

    def _seal(self, now: Ns, attempt: _Attempt) -> list[Effect]:
        self.attempt, self._skipped = None, ""
        self._owed = self._epoch is None or self._epoch > attempt.taken
        cut = {stream: attempt.cut[stream] for stream in sorted(attempt.cut)}
        quiesced = tuple(sorted(attempt.frozen)) if attempt.tag.quiesce else ()
        generation = self.lineage.generation
        checkpoint = Checkpoint(self.name, attempt.id, attempt.taken, cut, attempt.tag.name, quiesced, generation)
        self._unlisted[attempt.id] = checkpoint
        fact = CheckpointSealed(self.name, attempt.id, attempt.taken, attempt.tag.name)
        thawed = self.freeze.end() if attempt.tag.quiesce else []
        return [Publish(fact), Send(self.catalog, Sealed(checkpoint)), *thawed, *self._next_tag(now)]

    def _void(self, reason: str) -> list[Effect]:
        attempt = self.attempt
        if attempt is None:
            return []
        self.attempt, self._skipped = None, reason
        if attempt.tag != UNTAGGED:
            self._tags.insert(0, self.freeze.again(attempt.tag))
        thawed = self.freeze.end() if attempt.tag.quiesce else []
        vras = attempt.vras if len(attempt.vras) > 1 else ()
        releases = [Send(vra, Release(self.name, attempt.id)) for vra in vras]
        return [Publish(CheckpointSkipped(self.name, attempt.id, reason)), *releases, *thawed]

    # -- configuration ----------------------------------------------------------------------------------------

    def _reconfigured(self, event: Reconfigured) -> list[Effect]:
        if event.version <= self.version:
            return []
        self._configured = event
        old, ids = self.vras, {spec.id for spec in event.streams}
        self.vras = list(dict.fromkeys(spec.id.source for spec in event.streams))
        self._syncing = {stream: told for stream, told in self._syncing.items() if stream in ids}
        self._stores = {stream: reason for stream, reason in self._stores.items() if stream in ids}
        self._forcing = {vra: wish for vra, wish in self._forcing.items() if vra in self.vras}
        if event.retention is not None:
            self.history = event.retention.history
        told = self._tell_configuration(dict.fromkeys([*old, *self.vras]))
        return [*self._void("configuration"), *told, *self._tell_members(), *self._tell_lineage(self.vras),
                *self._tell_pause(self.vras)]  # fmt: skip

    def _has(self, stream: StreamId) -> bool:
        return self._configured is None or any(spec.id == stream for spec in self._configured.streams)

    def _delete(self, now: Ns, *, keep_disks: bool) -> list[Effect]:
        """Nothing is captured any more, and the recovery site is told until it answers."""
        if self.regions.lifecycle is Lifecycle.DELETING:
            return []
        self._deleting = keep_disks
        self.regions = replace(self.regions, lifecycle=Lifecycle.DELETING)
        ended = self._reconfigured(Reconfigured(self.version + 1, (), {}))
        state = StateChanged(self.name, self.regions, self.cause)
        return [*ended, Publish(state), *self._tell_deletion(), *self._review(now)]

    def _tell_deletion(self) -> list[Effect]:
        return [] if self._deleting is None else [Send(self.catalog, Delete(self.name, self._deleting))]

    @property
    def version(self) -> int:
        """Of the configuration."""
        return 1 if self._configured is None else self._configured.version

    def _tell_configuration(self, vras: Iterable[Address]) -> list[Effect]:
        known = self._configured
        if known is None:
            return []
        word = Configure(self.name, known.version, known.streams, known.starts)
        return [Send(vra, word) for vra in vras]

    def _tell_members(self) -> list[Effect]:
        known = self._configured
        if known is None:
            return []
        return [Send(self.catalog, Members(self.name, tuple(s.id for s in known.streams), known.retention))]

    def _joining(self, told: SyncChanged) -> bool:
        """Whether this is a stream that was added: checkpoints go on without it until it is in sync."""
        return told.sync is Sync.INITIAL and self.regions.lifecycle is not Lifecycle.CREATING

    def _out_of_sync(self) -> bool:
        """Whether a stream that checkpoints must have is out of sync."""
        return any(not self._joining(told) for told in self._syncing.values())

    def _members(self) -> tuple[Address, ...]:
        """The VRAs with streams that checkpoints have."""
        if self._configured is None:
            return tuple(self.vras)
        joining = {stream for stream, told in self._syncing.items() if self._joining(told)}
        return tuple(dict.fromkeys(s.id.source for s in self._configured.streams if s.id not in joining))

    # -- generations ------------------------------------------------------------------------------------------

    def _tell_lineage(self, vras: Iterable[Address]) -> list[Effect]:
        return [Send(vra, self.lineage) for vra in vras] if self.lineage.generation > 1 else []

    # -- pause ------------------------------------------------------------------------------------------------

    def _tell_pause(self, vras: Iterable[Address]) -> list[Effect]:
        return [Send(vra, Pause(self.name, self.paused or self._resting)) for vra in vras]

    def _rest(self) -> list[Effect]:
        """Pause a sync that might use up the history, once and for a while."""
        few = self._left is not None and self._left <= self.tweaks.pause_checkpoints
        if not few or not self._syncing or self._rested or not self.tweaks.replication_pause:
            return []
        self._resting = self._rested = True
        return [*self._tell_pause(self.vras), Arm(REST, Ns(self.tweaks.replication_pause))]

    # -- state ------------------------------------------------------------------------------------------------

    def _review(self, now: Ns, *, listed: bool = False) -> list[Effect]:
        """Derive the regions anew; publish them when they changed."""
        worst = max(self._syncing.values(), key=lambda told: GRAVITY[told.sync]) if self._syncing else None
        lifecycle = self._lifecycle(worst)
        if lifecycle is not self.regions.lifecycle:
            self._since = now
        regions = Regions(
            lifecycle, self.regions.phase, self._sync(worst), self._peer(), self._health(), self._rpo_ok(now),
            self._history_ok(now),
        )  # fmt: skip
        cause = self._cause(worst, regions)
        if cause or (listed and regions.rpo_ok and regions.history_ok):
            pass
        else:
            cause = self.cause  # the problem is over, its consequence is not yet
        if regions == self.regions and cause == self.cause:
            return []
        self.regions, self.cause = regions, cause
        return [Publish(StateChanged(self.name, regions, cause))]

    def _lifecycle(self, worst: SyncChanged | None) -> Lifecycle:
        """A new VPG is protected from when it is in sync and has a checkpoint (T2)."""
        if self.regions.lifecycle is Lifecycle.CREATING and worst is None and self.newest is not None:
            return Lifecycle.PROTECTING
        return self.regions.lifecycle

    def _sync(self, worst: SyncChanged | None) -> Sync:
        if self.paused:
            return Sync.PAUSED_USER
        if self._missing():
            return Sync.PAUSED_MISSING
        if self._resting or (worst is not None and worst.waiting and self._connected):
            return Sync.PAUSED_SYSTEM
        if worst is not None and self._joining(worst):
            return Sync.VOLUME_INITIAL
        return Sync.IN_SYNC if worst is None else worst.sync

    def _missing(self) -> bool:
        return bool(self._syncing) and any(told.missing for told in self._syncing.values())

    def _health(self) -> Health:
        known = self._configured
        if known is not None and known.unprotected:
            return Health.VM_NOT_PROTECTED
        if known is not None and not known.streams:
            return Health.EMPTY
        return Health.JOURNAL_STORAGE if self._stores else Health.OK

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
        if self._withdrawn:
            return False
        oldest = self._since if self._oldest is None else self._oldest
        filling = self._since is None or self.tweaks.history_while_filling
        can_be = self.history if filling or self._since is None else min(self.history, now - self._since)
        return oldest is not None and now - oldest >= can_be - self.tweaks.age_interval - 2 * self.interval

    def _cause(self, worst: SyncChanged | None, regions: Regions) -> str:
        if self.lineage.fenced:
            return "recovered at the other site"
        if self._stores:
            return Trigger.RECOVERY_STORAGE_ERROR.value
        if regions.health is not Health.OK:
            return Trigger.CONFIGURATION.value
        if self.paused or self._resting:
            return "paused by the user" if self.paused else "paused to keep the history"
        if regions.sync is Sync.PAUSED_MISSING:
            return Trigger.MISSING_VOLUME.value
        if worst is not None:
            return worst.trigger.value
        if not self._connected:
            return Trigger.COMMUNICATION.value
        if self._skipped and not self.cause:
            return "checkpoints voided"
        if not regions.rpo_ok and not self.cause:
            return Trigger.NETWORK_CONGESTION.value
        if not regions.history_ok and not self.cause:
            return "journal limit" if self._limited else "history not full yet"
        return ""
