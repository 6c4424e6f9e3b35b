"""VsphereDisks: disks that drsim makes on datastores, and where the appliance sees them.

A disk is `[datastore] drsim/OWNER+NAME.vmdk`, so its place says whose it is, before anything else knows of it;
characters that a datastore might not take are written ~hh. One folder for all, so that none is left behind empty.

Which VM has a disk is found by looking at all VMs; an owner's disks by looking at the datastores. Both are good for
some seconds and kept up to date by what is done here, because an owner has one manager; a VM that is said to have a
disk is looked at again before that is held against anybody. The vCenter's own locks see to what others do meanwhile.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.real.ports import DiskFacts, DiskId, NotFound, QuotaReached, Taken
from drsim.real.vsphere.faults import Refused, is_fault, suppress_fault
from drsim.real.vsphere.inventory import RECENT, VsphereInventory, called, disk_id, disks_of

FOLDER = "drsim"
_STORE = ("summary.freeSpace", "summary.accessible")
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
        self._held: dict[DiskId, tuple[Any, str]] = {}
        self._done: list[tuple[float, Callable[[], None]]] = []
        self._looked, self._looking, self._listing = -RECENT, asyncio.Lock(), asyncio.Lock()
        self._lists: dict[str, tuple[float, dict[DiskId, int]]] = {}
        self._made: dict[DiskId, tuple[float, int]] = {}
        self._first, self._used = dict[str, asyncio.Lock](), set[str]()

    # -- the port ----------------------------------------------------------------------------------------------------

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """An empty, thin disk; a datastore's disks are whole KiB. One of this owner and name that is there is it."""
        disk = path_of(store, owner, name)

        async def work() -> DiskId:
            _, facts = await self._inventory.lately(vim.Datastore, store, *_STORE)
            if not facts.get("summary.accessible", True) or size > facts["summary.freeSpace"]:
                _, facts = await self._inventory.lately(vim.Datastore, store, *_STORE, now=True)
            if not facts.get("summary.accessible", True):
                raise QuotaReached(f"datastore {store} cannot be reached by the hosts", place=self._session.place)
            if size > facts["summary.freeSpace"]:
                message = f"datastore {store} has {facts['summary.freeSpace']} bytes free; disk {name} has {size}"
                raise QuotaReached(message, place=self._session.place, hint="free some, or choose another datastore")
            with suppress_fault(vim.fault.FileAlreadyExists):
                async with self._first.setdefault(store, asyncio.Lock()):
                    first = store not in self._used
                    if first:  # it may have to make the folder
                        await self._make(disk, size, store)
                        self._used.add(store)
                if not first:
                    await self._make(disk, size, store)
                facts["summary.freeSpace"] -= size
                self._note(disk, owner, -(-size // 1024) * 1024)
                return disk
            self._lists.pop(owner, None)
            return disk

        return await self._session.patient(f"make disk {disk}", work)

    async def _make(self, disk: DiskId, size: int, store: str) -> None:
        """Make a disk, and drsim's folder if it is not there."""
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="thin", adapterType="lsiLogic", capacityKb=-(-size // 1024)
        )
        try:
            await self._finished("CreateVirtualDisk_Task", disk, await self._inventory.home(), spec)
        except Refused as error:
            if not is_fault(error, vim.fault.FileNotFound):
                raise
            await self._make_folder(store)
            await self._finished("CreateVirtualDisk_Task", disk, await self._inventory.home(), spec)

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Delete a disk that this owner made. Raises Taken while a VM has it."""

        async def work() -> None:
            holder = await self.holder(disk)
            if holder is not None:
                hint = "detach it first"
                raise Taken(f"disk {disk} is attached to {holder[1]}", place=self._session.place, hint=hint)
            with suppress_fault(vim.fault.FileNotFound):
                await self._finished("DeleteVirtualDisk_Task", disk, await self._inventory.home())
            self._note(disk, owner, None)

        _, folder, file = parts(disk, self._session.place)
        if owner_and_name(folder, file)[0] == owner:
            await self._session.patient(f"delete disk {disk}", work)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """The disks that an owner has, on all datastores."""

        async def work() -> list[DiskFacts]:
            async with self._listing:
                sizes = self._recent(owner)
                if sizes is None:
                    begun, sizes = time.monotonic(), {}
                    stores = await self._inventory.all(vim.Datastore, "name")
                    for store in sorted(called(facts["name"]) for _, facts in stores):
                        for file, size in await self._search(store, FOLDER, f"{escaped(owner)}+*"):
                            sizes[path_of(store, owner, owner_and_name(FOLDER, file)[1])] = size
                    self._lists[owner] = begun, sizes
                    self._redo(begun)
            return [await self._facts(disk, size) for disk, size in sorted(sizes.items())]

        return await self._session.patient(f"list the disks of {owner}", work)

    async def disk(self, disk: DiskId) -> DiskFacts:
        """One disk. Raises NotFound."""
        store, folder, file = parts(disk, self._session.place)

        async def work() -> DiskFacts:
            sizes = self._recent(owner_and_name(folder, file)[0]) or {}
            made, size = self._made.get(disk, (-RECENT, 0))
            if disk in sizes:
                size = sizes[disk]
            elif time.monotonic() - made > RECENT:
                there = await self._search(store, folder, file)
                if not there:
                    raise NotFound(f"there is no disk {disk}", place=self._session.place)
                size = there[0][1]
            return await self._facts(disk, size)

        return await self._session.patient(f"look at disk {disk}", work)

    async def _facts(self, disk: DiskId, size: int) -> DiskFacts:
        _, folder, file = parts(disk, self._session.place)
        owner, name = owner_and_name(folder, file)
        held = await self._holder(disk)
        return DiskFacts(disk, name, size, owner, held[1] if held else "")

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """Where the appliance has a disk: on a datastore that it has mounted, or by the disk's identity."""

        async def work() -> Path:
            path = self.mounted(disk)
            if path is not None and ((await self._holder(disk)) or (None, ""))[1] == appliance:
                return path
            _, facts = await self._inventory.one(vim.VirtualMachine, appliance, "config.hardware.device")
            found = [each for each in disks_of(facts.get("config.hardware.device")) if disk_id(each) == disk]
            if not found:
                raise NotFound(f"{appliance} does not have disk {disk}", place=self._session.place)
            return path or self._by_identity(appliance, found[0])

        return await self._session.patient(f"find disk {disk} on {appliance}", work)

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

    async def holder(self, disk: DiskId) -> tuple[Any, str] | None:
        """The VM that has a disk and its name, looked at just now; None for nobody."""
        found = await self._holder(disk)
        if found is None:
            return None
        facts: dict[str, Any] = {}
        with suppress_fault(vmodl.fault.ManagedObjectNotFound):
            facts = await self._session.read(found[0], "name", "config.hardware.device")
        if disk in map(disk_id, disks_of(facts.get("config.hardware.device"))):
            return found[0], called(facts["name"])
        self.held(disk, None)
        return None

    def held(self, disk: DiskId, vm: tuple[Any, str] | None) -> None:
        """A VM has a disk now; None: nobody has."""
        self._done.append((time.monotonic(), lambda: self._hold(disk, vm)))
        self._hold(disk, vm)

    def _hold(self, disk: DiskId, vm: tuple[Any, str] | None) -> None:
        if vm is not None:
            self._held[disk] = vm
        else:
            self._held.pop(disk, None)

    async def _holder(self, disk: DiskId) -> tuple[Any, str] | None:
        """The VM that had a disk a moment ago; nobody had one that did not exist then."""
        made, _ = self._made.get(disk, (-RECENT, 0))
        return (self._held if time.monotonic() - made < RECENT else await self._holders()).get(disk)

    async def _holders(self) -> dict[DiskId, tuple[Any, str]]:
        """Which VM has which disk, as of a moment ago, and what we have done since."""
        async with self._looking:
            begun = time.monotonic()
            if begun - self._looked > RECENT:
                found = await self._inventory.all(vim.VirtualMachine, "name", "config.hardware.device")
                self._looked = begun
                self._held = {
                    disk_id(disk): (vm, called(facts["name"]))
                    for vm, facts in found
                    for disk in disks_of(facts.get("config.hardware.device"))
                }
                self._redo(begun)
        return self._held

    def _redo(self, begun: float) -> None:
        """What we have done since a look began may not be in it."""
        self._done = [(at, again) for at, again in self._done if at >= begun - 2 * RECENT]
        for at, again in self._done:
            if at >= begun:
                again()

    def _recent(self, owner: str) -> dict[DiskId, int] | None:
        """An owner's disks and their sizes, if they were listed a moment ago; kept up to date by what we do."""
        made, sizes = self._lists.get(owner, (0.0, {}))
        return sizes if owner and time.monotonic() - made < RECENT else None

    def _note(self, disk: DiskId, owner: str, size: int | None) -> None:
        """This disk has been made, or deleted."""
        now = time.monotonic()
        self._done.append((now, lambda: self._list(disk, owner, size)))
        self._list(disk, owner, size)
        self._made = {disk: (at, size) for disk, (at, size) in self._made.items() if now - at < RECENT}
        self._made.pop(disk, None)
        if size is not None:
            self._made[disk] = now, size

    def _list(self, disk: DiskId, owner: str, size: int | None) -> None:
        sizes = self._recent(owner)
        if sizes is not None and size is not None:
            sizes[disk] = size
        elif sizes is not None:
            sizes.pop(disk, None)

    async def _finished(self, method: str, *args: Any) -> Any:
        return await self._session.finished(getattr(self._session.content.virtualDiskManager, method), *args)

    async def _make_folder(self, store: str) -> None:
        make = self._session.content.fileManager.MakeDirectory
        with suppress_fault(vim.fault.FileAlreadyExists):
            await self._session.call(make, f"[{store}] {FOLDER}", await self._inventory.home(), True)

    async def _browser(self, store: str) -> Any:
        _, facts = await self._inventory.one(vim.Datastore, store, "browser")
        return facts["browser"]

    async def _search(self, store: str, folder: str, name: str) -> list[tuple[str, int]]:
        """Names and sizes of the disks in a folder; nothing where there is no such folder."""
        browser = await self._inventory.once(("browser", store), lambda: self._browser(store))
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
            found = await self._session.finished(browser.SearchDatastore_Task, where, spec)
        except Refused as error:
            if not is_fault(error, vim.fault.FileNotFound):
                raise
            return []
        return sorted((each.path.removesuffix(".vmdk"), (each.capacityKb or 0) * 1024) for each in found.file)
