"""StreamStore: journals and mirror disks of one stream in files, whole frames or nothing, aged and rebuilt.

Theory of operation. Each stream has a directory:

    spec                      what the stream is (`journal_store.py`)
    ledger                    the state that holds: epoch, end, where each VM's log ends, what the mirrors hold
    promoting                 a second ledger, written before a mirror changes: how far it may have changed
    vm-N/*.segment            the VM's rows in order (`vm_log.py`)
    volume-N.mirror, .sums    the volume as of the last promotion, and its checksums (`mirror.py`)

    operation   order of what becomes durable
    ---------   ----------------------------------------------------------------------------------------------
    append      rows in every VM's log, then the ledger with the new ends; only then it is done
    promote     both ledgers with `promoting`, rows into the mirrors, the ledger with `promoted`, then old segments go
    rebuild     an image beside, from the mirror and the rows up to the cut, then its name

So a frame is there for all its VMs or for none, whatever crashes when; a promotion that was cut is done again from
its beginning and ends the same; an image is never half there. What lies in a log beyond the ledger's end was never
acknowledged, and is cut off when the store is opened. Whatever lies before it and does not verify raises
PlatformError: it is never applied, and no checkpoint beyond it is served.

A file that verifies may still be the wrong one: an old copy, another stream's, or one whose end was lost. Therefore
records and ledgers say what they belong to and what they follow, and each change leaves its number in two files. The
exception is the last append: without its ledger entry it looks as if it had never been acknowledged. Then the store
opens with the end before it, says so (`state`), and serves no cut beyond.

The first frame of an epoch leaves a record in every VM's log, so that a cut that lies in none of the epochs held is
refused and never rounded.

Invariant: promoted <= promoting; a cut before `promoting` cannot be rebuilt, because the mirror may be past it.
A failed append leaves no trace.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from drsim.core.batch import Payload
from drsim.core.errors import PeerError, PlatformError
from drsim.core.journal import Stored
from drsim.core.messages import Cut, Frame, Position
from drsim.core.names import Extent, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.core.window import reaches
from drsim.real.digests import of_regions
from drsim.real.files import blame, make_directory, noted, sync_directory
from drsim.real.journal_view import JournalView
from drsim.real.ledger import Ledger
from drsim.real.mirror import Image, Mirror, where
from drsim.real.scratch import Scratch
from drsim.real.store_state import StoreState, begun, position_of, state_of
from drsim.real.vm_log import Holding, Tail, VmLog

Put = Callable[[int, Payload], None]
"""Puts whole sectors at one."""


class StreamStore:
    """The journals and mirrors of one stream. Use from one thread at a time.

    A log goes on in a new segment file after `segment_bytes`; a ledger begins anew after `ledger_bytes`.
    """

    def __init__(
        self, directory: Path, spec: StreamSpec, *, segment_bytes: int = 64 << 20, ledger_bytes: int = 1 << 18
    ) -> None:
        self.directory, self.spec = directory, spec
        start = begun(spec)
        self._logs = [VmLog(directory / f"vm-{vm}", spec.id, vm, segment_bytes=segment_bytes) for vm in spec.vms]
        self._mirrors: dict[int, Mirror] = {}
        self._indexes: dict[int, JournalView] = {}  # of volumes that are compared, until the journal ages
        self._broken = ""
        self.corrupt: dict[int, set[int]] = {}
        """Sectors of each volume that did not verify when they were last digested: they are sent again."""
        with blame(directory), ExitStack() as opened:
            make_directory(directory)
            path = directory / "ledger"
            if not path.exists() and any(p.name not in ("spec", "ledger.new") for p in directory.iterdir()):
                raise PlatformError("the ledger is missing", place=str(directory), hint="nothing here can be trusted")
            self._ledger = Ledger(path, start, partial(state_of, spec), compact_bytes=ledger_bytes)
            opened.callback(self._ledger.close)
            self._marker = Ledger(
                directory / "promoting", start.promoting, partial(position_of, spec), compact_bytes=ledger_bytes
            )
            opened.callback(self._marker.close)
            self._check_marker()
            for slot, log in enumerate(self._logs):
                log.read(self._holding(slot))
            for log, first in zip(self._logs, self.state.firsts, strict=True):
                opened.callback(log.close)
                log.open(first)
            for volume in spec.volumes:
                path, known = directory / f"volume-{volume.id}.mirror", volume.id in self.state.mirrors
                self._mirrors[volume.id] = Mirror(path, volume.sectors, known=known)
                opened.callback(self._mirrors[volume.id].close)
            for place in (directory, directory.parent):
                sync_directory(place)  # names that a failed sync left in doubt when an earlier life made them
            self._files = opened.pop_all()

    @property
    def state(self) -> StoreState:
        """What holds."""
        return self._ledger.state

    @property
    def serial(self) -> int:
        """How often that has changed."""
        return self._ledger.serial

    def _check_marker(self) -> None:
        """The two ledgers tell the same story: a promotion stands in both before it begins."""
        state, marked = self.state, self._marker.state
        done = state.promoted == state.promoting
        if marked != state.promoting and (done or not reaches(state.promoting, marked)):
            hint = "an old ledger was put back, or its end was lost; nothing was changed"
            message = f"the mirrors may hold {marked}, the ledger says {state.promoting}"
            raise PlatformError(message, place=str(self.directory), hint=hint)

    def _holding(self, slot: int) -> Holding:
        state = self.state
        return Holding(
            state.firsts[slot], state.tails[slot], state.promoted[slot], state.end[slot], self._ledger.serial
        )

    # -- append -----------------------------------------------------------------------------------------------

    def append(self, *frames: Frame) -> None:
        """Put frames' rows at the end of the journals, durably: all of them, or nothing.

        Raises StoreFull when there is no room, PlatformError when a frame does not continue the journal or the disk
        fails, PeerError for a frame that cannot be. Then nothing of them is there.
        """
        self._check_whole()
        before, ledger = self.state.tails, self._ledger
        at = self.state.epoch, self.state.end
        with blame(self.directory):
            try:
                for frame in frames:
                    self._admit(frame, *at)
                    for slot, log in enumerate(self._logs):
                        if frame.upto[slot] > frame.after[slot] or frame.epoch > at[0]:
                            rows = log.own(frame.batch)
                            log.append(frame.after[slot] + 1, frame.epoch, rows, commit=ledger.serial + 1)
                    at = frame.epoch, frame.upto
                for log, tail in zip(self._logs, before, strict=True):
                    if log.tail != tail:
                        log.sync()
                tails = tuple(log.tail for log in self._logs)
                ledger.put(replace(self.state, epoch=at[0], end=at[1], tails=tails))
            except BaseException:
                if not ledger.broken:  # else the frames may be there: only opening anew can tell
                    self._take_back(before)
                raise

    def _admit(self, frame: Frame, epoch: int, end: Position) -> None:
        """That a frame continues a journal that ends there."""
        place = str(self.directory)
        if frame.stream != self.spec.id or {len(frame.after), len(frame.upto)} != {len(self._logs)}:
            raise PeerError(f"a frame of stream {frame.stream}", place=place)
        if frame.batch.columns.payload is None:
            raise PeerError("a frame without payload", place=place)
        if frame.epoch < epoch:
            raise PlatformError(f"the frame is of epoch {frame.epoch}, the journal in {epoch}", place=place)
        if not (frame.after == end if frame.epoch == epoch else reaches(frame.after, end)):
            raise PlatformError(f"a frame after {frame.after} does not continue {end}", place=place)
        counts = tuple(int((frame.batch.vm == log.vm).sum()) for log in self._logs)
        if counts != tuple(u - a for a, u in zip(frame.after, frame.upto, strict=True)):
            raise PeerError(f"{counts} rows from {frame.after} to {frame.upto}", place=place)
        for volume in self.spec.volumes:
            mine = frame.batch.volume == volume.id
            stop = (frame.batch.lba + frame.batch.sectors)[mine]
            if len(stop) and (int(stop.max()) > volume.sectors or (frame.batch.vm[mine] != volume.vm).any()):
                raise PeerError(f"a row beyond volume {volume.id}, or of another VM", place=place)
        if not np.isin(frame.batch.volume, list(self._mirrors)).all():
            raise PeerError("a row of a volume that the stream does not have", place=place)

    @property
    def closed(self) -> str:
        """Why the store takes no changes until it is opened anew; nothing when it does."""
        return self._broken or ("a ledger could not be written" if self._ledger.broken or self._marker.broken else "")

    def _check_whole(self) -> None:
        if self.closed:
            message = f"the store is closed to changes: {self.closed}"
            raise PlatformError(message, place=str(self.directory), hint="restart it")

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
        self._indexes.clear()
        with blame(self.directory):
            state = replace(state, promoting=upto, mirrors=tuple(v.id for v in self.spec.volumes))
            self._ledger.put(state)
            self._marker.put(upto)
            for after, to, log in zip(state.promoted, upto, self._logs, strict=True):
                self._apply(log, after, to, {n: mirror.write for n, mirror in self._mirrors.items()})
            for mirror in self._mirrors.values():
                mirror.sync()
            firsts = tuple(log.first_needed(to) for log, to in zip(self._logs, upto, strict=True))
            self._ledger.put(replace(state, promoted=upto, firsts=firsts))
            for log, first in zip(self._logs, firsts, strict=True):
                log.drop_before(first)

    def _apply(self, log: VmLog, after: int, upto: int, put: Mapping[int, Put]) -> None:
        """Put rows on disks, by volume; rows of others are left out."""
        for _, batch in log.rows(after, upto):
            payload = memoryview(batch.payload or b"")
            at = 0
            for volume, lba, sectors in zip(
                batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True
            ):
                if volume in put:
                    put[volume](lba, payload[at : at + sectors * SECTOR])
                at += sectors * SECTOR

    # -- reading ----------------------------------------------------------------------------------------------

    def rebuild(self, cut: Cut, target: Path) -> dict[int, Path]:
        """Image files `volume-N.img` in `target`, by volume, as the volumes were at the cut.

        Raises PlatformError when the mirror is past the cut, the journal never stood there, or either is corrupt.
        """
        self.check_cut(cut)
        images: dict[int, Path] = {v.id: target / f"volume-{v.id}.img" for v in self.spec.volumes}
        beside = {volume: path.with_suffix(".part") for volume, path in images.items()}
        made: dict[int, Image] = {}
        with blame(target):
            make_directory(target)
            try:
                for volume, path in beside.items():
                    made[volume] = self._mirrors[volume].copy(path)
                for log, after, upto in zip(self._logs, self.state.promoted, cut.position, strict=True):
                    self._apply(log, after, upto, {n: image.write for n, image in made.items()})
                for image in made.values():
                    image.finish()
                for volume in images:
                    os.replace(beside[volume], images[volume])
                sync_directory(target)
            finally:
                for image in made.values():
                    image.close()
                for path in beside.values():
                    path.unlink(missing_ok=True)
        return images

    def scratch(
        self, cut: Cut, folder: Path, volumes: Iterable[VolumeId], *, instant: bool = False
    ) -> dict[VolumeId, Scratch]:
        """Disks over the mirrors, as of a cut: `volume-N.disk` in a folder; those that are there already go on.

        `instant`: the journal is not laid out in them but read where it lies. The cut must stay pinned until they are
        whole. Raises PlatformError as `rebuild` does.
        """
        wanted = set(volumes)
        infos = [v for v in self.spec.volumes if v.id in wanted]
        if len(infos) < len(wanted):
            raise PlatformError(f"not all volumes of {sorted(wanted)} are in this stream", place=str(self.directory))
        made: dict[VolumeId, Scratch] = {}
        try:
            fresh = [v for v in infos if not (folder / f"volume-{v.id}.laid").exists()]
            if fresh:
                self.check_cut(cut)
            for info in infos:
                base = self.view(cut, info) if instant and info in fresh else self._mirrors[info.id]
                made[info.id] = Scratch(folder / f"volume-{info.id}.disk", info, base)
            if fresh and not instant:
                layers: dict[int, Put] = {v.id: made[v.id].lay for v in fresh}
                theirs = {info.vm for info in fresh}
                logs = zip(self.spec.vms, self._logs, self.state.promoted, cut.position, strict=True)
                for vm, log, after, upto in logs:
                    if vm in theirs:  # the other VMs' journals have nothing for these disks
                        self._apply(log, after, upto, layers)
                for info in fresh:
                    made[info.id].flush()
                    (folder / f"volume-{info.id}.laid").touch()
        except BaseException:
            for each in made.values():
                each.close()
            raise
        return made

    def view(self, cut: Cut, info: VolumeInfo) -> JournalView:
        """A volume as of a cut, read where it lies; the cut must stay pinned."""
        slot = self.spec.vms.index(info.vm)
        return self._view(slot, info.id, cut.position[slot])

    def _view(self, slot: int, volume: VolumeId, upto: int) -> JournalView:
        log, after, mirror = self._logs[slot], self.state.promoted[slot], self._mirrors[volume]
        return JournalView(log, mirror, volume, upto, after, lambda: self.state.promoted[slot])

    def seed(self, disks: Mapping[VolumeId, Path]) -> None:
        """Begin with disks that are there for mirrors, before anything is appended (see Mirror.seed)."""
        with blame(self.directory):
            if self.state.end == begun(self.spec).end and not self.state.mirrors:
                for volume, disk in disks.items():
                    self._mirrors[volume].seed(disk)
                self._ledger.put(replace(self.state, mirrors=tuple(disks)))

    def mirror(self, volume: VolumeId) -> Mirror:
        """The mirror of a volume."""
        return self._mirrors[volume]

    def check_cut(self, cut: Cut) -> None:
        """Raises PlatformError when the volumes cannot be rebuilt as of a cut."""
        state, place = self.state, str(self.directory)
        if len(cut.position) != len(self._logs):
            raise PlatformError(f"a cut of {len(cut.position)} VMs, the stream has {len(self._logs)}", place=place)
        if not reaches(cut.position, state.promoting):
            raise PlatformError(f"cut {cut.position} lies before the mirrors ({state.promoting})", place=place)
        if cut.epoch > state.epoch or (cut.epoch == state.epoch and not reaches(state.end, cut.position)):
            where = f"{state.end} in epoch {state.epoch}"
            raise PlatformError(f"the journal ends at {where}, before cut {cut.position} in {cut.epoch}", place=place)
        for log, upto, promoted in zip(self._logs, cut.position, state.promoted, strict=True):
            if upto != promoted and not log.reached(cut.epoch, upto):
                message = f"the journal of VM {log.vm} never stood at {upto} in epoch {cut.epoch}"
                raise PlatformError(message, place=place)

    def rows(self, vm: VmId) -> Iterator[tuple[int, int, int, int]]:
        """Rows held for a VM as (number, volume, lba, sectors), in order."""
        slot = self.spec.vms.index(vm)
        with blame(self.directory):
            for first, batch in self._logs[slot].rows(self.state.promoted[slot], self.state.end[slot]):
                columns = zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True)
                for n, (volume, lba, sectors) in enumerate(columns):
                    yield first + n, volume, lba, sectors

    def digests(self, extent: Extent, region_bytes: int) -> bytes:
        """Digests of the regions of a stretch as it is in the mirror with everything durable in the journal.

        A region with a sector that does not verify gets what its content does not have, so that it differs from a
        source with the same content; it stands in `corrupt`. Raises PeerError for a stretch that is not one of the
        stream's, PlatformError when the journal is corrupt or the disk fails.
        """
        self._check_extent(extent, region_bytes)
        with blame(self.directory):
            content, bad = self._index(extent.vm, extent.volume).read(extent.lba, extent.sectors)
        unread = set(bad)
        first, last = extent.lba, extent.lba + extent.sectors
        known = {lba for lba in self.corrupt.get(extent.volume, ()) if not first <= lba < last}
        self.corrupt[extent.volume] = known | unread
        return of_regions(content, region_bytes, {(lba - first) * SECTOR // region_bytes for lba in unread})

    def _index(self, vm: VmId, volume: VolumeId) -> JournalView:
        """The volume as it is, with what came since it was made; kept for the stretches that are compared next."""
        slot = self.spec.vms.index(vm)
        end = self.state.end[slot]
        if volume not in self._indexes:
            self._indexes[volume] = self._view(slot, volume, end)
        self._indexes[volume].extend(end)
        return self._indexes[volume]

    def _check_extent(self, extent: Extent, region_bytes: int) -> None:
        volume = next((v for v in self.spec.volumes if v.id == extent.volume and v.vm == extent.vm), None)
        if volume is None or extent.vm not in self.spec.vms:
            raise PeerError(f"no volume {extent.volume} of VM {extent.vm}", place=str(self.directory))
        end, whole = extent.lba + extent.sectors, region_bytes // SECTOR
        if not 0 <= extent.lba < end <= volume.sectors or extent.lba % whole or (end % whole and end < volume.sectors):
            raise PeerError(f"sectors {extent.lba} to {end} are no regions", place=str(self.directory))

    def scrub(self) -> list[PlatformError]:
        """Read everything again that a recovery may need, and say what of it does not verify. Changes nothing.

        A sector of a mirror that rows of an unfinished promotion will overwrite is left out (`mirror.py`).
        """
        found: list[PlatformError] = []
        with blame(self.directory):
            for ledger in (self._ledger, self._marker):
                with noted(found):
                    ledger.verify()
            for log in self._logs:
                found += log.flaws()
            for volume in self.spec.volumes:
                if rotten := self._rotten(volume):
                    hint = "no checkpoint held can give it back; force a sync, and those to come will have it again"
                    place = str(self._mirrors[volume.id].path)
                    found.append(PlatformError(f"{where(rotten)} does not verify", place=place, hint=hint))
        return found

    def _rotten(self, volume: VolumeInfo) -> set[int]:
        """The sectors of a mirror that do not verify, and that no promotion under way will overwrite."""
        bad, slot = self._mirrors[volume.id].bad(), self.spec.vms.index(volume.vm)

        def covered(lba: int, data: Payload) -> None:
            bad.difference_update(range(lba, lba + len(data) // SECTOR))

        if bad:
            with suppress(PlatformError):  # of the journal, which is told for itself
                after, upto = self.state.promoted[slot], self.state.promoting[slot]
                self._apply(self._logs[slot], after, upto, {volume.id: covered})
        return bad

    def held(self) -> Stored:
        """What is here, in the core's words: for a VRA that has lost its memory."""
        parts = tuple(
            tuple((e.last, e.nbytes) for e in log.entries if e.last > base)
            for log, base in zip(self._logs, self.state.promoting, strict=True)
        )
        return Stored(self.state.epoch, self.state.promoting, self.state.end, parts)

    def close(self) -> None:
        """Close all files."""
        self._files.close()
