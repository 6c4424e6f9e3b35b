"""WriteBatch: columns of guest writes in capture order, the unit of work of the data path.

A batch is a window `[lo, hi)` on shared columns, so that cutting and rejoining neighbours costs nothing and one
code path serves a single write and a slice of thousands. A batch is applied all or not at all.

The payload belongs to the world. In simulation there is none: the content of a sector is the *stamp* of its last
write, which is that write's (vm, log sequence number). Live, it is bytes in which row `i` is
`payload[end[i]:end[i + 1]]`, in one piece of memory or in several. The core passes it on unread.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import CoreError
from drsim.core.names import VmId
from drsim.core.units import SECTOR
from drsim.core.value import bulk

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
FEW = 8
"""Up to this many rows a Python loop is faster than NumPy calls."""

Payload = bytes | bytearray | memoryview


@bulk
class Columns:
    """Writes as columns of equal length n, in capture order.

    vm, volume: int32, numbers in the estate. lba: int64, 512-byte sectors from the start of the volume.
    sectors: int32, length. issued: int64, nanoseconds at which the guest issued the write.
    end: int64 of length n + 1, bytes of all rows before each row; end[0] is 0.
    """

    vm: Int32
    volume: Int32
    lba: Int64
    sectors: Int32
    issued: Int64
    end: Int64
    payload: Payload | tuple[Payload, ...] | None = None


@bulk
class WriteBatch:
    """Rows `lo` up to, not including, `hi` of some columns."""

    columns: Columns
    lo: int
    hi: int

    @staticmethod
    def of(
        vm: Sequence[int] | NDArray[Any],
        volume: Sequence[int] | NDArray[Any],
        lba: Sequence[int] | NDArray[Any],
        sectors: Sequence[int] | NDArray[Any],
        issued: Sequence[int] | NDArray[Any],
        payload: Payload | tuple[Payload, ...] | None = None,
    ) -> "WriteBatch":
        """A batch from columns of equal length. Raises CoreError when they disagree."""
        n = len(vm)
        if not n == len(volume) == len(lba) == len(sectors) == len(issued):
            raise CoreError("columns of a batch have different lengths")
        lengths = np.asarray(sectors, np.int32)
        end = _ends(lengths)
        columns = Columns(
            np.asarray(vm, np.int32),
            np.asarray(volume, np.int32),
            np.asarray(lba, np.int64),
            lengths,
            np.asarray(issued, np.int64),
            end,
            payload,
        )
        if payload is not None:
            nbytes = sum(map(len, payload)) if isinstance(payload, tuple) else len(payload)
            if nbytes != end[-1]:
                raise CoreError(f"payload has {nbytes} bytes, the extents say {end[-1]}")
        return WriteBatch(columns, 0, n)

    @staticmethod
    def join(parts: Sequence["WriteBatch"]) -> "WriteBatch":
        """One batch of all rows in order, their payload where it was; free for neighbours on the same columns."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        if all(a.columns is b.columns and a.hi == b.lo for a, b in pairwise(parts)):
            return WriteBatch(first.columns, first.lo, parts[-1].hi)
        payload = None
        if first.columns.payload is not None:
            payload = tuple(piece for p in parts for piece in p.pieces)
        return WriteBatch.of(
            np.concatenate([p.vm for p in parts]),
            np.concatenate([p.volume for p in parts]),
            np.concatenate([p.lba for p in parts]),
            np.concatenate([p.sectors for p in parts]),
            np.concatenate([p.issued for p in parts]),
            payload,
        )

    def __len__(self) -> int:
        return self.hi - self.lo

    @property
    def vm(self) -> Int32:
        return self.columns.vm[self.lo : self.hi]

    @property
    def volume(self) -> Int32:
        return self.columns.volume[self.lo : self.hi]

    @property
    def lba(self) -> Int64:
        return self.columns.lba[self.lo : self.hi]

    @property
    def sectors(self) -> Int32:
        return self.columns.sectors[self.lo : self.hi]

    @property
    def issued(self) -> Int64:
        return self.columns.issued[self.lo : self.hi]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        end = self.columns.end
        return int(end[self.hi]) - int(end[self.lo])

    @property
    def payload(self) -> Payload | None:
        """The bytes of these rows, or None in simulation."""
        data, end = self.columns.payload, self.columns.end
        if isinstance(data, tuple):
            return b"".join(self.pieces)
        return None if data is None else memoryview(data)[int(end[self.lo]) : int(end[self.hi])]

    @property
    def pieces(self) -> list[Payload]:
        """The payload as it lies in memory, in order; nothing in simulation."""
        data, end = self.columns.payload, self.columns.end
        if data is None:
            return []
        start, stop, at = int(end[self.lo]), int(end[self.hi]), 0
        made: list[Payload] = []
        for piece in data if isinstance(data, tuple) else (data,):
            first, last = max(start - at, 0), min(stop - at, len(piece))
            if first < last:
                made.append(memoryview(piece)[first:last])
            at += len(piece)
        return made

    def rows(self, start: int, stop: int) -> "WriteBatch":
        """Rows `start` up to `stop` of this batch, as a batch; free."""
        return WriteBatch(self.columns, self.lo + start, self.lo + stop)

    def take(self, mask: NDArray[np.bool_]) -> "WriteBatch":
        """The rows where `mask` is true, copied."""
        at = np.flatnonzero(mask)
        payload = None
        whole = self.payload
        if whole is not None:
            data, end = memoryview(whole), self.columns.end[self.lo :] - self.columns.end[self.lo]
            payload = b"".join(data[int(end[i]) : int(end[i + 1])] for i in at)
        return WriteBatch.of(self.vm[at], self.volume[at], self.lba[at], self.sectors[at], self.issued[at], payload)

    def rows_within(self, nbytes: int) -> int:
        """How many leading rows have at most `nbytes` bytes together."""
        end = self.columns.end
        return int(end[self.lo + 1 : self.hi + 1].searchsorted(int(end[self.lo]) + nbytes, side="right"))

    def per_vm(self, vms: Sequence[VmId]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and bytes of each VM of `vms` (ascending). Raises CoreError for a row of another VM."""
        if self.hi - self.lo <= FEW:
            return self._per_vm_of_few(vms)
        if len(vms) == 1:
            if not (self.vm == vms[0]).all():
                raise CoreError(f"a row of another VM than {vms[0]}")
            return (len(self),), (self.nbytes,)
        slot = np.searchsorted(np.asarray(vms, np.int32), self.vm)
        counts = np.bincount(slot, minlength=len(vms))
        sizes = np.bincount(slot, weights=self.sectors, minlength=len(vms))
        if len(counts) > len(vms) or not (np.asarray(vms)[slot] == self.vm).all():
            raise CoreError("a row of a VM that the stream does not have")
        return tuple(counts.tolist()), tuple(int(s) * SECTOR for s in sizes)

    def _per_vm_of_few(self, vms: Sequence[VmId]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        columns, lo, hi = self.columns, self.lo, self.hi
        of = columns.vm[lo:hi].tolist()
        counts = tuple(map(of.count, vms))
        if sum(counts) != len(of):
            raise CoreError("a row of a VM that the stream does not have")
        if len(vms) == 1:
            return counts, (self.nbytes,)
        sectors = dict.fromkeys(vms, 0)
        for vm, length in zip(of, columns.sectors[lo:hi].tolist(), strict=True):
            sectors[vm] += length
        return counts, tuple([n * SECTOR for n in sectors.values()])

    def ranks(self) -> Int64:
        """For each row, how many rows of the same VM come before it in this batch. int64 of length n."""
        if len(self) <= FEW:
            seen: dict[int, int] = {}
            few = []
            for vm in self.vm.tolist():
                few.append(seen.get(vm, 0))
                seen[vm] = few[-1] + 1
            return np.array(few, np.int64)
        # NumPy sorts 16-bit integers by radix, several times faster than wider ones.
        narrow = self.vm.astype(np.uint16) if int(self.vm.max(initial=0)) < 1 << 16 else self.vm
        order = np.argsort(narrow, kind="stable")
        sorted_vm = self.vm[order]
        rows = np.arange(len(self))
        new = np.ones(len(self), np.bool_)
        np.not_equal(sorted_vm[1:], sorted_vm[:-1], out=new[1:])
        within = rows - np.maximum.accumulate(np.where(new, rows, 0))
        ranks = np.empty(len(self), np.int64)
        ranks[order] = within
        return ranks

    def __eq__(self, other: object) -> bool:
        """Same rows in the same order, however the columns are cut."""
        if not isinstance(other, WriteBatch):
            return NotImplemented
        return (
            len(self) == len(other)
            and all(
                np.array_equal(a, b)
                for a, b in (
                    (self.vm, other.vm),
                    (self.volume, other.volume),
                    (self.lba, other.lba),
                    (self.sectors, other.sectors),
                    (self.issued, other.issued),
                )
            )
            and self.payload == other.payload
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"WriteBatch({len(self)} writes, {self.nbytes} bytes)"


def _ends(sectors: Int32) -> Int64:
    """Bytes before each of these rows, and of all."""
    if len(sectors) <= FEW:
        return np.array([0, *accumulate([n * SECTOR for n in sectors.tolist()])], np.int64)
    end = np.zeros(len(sectors) + 1, np.int64)
    sectors.cumsum(out=end[1:], dtype=np.int64)
    end *= SECTOR
    return end


class OpenFrame:
    """Captured rows that wait to be cut into a frame. Neighbours on the same columns are kept as one window."""

    __slots__ = ("nbytes", "parts", "rows")

    def __init__(self) -> None:
        self.parts: list[WriteBatch] = []
        self.rows = 0
        self.nbytes = 0

    def add(self, batch: WriteBatch, nbytes: int) -> None:
        """Append rows; `nbytes` is their size."""
        parts = self.parts
        if parts and parts[-1].columns is batch.columns and parts[-1].hi == batch.lo:
            parts[-1] = WriteBatch(batch.columns, parts[-1].lo, batch.hi)
        else:
            parts.append(batch)
        self.rows += batch.hi - batch.lo
        self.nbytes += nbytes

    def cut(self) -> WriteBatch:
        """All rows as one batch; empty afterwards."""
        batch = WriteBatch.join(self.parts)
        self.parts, self.rows, self.nbytes = [], 0, 0
        return batch


_WEIGHTS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
_FACTOR, _MASK = 0xBF58476D1CE4E5B9, (1 << 64) - 1


def content_digest(batch: WriteBatch, lsn: Int64) -> int:
    """Sum mod 2^64 over the rows of a hash of (vm, lsn, volume, lba, sectors): the same however the rows are cut.

    `lsn` is an int64 array, the log sequence number of each row. A row's hash is its columns weighted with odd
    constants, then multiplied and xor-shifted (as splitmix64's finaliser does). For telling runs apart, not for
    finding corruption.
    """
    columns: tuple[NDArray[Any], ...] = (batch.vm, lsn, batch.volume, batch.lba, batch.sectors)
    if len(batch) <= FEW:
        total = 0
        for row in zip(*(c.tolist() for c in columns), strict=True):
            x = sum(value * weight for value, weight in zip(row, _WEIGHTS, strict=True)) & _MASK
            x = ((x ^ (x >> 29)) * _FACTOR) & _MASK
            total += x ^ (x >> 32)
        return total & _MASK
    with np.errstate(over="ignore"):
        state = np.zeros(len(batch), np.uint64)
        for column, weight in zip(columns, _WEIGHTS, strict=True):
            state += column.astype(np.uint64) * np.uint64(weight)
        state ^= state >> np.uint64(29)
        state *= np.uint64(_FACTOR)
        state ^= state >> np.uint64(32)
        return int(state.sum(dtype=np.uint64))
