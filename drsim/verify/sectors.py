"""Self-describing sectors: what a test guest writes so that any copy of its disk tells which writes it holds.

Every 512-byte sector that a test guest writes is filled like this, all numbers little-endian and unsigned:

    byte  size  what
    ----  ----  ------------------------------------------------------------------
       0     8  magic, "drsim" and the bytes 0, 1, 10
       8     8  run: tells one test from another on the same disk
      16     4  vm
      20     4  disk
      24     8  write: its id, from 1; a larger one is not therefore later
      32     8  lba of this sector, in sectors from the start of the disk
      40     4  sectors of the whole write
      44     4  which sector of the write this is, from 0
      48     8  issue: when the guest issued the write, in ns, by any clock
      56   452  free; zeros from `stamp_write`, or random bytes where compression on the way would mislead
     508     4  CRC-32 (that of zlib) of bytes 0 to 507

A sector of nothing but zeros was never written. Any other sector without the magic is unknown content, and one whose
checksum, lba, vm, disk or run is wrong is reported and never believed.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.core.units import SECTOR
from drsim.verify.oracle import Int64

MAGIC = b"drsim\x00\x01\n"
LAYOUT = np.dtype(
    [
        ("magic", "S8"), ("run", "<u8"), ("vm", "<u4"), ("disk", "<u4"), ("write", "<u8"), ("lba", "<u8"),
        ("sectors", "<u4"), ("index", "<u4"), ("issue", "<u8"), ("free", "V452"), ("crc", "<u4"),
    ]
)  # fmt: skip
AT_ONCE = 1 << 16
"""Sectors that are read at a time."""
FAR = 1 << 62
"""Above every id."""


class Seen(IntEnum):
    """What a sector is."""

    OURS = 0
    ZERO = 1
    UNKNOWN = 2
    CORRUPT = 3
    MISPLACED = 4
    STRANGER = 5


SAID = {
    Seen.UNKNOWN: "content that no test guest wrote",
    Seen.CORRUPT: "a sector whose checksum is wrong",
    Seen.MISPLACED: "a sector that belongs at another place",
    Seen.STRANGER: "a sector of another VM, disk or run",
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What all sectors of one write say. `lba` is where the write begins, `issue` in ns."""

    run: int
    vm: int
    disk: int
    write: int
    lba: int
    sectors: int
    issue: int


def stamp_write(stamp: Stamp) -> bytes:
    """The data of one write, for a test guest to write at `stamp.lba`."""
    rows = np.zeros(stamp.sectors, LAYOUT)
    rows["magic"] = MAGIC
    for name in ("run", "vm", "disk", "write", "sectors", "issue"):
        rows[name] = getattr(stamp, name)
    rows["index"] = np.arange(stamp.sectors)
    rows["lba"] = stamp.lba + rows["index"].astype(np.uint64)
    rows["crc"] = _checksums(rows)
    return rows.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """What a disk holds, as columns of runs of sectors (int64), by ascending lba and without overlap.

    write: the id of the write whose data it is, 0 for initial content. seen: a `Seen`. start, length: where the
    sectors themselves say that their write begins, and how long it is; -1 when they do not say.
    """

    lba: Int64
    sectors: Int64
    write: Int64
    seen: Int64
    start: Int64
    length: Int64


def read_sectors(data: NDArray[np.uint8], lba: int, *, vm: int, disk: int, run: int | None = None) -> Runs:
    """What a copy of a disk holds. `data` is whole sectors, from sector `lba` on; `run` None takes any run."""
    rows = data.view(LAYOUT)
    at = lba + np.arange(len(rows))
    words = data.view(np.uint64).reshape(-1, SECTOR // 8)
    marked = np.flatnonzero(words[:, 0] == np.frombuffer(MAGIC, np.uint64)[0])
    ours = rows[marked]
    whole = ours["crc"] == _checksums(ours)
    mine = (ours["vm"] == vm) & (ours["disk"] == disk) & (run is None or ours["run"] == run)
    placed = ours["lba"] == at[marked].astype(np.uint64)
    good = whole & mine & placed
    columns = np.zeros((4, len(rows)), np.int64)  # write, seen, start, length
    columns[1] = Seen.UNKNOWN
    columns[2:] = -1
    columns[1, ~words.any(axis=1)] = Seen.ZERO
    columns[1, marked] = np.select([~whole, ~mine, ~placed], [Seen.CORRUPT, Seen.STRANGER, Seen.MISPLACED], Seen.OURS)
    columns[0, marked] = np.where(good, np.minimum(ours["write"], np.uint64(FAR)).astype(np.int64), 0)
    columns[2, marked] = np.where(good, at[marked] - ours["index"].astype(np.int64), -1)
    columns[3, marked] = np.where(good, ours["sectors"].astype(np.int64), -1)
    first = np.flatnonzero(np.append([True], (columns[:, 1:] != columns[:, :-1]).any(axis=0))[: len(rows)])
    return Runs(at[first], np.diff(first, append=len(rows)), *columns[:, first])


def read_image(path: Path, *, vm: int, disk: int, run: int | None = None) -> Runs:
    """What a raw image file of a disk holds. Raises FileError when it cannot be read or ends inside a sector."""
    try:
        size = path.stat().st_size
        if size % SECTOR:
            raise FileError(
                f"the image has {size} bytes, not whole sectors of {SECTOR}", place=str(path),
                hint="give a raw image of the whole disk",
            )  # fmt: skip
        parts: list[Runs] = []
        with path.open("rb") as file:
            while data := file.read(AT_ONCE * SECTOR):
                parts.append(
                    read_sectors(np.frombuffer(data, np.uint8), len(parts) * AT_ONCE, vm=vm, disk=disk, run=run)
                )
    except OSError as error:
        raise FileError(f"cannot read the image: {error.strerror}", place=str(path)) from error
    names = ("lba", "sectors", "write", "seen", "start", "length")
    return Runs(*(np.concatenate([np.zeros(0, np.int64), *(getattr(p, name) for p in parts)]) for name in names))


def _checksums(rows: NDArray[np.void]) -> NDArray[np.uint32]:
    view = memoryview(rows.tobytes())
    return np.array([crc32(view[at : at + SECTOR - 4]) for at in range(0, len(view), SECTOR)], np.uint32)
