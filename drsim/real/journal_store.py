"""JournalStore: journals and mirror disks of a recovery site in files, whole frames or nothing, aged and rebuilt.

Theory of operation. Each stream has a directory:

    ledger               the state that holds: epoch, end, where each VM's log ends, what the mirrors hold
    vm-N/*.segment       the VM's rows in order (`vm_log.py`)
    volume-N.mirror      the volume as of the last promotion

    operation   order of what becomes durable
    ---------   ----------------------------------------------------------------------------------------------
    append      rows in every VM's log, then the ledger with the new ends; only then it is done
    promote     the ledger with `promoting`, rows into the mirrors, the ledger with `promoted`, then old segments go
    rebuild     an image beside, from the mirror and the rows up to the cut, then its name

So a frame is there for all its VMs or for none, whatever crashes when; a promotion that was cut is done again from
its beginning and ends the same; an image is never half there. What lies in a log beyond the ledger's end was never
acknowledged, and is cut off when the store is opened. Whatever lies before it and does not verify raises
PlatformError: it is never applied, and no checkpoint beyond it is served.

Invariant: promoted <= promoting; a cut before `promoting` cannot be rebuilt, because the mirror may be past it.
A failed append leaves no trace. Not here yet: checksums of mirror contents.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from drsim.core.errors import PeerError, PlatformError
from drsim.core.messages import Cut, Frame, Position
from drsim.core.names import StreamId, StreamSpec, VmId
from drsim.core.units import SECTOR
from drsim.core.window import reaches
from drsim.real.codec import build
from drsim.real.files import blame, create_sparse, make_directory, sync_directory, write_all
from drsim.real.ledger import Ledger
from drsim.real.vm_log import Tail, VmLog


@dataclass(frozen=True, slots=True)
class StoreState:
    """What holds of one stream. Each tuple has one item for each VM, in the stream's order."""

    epoch: int
    end: Position
    tails: tuple[Tail, ...]
    firsts: tuple[int, ...]
    promoted: Position
    promoting: Position


class StreamStore:
    """The journals and mirrors of one stream. Use from one thread at a time."""

    def __init__(self, directory: Path, spec: StreamSpec, *, segment_bytes: int = 64 << 20) -> None:
        self.directory, self.spec = directory, spec
        zero: Position = (0,) * len(spec.vms)
        start = StoreState(1, zero, ((0, 0),) * len(spec.vms), zero, zero, zero)
        self._logs = [VmLog(directory / f"vm-{vm}", vm, segment_bytes=segment_bytes) for vm in spec.vms]
        self._mirrors: dict[int, int] = {}
        self._broken = ""
        with blame(directory):
            make_directory(directory)
            self._ledger = Ledger(directory / "ledger", start, self._parse)
            try:
                for log, first, tail in zip(self._logs, self.state.firsts, self.state.tails, strict=True):
                    log.open(first, tail)
                for volume in spec.volumes:
                    self._mirrors[volume.id] = create_sparse(self._mirror(volume.id), volume.sectors * SECTOR)
            except BaseException:
                self.close()
                raise

    @property
    def state(self) -> StoreState:
        """What holds."""
        return self._ledger.state

    def _parse(self, data: object) -> StoreState:
        state: StoreState = build(StoreState, data)
        columns = (state.end, state.tails, state.firsts, state.promoted, state.promoting)
        if {len(c) for c in columns} != {len(self.spec.vms)}:
            raise ValueError(f"the ledger is of another stream than one of VMs {self.spec.vms}")
        return state

    def _mirror(self, volume: int) -> Path:
        return self.directory / f"volume-{volume}.mirror"

    # -- append -----------------------------------------------------------------------------------------------

    def append(self, frame: Frame) -> None:
        """Put a frame's rows at the end of the journals, durably.

        Raises StoreFull when there is no room, PlatformError when the frame does not continue the journal or the
        disk fails, PeerError for a frame that cannot be. Then nothing of it is there.
        """
        self._admit(frame)
        before, ledger = self.state.tails, self._ledger
        with blame(self.directory):
            try:
                for slot, log in enumerate(self._logs):
                    if frame.upto[slot] > frame.after[slot]:
                        log.append(frame.after[slot] + 1, frame.epoch, frame.batch.take(frame.batch.vm == log.vm))
                for log, tail in zip(self._logs, before, strict=True):
                    if log.tail != tail:
                        log.sync()
                tails = tuple(log.tail for log in self._logs)
                ledger.put(replace(self.state, epoch=frame.epoch, end=frame.upto, tails=tails))
            except BaseException:
                if not ledger.broken:  # else the frame may be there: only opening anew can tell
                    self._take_back(before)
                raise

    def _admit(self, frame: Frame) -> None:
        state, place = self.state, str(self.directory)
        self._check_whole()
        if len(frame.after) != len(self._logs) or len(frame.upto) != len(self._logs) or frame.batch.payload is None:
            raise PeerError("the frame is of another stream, or has no payload", place=place)
        if frame.epoch < state.epoch:
            raise PlatformError(f"the frame is of epoch {frame.epoch}, the journal in {state.epoch}", place=place)
        continues = frame.after == state.end if frame.epoch == state.epoch else reaches(frame.after, state.end)
        if not continues:
            raise PlatformError(f"a frame after {frame.after} does not continue {state.end}", place=place)
        counts = tuple(int((frame.batch.vm == log.vm).sum()) for log in self._logs)
        if counts != tuple(u - a for a, u in zip(frame.after, frame.upto, strict=True)):
            raise PeerError(f"{counts} rows from {frame.after} to {frame.upto}", place=place)
        for volume in self.spec.volumes:
            mine = frame.batch.volume == volume.id
            end = (frame.batch.lba + frame.batch.sectors)[mine]
            if len(end) and (int(end.max()) > volume.sectors or (frame.batch.vm[mine] != volume.vm).any()):
                raise PeerError(f"a row beyond volume {volume.id}, or of another VM", place=place)
        if not np.isin(frame.batch.volume, list(self._mirrors)).all():
            raise PeerError("a row of a volume that the stream does not have", place=place)

    def _check_whole(self) -> None:
        if self._broken or self._ledger.broken:
            why = self._broken or "the ledger could not be written"
            raise PlatformError(f"the store is closed to changes: {why}", place=str(self.directory), hint="restart it")

    def _take_back(self, tails: tuple[Tail, ...]) -> None:
        try:
            for log, tail in zip(self._logs, tails, strict=True):
                log.rollback(tail)
        except OSError as error:
            self._broken = f"a failed append could not be taken back: {error}"
            raise

    # -- promote ----------------------------------------------------------------------------------------------

    def promote(self, upto: Position) -> None:
        """Apply rows up to `upto` to the mirrors, durably, then forget them. Doing it again changes nothing.

        Raises StoreFull or PlatformError; what was promoted before stays so.
        """
        state = self.state
        self._check_whole()
        if reaches(state.promoted, upto):
            return
        if not reaches(upto, state.promoting):
            raise PlatformError(f"promotion to {upto} after {state.promoting}", place=str(self.directory))
        with blame(self.directory):
            self._ledger.put(replace(state, promoting=upto))
            for after, to, log in zip(state.promoted, upto, self._logs, strict=True):
                self._apply(log, after, to, self._mirrors)
            for fd in self._mirrors.values():
                os.fdatasync(fd)
            firsts = tuple(log.first_needed(to) for log, to in zip(self._logs, upto, strict=True))
            self._ledger.put(replace(state, promoting=upto, promoted=upto, firsts=firsts))
            for log, first in zip(self._logs, firsts, strict=True):
                log.drop_before(first)

    def _apply(self, log: VmLog, after: int, upto: int, files: Mapping[int, int]) -> None:
        for _, batch in log.rows(after, upto):
            payload = memoryview(batch.payload or b"")
            at = 0
            for volume, lba, sectors in zip(
                batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True
            ):
                write_all(files[volume], payload[at : at + sectors * SECTOR], lba * SECTOR)
                at += sectors * SECTOR

    # -- reading ----------------------------------------------------------------------------------------------

    def rebuild(self, cut: Cut, target: Path) -> dict[int, Path]:
        """Image files `volume-N.img` in `target`, by volume, as the volumes were at the cut.

        Raises PlatformError when the mirror is past the cut, the journal does not reach it, or either is corrupt.
        """
        state, place = self.state, str(self.directory)
        if not reaches(cut.position, state.promoting):
            raise PlatformError(f"cut {cut.position} lies before the mirrors ({state.promoting})", place=place)
        if cut.epoch == state.epoch and not reaches(state.end, cut.position):
            raise PlatformError(f"the journal ends at {state.end}, before cut {cut.position}", place=place)
        images: dict[int, Path] = {v.id: target / f"volume-{v.id}.img" for v in self.spec.volumes}
        beside = {volume: path.with_suffix(".part") for volume, path in images.items()}
        files: dict[int, int] = {}
        with blame(target):
            make_directory(target)
            try:
                for volume, path in beside.items():
                    shutil.copyfile(self._mirror(volume), path)
                    files[volume] = os.open(path, os.O_RDWR)
                for log, after, upto in zip(self._logs, state.promoted, cut.position, strict=True):
                    self._apply(log, after, upto, files)
                for volume, fd in files.items():
                    os.fsync(fd)
                    os.replace(beside[volume], images[volume])
                sync_directory(target)
            finally:
                for fd in files.values():
                    os.close(fd)
                for path in beside.values():
                    path.unlink(missing_ok=True)
        return images

    def rows(self, vm: VmId) -> Iterator[tuple[int, int, int, int]]:
        """Rows held for a VM as (number, volume, lba, sectors), in order."""
        slot = self.spec.vms.index(vm)
        for first, batch in self._logs[slot].rows(self.state.promoted[slot], self.state.end[slot]):
            columns = zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True)
            for n, (volume, lba, sectors) in enumerate(columns):
                yield first + n, volume, lba, sectors

    def close(self) -> None:
        """Close all files."""
        self._ledger.close()
        for log in self._logs:
            log.close()
        for fd in self._mirrors.values():
            os.close(fd)
        self._mirrors.clear()


class JournalStore:
    """The stores of a recovery site's streams, under one directory."""

    def __init__(self, directory: Path, streams: list[StreamSpec], *, segment_bytes: int = 64 << 20) -> None:
        self.streams: dict[StreamId, StreamStore] = {}
        try:
            for spec in streams:
                place = directory / quote(str(spec.id), safe="")
                self.streams[spec.id] = StreamStore(place, spec, segment_bytes=segment_bytes)
        except BaseException:
            self.close()
            raise

    def append(self, frame: Frame) -> None:
        """See StreamStore.append."""
        self.streams[frame.stream].append(frame)

    def promote(self, stream: StreamId, upto: Position) -> None:
        """See StreamStore.promote."""
        self.streams[stream].promote(upto)

    def rebuild(self, cut: Mapping[StreamId, Cut], target: Path) -> dict[int, Path]:
        """Image files of every volume at a checkpoint's cut. See StreamStore.rebuild."""
        images: dict[int, Path] = {}
        for stream, part in cut.items():
            images |= self.streams[stream].rebuild(part, target)
        return images

    def close(self) -> None:
        """Close all files."""
        for store in self.streams.values():
            store.close()
