"""Guests: the writes of a stream's VMs as columns, pulled up to an instant, and when each was acknowledged.

Blocks of writes are drawn ahead over a horizon that does not depend on the fidelity, and handed out as windows on
their columns. So both fidelities see the same writes, and pulling costs no copy.

A guest is acknowledged when its datastore has the write: per stream first come, first served (Lindley's recursion
over the whole column), plus the store's latency. While the VRA holds the VPG's guests nothing is acknowledged.
Streams do not queue behind each other on the protected datastore; the model leaves that contention out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drsim.core.batch import Columns, Int32, Int64, WriteBatch
from drsim.core.names import StreamSpec, VmId, VolumeId
from drsim.core.units import SECOND, SECTOR
from drsim.sim.warp import SlowSpan, Warped, slowed
from drsim.sim.workload import Source
from drsim.spec.model import Datastore

BLOCK_WRITES = 8192


@dataclass(frozen=True, slots=True)
class GuestVm:
    """One VM's writes: its number, its volumes' numbers, its disk, its source of writes and their mean rate.

    `slow`: when its disk is slower than usual.
    """

    vm: VmId
    volumes: tuple[VolumeId, ...]
    store: Datastore
    source: Source
    rate: float
    compress_to: float
    slow: tuple[SlowSpan, ...] = ()


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of writes and their bytes."""

    writes: int
    nbytes: int

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.writes - other.writes, self.nbytes - other.nbytes)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.writes + other.writes, self.nbytes + other.nbytes)


NONE = Amount(0, 0)


class _Block:
    """Columns of one horizon, the acknowledgement times by row and sorted, and what came before."""

    __slots__ = ("acked", "acked_row", "before", "columns", "times")

    def __init__(self, columns: Columns, acked_row: Int64, before: Amount) -> None:
        # Acknowledgements of different disks may overtake each other; sorted, they still count what was acked by when.
        self.columns, self.acked_row, self.acked, self.before = columns, acked_row, np.sort(acked_row), before
        self.times: list[int] = columns.issued.tolist()

    def amount(self, rows: int) -> Amount:
        """What came before, and the first rows."""
        return Amount(self.before.writes + rows, self.before.nbytes + int(self.columns.end[rows]))


class Tap:
    """The writes of one stream, in the order in which the source disks end up holding them."""

    def __init__(self, spec: StreamSpec, guests: Sequence[GuestVm]) -> None:
        self.spec, self.guests = spec, guests
        rate = sum(guest.rate for guest in guests)
        self._horizon = int(min(600.0, max(0.01, BLOCK_WRITES / max(rate, 1e-9))) * SECOND)
        self._end = 0
        self._at = 0
        self._free_at = [0] * len(guests)
        self._held_since: int | None = None
        self._at_rest: set[VmId] = set()
        self._postponed: list[tuple[WriteBatch, Int64]] = []  # by VMs at rest, with the times of their acknowledgement
        self._late: list[WriteBatch] = []  # was postponed, and is issued now
        self._slow: list[Int64] = []  # times of writes that a slow datastore acknowledged later
        empty = WriteBatch.of([], [], [], [], []).columns
        self._block = _Block(empty, np.zeros(0, np.int64), NONE)
        self._previous = self._block

    def _draw(self) -> None:
        """The next block."""
        self._end += self._horizon
        parts = [guest.source.take(self._end) for guest in self.guests]
        issued = np.concatenate([p.issued for p in parts])
        order = np.argsort(issued, kind="stable") if len(parts) > 1 else slice(None)
        counts = [len(p.issued) for p in parts]
        volumes = np.concatenate(
            [np.asarray(g.volumes, np.int32)[p.volume] for g, p in zip(self.guests, parts, strict=True)]
        )
        acked = np.concatenate([self._acknowledge(n, p.issued, p.sectors) for n, p in enumerate(parts)])
        batch = WriteBatch.of(
            np.repeat(np.array([g.vm for g in self.guests], np.int32), counts)[order],
            volumes[order],
            np.concatenate([p.lba for p in parts])[order],
            np.concatenate([p.sectors for p in parts])[order],
            issued[order],
        )
        before = self._block.amount(len(self._block.times))
        self._previous = self._block
        self._block = _Block(batch.columns, acked[order], before)
        self._at = 0

    def _acknowledge(self, n: int, issued: Int64, sectors: Int32) -> Int64:
        store = self.guests[n].store
        service = np.maximum(SECOND / store.iops, sectors * (SECTOR * 8 * SECOND / store.bandwidth)).astype(np.int64)
        latency: int | Int64 = store.latency
        if self.guests[n].slow:
            service, latency = slowed(self.guests[n].slow, issued, sectors, store)
            self._slow += [issued[(issued >= s.begin) & (issued < s.end)] for s in self.guests[n].slow]
        total = np.cumsum(service)
        starts = np.maximum.accumulate(np.maximum(issued, self._free_at[n]) - (total - service))
        done = starts + total
        if len(done):
            self._free_at[n] = int(done[-1])
        return np.asarray(done + latency, np.int64)

    def _ensure(self, time: int) -> None:
        while self._at == len(self._block.times) and self._end < time:
            self._draw()

    def next_issue(self, until: int) -> int | None:
        """When the next write not yet pulled is issued, if that is by `until`."""
        while self._at == len(self._block.times):
            if self._end >= until:
                return None
            self._draw()
        time = self._block.times[self._at]
        return time if time <= until else None

    def pull(self, now: int) -> list[WriteBatch]:
        """The writes issued up to and including `now` that were not pulled before."""
        batches, self._late = self._late, []
        while True:
            times, at = self._block.times, self._at
            if at < len(times):
                if times[at] > now:
                    return batches
                hi = at + 1
                if hi < len(times) and times[hi] <= now:
                    hi = int(np.searchsorted(self._block.columns.issued, now, side="right"))
                self._at = hi
                batches += self._issued(at, hi)
                if hi < len(times):
                    return batches
            if self._end >= now:
                return batches
            self._draw()

    def _issued(self, at: int, hi: int) -> list[WriteBatch]:
        """Rows of the block, without those of VMs at rest, which are issued after the thaw."""
        batch = WriteBatch(self._block.columns, at, hi)
        waits = np.isin(batch.vm, list(self._at_rest)) if self._at_rest else None
        if waits is None or not waits.any():
            return [batch]
        self._postponed.append((batch.take(waits), self._block.acked_row[at:hi][waits]))
        return [] if waits.all() else [batch.take(~waits)]

    def freeze(self, vm: VmId) -> None:
        """A VM issues nothing from now on; pull first."""
        self._at_rest.add(vm)

    def thaw(self, vm: VmId, now: int) -> None:
        """A VM goes on, and issues at once what it would have written meanwhile."""
        self._at_rest.discard(vm)
        postponed, self._postponed = self._postponed, []
        for batch, acked in postponed:
            mine = batch.vm == vm
            late, rest = batch.take(mine), batch.take(~mine)
            if len(late):
                at = np.full(len(late), now, np.int64)
                self._late.append(WriteBatch.of(late.vm, late.volume, late.lba, late.sectors, at))
            if len(rest):
                self._postponed.append((rest, acked[~mine]))

    def _withheld(self, until: int | None = None) -> Amount:
        """What is postponed, or would have been acknowledged by an instant."""
        total = NONE
        for batch, acked in self._postponed:
            mine = np.ones(len(acked), np.bool_) if until is None else acked <= until
            total += Amount(int(mine.sum()), int(batch.sectors[mine].sum()) * SECTOR)
        return total

    @property
    def pulled(self) -> Amount:
        """Everything pulled so far."""
        late = sum((Amount(len(batch), batch.nbytes) for batch in self._late), NONE)
        return self._block.amount(self._at) - self._withheld() - late

    def changed(self, until: int) -> Counter[str]:
        """How many writes up to an instant were changed by faults of their guests, by kind."""
        found: Counter[str] = Counter()
        for guest in self.guests:
            if isinstance(guest.source, Warped):
                found.update(guest.source.changed(until))
        if self._slow:
            found["datastore-slow"] = sum(int(np.searchsorted(times, until, side="right")) for times in self._slow)
        return found

    def hold(self, now: int) -> None:
        """Nothing is acknowledged from now on."""
        self._held_since = now

    def release(self) -> None:
        """What was withheld is acknowledged."""
        self._held_since = None

    def acknowledged(self, now: int) -> Amount:
        """Everything acknowledged to the guests up to and including `now`; the last block's order is by time."""
        if self._held_since is not None:
            now = self._held_since
        self._ensure(now)
        for block in (self._block, self._previous):
            rows = int(np.searchsorted(block.acked, now, side="right"))
            if rows or block is self._previous:
                return block.amount(rows) - self._withheld(now)
        raise AssertionError
