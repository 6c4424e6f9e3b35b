"""The simulation world: performs the core's effects by model, and posts what comes of them.

Theory of operation. Time is SimPy's, in integer nanoseconds. Before any event reaches a protected VRA its guests are
brought up to now, so a slice is cut exactly where something happens, and the core sees the same writes before the
same event at every slice length. Only acknowledgements do not cut: they free memory, and choose nothing else.
Fidelity `write` also pulls at every single write; `slice` once a slice, and cuts frames at once, because a slice has
already collected them.

What the world models and the core does not know: LAN delay, the WAN (`link.py`), the VRA's CPU when it compresses,
datastores (`store.py`), and components that are down. A component that is down gets nothing but guest writes (the
driver below it goes on marking), its timers and running effects are gone.
"""

from array import array
from collections.abc import Callable
from typing import Protocol, assert_never

from drsim.core.catalog import Catalog
from drsim.core.effects import (
    Append,
    Arm,
    Effect,
    EffectId,
    Forget,
    HoldGuests,
    Keep,
    Promote,
    Publish,
    ReadRegions,
    ReleaseGuests,
    Send,
)  # fmt: skip
from drsim.core.errors import DrsimError
from drsim.core.events import Connected, Done, Event, Failed, Fired, GuestWrote, Lost, Received, Started, Stopped
from drsim.core.facts import Fact
from drsim.core.kernel import Kernel, Sink
from drsim.core.messages import Ack, Frame, Message, Nack, Resync, SyncDone, Where
from drsim.core.names import Address, CheckpointId, StreamId, site_of
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.units import SECOND, Ns
from drsim.sim.clock import Clock, FifoServer
from drsim.sim.guest import NONE, Amount, Tap
from drsim.sim.layout import Layout
from drsim.sim.link import Direction
from drsim.sim.store import JournalStore, Store
from drsim.sim.streams import Streams
from drsim.spec.model import Model
from drsim.spec.protect import clock as clock_time

CONTROL_BYTES = 256  # a control message with its headers


class Observer(Protocol):
    """Who wants to know what is published."""

    def publish(self, now: Ns, fact: Fact) -> None:
        """A machine published a fact."""
        ...


class World:
    """One run's machines and resources. Start it with `start`, move it with `run_until`."""

    def __init__(
        self, model: Model, layout: Layout, taps: dict[StreamId, Tap], observer: Observer, *, seed: int,
        trace: Sink | None = None, keep_frames: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.layout, self.taps, self._observer = model, layout, taps, observer
        self.per_write = model.run.fidelity == "write"
        tweaks = model.tweaks if self.per_write else model.tweaks.model_copy(update={"frame_delay": 0})
        self.clock = Clock()
        self.kernel = Kernel(max_steps=tweaks.max_steps, trace=trace)
        for address, machine in layout.machines(tweaks).items():
            self.kernel.add(address, machine)
        streams = Streams(seed)
        start = clock_time(model.run.clock)
        self.links = {
            (name, end): Direction(self.clock, link, start_of_day=start, rng=streams.rng(f"link/{name}/{n}"))
            for name, link in model.links.items()
            for n, end in enumerate(link.between)
        }
        self.stores = {name: Store(self.clock, spec) for name, spec in model.datastores.items()}
        self.journals = self._journals(keep_frames)
        self._cpus = {layout.vras(host)[0]: FifoServer() for host in model.hosts}
        self._vras = {layout.vras(host)[0]: spec.vra for host, spec in model.hosts.items()}
        self._taps_of: dict[Address, list[Tap]] = {}
        for id_, tap in taps.items():
            self._taps_of.setdefault(id_.source, []).append(tap)
        self._ratios = {id_: tuple(g.compress_to for g in tap.guests) for id_, tap in taps.items()}
        self._lan = {site: streams.rng(f"lan/{site}") for site in model.sites}
        self._routes: dict[tuple[Address, Address], Direction | None] = {}
        self._arrivals: dict[tuple[Address, Address], int] = {}
        self._ready: dict[StreamId, int] = {}
        self._timers: dict[tuple[Address, str], int] = {}
        self._lives: dict[Address, int] = dict.fromkeys(self.kernel.machines, 0)
        self._lost: set[frozenset[Address]] = set()  # connections that both ends know to be lost
        self._losses: dict[frozenset[Address], int] = {}  # how often each was lost
        self.down: set[Address] = set()
        self.dead_sites: set[str] = set()
        self.included: dict[tuple[str, CheckpointId], Amount] = {}  # truth: what each checkpoint holds of its guests
        self.holds: dict[str, array[int]] = {vpg.name: array("q") for vpg in layout.vpgs}  # lengths, ns, one a VRA
        self._held_since: dict[tuple[Address, str], int] = {}
        self.uncompressed_frames = 0

    def _journals(self, keep: bool) -> dict[StreamId, JournalStore]:
        made: dict[StreamId, JournalStore] = {}
        for vpg in self.layout.vpgs:
            store = JournalStore(
                self.stores[vpg.spec.recovery.datastore], {s.id: s.vms for s in vpg.streams}, keep=keep
            )
            made.update(dict.fromkeys((s.id for s in vpg.streams), store))
        return made

    # -- running ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Every machine starts, every guest begins to write."""
        for address in self.kernel.machines:
            self.post(address, Started())
        if self.per_write:
            for tap in self.taps.values():
                self._await_write(tap)
        else:
            self.clock.call(self.model.run.slice, self._slice)

    def run_until(self, time: int) -> None:
        """Move time; every event up to and including `time` happens."""
        self.clock.env.run(until=time + 1)

    def _slice(self) -> None:
        for vra in self._taps_of:
            self._pull(vra)
        self.clock.call(self.model.run.slice, self._slice)

    def _await_write(self, tap: Tap) -> None:
        time = tap.next_issue(self.clock.now + 3600 * SECOND)
        if time is None:
            self.clock.call(3600 * SECOND, lambda: self._await_write(tap))
        else:
            self.clock.call_at(time, lambda: self._at_write(tap))

    def _at_write(self, tap: Tap) -> None:
        if site_of(tap.spec.id.source) in self.dead_sites:
            return
        self._pull_tap(tap)
        self._await_write(tap)

    def _pull(self, vra: Address) -> None:
        for tap in self._taps_of.get(vra, ()):
            self._pull_tap(tap)

    def _pull_tap(self, tap: Tap) -> None:
        id_ = tap.spec.id
        if site_of(id_.source) in self.dead_sites:
            return
        for batch in tap.pull(self.clock.now):
            self._step(id_.source, GuestWrote(id_, batch))

    # -- events -----------------------------------------------------------------------------------------------

    def post(self, address: Address, event: Event) -> None:
        """Deliver an event to a machine, unless its component is down."""
        if address in self.down:
            return
        if not (isinstance(event, Received) and isinstance(event.message, Ack | Nack)):
            self._pull(address)
        self._step(address, event)

    def _step(self, address: Address, event: Event) -> None:
        for id_, effect in self.kernel.post(self.clock.now, address, event):
            self._perform(id_, effect)

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
            case Append(frame):
                self.journals[frame.stream].append(frame, self._answer(id_, effect))
            case Promote(stream):
                answer = self._answer(id_, effect)
                self.journals[stream].promote(effect, lambda: answer(None))
            case ReadRegions(_, batch):
                guest = self.taps[effect.stream].guests[0]
                store = self.stores[self.layout.vm(guest.vm).datastore]
                answer = self._answer(id_, effect, batch)
                store.io(batch.nbytes, len(batch), lambda: answer(None))
            case Publish(fact):
                self._observer.publish(self.clock.now, fact)
            case Keep() | Forget():
                answer = self._answer(id_, effect)
                self.clock.call(0, lambda: answer(None))
            case _:
                assert_never(effect)

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
        total = self.included.get((vpg, checkpoint), NONE)
        for tap in self._taps_of[vra]:
            if tap.spec.id.vpg == vpg:
                tap.hold(self.clock.now)
                total += tap.pulled
        self.included[vpg, checkpoint] = total
        self._held_since[vra, vpg] = self.clock.now

    def _release(self, vra: Address, vpg: str) -> None:
        for tap in self._taps_of[vra]:
            if tap.spec.id.vpg == vpg:
                tap.release()
        self.holds[vpg].append(self.clock.now - self._held_since.pop((vra, vpg)))

    @property
    def protected(self) -> dict[Address, ProtectedVra]:
        """The protecting VRAs."""
        return {a: m for a, m in self.kernel.machines.items() if isinstance(m, ProtectedVra)}

    def receiver(self, stream: StreamId) -> Receiver:
        """The receiving half of a stream."""
        machine = self.kernel.machines[stream.target]
        assert isinstance(machine, RecoveryVra)
        return machine.receivers[stream]

    def acknowledged(self, vpg: str) -> Amount:
        """Truth: what the guests of a VPG have been told is written."""
        total = NONE
        for stream in self.layout.vpg_of[vpg].streams:
            total += self.taps[stream.id].acknowledged(self.clock.now)
        return total

    # -- messages ---------------------------------------------------------------------------------------------

    def _route(self, sender: Address, to: Address) -> Direction | None:
        """The direction of the link that a message takes; None for the LAN.

        Between sites always a link; within one, what goes between protected and recovery side uses the link as well.
        """
        if (sender, to) not in self._routes:
            source, target = site_of(sender), site_of(to)
            wan = source != target or self._recovers(sender) != self._recovers(to)
            link = self.model.link_between(source, target) if wan else None
            assert (link is not None) == wan, (source, target)
            self._routes[sender, to] = None if link is None else self.links[link, source]
        return self._routes[sender, to]

    def _recovers(self, address: Address) -> bool:
        return isinstance(self.kernel.machines[address], Catalog | RecoveryVra)

    def _send(self, sender: Address, to: Address, message: Message) -> None:
        """Carry a message over its connection, if there is one; what is on its way when that is lost is gone."""
        connection = frozenset((sender, to))
        if connection in self._lost:
            return
        life, losses = self._lives[to], self._losses.get(connection, 0)

        def deliver() -> None:
            if self._lives[to] == life and self._losses.get(connection, 0) == losses:
                self.post(to, Received(sender, message))

        direction = self._route(sender, to)
        if direction is None:
            self._over_lan(sender, to, deliver)
        elif isinstance(message, Frame | Resync | SyncDone | Where):
            self._ship(direction, message, deliver)
        else:
            direction.control(CONTROL_BYTES, deliver)

    def _over_lan(self, sender: Address, to: Address, deliver: Callable[[], None]) -> None:
        site = site_of(sender)
        spec = self.model.sites[site]
        jitter = int(self._lan[site].exponential(spec.lan_jitter)) if spec.lan_jitter else 0
        arrives = max(self._arrivals.get((sender, to), 0), self.clock.now + spec.lan_latency + jitter)
        self._arrivals[sender, to] = arrives
        self.clock.call_at(arrives, deliver)

    def _ship(
        self, direction: Direction, message: Frame | Resync | SyncDone | Where, deliver: Callable[[], None]
    ) -> None:
        """Put on the wire, a frame compressed as far as the CPU keeps up; a stream's messages keep their order."""
        id_, spec = message.stream, self.layout.vpg_of[message.stream.vpg].spec
        ready, wire, kind = int(self.clock.now), float(CONTROL_BYTES), "control"
        if isinstance(message, Frame):
            kind = "sync" if message.sync else "data"
            wire = float(message.nbytes)
            if spec.compression:
                ready, wire = self._compress(message)
        ready = self._ready[id_] = max(ready, self._ready.get(id_, 0))
        life = self._lives[id_.source]

        def carry() -> None:
            if self._lives[id_.source] == life:
                direction.carry(id_, spec.priority, wire, kind, deliver)

        self.clock.call_at(ready, carry)

    def _compress(self, frame: Frame) -> tuple[int, float]:
        """When a frame is ready for the wire, and how many bytes it is then."""
        id_, now = frame.stream, int(self.clock.now)
        vra, cpu = self._vras[id_.source], self._cpus[id_.source]
        if cpu.free_at - now > vra.compress_patience:
            self.uncompressed_frames += 1
            return now, float(frame.nbytes)
        ready = cpu.serve(now, int(frame.nbytes * 8 * SECOND / (vra.compress_rate * vra.vcpus)))
        return ready, sum(size * ratio for size, ratio in zip(frame.sizes, self._ratios[id_], strict=True))

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
        self.down.add(address)
        self._lives[address] += 1

    def begin_life(self, address: Address) -> None:
        """A component is up again."""
        self.down.discard(address)
        self.post(address, Started())

    def lose_site(self, site: str) -> None:
        """Everything on a site stops, for ever."""
        self.dead_sites.add(site)
        for address in self.kernel.machines:
            if site_of(address) == site:
                self.end_life(address)
