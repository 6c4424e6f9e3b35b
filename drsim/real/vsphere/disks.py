"""VsphereDisks: disks that drsim makes on datastores, and where the appliance sees them.

A disk is `[datastore] drsim/OWNER+NAME.vmdk`, so its place says whose it is, before anything else knows of it;
characters that a datastore might not take are written ~hh. One folder for all, so that none is left behind empty.

Which VM has a disk is found by looking at all VMs once; after that, what this session attaches and detaches is
remembered, and looked at again before it is believed. The vCenter's own locks see to what others do meanwhile.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.real.ports import DiskFacts, DiskId, NotFound, QuotaReached, Taken
from drsim.real.vsphere.inventory import VsphereInventory, called, disk_id, disks_of
from drsim.real.vsphere.session import Refused, is_fault, suppress_fault

FOLDER = "drsim"
_PATH = re.compile(r"\[(?P<store>[^\]]+)\] (?:(?P<folder>.*)/)?(?P<file>[^/]+)\.vmdk")


def escaped(name: str) -> str:
    """A name as a file's."""
    safe = re.sub(r"[^A-Za-z0-9._-]", lambda found: "".join(f"~{byte:02x}" for byte in found[0].encode()), name)
    return "~2e" + safe[1:] if safe.startswith(".") else safe


def unescaped(name: str) -> str:
    """The name that a file's stands for."""
    return re.sub("(?:~[0-9a-f]{2})+", lambda found: bytes.fromhex(found[0].replace("~", "")).decode(), name)


def path_of(store: str, owner: str, name: str) -> DiskId:
    """A disk's place."""
    return DiskId(f"[{store}] {FOLDER}/{escaped(owner)}+{escaped(name)}.vmdk")


def parts(disk: DiskId, place: str) -> tuple[str, str, str]:
    """Datastore, folder and file name of a disk. Raises NotFound for what is none."""
    found = _PATH.fullmatch(disk)
    if found is None:
        raise NotFound(f"{disk!r} is no disk on a datastore", place=place)
    return found["store"], found["folder"] or "", found["file"]


def owner_and_name(folder: str, file: str) -> tuple[str, str]:
    """Whose a disk is, and what it was called; a disk that is not in drsim's folder is nobody's."""
    owner, plus, name = file.partition("+")
    return (unescaped(owner), unescaped(name)) if folder == FOLDER and plus else ("", file)


class VsphereDisks:
    """The disks of a datacenter."""

    def __init__(self, inventory: VsphereInventory) -> None:
        self._inventory, self._session = inventory, inventory.session
        self._holders: dict[DiskId, Any] | None = None
        self._browsers: dict[str, Any] = {}

    # -- the port ----------------------------------------------------------------------------------------------------

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """An empty, thin disk; a datastore's disks are whole KiB. One of this owner and name that is there is it."""
        disk = path_of(store, owner, name)

        async def work() -> DiskId:
            _, facts = await self._inventory.one(vim.Datastore, store, "summary.freeSpace", "summary.accessible")
            if not facts.get("summary.accessible", True):
                raise QuotaReached(f"datastore {store} cannot be reached by the hosts", place=self._session.place)
            if size > facts["summary.freeSpace"]:
                message = f"datastore {store} has {facts['summary.freeSpace']} bytes free; disk {name} has {size}"
                raise QuotaReached(message, place=self._session.place, hint="free some, or choose another datastore")
            spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
                diskType="thin", adapterType="lsiLogic", capacityKb=-(-size // 1024)
            )
            with suppress_fault(vim.fault.FileAlreadyExists):
                try:
                    await self._finished("CreateVirtualDisk_Task", disk, await self._inventory.home(), spec)
                except Refused as error:
                    if not is_fault(error, vim.fault.FileNotFound):
                        raise
                    await self._make_folder(store)
                    await self._finished("CreateVirtualDisk_Task", disk, await self._inventory.home(), spec)
            return disk

        return await self._session.patient(f"make disk {disk}", work)

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Delete a disk that this owner made. Raises Taken while a VM has it."""

        async def work() -> None:
            vm = (await self._holder_names()).get(disk)
            if vm is not None:
                raise Taken(f"disk {disk} is attached to {vm}", place=self._session.place, hint="detach it first")
            with suppress_fault(vim.fault.FileNotFound):
                await self._finished("DeleteVirtualDisk_Task", disk, await self._inventory.home())

        _, folder, file = parts(disk, self._session.place)
        if owner_and_name(folder, file)[0] == owner:
            await self._session.patient(f"delete disk {disk}", work)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """The disks that an owner has, on all datastores."""

        async def work() -> list[DiskFacts]:
            names = await self._holder_names()
            stores = await self._inventory.all(vim.Datastore, "name")
            found = []
            for store in sorted(called(facts["name"]) for _, facts in stores):
                for file, size in await self._search(store, FOLDER, f"{escaped(owner)}+*"):
                    name = owner_and_name(FOLDER, file)[1]
                    disk = path_of(store, owner, name)
                    found.append(DiskFacts(disk, name, size, owner, names.get(disk, "")))
            return found

        return await self._session.patient(f"list the disks of {owner}", work)

    async def disk(self, disk: DiskId) -> DiskFacts:
        """One disk. Raises NotFound."""
        store, folder, file = parts(disk, self._session.place)

        async def work() -> DiskFacts:
            there = await self._search(store, folder, file)
            if not there:
                raise NotFound(f"there is no disk {disk}", place=self._session.place)
            names, (owner, name) = await self._holder_names(), owner_and_name(folder, file)
            return DiskFacts(disk, name, there[0][1], owner, names.get(disk, ""))

        return await self._session.patient(f"look at disk {disk}", work)

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """Where the appliance has a disk: on a datastore that it has mounted, or by the disk's identity."""

        async def work() -> Any:
            _, facts = await self._inventory.one(vim.VirtualMachine, appliance, "config.hardware.device")
            found = [each for each in disks_of(facts.get("config.hardware.device")) if disk_id(each) == disk]
            if not found:
                raise NotFound(f"{appliance} does not have disk {disk}", place=self._session.place)
            return found[0]

        device = await self._session.patient(f"find disk {disk} on {appliance}", work)
        return self.mounted(disk) or self._by_identity(appliance, device)

    # -- what the other ports ask ------------------------------------------------------------------------------------

    def mounted(self, disk: DiskId) -> Path | None:
        """Where a disk's content is, if this machine has its datastore mounted."""
        store, folder, name = parts(disk, self._session.place)
        mount = self._session.spec.datastores.get(store)
        return None if mount is None else self._session.base / mount / folder / f"{name}-flat.vmdk"

    def _by_identity(self, appliance: str, device: Any) -> Path:
        identity = (getattr(device.backing, "uuid", None) or "").replace("-", "").lower()
        if not identity:
            hint = f"set disk.EnableUUID to TRUE in the advanced settings of {appliance}"
            raise PlatformError(f"disk {disk_id(device)} has no identity", place=self._session.place, hint=hint)
        return self._session.base / self._session.spec.devices / f"wwn-0x{identity}"

    async def holder(self, disk: DiskId) -> Any:
        """The VM that has a disk; None for nobody."""
        if self._holders is None:
            self._holders = await self._look_at_all()
        vm = self._holders.get(disk)
        if vm is None:
            return None
        try:
            facts = await self._session.read(vm, "config.hardware.device")
        except Refused as error:
            if not is_fault(error, vmodl.fault.ManagedObjectNotFound):
                raise
            facts = {}
        if disk in map(disk_id, disks_of(facts.get("config.hardware.device"))):
            return vm
        self._holders.pop(disk, None)
        return None

    def held(self, disk: DiskId, vm: Any) -> None:
        """A VM has a disk now; None: nobody has."""
        if self._holders is not None:
            self._holders[disk] = vm
            if vm is None:
                del self._holders[disk]

    async def _look_at_all(self) -> dict[DiskId, Any]:
        found = await self._inventory.all(vim.VirtualMachine, "name", "config.hardware.device")
        return {disk_id(disk): vm for vm, facts in found for disk in disks_of(facts.get("config.hardware.device"))}

    async def _holder_names(self) -> dict[DiskId, str]:
        found = await self._inventory.all(vim.VirtualMachine, "name", "config.hardware.device")
        return {
            disk_id(disk): called(facts["name"])
            for _, facts in found
            for disk in disks_of(facts.get("config.hardware.device"))
        }

    async def _finished(self, method: str, *args: Any) -> Any:
        return await self._session.finished(getattr(self._session.content.virtualDiskManager, method), *args)

    async def _make_folder(self, store: str) -> None:
        make = self._session.content.fileManager.MakeDirectory
        with suppress_fault(vim.fault.FileAlreadyExists):
            await self._session.call(make, f"[{store}] {FOLDER}", await self._inventory.home(), True)

    async def _search(self, store: str, folder: str, name: str) -> list[tuple[str, int]]:
        """Names and sizes of the disks in a folder; nothing where there is no such folder."""
        if store not in self._browsers:
            _, facts = await self._inventory.one(vim.Datastore, store, "browser")
            self._browsers[store] = facts["browser"]
        browse = vim.host.DatastoreBrowser
        details = browse.VmDiskQuery.Details(
            diskType=False, capacityKb=True, hardwareVersion=False, controllerType=False
        )
        spec = browse.SearchSpec(
            query=[browse.VmDiskQuery(details=details)], matchPattern=[f"{name}.vmdk"], searchCaseInsensitive=False,
            details=browse.FileInfo.Details(fileType=True, fileSize=True, modification=False, fileOwner=False),
        )  # fmt: skip
        try:
            where = f"[{store}] {folder}".rstrip()
            found = await self._session.finished(self._browsers[store].SearchDatastore_Task, where, spec)
        except Refused as error:
            if not is_fault(error, vim.fault.FileNotFound):
                raise
            return []
        return sorted((each.path.removesuffix(".vmdk"), (each.capacityKb or 0) * 1024) for each in found.file)
