"""Two real sites in one process, over TLS: VMs written to over NBD, checkpoints, restarts, deletion."""

import asyncio
import random
from pathlib import Path

import pytest
from live_sites import LONDON, Sites, on_sites, write_sites

from drsim.core.errors import FileError, PlatformError
from drsim.core.units import SECTOR
from drsim.files.sites import load_site
from drsim.files.traces.reader import read_trace
from drsim.real.installation import Installation

SIZE = 4 << 20


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    write_sites(tmp_path)


def test_what_vms_write_over_nbd_is_recovered_as_it_was(tmp_path: Path) -> None:
    """With content before protection, across two hosts, and what comes after the checkpoint is not in it."""

    async def check(sites: Sites) -> None:
        rng = random.Random(1)
        before = rng.randbytes(64 * SECTOR)
        await asyncio.to_thread(sites.write, "db/log", 8 * SECTOR, before)
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        after = rng.randbytes(8 * SECTOR)
        await asyncio.to_thread(sites.write, "db/system", 0, after)
        await asyncio.to_thread(sites.write, "app/system", SIZE - 8 * SECTOR, after)
        kept = await sites.checkpoint("crm", "good")
        await asyncio.to_thread(sites.write, "app/system", 0, after)
        found = sites.rebuilt(kept, "images")
        numbers = sites.london.state.state.volumes
        assert found[numbers["db/log"]] == bytes(8 * SECTOR) + before + bytes(SIZE - 72 * SECTOR)
        assert found[numbers["db/system"]] == after + bytes(SIZE - 8 * SECTOR)
        assert found[numbers["app/system"]] == bytes(SIZE - 8 * SECTOR) + after

    on_sites(tmp_path, check)


def test_both_sites_go_on_where_they_were(tmp_path: Path) -> None:
    rng = random.Random(2)
    disk = bytearray(SIZE)
    tags: list[str] = []

    async def first(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db"))
        await again(sites)

    async def again(sites: Sites) -> None:
        listed = {c.id for c in sites.leeds.listed("crm")}
        for _ in range(20):
            lba = rng.randrange(SIZE // SECTOR - 8)
            data = rng.randbytes(8 * SECTOR)
            await asyncio.to_thread(sites.write, "db/system", lba * SECTOR, data)
            disk[lba * SECTOR : (lba + 8) * SECTOR] = data
        tags.append(f"life {len(tags)}")
        kept = await sites.checkpoint("crm", tags[-1])
        assert {c.id for c in sites.leeds.listed("crm")} > listed, "the earlier ones are still there"
        assert [c.tag for c in sites.leeds.listed("crm") if c.tag] == tags
        assert sites.rebuilt(kept, tags[-1])[sites.london.state.state.volumes["db/system"]] == disk

    on_sites(tmp_path, first, again, again)


def test_what_was_written_while_the_other_site_was_away_comes_after(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "app"))
        await sites.checkpoint("crm", "before")
        await sites.leeds._close()
        await asyncio.to_thread(sites.write, "app/system", 0, b"while away".ljust(SECTOR))
        async with Installation(load_site(sites.folder / "leeds.yaml"), sites.folder) as again:
            sites.leeds = again
            kept = await sites.checkpoint("crm", "after")
            assert sites.rebuilt(kept, "images").popitem()[1].startswith(b"while away")

    on_sites(tmp_path, check)


@pytest.mark.parametrize("keep", [True, False])
def test_a_deleted_vpg_leaves_nothing_but_what_was_to_be_kept(tmp_path: Path, keep: bool) -> None:
    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "app"))
        await asyncio.to_thread(sites.write, "app/system", 0, b"kept".ljust(SECTOR))
        await sites.checkpoint("crm", "one")
        sites.london.delete("crm", keep_disks=keep)
        await sites.until(lambda: not sites.london.state.state.vpgs and not sites.leeds.state.state.vpgs)
        left = sorted(str(p.relative_to(sites.leeds.folder)) for p in sites.leeds.folder.glob("journals/**/*"))
        assert [each for each in left if each.endswith((".mirror", ".segment", "spec"))] == (
            ["journals/kept/volume-3.mirror"] if keep else []
        )
        if keep:
            assert (sites.leeds.folder / left[-1]).read_bytes().startswith(b"kept")
        await sites.london.protect(sites.vpg("crm", "app"))  # the name is free again
        await sites.checkpoint("crm", "two")

    on_sites(tmp_path, check)


def test_what_cannot_be_is_refused_and_nothing_is_begun(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        with pytest.raises(FileError, match="no VM is called 'web'"):
            sites.vpg("crm", "web")
        await sites.london.protect(sites.vpg("crm", "db"))
        with pytest.raises(FileError, match="called crm already"):
            await sites.london.protect(sites.vpg("crm", "app"))
        with pytest.raises(FileError, match="in VPG crm already"):
            await sites.london.protect(sites.vpg("erp", "db"))
        wrong = sites.vpg("erp", "app")
        wrong = wrong.model_copy(update={"vms": tuple(vm.model_copy(update={"target": "x"}) for vm in wrong.vms)})
        with pytest.raises(FileError, match="no host x here"):
            await sites.london.protect(wrong)
        with pytest.raises(FileError, match="at site london"):
            sites.leeds.tag("crm", "t")
        with pytest.raises(FileError, match="no VPG is called 'hr'"):
            sites.london.tag("hr", "t")
        await sites.leeds._close()
        with pytest.raises(PlatformError, match=r"cannot be reached|was lost"):
            await sites.london.protect(sites.vpg("erp", "app"))
        assert list(sites.london.state.state.vpgs) == ["crm"]

    on_sites(tmp_path, check)


@pytest.mark.parametrize("damage", ["flipped", "torn", "gone"])
def test_a_journal_that_does_not_verify_is_set_aside_and_protection_begins_anew(tmp_path: Path, damage: str) -> None:
    """Nothing of it is served, the rest of the site is up, and everything is compared before anything is listed."""
    rng, disks = random.Random(4), {"db/log": bytearray(SIZE), "app/system": bytearray(SIZE)}

    async def write(sites: Sites) -> None:
        for name, disk in disks.items():
            data, lba = rng.randbytes(64 * SECTOR), rng.randrange(SIZE // SECTOR - 64)
            await asyncio.to_thread(sites.write, name, lba * SECTOR, data)
            disk[lba * SECTOR : (lba + 64) * SECTOR] = data

    async def check(sites: Sites) -> None:
        await write(sites)
        await sites.london.protect(sites.vpg("crm", "db"))
        await sites.london.protect(sites.vpg("erp", "app"))
        await write(sites)
        await sites.checkpoint("crm", "before")
        await sites.checkpoint("erp", "before")
        await sites.leeds._close()
        (segment,) = sites.leeds.folder.glob("journals/crm*/vm-*/*.segment")
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 4
        segment.write_bytes({"flipped": bytes(data), "torn": data[:-10], "gone": b""}[damage])
        if damage == "gone":
            segment.unlink()
        await write(sites)
        async with Installation(load_site(sites.folder / "leeds.yaml"), sites.folder) as again:
            sites.leeds = again
            (stream,) = again.distrust.damaged
            assert stream.startswith("crm:")
            assert "before" in [c.tag for c in again.listed("erp")]
            assert "before" not in [c.tag for c in again.listed("crm")]
            assert again.distrust.vpgs() == ("crm",)
            numbers = sites.london.state.state.volumes
            for vpg, name in (("crm", "db/log"), ("erp", "app/system")):
                kept = await sites.checkpoint(vpg, "after")
                assert sites.rebuilt(kept, vpg)[numbers[name]] == disks[name]
            first = again.listed("crm")[0]
            assert sites.rebuilt(first, "first")[numbers["db/log"]] == disks["db/log"], "never one with holes"
            assert again.distrust.vpgs() == ()
            assert [p.name for p in again.folder.glob("journals/damaged/*")] != []

    on_sites(tmp_path, check)


def test_a_second_process_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        with pytest.raises(PlatformError, match="another process works in this folder"):
            async with Installation(load_site(sites.folder / "leeds.yaml"), sites.folder):
                pass

    on_sites(tmp_path, check)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("host: london-2", "host: nowhere"), "VM app is on host nowhere"),
        (("size: 4 MiB", "size: 1000 B"), "no whole sectors"),
        (("127.0.0.1", "10.0.0.1"), "with certificates only"),
        (('connect: "127.0.0.1:{port}"', "rate: 1 Mbit/s"), "give one of listen and connect"),
        (("hosts:", "hoosts:"), "hoosts"),
    ],
)
def test_a_wrong_site_file_says_what_and_where(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = LONDON.replace(*change).format(port=7000).replace("pki: pki/london\n", "")
    (tmp_path / "london.yaml").write_text(text)
    with pytest.raises(FileError, match=r"london\.yaml:[0-9]+") as found:
        load_site(tmp_path / "london.yaml")
    assert said in str(found.value)


def test_what_a_vm_writes_is_recorded_as_a_trace_that_a_simulation_plays(tmp_path: Path) -> None:
    async def check(sites: Sites) -> None:
        path, _ = sites.london.own.record("db", on=True)
        for lba in range(0, 800, 8):
            await asyncio.to_thread(sites.write, "db/log" if lba % 16 else "db/system", lba * SECTOR, bytes(8 * SECTOR))
        assert sites.london.own.record("db", on=False) == (path, 100)
        await asyncio.to_thread(sites.write, "db/log", 0, bytes(SECTOR))  # not recorded any more
        trace = read_trace(path)  # its layout is recognised
        assert trace.lba.tolist() == list(range(0, 800, 8))
        assert set(trace.sectors.tolist()) == {8}
        with pytest.raises(FileError, match="not being recorded"):
            sites.london.own.record("db", on=False)
        with pytest.raises(PlatformError, match="there already"):
            sites.london.own.record("db", on=True)

    on_sites(tmp_path, check)
