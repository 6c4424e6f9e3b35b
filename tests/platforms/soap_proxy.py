"""A proxy between a vSphere client and the simulator: TLS, faults by method and by number, calls counted.

It also adds what the simulator lacks: a hook may answer a method itself, or change what the simulator answers.
"""

import http.client
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)
_METHOD = re.compile(rb"<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)")
_LOOKS = re.compile(
    "(Retrieve|Find|Query|Fetch|Has|Wait|Continue|Search|Current|Session|Login|Logout|Cancel"
    "|Create(ContainerView|PropertyCollector|Filter)|Destroy(View|PropertyCollector|PropertyFilter)).*"
)

Answer = tuple[int, bytes]


def answer(method: str, inner: str) -> Answer:
    """A method's answer."""
    return 200, _ENVELOPE.format(f'<{method}Response xmlns="urn:vim25">{inner}</{method}Response>').encode()


def fault(kind: str, message: str = "", inner: str = "") -> Answer:
    """A SOAP fault, by the name of its type."""
    text = (
        f"<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{message or kind}</faultstring><detail>"
        f'<{kind}Fault xmlns="urn:vim25" xsi:type="{kind}">{inner}</{kind}Fault></detail></soapenv:Fault>'
    )
    return 500, _ENVELOPE.format(text).encode()


def changes(method: str) -> bool:
    """Whether a method changes something that outlives its session."""
    return bool(method) and not _LOOKS.fullmatch(method)


@dataclass
class Rule:
    """What happens to some calls. `method`: its name, or * for all that change something. `do`: what.

    fault: answered with `answer`; reset: the connection breaks first; lost: it breaks afterwards; status: an HTTP
    status; delay: seconds; expire: its session is ended first.
    """

    method: str
    do: str
    times: int = 1
    skip: int = 0
    answer: Answer = field(default_factory=lambda: fault("SystemError"))
    status: int = 503
    seconds: float = 0.0

    def hits(self, method: str) -> bool:
        """Whether this call is one of them; counts it."""
        if not (changes(method) if self.method == "*" else method == self.method) or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Record(NamedTuple):
    """A call as it was, in the order of answers; it was sent after `behind` others had been answered."""

    method: str
    request: bytes
    answer: bytes
    behind: int


class SoapProxy(ThreadingHTTPServer):
    """Listens on loopback with a certificate in front of a plain port. `calls`: methods, as they came."""

    daemon_threads = True

    def __init__(self, certificate: Path, upstream: int) -> None:
        self.upstream, self.rules, self.calls, self.lock = upstream, list[Rule](), list[str](), threading.Lock()
        self.instead: dict[str, Callable[[bytes], Answer]] = {}
        self.after: list[Callable[[str, bytes, bytes], bytes]] = []
        self.mistakes: list[BaseException | None] = []
        self.records: list[Record] | None = None
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate)
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def changing(self) -> int:
        """How many calls have changed something."""
        return sum(map(changes, self.calls))

    def stop(self) -> None:
        """Listen no more."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        if self.mistakes:
            raise self.mistakes[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break in tests; that is no news. Anything else is our own mistake."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: SoapProxy

    def setup(self) -> None:
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()
        self.up = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)

    def finish(self) -> None:
        self.up.close()
        super().finish()
        self.request.close()

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = _METHOD.search(body)
        method = found[1].decode() if found else ""
        with self.server.lock:
            self.server.calls.append(method)
            rule = next((rule for rule in self.server.rules if rule.hits(method)), None)
            behind = len(self.server.records or ())
        match rule.do if rule else "":
            case "delay":
                time.sleep(rule.seconds)
            case "reset":
                return self._cut()
            case "fault":
                return self._send(*rule.answer)
            case "status":
                return self._send(rule.status, b"")
            case "expire":
                logout = '<Logout xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this></Logout>'
                self._forward(_ENVELOPE.format(logout).encode())
        if method in self.server.instead:
            return self._send(*self.server.instead[method](body))
        status, data, headers = self._forward(body)
        if status == 200:
            for hook in self.server.after:
                data = hook(method, body, data)
            if self.server.records is not None:
                self.server.records.append(Record(method, body, data, behind))
        return self._cut() if rule and rule.do == "lost" else self._send(status, data, headers)

    def do_GET(self) -> None:
        self._send(*self._forward(None))

    def _forward(self, body: bytes | None) -> tuple[int, bytes, dict[str, str]]:
        kept = {"content-type", "soapaction", "cookie"}
        headers = {key: value for key, value in self.headers.items() if key.lower() in kept}
        self.up.request(self.command, self.path, body, headers)
        got = self.up.getresponse()
        data = got.read()
        kept = {"content-type", "set-cookie"}
        return got.status, data, {key: value for key, value in got.getheaders() if key.lower() in kept}

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {"Content-Type": "text/xml"}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
        self.close_connection = True
