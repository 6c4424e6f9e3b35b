"""Epochs: capture of VMs of a platform that lets nobody tap their writes: what changed between two snapshots.

Theory of operation. For every protected disk there is a *shadow*, a file of ours that the VRA taps as if it were the
disk. An epoch brings the shadow up to a snapshot:

    begin       snapshots of all VMs, as close together as the platform takes them
    changed     a superset of what changed since the last mark: at first all that was ever written; the whole disk, when
                the mark means nothing any more
    read        areas of the snapshots; what is in the shadow already is left out
    write       what differs, to the shadows: this is what is captured
    mark        which epoch the shadows are at, durably; then the snapshots go

The writes of an epoch come about in one step of the event loop, so no checkpoint lies between them: every checkpoint is
the state of the VMs at their snapshots. One that is too large for that is written while the VPG is paused, when its
writes are marked dirty and no checkpoint is made; they are synchronized afterwards.

If the process dies, or an epoch fails, between the first write and the mark, the shadows are of two epochs at once.
That they may be is durable before the first write (`unfinished`): then the VPG is paused until an epoch is whole again.

What it promises is level L0 for each VM: its disks are as at an instant. Snapshots of different VMs are not of the same
instant. RPO is never better than the time between two epochs.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR, Ns
from drsim.real.clock import now_ns
from drsim.real.disk import MAX_WRITE, Disk
from drsim.real.files import blame, make_directory, replace_file
from drsim.real.ports import Area, ChangeSource, DiskId, Epoch, Untrusted

AT_ONCE = 16 << 20
"""Bytes that one step of the event loop writes."""
_PIECE = 1 << 20
"""Bytes that are read from a platform at a time."""
_SAME = 4096
"""Bytes that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What an epoch brought. `told`: bytes that the platform said had changed; `new`: of these, those that had.

    `at`: everything until then is in it.
    """

    at: Ns
    told: int
    new: int
    whole: bool
    """Everything was read, because changes could not be told."""


class Epochs:
    """The VMs of one VPG. `shadows`: by VM and disk. `file`: where marks are kept.

    `pause`: pauses the VPG, and returns when no checkpoint of it comes about any more; or lets it go on.
    """

    def __init__(
        self, source: ChangeSource, shadows: Mapping[str, Mapping[DiskId, Disk]], owner: str, file: Path,
        pause: Callable[[bool], Awaitable[None]],
    ) -> None:  # fmt: skip
        self._source, self._shadows, self._owner, self._file, self._pause = source, shadows, owner, file, pause
        with blame(file):
            self._fresh = not file.exists()
            kept: dict[str, Any] = {} if self._fresh else json.loads(file.read_text())
            make_directory(file.parent)
        self._marks: dict[str, str] = kept.get("marks", {})
        self.unfinished: bool = kept.get("unfinished", False)
        """Whether the shadows may be of two epochs; then the VPG has to be paused before anything is made of them."""

    async def take(self) -> Taken:
        """One epoch. Raises PlatformError, and the shadows are as before, or `unfinished`."""
        asked = Ns(now_ns())  # by our clock, which is what RPO is measured by; the snapshots are later
        begun = [self._source.begin(vm, self._owner) for vm in self._shadows]
        results = await asyncio.gather(*begun, return_exceptions=True)
        epochs = {vm: each for vm, each in zip(self._shadows, results, strict=True) if isinstance(each, Epoch)}
        try:
            for each in results:
                if isinstance(each, BaseException):
                    raise each
            return await self._take(asked, epochs)
        finally:
            for epoch in epochs.values():
                with suppress(PlatformError):  # the next one ends it
                    await self._source.end(epoch)

    async def _take(self, asked: Ns, epochs: dict[str, Epoch]) -> Taken:
        told = new = 0
        whole, paused = False, self.unfinished
        waiting: list[tuple[Disk, list[tuple[int, bytes]]]] = []
        held = 0
        for vm, epoch in epochs.items():
            for disk, shadow in self._shadows[vm].items():
                areas, all_of_it = await self._changed(epoch, disk, shadow)
                whole |= all_of_it
                for piece in _pieces(areas, shadow.size):
                    told += piece.length
                    writes = await self._new(epoch, disk, piece, shadow)
                    if not writes:
                        continue
                    size = sum(len(data) for _, data in writes)
                    new, held = new + size, held + size
                    waiting.append((shadow, writes))
                    if held > AT_ONCE:
                        if not paused:
                            await self._pause(True)
                            paused = True
                        self._keep(self._marks, unfinished=True)
                        await asyncio.to_thread(_write, waiting)  # it may have to wait for the VRA
                        held = 0
        if waiting:
            self._keep(self._marks, unfinished=True)
            _write(waiting)
        self._keep({disk: mark for each in epochs.values() for disk, mark in each.marks}, unfinished=False)
        if paused:
            await self._pause(False)
        return Taken(asked, told, new, whole)

    async def _changed(self, epoch: Epoch, disk: DiskId, shadow: Disk) -> tuple[list[Area], bool]:
        since = self._marks.get(disk)
        if since is not None or self._fresh:
            try:
                return list(await self._source.changed(epoch, disk, since)), False
            except Untrusted:
                pass
        return [Area(0, shadow.size)], True

    async def _new(self, epoch: Epoch, disk: DiskId, area: Area, shadow: Disk) -> list[tuple[int, bytes]]:
        """What of an area is not in the shadow, by offset."""
        data = await self._source.read(epoch, disk, area)
        if len(data) != area.length:
            message = f"{len(data)} bytes came of {area.length} at {area.offset}"
            raise PlatformError(message, place=str(disk))
        return await asyncio.to_thread(_differing, data, area.offset, shadow)

    def _keep(self, marks: dict[str, str], *, unfinished: bool) -> None:
        with blame(self._file):
            replace_file(self._file, json.dumps({"marks": marks, "unfinished": unfinished}).encode())
        self._marks, self.unfinished, self._fresh = marks, unfinished, False


def _pieces(areas: list[Area], size: int) -> list[Area]:
    """Areas within a disk of `size` bytes, in pieces that are read at a time."""
    return [
        Area(at, min(_PIECE, end - at))
        for area in areas
        for end in [min(area.offset + area.length, size)]
        for at in range(area.offset, end, _PIECE)
    ]


def _differing(data: bytes, offset: int, shadow: Disk) -> list[tuple[int, bytes]]:
    """Runs of `data` that the shadow holds otherwise."""
    was = shadow.read(offset, len(data))
    if was == data:
        return []
    found: list[tuple[int, bytes]] = []
    for at in range(0, len(data), _SAME):
        part = data[at : at + _SAME]
        if part != was[at : at + _SAME]:
            last = found[-1] if found else None
            if last is not None and last[0] + len(last[1]) == offset + at:
                found[-1] = last[0], last[1] + part
            else:
                found.append((offset + at, part))
    return found


def _write(waiting: list[tuple[Disk, list[tuple[int, bytes]]]]) -> None:
    """All of it, in order; called from the event loop, with nothing in between."""
    for shadow, writes in waiting:
        shadow.write(writes)
    waiting.clear()


assert _PIECE % SECTOR == 0
assert _PIECE <= MAX_WRITE
