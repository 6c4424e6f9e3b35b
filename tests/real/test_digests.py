"""Digests of regions: equal exactly where the content is, of all that is durable, and of nothing that is rotten."""

import asyncio
import random
import threading
from collections import Counter
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import SPEC, STREAM, VOLUMES, contents, dying_disk, frame, frames_of, full_disk, some_rows

from drsim.core.batch import WriteBatch
from drsim.core.effects import Append, Effect, EffectId, ReadDigests, ReadRegions
from drsim.core.errors import PeerError, PlatformError
from drsim.core.events import Done, Event, Failed, GuestWrote, Started
from drsim.core.messages import Frame
from drsim.core.names import Address, Extent, StreamId, VmId, VolumeId
from drsim.core.units import SECTOR, Ns
from drsim.real import vm_log
from drsim.real.digests import DIGEST_BYTES, digest, of_regions
from drsim.real.disk import Disk, Run, open_disks
from drsim.real.journal_store import JournalStore
from drsim.real.lane import Lane
from drsim.real.stream_store import StreamStore
from drsim.real.tap import Tap
from drsim.real.vm_log import VmLog
from drsim.real.world import Site
from drsim.spec.tweaks import Tweaks

REGION = 4 * SECTOR


def whole(volume: int) -> Extent:
    info = VOLUMES[volume]
    return Extent(info.vm, info.id, 0, info.sectors)


def stretches(rng: random.Random, count: int) -> list[Extent]:
    """Some whole regions of some volume."""
    made = []
    for _ in range(count):
        volume = rng.choice(VOLUMES)
        first, last = sorted(rng.sample(range(volume.sectors // 4 + 1), 2))
        made.append(Extent(volume.vm, volume.id, 4 * first, 4 * (last - first)))
    return made


def naive(content: bytes, extent: Extent) -> bytes:
    return of_regions(content[extent.lba * SECTOR : (extent.lba + extent.sectors) * SECTOR], REGION)


def parts(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


# -- of regions ---------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=64), st.integers(1, 20))
def test_each_region_has_its_digest_in_order(content: bytes, size: int) -> None:
    regions = [content[at : at + size] for at in range(0, len(content), size)]
    assert parts(of_regions(content, size)) == [digest(region) for region in regions]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_digests_are_equal_exactly_when_the_content_is(one: bytes, other: bytes) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_content_with_the_same_sum_or_the_same_crc_has_another_digest() -> None:
    """The two halves of a region changed places; a difference that CRC-32 (any start) does not see: its polynomial."""
    assert digest(b"ab") != digest(b"ba")
    assert digest(bytes(5)) != digest((0x1DB710640 << 1).to_bytes(5, "little"))


@given(st.binary(min_size=1, max_size=64), st.sets(st.integers(0, 7)))
def test_what_is_unsure_differs_from_the_same_content(content: bytes, unsure: set[int]) -> None:
    content = content.ljust(64, b"\0")
    plain, marked = parts(of_regions(content, 8)), parts(of_regions(content, 8, unsure))
    assert {n for n in range(8) if plain[n] != marked[n]} == unsure


# -- at the recovery side -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_sync")
@given(st.integers(0, 10**6), st.lists(st.sampled_from(["append", "promote", "reopen", "fail"]), max_size=10))
def test_digests_are_of_the_mirror_with_all_that_is_durable(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("store")
    rng, frames = random.Random(seed), [frame(some_rows(random.Random(seed)), (0, 0))]
    store = StreamStore(directory / "s", SPEC, segment_bytes=2000)
    try:
        store.append(frames[0])
        for step in steps:
            match step:
                case "append":
                    frames.append(frame(some_rows(rng), frames[-1].upto))
                    store.append(frames[-1])
                case "promote":
                    store.promote(
                        rng.choice([f.upto for f in frames[-2:]]) if store.state.promoted == (0, 0) else frames[-1].upto
                    )
                case "reopen":
                    store.close()
                    store = StreamStore(directory / "s", SPEC, segment_bytes=2000)
                case "fail":
                    with pytest.MonkeyPatch.context() as patch, full_disk(patch, 0), suppress(PlatformError):
                        store.append(frame(some_rows(rng), frames[-1].upto))
            content = contents(frames, frames[-1].upto)
            for extent in stretches(rng, 3):
                assert store.digests(extent, REGION) == naive(content[extent.volume], extent)
    finally:
        store.close()


@pytest.mark.usefixtures("no_sync")
def test_a_comparison_reads_what_still_counts_and_that_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the journal is: every stretch of a disk used to read all of it."""
    rng, read, indexed = random.Random(3), Counter[int](), list[int]()
    record, columns = VmLog._record, vm_log.extents_of

    def counted(self: VmLog, fd: int, segment: int, offset: int) -> Any:
        read[offset] += 1
        return record(self, fd, segment, offset)

    frames = frames_of([[(0, 0, rng.randrange(60), rng.randbytes(4 * SECTOR)) for _ in range(3)] for _ in range(300)])
    with closing(StreamStore(tmp_path / "s", SPEC)) as store:
        for each in frames[:-1]:
            store.append(each)
        monkeypatch.setattr(VmLog, "_record", counted)
        monkeypatch.setattr(vm_log, "extents_of", lambda *of: (indexed.append(1), columns(*of))[1])
        assert store.digests(whole(0), REGION) == naive(contents(frames[:-1], frames[-2].upto)[0], whole(0))
        assert set(read.values()) == {1}
        assert len(read) < 64
        assert len(indexed) == 299
        store.append(frames[-1])
        assert store.digests(whole(0), REGION) == naive(contents(frames, frames[-1].upto)[0], whole(0))
        assert len(indexed) == 300, "only what is new"


@pytest.mark.parametrize("after", [1, 2, 4, 5, 7, 9])
def test_a_promotion_that_was_cut_changes_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    rng = random.Random(after)
    frames = frames_of([some_rows(rng) for _ in range(5)])
    content = contents(frames, frames[-1].upto)
    store = StreamStore(tmp_path / "s", SPEC)
    for f in frames:
        store.append(f)
    with dying_disk(monkeypatch, after) as changes, suppress(PlatformError):
        store.promote(frames[2].upto)
    assert changes[0] >= after
    store.close()
    with closing(StreamStore(tmp_path / "s", SPEC)) as store:
        for volume in content:
            assert store.digests(whole(volume), REGION) == naive(content[volume], whole(volume))


def rotten(directory: Path, sector: int) -> tuple[StreamStore, bytes, bytes]:
    """A store with everything in the mirror, one bit of which has changed: what volume 0 was, and what it is now."""
    frames = frames_of([[(0, 0, 0, bytes(range(256)) * 128), (1, 1, 0, b"b" * SECTOR)]])
    store = StreamStore(directory / "s", SPEC)
    store.append(frames[0])
    store.promote(frames[0].upto)
    path = directory / "s" / "volume-0.mirror"
    was = path.read_bytes()
    now = bytearray(was)
    now[sector * SECTOR] ^= 1
    path.write_bytes(now)
    return store, was, bytes(now)


@pytest.mark.parametrize("sector", [0, 21, 63])
def test_a_sector_that_does_not_verify_makes_its_region_differ_from_everything(tmp_path: Path, sector: int) -> None:
    store, was, now = rotten(tmp_path, sector)
    with closing(store):
        found = parts(store.digests(whole(0), REGION))
        for content in (was, now):
            assert {n for n, d in enumerate(parts(naive(content, whole(0)))) if d != found[n]} == {sector // 4}
        assert store.corrupt == {0: {sector}}


def test_a_row_over_a_sector_that_does_not_verify_puts_it_right(tmp_path: Path) -> None:
    store, was, _ = rotten(tmp_path, 21)
    with closing(store):
        assert store.digests(Extent(VmId(0), VolumeId(0), 0, 8), REGION)
        assert store.corrupt == {0: set()}, "nothing in this stretch"
        store.digests(whole(0), REGION)
        store.append(frame([(0, 0, 20, b"new!" * 256)], store.state.end))
        content = was[: 20 * SECTOR] + b"new!" * 256 + was[22 * SECTOR :]
        assert store.digests(Extent(VmId(0), VolumeId(0), 20, 4), REGION) == naive(
            content, Extent(VmId(0), VolumeId(0), 20, 4)
        )
        assert store.corrupt == {0: set()}


def test_a_corrupt_journal_is_no_digest(tmp_path: Path) -> None:
    with closing(StreamStore(tmp_path / "s", SPEC)) as store:
        store.append(frames_of([[(0, 0, 0, b"a" * SECTOR)]])[0])
        (segment,) = (tmp_path / "s" / "vm-0").glob("*.segment")
        data = bytearray(segment.read_bytes())
        data[-1] ^= 1
        segment.write_bytes(data)
        with pytest.raises(PlatformError):
            store.digests(whole(0), REGION)


@pytest.mark.parametrize(
    "extent",
    [
        Extent(VmId(0), VolumeId(9), 0, 4), Extent(VmId(1), VolumeId(0), 0, 4), Extent(VmId(7), VolumeId(0), 0, 4),
        Extent(VmId(0), VolumeId(0), 1, 4), Extent(VmId(0), VolumeId(0), 0, 3), Extent(VmId(0), VolumeId(0), 64, 4),
        Extent(VmId(0), VolumeId(0), 60, 8), Extent(VmId(0), VolumeId(0), -4, 4), Extent(VmId(0), VolumeId(0), 4, 0),
    ],
    ids=str,
)  # fmt: skip
def test_a_stretch_that_is_none_is_the_peers_mistake(tmp_path: Path, extent: Extent) -> None:
    with closing(JournalStore(tmp_path, [SPEC])) as store, pytest.raises(PeerError):
        store.digests(STREAM, extent, REGION)


def test_a_stream_that_is_not_here_is_the_peers_mistake(tmp_path: Path) -> None:
    other = StreamId("web", STREAM.source, STREAM.target)
    with closing(JournalStore(tmp_path, [SPEC])) as store, pytest.raises(PeerError):
        store.digests(other, whole(0), REGION)


# -- at the protected side, and in the site -----------------------------------------------------------------------


def test_the_tap_digests_what_its_files_hold(tmp_path: Path) -> None:
    async def run() -> None:
        rng, lane = random.Random(3), Lane("disk")
        disks = {v.id: Disk(v, tmp_path / f"volume-{v.id}.disk") for v in SPEC.volumes}
        tap = Tap(SPEC, disks, lane, lambda _: None)
        ids = count()

        async def digests(extent: Extent) -> Event:
            asked, id_ = ReadDigests(STREAM, 1, extent), EffectId(STREAM.source, next(ids))
            await lane.call(lambda: tap.answer(id_, asked, REGION))
            return tap.pull()[-1]

        for vm, volume, lba, data in (row for _ in range(10) for row in some_rows(rng)):
            assert vm == VOLUMES[volume].vm
            await tap.write(volume, lba * SECTOR, data)
        for extent in stretches(rng, 20):
            content = (tmp_path / f"volume-{extent.volume}.disk").read_bytes()
            assert (await digests(extent)).value == naive(content, extent)  # type: ignore[union-attr]
        (tmp_path / "volume-0.disk").write_bytes(b"short")
        assert isinstance(await digests(whole(0)), Failed)
        await lane.close()
        for disk in disks.values():
            disk.close()

    asyncio.run(run())


class Late:
    """Hears of a write before the tap does: it is captured when an answer is there, or after a while."""

    def __init__(self) -> None:
        self.written, self.answered = threading.Event(), threading.Event()

    def capture(self, run: Run) -> None:
        self.written.set()
        self.answered.wait(0.3)

    def pass_gate(self) -> None:
        pass


def test_what_was_read_of_a_write_under_way_is_answered_behind_it(tmp_path: Path) -> None:
    disk, late = Disk(VOLUMES[0], tmp_path / "disk"), Late()
    disk.listeners = (late,)
    tap = Tap(SPEC, {VOLUMES[0].id: disk}, None, lambda urgent: late.answered.set() if urgent else None)
    rows = WriteBatch.of([VOLUMES[0].vm], [VOLUMES[0].id], [8], [2], [0])
    writer = threading.Thread(target=disk.write, args=([(8 * SECTOR, b"a" * SECTOR)],))
    writer.start()
    late.written.wait()
    tap.answer(EffectId(STREAM.source, 1), ReadRegions(STREAM, rows), REGION)
    writer.join()
    wrote, read = tap.pull()
    assert isinstance(wrote, GuestWrote)
    assert isinstance(read, Done)
    assert isinstance(read.value, WriteBatch)
    assert read.value.payload == b"a" * SECTOR + bytes(SECTOR)
    disk.close()


class Asking:
    """Asks for these effects when it starts."""

    def __init__(self, effects: list[Effect]) -> None:
        self.effects, self.answers = effects, list[Event]()

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        if isinstance(event, Started):
            return self.effects
        self.answers.append(event)
        return []


@pytest.mark.parametrize("source", [True, False])
def test_a_site_digests_its_own_side_after_what_was_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: bool
) -> None:
    """At the recovery side behind an append that takes its time."""
    append = StreamStore.append

    def slow(self: StreamStore, frame: Frame) -> None:
        sleep(0.05)
        append(self, frame)

    monkeypatch.setattr(StreamStore, "append", slow)
    here = STREAM.source if source else STREAM.target
    data = bytes(range(256)) * 8
    ask = ReadDigests(STREAM, 1, whole(0))
    effects: list[Effect] = [ask] if source else [Append(frames_of([[(0, 0, 8, data)]])[0]), ask]
    asking = Asking(effects)

    async def run() -> None:
        async with Site(here.split("/")[0], tmp_path, tweaks=Tweaks(region_bytes=REGION)) as site:
            site.add(Address(here), asking)
            if source:
                site.disks = open_disks(site.directory / "disks", SPEC.volumes)
                site.tap(SPEC)
                (tmp_path / "disks" / "volume-0.disk").write_bytes(bytes(8 * SECTOR) + data.ljust(56 * SECTOR, b"\0"))
            else:
                site.journals = JournalStore(tmp_path / "journals", [SPEC])
            site.start()
            async with asyncio.timeout(20):
                while len(asking.answers) < len(effects):
                    await asyncio.sleep(0.005)

    asyncio.run(run())
    answer = asking.answers[len(effects) - 1]
    assert isinstance(answer, Done)
    assert answer.effect == ask
    assert answer.value == naive(bytes(8 * SECTOR) + data.ljust(56 * SECTOR, b"\0"), whole(0))
