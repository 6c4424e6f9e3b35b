"""Where writes go: from places on a working set to extents on a VM's volumes, a column at a time.

Plain workloads go around the volumes, write by write. The fitted one chooses among all bytes of the working set. In
both, each volume's part of the working set lies at its start and has the volume's share of all bytes.
Invariant: an extent never crosses the end of its volume; a write longer than the volume is cut to it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import CoreError
from drsim.core.units import SECTOR
from drsim.spec.workload import Fitted

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float = NDArray[np.float64]

FIRST = 63
"""Sector at which fitted data begin, as on the measured VM's disk (98 % of its writes are off the 4-KiB grid)."""
GRID = 8
"""Sectors between the places at which a fitted run may begin: 4 KiB, a file system's block."""


def volume_sectors(sizes: Sequence[int]) -> Int64:
    """Whole sectors of each volume, from bytes. Raises CoreError when there is no volume, or one without a sector."""
    sectors = np.array([size // SECTOR for size in sizes], np.int64)
    if not len(sectors) or sectors.min() < 1:
        raise CoreError(f"a source of writes needs volumes of at least {SECTOR} bytes, not {list(sizes)}")
    return sectors


def parts(sectors: Int64, nbytes: int | None) -> Int64:
    """Sectors of each volume that belong to a set of `nbytes`, in proportion to its size; at least one sector."""
    if nbytes is None:
        return sectors
    share = min(1.0, nbytes / SECTOR / int(sectors.sum()))
    return np.clip((sectors * share).astype(np.int64), 1, sectors)


class RoundRobin:
    """Extents of equal writes: write number k goes to volume k modulo the number of volumes.

    A volume's part of the working set is cut into slots of one write. `slot` says which one is written.
    """

    def __init__(self, sizes: Sequence[int], working_set: int | None, nbytes: int, block: int) -> None:
        total = volume_sectors(sizes)
        length = np.minimum(nbytes // SECTOR, total)
        self.slots = np.maximum(1, parts(total, working_set) // length)
        self._lengths, self._block = length.astype(np.int32), block
        self._one = len(total) == 1
        self._volume = np.zeros(block, np.int32)
        self._sectors = np.full(block, length[0], np.int32)

    def _extents(self, first: int) -> tuple[Int32, Int32]:
        if self._one:
            return self._volume, self._sectors
        volume = ((first + np.arange(self._block)) % len(self.slots)).astype(np.int32)
        return volume, self._lengths[volume]

    def sequential(self, first: int) -> tuple[Int32, Int64, Int32]:
        """Volume, first sector and length of the writes numbered from `first`, one slot after another."""
        volume, sectors = self._extents(first)
        if self._one:
            turn = np.arange(self._block) + first % self.slots[0]
            if turn[-1] >= self.slots[0]:
                turn %= self.slots[0]
        else:
            turn = (first + np.arange(self._block)) // len(self.slots) % self.slots[volume]
        return volume, turn * sectors, sectors

    def uniform(self, first: int, rng: np.random.Generator) -> tuple[Int32, Int64, Int32]:
        """The same, anywhere."""
        volume, sectors = self._extents(first)
        slots = self.slots[0] if self._one else self.slots[volume]
        slot = (rng.random(self._block) * slots).astype(np.int64)
        return volume, slot * sectors, sectors


class HotAndCold:
    """Extents of the fitted workload. A write continues the one before, or begins a run in the hot set or anywhere.

    The hot set is the start of each volume's part of the working set. Runs begin on a grid of 4 KiB, a run that
    leaves the working set goes on at its start.
    """

    def __init__(self, sizes: Sequence[int], workload: Fitted) -> None:
        total = volume_sectors(sizes)
        self._w = workload
        self._first = np.where(total > 2 * FIRST, FIRST, 0)
        room = total - self._first
        self._set = parts(room, workload.working_set)
        self._hot = np.minimum(parts(room, workload.hot_set), self._set)
        self._run = (0, 0)
        """Volume of the current run, and the sector after its last write."""
        self._begun = False

    def place(self, sectors: Int32, rng: np.random.Generator) -> tuple[Int32, Int64, Int32]:
        """Volume, first sector and length of the next writes, given their wanted lengths. Draws 3 numbers a write."""
        n = len(sectors)
        u = rng.random((3, n))
        fresh = u[0] >= self._w.sequential
        if n and not self._begun:
            fresh[0] = self._begun = True
        begins = np.flatnonzero(fresh)
        volume, start = self._start(u[1][begins] < self._w.hot_share, u[2][begins])
        end = np.cumsum(sectors, dtype=np.int64)
        before = end - sectors
        run = np.cumsum(fresh)
        # Row 0 is the run that goes on from the block before; the others begin at `begins`.
        run_volume = np.concatenate(([self._run[0]], volume)).astype(np.int32)
        run_start = np.concatenate(([self._run[1]], start - before[begins]))
        volumes = run_volume[run]
        lba = run_start[run] + before
        if n:
            self._run = (int(volumes[-1]), int(lba[-1]) + int(sectors[-1]))
        if len(self._set) == 1:
            limit, first = self._set[0], self._first[0]
            length = np.minimum(sectors, np.int32(min(limit, 1 << 30)))
            last = limit - length
        else:
            length = np.minimum(sectors, self._set[volumes]).astype(np.int32)
            last, first = self._set[volumes] - length, self._first[volumes]
        over = lba > last
        if over.any():
            lba = np.where(over, lba % (last + 1), lba)
        return volumes, lba + first, length

    def _start(self, hot: NDArray[np.bool_], u: Float) -> tuple[Int32 | Int64, Int64]:
        """Volume and sector (within the working set) at which runs begin."""
        if len(self._set) == 1:
            place = (u * np.where(hot, self._hot[0], self._set[0])).astype(np.int64)
            return np.zeros(len(u), np.int32), place & -GRID
        volume, place = self._among(self._set, u)
        hot_volume, hot_place = self._among(self._hot, u)
        return np.where(hot, hot_volume, volume), np.where(hot, hot_place, place) & -GRID

    @staticmethod
    def _among(room: Int64, u: Float) -> tuple[Int64, Int64]:
        ends = np.cumsum(room)
        place = (u * ends[-1]).astype(np.int64)
        volume = np.minimum(np.searchsorted(ends, place, side="right"), len(room) - 1)
        return volume, place - (ends - room)[volume]
