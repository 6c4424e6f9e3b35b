"""VmLog: one VM's journal on disk, records appended to numbered segment files.

A record is an envelope: the rows of one frame that belong to the VM, with the number of the first and the epoch.
Segments let old history be removed by deleting whole files. The log itself does not know what was acknowledged: its
owner says how far it is valid (`Tail`), and then

    what lies                  is
    -------------------------  -------------------------------------------------
    before the tail, broken    corruption: `open` and every read raise PlatformError
    beyond the tail            the rest of an append that a crash cut: truncated
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drsim.core.batch import WriteBatch
from drsim.core.errors import PlatformError
from drsim.real.envelope import PRELUDE, Unreadable, batch_of, columns, opened, prelude, seal
from drsim.real.files import make_directory, read_exactly, sync_directory, write_all

MAGIC = b"DRSJ"

Tail = tuple[int, int]
"""A segment's number and a length in it: where a log ends."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the rows `first .. last` of a VM lie."""

    first: int
    last: int
    epoch: int
    segment: int
    offset: int
    size: int


class VmLog:
    """One VM's records. All methods raise OSError for what the disk does, PlatformError for what is on it."""

    def __init__(self, directory: Path, vm: int, *, segment_bytes: int) -> None:
        self.directory, self.vm, self._segment_bytes = directory, vm, segment_bytes
        self.entries: list[Entry] = []
        self.tail: Tail = (0, 0)
        self._fd = -1

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:08d}.segment"

    def open(self, first: int, tail: Tail) -> None:
        """Read what is there from segment `first` up to `tail`, check every byte, cut off what lies beyond."""
        make_directory(self.directory)
        self.entries, self.tail = [], tail
        for path in sorted(self.directory.glob("*.segment")):
            if not first <= int(path.stem) <= tail[0]:
                path.unlink()
        for segment in range(first, tail[0] + 1):
            self._scan(segment, tail[1] if segment == tail[0] else None)
        self._fd = os.open(self._path(tail[0]), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._fd, tail[1])
        os.fsync(self._fd)
        sync_directory(self.directory)

    def _scan(self, segment: int, end: int | None) -> None:
        path, offset = self._path(segment), 0
        if end == 0:
            return
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise PlatformError("a segment of the journal is missing", place=str(path)) from error
        try:
            end = os.fstat(fd).st_size if end is None else end
            while offset < end:
                entry, _ = self._record(fd, segment, offset)
                if self.entries and not self._continues(entry):
                    raise PlatformError(f"record {entry.first} does not continue the journal", place=str(path))
                self.entries.append(entry)
                offset += entry.size
        finally:
            os.close(fd)
        if offset != end:
            raise PlatformError(f"records end at byte {offset}, not at {end}", place=str(path))

    def _continues(self, entry: Entry) -> bool:
        last = self.entries[-1]
        if entry.epoch == last.epoch:
            return entry.first == last.last + 1
        return entry.epoch > last.epoch and entry.first > last.last

    def _record(self, fd: int, segment: int, offset: int) -> tuple[Entry, WriteBatch]:
        path = self._path(segment)
        try:
            start = prelude(MAGIC, read_exactly(fd, PRELUDE, offset, path))
            raw, body = opened(start, read_exactly(fd, start.rest, offset + PRELUDE, path))
            header = json.loads(raw)
            if header["vm"] != self.vm:
                raise Unreadable(f"a record of VM {header['vm']}")
            batch = batch_of(header["rows"], True, body)
        except (ValueError, KeyError) as error:
            hint = "the journal is corrupt here; checkpoints after this point cannot be trusted"
            raise PlatformError(f"record at byte {offset}: {error}", place=str(path), hint=hint) from error
        first = int(header["first"])
        return Entry(first, first + len(batch) - 1, int(header["epoch"]), segment, offset, start.size), batch

    # -- writing ----------------------------------------------------------------------------------------------

    def append(self, first: int, epoch: int, batch: WriteBatch) -> None:
        """Write a record; durable after `sync`."""
        if self.tail[1] >= self._segment_bytes:
            self._roll()
        segment, offset = self.tail
        header = {"vm": self.vm, "first": first, "epoch": epoch, "rows": len(batch)}
        data = seal(MAGIC, json.dumps(header).encode(), columns(batch))
        write_all(self._fd, data, offset)
        self.entries.append(Entry(first, first + len(batch) - 1, epoch, segment, offset, len(data)))
        self.tail = (segment, offset + len(data))

    def _roll(self) -> None:
        segment = self.tail[0] + 1
        fd = os.open(self._path(segment), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.close(self._fd)
        self._fd, self.tail = fd, (segment, 0)
        sync_directory(self.directory)

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fdatasync(self._fd)

    def rollback(self, tail: Tail) -> None:
        """Take back what was appended after `tail`, written or not."""
        if tail[0] != self.tail[0]:
            os.close(self._fd)
            self._fd = os.open(self._path(tail[0]), os.O_RDWR)
            for segment in range(tail[0] + 1, self.tail[0] + 1):
                self._path(segment).unlink()
        os.ftruncate(self._fd, tail[1])
        self.tail = tail
        while self.entries and (self.entries[-1].segment, self.entries[-1].offset) >= tail:
            self.entries.pop()

    def first_needed(self, after: int) -> int:
        """The segment of the first row after `after`; the last segment when there is none."""
        return next((e.segment for e in self.entries if e.last > after), self.tail[0])

    def drop_before(self, segment: int) -> None:
        """Delete the segments before this one."""
        kept = next((n for n, e in enumerate(self.entries) if e.segment >= segment), len(self.entries))
        for number in sorted({e.segment for e in self.entries[:kept]}):
            self._path(number).unlink(missing_ok=True)
        del self.entries[:kept]

    # -- reading ----------------------------------------------------------------------------------------------

    def rows(self, after: int, upto: int) -> Iterator[tuple[int, WriteBatch]]:
        """Rows `after + 1 .. upto` in order, checked again as they are read: the first row's number, and the rows."""
        fd, segment = -1, -1
        try:
            for entry in list(self.entries):
                if entry.last <= after or entry.first > upto:
                    continue
                if entry.segment != segment:
                    if fd >= 0:
                        os.close(fd)
                    fd, segment = os.open(self._path(entry.segment), os.O_RDONLY), entry.segment
                found, batch = self._record(fd, segment, entry.offset)
                if found != entry:
                    raise PlatformError("a record has changed", place=str(self._path(segment)))
                start = max(entry.first, after + 1)
                yield start, batch.rows(start - entry.first, min(entry.last, upto) - entry.first + 1)
        finally:
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
