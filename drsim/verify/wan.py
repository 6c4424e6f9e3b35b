"""Wan: a connection on loopback that can be cut, held up or slowed down."""

import socket
import threading
import time
from contextlib import suppress

from drsim.real.loopback import free_port


class Wan:
    """The connection between the sites, which can be cut, held up or slowed down."""

    def __init__(self, to: int) -> None:
        self._to, self.port = to, free_port()
        self._open, self.rate = threading.Event(), 0.0
        self._open.set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    here.close()
                    continue
                self._ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                if self.rate:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Everything that is on it is lost."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def hold(self, *, on: bool) -> None:
        """Nothing comes through, and nobody is told."""
        (self._open.clear if on else self._open.set)()

    def close(self) -> None:
        """No more of it."""
        self._listener.close()
        self.hold(on=False)
        self.cut()
