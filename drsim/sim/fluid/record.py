"""Record: figures of a fluid run, folded as it goes: RPO as a histogram, missed service levels, journals, samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drsim.core.units import SECOND

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
LOWEST, STEP, BINS = 1e-3, 1.01, 2400
"""Bins of RPO in seconds: from 1 ms, each one per cent wider than the one before, to some months."""
POINTS, GOLDEN = 4, 0.6180339887
"""Places at which RPO within a checkpoint interval is put into the histogram, and how far they move on each tick."""


@dataclass(slots=True)
class Sample:
    """The state at one instant: RPO of VPGs in ns (-1: of a leg that is not there), bytes in VRAs' buffers, wire bytes

    of each direction so far.
    """

    time: int
    rpo: Int64
    buffers: Float
    data: Float
    sync: Float


@dataclass(slots=True)
class Rpo:
    """RPO of some VPGs over time. `missed`: of each VPG the spans (ns) in which its level was missed."""

    interval: Float  # seconds, of each VPG
    alert: Float
    latency: Float
    counts: Float = field(init=False)
    highest: Float = field(init=False)
    total: Float = field(init=False)
    seconds: Float = field(init=False)
    missed: list[list[tuple[int, int]]] = field(init=False)
    _since: Int64 = field(init=False)
    _calm: Float = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.interval)
        self.counts = np.zeros((n, BINS))
        self.highest, self.total, self.seconds = np.zeros(n), np.zeros(n), np.zeros(n)
        self.missed = [[] for _ in range(n)]
        self._since, self._calm = np.full(n, -1, np.int64), np.zeros(n)

    def add(self, seconds: float, low: Float, high: Float, which: NDArray[np.bool_]) -> None:
        """In ticks of that length RPO was spread evenly from `low` to `high`, s: [ticks, VPGs], those in `which`."""
        ticks, vpgs = np.nonzero(which)
        low, high = low[ticks, vpgs], high[ticks, vpgs]
        # Few points a tick, elsewhere in each, are as good as many in all.
        phase = np.modf(ticks * GOLDEN)[0]
        for n in range(POINTS):
            at = np.maximum(low + (high - low) * ((n + phase) / POINTS), LOWEST)
            bins = np.minimum(np.log(at / LOWEST) / np.log(STEP), BINS - 1).astype(np.int64)
            np.add.at(self.counts.reshape(-1), vpgs * BINS + bins, seconds / POINTS)
        count = len(self.interval)
        self.total += seconds * np.bincount(vpgs, (low + high) / 2, count)
        self.seconds += seconds * np.bincount(vpgs, minlength=count)
        np.maximum.at(self.highest, vpgs, high)

    def calm(self, begin: int, end: int, which: NDArray[np.bool_]) -> None:
        """From `begin` to `end` each checkpoint of these VPGs arrived a latency after it was taken."""
        self._calm += which * ((end - begin) / SECOND)
        self.judge(np.array([begin]), np.where(which, self.latency + self.interval / 2, 0)[None])

    def judge(self, ends: Int64, middle: Float) -> None:
        """RPO between two checkpoints was `middle` in the mean at these instants: seconds, [instants, VPGs]."""
        bad = middle > self.alert
        changed = np.diff(np.concatenate(((self._since >= 0)[None], bad)).astype(np.int8), axis=0)
        for row, n in zip(*np.nonzero(changed), strict=True):
            if changed[row, n] > 0:
                self._since[n] = ends[row] - int((middle[row, n] - self.alert[n]) * SECOND)
            else:
                self.missed[n].append((int(self._since[n]), int(ends[row])))
                self._since[n] = -1

    def over(self, vpg: int, now: int) -> None:
        """A VPG is not protected any more."""
        if self._since[vpg] >= 0:
            self.missed[vpg].append((int(self._since[vpg]), now))
            self._since[vpg] = -1

    def finish(self, now: int) -> None:
        """The run is over."""
        for n in range(len(self.alert)):
            self.over(n, now)
        edges = LOWEST * STEP ** np.arange(BINS + 1)
        for n, (low, span) in enumerate(zip(self.latency, self.interval, strict=True)):
            self.counts[n] += self._calm[n] * np.diff(np.clip((edges - low) / span, 0, 1))
        self.total += self._calm * (self.latency + self.interval / 2)
        self.seconds += self._calm
        self.highest = np.where(self._calm > 0, np.maximum(self.highest, self.latency + self.interval), self.highest)

    def quantiles(self, shares: tuple[float, ...], which: "slice | int" = slice(None)) -> list[float]:
        """Seconds that are not exceeded in these shares of the time; the highest is exact."""
        counts = np.atleast_2d(self.counts[which]).sum(0)
        highest = float(np.max(self.highest[which], initial=0))
        mass = np.concatenate(([0.0], np.cumsum(counts)))
        if not mass[-1]:
            return [0.0] * len(shares)
        edges = LOWEST * STEP ** np.arange(BINS + 1)
        found = np.interp(np.asarray(shares) * mass[-1], mass, edges)
        return [highest if share == 1 else min(float(q), highest) for share, q in zip(shares, found, strict=True)]

    def mean(self, which: "slice | int" = slice(None)) -> float:
        """Seconds."""
        return float(np.sum(self.total[which]) / max(1e-9, float(np.sum(self.seconds[which]))))


class Journals:
    """What was journaled of each VM, in bins of time, and how much of it is kept at the end of each."""

    def __init__(self, vms: int, until: int, width: int) -> None:
        self.width = width
        self.bins = np.zeros((-(-until // width), vms), np.float32)
        self._newest = (np.arange(len(self.bins), dtype=np.int64) + 1)[:, None] * width  # [bins, 1], or [bins, VPGs]

    def add(self, begin: int, tick: int, by_vm: "Float | Float32") -> None:
        """So much arrived in each of these ticks: bytes, [ticks, VMs]."""
        bins = (begin + np.arange(len(by_vm)) * tick) // self.width
        cuts = np.flatnonzero(np.diff(bins, prepend=-1))
        self.bins[bins[cuts]] += np.add.reduceat(by_vm, cuts, axis=0)

    def stands(self, ends: Int64, known: Int64) -> None:
        """At these instants the newest checkpoints of the VPGs were these, int64[instants, VPGs]: older ones stay."""
        if self._newest.shape[1] == 1:
            self._newest = np.repeat(self._newest, known.shape[1], axis=1)
        self._newest[np.minimum((ends - 1) // self.width, len(self._newest) - 1)] = known

    def kept(
        self, history: Int64, limit: Float, vpg_of_vm: Int64, spans: Sequence[tuple[int, int]]
    ) -> tuple[Float32, Float, NDArray[np.bool_]]:
        """Bytes kept of each VM at the end of each bin, float32[bins, VMs], how far back they reach at last, s, and

        bool[bins, VMs], when the limit leaves less than the history.

        history: ns of each VM, back from its VPG's newest checkpoint; limit: bytes, inf without. What is older, or does
        not fit, has gone (products.md 3.2, form 5). spans: of each VM, when there is a journal, ns.
        """
        kept = np.empty_like(self.bins)
        reach, short = np.zeros(self.bins.shape[1]), np.zeros(self.bins.shape, bool)
        for vm, (begins, ends) in enumerate(spans):
            total = np.concatenate(([0.0], np.cumsum(self.bins[:, vm], dtype=float)))
            newest = self._newest[:, vpg_of_vm[vm] if self._newest.shape[1] > 1 else 0]
            back = np.maximum(np.maximum.accumulate(newest - int(history[vm])) // self.width, 0)
            if total[-1] > limit[vm]:
                fits = np.searchsorted(total, total[1:] - limit[vm])
                short[:, vm] = fits > back
                back = np.maximum(back, fits)
            kept[:, vm] = total[1:] - total[back]
            first, over = begins // self.width, -(-ends // self.width)
            kept[over:, vm], short[over:, vm] = 0, False
            reach[vm] = max(0, over - max(int(back[over - 1]), first)) * self.width / SECOND if over else 0.0
        return kept, reach, short
