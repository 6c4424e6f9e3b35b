"""Envelope: one sealed piece of bytes, on the wire and on disk, in which any flipped bit is seen.

    magic 4 | version 2 | flags 2 | header length 4 | body length 4 | crc of header and body 4 | crc of these 20 bytes 4
    header (JSON) | body (raw little-endian columns, then payload)

The fixed part has its own checksum, so that a broken length is seen before anybody waits for, or allocates, what it
claims. The one flag says that the body is compressed (zstd). CRC-32 sees every single flipped bit and every burst of up
to 32 bits; it is no defence against an adversary.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from drsim.core.batch import Payload, WriteBatch
from drsim.core.units import SECTOR
from drsim.real.checksum import crc32

VERSION = 1
_FIXED = struct.Struct("<4sHHIII")
_CRC = struct.Struct("<I")
PRELUDE = _FIXED.size + _CRC.size
"""Bytes of the fixed part."""

_COLUMNS = (("vm", "<i4"), ("volume", "<i4"), ("lba", "<i8"), ("sectors", "<i4"), ("issued", "<i8"))
ROW = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)
"""Bytes of one row's columns."""

Numbers = npt.NDArray[np.int64]


class Unreadable(ValueError):
    """These bytes are no envelope, or a broken one. Callers turn it into an error by blame."""


@dataclass(frozen=True, slots=True)
class Prelude:
    """The fixed part: lengths of header and body in bytes, and their checksum."""

    header: int
    body: int
    crc: int
    compressed: bool = False

    @property
    def rest(self) -> int:
        """Bytes that follow the fixed part."""
        return self.header + self.body

    @property
    def size(self) -> int:
        """Bytes of the whole envelope."""
        return PRELUDE + self.rest


def sealed(magic: bytes, header: bytes, body: Iterable[Payload] = (), *, compressed: bool = False) -> list[Payload]:
    """An envelope around a header and a body, in pieces; the body's are as they were given.

    `compressed`: it was, by the caller.
    """
    parts = [header, *body]
    crc = 0
    for part in parts:
        crc = crc32(part, crc)
    fixed = _FIXED.pack(magic, VERSION, int(compressed), len(header), sum(map(len, parts)) - len(header), crc)
    return [b"".join([fixed, _CRC.pack(crc32(fixed)), header]), *parts[1:]]


def seal(magic: bytes, header: bytes, body: Iterable[Payload] = (), *, compressed: bool = False) -> bytes:
    """The same in one piece."""
    return b"".join(sealed(magic, header, body, compressed=compressed))


def prelude(magic: bytes, data: Payload) -> Prelude:
    """The fixed part, checked. Raises Unreadable."""
    if len(data) < PRELUDE:
        raise Unreadable(f"{len(data)} bytes, the fixed part has {PRELUDE}")
    fixed = bytes(data[: _FIXED.size])
    found, version, flags, header, body, crc = _FIXED.unpack(fixed)
    if found != magic:
        raise Unreadable(f"begins with {found!r}, not {magic!r}")
    if _CRC.unpack(data[_FIXED.size : PRELUDE])[0] != crc32(fixed):
        raise Unreadable("checksum of the fixed part is wrong")
    if version != VERSION or flags > 1:
        raise Unreadable(f"version {version} with flags {flags}, this side speaks {VERSION}")
    return Prelude(header, body, crc, bool(flags))


def opened(start: Prelude, rest: Payload) -> tuple[bytes, memoryview]:
    """Header and body of what follows the fixed part, checked. Raises Unreadable."""
    if len(rest) != start.rest:
        raise Unreadable(f"{len(rest)} bytes follow the fixed part, which says {start.rest}")
    if crc32(rest) != start.crc:
        raise Unreadable("checksum of the content is wrong")
    view = memoryview(rest)
    return bytes(view[: start.header]), view[start.header :]


def columns(batch: WriteBatch) -> list[Payload]:
    """The rows of a batch as raw bytes: column after column, then the payload as it lies in memory."""
    rows = b"".join([np.ascontiguousarray(getattr(batch, name), kind).tobytes() for name, kind in _COLUMNS])
    return [rows, *batch.pieces]


def batch_of(rows: int, payload: bool, body: memoryview) -> WriteBatch:
    """The batch from the bytes of `columns`; shares their memory. Raises Unreadable when they are no batch."""
    if rows < 0 or rows * ROW > len(body):
        raise Unreadable(f"{rows} rows in {len(body)} bytes")
    made: dict[str, Any] = {}
    at = 0
    for name, kind in _COLUMNS:
        made[name] = np.frombuffer(body, kind, rows, at)
        at += made[name].nbytes
    extents = made["sectors"]
    if rows and (int(extents.min()) < 1 or int(made["lba"].min()) < 0):
        raise Unreadable("a row has no extent")
    expected = int(extents.sum(dtype=np.int64)) * SECTOR if payload else 0
    if len(body) - at != expected:
        raise Unreadable(f"{len(body) - at} bytes of payload, the extents say {expected}")
    return WriteBatch.of(**made, payload=body[at:] if payload else None)


def extents_of(rows: int, data: Payload) -> tuple[Numbers, Numbers, Numbers]:
    """Volume, first sector and sectors of each row, from the raw columns alone."""
    made: dict[str, Numbers] = {}
    at = 0
    for name, kind in _COLUMNS:
        column = np.frombuffer(data, kind, rows, at)
        made[name] = column.astype(np.int64)
        at += column.nbytes
    return made["volume"], made["lba"], made["sectors"]
