"""Chunk: memory that captured writes are copied into once, so that batches and frames are windows on it.

Theory of operation. Writers' threads `put` content at the end of a chunk; whoever pulls then gives those rows their
columns (`window`), in the same order. All windows of a chunk share its columns, so neighbours join for nothing
(`core/batch.py`) and a frame's content goes to the socket from here. Content and columns lie in one piece of memory,
which another process may share:

    content | lba | issued | end | vm | volume | sectors

A `Pool` uses a chunk's memory again when nobody looks at it any more (`spares.py`).

Invariant: a row of a window never changes; what lies beyond all windows is not looked at.
"""

from collections.abc import Sequence
from itertools import chain
from mmap import mmap
from typing import NamedTuple

import numpy as np

from drsim.core.batch import Columns, Payload, WriteBatch
from drsim.core.names import VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.spares import Spares

BYTES = 2 << 20
"""Of a chunk's content: a frame. A longer write has a chunk of its own."""
_KINDS = (("lba", np.int64), ("issued", np.int64), ("end", np.int64), ("vm", np.int32), ("volume", np.int32),
          ("sectors", np.int32))  # fmt: skip


def size_of(content: int) -> int:
    """Bytes of memory of a chunk with so many bytes of content, whole sectors."""
    rows = content // SECTOR
    return content + sum(np.dtype(kind).itemsize * (rows + (name == "end")) for name, kind in _KINDS)


def columns_on(memory: bytearray | mmap, content: int) -> Columns:
    """The columns in a chunk's memory."""
    rows, at = content // SECTOR, content
    made = {}
    for name, kind in _KINDS:
        made[name] = np.frombuffer(memory, kind, rows + (name == "end"), at)
        at += made[name].nbytes
    return Columns(**made, payload=memoryview(memory)[:content])  # type: ignore[arg-type]


class Piece(NamedTuple):
    """Consecutive writes to one volume, in bytes, and the chunk that their content is in."""

    chunk: "Chunk"
    volume: VolumeInfo
    offsets: Sequence[int]
    lengths: Sequence[int]
    issued: int
    nbytes: int


class Chunk:
    """Rows in a piece of memory (`size_of`)."""

    __slots__ = ("_rows", "_used", "_view", "columns", "memory")

    def __init__(self, memory: bytearray | mmap, content: int) -> None:
        self.memory = memory
        self.columns = columns_on(memory, content)
        self._view = memoryview(memory)[:content]
        self.columns.end[0] = self._used = self._rows = 0

    def put(self, parts: Sequence[Payload]) -> tuple[int, int]:
        """Copy as many of the parts as there is room for; gives how many, and their bytes."""
        view, at, end = self._view, self._used, len(self._view)
        begin, n = at, 0
        for part in parts:
            to = at + len(part)
            if to > end:
                break
            view[at:to] = part
            at = to
            n += 1
        self._used = at
        return n, at - begin

    def window(self, pieces: Sequence[Piece]) -> WriteBatch:
        """The rows of the next pieces that were put here, as a batch."""
        counts = [len(piece.offsets) for piece in pieces]
        lo, columns = self._rows, self.columns
        n = sum(counts)
        hi = self._rows = lo + n
        columns.lba[lo:hi] = np.fromiter(chain.from_iterable(piece.offsets for piece in pieces), np.int64, n) // SECTOR
        lengths = np.fromiter(chain.from_iterable(piece.lengths for piece in pieces), np.int64, n)
        columns.sectors[lo:hi] = lengths // SECTOR
        columns.issued[lo:hi] = np.repeat([piece.issued for piece in pieces], counts)
        first = pieces[0].volume
        if all(piece.volume is first for piece in pieces):
            columns.vm[lo:hi], columns.volume[lo:hi] = first.vm, first.id
        else:
            columns.vm[lo:hi] = np.repeat([piece.volume.vm for piece in pieces], counts)
            columns.volume[lo:hi] = np.repeat([piece.volume.id for piece in pieces], counts)
        ends = columns.end[lo + 1 : hi + 1]
        np.cumsum(lengths, out=ends)
        ends += columns.end[lo]
        return WriteBatch(columns, lo, hi)


class Pool:
    """Memory of chunks that are full, for new ones. One thread at a time."""

    def __init__(self, most: int) -> None:
        self._spares = Spares(most)

    @property
    def crowded(self) -> bool:
        """Whether there should be no more chunks: memory is all that bounds them here."""
        return False

    def chunk(self, least: int) -> Chunk:
        """A chunk with room for a part of `least` bytes."""
        content = max(least, BYTES)
        return Chunk(self._spares.take(size_of(content)), content)

    def rest(self, chunk: Chunk) -> None:
        """The chunk is full."""
        assert isinstance(chunk.memory, bytearray)
        if len(chunk.memory) == size_of(BYTES):
            self._spares.rest(chunk.memory)
