"""History: what was recorded of any replication system, read, checked and put into columns.

A history holds for each VM its writes and flushes, and for each recovery point what the disks held after its
recovery. All disks of a VM are one space of sectors, one after the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drsim.core.errors import FileError
from drsim.verify.levels import Level
from drsim.verify.oracle import NEVER, Flushes, Int64, Writes
from drsim.verify.records import Checkpoint, Flush, Freeze, Header, Image, Name, Records, Run, Write
from drsim.verify.sectors import Runs, Seen, read_image


@dataclass(frozen=True, slots=True, eq=False)
class VmLog:
    """One VM: its disks as {name: (offset, sectors)} in its space of sectors, and its writes.

    id: of each write, as the history calls it. ordered: whether the writes are in the order in which the disk took
    them; without, they are in the order of their issue, and only their times count.
    """

    name: str
    disks: dict[str, tuple[int, int]]
    id: Int64
    writes: Writes
    ordered: bool

    @property
    def sectors(self) -> int:
        return sum(sectors for _, sectors in self.disks.values())

    def place(self, sector: int) -> tuple[str, int]:
        """Disk and lba of a sector."""
        return next(
            (n, sector - first) for n, (first, length) in self.disks.items() if first <= sector < first + length
        )


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A recovery point: the VMs that it is of, when each was frozen and thawed (ns), and what its disks held."""

    name: str
    time: int | None
    level: Level | None
    vms: tuple[str, ...]
    frozen: dict[str, tuple[int, int]]
    disks: dict[tuple[str, str], Runs]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """All VMs by name, all recovery points in the order of the file."""

    vms: dict[str, VmLog]
    points: tuple[Point, ...]


@dataclass(slots=True)
class _Disk:
    number: int
    sectors: int = 0


@dataclass(slots=True)
class _Vm:
    """What has been read of a VM. Rows begin with the record's place in the file."""

    name: str
    disks: dict[str, _Disk] = field(default_factory=dict)
    rows: list[tuple[int, ...]] = field(default_factory=list)  # place, disk, id, lba, sectors, issue, ack, order, fua
    flushes: list[tuple[int, ...]] = field(default_factory=list)  # issue, ack, disk or -1

    def disk(self, name: Name, sectors: int = 0) -> int:
        disk = self.disks.setdefault(str(name), _Disk(len(self.disks)))
        disk.sectors = max(disk.sectors, sectors)
        return disk.number


def read_history(path: Path) -> History:
    """A history from JSON lines or Parquet. Raises FileError with the place of the first mistake."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path, self.records = path, Records(path)
        self.run: int | None = None
        self.vms: dict[str, _Vm] = {}
        self.checkpoints: dict[str, tuple[int, Checkpoint]] = {}
        self.freezes: list[tuple[int, Freeze]] = []
        self.images: list[tuple[int, Image]] = []

    def wrong(self, number: int, message: str, hint: str = "") -> FileError:
        return FileError(message, place=self.records.place(number), hint=hint)

    def vm(self, name: Name) -> _Vm:
        return self.vms.setdefault(str(name), _Vm(str(name)))

    def read(self) -> History:
        count = 0
        for count, (number, record) in enumerate(self.records, 1):
            match record:
                case Write():
                    self.write(number, record)
                case Flush():
                    self.flush(number, record)
                case Checkpoint():
                    if str(record.name) in self.checkpoints:
                        raise self.wrong(number, f"a second checkpoint is called {str(record.name)!r}")
                    self.checkpoints[str(record.name)] = number, record
                case Freeze():
                    self.freezes.append((number, record))
                case Image():
                    self.images.append((number, record))
                case Header() if count == 1:
                    self.run = record.run
                case Header():
                    raise self.wrong(number, "the record of kind 'history' is not the first")
        if not self.checkpoints:
            raise FileError(
                "there is nothing to judge: the history has no checkpoint", place=str(self.path),
                hint="a history needs records of kinds write, checkpoint and image; `drsim judge --example FILE` "
                "writes one",
            )  # fmt: skip
        points = self.points()
        return History({name: self.log(vm) for name, vm in self.vms.items()}, points)

    # -- what the guests did --------------------------------------------------------------------------------------

    def write(self, number: int, w: Write) -> None:
        vm, ack = self.vm(w.vm), NEVER if w.ack is None else w.ack
        if ack < w.issue:
            raise self.wrong(number, f"the write is acknowledged ({ack}) before it is issued ({w.issue})")
        order, disk = -1 if w.order is None else w.order, vm.disk(w.disk, w.lba + w.sectors)
        vm.rows.append((number, disk, w.id or -1, w.lba, w.sectors, w.issue, ack, order, w.fua))

    def flush(self, number: int, f: Flush) -> None:
        vm, ack = self.vm(f.vm), NEVER if f.ack is None else f.ack
        if ack < f.issue:
            raise self.wrong(number, f"the flush is acknowledged ({ack}) before it is issued ({f.issue})")
        vm.flushes.append((f.issue, ack, -1 if f.disk is None else vm.disk(f.disk)))

    def log(self, vm: _Vm) -> VmLog:
        """A VM's columns in capture order, or in the order of issue."""
        rows = np.array(vm.rows, np.int64).reshape(-1, 9)
        ids, order = rows[:, 2], rows[:, 7]
        if (ids < 0).all():
            ids[:] = np.arange(1, len(rows) + 1)
        self._all_or_none(
            vm, rows, 2, "id", "the others are then known by their position, which may be the same number"
        )
        self._all_or_none(vm, rows, 7, "order", "or leave it out of all: then any order that the times allow is legal")
        ordered = len(rows) > 0 and bool((order >= 0).all())
        self._distinct(vm, rows, 2, "id")
        if ordered:
            self._distinct(vm, rows, 7, "order")
        rows = rows[np.argsort(order if ordered else rows[:, 5], kind="stable")]
        if ordered:
            self._possible(vm, rows)
        sizes = [disk.sectors for disk in vm.disks.values()]
        offset = np.cumsum([0, *sizes])
        start = offset[rows[:, 1]] + rows[:, 3]
        flushes = np.array(vm.flushes, np.int64).reshape(-1, 3)
        every = flushes[:, 2] < 0
        first, last = np.where(every, 0, offset[flushes[:, 2]]), np.where(every, offset[-1], offset[flushes[:, 2] + 1])
        writes = Writes(
            rows[:, 5], rows[:, 6], start, start + rows[:, 4], rows[:, 8] > 0,
            Flushes(flushes[:, 0], flushes[:, 1], first, last),
        )  # fmt: skip
        disks = {name: (int(offset[disk.number]), disk.sectors) for name, disk in vm.disks.items()}
        return VmLog(vm.name, disks, rows[:, 2], writes, ordered)

    def _all_or_none(self, vm: _Vm, rows: Int64, column: int, name: str, hint: str) -> None:
        without = rows[:, column] < 0
        if without.any() and not without.all():
            place = int(rows[without][0, 0])
            raise self.wrong(place, f"this write of VM {vm.name} has no {name}, and others of the VM have one", hint)

    def _distinct(self, vm: _Vm, rows: Int64, column: int, name: str) -> None:
        by = np.argsort(rows[:, column], kind="stable")
        again = by[1:][rows[by[1:], column] == rows[by[:-1], column]]
        if len(again):
            place, value = int(rows[again.min(), 0]), int(rows[again.min(), column])
            raise self.wrong(place, f"a second write of VM {vm.name} has the {name} {value}")

    def _possible(self, vm: _Vm, rows: Int64) -> None:
        """The disk cannot have taken a write before one that had been acknowledged when it was issued."""
        latest = np.maximum.accumulate(rows[:, 5])
        late = np.flatnonzero(rows[1:, 6] < latest[:-1]) + 1
        if len(late):
            w = rows[late[0]]
            u = rows[int(rows[: late[0], 5].argmax())]
            raise self.wrong(
                int(w[0]),
                f"the order puts write {u[2]} of VM {vm.name} before write {w[2]}, which was acknowledged ({w[6]}) "
                f"before write {u[2]} was issued ({u[5]})",
                "order is the order in which the disk took the writes; leave it out if that is not known",
            )

    # -- what was recovered ---------------------------------------------------------------------------------------

    def points(self) -> tuple[Point, ...]:
        frozen = self._frozen()
        disks: dict[str, dict[tuple[str, str], Runs]] = {name: {} for name in self.checkpoints}
        for number, image in self.images:
            key = str(image.vm), str(image.disk)
            into = disks[self._checkpoint(number, image.checkpoint)]
            if key in into:
                raise self.wrong(number, f"a second image of disk {key[1]} of VM {key[0]} at this checkpoint")
            into[key] = runs = self._runs(number, image)
            self.vm(image.vm).disk(image.disk, int((runs.lba + runs.sectors).max(initial=0)))
        found = []
        for name, (number, checkpoint) in self.checkpoints.items():
            said = (str(vm) for vm in checkpoint.vms) if checkpoint.vms is not None else self.vms
            vms = tuple(dict.fromkeys(said))
            for vm in vms:
                if vm not in self.vms:
                    raise self.wrong(
                        number, f"the checkpoint names VM {vm}, of which there is nothing", _known(self.vms)
                    )
            stray = [vm for vm, _ in disks[name] if vm not in vms]
            if stray:
                raise self.wrong(number, f"there is an image of VM {stray[0]}, which the checkpoint does not name")
            level = Level[checkpoint.level] if checkpoint.level else None
            found.append(Point(name, checkpoint.time, level, vms, frozen.get(name, {}), disks[name]))
        return tuple(found)

    def _frozen(self) -> dict[str, dict[str, tuple[int, int]]]:
        frozen: dict[str, dict[str, tuple[int, int]]] = {}
        for number, f in self.freezes:
            if f.thaw < f.freeze:
                raise self.wrong(number, f"the VM is thawed ({f.thaw}) before it is frozen ({f.freeze})")
            into = frozen.setdefault(self._checkpoint(number, f.checkpoint), {})
            if str(f.vm) in into:
                raise self.wrong(number, f"a second freeze of VM {f.vm} for this checkpoint")
            if str(f.vm) not in self.vms:
                raise self.wrong(number, f"VM {f.vm} is frozen, and there is nothing else of it", _known(self.vms))
            into[str(f.vm)] = f.freeze, f.thaw
        return frozen

    def _checkpoint(self, number: int, name: Name) -> str:
        if str(name) not in self.checkpoints:
            raise self.wrong(number, f"no checkpoint is called {str(name)!r}", _known(self.checkpoints))
        return str(name)

    def _runs(self, number: int, image: Image) -> Runs:
        if (image.runs is None) == (image.file is None):
            raise self.wrong(number, "an image needs either runs or file")
        if image.runs is not None:
            return self._given(number, image.runs)
        assert image.file is not None
        if not isinstance(image.vm, int) or not isinstance(image.disk, int):
            raise self.wrong(
                number, "an image by file needs whole numbers for vm and disk", "the sectors themselves carry numbers"
            )
        try:
            return read_image(self.path.parent / image.file, vm=image.vm, disk=image.disk, run=self.run)
        except FileError as error:
            raise self.wrong(number, f"{error.message} ({image.file})", error.hint) from error

    def _given(self, number: int, runs: Iterable[Run]) -> Runs:
        """Runs from (lba, sectors, write) in any order; write None is unknown content."""
        rows = np.array([(lba, n, -1 if w is None else w) for lba, n, w in runs], np.int64).reshape(-1, 3)
        lba, sectors, write = rows[rows[:, 0].argsort(kind="stable")].T
        if (lba[1:] < lba[:-1] + sectors[:-1]).any():
            at = lba[1:][lba[1:] < lba[:-1] + sectors[:-1]][0]
            raise self.wrong(number, f"two runs of the image hold sector {at}")
        seen = np.select([write < 0, write == 0], [int(Seen.UNKNOWN), int(Seen.ZERO)], int(Seen.OURS))
        nothing = np.full(len(lba), -1, np.int64)
        return Runs(lba, sectors, np.maximum(write, 0), seen, nothing, nothing)


def _known(names: Iterable[str]) -> str:
    return f"there are {', '.join(list(names)[:8])}" if names else ""
