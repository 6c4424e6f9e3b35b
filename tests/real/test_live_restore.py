"""Restoring live: a volume in its place with a commit of its own, and files out of a volume that is not copied."""

import asyncio
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from live_guests import begin, ended
from live_sites import Sites, on_sites, write_sites
from nbd_client import connected
from programs import program

from drsim.core.errors import FileError
from drsim.core.events import Verdict
from drsim.core.recovery.plan import Commit, Kind

SIZE = 4 << 20


def scribble(sites: Sites, seed: int) -> None:
    """A guest writes here and there, by the seed."""
    rng = random.Random(seed)
    with connected(sites.london.folder / "nbd.sock", "db/system") as client:
        for _ in range(20):
            at = rng.randrange(SIZE // 512 - 16) * 512
            assert client.write(at, rng.randbytes(512 * rng.randrange(1, 16))) == 0


def content(sites: Sites) -> bytes:
    return bytes(sites.london.site.disks[1].read(0, SIZE))  # type: ignore[index]


async def protected(sites: Sites) -> tuple[bytes, bytes]:
    """What the volume held at the checkpoint `good`, and what it holds now."""
    await sites.london.protect(sites.vpg("crm", "db"))
    scribble(sites, 1)
    await sites.checkpoint("crm", "good")
    good = content(sites)
    scribble(sites, 2)
    await sites.checkpoint("crm", "later")
    return good, content(sites)


async def waiting(sites: Sites, number: int) -> None:
    await sites.until(lambda: sites.leeds.recoveries.running[number].waiting)


def in_place(sites: Sites, **wish: Any) -> int:
    wish = {"volume": "db/system", "checkpoint": "good", "in_place": True, **wish}
    return begin(sites.leeds, Kind.RESTORE, **wish)


def test_a_volume_is_restored_in_its_place_and_taken_back_or_kept(tmp_path: Path) -> None:
    write_sites(tmp_path)

    async def check(sites: Sites) -> None:
        good, later = await protected(sites)
        aside = sites.london.folder / "aside"
        number = in_place(sites)
        await waiting(sites, number)
        assert content(sites) == good
        kept = await sites.checkpoint("crm", "restored")
        assert sites.rebuilt(kept, "images")[1] == good, "replication noticed as of any write"
        scribble(sites, 3)
        sites.leeds.recoveries.decide(number, Verdict.ROLL_BACK, "the wrong one")
        report = await ended(sites, sites.leeds, number)
        assert (report["outcome"], report["people"]) == ("rolled back", [])
        assert content(sites) == later, "also where a guest wrote meanwhile"
        assert list(aside.iterdir()) == []

        report = await ended(sites, sites.leeds, in_place(sites, commit=Commit.COMMIT))
        assert (report["outcome"], report["people"]) == ("done", [])
        assert content(sites) == good
        assert list(aside.iterdir()) == []
        assert list(sites.leeds.recoveries.disks.folder.iterdir()) == []
        kept = await sites.checkpoint("crm", "for good")
        assert sites.rebuilt(kept, "images again")[1] == good

    on_sites(tmp_path, check)


def test_a_volume_in_use_is_not_written_and_a_vm_waits_for_its_volume(tmp_path: Path) -> None:
    write_sites(tmp_path)

    async def check(sites: Sites) -> None:
        _, later = await protected(sites)
        with connected(sites.london.folder / "nbd.sock", "db/system") as client:
            assert client.write(0, content(sites)[:512]) == 0
            report = await ended(sites, sites.leeds, in_place(sites))
            assert (report["outcome"], report["people"]) == ("failed", [])
            assert "when the VM is off" in report["reasons"][0]
        assert content(sites) == later
        (sites.london.folder / "aside").mkdir(exist_ok=True)
        (sites.london.folder / "aside" / "crm-volume-1-9.writing").touch()
        with pytest.raises(FileError, match="is being restored"):
            sites.london.restoring.check("db")
        sites.london.restoring.check("app")

    on_sites(tmp_path, check)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["leeds", "london"])
@pytest.mark.parametrize("step", ["keep aside", "put back", "settle aside"])
def test_a_site_that_dies_goes_on(tmp_path: Path, site: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sites(tmp_path)
    truth: list[bytes] = []

    async def until_it_dies(sites: Sites) -> None:
        good, _ = await protected(sites)
        truth.append(good)
        dying, dead, asked = sites.leeds if site == "leeds" else sites.london, asyncio.Event(), 0
        real = dying.desk.ask if site == "leeds" else dying.desk._carry_out

        async def dies(request: Any) -> Any:
            nonlocal asked
            asked += request.do == step
            if asked > (3 if step == "put back" else 1) or dead.is_set():
                dead.set()
                await asyncio.sleep(1000)
            return await real(request)

        monkeypatch.setattr(dying.desk, "ask" if site == "leeds" else "_carry_out", dies)
        in_place(sites, commit=Commit.COMMIT)
        await asyncio.wait_for(dead.wait(), 40)
        monkeypatch.undo()

    async def after(sites: Sites) -> None:
        report = await ended(sites, sites.leeds, 1)
        restored = report["outcome"] == "done"
        assert restored or "connection" in report["reasons"][0], report
        kept = await sites.checkpoint("crm", "after")
        assert sites.rebuilt(kept, "images")[1] == content(sites)
        assert (content(sites) == truth[0]) == restored
        assert list((sites.london.folder / "aside").iterdir()) == []

    on_sites(tmp_path, until_it_dies, after)


@pytest.mark.slow
def test_files_come_out_of_a_volume_that_is_not_copied(tmp_path: Path) -> None:
    """An ext4 volume whose file was overwritten since; debugfs reads the old one through nbdfuse."""
    mkfs, debugfs, nbdfuse = (
        program("mkfs.ext4", "e2fsprogs"),
        program("debugfs", "e2fsprogs"),
        program("nbdfuse", "libnbd-bin"),
    )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("nbdfuse needs /dev/fuse, which cannot be opened here")
    write_sites(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "ledger.txt").write_text("all that we own\n" * 1000)
    image = tmp_path / "fs.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([mkfs, "-q", "-d", tmp_path / "files", image], check=True)

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db"))
        await sites.checkpoint("crm", "empty")
        for at in range(0, SIZE, 1 << 20):
            sites.write("db/system", at, image.read_bytes()[at : at + (1 << 20)])
        await sites.checkpoint("crm", "good")
        for at in range(0, SIZE, 1 << 20):
            sites.write("db/system", at, b"\xee" * (1 << 20))
        number = begin(sites.leeds, Kind.RESTORE, volume="db/system", checkpoint="good", export=True)
        await waiting(sites, number)
        (uri,) = sites.leeds.recoveries.status(number)["exports"]
        disk = sites.leeds.recoveries.disks.folder / f"crm-volume-1-{number}" / "volume-1.disk"
        assert disk.stat().st_blocks == 0, "nothing was copied"
        mount = tmp_path / "mount"
        mount.touch()
        fuse = subprocess.Popen([nbdfuse, "-r", mount, uri])
        try:
            await asyncio.to_thread(_until_as_long_as, mount, SIZE)
            words = [debugfs, "-R", "cat /ledger.txt", mount]
            read = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=True)
            assert read.stdout == (tmp_path / "files" / "ledger.txt").read_bytes()
        finally:
            await asyncio.to_thread(subprocess.run, ["umount", mount], check=True)
            fuse.wait()
        with connected(sites.leeds.folder / "nbd.sock", f"crm-volume-1-{number}/system") as client:
            assert client.write(0, bytes(512)) != 0, "nobody writes to it"
        sites.leeds.recoveries.decide(number, Verdict.COMMIT)
        assert (await ended(sites, sites.leeds, number))["outcome"] == "done"
        assert not disk.exists()
        assert sites.leeds.known("crm").pins == ()

    on_sites(tmp_path, check)


def _until_as_long_as(path: Path, size: int) -> None:
    for _ in range(1000):
        if path.stat().st_size == size:
            return
        time.sleep(0.02)
    raise AssertionError("nbdfuse has not mounted")
