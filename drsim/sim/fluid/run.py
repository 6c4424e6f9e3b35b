"""Run: a fluid simulation of a model: what it supports, the loop over blocks of ticks, and its figures.

What it leaves out: everything that happens to machines and stores. VRAs and managers do not fail, datastores are never
slow or full, nothing is compared, VMs and disks stay, nothing is recovered. A model that asks for it is refused,
because a figure that leaves out what was asked for would mislead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.core.units import SECOND, SECTOR
from drsim.sim.fluid.flow import Flow, Step
from drsim.sim.fluid.load import Float, Load, parts
from drsim.sim.fluid.network import Network
from drsim.sim.fluid.record import Journals, Rpo, Sample
from drsim.sim.layout import Layout
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
    writes in the mean. listing: ns in which each VPG got checkpoints.
    """

    model: Model
    seed: int
    end: int
    layout: Layout
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


def refuse(model: Model) -> None:
    """Raise FileError for what a fluid run cannot show."""
    hint = "run it with --fidelity slice"
    for n, fault in enumerate(model.faults):
        if not isinstance(fault, KNOWN):
            raise FileError(f"fidelity fluid does not know the fault {fault.kind!r}", place=f"faults.{n}", hint=hint)
        if isinstance(fault, LinkDegraded) and (fault.loss is not None or fault.latency is not None):
            text = "fidelity fluid knows a link's bandwidth only, not its loss or latency"
            raise FileError(text, place=f"faults.{n}", hint=hint)
    if model.operations:
        text = f"fidelity fluid does not know the operation {model.operations[0].kind!r}"
        raise FileError(text, place="operations.0", hint=hint)
    for name, vpg in model.vpgs.items():
        if vpg.sync == "preseeded":
            raise FileError("fidelity fluid compares no disks", place=f"vpgs.{name}.sync", hint=hint)


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
        self.net = net = Network.of(model, self.layout)
        traces = load_traces(model)
        specs = {name: self.layout.vms[name] for name in net.vms}
        groups = {each: group for group, names in model.members().items() for each in names}
        self.load = Load(specs, self.tick, Streams(seed), traces, model.faults, groups)
        region = model.tweaks.region_bytes
        vpgs = self.layout.vpgs
        latency = np.array([self._latency(k) for k in range(len(vpgs))], np.int64)
        self.flow = Flow(
            net, [parts(vm, region, traces.get(vm.workload)) for vm in specs.values()], self.load.rates,
            tick=self.tick, latency=latency, timeout=model.tweaks.peer_timeout,
            frame=model.tweaks.sync_bytes,
            outages=[_outages(d.times.tolist(), d.rates.tolist(), self.until) for d in net.directions],
            initial=self._initial(),
        )  # fmt: skip
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
        usual = np.add.reduceat(self.load.rates, net.first_vm)
        self._share = self.load.rates / np.maximum(usual, 1e-9)[net.stream_of_vm]

    def _latency(self, vpg: int) -> int:
        """On the way in health, ns: the link, and the recovery datastore (as `figures.worst_rpo`)."""
        of = self.layout.vpgs[vpg]
        link = self.model.link_between(of.source, of.target)
        assert link is not None
        spec = self.model.links[link]
        return spec.latency + spec.jitter + self.model.datastores[of.spec.recovery.datastore].latency

    def _initial(self) -> Float:
        """Bytes of each stream's disks that are to be copied first."""
        found = []
        for vpg in self.layout.vpgs:
            for spec in vpg.streams:
                whole = sum(volume.sectors for volume in spec.volumes) * SECTOR
                found.append(float(whole) if vpg.spec.sync == "initial" else 0.0)
        return np.array(found)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, progress: Progress | None) -> FluidRun:
        ticks = self.until // self.tick
        size = int(max(16, min(8192, CELLS // max(1, len(self.net.vms)))))
        for first in range(0, ticks, size):
            count = min(size, ticks - first)
            self._block(first, self.load.block(first, count))
            if progress is not None:
                progress((first + count) * self.tick, self.until)
        self.rpo.finish(self.until)
        of_vm = self.net.vpg_of_stream[self.net.stream_of_vm]
        specs = [self.layout.vpgs[k].spec.journal for k in of_vm]
        history = np.array([spec.history for spec in specs], np.int64) + self.model.tweaks.age_interval
        limit = np.array([np.inf if spec.limit_bytes is None else spec.limit_bytes for spec in specs])
        kept, reach, short = self.journals.kept(history, limit * (1 - self.model.tweaks.limit_margin), of_vm)
        return FluidRun(
            self.model, self.seed, self.until, self.layout, self.net, self.rpo, self.samples, self.sent, self.synced,
            self.peak, self.journals, kept, reach, short, self.raw, self.load.sizes, self.until - self.frozen,
        )  # fmt: skip

    def _block(self, first: int, written: Written) -> None:
        net, ticks = self.net, len(written)
        edges = np.arange(first, first + ticks + 1, dtype=np.int64) * self.tick
        capacities = np.array([direction.bytes_of(edges) for direction in net.directions])
        wire = np.add.reduceat(written * net.squeeze.astype(np.float32), net.first_vm, axis=1)
        self.raw += written.sum(0, dtype=float)
        following = np.append(np.flatnonzero(self.flow.busy(first, wire, capacities)), ticks)
        at = 0
        while at < ticks:
            begin = at
            calm = int(following[np.searchsorted(following, at)]) - at if self.flow.calm else 0
            if calm:
                at += calm
                self._calm(first + begin, written[begin:at], wire[begin:at])
                continue
            known = self.flow.known
            steps: list[Step] = []
            while at < ticks and not (steps and self.flow.calm):
                steps.append(self.flow.step(int(edges[at]), written[at].astype(float), capacities[:, at]))
                at += 1
            self._stepped(first + begin, known, steps, written[begin:at])

    def _calm(self, first: int, written: Written, wire: Float) -> None:
        """Ticks in which everything arrived at once."""
        begin, end = first * self.tick, (first + len(written)) * self.tick
        self.rpo.calm(begin, end)
        self.journals.add(begin, self.tick, written)
        data = self.sent + self._by_direction(wire)
        middle = ((self.latency + self.interval / 2) * SECOND).astype(np.int64)
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
        self.rpo.add(seconds, middle, middle + self.interval, ~frozen)
        self.rpo.judge(ends, there + half)
        self.frozen += frozen.sum(0) * self.tick
        if frozen.any():
            self.journals.stands(ends, after)
        sent, synced = np.array([step.sent for step in steps]), np.array([step.synced for step in steps])
        total = np.add.reduceat(written, net.first_vm, axis=1)[:, net.stream_of_vm]
        share = np.where(total > 0, written / np.maximum(total, 1e-9), self._share)
        self.journals.add(first * self.tick, self.tick, (sent + synced)[:, net.stream_of_vm] * share)
        buffers = np.array([np.bincount(net.vra_of_stream, step.queued, len(self.peak)) for step in steps])
        self.peak = np.maximum(self.peak, buffers.max(0))
        data, sync = (self._by_direction(each * self.flow.squeeze) for each in (sent, synced))
        for n in np.flatnonzero(ends % self._sample_every == 0).tolist():
            rpo = ((there[n] + half) * SECOND).astype(np.int64)
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
