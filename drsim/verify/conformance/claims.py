"""Claims: how checks of the conformance suite are named, what they demand, and what they make.

What a check needs to exist it makes itself, and all of it under owners of the suite, so that on a real platform nothing
else is touched and `left_behind` finds what was forgotten.
"""

from collections.abc import Awaitable, Callable

from drsim.core.errors import DrsimError, PlatformError
from drsim.real.ports import DiskId, NewVm, VmFacts
from drsim.verify.conformance.bench import Bench

OWNER, OTHER = "suite/operation/1", "suite/operation/2"
MEMORY, SIZE = 512 << 20, 1 << 20
"""Bytes of a VM and of a disk; a platform may give more."""
PATIENCE = 60.0
"""Seconds for what a platform tells by itself."""
Check = Callable[[Bench], Awaitable[None]]
CHECKS: dict[str, Check] = {}
"""All checks of the ports, by name, in order."""


class NotConforming(DrsimError):
    """A platform breaks a promise of its ports."""


def check(work: Check) -> Check:
    CHECKS[work.__name__] = work
    return work


def demand(holds: bool, otherwise: str) -> None:
    """Raises NotConforming."""
    if not holds:
        raise NotConforming(otherwise)


async def expect(kind: type[PlatformError], work: Awaitable[object], otherwise: str) -> None:
    """Work that has to fail in this way. Raises NotConforming when it does not."""
    try:
        await work
    except kind:
        return
    except PlatformError as error:
        raise NotConforming(f"{otherwise}: {type(error).__name__}, not {kind.__name__}: {error.message}") from error
    raise NotConforming(otherwise)


async def a_vm(bench: Bench, name: str = "web", owner: str = OWNER, host: str = "") -> None:
    """Make one."""
    await bench.platform.hypervisor.create(
        NewVm(name, owner, host or bench.host, bench.store, cpus=1, memory=MEMORY, ready="")
    )


async def a_disk(bench: Bench, name: str = "drsim-web-000001", owner: str = OWNER, content: bytes = b"") -> DiskId:
    """Make one, and lay something out on it through the appliance."""
    here = bench.platform
    disk = await here.disks.create(name, SIZE, bench.store, owner)
    if content:
        await here.hypervisor.attach(here.appliance, disk)
        (await here.locator.locate(here.appliance, disk)).open("r+b").close()
        await bench.fill(disk, content)
        await here.hypervisor.detach(here.appliance, disk)
    return disk


async def facts(bench: Bench, name: str = "web") -> VmFacts:
    """What there is of a VM."""
    return await bench.platform.inventory.vm(name)


async def left_behind(bench: Bench, *owners: str) -> str:
    """VMs and disks that owners have, in words; empty: none."""
    here, found = bench.platform, []
    for owner in owners:
        found += [f"VM {vm.name} of {owner}" for vm in await here.inventory.vms(owner)]
        found += [f"disk {disk.name} of {owner}" for disk in await here.disks.owned(owner)]
    return ", ".join(found)
