"""JournalCopy: journals and lists in an object store, lost, fetched back: scrub is clean, checkpoints are equal."""

import asyncio
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import SPEC, frame, some_rows

from drsim.core.errors import PlatformError
from drsim.core.messages import Checkpoint, Cut
from drsim.core.names import CheckpointId, StreamId
from drsim.core.units import Ns
from drsim.real.catalog_store import CatalogStore
from drsim.real.journal_copy import JournalCopy, fetch
from drsim.real.journal_store import JournalStore
from drsim.real.ports import NotFound
from drsim.real.scrub import scrub_folder

pytestmark = pytest.mark.usefixtures("no_sync")


class Memory:
    """An object store in memory. It fails once after `left` writes; the last one may or may not be there."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.left, self.done = 1 << 60, False

    async def put(self, key: str, data: bytes) -> bool:
        if not self.left:
            self.left = 1 << 60
            if self.done:
                self.objects.setdefault(key, data)
            raise PlatformError("the store does not answer")
        self.left -= 1
        if key in self.objects:
            return False
        self.objects[key] = data
        return True

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFound(f"no {key}")
        return self.objects[key][start : None if length is None else start + length]

    async def keys(self, prefix: str) -> Sequence[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)


async def now(stream: StreamId, work: Callable[[], Any]) -> Any:
    """A lane of a site where nothing else happens."""
    return work()


class Site:
    """A recovery site's folder with one stream, and a checkpoint after each frame."""

    def __init__(self, folder: Path, objects: Any, *, rebase: int = 1 << 30, segment: int = 3000) -> None:
        self.folder, self.objects, self.rebase = folder, objects, rebase
        self.rng = random.Random(1)
        self.journals = JournalStore(folder / "journals", [SPEC], segment_bytes=segment)
        self.catalog = CatalogStore(folder / "catalogs" / "crm.json")
        self.busy = False
        """Whether frames come and checkpoints age while a round copies."""
        self.copier()

    async def lane(self, stream: StreamId, work: Callable[[], Any]) -> Any:
        """Between two pieces of work of a round."""
        if self.busy and self.rng.random() < 0.5:
            self.write()
            self.promote(self.rng.randint(1, 3))
        return work()

    def copier(self) -> None:
        """A new process copies."""
        self.copy = JournalCopy(self.objects, self.journals, rebase_bytes=self.rebase)

    def write(self) -> None:
        store = self.journals.streams[SPEC.id]
        self.journals.append(frame(some_rows(self.rng), store.state.end))
        number = max(self.catalog.checkpoints, default=0) + 1
        cut = {SPEC.id: Cut(1, store.state.end)}
        self.catalog.keep(Checkpoint("crm", CheckpointId(number), Ns(number), cut))

    def promote(self, keep: int) -> None:
        """Age all but the last so many checkpoints."""
        if len(self.catalog.checkpoints) > keep:
            first = sorted(self.catalog.checkpoints)[-keep]
            self.catalog.forget(first)
            self.journals.promote(SPEC.id, self.catalog.checkpoints[first].cut[SPEC.id].position)

    def round(self) -> None:
        path = self.folder / "catalogs" / "crm.json"
        asyncio.run(self.copy.round(self.lane, lambda: {"crm": path.read_bytes()} if path.exists() else {}))

    def images(self, into: Path) -> dict[int, dict[int, bytes]]:
        """What every checkpoint restores to."""
        found = {}
        for number, checkpoint in self.catalog.checkpoints.items():
            made = self.journals.rebuild(checkpoint.cut, into / str(number))
            found[int(number)] = {volume: path.read_bytes() for volume, path in made.items()}
            shutil.rmtree(into / str(number))
        return found

    def lose(self) -> None:
        """The disk is gone."""
        self.journals.close()
        shutil.rmtree(self.folder / "journals")
        shutil.rmtree(self.folder / "catalogs")

    def come_back(self) -> dict[str, int]:
        """Fetch everything; all of it verifies."""
        found = asyncio.run(fetch(self.objects, self.folder))
        assert scrub_folder(self.folder).flaws == []
        self.journals = JournalStore(self.folder / "journals", JournalStore.found(self.folder / "journals"))
        self.catalog = CatalogStore(self.folder / "catalogs" / "crm.json")
        self.copier()
        return found


OPS = st.lists(
    st.sampled_from(["write", "write", "write", "promote", "round", "copier", "fail", "fail done"]), max_size=40
)


@settings(max_examples=40)
@given(ops=OPS, rebase=st.sampled_from([1, 4000, 1 << 30]))
def test_whatever_happened_what_was_copied_comes_back(
    ops: list[str], rebase: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rounds that fail anywhere, copiers that die, writes and promotions within a round: the last one comes back."""
    folder, objects = tmp_path_factory.mktemp("site"), Memory()
    site = Site(folder / "leeds", objects, rebase=rebase)
    for op in ops:
        match op:
            case "write":
                site.write()
            case "promote":
                site.promote(3)
            case "round":
                with suppress(PlatformError):
                    site.round()
            case "copier":
                site.copier()
            case "busy" | "calm":
                site.busy = op == "busy"
            case _:
                objects.left, objects.done = site.rng.randint(0, 6), op == "fail done"
    objects.left, site.busy = 1 << 60, False
    site.copier()
    site.write()
    site.round()
    before = site.images(folder / "images")
    site.lose()
    site.come_back()
    assert site.images(folder / "images") == before
    site.write()
    site.promote(2)
    site.round()
    before = site.images(folder / "images")
    site.lose()
    site.come_back()
    assert site.images(folder / "images") == before
    site.journals.close()
    shutil.rmtree(folder)


def test_a_mirror_that_changes_while_it_is_read_is_a_base_all_the_same(tmp_path: Path) -> None:
    site = Site(tmp_path / "leeds", Memory(), segment=1 << 20)
    for _ in range(6):
        site.write()
    site.promote(3)
    promoted = site.journals.streams[SPEC.id].state.promoted
    site.rng, site.busy = random.Random(4), True
    site.round()
    site.busy = False
    assert site.journals.streams[SPEC.id].state.promoted != promoted
    site.write()
    site.round()
    assert len([key for key in site.objects.objects if "/bases/" in key]) == 1
    before = site.images(tmp_path / "images")
    site.lose()
    site.come_back()
    with closing(site.journals):
        assert site.images(tmp_path / "images") == before


def test_a_round_costs_what_is_new(tmp_path: Path) -> None:
    objects = Memory()
    site = Site(tmp_path / "leeds", objects)
    for _ in range(20):
        site.write()
    site.round()
    puts, held = len(objects.objects), sum(map(len, objects.objects.values()))
    site.round()
    assert len(objects.objects) == puts
    site.write()
    site.round()
    new = sum(map(len, objects.objects.values())) - held
    grown = sum(path.stat().st_size for path in (site.folder / "catalogs").iterdir())
    assert 0 < new < grown + 15_000
    assert len(objects.objects) <= puts + 4  # a piece of each VM, a head, a list
    site.journals.close()


def test_two_copiers_of_one_site_see_each_other(tmp_path: Path) -> None:
    site = Site(tmp_path / "leeds", Memory())
    site.write()
    site.round()
    other = JournalCopy(site.objects, site.journals)
    site.write()
    asyncio.run(other.round(now, dict))
    site.write()
    with pytest.raises(PlatformError, match="another process"):
        site.round()
    site.journals.close()


def test_a_rotten_mirror_is_no_base(tmp_path: Path) -> None:
    site = Site(tmp_path / "leeds", Memory())
    for _ in range(6):
        site.write()
    site.promote(2)
    (place,) = (site.folder / "journals").iterdir()
    with (place / "volume-0.mirror").open("r+b") as file:
        file.write(b"rot")
    with pytest.raises(PlatformError, match="does not verify"):
        site.round()
    site.journals.close()


def test_nothing_is_overwritten_and_a_discarded_stream_does_not_come_back(tmp_path: Path) -> None:
    site = Site(tmp_path / "leeds", Memory())
    site.write()
    site.round()
    with pytest.raises(PlatformError, match="there is one already"):
        asyncio.run(fetch(site.objects, site.folder))
    site.journals.discard(SPEC.id, keep_disks=False)
    site.round()
    site.lose()
    assert site.come_back() == {"crm": 0}
    assert not site.journals.streams


def test_a_list_keeps_what_the_streams_can_serve(tmp_path: Path) -> None:
    """A list that is older than the base: its checkpoints before the mirrors are left out, the others stay."""
    site = Site(tmp_path / "leeds", Memory(), rebase=1)
    for _ in range(8):
        site.write()
    site.round()
    old = (site.folder / "catalogs" / "crm.json").read_bytes()
    site.promote(3)
    for _ in range(3):
        site.write()
        asyncio.run(site.copy.round(now, lambda: {"crm": old}))
    site.lose()
    found = site.come_back()
    assert 0 < found["crm"] < 8
    with closing(site.journals):
        assert set(site.images(tmp_path / "images")) == set(site.catalog.checkpoints)
