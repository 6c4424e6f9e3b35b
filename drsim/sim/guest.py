"""Guests: the writes of VMs as columns, drawn once each, and when a VM's disk has them.

    Writer    one VM: its writes are drawn once, and its disk has each of them once
    Feed      what one VPG gets of a writer: every write, at its own pace
    Tap       the feeds of one stream, merged (`tap.py`)

A VM in several VPGs is one writer with as many feeds. Its datastore serves its writes first come, first served
(Lindley's recursion over the whole column), plus the store's latency.
VMs do not queue behind each other on the protected datastore; the model leaves that contention out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drsim.core.batch import Int32, Int64
from drsim.core.names import VmId, VolumeId
from drsim.core.units import SECOND, SECTOR
from drsim.sim.warp import SlowSpan, Warped, slowed
from drsim.sim.workload import Source
from drsim.spec.model import Datastore

if TYPE_CHECKING:
    from drsim.sim.tap import Tap


@dataclass(frozen=True, slots=True)
class GuestVm:
    """One VM's writes: its number, its volumes' numbers, its disk, its source of writes and their mean rate.

    `slow`: when its disk is slower than usual.
    """

    vm: VmId
    volumes: tuple[VolumeId, ...]
    store: Datastore
    source: Source
    rate: float
    compress_to: float
    slow: tuple[SlowSpan, ...] = ()


class Rows(NamedTuple):
    """Writes of one VM in order, as columns, with the times of their acknowledgement."""

    volume: Int32
    lba: Int64
    sectors: Int32
    issued: Int64
    acked: Int64

    def part(self, some: "slice | NDArray[np.bool_]") -> "Rows":
        """Some of them."""
        return Rows(self.volume[some], self.lba[some], self.sectors[some], self.issued[some], self.acked[some])

    @staticmethod
    def join(parts: "Sequence[Rows]") -> "Rows":
        """All of them, one part after another."""
        if len(parts) == 1:
            return parts[0]
        return Rows(
            np.concatenate([p.volume for p in parts]),
            np.concatenate([p.lba for p in parts]),
            np.concatenate([p.sectors for p in parts]),
            np.concatenate([p.issued for p in parts]),
            np.concatenate([p.acked for p in parts]),
        )


_INT32, _INT64 = np.zeros(0, np.int32), np.zeros(0, np.int64)
NO_ROWS = Rows(_INT32, _INT64, _INT32, _INT64, _INT64)


class Writer:
    """One VM's writes and when its disk has them, drawn once for all its `feeds`, which are there from the start."""

    def __init__(self, guest: GuestVm) -> None:
        self.guest = guest
        self.feeds: list[Feed] = []
        self._numbers = np.asarray(guest.volumes, np.int32)
        self._free_at = 0
        self._drawn = -1
        self._slow: list[Int64] = []  # times of writes that a slow datastore acknowledged later

    def draw(self, until: int) -> None:
        """Give every feed the writes up to and including this instant that were not drawn."""
        if until <= self._drawn:
            return
        self._drawn = until
        drawn = self.guest.source.take(until)
        acked = self._acknowledge(drawn.issued, drawn.sectors)
        rows = Rows(self._numbers[drawn.volume], drawn.lba, drawn.sectors, drawn.issued, acked)
        for feed in self.feeds:
            feed.drawn.append(rows)

    @property
    def held_since(self) -> int | None:
        """Since when nothing is acknowledged: since the first of its taps was held that still is."""
        held = [feed.tap.held_since for feed in self.feeds if feed.tap is not None]
        return min((since for since in held if since is not None), default=None)

    def _acknowledge(self, issued: Int64, sectors: Int32) -> Int64:
        store = self.guest.store
        service = np.maximum(SECOND / store.iops, sectors * (SECTOR * 8 * SECOND / store.bandwidth)).astype(np.int64)
        latency: int | Int64 = store.latency
        if self.guest.slow:
            service, latency = slowed(self.guest.slow, issued, sectors, store)
            self._slow += [issued[(issued >= s.begin) & (issued < s.end)] for s in self.guest.slow]
        total = np.cumsum(service)
        starts = np.maximum.accumulate(np.maximum(issued, self._free_at) - (total - service))
        done = starts + total
        if len(done):
            self._free_at = int(done[-1])
        return np.asarray(done + latency, np.int64)

    def changed(self, until: int) -> Counter[str]:
        """How many writes up to an instant were changed by faults of the guest, by kind."""
        found: Counter[str] = Counter()
        if isinstance(self.guest.source, Warped):
            found.update(self.guest.source.changed(until))
        if self._slow:
            found["datastore-slow"] = sum(int(np.searchsorted(times, until, side="right")) for times in self._slow)
        return found


class Feed:
    """A VM's writes for one VPG, whichever tap has them: what a tap has drawn too much can be put back.

    `drawn`: rows in order that were not taken. `tap`: where it is now.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer, self.guest = writer, writer.guest
        self.drawn: list[Rows] = []
        self.tap: Tap | None = None
        writer.feeds.append(self)

    def take(self, until: int) -> Rows:
        """The writes up to and including this instant that were not taken, or were put back."""
        self.writer.draw(until)
        if not self.drawn:
            return NO_ROWS
        rows = Rows.join(self.drawn)
        n = int(np.searchsorted(rows.issued, until, side="right"))
        self.drawn = [rows.part(slice(n, None))] if n < len(rows.issued) else []
        return rows.part(slice(n)) if self.drawn else rows

    def put_back(self, rows: Rows) -> None:
        """These were taken and are not issued yet; they come before all that was not taken."""
        if len(rows.issued):
            self.drawn.insert(0, rows)
