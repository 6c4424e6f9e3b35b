"""Taps: the writes of a stream's VMs as columns, pulled up to an instant, and how much of it was acknowledged.

Blocks of writes are drawn ahead over a horizon that does not depend on the fidelity, and handed out as windows on
their columns. So both fidelities see the same writes, and pulling costs no copy.

A guest is acknowledged a write when its disk has it (`guest.py`). While a VRA holds the guests of any VPG, no guest in
it is acknowledged anything, whichever tap is asked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drsim.core.batch import Columns, Int32, Int64, WriteBatch
from drsim.core.names import Address, StreamId, StreamSpec, VmId
from drsim.core.units import SECOND, SECTOR
from drsim.sim.guest import NO_ROWS, Feed, GuestVm, Rows, Writer

BLOCK_WRITES = 8192


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


Postponed = tuple[WriteBatch, Int64]
"""Writes of a VM at rest, with the times at which they would have been acknowledged."""


class Unissued(NamedTuple):
    """What a VM has not issued though its time has come: it was at rest (`late`: issued just now), or still is."""

    late: list[WriteBatch]
    postponed: list[Postponed]
    at_rest: bool


GOES_ON = Unissued([], [], False)


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


def _apart(batches: Iterable[WriteBatch], vm: VmId) -> tuple[list[WriteBatch], list[WriteBatch]]:
    """Those of a VM, and the others; each is of one VM."""
    parts: tuple[list[WriteBatch], list[WriteBatch]] = [], []
    for batch in batches:
        parts[int(batch.vm[0] != vm)].append(batch)
    return parts


def _of(postponed: Sequence[Postponed], vm: VmId, *, others: bool = False) -> list[Postponed]:
    """What is postponed of a VM, or of all others."""
    found = [(batch, acked, (batch.vm == vm) ^ others) for batch, acked in postponed]
    return [(batch.take(rows), acked[rows]) for batch, acked, rows in found if rows.any()]


def _some(rows: Columns | WriteBatch, acked: Int64, vm: VmId, since: int, until: int) -> Amount:
    """The writes of a VM whose acknowledgement is due after `since`, up to and including `until`."""
    mine = (rows.vm == vm) & (acked > since) & (acked <= until)
    return Amount(int(mine.sum()), int(rows.sectors[mine].sum()) * SECTOR)


def _total(batches: Iterable[WriteBatch]) -> Amount:
    return sum((Amount(len(batch), batch.nbytes) for batch in batches), NONE)


class Tap:
    """The writes of one stream, in the order in which the source disks end up holding them.

    VMs may leave a tap and join another one (`leave`, `join`): the same writes are issued at the same times.
    `held_since`: nothing is acknowledged to its guests since then.
    """

    def __init__(self, spec: StreamSpec, writers: Sequence[Writer], *, begin: int = 0) -> None:
        self.spec = spec
        self.feeds = [Feed(writer) for writer in writers]
        for feed in self.feeds:
            feed.tap = self
        self._end = begin
        self._at = 0
        self.held_since: int | None = None
        self._at_rest: set[VmId] = set()
        self._postponed: list[Postponed] = []
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

    def leave(self, vm: VmId) -> tuple[Feed, Unissued]:
        """A VM is tapped here no more; call when all up to now is pulled. Its feed, and what it has not issued."""
        late, self._late = _apart(self._late, vm)
        postponed, self._postponed = _of(self._postponed, vm), _of(self._postponed, vm, others=True)
        at_rest = vm in self._at_rest
        self._at_rest.discard(vm)
        self._shift -= _total([*late, *(batch for batch, _ in postponed)])
        (feed,) = [feed for feed in self.feeds if feed.guest.vm == vm]
        self.feeds.remove(feed)
        feed.tap = None
        vms, rows = self._cut()
        mine = vms == vm
        feed.put_back(rows.part(mine))
        self._append(vms[~mine], [rows.part(~mine)])
        return feed, Unissued(late, postponed, at_rest)

    def join(self, feed: Feed, unissued: Unissued = GOES_ON) -> None:
        """A VM is tapped here from now on; call when all up to now is pulled."""
        self._late += unissued.late
        self._postponed += unissued.postponed
        self._shift += _total([*unissued.late, *(batch for batch, _ in unissued.postponed)])
        if unissued.at_rest:
            self._at_rest.add(feed.guest.vm)
        self.feeds.append(feed)
        feed.tap = self
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
        for late, _ in _of(self._postponed, vm):
            at = np.full(len(late), now, np.int64)
            self._late.append(WriteBatch.of(late.vm, late.volume, late.lba, late.sectors, at))
        self._postponed = _of(self._postponed, vm, others=True)

    def resume(self, vm: VmId) -> None:
        """A VM goes on, and what it would have written meanwhile is never written."""
        self._at_rest.discard(vm)
        mine = _of(self._postponed, vm)
        self._shift -= _total(batch for batch, _ in mine)
        self._postponed = _of(self._postponed, vm, others=True)

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

    def hold(self, now: int) -> None:
        """Nothing is acknowledged from now on."""
        self.held_since = now

    def release(self) -> None:
        """What was withheld is acknowledged, unless another tap holds it."""
        self.held_since = None

    def acknowledged(self, now: int) -> Amount:
        """Everything acknowledged to the guests up to and including `now`; the last block's order is by time."""
        if self.held_since is not None:
            now = self.held_since
        self._ensure(now)
        missing = self._withheld(now) + self._held_elsewhere(now)
        for block in (self._block, self._previous):
            rows = int(np.searchsorted(block.acked, now, side="right"))
            if rows or block is self._previous:
                return block.amount(rows) - missing + self._shift
        raise AssertionError

    def _held_elsewhere(self, until: int) -> Amount:
        """What the disks have by an instant and is not acknowledged, because another tap of its VM is held."""
        total = NONE
        for feed in self.feeds:
            since = feed.writer.held_since if len(feed.writer.feeds) > 1 else None
            if since is None or since >= until:
                continue
            for block in (self._block, self._previous):
                total += _some(block.columns, block.acked_row, feed.guest.vm, since, until)
            for batch, acked in self._postponed:  # counted as withheld already
                total -= _some(batch, acked, feed.guest.vm, since, until)
        return total
