"""Files that verify and are the wrong ones, mirrors that rot, disks that fail half way: seen, and nothing changed."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from live import SPEC, STREAM, contents, frame, frames_of, read_images

from drsim.core.errors import PeerError, PlatformError
from drsim.core.messages import Checkpoint, Cut, Frame
from drsim.core.names import CheckpointId
from drsim.core.units import SECTOR, Ns
from drsim.real import catalog_store, files
from drsim.real.catalog_store import CatalogStore
from drsim.real.journal_store import JournalStore
from drsim.real.ledger import Ledger
from drsim.real.stream_store import StreamStore

pytestmark = pytest.mark.usefixtures("no_sync")


@contextmanager
def store_at(directory: Path, segment_bytes: int = 1 << 20) -> Iterator[StreamStore]:
    with closing(StreamStore(directory, SPEC, segment_bytes=segment_bytes)) as store:
        yield store


def some(count: int) -> list[Frame]:
    """Frames with one row for each VM, each elsewhere."""
    return frames_of([[(0, 0, n, bytes([n + 1]) * SECTOR), (1, 1, n, bytes([n + 101]) * SECTOR)] for n in range(count)])


def refused(directory: Path, match: str) -> None:
    """The store does not open, and what is there stays as it is."""
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    with pytest.raises(PlatformError, match=match):
        StreamStore(directory, SPEC)
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before, "evidence is kept"


# -- an old ledger ----------------------------------------------------------------------------------------------------


def test_an_old_ledger_is_seen_because_the_journal_goes_on(tmp_path: Path) -> None:
    """It used to open: what had been acknowledged since was cut off as the rest of an append."""
    found = some(4)
    with store_at(tmp_path) as store:
        store.append(found[0])
        old = (tmp_path / "ledger").read_bytes()
        for f in found[1:3]:
            store.append(f)
    (tmp_path / "ledger").write_bytes(old)
    refused(tmp_path, "goes on after commit 1")


def test_an_old_ledger_is_seen_also_when_each_log_goes_on_by_one_record_only(tmp_path: Path) -> None:
    rows = [(0, 0, 0, b"a" * SECTOR)], [(0, 0, 1, b"b" * SECTOR)], [(1, 1, 0, b"c" * SECTOR)]
    found = frames_of(rows)
    with store_at(tmp_path) as store:
        store.append(found[0])
        old = (tmp_path / "ledger").read_bytes()
        for f in found[1:]:
            store.append(f)
    (tmp_path / "ledger").write_bytes(old)
    refused(tmp_path, "goes on")


def test_an_old_ledger_is_seen_because_the_mirrors_are_past_it(tmp_path: Path) -> None:
    """It used to open, and to serve images of earlier cuts that held later writes."""
    found = some(4)
    with store_at(tmp_path) as store:
        for f in found:
            store.append(f)
        old = (tmp_path / "ledger").read_bytes()
        store.promote(found[2].upto)
    (tmp_path / "ledger").write_bytes(old)
    refused(tmp_path, "the mirrors may hold")


def test_a_last_append_without_its_ledger_entry_was_never_acknowledged(tmp_path: Path) -> None:
    found = some(3)
    with store_at(tmp_path / "s") as store:
        for f in found[:2]:
            store.append(f)
        old = (tmp_path / "s" / "ledger").read_bytes()
        store.append(found[2])
    (tmp_path / "s" / "ledger").write_bytes(old)
    with store_at(tmp_path / "s") as store:
        assert store.state.end == found[1].upto
        with pytest.raises(PlatformError, match="journal ends"):
            store.rebuild(Cut(1, found[2].upto), tmp_path / "images")
        store.append(found[2])


def test_a_missing_ledger_is_not_a_new_store(tmp_path: Path) -> None:
    """It used to begin anew, and to delete the journals."""
    with store_at(tmp_path) as store:
        store.append(some(1)[0])
    (tmp_path / "ledger").unlink()
    refused(tmp_path, "ledger is missing")


def test_entries_of_a_ledger_that_changed_places_are_seen(tmp_path: Path) -> None:
    with store_at(tmp_path) as store:
        for f in some(3):
            store.append(f)
    path = tmp_path / "ledger"
    whole = path.read_bytes()
    size = len(whole) // 4
    assert len({whole[at : at + size] for at in range(0, len(whole), size)}) == 4
    path.write_bytes(whole[: 2 * size] + whole[3 * size :] + whole[2 * size : 3 * size])
    refused(tmp_path, "entry 3 after entry 1")


def test_a_compacted_ledger_counts_on(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger", 0, int, compact_bytes=2048)) as one:
        for n in range(9):
            one.put(n)
    with closing(Ledger(tmp_path / "ledger", 0, int, compact_bytes=2048)) as one:
        assert (one.state, one.serial) == (8, 9)


# -- records in another's place ---------------------------------------------------------------------------------------


def test_rows_missing_at_the_end_of_an_epoch_are_seen(tmp_path: Path) -> None:
    """A segment cut where a record begins used to open: a new epoch follows with higher numbers anyway."""
    found = [*some(2), frame([(0, 0, 9, b"z" * SECTOR)], (5, 5), epoch=2)]
    with store_at(tmp_path, 700) as store:
        for f in found:
            store.append(f)
        lost = store._logs[0].entries[-2]
        assert lost.epoch == 1
        path = store._logs[0]._path(lost.segment)
        assert lost.segment < store.state.tails[0][0]
    os.truncate(path, lost.offset)
    refused(tmp_path, "does not continue|missing")


def test_an_old_segment_of_the_same_length_is_seen(tmp_path: Path) -> None:
    """One record a segment, all of one size: the last one replaced by an earlier one used to open."""
    found = some(3)
    with store_at(tmp_path, 1) as store:
        for f in found:
            store.append(f)
        store.promote(found[1].upto)
        last = store._logs[0]._path(store.state.tails[0][0])
        whole = last.read_bytes()
    with store_at(tmp_path / "before", 1) as store:
        for f in found[:2]:
            store.append(f)
        earlier = store._logs[0]._path(store.state.tails[0][0]).read_bytes()
    assert len(earlier) == len(whole)
    last.write_bytes(earlier)
    refused(tmp_path, "ends with row 2, 3 was acknowledged")


def test_a_record_of_another_stream_with_the_same_vms_is_refused(tmp_path: Path) -> None:
    other = STREAM._replace(vpg="erp")
    with closing(JournalStore(tmp_path, [SPEC, replace(SPEC, id=other)])) as journals:
        for f in some(2):
            journals.append(f)
            journals.append(replace(f, stream=other))
        mine, theirs = (journals.streams[s].directory for s in (STREAM, other))
    for name in ("vm-0/00000000.segment", "ledger"):
        whole = (mine / name).read_bytes()
        (mine / name).write_bytes((theirs / name).read_bytes())
        refused(mine, "erp")
        (mine / name).write_bytes(whole)
    with store_at(mine) as store:
        assert store.state.end == (2, 2)


def test_a_frame_of_another_stream_is_refused(tmp_path: Path) -> None:
    good = some(1)[0]
    strange = replace(good, stream=STREAM._replace(vpg="erp"))
    with store_at(tmp_path / "s") as store, pytest.raises(PeerError, match="erp"):
        store.append(strange)
    with closing(JournalStore(tmp_path / "j", [SPEC])) as journals, pytest.raises(PeerError, match="no stream"):
        journals.append(strange)


def test_what_a_stream_is_stands_in_its_directory(tmp_path: Path) -> None:
    other = replace(SPEC, id=STREAM._replace(vpg="erp"))
    with closing(JournalStore(tmp_path, [SPEC, other])) as journals:
        mine, theirs = (journals.streams[s].directory for s in (STREAM, other.id))
        assert JournalStore.found(tmp_path) == [SPEC, other]
        journals.discard(other.id, keep_disks=True)
    theirs.with_name(theirs.name + ".gone").mkdir()  # a crash came while it was deleted
    (tmp_path / "just%3Abegun").mkdir()
    assert JournalStore.found(tmp_path) == [SPEC]
    assert not theirs.with_name(theirs.name + ".gone").exists()
    whole = (mine / "spec").read_bytes()
    for at in range(len(whole)):
        (mine / "spec").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(PlatformError, match="spec is corrupt"):
            JournalStore.found(tmp_path)
    mine.rename(theirs)
    (theirs / "spec").write_bytes(whole)
    with pytest.raises(PlatformError, match="it is the spec of crm"):
        JournalStore.found(tmp_path)
    (theirs / "spec").unlink()
    with pytest.raises(PlatformError, match="No such file"):
        JournalStore.found(tmp_path)


# -- cuts that never were ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reopen", [False, True])
def test_a_cut_that_never_was_is_refused_not_rounded(tmp_path: Path, reopen: bool) -> None:
    """Numbers 3 .. 5 of epoch 1 never came. An image of "epoch 1, row 4" used to be that of row 2."""
    found = [*some(2), frame([(0, 0, 9, b"z" * SECTOR)], (5, 4), epoch=2)]
    store = StreamStore(tmp_path / "s", SPEC)
    for f in found:
        store.append(f)
    if reopen:
        store.close()
        store = StreamStore(tmp_path / "s", SPEC)
    with closing(store):
        for never in (Cut(1, (4, 2)), Cut(1, (6, 4)), Cut(2, (2, 2)), Cut(2, (5, 3)), Cut(3, (6, 4)), Cut(1, (2,))):
            with pytest.raises(PlatformError):
                store.rebuild(never, tmp_path / "images")
        for cut in (Cut(1, (2, 2)), Cut(1, (1, 2)), Cut(2, (5, 4)), Cut(2, (6, 4))):
            assert read_images(store.rebuild(cut, tmp_path / "images")) == contents(found, cut.position)


def test_an_epoch_begins_with_a_record_in_every_log(tmp_path: Path) -> None:
    nothing = frame([], (7, 9), epoch=4)
    with store_at(tmp_path / "s") as store:
        store.append(nothing)
        assert [log.entries[-1].last for log in store._logs] == [7, 9]
    with store_at(tmp_path / "s") as store:
        assert store.state.end == (7, 9)
        assert read_images(store.rebuild(Cut(4, (7, 9)), tmp_path / "images")) == contents([], (0, 0))
        store.append(frame([(1, 1, 0, b"a" * SECTOR)], (7, 9), epoch=4))
        store.promote((7, 10))
        assert list(store.rows(SPEC.vms[1])) == []


# -- mirrors ----------------------------------------------------------------------------------------------------------


def promoted(tmp_path: Path) -> list[Frame]:
    """A store whose mirrors hold three of four frames."""
    found = [*some(3), frame([(0, 0, 1, b"new" + bytes(SECTOR - 3))], (3, 3))]
    with store_at(tmp_path / "s") as store:
        for f in found:
            store.append(f)
        store.promote(found[2].upto)
    return found


@pytest.mark.parametrize("sector", [0, 1, 2, 40])
@pytest.mark.parametrize("name", ["volume-0.mirror", "volume-0.sums"])
def test_rot_in_a_mirror_is_never_served(tmp_path: Path, name: str, sector: int) -> None:
    found = promoted(tmp_path)
    path = tmp_path / "s" / name
    broken = bytearray(path.read_bytes())
    broken[sector * (SECTOR if name.endswith("mirror") else 4) + 3] ^= 0x20
    path.write_bytes(broken)
    with store_at(tmp_path / "s") as store:
        with pytest.raises(PlatformError, match=f"sector {sector}: checksum"):
            store.rebuild(Cut(1, found[2].upto), tmp_path / "images")
        assert not list((tmp_path / "images").iterdir()), "no image, not even a part of one"
        if sector == 1:  # written again since: nothing of the rot is left
            assert read_images(store.rebuild(Cut(1, (4, 3)), tmp_path / "images")) == contents(found, (4, 3))
            store.promote((4, 3))
            assert read_images(store.rebuild(Cut(1, (4, 3)), tmp_path / "images")) == contents(found, (4, 3))


def test_sectors_of_a_mirror_that_changed_places_are_seen(tmp_path: Path) -> None:
    found = promoted(tmp_path)
    for name, size in (("volume-0.mirror", SECTOR), ("volume-0.sums", 4)):
        path = tmp_path / "s" / name
        whole = path.read_bytes()
        path.write_bytes(whole[size : 2 * size] + whole[:size] + whole[2 * size :])
    with store_at(tmp_path / "s") as store, pytest.raises(PlatformError, match="sector 0 and 1 more"):
        store.rebuild(Cut(1, found[2].upto), tmp_path / "images")


@pytest.mark.parametrize("name", ["volume-0.mirror", "volume-0.sums"])
def test_a_mirror_that_is_gone_is_not_an_empty_one(tmp_path: Path, name: str) -> None:
    found = promoted(tmp_path)
    (tmp_path / "s" / name).unlink()
    with store_at(tmp_path / "s") as store, pytest.raises(PlatformError, match="checksum"):
        store.rebuild(Cut(1, found[2].upto), tmp_path / "images")


def test_a_mirror_that_is_gone_with_its_checksums_is_not_an_empty_one_either(tmp_path: Path) -> None:
    """It used to come back as zeros, and to be served. What is promoted to it afterwards is right again."""
    found = promoted(tmp_path)
    for name in ("volume-0.mirror", "volume-0.sums"):
        (tmp_path / "s" / name).unlink()
    for _ in range(2):  # and the next start does not forget
        with store_at(tmp_path / "s") as store:
            (flaw,) = store.scrub()
            assert "sector 0 and 63 more" in flaw.message
            with pytest.raises(PlatformError, match="checksum"):
                store.rebuild(Cut(1, found[2].upto), tmp_path / "images")
    every = frame([(0, 0, 0, b"w" * 64 * SECTOR)], (4, 3))
    with store_at(tmp_path / "s") as store:
        store.append(every)
        store.promote(every.upto)
        assert store.scrub() == []
        images = read_images(store.rebuild(Cut(1, every.upto), tmp_path / "images"))
        assert images == contents([*found, every], every.upto)


def test_a_mirror_that_never_held_anything_may_be_made_again(tmp_path: Path) -> None:
    with store_at(tmp_path / "s") as store:
        store.append(some(1)[0])
    for name in ("volume-0.mirror", "volume-0.sums"):
        (tmp_path / "s" / name).unlink()
    with store_at(tmp_path / "s") as store:
        assert store.scrub() == []


def test_a_large_mirror_is_verified_chunk_by_chunk(tmp_path: Path) -> None:
    from drsim.real.mirror import Mirror

    with closing(Mirror(tmp_path / "volume-9.mirror", 5000)) as mirror:
        mirror.write(2046, b"".join(bytes([n]) * SECTOR for n in range(1, 5)))
        with closing(mirror.copy(tmp_path / "one.img")) as image:
            assert not image.bad
        assert (tmp_path / "one.img").read_bytes() == (tmp_path / "volume-9.mirror").read_bytes()
        for sector in (2048, 4999):
            with (tmp_path / "volume-9.mirror").open("r+b") as file:
                file.seek(sector * SECTOR)
                file.write(b"rot")
        with closing(mirror.copy(tmp_path / "two.img")) as image:
            assert image.bad == {2048, 4999}


# -- disks that fail half way -----------------------------------------------------------------------------------------


def test_a_failed_take_back_leaves_every_descriptor_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log used to close its file before it had another; closing the store then closed somebody else's."""
    found = some(2)
    store = StreamStore(tmp_path / "s", SPEC, segment_bytes=1)
    store.append(found[0])
    real = os.open

    def dead(path: Path, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("00000000.segment"):
            raise OSError(5, "dead")
        return real(path, flags, mode)

    def no_room(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", dead)
        patch.setattr(os, "pwrite", no_room)
        with pytest.raises(PlatformError):
            store.append(found[1])
    assert "taken back" in store.closed
    others = [real(tmp_path, os.O_RDONLY) for _ in range(8)]
    store.close()
    for fd in others:
        os.close(fd)  # OSError if the store closed it


def test_a_list_that_may_have_changed_is_closed_until_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to go on with the list before, while the file, and so the next life, had the one after."""
    store = CatalogStore(tmp_path / "crm.json")
    one, two = (Checkpoint("crm", CheckpointId(n), Ns(n), {STREAM: Cut(1, (n, n))}) for n in (1, 2))
    store.keep(one)

    def failing(path: Path) -> None:
        raise OSError(5, "bad disk")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", failing)
        with pytest.raises(PlatformError, match="bad disk"):
            store.keep(two)
    assert list(store.checkpoints) == [1]
    with pytest.raises(PlatformError, match="closed to changes"):
        store.forget(CheckpointId(1))
    synced = []
    monkeypatch.setattr(catalog_store, "sync_directory", synced.append)
    again = CatalogStore(store.path)
    assert list(again.checkpoints) == [1, 2]
    assert synced == [tmp_path], "what was read holds from now on"
    again.forget(CheckpointId(2))


def test_what_is_opened_has_durable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that an earlier life failed to sync would be gone after the next crash, with what was put since."""
    with store_at(tmp_path / "s") as store:
        store.append(some(1)[0])
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or real(fd))
    with store_at(tmp_path / "s"):
        assert {str(tmp_path / "s"), str(tmp_path), str(tmp_path / "s" / "vm-0")} <= set(synced)
