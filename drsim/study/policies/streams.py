"""Policies that send every write in order: journals, crash points, mirrors, log shipping.

They differ in what makes a point in time, and in what happens when writes come faster than they leave:

    wait       guests wait until there is room (a mirror without pull-ahead; synchronous replication always waits)
    bitmap     writes are only marked, the marked pages are swept, and until the sweep is over there is no new point
               (a VRA's buffer, PROTOCOL 4; a mirror that pulls ahead, which is inconsistent meanwhile)
    log        the log grows at the source, and the copy becomes older, never wrong
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from drsim.core.measure import Teeth
from drsim.core.units import SECOND
from drsim.study.policies.base import Int64, Load, Policy, Protection, Wan

MIB = 1 << 20
DAY = 86400 * SECOND
VRA_BUFFER = int(0.9 * (1024 * 3 - 563)) * MIB
"""Of a VRA with 3 GiB (products.md 1.6, G9)."""
NEARLY = 2 * SECOND
"""A sweep that would be over in so little time is the last one: what is written meanwhile fits the buffer."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """left: int64[writes], when each write has left. swept: spans (begin, end) in which pages were swept instead."""

    left: Int64
    swept: tuple[tuple[int, int], ...]
    sent: float


def ship(load: Load, wan: Wan, buffer: float) -> Shipped:
    """Send every write; whenever more than `buffer` bytes wait, mark pages and sweep them until that is caught up with.

    What waits in the buffer when it is full is marked, too. A sweep sends the pages that were marked before it began.
    """
    left = np.zeros(len(load.at), np.int64)
    spans: list[tuple[int, int]] = []
    first, free, sent = 0, 0, 0.0
    while first < len(left):
        rest = slice(first, None)
        left[rest] = wan.capacity.sent(load.at[rest], load.nbytes[rest], free)
        gone = np.searchsorted(left[rest], load.at[rest], side="right")  # writes of the rest that have left by then
        waiting = load.total[first + 1 :] - load.total[first + gone]
        full = np.flatnonzero(waiting > buffer)
        if not len(full):
            sent += float(load.nbytes[rest].sum())
            break
        n = first + int(full[0])
        begin = int(load.at[n])
        away = first + int(gone[full[0]])
        sent += float(load.total[away] - load.total[first])
        read, over, swept = _sweep(load, wan, int(load.at[away]), begin)
        spans.append((begin, over))
        sent += swept
        first, free = load.before(read), over
        left[away:first] = over
    return Shipped(left, tuple(spans), sent)


def _sweep(load: Load, wan: Wan, since: int, now: int) -> tuple[int, int, float]:
    """Sweep after sweep, until one is nearly nothing or the load is over: when the last began and ended; bytes sent."""
    sent = 0.0
    while True:
        now = wan.capacity.over(now, 1)  # pages are read when they can be sent, not while the link is down
        marked = load.unique(since, now)
        over = wan.capacity.over(now, marked)
        sent += marked
        if over - now <= NEARLY or over >= load.end:
            return now, over, sent
        since, now = now, over


def lag(load: Load, acked: Int64, there: Int64) -> Teeth:
    """What a mirror would lose: from when each write is acknowledged until it and all before it are there."""
    there = np.maximum.accumulate(there)
    start = np.maximum(acked, np.concatenate(([0], there[:-1])))
    end = np.minimum(there, load.end)
    some = end > start
    return Teeth(start[some], end[some], acked[some])


def grid(every: int, end: int) -> Int64:
    """0, every, 2 every ... before `end`, ns."""
    return np.arange(0, end, every, dtype=np.int64)


def points(load: Load, wan: Wan, shipped: Shipped, every: int) -> tuple[Int64, Int64]:
    """Points on a grid, as (shows, ready): when all before them is there; none while pages are swept."""
    shows = grid(every, load.end)
    for begin, over in shipped.swept:
        shows = shows[(shows < begin) | (shows >= over)]
    before = np.searchsorted(load.at, shows, side="left")
    arrived = np.concatenate(([0], np.maximum.accumulate(shipped.left)))[before]
    return shows, np.maximum(shows, arrived) + wan.latency


@dataclass(frozen=True, slots=True)
class Journal(Policy):
    """Every write by a journal, a checkpoint every few seconds: PROTOCOL, as arithmetic."""

    name: ClassVar[str] = "journal"
    source: ClassVar[str] = "PROTOCOL: 3, 4; products.md 1.3, 1.6"
    interval: int = 5 * SECOND
    history: int = DAY
    buffer: float = VRA_BUFFER

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        shipped = ship(load, wan, self.buffer)
        shows, ready = points(load, wan, shipped, self.interval)
        return Protection.of_points(
            shows, ready, load, sent=shipped.sent, storage=load.most_within(self.history),
            points=min(len(shows), self.history // self.interval),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CrashPoints(Journal):
    """The same with a crash-consistent point every five minutes, and what waits on disk."""

    name: ClassVar[str] = "5-min crash points"
    source: ClassVar[str] = "Azure Site Recovery: products.md 2.1, 2.2"
    interval: int = 300 * SECOND
    buffer: float = np.inf


class _Mirror(Policy):
    """A copy that follows; one can go back to nothing but its latest state."""

    def _follow(self, load: Load, wan: Wan, acked: Int64, shipped: Shipped) -> Protection:
        teeth = lag(load, acked, shipped.left + wan.latency)
        return Protection(teeth, load.end, shipped.sent, 0.0, 1, waited=float((acked - load.at).sum()))


@dataclass(frozen=True, slots=True)
class JournalMirror(_Mirror):
    """The source's own journal is read by the other side, which replays it; it grows when the link is slow."""

    name: ClassVar[str] = "journal mirroring"
    source: ClassVar[str] = "RBD journaling: products.md 2.1"

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        return self._follow(load, wan, load.at, ship(load, wan, np.inf))


@dataclass(frozen=True, slots=True)
class Synchronous(_Mirror):
    """A write is acknowledged when the other side has it, so nothing is ever lost and guests wait for the link."""

    name: ClassVar[str] = "synchronous"
    source: ClassVar[str] = "DRBD protocol C: products.md 2.1, 3.2 form 10"

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        shipped = ship(load, wan, np.inf)
        return self._follow(load, wan, shipped.left + 2 * wan.latency, shipped)


@dataclass(frozen=True, slots=True)
class Asynchronous(_Mirror):
    """A write is acknowledged when it fits the send buffer; when that is full, guests wait."""

    name: ClassVar[str] = "asynchronous"
    source: ClassVar[str] = "DRBD protocol A, proxy: products.md 2.1"
    buffer: float = 1 << 30

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        shipped = ship(load, wan, np.inf)
        # There is room for a write when what is before it and does not fit beside it has left.
        fits = np.searchsorted(load.total[1:], load.total[1:] - self.buffer, side="left")
        room = np.concatenate(([0], shipped.left))[fits]
        return self._follow(load, wan, np.maximum(load.at, room), shipped)


@dataclass(frozen=True, slots=True)
class PullAhead(_Mirror):
    """As `Asynchronous`, but when the buffer is nearly full the source goes ahead and only marks; the copy is

    inconsistent until it has caught up, so all that was ever written is at stake then.
    """

    name: ClassVar[str] = "asynchronous, pull-ahead"
    source: ClassVar[str] = "DRBD pull-ahead at 90 %: products.md 2.1"
    buffer: float = 0.9 * (1 << 30)

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        shipped = ship(load, wan, self.buffer)
        plain = self._follow(load, wan, load.at, shipped)
        start, end, taken = plain.teeth.start, plain.teeth.end, plain.teeth.taken
        kept = [np.ones(len(start), bool)]
        kept += [(end <= begin) | (start >= over) for begin, over in shipped.swept]
        outside = np.logical_and.reduce(kept)
        spans = [(begin, min(over, load.end)) for begin, over in shipped.swept if begin < load.end]
        begins, overs = (np.array(each, np.int64) for each in zip(*spans, strict=True)) if spans else (start[:0],) * 2
        teeth = Teeth(
            np.concatenate((start[outside], begins)), np.concatenate((end[outside], overs)),
            np.concatenate((taken[outside], np.zeros_like(begins))),
        )  # fmt: skip
        return Protection(teeth, load.end, shipped.sent, 0.0, 1)


@dataclass(frozen=True, slots=True)
class AnytimeLogs(_Mirror):
    """Transaction logs that the other side replays: under pressure it is older, never inconsistent.

    Only when the space for logs (100 GB or more) is full must everything be copied anew; until then nothing of the
    old copy is given up.
    """

    name: ClassVar[str] = "anytime logs"
    source: ClassVar[str] = "MARS: products.md 2.1"
    space: float = 100e9

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        shipped = ship(load, wan, self.space)
        followed = self._follow(load, wan, load.at, shipped)
        waiting = load.total[1:] - load.total[np.searchsorted(shipped.left, load.at, side="right")]
        return Protection(followed.teeth, load.end, shipped.sent, float(waiting.max(initial=0)), 1)


@dataclass(frozen=True, slots=True)
class LogShipping(Policy):
    """A log of all writes is closed every so often, sent, and applied there; hourly points are kept for a day."""

    every: int
    source: ClassVar[str] = "Hyper-V Replica: products.md 2.1"
    POINTS: ClassVar[int] = 24

    @property
    def name(self) -> str:  # type: ignore[override]
        """With its interval."""
        seconds = self.every // SECOND
        return f"log shipping, {seconds} s" if seconds < 60 else f"log shipping, {seconds // 60} min"

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        closed = grid(self.every, load.end)[1:]
        before = np.searchsorted(load.at, closed, side="left")
        nbytes = np.diff(load.total[before], prepend=0)
        ready = wan.capacity.sent(closed, nbytes) + wan.latency
        storage = load.most_within(self.POINTS * 3600 * SECOND)
        return Protection.of_points(
            closed, ready, load, sent=float(nbytes.sum()), storage=storage, points=self.POINTS + 1
        )
