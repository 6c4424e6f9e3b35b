"""Disks converted by the real qemu-img: the same bytes, whole or not at all."""

import asyncio
import random
from itertools import permutations
from pathlib import Path

import pytest
from programs import program

from drsim.core.convert import KINDS, MIB, rounded
from drsim.core.errors import PlatformError
from drsim.real.convert import FORMATS, convert, convert_for, differs, size_of


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk with islands of data, and a last sector that is not empty; no whole number of MiB."""
    program("qemu-img", "qemu-utils")
    rng = random.Random(8)
    data = bytearray(5 * MIB + 3 * 512)
    for at in (0, 70_000, MIB - 1, 3 * MIB + 5):
        data[at : at + 9000] = rng.randbytes(9000)
    data[-512:] = rng.randbytes(512)
    path = tmp_path / "disk.raw"
    path.write_bytes(data)
    return path


def test_every_format_to_every_other_and_back_has_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    async def run() -> None:
        content = raw.read_bytes()
        for one, other in permutations(FORMATS[1:], 2):
            first, second, back = tmp_path / "a", tmp_path / "b", tmp_path / "c"
            await convert(raw, "raw", first, one)
            await convert(first, one, second, other)
            await convert(second, other, back, "raw")
            assert back.read_bytes() == content + bytes(back.stat().st_size - len(content))
            assert not await differs(raw, "raw", second, other)

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["vsphere", "hyperv", "local"])
def test_a_platforms_disk_is_as_large_as_the_table_says(raw: Path, tmp_path: Path, kind: str) -> None:
    async def run() -> None:
        target, form = tmp_path / "target", KINDS[kind].format
        size = await convert_for(raw, "raw", target, kind)
        assert await size_of(target, form) == size == rounded(raw.stat().st_size, kind)
        assert not await differs(raw, "raw", target, form)
        await convert(target, form, tmp_path / "back", "raw")
        assert (tmp_path / "back").read_bytes() == raw.read_bytes().ljust(size, b"\0")

    asyncio.run(run())


def test_one_changed_byte_is_seen(raw: Path, tmp_path: Path) -> None:
    async def run() -> None:
        await convert(raw, "raw", tmp_path / "copy", "vhdx")
        with raw.open("r+b") as file:
            file.seek(70_001)
            file.write(b"?!")
        assert await differs(raw, "raw", tmp_path / "copy", "vhdx")

    asyncio.run(run())


def test_what_cannot_be_converted_leaves_nothing(raw: Path, tmp_path: Path) -> None:
    async def run() -> None:
        target = tmp_path / "target"
        with pytest.raises(PlatformError, match="would lose some"):
            await convert(raw, "raw", target, "vmdk", size=MIB)
        with pytest.raises(PlatformError, match="no disk format is called 'vdi'"):
            await convert(raw, "raw", target, "vdi")
        with pytest.raises(PlatformError, match="qemu-img info"):
            await convert(raw, "vmdk", target, "raw")
        assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]

    asyncio.run(run())
