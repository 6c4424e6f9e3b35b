"""Delta syncs in the real world: what differs is found by digests and sent, and nothing else is."""

import asyncio
import random
from pathlib import Path

import pytest
from live import ONE_HOST, SIZE, TWO_HOSTS, Guests, facts_of, in_sync, live, quick

from drsim.core.events import PauseAsked, Started, SyncAsked
from drsim.core.facts import SyncEnded, SyncStarted
from drsim.core.messages import Start
from drsim.core.names import VmId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.status import Sync
from drsim.core.units import SECOND, SECTOR
from drsim.real.pair import Pair
from drsim.real.stream_store import StreamStore

REGION = 4096
COMPARE = 16 * REGION


def forced(pair: Pair) -> None:
    pair.protected.post(pair.manager, SyncAsked())


def crashed(pair: Pair) -> None:
    """The protected VRAs lose their memory, and are there again at once."""
    site = pair.protected
    for address, machine in list(site.kernel.machines.items()):
        if isinstance(machine, ProtectedVra):
            specs = [tap.spec for tap in site.taps.values() if tap.spec.id.source == address]
            again = ProtectedVra(
                address, {pair.vpg: pair.manager}, specs, pool_bytes=64 << 20, tweaks=site.tweaks,
                starts=dict.fromkeys((s.id for s in specs), Start.CRASHED),
            )  # fmt: skip
            site.kernel.replace(address, again)
            site.post(address, Started())


def stores(pair: Pair) -> list[StreamStore]:
    assert pair.recovery.journals is not None
    return list(pair.recovery.journals.streams.values())


async def all_in_the_mirror(pair: Pair) -> None:
    """Age everything, so that a change to the mirror is a change to the tip."""
    await pair.checkpoint("retires")
    checkpoint = await pair.checkpoint("stays")
    await pair.wait(lambda: [c.id for c in pair.listed] == [checkpoint.id])
    for stream, cut in checkpoint.cut.items():
        store = next(s for s in stores(pair) if s.spec.id == stream)
        while store.state.promoted != cut.position:
            await asyncio.sleep(0.01)


async def change(pair: Pair, lba: int, *, rot: bool) -> None:
    """One sector of volume 0's mirror is another: written by somebody else, or rotten."""
    store = next(s for s in stores(pair) if VmId(0) in s.spec.vms)

    def work() -> None:
        if rot:
            with store._mirrors[0].path.open("r+b") as file:
                file.seek(lba * SECTOR)
                byte = file.read(1)
                file.seek(lba * SECTOR)
                file.write(bytes([byte[0] ^ 1]))
        else:
            store._mirrors[0].write(lba, b"else" * (SECTOR // 4))

    await pair.recovery.lane(f"journal {store.spec.id}").call(work)


@pytest.mark.parametrize("rot", [False, True], ids=["another content", "rotten"])
@pytest.mark.parametrize("why", [forced, crashed])
@pytest.mark.parametrize("hosts", [ONE_HOST, TWO_HOSTS], ids=["one host", "two hosts"])
def test_a_region_that_differs_is_found_and_made_equal(
    tmp_path: Path, hosts: dict[VmId, str], why: object, rot: bool
) -> None:
    async def check(pair: Pair) -> None:
        facts, guests = facts_of(pair), Guests(pair, random.Random(31))
        await guests.write(60)
        await all_in_the_mirror(pair)
        await change(pair, 1003, rot=rot)
        why(pair)  # type: ignore[operator]
        await pair.wait(lambda: sum(isinstance(f, SyncEnded) for f in facts) == len(stores(pair)))
        await in_sync(pair)
        started = [f for f in facts if isinstance(f, SyncStarted)]
        ended = [f for f in facts if isinstance(f, SyncEnded)]
        kind = Sync.FORCED_DELTA if why is forced else Sync.DELTA
        assert {f.sync for f in (*started, *ended)} == {kind}
        assert sum(f.compared_bytes for f in ended) == 2 * SIZE, "everything is compared"
        assert sum(f.sent_bytes for f in ended) == REGION, "and only what differs is sent"
        assert sum(len(s) for store in stores(pair) for s in store.corrupt.values()) == rot
        checkpoint = await pair.checkpoint("after")
        assert await guests.rebuilt(checkpoint, tmp_path / "images") == guests.snapshot()

    live(
        tmp_path / "pair", check, hosts=hosts, settings=quick(history=1, age_interval=1 * SECOND, compare_bytes=COMPARE)
    )


@pytest.mark.parametrize("why", [forced, crashed])
def test_guests_write_all_the_time_and_the_first_checkpoint_after_it_is_exact(tmp_path: Path, why: object) -> None:
    async def check(pair: Pair) -> None:
        facts, guests = facts_of(pair), Guests(pair, random.Random(32))
        await guests.write(60)
        for round_ in range(3):
            writing = asyncio.create_task(guests.write(80))
            await asyncio.sleep(0.02)
            why(pair)  # type: ignore[operator]
            await writing
            await in_sync(pair)
            checkpoint, expected = await pair.checkpoint(f"after {round_}"), guests.snapshot()
            assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected
        kinds = [f.sync for f in facts if isinstance(f, SyncEnded)]
        assert kinds == [Sync.FORCED_DELTA if why is forced else Sync.DELTA] * 3

    live(tmp_path / "pair", check, settings=quick(compare_bytes=COMPARE, sync_bytes=65536))


def test_the_connection_breaks_in_the_middle_of_a_comparison(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        rng, guests = random.Random(33), Guests(pair, random.Random(34))
        await guests.write(60)
        crashed(pair)
        for _ in range(4):
            await asyncio.sleep(rng.random() * 0.02)
            pair.link.break_off()
            await guests.write(10)
        await in_sync(pair)
        checkpoint, expected = await pair.checkpoint("after"), guests.snapshot()
        assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected

    live(tmp_path / "pair", check, settings=quick(compare_bytes=4 * REGION))


def test_a_pause_keeps_everything_here_until_it_ends(tmp_path: Path) -> None:
    async def check(pair: Pair) -> None:
        guests = Guests(pair, random.Random(35))
        await guests.write(20)
        before = await pair.checkpoint("before")
        pair.protected.post(pair.manager, PauseAsked(True))
        await guests.write(40)
        assert pair.syncing
        (store,) = stores(pair)
        assert store.state.end == next(iter(before.cut.values())).position
        pair.protected.post(pair.manager, PauseAsked(False))
        await in_sync(pair)
        checkpoint, expected = await pair.checkpoint("after"), guests.snapshot()
        assert await guests.rebuilt(checkpoint, tmp_path / "images") == expected

    live(tmp_path / "pair", check)
