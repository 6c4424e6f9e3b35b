"""Reverse protection of real VMs: fail over, protect the other way, write on, move back; whoever dies on the way."""

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest
from live_guests import begin, ended, power_off, prepare, protected
from live_sites import Sites, on_sites
from nbd_client import connected
from programs import program

from drsim.core.recovery.plan import Commit, Kind, Shutdown
from drsim.real.installation import Installation
from drsim.real.local import guest


@pytest.fixture(autouse=True)
def _qemu() -> None:
    program("qemu-system-x86_64", "qemu-system-x86")


async def tagged(sites: Sites, source: Installation, target: Installation, tag: str) -> dict[int, bytes]:
    """A checkpoint under a name, rebuilt: the content of each volume."""
    source.tag("crm", tag)
    await sites.until(lambda: any(c.tag == tag for c in target.listed("crm")))
    found = next(c for c in target.listed("crm") if c.tag == tag)
    assert target.site.journals is not None
    made = target.site.journals.rebuild(found.cut, sites.folder / f"images {tag}")
    return {volume: path.read_bytes() for volume, path in made.items()}


def rounds(content: bytes, into: Path) -> int:
    into.write_bytes(content)
    return guest.rounds(into)


def turned(site: Installation) -> bool:
    known = site.state.state.vpgs.get("crm")
    return known is not None and known.vpg.source == site.spec.site


@pytest.mark.parametrize("processes", [False, True], ids=["one process", "hosts' processes"])
def test_there_and_back_again(tmp_path: Path, processes: bool) -> None:
    prepare(tmp_path, processes=processes)

    async def there(sites: Sites) -> None:
        await protected(sites)
        await sites.checkpoint("crm", "good")
        wish = {"checkpoint": "good", "commit": Commit.COMMIT, "instant": True, "reverse": True}
        report = await ended(sites, sites.leeds, begin(sites.leeds, Kind.LIVE, shutdown=Shutdown.FORCE, **wish))
        assert (report["outcome"], report["people"]) == ("committed", [])
        assert report["rpo_s"] is not None
        assert turned(sites.leeds)
        assert sorted(sites.london.hypervisor.vms()) == [], "they are at the other side now"
        before = {
            v: rounds(c, tmp_path / "x") for v, c in (await tagged(sites, sites.leeds, sites.london, "a")).items()
        }
        after = await tagged(sites, sites.leeds, sites.london, "b")
        assert all(rounds(after[v], tmp_path / "x") >= n > 0 for v, n in before.items())
        assert "E" not in sites.leeds.hypervisor.printed("db"), "no guest has seen an error"

    async def another_life(sites: Sites) -> None:
        """Both sites were restarted; protection the other way goes on, and the source's disk is the one that counts."""
        await sites.leeds.hypervisor.wait("db", 20)
        before = await tagged(sites, sites.leeds, sites.london, "c")
        await power_off(sites)
        splitter = sites.leeds.splitter  # what a dead VM had sent is still written: it may be later than the checkpoint
        await sites.until(lambda: not any(splitter.users(export) for export in splitter.exports))
        last = await tagged(sites, sites.leeds, sites.london, "d")
        for volume, disk in sites.leeds.site.disks.items():
            assert disk.path.read_bytes() == last[volume], "byte for byte"
            assert rounds(last[volume], tmp_path / "x") >= rounds(before[volume], tmp_path / "x")
        await sites.leeds.hypervisor.power_on("db")
        await sites.leeds.hypervisor.power_on("app")

    async def back(sites: Sites) -> None:
        wish = {"shutdown": Shutdown.FORCE, "commit": Commit.COMMIT, "reverse": True}
        disks = {v: d.path for v, d in sites.leeds.site.disks.items()}
        number = begin(sites.london, Kind.MOVE, **wish)
        await sites.until(lambda: not any(sites.leeds.hypervisor.pid(n) for n in ("db", "app")))
        final = {volume: guest.rounds(path) for volume, path in disks.items()}
        report = await ended(sites, sites.london, number)
        assert (report["outcome"], report["people"]) == ("committed", [])
        assert turned(sites.london)
        assert sites.leeds.hypervisor.vms() == {}
        assert sites.london.state.state.adopted == {}, "their disks are again where the site's file says"
        for name, rounds_then in zip(("db", "app"), final.values(), strict=True):
            assert guest.rounds(tmp_path / f"{name}.disk") >= rounds_then, "nothing that was acknowledged is lost"
        so_far = guest.rounds(tmp_path / "db.disk")
        await sites.until(lambda: guest.rounds(tmp_path / "db.disk") > so_far)
        await tagged(sites, sites.london, sites.leeds, "home")
        assert sites.london.known("crm").generation > 3

    on_sites(tmp_path, there, another_life, back, last=power_off)


@pytest.mark.slow
def test_the_old_disks_are_not_trusted_and_only_what_differs_is_sent(tmp_path: Path) -> None:
    """Somebody wrote to the old source's disk meanwhile; half of it is the same on both sides, and stays there."""
    prepare(tmp_path)
    for name in ("db", "app"):
        with (tmp_path / f"{name}.disk").open("r+b") as file:
            file.seek(512 << 10)
            file.write(random.Random(name).randbytes(512 << 10))

    async def check(sites: Sites) -> None:
        await protected(sites)
        wish = {"commit": Commit.COMMIT, "shutdown": Shutdown.FORCE}
        report = await ended(sites, sites.leeds, begin(sites.leeds, Kind.LIVE, **wish))
        assert report["outcome"] == "committed", report
        await power_off(sites)
        with (tmp_path / "db.disk").open("r+b") as file:
            file.seek(300 << 10)
            file.write(b"somebody was here" * 100)
        sent = sites.leeds.site.end.sent if sites.leeds.site.end else 0
        report = await ended(sites, sites.leeds, begin(sites.leeds, Kind.REVERSE))
        assert report["outcome"] == "done", report
        last = await tagged(sites, sites.leeds, sites.london, "all")
        for volume, disk in sites.leeds.site.disks.items():
            assert disk.read(0, disk.size) == last[volume]
        assert sites.leeds.site.end
        assert 0 < sites.leeds.site.end.sent - sent < 700_000, "not what is the same"
        assert (await ended(sites, sites.london, begin(sites.london, Kind.REVERSE)))["reasons"] != []

    on_sites(tmp_path, check, last=power_off)


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["asked", "deleted", "half"])
def test_a_site_that_dies_on_the_way_ends_it_all_the_same(tmp_path: Path, dies: str, monkeypatch: Any) -> None:
    """A site stops before the other has heard, after the old VPG is gone, or before the VMs are its own."""
    prepare(tmp_path)

    async def until_it_dies(sites: Sites) -> None:
        await protected(sites)
        reversal, dead = sites.leeds.reversal, asyncio.Event()

        async def hangs(*_: Any) -> None:
            dead.set()
            await asyncio.sleep(1000)

        if dies == "asked":
            monkeypatch.setattr(sites.leeds.desk, "ask", _unless_turning(sites.leeds.desk.ask, hangs))
        elif dies == "half":
            monkeypatch.setattr(reversal, "_take_over", hangs)
        else:
            monkeypatch.setattr(sites.london, "adopt", lambda known: dead.set())
        wish = {"commit": Commit.COMMIT, "shutdown": Shutdown.FORCE, "reverse": True}
        begin(sites.leeds, Kind.LIVE, **wish)
        await asyncio.wait_for(dead.wait(), 40)
        monkeypatch.undo()

    async def after(sites: Sites) -> None:
        report = await ended(sites, sites.leeds, 1)
        assert (report["outcome"], report["people"]) == ("committed", [])
        assert turned(sites.leeds)
        await sites.leeds.hypervisor.wait("db", 20)
        content = await tagged(sites, sites.leeds, sites.london, "all")
        assert all(rounds(each, tmp_path / "x") > 0 for each in content.values())

    on_sites(tmp_path, until_it_dies, after, last=power_off)


def _unless_turning(ask: Any, instead: Any) -> Any:
    async def asked(request: Any) -> Any:
        return await (instead() if request.do == "turn round" else ask(request))

    return asked


@pytest.mark.parametrize("processes", [False, True], ids=["one process", "hosts' processes"])
def test_nobody_uses_a_disk_at_the_old_source_any_more(tmp_path: Path, processes: bool) -> None:
    """A client that is not the VM: a mirror is under the disk now, and nobody else may write to it."""
    prepare(tmp_path, processes=processes)

    async def check(sites: Sites) -> None:
        await protected(sites)
        with connected(sites.london.folder / "nbd.sock", "db/system") as client:
            assert await asyncio.to_thread(client.read, 0, 512)
            wish = {"commit": Commit.COMMIT, "shutdown": Shutdown.FORCE, "reverse": True}
            report = await ended(sites, sites.leeds, begin(sites.leeds, Kind.LIVE, **wish))
            assert (report["outcome"], report["people"]) == ("committed", [])
            with pytest.raises((OSError, EOFError)):
                await asyncio.to_thread(client.write, 0, b"late" * 128)
        await tagged(sites, sites.leeds, sites.london, "all")
        for host in sites.london.site.hosts.values():
            assert host.pid is not None
            opened = [os.readlink(path) for path in Path(f"/proc/{host.pid}/fd").iterdir()]
            assert not [path for path in opened if path.endswith(".disk")]

    on_sites(tmp_path, check, last=power_off)
