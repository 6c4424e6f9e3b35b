"""A site on a platform as its user runs it: a file with a `platform`, `drsim site up`, and no secret anywhere."""

import asyncio
import gzip
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from platforms.arms import BY_NAME
from platforms.test_pairs import Estate
from platforms.vcenter import PASSWORD
from platforms.vsphere_arm import VsphereBench, certificates, spec_of
from pyVmomi import vim

from drsim.cli.demo import SiteProcess
from drsim.core.errors import PlatformError
from drsim.real.loopback import free_port
from drsim.spec.platform import Secret

LEEDS = """
site: leeds
folder: leeds
link: {{peer: london, listen: "127.0.0.1:{port}"}}
hosts: {{here: {{pool: 16 MiB}}}}
"""
LONDON = """
site: london
folder: london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
platform: {platform}
datastore: {store}
hosts: {{{host}: {{pool: 16 MiB}}}}
vms: {{web: {{host: {host}}}}}
"""


def write(folder: Path, bench: VsphereBench, secret: str) -> None:
    """Both sites' files, and the password's."""
    spec = spec_of(bench.center, ca=str(certificates() / "ca.pem"), password=Secret(file="vc.secret"))
    platform = json.dumps({"kind": "vsphere", **json.loads(spec.model_dump_json(exclude_none=True))})
    port = free_port()
    (folder / "leeds.yaml").write_text(LEEDS.format(port=port))
    text = LONDON.format(port=port, platform=platform, store=bench.store, host=bench.host)
    (folder / "london.yaml").write_text(text)
    (folder / "vc.secret").touch(0o600)
    (folder / "vc.secret").write_text(secret + "\n")


def holds(folder: Path, secret: str) -> list[str]:
    """Files that say a secret, but for its own."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "vc.secret":
            data = path.read_bytes()
            data += gzip.decompress(data) if path.suffix == ".gz" else b""
            found += [str(path)] if secret.encode() in data else []
    return found


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_a_site_comes_up_from_its_file_protects_and_hears_of_a_vmotion(tmp_path: Path) -> None:
    def play(loop: asyncio.AbstractEventLoop, bench: VsphereBench) -> None:
        with (
            closing(SiteProcess(tmp_path, "leeds")) as leeds,
            closing(SiteProcess(tmp_path, "london", "--armed", "--transcript")) as london,
        ):
            body = {"name": "crm", "vms": ["web"], "target_host": "here", "epochs": 3600}
            until(lambda: london.manager.ask("GET", "/status")["peer"]["connected"])
            london.manager.ask("POST", "/vpgs", body)
            until(lambda: leeds.manager.ask("GET", "/vpgs/crm/checkpoints"))
            until(lambda: bench.center.proxy.calls.count("WaitForUpdatesEx") > 1)
            asyncio.run_coroutine_threadsafe(moved(bench), loop).result(60)
            until(lambda: len(leeds.manager.ask("GET", "/vpgs/crm/checkpoints")) > 1)
            events = london.manager.ask("GET", "/events")
            assert [bench.other_host in each["what"] for each in events if each["fact"] == "EpochDue"] == [True]
        log = (tmp_path / "london.log").read_text()
        assert "EpochDue" in log
        assert f"VM web runs on {bench.other_host} now" in log
        assert list((tmp_path / "london" / "transcripts").iterdir())
        assert holds(tmp_path, PASSWORD) == []

    async def work() -> None:
        async with asyncio.timeout(200), BY_NAME["vsphere"].bench() as bench:
            assert isinstance(bench, VsphereBench)
            await Estate(bench, bench).make()
            write(tmp_path, bench, PASSWORD)
            await asyncio.to_thread(play, asyncio.get_running_loop(), bench)

    asyncio.run(work())


async def moved(bench: VsphereBench) -> None:
    """Somebody moves the VM to the other host."""
    inventory = bench.platform.inventory
    vm, other = [
        await inventory.find(kind, name)  # type: ignore[attr-defined]
        for kind, name in ((vim.VirtualMachine, "web"), (vim.HostSystem, bench.other_host))
    ]
    await inventory.session.finished(vm.RelocateVM_Task, vim.vm.RelocateSpec(host=other))  # type: ignore[attr-defined]


def test_a_site_that_is_not_let_in_does_not_come_up_and_says_why(tmp_path: Path) -> None:
    async def work() -> None:
        async with asyncio.timeout(100), BY_NAME["vsphere"].bench() as bench:
            assert isinstance(bench, VsphereBench)
            write(tmp_path, bench, "wrong-secret")
            before = bench.center.proxy.changing()
            with pytest.raises(PlatformError, match="are user and password right"):
                await asyncio.to_thread(SiteProcess, tmp_path, "london")
            assert "log in: InvalidLogin" in (tmp_path / "london.log").read_text()
            assert holds(tmp_path, "wrong-secret") == []
            assert bench.center.proxy.changing() == before

    asyncio.run(work())
