"""Words: what a site and the process of one of its hosts tell each other, over a socket that keeps messages whole.

A word is a small value as JSON (`codec.py`). What is captured lies in memory that both can see: the word comes with its
descriptor. Every `Ask` is answered by `Answered` or `Refused` with its number, in no promised order among asks; but
what is heard of one tap (`Wrote`, `Missed`, and answers to `HoldOn` and `Settle`) comes in the order in which it
happened.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from threading import Lock
from typing import Any, get_args

from drsim.core.errors import CoreError, DrsimError, FileError, PeerError, PlatformError, StoreFull
from drsim.core.names import StreamSpec, VolumeInfo
from drsim.real.codec import build, hints, plain

MOST = 64 << 10
"""Bytes of a word."""
ROWS = 1000
"""Of `Missed`: its bytes as text are more than half of a word."""
_ERRORS: dict[str, type[DrsimError]] = {cls.__name__: cls for cls in (PlatformError, StoreFull, PeerError, FileError)}


@dataclass(frozen=True, slots=True)
class Open:
    """Ask: open a disk, or make it, unless it must be there."""

    number: int
    volume: VolumeInfo
    path: str
    must_exist: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Ask: end a disk's clients, and close it."""

    number: int
    volume: int


@dataclass(frozen=True, slots=True)
class Serve:
    """A client of a disk, after its negotiation; `rest`: what it had sent beyond that. With its socket."""

    volume: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class Watch:
    """Tap the volumes of a stream."""

    tap: int
    spec: StreamSpec


@dataclass(frozen=True, slots=True)
class Unwatch:
    """Tap them no more."""

    tap: int


@dataclass(frozen=True, slots=True)
class Want:
    """The content of what is written is wanted, or only where it went."""

    tap: int
    content: bool


@dataclass(frozen=True, slots=True)
class HoldOn:
    """Ask: acknowledge nothing of this tap; answered when all that was captured before has been told."""

    number: int
    tap: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """Acknowledge again. `failed`: refuse everything from now on."""

    tap: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Settle:
    """Ask: answered when all writes to a tap's disks that were under way have been captured and told."""

    number: int
    tap: int


@dataclass(frozen=True, slots=True)
class Record:
    """Ask: record what is written to these volumes, or end that. Answered with how many writes there are."""

    number: int
    vm: str
    volumes: tuple[int, ...]
    on: bool


@dataclass(frozen=True, slots=True)
class Freed:
    """A chunk is not looked at any more."""

    tap: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Answered:
    """An ask was carried out."""

    number: int
    value: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """An ask could not be carried out."""

    number: int
    kind: str
    message: str
    place: str
    hint: str

    @property
    def error(self) -> DrsimError:
        """Why."""
        return _ERRORS.get(self.kind, PlatformError)(self.message, place=self.place, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Chunked:
    """A tap's next chunk begins, with so many bytes of content. With its memory."""

    tap: int
    chunk: int
    content: int


@dataclass(frozen=True, slots=True)
class Wrote:
    """The rows `lo` up to `hi` of a chunk were written."""

    tap: int
    chunk: int
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Missed:
    """There was no room for what was written here; `rows`: see `missed.py`, at most `ROWS` of them."""

    tap: int
    rows: bytes


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A client was."""

    why: str


Ask = Open | Close | HoldOn | Settle | Record
Word = Ask | Serve | Watch | Unwatch | Want | LetGo | Freed | Answered | Refused | Chunked | Wrote | Missed | TurnedAway
_WORDS: dict[str, type] = {cls.__name__: cls for cls in get_args(Word)}


def refusal(number: int, error: DrsimError) -> Refused:
    """The answer to an ask that failed."""
    return Refused(number, type(error).__name__, error.message, error.place, error.hint)


def shared(size: int) -> int:
    """The descriptor of new memory. Raises OSError."""
    fd = os.memfd_create("drsim", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def mapped(fd: int, size: int) -> mmap:
    """That memory; the descriptor is closed. Raises OSError."""
    try:
        return mmap(fd, size)
    finally:
        os.close(fd)


class Channel:
    """One end. `say` may be used from several threads, `hear` from one. Both raise OSError."""

    def __init__(self, end: socket.socket) -> None:
        self.socket, self._lock = end, Lock()

    def say(self, word: Word, fd: int = -1) -> None:
        """Tell the other end; the descriptor stays ours."""
        data = _encoded(word)
        with self._lock:
            socket.send_fds(self.socket, [data], [] if fd < 0 else [fd])

    def hear(self) -> tuple[Word, int]:
        """The next word, and its descriptor or -1. Raises EOFError at the end, PeerError for what is no word."""
        data, fds, _, _ = socket.recv_fds(self.socket, MOST, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise EOFError
        return _decoded(data), (fds[0] if fds else -1)

    def close(self) -> None:
        """No more."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def _encoded(word: Word) -> bytes:
    cls: type = type(word)
    data = json.dumps({cls.__name__: {name: plain(getattr(word, name)) for name in hints(cls)}}).encode()
    if len(data) > MOST:
        raise CoreError(f"a word of {len(data)} bytes")
    return data


def _decoded(data: bytes) -> Word:
    try:
        content: Any = json.loads(data)
        ((name, fields),) = content.items()
        word: Word = build(_WORDS[name], fields)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise PeerError(f"no word: {error}", place="a host's process") from error
    return word
