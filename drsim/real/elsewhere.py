"""Elsewhere: a site whose VMs run on a platform, vSphere or AWS say, and not on this machine.

Theory of operation. The site's process is the appliance: journals, mirrors and shadows are its files. What differs from
a site on this machine is here, and nothing else knows of it:

    protect    its VMs are captured by epochs (`epochs.py`); a loop for each VPG takes one and tells the VPG's manager
    watch      a VM that is moved there: the VPG's manager hears of it, and wants an epoch at once; a VM that is
               deleted, a host that takes no VMs any more: said in the site's status
    recover    what a workflow asks of the target goes through the platform's ports (`target.py`); disks are laid out as
               of the checkpoint, from journal and mirror
    source     VMs are shut down and started through the ports; a last epoch before the drain has what they wrote

Not here: reverse protection, and restores of volumes. They fail with these words, before anything is touched.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drsim.core.action import Action
from drsim.core.errors import FileError, PlatformError
from drsim.core.events import EpochCaptured, PauseAsked, VmMoved
from drsim.core.names import Address, CheckpointId, StreamId, VmId, VolumeId
from drsim.core.recovery import actions as do
from drsim.core.units import SECOND, SECTOR
from drsim.core.vpg import Vpg
from drsim.real.disk import Disk
from drsim.real.epochs import Epochs, MarksFile, Taken
from drsim.real.files import blame, make_directory, read_exactly, replace_file, write_all
from drsim.real.journal_copy import JournalCopy
from drsim.real.journal_view import JournalView
from drsim.real.ports import Change, DiskId, Firmware, Gone, HostChanged, Moved, Platform
from drsim.real.target import Origin, Target
from drsim.spec.live import LiveDisk, LiveVm, ProtectedVm, SiteFile, VpgState

if TYPE_CHECKING:
    from drsim.real.installation import Installation

_PIECE = 1 << 20
_AGAIN = 5.0
"""Seconds after an epoch that failed."""
_POLL = 0.01
_COPIES, _WATCH = "copies of journals", "hearing of changes"
COPY = 10.0
"""Seconds between rounds in which journals are copied to the platform's object store."""
T = TypeVar("T")
DEFAULT = 60 * SECOND
"""Between two epochs. Our choice: snapshots are dear on most platforms."""


class Elsewhere:
    """One site's. `platform`: connected. `store`: where recovered VMs go; its largest datastore unless it is named."""

    def __init__(self, site: "Installation", platform: Platform, store: str) -> None:
        self._site, self.platform = site, platform
        self.target = Target(lambda: platform, self, store)
        self.store = store
        self._disks: dict[str, dict[str, DiskId]] = {}
        """Of each VM, by the names that they have here."""
        self.failing: dict[str, str] = {}
        """What does not work at the moment and is tried again: epochs of a VPG, copies of journals; and why."""
        self._epochs: dict[str, Epochs] = {}
        self._one_at_a_time: dict[str, asyncio.Lock] = {}
        self._due: dict[str, asyncio.Event] = {}
        """Of each VPG that is captured: set when its loop is not to wait any longer."""

    # -- the site's own VMs -----------------------------------------------------------------------------------

    async def discover(self, spec: SiteFile, base: Path) -> SiteFile:
        """The site's file with what the platform knows of its VMs. Raises PlatformError when one is not there."""
        vms: dict[str, LiveVm] = {}
        for name, vm in spec.vms.items():
            facts = await self.platform.inventory.vm(name)
            folder = base / spec.folder / "shadows" / name
            self._disks[name] = _named(folder, facts.disks)
            disks = {}
            for disk, id_ in self._disks[name].items():
                size = (await self.platform.disks.disk(id_)).size // SECTOR * SECTOR
                disks[disk] = LiveDisk(path=f"{spec.folder}/shadows/{name}/{disk}.shadow", size=size)
            found = {
                "disks": disks, "memory": facts.memory, "cpus": facts.cpus, "tools": facts.tools,
                "firmware": facts.firmware.value, "secure_boot": facts.secure_boot,
                "system": facts.system or vm.system,
            }  # fmt: skip
            vms[name] = vm.model_copy(update=found)
        return spec.model_copy(update={"vms": vms})

    def pauses(self, known: VpgState) -> bool:
        """Whether a VPG must not have a checkpoint before its next epoch, whatever an operator wants."""
        return known.vpg.source == self._site.spec.site and self._of(known.vpg.name).paused

    def _of(self, vpg: str) -> Epochs:
        if vpg not in self._epochs:
            source = self.platform.changes
            if source is None:
                raise PlatformError("it cannot tell what changed on a disk", place=self.platform.name)
            known, folder = self._site.known(vpg).vpg, self._site.folder

            async def pause(on: bool) -> None:
                await self._pause(vpg, on=on)

            owner, marks = f"{known.source}/{vpg}", folder / "epochs" / f"{vpg}-{known.number}.json"
            self._epochs[vpg] = Epochs(source, self._shadows(known.vms), owner, MarksFile(marks), pause)
        return self._epochs[vpg]

    def _shadows(self, vms: Iterable[ProtectedVm]) -> dict[str, dict[DiskId, Disk]]:
        disks = self._site.site.disks
        own = {id_: disk for id_, disk in disks.items() if isinstance(disk, Disk)}
        return {vm.name: {self._disks[vm.name][v.name]: own[VolumeId(v.id)] for v in vm.volumes} for vm in vms}

    # -- capture ----------------------------------------------------------------------------------------------

    async def capture(self, vpg: str) -> None:
        """Take epochs, for as long as the VPG is protected here."""
        due = self._due[vpg] = asyncio.Event()
        while self._due.get(vpg) is due:
            due.clear()
            every = (self._site.known(vpg).vpg.epochs or DEFAULT) / SECOND
            try:
                await self.epoch(vpg)
                for what in (vpg, *(f"VM {vm.name}" for vm in self._site.known(vpg).vpg.vms)):
                    self.failing.pop(what, None)
                wait = every
            except PlatformError as error:
                self._fails(vpg, error)
                wait = min(every, _AGAIN)
            with suppress(TimeoutError):
                await asyncio.wait_for(due.wait(), wait)

    def due(self, vpg: str) -> None:
        """The next epoch is taken at once; one that is under way may have begun too early, and does not count."""
        if vpg in self._due:
            self._due[vpg].set()

    async def copy_journals(self) -> None:
        """Copy journals and lists to the platform's object store, if it has one, again and again, for ever."""
        objects, site = self.platform.objects, self._site
        if objects is None:
            return
        assert site.site.journals is not None
        copy = JournalCopy(objects, site.site.journals)

        async def in_lane(stream: StreamId, work: Callable[[], T]) -> T:
            return await site.site.lane(f"journal {stream}").call(work)

        def lists() -> dict[str, bytes]:
            paths = (site.folder / "catalogs").glob("*.json")
            return {path.stem: path.read_bytes() for path in paths}

        while True:
            try:
                await copy.round(in_lane, lists)
                self.failing.pop(_COPIES, None)
            except PlatformError as error:
                self._fails(_COPIES, error)
            await asyncio.sleep(COPY)

    async def watch(self) -> None:
        """Hear what happens to VMs and hosts at the platform, for ever."""
        while True:
            try:
                async with aclosing(self.platform.inventory.changes()) as changes:  # type: ignore[type-var]  # they are generators
                    async for change in changes:
                        self.failing.pop(_WATCH, None)
                        self._heard(change)
            except PlatformError as error:
                self._fails(_WATCH, error)
            await asyncio.sleep(_AGAIN)

    def _heard(self, change: Change) -> None:
        here = self._site.spec.site
        vpgs = [known.vpg for known in self._site.state.state.vpgs.values()]
        targets = {vm.target for vpg in vpgs if vpg.target == here for vm in vpg.vms}
        match change:
            case Moved(vm, host) if vm in self._disks:
                self._site.warned(f"VM {vm} runs on {host} now")
                for vpg in (each for each in vpgs if each.source == here):
                    for id_ in (VmId(each.id) for each in vpg.vms if each.name == vm):
                        self._site.site.post(self._site.manager(vpg.name), VmMoved(id_, host))
            case Gone(vm) if vm in self._disks:
                hint = "unprotect it, or bring it back under its name"
                self._fails(f"VM {vm}", PlatformError("it is not there any more", place=self.platform.name, hint=hint))
            case HostChanged(host, True):
                self.failing.pop(f"host {host}", None)
            case HostChanged(host, False) if host in targets:
                hint = "VPGs are to be recovered on it: name another host, or bring it back"
                self._fails(f"host {host}", PlatformError("it takes no VMs", place=self.platform.name, hint=hint))

    def _fails(self, what: str, error: PlatformError) -> None:
        self.failing[what] = str(error)
        self._site.warned(f"{what}: {error}")

    async def forget(self, known: VpgState) -> None:
        """A VPG is protected no more: nothing of its epochs is left on the platform. Raises nothing."""
        name, source = known.vpg.name, self.platform.changes
        self._epochs.pop(name, None)
        if name in self._due and source is not None:
            self._due.pop(name).set()
            async with self._one_at_a_time.setdefault(name, asyncio.Lock()):
                for vm in known.vpg.vms:
                    try:
                        await source.forget(vm.name, f"{known.vpg.source}/{name}")
                    except PlatformError as error:
                        self._fails(f"epochs of {vm.name}, which may have left snapshots", error)

    async def epoch(self, vpg: str) -> Taken:
        """One epoch, now. Raises PlatformError, and then the next one goes on."""
        async with self._one_at_a_time.setdefault(vpg, asyncio.Lock()):
            taken = await self._of(vpg).take()
            self._site.site.post(self._site.manager(vpg), EpochCaptured(taken.at))
            return taken

    async def _pause(self, vpg: str, *, on: bool) -> None:
        site, address = self._site, self._site.manager(vpg)
        site.site.post(address, PauseAsked(on or site.known(vpg).paused))
        machine = site.site.kernel.machines[address]
        assert isinstance(machine, Vpg)
        while on and (not machine.paused or machine.attempt is not None):
            await asyncio.sleep(_POLL)

    # -- recovery ---------------------------------------------------------------------------------------------

    async def carry_out(self, operation: Address, action: Action[Any]) -> None:
        """What a workflow asks of the target. Raises PlatformError."""
        match action:
            case do.RestoreVolume() | do.UndoRestore() | do.KeepRestore() | do.Reverse():
                raise PlatformError(f"a site on {self.platform.name} cannot {action}", hint="fail over, or clone")
            case _:
                await self.target.carry_out(operation, action)

    async def shut_down(self, vm: str, timeout: float, *, force: bool, tools: bool) -> None:
        """Stop a VM of the source. Raises PlatformError when it runs on."""
        stopped = tools and await self.platform.hypervisor.shut_down(vm, timeout)
        if not stopped and not force:
            why = f"has not stopped within {timeout:g} s" if tools else "has no guest tools"
            raise PlatformError(f"VM {vm} {why}", hint="use force")
        await self.platform.hypervisor.power_off(vm)

    # -- images: see target.Images ----------------------------------------------------------------------------

    def sizes(self, vm: VmId) -> Mapping[VolumeId, int]:
        """Of its volumes."""
        return {VolumeId(v.id): v.sectors * SECTOR for v in self._protected(vm).volumes}

    def origin(self, vm: VmId) -> Origin:
        """As its VPG knows it."""
        was = self._protected(vm)
        return Origin(Firmware(was.firmware), was.ready, was.secure_boot, was.system)

    def _protected(self, vm: VmId) -> ProtectedVm:
        here = self._site
        for known in here.state.state.vpgs.values():
            if known.vpg.target == here.spec.site:
                for each in known.vpg.vms:
                    if each.id == vm:
                        return each
        raise PlatformError(f"VM {vm} is in no VPG here", place=here.spec.site)

    async def lay_out(self, vm: VmId, volume: VolumeId, checkpoint: CheckpointId, to: Path) -> None:
        """From journal and mirror. Raises PlatformError."""
        journals = self._site.site.journals
        assert journals is not None
        [source] = [s for s in self._site.recoveries.disks.of_vm(vm, checkpoint) if volume in s.names]
        store = journals.streams[source.stream]
        info = next(each for each in store.spec.volumes if each.id == volume)
        view = await self._site.site.lane(f"journal {source.stream}").call(lambda: store.view(source.cut, info))
        await asyncio.to_thread(_copy, view, info.sectors, to)


def _copy(view: JournalView, sectors: int, to: Path) -> None:
    """Write what is not there already, durably. Raises PlatformError."""
    with blame(to):
        fd = os.open(to, os.O_RDWR)
        try:
            for lba in range(0, sectors, _PIECE // SECTOR):
                n = min(_PIECE // SECTOR, sectors - lba)
                data, bad = view.read(lba, n)
                if bad:
                    raise PlatformError(f"sector {bad[0]} does not verify", place=str(to))
                if read_exactly(fd, n * SECTOR, lba * SECTOR, to) != data:
                    write_all(fd, data, lba * SECTOR)
            os.fsync(fd)
        finally:
            os.close(fd)


def _named(folder: Path, disks: tuple[DiskId, ...]) -> dict[str, DiskId]:
    """Names for a VM's disks, once and for ever. Raises FileError when they are not those that they were."""
    path = folder / "disks.json"
    with blame(path):
        make_directory(folder)
        if not path.exists():
            replace_file(path, json.dumps({f"disk-{n}": disk for n, disk in enumerate(disks, 1)}).encode())
        known = {name: DiskId(disk) for name, disk in json.loads(path.read_text()).items()}
    if set(known.values()) != set(disks):
        hint = "unprotect the VM, delete its folder of shadows, and protect it again"
        raise FileError(f"VM {folder.name} has other disks than before: {', '.join(disks)}", place=str(path), hint=hint)
    return known


async def store_of(platform: Platform, wanted: str | None) -> str:
    """The datastore of recovered VMs. Raises PlatformError when it is not there."""
    stores = {store.name: store for store in await platform.inventory.stores()}
    if wanted is None and stores:
        return max(stores.values(), key=lambda store: store.free).name
    if wanted is None or wanted not in stores:
        hint = f"there is: {', '.join(stores)}"
        raise PlatformError(f"there is no datastore {wanted}", place=platform.name, hint=hint)
    return wanted
