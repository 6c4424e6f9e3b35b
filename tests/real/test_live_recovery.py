"""Recovery of real VMs: a guest that writes what can be checked, two sites, every operation, a manager that dies."""

import asyncio
from pathlib import Path
from typing import Any

import live_guests
import pytest
from live_guests import power_off, prepare, protected
from live_sites import Sites, on_sites
from programs import program

from drsim.core.errors import FileError
from drsim.core.events import Verdict
from drsim.core.recovery.plan import Commit, Kind, Shutdown
from drsim.real.local import guest
from drsim.real.transport import Connector


@pytest.fixture(autouse=True)
def _qemu() -> None:
    program("qemu-system-x86_64", "qemu-system-x86")


def begin(sites: Sites, kind: Kind, **wish: Any) -> int:
    return live_guests.begin(sites.leeds, kind, **wish)


async def over(sites: Sites, number: int) -> dict[str, Any]:
    return await live_guests.ended(sites, sites.leeds, number)


async def waiting(sites: Sites, number: int) -> None:
    await sites.until(lambda: sites.leeds.recoveries.running[number].waiting)


def disk(sites: Sites, name: str, volume: int) -> Path:
    return sites.leeds.recoveries.disks.folder / name / f"volume-{volume}.disk"


def whole(sites: Sites, name: str, into: Path) -> int:
    """How many rounds a recovered disk holds, whatever part of it is still below."""
    found = sites.leeds.splitter.exports[f"{name}/system"]
    into.write_bytes(bytes(found.read(0, guest.LEAST)))
    return guest.rounds(into)


def run(tmp_path: Path, *checks: Any) -> None:
    prepare(tmp_path)
    on_sites(tmp_path, *checks, last=power_off)


def test_a_failover_test_runs_beside_and_leaves_nothing(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        await protected(sites)
        await sites.checkpoint("crm", "good")
        number = begin(sites, Kind.TEST, checkpoint="good")
        await waiting(sites, number)
        assert sites.leeds.hypervisor.pid("db-test")
        assert sites.leeds.hypervisor.pid("app-test")
        assert whole(sites, "db-test", tmp_path / "x") >= 1, "it goes on from the checkpoint"
        assert sites.london.hypervisor.pid("db"), "production runs on"
        newest = sites.leeds.listed("crm")[-1].id
        await sites.until(lambda: sites.leeds.listed("crm")[-1].id > newest)
        sites.leeds.recoveries.decide(number, Verdict.COMMIT, "all fine")
        report = await over(sites, number)
        assert report["outcome"] == "done", report
        assert sites.leeds.hypervisor.vms() == {}
        assert sorted(p.name for p in sites.leeds.recoveries.disks.folder.glob("*")) == []
        known = sites.leeds.known("crm")
        assert known.pins == ()
        assert list(known.notes.values()) == ["tested: all fine"]
        assert (known.generation, known.fenced) == (1, False)

    run(tmp_path, check)


def test_a_failover_takes_the_vms_over_for_good(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        await protected(sites)
        before = {name: guest.rounds(tmp_path / f"{name}.disk") for name in ("db", "app")}
        await sites.checkpoint("crm", "good")
        number = begin(sites, Kind.LIVE, checkpoint="good", shutdown=Shutdown.FORCE, commit=Commit.COMMIT)
        report = await over(sites, number)
        assert report["outcome"] == "committed", report
        assert report["people"] == []
        assert 0 < report["rto_s"] < 20
        assert sites.london.hypervisor.pid("db") is None
        for name in ("db", "app"):
            await sites.leeds.hypervisor.wait(name, 10)
            path = disk(sites, name, {"db": 1, "app": 2}[name])
            assert path.with_suffix(".whole").exists(), "nothing is below any more"
            assert guest.rounds(path) >= before[name]
        assert "E" not in sites.leeds.hypervisor.printed("db")

    async def again(sites: Sites) -> None:
        """The VM outlives the site's process, and has its disk again."""
        so_far = guest.rounds(disk(sites, "db", 1))
        assert sites.leeds.hypervisor.pid("db")
        await sites.until(lambda: guest.rounds(disk(sites, "db", 1)) > so_far)
        assert "E" not in sites.leeds.hypervisor.printed("db")
        with pytest.raises(FileError, match="is over"):
            sites.leeds.recoveries.decide(1, Verdict.ROLL_BACK)
        assert (await over(sites, begin(sites, Kind.LIVE)))["outcome"] == "refused"

    run(tmp_path, check, again)


def test_a_connection_that_breaks_and_comes_back_fails_no_failover(tmp_path: Path, monkeypatch: Any) -> None:
    """While the source stops its VMs; the answer is lost, and it is asked again."""

    async def check(sites: Sites) -> None:
        await protected(sites)
        stop, end = sites.london.desk._stop, sites.london.site.end
        assert isinstance(end, Connector)

        async def stopped(*words: Any, **named: Any) -> None:
            await stop(*words, **named)
            if end.breaks == 0:
                end.sever()
                asyncio.get_running_loop().call_later(0.3, end.mend)

        monkeypatch.setattr(sites.london.desk, "_stop", stopped)
        report = await over(sites, begin(sites, Kind.LIVE, shutdown=Shutdown.FORCE, commit=Commit.COMMIT))
        assert end.breaks == 1
        assert (report["outcome"], report["reasons"], report["people"]) == ("committed", [], [])

    run(tmp_path, check)


def test_a_failover_that_is_rolled_back_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        await protected(sites)
        number = begin(sites, Kind.LIVE, shutdown=Shutdown.FORCE)
        await waiting(sites, number)
        assert sites.london.hypervisor.pid("db") is None
        sites.leeds.recoveries.decide(number, Verdict.ROLL_BACK, "wrong alarm")
        report = await over(sites, number)
        assert (report["outcome"], report["reasons"]) == ("rolled back", ["wrong alarm"])
        assert sites.leeds.hypervisor.vms() == {}
        for name in ("db", "app"):
            await sites.london.hypervisor.wait(name, 20)
        kept = await sites.checkpoint("crm", "protected again")
        for volume, content in sites.rebuilt(kept, "images").items():
            (tmp_path / "x").write_bytes(content)
            assert guest.rounds(tmp_path / "x") > 0, volume

    run(tmp_path, check)


def test_a_move_loses_nothing(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        await protected(sites)
        number = begin(sites, Kind.MOVE, shutdown=Shutdown.FORCE, commit=Commit.COMMIT)
        report = await over(sites, number)
        assert report["outcome"] == "committed", report
        assert guest.rounds(disk(sites, "db", 1)) >= guest.rounds(tmp_path / "db.disk"), "every acknowledged round"
        assert sites.london.hypervisor.pid("db") is None

    run(tmp_path, check)


def test_a_clone_and_a_restored_volume_stand_by_themselves(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        await protected(sites)
        kept = await sites.checkpoint("crm", "good")
        images = sites.rebuilt(kept, "images")
        assert (await over(sites, begin(sites, Kind.CLONE, checkpoint="good")))["outcome"] == "done"
        restore = begin(sites, Kind.RESTORE, checkpoint="good", volume="app/system")
        assert (await over(sites, restore))["outcome"] == "done"
        assert disk(sites, "db-clone", 1).read_bytes() == images[1]
        assert disk(sites, f"crm-volume-2-{restore}", 2).read_bytes() == images[2]
        assert sites.leeds.hypervisor.pid("db-clone") is None

    run(tmp_path, check)


@pytest.mark.slow
@pytest.mark.parametrize("steps", range(0, 36, 5))
def test_a_site_that_dies_at_any_step_ends_the_operation_all_the_same(tmp_path: Path, steps: int) -> None:
    """From some answer on nothing that the workflow asks for is done; the next life goes on with the history."""
    found: list[int] = []

    async def until_it_dies(sites: Sites) -> None:
        await protected(sites)
        site, told = sites.leeds.site, 0
        dead = asyncio.Event()

        def dying(now: Any, to: Any, event: Any) -> None:
            nonlocal told
            told += "/operation/" in to
            if told > steps:
                site.perform = lambda id_, effect: None
                dead.set()

        site.listeners.append(dying)
        found.append(begin(sites, Kind.LIVE, checkpoint="first", shutdown=Shutdown.FORCE, commit=Commit.COMMIT))
        await sites.until(lambda: dead.is_set() or not sites.leeds.recoveries.running)

    async def after(sites: Sites) -> None:
        report = await over(sites, found[0])
        assert report["outcome"] == "committed", report
        assert sorted(sites.leeds.hypervisor.vms()) == ["app", "db"]
        for name, volume in (("db", 1), ("app", 2)):
            await sites.leeds.hypervisor.wait(name, 20)
            assert guest.rounds(disk(sites, name, volume)) > 0
        assert sites.leeds.known("crm").pins == ()

    run(tmp_path, until_it_dies, after)
