"""Tap: the guests' way to their disks on one protected host, and the VRA's way to read them back.

Theory of operation. Guests write from the threads of the splitter, or from the event loop (`write`). Everything that
the VRA hears of a volume goes through one queue, in the order in which it happened to the disk:

    writer's thread    lock the volume: disk, then queue; unlock; pass the gate; acknowledge
    VRA's reads        lock the volumes: read, then queue the answer; unlock
    event loop         `pull` the queue before the VRA hears of anything else

So overlapping writes are captured in the order in which the disk ends up holding them, and a read for a sync has seen
exactly the writes that come before its answer. A write is captured before it passes the gate: if the gate is closed
first and the queue pulled then, all that was ever acknowledged has been captured (a *hold*, PROTOCOL 3).

A write that the disk refuses may have changed part of it. What the disk then holds is captured all the same, so that
the replica never differs from the source outside of what is known to differ; the guest gets the error.

The queue is bounded: a writer waits while more than `MOST_PENDING` bytes have not been pulled, which is a matter of
this process's speed, never of the WAN's.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns

from drsim.core.batch import Payload, WriteBatch
from drsim.core.effects import EffectId, ReadDigests, ReadRegions
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import Done, Failed, GuestWrote
from drsim.core.names import StreamSpec, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.digests import of_regions
from drsim.real.files import blame, create_sparse, make_directory, read_exactly, write_all
from drsim.real.lane import Lane

MAX_WRITE = 32 << 20
"""Most bytes of one guest write; real disks take 1 to 4 MiB at a time."""
MOST_PENDING = 32 << 20
_MOST_BATCH = 2 << 20  # bytes of one batch, about

Heard = GuestWrote | Done | Failed


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive writes of one connection to one volume, captured."""

    volume: VolumeInfo
    lba: list[int]
    sectors: list[int]
    issued: int
    payload: bytes


@dataclass(slots=True)
class _Disk:
    """One volume: a file or a block device."""

    info: VolumeInfo
    path: Path
    fd: int
    lock: threading.Lock = field(default_factory=threading.Lock)


class Tap:
    """The volumes of one stream's VMs. `captured` is called, from any thread, when there is something to pull.

    `paths`: of each volume, by number; what is not there is made, full of zeros.
    """

    def __init__(
        self, spec: StreamSpec, paths: Mapping[int, Path], lane: Lane, captured: Callable[[], None]
    ) -> None:  # fmt: skip
        self.spec = spec
        self.failure: BaseException | None = None
        self._lane, self._captured = lane, captured
        self._disks: dict[int, _Disk] = {}
        self._queue: deque[_Run | Done | Failed] = deque()
        self._pending, self._drained = 0, threading.Condition()
        self._told = False
        self._gate, self._open = threading.Event(), asyncio.Event()
        self._gate.set()
        self._open.set()
        try:
            for volume in spec.volumes:
                path = paths[volume.id]
                with blame(path):
                    make_directory(path.parent)
                    fd = create_sparse(path, volume.sectors * SECTOR)
                self._disks[volume.id] = _Disk(volume, path, fd)
        except BaseException:
            self.close()
            raise

    # -- for guests -------------------------------------------------------------------------------------------

    async def write(self, volume: int, offset: int, data: bytes) -> None:
        """Write bytes at a byte offset; returns when the guest may count on it. From the event loop's thread.

        Raises PlatformError when the extent is not one of the volume's whole sectors, the disk fails, or the world
        has stopped. A cancelled caller's write happens all the same.
        """
        disk = self._extent(volume, offset, len(data))
        kept = bytes(data)
        await self._lane.call(lambda: self.put(disk.info.id, [(offset, kept)]))
        while not self._open.is_set():
            await self._open.wait()
        self._check()

    def put(self, volume: int, writes: Sequence[tuple[int, Payload]]) -> None:
        """Write a run to the disk, in order, and capture it; the memory is the caller's again. From any thread.

        Raises PlatformError. It may be acknowledged after `pass_gate`.
        """
        disk, issued = self._disks[volume], monotonic_ns()
        if self._pending > MOST_PENDING:
            with self._drained:
                self._drained.wait_for(lambda: self._pending <= MOST_PENDING or self.failure is not None)
        with disk.lock, blame(disk.path):
            done, parts = 0, []
            try:
                for offset, data in writes:
                    write_all(disk.fd, data, offset)
                    parts.append(data)
                    done += 1
            except OSError:
                offset, data = writes[done]
                parts.append(read_exactly(disk.fd, len(data), offset, disk.path))
                done += 1
                raise
            finally:
                if parts:
                    lba = [offset // SECTOR for offset, _ in writes[:done]]
                    sectors = [len(part) // SECTOR for part in parts]
                    self._put_in_queue(_Run(disk.info, lba, sectors, issued, b"".join(parts)))

    def pass_gate(self) -> None:
        """Return when what was put may be acknowledged. Raises PlatformError when the world has stopped."""
        if not self._gate.is_set():
            self._gate.wait()
        self._check()

    def content(self, volume: int, offset: int, length: int) -> bytes:
        """What a guest reads. From any thread. Raises PlatformError."""
        disk = self._disks[volume]
        with blame(disk.path):
            return read_exactly(disk.fd, length, offset, disk.path)

    def flush(self, volume: int) -> None:
        """Make a volume durable. From any thread. Raises PlatformError."""
        disk = self._disks[volume]
        with blame(disk.path):
            os.fdatasync(disk.fd)

    def _extent(self, volume: int, offset: int, size: int) -> _Disk:
        disk = self._disks.get(volume)
        if disk is None:
            raise PlatformError(f"no volume {volume} here", place=self.spec.id.source)
        whole = not offset % SECTOR and not size % SECTOR and 0 < size <= MAX_WRITE
        if not whole or not 0 <= offset <= disk.info.sectors * SECTOR - size:
            raise PlatformError(f"{size} bytes at {offset} are no extent", place=str(disk.path))
        return disk

    def _check(self) -> None:
        if self.failure is not None:
            raise PlatformError("the world has stopped", place=self.spec.id.source) from self.failure

    # -- for the world ----------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Acknowledge no write until `release`."""
        self._gate.clear()
        self._open.clear()

    def release(self, failure: BaseException | None = None) -> None:
        """Acknowledge what was withheld, and go on; with `failure`, refuse it and all that follows."""
        self.failure = self.failure or failure
        self._gate.set()
        self._open.set()
        if failure is not None:
            with self._drained:
                self._drained.notify_all()

    def pull(self) -> list[Heard]:
        """What the VRA has not heard yet, in order. From the event loop's thread."""
        self._told = False
        heard: list[Heard] = []
        runs: list[_Run] = []
        size = pulled = 0
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, _Run):
                runs.append(item)
                size += len(item.payload)
                if size < _MOST_BATCH:
                    continue
            pulled += size
            heard += self._batch(runs)
            runs, size = [], 0
            if not isinstance(item, _Run):
                heard.append(item)
        heard += self._batch(runs)
        if pulled + size:
            with self._drained:
                self._pending -= pulled + size
                self._drained.notify_all()
        return heard

    def _batch(self, runs: list[_Run]) -> list[Heard]:
        if not runs:
            return []
        counts = [len(run.lba) for run in runs]
        batch = WriteBatch.of(
            _repeat((run.volume.vm for run in runs), counts),
            _repeat((run.volume.id for run in runs), counts),
            [lba for run in runs for lba in run.lba],
            [sectors for run in runs for sectors in run.sectors],
            _repeat((run.issued for run in runs), counts),
            payload=runs[0].payload if len(runs) == 1 else b"".join(run.payload for run in runs),
        )
        return [GuestWrote(self.spec.id, batch)]

    def answer(self, id_: EffectId, effect: ReadRegions | ReadDigests, region_bytes: int) -> None:
        """Read what the VRA asked for, and put the answer into the queue. Call in the lane."""
        volumes = (
            {effect.extent.volume} if isinstance(effect, ReadDigests) else set(effect.batch.volume.tolist())
        )  # fmt: skip
        with ExitStack() as locked:
            for volume in sorted(volumes):
                locked.enter_context(self._disks[volume].lock)
            try:
                value = (
                    self.read(effect.batch) if isinstance(effect, ReadRegions) else self._digests(effect, region_bytes)
                )
                self._put_in_queue(Done(id_, effect, value))
            except DrsimError as error:
                self._put_in_queue(Failed(id_, effect, error))

    def read(self, batch: WriteBatch) -> WriteBatch:
        """The same rows with the current content of the disks. Raises PlatformError."""
        parts: list[bytes] = []
        for volume, lba, sectors in zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True):
            parts.append(self.content(volume, lba * SECTOR, sectors * SECTOR))
        return WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, b"".join(parts))

    def _digests(self, asked: ReadDigests, region_bytes: int) -> bytes:
        extent = asked.extent
        return of_regions(self.content(extent.volume, extent.lba * SECTOR, extent.sectors * SECTOR), region_bytes)

    def _put_in_queue(self, item: _Run | Done | Failed) -> None:
        self._queue.append(item)
        if isinstance(item, _Run):
            with self._drained:
                self._pending += len(item.payload)
        if not self._told:
            self._told = True
            self._captured()

    def close(self) -> None:
        """Close the disks."""
        for disk in self._disks.values():
            os.close(disk.fd)
        self._disks.clear()


class TapExport:
    """One tapped volume as the splitter serves it."""

    read_only = False

    def __init__(self, tap: Tap, volume: VolumeInfo) -> None:
        self.size = volume.sectors * SECTOR
        self._tap, self._volume = tap, volume.id

    def read(self, offset: int, length: int) -> Payload:
        """See Export."""
        return self._tap.content(self._volume, offset, length)

    def write(self, writes: Sequence[tuple[int, Payload]]) -> None:
        """See Export."""
        self._tap.put(self._volume, writes)

    def flush(self) -> None:
        """See Export."""
        self._tap.flush(self._volume)

    def pass_gate(self) -> None:
        """See Export."""
        self._tap.pass_gate()


def _repeat(values: Iterable[int], counts: list[int]) -> list[int]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
