"""Reverse protection between two live sites: what the old recovery site asks, and what the old source does.

Theory of operation. After a failover the VMs run at the recovery site, on whole disks of their own. To be protected the
other way, both sites change what they are to the VPG:

    at the recovery site (asks)                        at the old source (`TurnRound`, asked until it is ready)
    -------------------------------------------------  --------------------------------------------------------------
    numbers for its new VMs; the wish is remembered
                                                       its VMs of the VPG end, and are the site's own no more
                                                       the old VPG is deleted, with its journals at the other site
                                                       their disks become mirrors of new streams, whatever they hold
                                                       a catalogue for the VPG, in a later generation
    the recovered VMs are the site's own: their disks
    are tapped, under the names that they are served
    by already, so that guests only wait a moment
    a manager for the VPG: everything is compared

Each step looks at what is there and does what is missing, at both sites, so asking again after any death or a lost
connection goes on. Disks get their new names by links; a file is deleted only when the state says where its content is.

A VM whose site's file still says where its disks are gets them there again when it comes home.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from drsim.core.errors import FileError, PlatformError
from drsim.core.events import Received, Reconfigured
from drsim.core.messages import Lineage, Start
from drsim.core.names import VolumeId
from drsim.real.desk import TurnRound
from drsim.real.files import blame, make_directory, sync_directory
from drsim.real.host_tap import HostDisk
from drsim.real.planning import streams_of, turned
from drsim.spec.live import LiveDisk, LiveVm, ProtectedVm, Turning, VpgState

if TYPE_CHECKING:
    from drsim.real.installation import Installation

SECTOR = 512
POLL = 0.02
LONGEST = 600.0
"""Seconds that the deletion of the old VPG may take."""


class Reversal:
    """A site's part in it, on either side."""

    def __init__(self, site: "Installation") -> None:
        self._site = site
        self._tasks: dict[str, asyncio.Task[None]] = {}  # what the other site has asked for, by VPG

    # -- where the VMs run ------------------------------------------------------------------------------------

    async def protect_the_other_way(self, vpg: str, operation: int) -> None:
        """See the module. Raises PlatformError or FileError; asked again, it goes on. `operation`: who asks."""
        site = self._site
        others = [n for n, each in site.recoveries.running.items() if each.plan.vpg == vpg and n != operation]
        if others:
            hint = f"end it first: drsim live stop {others[0]}"
            raise PlatformError(f"operation {others[0]} still uses VPG {vpg}", place=site.spec.site, hint=hint)
        turning = site.state.state.turning.get(vpg)
        if turning is None:
            if site.known(vpg).vpg.source == site.spec.site:
                return  # it was done
            turning = self._begin(vpg)
        await site.desk.insist_ready(TurnRound(vpg=turning.vpg, generation=turning.generation))
        await self._take_over(turning)

    def _begin(self, vpg: str) -> Turning:
        """Numbers for the VMs that were recovered, and the VPG as it will be."""
        site, known = self._site, self._site.known(vpg)
        disks = site.recoveries.disks
        vms = [vm for vm in known.vpg.vms if disks.owned(vm.name)]
        unready = [vm.name for vm in vms if not disks.whole(vm.name)]
        if not known.recovered or not vms or unready:
            what = f"VM {unready[0]} has not been promoted" if unready else f"VPG {vpg} has not been recovered"
            raise PlatformError(f"{what}; it cannot be protected the other way", place=site.spec.site)
        site.own.number({vm.name: [v.name for v in vm.volumes] for vm in vms})
        turning = Turning(
            vpg=turned(known.vpg, [vm.name for vm in vms], site.state.state), generation=known.generation + 1
        )
        site.state.put(turning={**site.state.state.turning, vpg: turning})
        return turning

    async def _take_over(self, turning: Turning) -> None:
        """The VMs are the site's own, and protected."""
        site, vpg, state = self._site, turning.vpg, self._site.state.state
        old = {name: disks for name, disks in state.left.items() if name in {vm.name for vm in vpg.vms}}
        adopted = {vm.name: self._adopt(vm, vpg.number) for vm in vpg.vms}
        for vm in vpg.vms:
            await site.recoveries.disks.release(vm.name)
        home = {name for name, made in adopted.items() if made == site.spec.vms.get(name)}
        site.state.put(
            adopted={n: vm for n, vm in {**state.adopted, **adopted}.items() if n not in home},
            left={name: disks for name, disks in state.left.items() if name not in adopted},
            vpgs={**site.state.state.vpgs, vpg.name: VpgState(vpg=vpg, generation=turning.generation)},
            turning={name: each for name, each in state.turning.items() if name != vpg.name},
            made=max(state.made, vpg.number),
        )  # fmt: skip
        for name, made in adopted.items():
            site.own.serve(name, made)
            site.hypervisor.change(name, owner="")
            site.recoveries.disks.sweep(name)
            self._sweep(old.get(name, {}))
        site.begin_vpg(vpg.name)
        lineage = Lineage(vpg.name, turning.generation)
        site.site.post(site.manager(vpg.name), Received(site.catalog(vpg.name), lineage))
        starts = {s.id: Start.PRESEEDED for s in streams_of(vpg)}
        site.site.post(site.manager(vpg.name), Reconfigured(vpg.version, tuple(streams_of(vpg)), starts))

    def _adopt(self, vm: ProtectedVm, number: int) -> LiveVm:
        """Links to the disks of a recovered VM, where its site's file has them or in a folder of their own."""
        site, paths = self._site, self._site.recoveries.disks.paths(vm.name)
        mine = site.spec.vms.get(vm.name)
        if mine is not None and mine.host == vm.host and {v.name for v in vm.volumes} == set(mine.disks):
            places = {disk: site.base / place.path for disk, place in mine.disks.items()}
            if all(_same_file_system(paths[disk], place) for disk, place in places.items()):
                for disk, place in places.items():
                    _link(paths[disk], place)
                return mine
        disks: dict[str, LiveDisk] = {}
        for volume in vm.volumes:
            place = Path(site.spec.folder) / "disks" / vm.name / f"{volume.name}-{number}.disk"
            _link(paths[volume.name], site.base / place)
            disks[volume.name] = LiveDisk(path=str(place), size=volume.sectors * SECTOR)
        return LiveVm(
            host=vm.host, memory=vm.memory, cpus=vm.cpus, disks=disks, tools=vm.tools, ready=vm.ready
        )  # fmt: skip

    def _sweep(self, disks: dict[str, str]) -> None:
        """Files of our own that a VM had left, and that were the mirrors of the VPG that has ended."""
        mine = (self._site.folder / "disks").resolve()
        for text in disks.values():
            if Path(text).is_relative_to(mine):
                Path(text).unlink(missing_ok=True)

    # -- where they ran ---------------------------------------------------------------------------------------

    def turn_round(self, request: TurnRound) -> bool:
        """The other site asks; whether everything is ready there. Raises what came of the last attempt, once."""
        name = request.vpg.name
        known = self._site.state.state.vpgs.get(name)
        if known is not None and known.vpg == request.vpg:
            self._tasks.pop(name, None)
            return True
        here, there = self._site.spec.site, self._site.spec.link.peer
        if (request.vpg.source, request.vpg.target) != (there, here):
            raise FileError(f"VPG {name} does not go from {there} to {here}", place=here)
        task = self._tasks.get(name)
        if task is None:
            self._tasks[name] = asyncio.create_task(self._turn(request), name=f"reverse {name}")
        elif task.done():
            del self._tasks[name]
            task.result()
        return False

    async def _turn(self, request: TurnRound) -> None:
        site, vpg = self._site, request.vpg
        known = site.state.state.vpgs.get(vpg.name)
        if known is not None and known.vpg.source == site.spec.site:
            await self._give_up(known, {vm.name for vm in vpg.vms})
        left, journals = site.state.state.left, site.site.journals
        assert journals is not None
        for spec in streams_of(vpg):
            names = {v.id: (vm.name, v.name) for vm in vpg.vms for v in vm.volumes}
            disks = {
                v.id: Path(left[names[v.id][0]][names[v.id][1]]) for v in spec.volumes
                if names[v.id][1] in left.get(names[v.id][0], {})
            }  # fmt: skip
            await site.site.lane(f"journal {spec.id}").call(lambda s=spec, d=disks: journals.seed(s, d))  # type: ignore[misc]
        site.adopt(VpgState(vpg=vpg, generation=request.generation))

    async def _give_up(self, known: VpgState, names: set[str]) -> None:
        """VMs of a VPG are the site's own no more, and the VPG is deleted on both sides."""
        site, vpg = self._site, known.vpg
        own = site.own.vms
        left = {
            vm.name: {disk: str((site.base / place.path).resolve()) for disk, place in own[vm.name].disks.items()}
            for vm in vpg.vms if vm.name in names and vm.name in own
        }  # fmt: skip
        adopted = {name: vm for name, vm in site.state.state.adopted.items() if name not in names}
        site.state.put(left={**site.state.state.left, **left}, adopted=adopted)
        for vm in (vm for vm in vpg.vms if vm.name in names):
            await site.hypervisor.delete(vm.name)
            for volume in vm.volumes:
                await site.splitter.withdraw(f"{vm.name}/{volume.name}")
        if known.deleting is None:
            site.delete(vpg.name, keep_disks=False)
        async with asyncio.timeout(LONGEST):
            while vpg.name in site.state.state.vpgs:
                await asyncio.sleep(POLL)
        for vm in (vm for vm in vpg.vms if vm.name in names):
            for volume in vm.volumes:
                disk = site.site.disks.pop(VolumeId(volume.id), None)
                if isinstance(disk, HostDisk):
                    await disk.give_up()
                elif disk is not None:
                    disk.close()

    async def close(self) -> None:
        """Stop what is under way; it goes on when it is asked for again."""
        for task in self._tasks.values():
            task.cancel()
            with suppress(asyncio.CancelledError, PlatformError, FileError, TimeoutError):
                await task


def _same_file_system(path: Path, other: Path) -> bool:
    """Whether a link to one can stand at the other: a file's place, on the same file system."""
    there = other if other.exists() else other.parent
    plain = not other.is_symlink() and (there.is_file() or there.is_dir())
    return plain and os.stat(path).st_dev == os.stat(there).st_dev


def _link(path: Path, to: Path) -> None:
    """Give a file a second name in one durable step, whatever had it. Done again, it ends the same."""
    with blame(to):
        make_directory(to.parent)
        if to.exists() and os.path.samefile(path, to):
            return
        beside = to.with_name(to.name + ".new")
        beside.unlink(missing_ok=True)
        os.link(path, beside)
        os.replace(beside, to)
        sync_directory(to.parent)
