"""From every platform to every platform: VMs protected on one are recovered on the other, and their disks boot.

Two sites in one process, each the appliance of its platform, over loopback TCP: epochs, the core, journals, recovery.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nbd_client import connected
from platforms.arms import ARMS, BY_NAME

from drsim.core.recovery.plan import Commit, Kind, Shutdown
from drsim.core.vpg import Vpg
from drsim.files.sites import load_site
from drsim.real import elsewhere
from drsim.real.installation import Installation
from drsim.real.loopback import free_port
from drsim.real.planning import Wish, vpg_of
from drsim.real.ports import DiskId, Firmware, NewVm, Power
from drsim.verify.conformance.bench import Arm, Bench
from drsim.verify.conformance.boot import speaking
from drsim.verify.conformance.claims import MEMORY, SIZE
from drsim.verify.transcripts import replay

SITE = """
site: {site}
folder: {site}
link: {{peer: {peer}, {how}: "127.0.0.1:{port}"}}
hosts: {{{host}: {{pool: 16 MiB}}}}
vms: {vms}
tweaks: {{peer_timeout: 5 s, frame_delay: 1 ms}}
"""
SECONDS = 120


class Estate:
    """One VM with two disks at the source; nothing at the target."""

    def __init__(self, source: Bench, target: Bench) -> None:
        self.source, self.target = source, target
        self.disks: list[DiskId] = []

    async def make(self, **more: Any) -> None:
        here = self.source.platform
        vm = NewVm("web", "london", self.source.host, self.source.store, cpus=1, memory=MEMORY, **more)
        await here.hypervisor.create(vm)
        for name in ("one", "two"):
            disk = await here.disks.create(name, SIZE, self.source.store, "london")
            await here.hypervisor.attach(here.appliance, disk)
            await here.hypervisor.detach(here.appliance, disk)
            self.disks.append(disk)
        await self.write("before protection")
        for disk in self.disks:
            await here.hypervisor.attach("web", disk)
        await here.hypervisor.power_on("web")

    async def write(self, text: str) -> None:
        """What the guest does."""
        await self.source.fill(self.disks[0], speaking(text, SIZE))
        await self.source.fill(self.disks[1], text.encode().ljust(512, b".") * (SIZE // 512))


@asynccontextmanager
async def protected(folder: Path, estate: Estate) -> AsyncIterator[tuple[Installation, Installation]]:
    """The source's site and the target's, with a VPG of which a checkpoint is listed. In the end they replay (P28)."""
    port, source, target = free_port(), estate.source, estate.target
    (folder / "london.yaml").write_text(SITE.format(
        site="london", peer="leeds", how="connect", port=port, host=source.host,
        vms=f"{{web: {{host: {source.host}}}}}",
    ))  # fmt: skip
    (folder / "leeds.yaml").write_text(SITE.format(
        site="leeds", peer="london", how="listen", port=port, host=target.host, vms="{}",
    ))  # fmt: skip
    async with AsyncExitStack() as stack:
        leeds, london = [
            await stack.enter_async_context(
                Installation(load_site(folder / f"{name}.yaml"), folder, transcript=True, platform=bench.platform)
            )
            for name, bench in (("leeds", target), ("london", source))
        ]
        assert london.site.end is not None
        await london.site.end.wait(connected=True)
        vpg = vpg_of(
            london.spec, london.state.state, "crm", ["web"], target.host, interval=100_000_000, history=3600 * 10**9,
            rpo_alert=60 * 10**9, journal=None, epochs=3600 * 10**9,
        )  # fmt: skip
        await london.protect(vpg)
        await until(lambda: bool(leeds.listed("crm")), london, leeds)
        yield london, leeds
    for site in (london, leeds):
        assert site.transcript is not None
        assert replay(site.transcript.path).broke == ""


async def play(folder: Path, estate: Estate, kind: Kind) -> None:
    """Protect, change, recover."""
    source, target = estate.source, estate.target
    async with protected(folder, estate) as (london, leeds):
        await estate.write("after protection")
        if kind is Kind.MOVE:
            wish = Wish(kind=kind, vpg="crm", shutdown=Shutdown.FORCE, commit=Commit.COMMIT)
        else:
            assert london.elsewhere is not None
            before = leeds.listed("crm")[-1].id
            await london.elsewhere.epoch("crm")
            await until(lambda: leeds.listed("crm")[-1].id > before, london, leeds)
            await estate.write("lost with the site")
            wish = Wish(kind=kind, vpg="crm", commit=Commit.COMMIT)
        number = leeds.recoveries.begin(leeds.recoveries.plan(wish))
        await until(lambda: bool(leeds.recoveries.status(number)["outcome"]), london, leeds)
        report = leeds.recoveries.status(number)
        assert report["outcome"] == "committed", report
        if kind is Kind.MOVE:
            assert (await source.platform.inventory.vm("web")).power is Power.OFF
        assert await target.booted("web") == "after protection"
        vm = await target.platform.inventory.vm("web")
        assert len(vm.disks) == 2
        second = await target.content(vm.disks[1], SIZE)
        assert second == b"after protection".ljust(512, b".") * (SIZE // 512)
        if (objects := target.platform.objects) is not None:  # its journals are there as well
            while not [key for key in await objects.keys("streams/") if "/heads/" in key]:
                await asyncio.sleep(0.05)


async def until(condition, *sites: Installation) -> None:  # type: ignore[no-untyped-def]
    while not condition():
        for site in sites:
            site.site.check()
        await asyncio.sleep(0.02)


def run(folder: Path, source: Arm, target: Arm, kind: Kind) -> None:
    """On fresh benches."""

    async def work() -> None:
        async with asyncio.timeout(SECONDS), source.bench() as there, target.bench() as here:
            estate = Estate(there, here)
            await estate.make()
            await play(folder, estate, kind)

    asyncio.run(work())


@pytest.fixture(autouse=True)
def _copied_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "COPY", 0.5)


@pytest.mark.parametrize("kind", [Kind.LIVE, Kind.MOVE], ids=["failover", "move"])
def test_within_the_model(tmp_path: Path, kind: Kind) -> None:
    run(tmp_path, BY_NAME["sim"], BY_NAME["sim"], kind)


def test_what_a_vm_was_at_its_source_it_is_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firmware, Secure Boot and the guest's system go with it, to a vCenter."""

    async def work() -> None:
        async with asyncio.timeout(SECONDS), BY_NAME["sim"].bench() as there, BY_NAME["vsphere"].bench() as here:
            estate = Estate(there, here)
            await estate.make(firmware=Firmware.UEFI, secure_boot=True, system="windows")
            await play(tmp_path, estate, Kind.LIVE)
            vm = await here.platform.inventory.vm("web")
            assert (vm.firmware, vm.secure_boot, vm.system) == (Firmware.UEFI, True, "windows")

    monkeypatch.setattr("drsim.real.inspection._kind", lambda site: "vsphere")  # what a file would say of leeds
    asyncio.run(work())


def test_whoever_resumes_a_vpg_waits_for_the_epoch_under_way(tmp_path: Path) -> None:
    """A large epoch pauses its VPG for itself, and an operator does not end that (docs/background/bugs-found.md)."""

    async def work() -> None:
        arm = BY_NAME["sim"]
        async with asyncio.timeout(SECONDS), arm.bench() as there, arm.bench() as here:
            estate = Estate(there, here)
            await estate.make()
            async with protected(tmp_path, estate) as (london, leeds):
                assert london.elsewhere is not None
                epochs, manager = london.elsewhere._of("crm"), london.site.kernel.machines[london.manager("crm")]
                assert isinstance(manager, Vpg)
                for paused in (True, False):
                    epochs.paused = paused
                    london.pause("crm", paused=False)
                    await asyncio.sleep(0)
                    await until(lambda: manager.paused is paused, london, leeds)  # noqa: B023

    asyncio.run(work())


NAMES = [arm.name for arm in ARMS if arm.name != "sim"]
MISSION = [
    *(("vsphere", name) for name in NAMES),
    *((name, "local") for name in NAMES if name not in ("local", "vsphere")),
    *((("vsphere", "vcd"), ("vcd", "vsphere"), ("vcd", "vcd")) if "vcd" in NAMES else ()),
]
EVERY = [(one, other) for one in NAMES for other in NAMES if "changes" not in BY_NAME[one].lacks]
PAIRS = list(dict.fromkeys(EVERY if os.environ.get("DRSIM_PAIRS") == "all" else MISSION))
"""Those that drsim is for; all of them take some minutes, and are asked for with DRSIM_PAIRS=all."""


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_a_vm_goes_from_one_platform_to_another(tmp_path: Path, source: str, target: str) -> None:
    run(tmp_path, BY_NAME[source], BY_NAME[target], Kind.MOVE if source == target else Kind.LIVE)


LOCAL = """
site: london
folder: london
link: {{peer: leeds, connect: "127.0.0.1:{port}"}}
hosts: {{here: {{pool: 16 MiB}}}}
vms:
  web: {{host: here, memory: 512 MiB, disks: {{one: {{path: one, size: 1 MiB}}, two: {{path: two, size: 1 MiB}}}}}}
tweaks: {{peer_timeout: 5 s, frame_delay: 1 ms}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name in NAMES if name != "local"])
def test_a_vm_of_this_machine_goes_to_a_platform(tmp_path: Path, target: str) -> None:
    """Its writes are tapped one by one, and it is recovered there."""

    async def work() -> None:
        async with asyncio.timeout(SECONDS), BY_NAME[target].bench() as bench:
            await from_here(tmp_path, bench)

    asyncio.run(work())


async def from_here(folder: Path, bench: Bench) -> None:
    port = free_port()
    (folder / "london.yaml").write_text(LOCAL.format(port=port))
    (folder / "leeds.yaml").write_text(
        SITE.format(site="leeds", peer="london", how="listen", port=port, host=bench.host, vms="{}")
    )
    async with AsyncExitStack() as stack:
        leeds = await stack.enter_async_context(
            Installation(load_site(folder / "leeds.yaml"), folder, platform=bench.platform)
        )
        london = await stack.enter_async_context(Installation(load_site(folder / "london.yaml"), folder))
        assert london.site.end is not None
        await london.site.end.wait(connected=True)
        await london.protect(
            vpg_of(
                london.spec, london.state.state, "crm", ["web"], bench.host, interval=200_000_000,
                history=3600 * 10**9, rpo_alert=60 * 10**9, journal=None,
            )
        )  # fmt: skip
        await until(lambda: bool(leeds.listed("crm")), london, leeds)

        def write(text: str) -> None:
            with connected(london.folder / "nbd.sock", "web/one") as client:
                assert client.write(0, speaking(text, SIZE)[:1024]) == 0

        await asyncio.to_thread(write, "tapped here")
        london.tag("crm", "now")
        await until(lambda: any(c.tag == "now" for c in leeds.listed("crm")), london, leeds)
        await asyncio.to_thread(write, "lost with the site")
        wish = Wish(kind=Kind.LIVE, vpg="crm", commit=Commit.COMMIT, checkpoint="now")
        number = leeds.recoveries.begin(leeds.recoveries.plan(wish))
        await until(lambda: bool(leeds.recoveries.status(number)["outcome"]), london, leeds)
        assert leeds.recoveries.status(number)["outcome"] == "committed", leeds.recoveries.status(number)
        assert await bench.booted("web") == "tapped here"
