"""Local: this machine as a platform behind the ports: VMs on QEMU, disks that are files and served over NBD.

    FOLDER/disks/OWNER/NAME.raw    a disk; its id and its export are OWNER/NAME, the owner percent-encoded
    FOLDER/appliance.json          the disks that the appliance has: this machine itself, so it needs no more than words

There is no wire in between, so nothing is throttled and nobody logs in. A live site of the local kind serves scratch
disks over mirror and journal instead (`recovered.py`); this is for what every platform has to be able to do, and for
VMs that come from, or go to, another platform.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, unquote

from drsim.core.errors import PlatformError
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.recovery.plan import Nic
from drsim.core.units import SECTOR, Ns
from drsim.real.clock import now_ns
from drsim.real.disk import Disk
from drsim.real.files import blame, make_directory, replace_file
from drsim.real.local.hypervisor import LocalHypervisor, LocalVm
from drsim.real.ports import (
    About,
    Change,
    DiskFacts,
    DiskId,
    Gone,
    HostFacts,
    NewVm,
    NotFound,
    Platform,
    Power,
    QuotaReached,
    StoreFacts,
    Taken,
    VmFacts,
)  # fmt: skip
from drsim.real.splitter import Splitter
from drsim.spec.live import LiveHost

APPLIANCE, STORE = "this-machine", "files"
_LOOK = 0.2
"""Seconds between looks at which VMs are there."""


class LocalPlatform:
    """All ports over one folder. `hosts`: names for parts of this machine's room."""

    def __init__(self, folder: Path, hosts: dict[str, LiveHost], networks: Sequence[str],
                 hypervisor: LocalHypervisor, splitter: Splitter) -> None:  # fmt: skip
        self._folder, self._hosts, self._networks = folder, hosts, tuple(networks)
        self._vms, self._splitter = hypervisor, splitter
        self._served: dict[DiskId, Disk] = {}
        for path in sorted((folder / "disks").glob("*/*.raw")):
            self._serve(_id(path))

    def ports(self) -> Platform:
        """Behind which this is."""
        return Platform("local", self, self, LocalDisks(self), LocalLocator(self), APPLIANCE, self._close)

    async def _close(self) -> None:
        while self._served:
            disk, served = self._served.popitem()
            self._splitter.remove(disk)
            served.close()

    # -- inventory --------------------------------------------------------------------------------------------

    async def about(self) -> About:
        """This machine."""
        name = os.uname()
        return About("QEMU on " + name.sysname, name.release, Ns(now_ns()))

    async def hosts(self) -> Sequence[HostFacts]:
        """With what their VMs leave."""
        there = self._vms.vms().values()
        return [
            HostFacts(
                name, host.memory - sum(vm.memory for vm in there if vm.host == name),
                host.cpus - sum(vm.cpus for vm in there if vm.host == name),
            )
            for name, host in self._hosts.items()
        ]  # fmt: skip

    async def stores(self) -> Sequence[StoreFacts]:
        """The folder's file system."""
        usage = shutil.disk_usage(self._folder)
        return [StoreFacts(STORE, usage.total, usage.free)]

    async def networks(self) -> Sequence[str]:
        """The site's."""
        return self._networks

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """All that are there; this machine is not one of them."""
        return [self._facts(vm) for vm in self._vms.vms().values() if owner is None or vm.owner == owner]

    async def vm(self, name: str) -> VmFacts:
        """Raises NotFound."""
        if name == APPLIANCE:
            host = next(iter(self._hosts))
            return VmFacts(APPLIANCE, "", host, Power.ON, os.cpu_count() or 1, 0, disks=self.attached())
        return self._facts(self._there(name))

    async def changes(self) -> AsyncIterator[Change]:
        """VMs that are gone."""
        before = set(self._vms.vms())
        while True:
            await asyncio.sleep(_LOOK)
            now = set(self._vms.vms())
            for name in sorted(before - now):
                yield Gone(name)
            before = now

    def _there(self, name: str) -> LocalVm:
        found = self._vms.vms().get(name)
        if found is None:
            raise NotFound(f"no VM is called {name}", place=str(self._vms.folder))
        return found

    def _facts(self, vm: LocalVm) -> VmFacts:
        power = Power.OFF if self._vms.pid(vm.name) is None else Power.ON
        networks = tuple(str(nic["network"]) for nic in vm.nics)
        disks = tuple(map(DiskId, vm.disks))
        return VmFacts(vm.name, vm.owner, vm.host, power, vm.cpus, vm.memory, disks=disks, networks=networks)

    # -- VMs --------------------------------------------------------------------------------------------------

    async def create(self, vm: NewVm) -> None:
        """Raises Taken, NotFound."""
        if vm.host not in self._hosts:
            raise NotFound(f"there is no host {vm.host}", place="local", hint=f"there is: {', '.join(self._hosts)}")
        _known(vm.store)
        there = self._vms.vms().get(vm.name)
        if vm.name == APPLIANCE or (there is not None and there.owner != vm.owner):
            raise Taken(f"a VM is called {vm.name} already", place="local", hint="choose another name")
        if there is None:
            self._vms.create(LocalVm(vm.name, vm.owner, vm.memory, vm.cpus, ready=vm.ready, host=vm.host))

    async def delete(self, name: str, owner: str) -> None:
        """Its disks stay."""
        there = self._vms.vms().get(name)
        if there is not None and there.owner == owner:
            await self._vms.delete(name)

    async def attach(self, name: str, disk: DiskId) -> None:
        """For the VM's next start, unless it is the appliance. Raises NotFound, Taken."""
        if not self.path(disk).exists():
            raise NotFound(f"there is no disk {disk}", place="local")
        has = self.attached() if name == APPLIANCE else tuple(map(DiskId, self._there(name).disks))
        if disk in has:
            return
        other = self.holder(disk)
        if other:
            raise Taken(f"disk {disk} is attached to {other}", place="local", hint=f"detach it from {other}")
        if name == APPLIANCE:
            self._attach_here((*has, disk))
        elif self._vms.pid(name) is not None:
            raise PlatformError("a VM that runs gets no disk here", place=name, hint="power it off first")
        else:
            self._vms.change(name, disks=(*has, disk))

    async def detach(self, name: str, disk: DiskId) -> None:
        """The disk stays."""
        if name == APPLIANCE:
            self._attach_here(tuple(each for each in self.attached() if each != disk))
        elif (there := self._vms.vms().get(name)) is not None and disk in there.disks:
            self._vms.change(name, disks=[each for each in there.disks if each != disk])

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Handed to the guest's hook (fw_cfg). Raises NotFound."""
        unknown = [nic.network for nic in nics if nic.network not in self._networks]
        if unknown:
            hint = f"there is: {', '.join(self._networks)}"
            raise NotFound(f"there is no network {unknown[0]}", place="local", hint=hint)
        self._there(name)
        self._vms.change(name, nics=[asdict(nic) for nic in nics])

    async def power_on(self, name: str) -> None:
        """Raises NotFound."""
        self._there(name)
        await self._vms.power_on(name)

    async def power_off(self, name: str) -> None:
        """By its process."""
        self._there(name)
        await self._vms.power_off(name)

    async def shut_down(self, name: str, timeout: float) -> bool:
        """By ACPI."""
        self._there(name)
        return await self._vms.shut_down(name, timeout)

    async def wait(self, name: str, timeout: float) -> None:
        """Until it has printed what it prints."""
        self._there(name)
        await self._vms.wait(name, timeout)

    # -- disks ------------------------------------------------------------------------------------------------

    def path(self, disk: DiskId) -> Path:
        """Where a disk is. Raises NotFound for what is no disk's name."""
        owner, _, name = disk.partition("/")
        if not name or "/" in name or name.startswith(".") or owner.startswith("."):
            raise NotFound(f"there is no disk {disk}", place="local")
        return self._folder / "disks" / owner / f"{name}.raw"

    def attached(self) -> tuple[DiskId, ...]:
        """The appliance's disks."""
        path = self._folder / "appliance.json"
        return tuple(map(DiskId, json.loads(path.read_text()))) if path.exists() else ()

    def _attach_here(self, disks: tuple[DiskId, ...]) -> None:
        path = self._folder / "appliance.json"
        with blame(path):
            make_directory(path.parent)
            replace_file(path, json.dumps(disks).encode())

    def holder(self, disk: DiskId) -> str:
        """Who has a disk; empty: nobody."""
        if disk in self.attached():
            return APPLIANCE
        return next((vm.name for vm in self._vms.vms().values() if disk in vm.disks), "")

    def make(self, disk: DiskId, size: int) -> None:
        """A disk that is empty, unless it is there."""
        path = self.path(disk)
        with blame(path):
            if size > shutil.disk_usage(self._folder).free:
                raise QuotaReached(f"{size} bytes do not fit into {self._folder}", place="local", hint="free some")
            make_directory(path.parent)
        self._serve(disk, size)

    def drop(self, disk: DiskId) -> None:
        """It is gone."""
        served = self._served.pop(disk, None)
        if served is not None:
            self._splitter.remove(disk)
            served.close()
        self.path(disk).unlink(missing_ok=True)

    def facts(self, disk: DiskId) -> DiskFacts:
        """Raises NotFound."""
        path = self.path(disk)
        if not path.exists():
            raise NotFound(f"there is no disk {disk}", place="local")
        owner, _, name = disk.partition("/")
        return DiskFacts(disk, unquote(name), path.stat().st_size, unquote(owner), self.holder(disk))

    def owned(self, owner: str) -> list[DiskFacts]:
        """An owner's disks."""
        paths = sorted((self._folder / "disks" / quote(owner, safe="")).glob("*.raw"))
        return [self.facts(_id(path)) for path in paths]

    def _serve(self, disk: DiskId, size: int | None = None) -> None:
        if disk not in self._served:
            path = self.path(disk)
            sectors = (path.stat().st_size if size is None else size) // SECTOR
            self._served[disk] = Disk(VolumeInfo(VolumeId(0), VmId(0), sectors), path)
            self._splitter.add(disk, self._served[disk])


class LocalDisks:
    """Makes disks."""

    def __init__(self, platform: LocalPlatform) -> None:
        self._platform = platform

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """The one of this owner and name, of whole sectors."""
        _known(store)
        disk = DiskId(f"{quote(owner, safe='')}/{quote(name, safe='')}")
        self._platform.make(disk, -(-size // SECTOR) * SECTOR)
        return disk

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Raises Taken."""
        if not self._platform.path(disk).exists() or self._platform.facts(disk).owner != owner:
            return
        if holder := self._platform.holder(disk):
            raise Taken(f"disk {disk} is attached to {holder}", place="local", hint=f"detach it from {holder}")
        self._platform.drop(disk)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """By folder."""
        return self._platform.owned(owner)

    async def disk(self, disk: DiskId) -> DiskFacts:
        """Raises NotFound."""
        return self._platform.facts(disk)


class LocalLocator:
    """Finds them."""

    def __init__(self, platform: LocalPlatform) -> None:
        self._platform = platform

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """Raises NotFound."""
        if appliance != APPLIANCE or disk not in self._platform.attached():
            raise NotFound(f"disk {disk} is not attached to {appliance}", place="local")
        return self._platform.path(disk)


def _known(store: str) -> None:
    if store != STORE:
        raise NotFound(f"there is no datastore {store}", place="local", hint=f"there is: {STORE}")


def _id(path: Path) -> DiskId:
    return DiskId(f"{path.parent.name}/{path.stem}")
