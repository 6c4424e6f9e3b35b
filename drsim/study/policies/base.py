"""Policies: what a way to protect data gives for a load over a link: points in time, bytes sent, storage, waiting.

A policy sees a `Load`, the writes of what is protected together, and a `Capacity`, the bytes that the link can carry by
any instant; it gives a `Protection`. Nothing is random here. Sending is first in, first out, and exact for a whole
column: in the coordinates of the capacity it is Lindley's recursion, a running maximum plus a running sum.

RPO is the age of what would be lost, never a product's own claim. With points in time it is t less what the newest one
shows; without (a mirror that follows its source) it is the age of the oldest write that is acknowledged and not there,
and nothing at all while there is none.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from drsim.core.measure import Teeth
from drsim.core.units import SECOND

Int64 = NDArray[np.int64]
Float = NDArray[np.float64]
LATER = 10 * 366 * 86400 * SECOND
"""After the end of every run, ns."""


@dataclass(frozen=True, eq=False)
class Load:
    """Writes of what is protected together, in time order, and the pages that each of them touches.

    at, nbytes: int64[writes], ns and bytes. touched, page: int64[rows], a row for each page of each write: when, and
    the page's number. A page is `page_bytes` long; the load ends at `end`, ns.
    """

    at: Int64
    nbytes: Int64
    touched: Int64
    page: Int64
    page_bytes: int
    end: int

    @cached_property
    def total(self) -> Int64:
        """int64[writes + 1], bytes of all writes before each one, and of all."""
        return np.concatenate(([0], np.cumsum(self.nbytes)))

    def before(self, time: int) -> int:
        """How many writes there were before an instant."""
        return int(np.searchsorted(self.at, time, side="left"))

    def written(self, since: int, until: int) -> int:
        """Bytes written from `since` up to, not including, `until`."""
        return int(self.total[self.before(until)] - self.total[self.before(since)])

    def unique(self, since: int, until: int) -> int:
        """Distinct bytes written from `since` up to, not including, `until`, in whole pages."""
        low, high = np.searchsorted(self.touched, (since, until), side="left")
        pages = np.sort(self.page[low:high])  # NumPy's own `unique` goes by a hash table, several times slower
        return (int(np.count_nonzero(np.diff(pages))) + bool(len(pages))) * self.page_bytes

    def most_within(self, span: int) -> int:
        """Most bytes that are written within any `span` ns: what a log of that length takes."""
        first = np.searchsorted(self.at, self.at - span, side="right")
        return int((self.total[1:] - self.total[first]).max(initial=0))


class Capacity:
    """Bytes that a link can carry by an instant, as a curve of straight pieces, and when it has carried so many."""

    __slots__ = ("_bytes", "_times")

    def __init__(self, times: Int64, rates: Float) -> None:
        """rates[n] bytes/s from times[n] on; times ascend from 0."""
        ends = np.append(times[1:], LATER).astype(float)
        spans = (ends - times) / SECOND
        self._times = np.append(times.astype(float), LATER)
        # A link that is down still carries a byte a year, so that the curve has an inverse.
        self._bytes = np.concatenate(([0.0], np.cumsum(np.maximum(rates, 1e-7) * spans)))

    @staticmethod
    def constant(rate: float) -> "Capacity":
        """The same all the time, bytes/s."""
        return Capacity(np.zeros(1, np.int64), np.array([rate]))

    def carried(self, time: "int | Int64") -> Float:
        """Bytes that it could have carried by then."""
        return np.asarray(np.interp(time, self._times, self._bytes))

    def when(self, nbytes: "float | Float") -> Int64:
        """The first instant, ns, by which it can have carried so many."""
        return np.asarray(np.ceil(np.interp(nbytes, self._bytes, self._times)), np.int64)

    def sent(self, at: Int64, nbytes: NDArray[np.generic], free: int = 0) -> Int64:
        """When each of these has left, one after another, the link being taken until `free`: int64, ns."""
        total = np.cumsum(nbytes, dtype=float)
        begin = np.maximum(self.carried(at), self.carried(free))
        return self.when(np.maximum.accumulate(begin - (total - nbytes)) + total)

    def over(self, begin: int, nbytes: float) -> int:
        """When so many bytes have left that begin at an instant, nothing else being sent."""
        return int(self.when(float(self.carried(begin)) + nbytes))


@dataclass(frozen=True, slots=True)
class Wan:
    """What a policy sends over: a capacity, and one way's latency, ns."""

    capacity: Capacity
    latency: int = 0


_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Protection:
    """What a policy gives.

    teeth: what would be lost over time; nothing while no tooth covers the instant. sent: bytes, as guests write them.
    storage: most bytes beside one copy of the disks. points: most points in time that one can go back to. waited: ns
    that guests waited for the link in all. shows, ready: int64[points], what each point shows and from when on.
    """

    teeth: Teeth
    end: int
    sent: float
    storage: float
    points: int
    waited: float = 0.0
    shows: Int64 = field(default_factory=lambda: _NONE)
    ready: Int64 = field(default_factory=lambda: _NONE)

    @staticmethod
    def of_points(
        shows: Int64, ready: Int64, load: Load, *, sent: float, storage: float, points: int
    ) -> "Protection":  # fmt: skip
        """From points in time."""
        teeth = Teeth.of(ready.tolist(), shows.tolist(), 0, load.end)
        inside = ready < load.end
        return Protection(teeth, load.end, sent, storage, points, shows=shows[inside], ready=ready[inside])

    def quantiles(self, shares: tuple[float, ...]) -> list[float]:
        """RPO that is not exceeded in these shares of the time, seconds."""
        safe = 1 - float((self.teeth.end - self.teeth.start).sum()) / self.end
        inside = [max(0.0, (share - safe) / max(1e-12, 1 - safe)) for share in shares]
        found = self.teeth.quantiles(inside) if len(self.teeth.start) else [0.0] * len(shares)
        return [q / SECOND if share > safe else 0.0 for share, q in zip(shares, found, strict=True)]

    def mean(self) -> float:
        """RPO of an instant chosen at random, seconds."""
        length = (self.teeth.end - self.teeth.start).astype(float)
        return float(((self.teeth.low + self.teeth.high) / 2 * length).sum()) / self.end / SECOND


class Policy:
    """A way to protect. A subclass says its `name`, its `source`, and what it gives for a load over a link."""

    name: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def protect(self, load: Load, wan: Wan) -> Protection:
        """What comes of it."""
