"""Watch: looks at a world for what no machine publishes, and folds facts and looks into alerts.

It looks at everything once in `interval`, and at the places of a VPG whenever a machine says that something of it is
wrong or right again, so that most alerts are raised and cleared when it happens. Looking changes nothing.
"""

from collections.abc import Iterable
from typing import Any

from drsim.core.alert_table import (
    Entity,
    JournalState,
    Kind,
    LinkState,
    SiteState,
    State,
    StoreState,
    Terms,
    VraState,
)  # fmt: skip
from drsim.core.alerts import Alerts, Change, vra_of
from drsim.core.facts import (
    CheckpointListed,
    CheckpointSealed,
    CheckpointSkipped,
    CheckpointsRetired,
    EpochDue,
    Fact,
    GenerationChanged,
    OperationEnded,
    RecoverySideChanged,
    StateChanged,
    StepBegun,
    StepEnded,
    StoreChanged,
    VpgDeleted,
)  # fmt: skip
from drsim.core.names import StreamId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.units import SECOND, Ns
from drsim.sim.layout import VpgLayout
from drsim.sim.world import World
from drsim.spec.faults import DatastoreFull, DatastoreGone, DatastoreHung, DatastoreSlow, Fault

LOOK = 10 * SECOND, 60 * SECOND  # at least and at most between two looks at everything; our choice


def link_name(vpg: VpgLayout) -> str:
    """The connection of a VPG's sites."""
    return f"{vpg.source} – {vpg.target}"


def terms(vpg: VpgLayout) -> Terms:
    """What is promised for a VPG."""
    journal = vpg.spec.journal
    return Terms(vpg.spec.rpo_alert, journal.history, link_name(vpg), journal.fail_safe or None)


class Watch:
    """The alerts of one run: `changes` in the order of time, and what stands (`alerts.raised`)."""

    def __init__(self, world: World, interval: int) -> None:
        self.world = world
        tweaks = world.model.tweaks
        self.alerts = Alerts({vpg.name: terms(vpg) for vpg in world.layout.vpgs})
        self.changes: list[Change] = []
        self._margin = tweaks.limit_margin
        self._behind = 0 if world.per_write else world.model.run.slice  # what a slice brings at once is no latency
        self._interval = min(max(interval, LOOK[0]), LOOK[1])
        self._stalled: set[StreamId] = set()
        self._suspects: dict[str, None] = {}  # VPGs to be looked at, in order
        self._hosts = {f"{host.site}/{name}": world.layout.vras(name) for name, host in world.model.hosts.items()}
        self._store_faults: list[Any] = [f for f in world.model.faults if hasattr(f, "datastore")]
        self._died: dict[str, int] = {}
        world.clock.call(0, self._look)

    def publish(self, now: Ns, fact: Fact) -> None:
        """A machine has published a fact."""
        self.changes += self.alerts.fact(now, fact)
        match fact:
            case CheckpointSealed() | CheckpointListed() | CheckpointsRetired(reason="history"):
                pass  # all is as it was
            case CheckpointsRetired(vpg):
                self._journals(now, self.world.layout.vpg_of[vpg])  # one is full; aging makes room at once
            case (
                CheckpointSkipped(vpg) | StateChanged(vpg) | RecoverySideChanged(vpg) | GenerationChanged(vpg)
                | VpgDeleted(vpg)
            ):  # fmt: skip
                self._look_soon(vpg)
            case StepBegun() | StepEnded() | OperationEnded() | EpochDue():
                pass
            case _:
                self._look_soon(fact.stream.vpg)

    def promised(self, vpg: VpgLayout) -> None:
        """Something else is promised for a VPG now."""
        self.alerts.terms[vpg.name] = terms(vpg)

    def finish(self, now: int) -> None:
        """The run is over."""
        self._everything(Ns(now))

    def _look_soon(self, vpg: str) -> None:
        """When this instant is over: a fact comes in the middle of a step, and what goes down says its last words."""
        if not self._suspects:
            self.world.clock.call(0, self._look_again)
        self._suspects[vpg] = None

    def _look_again(self) -> None:
        suspects, self._suspects = self._suspects, {}
        for vpg in suspects:
            layout, now = self.world.layout.vpg_of[vpg], self.world.clock.now
            sites = dict.fromkeys((layout.source, layout.target))
            self._look_at(now, self._places(layout), sites, [layout.spec.recovery.datastore])
            self._writing(now, layout)

    def _places(self, vpg: VpgLayout) -> list[str]:
        return sorted({vra_of(end).name for s in vpg.streams for end in (s.id.source, s.id.target)})

    def _look(self) -> None:
        self._everything(self.world.clock.now)
        self.world.clock.call(self._interval, self._look)

    def _everything(self, now: Ns) -> None:
        world = self.world
        self.changes += self.alerts.tick(now)
        self._lost_sites(now)
        self._look_at(now, self._hosts, world.model.sites, world.stores)
        for vpg in world.layout.vpgs:
            self._writing(now, vpg)
            if vpg.target not in world.dead_sites:
                self._journals(now, vpg)

    def _see(self, now: Ns, entity: Entity, state: State) -> None:
        self.changes += self.alerts.see(now, entity, state)

    def _look_at(self, now: Ns, places: Iterable[str], sites: Iterable[str], stores: Iterable[str]) -> None:
        """VRAs, sites and datastores, but for those on lost sites."""
        dead = self.world.dead_sites
        for place in places:
            if place.partition("/")[0] not in dead:
                self._see(now, Entity(Kind.VRA, place), self._vra(place))
        for site in sites:
            if site not in dead:
                off = frozenset(p for p in self._hosts if p.startswith(f"{site}/") and self._off(p))
                self._see(now, Entity(Kind.SITE, site), SiteState(off))
        for name in stores:
            if self.world.stores[name].spec.site not in dead:
                self._see(now, Entity(Kind.DATASTORE, name), self._store(now, name))

    def _writing(self, now: Ns, vpg: VpgLayout) -> None:
        """Whether the journals of a VPG can be written."""
        for receiver in self.world.receivers(vpg.name):
            stream = receiver.spec.id
            stalled = stream.target not in self.world.down and receiver.stalled
            if stalled != (stream in self._stalled):
                self._stalled ^= {stream}
                said = StoreChanged(stream, not stalled, self._why(now, vpg.spec.recovery.datastore))
                self.changes += self.alerts.fact(now, said)

    def _store(self, now: Ns, name: str) -> StoreState:
        store = self.world.stores[name]
        latency = float(store.spec.latency + max(0, store.server.free_at - now - self._behind))
        full, gone = store.used >= store.capacity, False
        for fault in self._in_force(now, name):
            match fault:
                case DatastoreFull():
                    full = True
                case DatastoreGone():
                    gone = True
                case DatastoreSlow():
                    latency *= fault.latency
                case DatastoreHung():
                    latency = max(latency, now - fault.at)  # the oldest I/O has taken that long
        return StoreState(store.used, store.capacity, full, gone, int(latency))

    def _in_force(self, now: Ns, store: str) -> list[Fault]:
        """The faults of a datastore."""
        return [f for f in self._store_faults if f.datastore == store and f.at <= now < f.at + f.lasts]

    def _why(self, now: Ns, store: str) -> str:
        """Why a store takes no data. The machines hear it and publish only that it is so."""
        used, capacity = self.world.stores[store].used, self.world.stores[store].capacity
        full = used >= capacity or any(isinstance(f, DatastoreFull) for f in self._in_force(now, store))
        return "datastore full" if full else "the store failed"

    def _off(self, place: str) -> bool:
        return not self.world.down.isdisjoint(self._hosts[place])

    def _vra(self, place: str) -> VraState:
        if self._off(place):
            return VraState(up=False)
        machine = self.world.kernel.machines.get(self._hosts[place][0])
        if not isinstance(machine, ProtectedVra):
            return VraState(up=True)  # it only recovers
        cut_off = sum(not sender.connected for sender in machine.senders.values())
        return VraState(True, cut_off, machine.used, machine.limit)

    def _journals(self, now: Ns, vpg: VpgLayout) -> None:
        limit = vpg.spec.journal.limit_bytes
        if limit is None:
            return
        for journal in self.world.journals_of(vpg.name):
            state = JournalState(journal.nbytes, limit, vpg.spec.journal.warning, self._margin)
            self._see(now, Entity(Kind.JOURNAL, self.world.layout.vm_names[journal.vm], vpg.name), state)

    def _lost_sites(self, now: Ns) -> None:
        """What was on a lost site cannot be seen any more; the other site misses its peer after a while."""
        for site in self.world.dead_sites:
            if site not in self._died:
                self._died[site] = now
                gone = [Entity(Kind.VRA, p) for p in self._hosts if p.startswith(f"{site}/")]
                gone += [Entity(Kind.DATASTORE, n) for n, s in self.world.stores.items() if s.spec.site == site]
                for entity in [*gone, Entity(Kind.SITE, site)]:
                    self.changes += self.alerts.gone(now, entity)
            if now - self._died[site] >= self.world.model.tweaks.peer_timeout:
                lost = [v for v in self.world.layout.vpgs if v.source == site]
                for link in {link_name(v) for v in lost}:
                    state = LinkState(frozenset(v.name for v in lost if link_name(v) == link))
                    self._see(now, Entity(Kind.LINK, link), state)
