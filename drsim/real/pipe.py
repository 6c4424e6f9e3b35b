"""Pipe: one connection of the transport, on which frames are received into memory of their own, without another copy.

Theory of operation. Bytes are received into a small buffer until the fixed part of a frame is there. If the rest of the
frame is not, memory for it is made, and the connection receives directly into that. Whole frames wait in a queue; while
more than `MOST` bytes do, nothing is received, so that a peer that is too fast waits. The memory of a frame is used
again when nobody looks at it any more (`spares.py`).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from drsim.core.batch import Payload
from drsim.core.errors import PeerError
from drsim.real.envelope import PRELUDE, Prelude
from drsim.real.spares import Spares
from drsim.real.wire import expect

MOST = 8 << 20
"""Bytes of frames that wait to be taken; one that is larger is received when none waits."""
_BUFFER = 64 << 10
_GRAIN = 64 << 10
"""Frames have memory of whole grains, so that one's fits another."""
_KEPT = 8
"""Frames whose memory is kept, at most."""

Received = tuple[Prelude, Payload]
Begun = Callable[["Pipe"], None]


class Pipe(asyncio.BufferedProtocol):
    """One connection. `place` names it in errors. `begun` is called when it is made."""

    def __init__(self, place: str, begun: Begun | None = None) -> None:
        self.transport: asyncio.Transport
        self._place, self._begun = place, begun
        self.heard = 0
        """Bytes that have come."""
        self._buffer = bytearray(_BUFFER)
        self._filled = 0
        self._start: Prelude | None = None  # of the frame that is received into `_frame`
        self._frame, self._at = memoryview(b""), 0
        self._spares = Spares(_KEPT)
        self._queue: deque[Received] = deque()
        self._waiting = 0  # bytes in the queue
        self._paused = False
        self._error: BaseException | None = None
        self._wake, self._room, self._lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room.set()

    # -- for the transport ------------------------------------------------------------------------------------

    async def next(self) -> Received:
        """The next frame: its fixed part, and what follows. Raises PeerError for what is none, EOFError at the end."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        start, rest = self._queue.popleft()
        self._waiting -= start.size
        if self._paused and self._waiting <= MOST // 2:
            self._paused = False
            with suppress(RuntimeError):
                self.transport.resume_reading()
        return start, rest

    def write(self, data: Payload) -> None:
        """Send, behind what waits to be sent."""
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until little waits to be sent. Raises OSError when the connection is lost."""
        if self._lost.is_set():
            raise ConnectionResetError("connection lost")
        if not self._room.is_set():
            await self._room.wait()

    def abort(self) -> None:
        """Close it at once."""
        self.transport.abort()

    async def closed(self) -> None:
        """Wait until it is closed."""
        await self._lost.wait()

    # -- for asyncio ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BufferedProtocol, also below."""
        self.transport = cast(asyncio.Transport, transport)
        if self._begun is not None:
            self._begun(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive into."""
        if self._start is not None:
            return self._frame[self._at :]
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        self.heard += nbytes
        if self._start is not None:
            self._at += nbytes
            if self._at == self._start.rest:
                start, frame = self._start, self._frame
                self._start, self._frame = None, memoryview(b"")
                self._put(start, frame)
            return
        self._filled += nbytes
        try:
            self._parse()
        except PeerError as error:
            self._end(error)

    def _parse(self) -> None:
        at, filled = 0, self._filled
        view = memoryview(self._buffer)
        while filled - at >= PRELUDE:
            start = expect(view[at : at + PRELUDE], place=self._place)
            at += PRELUDE
            if filled - at < start.rest:
                memory = self._spares.take(-(-start.rest // _GRAIN) * _GRAIN)
                self._start, self._frame, self._at = start, memoryview(memory)[: start.rest], filled - at
                self._spares.rest(memory)
                self._frame[: filled - at] = view[at:filled]
                at = filled
            else:
                self._put(start, bytes(view[at : at + start.rest]))
                at += start.rest
        view[: filled - at] = view[at:filled]
        self._filled = filled - at

    def _put(self, start: Prelude, rest: Payload) -> None:
        self._queue.append((start, rest))
        self._waiting += start.size
        self._wake.set()
        if self._waiting > MOST and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _end(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._wake.set()
        self.transport.abort()

    def eof_received(self) -> None:
        """The peer sends no more."""
        self._end(EOFError("end of the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        if self._error is None:
            self._error = exc or EOFError("end of the connection")
        for event in (self._wake, self._room, self._lost):
            event.set()

    def pause_writing(self) -> None:
        """Much waits to be sent."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Little does."""
        self._room.set()
