"""HypervDisks: VHDX files in the stores of a site; HypervLocator: where the appliance has them.

An owner is the name of a file beside the disk, which is there before the disk is (`hosts`). What a call finds decides
what it does: an owner's file without a disk is a disk that was not finished.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from drsim.real.hyperv.cmdlets import cmdlet
from drsim.real.hyperv.hosts import Hosts, literal, quoted, same
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


@dataclass(frozen=True, slots=True)
class Kept:
    """A disk in a store, by the file that says whose it is. `there`: it has been made."""

    folder: str
    file: str
    owner: str
    there: bool

    @property
    def path(self) -> str:
        return f"{self.folder}\\{self.file}"

    @property
    def tag(self) -> str:
        return f"{self.file}@{quoted(self.owner)}"

    @property
    def name(self) -> str:
        """What its maker called it, quoted."""
        return self.file.removesuffix(ENDING).partition("~")[0]


class HypervDisks:
    """The disks of a site."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """An empty disk."""
        folder = self._hosts.folder(store)

        async def on(session: Session) -> DiskId:
            kept = await self._kept(session, folder)
            mine = [each for each in kept if each.owner == owner and each.name == quoted(name)]
            disk = mine[0] if mine else Kept(folder, _free(quoted(name), kept), owner, there=False)
            if not mine:
                await session.run(cmdlet("New-Item", Path=folder, ItemType="Directory", Force=True))
                await session.run(cmdlet("New-Item", Path=f"{folder}\\{disk.tag}", ItemType="File", Force=True))
            if not disk.there:
                await session.run(cmdlet("New-VHD", Path=disk.path, SizeBytes=rounded(size), Dynamic=True))
            return DiskId(disk.path)

        return await self._hosts.anywhere(f"create disk {name}", on)

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Delete a disk of this owner that no VM has."""
        by = next((vm.facts.name for vm in await self._hosts.look() for each in vm.drives if same(each.path, disk)), "")

        async def on(session: Session) -> None:
            kept = await self._of(session, disk)
            if kept is None or kept.owner != owner:
                return
            if by:
                raise Taken(f"the VM {by} has the disk", place=disk, hint="detach it first")
            if kept.there:
                await session.run(cmdlet("Remove-Item", LiteralPath=kept.path, Force=True))
            await session.run(cmdlet("Remove-Item", LiteralPath=f"{kept.folder}\\{kept.tag}", Force=True))

        await self._hosts.anywhere("delete a disk", on)

    async def give(self, disk: DiskId, owner: str) -> DiskId:
        """Another owner has it from now on."""

        async def on(session: Session) -> DiskId:
            kept = await self._of(session, disk)
            if kept is None:
                await self._facts(session, [disk])  # it is there, and nobody's
                tag = f"{disk}@{quoted(owner)}"
                await session.run(cmdlet("New-Item", Path=tag, ItemType="File", Force=True))
            elif not kept.there:
                raise NotFound("there is no such disk", place=disk)
            elif kept.owner != owner:
                tag = f"{kept.folder}\\{kept.tag}"
                new = f"{kept.file}@{quoted(owner)}"
                await session.run(cmdlet("Rename-Item", LiteralPath=tag, NewName=new))
            return disk

        return await self._hosts.anywhere("give a disk away", on)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """The disks of an owner, in all stores."""

        async def on(session: Session) -> list[DiskFacts]:
            kept = [each for store in self._hosts.site.stores
                    for each in await self._kept(session, self._hosts.folder(store))]  # fmt: skip
            return await self._facts(session, [DiskId(e.path) for e in kept if e.owner == owner and e.there], owner)

        found = await self._hosts.anywhere("list disks", on)
        return await self._with_vms(found)

    async def disk(self, disk: DiskId) -> DiskFacts:
        """One disk."""

        async def on(session: Session) -> list[DiskFacts]:
            kept = await self._of(session, disk)
            return await self._facts(session, [disk], kept.owner if kept else "")

        return (await self._with_vms(await self._hosts.anywhere("look at a disk", on)))[0]

    # -- looks ------------------------------------------------------------------------------------------------

    async def _kept(self, session: Session, folder: str) -> list[Kept]:
        files = set(await self._hosts.files(session, folder))
        tags = [name.rpartition("@") for name in sorted(files) if "@" in name]
        return [Kept(folder, file, unquote(owner), file in files) for file, _, owner in tags]

    async def _of(self, session: Session, disk: DiskId) -> Kept | None:
        folder, _, file = disk.rpartition("\\")
        return next((each for each in await self._kept(session, folder) if same(each.file, file)), None)

    async def _facts(self, session: Session, disks: Sequence[DiskId], owner: str = "") -> list[DiskFacts]:
        if not disks:
            return []
        rows = await session.rows(cmdlet("Get-VHD", Path=list(disks)), properties=("Path", "Size"))
        return [DiskFacts(DiskId(row["Path"]), row["Size"], owner) for row in rows]

    async def _with_vms(self, found: Sequence[DiskFacts]) -> list[DiskFacts]:
        by = {each.path.casefold(): vm.facts.name for vm in await self._hosts.look() for each in vm.drives}
        return [DiskFacts(each.id, each.size, each.owner, by.get(each.id.casefold(), "")) for each in found]


def _free(name: str, kept: Sequence[Kept]) -> str:
    taken = {each.file.casefold() for each in kept}
    names = [f"{name}{ENDING}", *(f"{name}~{n}{ENDING}" for n in range(1, len(kept) + 1))]
    return next(each for each in names if each.casefold() not in taken)


class HypervLocator:
    """Finds disks on the machine that is the appliance: a VM of Linux, by controller and unit number.

    A synthetic SCSI controller is a device on the guest's VMBus, with the id that the host knows it by. `root`: of this
    machine's files.
    """

    def __init__(self, hosts: Hosts, root: Path) -> None:
        self._hosts, self._root = hosts, root

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """The block device. The guest needs a moment to see a new disk; that is waited for."""
        vm = await self._hosts.need(appliance)
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
