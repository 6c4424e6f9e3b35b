"""Sources of guest writes: one per VM, made from the workload that the model says.

Theory of operation. A source draws its writes in blocks whose sizes follow from the workload alone, and `take` hands
out views of them. So what a source gives does not depend on how the time is cut.
Invariant: take(b) == take(a) + take(b) for every a < b, exactly.

Blocks of the plain kinds are numbers of writes; the fitted kind has blocks of time, because its rate may be near zero
for long; a trace is cut into blocks of rows. Each kind is a generator of (writes, horizon): all later writes are
issued after `horizon`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, assert_never

import numpy as np

from drsim.core.errors import CoreError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces import BlockTrace
from drsim.sim.places import Float, HotAndCold, Int32, Int64, RoundRobin, volume_sectors
from drsim.spec.workload import Constant, Fitted, OnOff, Plain, Poisson, Trace, Workload

SMALL_BLOCK, LARGE_BLOCK = 256, 1 << 15
"""Writes of a block: about a minute of the workload, within these bounds."""
FOREVER = np.iinfo(np.int64).max


class Writes(NamedTuple):
    """Writes in time order, as columns of equal length; read-only.

    issued: int64, nanoseconds, ascending. volume: int32, index within the VM's volumes. lba: int64, first 512-byte
    sector on the volume. sectors: int32, length.
    """

    issued: Int64
    volume: Int32
    lba: Int64
    sectors: Int32

    def rows(self, low: int, high: int) -> "Writes":
        """The writes from `low` up to, not including, `high`; without a copy."""
        return Writes(self.issued[low:high], self.volume[low:high], self.lba[low:high], self.sectors[low:high])

    @staticmethod
    def join(parts: Sequence["Writes"]) -> "Writes":
        """All writes of the parts, in order. Parts: at least one."""
        if len(parts) == 1:
            return parts[0]
        return Writes(
            np.concatenate([part.issued for part in parts]),
            np.concatenate([part.volume for part in parts]),
            np.concatenate([part.lba for part in parts]),
            np.concatenate([part.sectors for part in parts]),
        )


NOTHING = Writes(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int32))
Blocks = Iterator[tuple[Writes, int]]


class Source(Protocol):
    """A VM's guest writes."""

    def take(self, until: int) -> Writes:
        """The writes issued after the last `until`, up to and including this one (the first time: from 0 on)."""
        ...


class Blockwise:
    """A source over blocks."""

    __slots__ = ("_at", "_block", "_blocks", "_horizon")

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._block = NOTHING
        self._at, self._horizon = 0, -1

    def take(self, until: int) -> Writes:
        """See `Source`."""
        taken: list[Writes] = []
        while True:
            issued, low = self._block.issued, self._at
            high = max(low, int(np.searchsorted(issued, until, side="right")))
            if high > low:
                taken.append(self._block.rows(low, high))
            self._at = high
            if high < len(issued) or self._horizon >= until:
                return Writes.join(taken or [NOTHING])
            self._block, self._horizon = next(self._blocks, (NOTHING, FOREVER))
            for column in (self._block.issued, self._block.volume, self._block.lba, self._block.sectors):
                column.flags.writeable = False
            self._at = 0


def source(
    workload: Workload,
    volume_sizes: Sequence[int],
    rng: np.random.Generator,
    *,
    trace: BlockTrace | None = None,
    index: int = 0,
) -> Source:
    """The source of a VM's writes.

    volume_sizes: bytes of the VM's volumes. trace: what `read_trace` gave for a `Trace` workload, its device
    selected. index: which of the VMs that share this workload, for the trace's `stagger`. The source owns `rng`.
    Raises CoreError for a trace workload without a trace, and for a VM without volumes.
    """
    match workload:
        case Constant() | Poisson() | OnOff():
            return Blockwise(_plain(workload, volume_sizes, rng))
        case Fitted():
            return Blockwise(_fitted(workload, volume_sizes, rng))
        case Trace():
            if trace is None or not len(trace):
                raise CoreError(f"the workload replays {workload.path!r}, but was given no trace with writes")
            return Blockwise(_replay(workload, volume_sizes, rng, trace, index))
        case _:
            assert_never(workload)


def mean_rate(workload: Workload, trace: BlockTrace | None = None) -> tuple[float, float]:
    """Mean writes/s and bytes/s of a workload, in the long run; of a trace without loop, while it lasts.

    Raises CoreError for a trace workload without a trace.
    """
    match workload:
        case Constant() | Poisson():
            return workload.rate, workload.rate * workload.size
        case OnOff():
            rate = workload.rate * workload.on / (workload.on + workload.off)
            return rate, rate * workload.size
        case Fitted():
            total = sum(mix.share for mix in workload.sizes)
            return workload.rate, workload.rate * sum(mix.size * mix.share for mix in workload.sizes) / total
        case Trace():
            if trace is None:
                raise CoreError(f"the workload replays {workload.path!r}, but was given no trace")
            times = workload.speed * workload.scale * SECOND / trace.duration
            return len(trace) * times, trace.nbytes * times
        case _:
            assert_never(workload)


def _block_writes(rate: float) -> int:
    """Writes of a block: a minute's, rounded up to a power of two, within bounds."""
    return int(min(LARGE_BLOCK, max(SMALL_BLOCK, 1 << int(rate * 60).bit_length())))


def _plain(workload: Constant | Poisson | OnOff, sizes: Sequence[int], rng: np.random.Generator) -> Blocks:
    """Equal writes. Write number k (from 1) of the constant kind is issued at k / rate, the same for every VM."""
    n = _block_writes(workload.rate)
    places = RoundRobin(sizes, workload.working_set, workload.size, n)
    step = SECOND / workload.rate
    first, clock = 0, 0.0
    while True:
        if isinstance(workload, Constant):
            times = np.arange(first + 1, first + n + 1) * step
        else:
            times = np.cumsum(rng.standard_exponential(n))
            times *= step
            times += clock
            clock = float(times[-1])
        issued = times.astype(np.int64)
        if isinstance(workload, OnOff):
            # Poisson on a clock that stands still in the off-periods.
            issued += issued // workload.on * workload.off
        yield Writes(issued, *_plain_places(workload, places, first, rng)), int(issued[-1]) - 1
        first += n


def _plain_places(
    workload: Plain, places: RoundRobin, first: int, rng: np.random.Generator
) -> tuple[Int32, Int64, Int32]:
    if workload.pattern == "sequential":
        return places.sequential(first)
    return places.uniform(first, rng)


class _Rate:
    """The fitted rate over time: slots of equal length, in each the mean times one factor per burst scale.

    A factor holds for its scale and has mean 1: exp(sigma z - sigma^2 / 2) with z standard normal. Slots are as long
    as the shortest scale; a scale that is no multiple of it is rounded to slots.
    """

    def __init__(self, workload: Fitted) -> None:
        self.rate, self.bursts = workload.rate, workload.bursts
        most = max(1, int(LARGE_BLOCK / workload.rate * SECOND))
        self.slot = min([most, *(burst.scale for burst in workload.bursts)]) if workload.bursts else min(most, SECOND)
        self.slots = int(min(4096, max(4, _block_writes(workload.rate) / (workload.rate * self.slot / SECOND))))
        self._next = 0
        self._last = [(-1, 1.0)] * len(workload.bursts)

    def block(self, rng: np.random.Generator) -> tuple[Int64, Float]:
        """Edges in nanoseconds (int64[slots + 1]) and expected writes of the next slots (float64[slots])."""
        edges = (self._next + np.arange(self.slots + 1)) * self.slot
        self._next += self.slots
        mean = np.full(self.slots, self.rate * self.slot / SECOND)
        for n, burst in enumerate(self.bursts):
            nth = edges[:-1] // burst.scale
            known, factor = self._last[n]
            new = int(nth[-1]) - known
            factors = np.exp(burst.sigma * rng.standard_normal(new) - burst.sigma**2 / 2)
            factors = np.concatenate(([factor], factors))
            mean *= factors[nth - known]
            self._last[n] = (int(nth[-1]), float(factors[-1]))
        return edges, mean


def _fitted(workload: Fitted, sizes: Sequence[int], rng: np.random.Generator) -> Blocks:
    """Poisson writes of varying rate.

    In a block of time the number of writes is Poisson, and their times are as many uniform order statistics (sums of
    exponentials over their total) sent through the inverse of the cumulative rate.
    """
    rate, places = _Rate(workload), HotAndCold(sizes, workload)
    share = np.cumsum([mix.share for mix in workload.sizes])
    share /= share[-1]
    lengths = np.array([mix.size // SECTOR for mix in workload.sizes], np.int32)
    while True:
        edges, mean = rate.block(rng)
        expected = np.concatenate(([0.0], np.cumsum(mean)))
        n = int(rng.poisson(expected[-1]))
        place = np.cumsum(rng.standard_exponential(n + 1))
        place *= expected[-1] / place[-1]
        times = np.interp(place[:-1], expected, edges.astype(np.float64))
        issued = np.clip(times.astype(np.int64), int(edges[0]), int(edges[-1]) - 1)
        mix = np.searchsorted(share[:-1], rng.random(n), side="right")
        yield Writes(issued, *places.place(lengths[mix], rng)), int(edges[-1]) - 1


def _replay(workload: Trace, sizes: Sequence[int], rng: np.random.Generator, trace: BlockTrace, index: int) -> Blocks:
    """A trace's writes, from `shift` on (modulo the trace's length), again and again or to its end.

    `shift` and `stagger` count in the trace's own time, before `speed`. Of a fractional `scale` a random share of the
    rows is kept, the same in every round. Copies lie in other places, so that unique bytes grow too.
    """
    begin = (workload.shift + workload.stagger * index) % trace.duration
    whole, part = divmod(workload.scale, 1.0)
    copies = np.full(len(trace), int(whole), np.int16)
    if part:
        copies[rng.random(len(trace)) < part] += 1
    places = _TracePlaces(sizes, len(trace.devices), int(whole) + 1)
    first = int(np.searchsorted(trace.issued, begin))
    base = -begin
    while True:
        for low in range(first, len(trace), LARGE_BLOCK):
            rows = slice(low, low + LARGE_BLOCK)
            row = np.repeat(np.arange(low, low + len(copies[rows])), copies[rows])
            nth = np.arange(len(row)) - np.repeat(np.cumsum(copies[rows], dtype=np.int64) - copies[rows], copies[rows])
            issued = ((trace.issued[row] + base) / workload.speed).astype(np.int64)
            horizon = int((int(trace.issued[rows][-1]) + base) / workload.speed) - 1
            yield Writes(issued, *places.place(trace.device[row], trace.lba[row], trace.sectors[row], nth)), horizon
        if not workload.loop:
            return
        first, base = 0, base + trace.duration


class _TracePlaces:
    """A trace's extents on the volumes of a VM.

    One device: the volumes are taken as one disk, end to end, on which its sectors wrap. Several: device d goes to
    volume d modulo the number of volumes. An extent that would cross a volume's end is moved back.
    """

    def __init__(self, sizes: Sequence[int], devices: int, copies: int) -> None:
        self._total = volume_sectors(sizes)
        self._ends = np.cumsum(self._total)
        self._one = devices == 1
        self._copies = copies

    def place(self, device: Int32, lba: Int64, sectors: Int32, nth: Int64) -> tuple[Int32, Int64, Int32]:
        """Volume, first sector and length; `nth` is the number of a row's copy, which shifts it."""
        if self._one:
            room = int(self._ends[-1])
            at = (lba + nth * (room // self._copies)) % room
            volume = np.searchsorted(self._ends, at, side="right").astype(np.int32)
            at -= (self._ends - self._total)[volume]
        else:
            volume = (device % len(self._total)).astype(np.int32)
            rooms = self._total[volume]
            at = (lba + nth * (rooms // self._copies)) % rooms
        limit = self._total[volume]
        length = np.minimum(sectors, limit).astype(np.int32)
        return volume, np.minimum(at, limit - length), length
