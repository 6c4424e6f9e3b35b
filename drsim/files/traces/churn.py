"""Churn: how many bytes each disk wrote in each interval, as monitoring records it, and its expansion to writes.

A file of churn is CSV with a header line. It has `ts_s` (end of the interval, seconds), `write_bytes` or
`write_pages4k`, and may have `vm` and `unique_bytes` or `write_wss_bytes` (distinct bytes written); other columns
are passed over.

An interval says nothing about its inside. The expansion takes equal writes at equal distances, so bursts inside an
interval are lost and peaks are flatter than they were.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces.block import MAX_LBA, MAX_SPAN, BlockTrace, Int32, Int64
from drsim.files.traces.table import Field, line_error, read_table, split

AMOUNTS = {"write_bytes": 1, "write_pages4k": 4096}
"""Columns that say how much was written, and the bytes of one unit."""
UNIQUES = ("unique_bytes", "write_wss_bytes")
COALESCING = 2.05
"""Written over unique bytes where the file does not say: the median of 53 disks in 30 min (traces' README)."""
WRITE_BYTES = 16 << 10
"""Bytes of an expanded write: about the median disk's mean write, 15.5 KB (traces' README)."""
MOST_WRITES = 8 << 20
"""Writes of a whole expansion; disks that would need more get larger writes."""


@dataclass(frozen=True, slots=True, eq=False)
class Churn:
    """Written bytes by disk and interval. Columns have length n, by disk and then by time.

    device: int32, index into `devices`. starts, ends: int64, nanoseconds from the first interval's start.
    written: int64, bytes. unique: int64, distinct bytes, or None when the file does not say.
    """

    devices: tuple[str, ...]
    device: Int32
    starts: Int64
    ends: Int64
    written: Int64
    unique: Int64 | None

    def expand(self, *, write_bytes: int = WRITE_BYTES, most: int = MOST_WRITES) -> BlockTrace:
        """Equal writes, evenly spread over each interval, going around the first `unique` bytes of the disk.

        Every interval starts again at the disk's first sector, so what consecutive intervals write overlaps as much
        as it can: the file does not say how much it did. A disk whose share of `most` writes does not suffice gets
        writes of twice the size until it does. The bytes of a disk are exact to half a write.
        """
        issued, lba, sectors, counts = [], [], [], []
        for code in range(len(self.devices)):
            mine = self.device == code
            total, size = int(self.written[mine].sum()), write_bytes
            while total / size > most / len(self.devices):
                size *= 2
            times, places = self._expand_one(mine, size)
            issued.append(times)
            lba.append(places)
            counts.append(len(times))
            sectors.append(np.full(len(times), size // SECTOR, np.int32))
        times = np.concatenate(issued)
        order = np.argsort(times, kind="stable")
        device = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        return BlockTrace(
            "churn",
            times[order],
            device[order],
            np.concatenate(lba)[order],
            np.concatenate(sectors)[order],
            self.devices,
            int(self.ends.max()),
            0,
        )

    def _expand_one(self, mine: NDArray[np.bool_], size: int) -> tuple[Int64, Int64]:
        """Times and first sectors of one disk's writes of `size` bytes."""
        starts, ends, written = self.starts[mine], self.ends[mine], self.written[mine]
        unique = np.round(written / COALESCING) if self.unique is None else self.unique[mine]
        done = np.floor(np.cumsum(written) / size + 0.5).astype(np.int64)
        count = np.diff(done, prepend=0)
        nth = np.arange(int(count.sum())) - np.repeat(done - count, count)
        share = (nth + 0.5) / np.repeat(count, count)
        slots = np.maximum(1, -(-unique.astype(np.int64) // size))
        times = np.repeat(starts, count) + (np.repeat(ends - starts, count) * share).astype(np.int64)
        return times, nth % np.repeat(slots, count) * (size // SECTOR)


def is_header(line: str) -> bool:
    """Whether a first line is the header of a churn file."""
    names = split(line.lstrip("\ufeff"), ",")
    return "ts_s" in names and any(name in names for name in AMOUNTS)


def read_churn(path: Path, data: bytes) -> Churn:
    """The intervals of a churn file. Raises FileError naming the first line that is wrong.

    An interval reaches back to the end of the disk's previous one, at most the median distance: after a gap in the
    recording its bytes are not smeared over the gap. Rows of the same end are added up.
    """
    head = data[: data.find(b"\n") + 1 or len(data)].decode("utf-8", "replace").lstrip("\ufeff").strip()
    names = split(head, ",")
    amount = next((name for name in AMOUNTS if name in names), None)
    if "ts_s" not in names or amount is None or len(set(names)) != len(names):
        raise line_error(path, 1, f"the header {head[:80]!r} lacks ts_s or one of {', '.join(AMOUNTS)}", "churn")
    unique = next((name for name in UNIQUES if name in names), None)
    limits = {"ts_s": 1 << 40, amount: (MAX_LBA << 9) // AMOUNTS[amount], **({unique: MAX_LBA << 9} if unique else {})}
    fields = [Field(n, 0, limits[n]) if n in limits else Field(n, text=True) for n in names]
    table = read_table(path, data, fields, separator=",", form="churn", skip=1)
    if not len(table) or not table[amount].any():
        raise FileError("no interval writes anything", place=str(path), hint="name a file of disks that are written")
    codes, devices = pd.factorize(table["vm"]) if "vm" in names else (np.zeros(len(table), np.int64), ["disk"])
    return _churn(path, table, codes, tuple(map(str, devices)), amount, unique)


def _churn(
    path: Path, table: pd.DataFrame, codes: Int64, devices: tuple[str, ...], amount: str, unique: str | None
) -> Churn:
    order = np.argsort(codes, kind="stable")
    device, ends = codes[order], table["ts_s"].to_numpy(np.int64)[order]
    new = np.diff(device, prepend=-1) != 0
    steps = np.diff(ends, prepend=0)
    if (back := np.flatnonzero(~new & (steps < 0))).size:
        at = int(order[back[0]])
        text = f"ts_s is {table['ts_s'].iloc[at]}, before the end of the same disk's previous interval"
        raise FileError(text, place=f"{path}:row {at + 1} after the header", hint="sort the rows by disk and time")
    inner = steps[~new & (steps > 0)]
    typical = int(np.median(inner)) if inner.size else int(ends[0]) or 1
    first = np.flatnonzero(new | (steps > 0))
    ends, steps = ends[first], np.where(new, ends, steps)[first]
    starts = ends - np.minimum(np.maximum(steps, 1), typical)
    origin = int(starts.min())
    if (int(ends.max()) - origin) * SECOND > MAX_SPAN:
        raise FileError("the intervals span more than ten years", place=str(path), hint="ts_s counts seconds")
    written = np.add.reduceat(table[amount].to_numpy(np.int64)[order] * AMOUNTS[amount], first)
    distinct = None
    if unique:
        distinct = np.minimum(np.add.reduceat(table[unique].to_numpy(np.int64)[order], first), written)
    return Churn(
        devices, device[first].astype(np.int32), (starts - origin) * SECOND, (ends - origin) * SECOND, written, distinct
    )
