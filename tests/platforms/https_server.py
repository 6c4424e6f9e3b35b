"""HTTPS on loopback, for services that tests play: connections that can be cut, mistakes that are not lost."""

import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class HttpsServer(ThreadingHTTPServer):
    """Listens with a certificate, a thread for each connection. `mistakes`: our own, which `stop` raises."""

    daemon_threads = True

    def __init__(self, certificate: Path, handler: type["HttpsHandler"]) -> None:
        self.lock, self.mistakes = threading.RLock(), list[BaseException]()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def stop(self) -> None:
        """Listen no more."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        if self.mistakes:
            raise self.mistakes[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break in tests; that is no news. Anything else is a mistake."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.mistakes.append(error)


class HttpsHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: HttpsServer

    def setup(self) -> None:
        """Shake hands, in this connection's thread."""
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        """It is over."""
        super().finish()
        self.request.close()

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def content(self) -> bytes:
        """What a request brings."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """Answer."""
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def cut(self) -> None:
        """Break the connection instead."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
        self.close_connection = True
