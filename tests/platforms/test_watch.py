"""A site on a platform hears what happens to its VMs and hosts there, and says so."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platforms.arms import BY_NAME, open_memory
from platforms.test_pairs import SITE, Estate, protected, until
from platforms.vsphere_arm import VsphereBench
from pyVmomi import vim

from drsim.core.errors import PlatformError
from drsim.core.facts import EpochDue
from drsim.core.names import VmId
from drsim.files.sites import load_site
from drsim.real import elsewhere
from drsim.real.installation import Installation
from drsim.real.loopback import free_port
from drsim.real.planning import vpg_of
from drsim.real.ports import Gone, HostChanged, Moved
from drsim.verify.conformance.bench import Bench
from drsim.verify.conformance.memory import MemoryBench


def site(folder: Path, bench: Bench, name: str = "london", vms: str = "{}", port: int = 0) -> Installation:
    text = SITE.format(site=name, peer="leeds" if name == "london" else "london", host=bench.host, vms=vms,
                       how="connect" if name == "london" else "listen", port=port or free_port())  # fmt: skip
    (folder / f"{name}.yaml").write_text(text)
    return Installation(load_site(folder / f"{name}.yaml"), folder, platform=bench.platform)


def test_moves_losses_and_hosts_are_told(tmp_path: Path) -> None:
    """And a loss is forgotten when the VM has been captured again."""

    async def work() -> None:
        async with asyncio.timeout(60), open_memory() as source, open_memory() as target:
            assert isinstance(source, MemoryBench)
            assert isinstance(target, MemoryBench)
            await Estate(source, target).make()
            port = free_port()
            async with (
                site(tmp_path, target, "leeds", port=port) as leeds,
                site(tmp_path, source, "london", f"{{web: {{host: {source.host}, system: linux}}}}", port) as london,
            ):
                assert london.site.end is not None
                await london.site.end.wait(connected=True)
                vpg = vpg_of(
                    london.spec, london.state.state, "crm", ["web"], target.host, interval=100_000_000,
                    history=3600 * 10**9, rpo_alert=60 * 10**9, journal=None, epochs=3600 * 10**9,
                )  # fmt: skip
                assert vpg.vms[0].system == "linux", "where the platform does not know, the file may say it"
                await london.protect(vpg)
                await until(lambda: bool(leeds.listed("crm")), london, leeds)
                said: list[str] = []
                london.warned, here, there = said.append, london.elsewhere, leeds.elsewhere
                assert here is not None
                assert there is not None
                for change in (Moved("other", "host-2"), Gone("other"), Moved("web", "host-2")):
                    source._estate.tell(change)
                await until(lambda: len(leeds.listed("crm")) == 2, london, leeds)  # the move's own
                source._estate.tell(Gone("web"))
                await until(lambda: "VM web" in here.failing, london, leeds)
                assert said[0] == "VM web runs on host-2 now"
                assert "not there any more" in here.failing["VM web"]
                assert len(said) == 2, "nothing of VMs that are not the site's"
                target._estate.tell(HostChanged(target.other_host, usable=False))
                await target.lose_host(target.host)
                await until(lambda: bool(there.failing), london, leeds)
                assert list(there.failing) == [f"host {target.host}"]
                target._estate.tell(HostChanged(target.host, usable=True))
                await until(lambda: not there.failing, london, leeds)

    asyncio.run(work())


def test_a_vmotion_reaches_the_core_and_the_next_epoch_is_taken_at_once(tmp_path: Path) -> None:
    """Through a vCenter: its update, the VPG's manager, an epoch an hour early, a checkpoint; and a replay agrees."""

    async def work() -> None:
        async with asyncio.timeout(90), BY_NAME["vsphere"].bench() as source, open_memory() as target:
            assert isinstance(source, VsphereBench)
            estate = Estate(source, target)
            await estate.make()
            async with protected(tmp_path, estate) as (london, leeds):
                here: Any = source.platform.inventory
                while source.center.proxy.calls.count("WaitForUpdatesEx") < 2:
                    await asyncio.sleep(0.02)
                before = leeds.listed("crm")[-1].id
                other = await here.find(vim.HostSystem, source.other_host)
                vm = await here.find(vim.VirtualMachine, "web")
                await here.session.finished(vm.RelocateVM_Task, vim.vm.RelocateSpec(host=other))
                await until(lambda: leeds.listed("crm")[-1].id > before, london, leeds)
                due = EpochDue("crm", VmId(london.known("crm").vpg.vms[0].id), source.other_host)
                assert [fact for _, fact in london.facts if isinstance(fact, EpochDue)] == [due]

    asyncio.run(work())


def test_it_goes_on_after_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with asyncio.timeout(60), open_memory() as bench:
            inventory = bench.platform.inventory
            hear: Callable[..., object] = inventory.changes
            times = 0

            async def troubled():  # type: ignore[no-untyped-def]
                nonlocal times
                times += 1
                if times == 1:
                    raise PlatformError("it does not say")
                async for change in hear():  # type: ignore[attr-defined]
                    yield change

            monkeypatch.setattr(inventory, "changes", troubled)
            async with site(tmp_path, bench) as london:
                here = london.elsewhere
                assert here is not None
                await until(lambda: times == 2, london)
                assert "it does not say" in here.failing["hearing of changes"]
                await asyncio.sleep(0.05)
                bench._estate.tell(HostChanged("host-1", usable=True))  # type: ignore[attr-defined]
                await until(lambda: not here.failing, london)

    monkeypatch.setattr(elsewhere, "_AGAIN", 0.05)
    asyncio.run(work())


def test_a_vcenter_tells_of_a_vm_that_somebody_deletes(tmp_path: Path) -> None:
    async def work() -> None:
        async with asyncio.timeout(60), BY_NAME["vsphere"].bench() as bench:
            assert isinstance(bench, VsphereBench)
            await Estate(bench, bench).make()
            async with site(tmp_path, bench, "london", f"{{web: {{host: {bench.host}}}}}") as london:
                here = london.elsewhere
                assert here is not None
                while bench.center.proxy.calls.count("WaitForUpdatesEx") < 2:
                    await asyncio.sleep(0.02)
                await bench.platform.hypervisor.delete("web", "london")
                await until(lambda: "VM web" in here.failing, london)

    asyncio.run(work())
