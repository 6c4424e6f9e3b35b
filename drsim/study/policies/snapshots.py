"""Policies that send what has changed between two snapshots, and how a recovery point objective is kept by them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from drsim.core.units import SECOND
from drsim.study.policies.base import Int64, Load, Policy, Protection, Wan

MINUTE = 60 * SECOND
DAY = 86400 * SECOND
LAST = 3
"""Transfer times of so many syncs are looked at to predict the next one; our choice for the field's "last few"."""


def scheduled(rpo: int, transfer: Callable[[int, int], int], end: int) -> tuple[Int64, Int64]:
    """When syncs of a recovery point objective begin and are over, ns: (shows, ready).

    transfer(since, begin): how long a sync takes that begins then, the one before it at `since` (-1: none). An instance
    shows the source as of when its sync began. The next one must be over before that is `rpo` old, so it begins at the
    latest so long before as the longest of the last few took; at once when that is past (products.md 2.2).
    """
    shows, ready, took = [0], [transfer(-1, 0)], []
    took.append(ready[0])
    while True:
        begin = max(ready[-1], shows[-1] + rpo - max(took[-LAST:]))
        if begin >= end:
            return np.array(shows, np.int64), np.array(ready, np.int64)
        took.append(transfer(shows[-1], begin))
        shows.append(begin)
        ready.append(begin + took[-1])


def retained(shows: Int64, *, per_day: int, days: int, now: int) -> Int64:
    """Which instances are kept: the latest, and of each of the last `days` days the last one of each of `per_day`

    equal parts (products.md 3.3, G6).
    """
    part = DAY // per_day
    slots = shows // part
    last = np.append(slots[1:] != slots[:-1], [False])  # of its part, the parts that are over
    kept = last & (slots > now // part - 1 - per_day * days)
    kept[-1] = True
    return shows[kept]


def _changes(load: Load, wan: Wan) -> tuple[Callable[[int, int], int], list[int]]:
    """How long the changes between two instants take, and what was sent."""
    sent: list[int] = []

    def transfer(since: int, begin: int) -> int:
        sent.append(load.unique(since, begin) if since >= 0 else 0)
        return wan.capacity.over(begin, sent[-1]) - begin + wan.latency

    return transfer, sent


@dataclass(frozen=True, slots=True)
class PeriodicSnapshots(Policy):
    """A sync whenever the recovery point objective needs one; some instances a day are kept."""

    name: ClassVar[str] = "periodic snapshots"
    source: ClassVar[str] = "vSphere Replication: products.md 2.1, 2.2, G1-G6"
    rpo: int = 15 * MINUTE
    per_day: int = 3
    days: int = 5

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        transfer, sent = _changes(load, wan)
        shows, ready = scheduled(self.rpo, transfer, load.end)
        kept = retained(shows, per_day=self.per_day, days=self.days, now=load.end)
        return Protection.of_points(
            shows, ready, load, sent=float(sum(sent)), storage=_between(load, kept), points=len(kept)
        )


@dataclass(frozen=True, slots=True)
class SnapshotMirror(Policy):
    """A snapshot on a schedule, and its difference from the one before; one that would overtake waits its turn."""

    name: ClassVar[str] = "snapshot mirroring"
    source: ClassVar[str] = "RBD mirror snapshots: products.md 2.1, G15"
    every: int = 5 * MINUTE

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        transfer, sent = _changes(load, wan)
        shows, ready = [0], [0]
        while True:
            begin = -(-max(ready[-1], shows[-1] + 1) // self.every) * self.every
            if begin >= load.end:
                break
            ready.append(begin + transfer(shows[-1], begin))
            shows.append(begin)
        return Protection.of_points(
            np.array(shows), np.array(ready), load, sent=float(sum(sent)), storage=float(max(sent, default=0)), points=1
        )


def _between(load: Load, shows: Int64) -> float:
    """Bytes that the older of these instances need beside the latest: what was written over since each."""
    return float(sum(load.unique(a, b) for a, b in pairwise(shows.tolist())))
