"""Missed: where writes went whose content a tap had no room for.

Kept by regions, which double when there are too many of them: memory stays small however long nobody asks. More may be
said to have been written than was; then it is synchronized in vain.
"""

from collections.abc import Mapping

import numpy as np

from drsim.core.batch import Int64, WriteBatch
from drsim.core.names import VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.disk import Run

SHIFT = 12
"""Of the smallest regions: 4 KiB, as guests write at least."""
MOST = 16384
"""Regions of a volume."""


class Missed:
    """See the module. One thread at a time."""

    def __init__(self) -> None:
        self._shift = SHIFT
        self._regions: dict[VolumeInfo, set[int]] = {}

    def add(self, run: Run) -> None:
        """These writes went to the disk, and no further."""
        shift, regions = self._shift, self._regions.setdefault(run.volume, set())
        for offset, part in zip(run.offsets, run.parts, strict=True):
            first, last = offset >> shift, offset + len(part) - 1 >> shift
            if first == last:
                regions.add(first)
            else:
                regions.update(range(first, last + 1))
        while len(regions) > MOST:
            self._shift += 1
            self._regions = {volume: {n >> 1 for n in found} for volume, found in self._regions.items()}
            regions = self._regions[run.volume]

    def rows(self) -> Int64:
        """Volume, first sector and sectors of each region, in three columns."""
        made = []
        per = (1 << self._shift) // SECTOR
        for volume, regions in self._regions.items():
            lba = np.array(sorted(regions), np.int64) * per
            made.append(np.stack([np.full_like(lba, volume.id), lba, np.minimum(per, volume.sectors - lba)], axis=1))
        return np.concatenate(made)


def batch_of(rows: Int64, volumes: Mapping[VolumeId, VolumeInfo]) -> WriteBatch:
    """The rows as a batch, without content or the time of any write."""
    volume, lba, sectors = rows.T
    vm = np.array([volumes[VolumeId(id_)].vm for id_ in volume.tolist()], np.int32)
    return WriteBatch.of(vm, volume, lba, sectors, np.zeros_like(lba))
