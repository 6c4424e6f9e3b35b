"""One file, two modes: the same estate is simulated, and is run for real."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from nbd_client import connected

from drsim.core.errors import FileError
from drsim.core.recovery.plan import Kind
from drsim.files.estate import vpg_of_estate
from drsim.files.models import load_model
from drsim.files.sites import load_site
from drsim.real.installation import Installation
from drsim.real.loopback import free_port
from drsim.real.planning import Wish, vpg_of
from drsim.sim.run import simulate
from drsim.spec.protect import Address, ReIp

ESTATE = """
sites:
  london: {{platform: local, live: {{folder: london, connect: "127.0.0.1:{port}"}}}}
  leeds: {{platform: local, live: {{folder: leeds, listen: "127.0.0.1:{port}"}}, networks: [lan]}}
datastores: {{here: {{site: london}}, there: {{site: leeds}}}}
hosts:
  london-1: {{site: london, vra: {{ram: 1}}}}
  leeds-1: {{site: leeds, vra: {{ram: 1}}}}
  leeds-2: {{site: leeds, vra: {{ram: 1}}}}
links: {{wan: {{between: [london, leeds], bandwidth: 100 Mbit/s}}}}
vms:
  db: &vm
    host: london-1
    datastore: here
    memory: 64 MiB
    volumes: [{{name: system, size: 4 MiB, path: db.disk}}]
    workload: {{kind: constant, rate: 10, size: 4 KiB}}
  app: {{<<: *vm, volumes: [{{name: system, size: 4 MiB, path: app.disk}}]}}
vpgs:
  crm:
    vms: [db, app]
    recovery: {{hosts: [leeds-1, leeds-2], datastore: there}}
    boot_groups: [[db], [app]]
    boot_delay: 10 s
    checkpoint_interval: 1 s
"""

STATIC = ReIp(live=Address(network="lan", address="10.2.0.5"), test=Address(network="lan"))


def write(folder: Path, text: str = ESTATE) -> Path:
    path = folder / "estate.yaml"
    path.write_text(text.format(port=free_port()))
    return path


def test_an_estate_is_simulated_and_run(tmp_path: Path) -> None:
    file = write(tmp_path)
    model = load_model(file, overrides=["run.until=1min"])
    assert len(simulate(model).record("crm").listed) > 30

    async def run() -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            sites = [
                await stack.enter_async_context(Installation(load_site(Path(f"{file}:{name}")), tmp_path))
                for name in ("leeds", "london")
            ]
            leeds, london = sites
            assert london.site.end is not None
            await london.site.end.wait(connected=True)
            spec = vpg_of_estate(model, "crm", place="")
            groups = {vm: n for n, group in enumerate(spec.boot_groups, 1) for vm in group}
            await london.protect(
                vpg_of(
                    london.spec, london.state.state, "crm", spec.vms, spec.recovery.hosts,
                    interval=spec.checkpoint_interval, history=spec.journal.history, rpo_alert=spec.rpo_alert,
                    journal=spec.journal.limit_bytes, groups=groups, boot_delay=spec.boot_delay,
                )
            )  # fmt: skip
            with connected(london.folder / "nbd.sock", "db/system") as client:
                assert client.write(0, b"x" * 512) == 0
            while not leeds.listed("crm"):
                london.site.check()
                leeds.site.check()
                await asyncio.sleep(0.01)
            vms = leeds.known("crm").vpg.vms
            assert [(vm.target, vm.group) for vm in vms] == [("leeds-1", 1), ("leeds-2", 2)]

    asyncio.run(run())
    assert (tmp_path / "db.disk").stat().st_size == 4 << 20


@pytest.mark.parametrize(
    ("old", "new", "site", "said"),
    [
        ("", "", "paris", "no site is called 'paris'"),
        ("live: {{folder: leeds", "about: {{folder: leeds", "leeds", "about"),
        (", live: {{folder: leeds, listen: \"127.0.0.1:{port}\"}}", "", "leeds", "says nothing of how it is run"),
        (", live: {{folder: leeds, listen: \"127.0.0.1:{port}\"}}", "", "london", "has 0 peers"),
        (", path: app.disk", "", "london", "volume system of VM app is nowhere"),
    ],
)  # fmt: skip
def test_what_a_real_site_lacks_is_named(tmp_path: Path, old: str, new: str, site: str, said: str) -> None:
    file = write(tmp_path, ESTATE.replace(old, new) if old else ESTATE)
    with pytest.raises(FileError, match=said):
        load_site(Path(f"{file}:{site}"))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"firmware": "uefi"}, "it starts with UEFI"),
        ({"system": "windows", "reip": (STATIC,)}, "local gives a guest with Windows no static address"),
    ],
)  # fmt: skip
def test_a_vm_that_the_other_platform_cannot_run_is_refused_before_anything_is_touched(
    tmp_path: Path, known: dict[str, Any], said: str
) -> None:
    """Firmware is never converted, and QEMU here starts BIOS only; and what its re-IP asks for has to be possible."""

    async def run() -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            sites = [
                await stack.enter_async_context(Installation(load_site(Path(f"{file}:{name}")), tmp_path))
                for name in ("leeds", "london")
            ]
            leeds, london = sites
            assert london.site.end is not None
            await london.site.end.wait(connected=True)
            vpg = vpg_of(
                london.spec, london.state.state, "crm", ["db"], "leeds-1", interval=200_000_000, history=3600 * 10**9,
                rpo_alert=60 * 10**9, journal=None,
            )  # fmt: skip
            vms = tuple(vm.model_copy(update=known) for vm in vpg.vms)
            await london.protect(vpg.model_copy(update={"vms": vms}))
            while not leeds.listed("crm"):
                await asyncio.sleep(0.01)
            number = leeds.recoveries.begin(leeds.recoveries.plan(Wish(kind=Kind.CLONE, vpg="crm")))
            while not leeds.recoveries.status(number)["outcome"]:
                await asyncio.sleep(0.01)
            report = leeds.recoveries.status(number)
            assert report["outcome"] == "refused"
            assert any(each.startswith(f"db-clone cannot be recovered on local: {said}") for each in report["reasons"])
            assert leeds.hypervisor.vms() == {}

    file = write(tmp_path)
    asyncio.run(run())
