"""Restoring a volume of a live VPG: as a disk of its own, to be looked into over NBD, or in its place at the source.

Theory of operation. The volume as of the checkpoint is a scratch disk at the recovery site, read where it lies. To be
a disk of its own it is copied; to be looked into it is served read-only until the operation is stopped, and nothing is
copied at all: any NBD client reads files out of it (nbdfuse, qemu-nbd, nbdcopy).

In place, the source does what the recovery site asks (`desk.py`), one step after another:

    KeepAside    the VM is off and nobody uses its disk; what the volume holds is copied aside       aside/KEY.part
    Regions      digests of a stretch of the volume
    PutBack      a region that differs, written like any write of a guest's, so that it is replicated      KEY.writing
    SettleAside  `restored`: the VM may run with it                                                        KEY.kept
                 `undo`: the VM is powered off, what was kept is written back where it differs, and goes
                 `keep`: what was kept goes

The name of the file is how far it is, so after any death, of either site, what is asked again does what is missing.
While a volume is being written its VM is not started.
"""

import asyncio
import base64
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

from drsim.core.errors import FileError, PlatformError
from drsim.core.names import CheckpointId, VolumeId
from drsim.real.desk import How, KeepAside, PutBack, Regions, SettleAside
from drsim.real.digests import DIGEST_BYTES, of_regions
from drsim.real.disk import Disk
from drsim.real.files import blame, make_directory, sync_directory

if TYPE_CHECKING:
    from drsim.real.installation import Installation

REGION = 256 << 10
"""Bytes that are compared and written back at a time."""
STRETCH = 64 * REGION
"""Bytes whose digests are asked for at a time."""
STAGES = ("part", "writing", "kept")


class Restoring:
    """A site's part in it, on either side."""

    def __init__(self, site: "Installation") -> None:
        self._site = site
        self._folder = site.folder / "aside"
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    # -- at the recovery site ---------------------------------------------------------------------------------

    @staticmethod
    def name(vpg: str, volume: int, operation: int) -> str:
        """Of the disk that an operation restores."""
        return f"{vpg}-volume-{volume}-{operation}"

    async def restore(
        self, operation: int, vpg: str, volume: VolumeId, checkpoint: CheckpointId, *, in_place: bool, export: bool
    ) -> None:
        """See the module. Raises PlatformError, FileError."""
        disks, name = self._site.recoveries.disks, self.name(vpg, volume, operation)
        sources = disks.of(vpg, checkpoint, {volume})
        await disks.make(name, sources, instant=in_place or export, read_only=export)
        if in_place:
            await self._put_in_place(vpg, volume, operation)
            await disks.drop(name)
        elif not export:
            await disks.hydrate(name)

    async def undo(self, operation: int, vpg: str, volume: VolumeId, *, in_place: bool) -> None:
        """What was restored is gone; in place, the volume holds what it held."""
        await self._site.recoveries.disks.drop(self.name(vpg, volume, operation))
        if in_place:
            await self._site.desk.insist_ready(self._settle(vpg, volume, operation, "undo"))

    async def keep(self, operation: int, vpg: str, volume: VolumeId) -> None:
        """What the volume held in place is not kept any more."""
        await self._site.desk.insist_ready(self._settle(vpg, volume, operation, "keep"))

    @staticmethod
    def _settle(vpg: str, volume: int, operation: int, how: How) -> SettleAside:
        return SettleAside(vpg=vpg, volume=volume, operation=operation, how=how)

    async def _put_in_place(self, vpg: str, volume: VolumeId, operation: int) -> None:
        desk, exported = self._site.desk, self._site.recoveries.disks.disk(self.name(vpg, volume, operation), volume)
        await desk.insist_ready(KeepAside(vpg=vpg, volume=volume, operation=operation))
        for at in range(0, exported.size, STRETCH):
            size = min(STRETCH, exported.size - at)
            mine = await asyncio.to_thread(exported.read, at, size)
            answer = await desk.ask(Regions(vpg=vpg, volume=volume, operation=operation, offset=at, size=size))
            theirs = bytes.fromhex(answer.data)
            for n, first in enumerate(range(0, size, REGION)):
                part = bytes(mine[first : first + REGION])
                if theirs[n * DIGEST_BYTES : (n + 1) * DIGEST_BYTES] != of_regions(part, REGION):
                    text = base64.b64encode(part).decode()
                    await desk.ask(
                        PutBack(vpg=vpg, volume=volume, operation=operation, offset=at + first, data=text)
                    )  # fmt: skip
        await desk.insist_ready(self._settle(vpg, volume, operation, "restored"))

    # -- at the source ----------------------------------------------------------------------------------------

    def check(self, vm: str) -> None:
        """That a VM may run. Raises FileError while a volume of it is being written."""
        own = self._site.own.vms.get(vm)
        numbers = self._site.state.state.volumes
        volumes = [numbers[f"{vm}/{disk}"] for disk in own.disks] if own is not None else []
        if any(path.suffix[1:] in STAGES[:2] for v in volumes for path in self._folder.glob(f"*-volume-{v}-*")):
            hint = "wait until the restore is before its commit, or has been taken back"
            raise FileError(
                f"a volume of VM {vm} is being restored in its place", place=self._site.spec.site, hint=hint
            )

    def keep_aside(self, request: KeepAside) -> bool:
        """The other site asks; whether it is done."""
        disk, vm = self._disk(request.vpg, request.volume)
        key = self.name(request.vpg, request.volume, request.operation)
        if self._stage(key) == "writing":
            return True
        if self._site.hypervisor.pid(vm) is not None or self._site.splitter.users(self._export(request.volume)):
            hint = f"power it off at site {self._site.spec.site} first: drsim live power {vm} --off"
            raise FileError(f"VM {vm} uses the volume; it is restored in its place when the VM is off", hint=hint)
        if self._stage(key) == "kept":
            self._to_stage(key, "writing")
            return True
        return self._once((key, "keep"), lambda: self._copy_aside(disk, key))

    def regions(self, request: Regions) -> str:
        """Digests of a stretch, as text."""
        disk, _ = self._disk(request.vpg, request.volume)
        disk.extent(request.offset, request.size)
        return of_regions(disk.read(request.offset, request.size), REGION).hex()

    async def put_back(self, request: PutBack) -> None:
        """Write a region. Raises FileError when nothing was kept aside."""
        disk, _ = self._disk(request.vpg, request.volume)
        key = self.name(request.vpg, request.volume, request.operation)
        if self._stage(key) != "writing":
            raise FileError(f"nothing was kept aside for {key}", place=self._site.spec.site)
        data = base64.b64decode(request.data, validate=True)
        disk.extent(request.offset, len(data))
        await asyncio.to_thread(disk.write, [(request.offset, data)])

    def settle(self, request: SettleAside) -> bool:
        """The restore is over, is taken back, or is kept; whether that is done."""
        key = self.name(request.vpg, request.volume, request.operation)
        if not self._stage(key):
            return True
        disk, vm = self._disk(request.vpg, request.volume)
        match request.how:
            case "restored":
                disk.flush()
                self._to_stage(key, "kept")
            case "undo":
                return self._once((key, "undo"), lambda: self._write_back(disk, vm, key))
            case "keep":
                self._drop(key)
        return True

    def _once(self, what: tuple[str, str], work: Callable[[], Coroutine[None, None, None]]) -> bool:
        """Begin work that takes its time, unless it is under way; whether it is done. Raises what it came to, once."""
        task = self._tasks.get(what)
        if task is None:
            self._tasks[what] = asyncio.create_task(work(), name=f"{what[1]} {what[0]}")
            return False
        if not task.done():
            return False
        del self._tasks[what]
        task.result()
        return True

    async def _copy_aside(self, disk: Disk, key: str) -> None:
        """All that the volume holds, durably, before anything of it is changed."""
        with blame(self._folder):
            make_directory(self._folder)
            part = self._path(key, "part")
            await asyncio.to_thread(_copy, disk.path, part)
        self._to_stage(key, "writing")

    async def _write_back(self, disk: Disk, vm: str, key: str) -> None:
        stage = self._stage(key)
        if stage in STAGES[1:]:
            await self._site.hypervisor.power_off(vm)
            self._to_stage(key, "writing")
            await asyncio.to_thread(_write_differences, self._path(key, "writing"), disk)
        self._drop(key)

    def _disk(self, vpg: str, volume: int) -> tuple[Disk, str]:
        known = self._site.known(vpg).vpg
        vm = next((vm.name for vm in known.vms for v in vm.volumes if v.id == volume), None)
        disk = self._site.site.disks.get(VolumeId(volume))
        if vm is None or disk is None or known.source != self._site.spec.site:
            raise FileError(f"VPG {vpg} has no volume {volume} here", place=self._site.spec.site)
        if not isinstance(disk, Disk):
            hint = "restart the site without `processes`, restore, and start it with them again"
            raise PlatformError("a process of its own serves this disk", place=str(disk.path), hint=hint)
        return disk, vm

    def _export(self, volume: int) -> str:
        return next(name for name, number in self._site.state.state.volumes.items() if number == volume)

    def _path(self, key: str, stage: str) -> Path:
        return self._folder / f"{key}.{stage}"

    def _stage(self, key: str) -> str:
        """How far one is; nothing when there is none."""
        return next((stage for stage in STAGES if self._path(key, stage).exists()), "")

    def _to_stage(self, key: str, stage: str) -> None:
        with blame(self._folder):
            os.replace(self._path(key, self._stage(key)), self._path(key, stage))
            sync_directory(self._folder)

    def _drop(self, key: str) -> None:
        with blame(self._folder):
            for stage in STAGES:
                self._path(key, stage).unlink(missing_ok=True)
            sync_directory(self._folder)

    async def close(self) -> None:
        """Stop what is under way; it goes on when it is asked for again."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def _copy(disk: Path, part: Path) -> None:
    """Holes stay holes."""
    with disk.open("rb") as source, part.open("wb") as target:
        while piece := source.read(REGION):
            if any(piece):
                target.write(piece)
            else:
                target.seek(len(piece), os.SEEK_CUR)
        target.truncate(source.tell())
        target.flush()
        os.fsync(target.fileno())


def _write_differences(kept: Path, disk: Disk) -> None:
    """What was kept is in the volume again; only what differs is written, and replicated."""
    with kept.open("rb") as file:
        for at in range(0, disk.size, REGION):
            data = file.read(min(REGION, disk.size - at))
            if len(data) < min(REGION, disk.size - at):
                raise PlatformError("what was kept aside is too short", place=str(kept))
            if disk.read(at, len(data)) != data:
                disk.write([(at, data)])
    disk.flush()
