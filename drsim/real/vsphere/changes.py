"""VsphereChanges: capture by epochs, with changed block tracking (CBT).

An epoch is a snapshot. What it holds is in the files that the VM has written until then and that nobody writes while
the snapshot stands. They are read where a datastore is mounted; elsewhere through the appliance, which gets them
attached without being able to write them, until the epoch ends.

A mark is a change id. Changed areas are a superset of what was written since. When tracking begins anew (it was off,
the VM was restored, a host crashed) change ids have another beginning, and everything has to be compared.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.core.units import SECOND, Ns
from drsim.real.ports import Area, DiskId, Epoch, NotFound, Untrusted
from drsim.real.vsphere.disks import VsphereDisks
from drsim.real.vsphere.faults import is_fault, suppress_fault
from drsim.real.vsphere.hypervisor import VsphereHypervisor
from drsim.real.vsphere.inventory import VsphereInventory, disk_id, disks_of

_NAME = "drsim "
_EVERYTHING = "*"


class VsphereChanges:
    """Epochs of a datacenter's VMs. `appliance`: the VM that reads what is not mounted."""

    def __init__(
        self, inventory: VsphereInventory, disks: VsphereDisks, hypervisor: VsphereHypervisor, appliance: str
    ) -> None:
        self._inventory, self._disks, self._hypervisor = inventory, disks, hypervisor
        self._session, self._appliance = inventory.session, appliance

    async def begin(self, vm: str, owner: str) -> Epoch:
        """Take a snapshot: crash-consistent over all disks of the VM. An unfinished one of this owner goes first."""

        async def work() -> Epoch:
            found, facts = await self._inventory.one(
                vim.VirtualMachine, vm, "config.changeTrackingEnabled", "snapshot.rootSnapshotList"
            )
            for left in _called(facts.get("snapshot.rootSnapshotList", ()), _NAME + owner):
                await self._remove(left)
            if not facts.get("config.changeTrackingEnabled"):
                spec = vim.vm.ConfigSpec(changeTrackingEnabled=True)
                await self._session.finished(found.ReconfigVM_Task, spec)
            why = f"drsim reads it for {owner} and removes it"
            snapshot = await self._session.finished(found.CreateSnapshot_Task, _NAME + owner, why, False, False)
            marks = tuple(
                (disk_id(disk), getattr(disk.backing, "changeId", None) or "") for disk in await self._frozen(snapshot)
            )
            now = await self._session.call(self._session.root.CurrentTime)
            return Epoch(vm, snapshot._moId, Ns(int(now.timestamp() * SECOND)), marks)

        epoch = await self._session.patient(f"take a snapshot of VM {vm}", work)
        for disk, _ in epoch.marks:
            if self._disks.mounted(disk) is None:
                await self._hypervisor.attach(self._appliance, disk, frozen=True)
        return epoch

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """A superset of what changed since a mark; None: of what was ever written. Raises Untrusted, NotFound."""

        async def work() -> list[Area]:
            snapshot = self._snapshot(epoch)
            frozen = await self._frozen(snapshot)
            device = next((each for each in frozen if disk_id(each) == disk), None)
            if device is None:
                hint = "moved to another datastore? unprotect it, delete its folder of shadows, bring the site up anew"
                said = f"disk {disk} is not in this snapshot of VM {epoch.vm}"
                raise NotFound(said, place=self._session.place, hint=hint)
            size, now = _size(device), dict(epoch.marks)[disk]
            if since is not None and (not now or since.partition("/")[0] != now.partition("/")[0]):
                raise Untrusted(f"changes of disk {disk} are tracked anew", place=self._session.place)
            if not now:
                return [Area(0, size)]
            vm = await self._inventory.find(vim.VirtualMachine, epoch.vm)
            return await self._query(vm, snapshot, device, size, since or _EVERYTHING)

        try:
            return await self._session.patient(f"ask what changed on disk {disk}", work)
        except PlatformError as error:
            if is_fault(error.__cause__ or error, vim.fault.FileFault, vmodl.fault.InvalidArgument):
                raise Untrusted(f"changes of disk {disk} cannot be told: {error.message}", place=error.place) from error
            raise

    async def _query(self, vm: Any, snapshot: Any, device: Any, size: int, since: str) -> list[Area]:
        """All changed areas, answer by answer: each says how far it reaches."""
        areas: list[Area] = []
        start = 0
        while start < size:
            got = await self._session.call(vm.QueryChangedDiskAreas, snapshot, device.key, start, since)
            areas += [Area(each.start, each.length) for each in got.changedArea or ()]
            reached = got.startOffset + got.length
            if reached <= start:
                raise PlatformError(f"changed areas end at {reached} of {size} bytes", place=self._session.place)
            start = reached
        return areas

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        """What an area held at the snapshot."""
        path = self._disks.mounted(disk) or await self._disks.locate(self._appliance, disk)
        return await asyncio.to_thread(_read, path, area)

    async def end(self, epoch: Epoch) -> None:
        """Remove the snapshot."""
        for disk, _ in epoch.marks:
            if self._disks.mounted(disk) is None:
                await self._hypervisor.detach(self._appliance, disk)

        async def work() -> None:
            with suppress_fault(vmodl.fault.ManagedObjectNotFound):
                await self._remove(self._snapshot(epoch))

        await self._session.patient(f"remove the snapshot of VM {epoch.vm}", work)

    async def forget(self, vm: str, owner: str) -> None:
        """Remove what an unfinished epoch has left; a change id costs nothing."""

        async def work() -> None:
            _, facts = await self._inventory.one(vim.VirtualMachine, vm, "snapshot.rootSnapshotList")
            for left in _called(facts.get("snapshot.rootSnapshotList", ()), _NAME + owner):
                await self._remove(left)

        await self._session.patient(f"remove snapshots of VM {vm}", work)

    def _snapshot(self, epoch: Epoch) -> Any:
        return vim.vm.Snapshot(epoch.id, self._session.root._stub)

    async def _frozen(self, snapshot: Any) -> list[Any]:
        facts = await self._session.read(snapshot, "config.hardware.device")
        return disks_of(facts.get("config.hardware.device"))

    async def _remove(self, snapshot: Any) -> None:
        await self._session.finished(snapshot.RemoveSnapshot_Task, False)


def _called(tree: Sequence[Any], name: str) -> list[Any]:
    """Snapshots of this name, the youngest first."""
    found = []
    for node in tree:
        found += _called(node.childSnapshotList or (), name)
        found += [node.snapshot] if node.name == name else []
    return found


def _size(device: Any) -> int:
    return int(device.capacityInBytes or device.capacityInKB * 1024)


def _read(path: Path, area: Area) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(area.offset)
            data = file.read(area.length)
    except OSError as error:
        raise PlatformError(f"the disk cannot be read: {error}", place=str(path)) from error
    if len(data) != area.length:
        raise PlatformError(f"the disk ends at {area.offset + len(data)} bytes", place=str(path))
    return data
