"""JournalCopy: a site's journals and lists of checkpoints, copied to an object store and fetched back from it.

Theory of operation. Objects are written once and never change (`ObjectStore.put`). Of a stream there are

    STREAM/LIFE/spec                    what the stream is; writing it claims the life's number
    STREAM/LIFE/vm-N/SEGMENT-OFFSET     bytes of a segment from an offset on
    STREAM/LIFE/chunks/DIGEST           a chunk of a mirror
    STREAM/LIFE/bases/N                 a mirror of every volume, as chunks
    STREAM/LIFE/heads/N                 what the stream's ledger says; everything that it speaks of is there before it
    STREAM/LIFE/gone                    the stream was discarded
    catalogs/VPG/N                      the list of checkpoints, as it was before the heads of its round were taken

The last head is what holds: it is the copy's commit. It is written under the next number, and only one can have it, so
a second copier is seen at once. A stream that begins anew (its journal was damaged) has a new life.

Appended bytes never change, so they are copied as they come, sealed segment or not. A mirror does change, while it is
read chunk by chunk. That is no harm: rows are whole sectors, and applying them again ends the same. A base says where
the mirrors stood when it was begun (`promoted`) and how far they may have come until it was read (`promoting`), just as
a ledger does in the middle of a promotion; the rows after `promoted` are in the segments from `firsts` on.

A round costs what is new. When segments went before they were copied, or so much was copied since the last base that
fetching it back would take long (`rebase_bytes`), there is a new base; chunks that did not change are there already.

What is fetched back is a journal folder as after a crash at the last head; its copy is another life. Lists keep the
checkpoints that the streams can serve.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote

from drsim.core.errors import PlatformError
from drsim.core.messages import Cut, Position
from drsim.core.names import StreamId
from drsim.core.units import SECTOR
from drsim.real.catalog_store import CatalogStore
from drsim.real.codec import build, plain
from drsim.real.envelope import PRELUDE, opened, prelude, seal
from drsim.real.files import blame, make_directory, replace_file, sync_directory, write_all
from drsim.real.journal_store import JournalStore, spec_in
from drsim.real.ledger import entry
from drsim.real.mirror import Mirror, where
from drsim.real.ports import ObjectStore
from drsim.real.store_state import StoreState, state_of
from drsim.real.stream_store import StreamStore
from drsim.real.vm_log import Tail, segment_path

MAGIC = b"DRSC"
CHUNK, PIECE = 1 << 20, 8 << 20
"""Bytes of a mirror's chunk, and of a segment's piece at most."""
MARK = "copied"
"""The file in a stream's directory that says which life of its copy is its own."""
T = TypeVar("T")


class InLane(Protocol):
    """Does work on a stream in its turn, while nothing else changes its files."""

    async def __call__(self, stream: StreamId, work: Callable[[], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class Base:
    """Mirrors. `chunks`: of each volume the digests, empty for zeros. See the module."""

    promoted: Position
    promoting: Position
    firsts: tuple[int, ...]
    chunks: dict[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Head:
    """What holds of a stream: the ledger's state and serial, and the base below it."""

    serial: int
    base: int
    state: StoreState


@dataclass(slots=True)
class _Copy:
    """What is known of one stream's copy."""

    place: str
    tails: list[Tail]
    bases: int = 0
    heads: int = 0
    serial: int = -1
    since: int = 0


class JournalCopy:
    """Copies what `journals` holds. One at a time for a site."""

    def __init__(self, objects: ObjectStore, journals: JournalStore, *, rebase_bytes: int = 8 << 30) -> None:
        self._objects, self._journals, self._rebase = objects, journals, rebase_bytes
        self._streams: dict[StreamId, _Copy] = {}
        self._lists: dict[str, tuple[int, bytes]] = {}

    async def round(self, in_lane: InLane, catalogs: Callable[[], dict[str, bytes]]) -> None:
        """Copy what is new. `catalogs` gives the lists as they are now, by VPG. Raises PlatformError.

        A round that failed is done again by the next; nothing counts before its head is there.
        """
        lists = catalogs()  # before the streams: what they list is durable in them
        for stream, store in list(self._journals.streams.items()):
            if stream not in self._streams:
                self._streams[stream] = await self._begin(store)
            await self._stream(self._streams[stream], store, in_lane)
        for stream in [s for s in self._streams if s not in self._journals.streams]:
            await self._objects.put(f"{self._streams.pop(stream).place}/gone", b"")
        for name, data in lists.items():
            await self._list(name, data)

    async def _list(self, name: str, data: bytes) -> None:
        prefix = f"catalogs/{quote(name, safe='')}/"
        if name not in self._lists:
            self._lists[name] = (await _last(self._objects, prefix), b"")
        number, before = self._lists[name]
        if data != before:
            await self._put(f"{prefix}{number + 1:010d}", data)
            self._lists[name] = (number + 1, data)

    async def _put(self, key: str, data: bytes) -> None:
        if not await self._objects.put(key, data):
            hint = "end it; a site is copied by one process"
            raise PlatformError("another process copies this site", place=key, hint=hint)

    # -- a stream ---------------------------------------------------------------------------------------------

    async def _begin(self, store: StreamStore) -> _Copy:
        """Go on with the copy of an earlier process, or begin another life."""
        name, mark = store.directory.name, store.directory / MARK
        with blame(mark):
            life = int(mark.read_text()) if mark.exists() else 0
        if not life:
            lives = [int(key.split("/")[2]) for key in await self._objects.keys(f"streams/{name}/")]
            life = max(lives, default=0) + 1
            with blame(store.directory):
                await self._put(f"streams/{name}/{life:010d}/spec", (store.directory / "spec").read_bytes())
                replace_file(mark, str(life).encode())
        copy = _Copy(f"streams/{name}/{life:010d}", [(0, 0)] * len(store.spec.vms))
        copy.bases, copy.heads = [await _last(self._objects, f"{copy.place}/{kind}/") for kind in ("bases", "heads")]
        if copy.heads:
            head = await _head(self._objects, copy.place, copy.heads, store)
            copy.tails, copy.serial = list(head.state.tails), head.serial
        return copy

    async def _stream(self, copy: _Copy, store: StreamStore, in_lane: InLane) -> None:
        if store.serial == copy.serial:
            return
        if not copy.bases or copy.since > self._rebase or self._gap(copy, store):
            await self._make_base(copy, store, in_lane)
        while True:
            state, serial, copy.tails, pieces = await in_lane(store.spec.id, lambda: _new(store, copy.tails))
            for slot, (segment, offset), data, following in pieces:
                key = f"{copy.place}/vm-{store.spec.vms[slot]}/{segment:08d}-{offset:012d}"
                copy.since += len(data)
                copy.tails[slot] = following
                if not await self._objects.put(key, data):  # an earlier process has put it, when there was less
                    there = await self._objects.get(key)
                    if not there or not data.startswith(there):
                        raise PlatformError("a piece of the journal is there with other content", place=key)
                    if len(there) < len(data):
                        copy.tails[slot] = (segment, offset + len(there))
            if tuple(copy.tails) == state.tails:
                break
        await self._put(f"{copy.place}/heads/{copy.heads + 1:010d}", _sealed(Head(serial, copy.bases, state)))
        copy.heads, copy.serial = copy.heads + 1, serial

    def _gap(self, copy: _Copy, store: StreamStore) -> bool:
        return any(mine[0] < first for mine, first in zip(copy.tails, store.state.firsts, strict=True))

    async def _make_base(self, copy: _Copy, store: StreamStore, in_lane: InLane) -> None:
        begun = await in_lane(store.spec.id, lambda: store.state)
        chunks: dict[int, tuple[str, ...]] = {}
        for volume in store.spec.volumes if begun.mirrors else ():
            digests = []
            for lba in range(0, volume.sectors, CHUNK // SECTOR):
                n = min(CHUNK // SECTOR, volume.sectors - lba)
                mirror = store.mirror(volume.id)
                data, bad = await in_lane(store.spec.id, partial(mirror.read, lba, n))
                if bad:
                    what = f"{where(set(bad))} does not verify"
                    raise PlatformError(what, place=str(mirror.path), hint="see drsim scrub")
                digests.append(sha256(data).hexdigest() if any(data) else "")
                if digests[-1]:
                    await self._objects.put(f"{copy.place}/chunks/{digests[-1]}", data)
            chunks[volume.id] = tuple(digests)
        now = await in_lane(store.spec.id, lambda: store.state)
        base = Base(begun.promoted, now.promoting, begun.firsts, chunks)
        await self._put(f"{copy.place}/bases/{copy.bases + 1:010d}", _sealed(base))
        copy.bases, copy.since = copy.bases + 1, 0
        copy.tails = [max(mine, (first, 0)) for mine, first in zip(copy.tails, begun.firsts, strict=True)]


Piece = tuple[int, Tail, bytes, Tail]
"""Of which VM (its slot), from where, what, and where the next one begins."""


def _new(store: StreamStore, tails: Sequence[Tail]) -> tuple[StoreState, int, list[Tail], list[Piece]]:
    """What holds, where the copy is, and its next pieces: at most one of each VM. Raises PlatformError."""
    state, begins, pieces = store.state, list[Tail](), list[Piece]()
    for slot, (vm, (segment, offset), tail) in enumerate(zip(store.spec.vms, tails, state.tails, strict=True)):
        directory = store.directory / f"vm-{vm}"
        with blame(directory):
            while segment < tail[0] and offset >= segment_path(directory, segment).stat().st_size:
                segment, offset = segment + 1, 0
            path, sealed = segment_path(directory, segment), segment < tail[0]
            end = path.stat().st_size if sealed else tail[1]
            begins.append((segment, offset))
            if offset < end:
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(min(PIECE, end - offset))
                at = offset + len(data)
                pieces.append(
                    (slot, (segment, offset), data, (segment + 1, 0) if sealed and at == end else (segment, at))
                )
    return state, store.serial, begins, pieces


# -- fetching back ----------------------------------------------------------------------------------------------------


async def fetch(objects: ObjectStore, folder: Path) -> dict[str, int]:
    """Make `journals` and `catalogs` in a site's folder anew; how many checkpoints each VPG has. Raises PlatformError.

    Neither may be there. What an interrupted fetch has left in `fetching` is begun anew.
    """
    for name in ("journals", "catalogs"):
        if (folder / name).exists():
            hint = "move it away; nothing is overwritten"
            raise PlatformError("there is one already", place=str(folder / name), hint=hint)
    lives: dict[str, int] = {}
    for key in await objects.keys("streams/"):
        _, name, life, kind, *_ = key.split("/")
        if kind == "heads":
            lives[name] = max(lives.get(name, 0), int(life))
    beside = folder / "fetching"
    with blame(beside):
        if beside.exists():
            shutil.rmtree(beside)
        for name in ("journals", "catalogs"):
            make_directory(beside / name)
        for name, last in lives.items():
            place = f"streams/{name}/{last:010d}"
            if not await objects.keys(f"{place}/gone"):
                await _fetch_stream(objects, place, beside / "journals" / name)
        found = await _fetch_lists(objects, beside)
        for name in ("journals", "catalogs"):
            os.replace(beside / name, folder / name)
        sync_directory(folder)
        beside.rmdir()
    return found


async def _fetch_stream(objects: ObjectStore, place: str, directory: Path) -> None:
    make_directory(directory)
    replace_file(directory / "spec", await objects.get(f"{place}/spec"))
    spec, head = spec_in(directory), await _last_head(objects, place)
    base: Base = _open(Base, await objects.get(f"{place}/bases/{head.base:010d}"), place)
    for slot, vm in enumerate(spec.vms):
        log = directory / f"vm-{vm}"
        await _fetch_log(objects, f"{place}/vm-{vm}/", log, base.firsts[slot], head.state.tails[slot])
    for volume in spec.volumes if base.chunks else ():
        mirror = Mirror(directory / f"volume-{volume.id}.mirror", volume.sectors)
        try:
            for n, digest in enumerate(base.chunks[volume.id]):
                if digest:
                    mirror.write(n * CHUNK // SECTOR, await objects.get(f"{place}/chunks/{digest}"))
            mirror.sync()
        finally:
            mirror.close()
    mirrors = tuple(v.id for v in spec.volumes) if base.chunks else ()
    state = replace(
        head.state, promoted=base.promoted, promoting=base.promoting, firsts=base.firsts, mirrors=mirrors
    )  # fmt: skip
    replace_file(directory / "promoting", entry(0, base.promoting))
    replace_file(directory / "ledger", entry(head.serial, state_of(spec, plain(state))))


async def _fetch_log(objects: ObjectStore, prefix: str, directory: Path, first: int, tail: Tail) -> None:
    """The segments of a VM from one to the tail; pieces that a copier wrote beyond its last head are left out."""
    make_directory(directory)
    pieces = [
        (tuple(int(part) for part in key.removeprefix(prefix).split("-")), key) for key in await objects.keys(prefix)
    ]
    for segment in range(first, tail[0] + 1):
        fd = os.open(segment_path(directory, segment), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for at, key in pieces:
                if at[0] == segment and at < tail:
                    write_all(fd, await objects.get(key), at[1])
            if segment == tail[0]:
                os.ftruncate(fd, tail[1])
            os.fsync(fd)
        finally:
            os.close(fd)
    sync_directory(directory)


async def _fetch_lists(objects: ObjectStore, beside: Path) -> dict[str, int]:
    """The last lists, with the checkpoints that the streams can serve."""
    found: dict[str, int] = {}
    last = {key.split("/")[1]: key for key in await objects.keys("catalogs/")}
    journals = JournalStore(beside / "journals", JournalStore.found(beside / "journals"))
    try:
        for name, key in last.items():
            path = beside / "catalogs" / f"{unquote(name)}.json"
            replace_file(path, await objects.get(key))
            kept = CatalogStore(path)
            kept.retain(lambda checkpoint: all(_serves(journals, *each) for each in checkpoint.cut.items()))
            found[unquote(name)] = len(kept.checkpoints)
    finally:
        journals.close()
    return found


def _serves(journals: JournalStore, stream: StreamId, cut: Cut) -> bool:
    try:
        journals.streams[stream].check_cut(cut)
    except (KeyError, PlatformError):
        return False
    return True


# -- objects ----------------------------------------------------------------------------------------------------------


def _sealed(content: Base | Head) -> bytes:
    return seal(MAGIC, json.dumps(plain(content), separators=(",", ":")).encode())


def _open(kind: type[T], data: bytes, place: str) -> T:
    try:
        raw, _ = opened(prelude(MAGIC, data), data[PRELUDE:])
        made: T = build(kind, json.loads(raw))
    except ValueError as error:
        raise PlatformError(f"it is corrupt: {error}", place=place) from error
    return made


async def _last(objects: ObjectStore, prefix: str) -> int:
    """The highest number under a prefix; 0 when there is none."""
    keys: Sequence[str] = await objects.keys(prefix)
    return max((int(key.removeprefix(prefix)) for key in keys), default=0)


async def _head(objects: ObjectStore, place: str, number: int, store: StreamStore) -> Head:
    head = await _last_head(objects, place, number)
    state_of(store.spec, plain(head.state))
    return head


async def _last_head(objects: ObjectStore, place: str, number: int = 0) -> Head:
    number = number or await _last(objects, f"{place}/heads/")
    return _open(Head, await objects.get(f"{place}/heads/{number:010d}"), place)
