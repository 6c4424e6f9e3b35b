"""Disk: the directory of a real store on a disk that loses power, fills up and fails; and its files as bytes.

Theory of operation. The store's modules reach the disk through their module's name `os`; while a disk is installed
that name is a `_Calls`, which passes everything on and keeps count of what a power cut may take:

    change                          survives
    ------------------------------  --------------------------------------------------------------
    bytes written or cut off        from the next sync of the file on; before, any of its sectors may
    a name made, moved or removed   from the next sync of its directory on; before, it may

A power cut is the picture of what survives at one instant, taken before the n-th change; the process that is cut
goes on in a time of its own, which is thrown away when the picture is put back. A sector of 512 bytes is written
whole or not at all. Directories themselves survive as soon as they are made.
"""

import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from drsim.core.units import SECTOR
from drsim.real import files, journal_store, ledger, mirror, vm_log

MODULES: tuple[ModuleType, ...] = (files, journal_store, ledger, mirror, vm_log)
"""Modules of the real store that change the disk."""

Files = dict[str, bytes]
"""Contents by path, relative to the disk's root."""


@dataclass(slots=True)
class _File:
    """What is durable of a file, and the changes since: (offset, bytes), or (size, None) where it was cut off."""

    durable: bytes
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self) -> bytes:
        """The file with all that is pending."""
        return _changed(self.durable, self.pending)

    def survivor(self, rng: random.Random) -> bytes:
        """The file after a power cut: all of what is pending, none, the first of it, or whichever sectors.

        Its size may be durable before what lies there is; then there are zeros.
        """
        match rng.randrange(4) if self.pending else 0:
            case 0:
                return self.content()
            case 1:
                left = self.durable
            case 2:
                n = rng.randint(0, len(self.pending))
                torn = [sector for sector in _sectors(self.pending[n : n + 1]) if rng.random() < 0.5]
                left = _changed(self.durable, [*self.pending[:n], *torn])
            case _:
                left = _changed(self.durable, [part for part in _sectors(self.pending) if rng.random() < 0.6])
        return left.ljust(len(self.content()), b"\0") if rng.random() < 0.5 else left


def _changed(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    now = bytearray(content)
    for at, data in changes:
        if data is None:
            now = now[:at] if at <= len(now) else now + bytes(at - len(now))
        else:
            now += bytes(max(0, at - len(now)))
            now[at : at + len(data)] = data
    return bytes(now)


def _sectors(changes: list[tuple[int, bytes | None]]) -> Iterator[tuple[int, bytes | None]]:
    """The changes in the units that a disk writes whole."""
    for at, data in changes:
        if data is None:
            yield at, None
            continue
        start = at
        while start < at + len(data):
            stop = min(at + len(data), start - start % SECTOR + SECTOR)
            yield start, data[start - at : stop - at]
            start = stop


class Disk:
    """A store's directory. Set `cut_at`, `fail_at` or `unreadable` to break it; `changes` counts since `begin`."""

    def __init__(self, root: Path) -> None:
        self.root, self._root = root, str(root)
        self.changes = 0
        self.cut_at = 0
        """Before which change the power goes, counted from 1; 0 for none."""
        self.seed = 0
        """Which of what is not durable survives. 0: all of it, as when only the process dies."""
        self.fail_at = 0
        """From which change on the disk is full, or fails for good when `error` says so; 0 for never."""
        self.error = errno.ENOSPC
        self.unreadable = ""
        self.picture: Files | None = None
        self._files: dict[int, _File] = {}
        self._open: dict[int, _File] = {}
        self._names: dict[str, dict[str, _File]] = {}
        self._directories: dict[int, str] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The store's modules use this disk."""
        before = [(module, vars(module)["os"]) for module in MODULES]
        try:
            for module in MODULES:
                vars(module)["os"] = _Calls(self)
            yield
        finally:
            for module, real in before:
                vars(module)["os"] = real

    # -- breaking it ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Nothing is broken any more; count from here."""
        self.changes = self.cut_at = self.fail_at = self.seed = 0
        self.unreadable, self.picture = "", None

    def change(self, *, room: bool = False) -> None:
        """A change is about to be made; `room`: one that needs space. Raises OSError."""
        self.changes += 1
        if self.changes == self.cut_at:
            self.cut()
        if self.fail_at and self.changes >= self.fail_at and (room or self.error != errno.ENOSPC):
            raise OSError(self.error, os.strerror(self.error))

    def cut(self) -> None:
        """The power goes now: keep the picture of what survives."""
        rng = random.Random(self.seed)
        lose_names = bool(self.seed) and rng.random() < 0.5
        self.picture = {}
        for directory, found in self._listing().items():
            for name, file in (self._names.get(directory, {}) if lose_names else found).items():
                path = os.path.join(directory, name)
                self.picture[path] = file.survivor(rng) if self.seed else file.content()

    # -- the files --------------------------------------------------------------------------------------------

    def read(self) -> Files:
        """All files as they are."""
        found: Files = {}
        for directory, names in self._listing().items():
            for name in names:
                path = os.path.join(directory, name)
                with open(f"{self._root}/{path}", "rb", 0) as file:
                    found[path] = file.read()
        return found

    def put(self, path: str, content: bytes | None) -> None:
        """Change a file in its place, durably; None removes it."""
        if content is None:
            os.unlink(self.root / path)
        else:
            with open(self.root / path, "r+b") as file:
                file.write(content)
                file.truncate()
        self._settle()

    def restore(self, content: Files) -> None:
        """Exactly these files, all durable. The store must be closed."""
        for directory, names in self._listing().items():
            for name in names:
                if os.path.join(directory, name) not in content:
                    os.unlink(self.root / directory / name)
        for path, data in content.items():
            (self.root / path).write_bytes(data)
        self._open.clear()
        self._settle()

    def _settle(self) -> None:
        """Everything is durable as it is, also for files that are open."""
        known = dict(self._files)
        self._files.clear()
        listing = self._listing()
        for found in listing.values():
            for file in found.values():
                file.durable = file.content()
        for ino, old in known.items():
            now = self._files.get(ino)
            if now is not None:
                old.durable, old.pending = now.content(), []
                self._files[ino] = old
        self._names = self._listing()

    def _listing(self) -> dict[str, dict[str, _File]]:
        """Files by directory and name."""
        found: dict[str, dict[str, _File]] = {}
        waiting = [""]
        while waiting:
            here = waiting.pop()
            found[here], inner = self._directory(here)
            waiting += inner
        return {here: found[here] for here in sorted(found)}

    def _directory(self, here: str) -> tuple[dict[str, _File], list[str]]:
        """Files of one directory by name, and its directories."""
        files: dict[str, _File] = {}
        inner: list[str] = []
        with os.scandir(f"{self._root}/{here}") as entries:
            for entry in sorted(entries, key=attrgetter("name")):
                if entry.is_dir():
                    inner.append(os.path.join(here, entry.name))
                else:
                    files[entry.name] = self._file(entry.path, entry.inode())
        return files, inner

    def _file(self, path: str, ino: int) -> _File:
        if ino not in self._files:
            self._files[ino] = _File(Path(path).read_bytes())
        return self._files[ino]


class _Calls:
    """What the store's modules see as `os`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str | Path, flags: int, mode: int = 0o777) -> int:
        """As `os.open`; a file made is empty and not durable."""
        disk = self._disk
        made = bool(flags & os.O_CREAT) and not os.path.exists(path)
        if made or flags & os.O_TRUNC:
            disk.change(room=made)
        if disk.unreadable and str(path) == f"{disk._root}/{disk.unreadable}":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fd = os.open(path, flags & ~os.O_TRUNC, mode)
        if flags & os.O_DIRECTORY:
            disk._directories[fd] = str(path)
            return fd
        disk._directories.pop(fd, None)
        ino = os.fstat(fd).st_ino
        if made:
            disk._files[ino] = _File(b"")
        disk._open[fd] = disk._file(str(path), ino)
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
            disk._open[fd].pending.append((0, None))
        return fd

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """As `os.pwrite`; of the write that fills the disk, half is written."""
        disk = self._disk
        if disk.changes + 1 == disk.fail_at and len(data) > 1:
            data = data[: len(data) // 2]
            disk.changes += 1
        else:
            disk.change(room=True)
        disk._open[fd].pending.append((offset, bytes(data)))
        return os.pwrite(fd, data, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        """As `os.ftruncate`."""
        self._disk.change()
        self._disk._open[fd].pending.append((size, None))
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        """What was changed of a file, or the names in a directory, become durable."""
        disk = self._disk
        disk.change()
        if fd in disk._directories:
            path = disk._directories[fd]
            if path.startswith(disk._root):
                here = path[len(disk._root) + 1 :]
                disk._names[here], _ = disk._directory(here)
        else:
            file = disk._open[fd]
            file.durable, file.pending = file.content(), []

    fdatasync = fsync

    def replace(self, old: Path, new: Path) -> None:
        """As `os.replace`."""
        self._disk.change()
        os.replace(old, new)
