"""VmLog: one VM's journal on disk, records appended to numbered segment files.

A record is an envelope: the rows of one frame that belong to the VM. Its header says where it belongs, so that one in
another's place, or none where one was, is seen:

    stream, vm     whose log
    first, epoch   the number of the first row, and its epoch
    rows           how many; 0 where an epoch begins and its first frame has none for this VM
    before         the number of the last row before it in the log, across epochs
    commit         the owner's commit that made it count; several records may have the same

Segments let old history be removed by deleting whole files. The log itself does not know what was acknowledged: its
owner says what holds (`Holding`), and then

    what lies                              is
    -------------------------------------  -------------------------------------------------
    before the tail, broken or not joined  corruption: reading raises PlatformError
    beyond the tail, of the next commit    the rest of an append that a crash cut: truncated
    beyond the tail, of a later commit     proof that the owner's knowledge is old: PlatformError
"""

import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from drsim.core.batch import Payload, WriteBatch
from drsim.core.errors import PlatformError
from drsim.core.names import StreamId
from drsim.real.checksum import crc32
from drsim.real.codec import build, plain
from drsim.real.envelope import (
    PRELUDE,
    ROW,
    Numbers,
    Unreadable,
    batch_of,
    columns,
    extents_of,
    opened,
    prelude,
    sealed,
)
from drsim.real.files import blame, make_directory, noted, read_exactly, sync_directory, write_all

MAGIC = b"DRSJ"
JOINED = 64 << 10
"""Up to so many bytes of a record are copied into one write."""

Tail = tuple[int, int]
"""A segment's number and a length in it: where a log ends."""


def segment_path(directory: Path, segment: int) -> Path:
    """Where a log keeps a segment."""
    return directory / f"{segment:08d}.segment"


@dataclass(frozen=True, slots=True)
class Holding:
    """What an owner knows of a log. Rows `base + 1 .. end` hold; they lie between segment `first` and the tail.

    `commit` is the number of the owner's last commit. Rows up to `base` may lie there as well.
    """

    first: int
    tail: Tail
    base: int
    end: int
    commit: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the rows `first .. last` of a VM lie, and the checksum of their record."""

    first: int
    last: int
    epoch: int
    before: int
    commit: int
    segment: int
    offset: int
    size: int
    crc: int
    nbytes: int
    """Of its payload."""
    columns: int
    """Checksum of its columns alone, for whoever reads only these."""


@dataclass(frozen=True, slots=True)
class _Header:
    """See the module."""

    stream: str
    vm: int
    first: int
    epoch: int
    rows: int
    before: int
    commit: int


class VmLog:
    """One VM's records. All methods raise OSError for what the disk does, PlatformError for what is on it."""

    def __init__(self, directory: Path, stream: StreamId, vm: int, *, segment_bytes: int) -> None:
        self.directory, self.vm, self._stream, self._segment_bytes = directory, vm, str(stream), segment_bytes
        self.entries: list[Entry] = []
        self.tail: Tail = (0, 0)
        self._fd = -1

    def _path(self, segment: int) -> Path:
        return segment_path(self.directory, segment)

    def read(self, known: Holding) -> None:
        """Check every byte of what the owner knows of, and that nothing beyond it was committed. Changes nothing."""
        self.entries, self.tail = [], known.tail
        for segment in range(known.first, known.tail[0] + 1):
            self._scan(segment, known.tail[1] if segment == known.tail[0] else None)
        self._check(known)
        for segment in self._segments():
            self._check_beyond(segment, known)

    def open(self, first: int) -> None:
        """After `read`: cut off what lies beyond the tail or before segment `first`, durably, to go on from there."""
        make_directory(self.directory)
        for segment in self._segments():
            if not first <= segment <= self.tail[0]:
                self._path(segment).unlink()
        self._fd = os.open(self._path(self.tail[0]), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._fd, self.tail[1])
        os.fsync(self._fd)
        sync_directory(self.directory)

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self.directory.glob("*.segment"))

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
        if entry.before != last.last or entry.commit < last.commit:
            return False
        if entry.epoch == last.epoch:
            return entry.first == last.last + 1
        return entry.epoch > last.epoch and entry.first > last.last

    def _check(self, known: Holding) -> None:
        """The records found are those that the owner knows of."""
        place, entries = str(self.directory), self.entries
        found = entries[-1].last if entries else 0
        if found != known.end:
            raise PlatformError(f"the journal ends with row {found}, {known.end} was acknowledged", place=place)
        if entries and entries[0].before > known.base:
            raise PlatformError(f"rows {known.base + 1} .. {entries[0].before} are missing", place=place)
        if entries and entries[-1].commit > known.commit:
            raise self._outdated(known)

    def _check_beyond(self, segment: int, known: Holding) -> None:
        """Nothing beyond the tail was committed: a record that is whole may only be of the commit under way."""
        if segment < known.tail[0]:
            return
        offset = known.tail[1] if segment == known.tail[0] else 0
        fd = os.open(self._path(segment), os.O_RDONLY)
        try:
            while entry := self._whole(fd, segment, offset):
                if entry.commit > known.commit + 1:
                    raise self._outdated(known)
                offset += entry.size
        finally:
            os.close(fd)

    def _whole(self, fd: int, segment: int, offset: int) -> Entry | None:
        try:
            return self._record(fd, segment, offset)[0]
        except PlatformError:
            return None

    def _outdated(self, known: Holding) -> PlatformError:
        hint = "an old ledger was put back, or its end was lost; nothing was changed"
        return PlatformError(f"the journal goes on after commit {known.commit}", place=str(self.directory), hint=hint)

    def _record(self, fd: int, segment: int, offset: int) -> tuple[Entry, WriteBatch]:
        path = self._path(segment)
        try:
            start = prelude(MAGIC, read_exactly(fd, PRELUDE, offset, path))
            raw, body = opened(start, read_exactly(fd, start.rest, offset + PRELUDE, path))
            header: _Header = build(_Header, json.loads(raw))
            if (header.stream, header.vm) != (self._stream, self.vm):
                raise Unreadable(f"a record of VM {header.vm} in {header.stream}")
            batch = batch_of(header.rows, True, body)
        except ValueError as error:
            hint = "the journal is corrupt here; checkpoints after this point cannot be trusted"
            raise PlatformError(f"record at byte {offset}: {error}", place=str(path), hint=hint) from error
        last = header.first + len(batch) - 1
        entry = Entry(
            header.first,
            last,
            header.epoch,
            header.before,
            header.commit,
            segment,
            offset,
            start.size,
            start.crc,
            start.body - header.rows * ROW,
            crc32(body[: header.rows * ROW]),
        )
        return entry, batch

    # -- writing ----------------------------------------------------------------------------------------------

    def own(self, batch: WriteBatch) -> WriteBatch:
        """The rows of a batch that are this VM's."""
        mine = batch.vm == self.vm
        return batch if mine.all() else batch.take(mine)

    def append(self, first: int, epoch: int, batch: WriteBatch, *, commit: int) -> None:
        """Write a record, which the owner's next commit will make count; durable after `sync`."""
        if self.tail[1] >= self._segment_bytes:
            self._roll()
        segment, offset = self.tail
        before = self.entries[-1].last if self.entries else 0
        header = _Header(self._stream, self.vm, first, epoch, len(batch), before, commit)
        body = columns(batch)
        data = sealed(MAGIC, json.dumps(plain(header), separators=(",", ":")).encode(), body)
        crc, own = prelude(MAGIC, data[0]).crc, crc32(body[0])
        if sum(map(len, data)) < JOINED:
            data = [b"".join(data)]
        end = offset
        for part in data:
            write_all(self._fd, part, end)
            end += len(part)
        last, nbytes = first + len(batch) - 1, batch.nbytes
        self.entries.append(Entry(first, last, epoch, before, commit, segment, offset, end - offset, crc, nbytes, own))
        self.tail = (segment, end)

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
            fd = os.open(self._path(tail[0]), os.O_RDWR)  # before the old one goes: there is always one to close
            os.close(self._fd)
            self._fd = fd
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

    def reached(self, epoch: int, upto: int) -> bool:
        """Whether the log stood at this number in this epoch, as far as the records left can tell."""
        at, end = (bisect(self.entries, epoch, key=attrgetter("epoch")) for bisect in (bisect_left, bisect_right))
        return at < end and self.entries[at].first - 1 <= upto <= self.entries[end - 1].last

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

    def extents(self, after: int, upto: int) -> Iterator[tuple[Entry, Numbers, Numbers, Numbers]]:
        """Records with rows of `after + 1 .. upto`: volume, first sector and sectors of all their rows."""
        wanted = [e for e in list(self.entries) if e.last > after and e.first <= upto and e.last >= e.first]
        for segment, entries in groupby(wanted, attrgetter("segment")):
            path = self._path(segment)
            with path.open("rb") as file:
                for entry in entries:
                    rows = entry.last - entry.first + 1
                    at = entry.offset + entry.size - entry.nbytes - rows * ROW
                    data = read_exactly(file.fileno(), rows * ROW, at, path)
                    if crc32(data) != entry.columns:
                        message = f"record at byte {entry.offset}: checksum of the columns is wrong"
                        raise PlatformError(message, place=str(path), hint="the journal is corrupt here")
                    yield entry, *extents_of(rows, data)

    def payload(self, entry: Entry) -> Payload:
        """The content of a record's rows, one after the other, checked. Raises FileNotFoundError when it is gone."""
        path = self._path(entry.segment)
        with path.open("rb") as file:
            found, batch = self._record(file.fileno(), entry.segment, entry.offset)
        if found != entry:
            raise PlatformError("a record has changed", place=str(path))
        return batch.payload or b""

    def flaws(self) -> list[PlatformError]:
        """What of the records held does not verify when it is read again."""
        found: list[PlatformError] = []
        for entry in self.entries:
            path = self._path(entry.segment)
            with noted(found), blame(path), path.open("rb") as file:
                if self._record(file.fileno(), entry.segment, entry.offset)[0] != entry:
                    raise PlatformError("a record has changed", place=str(path))
        return found

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = -1
