"""HypervChanges: capture by epochs, with Hyper-V's resilient change tracking (RCT).

Theory of operation. An epoch is a checkpoint of the VM, and a *reference point* that was taken before it. What a disk
has to be compared with later is the reference point's tracking id: changes since then are those since the checkpoint,
and those few more that came between. So what is told is a superset, always.

A checkpoint freezes the file of a disk. Over it lies an empty differencing disk of ours, attached to the appliance,
which so reads what was frozen while the VM goes on writing elsewhere. All of ours has the epoch's owner in its name:
what a killed manager has left is found by it and goes before the next epoch.

    checkpoint            drsim OWNER
    differencing disk     STORE\\drsim\\epoch~OWNER~VM~N.vhdx
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR, Ns
from drsim.real.clock import now_ns
from drsim.real.hyperv import wmi
from drsim.real.hyperv.cmdlets import WMI, cmdlet
from drsim.real.hyperv.disks import HypervLocator
from drsim.real.hyperv.hosts import FoundVm, Hosts, Part, literal, quoted, same
from drsim.real.hyperv.hypervisor import HypervHypervisor, remove_drive
from drsim.real.ports import Area, DiskId, Epoch, NotFound, Unavailable, Untrusted

_RCT = 1  # the type of a reference point
_KEPT = 2  # reference points of a VM that may be compared with: the last epoch's, and this one's
_STEP = 1 << 40  # bytes of a disk that are asked about at once, at most


@dataclass(slots=True)
class _Open:
    """An epoch that can be read. `views`: the differencing disk over each disk; `frozen`: the file under it."""

    views: dict[DiskId, DiskId] = field(default_factory=dict)
    frozen: dict[DiskId, str] = field(default_factory=dict)
    sizes: dict[DiskId, int] = field(default_factory=dict)


class HypervChanges:
    """Epochs of the VMs of a site."""

    def __init__(self, hosts: Hosts, hypervisor: HypervHypervisor, locator: HypervLocator) -> None:
        self._hosts, self._hypervisor, self._locator = hosts, hypervisor, locator
        self._appliance = hosts.site.appliance
        self._folder = hosts.folder(next(iter(hosts.site.stores)))
        self._open: dict[str, _Open] = {}
        self._points: dict[str, list[str]] = {}

    async def begin(self, vm: str, owner: str) -> Epoch:
        """Freeze a VM's disks, and attach them to the appliance."""

        async def once() -> Epoch:
            await self._clear(vm, owner)
            found = await self._hosts.need(vm, Part.DRIVES)
            marks = await self._reference(found)
            name = f"drsim {quoted(owner)}"
            await found.session.run(cmdlet("Checkpoint-VM", Name=literal(vm), SnapshotName=name))
            now = Ns(now_ns())
            epoch = Epoch(vm, f"{owner}\n{now}", now, marks)
            self._open[epoch.id] = await self._freeze(found, owner, name)
            return epoch

        return await self._hosts.patiently(f"begin an epoch of {vm}", once)

    async def _reference(self, vm: FoundVm) -> tuple[tuple[DiskId, str], ...]:
        """Take a reference point; the tracking id of each disk."""
        session = vm.session
        before = {row["InstanceID"] for row in await self._all_points(vm)}
        service = await wmi.path(session, "Msvm_VirtualSystemReferencePointService")
        system = await wmi.path(session, "Msvm_ComputerSystem", f"Name='{vm.id}'")
        await wmi.invoke(session, service, "CreateReferencePoint", [system, "", _RCT, None])
        new = [row for row in await self._all_points(vm) if row["InstanceID"] not in before]
        if len(new) != 1:
            raise PlatformError("another reference point was taken at the same time", place=vm.facts.name)
        disks = await session.rows(
            cmdlet("Get-VHD", Path=[drive.top for drive in vm.drives]), properties=("Path", "DiskIdentifier")
        )
        ids = {row["DiskIdentifier"].upper(): row["Path"] for row in disks}
        point = dict(zip(_texts(new[0]["VirtualDiskIdentifiers"]), _texts(new[0]["ResilientChangeTrackingIdentifiers"]),
                         strict=True))  # fmt: skip
        tracking = {ids[disk.upper()].casefold(): mark for disk, mark in point.items() if disk.upper() in ids}
        ours = self._points.setdefault(vm.id, [])
        ours.append(str(new[0]["InstanceID"]))
        old, self._points[vm.id] = ours[:-_KEPT], ours[-_KEPT:]
        await self._forget_old(vm, old)
        return tuple((DiskId(drive.path), tracking.get(drive.top.casefold(), "")) for drive in vm.drives)

    async def _all_points(self, vm: FoundVm) -> list[dict[str, Any]]:
        return await vm.session.rows(
            cmdlet("Get-WmiObject", Class="Msvm_VirtualSystemReferencePoint", Namespace=WMI,
                   Filter=f"VirtualSystemIdentifier='{vm.id}'"),
            properties=("InstanceID", "VirtualDiskIdentifiers", "ResilientChangeTrackingIdentifiers", "__PATH"),
        )  # fmt: skip

    async def _forget_old(self, vm: FoundVm, old: Sequence[str]) -> None:
        """Those of our reference points that no epoch is compared with any more. Others' are theirs."""
        paths = {row["InstanceID"]: row["__PATH"] for row in await self._all_points(vm)} if old else {}
        for each in old:
            if each in paths:
                service = await wmi.path(vm.session, "Msvm_VirtualSystemReferencePointService")
                await wmi.invoke(vm.session, service, "DestroyReferencePoint", [paths[each]])

    async def _freeze(self, vm: FoundVm, owner: str, snapshot: str) -> _Open:
        session, found = vm.session, _Open()
        get = cmdlet("Get-VMSnapshot", VMName=literal(vm.facts.name), Name=snapshot)
        rows = await session.rows(get, cmdlet("Get-VMHardDiskDrive"), properties=("Path", *_PLACE))
        frozen = {_place(row): row["Path"] for row in rows}
        for n, drive in enumerate(vm.drives):
            disk, place = DiskId(drive.path), (drive.kind, drive.controller, drive.location)
            view = f"{self._folder}\\{self._prefix(vm.facts.name, owner)}{n}.vhdx"
            await session.run(cmdlet("New-VHD", Path=view, ParentPath=frozen[place], Differencing=True))
            size = (await session.rows(cmdlet("Get-VHD", Path=view), properties=("Size",)))[0]["Size"]
            await self._hypervisor.attach(self._appliance, DiskId(view))
            found.views[disk], found.frozen[disk], found.sizes[disk] = DiskId(view), frozen[place], size
        return found

    def _prefix(self, vm: str, owner: str) -> str:
        return f"epoch~{quoted(owner)}~{quoted(vm)}~"

    # -- reading ----------------------------------------------------------------------------------------------

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """Areas of a disk, merged; without a mark all of it."""
        opened = self._opened(epoch, disk)
        size = opened.sizes[disk]
        if since is None:
            return [Area(0, size)]
        if not since:
            raise Untrusted("the disk had no change tracking", place=disk)
        vm = await self._hosts.need(epoch.vm, Part.NONE)
        areas: list[Area] = []
        at, step = 0, min(_STEP, -(-size // 2 // SECTOR) * SECTOR)  # "less than the size of the disk"
        while at < size:
            asked = {"Path": opened.frozen[disk], "LimitId": since, "ByteOffset": at,
                     "ByteLength": min(step, size - at)}  # fmt: skip
            said = await self._told(vm, asked, disk)
            offsets, lengths = said["ChangedByteOffsets"] or [], said["ChangedByteLengths"] or []
            areas += [_whole(int(o), int(n), size) for o, n in zip(offsets, lengths, strict=True)]
            done = int(said["ProcessedByteLength"])
            if done <= 0:
                raise Untrusted("the host tells nothing about a part of the disk", place=disk)
            at += done
        return _merged(areas)

    async def _told(self, vm: FoundVm, asked: dict[str, Any], disk: DiskId) -> dict[str, Any]:
        async def once() -> dict[str, Any]:
            properties = ("ChangedByteOffsets", "ChangedByteLengths", "ProcessedByteLength")
            return await wmi.ask(vm.session, "Msvm_ImageManagementService", "GetVirtualDiskChanges", asked, properties)

        try:
            return await self._hosts.patiently("ask for changed areas", once)
        except Unavailable:
            raise
        except PlatformError as error:
            hint = "compare everything; after that changes are tracked again"
            raise Untrusted(f"the host cannot tell what changed: {error.message}", place=disk, hint=hint) from error

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        """From the differencing disk on the appliance."""
        path = await self._locator.locate(self._appliance, self._opened(epoch, disk).views[disk])
        return await asyncio.to_thread(_read, path, area)

    def _opened(self, epoch: Epoch, disk: DiskId) -> _Open:
        opened = self._open.get(epoch.id)
        if opened is None or disk not in opened.views:
            raise NotFound("the epoch is over, or has no such disk", place=disk, hint="begin another epoch")
        return opened

    # -- the end ----------------------------------------------------------------------------------------------

    async def end(self, epoch: Epoch) -> None:
        """Take back what `begin` has made."""
        owner = epoch.id.rpartition("\n")[0]
        await self._hosts.patiently(f"end an epoch of {epoch.vm}", lambda: self._clear(epoch.vm, owner))
        self._open.pop(epoch.id, None)

    async def forget(self, vm: str, owner: str) -> None:
        """What `begin` has made, and the reference points of this connection."""

        async def once() -> None:
            await self._clear(vm, owner)
            found = await self._hosts.find(vm, Part.NONE)
            if found is not None:
                await self._forget_old(found, self._points.pop(found.id, []))

        await self._hosts.patiently(f"forget epochs of {vm}", once)

    async def _clear(self, vm: str, owner: str) -> None:
        """The differencing disks of an owner's epoch, then the checkpoint; the host merges what was written since."""
        prefix = f"{self._folder}\\{self._prefix(vm, owner)}".casefold()
        appliance = await self._hosts.need(self._appliance, Part.DRIVES)
        for drive in appliance.drives:
            if drive.path.casefold().startswith(prefix):
                await appliance.session.run(remove_drive(self._appliance, drive))
        for file in await self._hosts.names(appliance.session, self._folder):
            path = f"{self._folder}\\{file}"
            if path.casefold().startswith(prefix):
                await appliance.session.run(cmdlet("Remove-Item", LiteralPath=path, Force=True))
        found = await self._hosts.find(vm, Part.NONE)
        if found is None:
            return
        name = f"drsim {quoted(owner)}"
        rows = await found.session.rows(cmdlet("Get-VMSnapshot", VMName=literal(vm)), properties=("Name",))
        if any(same(row["Name"], name) for row in rows):
            await found.session.run(cmdlet("Remove-VMSnapshot", VMName=literal(vm), Name=name))


_PLACE = ("ControllerType", "ControllerNumber", "ControllerLocation")


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    kind = row["ControllerType"]
    return {0: "IDE", 1: "SCSI"}.get(kind, kind), row["ControllerNumber"], row["ControllerLocation"]


def _texts(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list) else [value] if value else [])]


def _whole(offset: int, length: int, size: int) -> Area:
    """The whole sectors that an area touches."""
    start = offset // SECTOR * SECTOR
    return Area(start, min(size, -(-(offset + length) // SECTOR) * SECTOR) - start)


def _merged(areas: Sequence[Area]) -> list[Area]:
    found: list[Area] = []
    for area in sorted(areas, key=lambda area: area.offset):
        if found and area.offset <= found[-1].offset + found[-1].length:
            end = max(found[-1].offset + found[-1].length, area.offset + area.length)
            found[-1] = Area(found[-1].offset, end - found[-1].offset)
        else:
            found.append(area)
    return found


def _read(path: Path, area: Area) -> bytes:
    with path.open("rb") as file:
        file.seek(area.offset)
        return file.read(area.length)
