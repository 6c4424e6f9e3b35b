"""A proxy between a vSphere client and the simulator: TLS, faults by method and by number, calls counted.

It also adds what the simulator lacks: a hook may answer a method itself, or change what the simulator answers.
"""

import http.client
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from platforms.https_server import HttpsHandler, HttpsServer

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

_XML = {"Content-Type": "text/xml"}
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


class SoapProxy(HttpsServer):
    """In front of a plain port. `calls`: methods, as they came."""

    def __init__(self, certificate: Path, upstream: int) -> None:
        self.upstream, self.rules, self.calls = upstream, list[Rule](), list[str]()
        self.instead: dict[str, Callable[[bytes], Answer]] = {}
        self.after: list[Callable[[str, bytes, bytes], bytes]] = []
        self.records: list[Record] | None = None
        super().__init__(certificate, _Handler)

    def changing(self) -> int:
        """How many calls have changed something."""
        return sum(map(changes, self.calls))


class _Handler(HttpsHandler):
    server: SoapProxy

    def setup(self) -> None:
        super().setup()
        self.up = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)

    def finish(self) -> None:
        self.up.close()
        super().finish()

    def do_POST(self) -> None:
        body = self.content()
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
                return self.cut()
            case "fault":
                return self.send(*rule.answer, _XML)
            case "status":
                return self.send(rule.status, b"", _XML)
            case "expire":
                logout = '<Logout xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this></Logout>'
                self._forward(_ENVELOPE.format(logout).encode())
        if method in self.server.instead:
            return self.send(*self.server.instead[method](body), _XML)
        status, data, headers = self._forward(body)
        if status == 200:
            for hook in self.server.after:
                data = hook(method, body, data)
            if self.server.records is not None:
                self.server.records.append(Record(method, body, data, behind))
        return self.cut() if rule and rule.do == "lost" else self.send(status, data, headers)

    def do_GET(self) -> None:
        self.send(*self._forward(None))

    def _forward(self, body: bytes | None) -> tuple[int, bytes, dict[str, str]]:
        kept = {"content-type", "soapaction", "cookie"}
        headers = {key: value for key, value in self.headers.items() if key.lower() in kept}
        self.up.request(self.command, self.path, body, headers)
        got = self.up.getresponse()
        data = got.read()
        kept = {"content-type", "set-cookie"}
        return got.status, data, {key: value for key, value in got.getheaders() if key.lower() in kept}
