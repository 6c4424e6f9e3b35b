"""Faults: what each kind of fault on a model's timeline does to the world, when it begins and when it ends."""

from typing import assert_never

from drsim.core.events import Connected, Lost
from drsim.core.names import Address
from drsim.sim.link import Direction
from drsim.sim.record import Recorder
from drsim.sim.world import World
from drsim.spec.faults import (
    DatastoreFull,
    Fault,
    LinkDegraded,
    LinkDown,
    LinkFlapping,
    SiteLoss,
    VraRestart,
)  # fmt: skip


def describe(fault: Fault) -> str:
    """The fault's fields in words, for the events table."""
    said = fault.model_dump(mode="json", exclude={"kind", "at"}, exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in said.items())


class Injector:
    """Carries out a timeline of faults. Overlapping outages of one link end when the last of them does."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self.world, self.recorder = world, recorder
        self._outages: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._versions: dict[str, int] = {}

    def schedule(self, faults: tuple[Fault, ...]) -> None:
        """Put every fault on the clock."""
        for fault in faults:
            self.world.clock.call_at(fault.at, lambda fault=fault: self._begin(fault))  # type: ignore[misc]

    def _begin(self, fault: Fault) -> None:
        later = self.world.clock.call
        self.recorder.note(self.world.clock.now, fault.kind, describe(fault))
        match fault:
            case LinkDown():
                self._down(fault.link)
                later(fault.lasts, lambda: self._up(fault.link))
            case LinkFlapping():
                self._flap(fault, self.world.clock.now + fault.lasts)
            case LinkDegraded():
                for direction in self._directions(fault.link):
                    self._degrade(direction, fault)
            case VraRestart():
                for vra in self.world.layout.vras(fault.host):
                    self._restart(vra, fault.lasts)
            case DatastoreFull():
                self.world.stores[fault.datastore].full = True
                later(fault.lasts, lambda: setattr(self.world.stores[fault.datastore], "full", False))
            case SiteLoss():
                self._lose(fault.site)
            case _:
                assert_never(fault)

    def _directions(self, link: str) -> list[Direction]:
        return [direction for (name, _), direction in self.world.links.items() if name == link]

    # -- links ------------------------------------------------------------------------------------------------

    def _down(self, link: str) -> None:
        self._outages[link] = self._outages.get(link, 0) + 1
        if self._outages[link] > 1:
            return
        for direction in self._directions(link):
            direction.set_up(False)
        version = self._versions[link] = self._versions.get(link, 0) + 1
        self.world.clock.call(self.world.model.tweaks.peer_timeout, lambda: self._give_up(link, version))

    def _up(self, link: str) -> None:
        self._outages[link] -= 1
        if self._outages[link]:
            return
        self._versions[link] += 1
        directions = self._directions(link)
        for direction in directions:
            direction.set_up(True)
        if link in self._given_up:
            self._given_up.discard(link)
            version = self._versions[link]
            round_trip = 2 * max(direction.latency for direction in directions)
            self.world.clock.call(round_trip, lambda: self._connect(link, version))

    def _give_up(self, link: str, version: int) -> None:
        """The peer timeout has passed: connections are closed, what was on them is gone."""
        if self._versions[link] != version:
            return
        self._given_up.add(link)
        for direction in self._directions(link):
            direction.drop()
        self.world.tell(self._alive(self.world.peers(link)), Lost)

    def _connect(self, link: str, version: int) -> None:
        if self._versions[link] == version:
            self.world.tell(self._alive(self.world.peers(link)), Connected)
        else:
            self._given_up.add(link)  # it went down again before the peers had met

    def _alive(self, pairs: list[tuple[Address, Address]]) -> list[tuple[Address, Address]]:
        return [pair for pair in pairs if not self.world.down.intersection(pair)]

    def _flap(self, fault: LinkFlapping, end: int) -> None:
        clock = self.world.clock
        if clock.now >= end:
            return
        self._down(fault.link)
        clock.call(min(fault.down, end - clock.now), lambda: self._up(fault.link))
        clock.call(fault.down + fault.up, lambda: self._flap(fault, end))

    def _degrade(self, direction: Direction, fault: LinkDegraded) -> None:
        before = direction.bandwidth, direction.latency, direction.loss

        def restore() -> None:
            direction.bandwidth, direction.latency, direction.loss = before
            direction.changed()

        direction.bandwidth = fault.bandwidth if fault.bandwidth is not None else direction.bandwidth
        direction.latency = fault.latency if fault.latency is not None else direction.latency
        direction.loss = fault.loss if fault.loss is not None else direction.loss
        direction.changed()
        self.world.clock.call(fault.lasts, restore)

    # -- components -------------------------------------------------------------------------------------------

    def _restart(self, vra: Address, lasts: int) -> None:
        world = self.world
        if vra in world.down or vra not in world.kernel.machines:
            return
        world.stop(vra)
        pairs = self._pairs_of(vra)
        self._close(vra)
        world.tell(pairs, Lost)
        world.clock.call(lasts, lambda: self._started(vra))

    def _close(self, vra: Address) -> None:
        for stream in self.world.layout.streams:
            if vra in (stream.source, stream.target):
                for direction in self.world.links.values():
                    direction.drop(stream)

    def _pairs_of(self, vra: Address) -> list[tuple[Address, Address]]:
        streams = [s for s in self.world.layout.streams if vra in (s.source, s.target)]
        vpgs = [self.world.layout.vpg_of[s.vpg] for s in streams]
        managers = [
            (vra, v.manager) if s.source == vra else (v.catalog, vra) for s, v in zip(streams, vpgs, strict=True)
        ]
        return list(dict.fromkeys([*((s.source, s.target) for s in streams), *sorted(managers)]))

    def _started(self, vra: Address) -> None:
        world = self.world
        if vra.partition("/")[0] in world.dead_sites:
            return
        world.begin_life(vra)
        cut_off = [pair for link in self._given_up for pair in world.peers(link)]
        world.tell([pair for pair in self._alive(self._pairs_of(vra)) if pair not in cut_off], Connected)

    def _lose(self, site: str) -> None:
        world = self.world
        self.recorder.disaster(world.clock.now, site)
        world.lose_site(site)
        lost = [v for v in world.layout.vpgs if site in (v.source, v.target)]
        for stream in (s.id for v in lost for s in v.streams):
            for direction in world.links.values():
                direction.drop(stream)

        pairs = [pair for vpg in lost for pair in vpg.peers]
        world.clock.call(world.model.tweaks.peer_timeout, lambda: world.tell(pairs, Lost))
