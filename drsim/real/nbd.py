"""NBD: the server's side of the protocol that hypervisors and tools speak to a disk, without any I/O.

Theory of operation. A connection begins with a negotiation (fixed newstyle) and goes on with transmission:

    state      client sends        we answer                              next
    ---------  ------------------  -------------------------------------  -----------------------------
    greeting   its flags           (we spoke first: ours)                 options
    options    LIST                the exports                            options
               INFO                size, flags and block sizes            options
               GO, EXPORT_NAME     the same                               transmission
               STARTTLS            yes, when there is a key               options, anew, inside TLS
               ABORT               yes                                    over
               anything else       not supported                          options
    transmission                   see `splitter.py`

With `tls` every option before STARTTLS but ABORT is refused. What cannot be ends the connection with a reason. Numbers
and names are those of the protocol's specification (doc/proto.md of the NBD project).
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from drsim.core.units import SECTOR

INIT_MAGIC, OPTION_MAGIC, REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
ACK, SERVER, INFO_REPLY = 1, 2, 3
UNSUPPORTED, INVALID, TLS_REQUIRED, UNKNOWN = 1 << 31 | 1, 1 << 31 | 3, 1 << 31 | 5, 1 << 31 | 6
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES = range(7)
FUA = 1
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN = (
    1 << n for n in (0, 1, 2, 3, 5, 6, 8)
)
EPERM, EIO, EINVAL, ENOSPC, ESHUTDOWN = 1, 5, 22, 28, 108

REQUEST = struct.Struct(">IHHQQI")
"""magic, flags, type, cookie, offset, length."""
REQUEST_READ = struct.Struct(">Q8sQI")
"""The same, as it is read: magic, flags and type as one number; the cookie as bytes."""
PLAIN_WRITE = REQUEST_MAGIC << 32 | WRITE
"""The number with which a write without flags begins."""
SIMPLE_REPLY = struct.Struct(">II8s")
"""magic, error, cookie."""
MAX_LENGTH = 32 << 20
"""Most bytes of one read or write; the specification's default."""
PREFERRED = 4096
_MOST_OPTION = 64 << 10
"""Largest option that is taken."""
_MOST_NAME = 4096
_OPTION = struct.Struct(">QII")


class Refused(ValueError):
    """The client broke the protocol: the connection ends."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An export as clients are told of it. `size` in bytes."""

    name: str
    size: int
    read_only: bool = False

    @property
    def flags(self) -> int:
        """Transmission flags."""
        writes = READ_ONLY if self.read_only else SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES
        return HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN | writes


class Phase(Enum):
    """How far a negotiation is."""

    GREETING = "greeting"
    OPTIONS = "options"
    STARTTLS = "TLS begins"
    TRANSMISSION = "transmission"
    OVER = "over"


class Negotiation:
    """One client's. `find` gives the export of a name, or None; `offers` all that are listed.

    `export`: the name that was chosen, once `phase` is TRANSMISSION. `rest`: what came after the negotiation.
    """

    def __init__(
        self, find: Callable[[str], Offer | None], offers: Callable[[], Sequence[Offer]], *, tls: bool = False
    ) -> None:
        self.phase = Phase.GREETING
        self.export = ""
        self._find, self._offers = find, offers
        self._tls, self._secured = tls, False
        self._buffer = bytearray()
        self._padding = True

    @staticmethod
    def hello() -> bytes:
        """What the server says first."""
        return struct.pack(">QQH", INIT_MAGIC, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be negotiated."""
        return self.phase in (Phase.TRANSMISSION, Phase.OVER)

    @property
    def rest(self) -> bytes:
        """Bytes that were taken and belong to what comes next."""
        return bytes(self._buffer)

    def secured(self) -> None:
        """TLS is up. Raises Refused when the client had already sent more, in the clear."""
        if self._buffer:
            raise Refused("more was sent before TLS was up")
        self._secured, self.phase = True, Phase.OPTIONS

    def feed(self, data: bytes) -> bytes:
        """Take what the client sent; gives what to answer. Raises Refused."""
        self._buffer += data
        said = b""
        if self.phase is Phase.GREETING and len(self._buffer) >= 4:
            self._greeted(int.from_bytes(self._take(4), "big"))
        while self.phase is Phase.OPTIONS and len(self._buffer) >= _OPTION.size:
            magic, option, length = _OPTION.unpack_from(self._buffer)
            if magic != OPTION_MAGIC:
                raise Refused("an option does not begin as options do")
            if length > _MOST_OPTION:
                raise Refused(f"an option of {length} bytes")
            if len(self._buffer) < _OPTION.size + length:
                break
            said += self._option(option, self._take(_OPTION.size + length)[_OPTION.size :])
        return said

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _greeted(self, flags: int) -> None:
        if flags & ~(FIXED_NEWSTYLE | NO_ZEROES) or not flags & FIXED_NEWSTYLE:
            raise Refused(f"a client with flags {flags:#x}; it has to speak fixed newstyle")
        self._padding = not flags & NO_ZEROES
        self.phase = Phase.OPTIONS

    def _option(self, option: int, data: bytes) -> bytes:
        if option == ABORT:
            self.phase = Phase.OVER
            return _reply(option, ACK)
        if self._tls and not self._secured and option != STARTTLS:
            if option == EXPORT_NAME:
                raise Refused("the client does not speak TLS")
            return _reply(option, TLS_REQUIRED, b"this server speaks TLS only")
        match option:
            case 1:  # EXPORT_NAME has no way to say no
                return self._export_name(data)
            case 3:
                return self._list(data)
            case 5:
                return self._start_tls(data)
            case 6 | 7:
                return self._info(option, data)
            case _:
                return _reply(option, UNSUPPORTED)

    def _export_name(self, data: bytes) -> bytes:
        offer = self._named(data)
        if offer is None:
            raise Refused(f"no export is called {data[:80]!r}")
        self._chosen(offer)
        return struct.pack(">QH", offer.size, offer.flags) + (bytes(124) if self._padding else b"")

    def _list(self, data: bytes) -> bytes:
        if data:
            return _reply(LIST, INVALID, b"LIST takes no data")
        names = [offer.name.encode() for offer in self._offers()]
        return b"".join(_reply(LIST, SERVER, len(n).to_bytes(4, "big") + n) for n in names) + _reply(LIST, ACK)

    def _start_tls(self, data: bytes) -> bytes:
        if not self._tls:
            return _reply(STARTTLS, UNSUPPORTED)
        if data or self._secured:
            return _reply(STARTTLS, INVALID, b"STARTTLS takes no data, and comes once")
        self.phase = Phase.STARTTLS
        return _reply(STARTTLS, ACK)

    def _info(self, option: int, data: bytes) -> bytes:
        length = int.from_bytes(data[:4], "big")
        asked = data[4 + length :]
        if len(data) < 6 or len(asked) < 2 or len(asked) != 2 + 2 * int.from_bytes(asked[:2], "big"):
            return _reply(option, INVALID, b"lengths do not add up")
        offer = self._named(data[4 : 4 + length])
        if offer is None:
            return _reply(option, UNKNOWN, b"no such export")
        if option == GO:
            self._chosen(offer)
        sizes = struct.pack(">HIII", INFO_BLOCK_SIZE, SECTOR, PREFERRED, MAX_LENGTH)
        export = struct.pack(">HQH", INFO_EXPORT, offer.size, offer.flags)
        return _reply(option, INFO_REPLY, export) + _reply(option, INFO_REPLY, sizes) + _reply(option, ACK)

    def _named(self, name: bytes) -> Offer | None:
        if len(name) > _MOST_NAME:
            return None
        try:
            return self._find(name.decode())
        except UnicodeDecodeError:
            return None

    def _chosen(self, offer: Offer) -> None:
        self.export, self.phase = offer.name, Phase.TRANSMISSION


def _reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)) + data
