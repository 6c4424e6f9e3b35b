"""A small NBD client for tests: says exactly what a test wants it to say, right or wrong."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drsim.real import nbd


class Client:
    """One connection, negotiated by GO. `request` sends, `reply` receives."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._cookie = 0

    def exactly(self, size: int) -> bytes:
        """Receive so many bytes. Raises EOFError when the server hangs up before."""
        parts = b""
        while len(parts) < size:
            part = self.socket.recv(size - len(parts))
            if not part:
                raise EOFError
            parts += part
        return parts

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask for an option; the replies, the last of which ends it."""
        self.socket.sendall(struct.pack(">QII", nbd.OPTION_MAGIC, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while not replies or replies[-1][0] in (nbd.SERVER, nbd.INFO_REPLY):
            magic, said, kind, length = struct.unpack(">QIII", self.exactly(20))
            assert (magic, said) == (nbd.REPLY_MAGIC, option)
            replies.append((kind, self.exactly(length)))
        return replies

    def go(self, name: str) -> list[tuple[int, bytes]]:
        """Choose an export."""
        return self.option(nbd.GO, len(name).to_bytes(4, "big") + name.encode() + bytes(2))

    def request(self, kind: int, offset: int, length: int, data: bytes = b"", *, flags: int = 0) -> int:
        """Send a request; its cookie."""
        self._cookie += 1
        head = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, kind, self._cookie, offset, length)
        self.socket.sendall(head + data)
        return self._cookie

    def reply(self) -> tuple[int, int]:
        """Cookie and error of the next reply."""
        magic, error, cookie = nbd.SIMPLE_REPLY.unpack(self.exactly(16))
        assert magic == nbd.SIMPLE_REPLY_MAGIC
        return int.from_bytes(cookie, "big"), error

    def write(self, offset: int, data: bytes, *, flags: int = 0) -> int:
        """Write and wait; the error."""
        cookie = self.request(nbd.WRITE, offset, len(data), data, flags=flags)
        answered, error = self.reply()
        assert answered == cookie
        return error

    def read(self, offset: int, length: int) -> bytes:
        """Read and wait."""
        self.request(nbd.READ, offset, length)
        assert self.reply()[1] == 0
        return self.exactly(length)


@contextmanager
def connected(path: Path, name: str | None = None) -> Iterator[Client]:
    """A client on a unix socket, after the greeting; with `name`, that export chosen."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        client = Client(connection)
        magic, options, flags = struct.unpack(">QQH", client.exactly(18))
        assert (magic, options, flags) == (nbd.INIT_MAGIC, nbd.OPTION_MAGIC, 3)
        connection.sendall(struct.pack(">I", 3))
        if name is not None:
            assert client.go(name)[-1][0] == nbd.ACK
        yield client
