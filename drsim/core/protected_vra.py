"""ProtectedVra: the machine on a protected host. Taps guest writes, shares one buffer between streams, holds guests.

Theory of operation. Each VPG with VMs on this host has one stream to each recovery VRA (`sender.py`). The VRA owns
what they share: the buffer (a share of the appliance's pool) and the holds of PROTOCOL 3.

Buffer. A write is taken while it fits. One that does not fit makes the stream that holds most fold into its bitmap
(the first of equals), which frees that stream's memory at once; the guest never waits. Nor does it for a VRA that is
too slow to hear of its writes: the tap then keeps where they went, and not what (`WritesMissed`), and their stream
folds.

Hold. On `Hold` the VRA cuts every open frame of the VPG, stops acknowledging its guests and answers `Held` with what
is captured. It lets go on `Release` and answers `Released`, or by itself when the hold budget has run out, and then
answers `Aborted`: at once, and again to a `Release` that comes late. A stream that is not in sync, or that folded
during the hold, makes the answer `Aborted` too. A VPG that lives on this VRA alone needs no hold: its own capture
order is the cut (`Hold.alone`).

After a stop in good order the VRA goes on from its bitmaps. After a crash it knows nothing: its streams find out where
they stand and what differs (`sender.py`), and of the holds of its earlier life it answers `Aborted`; the world released
their guests when that life ended.

Configuration. The manager says which streams a VPG has (`Configure`). A stream that is new here finds out where it
stands; one that is gone ends with all its memory; volumes may have left a stream, come to it, or grown. A stream that
the recovery side had nothing of joins the checkpoints when it is in sync for the first time. When a VM leaves the host
(`VmLeft`), the VRA vouches for no checkpoint of its VPG until it is configured anew or the VM is back. A stream of
which a volume is lost (`VolumeLost`) sends nothing until it is found or has left.

Freeze. On `Freeze` the VRA has the VPG's guests frozen and answers `Frozen` with the effect's answer; each later
`Held` names those that still are. It thaws them on `Thaw`; by itself when the freeze timeout has run out, when the
connection to the manager is lost, when it stops, and for a newer `Freeze` (`quiesce.py`).

Invariant: guests of a VPG are held at most for the hold budget and frozen at most for the freeze timeout, whatever
fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from drsim.core.effects import (
    Arm,
    Effect,
    FreezeGuests,
    HoldGuests,
    Publish,
    ReadDigests,
    ReadRegions,
    ReleaseGuests,
    Send,
    TapVolumes,
    ThawGuests,
    UntapVolumes,
)
from drsim.core.errors import PeerError
from drsim.core.events import (
    Connected,
    Done,
    Event,
    Failed,
    Fired,
    GuestWrote,
    Lost,
    Received,
    Started,
    Stopped,
    VmArrived,
    VmLeft,
    VolumeFound,
    VolumeLost,
    WritesMissed,
)
from drsim.core.facts import SyncDropped
from drsim.core.messages import (
    Aborted,
    Ack,
    Compared,
    Configure,
    Cut,
    Forced,
    ForceSync,
    Freeze,
    Frozen,
    Held,
    Hold,
    Lineage,
    Nack,
    Pause,
    Release,
    Released,
    Resynced,
    Standing,
    Start,
    SyncChanged,
    Thaw,
    Trigger,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, Directory, StreamId, StreamSpec, VmId
from drsim.core.sender import IN_SYNC, TRIGGER_OF, Sender
from drsim.core.status import Sync
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

Told = tuple[Sync, bool, Trigger, bool]
SETTLED: Told = (Sync.IN_SYNC, False, Trigger.NONE, False)  # what a manager is told of a stream in sync
FORCED = {
    (False, False): Sync.FORCED_DELTA, (False, True): Sync.VOLUME_DELTA, (True, False): Sync.FULL,
    (True, True): Sync.VOLUME_FULL,
}  # fmt: skip
"""The kind of a sync that was asked for: in full or not, of some volumes or not."""
NOTHING_NEW: Mapping[StreamId, Start] = {}
FIRST: Mapping[str, int] = {}


@dataclass(slots=True)
class _Hold:
    checkpoint: CheckpointId
    cut: dict[StreamId, Cut]


@dataclass(slots=True)
class _Freeze:
    number: int
    vms: tuple[VmId, ...] | None = None  # None: not known yet


class ProtectedVra:
    """The VRA of one protected host. `pool_bytes` is its whole buffer pool.

    `starts`: what it knows of the other side of each stream, if that is not the same as this one. `versions`: of the
    configuration of each VPG that is not in its first.
    """

    def __init__(
        self, address: Address, managers: Directory, streams: list[StreamSpec], *, pool_bytes: int,
        tweaks: Tweaks, starts: Mapping[StreamId, Start] = NOTHING_NEW, versions: Mapping[str, int] = FIRST,
    ) -> None:  # fmt: skip
        self.address, self.tweaks = address, tweaks
        self._managers = managers
        self.limit = int(pool_bytes * tweaks.buffer_use_protect)
        self._tail_bytes = int(pool_bytes * tweaks.sync_tail) // max(1, len(streams))
        self.senders = {
            s.id: Sender(s, tweaks, tail_bytes=self._tail_bytes, start=starts.get(s.id, Start.EQUAL)) for s in streams
        }
        self._versions = dict(versions)
        self._lineages: dict[str, Lineage] = {}  # of VPGs that are not in their first generation
        self._absent: set[VmId] = set()  # VMs that do not run here, of those that did or should
        self._holds: dict[str, _Hold] = {}
        self._freezes: dict[str, _Freeze] = {}
        self._told: dict[StreamId, Told | None] = dict.fromkeys(self.senders, SETTLED)

    @property
    def used(self) -> int:
        """Bytes of the buffer in use."""
        used = 0
        for sender in self.senders.values():
            used += sender.used
        return used

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a protected VRA cannot get."""
        match event:
            case Received():
                effects = self._received(event.message)
            case GuestWrote():
                sender, batch = self.senders[event.stream], event.batch
                effects, taken = sender.capture(batch, self.limit - self.used)
                if sender.state is IN_SYNC and taken == len(batch):
                    return effects
                effects += self._overflow(sender, event, taken)
            case WritesMissed(stream, batch):
                sender, rest = self.senders[stream], batch.rows(1, len(batch))
                effects = [*sender.missed(batch.rows(0, 1)), *self._tell(), *sender.missed(rest)]
            case Done() | Failed():
                effects = self._performed(event)
            case Fired(timer):
                effects = self._fired(timer)
            case VmLeft(vm):
                effects = self._left(vm)
            case VmArrived(vm):
                effects = self._arrived(vm)
            case VolumeLost(volume) | VolumeFound(volume):
                lost = isinstance(event, VolumeLost)
                has = [s for s in self.senders.values() if any(v.id == volume for v in s.spec.volumes)]
                effects = [e for s in has for e in (s.lost_volume if lost else s.found_volume)(volume)]
            case Lost(peer):
                theirs = [vpg for vpg in self._freezes if self._managers[vpg] == peer]
                effects = [e for vpg in theirs for e in self._thaw(vpg)]
                effects += [e for s in self._to(peer) for e in s.lost()]
            case Connected(peer):
                self._told.update((id_, None) for id_ in self.senders if self._managers[id_.vpg] == peer)
                effects = [e for s in self._to(peer) for e in s.reconnected()]
            case Stopped():
                effects = self._stop()
            case Started():
                effects = [e for s in self.senders.values() for e in s.started()]
            case _:
                raise PeerError(f"a protected VRA cannot take {event!r}", place=self.address)
        told = self._tell()
        return effects + told if told else effects

    def _performed(self, event: Done | Failed) -> list[Effect]:
        asked = event.effect
        match asked:
            case ReadRegions() | ReadDigests():
                sender = self.senders.get(asked.stream)
                return [] if sender is None else self._read(sender, asked, event)
            case FreezeGuests():
                return self._froze(asked, event.value if isinstance(event, Done) else ())  # type: ignore[arg-type]
            case _:
                raise PeerError(f"a protected VRA did not ask for {asked!r}", place=self.address)

    def _read(self, sender: Sender, asked: ReadRegions | ReadDigests, event: Done | Failed) -> list[Effect]:
        if isinstance(event, Failed):
            return sender.read_failed(asked)
        if isinstance(asked, ReadRegions):
            return sender.read(asked, event.value)  # type: ignore[arg-type]
        return sender.digested(asked, event.value)  # type: ignore[arg-type]

    def _of(self, vpg: str) -> list[Sender]:
        return [s for s in self.senders.values() if s.spec.id.vpg == vpg]

    def _to(self, peer: Address) -> list[Sender]:
        return [s for s in self.senders.values() if s.spec.id.target == peer]

    def _overflow(self, sender: Sender, event: GuestWrote, taken: int) -> list[Effect]:
        """Fold the largest stream until every row is captured or marked dirty."""
        effects: list[Effect] = []
        rest = event.batch.rows(taken, len(event.batch))
        while len(rest):
            largest = max(self.senders.values(), key=lambda s: s.used)
            victim = largest if largest.used else sender
            effects += victim.fold(TRIGGER_OF[victim.refused] if victim.refused else Trigger.NETWORK_CONGESTION)
            effects += self._tell()
            more, taken = sender.capture(rest, self.limit - self.used)
            effects += more
            rest = rest.rows(taken, len(rest))
        return effects

    def _received(self, message: object) -> list[Effect]:
        match message:
            case Ack() | Compared() | Nack() | Resynced() | Standing():
                sender = self.senders.get(message.stream)
                return [] if sender is None else self._answered(sender, message)
            case Hold():
                return self._hold(message)
            case Release():
                return self._release(message)
            case Freeze(vpg, number):
                return self._freeze(vpg, number)
            case Thaw(vpg, number):
                known = self._freezes.get(vpg)
                return self._thaw(vpg) if known is not None and known.number == number else []
            case Configure():
                return self._configure(message)
            case Lineage():
                return self._adopt(message)
            case Pause(vpg, paused):
                return [e for s in self._of(vpg) for e in s.pause(paused)]
            case ForceSync():
                return self._force(message)
            case _:
                raise PeerError(f"a protected VRA cannot take {message!r}", place=self.address)

    def _answered(self, sender: Sender, message: Ack | Nack | Resynced | Standing | Compared) -> list[Effect]:
        match message:
            case Ack():
                return sender.acknowledged(message)
            case Compared():
                return sender.compared(message)
            case Nack():
                return sender.refuse(message)
            case Resynced():
                return sender.resynced(message)
            case Standing():
                return sender.standing(message)

    def _adopt(self, lineage: Lineage) -> list[Effect]:
        """A later generation: nothing of an earlier one counts any more, whoever accepts guest writes in it."""
        self._lineages[lineage.vpg] = lineage
        senders = self._of(lineage.vpg)
        return [e for s in senders for e in s.adopt(lineage.generation, fenced=lineage.fenced)]

    def _force(self, wish: ForceSync) -> list[Effect]:
        kind = FORCED[wish.full, bool(wish.volumes)]
        effects: list[Effect] = []
        for sender in self._of(wish.vpg):
            volumes = [v.id for v in sender.spec.volumes if v.id in wish.volumes] if wish.volumes else None
            if volumes is None or volumes:
                effects += sender.distrust(kind, Trigger.FORCE_SYNC, volumes, empty=wish.full)
        return [*effects, self._answer(wish.vpg, Forced(wish.vpg, self.address))]

    def _left(self, vm: VmId) -> list[Effect]:
        """What this host has captured of a VM is not all any more: no checkpoint until the manager knows."""
        self._absent.add(vm)
        theirs = [s for s in self.senders.values() if any(v.vm == vm for v in s.spec.volumes)]
        return [e for vpg in dict.fromkeys(s.spec.id.vpg for s in theirs) for e in self._let_go(vpg, "VM left")]

    def _arrived(self, vm: VmId) -> list[Effect]:
        """A VM is back before the manager knew that it had left: what it wrote elsewhere is to be found."""
        if vm not in self._absent:
            return []
        self._absent.discard(vm)
        effects: list[Effect] = []
        for sender in self.senders.values():
            volumes = [v.id for v in sender.spec.volumes if v.vm == vm]
            if volumes:
                effects += [*sender.arrived(volumes), TapVolumes(sender.spec)]
        return effects

    def _configure(self, message: Configure) -> list[Effect]:
        """The VPG has these streams now: some may be new, some gone, some with other volumes."""
        vpg = message.vpg
        if message.version <= self._versions.get(vpg, 1):
            return []
        self._versions[vpg] = message.version
        effects: list[Effect] = []
        mine = {spec.id: spec for spec in message.streams if spec.id.source == self.address}
        for sender in self._of(vpg):
            if sender.spec.id in mine:
                effects += sender.reconfigure(mine[sender.spec.id])
            else:
                dropped = [Publish(SyncDropped(sender.spec.id))] if sender.syncing else []
                effects += [UntapVolumes(sender.spec.id), *dropped]
                del self.senders[sender.spec.id], self._told[sender.spec.id]
        for id_, spec in mine.items():
            if id_ not in self.senders:
                start, lineage = message.starts.get(id_, Start.CRASHED), self._lineages.get(vpg, Lineage(vpg))
                self.senders[id_] = Sender(
                    spec, self.tweaks, tail_bytes=self._tail_bytes, generation=lineage.generation, start=start
                )
                self.senders[id_].fenced = lineage.fenced
                self._told[id_] = SETTLED
                effects += [TapVolumes(spec), *self.senders[id_].started()]
        return effects

    def _hold(self, message: Hold) -> list[Effect]:
        vpg = message.vpg
        mine = [s for s in self._of(vpg) if not s.joining]
        if self._absent.intersection(volume.vm for s in mine for volume in s.spec.volumes):
            return [self._answer(vpg, Aborted(vpg, message.checkpoint, self.address, "VM left"))]
        if not mine:
            reason = "synchronizing" if self._of(vpg) else "configuration"
            return [self._answer(vpg, Aborted(vpg, message.checkpoint, self.address, reason))]
        effects = [e for s in mine if not s.syncing for e in s.flush()]
        if any(s.syncing for s in mine):
            return [*effects, self._answer(vpg, Aborted(vpg, message.checkpoint, self.address, "synchronizing"))]
        cut = {s.spec.id: s.cut() for s in mine}
        effects.append(HoldGuests(vpg, message.checkpoint))
        if message.alone:
            effects.append(ReleaseGuests(vpg, message.checkpoint))
        else:
            self._holds[vpg] = _Hold(message.checkpoint, cut)
            effects.append(Arm(f"hold {vpg}", Ns(self.tweaks.hold_budget)))
        return [*effects, self._answer(vpg, Held(vpg, message.checkpoint, self.address, cut, self._frozen(vpg)))]

    def _release(self, message: Release) -> list[Effect]:
        vpg, held = message.vpg, self._holds.get(message.vpg)
        if held is None or held.checkpoint != message.checkpoint:
            return [self._answer(vpg, Aborted(vpg, message.checkpoint, self.address, "hold budget"))]
        del self._holds[vpg]
        if any(s not in self.senders or self.senders[s].epoch != c.epoch for s, c in held.cut.items()):
            answer: Aborted | Released = Aborted(vpg, message.checkpoint, self.address, "synchronizing")
        else:
            answer = Released(vpg, message.checkpoint, self.address)
        return [ReleaseGuests(vpg, message.checkpoint), self._answer(vpg, answer)]

    def _let_go(self, vpg: str, reason: str) -> list[Effect]:
        held = self._holds.pop(vpg, None)
        if held is None:
            return []
        aborted = Aborted(vpg, held.checkpoint, self.address, reason)
        return [ReleaseGuests(vpg, held.checkpoint), self._answer(vpg, aborted)]

    def _freeze(self, vpg: str, number: int) -> list[Effect]:
        earlier = self._thaw(vpg)  # its end was not heard of
        self._freezes[vpg] = _Freeze(number)
        vms = sorted({volume.vm for s in self._of(vpg) for volume in s.spec.volumes} - self._absent)
        timeout = self.tweaks.freeze_timeout
        asked = FreezeGuests(vpg, number, tuple(vms), Ns(timeout // 2))
        return [*earlier, asked, Arm(f"freeze {vpg}", Ns(timeout))]

    def _froze(self, asked: FreezeGuests, vms: tuple[VmId, ...]) -> list[Effect]:
        freeze = self._freezes.get(asked.vpg)
        if freeze is None or freeze.number != asked.number:
            return []  # thawed meanwhile
        freeze.vms = vms
        return [self._answer(asked.vpg, Frozen(asked.vpg, asked.number, self.address))]

    def _frozen(self, vpg: str) -> tuple[VmId, ...]:
        """The VMs that are frozen now and of which the VPG's checkpoints have every volume here."""
        freeze = self._freezes.get(vpg)
        if freeze is None or freeze.vms is None:
            return ()
        inside = {volume.vm for s in self._of(vpg) if not s.joining for volume in s.spec.volumes}
        joining = {volume.vm for s in self._of(vpg) if s.joining for volume in s.spec.volumes}
        return tuple(vm for vm in freeze.vms if vm in inside - joining)

    def _thaw(self, vpg: str) -> list[Effect]:
        """End a freeze, if there is one; who waits for its guests need not."""
        freeze = self._freezes.pop(vpg, None)
        if freeze is None:
            return []
        unsaid = [self._answer(vpg, Frozen(vpg, freeze.number, self.address))] if freeze.vms is None else []
        return [ThawGuests(vpg, freeze.number), *unsaid]

    def _fired(self, timer: str) -> list[Effect]:
        if timer.startswith("hold "):
            return self._let_go(timer.removeprefix("hold "), "hold budget")
        if timer.startswith("freeze "):
            return self._thaw(timer.removeprefix("freeze "))
        return [e for s in self.senders.values() for e in s.fired(timer)]

    def _stop(self) -> list[Effect]:
        """Going down in good order: release the guests, keep everything in the bitmaps (the driver marks on)."""
        effects = [e for vpg in list(self._holds) for e in self._let_go(vpg, "VRA stops")]
        effects += [e for vpg in list(self._freezes) for e in self._thaw(vpg)]
        return effects + [e for s in self.senders.values() for e in s.stopped()]

    def _answer(self, vpg: str, message: Held | Released | Aborted | Frozen | SyncChanged | Forced) -> Send:
        return Send(self._managers[vpg], message)

    def _tell(self) -> list[Effect]:
        """Tell the managers which streams entered or left synchronization."""
        effects: list[Effect] = []
        for id_, sender in self.senders.items():
            told = self._told[id_]
            if sender.state is not IN_SYNC:
                state = sender.sync, sender.refused is not None, sender.trigger, bool(sender.missing)
            elif told is SETTLED:
                continue
            else:
                state = SETTLED
            if state != told:
                self._told[id_] = state
                effects.append(self._answer(id_.vpg, SyncChanged(id_, *state)))
        return effects
