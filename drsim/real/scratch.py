"""Scratch: the disks of a recovered VM, over a mirror that it shares with the VPG, until they are whole of their own.

Theory of operation. A scratch disk is a sparse file and a map of the sectors that are in it; all others are read from
the mirror. Journaled writes up to the checkpoint are laid out in the file when it is made, so what the mirror does
meanwhile (it may age, up to the checkpoint, which is pinned) touches only sectors that are read from the file. What the
VM writes goes to the file and nowhere else.

    made       the journal's rows from the mirror up to the cut          the VM may boot (instant recovery)
    whole      every other sector copied from the mirror (`hydrate`)     the mirror is not needed any more

`hydrate` goes on under the running VM, piece by piece; a piece is copied under the lock that its writes take. So a
failover is promoted, a clone is made and a volume is restored. Done again after a crash it goes on where it was.

The map's file is written through the page cache like the data: it survives the death of this process, and after a loss
of power what the VM had not flushed may be missing, as on any disk; to commit means to be whole and synced.
"""

import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from drsim.core.batch import Payload
from drsim.core.errors import PlatformError
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.files import blame, create_sparse, make_directory, read_exactly, sync_directory, write_all

PIECE = 2048
"""Sectors that are copied under one lock: a guest's write waits for a megabyte at most."""


class Base(Protocol):
    """What lies below: a mirror."""

    def read(self, lba: int, n: int) -> tuple[bytes, list[int]]:
        """Content of `n` sectors, and which of them do not verify."""
        ...


class Scratch:
    """One volume. Use from any thread. `base`: None when it is whole already. `read_only`: for clients."""

    def __init__(self, path: Path, info: VolumeInfo, base: Base | None) -> None:
        self.path, self.info, self.size = path, info, info.sectors * SECTOR
        self._base, self._lock, self.read_only = base, threading.Lock(), False
        self._map_path = path.with_suffix(".map")
        with blame(path):
            make_directory(path.parent)
            if base is None and self._map_path.exists() and not self.whole:
                raise PlatformError("the disk is not whole, and its mirror is not there", place=str(path))
            self._fd = create_sparse(path, self.size)
            self._map: mmap.mmap | None = None
            if base is not None and not self.whole:
                fd = create_sparse(self._map_path, info.sectors)
                self._map = mmap.mmap(fd, info.sectors)
                os.close(fd)

    @classmethod
    def again(cls, path: Path, volume: VolumeId, base: "Base | None") -> "Scratch":
        """One that is there, of an earlier life."""
        with blame(path):
            sectors = path.stat().st_size // SECTOR
        whole = path.with_suffix(".whole").exists()
        return cls(path, VolumeInfo(volume, VmId(0), sectors), None if whole else base)

    @property
    def whole(self) -> bool:
        """Whether the mirror is not needed any more."""
        return self.path.with_suffix(".whole").exists()

    # -- for the guest: see splitter.Export -------------------------------------------------------------------

    def read(self, offset: int, length: int) -> Payload:
        """Content. Raises PlatformError."""
        lba, n = offset // SECTOR, length // SECTOR
        with blame(self.path), self._lock:
            mine = read_exactly(self._fd, length, offset, self.path)
            there = self._there(lba, n)
            if there is None or there.all():
                return mine
            assert self._base is not None
            below, bad = self._base.read(lba, n)
            if any(not there[each - lba] for each in bad):
                raise PlatformError(f"sector {bad[0]} of the mirror does not verify", place=str(self.path))
            mixed = np.where(there[:, None], _sectors(mine), _sectors(below))
            return mixed.tobytes()

    def write(self, writes: Sequence[tuple[int, Payload]]) -> None:
        """Write a run, in order. Raises PlatformError."""
        with blame(self.path), self._lock:
            for offset, data in writes:
                self._put(offset // SECTOR, data)

    def flush(self) -> None:
        """Make what was written durable. Raises PlatformError."""
        with blame(self.path):
            os.fdatasync(self._fd)
            with self._lock:  # `hydrate` may be about to end it
                if self._map is not None:
                    self._map.flush()

    def pass_gate(self) -> None:
        """Nobody holds this."""

    # -- for the recovery site --------------------------------------------------------------------------------

    def lay(self, lba: int, data: Payload) -> None:
        """Put journaled content; before a guest has the disk."""
        with self._lock:
            self._put(lba, data)

    def hydrate(self) -> None:
        """Copy what is still below, durably; then this stands by itself. Raises PlatformError."""
        with blame(self.path):
            for lba in range(0, self.info.sectors, PIECE):
                with self._lock:
                    self._copy(lba, min(PIECE, self.info.sectors - lba))
            os.fsync(self._fd)
            self.path.with_suffix(".whole").touch()
            sync_directory(self.path.parent)
            with self._lock:
                if self._map is not None:
                    self._map.close()
                self._map, self._base = None, None
            self._map_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1
            if self._map is not None:
                self._map.close()
                self._map = None

    def _copy(self, lba: int, n: int) -> None:
        there = self._there(lba, n)
        if there is None or there.all():
            return
        assert self._base is not None
        below, bad = self._base.read(lba, n)
        missing = np.flatnonzero(~there)
        if set(bad) & {lba + int(k) for k in missing}:
            raise PlatformError(f"sector {bad[0]} of the mirror does not verify", place=str(self.path))
        for start, stop in _stretches(missing):
            piece = below[start * SECTOR : stop * SECTOR]
            if any(piece):
                write_all(self._fd, piece, (lba + start) * SECTOR)
            self._mark(lba + start, stop - start)

    def _put(self, lba: int, data: Payload) -> None:
        write_all(self._fd, data, lba * SECTOR)
        self._mark(lba, len(data) // SECTOR)

    def _mark(self, lba: int, n: int) -> None:
        if self._map is not None:
            self._map[lba : lba + n] = b"\1" * n

    def _there(self, lba: int, n: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]] | None":
        """Which sectors are in the file; None: all."""
        if self._map is None:
            return None
        return np.frombuffer(self._map[lba : lba + n], np.bool_)


def _sectors(data: bytes) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    return np.frombuffer(data, np.uint8).reshape(-1, SECTOR)


def _stretches(numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as first and one beyond the last."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(numbers, breaks)]
