"""Transmission: one client of a disk after its negotiation. See `splitter.py` for how it works, and why it is fast."""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from drsim.core.batch import Payload
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.units import SECTOR
from drsim.real import nbd
from drsim.real.nbd import Refused

ARENA = 4 << 20
"""Bytes that a connection receives into; a longer request makes it larger."""
RUN_WRITES, RUN_BYTES = 16, 1 << 20
"""A run is handed over and answered when it has so many writes or bytes: meanwhile the client can go on."""
NEAR = 256 << 10
"""While requests are small they use no more of the arena, so that it stays in the processor's cache."""
_TIGHT = 64 << 10  # a request that has begun is moved to the front when there is less room behind it
_ZEROS = bytes(1 << 20)
_HEAD = nbd.REQUEST.size
_PART = SECTOR - 1
_OK = nbd.SIMPLE_REPLY_MAGIC.to_bytes(4, "big") + bytes(4)

Write = tuple[int, Payload]
"""Byte offset and content."""


class Export(Protocol):
    """A disk that is served. Called from the threads of connections; extents are whole sectors within `size` bytes."""

    size: int
    read_only: bool

    def read(self, offset: int, length: int) -> Payload:
        """Content. Raises PlatformError."""
        ...

    def write(self, writes: Sequence[Write]) -> None:
        """Write a run, in order; the memory is the caller's again afterwards. Raises PlatformError."""
        ...

    def flush(self) -> None:
        """Make what was written durable. Raises PlatformError."""
        ...

    def pass_gate(self) -> None:
        """Return when what was written may be acknowledged. Raises PlatformError when it never will be."""
        ...


class Transmission:
    """One connection after its negotiation."""

    def __init__(self, connection: socket.socket, export: Export) -> None:
        self._socket, self._export = connection, export
        self._run: list[Write] = []
        self._cookies: list[bytes] = []
        self._durable = False
        self._replies: list[Payload] = []

    def run(self, rest: bytes) -> None:
        """Serve requests until the client leaves. Raises Refused, EOFError, OSError, PlatformError."""
        arena = bytearray(ARENA)
        view = memoryview(arena)
        view[: len(rest)] = rest
        head, tail = 0, len(rest)
        receive = self._socket.recv_into
        while True:
            head, stays = self._requests(view, head, tail)
            if not stays:
                return
            needed = self._needed(view, head, tail)
            if head == tail:
                head = tail = 0
            elif needed > len(view):
                grown = memoryview(bytearray(needed))
                grown[: tail - head] = view[head:tail]
                view, head, tail = grown, 0, tail - head
            elif len(view) - head < max(needed, _TIGHT) or (head > NEAR and tail - head < _TIGHT):
                view[: tail - head] = view[head:tail]
                head, tail = 0, tail - head
            got = receive(view[tail:])
            if not got:
                raise EOFError
            tail += got

    def _requests(self, view: memoryview, head: int, tail: int) -> tuple[int, bool]:
        """Serve the whole requests in `view[head:tail]`; gives where the rest begins, and whether the client stays."""
        unpack, run, cookies = nbd.REQUEST_READ.unpack_from, self._run, self._cookies
        last = self._export.size if not self._export.read_only else -1
        size, most = 0, RUN_BYTES
        while tail - head >= _HEAD:
            what, cookie, offset, length = unpack(view, head)
            if what == nbd.PLAIN_WRITE and length <= nbd.MAX_LENGTH:
                start, head = head + _HEAD, head + _HEAD + length
                if head > tail:
                    head = start - _HEAD
                    break
                if (offset | length) & _PART or not 0 < length <= last - offset:
                    self._say(cookie, self._wrong(offset, length))
                    continue
                run.append((offset, view[start:head]))
                cookies.append(cookie)
                size += length
                if size >= most or len(run) == RUN_WRITES:
                    self._write()
                    self._answer()
                    size = 0
                continue
            taken, stays = self._other(view, head, tail)
            if not stays:
                return head, False
            if not taken:
                break
            head += taken
        self._write()
        self._answer()
        return head, True

    @staticmethod
    def _needed(arena: memoryview, head: int, tail: int) -> int:
        """Bytes of the request that has begun to come."""
        if tail - head < _HEAD:
            return _HEAD
        return _HEAD + int.from_bytes(arena[head + 24 : head + 28], "big")

    def _wrong(self, offset: int, length: int) -> int:
        if self._export.read_only:
            return nbd.EPERM
        beyond = offset + length > self._export.size
        return nbd.ENOSPC if beyond and not (offset | length) % SECTOR else nbd.EINVAL

    def _other(self, view: memoryview, head: int, tail: int) -> tuple[int, bool]:
        """Everything but a plain write: its bytes, 0 if not all have come, and whether the client stays."""
        what, cookie, offset, length = nbd.REQUEST_READ.unpack_from(view, head)
        magic, flags, kind = what >> 32, what >> 16 & 0xFFFF, what & 0xFFFF
        if magic != nbd.REQUEST_MAGIC:
            raise Refused("what came is no request")
        fits = not (offset | length) % SECTOR and 0 < length <= self._export.size - offset
        if kind == nbd.WRITE:
            return self._special_write(view[head + _HEAD : tail], flags, cookie, (offset, length), fits=fits), True
        self._write()
        if kind == nbd.DISCONNECT:
            self._answer()
            return _HEAD, False
        if kind == nbd.READ and fits and length <= nbd.MAX_LENGTH:
            self._read(cookie, offset, length)
        elif kind == nbd.FLUSH:
            self._say(cookie, self._try(self._export.flush))
        elif kind == nbd.TRIM and fits and not self._export.read_only:
            self._say(cookie, 0)
        elif kind == nbd.WRITE_ZEROES and fits and not self._export.read_only:
            self._say(cookie, self._try(lambda: self._zeros(offset, length, durable=bool(flags & nbd.FUA))))
        else:
            known = kind in (nbd.TRIM, nbd.WRITE_ZEROES)
            self._say(cookie, self._wrong(offset, length) if known else nbd.EINVAL)
        return _HEAD, True

    def _special_write(
        self, data: memoryview, flags: int, cookie: bytes, extent: tuple[int, int], *, fits: bool
    ) -> int:
        """A write with flags: the bytes of its request, 0 if not all have come."""
        offset, length = extent
        if length > nbd.MAX_LENGTH:
            raise Refused(f"a write of {length} bytes")
        if length > len(data):
            return 0
        if fits and not self._export.read_only:
            self._run.append((offset, data[:length]))
            self._cookies.append(cookie)
            self._durable |= flags == nbd.FUA
        else:
            self._say(cookie, self._wrong(offset, length))
        return _HEAD + length

    def _read(self, cookie: bytes, offset: int, length: int) -> None:
        try:
            data = self._export.read(offset, length)
        except PlatformError:
            self._say(cookie, nbd.EIO)
        else:
            self._replies += (_OK, cookie, data)
            if length > ARENA // 4:
                self._answer()

    def _zeros(self, offset: int, length: int, *, durable: bool) -> None:
        for at in range(offset, offset + length, len(_ZEROS)):
            self._export.write([(at, memoryview(_ZEROS)[: min(len(_ZEROS), offset + length - at)])])
        if durable:
            self._export.flush()

    def _write(self) -> None:
        """Hand over the run that has come together."""
        if not self._run:
            return
        error = self._try(lambda: self._export.write(self._run))
        if self._durable and not error:
            error = self._try(self._export.flush)
        head = nbd.SIMPLE_REPLY_MAGIC.to_bytes(4, "big") + error.to_bytes(4, "big")
        self._replies.append(head + head.join(self._cookies))
        self._run.clear()
        self._cookies.clear()
        self._durable = False

    def _say(self, cookie: bytes, error: int) -> None:
        self._replies.append(nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, cookie))

    @staticmethod
    def _try(work: Callable[[], None]) -> int:
        try:
            work()
        except StoreFull:
            return nbd.ENOSPC
        except PlatformError:
            return nbd.EIO
        return 0

    def _answer(self) -> None:
        """Send what is to be said, as soon as the gate is open."""
        if not self._replies:
            return
        self._export.pass_gate()
        replies = self._replies
        self._socket.sendall(replies[0] if len(replies) == 1 else b"".join(replies))
        replies.clear()


def serve_client(connection: socket.socket, export: Export, rest: bytes, refused: Callable[[str], None]) -> None:
    """Serve a client after its negotiation until it leaves. `refused`: is told why it was turned away."""
    with connection, suppress(OSError, EOFError):
        try:
            Transmission(connection, export).run(rest)
        except (Refused, DrsimError) as error:
            refused(str(error))
