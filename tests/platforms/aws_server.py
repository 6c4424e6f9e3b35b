"""AWS on this machine: moto in server mode on a free port of loopback, strict (`strict_ebs.py`, `strict_ec2.py`), with
a layer in front that counts, loses answers, throttles, expires, delays, and keeps to clients' tokens."""

import json
import socket
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from drsim.verify.conformance.bench import Trouble

SAID = {
    (Trouble.THROTTLED, "ec2"): (503, "RequestLimitExceeded"),
    (Trouble.THROTTLED, "s3"): (503, "SlowDown"),
    (Trouble.THROTTLED, "ebs"): (400, "RequestThrottledException"),
    (Trouble.EXPIRED, "ec2"): (400, "RequestExpired"),
    (Trouble.EXPIRED, "s3"): (400, "ExpiredToken"),
    (Trouble.EXPIRED, "ebs"): (403, "ExpiredTokenException"),
}
STATUS = {400: "400 Bad Request", 403: "403 Forbidden", 503: "503 Service Unavailable"}


@dataclass(slots=True)
class Request:
    """A call, as far as it has to be understood."""

    service: str
    action: str
    changes: bool
    given: dict[str, str] = field(default_factory=dict)


def understood(environ: dict[str, Any], body: bytes) -> Request:
    """Which call a request is."""
    method, path, sent = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION", "")
    service = next((s for s in ("ec2", "ebs", "s3", "sts", "iam") if f"/{s}/aws4_request" in sent), "moto")
    if service == "ebs":
        action = {"POST": "StartSnapshot", "PUT": "PutSnapshotBlock"}.get(method, "Look")
        if path.startswith("/snapshots/completion"):
            action = "CompleteSnapshot"
        given = json.loads(body) if action == "StartSnapshot" else {}
        return Request(service, action, method != "GET", {k: json.dumps(v, sort_keys=True) for k, v in given.items()})
    if service in ("ec2", "sts", "iam"):
        given = dict(parse_qsl(body.decode()))
        action = given.get("Action", "")
        changes = service == "ec2" and not action.startswith("Describe") and given.get("DryRun") != "true"
        return Request(service, action, changes, given)
    return Request(service, method, service == "s3" and method in ("PUT", "DELETE", "POST"))


class Troubled:
    """A WSGI application in front of another one."""

    def __init__(self, app: Any) -> None:
        self._app, self._lock = app, threading.Lock()
        self.clear()

    def clear(self) -> None:
        """As at the beginning."""
        self.calls: Counter[str] = Counter()
        self.changes, self._trouble, self._times, self._skip = 0, Trouble.SLOW, 0, 0
        self.refusals: list[tuple[str, int, str]] = []
        """What is refused next: action, HTTP status, code."""
        self._tokens: dict[tuple[str, str], tuple[dict[str, str], tuple[Any, ...]]] = {}

    def expect(self, trouble: Trouble, times: int, skip: int) -> None:
        """So much trouble for calls that change something."""
        self._trouble, self._times, self._skip = trouble, times, skip

    def _next(self, request: Request) -> Trouble | None:
        with self._lock:
            self.calls[request.action] += 1
            if not request.changes:
                return None
            self.changes += 1
            if self._skip or not self._times:
                self._skip = max(0, self._skip - 1)
                return None
            self._times -= 1
            return self._trouble

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        request = understood(environ, body)
        for each in self.refusals:
            if each[0] == request.action and request.given.get("DryRun") != "true":
                self.refusals.remove(each)
                return self._refuse(start, request.service, *each[1:])
        said_sum = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        if said_sum and said_sum != b64encode(sha256(body).digest()).decode():
            return self._refuse(start, "s3", 400, "BadDigest")
        trouble = self._next(request)
        if trouble is Trouble.SLOW:
            time.sleep(0.05)
        if trouble is Trouble.NOT_DONE:
            _break(environ)
        if trouble in (Trouble.THROTTLED, Trouble.EXPIRED):
            return self._refuse(start, request.service, *SAID[trouble, request.service])
        said = self._tokenized(environ, request)
        if trouble is Trouble.LOST_ANSWER:
            _break(environ)
        start(*said[:2])
        return [said[2]]

    def _tokenized(self, environ: dict[str, Any], request: Request) -> tuple[Any, ...]:
        """A call with a client's token is carried out once; with the same token and other parameters it is refused."""
        token = request.given.get("ClientToken")
        if not token or not request.changes:
            return self._played(environ)
        key = (request.action, token)
        with self._lock:
            there = self._tokens.get(key)
            if there is None:
                said = self._played(environ)
                if said[0].startswith("2"):
                    self._tokens[key] = (request.given, said)
                return said
        if there[0] == request.given:
            return there[1]
        code = "ConflictException" if request.service == "ebs" else "IdempotentParameterMismatch"
        status, headers, body = _error(request.service, 400, code)
        return status, headers, body

    def _played(self, environ: dict[str, Any]) -> tuple[Any, ...]:
        said: list[Any] = []

        def start(status: str, headers: Any, exc_info: object = None) -> None:
            said[:] = [status, headers]

        body = self._app(environ, start)
        try:
            content = b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()
        return said[0], said[1], content

    def _refuse(self, start: Any, service: str, status: int, code: str) -> Iterable[bytes]:
        said = _error(service, status, code)
        start(*said[:2])
        return [said[2]]


def _error(service: str, status: int, code: str) -> tuple[str, list[tuple[str, str]], bytes]:
    message = f"drsim's tests say {code}"
    if service == "ebs":
        headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", code)]
        return STATUS[status], headers, json.dumps({"Message": message}).encode()
    error = f"<Code>{code}</Code><Message>{message}</Message>"
    text = (
        f"<Error>{error}</Error>"
        if service == "s3"
        else f"<Response><Errors><Error>{error}</Error></Errors></Response>"
    )
    return STATUS[status], [("Content-Type", "text/xml")], text.encode()


def _break(environ: dict[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("the connection is broken, as was asked for")


class Handler(MotoRequestHandler):
    """Says nothing on the terminal."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        pass


class Server:
    """The server, until `close`."""

    def __init__(self) -> None:
        self.front = Troubled(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", 0, self.front, threaded=True, request_handler=Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
