"""BlockTrace: the writes of a recorded trace as columns, in time order, whatever file they came from.

Every parser ends in `assemble`, which checks what holds for all formats (there are writes, the span is credible),
puts requests in time order and drops the reads. So nothing half-read leaves this package.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.core.units import SECOND, SECTOR

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

MAX_SECTORS = (1 << 30) // SECTOR
"""Longest credible request, 1 GiB; our choice, far above the 32 MiB that systems issue."""
MAX_LBA = 1 << 44
"""Sectors of the largest credible disk, 8 PiB; our choice."""
MAX_SPAN = 10 * 366 * 86_400 * SECOND
"""Longest credible trace, ten years in nanoseconds; more is a wrong unit or a damaged time."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockTrace:
    """The writes of a trace. Columns have length n.

    format: the name of the format it was read from. issued: int64, nanoseconds from the trace's first request,
    ascending; requests of the same time keep the order of the file. device: int32, index into `devices`.
    lba: int64, first 512-byte sector. sectors: int32, length. duration: nanoseconds from the first request to the
    last, plus one mean distance, so that a loop keeps the rate. reads: requests of the file that are not writes.
    """

    format: str
    issued: Int64
    device: Int32
    lba: Int64
    sectors: Int32
    devices: tuple[str, ...]
    duration: int
    reads: int

    def __len__(self) -> int:
        return len(self.issued)

    @property
    def nbytes(self) -> int:
        """Bytes of all writes."""
        return int(self.sectors.sum(dtype=np.int64)) * SECTOR

    def select(self, device: str | None) -> "BlockTrace":
        """The writes of one device, on the same clock; all of them for None.

        `reads` stays that of the whole file. Raises FileError for a device that the trace does not have, or that
        writes nothing.
        """
        if device is None:
            return self
        if device not in self.devices:
            known = ", ".join(self.devices[:20]) + (" ..." if len(self.devices) > 20 else "")
            raise FileError(f"the trace has no device {device!r}", hint=f"its devices: {known}")
        mine = self.device == self.devices.index(device)
        if not mine.any():
            raise FileError(f"device {device!r} of the trace writes nothing", hint="choose another device")
        return BlockTrace(
            self.format,
            self.issued[mine],
            np.zeros(int(mine.sum()), np.int32),
            self.lba[mine],
            self.sectors[mine],
            (device,),
            self.duration,
            self.reads,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Checked requests of a file, reads and writes, in the order of the file. Columns have length n.

    time: int64, in units of `unit` nanoseconds from any origin. write: bool. device: int codes into `devices`.
    start, length: int64, in bytes if `in_bytes`, else in sectors. resolution: the clock's step in nanoseconds.
    """

    time: Int64
    write: Bool
    device: NDArray[Any]
    devices: tuple[str, ...]
    start: Int64
    length: Int64
    unit: int
    in_bytes: bool
    resolution: int = 1


def assemble(path: Path, form: str, requests: Requests) -> BlockTrace:
    """The writes among checked requests, in time order.

    Bytes that do not begin or end on a sector touch the whole sector. Raises FileError when there is nothing to
    replay or the times span more than `MAX_SPAN`.
    """
    r = requests
    total, writes = len(r.time), int(np.count_nonzero(r.write))
    if total == 0:
        raise FileError("the trace has no requests", place=str(path), hint="record some I/O, or name another file")
    if writes == 0:
        raise FileError(
            f"none of the {total} requests is a write",
            place=str(path),
            hint="only writes are replicated; name a trace that has some",
        )
    first, last = int(r.time.min()), int(r.time.max())
    if (last - first) * r.unit > MAX_SPAN:
        odd = int(np.argmax(np.abs(r.time - np.median(r.time))))
        raise FileError(
            f"the times span {(last - first) * r.unit / 86_400 / SECOND:.0f} days, more than ten years; "
            f"request {odd + 1} is the farthest off",
            place=str(path),
            hint=f"{form} times count {r.unit} ns; check the format and for damaged times",
        )
    issued = (r.time[r.write] - first) * r.unit
    order: slice | Int64 = slice(None)
    if np.any(issued[1:] < issued[:-1]):
        order = np.argsort(issued, kind="stable")
    start, length = r.start[r.write], r.length[r.write]
    if r.in_bytes:
        end = -(-(start + length) // SECTOR)
        start = start // SECTOR
        length = end - start
    span = (last - first) * r.unit
    gap = span // (total - 1) if span else SECOND
    return BlockTrace(
        form,
        issued[order],
        np.asarray(r.device[r.write][order], np.int32),
        start[order],
        length[order].astype(np.int32),
        r.devices,
        span + max(gap, r.resolution),
        total - writes,
    )
