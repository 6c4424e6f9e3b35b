"""A WinRM endpoint of our own for tests: WSMan over HTTP or TLS, NTLM with message encryption, and PSRP by psrpcore.

Only the envelopes are ours. What PSRP sends (fragments, CLIXML, types, error records) is psrpcore's; logins and message
encryption are pyspnego's, as acceptor. Cmdlets are Python callables of a host; a script is never run. Trouble is made
where the network would make it: before a pipeline is carried out, or when its answer is fetched.
"""

import base64
import re
import ssl
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import psrpcore
import spnego
from psrpcore import types as ps
from pypsrp.encryption import WinRMEncryption

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
    "p": "http://schemas.microsoft.com/powershell",
}
SHELL_URI = "http://schemas.microsoft.com/powershell/Microsoft.PowerShell"
TIMED_OUT, NO_SHELL, TOO_MANY, DENIED = 2150858793, 2150858843, 2150859174, 5
_WORDS = {
    TIMED_OUT: "The operation did not complete within the time of OperationTimeout.",
    NO_SHELL: "The shell was not found on the server.",
    TOO_MANY: "This user has reached the most concurrent operations.",
    DENIED: "Access is denied.",
}
_OVER = (ps.PSInvocationState.Completed, ps.PSInvocationState.Stopped, ps.PSInvocationState.Failed)


class Fault(Exception):
    """A WSMan fault, by its code."""

    def __init__(self, code: int) -> None:
        super().__init__(_WORDS[code])
        self.code = code


class Dropped(Exception):
    """The connection breaks."""


class CmdletError(Exception):
    """An error record that a cmdlet writes."""

    def __init__(self, message: str, category: str = "NotSpecified", name: str = "") -> None:
        super().__init__(message)
        self.category, self.name = category, name


class Woe(Enum):
    """What happens to a pipeline that changes something."""

    LOST_ANSWER = auto()
    NOT_DONE = auto()
    THROTTLED = auto()
    EXPIRED = auto()
    SLOW = auto()


class Host(Protocol):
    """Who runs pipelines. `run` gives objects and error records; `changes` says whether commands change anything."""

    def run(self, commands: list[Any]) -> tuple[list[Any], list[CmdletError]]: ...

    def changes(self, commands: list[Any]) -> bool: ...


class Shell:
    """A runspace pool, and its pipelines."""

    def __init__(self, server: "FakeWinRM") -> None:
        self._server, self._ready = server, threading.Condition()
        self._pool = psrpcore.ServerRunspacePool()
        self._out: dict[uuid.UUID | None, list[bytes]] = {}
        self._lost: set[uuid.UUID] = set()

    def feed(self, data: bytes) -> None:
        """Data of the client's."""
        with self._ready:
            self._pool.receive_data(psrpcore.PSRPPayload(data, psrpcore.StreamType.default, None))
            while event := self._pool.next_event():
                if isinstance(event, psrpcore.CreatePipelineEvent):
                    self._begin(event)
            self._flush()

    def expect(self, pipeline: uuid.UUID) -> None:
        """A pipeline of this id is coming."""
        psrpcore.ServerPipeline(self._pool, pipeline)

    def _begin(self, event: psrpcore.CreatePipelineEvent) -> None:
        commands = event.pipeline.commands
        woe = self._server.next_woe(commands)
        match woe:
            case Woe.NOT_DONE:
                raise Dropped
            case Woe.THROTTLED:
                raise Fault(TOO_MANY)
            case Woe.EXPIRED:
                self._server.shells.clear()
                raise Fault(NO_SHELL)
            case Woe.LOST_ANSWER:
                self._lost.add(event.pipeline_id)
        pipe = self._pool.pipeline_table[event.pipeline_id]
        pipe.start()
        work = threading.Thread(target=self._run, args=(pipe, commands, woe is Woe.SLOW), daemon=True)
        work.start()

    def _run(self, pipe: psrpcore.ServerPipeline, commands: list[Any], slow: bool) -> None:
        if slow:
            time.sleep(self._server.slowness)
        try:
            output, errors = self._server.host.run(commands)
        except CmdletError as error:
            output, errors = [], [error]
        with self._ready:
            if pipe.state != ps.PSInvocationState.Running:
                return
            for error in errors:
                pipe.write_error(
                    ps.NETException(Message=str(error)),
                    ps.ErrorCategoryInfo(Category=getattr(ps.ErrorCategory, error.category)),
                    fully_qualified_error_id=error.name,
                )
            for each in output:
                pipe.write_output(each)
            pipe.complete()
            self._flush()

    def _flush(self) -> None:
        while data := self._pool.data_to_send(100_000):
            self._out.setdefault(data.pipeline_id, []).append(data.data)
        self._ready.notify_all()

    def receive(self, pipeline: uuid.UUID | None, timeout: float) -> tuple[list[bytes], bool]:
        """What there is to send, and whether the pipeline is over."""
        with self._ready:
            self._ready.wait_for(lambda: self._out.get(pipeline), timeout)
            data = self._out.pop(pipeline, [])
            if not data:
                raise Fault(TIMED_OUT)
            if pipeline in self._lost:
                raise Dropped
            pipe = self._pool.pipeline_table.get(pipeline)
            return data, pipe is None or pipe.state in _OVER

    def stop(self, pipeline: uuid.UUID) -> None:
        """End a pipeline."""
        with self._ready:
            pipe = self._pool.pipeline_table.get(pipeline)
            if pipe is not None and pipe.state == ps.PSInvocationState.Running:
                pipe.begin_stop()
                pipe.stop()
                self._flush()


class FakeWinRM(ThreadingHTTPServer):
    """The endpoint of one host. `down`: it does not answer. `denied`: accounts that may not use WinRM."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: Host, *, tls: ssl.SSLContext | None = None, operation: float = 5.0) -> None:
        self.host, self.operation, self.slowness = host, operation, 0.2
        self.shells: dict[str, Shell] = {}
        self.next_woe: Callable[[list[Any]], Woe | None] = lambda commands: None
        self.down, self.denied, self.logins = False, False, 0
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Connections are kept in mind, so that they end with the server."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    def lose(self) -> None:
        """Answer nobody any more, as a host without power."""
        self.down = True
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(2)

    def stop(self) -> None:
        """End the server and its connections."""
        self.lose()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection: a login, then encrypted messages."""

    protocol_version, wbufsize = "HTTP/1.1", -1
    server: FakeWinRM
    login: Any = None

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        """A message."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.down:
            return self._drop()
        if self.login is None or not self.login.complete:
            return self._log_in(body)
        return self._message(body)

    def _log_in(self, body: bytes) -> None:
        word, _, token = self.headers.get("Authorization", "").partition(" ")
        if word != "Negotiate":
            return self._refuse()
        self.login = self.login or spnego.server(
            protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm | spnego.NegotiateOptions.wrapping_winrm
        )
        try:
            answer = self.login.step(base64.b64decode(token))
        except spnego.exceptions.SpnegoError:
            self.login = None
            return self._refuse()
        if not self.login.complete:
            return self._refuse(answer or b"")
        self.server.logins += 1
        if body:
            return self._message(body)
        return self._send(200, "", b"")

    def _refuse(self, token: bytes = b"") -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", f"Negotiate {base64.b64encode(token).decode()}".strip())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _message(self, body: bytes) -> None:
        kind = self.headers.get("Content-Type", "")
        boundary = re.search('boundary="([^"]+)"', kind)
        wrapping = WinRMEncryption(self.login, WinRMEncryption.SPNEGO) if boundary else None
        plain = wrapping.unwrap_message(body, boundary[1]) if wrapping and boundary else body
        if wrapping is None and not isinstance(self.connection, ssl.SSLSocket):
            return self._send(400, "", b"")  # never in the clear
        try:
            status, answer = self._answer(plain)
        except Dropped:
            return self._drop()
        if wrapping is None:
            return self._send(status, "application/soap+xml;charset=UTF-8", answer)
        kind, data = wrapping.wrap_message(answer)
        return self._send(status, f'{kind};protocol="{wrapping.protocol}";boundary="Encrypted Boundary"', data)

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    # -- WSMan ------------------------------------------------------------------------------------------------

    def _answer(self, plain: bytes) -> tuple[int, bytes]:
        message = ET.fromstring(plain)
        action, number = message.findtext("s:Header/a:Action", "", NS), message.findtext("s:Header/a:MessageID", "", NS)
        answer = ET.Element(f"{{{NS['s']}}}Envelope")
        header = _add(answer, "s:Header")
        body = _add(answer, "s:Body")
        try:
            status = 200
            self._verb(action.rpartition("/")[2], message, body)
        except Fault as fault:
            status, action = 500, "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"
            _fault(body, fault)
        _add(header, "a:Action", action + ("Response" if status == 200 else ""))
        _add(header, "a:RelatesTo", number)
        return status, ET.tostring(answer)

    def _verb(self, verb: str, message: ET.Element, body: ET.Element) -> None:
        if self.server.denied:
            raise Fault(DENIED)
        shells = self.server.shells
        name = message.findtext("s:Header/w:SelectorSet/w:Selector[@Name='ShellId']", None, NS)
        if verb == "Create":
            asked = message.find("s:Body/rsp:Shell", NS)
            name = asked.get("ShellId") or str(uuid.uuid4()).upper()
            shells[name] = Shell(self.server)
            shells[name].feed(base64.b64decode(asked.findtext("p:creationXml", "", NS)))
            return _created(body, name)
        shell = shells.get(name or "")
        if shell is None:
            raise Fault(NO_SHELL)
        if verb == "Command":
            asked = message.find("s:Body/rsp:CommandLine", NS)
            pipeline = asked.get("CommandId")
            shell.expect(uuid.UUID(pipeline))
            shell.feed(base64.b64decode(asked.findtext("rsp:Arguments", "", NS)))
            _add(_add(body, "rsp:CommandResponse"), "rsp:CommandId", pipeline)
            return None
        if verb == "Send":
            shell.feed(base64.b64decode(message.findtext("s:Body/rsp:Send/rsp:Stream", "", NS)))
            _add(body, "rsp:SendResponse")
            return None
        if verb == "Receive":
            return self._receive(shell, message, body)
        if verb == "Signal":
            pipeline = message.find("s:Body/rsp:Signal", NS).get("CommandId")
            shell.stop(uuid.UUID(pipeline))
            _add(body, "rsp:SignalResponse")
            return None
        if verb == "Delete":
            shells.pop(name or "", None)
            return None
        raise AssertionError(verb)

    def _receive(self, shell: Shell, message: ET.Element, body: ET.Element) -> None:
        pipeline = message.find("s:Body/rsp:Receive/rsp:DesiredStream", NS).get("CommandId")
        data, over = shell.receive(uuid.UUID(pipeline) if pipeline else None, self.server.operation)
        answer = _add(body, "rsp:ReceiveResponse")
        for each in data:
            stream = _add(answer, "rsp:Stream", base64.b64encode(each).decode())
            stream.set("Name", "stdout")
            if pipeline:
                stream.set("CommandId", pipeline)
        if pipeline:
            state = _add(answer, "rsp:CommandState")
            state.set("CommandId", pipeline)
            state.set("State", f"{NS['rsp']}/CommandState/{'Done' if over else 'Running'}")


def _add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    prefix, _, tag = name.partition(":")
    found = ET.SubElement(parent, f"{{{NS[prefix]}}}{tag}")
    found.text = text
    return found


def _created(body: ET.Element, shell: str) -> None:
    made = _add(body, "x:ResourceCreated")
    parameters = _add(made, "a:ReferenceParameters")
    _add(parameters, "w:ResourceURI", SHELL_URI)
    _add(_add(parameters, "w:SelectorSet"), "w:Selector", shell).set("Name", "ShellId")
    told = _add(body, "rsp:Shell")
    _add(told, "rsp:ShellId", shell)
    _add(told, "rsp:ResourceUri", SHELL_URI)


def _fault(body: ET.Element, fault: Fault) -> None:
    told = _add(body, "s:Fault")
    code = _add(told, "s:Code")
    _add(code, "s:Value", "s:Receiver")
    _add(_add(told, "s:Reason"), "s:Text", str(fault))
    detail = _add(_add(told, "s:Detail"), "f:WSManFault")
    detail.set("Code", str(fault.code))
    _add(detail, "f:Message", str(fault))
