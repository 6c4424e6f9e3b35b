"""Mutants of the real stores and of the wire: what is durable, what is verified, what is applied."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from zlib import crc32

from drsim.core.batch import Payload, WriteBatch
from drsim.core.messages import Frame, Position
from drsim.core.units import SECTOR
from drsim.core.window import reaches
from drsim.real import catalog_store, files, ledger, vm_log, wire
from drsim.real.envelope import Prelude
from drsim.real.files import blame, write_all
from drsim.real.ledger import Ledger
from drsim.real.mirror import Image, Mirror
from drsim.real.stream_store import StreamStore
from drsim.real.vm_log import Entry, VmLog
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("12", by=("P3",), hunter="store")
def first_row_of_a_frame_wins() -> Patch:
    """Overlapping rows of one frame are applied in reverse, so the first one wins instead of the last."""
    apply, rows = StreamStore._apply, VmLog.rows

    def backwards(self: VmLog, after: int, upto: int) -> Iterator[tuple[int, WriteBatch]]:
        for first, batch in rows(self, after, upto):
            for n in reversed(range(len(batch))):
                yield first + n, batch.rows(n, n + 1)

    def mutated(self: StreamStore, *args: Any) -> None:
        with patched(VmLog, "rows", backwards):
            apply(self, *args)

    return patched(StreamStore, "_apply", mutated)


@mutant("13", by=("P3",), hunter="store")
def rows_rounded_to_blocks() -> Patch:
    """A row is applied as whole 4-KiB blocks, with zeros where it has no bytes."""
    write, block = Image.write, 8

    def mutated(self: Image, lba: int, data: Payload) -> None:
        size = os.fstat(self.fd).st_size // SECTOR
        start = lba - lba % block
        stop = min(size, -(-(lba + len(data) // SECTOR) // block) * block)
        write(self, lba, data)
        write_all(self.fd, bytes((lba - start) * SECTOR), start * SECTOR)
        write_all(self.fd, bytes(stop * SECTOR - lba * SECTOR - len(data)), lba * SECTOR + len(data))

    return patched(Image, "write", mutated)


@mutant(by=("P3",), hunter="store")
def cut_rounded_to_frames() -> Patch:
    """An image holds whole frames: the rows of a frame beyond the cut come with it."""
    rows = VmLog.rows

    def mutated(self: VmLog, after: int, upto: int) -> Iterator[tuple[int, WriteBatch]]:
        return rows(self, after, max([upto, *(e.last for e in self.entries if e.first <= upto <= e.last)]))

    return patched(VmLog, "rows", mutated)


@mutant(by=("P3",), hunter="store")
def any_cut_served() -> Patch:
    """A cut beyond the end of its epoch is taken for that end."""
    return patched(VmLog, "reached", lambda self, epoch, upto: True)


@mutant(by=("P8",), hunter="store")
def rows_acknowledged_before_they_are_durable() -> Patch:
    """A frame is acknowledged without syncing its rows."""
    return patched(VmLog, "sync", lambda self: None)


@mutant(by=("P8",), hunter="store")
def ledger_acknowledged_before_it_is_durable() -> Patch:
    """A frame is acknowledged without syncing the ledger."""

    def mutated(self: Ledger[Any], state: object) -> None:
        data = ledger.entry(self.serial + 1, state)
        write_all(self._fd, data, self._end)
        self._end, self.state, self.serial = self._end + len(data), state, self.serial + 1

    return patched(Ledger, "put", mutated)


@mutant("B05", by=("P8",), hunter="store", cites="scylladb #1373")
def name_of_a_segment_not_durable() -> Patch:
    """The rows of a new segment are durable, its name is not."""
    return patched(vm_log, "sync_directory", lambda path: None)


@mutant(by=("P8",), hunter="store")
def new_file_not_durable() -> Patch:
    """A file that was replaced (the list of checkpoints, a compacted ledger) may come back as it was."""
    return patched(files, "sync_directory", lambda path: None)


@mutant(by=("P8",), hunter="store")
def torn_tail_kept() -> Patch:
    """The rest of an append that a crash cut is kept, and the next frame follows it."""
    opening = VmLog.open

    def mutated(self: VmLog, first: int) -> None:
        path = self._path(self.tail[0])
        whole = path.read_bytes() if path.exists() else b""
        opening(self, first)
        if len(whole) > self.tail[1]:
            path.write_bytes(whole)
            self.tail = (self.tail[0], len(whole))

    return patched(VmLog, "open", mutated)


@mutant("B18", by=("P11",), hunter="store", cites="a classic of journals")
def watermark_before_the_data() -> Patch:
    """`promoted` moves before the rows are in the mirrors; a crash comes between."""

    def mutated(self: StreamStore, upto: Position) -> None:
        state = self.state
        self._check_whole()
        if reaches(state.promoted, upto):
            return
        with blame(self.directory):
            self._marker.put(upto)
            self._ledger.put(replace(state, promoting=upto, promoted=upto))
            for after, to, log in zip(state.promoted, upto, self._logs, strict=True):
                self._apply(log, after, to, {n: mirror.write for n, mirror in self._mirrors.items()})
            for mirror in self._mirrors.values():
                mirror.sync()

    return patched(StreamStore, "promote", mutated)


@mutant(by=("P11",), hunter="store")
def mirrors_not_durable() -> Patch:
    """`promoted` moves, and old segments go, without syncing the mirrors."""
    return patched(Mirror, "sync", lambda self: None)


@mutant(by=("P11",), hunter="store")
def one_row_too_many_promoted() -> Patch:
    """A promotion applies one row too many."""
    apply = StreamStore._apply

    def mutated(self: StreamStore, log: VmLog, after: int, upto: int, put: Any) -> None:
        promotes = any(isinstance(getattr(write, "__self__", None), Mirror) for write in put.values())
        apply(self, log, after, upto + promotes, put)

    return patched(StreamStore, "_apply", mutated)


def _unchecked(start: Prelude, rest: Payload) -> tuple[bytes, memoryview]:
    view = memoryview(rest)
    return bytes(view[: start.header]), view[start.header :]


@mutant("50", by=("P21",), hunter="store")
def records_not_verified() -> Patch:
    """The checksum of a journal's record is not looked at when it is read."""
    return patched(vm_log, "opened", _unchecked)


@mutant(by=("P21",), hunter="store")
def misdirected_records_taken() -> Patch:
    """A record is taken wherever it lies, and whatever lies before it."""
    return several(
        patched(VmLog, "_continues", lambda self, entry: True),
        patched(VmLog, "_check", lambda self, known: None),
        patched(Entry, "__eq__", lambda self, other: True),
    )


@mutant(by=("P21",), hunter="store")
def records_of_others_taken() -> Patch:
    """A record of another VM or stream is taken."""
    build, reading = vars(vm_log)["build"], VmLog._record
    logs: list[VmLog] = []

    def as_ours(cls: type, data: object) -> Any:
        made = build(cls, data)
        return replace(made, stream=logs[-1]._stream, vm=logs[-1].vm)

    def mutated(self: VmLog, fd: int, segment: int, offset: int) -> tuple[Entry, WriteBatch]:
        logs.append(self)
        try:
            return reading(self, fd, segment, offset)
        finally:
            logs.pop()

    return several(patched(vm_log, "build", as_ours), patched(VmLog, "_record", mutated))


@mutant(by=("P21",), hunter="store")
def frames_not_verified() -> Patch:
    """The checksum of a frame on the wire is not looked at."""
    return patched(wire, "opened", _unchecked)


@mutant("B27", by=("P21",), hunter="store", cites="greenplum gpdb #2587")
def ledger_not_verified() -> Patch:
    """Torn tracking metadata is trusted: the checksum of the ledger is not looked at."""
    return patched(ledger, "opened", _unchecked)


@mutant(by=("P21",), hunter="store")
def broken_entry_taken_for_torn() -> Patch:
    """An entry of the ledger that does not verify is taken for one that a crash cut, and forgotten."""
    return patched(ledger, "_cut", lambda rest: True)


@mutant(by=("P21",), hunter="store")
def list_not_verified() -> Patch:
    """The checksum of the list of checkpoints is not looked at."""

    class Agrees(int):
        __hash__ = int.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    return patched(catalog_store, "crc32", lambda data: Agrees(crc32(data)))


@mutant(by=("P21",), hunter="store")
def old_ledger_believed() -> Patch:
    """An old ledger is believed, although the journal goes on after it."""
    return patched(VmLog, "_check_beyond", lambda self, segment, known: None)


@mutant(by=("P21",), hunter="store")
def old_watermark_believed() -> Patch:
    """An old ledger is believed, although the mirrors are past it."""
    return patched(StreamStore, "_check_marker", lambda self: None)


@mutant(by=("P21",), hunter="store")
def mirrors_not_verified() -> Patch:
    """Sectors of a mirror that have rotted are served."""
    finish = Image.finish

    def mutated(self: Image) -> None:
        self.bad.clear()
        finish(self)

    return patched(Image, "finish", mutated)


@mutant(by=("P21",), hunter="store")
def old_frames_taken() -> Patch:
    """A frame that was there before is applied again, at the end."""
    append = StreamStore.append

    def mutated(self: StreamStore, frame: Frame) -> None:
        state = self.state
        counts = [int((frame.batch.vm == vm).sum()) for vm in self.spec.vms]
        upto = tuple(n + k for n, k in zip(state.end, counts, strict=True))
        append(self, replace(frame, epoch=state.epoch, after=state.end, upto=upto))

    return patched(StreamStore, "append", mutated)


@mutant(by=("P21",), hunter="store")
def frames_of_others_taken() -> Patch:
    """A frame of another stream is applied."""
    append = StreamStore.append
    return patched(StreamStore, "append", lambda self, frame: append(self, replace(frame, stream=self.spec.id)))
