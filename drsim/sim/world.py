"""The simulation world: performs the core's effects by model, and posts what comes of them.

Theory of operation. Time is SimPy's, in integer nanoseconds. Before any event reaches a protected VRA its guests are
brought up to now, so a slice is cut exactly where something happens, and the core sees the same writes before the
same event at every slice length. Only acknowledgements do not cut: they free memory, and choose nothing else.
Fidelity `write` also pulls at every single write; `slice` once a slice, and cuts frames at once, because a slice has
already collected them.

What the world models and the core does not know: the network (`wire.py`, `link.py`), datastores (`store.py`), and
components that are down. A component that is down gets nothing but guest writes (the driver below it goes on marking),
its timers and running effects are gone.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Protocol, assert_never

from drsim.core.catalog import Catalog
from drsim.core.effects import (
    Append,
    Arm,
    Capture,
    Discard,
    Effect,
    EffectId,
    Forget,
    FreezeGuests,
    HoldGuests,
    Keep,
    Perform,
    Promote,
    Publish,
    ReadDigests,
    ReadRegions,
    ReleaseGuests,
    Send,
    TapVolumes,
    ThawGuests,
    UntapVolumes,
)  # fmt: skip
from drsim.core.errors import DrsimError, PlatformError
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
    TagAsked,
)
from drsim.core.facts import CheckpointListed, CheckpointSealed, CheckpointsRetired, Fact, SyncEnded, SyncStarted
from drsim.core.journal import Journal, Stored
from drsim.core.kernel import Kernel, Sink
from drsim.core.machine import Machine
from drsim.core.membership import Membership
from drsim.core.messages import Ack, Checkpoint, ForceSync, Message, Nack
from drsim.core.names import Address, CheckpointId, StreamId, site_of
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.sender import Sender
from drsim.core.status import Lifecycle
from drsim.core.units import SECOND, SECTOR, Ns
from drsim.core.vpg import Vpg
from drsim.sim.clock import Clock, SiteClocks
from drsim.sim.differences import Differences, Membered
from drsim.sim.guest import Writer
from drsim.sim.layout import Earlier, Layout
from drsim.sim.placement import Places
from drsim.sim.quiesce import Agents
from drsim.sim.recovery import Recoveries
from drsim.sim.rules import Rules, StoreEffect
from drsim.sim.store import JournalStore, Store
from drsim.sim.streams import Streams
from drsim.sim.tap import NONE, Amount, Tap
from drsim.sim.wire import Wire
from drsim.spec.faults import HostLoss, VraCrash
from drsim.spec.model import Model
from drsim.spec.operations import RECOVERIES
from drsim.spec.protect import Vpg as VpgSpec

NOBODY: Mapping[Membered, Tap] = {}


class Observer(Protocol):
    """Who wants to know what is published."""

    def publish(self, now: Ns, fact: Fact) -> None:
        """A machine published a fact."""
        ...


class World:
    """One run's machines and resources. Start it with `start`, move it with `run_until`."""

    def __init__(
        self, model: Model, layout: Layout, taps: dict[StreamId, Tap], observer: Observer, *, seed: int,
        trace: Sink | None = None, keep_frames: bool = False, spares: Mapping[Membered, Tap] = NOBODY,
    ) -> None:  # fmt: skip
        self.model, self.layout, self.taps, self._observer = model, layout, taps, observer
        self.seed = seed
        self.per_write = model.run.fidelity == "write"
        self._tweaks = tweaks = model.tweaks if self.per_write else model.tweaks.model_copy(update={"frame_delay": 0})
        self.clock = Clock()
        self.kernel = Kernel(max_steps=tweaks.max_steps, trace=trace)
        for address, machine in layout.machines(tweaks).items():
            self.kernel.add(address, machine)
        self.streams = streams = Streams(seed)
        self.mattered: Counter[str] = Counter()
        """How often faults of each kind changed something: messages, I/Os, writes, machines."""
        self.rules = Rules(self.clock, self.mattered)
        self.site_clocks = SiteClocks({name: site.clock_ahead for name, site in model.sites.items()})
        self.wire = Wire(self.clock, layout, streams, self.mattered)
        self.links = self.wire.links
        self.differences = Differences(tweaks.region_bytes)
        for vpg in layout.vpgs:
            if vpg.spec.sync == "preseeded":
                for spec in vpg.streams:
                    self.differences.preseed(spec.id, vpg.spec.preseed_differs)
        self.stores = {name: Store(self.clock, spec, self.mattered) for name, spec in model.datastores.items()}
        self.journals = self._journals(keep_frames)
        self._awaited: dict[Tap, int] = {}  # how often the next write of a tap was looked for anew
        self.taps_of: dict[Address, list[Tap]] = {}
        for id_, tap in taps.items():
            self.taps_of.setdefault(id_.source, []).append(tap)
        self.places = Places(self, spares)
        self.recoveries = Recoveries(self)
        self.remembers = any(isinstance(operation, RECOVERIES) for operation in model.operations)
        """Whether what older checkpoints hold is still asked for."""
        self.joined = {id_ for id_, spec in layout.streams.items() if id_.part == 1}  # streams that were in sync
        self._timers: dict[tuple[Address, str], int] = {}
        self._lives: dict[Address, int] = dict.fromkeys(self.kernel.machines, 0)
        self._dying: set[Address] = set()  # crashed and still down: what they gave to a store may yet land
        self._kept: dict[str, dict[CheckpointId, Checkpoint]] = {vpg.name: {} for vpg in layout.vpgs}  # durable
        self._lost: set[frozenset[Address]] = set()  # connections that both ends know to be lost
        self._losses: dict[frozenset[Address], int] = {}  # how often each was lost
        self.down: set[Address] = set()
        self.dead_sites: set[str] = set()
        self.lost_hosts: set[str] = set()
        self.last: dict[str, Amount] = {}  # what was acknowledged to the guests of VPGs whose site is lost
        self.included: dict[tuple[str, CheckpointId], Amount] = {}  # truth: what each checkpoint holds of its guests
        self.holds: dict[str, array[int]] = {vpg.name: array("q") for vpg in layout.vpgs}  # lengths, ns, one a VRA
        self._held_since: dict[tuple[Address, str], int] = {}
        self.agents = Agents(self.clock, layout, self.places.taps_of, self.places.vra, streams)

    def _journals(self, keep: bool) -> dict[StreamId, JournalStore]:
        made: dict[StreamId, JournalStore] = {}
        remember = bool(self.model.operations)
        remember = remember or any(isinstance(fault, VraCrash | HostLoss) for fault in self.model.faults)
        for vpg in self.layout.vpgs:
            store = JournalStore(
                self.stores[vpg.spec.recovery.datastore], {s.id: s.vms for s in vpg.streams}, keep=keep,
                remember=remember,
            )  # fmt: skip
            made.update(dict.fromkeys((s.id for s in vpg.streams), store))
        return made

    # -- running ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Every machine starts, every guest begins to write."""
        for address in self.kernel.machines:
            self.post(address, Started())
        for vpg in self.layout.vpgs:
            if vpg.spec.application_consistent is not None:
                self._quiesce_later(vpg.manager, vpg.spec.application_consistent.every)
        if self.per_write:
            for tap in self.taps.values():
                self.await_write(tap)
        self.clock.call(self.model.run.slice, self._slice)

    def _quiesce_later(self, manager: Address, every: int, number: int = 1) -> None:
        """Ask for checkpoints with applications at rest; not for another one while one is asked for."""

        def ask() -> None:
            machine = self.kernel.machines[manager]
            assert isinstance(machine, Vpg)
            if not machine.asked and self.layout.vpg_of[machine.name].deleting is None:
                self.post(manager, TagAsked(f"application consistent {number}", quiesce=True))
            self._quiesce_later(manager, every, number + 1)

        self.clock.call(every, ask)

    def run_until(self, time: int) -> None:
        """Move time; every event up to and including `time` happens."""
        self.clock.env.run(until=time + 1)

    def _slice(self) -> None:
        for vra in () if self.per_write else self.taps_of:
            self.pull(vra)
        self.places.pull()
        self.clock.call(self.model.run.slice, self._slice)

    def await_write(self, tap: Tap) -> None:
        """Pull a tap's next write when it is issued; anew, because its VMs have changed."""
        if self.per_write:
            self._awaited[tap] = self._awaited.get(tap, 0) + 1
            self._await_next(tap, self._awaited[tap])

    def _await_next(self, tap: Tap, version: int) -> None:
        time = tap.next_issue(self.clock.now + 3600 * SECOND)
        if time is None:
            self.clock.call(3600 * SECOND, lambda: self._at_write(tap, version))
        else:
            self.clock.call_at(time, lambda: self._at_write(tap, version))

    def _at_write(self, tap: Tap, version: int) -> None:
        if self._awaited.get(tap) != version or site_of(tap.spec.id.source) in self.dead_sites:
            return
        self._pull_tap(tap)
        self._await_next(tap, version)

    def pull(self, vra: Address) -> None:
        """Bring a VRA's guests up to now."""
        for tap in self.taps_of.get(vra, ()):
            self._pull_tap(tap)

    def _pull_tap(self, tap: Tap) -> None:
        id_ = tap.spec.id
        if site_of(id_.source) in self.dead_sites:
            return
        for batch in tap.pull(self.clock.now):
            self.differences.wrote(id_, batch)
            self._step(id_.source, GuestWrote(id_, batch))

    def apart(self, a: Address, b: Address) -> bool:
        """Whether two machines know that they cannot reach each other."""
        return frozenset((a, b)) in self._lost

    def add(self, address: Address, machine: Machine) -> None:
        """A machine more: a recovery operation."""
        self.kernel.add(address, machine)
        self._lives[address] = 0

    # -- events -----------------------------------------------------------------------------------------------

    def post(self, address: Address, event: Event) -> None:
        """Deliver an event to a machine, unless its component is down."""
        if address in self.down:
            return
        message = event.message if isinstance(event, Received) else None
        if not isinstance(message, Ack | Nack):
            self.pull(address)
        if isinstance(message, ForceSync):
            for sender in self.protected[address].senders.values():
                if sender.spec.id.vpg == message.vpg:
                    self.differences.note(sender.spec, sender)
        self._step(address, event)

    def _step(self, address: Address, event: Event) -> None:
        now = self.clock.now
        if self.site_clocks.differ:
            now = Ns(now + self.site_clocks.ahead(site_of(address)))
        for id_, effect in self.kernel.post(now, address, event):
            if self.rules.active and isinstance(effect, StoreEffect):
                self._ask_rules(id_, effect)
            else:
                self._perform(id_, effect)

    def _ask_rules(self, id_: EffectId, effect: StoreEffect) -> None:
        """Perform an effect on a store, or fail it, as the faults of the moment say."""
        here, answer, wanted = id_.address, self._answer(id_, effect), self._wanted(id_.address)
        store = self._store_of(here, effect)
        self.rules.effect(
            here, store, effect,
            lambda: self._perform(id_, effect) if wanted() else None,
            lambda error: self.stores[store].io(0, 0, lambda: answer(error)),
        )  # fmt: skip

    def _store_of(self, here: Address, effect: StoreEffect) -> str:
        """The datastore that an effect works on: the guests' at the source, the journals' otherwise."""
        match effect:
            case Append(frame):
                return self._recovery_store(frame.stream)
            case ReadRegions(stream, _) | ReadDigests(stream, _, _) if here == stream.source:
                return self.layout.vm(self.layout.streams[stream].vms[0]).datastore
            case _:
                return self._recovery_store(effect.stream)

    # -- effects ----------------------------------------------------------------------------------------------

    def _perform(self, id_: EffectId, effect: Effect) -> None:
        here = id_.address
        match effect:
            case Send(to, message):
                self._send(here, to, message)
            case Arm(timer, delay):
                self._arm(here, timer, delay)
            case HoldGuests(vpg, checkpoint):
                self._hold(here, vpg, checkpoint)
            case ReleaseGuests(vpg, _):
                self._release(here, vpg)
            case FreezeGuests():
                self.agents.freeze(here, effect, lambda vms: self._answer(id_, effect, vms)(None))
            case ThawGuests(vpg, number):
                self.agents.thaw((here, vpg, number))
            case Append(frame):
                self.journals[frame.stream].append(frame, self._answer(id_, effect), self._wanted(here, dying=True))
            case Promote(stream):
                answer = self._answer(id_, effect)
                self.journals[stream].promote(effect, lambda: answer(None), self._wanted(here))
            case ReadRegions(_, batch) if self.places.missing.intersection(batch.volume.tolist()):
                self._missing(id_, effect)
            case ReadRegions(_, batch):
                vm = self.layout.streams[effect.stream].vms[0]
                store = self.stores[self.layout.vm(vm).datastore]
                answer = self._answer(id_, effect, batch)
                store.io(batch.nbytes, len(batch), lambda: answer(None))
            case ReadDigests(stream, _, extent) if here == stream.source and extent.volume in self.places.missing:
                self._missing(id_, effect)
            case ReadDigests(stream, _, extent):
                source = here == stream.source
                digests = self.differences.digests(stream, extent, source=source)
                name = self.layout.vm(extent.vm).datastore if source else self._recovery_store(stream)
                answer = self._answer(id_, effect, digests)
                self.stores[name].scan(extent.sectors * SECTOR, lambda: answer(None))
            case Publish(fact):
                self._compare(fact)
                self.recoveries.publish(fact)
                self._observer.publish(self.clock.now, self._true(fact) if self.site_clocks.differ else fact)
            case Perform():
                self.recoveries.perform(id_, effect)
            case TapVolumes(spec):
                self.places.tap(spec)
            case Capture():
                pass  # content costs nothing here
            case UntapVolumes(stream):
                self.places.untap(stream)
            case Discard(stream):
                answer = self._answer(id_, effect)
                self.journals[stream].discard(effect, lambda: answer(None), self._wanted(here))
            case Keep(checkpoint):
                self._kept[checkpoint.vpg][checkpoint.id] = checkpoint
                self.clock.call(0, partial(self._answer(id_, effect), None))
            case Forget(vpg, before):
                kept = self._kept[vpg]
                for gone in list(takewhile(lambda id_: before is None or id_ < before, kept)):
                    del kept[gone]
                self.clock.call(0, partial(self._answer(id_, effect), None))
            case _:
                assert_never(effect)

    def _missing(self, id_: EffectId, effect: Effect) -> None:
        answer = self._answer(id_, effect)
        self.clock.call(0, lambda: answer(PlatformError("a volume is missing")))

    def _recovery_store(self, stream: StreamId) -> str:
        return self.layout.vpg_of[stream.vpg].spec.recovery.datastore

    def _compare(self, fact: Fact) -> None:
        """From when a stream is out of sync until it is in sync again, what it lacks is noted."""
        match fact:
            case SyncStarted(stream):
                sender = self.sender(stream)
                self.differences.note(sender.spec, sender)
            case SyncEnded(stream):
                self.joined.add(stream)
                self.differences.settled(stream)

    def _true(self, fact: Fact) -> Fact:
        """A fact with true times for those that the protected site's clock showed."""
        clocks = self.site_clocks
        match fact:
            case CheckpointSealed(vpg, _, shown, _) | CheckpointListed(vpg, _, shown, _):
                site = self.layout.vpg_of[vpg].source
                self.mattered["clock-step"] += isinstance(fact, CheckpointSealed) and clocks.stepped(site)
                return replace(fact, taken=Ns(clocks.true(site, shown)))
            case CheckpointsRetired(vpg, _, int(shown), _):
                return replace(fact, oldest_taken=Ns(clocks.true(self.layout.vpg_of[vpg].source, shown)))
            case _:
                return fact

    def _wanted(self, address: Address, *, dying: bool = False) -> Callable[[], bool]:
        """Whether an effect is still to be performed when its turn has come: its machine has not ended since.

        `dying`: also when it crashed and has not come back, because the store had it already.
        """
        life = self._lives[address]
        return lambda: (
            self._lives[address] == life or (dying and address in self._dying and self._lives[address] == life + 1)
        )

    def _answer(self, id_: EffectId, effect: Effect, value: object = None) -> Callable[[DrsimError | None], None]:
        """A call that answers the effect, unless its machine has restarted since."""
        life = self._lives[id_.address]

        def answer(error: DrsimError | None) -> None:
            if self._lives[id_.address] == life:
                self.post(id_.address, Failed(id_, effect, error) if error else Done(id_, effect, value))

        return answer

    def _arm(self, address: Address, timer: str, delay: int) -> None:
        version = self._timers[address, timer] = self._timers.get((address, timer), 0) + 1
        life = self._lives[address]

        def fire() -> None:
            if self._timers[address, timer] == version and self._lives[address] == life:
                self.post(address, Fired(timer))

        self.clock.call(delay, fire)

    def _hold(self, vra: Address, vpg: str, checkpoint: CheckpointId) -> None:
        total = self.included.get((vpg, checkpoint), self.places.past(vpg))
        for tap in self.taps_of[vra]:
            if tap.spec.id.vpg == vpg:
                tap.hold(self.clock.now)
                total += tap.pulled if tap.feeds and not self.sender(tap.spec.id).joining else NONE
        self.included[vpg, checkpoint] = total
        self._held_since[vra, vpg] = self.clock.now

    def _release(self, vra: Address, vpg: str) -> None:
        for tap in self.taps_of[vra]:
            if tap.spec.id.vpg == vpg:
                tap.release()
        self.holds[vpg].append(self.clock.now - self._held_since.pop((vra, vpg)))

    @property
    def protected(self) -> dict[Address, ProtectedVra]:
        """The protecting VRAs."""
        return {a: m for a, m in self.kernel.machines.items() if isinstance(m, ProtectedVra)}

    def sender(self, stream: StreamId) -> Sender:
        """The sending half of a stream."""
        machine = self.kernel.machines[stream.source]
        assert isinstance(machine, ProtectedVra)
        return machine.senders[stream]

    def receiver(self, stream: StreamId) -> Receiver:
        """The receiving half of a stream."""
        machine = self.kernel.machines[stream.target]
        assert isinstance(machine, RecoveryVra)
        return machine.receivers[stream]

    def senders(self, vpg: str) -> list[Sender]:
        """The sending halves that a VPG has at present; VRAs that were not told yet have older ones."""
        machines = self.protected.values()
        return [sender for m in machines for id_, sender in m.senders.items() if id_.vpg == vpg]

    def receivers(self, vpg: str) -> list[Receiver]:
        """The receiving halves that a VPG has at present, those of earlier streams too."""
        machines = [m for m in self.kernel.machines.values() if isinstance(m, RecoveryVra)]
        return [receiver for m in machines for id_, receiver in m.receivers.items() if id_.vpg == vpg]

    def journals_of(self, vpg: str) -> list[Journal]:
        """The journals of a VPG's VMs, those too that have left and are in checkpoints still."""
        return [journal for receiver in self.receivers(vpg) for _, journal in receiver.owned]

    @property
    def writers(self) -> list[Writer]:
        """All guests."""
        taps = (*self.taps.values(), *self.places.loose.values())
        return list(dict.fromkeys(feed.writer for tap in taps for feed in tap.feeds))

    def acknowledged(self, vpg: str) -> Amount:
        """Truth: what the guests of a VPG have been told is written."""
        total = self.places.past(vpg)
        for tap in self.places.taps_in[vpg]:
            total += tap.acknowledged(self.clock.now)
        return total

    # -- messages ---------------------------------------------------------------------------------------------

    def _send(self, sender: Address, to: Address, message: Message) -> None:
        """Carry a message over its connection, if there is one; what is on its way when that is lost is gone."""
        connection = frozenset((sender, to))
        if connection in self._lost or sender in self.down:
            return
        life, losses = self._lives[to], self._losses.get(connection, 0)
        alive = self._wanted(sender)

        def deliver() -> None:
            if self._lives[to] == life and self._losses.get(connection, 0) == losses:
                self.post(to, Received(sender, message))

        if self.rules.active:
            self.rules.message(sender, to, message, lambda: self.wire.carry(sender, to, message, deliver, alive))
        else:
            self.wire.carry(sender, to, message, deliver, alive)

    # -- configuration ----------------------------------------------------------------------------------------

    def configure(self, vpg: str, members: Membership, spec: VpgSpec | None = None) -> None:
        """A VPG consists of something else from now on; its manager has not been told yet."""
        known = set(self.layout.streams)
        store = self.journals[self.layout.vpg_of[vpg].ever[0]]
        self.layout.configure(vpg, members, spec)
        for stream in members.streams:
            if stream.id not in known:
                self.journals[stream.id] = store
                store.open(stream.id, stream.vms, stream.follows)

    # -- faults -----------------------------------------------------------------------------------------------

    def peers(self, link: str) -> list[tuple[Address, Address]]:
        """The connections over a link: protected end, recovery end."""
        ends = sorted(self.model.links[link].between)
        crossing = [vpg for vpg in self.layout.vpgs if sorted((vpg.source, vpg.target)) == ends]
        return list(dict.fromkeys(pair for vpg in crossing for pair in vpg.peers))

    def tell(self, pairs: list[tuple[Address, Address]], event: type[Lost] | type[Connected]) -> None:
        """Connections are lost, or can be used again; both ends hear of it."""
        for near, far in pairs:
            connection = frozenset((near, far))
            if event is Lost:
                self._lost.add(connection)
                self._losses[connection] = self._losses.get(connection, 0) + 1
            else:
                self._lost.discard(connection)
            self.post(near, event(far))
            self.post(far, event(near))

    def stop(self, address: Address) -> None:
        """A component goes down in good order: it says its last words, then its life ends."""
        self.post(address, Stopped())
        self.end_life(address)

    def end_life(self, address: Address) -> None:
        """A component is gone: nothing reaches it, and nothing it was doing comes back."""
        self.agents.bury(address)
        self.down.add(address)
        self._lives[address] += 1
        for vra, vpg in [held for held in self._held_since if held[0] == address]:
            self._release(vra, vpg)

    def crash(self, address: Address) -> None:
        """A component dies with its memory. A recovery VRA is built again when it comes back, the others at once:

        what guests write meanwhile becomes dirty in the memory of a VRA that knows nothing else.
        """
        self.end_life(address)
        self._dying.add(address)
        if not isinstance(self.kernel.machines[address], RecoveryVra):
            self.rebuild(address)

    def rebuild(self, address: Address) -> None:
        """A machine is built again, from what is durable of it."""
        if any(vpg.members.version > 1 for vpg in self.layout.vpgs):
            self.pull(address)
        old = self.kernel.machines[address]
        earlier = Earlier(self._lives[address])
        match old:
            case ProtectedVra():
                for sender in old.senders.values():
                    self.differences.note(sender.spec, sender)
                earlier = replace(earlier, joining=frozenset(self.layout.streams.keys() - self.joined))
            case RecoveryVra():
                earlier = replace(earlier, stored=self._stored(s for s in self.layout.streams if s.target == address))
            case Catalog():
                vpg = self.layout.vpg_of[old.vpg]
                left = {} if vpg.deleting is None else self._stored(vpg.ever)
                earlier = replace(earlier, kept=tuple(self._kept[old.vpg].values()), stored=left)
            case Vpg():
                creating = old.regions.lifecycle is Lifecycle.CREATING
                earlier = replace(earlier, paused=old.paused, creating=creating)
        if isinstance(old, ProtectedVra):
            self.places.leave_ended(address)
        self.kernel.replace(address, self.layout.build(address, self._tweaks, earlier))
        if isinstance(old, ProtectedVra):
            self.places.tap_again(address)

    def _stored(self, streams: Iterable[StreamId]) -> dict[StreamId, Stored]:
        """Of those that have journals."""
        return {s: self.journals[s].stored(s) for s in streams if self.journals[s].files[s].exists}

    def begin_life(self, address: Address) -> None:
        """A component is up again."""
        self.down.discard(address)
        self._dying.discard(address)
        self.post(address, Started())
        self.places.heard(address)

    def lose_site(self, site: str) -> int:
        """Everything on a site stops, for ever: so many machines."""
        self.last.update({vpg.name: self.acknowledged(vpg.name) for vpg in self.layout.vpgs if vpg.source == site})
        self.dead_sites.add(site)
        lost = [address for address in self.kernel.machines if site_of(address) == site]
        for address in lost:
            self.end_life(address)
        return len(lost)
