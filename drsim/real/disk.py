"""Disk: one protected volume, a file or a block device, as guests and the VRA use it; the splitter serves it.

Theory of operation. Whoever taps the disk hears of every run of writes, under the disk's lock, in the order in which
they reach it. A run is acknowledged when the gates of all taps are open (`tap.py`).

A write that the disk refuses may have changed part of it. What the disk then holds is captured all the same, so that
a replica never differs from the source outside of what is known to differ; the guest gets the error.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from drsim.core.batch import Payload
from drsim.core.errors import PlatformError
from drsim.core.names import VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.clock import now_ns
from drsim.real.files import blame, blamed, create_sparse, make_directory, read_exactly, read_into, write_run

MAX_WRITE = 32 << 20
"""Most bytes of one guest write; real disks take 1 to 4 MiB at a time."""


class Run(NamedTuple):
    """Consecutive writes to one volume, as they were captured, in bytes. The memory of `parts` is the writer's."""

    volume: VolumeInfo
    offsets: tuple[int, ...]
    parts: tuple[Payload, ...]
    issued: int


class Listener(Protocol):
    """Hears of what is written. Called from any thread."""

    def capture(self, run: Run) -> None:
        """Called with the disk's lock held."""
        ...

    def pass_gate(self) -> None:
        """Return when what was captured may be acknowledged. Raises PlatformError when it never will be."""
        ...


class Disk:
    """One volume. Use from any thread. `missing` is made, full of zeros, unless `must_exist`."""

    read_only = False

    def __init__(self, info: VolumeInfo, path: Path, *, must_exist: bool = False) -> None:
        self.info, self.path, self.size = info, path, info.sectors * SECTOR
        self.lock = threading.Lock()
        self.listeners: tuple[Listener, ...] = ()
        """Replaced, never changed, with the lock held."""
        with blame(path):
            if must_exist and not path.exists():
                raise PlatformError("the disk is not there", place=str(path))
            make_directory(path.parent)
            self._fd = create_sparse(path, self.size)
            # Guests read ahead themselves. What the kernel reads ahead it caches in large pieces, and writing a few
            # sectors to such a piece costs many times more: after a sync had read a disk, its guests were slow.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)

    def extent(self, offset: int, size: int) -> None:
        """That these bytes are whole sectors of the volume. Raises PlatformError."""
        whole = not offset % SECTOR and not size % SECTOR and 0 < size <= MAX_WRITE
        if not whole or not 0 <= offset <= self.size - size:
            raise PlatformError(f"{size} bytes at {offset} are no extent", place=str(self.path))

    def write(self, writes: Sequence[tuple[int, Payload]]) -> None:
        """Write a run, in order, and capture it; the memory is the caller's again. Raises PlatformError."""
        issued = now_ns()
        with self.lock:
            try:
                try:
                    write_run(self._fd, writes)
                except OSError:
                    writes = [(at, read_exactly(self._fd, len(data), at, self.path)) for at, data in writes]
                    raise
                finally:
                    if self.listeners:
                        offsets, parts = zip(*writes, strict=True)
                        run = Run(self.info, offsets, parts, issued)
                        for listener in self.listeners:
                            listener.capture(run)
            except OSError as error:
                raise blamed(error, self.path) from error

    def pass_gate(self) -> None:
        """Return when what was written may be acknowledged. Raises PlatformError when it never will be."""
        for listener in self.listeners:
            listener.pass_gate()

    def read(self, offset: int, length: int) -> bytes:
        """Content. Raises PlatformError."""
        with blame(self.path):
            return read_exactly(self._fd, length, offset, self.path)

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill the memory with what lies from a byte offset on. Raises PlatformError."""
        with blame(self.path):
            read_into(self._fd, memory, offset, self.path)

    def flush(self) -> None:
        """Make what was written durable. Raises PlatformError."""
        with blame(self.path):
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            os.close(self._fd)
            self._fd = -1


def open_disks(folder: Path, volumes: Iterable[VolumeInfo]) -> dict[VolumeId, Disk]:
    """Make disks, as files in a folder, or open those that are there."""
    return {volume.id: Disk(volume, folder / f"volume-{volume.id}.disk") for volume in volumes}
