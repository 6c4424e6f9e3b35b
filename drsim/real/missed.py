"""Missed: where writes went whose content a tap has no room for, or nobody wants.

Kept as they come, and as regions when there are many; regions double as long as there are too many of them. So memory
stays small however long nobody asks. More may be said to have been written than was; then it is synchronized in vain.
"""

from collections.abc import Mapping
from itertools import chain

import numpy as np

from drsim.core.batch import Int64, WriteBatch
from drsim.core.names import VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.disk import Run

MOST = 16384
"""Writes or regions."""
_SMALLEST = 8  # sectors of a region at first


class Missed:
    """See the module. One thread at a time."""

    def __init__(self) -> None:
        self._runs: list[tuple[VolumeInfo, tuple[int, ...], list[int]]] = []
        self._writes = 0
        self._region = _SMALLEST
        self._regions: dict[VolumeInfo, Int64] = {}

    def add(self, run: Run) -> None:
        """These writes went to the disk, and no further."""
        self._runs.append((run.volume, run.offsets, list(map(len, run.parts))))
        self._writes += len(run.offsets)
        if self._writes > MOST:
            self._sort()

    def _sort(self) -> None:
        """Turn writes into regions."""
        for volume in {run[0] for run in self._runs}:
            runs = [run for run in self._runs if run[0] == volume]
            offset = np.fromiter(chain.from_iterable(run[1] for run in runs), np.int64) // SECTOR
            size = np.fromiter(chain.from_iterable(run[2] for run in runs), np.int64) // SECTOR
            first, last = offset // self._region, (offset + size - 1) // self._region
            long = np.flatnonzero(last > first)
            others = [np.arange(a, b + 1) for a, b in zip(first[long].tolist(), last[long].tolist(), strict=True)]
            known = self._regions.get(volume, first[:0])
            self._regions[volume] = np.unique(np.concatenate([known, first, *others]))
        self._runs, self._writes = [], 0
        while sum(map(len, self._regions.values())) > MOST:
            self._region *= 2
            self._regions = {volume: np.unique(found // 2) for volume, found in self._regions.items()}

    def rows(self) -> Int64:
        """Volume, first sector and sectors of each region, in three columns."""
        self._sort()
        made = []
        for volume, found in self._regions.items():
            lba = found * self._region
            sectors = np.minimum(self._region, volume.sectors - lba)
            made.append(np.stack([np.full_like(lba, volume.id), lba, sectors], axis=1))
        return np.concatenate(made)


def rows_of(batch: WriteBatch) -> Int64:
    """Volume, first sector and sectors of each row, in three columns."""
    return np.stack([batch.volume, batch.lba, batch.sectors], axis=1)


def batch_of(rows: Int64, volumes: Mapping[VolumeId, VolumeInfo]) -> WriteBatch:
    """The rows as a batch, without content or the time of any write."""
    volume, lba, sectors = rows.T
    vm = np.array([volumes[VolumeId(id_)].vm for id_ in volume.tolist()], np.int32)
    return WriteBatch.of(vm, volume, lba, sectors, np.zeros_like(lba))
