"""vCloud Director: what the suite does not ask, and what an independent client makes of the other side."""

import asyncio
import json
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from lxml import etree
from platforms.fake_vcd import X
from platforms.soap_proxy import Rule
from platforms.vcd_arm import SECRET, SYSTEM, VcdBench, cloud, open_vcd, spec_over
from platforms.vcenter import vcenter
from platforms.vsphere_arm import LIMITS, certificates

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.doctor import Examination
from drsim.real.ports import NotFound, Platform, Power, QuotaReached, Taken, Unavailable
from drsim.spec.sites import PlatformSite
from drsim.verify.conformance.checks import OWNER, a_disk, a_vm, facts, left_behind


def on_bench(work: Callable[[VcdBench, Platform], Awaitable[None]]) -> None:
    """On a fresh one."""

    async def run() -> None:
        async with open_vcd() as bench:
            await work(bench, bench.platform)

    asyncio.run(run())


def test_pyvcloud_accepts_our_vcloud_director(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it writes its log where it is
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyvcloud.vcd.client import BasicLoginCredentials, Client
        from pyvcloud.vcd.exceptions import BadRequestException, UnauthorizedException
        from pyvcloud.vcd.org import Org
        from pyvcloud.vcd.vapp import VApp
        from pyvcloud.vcd.vdc import VDC
        from pyvcloud.vcd.vm import VM
    with vcenter(certificates() / "server.pem") as center, cloud(center) as here:
        client = Client(here.base, verify_ssl_certs=str(certificates() / "ca.pem"))
        with pytest.raises(UnauthorizedException):
            client.set_credentials(BasicLoginCredentials(SYSTEM, "System", "wrong"))
        client.set_credentials(BasicLoginCredentials(SYSTEM, "System", SECRET))
        assert client.get_api_version() == "36.0"
        assert client.is_sysadmin()
        vdc = VDC(client, resource=Org(client, resource=client.get_org_by_name("acme")).get_vdc("gold"))
        assert [each["name"] for each in vdc.list_orgvdc_network_records()] == ["lan", "bubble"]

        def bring_in(moref: str) -> etree._Element:
            body = etree.fromstring(
                f'<e:ImportVmAsVAppParams xmlns:e="{X}" name="shop" sourceMove="true"><e:VmName>web</e:VmName>'
                f'<e:VmMoRef>{moref}</e:VmMoRef><e:Vdc href="{vdc.href}"/></e:ImportVmAsVAppParams>'
            )
            at = f"{here.base}/api/admin/extension/vimServer/{here.server}/importVmAsVApp"
            return client.post_resource(at, body, "application/vnd.vmware.admin.importVmAsVAppParams+xml")

        def finished(task: etree._Element) -> str:
            return client.get_task_monitor().wait_for_success(task, timeout=10, poll_frequency=0.01).get("status")

        with pytest.raises(BadRequestException, match="vm-99999 was not found"):
            bring_in("vm-99999")
        moref = here.center.moref("DC0_C0_RP0_VM0")
        here.center.turn(moref, on=False)
        assert finished(bring_in(moref).Tasks.Task[0]) == "success"
        assert (here.center.name(moref) or "").startswith("web-")
        vdc.reload()
        assert [each["name"] for each in vdc.list_resources()] == ["shop"]
        vapp = VApp(client, resource=vdc.get_vapp("shop"))
        vm = VM(client, resource=vapp.get_vm("web"))
        assert vm.get_moid() == moref
        assert finished(vm.power_on()) == "success"
        vm.reload()
        assert vm.is_powered_on()
        assert here.center.power(moref) == "poweredOn"
        assert finished(vm.undeploy("powerOff")) == "success"
        vm.reload()
        assert vm.is_powered_off()
        assert finished(vdc.delete_vapp("shop")) == "success"
        assert here.center.name(moref) is None
        here.tokens.clear()
        with pytest.raises(UnauthorizedException):
            vdc.reload()
        client._session.close()


def test_vms_of_an_owner_are_one_vapp_in_each_vdc() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        names = {"web": bench.host, "app": bench.host, "db": bench.other_host}
        for name, vdc in names.items():
            await a_vm(bench, name, host=vdc)
        await asyncio.gather(*(here.hypervisor.set_networks(name, [Nic(bench.network)]) for name in names))
        assert sorted(vapp.vdc.name for vapp in bench.cloud.vapps.values()) == ["gold", "silver"]
        assert {vm.vapp.name for vm in bench.cloud.vms.values()} == {"drsim suite~2foperation~2f1"}
        assert [each.networks for each in await here.inventory.vms(OWNER)] == [("lan",)] * 3
        await here.hypervisor.delete("web", OWNER)
        assert sorted(vm.name for vm in bench.cloud.vms.values()) == ["app", "db"]
        await asyncio.gather(*(here.hypervisor.delete(name, OWNER) for name in names))
        assert not bench.cloud.vapps
        assert not await left_behind(bench, OWNER)

    on_bench(work)


def test_a_vm_is_deleted_without_its_disks_though_its_guest_has_stopped_it() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        await a_vm(bench)
        disk = await a_disk(bench)
        await here.hypervisor.attach("web", disk)
        await here.hypervisor.power_on("web")
        bench.cloud.center.turn(next(iter(bench.cloud.vms.values())).moref, on=False)
        assert await here.hypervisor.shut_down("web", 1)
        await here.hypervisor.delete("web", OWNER)
        assert bench.center.flat(disk).exists()
        assert not (await here.disks.disk(disk)).attached

    on_bench(work)


def test_a_start_whose_answer_was_lost_may_end_while_it_is_asked_for_again() -> None:
    """It was off when it was looked at, and is on when the second request comes, which is then refused."""

    async def work(bench: VcdBench, here: Platform) -> None:
        await a_vm(bench)
        await here.hypervisor.power_on("web")
        await here.hypervisor.power_off("web")
        bench.cloud.task_seconds = 0.3
        bench.center.proxy.rules = [Rule("*", "lost"), Rule("*", "delay", seconds=1.0)]
        await here.hypervisor.power_on("web")
        assert [rule.times for rule in bench.center.proxy.rules] == [0, 0]
        assert (await facts(bench)).power is Power.ON

    on_bench(work)


def test_a_vm_of_another_tenant_or_vcenter_is_not_ours() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        await a_vm(bench)
        await here.hypervisor.power_on("web")
        theirs, vm = type(bench.cloud.vdcs[0])("theirs"), next(iter(bench.cloud.vms.values()))
        vm.vapp.vdc = theirs
        with pytest.raises(NotFound):
            await facts(bench)
        assert not await here.inventory.vms(OWNER)
        await here.hypervisor.delete("web", OWNER)
        assert vm.id in bench.cloud.vms
        await a_vm(bench)
        await here.hypervisor.power_on("web")
        assert (await facts(bench)).power is Power.ON
        assert len(bench.cloud.vms) == 2

    on_bench(work)


def test_two_vms_of_one_name_are_told_apart_by_nobody() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        for name in ("web", "app"):
            await a_vm(bench, name)
            await here.hypervisor.power_on(name)
        next(vm for vm in bench.cloud.vms.values() if vm.name == "app").name = "web"
        with pytest.raises(PlatformError, match="2 VMs are called web"):
            await here.hypervisor.delete("web", OWNER)

    on_bench(work)


def test_what_cannot_be_is_said_before_anything_is_made() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        bench.cloud.vdcs[0].memory = 1100
        before = bench.changes()
        with pytest.raises(QuotaReached, match="VDC gold has 79691776 bytes of memory free"):
            await a_vm(bench)
        bench.cloud.vdcs[0].memory = 0
        assert {host.name: host.memory for host in await here.inventory.hosts()}["gold"] > 0
        assert bench.changes() == before
        bench.cloud.policies.clear()
        await a_vm(bench)
        with pytest.raises(NotFound, match="VDC gold has no storage policy fast"):
            await here.hypervisor.power_on("web")
        with pytest.raises(Taken):
            await a_vm(bench, owner="somebody")

    on_bench(work)


def test_who_does_not_answer_is_unavailable_and_no_secret_is_said() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        bench.cloud.stop()
        with pytest.raises(Unavailable, match="log in: given up after 4 attempts") as caught:
            await bench.restart()
        text = f"{caught.value} {caught.value.__cause__!r}"
        assert SECRET not in text
        assert "Basic" not in text

    on_bench(work)


def test_one_that_is_too_old_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        monkeypatch.setattr("drsim.real.vcd.session.VERSION", "99.0")
        with pytest.raises(PlatformError, match=r"does not speak version 99\.0"):
            await bench.restart()
        monkeypatch.undo()

    on_bench(work)


def test_doctor_finds_nothing_wrong_and_its_self_test_leaves_nothing() -> None:
    async def work(bench: VcdBench, here: Platform) -> None:
        spec = json.loads(spec_over(bench.center, bench.cloud).model_dump_json(exclude_none=True))
        site = PlatformSite.model_validate({
            "platform": {"kind": "vcd", **spec, "poll": "1 s"}, "stores": ["fast"], "networks": ["lan", "bubble"],
            "hosts": ["gold"], "room": "1 MiB",
        })  # fmt: skip
        found = Examination("leeds", site, certificates(), LIMITS)
        try:
            await found.run(self_test=True)
        finally:
            await found.close()
        assert [(line.check, line.what) for line in found.lines if line.fine is False] == []
        assert found.lines[-1].check == "self-test"
        assert any("vCloud Director 10.3.3" in line.what for line in found.lines if line.check == "version")
        assert [vm.name for vm in await here.inventory.vms()] == [here.appliance]
        assert not bench.cloud.vapps

    on_bench(work)
