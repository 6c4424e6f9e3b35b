"""Capture by epochs: shadows follow snapshots exactly, whatever fails in between, and never show a mixture unpaused."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from platforms.arms import open_memory

from drsim.core.errors import PlatformError
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.disk import Disk
from drsim.real.epochs import Epochs, MarksFile, Process
from drsim.real.ports import Area, DiskId, Epoch
from drsim.verify.conformance.bench import Bench
from drsim.verify.conformance.claims import OWNER, SIZE, a_disk, a_vm
from drsim.verify.conformance.memory import MemoryBench, MemoryChanges

PROCESS = Process()


class _Flaky(MemoryChanges):
    """Reads fail when told to; marks can be forgotten."""

    fails = 0

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        if type(self).fails:
            type(self).fails -= 1
            if not type(self).fails:
                raise PlatformError("the read fails", place="sim")
        return await super().read(epoch, disk, area)


class _FlakyBench(MemoryBench):
    epochs = _Flaky


class Site:
    """Two VMs with two disks each, their shadows, and what a VPG would see."""

    def __init__(self, bench: Bench, folder: Path, process: Process = PROCESS) -> None:
        self.bench, self.folder, self.process = bench, folder, process
        self.paused = False
        self.shadows: dict[str, dict[DiskId, Disk]] = {}
        self.lives = 0

    async def make(self) -> None:
        number = 0
        for vm in ("web", "db"):
            await a_vm(self.bench, vm)
            self.shadows[vm] = {}
            for n in (1, 2):
                disk = await a_disk(self.bench, f"{vm}-{n}")
                await self.bench.platform.hypervisor.attach(vm, disk)
                number += 1
                info = VolumeInfo(VolumeId(number), VmId(1), SIZE // SECTOR)
                self.shadows[vm][disk] = Disk(info, self.folder / f"{number}.shadow")
        self.start()

    def start(self) -> None:
        """A life begins: the VPG is paused first if the shadows may be a mixture."""
        changes = self.bench.platform.changes
        assert changes is not None
        marks = MarksFile(self.folder / "marks.json")
        self.epochs = Epochs(changes, self.shadows, OWNER, marks, self.pause, self.process)
        self.paused = self.epochs.paused

    async def pause(self, on: bool) -> None:
        self.paused = on

    async def contents(self) -> list[bytes]:
        return [await self.bench.content(disk, SIZE) for disks in self.shadows.values() for disk in disks]

    def shadowed(self) -> list[bytes]:
        return [shadow.read(0, SIZE) for disks in self.shadows.values() for shadow in disks.values()]

    async def write(self, rng: random.Random, many: int) -> None:
        disks = [disk for disks in self.shadows.values() for disk in disks]
        for _ in range(many):
            disk = rng.choice(disks)
            content = bytearray(await self.bench.content(disk, SIZE))
            at = rng.randrange(SIZE // SECTOR) * SECTOR
            length = min(rng.choice((1, 3, 8, 200)) * SECTOR, SIZE - at)
            content[at : at + length] = rng.randbytes(1) * length
            await self.bench.fill(disk, bytes(content))


STEPS = st.lists(st.sampled_from(("write", "take", "fail", "die", "forget")), min_size=4, max_size=14)


@settings(max_examples=15)
@given(steps=STEPS, seed=st.integers(0, 1000), at_once=st.sampled_from((SECTOR, 64 << 10, 16 << 20)))
def test_shadows_are_at_an_epoch_or_the_vpg_is_paused(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[str], seed: int, at_once: int
) -> None:
    async def run() -> None:
        async with open_memory(_FlakyBench) as bench:
            folder = tmp_path_factory.mktemp("epochs")
            site, rng = Site(bench, folder, Process(at_once=at_once)), random.Random(seed)
            await site.make()
            past = [site.shadowed()]
            for step in (*steps, "take"):
                _Flaky.fails = 0
                if step == "write":
                    await site.write(rng, 5)
                    continue
                if step == "forget":
                    bench._estate.marks.clear()  # type: ignore[attr-defined]
                    continue
                if step in ("fail", "die"):
                    _Flaky.fails = rng.randrange(1, 4)
                past.append(await site.contents())
                try:
                    await site.epochs.take()
                except PlatformError:
                    if step == "die":
                        site.start()
                    assert site.paused or site.shadowed() in past
                else:
                    assert site.shadowed() == past[-1]
                    assert not site.paused
            for disks in site.shadows.values():
                for shadow in disks.values():
                    shadow.close()

    asyncio.run(run())


def test_what_the_platform_tells_too_much_is_not_captured(tmp_path: Path) -> None:
    async def run() -> None:
        async with open_memory() as bench:
            site = Site(bench, tmp_path)
            await site.make()
            first = await site.epochs.take()
            assert (first.told, first.new) == (0, 0)
            disk = next(iter(site.shadows["web"]))
            await bench.fill(disk, b"n" * SECTOR)
            second = await site.epochs.take()
            assert (second.told, second.new, second.whole) == (4096, 4096, False)
            bench._estate.marks.clear()  # type: ignore[attr-defined]
            third = await site.epochs.take()
            assert (third.told, third.new, third.whole) == (4 * SIZE, 0, True)

    asyncio.run(run())
