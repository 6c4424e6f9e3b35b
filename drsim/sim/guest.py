"""Guests: the writes of a stream's VMs as columns, pulled up to an instant, and when each was acknowledged.

Blocks of writes are drawn ahead over a horizon that does not depend on the fidelity, and handed out as windows on
their columns. So both fidelities see the same writes, and pulling costs no copy.

A guest is acknowledged when its datastore has the write: per stream first come, first served (Lindley's recursion
over the whole column), plus the store's latency. While the VRA holds the VPG's guests nothing is acknowledged.
Streams do not queue behind each other on the protected datastore; the model leaves that contention out.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drsim.core.batch import Columns, Int32, Int64, WriteBatch
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId
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


def untapped(vm: VmId) -> StreamSpec:
    """In place of a stream, for the writes of a VM that nobody taps."""
    return StreamSpec(StreamId("", Address(""), Address(""), 0), (vm,), ())


class Rows(NamedTuple):
    """Writes of one VM in order, as columns, with the times of their acknowledgement."""

    volume: Int32
    lba: Int64
    sectors: Int32
    issued: Int64
    acked: Int64

    def part(self, some: "slice | NDArray[np.bool_]") -> "Rows":
        """Some of them."""
        return Rows(self.volume[some], self.lba[some], self.sectors[some], self.issued[some], self.acked[some])

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        """All of them, one part after another."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([p.volume for p in parts]),
            np.concatenate([p.lba for p in parts]),
            np.concatenate([p.sectors for p in parts]),
            np.concatenate([p.issued for p in parts]),
            np.concatenate([p.acked for p in parts]),
        )


_INT32, _INT64 = np.zeros(0, np.int32), np.zeros(0, np.int64)
NO_ROWS = Rows(_INT32, _INT64, _INT32, _INT64, _INT64)


class Feed:
    """One VM's writes and when its disk has them, whoever taps it: what a tap has drawn too much can be put back."""

    def __init__(self, guest: GuestVm) -> None:
        self.guest = guest
        self._numbers = np.asarray(guest.volumes, np.int32)
        self._free_at = 0
        self._drawn = -1
        self._back: list[Rows] = []
        self._slow: list[Int64] = []  # times of writes that a slow datastore acknowledged later

    def take(self, until: int) -> Rows:
        """The writes up to and including this instant that were not taken, or were put back."""
        parts, self._back = self._back, []
        if until > self._drawn:
            self._drawn = until
            drawn = self.guest.source.take(until)
            acked = self._acknowledge(drawn.issued, drawn.sectors)
            parts.append(Rows(self._numbers[drawn.volume], drawn.lba, drawn.sectors, drawn.issued, acked))
        rows = Rows.join(parts)
        n = int(np.searchsorted(rows.issued, until, side="right"))
        if n < len(rows.issued):
            self._back = [rows.part(slice(n, None))]
            rows = rows.part(slice(n))
        return rows

    def put_back(self, rows: Rows) -> None:
        """These were taken and are not issued yet; they come before all that was not taken."""
        if len(rows.issued):
            self._back.insert(0, rows)

    def _acknowledge(self, issued: Int64, sectors: Int32) -> Int64:
        store = self.guest.store
        service = np.maximum(SECOND / store.iops, sectors * (SECTOR * 8 * SECOND / store.bandwidth)).astype(np.int64)
        latency: int | Int64 = store.latency
        if self.guest.slow:
            service, latency = slowed(self.guest.slow, issued, sectors, store)
            self._slow += [issued[(issued >= s.begin) & (issued < s.end)] for s in self.guest.slow]
        total = np.cumsum(service)
        starts = np.maximum.accumulate(np.maximum(issued, self._free_at) - (total - service))
        done = starts + total
        if len(done):
            self._free_at = int(done[-1])
        return np.asarray(done + latency, np.int64)

    def changed(self, until: int) -> Counter[str]:
        """How many writes up to an instant were changed by faults of the guest, by kind."""
        found: Counter[str] = Counter()
        if isinstance(self.guest.source, Warped):
            found.update(self.guest.source.changed(until))
        if self._slow:
            found["datastore-slow"] = sum(int(np.searchsorted(times, until, side="right")) for times in self._slow)
        return found


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


def _block(vms: Int32, parts: Sequence[Rows], before: Amount) -> _Block:
    """A block of these rows, in order of time."""
    rows = Rows.join(parts)
    order = np.argsort(rows.issued, kind="stable") if len(parts) > 1 else slice(None)
    batch = WriteBatch.of(vms[order], rows.volume[order], rows.lba[order], rows.sectors[order], rows.issued[order])
    return _Block(batch.columns, rows.acked[order], before)


def _total(batches: Iterable[WriteBatch]) -> Amount:
    return sum((Amount(len(batch), batch.nbytes) for batch in batches), NONE)


class Tap:
    """The writes of one stream, in the order in which the source disks end up holding them.

    VMs may leave a tap and join another one (`leave`, `join`): the same writes are issued at the same times.
    """

    def __init__(self, spec: StreamSpec, guests: Sequence[GuestVm], *, begin: int = 0) -> None:
        self.spec = spec
        self.feeds = [Feed(guest) for guest in guests]
        self._end = begin
        self._at = 0
        self._held_since: int | None = None
        self._at_rest: set[VmId] = set()
        self._postponed: list[tuple[WriteBatch, Int64]] = []  # by VMs at rest, with the times of their acknowledgement
        self._late: list[WriteBatch] = []  # was postponed, and is issued now
        self._shift = NONE  # what was postponed here and is issued elsewhere, or the other way round
        empty = WriteBatch.of([], [], [], [], []).columns
        self._block = _Block(empty, np.zeros(0, np.int64), NONE)
        self._previous = self._block
        self._pace()

    def _pace(self) -> None:
        rate = sum(feed.guest.rate for feed in self.feeds)
        self._horizon = int(min(600.0, max(0.01, BLOCK_WRITES / max(rate, 1e-9))) * SECOND)

    @property
    def guests(self) -> list[GuestVm]:
        """Its VMs at present."""
        return [feed.guest for feed in self.feeds]

    def _draw(self) -> None:
        """The next block."""
        self._end += self._horizon
        parts = [feed.take(self._end) for feed in self.feeds] or [NO_ROWS]
        counts = [len(p.issued) for p in parts]
        vms = np.repeat(np.array([feed.guest.vm for feed in self.feeds] or [VmId(0)], np.int32), counts)
        before = self._block.amount(len(self._block.times))
        self._previous = self._block
        self._block = _block(vms, parts, before)
        self._at = 0

    def leave(self, vm: VmId, now: int) -> tuple[Feed, list[WriteBatch]]:
        """A VM is tapped here no more; call when all up to `now` is pulled. Its feed, and what it issues just now."""
        self.thaw(vm, now)
        late, rest = [b for b in self._late if b.vm[0] == vm], [b for b in self._late if b.vm[0] != vm]
        self._late = rest
        self._shift -= _total(late)
        (feed,) = [feed for feed in self.feeds if feed.guest.vm == vm]
        self.feeds.remove(feed)
        vms, rows = self._cut()
        mine = vms == vm
        feed.put_back(rows.part(mine))
        self._append(vms[~mine], [rows.part(~mine)])
        return feed, late

    def join(self, feed: Feed, late: Sequence[WriteBatch] = ()) -> None:
        """A VM is tapped here from now on; call when all up to now is pulled."""
        self._late += late
        self._shift += _total(late)
        self.feeds.append(feed)
        vms, rows = self._cut()
        more = feed.take(self._end)
        self._append(np.concatenate([vms, np.full(len(more.issued), feed.guest.vm, np.int32)]), [rows, more])

    def _cut(self) -> tuple[Int32, Rows]:
        """The rows of the block that are not issued yet, with their VMs; they are to be appended again."""
        c, rest = self._block.columns, slice(self._at, None)
        return c.vm[rest], Rows(c.volume, c.lba, c.sectors, c.issued, self._block.acked_row).part(rest)

    def _append(self, vms: Int32, parts: list[Rows]) -> None:
        """The block goes on with these rows."""
        c, done = self._block.columns, slice(self._at)
        issued = Rows(c.volume, c.lba, c.sectors, c.issued, self._block.acked_row).part(done)
        self._block = _block(np.concatenate([c.vm[done], vms]), [issued, *parts], self._block.before)
        self._pace()

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
        late = _total(self._late)
        return self._block.amount(self._at) - self._withheld() - late + self._shift

    def changed(self, until: int) -> Counter[str]:
        """How many writes up to an instant were changed by faults of its guests, by kind."""
        return sum((feed.changed(until) for feed in self.feeds), Counter())

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
                return block.amount(rows) - self._withheld(now) + self._shift
        raise AssertionError
