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
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from drsim.core.errors import DrsimError, PlatformError
from drsim.real.files import blame
from drsim.real.loopback import bound
from drsim.real.nbd import Negotiation, Offer, Phase, Refused
from drsim.real.transmission import Export, Transmission

MOST_CONNECTIONS = 128
_GREETING_SECONDS = 10.0
_POLL = 0.005
"""Seconds between looks at whether somebody still uses a disk."""


@runtime_checkable
class Elsewhere(Protocol):
    """A disk that another process serves: it takes over the connections of its clients."""

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether nothing may be written."""
        ...

    def take_over(self, connection: socket.socket, rest: bytes) -> None:
        """Serve a client after its negotiation, which had sent `rest` beyond that. Raises PlatformError."""
        ...


@dataclass(slots=True)
class Splitter:
    """Serves exports, by name. `refused`: is told why a client was turned away."""

    refused: Callable[[str], None] = lambda _: None
    exports: dict[str, Export | Elsewhere] = field(default_factory=dict)
    _listeners: list[socket.socket] = field(default_factory=list)
    _connections: set[socket.socket] = field(default_factory=set)
    _serving: dict[socket.socket, str] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _paths: list[Path] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    # -- for the owner ----------------------------------------------------------------------------------------

    def add(self, name: str, export: Export | Elsewhere) -> None:
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
        listener = bound(path)
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
            if isinstance(export, Elsewhere):
                if tls is not None:
                    raise PlatformError("this disk is served over unix sockets only", place=negotiation.export)
                export.take_over(connection, negotiation.rest)
            elif export is not None:
                with self._lock:
                    self._serving[plain] = negotiation.export
                Transmission(connection, export).run(negotiation.rest)
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


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
