"""DirtyBitmap: which regions of the protected disks differ, or may differ, from what the recovery side has.

A region is a fixed number of sectors of one volume. The set is kept as a sorted array of keys plus a short list of
arrays not yet merged, so that memory follows the dirty set and not the size of the disks. When everything is dirty
(`fill`), whole volumes are kept as runs of keys; the sweep breaks them into keys as it reaches them.

Invariant: no key lies in a run, and all runs lie at or after the sweep's cursor.

Invariant (superset rule, PROTOCOL 5): sectors where replica and source differ lie within
dirty + in flight + queued.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np

from drsim.core.batch import FEW, Int64, WriteBatch
from drsim.core.names import VolumeId, VolumeInfo
from drsim.core.units import SECTOR, Ns

_SHIFT = np.int64(40)  # a key is volume << 40 | region; 2^40 regions of one sector are 512 TiB
_MASK = (1 << 40) - 1


class DirtyBitmap:
    """Dirty regions of the volumes of one stream."""

    __slots__ = ("_cursor", "_keys", "_pending", "_pending_rows", "_runs", "_sectors", "_volumes")

    def __init__(self, region_bytes: int, volumes: Sequence[VolumeInfo]) -> None:
        self._sectors = region_bytes // SECTOR
        self._volumes = {v.id: v for v in volumes}
        self._keys: Int64 = np.zeros(0, np.int64)
        self._pending: list[Int64 | list[int]] = []
        self._pending_rows = 0
        self._runs: deque[tuple[int, int]] = deque()  # keys from, up to and not including; in order
        self._cursor = 0  # where the sweep goes on

    def mark(self, batch: WriteBatch) -> None:
        """Every region that a row touches, wholly or partly, is dirty."""
        if not len(batch):
            return
        keys = self._keys_of_few(batch) if len(batch) <= FEW else self._keys_of(batch)
        self._pending.append(keys)
        self._pending_rows += len(keys)
        if self._pending_rows > max(8192, len(self._keys)):
            self._merge()

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

    def fill(self) -> None:
        """Every region of every volume is dirty, and the sweep begins anew."""
        self._keys, self._pending, self._pending_rows, self._cursor = np.zeros(0, np.int64), [], 0, 0
        self._runs = deque(
            (volume.id << 40, (volume.id << 40) - (-volume.sectors // self._sectors))
            for volume in sorted(self._volumes.values(), key=lambda v: v.id)
        )

    def _merge(self) -> None:
        if not self._pending:
            return
        if self._pending_rows + len(self._keys) <= 8 * FEW and not self._runs:
            merged = set(self._keys.tolist()).union(*self._pending)
            self._keys = np.array(sorted(merged), np.int64)
            self._pending, self._pending_rows = [], 0
            return
        new = np.unique(np.concatenate(self._pending))
        self._pending, self._pending_rows = [], 0
        for start, stop in self._runs:
            new = new[(new < start) | (new >= stop)]
        at = np.searchsorted(self._keys, new)
        known = np.zeros(len(new), np.bool_)
        inside = at < len(self._keys)
        known[inside] = self._keys[at[inside]] == new[inside]
        self._keys = np.insert(self._keys, at[~known], new[~known])

    def __len__(self) -> int:
        """Dirty regions."""
        self._merge()
        return len(self._keys) + sum(stop - start for start, stop in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes of the dirty regions."""
        return len(self) * self._sectors * SECTOR

    def take(self, nbytes: int, now: Ns) -> WriteBatch:
        """Remove the next regions of the sweep, at most `nbytes` and at least one, as rows of whole neighbours.

        The sweep goes round, so a region that is written again and again is sent once a round. The caller owns them
        from now on: they are in flight until acknowledged, or must be marked again.
        """
        self._merge()
        n = max(1, nbytes // (self._sectors * SECTOR))
        self._unroll(n)
        at = int(self._keys.searchsorted(self._cursor))
        at = 0 if at == len(self._keys) else at
        taken = self._keys[at : at + n].tolist()
        self._keys = np.concatenate([self._keys[:at], self._keys[at + n :]])
        self._cursor = taken[-1] + 1
        rows: list[list[int]] = []  # vm, volume, lba, sectors
        after = -1
        for key in taken:
            owner = self._volumes[VolumeId(key >> 40)]
            lba = (key & _MASK) * self._sectors
            sectors = min(self._sectors, owner.sectors - lba)
            if key == after:
                rows[-1][3] += sectors
            else:
                rows.append([owner.vm, owner.id, lba, sectors])
            after = key + 1
        vm, volume, lbas, lengths = zip(*rows, strict=True)
        return WriteBatch.of(vm, volume, lbas, lengths, [now] * len(rows))

    def _unroll(self, n: int) -> None:
        """The next `n` regions of the runs become keys."""
        while self._runs and n:
            start, stop = self._runs.popleft()
            keys = np.arange(start, min(stop, start + n), dtype=np.int64)
            self._keys = np.insert(self._keys, np.searchsorted(self._keys, start), keys)
            n -= len(keys)
            if start + len(keys) < stop:
                self._runs.appendleft((start + len(keys), stop))

    def regions(self) -> tuple[Int64, tuple[tuple[int, int], ...]]:
        """Everything dirty: keys (volume << 40 | region) in order, and runs of keys [start, stop) beside them.

        The same array until something changes.
        """
        self._merge()
        return self._keys, tuple(self._runs) if self._runs else ()

    def covers(self, volume: int, lba: int) -> bool:
        """Whether the region of this sector is dirty."""
        self._merge()
        key = (volume << 40) | (lba // self._sectors)
        at = int(self._keys.searchsorted(key))
        if at < len(self._keys) and int(self._keys[at]) == key:
            return True
        return any(start <= key < stop for start, stop in self._runs)
