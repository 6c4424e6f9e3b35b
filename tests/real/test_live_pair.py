"""The core in the real world: files, threads and TCP; every checkpoint rebuilt is compared byte for byte."""

import asyncio
import random
from pathlib import Path

import pytest
from live import (
    LIVE_VOLUMES,
    ONE_HOST,
    SIZE,
    TWO_HOSTS,
    Captured,
    Guests,
    facts_of,
    full_disk,
    in_sync,
    live,
    quick,
)  # fmt: skip

from drsim.core.errors import CoreError, DrsimError, FileError, PlatformError, StoreFull
from drsim.core.events import Fired, Received
from drsim.core.facts import CheckpointListed, StateChanged, SyncStarted
from drsim.core.messages import Checkpoint, Frame, Hold, Release
from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.status import Health
from drsim.core.units import SECOND, SECTOR
from drsim.real.catalog_store import CatalogStore
from drsim.real.journal_store import JournalStore
from drsim.real.pair import Pair, protect
from drsim.real.stream_store import StreamStore
from drsim.spec.tweaks import MS


@pytest.mark.parametrize("hosts", [ONE_HOST, TWO_HOSTS], ids=["one host", "two hosts"])
def test_every_tagged_checkpoint_is_exact(tmp_path: Path, hosts: dict[VmId, str]) -> None:
    async def check(pair: Pair) -> None:
        guests = Guests(pair, random.Random(11))
        taken: list[tuple[Checkpoint, dict[int, bytes]]] = []
        for group in range(6):
            await guests.write(40)
            taken.append((await pair.checkpoint(f"group {group}"), guests.snapshot()))
        await guests.write(10)  # beyond the last checkpoint
        for checkpoint, expected in taken:
            assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected

    live(tmp_path / "pair", check, hosts=hosts)


def test_checkpoints_among_concurrent_guests_hold_exactly_what_was_captured_before(tmp_path: Path) -> None:
    captured = Captured()

    async def check(pair: Pair) -> None:
        guests = [Guests(pair, random.Random(seed)) for seed in range(4)]
        taken: list[Checkpoint] = []
        async with asyncio.TaskGroup() as tasks:
            for guest in guests:
                tasks.create_task(guest.write(100))
            taken.extend([await pair.checkpoint(f"tag {n}") for n in range(8)])
        for checkpoint in taken:
            cut = {
                vm: lsn
                for stream, part in checkpoint.cut.items()
                for vm, lsn in zip(pair.protected.taps[stream].spec.vms, part.position, strict=True)
            }
            assert await guests[0].rebuilt(checkpoint, tmp_path / "images") == captured.image(cut)
        assert sum(len(rows) for rows in captured.rows.values()) == 400
        disks = {v.id: (tmp_path / f"pair/london/disks/volume-{v.id}.disk").read_bytes() for v in LIVE_VOLUMES}
        assert captured.image({0: 400, 1: 400}) == disks, "captured in the order in which the disks hold them"

    live(tmp_path / "pair", check, hosts=TWO_HOSTS, trace=captured)


def test_a_cut_connection_ends_in_a_bitmap_sync_and_exact_checkpoints(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        facts, guests = facts_of(pair), Guests(pair, random.Random(12))
        await guests.write(40)
        before, expected_before = await pair.checkpoint("before"), guests.snapshot()
        for round_ in range(3):
            writing = asyncio.create_task(guests.write(60))
            await asyncio.sleep(0.01)
            pair.link.sever()
            await writing
            await guests.write(30)  # guests never wait for the link
            pair.link.mend()
            await guests.write(60)  # while it synchronizes
            await in_sync(pair)
            checkpoint, expected = await pair.checkpoint(f"after {round_}"), guests.snapshot()
            assert all(cut.epoch > round_ + 1 for cut in checkpoint.cut.values())
            assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected
            assert await guests.rebuilt(before, tmp_path / "images") == expected_before
        assert sum(isinstance(f, SyncStarted) for f in facts) >= 3
        assert pair.link.breaks == 3

    live(tmp_path / "pair", check)


@pytest.mark.slow
def test_many_cuts_at_any_time_with_concurrent_guests(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        rng = random.Random(13)
        guests = Guests(pair, rng)

        async def cuts() -> None:
            while pair.link.breaks < 6:
                await asyncio.sleep(rng.random() * 0.05)
                if rng.random() < 0.5:
                    pair.link.break_off()  # it comes back by itself
                else:
                    pair.link.sever()
                    await asyncio.sleep(rng.random() * 0.03)
                    pair.link.mend()

        cutting = asyncio.create_task(cuts())
        while not cutting.done():
            await guests.write(5)
        await cutting
        await in_sync(pair)
        checkpoint, expected = await pair.checkpoint("at last"), guests.snapshot()
        assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected

    live(tmp_path / "pair", check, settings=quick(sync_bytes=65536, window_bytes=262144, frame_bytes=65536))


def test_aging_promotes_and_what_stays_listed_is_exact(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        guests = Guests(pair, random.Random(14))
        taken: list[tuple[Checkpoint, dict[int, bytes]]] = []
        for group in range(6):
            await guests.write(30)
            taken.append((await pair.checkpoint(f"group {group}"), guests.snapshot()))
        pair.pin(taken[3][0])
        await pair.wait(lambda: pair.listed[0].id == taken[3][0].id)
        (store,) = pair.recovery.journals.streams.values()  # type: ignore[union-attr]
        (cut,) = taken[3][0].cut.values()
        while store.state.promoted != cut.position:
            await asyncio.sleep(0.01)
        for checkpoint, expected in taken[3:]:
            assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected
        with pytest.raises(PlatformError, match="before the mirrors"):
            await pair.rebuild(taken[2][0], tmp_path / "images")
        kept = CatalogStore(pair.recovery.catalogs["crm"].path).checkpoints
        assert list(kept.values()) == [checkpoint for checkpoint, _ in taken[3:]]
        pair.pin(taken[3][0], pinned=False)
        await pair.wait(lambda: len(pair.listed) == 1)
        assert await guests.rebuilt(*taken[5][:1], tmp_path / "images") == taken[5][1]

    live(tmp_path / "pair", check, settings=quick(history=1, age_interval=1 * SECOND))


def test_the_files_alone_are_enough_to_recover(tmp_path: Path) -> None:
    """The recovery site's process is gone; its directory is opened by a new one."""
    expected: dict[int, dict[int, bytes]] = {}
    specs = []

    async def check(pair: Pair) -> None:
        guests = Guests(pair, random.Random(15))
        for group in range(3):
            await guests.write(30)
            expected[(await pair.checkpoint(f"group {group}")).id] = guests.snapshot()
        await guests.write(10)
        specs.extend(tap.spec for tap in pair.protected.taps.values())

    live(tmp_path / "pair", check, hosts=TWO_HOSTS)
    journals = JournalStore(tmp_path / "pair/leeds/journals", specs)
    kept = CatalogStore(tmp_path / "pair/leeds/catalogs/crm.json").checkpoints
    assert list(kept) == list(expected)
    for id_, checkpoint in kept.items():
        images = journals.rebuild(checkpoint.cut, tmp_path / "images")
        assert {volume: path.read_bytes() for volume, path in images.items()} == expected[id_]
    journals.close()


# -- holds ----------------------------------------------------------------------------------------------------


def test_a_held_guest_is_not_acknowledged_until_the_release(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        vra = Address("london/london-1/vra")
        manager = pair.manager
        pair.protected.post(vra, Received(manager, Hold("crm", CheckpointId(77), alone=False)))
        held = asyncio.create_task(pair.write(0, 0, b"h" * SECTOR))
        await pair.write(1, 0, b"o" * SECTOR)  # another host is not held
        await asyncio.sleep(0.1)
        assert not held.done()
        assert (tmp_path / "pair/london/disks/volume-0.disk").read_bytes()[:1] == b"h", "it reaches the local disk"
        pair.protected.post(vra, Received(manager, Release("crm", CheckpointId(77))))
        await held

    live(tmp_path / "pair", check, hosts=TWO_HOSTS)


def test_a_hold_ends_by_itself(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        vra, loop = Address("london/london-1/vra"), asyncio.get_running_loop()
        begin = loop.time()
        pair.protected.post(vra, Received(pair.manager, Hold("crm", CheckpointId(77), alone=False)))
        await pair.write(0, 0, b"h" * SECTOR)
        assert 0.19 <= loop.time() - begin < 5

    live(tmp_path / "pair", check, hosts=TWO_HOSTS, settings=quick(hold_budget=200 * MS))


def test_causal_pairs_across_hosts_are_never_torn_apart(tmp_path: Path) -> None:
    """Each step writes VM 0 and, when acknowledged, VM 1: no checkpoint may know the second without the first."""

    async def check(pair: Pair) -> None:
        taken: list[Checkpoint] = []

        async def dependent() -> None:
            step = 0
            while len(taken) < 25:
                step += 1
                for volume in (0, 1):
                    await pair.write(volume, 0, step.to_bytes(8, "big").ljust(SECTOR, b"\0"))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(dependent())
            for n in range(25):
                checkpoint = await pair.checkpoint(f"tag {n}")
                taken.append(checkpoint)
        seen = set()
        for checkpoint in taken:
            images = await pair.rebuild(checkpoint, tmp_path / "images")
            first, second = (int.from_bytes(images[v].read_bytes()[:8], "big") for v in (0, 1))
            assert second <= first <= second + 1
            seen.add(first)
        assert len(seen) > 10

    live(tmp_path / "pair", check, hosts=TWO_HOSTS)


# -- what goes wrong ------------------------------------------------------------------------------------------


def test_a_full_recovery_store_stops_replication_says_so_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(pair: Pair) -> None:
        facts, guests, full = facts_of(pair), Guests(pair, random.Random(16)), [True]
        await guests.write(20)
        before, expected_before = await pair.checkpoint("before"), guests.snapshot()
        real = StreamStore.append

        def append(self: StreamStore, frame: Frame) -> None:
            if full[0]:
                raise StoreFull("no room left")
            real(self, frame)

        monkeypatch.setattr(StreamStore, "append", append)
        await guests.write(20)

        def broken() -> list[StateChanged]:
            return [f for f in facts if isinstance(f, StateChanged) and f.regions.health is Health.JOURNAL_STORAGE]

        await pair.wait(lambda: bool(broken()))
        await guests.write(20)
        assert await guests.rebuilt(before, tmp_path / "images") == expected_before
        full[0] = False
        checkpoint, expected = await pair.checkpoint("after"), guests.snapshot()
        assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected
        assert await guests.rebuilt(before, tmp_path / "images") == expected_before

    live(tmp_path / "pair", check)


def test_a_full_disk_under_the_journal_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(pair: Pair) -> None:
        guests = Guests(pair, random.Random(17))
        (store,) = pair.recovery.journals.streams.values()  # type: ignore[union-attr]
        real = type(store).append

        def append(self: StreamStore, frame: Frame) -> None:
            if rng.random() < 0.4:
                with full_disk(monkeypatch, rng.randint(0, 2)):
                    real(self, frame)
            else:
                real(self, frame)

        rng = random.Random(18)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(guests.write(40))
            with monkeypatch.context() as patch:
                patch.setattr(StreamStore, "append", append)
                await asyncio.sleep(0.3)
        await in_sync(pair)
        checkpoint, expected = await pair.checkpoint("after"), guests.snapshot()
        assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected

    live(tmp_path / "pair", check)


def test_a_write_that_the_disk_refuses_leaves_no_difference_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(pair: Pair) -> None:
        await pair.write(0, 0, b"a" * 4 * SECTOR)
        with full_disk(monkeypatch, 0, everywhere=True), pytest.raises(StoreFull):
            await pair.write(0, 0, b"b" * 4 * SECTOR)  # half of it reaches the disk
        checkpoint = await pair.checkpoint("after")
        images = await pair.rebuild(checkpoint, tmp_path / "images")
        disk = (tmp_path / "pair/london/disks/volume-0.disk").read_bytes()
        assert disk[: 4 * SECTOR] == b"b" * 2 * SECTOR + b"a" * 2 * SECTOR
        assert images[0].read_bytes() == disk

    live(tmp_path / "pair", check)


@pytest.mark.parametrize(
    ("volume", "offset", "size"),
    [(9, 0, 512), (0, 1, 512), (0, 0, 511), (0, 0, 0), (0, -512, 512), (0, SIZE, 512), (0, SIZE - 512, 1024)],
)
def test_an_extent_that_is_none_is_refused(tmp_path: Path, volume: int, offset: int, size: int) -> None:
    async def check(pair: Pair) -> None:
        with pytest.raises(PlatformError):
            await pair.write(volume, offset, bytes(size))

    live(tmp_path / "pair", check)


def test_a_mistake_stops_the_site_and_is_raised(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        waiting = asyncio.create_task(pair.wait(lambda: False))
        await asyncio.sleep(0)
        pair.recovery.post(Address("nobody"), Fired("x"))
        with pytest.raises(KeyError):
            await waiting
        with pytest.raises(KeyError):
            await pair.checkpoint("never")

    with pytest.raises(KeyError):
        live(tmp_path / "pair", check)


def test_guests_of_a_stopped_site_get_an_error(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        pair.protected.failed(CoreError("broken"))
        with pytest.raises(PlatformError, match="stopped"):
            await pair.write(0, 0, bytes(512))

    with pytest.raises(DrsimError, match="broken"):
        live(tmp_path / "pair", check)


def test_an_error_inside_is_the_one_that_comes_out_and_held_guests_are_let_go(tmp_path: Path) -> None:
    left: list[asyncio.Task[None]] = []

    async def check(pair: Pair) -> None:
        for tap in pair.protected.taps.values():
            tap.hold()
        left.append(asyncio.create_task(pair.write(0, 0, bytes(512))))
        await asyncio.sleep(0.05)
        raise ValueError("of the caller")

    async def run() -> None:
        try:
            async with protect(tmp_path / "pair", LIVE_VOLUMES, ONE_HOST, settings=quick()) as pair:
                await check(pair)
        finally:
            with pytest.raises(PlatformError, match="stopped"):
                await left[0]

    with pytest.raises(ValueError, match="of the caller"):
        asyncio.run(run())


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()

    async def check(pair: Pair) -> None:
        raise AssertionError

    with pytest.raises(FileError, match="not empty"):
        live(tmp_path, check)


def test_automatic_checkpoints_come_by_themselves(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        facts = facts_of(pair)
        await pair.wait(lambda: sum(isinstance(f, CheckpointListed) for f in facts) >= 3)

    live(tmp_path / "pair", check, settings=quick(interval=50 * MS))
