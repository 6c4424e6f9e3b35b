"""The local hypervisor: a VM whose disk goes away waits, a missing disk is named, no name leads out of a folder."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from live_guests import power_off, prepare
from live_sites import Sites, on_sites, write_sites
from nbd_client import connected
from programs import program

from drsim.core.errors import PlatformError
from drsim.real import nbd
from drsim.real.api import api, status_of
from drsim.real.local import guest
from drsim.real.local.hypervisor import LocalHypervisor, LocalVm


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "-x", "nul\0", "x" * 200])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    hypervisor = LocalHypervisor(tmp_path / "vms", tmp_path / "nbd.sock")
    with pytest.raises(PlatformError, match="no VM can be called"):
        hypervisor.create(LocalVm(name, "", 16 << 20, 1))
    assert not list(tmp_path.iterdir())


def test_wrong_names_are_refused_by_the_splitter_and_the_api(tmp_path: Path) -> None:
    write_sites(tmp_path)

    async def check(sites: Sites) -> None:
        for export in ("../london.yaml", "db/../db/system", "/etc/passwd", "db", "db/system/", "DB/system"):
            with connected(sites.london.folder / "nbd.sock") as client:
                assert client.go(export)[-1][0] == nbd.UNKNOWN, export
        transport = httpx.ASGITransport(api(sites.london, armed=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as asker:
            for path in ("/vms/..%2F..%2Fetc/power", "/vms/%2E%2E/power"):
                assert (await asker.post(path, json={"on": False})).status_code in (404, 503)
            answer = await asker.post("/vpgs", json={"name": "../x", "vms": ["db"], "target_host": "leeds-1"})
            assert answer.status_code == 422
            answer = await asker.post("/vpgs", json={"name": "x", "vms": ["../db"], "target_host": "leeds-1"})
            assert (answer.status_code, "no VM is called" in answer.text) == (409, True)

    on_sites(tmp_path, check)


def test_a_disk_that_is_missing_is_named_and_not_made_anew(tmp_path: Path) -> None:
    write_sites(tmp_path)
    path = tmp_path / "london" / "log.disk"

    async def check(sites: Sites) -> None:
        await sites.london.protect(sites.vpg("crm", "db", "app"))
        sites.write("db/log", 0, b"\1" * 512)
        await sites.checkpoint("crm", "good")
        path.rename(path.with_suffix(".elsewhere"))

    async def without(sites: Sites) -> None:
        missing = status_of(sites.london)["missing"]
        assert str(path) in missing["db/log"]
        assert "not there" in missing["db/log"]
        with connected(sites.london.folder / "nbd.sock") as client:
            assert client.go("db/log")[-1][0] == nbd.UNKNOWN
        sites.write("db/system", 0, b"\2" * 512)
        await sites.until(lambda: "missing" in status_of(sites.london)["vpgs"][0]["sub_status"].lower())
        assert not path.exists()
        path.with_suffix(".elsewhere").rename(path)

    async def again(sites: Sites) -> None:
        kept = await sites.checkpoint("crm", "all there")
        content = sites.rebuilt(kept, "images")
        assert (content[1][:512], content[2][:512]) == (b"\2" * 512, b"\1" * 512)

    on_sites(tmp_path, check, without, again)


def test_a_guest_waits_for_its_disk_longer_than_qemu_does(tmp_path: Path) -> None:
    """QEMU gives up, pauses the VM, and the site lets it go on when it is up again: no error for the guest."""
    program("qemu-system-x86_64", "qemu-system-x86")
    prepare(tmp_path)
    folder = tmp_path / "london"

    async def start(sites: Sites) -> None:
        sites.london.hypervisor._reconnect = 1
        await sites.london.hypervisor.power_on("db")
        await sites.london.hypervisor.wait("db", 20)

    async def while_it_is_away() -> None:
        hypervisor = LocalHypervisor(folder / "vms", folder / "nbd.sock")
        async with asyncio.timeout(30):
            while (await hypervisor._ask("db", "query-status"))["status"] != "io-error":
                await asyncio.sleep(0.1)

    async def again(sites: Sites) -> None:
        rounds = guest.rounds(tmp_path / "db.disk")
        await sites.until(lambda: guest.rounds(tmp_path / "db.disk") > rounds + 3)
        assert "E" not in sites.london.hypervisor.printed("db")
        assert sites.london.hypervisor.stopped in ({"db"}, set())
        vm = json.loads((folder / "vms" / "db" / "vm.json").read_text())
        assert vm["disks"] == ["db/system"]

    on_sites(tmp_path, start)
    asyncio.run(while_it_is_away())
    on_sites(tmp_path, again, last=power_off)
