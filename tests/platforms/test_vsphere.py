"""vSphere's own ways: TLS, sessions, tasks, faults, placement, what changes, disks on the appliance, CBT's edges."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms.soap_proxy import Rule, answer, fault
from platforms.tls import certify
from platforms.vcenter import PASSWORD, VCenter, vcenter
from platforms.vsphere_arm import APPLIANCE, LIMITS, VsphereBench, certificates, spec_of
from pydantic import ValidationError
from pyVmomi import vim

from drsim.core.errors import DrsimError, FileError, PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import (
    Area,
    DiskId,
    Firmware,
    Gone,
    HostChanged,
    LoginRefused,
    Moved,
    NewVm,
    NotAllowed,
    NotFound,
    Platform,
    QuotaReached,
    Taken,
    Unavailable,
    Unsupported,
    Untrusted,
)
from drsim.real.vsphere import connect
from drsim.real.vsphere.disks import escaped, unescaped
from drsim.real.vsphere.inventory import disks_of, system_of
from drsim.real.vsphere.privileges import NEEDED
from drsim.spec.vsphere import Vsphere

HOST, OTHER_HOST, STORE = VsphereBench.host, VsphereBench.other_host, VsphereBench.store
ME = "suite/op 1"
MIB = 1 << 20


@asynccontextmanager
async def connected(center: VCenter, **changes: Any) -> AsyncIterator[Platform]:
    platform = await connect(spec_of(center, **changes), certificates(), limits=LIMITS)
    try:
        yield platform
    finally:
        for vm in await platform.inventory.vms(ME):
            await platform.hypervisor.delete(vm.name, ME)
        for disk in await platform.disks.owned(ME):
            if disk.attached:
                await platform.hypervisor.detach(disk.attached, disk.id)
            await platform.disks.delete(disk.id, ME)
        await platform.close()


def run(center: VCenter, work: Callable[[Platform], Awaitable[None]], **changes: Any) -> None:
    async def main() -> None:
        async with connected(center, **changes) as platform:
            await work(platform)

    asyncio.run(main())


def a_vm(name: str = "web", **changes: Any) -> NewVm:
    return NewVm(**{"name": name, "owner": ME, "host": HOST, "store": STORE, "memory": 64 * MIB, **changes})


async def raw(platform: Platform, kind: type, name: str) -> Any:
    """An object as pyvmomi has it."""
    inventory: Any = platform.inventory
    return await inventory.session.patient("find", lambda: inventory.find(kind, name))


def rewrite(center: VCenter, method: str, old: str, new: str, times: int = 1) -> None:
    """The next answers of a method say something else."""
    left = [times]

    def hook(called: str, request: bytes, got: bytes) -> bytes:
        if called == method and left[0] and old.encode() in got:
            left[0] -= 1
            return got.replace(old.encode(), new.encode())
        return got

    center.proxy.after.append(hook)


# -- coming in --------------------------------------------------------------------------------------------------------


def refused(spec: Vsphere, base: Path | None = None) -> DrsimError:
    """What connecting fails with; no secret in it."""
    with pytest.raises(DrsimError) as caught:
        asyncio.run(connect(spec, base or certificates(), limits=LIMITS))
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error}{error!r}"
        assert "wrong-secret" not in f"{error}{error!r}"
        error = error.__cause__ or error.__context__
    return caught.value


def test_a_certificate_by_another_authority_is_refused(center: VCenter, tmp_path: Path) -> None:
    certify(tmp_path / "other")
    error = refused(spec_of(center, ca=str(tmp_path / "other" / "ca.pem")))
    assert "certificate is not trusted" in str(error)
    assert "ca" in error.hint
    before = len(center.proxy.calls)
    assert "certificate is not trusted" in str(refused(spec_of(center, ca=None)))
    assert len(center.proxy.calls) == before, "nothing was said over that connection"


def test_who_is_not_there_is_unavailable(center: VCenter) -> None:
    assert isinstance(refused(spec_of(center, port=1)), Unavailable)


def test_a_wrong_password_is_refused_in_words(center: VCenter) -> None:
    error = refused(spec_of(center, password=spec_of(center).password.model_copy(update={"file": "wrong"})))
    assert isinstance(error, LoginRefused)
    assert "127.0.0.1" in str(error)


def test_what_is_asked_of_the_user_is_asked_in_words(center: VCenter, tmp_path: Path) -> None:
    assert "there is DC0" in str(refused(spec_of(center, datacenter="Berlin")))
    (tmp_path / "ca.pem").write_text("nothing")
    assert isinstance(refused(spec_of(center, ca=str(tmp_path / "ca.pem"))), FileError)
    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    password = spec_of(center).password.model_copy(update={"file": str(tmp_path / "open")})
    assert "chmod 600" in str(refused(spec_of(center, password=password)))


def test_a_vcenter_that_is_too_old_is_refused(center: VCenter) -> None:
    rewrite(center, "RetrieveServiceContent", "<apiVersion>6.5</apiVersion>", "<apiVersion>6.0</apiVersion>")
    assert "6.5 is the oldest" in str(refused(spec_of(center)))


def test_a_spec_without_a_secret_or_with_a_stray_field_is_refused() -> None:
    good = {"address": "vc", "user": "u", "password": {"file": "p"}, "datacenter": "D", "appliance": "vra"}
    assert Vsphere.model_validate(good).port == 443
    for wrong in ({"password": {}}, {"password": "geheim"}, {"verify": False}, {"address": "https://vc"},
                  {"datastores": {"[ds]": "/mnt"}}):  # fmt: skip
        with pytest.raises(ValidationError):
            Vsphere.model_validate(good | wrong)


def test_a_missing_privilege_is_named(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        assert (await here.inventory.about()).missing == ()
        has = "<privId>VirtualMachine.Interact.PowerOn</privId><isGranted>"
        rewrite(center, "HasUserPrivilegeOnEntities", f"{has}true", f"{has}false")
        assert (await here.inventory.about()).missing == ("VirtualMachine.Interact.PowerOn",)

    run(center, work)
    assert len({need.privilege for need in NEEDED}) == len(NEEDED)


# -- faults and tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "inner", "blame", "says"),
    [
        ("NoPermission", '<object type="Folder">group-v3</object><privilegeId>VM.Create</privilegeId>', NotAllowed,
         "VM.Create"),
        ("InsufficientMemoryResourcesFault", "<unreserved>1</unreserved><requested>2</requested>", QuotaReached, ""),
        ("NoDiskSpace", "<file>x</file><datastore>LocalDS_0</datastore>", QuotaReached, ""),
        ("FileLocked", "<file>x</file>", Taken, ""),
        ("NotSupported", "", Unsupported, ""),
        ("InvalidArgument", "<invalidProperty>spec</invalidProperty>", PlatformError, "InvalidArgument"),
    ],
)  # fmt: skip
def test_faults_say_whose_matter_they_are(
    center: VCenter, kind: str, inner: str, blame: type[PlatformError], says: str
) -> None:
    async def work(here: Platform) -> None:
        center.proxy.rules = [Rule("CreateVM_Task", "fault", answer=fault(kind, "so it is", inner))]
        with pytest.raises(blame) as caught:
            await here.hypervisor.create(a_vm())
        assert type(caught.value) is blame
        assert says in str(caught.value)
        assert "make VM web" in str(caught.value)

    run(center, work)


def test_what_will_pass_is_waited_for(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        busy = fault("TaskInProgress", "busy", '<task type="Task">task-1</task>')
        center.proxy.rules = [Rule("CreateVM_Task", "fault", times=LIMITS.attempts - 1, answer=busy)]
        await here.hypervisor.create(a_vm())
        center.proxy.rules = [Rule("PowerOnVM_Task", "fault", times=LIMITS.attempts, answer=busy)]
        with pytest.raises(Unavailable, match="start VM web"):
            await here.hypervisor.power_on("web")

    run(center, work)


def test_a_task_that_takes_its_time_is_told_not_polled(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        rewrite(center, "RetrievePropertiesEx", ">success<", ">running<")
        before = len(center.proxy.calls)
        await here.hypervisor.create(a_vm())
        assert (await here.inventory.vm("web")).owner == ME
        assert {"WaitForUpdatesEx", "DestroyPropertyCollector"} <= set(center.proxy.calls[before:])

    run(center, work)


@pytest.mark.parametrize("do", ["lost", "reset", "status", "expire"])
def test_the_first_disk_of_a_datastore(center: VCenter, do: str) -> None:
    """drsim's folder is not there yet; each of the three calls goes wrong once."""

    async def work(here: Platform) -> None:
        for skip in range(3):
            folder = center.stores[STORE] / "drsim"
            for path in folder.iterdir() if folder.exists() else ():
                path.unlink()
            folder.exists() and folder.rmdir()
            center.proxy.rules = [Rule("*", do, skip=skip)]
            disk = await here.disks.create("one", MIB, STORE, ME)
            assert center.proxy.rules[0].times == 0
            assert [found.id for found in await here.disks.owned(ME)] == [disk]

    run(center, work)


def test_two_vcenters_are_two_sites(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        with vcenter(certificates() / "server.pem") as second:
            async with connected(second) as there:
                await here.hypervisor.create(a_vm())
                assert [vm.name for vm in await there.inventory.vms()] == [APPLIANCE]
                ids = [platform.inventory.session.content.about.instanceUuid for platform in (here, there)]  # type: ignore[attr-defined]
                assert ids[0] != ids[1]

    run(center, work)


# -- placement and what changes ---------------------------------------------------------------------------------------


def test_room_is_looked_for_before_anything_is_made(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        before = center.proxy.changing()
        with pytest.raises(QuotaReached, match=f"host {HOST} has"):
            await here.hypervisor.create(a_vm(memory=1 << 40))
        with pytest.raises(QuotaReached, match=f"datastore {STORE} has"):
            await here.disks.create("large", 1 << 50, STORE, ME)
        assert center.proxy.changing() == before

    run(center, work)


def test_a_host_in_maintenance_takes_no_vms(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        host, call = await raw(here, vim.HostSystem, HOST), here.inventory.session.call  # type: ignore[attr-defined]
        await call(host.EnterMaintenanceMode_Task, 0)
        assert [found.usable for found in await here.inventory.hosts()] == [False, True]
        with pytest.raises(QuotaReached, match="in maintenance"):
            await here.hypervisor.create(a_vm())
        await call(host.ExitMaintenanceMode_Task, 0)
        await here.hypervisor.create(a_vm())

    run(center, work)


def test_vmotion_lost_hosts_and_deletion_are_told(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        other = await raw(here, vim.HostSystem, OTHER_HOST)
        vm, call = await raw(here, vim.VirtualMachine, "web"), here.inventory.session.call  # type: ignore[attr-defined]
        async with aclosing(here.inventory.changes()) as changes:  # type: ignore[type-var]
            first = asyncio.ensure_future(anext(changes))
            while center.proxy.calls.count("WaitForUpdatesEx") < 2:
                await asyncio.sleep(0.02)
            await call(vm.RelocateVM_Task, vim.vm.RelocateSpec(host=other))
            assert await first == Moved("web", OTHER_HOST)
            center.proxy.rules = [Rule("WaitForUpdatesEx", "expire"), Rule("WaitForUpdatesEx", "reset")]
            center.host_state(HOST, "notResponding")
            assert await anext(changes) == HostChanged(HOST, usable=False)
            center.host_state(HOST, "connected")
            assert await anext(changes) == HostChanged(HOST, usable=True)
            await here.hypervisor.delete("web", ME)
            assert await anext(changes) == Gone("web")

    center.proxy.calls.clear()
    run(center, work)


def test_a_vm_that_others_rename_is_not_taken_for_another(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        vm = await raw(here, vim.VirtualMachine, "web")
        await here.inventory.session.finished(vm.Rename_Task, "old-web")  # type: ignore[attr-defined]
        with pytest.raises(NotFound):
            await here.hypervisor.power_on("web")
        await here.hypervisor.create(a_vm())
        await here.hypervisor.power_on("web")
        powers = {vm.name: vm.power for vm in await here.inventory.vms(ME)}
        assert powers == {"web": "on", "old-web": "off"}

    run(center, work)


# -- VMs --------------------------------------------------------------------------------------------------------------


def test_disks_go_on_over_controllers_in_order(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        disks = [await here.disks.create(f"d{n}", 1024, STORE, ME) for n in range(17)]
        for disk in disks:
            await here.hypervisor.attach("web", disk)
        assert list((await here.inventory.vm("web")).disks) == disks
        await here.hypervisor.detach("web", disks[3])
        await here.hypervisor.attach("web", disks[3])
        assert (await here.inventory.vm("web")).disks[-1] == disks[3], "behind all others, not in the gap"

    run(center, work)


def test_what_is_remembered_of_a_vm_is_not_believed_against_anybody(center: VCenter) -> None:
    """Others change its devices meanwhile: a refusal, and what seems to be done already, is looked at."""

    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        one, two = [await here.disks.create(name, MIB, STORE, ME) for name in ("one", "two")]
        await here.hypervisor.attach("web", one)
        before = len(center.proxy.calls)
        await here.hypervisor.attach("web", two)
        assert center.proxy.calls[before:].count("RetrievePropertiesEx") == 2, "its name, its task"
        vm, session = await raw(here, vim.VirtualMachine, "web"), here.inventory.session  # type: ignore[attr-defined]
        facts = await session.read(vm, "config.hardware.device")
        gone = [
            vim.vm.device.VirtualDeviceSpec(operation="remove", device=disk)
            for disk in disks_of(facts["config.hardware.device"])
        ]
        await session.finished(vm.ReconfigVM_Task, vim.vm.ConfigSpec(deviceChange=gone))
        await here.hypervisor.attach("web", one)
        busy = fault(
            "InvalidDeviceSpec", "unit 1 is in use", "<property>unitNumber</property><deviceIndex>0</deviceIndex>"
        )
        center.proxy.rules = [Rule("ReconfigVM_Task", "fault", answer=busy)]
        await here.hypervisor.attach("web", two)
        assert (await here.inventory.vm("web")).disks == (one, two)
        await here.hypervisor.detach("web", two)
        center.proxy.rules = [Rule("ReconfigVM_Task", "fault", times=2, answer=busy)]
        with pytest.raises(PlatformError, match="unit 1 is in use"):
            await here.hypervisor.attach("web", two)

    run(center, work)


def test_many_vms_at_once_have_each_their_own_disk(center: VCenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at all VMs and disks are shared, go on while others change what is looked at, and are soon out of date."""

    async def work(here: Platform) -> None:
        async def one(n: int) -> None:
            await here.hypervisor.create(a_vm(f"web-{n}"))
            disk = await here.disks.create(f"d{n}", 1024, STORE, ME)
            await here.hypervisor.attach(f"web-{n}", disk)
            assert (await here.disks.disk(disk)).attached == f"web-{n}"
            assert disk in [found.id for found in await here.disks.owned(ME)]
            await here.hypervisor.detach(f"web-{n}", disk)
            assert not (await here.disks.disk(disk)).attached
            await here.disks.delete(disk, ME)
            assert disk not in [found.id for found in await here.disks.owned(ME)]

        await asyncio.gather(*map(one, range(6)))

    monkeypatch.setattr("drsim.real.vsphere.disks.RECENT", 0.02)
    run(center, work)


def test_networks_are_given_to_a_vm_that_is_off(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        nics = [Nic("DC0_DVPG0", "192.0.2.9", "25", "192.0.2.1", ("192.0.2.2",)), Nic("VM Network")]
        asked: list[bytes] = []
        center.proxy.after.append(lambda called, request, got: asked.append(request) or got)  # type: ignore[func-returns-value]
        await here.hypervisor.set_networks("web", nics)
        [customized] = [each for each in asked if b"<CustomizeVM_Task" in each]
        assert b"<subnetMask>255.255.255.128</subnetMask>" in customized
        await here.hypervisor.power_on("web")
        await here.hypervisor.set_networks("web", nics)
        with pytest.raises(PlatformError, match="while it is off"):
            await here.hypervisor.set_networks("web", nics[:1])
        found = await here.inventory.vm("web")
        assert (found.networks, found.addresses) == (("DC0_DVPG0", "VM Network"), ("192.0.2.9",))

    run(center, work)


def test_a_windows_guest_is_called_so_and_is_never_run_through_sysprep(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm(firmware=Firmware.UEFI, secure_boot=True, system="windows"))
        found = await here.inventory.vm("web")
        assert (found.firmware, found.secure_boot, found.system) == (Firmware.UEFI, True, "windows")
        await here.hypervisor.create(a_vm("old", system="linux", secure_boot=True))  # which BIOS knows nothing of
        found = await here.inventory.vm("old")
        assert (found.firmware, found.secure_boot, found.system) == (Firmware.BIOS, False, "linux")
        center.proxy.calls.clear()
        static = [Nic("DC0_DVPG0", "192.0.2.9", "255.255.255.0"), Nic("VM Network")]
        for _ in range(2):
            with pytest.raises(Unsupported, match="no static address: a vCenter would run Sysprep"):
                await here.hypervisor.set_networks("web", static)
        assert (await here.inventory.vm("web")).networks == ("DC0_DVPG0", "VM Network")
        await here.hypervisor.set_networks("web", [Nic("VM Network")])
        assert (await here.inventory.vm("web")).networks == ("VM Network",)
        assert "CustomizeVM_Task" not in center.proxy.calls

    run(center, work)


def test_a_guest_is_asked_to_stop_and_waited_for(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        with pytest.raises(PlatformError, match="was not up"):
            await here.hypervisor.wait("web", 0.1)
        await here.hypervisor.power_on("web")
        await here.hypervisor.wait("web", 10)
        center.proxy.rules = [Rule("ShutdownGuest", "fault", answer=fault("ToolsUnavailable"))]
        assert not await here.hypervisor.shut_down("web", 10)
        assert (await here.inventory.vm("web")).power == "on"
        center.proxy.rules = [Rule("ShutdownGuest", "lost")]
        assert await here.hypervisor.shut_down("web", 10)
        assert (await here.inventory.vm("web")).power == "off"

    run(center, work)


def test_a_wait_outlives_its_session_and_connection(center: VCenter) -> None:
    async def work(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        center.proxy.rules = [Rule("WaitForUpdatesEx", "reset"), Rule("WaitForUpdatesEx", "expire")]
        waiting = asyncio.create_task(here.hypervisor.wait("web", 30))
        await asyncio.sleep(0.3)
        await here.hypervisor.power_on("web")
        await waiting

    run(center, work)


# -- the appliance's disks --------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=30))
def test_names_of_owners_become_names_of_files_and_back(name: str) -> None:
    name = name.encode("utf-8", "replace").decode()
    assert unescaped(escaped(name)) == name
    assert not set(escaped(name)) & set("/\\+*?[] %")
    assert not escaped(name).startswith(".")


def test_a_disk_that_is_not_mounted_is_found_by_its_identity(center: VCenter, tmp_path: Path) -> None:
    async def work(here: Platform) -> None:
        disk = await here.disks.create("one", MIB, STORE, ME)
        await here.hypervisor.attach(APPLIANCE, disk)
        with pytest.raises(PlatformError, match=r"disk\.EnableUUID"):
            await here.locator.locate(APPLIANCE, disk)
        name = f"{disk}</fileName>"
        rewrite(center, "RetrievePropertiesEx", name, f"{name}<uuid>6000C29a-b83a-8ff6-1d49-1a2b3c4d5e6f</uuid>")
        path = await here.locator.locate(APPLIANCE, disk)
        assert path == tmp_path / "wwn-0x6000c29ab83a8ff61d491a2b3c4d5e6f"

    run(center, work, datastores={}, devices=str(tmp_path))


# -- changed block tracking -------------------------------------------------------------------------------------------


def _with_a_disk(center: VCenter, work: Callable[[Platform, Any], Awaitable[None]], **changes: Any) -> None:
    async def whole(here: Platform) -> None:
        await here.hypervisor.create(a_vm())
        disk = await here.disks.create("one", MIB, STORE, ME)
        await here.hypervisor.attach("web", disk)
        await work(here, disk)

    run(center, whole, **changes)


def test_a_disk_that_is_another_by_now_is_said_with_what_to_do(center: VCenter) -> None:
    """As after a Storage vMotion: its file, and so its name, is another one."""

    async def work(here: Platform, disk: Any) -> None:
        assert here.changes is not None
        epoch = await here.changes.begin("web", ME)
        with pytest.raises(NotFound, match="is not in this snapshot of VM web") as caught:
            await here.changes.changed(epoch, DiskId(disk.replace("one", "two")), None)
        assert "moved to another datastore?" in caught.value.hint
        await here.changes.end(epoch)

    _with_a_disk(center, work)


def test_changed_areas_come_in_parts(center: VCenter) -> None:
    def part(request: bytes) -> tuple[int, bytes]:
        at = int(re.findall(rb"<startOffset[^>]*>(\d+)<", request)[0])
        area = f"<changedArea><start>{at}</start><length>512</length></changedArea>"
        return answer(
            "QueryChangedDiskAreas",
            f"<returnval><startOffset>{at}</startOffset><length>{MIB // 4}</length>{area}</returnval>",
        )

    async def work(here: Platform, disk: Any) -> None:
        assert here.changes is not None
        epoch = await here.changes.begin("web", ME)
        center.proxy.instead["QueryChangedDiskAreas"] = part
        areas = await here.changes.changed(epoch, disk, dict(epoch.marks)[disk])
        assert list(areas) == [Area(at, 512) for at in range(0, MIB, MIB // 4)]
        broken = fault("FileFault", "no ctk file", "<file>one-ctk.vmdk</file>")
        center.proxy.instead["QueryChangedDiskAreas"] = lambda _: broken
        with pytest.raises(Untrusted):
            await here.changes.changed(epoch, disk, dict(epoch.marks)[disk])
        await here.changes.end(epoch)
        await here.changes.end(epoch)

    _with_a_disk(center, work)


def test_without_a_change_id_everything_is_compared(center: VCenter) -> None:
    async def work(here: Platform, disk: Any) -> None:
        assert here.changes is not None
        center.proxy.after.append(lambda _, __, got: re.sub(b"<changeId>.*?</changeId>", b"", got))
        epoch = await here.changes.begin("web", ME)
        assert epoch.marks == ((disk, ""),)
        assert await here.changes.changed(epoch, disk, None) == [Area(0, MIB)]
        with pytest.raises(Untrusted):
            await here.changes.changed(epoch, disk, "")
        await here.changes.end(epoch)

    _with_a_disk(center, work)


@pytest.mark.parametrize("do", ["lost", "reset", "expire"])
def test_an_epoch_that_was_begun_twice_has_one_snapshot(center: VCenter, do: str) -> None:
    async def work(here: Platform, disk: Any) -> None:
        assert here.changes is not None
        center.proxy.rules = [Rule("CreateSnapshot_Task", do)]
        epoch = await here.changes.begin("web", ME)
        again = await here.changes.begin("web", ME)
        vm = await raw(here, vim.VirtualMachine, "web")
        tree = await here.inventory.session.read(vm, "snapshot.rootSnapshotList")  # type: ignore[attr-defined]
        assert [node.snapshot._moId for node in tree["snapshot.rootSnapshotList"]] == [again.id]
        assert epoch.id != again.id
        center.proxy.rules = [Rule("RemoveSnapshot_Task", do)]
        await here.changes.end(again)

    _with_a_disk(center, work)


def test_what_is_not_mounted_is_read_through_the_appliance(center: VCenter) -> None:
    async def work(here: Platform, disk: Any) -> None:
        assert here.changes is not None
        epoch = await here.changes.begin("web", ME)
        assert disk in (await here.inventory.vm(APPLIANCE)).disks
        await here.changes.end(epoch)
        assert disk not in (await here.inventory.vm(APPLIANCE)).disks
        assert (await here.inventory.vm("web")).disks == (disk,)

    _with_a_disk(center, work, datastores={})


@pytest.mark.parametrize(
    ("guest", "system"),
    [("windows2019srv_64Guest", "windows"), ("winNetEnterpriseGuest", "windows"), ("otherLinux64Guest", "linux"),
     ("rhel8_64Guest", "linux"), ("ubuntu64Guest", "linux"), ("otherGuest64", ""), ("darwin19_64Guest", ""), ("", "")],
)  # fmt: skip
def test_what_vcenter_calls_a_guest_says_its_system(guest: str, system: str) -> None:
    assert system_of(guest) == system


def test_the_guide_lists_the_privileges() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "vsphere.md"
    rows = re.findall(r"^\| `(\w+\.\w.*)` \| (.*) \|$", guide.read_text(), re.M)
    assert rows == [(need.privilege, need.why) for need in NEEDED]
