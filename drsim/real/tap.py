"""Tap: what a VRA hears of one stream's disks, and the gate in front of what their guests are told.

Theory of operation. Guests write from the threads of the splitter, or from the event loop (`write`). Everything that
the VRA hears of a disk goes through the tap's queue, in the order in which it happened to the disk:

    writer's thread    lock the disk: write, then queue; unlock; pass the gate; acknowledge
    VRA's reads        read (`sweep.py`); lock the disks: queue the answer; unlock
    event loop         `pull` the queue before the VRA hears of anything else

So overlapping writes are captured in the order in which the disk ends up holding them, and a read for a sync has seen
nothing of a write that comes after its answer. A write is captured before it passes the gate: if the gate is closed
first and the queue pulled then, all that was ever acknowledged has been captured (a *hold*, PROTOCOL 3).

Content is copied once, into a chunk that batches and frames are windows on (`chunk.py`). The event loop is woken at
once for an answer or when much has come together, otherwise a little later, so that it finds more than one run.

No guest waits for the VRA to hear. While the VRA wants no content, more than `MOST_PENDING` bytes have not been pulled,
or there is no memory for another chunk, the tap keeps where writes went and not what was written (`missed.py`), in
their place in the queue.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from drsim.core.effects import EffectId, ReadDigests, ReadRegions
from drsim.core.errors import PlatformError
from drsim.core.events import Done, Failed, GuestWrote, WritesMissed
from drsim.core.names import StreamSpec
from drsim.real.chunk import Chunk, Piece, Pool, size_of
from drsim.real.disk import Disk, Run
from drsim.real.lane import Lane
from drsim.real.missed import Missed, batch_of
from drsim.real.sweep import answer_of

MOST_PENDING = 32 << 20
MUCH = 1 << 20
"""Bytes that are pulled at once."""
COLLECT = 0.001
"""Seconds that a captured write waits for company before its VRA hears of it."""
POOL = 32
"""Chunks whose memory is kept for new ones, at most."""


class ChunkPool(Protocol):
    """Where a tap's chunks come from (`chunk.Pool`)."""

    @property
    def crowded(self) -> bool:
        """Whether there should be no more chunks until some are free."""
        ...

    def chunk(self, least: int) -> Chunk:
        """A chunk with room for a part of `least` bytes."""
        ...

    def rest(self, chunk: Chunk) -> None:
        """The chunk is full."""
        ...


Heard = GuestWrote | WritesMissed | Done | Failed


class Tap:
    """The disks of one stream, by volume.

    `captured` is called, from any thread, when there is something to pull; with whether that is to be soon.
    """

    def __init__(
        self, spec: StreamSpec, disks: Mapping[int, Disk], lane: Lane | None, captured: Callable[[bool], None],
        pool: ChunkPool | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.disks = spec, dict(disks)
        self.failure: BaseException | None = None
        self._lane, self._captured = lane, captured
        self._volumes = {volume.id: volume for volume in spec.volumes}
        self._lock = threading.Lock()  # disks of a stream are written at the same time
        self._queue: deque[Piece | Missed | Done | Failed] = deque()
        self._pending = 0
        self.wanted = True
        """Whether content is."""
        self._told = self._urged = False  # that there is something; that it is much
        self._pool = pool or Pool(POOL)
        self._chunk = Chunk(bytearray(size_of(0)), 0)  # without room: the first write brings the first chunk
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
        assert self._lane is not None
        await self._lane.call(lambda: disk.write([(offset, kept)]))
        while not self._open.is_set():
            await self._open.wait()
        self._check()

    def pass_gate(self) -> None:
        """See disk.Listener."""
        if not self._gate.is_set():
            self._gate.wait()
        self._check()

    def capture(self, run: Run) -> None:
        """See disk.Listener."""
        with self._lock:
            if not self.wanted or self._pending > MOST_PENDING or self._pool.crowded:
                self._miss(run)
            else:
                self._keep(run)
        if not self._told or (self._pending > MUCH and not self._urged):
            self._tell(urgent=self._pending > MUCH)

    def _keep(self, run: Run) -> None:
        volume, offsets, parts, issued = run
        while True:
            n, nbytes = self._chunk.put(parts)
            if n:
                lengths = list(map(len, parts[:n]))
                self._queue.append(Piece(self._chunk, volume, offsets[:n], lengths, issued, nbytes))
                self._pending += nbytes
                if n == len(parts):
                    return
                offsets, parts = offsets[n:], parts[n:]
            self._pool.rest(self._chunk)
            self._chunk = self._pool.chunk(len(parts[0]))

    def _miss(self, run: Run) -> None:
        last = self._queue[-1] if self._queue else None
        if not isinstance(last, Missed):
            last = Missed()
            self._queue.append(last)
        last.add(run)

    def _check(self) -> None:
        if self.failure is not None:
            raise PlatformError("the world has stopped", place=self.spec.id.source) from self.failure

    # -- for the world ----------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Acknowledge no write until `release`."""
        self._gate.clear()
        self._open.clear()

    def holds(self, until: float) -> bool:
        """Whether `hold` is in force before `until` (`time.monotonic`): it always is."""
        return True

    def release(self, failure: BaseException | None = None) -> None:
        """Acknowledge what was withheld, and go on; with `failure`, refuse it and all that follows."""
        self.failure = self.failure or failure
        self._gate.set()
        self._open.set()

    def want(self, *, content: bool) -> None:
        """See effects.Capture."""
        self.wanted = content

    def close(self) -> None:
        """Hear of nothing any more; guests go on without."""
        for disk in self.disks.values():
            with disk.lock:
                disk.listeners = tuple(each for each in disk.listeners if each is not self)
        self._gate.set()
        self._open.set()

    def pull(self) -> list[Heard]:
        """What the VRA has not heard yet, in order. From the event loop's thread."""
        self._told = self._urged = False
        with self._lock:
            queue, self._queue = self._queue, deque()
            self._pending = 0
        heard: list[Heard] = []
        pieces: list[Piece] = []
        for item in queue:
            if pieces and (not isinstance(item, Piece) or item.chunk is not pieces[0].chunk):
                heard.append(GuestWrote(self.spec.id, pieces[0].chunk.window(pieces)))
                pieces = []
            if isinstance(item, Piece):
                pieces.append(item)
            elif isinstance(item, Missed):
                heard.append(WritesMissed(self.spec.id, batch_of(item.rows(), self._volumes)))
            else:
                heard.append(item)
        if pieces:
            heard.append(GuestWrote(self.spec.id, pieces[0].chunk.window(pieces)))
        return heard

    def answer(self, id_: EffectId, effect: ReadRegions | ReadDigests, region_bytes: int) -> None:
        """Read what the VRA asked for, and put the answer into the queue. Call in the lane."""
        found = answer_of(id_, effect, self.disks, region_bytes)
        self.settle()
        with self._lock:
            self._queue.append(found)
        self._tell(urgent=True)

    def settle(self) -> None:
        """Return when every write that is under way has been captured."""
        for disk in self.disks.values():
            with disk.lock:
                pass

    def _tell(self, *, urgent: bool) -> None:
        if not self._urged:
            self._told, self._urged = True, urgent
            self._captured(urgent)


def waking(pull: Callable[[], None]) -> Callable[[bool], None]:
    """A tap's `captured`, that calls `pull` in the event loop, soon or a little later. Made in the loop's thread."""
    loop = asyncio.get_running_loop()

    def captured(urgent: bool) -> None:
        with suppress(RuntimeError):  # the loop is over: nobody is left to hear of it
            if urgent:
                loop.call_soon_threadsafe(pull)
            else:
                loop.call_soon_threadsafe(loop.call_later, COLLECT, pull)

    return captured
