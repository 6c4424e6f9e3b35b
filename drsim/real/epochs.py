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
An operator who lets the VPG go on meanwhile is to wait for that (`paused`).

It touches the world through its ports only, and `Process` says how the process does what takes long: so the explorer
takes epochs with this code as well (`verify/epochs.py`).

What it promises is level L0 for each VM: its disks are as at an instant. Snapshots of different VMs are not of the same
instant. RPO is never better than the time between two epochs.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR, Ns
from drsim.real.clock import now_ns
from drsim.real.disk import MAX_WRITE
from drsim.real.files import blame, make_directory, replace_file
from drsim.real.ports import Area, ChangeSource, DiskId, Epoch, Untrusted

_PIECE = 1 << 20


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


class Shadow(Protocol):
    """A file that is written as if it were a protected disk. Offsets and lengths in bytes, whole sectors."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, offset: int, length: int, /) -> bytes:
        """What is there."""
        ...

    def write(self, writes: list[tuple[int, bytes]], /) -> object:
        """Put content at offsets, in this order; captured when it returns."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """What is durable of a VPG's epochs: which one each disk's shadow is at, and whether it may be of two."""

    marks: Mapping[DiskId, str]
    unfinished: bool


class Marks(Protocol):
    """Where it is kept."""

    def load(self) -> Kept | None:
        """What was kept last; None: nothing ever was."""
        ...

    def keep(self, kept: Kept) -> None:
        """Durably, when it returns. Raises PlatformError."""
        ...


class MarksFile:
    """A JSON file. Errors are PlatformErrors that blame it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Kept | None:
        """The port's."""
        with blame(self._path):
            make_directory(self._path.parent)
            if not self._path.exists():
                return None
            said: dict[str, Any] = json.loads(self._path.read_text())
        return Kept(said["marks"], said["unfinished"])

    def keep(self, kept: Kept) -> None:
        """The port's."""
        with blame(self._path):
            said = {"marks": dict(kept.marks), "unfinished": kept.unfinished}
            replace_file(self._path, json.dumps(said).encode())


async def _together(work: Sequence[Coroutine[Any, Any, Epoch]]) -> list[Epoch | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Process:
    """How the process that epochs are taken in does what takes long.

    `clock`: what RPO is measured by, in ns. `aside`: a call that blocks, beside everything else. `together`: all of
    these at once, each one's result or error. In bytes: `piece` is read from a platform at a time, `same` compared,
    `at_once` written to shadows in one step of the event loop.
    """

    clock: Callable[[], int] = now_ns
    aside: Callable[..., Awaitable[Any]] = asyncio.to_thread
    together: Callable[[Sequence[Coroutine[Any, Any, Epoch]]], Awaitable[list[Epoch | BaseException]]] = _together
    piece: int = _PIECE
    same: int = 4096
    at_once: int = 16 << 20


class Epochs:
    """The VMs of one VPG. `shadows`: by VM and disk.

    `pause`: pauses the VPG, and returns when no checkpoint of it comes about any more; or lets it go on.
    """

    def __init__(
        self, source: ChangeSource, shadows: Mapping[str, Mapping[DiskId, Shadow]], owner: str, marks: Marks,
        pause: Callable[[bool], Awaitable[None]], process: Process = Process(),
    ) -> None:  # fmt: skip
        self._source, self._shadows, self._owner, self._store = source, shadows, owner, marks
        self._pause, self._process = pause, process
        kept = marks.load()
        self._fresh = kept is None
        self._marks: Mapping[DiskId, str] = {} if kept is None else kept.marks
        self.unfinished = kept is not None and kept.unfinished
        """Whether the shadows may be of two epochs; then the VPG has to be paused before anything is made of them."""
        self.paused = self.unfinished
        """Whether the VPG is to be paused for the time being, whatever an operator wants."""

    async def take(self) -> Taken:
        """One epoch. Raises PlatformError, and the shadows are as before, or `unfinished`."""
        asked = Ns(self._process.clock())  # by our clock, which is what RPO is measured by; the snapshots are later
        results = await self._process.together([self._source.begin(vm, self._owner) for vm in self._shadows])
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
        whole = False
        waiting: list[tuple[Shadow, list[tuple[int, bytes]]]] = []
        held = 0
        for vm, epoch in epochs.items():
            for disk, shadow in self._shadows[vm].items():
                areas, all_of_it = await self._changed(epoch, disk, shadow)
                whole |= all_of_it
                for piece in _pieces(areas, shadow.size, self._process.piece):
                    told += piece.length
                    writes = await self._new(epoch, disk, piece, shadow)
                    if not writes:
                        continue
                    size = sum(len(data) for _, data in writes)
                    new, held = new + size, held + size
                    waiting.append((shadow, writes))
                    if held > self._process.at_once:
                        if not self.unfinished:
                            self.paused = True
                            await self._pause(True)
                        self._keep(self._marks, unfinished=True)
                        await self._process.aside(_write, waiting)  # it may have to wait for the VRA
                        held = 0
        if waiting:
            self._keep(self._marks, unfinished=True)
            _write(waiting)
        self._keep({disk: mark for each in epochs.values() for disk, mark in each.marks}, unfinished=False)
        if self.paused:
            self.paused = False
            await self._pause(False)
        return Taken(asked, told, new, whole)

    async def _changed(self, epoch: Epoch, disk: DiskId, shadow: Shadow) -> tuple[list[Area], bool]:
        since = self._marks.get(disk)
        if since is not None or self._fresh:
            try:
                return list(await self._source.changed(epoch, disk, since)), False
            except Untrusted:
                pass
        return [Area(0, shadow.size)], True

    async def _new(self, epoch: Epoch, disk: DiskId, area: Area, shadow: Shadow) -> list[tuple[int, bytes]]:
        """What of an area is not in the shadow, by offset."""
        data = await self._source.read(epoch, disk, area)
        if len(data) != area.length:
            message = f"{len(data)} bytes came of {area.length} at {area.offset}"
            raise PlatformError(message, place=str(disk))
        found: list[tuple[int, bytes]] = await self._process.aside(
            _differing, data, area.offset, shadow, self._process.same
        )
        return found

    def _keep(self, marks: Mapping[DiskId, str], *, unfinished: bool) -> None:
        self._store.keep(Kept(marks, unfinished))
        self._marks, self.unfinished, self._fresh = marks, unfinished, False


def _pieces(areas: list[Area], size: int, piece: int) -> list[Area]:
    """Areas within a disk of `size` bytes, in pieces that are read at a time."""
    return [
        Area(at, min(piece, end - at))
        for area in areas
        for end in [min(area.offset + area.length, size)]
        for at in range(area.offset, end, piece)
    ]


def _differing(data: bytes, offset: int, shadow: Shadow, same: int) -> list[tuple[int, bytes]]:
    """Runs of `data` that the shadow holds otherwise."""
    was = shadow.read(offset, len(data))
    if was == data:
        return []
    found: list[tuple[int, bytes]] = []
    for at in range(0, len(data), same):
        part = data[at : at + same]
        if part != was[at : at + same]:
            last = found[-1] if found else None
            if last is not None and last[0] + len(last[1]) == offset + at:
                found[-1] = last[0], last[1] + part
            else:
                found.append((offset + at, part))
    return found


def _write(waiting: list[tuple[Shadow, list[tuple[int, bytes]]]]) -> None:
    """All of it, in order; called from the event loop, with nothing in between."""
    for shadow, writes in waiting:
        shadow.write(writes)
    waiting.clear()


assert _PIECE % SECTOR == 0
assert _PIECE <= MAX_WRITE
