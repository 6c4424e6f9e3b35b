"""The journal store: whole frames or nothing, corruption always seen, images exact, whatever crashes when."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import (
    SPEC,
    STREAM,
    contents,
    dying_disk,
    frame,
    frames_of,
    full_disk,
    read_images,
    some_rows,
    watched_disk,
)  # fmt: skip

from drsim.core.errors import PeerError, PlatformError, StoreFull
from drsim.core.messages import Cut, Frame
from drsim.core.names import VolumeId
from drsim.core.units import SECTOR
from drsim.real.journal_store import JournalStore
from drsim.real.stream_store import StreamStore


@contextmanager
def store_at(directory: Path, segment_bytes: int = 1 << 20) -> Iterator[StreamStore]:
    with closing(StreamStore(directory, SPEC, segment_bytes=segment_bytes)) as store:
        yield store


def some_frames(seed: int, count: int, most: int = 5) -> list[Frame]:
    rng = random.Random(seed)
    return frames_of([some_rows(rng, most) for _ in range(count)])


def exact(store: StreamStore, frames: list[Frame], target: Path) -> None:
    """Every cut from the mirrors to the end is rebuilt byte for byte."""
    promoting, end, epoch = store.state.promoting, store.state.end, store.state.epoch
    cuts = {Cut(f.epoch, f.upto) for f in frames} | {Cut(epoch, promoting), Cut(epoch, end)}
    for cut in cuts:
        if all(p <= c <= e for p, c, e in zip(promoting, cut.position, end, strict=True)):
            assert read_images(store.rebuild(cut, target)) == contents(frames, cut.position)


def test_images_are_exact_at_every_cut_also_after_opening_again(tmp_path: Path) -> None:
    frames = some_frames(1, 12)
    with store_at(tmp_path / "s", 4000) as store:
        for f in frames:
            store.append(f)
        exact(store, frames, tmp_path / "images")
    with store_at(tmp_path / "s", 4000) as store:
        assert store.state.end == frames[-1].upto
        exact(store, frames, tmp_path / "images")
        rows = [row for vm in SPEC.vms for row in store.rows(vm)]
        assert len(rows) == sum(len(f.batch) for f in frames)
        # Between frames, too: a cut may lie inside of one.
        cut = (frames[4].upto[0], frames[9].after[1])
        assert read_images(store.rebuild(Cut(1, cut), tmp_path / "images")) == contents(frames, cut)


@pytest.mark.usefixtures("no_sync")
@given(st.integers(0, 10**6), st.lists(st.sampled_from(["append", "promote", "reopen"]), max_size=12))
def test_any_order_of_appends_promotions_and_openings(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("store")
    rng, frames = random.Random(seed), [frame(some_rows(random.Random(seed)), (0, 0))]
    store = StreamStore(directory / "s", SPEC, segment_bytes=2000)
    try:
        store.append(frames[0])
        for step in steps:
            if step == "append":
                frames.append(frame(some_rows(rng), frames[-1].upto))
                store.append(frames[-1])
            elif step == "promote":
                promoted = store.state.promoted
                later = [f.upto for f in frames if all(a >= b for a, b in zip(f.upto, promoted, strict=True))]
                upto = rng.choice([promoted, *later])
                store.promote(upto)
                store.promote(upto)
            else:
                store.close()
                store = StreamStore(directory / "s", SPEC, segment_bytes=2000)
        exact(store, frames, directory / "images")
    finally:
        store.close()
        shutil.rmtree(directory)


def test_what_is_done_was_made_durable_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = frames_of([[(0, 0, 0, b"a" * SECTOR), (1, 1, 0, b"b" * SECTOR)]] * 2)
    with store_at(tmp_path / "s", 1) as store:
        with watched_disk(monkeypatch) as seen:
            store.append(both[0])
        data, ledger = "00000000.segment", "ledger"
        assert seen == [("pwrite", data)] * 2 + [("fdatasync", data)] * 2 + [("pwrite", ledger), ("fdatasync", ledger)]
        store.append(both[1])
        with watched_disk(monkeypatch) as seen:
            store.promote(both[0].upto)
        mirrors = [("fdatasync", f"volume-{v.id}.{kind}") for v in SPEC.volumes for kind in ("mirror", "sums")]
        put, marked = ([("pwrite", name), ("fdatasync", name)] for name in (ledger, "promoting"))
        writes = [("pwrite", f"volume-{n}.{kind}") for n in (0, 1) for kind in ("mirror", "sums")]
        assert seen == [*put, *marked, *writes, *mirrors, *put, ("unlink", data), ("unlink", data)]
        with watched_disk(monkeypatch) as seen:
            store.rebuild(Cut(1, both[1].upto), tmp_path / "images")
        synced = [name for call, name in seen if call == "fsync"]
        assert synced == [tmp_path.name, *(f"volume-{v.id}.part" for v in SPEC.volumes), "images"]


def test_promotion_frees_segments_and_refuses_older_cuts(tmp_path: Path) -> None:
    frames = some_frames(2, 30)
    with store_at(tmp_path / "s", 3000) as store:
        for f in frames:
            store.append(f)
        before = len(list((tmp_path / "s").rglob("*.segment")))
        store.promote(frames[20].upto)
        store.promote(frames[20].upto)
        store.promote(frames[5].upto)  # older: nothing
        assert len(list((tmp_path / "s").rglob("*.segment"))) < before / 2
        mirrors = {v.id: (tmp_path / "s" / f"volume-{v.id}.mirror").read_bytes() for v in SPEC.volumes}
        assert mirrors == contents(frames, frames[20].upto)
        exact(store, frames, tmp_path / "images")
        with pytest.raises(PlatformError, match="before the mirrors"):
            store.rebuild(Cut(1, frames[19].upto), tmp_path / "images")
        with pytest.raises(PlatformError, match="journal ends"):
            store.rebuild(Cut(1, tuple(n + 1 for n in frames[-1].upto)), tmp_path / "images")


# -- what does not continue -----------------------------------------------------------------------------------


def test_a_frame_that_does_not_continue_its_journal_is_refused(tmp_path: Path) -> None:
    frames = some_frames(3, 4)
    with store_at(tmp_path / "s") as store:
        store.append(frames[0])
        with pytest.raises(PlatformError, match="does not continue"):
            store.append(frames[2])  # a gap
        with pytest.raises(PlatformError, match="does not continue"):
            store.append(frames[0])  # once more
        ahead = tuple(n + 10 for n in frames[0].upto)
        jumped = frame([(0, 0, 0, b"j" * SECTOR)], ahead, epoch=3)
        store.append(jumped)
        with pytest.raises(PlatformError, match="epoch"):
            store.append(frames[1])
        with pytest.raises(PlatformError, match="does not continue"):
            store.append(frame([(0, 0, 0, b"k" * SECTOR)], frames[0].upto, epoch=4))
        assert store.state.end == jumped.upto
        exact(store, [frames[0], jumped], tmp_path / "images")
    with store_at(tmp_path / "s") as store:
        exact(store, [frames[0], jumped], tmp_path / "images")


def test_a_frame_that_cannot_be_is_refused(tmp_path: Path) -> None:
    good = frame([(0, 0, 0, b"x" * SECTOR)], (0, 0))
    with store_at(tmp_path / "s") as store:
        for bad in (
            replace(good, upto=(2, 0)),
            replace(good, after=(0,), upto=(1,)),
            frame([(0, 0, 64, b"x" * SECTOR)], (0, 0)),
            frame([(0, 1, 0, b"x" * SECTOR)], (0, 0)),
            frame([(0, 9, 0, b"x" * SECTOR)], (0, 0)),
        ):
            with pytest.raises(PeerError):
                store.append(bad)
        store.append(good)


# -- crashes --------------------------------------------------------------------------------------------------


def last_record(directory: Path, vm: int) -> tuple[Path, int, int]:
    """The file of a VM's last record, where the record begins, and where the file ends."""
    with store_at(directory) as store:
        entry = store._logs[SPEC.vms.index(vm)].entries[-1]  # type: ignore[arg-type]
    path = directory / f"vm-{vm}" / f"{entry.segment:08d}.segment"
    return path, entry.offset, path.stat().st_size


def two_frames(tmp_path: Path) -> tuple[list[Frame], bytes]:
    """A store with two frames, each with rows of both VMs, and the ledger as it was after the first."""
    frames = frames_of([[(0, 0, n, bytes([n + 1]) * SECTOR), (1, 1, n, bytes([n + 9]) * SECTOR)] for n in range(2)])
    with store_at(tmp_path / "s") as store:
        store.append(frames[0])
        ledger = (tmp_path / "s" / "ledger").read_bytes()
        store.append(frames[1])
    return frames, ledger


def goes_on_after_first(directory: Path, frames: list[Frame], images: Path | None) -> None:
    """The store opens with the first frame only, and takes the second once more; then it is as it was."""
    with store_at(directory) as store:
        assert store.state.end == frames[0].upto
        for log, (_, size) in zip(store._logs, store.state.tails, strict=True):
            assert (log.directory / "00000000.segment").stat().st_size == size, "no more and no less is cut off"
        store.append(frames[1])
    if images:
        with store_at(directory) as store:
            assert read_images(store.rebuild(Cut(1, frames[1].upto), images)) == contents(frames, frames[1].upto)


@pytest.mark.usefixtures("no_sync")
def test_a_torn_append_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    frames, ledger = two_frames(tmp_path)
    for vm in SPEC.vms:
        path, start, end = last_record(tmp_path / "s", vm)
        whole = path.read_bytes()
        for size in range(start, end + 1):
            (tmp_path / "s" / "ledger").write_bytes(ledger)
            os.truncate(path, size)
            goes_on_after_first(tmp_path / "s", frames, None if size % 64 else tmp_path / "images")
            assert path.read_bytes() == whole


@pytest.mark.usefixtures("no_sync")
def test_a_torn_ledger_entry_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    frames, ledger = two_frames(tmp_path)
    path = tmp_path / "s" / "ledger"
    whole = path.read_bytes()
    for size in range(len(ledger), len(whole)):
        zeros = b"\0" * (len(whole) - size if size % 512 == 0 else 0)
        for tail in {b"", zeros}:
            path.write_bytes(whole[:size] + tail)
            goes_on_after_first(tmp_path / "s", frames, None if size % 64 else tmp_path / "images")
            assert path.read_bytes() == whole


@pytest.mark.usefixtures("no_sync")
def test_acknowledged_data_that_is_gone_is_seen(tmp_path: Path) -> None:
    two_frames(tmp_path)
    path, start, end = last_record(tmp_path / "s", 1)
    whole = path.read_bytes()
    for size in range(start, end):
        path.write_bytes(whole[:size])
        with pytest.raises(PlatformError):
            StreamStore(tmp_path / "s", SPEC)
        assert len(path.read_bytes()) == size, "evidence is kept"
    path.unlink()
    with pytest.raises(PlatformError, match="missing"):
        StreamStore(tmp_path / "s", SPEC)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("name", ["ledger", "vm-0/00000000.segment", "vm-1/00000000.segment"])
def test_any_flipped_byte_is_seen_when_opened(tmp_path: Path, name: str) -> None:
    two_frames(tmp_path)
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(PlatformError):
            StreamStore(tmp_path / "s", SPEC)
        assert path.read_bytes() == broken, "evidence is kept"
    path.write_bytes(whole)
    StreamStore(tmp_path / "s", SPEC).close()


def test_records_that_changed_places_are_seen(tmp_path: Path) -> None:
    two_frames(tmp_path)
    path, start, end = last_record(tmp_path / "s", 0)
    whole = path.read_bytes()
    assert end == 2 * start, "records of equal size"
    path.write_bytes(whole[start:] + whole[:start])
    with pytest.raises(PlatformError, match="does not continue"):
        StreamStore(tmp_path / "s", SPEC)


def test_a_byte_that_flips_later_is_never_applied(tmp_path: Path) -> None:
    frames, _ = two_frames(tmp_path)
    with store_at(tmp_path / "s") as store:
        path = tmp_path / "s" / "vm-0" / "00000000.segment"
        broken = bytearray(path.read_bytes())
        broken[-5] ^= 1
        path.write_bytes(broken)
        with pytest.raises(PlatformError, match="checksum"):
            store.rebuild(Cut(1, frames[1].upto), tmp_path / "images")
        assert not list((tmp_path / "images").iterdir()), "no image, not even a part of one"
        with pytest.raises(PlatformError, match="checksum"):
            store.promote(frames[1].upto)
        assert store.state.promoted == (0, 0)
        mirror = (tmp_path / "s" / "volume-0.mirror").read_bytes()
        assert mirror == contents(frames, (1, 0))[0], "the broken record is not applied"


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("operation", ["append", "promote"])
@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
def test_a_crash_at_any_change_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, segment_bytes: int
) -> None:
    frames = some_frames(5, 6, most=3)
    base = tmp_path / "base"
    with store_at(base, segment_bytes) as store:
        for f in frames[:5]:
            store.append(f)
    for crash in range(1000):
        shutil.copytree(base, tmp_path / "s")
        with (
            store_at(tmp_path / "s", segment_bytes) as store,
            dying_disk(monkeypatch, crash) as count,
            suppress(PlatformError),
        ):
            store.append(frames[5]) if operation == "append" else store.promote(frames[3].upto)
        with store_at(tmp_path / "s", segment_bytes) as store:
            after = store.state
            assert after.end in (frames[4].upto, frames[5].upto)
            exact(store, frames, tmp_path / "images")
            if operation == "append":
                if after.end == frames[4].upto:
                    store.append(frames[5])
            else:
                store.promote(frames[3].upto)
                assert store.state.promoted == frames[3].upto
            exact(store, frames, tmp_path / "images")
        shutil.rmtree(tmp_path / "s")
        if count[0] <= crash:
            assert crash > 2
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
def test_a_full_disk_takes_a_whole_frame_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
) -> None:
    both = [[(0, 0, n, bytes([n + 1]) * SECTOR), (1, 1, n, bytes([n + 9]) * SECTOR)] for n in range(4)]
    frames = frames_of(both)
    for room in range(100):
        with store_at(tmp_path / f"s{room}", segment_bytes) as store:
            store.append(frames[0])
            files = {p: p.read_bytes() for p in (tmp_path / f"s{room}").rglob("*") if p.is_file()}
            with full_disk(monkeypatch, room):
                try:
                    store.append(frames[1])
                except StoreFull:
                    found = {p: p.read_bytes() for p in (tmp_path / f"s{room}").rglob("*") if p.is_file()}
                    assert found == files, "a failed append left a trace"
                else:
                    assert room > 2
                    return
            for f in frames[1:]:
                store.append(f)  # there is room again
            exact(store, frames, tmp_path / "images")
    raise AssertionError("it never had room")


def test_a_ledger_that_failed_closes_the_store_to_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = some_frames(7, 3)
    with store_at(tmp_path / "s") as store:
        store.append(frames[0])
        real, ledger = os.fdatasync, store._ledger._fd

        def fdatasync(fd: int) -> None:
            if fd == ledger:
                raise OSError(5, "bad disk")
            real(fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fdatasync)
            with pytest.raises(PlatformError, match="bad disk"):
                store.append(frames[1])
        with pytest.raises(PlatformError, match="closed to changes"):
            store.append(frames[1])
    with store_at(tmp_path / "s") as store:
        assert store.state.end in (frames[0].upto, frames[1].upto)
        exact(store, frames, tmp_path / "images")


@pytest.mark.usefixtures("no_sync")
def test_the_ledger_is_compacted(tmp_path: Path) -> None:
    frames = frames_of([[(0, 0, 0, bytes([n % 256]) * SECTOR)] for n in range(600)])
    with store_at(tmp_path / "s") as store:
        for f in frames:
            store.append(f)
        assert (tmp_path / "s" / "ledger").stat().st_size <= 1 << 18
    with store_at(tmp_path / "s") as store:
        assert store.state.end == (600, 0)


def test_a_journal_store_rebuilds_a_checkpoint_of_its_streams(tmp_path: Path) -> None:
    frames = some_frames(8, 3)
    with closing(JournalStore(tmp_path / "j", [SPEC])) as journals:
        for f in frames:
            journals.append(f)
        journals.promote(STREAM, frames[0].upto)
        images = journals.rebuild({STREAM: Cut(1, frames[1].upto)}, tmp_path / "images")
    assert read_images(images) == contents(frames, frames[1].upto)


def test_scratch_disks_are_of_every_volume_that_is_asked_for(tmp_path: Path) -> None:
    """By whatever iterator they are named: a VM without its disks must never be powered on."""
    with store_at(tmp_path / "journal") as stream:
        first = frame([(0, 0, 3, b"a" * SECTOR), (1, 1, 4, b"b" * SECTOR), (1, 2, 5, b"c" * SECTOR)], (0, 0))
        stream.append(first)
        cut = Cut(first.epoch, first.upto)
        made = stream.scratch(cut, tmp_path, map(VolumeId, [1, 2]))
        assert bytes(made[VolumeId(1)].read(4 * SECTOR, SECTOR)) == b"b" * SECTOR
        assert bytes(made[VolumeId(2)].read(5 * SECTOR, SECTOR)) == b"c" * SECTOR
        for disk in made.values():
            disk.close()
        with pytest.raises(PlatformError, match="not all volumes of"):
            stream.scratch(cut, tmp_path, map(VolumeId, [1, 9]))
