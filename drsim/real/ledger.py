"""Ledger: a small append-only file of states, the last of which holds. The commit point of a journal store.

An entry is an envelope, filled up to whole 512-byte sectors with spaces, synced before it counts. Disks write a
sector whole or not at all, so what a crash leaves of the last entry is told apart from corruption exactly: an entry
that was cut has a sector that was never written (missing, or all zeros); one that is complete and does not verify is
corrupt, and may have been acknowledged. The first is truncated, the second raises PlatformError.

Entries are numbered without a gap, so that one in another's place is seen. That the last ones are missing, because an
old file was put back or its end was lost, cannot be seen in here: an owner puts the number of the entry that will
make it count (`serial + 1`) into whatever it writes first, and compares when it opens. Only the loss of the very last
entry looks like a crash before it.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR
from drsim.real.codec import plain
from drsim.real.envelope import PRELUDE, Prelude, Unreadable, opened, prelude, seal
from drsim.real.files import read_exactly, replace_file, write_all

MAGIC = b"DRSL"
T = TypeVar("T")


class Ledger(Generic[T]):
    """States of type T in a file. `parse` makes one from its plain form, raising ValueError.

    `state` is the one that holds, `serial` the number of its entry: how often the state was changed.
    """

    def __init__(self, path: Path, initial: T, parse: Callable[[Any], T], *, compact_bytes: int = 1 << 18) -> None:
        self.path, self.state, self.serial = path, initial, 0
        self.broken = False
        """Whether the file may hold more than `state`: a write or sync of it failed. Only opening it anew helps."""
        self._parse, self._compact_bytes = parse, compact_bytes
        if not path.exists():
            replace_file(path, entry(0, initial))
        self._fd = os.open(path, os.O_RDWR)
        try:
            self._end, self.serial, self.state = self._scan()
            os.ftruncate(self._fd, self._end)
            os.fsync(self._fd)
        except BaseException:
            self.close()
            raise

    def verify(self) -> None:
        """Read the file again: it says what holds. Raises PlatformError, and OSError."""
        if self._scan() != (self._end, self.serial, self.state):
            raise PlatformError("the ledger's file is not what was written", place=str(self.path))

    def _scan(self) -> tuple[int, int, T]:
        """Where the whole entries end, and the last one's number and state. Changes nothing."""
        size = os.fstat(self._fd).st_size
        data, at = read_exactly(self._fd, size, 0, self.path) if size else b"", 0
        last, holds = 0, self.state
        while at < len(data):
            try:
                start = prelude(MAGIC, data[at:])
                raw, _ = opened(start, data[at + PRELUDE : at + start.size])
                serial, state = self._read(raw)
                if at and serial != last + 1:
                    raise ValueError(f"entry {serial} after entry {last}")
            except ValueError as error:
                if at and _cut(data[at:]):
                    break
                hint = "the store's state is not known; nothing in it can be trusted"
                raise PlatformError(f"entry at byte {at}: {error}", place=str(self.path), hint=hint) from error
            last, holds = serial, state
            at += start.size
        if not at:
            raise PlatformError("the ledger is empty", place=str(self.path))
        return at, last, holds

    def _read(self, raw: bytes) -> tuple[int, T]:
        content = json.loads(raw)
        if not isinstance(content, dict) or content.keys() != {"n", "state"} or type(content["n"]) is not int:
            raise ValueError("an entry with other fields")
        return content["n"], self._parse(content["state"])

    def put(self, state: T) -> None:
        """Make `state` the one that holds, durably. Raises OSError: nothing changed, or the ledger is `broken`."""
        data = entry(self.serial + 1, state)
        if self._end + len(data) > self._compact_bytes:
            self._compact(data)
        else:
            try:
                write_all(self._fd, data, self._end)
            except OSError:
                self.broken = True
                os.ftruncate(self._fd, self._end)
                self.broken = False
                raise
            try:
                os.fdatasync(self._fd)
            except OSError:
                self.broken = True
                raise
            self._end += len(data)
        self.state, self.serial = state, self.serial + 1

    def _compact(self, data: bytes) -> None:
        """Begin the file anew with one entry."""
        try:
            replace_file(self.path, data)
            fd = os.open(self.path, os.O_RDWR)
        except OSError:
            self.broken = True
            self.broken = not os.path.samestat(os.fstat(self._fd), os.stat(self.path))  # still the old file?
            raise
        os.close(self._fd)
        self._fd, self._end = fd, len(data)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1


def entry(serial: int, state: object) -> bytes:
    """A state as it stands in the file, under its number."""
    header = json.dumps({"n": serial, "state": plain(state)}, separators=(",", ":")).encode()
    return seal(MAGIC, header + b" " * (-(PRELUDE + len(header)) % SECTOR))


def _start(data: bytes) -> Prelude | None:
    try:
        return prelude(MAGIC, data)
    except Unreadable:
        return None


def _cut(rest: bytes) -> bool:
    """Whether these bytes are what a crash left of one entry: nothing valid follows, a sector was never written."""
    sectors = [rest[at : at + SECTOR] for at in range(0, len(rest), SECTOR)]
    if any(_start(sector) for sector in sectors[1:]):
        return False
    start = _start(sectors[0])
    return (start is not None and start.size > len(rest)) or any(len(s) < SECTOR or not any(s) for s in sectors)
