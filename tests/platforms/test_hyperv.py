"""Hyper-V beyond what every platform promises: the table of cmdlets, logins, lost shells, half-made VMs, secrets."""

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from platforms.fake_hyperv import Vm
from platforms.fake_winrm import Woe
from platforms.hyperv_arm import PASSWORD, STORE, HypervBench, accounts, bench
from platforms.tls import certify

from drsim.core.errors import CoreError
from drsim.core.recovery.plan import Nic
from drsim.real.hyperv.cmdlets import CMDLETS, cmdlet
from drsim.real.hyperv.disks import rounded
from drsim.real.hyperv.hosts import literal
from drsim.real.hyperv.hypervisor import configuration
from drsim.real.ports import Firmware, LoginRefused, NewVm, NotAllowed, PlatformError, QuotaReached, Taken
from drsim.verify.conformance.bench import Trouble

SMALL = 512 << 20


def test_a_misspelt_cmdlet_parameter_or_type_is_refused() -> None:
    with pytest.raises(CoreError, match="Get-VMs is not in the table"):
        cmdlet("Get-VMs")
    with pytest.raises(CoreError, match="Get-VM has no parameter Nmae"):
        cmdlet("Get-VM", Nmae="web")
    with pytest.raises(CoreError, match="-Generation is a int16"):
        cmdlet("New-VM", Generation="2")
    with pytest.raises(CoreError, match="-Force is a switch"):
        cmdlet("Remove-VM", Name="web", Force="yes")


def test_the_fake_has_every_cmdlet_of_the_table_and_no_other() -> None:
    from platforms.fake_hyperv import HypervHost

    has = {name.removeprefix("do_") for name in dir(HypervHost) if name.startswith("do_")}
    assert has == {name.lower().replace("-", "_") for name in CMDLETS}


def test_names_with_wildcards_are_themselves() -> None:
    assert literal("web[1]*") == "web`[1`]`*"
    assert rounded(1) == 3 << 20
    assert rounded((4 << 20) + 1) == (4 << 20) + 4096


def test_addresses_are_an_embedded_instance_with_what_is_in_a_name_escaped() -> None:
    text = configuration("Microsoft:GuestNetwork\\A\\B<&>", Nic("lan", "10.0.0.5", "8", "10.0.0.1", ("9.9.9.9",)))
    root = ElementTree.fromstring(text)
    found = {each.get("NAME"): [value.text for value in each.iter("VALUE")] for each in root}
    assert found["InstanceID"] == ["Microsoft:GuestNetwork\\A\\B<&>"]
    assert found["DHCPEnabled"] == ["false"]
    assert (found["IPAddresses"], found["DefaultGateways"]) == (["10.0.0.5"], ["10.0.0.1"])
    assert found["Subnets"] == ["255.0.0.0"]
    root = ElementTree.fromstring(configuration("id", Nic("lan", "fd00::5", "64")))
    assert [v.text for each in root if each.get("NAME") == "Subnets" for v in each.iter("VALUE")] == ["64"]


def test_firmware_places_vlan_and_a_name_that_two_vms_have() -> None:
    async def run() -> None:
        async with bench() as here:
            hypervisor, inventory = here.platform.hypervisor, here.platform.inventory
            old, new = (NewVm(name, "op/1", "hv-1", "csv-1", 2, SMALL, f) for name, f in
                        (("old", Firmware.BIOS), ("new", Firmware.UEFI)))  # fmt: skip
            for vm in (old, new):
                await hypervisor.create(vm)
                for n in range(2):
                    disk = await here.platform.disks.create(f"{vm.name}-{n}", 4 << 20, "csv-1", "op/1")
                    await hypervisor.attach(vm.name, disk)
            places = {vm.name: [(d.kind, d.location) for d in vm.drives] for vm in here.hosts["hv-1"].vms}
            assert places["old"] == [("IDE", 0), ("SCSI", 0)]
            assert places["new"] == [("SCSI", 0), ("SCSI", 1)]
            assert (await inventory.vm("new")).firmware is Firmware.UEFI
            await hypervisor.set_networks("old", [Nic("vm-lan"), Nic("LAN")])
            made = next(vm for vm in here.hosts["hv-1"].vms if vm.name == "old")
            assert [(nic.switch, nic.vlan) for nic in made.adapters] == [("LAN", 12), ("LAN", 0)]
            assert (await inventory.vm("old")).networks == ("vm-lan", "LAN")
            assert made.notes.startswith("drsim: op/1")
            here.hosts["hv-2"].vms += [Vm("twin", 1, SMALL, STORE), Vm("twin", 1, SMALL, STORE)]
            with pytest.raises(Taken, match="two VMs are called twin"):
                await inventory.vm("twin")

    asyncio.run(run())


def test_secure_boot_and_the_system_of_a_guest_are_known_as_far_as_it_says() -> None:
    async def run() -> None:
        async with bench() as here:
            vms = here.hosts["hv-1"].vms
            for name, generation, system in (("win", 2, "Windows Server 2022"), ("deb", 2, "Debian GNU/Linux"),
                                             ("old", 1, "Ubuntu"), ("bsd", 1, "FreeBSD"), ("mute", 2, "")):  # fmt: skip
                vms.append(Vm(name, generation, SMALL, STORE, state=2, system=system))
            vms[-4].secure_boot = "Off"
            inventory = here.platform.inventory
            found = {vm.name: (vm.secure_boot, vm.system) for vm in await inventory.vms()}
            assert found == {
                "vra": (True, ""), "win": (True, "windows"), "deb": (False, "linux"), "old": (False, "linux"),
                "bsd": (False, ""), "mute": (True, ""),
            }  # fmt: skip
            for name, each in found.items():
                one = await inventory.vm(name)
                assert (one.secure_boot, one.system) == each
            vms[1].state = 3
            assert (await inventory.vm("win")).system == "", "a guest that is off says nothing"
            vms += [Vm(f"many-{n}", 2, SMALL, STORE, state=2, system="Ubuntu") for n in range(30)]
            assert [vm.system for vm in await inventory.vms() if vm.name.startswith("many")] == ["linux"] * 30

    asyncio.run(run())


@pytest.mark.parametrize("woe", [Woe.LOST_ANSWER, Woe.EXPIRED])
def test_every_cmdlet_that_changes_something_may_lose_its_answer_or_its_shell(woe: Woe) -> None:
    async def cycle(here: HypervBench) -> None:
        hypervisor, disks = here.platform.hypervisor, here.platform.disks
        await hypervisor.create(NewVm("web", "op", "hv-1", "csv-1", 1, SMALL, Firmware.UEFI))
        disk = await disks.create("web-0", 4 << 20, "csv-1", "op")
        await hypervisor.attach("web", disk)
        await hypervisor.set_networks("web", [Nic("vm-lan", "10.0.0.5", "255.0.0.0")])
        await hypervisor.power_on("web")
        (web,) = [vm for vm in here.hosts["hv-1"].vms if vm.name == "web"]
        assert (len(web.drives), len(web.adapters), web.state, web.secure_boot) == (1, 1, 2, "Off")
        assert web.adapters[0].addresses == ["10.0.0.5"]
        assert await hypervisor.shut_down("web", 5)
        await hypervisor.detach("web", disk)
        await hypervisor.delete("web", "op")
        await disks.delete(disk, "op")

    async def run() -> None:
        async with bench() as here:
            hit: set[str] = set()

            def once(commands: list[Any]) -> Woe | None:
                changing = [c.command_text for c in commands if CMDLETS[c.command_text].changes]
                if not set(changing) - hit:
                    return None
                hit.update(changing)
                return woe

            for server in here.servers.values():
                server.next_woe = once
            await cycle(here)
            assert {"New-VM", "Set-VM", "New-VHD", "Add-VMHardDiskDrive", "Add-VMNetworkAdapter", "Start-VM", "Stop-VM",
                    "Invoke-WmiMethod", "Remove-VMHardDiskDrive", "Remove-VM", "Remove-Item"} <= hit  # fmt: skip
            assert [vm.name for vm in here.hosts["hv-1"].vms] == ["vra"]
            assert not here.fabric.files
            assert not [folder for folder in here.fabric.folders if "@" in folder]

    asyncio.run(run())


def test_what_a_host_refuses_is_said_in_words() -> None:
    async def run() -> None:
        async with bench() as here:
            hypervisor, disks, host = here.platform.hypervisor, here.platform.disks, here.hosts["hv-1"]
            await hypervisor.create(NewVm("big", "op", "hv-1", "csv-1", 1, 1 << 40))
            with pytest.raises(QuotaReached, match="Not enough memory") as memory:
                await hypervisor.power_on("big")
            assert "free memory on the host" in memory.value.hint
            here.fabric.full = True
            with pytest.raises(QuotaReached, match="not enough space"):
                await disks.create("one", 4 << 20, "csv-1", "op")
            host.denied.add("Get-VMHost")
            assert (await here.platform.inventory.about()).missing == ("Hyper-V Administrators on hv-1",)
            host.denied.add("Start-VM")
            with pytest.raises(NotAllowed) as denied:
                await hypervisor.power_on("big")
            assert "Hyper-V Administrators" in denied.value.hint
            here.servers["hv-1"].denied = True
            with pytest.raises(NotAllowed, match="may not use WinRM"):
                await here.restart()

    asyncio.run(run())


def test_a_reset_of_change_tracking_is_untrusted_and_a_killed_manager_leaves_no_checkpoint() -> None:
    async def run() -> None:
        async with bench() as here:
            await here.platform.hypervisor.create(NewVm("web", "site", "hv-1", "csv-1", 1, SMALL))
            disk = await here.platform.disks.create("web-0", 4 << 20, "csv-1", "site")
            await here.platform.hypervisor.attach("web", disk)
            changes = here.platform.changes
            assert changes is not None
            first = await changes.begin("web", "site")
            web = next(vm for vm in here.hosts["hv-1"].vms if vm.name == "web")
            assert (await here.platform.inventory.vm("web")).disks == (disk,)  # not what lies over it
            again = (await here.restart()).changes
            assert again is not None
            second = await again.begin("web", "site")
            assert len(web.snapshots) == 1
            assert len(here._appliance.drives) == 1
            assert await again.changed(second, disk, dict(first.marks)[disk]) == []
            await again.end(second)
            assert not web.snapshots
            assert not here._appliance.drives
            assert list(here.fabric.files) == [disk.lower()]

    asyncio.run(run())


@asynccontextmanager
async def over_tls(folder: Path, ca: str = "ca.pem") -> AsyncIterator[HypervBench]:
    authority, server = certify(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    with accounts(folder):
        here = HypervBench(folder, tls=context, ca=ca)
        try:
            yield here
        finally:
            await here.close()
            here.stop()
    assert authority.exists()


def test_over_tls_and_only_with_the_right_authority(tmp_path: Path) -> None:
    async def run() -> None:
        async with over_tls(tmp_path) as here:
            found = await here.connect()
            assert (await found.inventory.about()).product == "Hyper-V"
            other = tmp_path / "other"
            certify(other)
            shutil.copy(other / "ca.pem", tmp_path / "wrong.pem")
            with pytest.raises(LoginRefused, match="certificate is not accepted"):
                await here.connect(ca="wrong.pem")

    asyncio.run(run())


def test_the_password_is_in_no_error_log_or_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with bench() as here:
            for trouble in (Trouble.THROTTLED, Trouble.EXPIRED, Trouble.NOT_DONE):
                here.trouble(trouble, 100)
                with pytest.raises(PlatformError) as error:
                    await here.platform.disks.create("one", 4 << 20, "csv-1", "op")
                seen = [error.value, error.value.__cause__]
                assert not any(PASSWORD in repr(each) + str(each) for each in seen)
            here.trouble(Trouble.SLOW, 0)
            with pytest.raises(LoginRefused) as refused:
                await here.refused()
            assert "wrong-secret" not in str(refused.value)
            assert PASSWORD not in repr(here.platform) + json.dumps([str(host.log) for host in here.hosts.values()])

    with caplog.at_level("DEBUG"):
        asyncio.run(run())
    assert PASSWORD not in caplog.text
