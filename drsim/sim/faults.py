"""Faults: what each kind of fault on a model's timeline does to the world, when it begins and when it ends.

    what suffers                      where it is done
    --------------------------------  ------------------------------------------------------
    a link, whole or one direction    here: it is up or down, `link.py`
    messages, effects on a store      rules that the world asks, `rules.py`
    VRAs, managers, hosts             `components.py`; who cannot reach whom, `connections.py`
    a datastore's speed and room      `store.py`
    guests                            their time, `warp.py`; nothing is left to do here
    clocks                            `clock.py`

Each fault leaves an event when it begins, and counts in `World.mattered` how often it changed something.
"""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from drsim.core.effects import Append
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.names import Address, site_of
from drsim.sim.components import Components
from drsim.sim.connections import Connections, Pair
from drsim.sim.link import Direction
from drsim.sim.record import Recorder
from drsim.sim.rules import READING, WRITING, Clogged, Failing, Late, Sluggish, Swallowed
from drsim.sim.streams import Streams
from drsim.sim.world import World
from drsim.spec.faults import (
    ClockStep,
    ControlPlaneDown,
    DataPlaneDown,
    DatastoreEnlarged,
    DatastoreFull,
    DatastoreGone,
    DatastoreHung,
    DatastoreReadOnly,
    DatastoreSlow,
    Fault,
    GuestBurst,
    GuestCrash,
    GuestPause,
    HalfOpen,
    HostLoss,
    LatencyTail,
    LinkDegraded,
    LinkDown,
    LinkFlapping,
    LinkPartition,
    ManagerCrash,
    ReadErrors,
    SiteLoss,
    VraCrash,
    VraRestart,
    VraSlow,
    VraUpgrade,
)  # fmt: skip

Ends = Sequence[str]
"""Directions of a link, by the sites that send on them."""


def describe(fault: Fault) -> str:
    """The fault's fields in words, for the events table."""
    said = fault.model_dump(mode="json", exclude={"kind", "at"}, exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in said.items())


class Injector:
    """Carries out a timeline of faults. Overlapping outages of one link end when the last of them does."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self.world, self.recorder = world, recorder
        self.connections = Connections(world)
        self.components = Components(world, self.connections)
        self._outages: dict[tuple[str, str], int] = {}  # of each direction of a link
        self._versions: dict[str, int] = {}
        self._streams = Streams(world.seed)

    def schedule(self, faults: tuple[Fault, ...]) -> None:
        """Put every fault on the clock."""
        for n, fault in enumerate(faults):
            self.world.clock.call_at(fault.at, partial(self._begin, n, fault))

    def _begin(self, number: int, fault: Fault) -> None:
        self.recorder.note(self.world.clock.now, fault.kind, describe(fault))
        match fault:
            case LinkDown() | LinkDegraded() | LinkFlapping() | LinkPartition():
                self._on_link(fault)
            case HalfOpen() | DataPlaneDown() | ControlPlaneDown() | LatencyTail():
                self._on_connections(number, fault)
            case VraRestart() | VraUpgrade() | VraCrash() | VraSlow() | ManagerCrash() | HostLoss():
                self._on_components(fault)
            case SiteLoss(site=site):
                self._lose(site)
            case DatastoreFull() | DatastoreGone() | DatastoreReadOnly() | ReadErrors():
                self._failing(number, fault)
            case DatastoreSlow(datastore=name):
                self.world.stores[name].slow(fault)
            case DatastoreHung(datastore=name):
                self.world.stores[name].hang(fault)
            case DatastoreEnlarged(datastore=name, by=by, to=to):
                store = self.world.stores[name]
                store.capacity = max(store.capacity, to) if to is not None else store.capacity + (by or 0)
            case GuestBurst() | GuestPause() | GuestCrash():
                pass  # see warp.py
            case ClockStep(site=site, by=by):
                self.world.site_clocks.step(site, self.world.clock.now, by)
            case _:
                assert_never(fault)

    # -- links ------------------------------------------------------------------------------------------------

    def _on_link(self, fault: LinkDown | LinkDegraded | LinkFlapping | LinkPartition) -> None:
        clock, ends = self.world.clock, [end for name, end in self.world.links if name == fault.link]
        if isinstance(fault, LinkPartition):
            ends = [fault.site]
        for direction in self._directions(fault.link, ends):
            direction.suffers(fault.kind)
            clock.call(fault.lasts, partial(direction.recovers, fault.kind))
            if isinstance(fault, LinkDegraded):
                direction.degrade(fault)
        match fault:
            case LinkDown() | LinkPartition():
                self._down(fault.link, ends)
                clock.call(fault.lasts, lambda: self._up(fault.link, ends))
            case LinkFlapping():
                self._flap(fault, ends, clock.now + fault.lasts)

    def _directions(self, link: str, ends: Ends) -> list[Direction]:
        return [self.world.links[link, end] for end in ends]

    def _down(self, link: str, ends: Ends) -> None:
        """Directions go down; when none was before, the silence begins after which the peers count as lost."""
        whole = not self._broken(link)
        for end in ends:
            self._outages[link, end] = self._outages.get((link, end), 0) + 1
            if self._outages[link, end] == 1:
                self.world.links[link, end].set_up(False)
        if whole:
            version = self._versions[link] = self._versions.get(link, 0) + 1
            self.world.clock.call(self.world.model.tweaks.peer_timeout, lambda: self._give_up(link, version))

    def _up(self, link: str, ends: Ends) -> None:
        for end in ends:
            self._outages[link, end] -= 1
            if not self._outages[link, end]:
                self.world.links[link, end].set_up(True)
        if not self._broken(link):
            version = self._versions[link] = self._versions[link] + 1
            reconnect = self.world.model.links[link].reconnect
            pause = self._round_trip(link) if reconnect is None else reconnect
            self.world.clock.call(pause, lambda: self._connect(link, version))

    def _broken(self, link: str) -> bool:
        return any(count for (name, _), count in self._outages.items() if name == link)

    def _round_trip(self, link: str) -> int:
        return 2 * max(direction.latency for (name, _), direction in self.world.links.items() if name == link)

    def _give_up(self, link: str, version: int) -> None:
        """The peer timeout has passed: connections are closed, what was on them is gone."""
        if self._versions[link] != version:
            return
        for (name, _), direction in self.world.links.items():
            if name == link:
                direction.drop()
        self.connections.sever(self.world.peers(link), ("link", link))

    def _connect(self, link: str, version: int) -> None:
        if self._versions[link] == version:  # it did not go down again before the peers had met
            self.connections.mend(self.world.peers(link), ("link", link))

    def _flap(self, fault: LinkFlapping, ends: Ends, end: int) -> None:
        clock = self.world.clock
        if clock.now >= end:
            return
        self._down(fault.link, ends)
        clock.call(min(fault.down, end - clock.now), lambda: self._up(fault.link, ends))
        clock.call(fault.down + fault.up, lambda: self._flap(fault, ends, end))

    # -- connections over a link ------------------------------------------------------------------------------

    def _on_connections(self, number: int, fault: HalfOpen | DataPlaneDown | ControlPlaneDown | LatencyTail) -> None:
        world, timeout = self.world, self.world.model.tweaks.peer_timeout
        pairs = world.peers(fault.link)
        control = {(vpg.manager, vpg.catalog) for vpg in world.layout.vpgs}
        match fault:
            case LatencyTail(share=share, delay=delay):
                rng = self._streams.rng(f"fault/{number}")
                world.rules.add(Late(fault.kind, pairs, share, delay, rng), fault.lasts)
            case HalfOpen():
                world.rules.add(Swallowed(fault.kind, pairs), timeout)
                self._cut(pairs, fault, timeout)
            case DataPlaneDown():
                self._clog([pair for pair in pairs if pair not in control], fault)
            case ControlPlaneDown():
                self._clog([pair for pair in pairs if pair in control], fault)

    def _clog(self, pairs: Sequence[Pair], fault: DataPlaneDown | ControlPlaneDown) -> None:
        world = self.world
        world.rules.add(Clogged(fault.kind, pairs, world.clock.now + fault.lasts), fault.lasts)
        if fault.lasts > world.model.tweaks.peer_timeout:
            self._cut(pairs, fault, fault.lasts)

    def _cut(self, pairs: Sequence[Pair], fault: HalfOpen | DataPlaneDown | ControlPlaneDown, lasts: int) -> None:
        """Connections are given up at the peer timeout, and renewed when the fault is over."""
        call, reason = self.world.clock.call, object()
        call(self.world.model.tweaks.peer_timeout, lambda: self.connections.sever(pairs, reason))
        call(lasts + self._round_trip(fault.link), lambda: self.connections.mend(pairs, reason))

    # -- components -------------------------------------------------------------------------------------------

    def _on_components(self, fault: VraRestart | VraUpgrade | VraCrash | VraSlow | ManagerCrash | HostLoss) -> None:
        world = self.world
        match fault:
            case VraSlow(host=host, delay=delay):
                world.rules.add(Sluggish(fault.kind, world.layout.vras(host), delay), fault.lasts)
            case VraUpgrade(site=site, pause=pause):
                hosts = [host for host, spec in world.model.hosts.items() if spec.site == site]
                self.components.one_after_another(
                    [world.layout.vras(host) for host in hosts], fault.lasts, pause, fault.kind
                )
            case ManagerCrash(site=site):
                managers = [address for vpg in world.layout.vpgs for address in (vpg.manager, vpg.catalog)]
                self._all_down([address for address in managers if site_of(address) == site], fault, crash=True)
            case VraRestart(host=host) | VraCrash(host=host) | HostLoss(host=host):
                if isinstance(fault, HostLoss):
                    world.lost_hosts.add(host)
                    world.clock.call(fault.lasts, lambda: world.lost_hosts.discard(host))
                self._all_down(world.layout.vras(host), fault, crash=not isinstance(fault, VraRestart))

    def _all_down(
        self, addresses: Sequence[Address], fault: VraRestart | VraCrash | ManagerCrash | HostLoss, *, crash: bool
    ) -> None:
        for address in addresses:
            noticed = fault.noticed if isinstance(fault, VraCrash) else None
            self.components.down(address, fault.lasts, fault.kind, crash=crash, noticed=noticed)

    def _lose(self, site: str) -> None:
        world = self.world
        self.recorder.disaster(world.clock.now, site)
        world.mattered["site-loss"] += world.lose_site(site)
        lost = [v for v in world.layout.vpgs if site in (v.source, v.target)]
        for stream in (s.id for v in lost for s in v.streams):
            for direction in world.links.values():
                direction.drop(stream)
        pairs = [pair for vpg in lost for pair in vpg.peers]
        world.clock.call(world.model.tweaks.peer_timeout, lambda: self.connections.sever(pairs, ("site", site)))

    # -- stores -----------------------------------------------------------------------------------------------

    def _failing(self, number: int, fault: DatastoreFull | DatastoreGone | DatastoreReadOnly | ReadErrors) -> None:
        name, rng, share = fault.datastore, None, 1.0
        effects: tuple[type, ...]
        error: DrsimError
        match fault:
            case DatastoreFull():
                effects, error = (Append,), StoreFull("datastore full")
            case DatastoreGone():
                effects, error = WRITING + READING, PlatformError("datastore gone")
            case DatastoreReadOnly():
                effects, error = WRITING, PlatformError("datastore read-only")
            case ReadErrors(share=share):
                effects, error = READING, PlatformError("read error")
                rng = self._streams.rng(f"fault/{number}")
        self.world.rules.add(Failing(fault.kind, name, effects, error, share=share, rng=rng), fault.lasts)
