"""A volume read straight out of journal and mirror: the checkpoint, while the mirror catches up, and no rot unseen."""

import random
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import SPEC, contents, frames_of, some_rows

from drsim.core.errors import PlatformError
from drsim.core.messages import Cut
from drsim.core.units import SECTOR
from drsim.real.journal_view import JournalView
from drsim.real.stream_store import StreamStore


def whole(view: JournalView, sectors: int, rng: random.Random) -> bytes:
    """All of it, in pieces of any size."""
    found, at = b"", 0
    while at < sectors:
        n = min(rng.randrange(1, 40), sectors - at)
        data, bad = view.read(at, n)
        assert bad == []
        found, at = found + data, at + n
    return found


@settings(max_examples=40)
@given(st.integers(0, 1 << 30), st.integers(0, 7), st.integers(0, 7), st.integers(0, 7))
def test_it_is_the_checkpoint_however_far_the_mirror_is(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int, before: int, later: int
) -> None:
    rng = random.Random(seed)
    frames = frames_of([some_rows(rng) for _ in range(8)])
    before, cut = sorted((before, cut))
    with closing(StreamStore(tmp_path_factory.mktemp("s") / "s", SPEC, segment_bytes=2000)) as store:
        for each in frames:
            store.append(each)
        store.promote(frames[before].upto)
        upto = frames[cut].upto
        views = {v: store.view(Cut(1, upto), v) for v in SPEC.volumes}
        for reached in {min(later, cut), cut}:
            if reached >= before:
                store.promote(frames[reached].upto)
            for volume, view in views.items():
                assert whole(view, volume.sectors, rng) == contents(frames, upto)[volume.id]


def test_it_is_the_checkpoint_while_the_mirror_catches_up(tmp_path: Path) -> None:
    rng = random.Random(5)
    frames = frames_of([some_rows(rng) for _ in range(120)])
    upto = frames[-1].upto
    with closing(StreamStore(tmp_path / "s", SPEC, segment_bytes=4000)) as store:
        for each in frames:
            store.append(each)
        views = {v: store.view(Cut(1, upto), v) for v in SPEC.volumes}
        done = threading.Thread(target=lambda: [store.promote(each.upto) for each in frames])
        done.start()
        rounds = 0
        while done.is_alive() or not rounds:
            for volume, view in views.items():
                assert whole(view, volume.sectors, rng) == contents(frames, upto)[volume.id]
            rounds += 1
        done.join()
        assert len(list((tmp_path / "s").glob("vm-*/*.segment"))) == len(SPEC.vms), "the journal is gone"


@pytest.mark.parametrize("instant", [False, True])
def test_scratch_disks_are_made_of_every_volume_that_is_asked_for(tmp_path: Path, instant: bool) -> None:
    rng = random.Random(3)
    frames = frames_of([some_rows(rng) for _ in range(9)])
    cut = Cut(1, frames[6].upto)
    with closing(StreamStore(tmp_path / "s", SPEC)) as store:
        for each in frames:
            store.append(each)
        for number, wanted in enumerate([SPEC.volumes[:1], SPEC.volumes[1:], SPEC.volumes]):
            made = store.scratch(cut, tmp_path / str(number), iter([v.id for v in wanted]), instant=instant)
            assert list(made) == [v.id for v in wanted]
            for id_, disk in made.items():
                assert disk.read(0, disk.size) == contents(frames, cut.position)[id_]
                disk.close()


def test_a_flipped_bit_anywhere_in_the_journal_is_seen(tmp_path: Path) -> None:
    """In the columns when the view is made, in the content when it is read; what is served is right or an error."""
    rng = random.Random(9)
    frames = frames_of([some_rows(rng) for _ in range(3)])
    upto, truth = frames[-1].upto, contents(frames, frames[-1].upto)
    with closing(StreamStore(tmp_path / "s", SPEC)) as store:
        for each in frames:
            store.append(each)
        (path, *_) = sorted((tmp_path / "s").glob("vm-*/*.segment"), key=lambda p: -p.stat().st_size)
        good, seen = path.read_bytes(), 0
        for at in range(0, len(good), max(1, len(good) // 300)):
            path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
            for volume in SPEC.volumes:
                try:
                    view = store.view(Cut(1, upto), volume)
                    assert view.read(0, volume.sectors)[0] == truth[volume.id]
                except PlatformError:
                    seen += 1
        assert seen > 100


def test_a_segment_that_somebody_deleted_is_not_taken_for_one_that_was_promoted(tmp_path: Path) -> None:
    frames = frames_of([[(0, 0, 3, b"\1" * SECTOR)]])
    with closing(StreamStore(tmp_path / "s", SPEC)) as store:
        store.append(frames[0])
        view = store.view(Cut(1, frames[0].upto), SPEC.volumes[0])
        for path in (tmp_path / "s").glob("vm-*/*.segment"):
            path.unlink()
        with pytest.raises(OSError, match="No such file"):
            view.read(0, 8)
        data, bad = view.read(8, 8)
        assert (data, bad) == (bytes(8 * SECTOR), []), "where nothing was written the mirror has it"
