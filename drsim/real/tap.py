"""Tap: the guests' way to their disks on one protected host, and the VRA's way to read them back.

Theory of operation. A write goes to the source file in the host's lane, is captured by the VRA in the event loop,
and is acknowledged (`write` returns) when it is captured and its VPG is not held:

    guest --write--> lane: source file --done--> loop: GuestWrote --captured--> gate --> acknowledged

Reads for a sync go through the same lane, and results of a lane come back in its order. So whatever content a read
saw has been captured by the time the read is reported: no checkpoint can be cut in between. Overlapping writes are
captured in the order in which the file ends up holding them, because both orders are the lane's.

A write that the disk refuses may have changed part of it. What the file then holds is captured all the same, so that
the replica never differs from the source outside of what is known to differ; the guest gets the error.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns

from drsim.core.batch import WriteBatch
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import GuestWrote
from drsim.core.names import Address, Extent, StreamSpec, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.digests import of_regions
from drsim.real.files import blame, create_sparse, make_directory, read_exactly, write_all
from drsim.real.lane import Lane, Outcome

MAX_WRITE = 16 << 20
"""Most bytes of one guest write; real disks take 1 to 4 MiB at a time."""


class Tap:
    """The volumes of one stream's VMs, as files in a directory. Use from the event loop's thread."""

    def __init__(
        self, directory: Path, spec: StreamSpec, lane: Lane, capture: Callable[[Address, GuestWrote], None]
    ) -> None:
        self.spec = spec
        self.failure: BaseException | None = None
        self._lane, self._capture = lane, capture
        self._volumes: dict[int, VolumeInfo] = {v.id: v for v in spec.volumes}
        self._files: dict[int, int] = {}
        self._paths = {v.id: directory / f"volume-{v.id}.disk" for v in spec.volumes}
        self._open = asyncio.Event()
        self._open.set()
        try:
            with blame(directory):
                make_directory(directory)
                for volume in spec.volumes:
                    self._files[volume.id] = create_sparse(self._paths[volume.id], volume.sectors * SECTOR)
        except BaseException:
            self.close()
            raise

    # -- for guests -------------------------------------------------------------------------------------------

    async def write(self, volume: int, offset: int, data: bytes) -> None:
        """Write bytes at a byte offset; returns when the guest may count on it.

        Raises PlatformError when the extent is not one of the volume's whole sectors, the disk fails, or the world
        has stopped. A cancelled caller's write happens all the same.
        """
        info = self._extent(volume, offset, len(data))
        issued, data = monotonic_ns(), bytes(data)
        captured: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome[tuple[bytes, OSError | None]]) -> None:
            try:
                held, error = outcome.value
            except DrsimError as unreadable:
                held, error = b"", OSError(str(unreadable))
            if held:
                row = [info.vm], [volume], [offset // SECTOR], [len(held) // SECTOR], [issued]
                self._capture(self.spec.id.source, GuestWrote(self.spec.id, WriteBatch.of(*row, payload=held)))
            if not captured.done():
                captured.set_result(error)

        self._lane.submit(lambda: self._put(volume, offset, data), done)
        error = await captured
        with blame(self._paths[info.id]):
            if error is not None:
                raise error
        while not self._open.is_set():
            await self._open.wait()
        if self.failure is not None:
            raise PlatformError("the world has stopped", place=self.spec.id.source) from self.failure

    def _extent(self, volume: int, offset: int, size: int) -> VolumeInfo:
        info = self._volumes.get(volume)
        if info is None:
            raise PlatformError(f"no volume {volume} here", place=self.spec.id.source)
        whole = not offset % SECTOR and not size % SECTOR and 0 < size <= MAX_WRITE
        if not whole or not 0 <= offset <= info.sectors * SECTOR - size:
            raise PlatformError(f"{size} bytes at {offset} are no extent", place=str(self._paths[info.id]))
        return info

    def _put(self, volume: int, offset: int, data: bytes) -> tuple[bytes, OSError | None]:
        """Write; returns what the file now holds there, and the error if there was one."""
        fd = self._files[volume]
        try:
            write_all(fd, data, offset)
        except OSError as error:
            with blame(self._paths[self._volumes[volume].id]):
                return read_exactly(fd, len(data), offset, "source"), error
        return data, None

    # -- for the VRA ------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Acknowledge no write until `release`."""
        self._open.clear()

    def release(self, failure: BaseException | None = None) -> None:
        """Acknowledge what was withheld, and go on; with `failure`, refuse it and all that follows."""
        self.failure = self.failure or failure
        self._open.set()

    def read(self, batch: WriteBatch) -> WriteBatch:
        """The same rows with the current content of the files. Call in the lane. Raises PlatformError."""
        parts: list[bytes] = []
        for volume, lba, sectors in zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True):
            path = self._paths[volume]
            with blame(path):
                parts.append(read_exactly(self._files[volume], sectors * SECTOR, lba * SECTOR, path))
        return WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, b"".join(parts))

    def digests(self, extent: Extent, region_bytes: int) -> bytes:
        """Digests of the regions of a stretch as the files are now. Call in the lane. Raises PlatformError."""
        path, offset = self._paths[extent.volume], extent.lba * SECTOR
        with blame(path):
            return of_regions(
                read_exactly(self._files[extent.volume], extent.sectors * SECTOR, offset, path), region_bytes
            )

    def close(self) -> None:
        """Close the files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
