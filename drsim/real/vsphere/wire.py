"""Wire: pyvmomi's calls over asyncio. pyvmomi writes requests and reads answers; what is between them is here.

Theory of operation. pyvmomi's own stub blocks a thread for every call: a call that is given up keeps its thread, every
call is handed over twice, and threads that make objects of answers are in each other's way. Its calls are sent here by
the event loop instead, each as one piece (head and body in one TLS record: a server that gets them in two wakes up
twice) over a connection that is kept. A connection has one call at a time; one that fails, or whose call is given up,
is closed.

HTTP as vCenter speaks it: an answer has a length, comes in chunks, or ends with its connection. (h11 reads the same and
takes twice the time of all of this.) Large answers are made into objects in a thread, so that the loop goes on.
"""

import asyncio
import ssl
import zlib
from http.client import HTTPException
from typing import Any, NamedTuple

from pyVmomi.SoapAdapter import XSI_TYPE, GetHandlers, SoapDeserializer, SoapResponseDeserializer, SoapStubAdapterBase

_LARGE = 1 << 16
"""Bytes of an answer that is read in a thread: some 20 ms of work."""
_BUFFER = 1 << 20
_PASSED = {
    "VirtualIDEController", "VirtualPS2Controller", "VirtualPCIController", "VirtualSIOController", "VirtualKeyboard",
    "VirtualPointingDevice", "VirtualMachineVideoCard", "VirtualMachineVMCIDevice", "VirtualCdrom", "VirtualFloppy",
    "VirtualAHCIController", "VirtualUSBController", "VirtualUSBXHCIController", "VirtualTPM", "VirtualWDT",
}  # fmt: skip
"""Devices that are not made into objects."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Request(NamedTuple):
    """A call that is to be sent. `result`: what pyvmomi makes of the answer."""

    body: bytes
    result: type


class Stub(SoapStubAdapterBase):  # type: ignore[misc]  # pyvmomi has no types
    """What pyvmomi's objects call: it gives the request to be sent."""

    requestContext = None  # noqa: N815  # pyvmomi's name

    def InvokeMethod(self, mo: Any, info: Any, args: Any) -> Request:  # noqa: N802
        """Called by pyvmomi."""
        return Request(self.SerializeRequest(mo, info, args), info.result)


class _Reader(SoapDeserializer):  # type: ignore[misc]  # pyvmomi has no types
    """Reads answers, without making objects of devices that nobody here looks at: they are most of a VM's hardware."""

    def StartElementHandler(self, tag: str, attributes: dict[str, str]) -> None:  # noqa: N802  # pyvmomi's name
        """An element begins."""
        if attributes.get(XSI_TYPE) not in _PASSED:
            super().StartElementHandler(tag, attributes)
            return
        parser, (start, end, text, *_) = self.parser, GetHandlers(self)

        depth = 1

        def deeper(*_: object) -> None:
            nonlocal depth
            depth += 1

        def back(_: str) -> None:
            nonlocal depth
            depth -= 1
            if not depth:
                parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text

        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = deeper, back, None


class Wire:
    """Connections to one vCenter. `most`: how many are kept. `timeout`: seconds of one call."""

    def __init__(self, host: str, port: int, version: str, context: ssl.SSLContext, most: int, timeout: float) -> None:
        self.stub, self.cookie = Stub(version), ""
        self._host, self._port, self._context, self._timeout = host, port, context, timeout
        self._most, self._idle = most, list[Connection]()
        self._head = (
            f"POST /sdk HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: drsim\r\nAccept-Encoding: gzip\r\n"
            f"Content-Type: text/xml; charset=UTF-8\r\nSOAPAction: {self.stub.versionId}\r\n"
        )

    async def send(self, request: Request) -> Any:
        """What a call gives. Raises its fault, OSError, HTTPException, ExpatError."""
        status, body = await self.post(request.body)
        if status not in (200, 500):
            raise HTTPException(f"HTTP status {status}")
        small = len(body) < _LARGE
        got = self._read(body, request.result) if small else await asyncio.to_thread(self._read, body, request.result)
        if status == 500:
            raise got if isinstance(got, Exception) else HTTPException("a fault that is none")
        return got

    def _read(self, body: bytes, result: type) -> Any:
        reader = SoapResponseDeserializer(self.stub)
        reader.deser = _Reader(self.stub)
        return reader.Deserialize(body, result)

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """Status and content of an answer."""
        async with asyncio.timeout(self._timeout):
            reader, writer = await self._connection()
            try:
                writer.write(
                    f"{self._head}Cookie: {self.cookie}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
                status, headers, content = await _answer(reader)
            except BaseException as error:
                writer.transport.abort()
                if isinstance(error, asyncio.IncompleteReadError):
                    raise ConnectionResetError("the connection ended before its answer") from error
                if isinstance(error, (ValueError, zlib.error, asyncio.LimitOverrunError)):
                    raise HTTPException(f"the answer is no HTTP: {error}") from error
                raise
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].partition(";")[0]
        if headers.get("connection", "").lower() == "close" or len(self._idle) >= self._most:
            writer.transport.abort()
        else:
            self._idle.append((reader, writer))
        return status, content

    async def _connection(self) -> Connection:
        """One that is idle and has not been closed by the other side, or a new one."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection(self._host, self._port, ssl=self._context, limit=_BUFFER)

    async def close(self) -> None:
        """Let the connections go."""
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """An answer's status, headers and content."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, _, status = head[0].partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdigit():
        raise ValueError(f"it begins with {version!r}")
    headers = {}
    for line in filter(None, head[1:]):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        content = await _chunks(reader)
    elif "content-length" in headers:
        content = await reader.readexactly(int(headers["content-length"]))
    else:
        headers["connection"], content = "close", await reader.read()
    if headers.get("content-encoding", "").lower() == "gzip":
        content = zlib.decompress(content, 16 + zlib.MAX_WBITS)
    return int(status[:3]), headers, content


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return b"".join(chunks)
