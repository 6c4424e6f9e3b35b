"""Target: carries out on a platform, through its ports, what recovery asks of the recovery site.

Theory of operation. Everything that an operation makes carries its address as owner, so that it is found after a crash
and nobody else's is touched. Disks of a recovered VM are disks of the platform of their own:

    CreateScratch, CopyDisks     make the disk, attach it to the appliance, lay out the volume as of the checkpoint
                                 there, detach it
    AttachDisks                  attach it to the VM, in the order of the volumes
    Promote                      nothing: the disk is whole already
    DropScratch, DeleteCopy      detach it from whoever has it and delete it

So a recovery takes the time to copy what the VM's disks hold, once, at the speed of the platform's datastore; and a
test, a roll back or a clone never touch a mirror. (A local site serves scratch over NBD and copies afterwards.)

Whatever was interrupted is done again from where it can be looked at: an interrupted layout begins anew, because nobody
has seen that disk yet.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from drsim.core.action import Action
from drsim.core.errors import PlatformError
from drsim.core.names import Address, CheckpointId, VmId, VolumeId
from drsim.core.recovery import actions as do
from drsim.core.units import SECOND
from drsim.real.ports import DiskId, Firmware, NewVm, NotFound, Platform, Taken

SHARED = "drsim"
"""In the name of every disk, so that an administrator knows whose it is."""
_NUMBER = 6  # digits


@dataclass(frozen=True, slots=True)
class Origin:
    """What a VM was at its source and has to be again, whatever the plan says of it. Fields as in NewVm."""

    firmware: Firmware = Firmware.BIOS
    ready: str = ""
    secure_boot: bool = False
    system: str = ""


class Images(Protocol):
    """The VMs' volumes as of checkpoints."""

    def sizes(self, vm: VmId) -> Mapping[VolumeId, int]:
        """Bytes of each volume of a VM, in the order in which the guest sees them."""
        ...

    async def lay_out(self, vm: VmId, volume: VolumeId, checkpoint: CheckpointId, to: Path) -> None:
        """Write a volume as of a checkpoint to a file or block device of its size, durably."""
        ...

    def origin(self, vm: VmId) -> Origin:
        """What it was at its source."""
        ...


class Target:
    """One recovery site's platform. `store`: where recovered VMs and disks go."""

    def __init__(self, platform: Callable[[], Platform], images: Images, store: str) -> None:
        self._platform, self._images, self._store = platform, images, store
        self._one_at_a_time = asyncio.Lock()  # an appliance has few places for disks

    async def carry_out(self, operation: Address, action: Action[Any]) -> None:
        """Do it. Raises PlatformError."""
        here, owner = self._platform(), str(operation)
        match action:
            case do.CreateVm(name, vm, host, cpus, memory):
                was = self._images.origin(vm)
                await here.hypervisor.create(
                    NewVm(
                        name, owner, host, self._store, cpus, memory, was.firmware, was.ready, was.secure_boot,
                        was.system,
                    )
                )  # fmt: skip
            case do.DeleteVm(name):
                await here.hypervisor.delete(name, owner)
            case do.CreateScratch(name, vm, checkpoint) | do.CopyDisks(name, vm, checkpoint):
                for volume in self._images.sizes(vm):
                    await self._make(owner, name, vm, volume, checkpoint)
            case do.AttachDisks(name):
                for disk in await self._disks(owner, name):
                    await here.hypervisor.attach(name, disk)
            case do.DetachDisks(name):
                for disk in await self._disks(owner, name):
                    await here.hypervisor.detach(name, disk)
            case do.DropScratch(name) | do.DeleteCopy(name):
                await self._drop(owner, name)
            case do.ReIp(name, nics):
                await here.hypervisor.set_networks(name, nics)
            case do.PowerOn(name):
                await here.hypervisor.power_on(name)
            case do.PowerOff(name):
                await self._power_off(name, owner)
            case do.AwaitGuest(name, timeout):
                await here.hypervisor.wait(name, timeout / SECOND)
            case do.Promote():
                pass
            case _:
                raise PlatformError(f"{here.name} cannot {action}")

    async def _power_off(self, name: str, owner: str) -> None:
        here = self._platform()
        try:
            there = await here.inventory.vm(name)
        except NotFound:
            return
        if there.owner == owner:
            await here.hypervisor.power_off(name)

    async def _make(self, owner: str, name: str, vm: VmId, volume: VolumeId, checkpoint: CheckpointId) -> None:
        here, size = self._platform(), self._images.sizes(vm)[volume]
        disk = await here.disks.create(_called(name, volume), size, self._store, owner)
        attached = (await here.disks.disk(disk)).attached
        if attached == name:
            return  # it was laid out in an earlier life
        if attached not in ("", here.appliance):
            raise Taken(f"disk {disk} of {name} is attached to {attached}", place=here.name, hint="detach it there")
        async with self._one_at_a_time:
            await here.hypervisor.attach(here.appliance, disk)
            try:
                path = await here.locator.locate(here.appliance, disk)
                await self._images.lay_out(vm, volume, checkpoint, path)
            finally:
                await here.hypervisor.detach(here.appliance, disk)

    async def _disks(self, owner: str, name: str) -> list[DiskId]:
        """Those that an operation has made for a VM, in order."""
        owned = await self._platform().disks.owned(owner)
        mine = {facts.name: facts.id for facts in owned if facts.name[:-_NUMBER] == _called(name, 0)[:-_NUMBER]}
        return [mine[each] for each in sorted(mine)]

    async def _drop(self, owner: str, name: str) -> None:
        here = self._platform()
        for disk in await self._disks(owner, name):
            attached = (await here.disks.disk(disk)).attached
            if attached in (name, here.appliance):
                await here.hypervisor.detach(attached, disk)
            await here.disks.delete(disk, owner)


def _called(name: str, volume: int) -> str:
    return f"{SHARED}-{name}-{volume:0{_NUMBER}d}"
