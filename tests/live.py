"""Helpers of the real world's tests: frames with bytes, a disk that dies or fills up, guests and what they expect."""

import asyncio
import errno
import os
import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drsim.core.batch import WriteBatch
from drsim.core.effects import Effect
from drsim.core.events import Event, GuestWrote
from drsim.core.facts import Fact
from drsim.core.messages import Checkpoint, Frame, Position
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.status import Sync
from drsim.core.units import SECOND, SECTOR, Ns
from drsim.real.pair import Pair, Settings, protect
from drsim.spec.tweaks import MS, Tweaks

Row = tuple[int, int, int, bytes]
"""vm, volume, lba, data."""

VOLUMES = (
    VolumeInfo(VolumeId(0), VmId(0), 64),
    VolumeInfo(VolumeId(1), VmId(1), 64),
    VolumeInfo(VolumeId(2), VmId(1), 8),
)
STREAM = StreamId("crm", Address("london/london-1/vra"), Address("leeds/leeds-1/recovery-vra"))
SPEC = StreamSpec(STREAM, (VmId(0), VmId(1)), VOLUMES)


def frame(rows: Sequence[Row], after: Position, *, epoch: int = 1, sync: bool = False) -> Frame:
    """A frame of SPEC's stream."""
    columns = [[r[k] for r in rows] for k in (0, 1, 2)]
    sectors = [len(r[3]) // SECTOR for r in rows]
    batch = WriteBatch.of(*columns, sectors, [7] * len(rows), b"".join(r[3] for r in rows))
    counts, sizes = batch.per_vm(SPEC.vms)
    upto = tuple(a + n for a, n in zip(after, counts, strict=True))
    return Frame(STREAM, 1, epoch, after, upto, sizes, sync, batch)


def some_rows(rng: random.Random, most: int = 5) -> list[Row]:
    """Random writes, of one to four sectors, within SPEC's volumes."""
    rows: list[Row] = []
    for _ in range(rng.randint(1, most)):
        volume = rng.choice(VOLUMES)
        sectors = rng.randint(1, 4)
        rows.append((volume.vm, volume.id, rng.randint(0, volume.sectors - sectors), rng.randbytes(sectors * SECTOR)))
    return rows


def frames_of(groups: Sequence[Sequence[Row]]) -> list[Frame]:
    """Frames one after another, in epoch 1."""
    made: list[Frame] = []
    for rows in groups:
        made.append(frame(rows, made[-1].upto if made else (0, 0)))
    return made


def contents(frames: Sequence[Frame], upto: Position) -> dict[int, bytes]:
    """What each volume of SPEC holds after the rows of each VM up to a position."""
    images = {v.id: bytearray(v.sectors * SECTOR) for v in VOLUMES}
    for f in frames:
        number = dict(zip(SPEC.vms, f.after, strict=True))
        last = dict(zip(SPEC.vms, upto, strict=True))
        data, at = bytes(f.batch.payload or b""), 0
        for vm, volume, lba, sectors in zip(f.batch.vm, f.batch.volume, f.batch.lba, f.batch.sectors, strict=True):
            number[vm] += 1
            size = int(sectors) * SECTOR
            if number[vm] <= last[vm]:
                images[volume][lba * SECTOR : lba * SECTOR + size] = data[at : at + size]
            at += size
    return {int(k): bytes(v) for k, v in images.items()}


def read_images(images: dict[int, Path]) -> dict[int, bytes]:
    """Contents of image files."""
    return {volume: path.read_bytes() for volume, path in images.items()}


_CHANGES = ("pwrite", "ftruncate", "fdatasync", "fsync", "replace", "unlink", "mkdir")


@contextmanager
def dying_disk(patch: pytest.MonkeyPatch, after: int) -> Iterator[list[int]]:
    """Let `after` changes to the disk happen, then none any more, as if the process had died; yields the count.

    The last write that happens is cut in half.
    """
    count = [0]

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def change(*args: object, **more: object) -> object:
            count[0] += 1
            if count[0] > after:
                raise OSError(errno.EIO, "dead")
            if name == "pwrite" and count[0] == after:
                fd, data, offset = args
                return real(fd, memoryview(data)[: len(data) // 2], offset)  # type: ignore[arg-type]
            return real(*args, **more)

        patch.setattr(os, name, change)

    with patch.context() as patch:
        for name in _CHANGES:
            wrap(name)
        yield count


@contextmanager
def full_disk(patch: pytest.MonkeyPatch, after: int, *, everywhere: bool = False) -> Iterator[None]:
    """After `after` writes there is room for half of the next one, then for nothing; in this thread or everywhere."""
    real, count, mine = os.pwrite, [0], threading.get_ident()

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if not everywhere and threading.get_ident() != mine:
            return real(fd, data, offset)
        count[0] += 1
        if count[0] == after + 1 and len(data) > 1:
            return real(fd, data[: len(data) // 2], offset)
        if count[0] > after:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data, offset)

    with patch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        yield


@contextmanager
def watched_disk(patch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Yields what is done to the disk, in order: the call and the file's name."""
    seen: list[tuple[str, str]] = []

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(target: int | Path, *args: object, **more: object) -> object:
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
            seen.append((name, Path(path).name))
            return real(target, *args, **more)

        patch.setattr(os, name, call)

    with patch.context() as patch:
        for name in ("pwrite", "fdatasync", "fsync", "unlink", "replace"):
            wrap(name)
        yield seen


# -- guests -------------------------------------------------------------------------------------------------------

SIZE = 1 << 20
LIVE_VOLUMES = tuple(VolumeInfo(VolumeId(n), VmId(n), SIZE // SECTOR) for n in range(2))
ONE_HOST = {VmId(0): "london-1", VmId(1): "london-1"}
TWO_HOSTS = {VmId(0): "london-1", VmId(1): "london-2"}


def quick(interval: int = 3600 * SECOND, history: int = 24 * 3600 * SECOND, **tweaks: object) -> Settings:
    """Settings for tests: checkpoints only when asked for, and a hold budget that a busy machine keeps."""
    chosen = {"hold_budget": 1000 * MS, "retry_pause": 50 * MS, "region_bytes": 4096, **tweaks}
    return Settings(interval=interval, history=history, tweaks=Tweaks.model_validate(chosen))


@dataclass
class Guests:
    """Writers and what their disks should hold."""

    pair: Pair
    rng: random.Random
    disks: dict[int, bytearray] = field(default_factory=lambda: {v.id: bytearray(SIZE) for v in LIVE_VOLUMES})

    async def write(self, count: int) -> None:
        """Overlapping writes of one to forty sectors on any volume, most of them in one corner."""
        for _ in range(count):
            sectors = self.rng.randint(1, 40)
            most = SIZE // SECTOR if self.rng.random() < 0.3 else 200
            lba = self.rng.randint(0, most - sectors)
            volume, data = self.rng.randrange(2), self.rng.randbytes(sectors * SECTOR)
            self.disks[volume][lba * SECTOR : lba * SECTOR + len(data)] = data
            await self.pair.write(volume, lba * SECTOR, data)

    def snapshot(self) -> dict[int, bytes]:
        """What the disks hold now."""
        return {volume: bytes(disk) for volume, disk in self.disks.items()}

    async def rebuilt(self, checkpoint: Checkpoint, target: Path) -> dict[int, bytes]:
        """What the recovery site makes of a checkpoint."""
        return read_images(await self.pair.rebuild(checkpoint, target))


class Captured:
    """A trace sink that keeps every captured write: the capture order is the truth of crash consistency."""

    def __init__(self) -> None:
        self.rows: dict[int, list[tuple[int, int, bytes]]] = {}

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """See Sink."""
        if isinstance(event, GuestWrote):
            for row in (event.batch.rows(n, n + 1) for n in range(len(event.batch))):
                written = int(row.volume[0]), int(row.lba[0]), bytes(row.payload or b"")
                self.rows.setdefault(int(row.vm[0]), []).append(written)

    def image(self, cut: dict[int, int]) -> dict[int, bytes]:
        """The volumes after the first writes of each VM."""
        disks = {v.id: bytearray(SIZE) for v in LIVE_VOLUMES}
        for vm, upto in cut.items():
            for volume, lba, data in self.rows.get(vm, [])[:upto]:
                disks[volume][lba * SECTOR : lba * SECTOR + len(data)] = data
        return {volume: bytes(disk) for volume, disk in disks.items()}


# -- pairs ----------------------------------------------------------------------------------------------------------


def live(
    directory: Path, check: Callable[[Pair], Awaitable[None]], *, settings: Settings | None = None,
    hosts: dict[VmId, str] = ONE_HOST, trace: Captured | None = None,
) -> None:  # fmt: skip
    """Run a check on a pair; nothing is left behind, whatever it did."""

    async def run() -> None:
        async with asyncio.timeout(120):
            async with protect(directory, LIVE_VOLUMES, hosts, settings=settings or quick(), trace=trace) as pair:
                await check(pair)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def facts_of(pair: Pair) -> list[Fact]:
    """All facts from now on, of both sites."""
    seen: list[Fact] = []
    for site in (pair.protected, pair.recovery):
        site.observers.append(lambda now, fact: seen.append(fact))
    return seen


async def in_sync(pair: Pair) -> None:
    """Wait until the manager knows that every stream is in sync."""
    manager = pair.protected.kernel.machines[pair.manager]
    await pair.wait(lambda: not pair.syncing and manager.regions.sync is Sync.IN_SYNC)  # type: ignore[attr-defined]
