"""RecoveredDisks: the scratch disks of a recovery site, by the VM or volume that they belong to, and who serves them.

    FOLDER/NAME/scratch.json     what they are made of, and what they are called; written before anything of them
    FOLDER/NAME/volume-N.disk    and what stands beside it (`scratch.py`)

They are served as `NAME/VOLUME`. After a restart they are served again: whole, over their mirrors when they were laid
out, over journal and mirror when they are instant. Others are made when they are asked for again.
"""

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drsim.core.errors import PlatformError
from drsim.core.messages import Cut
from drsim.core.names import CheckpointId, StreamId, VmId, VolumeId
from drsim.real.codec import build, plain
from drsim.real.files import blame, make_directory, replace_file
from drsim.real.scratch import Scratch
from drsim.real.stream_store import StreamStore

if TYPE_CHECKING:
    from drsim.real.installation import Installation


@dataclass(frozen=True, slots=True)
class Source:
    """Volumes of a stream, by number, with their names, and where in its journal."""

    stream: StreamId
    cut: Cut
    names: dict[int, str]


@dataclass(frozen=True, slots=True)
class Made:
    """What the disks of a VM are made of. `instant`: read where it lies, not laid out. `read_only`: for clients."""

    sources: tuple[Source, ...]
    instant: bool = False
    read_only: bool = False


class RecoveredDisks:
    """Those of one site, under one folder."""

    def __init__(self, site: "Installation", folder: Path) -> None:
        self._site, self.folder = site, folder
        self._scratches: dict[str, dict[VolumeId, Scratch]] = {}
        self._names: dict[str, dict[VolumeId, str]] = {}

    def exports(self, name: str) -> list[str]:
        """Under which names the disks of a VM are served, in the order of their numbers."""
        return [f"{name}/{self._names[name][volume]}" for volume in sorted(self._scratches[name])]

    def owned(self, name: str) -> bool:
        """Whether a VM has disks here."""
        return name in self._scratches

    def disk(self, name: str, volume: VolumeId) -> Scratch:
        """One of them."""
        return self._scratches[name][volume]

    def whole(self, name: str) -> bool:
        """Whether its disks stand by themselves."""
        return all(disk.whole for disk in self._scratches[name].values())

    def paths(self, name: str) -> dict[str, Path]:
        """The files of a VM's disks, by the name of the volume."""
        return {self._names[name][volume]: disk.path for volume, disk in self._scratches[name].items()}

    async def release(self, name: str) -> None:
        """The disks are another's from now on: served no more, and closed. `sweep` takes away the names they had."""
        disks, names = self._scratches.pop(name), self._names.pop(name)
        for volume, disk in disks.items():
            await self._site.splitter.withdraw(f"{name}/{names[volume]}")
            disk.flush()
            disk.close()

    def sweep(self, name: str) -> None:
        """What stands here of disks that are another's."""
        (self.folder / name / "scratch.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def close(self) -> None:
        """Close all files; nobody may be using them any more."""
        for disks in self._scratches.values():
            for disk in disks.values():
                disk.close()

    def of_vm(self, vm: VmId, checkpoint: CheckpointId) -> list[Source]:
        """Where the volumes of a VM come from; a VM belongs to one VPG of the other site."""
        found = [
            (known.vpg.name, {VolumeId(v.id) for v in each.volumes})
            for known in self._site.state.state.vpgs.values() if known.vpg.target == self._site.spec.site
            for each in known.vpg.vms if each.id == vm
        ]  # fmt: skip
        if not found:
            raise PlatformError(f"VM {vm} is in no VPG here")
        return self.of(found[0][0], checkpoint, found[0][1])

    def of(self, vpg: str, checkpoint: CheckpointId, volumes: set[VolumeId]) -> list[Source]:
        """Where some volumes of a VPG come from."""
        cut = next((c.cut for c in self._site.listed(vpg) if c.id == checkpoint), None)
        if cut is None:
            raise PlatformError(f"checkpoint {checkpoint} is not listed any more")
        names = {v.id: v.name for vm in self._site.known(vpg).vpg.vms for v in vm.volumes}
        journals = self._site.site.journals
        assert journals is not None
        return [
            Source(stream, part, {v: names.get(v, str(v)) for v in sorted(mine)})
            for stream, part in cut.items()
            if (mine := volumes & {v.id for v in journals.streams[stream].spec.volumes})
        ]

    async def make(self, name: str, sources: list[Source], *, instant: bool = False, read_only: bool = False) -> None:
        """Scratch disks, served as `name/volume`; what they are made of stands beside them first."""
        if name in self._scratches:
            return
        folder, journals = self.folder / name, self._site.site.journals
        assert journals is not None
        of = Made(tuple(sources), instant, read_only)
        with blame(folder):
            make_directory(folder)
            replace_file(folder / "scratch.json", json.dumps(plain(of)).encode())
        made: dict[VolumeId, Scratch] = {}
        for source in sources:
            store, lane = journals.streams[source.stream], self._site.site.lane(f"journal {source.stream}")

            def lay(store: StreamStore = store, source: Source = source) -> dict[VolumeId, Scratch]:
                return store.scratch(source.cut, folder, map(VolumeId, source.names), instant=instant)

            made |= await lane.call(lay)
        self._serve(name, of, made)

    def _serve(self, name: str, of: Made, disks: dict[VolumeId, Scratch]) -> None:
        self._scratches[name] = disks
        self._names[name] = {VolumeId(v): text for source in of.sources for v, text in source.names.items()}
        for volume, disk in disks.items():
            disk.read_only = of.read_only
            self._site.splitter.add(f"{name}/{self._names[name][volume]}", disk)

    def serve_again(self) -> None:
        """The disks of an earlier life."""
        for name in self._site.own.vms:
            self.sweep(name)  # it was adopted, and its disks have other names since
        for path in sorted(self.folder.glob("*/scratch.json")):
            with blame(path):
                of: Made = build(Made, json.loads(path.read_text()))
            made = self._again(path.parent, of)
            if made is not None:
                self._serve(path.parent.name, of, made)

    def _again(self, folder: Path, of: Made) -> dict[VolumeId, Scratch] | None:
        """Whole, or over what lies below; None when one was not laid out yet."""
        journals = self._site.site.journals
        assert journals is not None
        made: dict[VolumeId, Scratch] = {}
        for source in of.sources:
            store = journals.streams.get(source.stream)
            for volume in map(VolumeId, source.names):
                path = folder / f"volume-{volume}.disk"
                if path.with_suffix(".whole").exists():
                    made[volume] = Scratch.again(path, volume, None)
                elif store is None:
                    return None
                elif path.with_suffix(".laid").exists():
                    made[volume] = Scratch.again(path, volume, store.mirror(volume))
                elif of.instant:
                    made |= store.scratch(source.cut, folder, [volume], instant=True)
                else:
                    return None
        return made

    async def hydrate(self, name: str) -> None:
        if name not in self._scratches:
            raise PlatformError(f"{name} has no disks")
        for disk in self._scratches[name].values():
            await asyncio.to_thread(disk.hydrate)

    async def drop(self, name: str) -> None:
        disks, names = self._scratches.pop(name, {}), self._names.pop(name, {})
        for volume, disk in disks.items():
            await self._site.splitter.withdraw(f"{name}/{names[volume]}")
            disk.close()
        folder = self.folder / name
        (folder / "scratch.json").unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
