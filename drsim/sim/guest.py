"""Guests: the writes of a stream's VMs as columns, pulled up to an instant, and when each was acknowledged.

Blocks of writes are drawn ahead over a horizon that does not depend on the fidelity, and handed out as windows on
their columns. So both fidelities see the same writes, and pulling costs no copy.

A guest is acknowledged when its datastore has the write: per stream first come, first served (Lindley's recursion
over the whole column), plus the store's latency. While the VRA holds the VPG's guests nothing is acknowledged.
Streams do not queue behind each other on the protected datastore; the model leaves that contention out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drsim.core.batch import Columns, Int32, Int64, WriteBatch
from drsim.core.names import StreamSpec, VmId, VolumeId
from drsim.core.units import SECOND, SECTOR
from drsim.sim.workload import Source
from drsim.spec.model import Datastore

BLOCK_WRITES = 8192


@dataclass(frozen=True, slots=True)
class GuestVm:
    """One VM's writes: its number, its volumes' numbers, its disk, its source of writes and their mean rate."""

    vm: VmId
    volumes: tuple[VolumeId, ...]
    store: Datastore
    source: Source
    rate: float
    compress_to: float


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
    """Columns of one horizon, the acknowledgement times, and what came before."""

    __slots__ = ("acked", "before", "columns", "times")

    def __init__(self, columns: Columns, acked: Int64, before: Amount) -> None:
        self.columns, self.acked, self.before = columns, acked, before
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
        # Acknowledgements of different disks may overtake each other; sorted, they still count what was acked by when.
        self._block = _Block(batch.columns, np.sort(acked), before)
        self._at = 0

    def _acknowledge(self, n: int, issued: Int64, sectors: Int32) -> Int64:
        store = self.guests[n].store
        service = np.maximum(SECOND / store.iops, sectors * (SECTOR * 8 * SECOND / store.bandwidth)).astype(np.int64)
        total = np.cumsum(service)
        starts = np.maximum.accumulate(np.maximum(issued, self._free_at[n]) - (total - service))
        done = starts + total
        if len(done):
            self._free_at[n] = int(done[-1])
        return np.asarray(done + store.latency, np.int64)

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
        batches: list[WriteBatch] = []
        while True:
            times, at = self._block.times, self._at
            if at < len(times):
                if times[at] > now:
                    return batches
                hi = at + 1
                if hi < len(times) and times[hi] <= now:
                    hi = int(np.searchsorted(self._block.columns.issued, now, side="right"))
                self._at = hi
                batches.append(WriteBatch(self._block.columns, at, hi))
                if hi < len(times):
                    return batches
            if self._end >= now:
                return batches
            self._draw()

    @property
    def pulled(self) -> Amount:
        """Everything pulled so far."""
        return self._block.amount(self._at)

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
                return block.amount(rows)
        raise AssertionError
