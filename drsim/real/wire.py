"""Wire: every message between sites as a length-prefixed frame, and back. Refuses what cannot be with PeerError.

A frame is an envelope (`envelope.py`). Its header is JSON: the kind, sender, receiver and fields of a message; a
batch travels as raw columns and payload in the body. Four kinds belong to the connection and carry no message:
`Hello`, the first frame each way, `KeepAlive`, which says that a silent peer is alive, and what the managers of two
sites ask each other, `Ask` and `Answer`.

A body may be compressed by zstd; each frame says so. Whether that pays is the sender's business.
"""

import json
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import get_args

from drsim.core.batch import Payload, WriteBatch
from drsim.core.errors import CoreError, PeerError, PlatformError
from drsim.core.messages import Message
from drsim.core.names import Address
from drsim.real.codec import build, hints, plain
from drsim.real.envelope import PRELUDE, Prelude, Unreadable, batch_of, columns, opened, prelude, sealed

MAGIC = b"DRSW"
MAX_HEADER = 8 << 20
"""Largest header that is taken: the digests of 128 Ki regions, and addresses."""
PAYS = 0.9
"""A body is sent compressed when it is smaller than this share of itself."""
MAX_BODY = 256 << 20
"""Largest body that is taken: the largest legal frame (64 MiB) with one large write on top, and columns."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who speaks. `lost`: VPGs of which something that was durable here is not: the peer has to compare everything."""

    site: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing to say, still here."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A manager's request, in its own words; its answer has the same number."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A message with its addresses."""

    sender: Address
    to: Address
    message: Message


Wired = Letter | Hello | KeepAlive | Ask | Answer

_MESSAGES: dict[str, type] = {cls.__name__: cls for cls in get_args(Message)}
_LINK: dict[str, type] = {cls.__name__: cls for cls in (Hello, KeepAlive, Ask, Answer)}


def batch_fields(cls: type) -> list[str]:
    """Names of the fields of a message that are batches; at most one."""
    return [name for name, type_ in hints(cls).items() if type_ is WriteBatch]


def encode(wired: Wired, *, compress: bool = False) -> bytes:
    """One frame; with `compress` its body as zstd, if that is smaller. Raises CoreError when no peer takes it."""
    return b"".join(pieces(wired, compress=compress))


def pieces(wired: Wired, *, compress: bool = False) -> list[Payload]:
    """The same in pieces; those of a payload are as they were, so that they need not be copied."""
    value = wired.message if isinstance(wired, Letter) else wired
    cls: type = type(value)
    carried = batch_fields(cls)
    content = {name: plain(getattr(value, name)) for name in hints(cls) if name not in carried}
    header: dict[str, object] = {"kind": cls.__name__, "fields": content}
    body: list[Payload] = []
    if isinstance(wired, Letter):
        header |= {"from": wired.sender, "to": wired.to}
    for name in carried:
        batch: WriteBatch = getattr(value, name)
        header |= {"rows": len(batch), "payload": batch.columns.payload is not None}
        body = columns(batch)
    raw = json.dumps(header, separators=(",", ":")).encode()
    if len(raw) > MAX_HEADER:
        raise CoreError(f"a header of {len(raw)} bytes, a peer takes {MAX_HEADER}")
    packed = _zstd().ZstdCompressor(level=1).compress(b"".join(body)) if compress and body else b""
    smaller = bool(packed) and len(packed) < PAYS * sum(map(len, body))
    parts = sealed(MAGIC, raw, [packed] if smaller else body, compressed=smaller)
    if (size := sum(map(len, parts))) > MAX_BODY:
        raise CoreError(f"a frame of {size} bytes, a peer takes {MAX_BODY}")
    return parts


def expect(data: Payload, *, place: str = "") -> Prelude:
    """The fixed part of a frame (`PRELUDE` bytes): how much follows. Raises PeerError."""
    try:
        start = prelude(MAGIC, data)
    except Unreadable as error:
        raise PeerError(f"not a frame: {error}", place=place, hint="do both sites run the same version?") from error
    if start.header > MAX_HEADER or start.body > MAX_BODY:
        raise PeerError(f"a frame of {start.size} bytes is too large", place=place)
    return start


def decode(data: Payload, *, place: str = "") -> Wired:
    """The content of exactly one frame. Raises PeerError when it is broken, cut off or makes no sense."""
    view = memoryview(data)
    return finish(expect(view, place=place), view[PRELUDE:], place=place)


def finish(start: Prelude, rest: Payload, *, place: str = "") -> Wired:
    """The content of a frame whose fixed part has been read. Raises PeerError."""
    try:
        raw, body = opened(start, rest)
        if start.compressed:
            body = _expanded(body)
        return _content(json.loads(raw), body)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"a frame that cannot be: {error}", place=place) from error


@cache
def _zstd() -> ModuleType:
    try:
        import zstandard  # of the extra `live`; who only simulates and verifies does without
    except ImportError as error:
        raise PlatformError("compression needs zstandard", hint="install drsim[live]") from error
    return zstandard


def _expanded(body: memoryview) -> memoryview:
    zstd = _zstd()
    try:
        size = zstd.frame_content_size(body)
        if not 0 <= size <= MAX_BODY:
            raise Unreadable(f"a compressed body of {size} bytes")
        return memoryview(zstd.ZstdDecompressor().decompress(body))
    except zstd.ZstdError as error:
        raise Unreadable(f"the body cannot be expanded: {error}") from error


def _content(header: object, body: memoryview) -> Wired:
    if not isinstance(header, dict):
        raise Unreadable("the header is no object")
    kind = header.get("kind")
    if not isinstance(kind, str):
        raise Unreadable("the header names no kind")
    if kind in _LINK and header.keys() == {"kind", "fields"} and not body:
        made: Wired = build(_LINK[kind], header["fields"])
        return made
    cls = _MESSAGES.get(kind)
    if cls is None:
        raise Unreadable(f"no message is called {kind!r:.40}")
    carried = batch_fields(cls)
    extra = {"rows", "payload"} if carried else set()
    if header.keys() != {"kind", "from", "to", "fields"} | extra or bool(body) > bool(carried):
        raise Unreadable(f"{kind} with {sorted(header)}")
    sender, to = header["from"], header["to"]
    if type(sender) is not str or type(to) is not str:
        raise Unreadable("an address is no text")
    ready: dict[str, object] = {}
    if carried:
        rows, payload = header["rows"], header["payload"]
        if type(rows) is not int or type(payload) is not bool:
            raise Unreadable("rows is no number, or payload no truth value")
        ready[carried[0]] = batch_of(rows, payload, body)
    return Letter(Address(sender), Address(to), build(cls, header["fields"], **ready))
