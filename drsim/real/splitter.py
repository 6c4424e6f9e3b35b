"""Splitter: the VMs' disks over NBD, with the tap in the path of every write.

Theory of operation. Hypervisors and tools connect over a unix socket or TCP (with TLS, if there is a key), choose an
export and send requests. One thread serves one connection:

    receive as much as is there into a large arena
    parse all requests in it, in place; consecutive writes are one *run*, given to the export at once
    wait at the export's gate if its VPG is held (PROTOCOL 3), then send all replies in one call

No object, task or queue belongs to a single request, which is why this is fast enough in Python. What a run does to
the disk and in which order it is captured is the export's business (`tap.py`); that a write is captured before it is
acknowledged follows from the order above.

Requests that cannot be (beyond the end, not whole sectors, too long) are answered with an error and change nothing;
bytes that are no request end the connection. TRIM is taken and does nothing, so that what a guest reads afterwards is
the same on both sides. WRITE_ZEROES writes zeros.
"""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drsim.core.batch import Payload
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.units import SECTOR
from drsim.real import nbd
from drsim.real.files import blame
from drsim.real.nbd import Negotiation, Offer, Phase, Refused

ARENA = 4 << 20
"""Bytes that a connection receives into; a longer request makes it larger."""
MOST_CONNECTIONS = 128
_TIGHT = 64 << 10  # with less room behind it, a request that has begun is moved to the front
_ZEROS = bytes(1 << 20)
_HEAD = nbd.REQUEST.size
_OK = nbd.SIMPLE_REPLY_MAGIC.to_bytes(4, "big") + bytes(4)
_GREETING_SECONDS = 10.0
_POLL = 0.005
"""Seconds between looks at whether somebody still uses a disk."""

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


@dataclass(slots=True)
class Splitter:
    """Serves exports, by name. `refused`: is told why a client was turned away."""

    refused: Callable[[str], None] = lambda _: None
    exports: dict[str, Export] = field(default_factory=dict)
    _listeners: list[socket.socket] = field(default_factory=list)
    _connections: set[socket.socket] = field(default_factory=set)
    _serving: dict[socket.socket, str] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _paths: list[Path] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    # -- for the owner ----------------------------------------------------------------------------------------

    def add(self, name: str, export: Export) -> None:
        """Serve a disk under a name. Raises PlatformError when the name is taken."""
        if name in self.exports:
            raise PlatformError(f"an export is called {name!r} already", place="splitter")
        self.exports[name] = export

    def remove(self, name: str) -> None:
        """Serve it no more: its connections end."""
        self.exports.pop(name, None)
        with self._lock:
            theirs = [connection for connection, chosen in self._serving.items() if chosen == name]
        for connection in theirs:
            _end(connection)

    async def withdraw(self, name: str) -> None:
        """Serve it no more, and wait until nobody uses it."""
        self.remove(name)
        while self.users(name):
            await asyncio.sleep(_POLL)

    def users(self, name: str) -> int:
        """How many connections an export has."""
        with self._lock:
            return sum(chosen == name for chosen in self._serving.values())

    def listen_unix(self, path: Path) -> None:
        """Serve on a unix socket that only this user may open. Raises PlatformError when another server has it."""
        with blame(path):
            probe = socket.socket(socket.AF_UNIX)
            with probe:
                if path.exists() and probe.connect_ex(str(path)) == 0:
                    raise PlatformError("a server listens here already", place=str(path))
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            before = os.umask(0o077)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
        self._paths.append(path)
        self._listen(listener, None)

    def listen_tcp(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Serve on TCP; gives the port. Without `tls` on loopback only. Raises PlatformError."""
        if tls is None and host not in ("127.0.0.1", "::1", "localhost"):
            raise PlatformError("NBD without TLS is served on loopback only", place=f"{host}:{port}")
        with blame(f"{host}:{port}"):
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listen(listener, tls)
        return int(listener.getsockname()[1])

    def close(self) -> None:
        """End all connections; returns when no thread is left."""
        self._closed = True
        for listener in self._listeners:
            _end(listener)
        with self._lock:
            open_ = list(self._connections)
        for connection in open_:
            _end(connection)
        for thread in self._threads:
            thread.join()
        for path in self._paths:
            path.unlink(missing_ok=True)

    # -- connections ------------------------------------------------------------------------------------------

    def _listen(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        listener.listen(16)
        self._listeners.append(listener)
        self._start(lambda: self._accept(listener, tls), "accept")

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=f"nbd {name}", daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        with listener:
            while not self._closed:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with self._lock:
                    full = len(self._connections) >= MOST_CONNECTIONS or self._closed
                    if not full:
                        self._connections.add(connection)
                if full:
                    self.refused(f"more than {MOST_CONNECTIONS} connections")
                    connection.close()
                else:
                    self._start(lambda c=connection: self._serve(c, tls), "connection")  # type: ignore[misc]

    def _serve(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        plain = connection
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_GREETING_SECONDS)
            negotiation = Negotiation(self._offer, lambda: [self._offer(n) for n in self.exports], tls=tls is not None)  # type: ignore[misc]
            connection = self._negotiate(connection, negotiation, tls)
            connection.settimeout(None)
            export = self.exports.get(negotiation.export) if negotiation.phase is Phase.TRANSMISSION else None
            if export is not None:
                with self._lock:
                    self._serving[plain] = negotiation.export
                _Transmission(connection, export).run(negotiation.rest)
        except Refused as error:
            self.refused(str(error))
        except ssl.SSLError as error:
            self.refused(f"TLS: {error.reason or error}")
        except (OSError, EOFError):
            pass  # the client went away
        except DrsimError as error:
            self.refused(str(error))
        finally:
            with self._lock:
                self._connections.discard(plain)
                self._serving.pop(plain, None)
            connection.close()
            plain.close()

    def _offer(self, name: str) -> Offer | None:
        export = self.exports.get(name)
        return None if export is None else Offer(name, export.size, export.read_only)

    def _negotiate(
        self, connection: socket.socket, negotiation: Negotiation, tls: ssl.SSLContext | None
    ) -> socket.socket:
        connection.sendall(negotiation.hello())
        while not negotiation.over:
            data = connection.recv(4096)
            if not data:
                raise EOFError
            connection.sendall(negotiation.feed(data))
            if negotiation.phase is Phase.STARTTLS:
                assert tls is not None
                negotiation.secured()
                connection = tls.wrap_socket(connection, server_side=True)
        return connection


class _Transmission:
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
        unpack, receive = nbd.REQUEST.unpack_from, self._socket.recv_into
        run, cookies = self._run, self._cookies
        size, writable = self._export.size, not self._export.read_only
        while True:
            while tail - head >= _HEAD:
                magic, flags, kind, _, offset, length = unpack(arena, head)
                if magic != nbd.REQUEST_MAGIC:
                    raise Refused("what came is no request")
                if kind != nbd.WRITE:
                    if not self._other(kind, flags, bytes(view[head + 8 : head + 16]), offset, length):
                        return
                    head += _HEAD
                    continue
                if length > nbd.MAX_LENGTH:
                    raise Refused(f"a write of {length} bytes")
                end = head + _HEAD + length
                if end > tail:
                    break
                if writable and not (offset | length) % SECTOR and length > 0 and offset + length <= size:
                    run.append((offset, view[head + _HEAD : end]))
                    cookies.append(bytes(view[head + 8 : head + 16]))
                    if flags:
                        self._durable |= flags == nbd.FUA
                else:
                    self._say(bytes(view[head + 8 : head + 16]), self._wrong(offset, length))
                head = end
            self._write()
            self._answer()
            needed = self._needed(arena, head, tail)
            if head == tail:
                head = tail = 0
            elif needed > len(arena):
                grown = bytearray(needed)
                grown[: tail - head] = view[head:tail]
                arena, view, head, tail = grown, memoryview(grown), 0, tail - head
            elif len(arena) - head < max(needed, _TIGHT):
                view[: tail - head] = view[head:tail]
                head, tail = 0, tail - head
            got = receive(view[tail:])
            if not got:
                raise EOFError
            tail += got

    @staticmethod
    def _needed(arena: bytearray, head: int, tail: int) -> int:
        """Bytes of the request that has begun to come."""
        if tail - head < _HEAD:
            return _HEAD
        return _HEAD + int.from_bytes(arena[head + 24 : head + 28], "big")

    def _wrong(self, offset: int, length: int) -> int:
        if self._export.read_only:
            return nbd.EPERM
        beyond = offset + length > self._export.size
        return nbd.ENOSPC if beyond and not (offset | length) % SECTOR else nbd.EINVAL

    def _other(self, kind: int, flags: int, cookie: bytes, offset: int, length: int) -> bool:
        """Everything but a write; whether the client stays."""
        self._write()
        fits = not (offset | length) % SECTOR and length > 0 and offset + length <= self._export.size
        if kind == nbd.DISCONNECT:
            self._answer()
            return False
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
        return True

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
        for cookie in self._cookies:
            self._replies += (head, cookie)
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


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
