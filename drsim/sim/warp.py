"""Warp: faults of guests as a change of their time. A burst is a faster clock, a pause one that stands still.

Theory of operation. A timeline is known before the run begins, so a guest's faults are pieces of time, in each of which
its own clock has one speed; its source is asked for writes by that clock, and knows nothing of it. While a guest is off
its clock goes on and its writes are thrown away: its users do not come back to do them again.

    fault                                        the guest's clock   its writes
    -------------------------------------------  ------------------  ----------
    guest-burst                                  `factor` as fast    as they come
    guest-pause; its datastore is gone or hangs  stands still        later
    guest-crash; its host is lost                goes on             never
    (a disk of it is detached or removed)        goes on             to this disk never

Speeds are thousandths and times integers, so what a source gives does not depend on how the time is cut:
Invariant: take(b) == take(a) + take(b) for every a < b, exactly.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from drsim.core.units import SECOND, SECTOR
from drsim.sim.places import Int32, Int64
from drsim.sim.workload import NOTHING, Source, Writes
from drsim.spec.faults import (
    DatastoreGone,
    DatastoreHung,
    DatastoreReadOnly,
    DatastoreSlow,
    Fault,
    GuestBurst,
    GuestCrash,
    GuestPause,
    HostLoss,
)  # fmt: skip
from drsim.spec.model import Datastore

NORMAL = 1000
FOREVER = int(np.iinfo(np.int64).max)


class Span(NamedTuple):
    """One fault of one guest, from `begin` to `end`: its clock has `speed` thousandths, or it is `off`."""

    kind: str
    begin: int
    end: int
    speed: int = NORMAL
    off: bool = False


class Absent(NamedTuple):
    """A disk of a guest, by its index, is not there from `begin` to `end`."""

    volume: int
    begin: int
    end: int


class SlowSpan(NamedTuple):
    """A guest's datastore is slow: times its latency, share of its I/Os and of its bandwidth that is left."""

    begin: int
    end: int
    latency: float
    iops: float
    bandwidth: float


def spans(
    faults: Iterable[Fault], *, group: str, host_at: Callable[[int], str], datastore: str
) -> tuple[list[Span], tuple[SlowSpan, ...]]:
    """What a timeline does to one guest of a model's VM, on this datastore. `host_at`: where it runs at an instant."""
    found: list[Span] = []
    slow: list[SlowSpan] = []
    for fault in faults:
        end = fault.at + getattr(fault, "lasts", 0)
        match fault:
            case GuestBurst(vm=vm, factor=factor) if vm == group:
                found.append(Span(fault.kind, fault.at, end, speed=round(factor * NORMAL)))
            case GuestPause(vm=vm) if vm == group:
                found.append(Span(fault.kind, fault.at, end, speed=0))
            case GuestCrash(vm=vm) if vm == group:
                found.append(Span(fault.kind, fault.at, end, off=True))
            case HostLoss(host=lost, restart=restart) if lost == host_at(fault.at):
                end = end if restart is None else min(end, fault.at + restart.after)
                found.append(Span(fault.kind, fault.at, end, off=True))
            case DatastoreGone() | DatastoreHung() | DatastoreReadOnly() if fault.datastore == datastore:
                found.append(Span(fault.kind, fault.at, end, speed=0))
            case DatastoreSlow() if fault.datastore == datastore:
                slow.append(SlowSpan(fault.at, end, fault.latency, fault.iops, fault.bandwidth))
    return found, tuple(slow)


class _Piece(NamedTuple):
    """From `begin` (not included) to `end`: the guest's clock shows `local` at the begin and has `speed`."""

    begin: int
    end: int
    local: int
    speed: int
    off: bool
    kinds: tuple[str, ...]  # whose writes these are
    late: tuple[tuple[str, int], ...]  # faults that made writes late, and up to which local time

    def shown(self, time: int) -> int:
        """The guest's clock at an instant of this piece."""
        return self.local + (time - self.begin) * self.speed // NORMAL

    def happened(self, local: Int64) -> Int64:
        """When the guest's clock showed these times."""
        if self.speed == NORMAL:
            return local + (self.begin - self.local)
        return np.asarray(self.begin - (self.local - local) * NORMAL // self.speed, np.int64)


def _pieces(found: Sequence[Span]) -> list[_Piece]:
    edges = sorted({0, *(span.begin for span in found), *(span.end for span in found), FOREVER})
    pieces: list[_Piece] = []
    local, late = 0, []
    for begin, end in pairwise(edges):
        now = [span for span in found if span.begin <= begin < span.end]
        off, speed = any(span.off for span in now), NORMAL
        for span in now:
            speed = speed * span.speed // NORMAL
        if not speed:
            late += [(span.kind, local + end - begin) for span in now if not span.speed]
        kinds = tuple(span.kind for span in now if (span.off if off else span.speed not in (0, NORMAL)))
        pieces.append(_Piece(begin, end, local, speed, off, kinds, tuple(late)))
        local = pieces[-1].shown(end) if end < FOREVER else local
    return pieces


class Warped:
    """A source whose guest suffers faults, or loses disks."""

    def __init__(self, source: Source, found: Sequence[Span], absent: Sequence[Absent] = ()) -> None:
        self._source, self._pieces, self._at = source, _pieces(found), 0
        self._absent = tuple(absent)
        self._changed: list[tuple[str, Int64]] = []  # kind of the fault, times of writes that it changed

    def take(self, until: int) -> Writes:
        """See `Source`."""
        taken: list[Writes] = []
        while True:
            piece = self._pieces[self._at]
            if piece.speed:
                taken.append(self._take(piece, min(until, piece.end)))
            if until <= piece.end:
                return self._present(Writes.join([part for part in taken if len(part.issued)] or [NOTHING]))
            self._at += 1

    def _take(self, piece: _Piece, until: int) -> Writes:
        writes = self._source.take(piece.shown(until))
        local = writes.issued
        issued = piece.happened(local)
        for kind in piece.kinds:
            self._changed.append((kind, issued))
        for kind, upto in piece.late:
            if len(local) and local[0] <= upto:
                self._changed.append((kind, issued[local <= upto]))
        return NOTHING if piece.off else writes._replace(issued=issued)

    def _present(self, writes: Writes) -> Writes:
        """Without those to disks that are not there."""
        for volume, begin, end in self._absent:
            lost = (writes.volume == volume) & (writes.issued > begin) & (writes.issued <= end)
            if lost.any():
                writes = Writes(*(column[~lost] for column in writes))
        return writes

    def changed(self, until: int) -> Counter[str]:
        """How many writes up to an instant the faults changed, by kind: more, later or never."""
        found: Counter[str] = Counter()
        for kind, times in self._changed:
            found[kind] += int(np.searchsorted(times, until, side="right"))
        return found


def slowed(slow: Sequence[SlowSpan], issued: Int64, sectors: Int32, store: Datastore) -> tuple[Int64, Int64]:
    """How long a slow datastore is occupied by writes of these instants, and their latency, in nanoseconds."""
    iops = np.full(len(issued), store.iops)
    bandwidth = np.full(len(issued), float(store.bandwidth))
    latency = np.full(len(issued), float(store.latency))
    for span in slow:
        inside = slice(*np.searchsorted(issued, [span.begin, span.end]))
        iops[inside] *= span.iops
        bandwidth[inside] *= span.bandwidth
        latency[inside] *= span.latency
    service = np.maximum(SECOND / iops, sectors * (SECTOR * 8 * SECOND / bandwidth)).astype(np.int64)
    return service, latency.astype(np.int64)
