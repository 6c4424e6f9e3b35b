"""`drsim doctor` against Hyper-V hosts of our own: each thing that may be wrong has a line with what to do."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platforms.hyperv_arm import HypervBench, bench
from typer.testing import CliRunner

from drsim.cli.main import program
from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_sites
from drsim.real.doctor import Examination, Line, conversions
from drsim.real.platforms import connector
from drsim.real.ports import Limits, NewVm
from drsim.spec.sites import PlatformSite

LIMITS = Limits(call=5, attempts=2, first=0.01)


def plain(here: HypervBench, **more: Any) -> dict[str, Any]:
    spec = json.loads(here.spec().model_dump_json(exclude_none=True))
    return {"platform": {"kind": "hyperv", **spec}, **more}


async def examined(here: HypervBench, self_test: bool = False, **more: Any) -> list[Line]:
    site = PlatformSite.model_validate(plain(here, **more))
    found = Examination("leeds", site, here.folder, LIMITS)
    try:
        await found.run(self_test=self_test)
    finally:
        await found.close()
    return found.lines


def wrong(lines: list[Line]) -> list[str]:
    assert all(line.hint for line in lines if line.fine is False)
    return [f"{line.check}: {line.what}" for line in lines if line.fine is False]


def test_all_is_well_and_the_self_test_leaves_nothing() -> None:
    async def run() -> None:
        async with bench() as here:
            before = here.changes()
            good = {"stores": ["csv-1"], "networks": ["vm-lan", "bubble"], "hosts": ["hv-1"]}
            lines = await examined(here, **good)
            assert wrong(lines) == []
            assert here.changes() == before
            assert {"reachable", "login", "privileges", "version", "clock", "hosts", "capacity", "networks",
                    "appliance"} <= {line.check for line in lines}  # fmt: skip
            lines = await examined(here, self_test=True, **good)
            assert wrong(lines) == []
            assert lines[-1].check == "self-test"
            assert here.changes() > before
            assert [vm.name for host in here.hosts.values() for vm in host.vms] == ["vra"]
            assert not here.fabric.files
            assert not [folder for folder in here.fabric.folders if "@" in folder]

    asyncio.run(run())


def _old(here: HypervBench) -> None:
    here.hosts["hv-2"].version = "10.0.9600"


def _late(here: HypervBench) -> None:
    here.hosts["hv-1"].clock_ahead = 90


def _denied(here: HypervBench) -> None:
    here.hosts["hv-2"].denied.add("Get-VMHost")


def _full(here: HypervBench) -> None:
    here.fabric.full = True


def _off(here: HypervBench) -> None:
    here._appliance.state = 3


def _gone(here: HypervBench) -> None:
    here.hosts["hv-1"].vms.clear()


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (_old, {}, "version: Hyper-V 10.0.9600 is older than 10.0.14393"),
        (_late, {}, "clock: "),
        (_denied, {}, "privileges: missing: Hyper-V Administrators on hv-2"),
        (_full, {}, "capacity: csv-1: 0 GiB free"),
        (_off, {}, "appliance: vra is off on hv-1"),
        (_gone, {}, "appliance: no VM is called vra"),
        (None, {"stores": ["csv-9"]}, "datastores: csv-9 is not there"),
        (None, {"networks": ["dmz"]}, "networks: dmz is not there"),
        (None, {"hosts": ["hv-9"]}, "hosts: hv-9 is not there"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    spoil: Callable[[HypervBench], None] | None, more: dict[str, Any], words: str
) -> None:
    async def run() -> None:
        async with bench() as here:
            if spoil is not None:
                spoil(here)
            said = wrong(await examined(here, **more))
            assert any(each.startswith(words) for each in said), said
            before = here.changes()
            assert any("left out" in each for each in wrong(await examined(here, self_test=True, **more)))
            assert here.changes() == before

    asyncio.run(run())


def test_nobody_listens_and_a_wrong_password() -> None:
    async def run() -> None:
        async with bench() as here:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                site = plain(here)
                site["platform"]["hosts"]["hv-1"]["port"] = free.getsockname()[1]
                found = Examination("leeds", PlatformSite.model_validate(site), here.folder, LIMITS)
                await found.run()
            assert any(each.startswith("reachable: hv-1") for each in wrong(found.lines))
            (here.folder / "bad").write_text("wrong-secret\n")
            (here.folder / "bad").chmod(0o600)
            site = plain(here)
            site["platform"]["password"] = {"file": "bad"}
            found = Examination("leeds", PlatformSite.model_validate(site), here.folder, LIMITS)
            await found.run()
            assert wrong(found.lines) == ["login: the host refuses the login"]
            assert "wrong-secret" not in str(found.lines)

    asyncio.run(run())


def test_what_will_not_convert_is_listed_for_each_vm() -> None:
    async def run() -> None:
        async with bench() as here:
            await here.platform.hypervisor.create(NewVm("web", "", "hv-1", "csv-1", cpus=500))
            disk = await here.platform.disks.create("web", 4 << 20, "csv-1", "x")
            await here.platform.hypervisor.attach("web", disk)
            one = PlatformSite.model_validate(plain(here, vms=["web", "nobody"], recovers_to=["cloud"]))
            cloud = PlatformSite.model_validate({
                "platform": {"kind": "vsphere", "address": "vc", "user": "u", "password": {"env": "X"},
                             "datacenter": "d", "appliance": "a"},
            })  # fmt: skip
            source = Examination("leeds", one, here.folder, LIMITS)
            await source.run()
            lines = await conversions(source, Examination("cloud", cloud, here.folder))
            await source.close()
            texts = [f"{line.fine}: {line.what}" for line in lines]
            assert "None: web: controllers become pvscsi, network adapters vmxnet3" in texts
            assert any(each.startswith("False: nobody: no VM is called nobody") for each in texts)

    asyncio.run(run())


def test_the_command_prints_json_and_a_bad_file_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text("""\
sites:
  leeds:
    platform:
      kind: hyperv
      hosts: {hv-1: {address: 127.0.0.1, port: 1}}
      user: HV\\drsim
      password: {env: DRSIM_NO_SUCH_SECRET}
      stores: {csv: 'C:\\ClusterStorage\\Volume1'}
      appliance: vra
""")
    done = CliRunner().invoke(program(["doctor"]), ["doctor", str(file), "--json"])
    assert done.exit_code == 1
    (line,) = [each for each in json.loads(done.stdout) if each["fine"] is False]
    assert line["check"] == "reachable"
    assert "port 1" in line["hint"]
    file.write_text(file.read_text().replace("kind: hyperv", "kind: hyper-v"))
    with pytest.raises(FileError, match=r"sites\.yaml:"):
        load_sites(file)


def test_a_kind_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(module, name="pypsrp")

    monkeypatch.setattr("drsim.real.platforms.import_module", missing)
    with pytest.raises(PlatformError) as error:
        connector("hyperv")
    assert error.value.hint == "install drsim[hyperv]"
    with contextlib.suppress(PlatformError):
        connector("xen")
