"""Sweep: what a VRA reads of its disks for a synchronization, while guests write to them.

Theory of operation. Nobody is kept from writing. What is read of a region may be older than a write that comes
meanwhile, or have a part of it; every such write is heard before the answer, and after the question. The core takes
such writes for newer than what was read (`core/sender.py`), so all that is owed is the order:

    read, without a lock
    wait until the writes under way have been captured: who writes holds the disk's lock until then
    put the answer behind them
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from drsim.core.batch import WriteBatch
from drsim.core.effects import EffectId, ReadDigests, ReadRegions
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import Done, Failed
from drsim.core.names import Extent
from drsim.core.units import SECTOR
from drsim.real.digests import of_regions

PIECE = 1 << 20
"""Bytes that are read at once to be digested, about."""
YIELD = 9
"""How many times as long as it works a sweep waits that guests outrun."""
BUSY = 0.05
"""Seconds between two reads in which a sweep may have worked all the time."""


class Readable(Protocol):
    """A disk."""

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill the memory with what lies from a byte offset on. Raises PlatformError."""
        ...


class Pace:
    """Guests come before a sweep that they outrun.

    While more becomes dirty than it reads, a sweep cannot end before guests write less. So it waits, `YIELD` times as
    long as it worked since the last read: it takes a tenth of the time. Linux md (`sync_speed_min`) and DRBD
    (`c-min-rate`) yield to guests as well. One that is held up by the link takes nobody's time, and does not wait.
    """

    def __init__(self) -> None:
        self._left, self._since = 0, 0.0

    def paced(self, read: Callable[[], None], left: int) -> Callable[[], None]:
        """A sweep's read in its time. `left`: bytes that are dirty besides what it reads."""
        pause = self.pause(time.monotonic(), left)

        def later() -> None:
            time.sleep(pause)
            read()

        return later

    def pause(self, now: float, left: int) -> float:
        """Seconds to wait before a read. `now`: of any clock."""
        worked, outrun = max(0.0, now - self._since), left >= self._left and left > 0
        pause = YIELD * worked if outrun and worked < BUSY else 0.0
        self._left, self._since = left, now + pause
        return pause


def answer_of(
    id_: EffectId, effect: ReadRegions | ReadDigests, disks: Mapping[int, Readable], region_bytes: int
) -> Done | Failed:
    """What reading comes to; `disks` by volume."""
    try:
        if isinstance(effect, ReadRegions):
            return Done(id_, effect, _content(effect.batch, disks))
        return Done(id_, effect, _digests(effect.extent, disks, region_bytes))
    except DrsimError as error:
        return Failed(id_, effect, error)


def _digests(extent: Extent, disks: Mapping[int, Readable], region_bytes: int) -> bytes:
    disk, made = _disk(disks, extent.volume), list[bytes]()
    end, piece = (extent.lba + extent.sectors) * SECTOR, max(region_bytes, PIECE // region_bytes * region_bytes)
    for at in range(extent.lba * SECTOR, end, piece):
        memory = memoryview(bytearray(min(piece, end - at)))
        disk.read_into(at, memory)
        made.append(of_regions(memory, region_bytes))
    return b"".join(made)


def _content(batch: WriteBatch, disks: Mapping[int, Readable]) -> WriteBatch:
    data = bytearray(batch.nbytes)
    memory, at = memoryview(data), 0
    rows = zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True)
    for volume, lba, sectors in rows:
        end = at + sectors * SECTOR
        _disk(disks, volume).read_into(lba * SECTOR, memory[at:end])
        at = end
    return WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, data)


def _disk(disks: Mapping[int, Readable], volume: int) -> Readable:
    if volume not in disks:
        raise PlatformError(f"volume {volume} is not there")
    return disks[volume]
