"""Figures that follow from a model and mean write rates by arithmetic: loads, histories, buffers, drains.

Rates are bytes a second here and sizes bytes. "Raw" is what guests write and journals hold, "wire" what a link
carries after compression. Frame headers are left out; they are below one percent of full frames.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from drsim.core.units import SECOND
from drsim.sim.link import mathis_bps
from drsim.sim.store import AGE_IO, APPEND_IO
from drsim.spec.faults import (
    DataPlaneDown,
    DatastoreFull,
    DatastoreGone,
    DatastoreHung,
    DatastoreReadOnly,
    Fault,
    HostLoss,
    LinkDegraded,
    LinkDown,
    LinkFlapping,
    LinkPartition,
    SiteLoss,
    VraCrash,
    VraRestart,
)  # fmt: skip
from drsim.spec.model import Link, Model
from drsim.spec.protect import DAY, Vm, Vpg, clock
from drsim.spec.workload import Fitted, OnOff, Plain

Rates = Mapping[str, tuple[float, float]]
"""Expanded VM name to mean (writes/s, bytes/s)."""


def mathis(loss: float, latency_ns: int) -> float:
    """Bytes a second that one TCP stream reaches at a loss and a one-way latency, as the simulated link bounds it."""
    return mathis_bps(loss, 2 * latency_ns) / 8


def fill_seconds(nbytes: float, arriving: float, leaving: float) -> float:
    """Seconds until `nbytes` of buffer are full; infinite when it drains as fast (products.md 3.2, form 3)."""
    return nbytes / (arriving - leaving) if arriving > leaving else math.inf


def reached_history(limit: float | None, rate: float) -> float:
    """Seconds of history that fit in a journal limit at a constant rate (products.md 3.2, form 5)."""
    return math.inf if limit is None or rate <= 0 else limit / rate


def dirty_bytes(vm: Vm, writes: float, rate: float, seconds: float) -> float:
    """Distinct bytes written in a time: what a bitmap sync must ship (products.md 3.2, form 4).

    Uniform writes of b bytes over N places leave N b (1 - (1 - 1/N)^n) distinct bytes after n writes. An upper bound
    for on-off workloads and traces, whose writes are taken as all distinct.
    """
    disk = float(sum(volume.size for volume in vm.volumes))
    if writes <= 0:
        return 0.0
    size, count, load = rate / writes, writes * seconds, vm.workload

    def uniform(share: float, region: float) -> float:
        places = max(1.0, region / size)
        return places * size * -math.expm1(share * count * math.log1p(-1 / places)) if places > 1 else size

    match load:
        case Plain(pattern="sequential"):
            return min(float(load.working_set or disk), size * count)
        case Plain():
            return uniform(1.0, float(load.working_set or disk))
        case Fitted():
            hot = uniform(load.hot_share, float(load.hot_set))
            return min(float(load.working_set), hot + uniform(1 - load.hot_share, float(load.working_set)))
        case _:
            return min(disk, size * count)


def burst(vm: Vm, rate: float) -> tuple[float, float]:
    """(bytes/s, seconds) of a VM's worst usual burst: an on-period, or the 97.7-percentile factor of a time scale."""
    match vm.workload:
        case OnOff(on=on, off=off):
            return rate * (on + off) / on, on / SECOND
        case Fitted(bursts=bursts) if bursts:
            worst = max(bursts, key=lambda b: (math.exp(2 * b.sigma - b.sigma**2 / 2) - 1) * b.scale)
            return rate * math.exp(max(0.0, 2 * worst.sigma - worst.sigma**2 / 2)), worst.scale / SECOND
        case _:
            return rate, 0.0


@dataclass(slots=True)
class VraFigures:
    """What a host's VRA has to do. `protects` and `recovers` are raw bytes a second, `wire` what it sends."""

    protects: float = 0.0
    recovers: float = 0.0
    wire: float = 0.0
    protected_volumes: int = 0
    recovered_volumes: int = 0
    vms: list[str] = field(default_factory=list)


@dataclass(slots=True)
class StoreFigures:
    """What a datastore has to do: bytes and I/Os a second, journal bytes expected and allowed, scratch."""

    rate: float = 0.0
    iops: float = 0.0
    journals: float = 0.0
    limits: float = 0.0
    scratch: float = 0.0
    unlimited: bool = False


@dataclass(frozen=True, slots=True)
class Outage:
    """A fault that takes capacity away from a VPG: how long, and bytes a second of wire that are left."""

    index: int
    fault: Fault
    seconds: float
    left: float


class Figures:
    """A model, expanded, with what follows from its mean rates. All rates are 0 when none are given."""

    def __init__(self, model: Model, rates: Rates | None) -> None:
        self.model, self.known = model, rates is not None
        self.vms, self.vpgs = model.expand()
        given = rates or {}
        self.rates = {name: given.get(name, (0.0, 0.0)) for name in self.vms}
        self.vras = {name: VraFigures() for name in model.hosts}
        self.stores = {name: StoreFigures() for name in model.datastores}
        self.streams: dict[tuple[str, str, str], float] = {}
        self.links: dict[tuple[str, str], list[str]] = {}
        for name, vm in self.vms.items():
            writes, rate = self.rates[name]
            self.stores[vm.datastore].rate += rate
            self.stores[vm.datastore].iops += writes
        for name, vpg in self.vpgs.items():
            self.links.setdefault((self.link(vpg), self.source(vpg)), []).append(name)
            for n, vm_name in enumerate(vpg.vms):
                self._count(name, vpg, vm_name, vpg.recovery.hosts[n % len(vpg.recovery.hosts)])

    def _count(self, name: str, vpg: Vpg, vm_name: str, target: str) -> None:
        vm = self.vms[vm_name]
        host = self.host(vm_name)
        writes, rate = self.rates[vm_name]
        wire = self.vm_wire(vpg, vm_name)
        here, there = self.vras[host], self.vras[target]
        here.protects += rate
        here.wire += wire
        here.protected_volumes += len(vm.volumes)
        here.vms.append(vm_name)
        there.recovers += rate
        there.recovered_volumes += len(vm.volumes)
        stream = (name, host, target)
        self.streams[stream] = self.streams.get(stream, 0.0) + wire
        store, limit = self.stores[vpg.recovery.datastore], vpg.journal.limit_bytes
        # Appended once; when it ages, read from the journal and written to the mirror disk.
        store.rate += 3 * rate
        frames = 1000 / max(self.model.tweaks.frame_delay / 1e6, 1)
        store.iops += min(writes, frames) + rate / APPEND_IO + 2 * rate / AGE_IO
        need = rate * vpg.journal.history / SECOND
        store.journals += need if limit is None else min(need, float(limit))
        store.limits += limit or 0
        store.unlimited = store.unlimited or limit is None
        store.scratch += vpg.journal.scratch

    def host(self, vm: str) -> str:
        """The one host of an expanded VM."""
        host = self.vms[vm].host
        return host if isinstance(host, str) else host[0]

    def source(self, vpg: Vpg) -> str:
        """The protected site."""
        return self.model.hosts[self.host(vpg.vms[0])].site

    def target(self, vpg: Vpg) -> str:
        """The recovery site."""
        return self.model.hosts[vpg.recovery.hosts[0]].site

    def link(self, vpg: Vpg) -> str:
        """The link that carries a VPG."""
        link = self.model.link_between(self.source(vpg), self.target(vpg))
        assert link is not None, "a validated model has a link for every VPG"
        return link

    def vm_wire(self, vpg: Vpg, vm: str) -> float:
        """Bytes a second that a VM puts on the link."""
        return self.rates[vm][1] * (self.vms[vm].workload.compress_to if vpg.compression else 1.0)

    def stream_raw(self, stream: tuple[str, str, str]) -> float:
        """Bytes a second that the guests of a stream (VPG, host, recovery host) write."""
        vpg, host, target = stream
        hosts = self.vpgs[vpg].recovery.hosts
        return sum(
            self.rates[vm][1]
            for n, vm in enumerate(self.vpgs[vpg].vms)
            if self.host(vm) == host and hosts[n % len(hosts)] == target
        )

    def raw(self, vpg: Vpg) -> float:
        """Bytes a second that a VPG writes."""
        return sum(self.rates[vm][1] for vm in vpg.vms)

    def wire(self, vpg: Vpg) -> float:
        """Bytes a second that a VPG puts on the link."""
        return sum(self.vm_wire(vpg, vm) for vm in vpg.vms)

    def load(self, direction: tuple[str, str]) -> float:
        """Bytes a second on one direction of a link."""
        return sum(self.wire(self.vpgs[name]) for name in self.links.get(direction, ()))

    def usable(self, host: str) -> tuple[float, float]:
        """Bytes of the VRA's pool that may fill: sending, receiving (products.md 1.6: 90 % and 75 %)."""
        pool, tweaks = self.model.hosts[host].vra.pool_bytes, self.model.tweaks
        return pool * tweaks.buffer_use_protect, pool * tweaks.buffer_use_recover

    def squeeze(self, host: str) -> float:
        """Wire bytes for each byte that a VRA protects."""
        vra = self.vras[host]
        return vra.wire / vra.protects if vra.protects else 1.0

    def history(self, vpg: Vpg) -> float:
        """Seconds of history that every VM of a VPG keeps: what is asked for, or what fits its journal limit."""
        limit = vpg.journal.limit_bytes
        return min(
            vpg.journal.history / SECOND, *(reached_history(limit, self.rates[vm][1]) for vm in vpg.vms), math.inf
        )

    def worst_rpo(self, vpg: Vpg) -> float:
        """Seconds of RPO just before a checkpoint arrives, in health: interval + latency (products.md 3.2, form 1)."""
        link, tweaks = self.model.links[self.link(vpg)], self.model.tweaks
        store = self.model.datastores[vpg.recovery.datastore]
        latency = link.latency + link.jitter + tweaks.frame_delay + store.latency
        return (vpg.checkpoint_interval + latency) / SECOND

    def outages(self, vpg: Vpg) -> Iterator[Outage]:
        """Every fault that leaves a VPG less than it writes, for how long, and what is left (bytes/s of wire)."""
        name = self.link(vpg)
        for n, fault in enumerate(self.model.faults):
            if not isinstance(fault, SiteLoss) and self.touches(fault, vpg):
                left = self.left(fault, self.model.links[name])
                if left < self.load((name, self.source(vpg))):
                    yield Outage(n, fault, fault.lasts / SECOND, left)

    def touches(self, fault: Fault, vpg: Vpg) -> bool:
        """Whether a fault hinders a VPG's replication for a time."""
        match fault:
            case LinkDown() | LinkDegraded() | LinkFlapping() | LinkPartition() | DataPlaneDown():
                return fault.link == self.link(vpg)
            case VraRestart() | VraCrash() | HostLoss():
                return fault.host in {self.host(vm) for vm in vpg.vms} | set(vpg.recovery.hosts)
            case DatastoreFull() | DatastoreGone() | DatastoreReadOnly() | DatastoreHung():
                return fault.datastore == vpg.recovery.datastore
            case _:
                return False

    @staticmethod
    def left(fault: Fault, link: Link) -> float:
        """Bytes a second that a fault leaves of a link; 0 for a fault that stops replication otherwise."""
        match fault:
            case LinkDegraded(bandwidth=bandwidth):
                return (link.bandwidth if bandwidth is None else bandwidth) / 8
            case LinkFlapping(down=down, up=up):
                return link.bandwidth / 8 * up / (down + up)
            case _:
                return 0.0

    def drain(self, vpg: Vpg, outage: Outage) -> tuple[float, float]:
        """(wire bytes, seconds) to ship after an outage what the VPGs that it touches, on this link, dirtied in it.

        At the bandwidth that new writes leave; infinite seconds when they leave none (products.md 3.2, form 4).
        """
        name, source = self.link(vpg), self.source(vpg)
        dirty = 0.0
        for each in self.links[name, source]:
            other = self.vpgs[each]
            for vm in other.vms if self.touches(outage.fault, other) else ():
                share = self.vms[vm].workload.compress_to if other.compression else 1.0
                dirty += share * dirty_bytes(self.vms[vm], *self.rates[vm], outage.seconds)
        dirty = max(0.0, dirty - outage.left * outage.seconds)
        spare = self.model.links[name].bandwidth / 8 - self.load((name, source))
        return dirty, (dirty / spare if spare > 0 else math.inf)


def day(link: Link) -> list[tuple[int, int, float]]:
    """A link's day as (from, to, bytes/s), in nanoseconds since midnight, cut at the edges of its throttle windows."""
    edges = sorted({0, DAY, *(clock(edge) for t in link.throttle for edge in (t.start, t.end))})
    parts = []
    for start, end in itertools.pairwise(edges):
        limits = [t.limit for t in link.throttle if _inside(start, clock(t.start), clock(t.end))]
        parts.append((start, end, min([link.bandwidth, *limits]) / 8))
    return parts


def _inside(now: int, start: int, end: int) -> bool:
    return start <= now < end if start <= end else now >= start or now < end


def day_backlog(link: Link, load: float) -> tuple[float, float]:
    """(peak bytes, mean capacity in bytes/s) of a link's day at a constant load, the second day of two alike."""
    parts = day(link)
    capacity = sum((end - start) * rate for start, end, rate in parts) / DAY
    queue = peak = 0.0
    for start, end, rate in parts * 2:
        queue = max(0.0, queue + (load - rate) * (end - start) / SECOND)
        peak = max(peak, queue)
    return peak, capacity
