"""Scratch disks: what a guest reads is the checkpoint with its own writes on top, whole or not, whoever is killed."""

import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.core.errors import PlatformError
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.scratch import PIECE, Scratch

SECTORS = 3 * PIECE + 5
INFO = VolumeInfo(VolumeId(1), VmId(1), SECTORS)


class Below:
    """A mirror. `bad`: sectors that do not verify."""

    def __init__(self, seed: int, bad: tuple[int, ...] = ()) -> None:
        self.content = random.Random(seed).randbytes(SECTORS * SECTOR)
        self.bad = bad

    def read(self, lba: int, n: int) -> tuple[bytes, list[int]]:
        return self.content[lba * SECTOR : (lba + n) * SECTOR], [b for b in self.bad if lba <= b < lba + n]


WRITES = st.lists(st.tuples(st.integers(0, SECTORS - 9), st.integers(1, 9), st.integers(0, 255)), max_size=12)


@settings(max_examples=30)
@given(WRITES, WRITES, WRITES)
def test_it_reads_as_a_disk_of_its_own_before_during_and_after(
    tmp_path_factory: pytest.TempPathFactory,
    laid: list[tuple[int, int, int]],
    written: list[tuple[int, int, int]],
    later: list[tuple[int, int, int]],
) -> None:
    path, below = tmp_path_factory.mktemp("scratch") / "volume-1.disk", Below(1)
    truth, disk = bytearray(below.content), Scratch(path, INFO, below)
    for put, rows in ((disk.lay, laid), (lambda lba, data: disk.write([(lba * SECTOR, data)]), written)):
        for lba, n, byte in rows:
            put(lba, bytes([byte]) * n * SECTOR)
            truth[lba * SECTOR : (lba + n) * SECTOR] = bytes([byte]) * n * SECTOR
    assert disk.read(0, disk.size) == truth
    assert not disk.whole
    disk.close()  # as if the process had died: nothing was flushed
    disk = Scratch.again(path, VolumeId(1), below)
    assert disk.read(0, disk.size) == truth
    disk.hydrate()
    below.content = bytes(SECTORS * SECTOR)  # it is not needed any more
    for lba, n, byte in later:
        disk.write([(lba * SECTOR, bytes([byte]) * n * SECTOR)])
        truth[lba * SECTOR : (lba + n) * SECTOR] = bytes([byte]) * n * SECTOR
    assert disk.read(0, disk.size) == truth
    disk.hydrate()  # asked for again
    disk.close()
    assert path.read_bytes() == truth
    disk = Scratch.again(path, VolumeId(1), None)
    assert disk.read(0, disk.size) == truth
    disk.close()


def test_a_guest_writes_reads_and_flushes_while_it_becomes_whole(tmp_path: Path) -> None:
    below = Below(2)
    for life in range(20):
        disk = Scratch(tmp_path / f"volume-{life}.disk", INFO, below)
        truth, rng = bytearray(below.content), random.Random(life)
        done = threading.Thread(target=disk.hydrate)
        done.start()
        while done.is_alive():
            lba = rng.randrange(SECTORS)
            data = rng.randbytes(SECTOR)
            disk.write([(lba * SECTOR, data)])
            truth[lba * SECTOR : (lba + 1) * SECTOR] = data
            assert disk.read(lba * SECTOR, SECTOR) == data
            disk.flush()
        done.join()
        assert disk.read(0, disk.size) == truth
        disk.close()


def test_what_does_not_verify_below_is_an_error_and_never_content(tmp_path: Path) -> None:
    disk = Scratch(tmp_path / "volume-1.disk", INFO, Below(3, bad=(7,)))
    assert disk.read(8 * SECTOR, SECTOR)
    with pytest.raises(PlatformError, match="sector 7 of the mirror does not verify"):
        disk.read(0, 16 * SECTOR)
    with pytest.raises(PlatformError, match="sector 7"):
        disk.hydrate()
    disk.write([(7 * SECTOR, bytes(SECTOR))])
    disk.hydrate()
    disk.close()


def test_one_that_is_not_whole_needs_its_mirror(tmp_path: Path) -> None:
    Scratch(tmp_path / "volume-1.disk", INFO, Below(4)).close()
    with pytest.raises(PlatformError, match="mirror is not there"):
        Scratch.again(tmp_path / "volume-1.disk", VolumeId(1), None)
