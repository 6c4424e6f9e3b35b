"""Run: a fluid simulation of a model: what it supports, the loop over blocks of ticks, and its figures.

What it leaves out: everything that happens to machines and stores. VRAs and managers do not fail, datastores are never
slow or full, VMs and disks stay. Of recovery it knows what becomes of protection: failovers and moves that commit, and
protection the other way (`legs.py`). A model that asks for more is refused, because a figure that leaves out what was
asked for would mislead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.core.units import SECOND
from drsim.sim.fluid.compare import Scan
from drsim.sim.fluid.flow import SENDING, Dirty, Flow, Step, Sync
from drsim.sim.fluid.legs import Leg, legs_of
from drsim.sim.fluid.load import Float, Load, parts
from drsim.sim.fluid.network import Network
from drsim.sim.fluid.record import Journals, Rpo, Sample
from drsim.sim.layout import Layout, VpgLayout
from drsim.sim.run import load_traces
from drsim.sim.streams import Streams
from drsim.spec.faults import (
    DataPlaneDown,
    GuestBurst,
    GuestCrash,
    GuestPause,
    LinkDegraded,
    LinkDown,
    LinkFlapping,
    LinkPartition,
    SiteLoss,
)
from drsim.spec.model import Model
from drsim.spec.operations import Failover, Move

KNOWN = (
    LinkDown, LinkPartition, DataPlaneDown, LinkDegraded, LinkFlapping, GuestBurst, GuestPause, GuestCrash, SiteLoss,
)  # fmt: skip
CELLS = 4_000_000  # ticks x VMs of a block
SAMPLES = 1500
JOURNAL_BIN = 60 * SECOND
Progress = Callable[[int, int], None]
Int64 = NDArray[np.int64]
Written = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class FluidRun:
    """One finished fluid run. end: ns reached. sent, synced: wire bytes of each direction. peak: of each VRA's buffer.

    kept: journal bytes at the end of each of its bins, float32[bins, VMs]; reach: seconds back, of each VM. short:
    bool[bins, VMs], when a journal's limit leaves less than its history. raw: bytes that each VM wrote; size: of its
    writes in the mean. listing: ns in which each VPG got checkpoints. legs: what `network` has as VPGs, in that order.
    syncs: all that ended.
    """

    model: Model
    seed: int
    end: int
    legs: list[Leg]
    network: Network
    rpo: Rpo
    samples: list[Sample]
    sent: Float
    synced: Float
    peak: Float
    journals: Journals
    kept: Written
    reach: Float
    short: NDArray[np.bool_]
    raw: Float
    size: Float
    listing: Float
    syncs: list[Sync]


def refuse(model: Model) -> None:
    """Raise FileError for what a fluid run cannot show."""
    hint = "run it with --fidelity slice"
    for n, fault in enumerate(model.faults):
        if not isinstance(fault, KNOWN):
            raise FileError(f"fidelity fluid does not know the fault {fault.kind!r}", place=f"faults.{n}", hint=hint)
        if isinstance(fault, LinkDegraded) and (fault.loss is not None or fault.latency is not None):
            text = "fidelity fluid knows a link's bandwidth only, not its loss or latency"
            raise FileError(text, place=f"faults.{n}", hint=hint)
    lost = [fault for fault in model.faults if isinstance(fault, SiteLoss)]
    for n, operation in enumerate(model.operations):
        if not isinstance(operation, Failover | Move) or lost:
            text = f"fidelity fluid does not know the operation {operation.kind!r}"
            raise FileError(text + (" with a site that is lost" if lost else ""), place=f"operations.{n}", hint=hint)
        if operation.vms:
            raise FileError("fidelity fluid fails over whole VPGs", place=f"operations.{n}.vms", hint=hint)
    vpgs = model.expand()[1] if model.operations else {}
    for n, operation in enumerate(model.operations):
        for vm in vpgs[operation.vpg].vms if isinstance(operation, Failover | Move) else ():
            if sum(vm in vpg.vms for vpg in vpgs.values()) > 1:
                text = f"fidelity fluid fails over VMs that are in one VPG, and {vm!r} is in several"
                raise FileError(text, place=f"operations.{n}", hint=hint)


def simulate_fluid(model: Model, *, seed: int | None = None, progress: Progress | None = None) -> FluidRun:
    """Run a model as rates. Raises FileError for a model with what `fluid` leaves out."""
    refuse(model)
    return _Simulation(model, model.run.seed if seed is None else seed).run(progress)


class _Simulation:
    def __init__(self, model: Model, seed: int) -> None:
        self.model, self.seed = model, seed
        self.tick, self.layout = model.run.tick, Layout(model)
        lost = [f.at for f in model.faults if isinstance(f, SiteLoss)]
        self.until = min([model.run.until, *lost]) // self.tick * self.tick
        traces = load_traces(model)
        protected = [self.layout.vm_names[vm] for vpg in self.layout.vpgs for spec in vpg.streams for vm in spec.vms]
        specs = {name: self.layout.vms[name] for name in protected}
        groups = {each: group for group, names in model.members().items() for each in names}
        self.load = Load(specs, self.tick, Streams(seed), traces, model.faults, groups)
        rates = dict(zip(specs, self.load.rates.tolist(), strict=True))
        self.legs = legs_of(model, self.layout, rates, until=self.until, seed=seed)
        self.net = net = Network.of(model, self.layout, self.legs)
        self.usual, self.size = self.load.rates[net.load_of], self.load.sizes[net.load_of]
        region = model.tweaks.region_bytes
        vpgs = [leg.vpg for leg in self.legs]
        latency = np.array([self._latency(vpg) for vpg in vpgs], np.int64)
        found = [parts(vm, region, traces.get(vm.workload)) for vm in specs.values()]
        self._parts = [found[n] for n in net.load_of]
        self.flow = Flow(
            net, self._parts, self.usual, tick=self.tick, latency=latency, tweaks=model.tweaks,
            scan=Scan(model, self.legs),
            outages=[_outages(d.times.tolist(), d.rates.tolist(), self.until) for d in net.directions],
        )  # fmt: skip
        self._lag = np.zeros(len(vpgs))  # of legs that are over, s: what had not arrived
        self.active = np.zeros(len(vpgs), bool)
        self.flow.idle(np.ones(len(net.vpg_of_stream), bool))
        self._turns = sorted({time for leg in self.legs for time in (leg.begins, leg.ends)})
        self.interval = np.array([vpg.spec.checkpoint_interval for vpg in vpgs]) / SECOND
        self.latency = latency / SECOND
        self.rpo = Rpo(self.interval, np.array([vpg.spec.rpo_alert for vpg in vpgs]) / SECOND, self.latency)
        self.journals = Journals(len(net.vms), self.until, max(self.tick, JOURNAL_BIN))
        self.samples: list[Sample] = []
        self.sent, self.synced = np.zeros(len(net.directions)), np.zeros(len(net.directions))
        self.peak = np.zeros(len(net.vras))
        self.raw = np.zeros(len(net.vms))
        self.frozen = np.zeros(len(vpgs))
        self._sample_every = max(self.tick, self.until // SAMPLES // self.tick * self.tick)
        usual = np.add.reduceat(self.usual, net.first_vm)
        self._share = self.usual / np.maximum(usual, 1e-9)[net.stream_of_vm]

    def _latency(self, of: VpgLayout) -> int:
        """On the way in health, ns: the link, and the recovery datastore (as `figures.worst_rpo`)."""
        link = self.model.link_between(of.source, of.target)
        assert link is not None
        spec = self.model.links[link]
        return spec.latency + spec.jitter + self.model.datastores[of.spec.recovery.datastore].latency

    # -- legs -----------------------------------------------------------------------------------------------------

    def _turn(self, now: int) -> None:
        """Legs that are over at this tick, and those that begin."""
        of_stream = self.net.vpg_of_stream
        for n, leg in enumerate(self.legs):
            if leg.ends == now and leg.before is not None:
                self._lag[n] = (now - self.flow.known[n]) / SECOND if leg.before.lost else 0.0
                self.active[n] = False
                self.flow.idle(of_stream == n)
                self.rpo.over(n, now)
        for n, leg in enumerate(self.legs):
            if leg.begins == now and now < self.until:
                self.active[n] = True
                self.flow.known[n] = now
                self._begin(n, leg, of_stream == n)

    def _begin(self, n: int, leg: Leg, which: NDArray[np.bool_]) -> None:
        """A leg's streams begin."""
        flow = self.flow
        flow.mode[which] = SENDING
        if leg.after is not None:
            apart = self._lag[n - 1] + (leg.begins - leg.after.service) / SECOND
            differing = Dirty(self.net, self._parts)
            differing.write(self.usual * apart, which)
            flow.compare(which, differing.nbytes / self.net.whole)
        elif leg.vpg.spec.sync == "initial":
            flow.copy(which)
        elif leg.vpg.spec.sync == "preseeded":
            flow.compare(which, np.full(len(which), leg.vpg.spec.preseed_differs))

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, progress: Progress | None) -> FluidRun:
        ticks = self.until // self.tick
        size = int(max(16, min(8192, CELLS // max(1, len(self.net.vms)))))
        for first in range(0, ticks, size):
            count = min(size, ticks - first)
            self._block(first, self._written(first, count))
            if progress is not None:
                progress((first + count) * self.tick, self.until)
        self.rpo.finish(self.until)
        of_vm = self.net.vpg_of_stream[self.net.stream_of_vm]
        specs = [self.legs[k].vpg.spec.journal for k in of_vm]
        spans = [(self.legs[k].begins, self.legs[k].ends) for k in of_vm]
        history = np.array([spec.history for spec in specs], np.int64) + self.model.tweaks.age_interval
        limit = np.array([np.inf if spec.limit_bytes is None else spec.limit_bytes for spec in specs])
        kept, reach, short = self.journals.kept(history, limit * (1 - self.model.tweaks.limit_margin), of_vm, spans)
        lasted = np.array([leg.ends - leg.begins for leg in self.legs])
        return FluidRun(
            self.model, self.seed, self.until, self.legs, self.net, self.rpo, self.samples, self.sent, self.synced,
            self.peak, self.journals, kept, reach, short, self.raw, self.size, lasted - self.frozen, self.flow.syncs,
        )  # fmt: skip

    def _written(self, first: int, count: int) -> Written:
        """float32[ticks, VMs]: what the VMs of each leg write, from tick `first` on; nothing outside of it."""
        of_load = self.load.block(first, count)
        if len(self.net.vms) == of_load.shape[1]:  # one column each, in the same order
            written = of_load
        else:
            written = np.ascontiguousarray(of_load[:, self.net.load_of])
        for n, leg in enumerate(self.legs):
            begins, ends = leg.begins // self.tick - first, leg.ends // self.tick - first
            if begins > 0 or ends < count:
                mine = self.net.vpg_of_stream[self.net.stream_of_vm] == n
                written[: max(0, begins), mine] = 0
                written[max(0, ends) :, mine] = 0
        return written

    def _block(self, first: int, written: Written) -> None:
        net, ticks = self.net, len(written)
        edges = np.arange(first, first + ticks + 1, dtype=np.int64) * self.tick
        capacities = np.array([direction.bytes_of(edges) for direction in net.directions])
        wire = np.add.reduceat(written * net.squeeze.astype(np.float32), net.first_vm, axis=1)
        self.raw += written.sum(0, dtype=float)
        busy = self.flow.busy(first, wire, capacities)
        turns = [time // self.tick - first for time in self._turns]
        turns = [turn for turn in turns if 0 <= turn < ticks]
        busy[turns] = True
        following = np.append(np.flatnonzero(busy), ticks)
        at = 0
        while at < ticks:
            begin = at
            if at in turns:
                self._turn(int(edges[at]))
            calm = int(following[np.searchsorted(following, at)]) - at if self.flow.calm else 0
            if calm:
                at += calm
                self._calm(first + begin, written[begin:at], wire[begin:at])
                continue
            known = self.flow.known
            steps: list[Step] = []
            while at < ticks and not (steps and (self.flow.calm or at in turns)):
                steps.append(self.flow.step(int(edges[at]), written[at].astype(float), capacities[:, at]))
                at += 1
            self._stepped(first + begin, known, steps, written[begin:at])

    def _calm(self, first: int, written: Written, wire: Float) -> None:
        """Ticks in which everything arrived at once."""
        begin, end = first * self.tick, (first + len(written)) * self.tick
        self.rpo.calm(begin, end, self.active)
        self.journals.add(begin, self.tick, written)
        data = self.sent + self._by_direction(wire)
        middle = np.where(self.active, (self.latency + self.interval / 2) * SECOND, -1).astype(np.int64)
        for time in range(-(-(begin + 1) // self._sample_every) * self._sample_every, end + 1, self._sample_every):
            sent = data[(time - begin) // self.tick - 1]
            self.samples.append(Sample(time, middle, np.zeros(len(self.peak)), sent, self.synced))
        self.sent = data[-1]
        self.flow.rest(end)

    def _stepped(self, first: int, known: Int64, steps: list[Step], written: Written) -> None:
        """Ticks that were stepped through; `known` is that of before."""
        net, seconds = self.net, self.tick / SECOND
        ends = (first + 1 + np.arange(len(steps), dtype=np.int64)) * self.tick
        after = np.array([step.known for step in steps])
        frozen = np.array([step.frozen for step in steps])
        there = (ends[:, None] - after) / SECOND
        here = (ends[:, None] - self.tick - np.concatenate((known[None], after[:-1]))) / SECOND
        # Without checkpoints the newest one is half an interval older than the state in the mean; else RPO is a tooth.
        half, middle = self.interval / 2, (here + there) / 2
        self.rpo.add(seconds, here + half, there + half, frozen)
        self.rpo.add(seconds, middle, middle + self.interval, ~frozen & self.active)
        self.rpo.judge(ends, np.where(self.active, there + half, 0))
        self.frozen += frozen.sum(0) * self.tick
        if frozen.any():
            self.journals.stands(ends, after)
        sent, synced = np.array([step.sent for step in steps]), np.array([step.synced for step in steps])
        total = np.add.reduceat(written, net.first_vm, axis=1)[:, net.stream_of_vm]
        share = np.where(total > 0, written / np.maximum(total, 1e-9), self._share)
        self.journals.add(first * self.tick, self.tick, (sent + synced)[:, net.stream_of_vm] * share)
        buffers = np.array([np.bincount(net.vra_of_stream, step.queued, len(self.peak)) for step in steps])
        self.peak = np.maximum(self.peak, buffers.max(0))
        digests = np.array([step.digests for step in steps])
        data, sync = map(self._by_direction, (sent * self.flow.squeeze, synced * self.flow.squeeze + digests))
        for n in np.flatnonzero(ends % self._sample_every == 0).tolist():
            rpo = np.where(self.active, (there[n] + half) * SECOND, -1).astype(np.int64)
            self.samples.append(Sample(int(ends[n]), rpo, buffers[n], self.sent + data[n], self.synced + sync[n]))
        self.sent, self.synced = self.sent + data[-1], self.synced + sync[-1]

    def _by_direction(self, wire: Float) -> Float:
        """Running totals of each direction: float64[ticks, directions]."""
        return np.array([np.cumsum(wire[:, d.streams].sum(1)) for d in self.net.directions]).T


def _outages(times: list[int], rates: list[float], until: int) -> list[tuple[int, int]]:
    """When a link carries nothing."""
    edges = [*times, until]
    found: list[tuple[int, int]] = []
    for (begin, end), rate in zip(pairwise(edges), rates, strict=True):
        if rate == 0:
            if found and found[-1][1] == begin:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
    return found
