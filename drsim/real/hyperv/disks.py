"""HypervDisks: VHDX files in the stores of a site; HypervLocator: where the appliance has them.

A disk's file is named after the disk and its owner (`hosts`), so that it is somebody's from its first moment.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from drsim.real.hyperv.cmdlets import cmdlet
from drsim.real.hyperv.hosts import Hosts, Part, literal, quoted, same
from drsim.real.hyperv.session import NotNow, Session
from drsim.real.ports import DiskFacts, DiskId, NotFound, Taken

ENDING = ".vhdx"
LEAST, MOST = 3 << 20, 64 << 40
"""Bytes of a VHDX: what New-VHD takes."""
STEP = 4096
"""A VHDX is a whole number of these: its physical sectors."""


def rounded(size: int) -> int:
    """The size of the VHDX that holds a disk of `size` bytes."""
    return max(LEAST, -(-size // STEP) * STEP)


class HypervDisks:
    """The disks of a site."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """An empty disk."""
        folder, file = self._hosts.folder(store), _file(name, owner)
        disk = DiskId(f"{folder}\\{file}")

        async def on(session: Session) -> None:
            there = await self._hosts.names(session, folder)
            if any(same(file, each) for each in there):
                return
            parent = [] if there else [cmdlet("New-Item", Path=folder, ItemType="Directory", Force=True)]
            await session.run(*parent, cmdlet("New-VHD", Path=disk, SizeBytes=rounded(size), Dynamic=True))

        await self._hosts.anywhere(f"create disk {name}", on)
        return disk

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Delete a disk of this owner that no VM has."""
        folder, _, file = disk.rpartition("\\")
        if _whose(file)[1] != owner:
            return
        by = await self._attached()
        if disk.casefold() in by:
            raise Taken(f"the VM {by[disk.casefold()]} has the disk", place=disk, hint="detach it first")

        async def on(session: Session) -> None:
            if any(same(file, each) for each in await self._hosts.names(session, folder)):
                await session.run(cmdlet("Remove-Item", LiteralPath=disk, Force=True))

        await self._hosts.anywhere("delete a disk", on)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """The disks of an owner, in all stores."""

        async def on(session: Session) -> list[tuple[DiskId, int]]:
            found = []
            for folder in map(self._hosts.folder, self._hosts.site.stores):
                names = await self._hosts.names(session, folder)
                found += [f"{folder}\\{each}" for each in names if _whose(each)[1] == owner != ""]
            return await _sizes(session, found)

        return await self._facts(await self._hosts.anywhere("list disks", on))

    async def disk(self, disk: DiskId) -> DiskFacts:
        """One disk."""

        async def on(session: Session) -> list[tuple[DiskId, int]]:
            return await _sizes(session, [disk])

        return (await self._facts(await self._hosts.anywhere("look at a disk", on)))[0]

    async def _facts(self, found: Sequence[tuple[DiskId, int]]) -> list[DiskFacts]:
        by = await self._attached() if found else {}
        return [
            DiskFacts(disk, *_named(disk, size), attached=by.get(disk.casefold(), "")) for disk, size in found
        ]  # fmt: skip

    async def _attached(self) -> dict[str, str]:
        return {
            each.path.casefold(): vm.facts.name
            for vm in await self._hosts.look(parts=Part.DRIVES)
            for each in vm.drives
        }


async def _sizes(session: Session, disks: Sequence[str]) -> list[tuple[DiskId, int]]:
    rows = await session.rows(cmdlet("Get-VHD", Path=list(disks)), properties=("Path", "Size")) if disks else []
    return [(DiskId(row["Path"]), int(row["Size"])) for row in rows]


def _file(name: str, owner: str) -> str:
    return f"{quoted(name)}@{quoted(owner)}{ENDING}"


def _whose(file: str) -> tuple[str, str]:
    """Name and owner of a disk, by its file's name; one that we did not make has no owner."""
    stem = file.removesuffix(ENDING)
    name, at, owner = stem.rpartition("@")
    return (unquote(name), unquote(owner)) if at and file.endswith(ENDING) else (stem, "")


def _named(disk: DiskId, size: int) -> tuple[str, int, str]:
    name, owner = _whose(disk.rpartition("\\")[2])
    return name, size, owner


class HypervLocator:
    """Finds disks on the machine that is the appliance: a VM of Linux, by controller and unit number.

    A synthetic SCSI controller is a device on the guest's VMBus, with the id that the host knows it by. `root`: of this
    machine's files.
    """

    def __init__(self, hosts: Hosts, root: Path) -> None:
        self._hosts, self._root = hosts, root

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """The block device. The guest needs a moment to see a new disk; that is waited for."""
        vm = await self._hosts.need(appliance, Part.DRIVES)
        drive = next((each for each in vm.drives if same(each.path, disk)), None)
        if drive is None or drive.kind != "SCSI":
            raise NotFound(f"{appliance} has no such disk on a SCSI controller", place=disk, hint="attach it first")

        async def on(session: Session) -> Path:
            rows = await session.rows(
                cmdlet("Get-VMScsiController", VMName=literal(appliance)), properties=("ControllerNumber", "Id")
            )
            ids = [row["Id"].rsplit("\\", 1)[-1].lower() for row in rows if row["ControllerNumber"] == drive.controller]
            folder = self._root / "sys" / "bus" / "vmbus" / "devices"
            pattern = f"{ids[0]}/host*/target*/*:{drive.location}/block/*"
            found = await asyncio.to_thread(lambda: sorted(folder.glob(pattern)))
            if not found:
                raise NotNow("the appliance does not see the disk yet", place=disk)
            return self._root / "dev" / found[0].name

        return await self._hosts.ask(vm.session, "find a disk on the appliance", on)
