"""DirtyBitmap: which regions of the protected disks differ, or may differ, from what the recovery side has.

A region is a fixed number of sectors of one volume. The set is kept as a sorted array of keys plus a short list of
arrays not yet merged, so that memory follows the dirty set and not the size of the disks. Whole volumes are kept as
spans of keys: those that are dirty from end to end (`fill`), and those of which nobody knows (`distrust`), until the
sweep reaches them. What nobody knows is compared before it is sent, and counts as dirty until then.

Invariant: no key lies in a span, and no two spans overlap.

Invariant (superset rule, PROTOCOL 5): sectors where replica and source differ lie within
dirty + in flight + queued.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from drsim.core.batch import FEW, Int64, WriteBatch
from drsim.core.errors import PeerError
from drsim.core.names import Extent, VolumeId, VolumeInfo
from drsim.core.units import SECTOR, Ns

_SHIFT = np.int64(40)  # a key is volume << 40 | region; 2^40 regions of one sector are 512 TiB
_MASK = (1 << 40) - 1

MERGE = 8192
"""Up to this many rows are marked before they are sorted into the rest."""

Span = tuple[int, int]
"""Keys from, up to and not including."""


class DirtyBitmap:
    """Dirty regions of the volumes of one stream."""

    __slots__ = ("_cursor", "_keys", "_pending", "_pending_rows", "_runs", "_sectors", "_unsure", "_volumes")

    def __init__(self, region_bytes: int, volumes: Sequence[VolumeInfo]) -> None:
        self._sectors = region_bytes // SECTOR
        self._volumes = {v.id: v for v in volumes}
        self._keys: Int64 = np.zeros(0, np.int64)
        self._pending: list[Int64 | list[int]] = []
        self._pending_rows = 0
        self._runs: deque[Span] = deque()  # dirty from end to end
        self._unsure: deque[Span] = deque()  # to be compared
        self._cursor = 0  # where the sweep goes on

    def mark(self, batch: WriteBatch) -> None:
        """Every region that a row touches, wholly or partly, is dirty."""
        rows = len(batch)
        if not rows:
            return
        keys = self._keys_of_few(batch) if rows <= FEW else self._keys_of(batch)
        self._pending.append(keys)
        self._pending_rows += len(keys)
        if self._pending_rows > max(MERGE, len(self._keys)):
            self._merge()

    def mark_keys(self, keys: Int64) -> None:
        """These regions are dirty, as `regions` has them."""
        self._pending.append(keys)
        self._pending_rows += len(keys)

    def add(self, other: "DirtyBitmap") -> None:
        """What is dirty there for certain is dirty here too, as far as its volumes are here."""
        other._merge()
        self.mark_keys(other._keys[np.isin(other._keys >> _SHIFT, list(self._volumes))])
        for start, stop in other._runs:
            if (start >> 40) in self._volumes:
                self._spread(start, min(stop, self._span(VolumeId(start >> 40))[1]))

    def _keys_of(self, batch: WriteBatch) -> Int64:
        first = batch.lba // self._sectors
        last = (batch.lba + batch.sectors - 1) // self._sectors
        spans = last - first + 1
        base = batch.volume.astype(np.int64) << _SHIFT
        keys: Int64 = base | first
        if int(spans.max()) > 1:
            starts = np.cumsum(spans) - spans
            keys = np.repeat(keys, spans) + np.arange(int(spans.sum())) - np.repeat(starts, spans)
        return keys

    def _keys_of_few(self, batch: WriteBatch) -> list[int]:
        keys: list[int] = []
        sectors = self._sectors
        for volume, lba, n in zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True):
            base = volume << 40
            keys += range(base | lba // sectors, (base | (lba + n - 1) // sectors) + 1)
        return keys

    def fill(self, volumes: Iterable[VolumeId] | None = None) -> None:
        """Every region of these volumes is dirty; None: of all."""
        spans = [self._span(v) for v in (sorted(self._volumes) if volumes is None else volumes)]
        self._take_out(spans)
        self._runs.extend(spans)
        self._cursor = spans[0][0] if spans else self._cursor  # the sweep begins anew

    def distrust(self, volumes: Iterable[VolumeId] | None = None) -> None:
        """Nobody knows what of these volumes the other side has; None: of all. What is wholly dirty stays so."""
        spans = [self._span(v) for v in (sorted(self._volumes) if volumes is None else volumes)]
        for start, stop in self._runs:
            spans = [rest for span in spans for rest in _without(span, start, stop)]
        self._take_out(spans)
        self._unsure.extend(spans)

    def reshape(self, volumes: Sequence[VolumeInfo]) -> None:
        """The stream has these volumes now: what has left is forgotten, what has come or grown is dirty."""
        old, self._volumes = self._volumes, {v.id: v for v in volumes}
        self._take_out([(id_ << 40, (id_ + 1) << 40) for id_ in old.keys() - self._volumes.keys()])
        for id_ in sorted(old.keys() & self._volumes.keys()):
            (start, stop), before = self._span(id_), old[id_].sectors
            first = start + before // self._sectors
            if self._volumes[id_].sectors > before:
                self._spread(first, stop)
        self.fill(sorted(self._volumes.keys() - old.keys()))

    def _spread(self, start: int, stop: int) -> None:
        """These regions are dirty, as one span unless some of them lie in one already."""
        spans = [(start, stop)]
        for others in (self._runs, self._unsure):
            for a, b in others:
                spans = [rest for span in spans for rest in _without(span, a, b)]
        self._take_out(spans)
        self._runs.extend(spans)

    def _span(self, volume: VolumeId) -> Span:
        return volume << 40, (volume << 40) - (-self._volumes[volume].sectors // self._sectors)

    def _take_out(self, spans: Sequence[Span]) -> None:
        """Nothing in these spans is marked any more. Another span lies wholly in one of them, or not at all."""
        self._merge()
        for start, stop in spans:
            if len(self._keys):
                self._keys = self._keys[(self._keys < start) | (self._keys >= stop)]
            for others in (self._runs, self._unsure):
                kept = [span for span in others if not start <= span[0] < stop]
                others.clear()
                others.extend(kept)

    def _merge(self) -> None:
        if not self._pending:
            return
        if self._pending_rows + len(self._keys) <= 8 * FEW:
            merged = set(self._keys.tolist()).union(*self._pending)
            for start, stop in (*self._runs, *self._unsure):
                merged = {key for key in merged if not start <= key < stop}
            if len(merged) > len(self._keys):
                self._keys = np.array(sorted(merged), np.int64)
            self._pending, self._pending_rows = [], 0
            return
        new = np.concatenate(self._pending)
        new.sort()
        first = np.ones(len(new), np.bool_)  # NumPy's own `unique` goes by a hash table, several times slower
        np.not_equal(new[1:], new[:-1], out=first[1:])
        new = new[first]
        self._pending, self._pending_rows = [], 0
        for start, stop in (*self._runs, *self._unsure):
            new = new[(new < start) | (new >= stop)]
        at = np.searchsorted(self._keys, new)
        known = np.zeros(len(new), np.bool_)
        inside = at < len(self._keys)
        known[inside] = self._keys[at[inside]] == new[inside]
        self._keys = np.insert(self._keys, at[~known], new[~known])

    def __len__(self) -> int:
        """Regions that are dirty, or may be."""
        self._merge()
        regions = len(self._keys)
        for start, stop in chain(self._runs, self._unsure):
            regions += stop - start
        return regions

    @property
    def nbytes(self) -> int:
        """Bytes of these regions."""
        return len(self) * self._sectors * SECTOR

    def outgrown(self, regions: int) -> bool:
        """Whether more than so many regions take memory of their own; those in spans do not."""
        if self._pending_rows + len(self._keys) <= regions:
            return False
        self._merge()
        return len(self._keys) > regions

    @property
    def unsure(self) -> bool:
        """Whether some regions are to be compared."""
        return bool(self._unsure)

    @property
    def known(self) -> bool:
        """Whether some regions are dirty for certain."""
        if self._pending:
            self._merge()
        return bool(self._runs) or len(self._keys) > 0

    def take(self, nbytes: int, now: Ns) -> WriteBatch:
        """Remove the next dirty regions of the sweep, at most `nbytes` and at least one, as rows of whole neighbours.

        The sweep goes round, so a region that is written again and again is sent once a round. The caller owns them
        from now on: they are in flight until acknowledged, or must be marked again. Call when some are `known`.
        """
        self._merge()
        n = max(1, nbytes // (self._sectors * SECTOR))
        if self._runs:
            self._unroll(n)
        at = int(self._keys.searchsorted(self._cursor))
        at = 0 if at == len(self._keys) else at
        taken = self._keys[at : at + n].tolist()
        after = self._keys[at + n :]
        self._keys = np.concatenate([self._keys[:at], after]) if at else after
        self._cursor = taken[-1] + 1
        spans: list[list[int]] = []
        for key in taken:
            if spans and spans[-1][1] == key:
                spans[-1][1] += 1
            else:
                spans.append([key, key + 1])
        return self._rows(spans, now)

    def take_unsure(self, nbytes: int) -> Extent:
        """Remove the next regions to be compared, at most `nbytes` and at least one, neighbours.

        The caller owns them from now on: `settle` tells what came of it, `put_back` that nothing did. What is marked
        of them meanwhile is dirty, whatever the comparison says.
        """
        self._merge()  # what was marked of them before is compared with the rest
        start, stop = self._unsure.popleft()
        middle = min(stop, start + max(1, nbytes // (self._sectors * SECTOR)))
        if middle < stop:
            self._unsure.appendleft((middle, stop))
        return self._extent(start, middle)

    def settle(self, extent: Extent, differs: bytes) -> None:
        """Regions that were compared: those that differ are dirty. A byte for each, 0 or 1.

        Raises PeerError when there is another number of them.
        """
        start, stop = self._covered(extent)
        if len(differs) != stop - start:
            raise PeerError(f"{stop - start} regions were compared, {len(differs)} answers came")
        found = np.flatnonzero(np.frombuffer(differs, np.uint8))
        if len(found):
            self.mark_keys(found + start)

    def put_back(self, extent: Extent) -> None:
        """Regions that were to be compared, and were not."""
        span = self._covered(extent)
        self._take_out([span])
        self._unsure.appendleft(span)

    def _covered(self, extent: Extent) -> Span:
        start = extent.volume << 40 | extent.lba // self._sectors
        return start, start - (-extent.sectors // self._sectors)

    def _extent(self, start: int, stop: int) -> Extent:
        owner = self._volumes[VolumeId(start >> 40)]
        lba = (start & _MASK) * self._sectors
        return Extent(owner.vm, owner.id, lba, min((stop - start) * self._sectors, owner.sectors - lba))

    def _rows(self, spans: Sequence[Sequence[int]], now: Ns) -> WriteBatch:
        extents = [self._extent(start, stop) for start, stop in spans]
        vm, volume, lba, sectors = zip(*extents, strict=True)
        return WriteBatch.of(vm, volume, lba, sectors, [now] * len(extents))

    def _unroll(self, n: int) -> None:
        """The next `n` regions of the runs become keys, in the sweep's order, which goes round from its cursor."""
        if len(self._runs) > 1:
            self._runs = deque(sorted(self._runs, key=lambda span: (span[0] < self._cursor, span[0])))
        while self._runs and n > 0:
            start, stop = self._runs.popleft()
            keys = np.arange(start, min(stop, start + n), dtype=np.int64)
            at = int(self._keys.searchsorted(start))
            self._keys = np.concatenate([self._keys[:at], keys, self._keys[at:]]) if len(self._keys) else keys
            n -= len(keys)
            if start + len(keys) < stop:
                self._runs.appendleft((start + len(keys), stop))

    def regions(self) -> tuple[Int64, tuple[Span, ...]]:
        """Everything dirty: keys (volume << 40 | region) in order, and spans of keys beside them.

        The same array until something changes.
        """
        if self._pending:
            self._merge()
        return self._keys, (*self._runs, *self._unsure) if self._runs or self._unsure else ()

    def within(self, start: int, stop: int) -> "NDArray[np.bool_]":
        """Which of these regions, keys of one volume, are dirty, or may be."""
        self._merge()
        found = np.zeros(stop - start, np.bool_)
        first, last = self._keys.searchsorted([start, stop]).tolist()
        found[self._keys[first:last] - start] = True
        for a, b in (*self._runs, *self._unsure):
            found[max(0, a - start) : max(0, b - start)] = True
        return found

    def covers(self, volume: int, lba: int) -> bool:
        """Whether the region of this sector is dirty, or may be."""
        self._merge()
        key = (volume << 40) | (lba // self._sectors)
        at = int(self._keys.searchsorted(key))
        if at < len(self._keys) and int(self._keys[at]) == key:
            return True
        return any(start <= key < stop for start, stop in (*self._runs, *self._unsure))


def _without(span: Span, start: int, stop: int) -> list[Span]:
    """What is left of a span when another one is taken away."""
    parts = [(span[0], min(span[1], start)), (max(span[0], stop), span[1])]
    return [(a, b) for a, b in parts if a < b]
