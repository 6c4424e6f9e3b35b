"""Mirror: one volume's mirror disk in a file, with a checksum of every sector beside it.

    volume-N.mirror    the volume
    volume-N.sums      a CRC-32 of each sector, seeded with where it lies; 0: never written, so all zeros

Rows overwrite whole sectors, so a sum never depends on what was there before, and applying a row again after a crash
ends the same. Data and sums become durable together at `sync`, in no order: between two syncs a sector that was
being written may not verify. It does not matter, because whoever reads then applies those rows on top (`Image`).
What does not verify and is not covered by a later row has rotted, was lost, or was written elsewhere.
"""

import os
from pathlib import Path

import numpy as np

from drsim.core.batch import Payload
from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR
from drsim.real.checksum import crc32
from drsim.real.files import create_sparse, read_exactly, sync_directory, write_all

_SUM = np.dtype("<u4")
_CHUNK = 2048
"""Sectors read at a time."""


def _sums(data: Payload, lba: int) -> list[int]:
    view = memoryview(data)
    return [
        crc32(view[at : at + SECTOR], (lba + n) & 0xFFFFFFFF) or 1 for n, at in enumerate(range(0, len(view), SECTOR))
    ]


def where(bad: set[int]) -> str:
    """Which sectors, in words."""
    return f"sector {min(bad)}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")


def _distrust(path: Path, sectors: int) -> None:
    """Checksums that no content has, durable before they have their name."""
    beside = path.with_name(path.name + ".lost")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for at in range(0, sectors, _CHUNK):
            write_all(fd, b"\xff" * _SUM.itemsize * min(_CHUNK, sectors - at), at * _SUM.itemsize)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(beside, path)
    sync_directory(path.parent)


class Image:
    """A mirror's copy on its way to a recovered volume. `bad`: sectors whose content is not known to be right."""

    def __init__(self, path: Path, sectors: int, origin: Path) -> None:
        self.origin, self.bad = origin, set[int]()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(self.fd, sectors * SECTOR)

    def write(self, lba: int, data: Payload) -> None:
        """Put whole sectors at `lba`. Raises OSError."""
        write_all(self.fd, data, lba * SECTOR)
        if self.bad:
            self.bad.difference_update(range(lba, lba + len(data) // SECTOR))

    def finish(self) -> None:
        """Make it durable. Raises PlatformError when a bad sector is left, and OSError."""
        if self.bad:
            hint = "the mirror is corrupt here; what it holds can only come from the protected site again"
            message = f"{where(self.bad)}: checksum of the content is wrong"
            raise PlatformError(message, place=str(self.origin), hint=hint)
        os.fsync(self.fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class Mirror:
    """One volume's mirror disk, created when it is not there. All methods raise OSError for what the disk does.

    `known`: it has held something. If nothing of it is there, no sector of the one that is created verifies.
    """

    def __init__(self, path: Path, sectors: int, *, known: bool = False) -> None:
        self.path, self.sectors = path, sectors
        sums = path.with_suffix(".sums")
        if known and not path.exists() and not sums.exists():
            _distrust(sums, sectors)
        self._sums = create_sparse(sums, sectors * _SUM.itemsize)
        try:
            self._fd = create_sparse(path, sectors * SECTOR)
        except BaseException:
            os.close(self._sums)
            raise

    def seed(self, disk: Path) -> None:
        """Take a disk that is there for the volume, whatever it holds: its content verifies from now on, durably.

        The mirror becomes a link to it. Raises PlatformError when it is not as long as the volume. Done again, it
        ends the same.
        """
        fd = os.open(disk, os.O_RDWR)
        try:
            found = os.lseek(fd, 0, os.SEEK_END)
            if found != self.sectors * SECTOR:
                message = f"is {found} bytes long, the volume has {self.sectors * SECTOR}"
                raise PlatformError(message, place=str(disk))
            os.ftruncate(self._sums, 0)
            os.ftruncate(self._sums, self.sectors * _SUM.itemsize)
            for lba in range(0, self.sectors, _CHUNK):
                data = read_exactly(fd, min(_CHUNK, self.sectors - lba) * SECTOR, lba * SECTOR, disk)
                if any(data):
                    used = np.frombuffer(data, np.uint8).reshape(-1, SECTOR).any(axis=1)
                    sums = np.where(used, np.array(_sums(data, lba), _SUM), 0).astype(_SUM)
                    write_all(self._sums, sums.tobytes(), lba * _SUM.itemsize)
            os.fsync(self._sums)
            beside = self.path.with_name(self.path.name + ".link")
            beside.unlink(missing_ok=True)
            beside.symlink_to(disk)
            os.replace(beside, self.path)
            sync_directory(self.path.parent)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd

    def write(self, lba: int, data: Payload) -> None:
        """Put whole sectors at `lba`; durable after `sync`."""
        write_all(self._fd, data, lba * SECTOR)
        write_all(self._sums, np.array(_sums(data, lba), _SUM).tobytes(), lba * _SUM.itemsize)

    def sync(self) -> None:
        """Make what was written durable."""
        os.fdatasync(self._fd)
        os.fdatasync(self._sums)

    def copy(self, path: Path) -> Image:
        """A new image file with everything that the mirror holds; what does not verify is in its `bad`."""
        image = Image(path, self.sectors, self.path)
        try:
            for lba in range(0, self.sectors, _CHUNK):
                self._copy(image, lba, min(_CHUNK, self.sectors - lba))
        except BaseException:
            image.close()
            raise
        return image

    def _copy(self, image: Image, lba: int, n: int) -> None:
        data, bad = self.read(lba, n)
        if any(data) or bad:  # else never written, or all zeros: a hole in the image too
            image.bad.update(bad)
            write_all(image.fd, data, lba * SECTOR)

    def bad(self) -> set[int]:
        """The sectors that do not verify, of all."""
        found: set[int] = set()
        for lba in range(0, self.sectors, _CHUNK):
            found.update(self.read(lba, min(_CHUNK, self.sectors - lba))[1])
        return found

    def read(self, lba: int, n: int) -> tuple[bytes, list[int]]:
        """The content of `n` sectors from `lba` on, and which of them do not verify."""
        data = read_exactly(self._fd, n * SECTOR, lba * SECTOR, self.path)
        sums = read_exactly(self._sums, n * _SUM.itemsize, lba * _SUM.itemsize, self.path.with_suffix(".sums"))
        wanted, used = np.frombuffer(sums, _SUM), np.frombuffer(data, np.uint8).reshape(n, SECTOR).any(axis=1)
        if not wanted.any() and not used.any():
            return data, []
        wrong = np.where(wanted == 0, used, wanted != np.array(_sums(data, lba), _SUM))
        return data, (np.flatnonzero(wrong) + lba).tolist()

    def close(self) -> None:
        """Close the files."""
        os.close(self._fd)
        os.close(self._sums)
