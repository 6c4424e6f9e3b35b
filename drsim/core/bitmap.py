"""DirtyBitmap: which regions of the protected disks differ, or may differ, from what the recovery side has.

A region is a fixed number of sectors of one volume. The set is kept as a sorted array of keys plus a short list of
arrays not yet merged, so that memory follows the dirty set and not the size of the disks.

Invariant (superset rule, PROTOCOL 5): sectors where replica and source differ lie within
dirty + in flight + queued.
"""

from collections.abc import Sequence

import numpy as np

from drsim.core.batch import Int64, WriteBatch
from drsim.core.names import VolumeId, VolumeInfo
from drsim.core.units import SECTOR, Ns

_SHIFT = np.int64(40)  # a key is volume << 40 | region; 2^40 regions of one sector are 512 TiB
_MASK = np.int64((1 << 40) - 1)


class DirtyBitmap:
    """Dirty regions of the volumes of one stream."""

    __slots__ = ("_keys", "_pending", "_pending_rows", "_sectors", "_volumes")

    def __init__(self, region_bytes: int, volumes: Sequence[VolumeInfo]) -> None:
        self._sectors = region_bytes // SECTOR
        self._volumes = {v.id: v for v in volumes}
        self._keys: Int64 = np.zeros(0, np.int64)
        self._pending: list[Int64] = []
        self._pending_rows = 0

    def mark(self, batch: WriteBatch) -> None:
        """Every region that a row touches, wholly or partly, is dirty."""
        if not len(batch):
            return
        first = batch.lba // self._sectors
        last = (batch.lba + batch.sectors - 1) // self._sectors
        spans = last - first + 1
        base = batch.volume.astype(np.int64) << _SHIFT
        if int(spans.max()) == 1:
            keys = base | first
        else:
            starts = np.cumsum(spans) - spans
            keys = np.repeat(base | first, spans) + np.arange(int(spans.sum())) - np.repeat(starts, spans)
        self._pending.append(keys)
        self._pending_rows += len(keys)
        if self._pending_rows > max(8192, len(self._keys)):
            self._merge()

    def _merge(self) -> None:
        if self._pending:
            self._keys = np.unique(np.concatenate([self._keys, *self._pending]))
            self._pending, self._pending_rows = [], 0

    def __len__(self) -> int:
        """Dirty regions."""
        self._merge()
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Bytes of the dirty regions."""
        return len(self) * self._sectors * SECTOR

    def take(self, nbytes: int, now: Ns) -> WriteBatch:
        """Remove the first regions, at most `nbytes` and at least one, as rows of whole neighbouring regions.

        The caller owns them from now on: they are in flight until acknowledged, or must be marked again.
        """
        self._merge()
        n = max(1, nbytes // (self._sectors * SECTOR))
        taken, self._keys = self._keys[:n], self._keys[n:]
        starts = np.flatnonzero(np.r_[True, np.diff(taken) != 1])
        lengths = np.diff(np.r_[starts, len(taken)])
        volume = (taken[starts] >> _SHIFT).astype(np.int32)
        lba = (taken[starts] & _MASK) * self._sectors
        owners = [self._volumes[v] for v in map(VolumeId, volume.tolist())]
        vm = np.array([o.vm for o in owners], np.int32)
        size = np.array([o.sectors for o in owners], np.int64)
        issued = np.full(len(starts), now, np.int64)
        return WriteBatch.of(vm, volume, lba, np.minimum(lengths * self._sectors, size - lba), issued)

    def covers(self, volume: int, lba: int) -> bool:
        """Whether the region of this sector is dirty."""
        self._merge()
        key = (volume << 40) | (lba // self._sectors)
        at = int(np.searchsorted(self._keys, key))
        return at < len(self._keys) and int(self._keys[at]) == key
