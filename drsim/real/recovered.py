"""RecoveredDisks: the scratch disks of a recovery site, by the VM or volume that they belong to, and who serves them.

    FOLDER/NAME/scratch.json     of which streams and volumes they are made, written before anything of them
    FOLDER/NAME/volume-N.disk    and what stands beside it (`scratch.py`)

They are served as `NAME/N`. After a restart those that were laid out are served again, over their mirrors or whole;
others are made when they are asked for again.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from drsim.core.errors import PlatformError
from drsim.core.messages import Cut
from drsim.core.names import CheckpointId, StreamId, VmId, VolumeId
from drsim.real.files import blame, make_directory, replace_file
from drsim.real.scratch import Scratch

if TYPE_CHECKING:
    from drsim.real.installation import Installation

Source = tuple[StreamId, Cut, set[VolumeId]]
"""Volumes of a stream, and where in its journal."""
POLL = 0.02
"""Seconds between looks at whether somebody still uses a disk."""


class RecoveredDisks:
    """Those of one site, under one folder."""

    def __init__(self, site: "Installation", folder: Path) -> None:
        self._site, self.folder = site, folder
        self._scratches: dict[str, dict[VolumeId, Scratch]] = {}

    def volumes(self, name: str) -> list[VolumeId]:
        """Numbers of the volumes of a VM that has disks here."""
        return sorted(self._scratches[name])

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
        cut = next((c.cut for c in self._site.listed(vpg) if c.id == checkpoint), None)
        if cut is None:
            raise PlatformError(f"checkpoint {checkpoint} is not listed any more")
        journals = self._site.site.journals
        assert journals is not None
        return [
            (stream, part, mine)
            for stream, part in cut.items()
            if (mine := volumes & {v.id for v in journals.streams[stream].spec.volumes})
        ]

    async def make(self, name: str, sources: list[Source]) -> None:
        """Scratch disks, served as `name/number`; what they are made of stands beside them first."""
        if name in self._scratches:
            return
        folder, journals = self.folder / name, self._site.site.journals
        assert journals is not None
        with blame(folder):
            make_directory(folder)
            of = [[str(stream), sorted(volumes)] for stream, _, volumes in sources]
            replace_file(folder / "scratch.json", json.dumps(of).encode())
        made: dict[VolumeId, Scratch] = {}
        for stream, cut, volumes in sources:
            store, lane = journals.streams[stream], self._site.site.lane(f"journal {stream}")
            made |= await lane.call(lambda s=store, c=cut, v=volumes: s.scratch(c, folder, v))  # type: ignore[misc]
        self._serve(name, made)

    def _serve(self, name: str, disks: dict[VolumeId, Scratch]) -> None:
        self._scratches[name] = disks
        for volume, disk in disks.items():
            self._site.splitter.add(f"{name}/{volume}", disk)

    def serve_again(self) -> None:
        """The disks of an earlier life."""
        for path in sorted(self.folder.glob("*/scratch.json")):
            made = self._again(path.parent, json.loads(path.read_text()))
            if made is not None:
                self._serve(path.parent.name, made)

    def _again(self, folder: Path, of: list[tuple[str, list[int]]]) -> dict[VolumeId, Scratch] | None:
        """Whole, or over their mirrors; None when one was not laid out yet."""
        journals = self._site.site.journals
        assert journals is not None
        made: dict[VolumeId, Scratch] = {}
        for text, volumes in of:
            store = next((store for id_, store in journals.streams.items() if str(id_) == text), None)
            for volume in map(VolumeId, volumes):
                path = folder / f"volume-{volume}.disk"
                laid = path.with_suffix(".laid").exists()
                if not laid or (store is None and not path.with_suffix(".whole").exists()):
                    return None
                made[volume] = Scratch.again(path, volume, None if store is None else store.mirror(volume))
        return made

    async def hydrate(self, name: str) -> None:
        if name not in self._scratches:
            raise PlatformError(f"{name} has no disks")
        for disk in self._scratches[name].values():
            await asyncio.to_thread(disk.hydrate)

    async def drop(self, name: str) -> None:
        disks = self._scratches.pop(name, {})
        for volume, disk in disks.items():
            self._site.splitter.remove(f"{name}/{volume}")
            while self._site.splitter.users(f"{name}/{volume}"):
                await asyncio.sleep(POLL)
            disk.close()
        folder = self.folder / name
        (folder / "scratch.json").unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
