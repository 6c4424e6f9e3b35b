"""The catalogue's file: what was kept is there, what was forgotten is not, and a broken file is seen."""

from contextlib import suppress
from pathlib import Path

import pytest
from live import STREAM, dying_disk, full_disk, watched_disk

from drsim.core.errors import PlatformError, StoreFull
from drsim.core.messages import Checkpoint, Cut
from drsim.core.names import CheckpointId
from drsim.core.units import Ns
from drsim.real.catalog_store import CatalogStore
from drsim.real.codec import plain


def checkpoint(n: int) -> Checkpoint:
    return Checkpoint("crm", CheckpointId(n), Ns(n * 10), {STREAM: Cut(1, (n, n))}, f"tag {n}")


def test_what_was_kept_is_there(tmp_path: Path) -> None:
    store = CatalogStore(tmp_path / "c" / "crm.json")
    for n in range(1, 6):
        store.keep(checkpoint(n))
    store.forget(CheckpointId(3))
    again = CatalogStore(store.path).checkpoints
    assert again == {n: checkpoint(n) for n in (3, 4, 5)} == store.checkpoints
    store.forget(None)
    assert not CatalogStore(store.path).checkpoints


def test_the_new_list_is_durable_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CatalogStore(tmp_path / "crm.json")
    with watched_disk(monkeypatch) as seen:
        store.keep(checkpoint(1))
    beside = "crm.json.new"
    assert seen == [("pwrite", beside), ("fsync", beside), ("replace", beside), ("fsync", tmp_path.name)]


def test_a_long_list_is_not_written_out_anew_for_each_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day at a checkpoint every 5 s is 17,280 of them: once, keeping one took longer than the next needed to come."""
    store = CatalogStore(tmp_path / "crm.json")
    for number in range(1, 30):
        store.keep(checkpoint(number))
    written: list[object] = []
    monkeypatch.setattr("drsim.real.catalog_store.plain", lambda value: written.append(value) or plain(value))
    again = CatalogStore(store.path)
    written.clear()
    for each in (store, again):
        each.keep(checkpoint(30))
        each.forget(CheckpointId(7))
    assert written == [checkpoint(30), checkpoint(30)]
    assert list(CatalogStore(store.path).checkpoints) == list(range(7, 31))


def test_a_broken_file_is_seen(tmp_path: Path) -> None:
    store = CatalogStore(tmp_path / "crm.json")
    store.keep(checkpoint(1))
    whole = store.path.read_bytes()
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x04
        store.path.write_bytes(broken)
        try:
            found = CatalogStore(store.path).checkpoints
        except PlatformError:
            continue
        assert found == store.checkpoints, "only white space may change unseen"
    for size in range(len(whole)):
        store.path.write_bytes(whole[:size])
        with pytest.raises(PlatformError):
            CatalogStore(store.path)


def test_a_crash_leaves_the_list_before_or_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for crash in range(20):
        store = CatalogStore(tmp_path / f"{crash}" / "crm.json")
        store.keep(checkpoint(1))
        with dying_disk(monkeypatch, crash) as count, suppress(PlatformError):
            store.keep(checkpoint(2))
        seen.add(tuple(CatalogStore(store.path).checkpoints))
        if count[0] <= crash:
            break
    assert seen == {(1,), (1, 2)}


def test_a_full_disk_leaves_the_list_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CatalogStore(tmp_path / "crm.json")
    store.keep(checkpoint(1))
    with full_disk(monkeypatch, 0), pytest.raises(StoreFull):
        store.keep(checkpoint(2))
    assert list(store.checkpoints) == list(CatalogStore(store.path).checkpoints) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["crm.json"]
