"""Tap: what a VRA hears of one stream's disks, and the gate in front of what their guests are told.

Theory of operation. Guests write from the threads of the splitter, or from the event loop (`write`). Everything that
the VRA hears of a disk goes through the tap's queue, in the order in which it happened to the disk:

    writer's thread    lock the disk: write, then queue; unlock; pass the gate; acknowledge
    VRA's reads        lock the disks: read, then queue the answer; unlock
    event loop         `pull` the queue before the VRA hears of anything else

So overlapping writes are captured in the order in which the disk ends up holding them, and a read for a sync has seen
exactly the writes that come before its answer. A write is captured before it passes the gate: if the gate is closed
first and the queue pulled then, all that was ever acknowledged has been captured (a *hold*, PROTOCOL 3).

The queue is bounded: a writer waits while more than `MOST_PENDING` bytes have not been pulled, which is a matter of
this process's speed, never of the WAN's.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from drsim.core.batch import WriteBatch
from drsim.core.effects import EffectId, ReadDigests, ReadRegions
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import Done, Failed, GuestWrote
from drsim.core.names import StreamSpec
from drsim.core.units import SECTOR
from drsim.real.digests import of_regions
from drsim.real.disk import Disk, Run
from drsim.real.lane import Lane

MOST_PENDING = 32 << 20
_MOST_BATCH = 2 << 20  # bytes of one batch, about

Heard = GuestWrote | Done | Failed


class Tap:
    """The disks of one stream, by volume. `captured` is called, from any thread, when there is something to pull."""

    def __init__(self, spec: StreamSpec, disks: Mapping[int, Disk], lane: Lane, captured: Callable[[], None]) -> None:
        self.spec, self.disks = spec, dict(disks)
        self.failure: BaseException | None = None
        self._lane, self._captured = lane, captured
        self._queue: deque[Run | Done | Failed] = deque()
        self._pending, self._drained = 0, threading.Condition()
        self._told = False
        self._gate, self._open = threading.Event(), asyncio.Event()
        self._gate.set()
        self._open.set()
        for disk in self.disks.values():
            with disk.lock:
                disk.listeners = (*disk.listeners, self)

    # -- for guests -------------------------------------------------------------------------------------------

    async def write(self, volume: int, offset: int, data: bytes) -> None:
        """Write bytes at a byte offset; returns when the guest may count on it. From the event loop's thread.

        Raises PlatformError when the extent is not one of the volume's whole sectors, the disk fails, or the world
        has stopped. A cancelled caller's write happens all the same.
        """
        disk = self.disks.get(volume)
        if disk is None:
            raise PlatformError(f"no volume {volume} here", place=self.spec.id.source)
        disk.extent(offset, len(data))
        kept = bytes(data)
        await self._lane.call(lambda: disk.write([(offset, kept)]))
        while not self._open.is_set():
            await self._open.wait()
        self._check()

    def pass_gate(self) -> None:
        """See disk.Listener."""
        if not self._gate.is_set():
            self._gate.wait()
        self._check()

    def make_room(self) -> None:
        """See disk.Listener."""
        if self._pending > MOST_PENDING:
            with self._drained:
                self._drained.wait_for(lambda: self._pending <= MOST_PENDING or self.failure is not None)

    def capture(self, run: Run) -> None:
        """See disk.Listener."""
        with self._drained:
            self._pending += len(run.payload)
        self._put(run)

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

    def close(self) -> None:
        """Hear of nothing any more; guests go on without."""
        for disk in self.disks.values():
            with disk.lock:
                disk.listeners = tuple(each for each in disk.listeners if each is not self)
        self._gate.set()
        self._open.set()

    def pull(self) -> list[Heard]:
        """What the VRA has not heard yet, in order. From the event loop's thread."""
        self._told = False
        heard: list[Heard] = []
        runs: list[Run] = []
        size = pulled = 0
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Run):
                runs.append(item)
                size += len(item.payload)
                if size < _MOST_BATCH:
                    continue
            pulled += size
            heard += self._batch(runs)
            runs, size = [], 0
            if not isinstance(item, Run):
                heard.append(item)
        heard += self._batch(runs)
        if pulled + size:
            with self._drained:
                self._pending -= pulled + size
                self._drained.notify_all()
        return heard

    def _batch(self, runs: list[Run]) -> list[Heard]:
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
        volumes = {effect.extent.volume} if isinstance(effect, ReadDigests) else set(effect.batch.volume.tolist())
        try:
            with ExitStack() as locked:
                for disk in [self._disk(volume) for volume in sorted(volumes)]:
                    locked.enter_context(disk.lock)
                if isinstance(effect, ReadRegions):
                    self._put(Done(id_, effect, self._read(effect.batch)))
                else:
                    self._put(Done(id_, effect, self._digests(effect, region_bytes)))
        except DrsimError as error:
            self._put(Failed(id_, effect, error))

    def _disk(self, volume: int) -> Disk:
        disk = self.disks.get(volume)
        if disk is None:
            raise PlatformError(f"volume {volume} is not there", place=self.spec.id.source)
        return disk

    def _read(self, batch: WriteBatch) -> WriteBatch:
        rows = zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True)
        parts = [self.disks[volume].read(lba * SECTOR, sectors * SECTOR) for volume, lba, sectors in rows]
        return WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, b"".join(parts))

    def _digests(self, asked: ReadDigests, region_bytes: int) -> bytes:
        extent = asked.extent
        return of_regions(self.disks[extent.volume].read(extent.lba * SECTOR, extent.sectors * SECTOR), region_bytes)

    def _put(self, item: Run | Done | Failed) -> None:
        self._queue.append(item)
        if not self._told:
            self._told = True
            self._captured()


def _repeat(values: Iterable[int], counts: list[int]) -> list[int]:
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
