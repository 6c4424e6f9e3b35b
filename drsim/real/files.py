"""Durable files: whole reads and writes, replacement in one step, directory sync, system errors turned into ours."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from drsim.core.batch import Payload
from drsim.core.errors import PlatformError, StoreFull


@contextmanager
def blame(place: Path | str) -> Iterator[None]:
    """Turn an OSError inside into StoreFull (no room) or PlatformError, with the place."""
    try:
        yield
    except OSError as error:
        raise blamed(error, place) from error


def blamed(error: OSError, place: Path | str) -> PlatformError:
    """That error as ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreFull("no room left", place=str(place), hint="free or add space; replication then goes on")
    return PlatformError(error.strerror or str(error), place=str(place))


@contextmanager
def noted(flaws: list[PlatformError]) -> Iterator[None]:
    """Add a PlatformError inside to what was found, and go on."""
    try:
        yield
    except PlatformError as error:
        flaws.append(error)


def write_all(fd: int, data: Payload, offset: int) -> None:
    """Write all bytes at an offset, however many calls it takes. Raises OSError."""
    view = memoryview(data)
    while len(view):
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def write_run(fd: int, writes: Sequence[tuple[int, Payload]]) -> None:
    """Write pieces at their offsets, in order. Raises OSError: any of them may be there, or a part of one."""
    pwrite = os.pwrite
    for offset, data in writes:
        if (n := pwrite(fd, data, offset)) != len(data):
            write_all(fd, memoryview(data)[n:], offset + n)


def read_into(fd: int, memory: memoryview, offset: int, place: Path | str) -> None:
    """Fill the memory with what lies at an offset. Raises OSError, and PlatformError when the file ends before."""
    while memory:
        n = os.preadv(fd, [memory], offset)
        if not n:
            raise PlatformError(f"the file ends at byte {offset}, {len(memory)} bytes are missing", place=str(place))
        memory, offset = memory[n:], offset + n


def read_exactly(fd: int, size: int, offset: int, place: Path | str) -> bytes:
    """Read `size` bytes at an offset. Raises PlatformError when the file ends before."""
    parts: list[bytes] = []
    while size:
        part = os.pread(fd, size, offset)
        if not part:
            raise PlatformError(f"the file ends at byte {offset}, {size} bytes are missing", place=str(place))
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Create a directory and its parents, durably. Raises OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content in one durable step: write beside, sync, rename, sync the name. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(fd, data, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def create_sparse(path: Path, size: int) -> int:
    """Create (or open, when it has this size) a file of zeros, or open a block device; returns its descriptor.

    Raises PlatformError when a file of another size is there, and OSError.
    """
    if not path.exists():
        beside = path.with_name(path.name + ".new")
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(beside, path)
        sync_directory(path.parent)
    fd = os.open(path, os.O_RDWR)
    found = os.lseek(fd, 0, os.SEEK_END)  # of a block device, too
    if found != size:
        os.close(fd)
        raise PlatformError(f"is {found} bytes long, the volume has {size}", place=str(path))
    return fd
