"""Load: how many bytes each VM writes in each tick, a block of ticks at a time, and what becomes dirty of it.

Rates, not writes: the plain kinds give their mean (on-off while it is on), a trace its own bytes, and the fitted kind
its mean times one log-normal factor for each burst scale, as `drsim.sim.workload` draws them. Scales shorter than a
tick are averaged into one factor of the same variance. Each VM draws from its own stream, so that one VM more, or
another link, changes no other.

What is dirty after `n` written bytes of a *part* of a disk of N bytes is N - (N - D) exp(-k n / N): uniform writes over
its regions (products.md 3.2, form 4), k being the bytes of regions that a written byte touches. A sequential part gets
dirty at the rate k n until all of it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import CoreError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces import BlockTrace
from drsim.sim.places import FIRST, GRID
from drsim.sim.streams import Streams
from drsim.sim.workload import mean_rate
from drsim.spec.faults import Fault, GuestBurst, GuestCrash, GuestPause
from drsim.spec.protect import Vm
from drsim.spec.workload import Fitted, OnOff, Plain, Trace, Workload

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Fill = Callable[[int, int], "Float32 | Float"]
"""(first tick, ticks) to bytes of each of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a VM's disks: `nbytes` long, gets `share` of what is written, of which each byte touches `touched`."""

    nbytes: float
    share: float
    touched: float
    sequential: bool = False


def parts(vm: Vm, region: int, trace: BlockTrace | None) -> list[Part]:
    """The parts of a VM's disks in which its writes lie."""
    disk = float(sum(volume.size for volume in vm.volumes))
    match vm.workload:
        case Plain() as plain:
            size = float(plain.working_set or disk)
            touched = -(-plain.size // region) * region / plain.size
            return [Part(min(size, disk), 1.0, touched, plain.pattern == "sequential")]
        case Fitted() as fitted:
            # A run begins on the grid, FIRST sectors in, and goes on with probability `sequential`.
            offset = FIRST % GRID * SECTOR
            total = sum(mix.share for mix in fitted.sizes)
            mean = sum(mix.size * mix.share for mix in fitted.sizes) / total
            length = mean / max(1e-9, 1 - fitted.sequential)
            regions = sum(-(-(offset + mix.size) // region) * region * mix.share for mix in fitted.sizes) / total
            touched = (regions + fitted.sequential / (1 - fitted.sequential) * mean) / length
            cold = min(float(fitted.working_set), disk)
            hot = min(float(fitted.hot_set), cold)
            return [Part(hot, fitted.hot_share, touched), Part(cold, 1 - fitted.hot_share, touched)]
        case Trace():
            assert trace is not None
            return [Part(_spread(trace, region), 1.0, 1.0)]
        case _:
            raise CoreError(f"fluid does not know the workload {vm.workload}")


def _spread(trace: BlockTrace, region: int) -> float:
    """Of which size uniform writes as many as a trace's would touch as many distinct bytes as it did: N of form 4."""
    step = region // SECTOR
    first, last = trace.lba // step, (trace.lba + trace.sectors - 1) // step
    count = (last - first + 1).astype(np.int64)
    nth = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    places = np.repeat(first, count) + nth + np.repeat(trace.device.astype(np.int64) << 44, count)
    distinct, written = float(len(np.unique(places))) * region, float(trace.nbytes)
    low, high = distinct, distinct * 1e6
    for _ in range(200):  # bisection: what is touched grows with N
        middle = math.sqrt(low * high)
        low, high = (middle, high) if -middle * math.expm1(-written / middle) < distinct else (low, middle)
    return low


class Load:
    """Bytes that each VM writes in each tick. rates: their means, bytes/s. sizes: of a write in the mean, bytes."""

    def __init__(
        self, vms: Mapping[str, Vm], tick: int, streams: Streams, traces: Mapping[Workload, BlockTrace],
        faults: Sequence[Fault], groups: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._tick = tick
        users: dict[Workload, int] = {}
        self._fills: list[Fill] = []
        self._factors = [_factor(faults, group=groups[name]) for name in vms]
        self.rates, self.sizes = np.zeros(len(vms)), np.zeros(len(vms))
        for n, (name, vm) in enumerate(vms.items()):
            index = users[vm.workload] = users.get(vm.workload, -1) + 1
            trace = traces.get(vm.workload)
            writes, self.rates[n] = mean_rate(vm.workload, trace)
            self.sizes[n] = self.rates[n] / writes
            self._fills.append(self._fill(vm.workload, streams.rng(f"vm/{name}/fluid"), trace, index))

    def block(self, first: int, ticks: int) -> Float32:
        """float32[ticks, VMs]: bytes written in each tick from `first` on. Blocks are asked for in order, once each."""
        found = np.empty((len(self._fills), ticks), np.float32)
        for n, (fill, factor) in enumerate(zip(self._fills, self._factors, strict=True)):
            found[n] = fill(first, ticks)
            if factor is not None:
                found[n] *= factor(np.arange(first, first + ticks + 1) * self._tick)
        return np.ascontiguousarray(found.T)

    def _fill(self, workload: Workload, rng: np.random.Generator, trace: BlockTrace | None, index: int) -> Fill:
        seconds = self._tick / SECOND
        match workload:
            case OnOff() as onoff:
                return lambda first, n: onoff.rate * onoff.size / SECOND * np.diff(_on(onoff, self._edges(first, n)))
            case Fitted() as fitted:
                return _Bursts(fitted, self._tick, rng).fill
            case Trace() as replay:
                assert trace is not None
                written = _Replayed(replay, trace, index)
                return lambda first, n: np.diff(written.until(self._edges(first, n)))
            case _:
                mean = np.float32(mean_rate(workload, trace)[1] * seconds)
                return lambda first, n: np.full(n, mean)

    def _edges(self, first: int, ticks: int) -> Int64:
        return np.arange(first, first + ticks + 1, dtype=np.int64) * self._tick


def _on(workload: OnOff, at: Int64) -> Float:
    """Nanoseconds of on-periods until each instant."""
    whole, rest = np.divmod(at, workload.on + workload.off)
    return (whole * workload.on + np.minimum(rest, workload.on)).astype(float)


class _Replayed:
    """Bytes of a trace until an instant, as `drsim.sim.workload` replays it."""

    def __init__(self, workload: Trace, trace: BlockTrace, index: int) -> None:
        self._w, self._trace = workload, trace
        self._total = np.concatenate(([0.0], np.cumsum(trace.sectors, dtype=float))) * SECTOR
        self._begin = (workload.shift + workload.stagger * index) % trace.duration

    def until(self, at: Int64) -> Float:
        local = self._begin + at * self._w.speed
        if not self._w.loop:
            local = np.minimum(local, self._trace.duration)
        whole, rest = np.divmod(local, self._trace.duration)
        inside = self._total[np.searchsorted(self._trace.issued, rest, side="left")]
        return np.asarray(self._w.scale * (whole * self._total[-1] + inside))


class _Bursts:
    """The fitted kind: mean bytes of a tick times a factor for each scale, each with mean 1."""

    def __init__(self, workload: Fitted, tick: int, rng: np.random.Generator) -> None:
        total = sum(mix.share for mix in workload.sizes)
        mean = workload.rate * sum(mix.size * mix.share for mix in workload.sizes) / total
        self._rng = rng
        variance, self._slow, shift = 0.0, [], 0.0
        for burst in workload.bursts:
            if burst.scale < tick:  # the mean of so many factors, as one of the same variance
                variance += math.log1p(math.expm1(burst.sigma**2) * burst.scale / tick)
            else:
                self._slow.append((burst.scale // tick, np.float32(burst.sigma)))
                shift += burst.sigma**2 / 2
        self._fast, self._last = np.float32(math.sqrt(variance)), [(-1, np.float32(0))] * len(self._slow)
        self._base = np.float32(math.log(mean * tick / SECOND) - shift - variance / 2)

    def fill(self, first: int, ticks: int) -> Float32:
        """See `Fill`."""
        level = np.full(ticks, self._base, np.float32)
        if self._fast:
            level += self._fast * self._rng.standard_normal(ticks, dtype=np.float32)
        for k, (length, sigma) in enumerate(self._slow):
            known, value = self._last[k]
            low, high = first // length, (first + ticks - 1) // length
            drawn = self._rng.standard_normal(high - known, dtype=np.float32)
            values = np.concatenate(([value], drawn))[-(high - low + 1) :]
            self._last[k] = high, values[-1]
            level += (sigma * values).repeat(length)[first - low * length :][:ticks]
        return np.exp(level)


def _factor(faults: Sequence[Fault], *, group: str) -> Callable[[Int64], Float] | None:
    """The mean factor of a VM's rate in each tick, from the ticks' edges; None when nothing changes it."""
    spans = [(f.at, f.at + f.lasts, f.factor if isinstance(f, GuestBurst) else 0.0)
             for f in faults if isinstance(f, GuestBurst | GuestPause | GuestCrash) and f.vm == group]  # fmt: skip
    if not spans:
        return None

    def factor(edges: Int64) -> Float:
        found = np.ones(len(edges) - 1)
        for begin, end, times in spans:
            inside = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0, None) / np.diff(edges)
            found *= 1 - inside + inside * times
        return found

    return factor
