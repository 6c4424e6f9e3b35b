"""Judge: which recovery points of a recorded history are consistent, and why the others are not.

Theory of operation. Disks may be huge and what is written on them little, so sectors are gathered into *cells*: the
pieces between any two places where a write or a run of an image begins or ends. Inside a cell all sectors have one
history, so the oracle judges cells as if they were sectors, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drsim.verify.history import History, Point, VmLog, read_history
from drsim.verify.levels import Image, Judgement, Kind, Level, Witness, judge_group, reached
from drsim.verify.oracle import FOREIGN, Flushes, Int64, Truth, Writes
from drsim.verify.sectors import Runs, Seen
from drsim.verify.words import Said, Sentence, epoch, place_said, write_said


@dataclass(frozen=True, slots=True)
class Loss:
    """What a point lacks of all that was acknowledged before its time: `writes`, the first of them `ns` before it."""

    ns: int
    writes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of a recovery point.

    level: what it must reach. reached: all levels that it reaches. cut: {vm: (writes in it, writes of the VM)}, None
    when no VM's content is a past state. ahead_ns: how long after the point's time the latest of its writes was
    issued, 0 when none was. reason: why it does not reach `level`, in a sentence; witness: the same, to be checked.
    """

    name: str
    time: int | None
    level: Level
    reached: tuple[Level, ...]
    cut: dict[str, tuple[int, int]] | None
    loss: Loss | None
    ahead_ns: int
    witness: Said | None
    reason: str

    @property
    def ok(self) -> bool:
        return self.witness is None


def judge(history: History | Path, level: Level | None = None) -> tuple[Verdict, ...]:
    """A verdict for every recovery point, in the order of the history.

    Each point must reach `level`; without one, the level that it claims, and L2 if it claims none. Raises FileError.
    """
    if isinstance(history, Path):
        history = read_history(history)
    vms = {name: _Vm(log, [p for p in history.points if name in p.vms]) for name, log in history.vms.items()}
    sentence = Sentence(epoch(history))
    return tuple(_verdict(p, level, vms, sentence) for p in history.points)


def document(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts as plain values for JSON. Times in ns; fields are only ever added."""
    return {
        "version": 1,
        "consistent": all(v.ok for v in verdicts),
        "points": [
            {
                "name": v.name,
                "time_ns": v.time,
                "consistent": v.ok,
                "level": v.level.name,
                "reached": [level.name for level in v.reached],
                "cut": v.cut and {vm: {"writes": k, "of": n} for vm, (k, n) in v.cut.items()},
                "loss": v.loss and {"ns": v.loss.ns, "writes": v.loss.writes},
                "ahead_ns": v.ahead_ns,
                "reason": v.reason or None,
                "witness": v.witness,
            }
            for v in verdicts
        ],
    }


class _Vm:
    """A VM in cells: `edges` are the sectors where they begin, and the end of the last.

    Invariant: no cell reaches over two disks; each disk ends with its last write or run.
    """

    def __init__(self, log: VmLog, points: Sequence[Point]) -> None:
        self.log = log
        w, f = log.writes, log.writes.flushes
        marks = [np.array([0, log.sectors]), w.start, w.stop, f.start, f.stop]
        for point in points:
            for disk, (offset, _) in log.disks.items():
                runs = point.disks.get((log.name, disk))
                if runs is not None:
                    marks += [runs.lba + offset, runs.lba + runs.sectors + offset]
        self.edges: Int64 = np.unique(np.concatenate(marks))
        flushes = Flushes(f.issue, f.ack, self.cells(f.start), self.cells(f.stop))
        cells = Writes(w.issue, w.ack, self.cells(w.start), self.cells(w.stop), w.fua, flushes)
        self.truth = Truth(cells, len(self.edges) - 1, ordered=log.ordered)
        self._by_id = np.argsort(log.id)

    @property
    def flushes(self) -> bool:
        """Whether anything tells what its disks had to keep when the power goes."""
        w = self.log.writes
        return bool(len(w.flushes.issue)) or (w.fua is not None and bool(w.fua.any()))

    def cells(self, sectors: Int64) -> Int64:
        """The cells that begin at sectors."""
        return np.searchsorted(self.edges, sectors).astype(np.int64)

    def image(self, point: Point) -> Image:
        """What the disks held. A sector that no run mentions holds what it held at first."""
        ver = np.zeros(self.truth.sectors, np.int64)
        for disk, (offset, _) in self.log.disks.items():
            runs = point.disks[self.log.name, disk]
            first, last = self.cells(runs.lba + offset), self.cells(runs.lba + runs.sectors + offset)
            lengths = last - first
            at = np.repeat(first - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
            ver[at] = np.repeat(self.numbers(runs, offset), lengths)
        return Image(self.truth, ver, point.frozen.get(self.log.name))

    def numbers(self, runs: Runs, offset: int) -> Int64:
        """Which write of the log each run is of: 0 for initial content, FOREIGN for what the log does not explain."""
        log, n = self.log, len(self.log.id)
        found = np.full(len(runs.lba), FOREIGN, np.int64)
        found[runs.seen == Seen.ZERO] = 0
        if n:
            rank = np.searchsorted(log.id, runs.write, sorter=self._by_id).clip(max=n - 1)
            index = self._by_id[rank]
            says = (runs.start < 0) | (
                (runs.start + offset == log.writes.start[index])
                & (runs.length == log.writes.stop[index] - log.writes.start[index])
            )
            ours = (runs.seen == Seen.OURS) & (log.id[index] == runs.write) & says
            found[ours] = index[ours] + 1
        return found


def _verdict(point: Point, level: Level | None, vms: dict[str, _Vm], sentence: Sentence) -> Verdict:
    wanted = level if level is not None else point.level if point.level is not None else Level.L2
    lacking = [(vm, disk) for vm in point.vms for disk in vms[vm].log.disks if (vm, disk) not in point.disks]
    if lacking:
        vm, disk = lacking[0]
        said: Said = {"kind": Kind.INCOMPLETE.value, "at": {"vm": vm, "disk": disk}}
        return Verdict(point.name, point.time, wanted, (), None, None, 0, said, sentence.of(said))
    members = [vms[vm] for vm in point.vms]
    images = [vm.image(point) for vm in members]
    levels, witness = reached(images), judge_group(images, wanted).witness
    if Level.L2 not in levels and not any(vm.flushes for vm in members):
        levels = tuple(each for each in levels if each is not Level.L1)
        witness = Witness(Kind.UNTOLD) if wanted is Level.L1 and witness is None else witness
    cut, loss, ahead = None, None, 0
    best = judge_group(images, Level.L2 if Level.L2 in levels else Level.L0)
    if best.ok:
        cut = {vm.log.name: (k, len(vm.truth)) for vm, k in zip(members, best.cut, strict=True)}
        if point.time is not None:
            loss, ahead = _loss(images, best, point.time), max(0, best.latest - point.time)
    if witness is None:
        return Verdict(point.name, point.time, wanted, levels, cut, loss, ahead, None, "")
    said = _said(point, members, witness)
    return Verdict(point.name, point.time, wanted, levels, cut, loss, ahead, said, sentence.of(said))


def _loss(images: Sequence[Image], best: Judgement, time: int) -> Loss:
    acks = [np.zeros(0, np.int64)]
    for image, k in zip(images, best.cut, strict=True):
        ack = image.truth.writes.ack
        acks.append(ack[~image.inside(k, best.latest) & (ack < time)])
    lost = np.concatenate(acks)
    return Loss(time - int(lost.min(initial=time)), len(lost))


def _said(point: Point, members: Sequence[_Vm], witness: Witness) -> Said:
    """A witness in the terms of the history."""
    said: Said = {"kind": witness.kind.value}
    for name, ref in (("missing", witness.missing), ("present", witness.present)):
        if ref is not None:
            said[name] = write_said(members[ref[0]].log, ref[1])
    if witness.at is not None:
        vm = members[witness.at[0]]
        said["at"] = place_said(point, vm.log, int(vm.edges[witness.at[1]]))
    ref = witness.missing or witness.present
    if witness.kind is Kind.FREEZE and ref is not None:
        said["freeze_ns"], said["thaw_ns"] = point.frozen.get(members[ref[0]].log.name, (None, None))
    return said
