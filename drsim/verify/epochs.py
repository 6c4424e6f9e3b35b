"""Epochs: an estate whose VMs nobody can tap. They are captured by `drsim/real/epochs.py`, under the explorer.

Theory of operation. The VRA taps *shadows*, which are what the explorer calls guests: the properties of journals,
checkpoints and synchronization hold of them as ever. Behind each shadow stands a VM whose writes only a snapshot shows.
One *process* runs the protected side: VRA, manager and epochs live and die together. The code that takes an epoch is
the one that runs live; it waits at its ports, and the adversary picks when, or whether, each of them answers:

    port            what it does here
    --------------  -------------------------------------------------------------------------------------------------
    change source   snapshots of VMs at instants of their own; tells too much of what changed; fails; forgets its marks
    shadow          a write of it is captured at once, as the one step of an event loop
    marks           durable; cannot be written for a while
    pause           as `real/elsewhere.py` does it

Nothing comes between the steps of the code that do not wait, as in an event loop.

The truth is what each snapshot held, and when it was taken. `exact`, when a checkpoint is listed:

    P3    each VM's image is what some snapshot of it held
    P5    all of them are of one epoch, and no VM lacks one
    P6    that one was not taken before the time which the checkpoint says that it was taken
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from drsim.core.effects import Effect, Keep, Publish
from drsim.core.errors import PlatformError
from drsim.core.events import EpochCaptured, PauseAsked, VmMoved
from drsim.core.facts import EpochDue
from drsim.core.kernel import Sink
from drsim.core.messages import Checkpoint
from drsim.core.names import Address, VmId, VolumeInfo
from drsim.core.units import SECTOR, Ns
from drsim.core.vpg import DEADLINE
from drsim.real.epochs import Epochs, Kept, Process, Taken
from drsim.real.ports import Area, DiskId, Epoch, Untrusted
from drsim.verify.bags import Unanswered
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.guests import Guest, Write, sector_bytes, sector_stamps
from drsim.verify.violation import Violation

TELLS = 4  # sectors: a platform tells of changes in areas of so many
PATIENCE = 400  # answers until an epoch that nothing disturbs is over
SOURCE, WAIT = "source", "wait"  # what the code waits for: only the former can fail


class _Answer(Awaitable[None]):
    """The code goes on when the adversary lets it; what it waits for may fail instead."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __await__(self) -> Generator[str, None, None]:
        yield self._what


@dataclass(slots=True)
class Vm:
    """A VM of the platform: what its disks hold, two bytes a sector, and where anything was ever written."""

    disk: bytearray
    ever: bytearray
    writes: int = 0


@dataclass(slots=True)
class Snapshots:
    """What the VMs held in one epoch, and when. `asked`: when it was begun, which it says that it was taken."""

    asked: int
    at: dict[VmId, int] = field(default_factory=dict)
    held: dict[VmId, bytes] = field(default_factory=dict)


class Source:
    """The change source, as one life of the process sees it."""

    def __init__(self, x: "EpochWorld") -> None:
        self.x, self.dead = x, False
        self._open: dict[str, bytes] = {}  # what snapshots that have not ended hold

    async def begin(self, vm: str, owner: str) -> Epoch:
        """The port's. The snapshot comes about at some instant before the answer."""
        await _Answer(SOURCE)
        id_ = self.x.snapshot(VmId(int(vm)))
        self._open[id_] = held = bytes(self.x.platform[VmId(int(vm))].disk)
        guest = self.x.guests[VmId(int(vm))]
        marks = []
        for volume in guest.volumes:
            mark = f"{id_}/{volume.id}"
            self.x.marks[mark] = self._part(held, guest, volume)
            marks.append((disk_of(volume), mark))
        await _Answer(SOURCE)
        return Epoch(vm, id_, Ns(self.x.now), tuple(marks))

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """The port's: areas of `TELLS` sectors, in which anything differs."""
        await _Answer(SOURCE)
        guest, volume = self._find(disk)
        now = self._part(self._open[epoch.id], guest, volume)
        if since is None:
            start = guest.offset[volume.id]
            new = self.x.platform[guest.vm].ever[start : start + volume.sectors]
            differs = [n for n, ever in enumerate(new) if ever]
        else:
            if since not in self.x.marks:
                self.x.probes.add("a change source had forgotten its mark")
                raise Untrusted("the mark means nothing", place=disk)
            was = self.x.marks[since]
            differs = [n for n in range(volume.sectors) if was[2 * n : 2 * n + 2] != now[2 * n : 2 * n + 2]]
        told = sorted({n // TELLS for n in differs})
        return [Area(n * TELLS * SECTOR, TELLS * SECTOR) for n in told]

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        """The port's."""
        await _Answer(SOURCE)
        guest, volume = self._find(disk)
        part, start = self._part(self._open[epoch.id], guest, volume), area.offset // SECTOR
        return bytes(sector_bytes(part[2 * start : 2 * (start + area.length // SECTOR)]))

    async def end(self, epoch: Epoch) -> None:
        """The port's."""
        if not self.dead:
            await _Answer(SOURCE)
            self._open.pop(epoch.id, None)

    async def forget(self, vm: str, owner: str) -> None:
        """The port's; nobody asks for it here."""
        self.x.marks.clear()

    def _find(self, disk: DiskId) -> tuple[Guest, VolumeInfo]:
        return next((g, v) for g in self.x.guests.values() for v in g.volumes if disk_of(v) == disk)

    def _part(self, held: bytes, guest: Guest, volume: VolumeInfo) -> bytes:
        start = guest.offset[volume.id]
        return held[2 * start : 2 * (start + volume.sectors)]


class Shadow:
    """A file that the VRA taps: one volume of a guest of the explorer."""

    def __init__(self, x: Explorer, guest: Guest, index: int) -> None:
        self._x, self._guest, self._index = x, guest, index
        self._start = guest.offset[guest.volumes[index].id]
        self.size = guest.volumes[index].sectors * SECTOR

    def read(self, offset: int, length: int) -> bytes:
        """The port's."""
        start = self._start + offset // SECTOR
        return bytes(sector_bytes(self._guest.disk[2 * start : 2 * (start + length // SECTOR)]))

    def write(self, writes: list[tuple[int, bytes]]) -> None:
        """The port's."""
        made = []
        for offset, data in writes:
            one = self._guest.issue(self._x.now + 1, self._index, offset // SECTOR, len(data) // SECTOR)
            one.data = sector_stamps(data)
            made.append(one)
        self._x.write(made)


def disk_of(volume: VolumeInfo) -> DiskId:
    """The platform's name of a volume."""
    return DiskId(f"disk {volume.id}")


async def _at_once(call: Callable[..., Any], *args: Any) -> Any:
    return call(*args)


async def _one_by_one(work: Sequence[Coroutine[Any, Any, Epoch]]) -> list[Epoch | BaseException]:
    """Snapshots of several VMs; the adversary makes them as far apart as it likes."""
    results: list[Epoch | BaseException] = []
    try:
        for each in work:
            try:
                results.append(await each)
            except PlatformError as error:
                results.append(error)
    finally:
        for each in work:
            each.close()  # of an epoch that is given up
    return results


class EpochWorld(Explorer):
    """One VPG on one protected VRA, whose VMs are captured by epochs."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        self.platform: dict[VmId, Vm] = {}
        self.marks: dict[str, bytes] = {}  # what a disk held there, of those that the source still knows
        self.taken: list[Snapshots] = []
        self.durable: Kept | None = None  # marks, as they are kept
        self.unwritable = False  # they cannot be, for the time being
        self.taking: Coroutine[str, None, Taken] | None = None  # the epoch under way
        self.waits = WAIT  # what it waits for
        self._snapshots = 0
        super().__init__(shape, trace=trace)
        for vm, guest in self.guests.items():
            self.platform[vm] = Vm(bytearray(len(guest.disk)), bytearray(len(guest.disk) // 2))
        self.name = self.estate.vpgs[0].name
        self.process = [a for a in self.estate.addresses if a.startswith("west/")]
        self._live()

    def _live(self) -> None:
        """A life of the process begins."""
        self.source = Source(self)
        shadows = {
            str(vm): {disk_of(v): Shadow(self, guest, n) for n, v in enumerate(guest.volumes)}
            for vm, guest in self.guests.items()
        }
        process = Process(
            clock=lambda: self.now, aside=_at_once, together=_one_by_one, piece=2 * TELLS * SECTOR, same=SECTOR,
            at_once=3 * SECTOR,
        )  # fmt: skip
        self.epochs = Epochs(self.source, shadows, "drsim", self, self._pause, process)

    # -- the ports: marks and pause ---------------------------------------------------------------------------

    def load(self) -> Kept | None:
        """What was kept last."""
        return self.durable

    def keep(self, kept: Kept) -> None:
        """Keep marks."""
        if self.unwritable:
            self.probes.add("the marks of an epoch could not be written")
            raise PlatformError("no room for the marks", place="west")
        self.durable = kept

    async def _pause(self, on: bool) -> None:
        manager = self.vpg(self.name)
        if on:
            self.probes.add("an epoch was written in several steps")
        self.post(self.estate.managers[self.name], PauseAsked(on or self.name in self.paused))
        while on and (not manager.paused or manager.attempt is not None):
            await _Answer(WAIT)

    def pauses(self, vpg: str) -> bool:
        return self.epochs.paused

    def pause(self, vpg: str, paused: bool) -> None:
        if self.epochs.paused and not paused and not self.healing:
            self.probes.add("an operator let a VPG go on during an epoch")
        super().pause(vpg, paused)

    # -- what the adversary chooses ---------------------------------------------------------------------------

    def change(self, vm: VmId, index: int, lba: int, sectors: int) -> None:
        """A VM writes, and nobody hears of it."""
        self.now += 1
        machine, guest = self.platform[vm], self.guests[vm]
        start = guest.offset[guest.volumes[index].id] + lba
        machine.writes += 1
        machine.disk[2 * start : 2 * (start + sectors)] = machine.writes.to_bytes(2, "little") * sectors
        machine.ever[start : start + sectors] = b"\x01" * sectors
        if self.taking is not None and vm in self.taken[-1].at:
            self.probes.add("a VM wrote between its snapshot and the end of the epoch")

    def snapshot(self, vm: VmId) -> str:
        """The platform takes a snapshot."""
        self._snapshots += 1
        self.taken[-1].at[vm], self.taken[-1].held[vm] = self.now, bytes(self.platform[vm].disk)
        return str(self._snapshots)

    def moved(self, vm: VmId, host: str) -> None:
        """A VM runs on another host, which its platform tells the process, if there is one."""
        if self.down.isdisjoint(self.process):
            self.now += 1
            self.post(self.estate.managers[self.name], VmMoved(vm, host))

    def told(self, address: Address, effect: Unanswered) -> None:
        super().told(address, effect)
        if isinstance(effect, Publish) and isinstance(effect.fact, EpochDue):
            self.probes.add("an epoch was due at once")
            self.begin()

    def begin(self) -> None:
        """An epoch is due."""
        if self.taking is None and self.down.isdisjoint(self.process):
            self.now += 1
            self.taken.append(Snapshots(self.now))
            self.taking = self.epochs.take()
            self._go_on(None)

    def answer(self, *, fail: bool = False) -> None:
        """What the epoch under way waits for comes about, or fails."""
        if self.taking is not None and (not fail or self.waits == SOURCE):
            self.now += 1
            self._go_on(PlatformError("the platform is busy", place="west") if fail else None)

    def _go_on(self, error: PlatformError | None) -> None:
        assert self.taking is not None
        try:
            self.waits = self.taking.send(None) if error is None else self.taking.throw(error)
        except StopIteration as done:
            self.taking = None
            self.post(self.estate.managers[self.name], EpochCaptured(done.value.at))
        except PlatformError:
            self.taking = None
            if self.epochs.unfinished:
                self.probes.add("an epoch failed between its first write and its mark")

    def close(self) -> None:
        """The epoch under way is gone, wherever it was."""
        self.source.dead = True
        if self.taking is not None:
            self.taking.close()
            self.taking = None

    def _die(self) -> None:
        """The process is gone."""
        self.close()
        self._live()
        if self.epochs.unfinished:
            self.probes.add("a process died with shadows of two epochs")

    def halt(self, address: Address, unanswered: int) -> None:
        if address in self.process:
            self.crash(address, unanswered)
        else:
            super().halt(address, unanswered)

    def crash(self, address: Address, unanswered: int) -> None:
        if address not in self.process:
            super().crash(address, unanswered)
        elif address not in self.down:
            self._die()
            for each in self.process:
                super().crash(each, unanswered)

    def boot(self, address: Address) -> None:
        for each in self.process if address in self.process else (address,):
            super().boot(each)

    # -- the explorer's ---------------------------------------------------------------------------------------

    def new_write(self, vm: VmId, index: int, lba: int, sectors: int, *, discard: bool = False) -> Write:
        """What nobody but an epoch writes to a shadow: what is there already."""
        write = super().new_write(vm, index, lba, sectors)
        write.data = write.guest.disk[2 * write.start : 2 * write.stop]
        return write

    def perform(self, address: Address, effect: Effect) -> object:
        value = super().perform(address, effect)
        if isinstance(effect, Keep) and value is None:
            exact(self, effect.checkpoint)
        return value

    def routine(self) -> None:
        """One epoch, undisturbed."""
        self.unwritable = False
        self._undisturbed()
        self.begin()
        self._undisturbed()

    def _undisturbed(self) -> None:
        for _ in range(PATIENCE):
            if self.taking is None:
                return
            if self.waits == WAIT:
                self.drain()
                alarm = self.estate.managers[self.name], DEADLINE
                if self.vpg(self.name).attempt is not None and alarm in self.timers:
                    self.expire(*alarm)
            self.answer()
        raise Violation("P20", f"{self.name}: an epoch waits for ever")


def images_of(x: Explorer, checkpoint: Checkpoint) -> dict[VmId, bytes]:
    """Each VM's disks at a checkpoint."""
    return {
        vm: x.disks[stream].image(vm, upto)
        for stream, cut in checkpoint.cut.items()
        for vm, upto in x.disks[stream].cut_through(cut)
    }


def exact(x: EpochWorld, checkpoint: Checkpoint) -> None:
    """P3, P5, P6, when a checkpoint is listed: its images are the snapshots of one epoch, no older than it says."""
    number, images = checkpoint.id, images_of(x, checkpoint)
    for vm, image in images.items():
        if not any(epoch.held.get(vm) == image for epoch in x.taken):
            said = f"checkpoint {number}: VM {vm}'s disks are as in no snapshot of it"
            raise Violation("P3", said, vpg=checkpoint.vpg, checkpoint=number, vm=vm)
    whole = [epoch for epoch in x.taken if epoch.held == images]
    if not whole:
        said = f"checkpoint {number}: its VMs are of several epochs"
        raise Violation("P5", said, vpg=checkpoint.vpg, checkpoint=number)
    if not any(min(epoch.at.values()) >= checkpoint.taken for epoch in whole):
        at = max(min(epoch.at.values()) for epoch in whole)
        said = f"checkpoint {number} says that it was taken at {checkpoint.taken}, its newest epoch is of {at}"
        raise Violation("P6", said, vpg=checkpoint.vpg, checkpoint=number)
    if any(image != x.platform[vm].disk for vm, image in images.items()):
        x.probes.add("an epoch mattered")
