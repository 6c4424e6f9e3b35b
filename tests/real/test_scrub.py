"""Scrub: a flipped bit is found wherever it lies in what a recovery may need, whether the site runs or not."""

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest
from live import SPEC, frames_of
from live_sites import Sites, on_sites, write_sites
from typer.testing import CliRunner

from drsim.cli.main import program
from drsim.core.errors import PlatformError
from drsim.core.messages import Checkpoint, Cut
from drsim.core.names import CheckpointId
from drsim.core.units import SECTOR, Ns
from drsim.real.catalog_store import CatalogStore
from drsim.real.journal_store import JournalStore
from drsim.real.scrub import scrub_folder, scrub_site
from drsim.real.state import FolderLock, StateFile
from drsim.real.stream_store import StreamStore

FRAMES = frames_of([[(0, 0, n, bytes([n + 1]) * SECTOR), (1, 1, n, bytes([n + 101]) * SECTOR)] for n in range(3)])


@pytest.fixture
def kept(tmp_path: Path, no_sync: None) -> Path:
    """What a site keeps of one stream: two frames in the mirrors, one in the journals, a list of one checkpoint."""
    folder = tmp_path / "leeds"
    with closing(JournalStore(folder / "journals", [SPEC], segment_bytes=700)) as journals:
        for each in FRAMES:
            journals.append(each)
        journals.promote(SPEC.id, FRAMES[1].upto)
    CatalogStore(folder / "catalogs" / "crm.json").keep(
        Checkpoint("crm", CheckpointId(1), Ns(5), {SPEC.id: Cut(1, FRAMES[2].upto)})
    )
    return folder


def test_what_nobody_touched_verifies(kept: Path) -> None:
    done = scrub_folder(kept)
    assert (done.streams, done.catalogs, done.flaws) == (1, 1, [])


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_where_it_lies(kept: Path) -> None:
    """One bit of every seventh byte; of mirrors, of one in five hundred."""
    files = sorted(path for path in kept.rglob("*") if path.is_file())
    assert len({path.name.partition("-")[0].partition(".")[0] for path in files}) >= 6
    before = {path: path.read_bytes() for path in files}
    for path, whole in before.items():
        step = 499 if path.suffix == ".mirror" else 7
        for at in range(0, len(whole), step):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            flaws = scrub_folder(kept).flaws
            assert flaws, f"{path} byte {at}"
            stem = path.stem if path.suffix == ".sums" else path.name
            assert any(stem in flaw.place or "goes on" in flaw.message for flaw in flaws), (path, at, flaws)
            for other, content in before.items():
                other.write_bytes(content)


def test_several_flaws_of_one_stream_are_all_told(kept: Path) -> None:
    (place,) = (kept / "journals").iterdir()
    with closing(StreamStore(place, SPEC)) as store:
        for volume in (0, 1):
            with (place / f"volume-{volume}.mirror").open("r+b") as file:
                file.write(b"rot")
        with next((place / "vm-1").iterdir()).open("r+b") as file:
            file.seek(300)
            file.write(b"rot")
        (place / "promoting").write_bytes(b"")
        told = {Path(flaw.place).name for flaw in store.scrub()}
    assert {name for name in told if not name.endswith(".segment")} == {
        "volume-0.mirror", "volume-1.mirror", "promoting",
    }  # fmt: skip
    assert len(told) == 4


def test_a_promotion_under_way_explains_what_it_will_overwrite_and_nothing_else(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash leaves it: both ledgers say how far, the mirrors may have any of it."""
    (place,) = (kept / "journals").iterdir()
    with closing(StreamStore(place, SPEC)) as store:
        put = store._ledger.put
        monkeypatch.setattr(
            store._ledger, "put", lambda state: put(state) if state.promoted != state.promoting else None
        )
        store.promote(FRAMES[2].upto)
    mirror = place / "volume-0.mirror"
    content = bytearray(mirror.read_bytes())
    content[2 * SECTOR : 2 * SECTOR + 3] = b"cut"  # the row of the third frame
    mirror.write_bytes(content)
    assert scrub_folder(kept).flaws == []
    content[0:3] = b"rot"
    mirror.write_bytes(content)
    (flaw,) = scrub_folder(kept).flaws
    assert "sector 0 does not verify" in flaw.message


# -- sites ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_site_that_runs_scrubs_itself(tmp_path: Path) -> None:
    write_sites(tmp_path)

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db"))
        await asyncio.to_thread(sites.write, "db/system", 0, b"a" * SECTOR)
        await sites.checkpoint("crm", "one")
        done = await scrub_site(sites.leeds)
        assert (done.streams, done.catalogs, done.flaws) == (1, 1, [])
        nothing = await scrub_site(sites.london)
        assert (nothing.streams, nothing.catalogs, nothing.flaws) == (0, 0, [])

        segment = next((tmp_path / "leeds" / "journals").glob("*/vm-*/*.segment"))
        catalog = tmp_path / "leeds" / "catalogs" / "crm.json"
        for path in (segment, catalog, tmp_path / "leeds" / "state.json"):
            whole = path.read_bytes()
            path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
            (flaw,) = (await scrub_site(sites.leeds)).flaws
            assert flaw.place == str(path)
            path.write_bytes(whole)

    on_sites(tmp_path, check)


def test_the_command_says_what_is_wrong_and_where(kept: Path) -> None:
    write_sites(kept.parent)
    command, run = ["scrub", str(kept.parent / "leeds.yaml")], CliRunner()
    fine = run.invoke(program(["scrub"]), command)
    assert (fine.exit_code, fine.output.strip()) == (
        0, "1 journal streams, 1 lists of checkpoints: everything verifies",
    )  # fmt: skip
    (kept / "catalogs" / "crm.json").write_text("{}")
    wrong = run.invoke(program(["scrub"]), [*command, "--json"])
    assert wrong.exit_code == 1
    (flaw,) = json.loads(wrong.output)["flaws"]
    assert flaw["place"].endswith("crm.json")
    assert "corrupt" in flaw["what"]
    told = run.invoke(program(["scrub"]), command)
    assert told.exit_code == 1
    assert "1 wrong" in told.output


def test_a_broken_state_is_seen_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    state = StateFile(path).put(lives=3, vms={"db": 1}, made=2)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(PlatformError, match="the site's state is corrupt"):
            StateFile(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(PlatformError):
            StateFile(path)
    assert any("state is corrupt" in flaw.message for flaw in scrub_folder(tmp_path).flaws)
    path.write_bytes(whole)
    assert StateFile(path).state == state
    assert scrub_folder(tmp_path).flaws == []


def test_a_site_that_never_ran_and_one_that_runs_elsewhere_are_told(tmp_path: Path) -> None:
    write_sites(tmp_path)
    command, run = ["scrub", str(tmp_path / "leeds.yaml")], CliRunner()
    never = run.invoke(program(["scrub"]), command)
    assert "never run" in str(never.exception)
    with closing(FolderLock(tmp_path / "leeds")):
        asked = run.invoke(program(["scrub"]), command)
    assert "does not answer" in str(asked.exception)
