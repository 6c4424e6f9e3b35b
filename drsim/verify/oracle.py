"""Oracle: what crash consistency is, as functions that are exact and linear in the size of the image.

Theory of operation. The truth is a VM's writes in capture order, numbered from 1, with all its disks as one space of
sectors. An image is a *version vector*: `ver[x]` is the number of the write whose data sector `x` holds, 0 for what
was there before the first write.

    w -> u       w was acknowledged before u was issued: whoever made u may have known of w
    prefix       the image is what the first k writes leave.  With nxt(x, q) the next write to x after q,
                     lo = max over x of ver[x],    hi = min over x of nxt(x, ver[x]) - 1
                 it is a prefix iff lo <= hi, and then for every k in [lo, hi] and no other.  k + 1 would have changed
                 a sector, so lo == hi unless the image shows only a part of the disks
    closed cut   with u it has every w -> u.  One k for each VM is closed iff
                     max issue of the writes inside <= min acknowledgement of those outside
                 The least closed one is found by raising each k to the first with which that holds, until none moves
    flush epoch  what a disk may keep when the power goes: all that a flush which had returned covers, and of each
                 sector of later writes the old or the new content

Sources: verification.md 2.2. Every function here is compared with brute force in tests/verify/test_oracle.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drsim.core.errors import CoreError

Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

NEVER = 1 << 62
"""When a write is acknowledged that never was. Minus this is before all time."""
FOREIGN = -1
"""In a version vector: content that no write of this VM put there."""
UNSEEN = -2
"""In a version vector: a sector that the image does not show, as when one volume or file is restored."""


def _none() -> Int64:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Flushes:
    """Flushes of a VM: int64 columns. Times in ns; each covers the sectors from `start` up to `stop`."""

    issue: Int64 = field(default_factory=_none)
    ack: Int64 = field(default_factory=_none)
    start: Int64 = field(default_factory=_none)
    stop: Int64 = field(default_factory=_none)


@dataclass(frozen=True, slots=True, eq=False)
class Writes:
    """Writes of one VM in capture order, as int64 columns of one length.

    issue, ack: ns; ack is NEVER for a write that was not acknowledged. start, stop: sectors in one space over all
    disks of the VM; an extent may be empty. fua: bool, the write is durable itself when it is acknowledged.
    """

    issue: Int64
    ack: Int64
    start: Int64
    stop: Int64
    fua: Bool | None = None
    flushes: Flushes = field(default_factory=Flushes)

    def __post_init__(self) -> None:
        if len({len(c) for c in (self.issue, self.ack, self.start, self.stop)}) != 1:
            raise CoreError("columns of writes have different lengths")
        if np.any(self.ack < self.issue) or np.any(self.start > self.stop) or np.any(self.start < 0):
            raise CoreError("a write is acknowledged before it is issued, or its extent ends before it begins")

    def __len__(self) -> int:
        return len(self.issue)


class Prefixes(NamedTuple):
    """Which prefixes an image equals: those of `lo` to `hi` writes; none if `lo > hi` or something is foreign.

    Witnesses are sectors: `newest_at` holds write `lo`; `missing_at` lacks write `hi + 1`, -1 if nothing is lacking;
    `foreign_at` holds what no write put there, -1 if none does.
    """

    lo: int
    hi: int
    newest_at: int
    missing_at: int
    foreign_at: int

    @property
    def ok(self) -> bool:
        return self.lo <= self.hi and self.foreign_at < 0


class Cut(NamedTuple):
    """The least closed cut: how many writes of each VM, and the latest issue among them."""

    writes: tuple[int, ...]
    latest: int


class Broken(NamedTuple):
    """Why there is no closed cut: `present` is in every cut, `missing -> present`, and no image may have `missing`.

    Both are (index of the VM, number of the write). `present` is None when `after` alone demanded `missing`.
    """

    missing: tuple[int, int]
    present: tuple[int, int] | None


class Truth:
    """One VM's writes, prepared for judging any number of its images.

    Cost: n log n to prepare, for n = sectors + the sum of all extents; each image then costs a few passes over its
    sectors. `ordered` says that the order of the writes is the one in which the disk took them; without, only their
    times are known and `anyorder.py` judges.

    Every sector of every write is an *entry*, in write order; the initial content is write 0, over all sectors. Write
    w's entry of sector x is number `_base[w] + x`. `owner`, `sector` and `following` are columns over entries: the
    write, the sector, and the next write to the same sector (n + 1 if there is none). `_owner` has one more, nobody's.
    """

    def __init__(self, writes: Writes, sectors: int, *, ordered: bool = True) -> None:
        n = len(writes)
        if n and int(writes.stop.max()) > sectors:
            raise CoreError(f"a write ends at sector {int(writes.stop.max())} of {sectors}")
        self.writes, self.sectors, self.ordered = writes, sectors, ordered
        self.issue = np.concatenate([[-NEVER], writes.issue]).astype(np.int64)
        self.ack = np.concatenate([[-NEVER], writes.ack]).astype(np.int64)
        self.last_issue: Int64 = np.maximum.accumulate(self.issue)
        """Latest issue among the first k writes, for k from 0 to n."""
        self.first_ack: Int64 = np.append(np.minimum.accumulate(writes.ack[::-1])[::-1], NEVER)
        """Earliest acknowledgement among the writes after the first k, for k from 0 to n."""
        start = np.concatenate([[0], writes.start])
        lengths = np.concatenate([[sectors], writes.stop - writes.start])
        before = np.cumsum(lengths) - lengths
        self._base: Int64 = before - start
        self._owner: Int32 = np.append(np.repeat(np.arange(n + 1, dtype=np.int32), lengths), np.int32(-1))
        self.owner = self._owner[:-1]
        self.sector: Int64 = np.arange(len(self.owner)) - self._base[self.owner]
        self.following: Int32 = np.full(len(self.owner), n + 1, np.int32)
        by_sector = np.argsort(self.sector, kind="stable")
        same = self.sector[by_sector[:-1]] == self.sector[by_sector[1:]]
        self.following[by_sector[:-1][same]] = self.owner[by_sector[1:][same]]
        self._every = np.arange(sectors)

    def __len__(self) -> int:
        return len(self.writes)

    def after(self, k: int) -> Int64:
        """The version vector after the first k writes."""
        ver = np.zeros(self.sectors, np.int64)
        until = int(self.owner.searchsorted(k, "right"))
        ver[self.sector[:until]] = self.owner[:until]  # of an index that comes again, the last value stays
        return ver

    def known(self, ver: Int64) -> tuple[Int64, int]:
        """A version vector with what is no write replaced by 0, and a sector with foreign content (-1: none)."""
        if len(ver) != self.sectors:
            raise CoreError(f"an image has {len(ver)} sectors, and its VM {self.sectors}")
        foreign_at = -1
        strange = (ver < 0) | (ver > len(self)) if len(ver) and (ver.min() < 0 or ver.max() > len(self)) else None
        if strange is not None:
            foreign_at = _first(strange & (ver != UNSEEN))
            ver = np.where(strange, 0, ver)
        misplaced = self._owner.take(self._base[ver] + self._every, mode="clip") != ver
        if foreign_at < 0:
            foreign_at = _first(misplaced)
        if misplaced.any():
            ver = np.where(misplaced, 0, ver)
        return ver, foreign_at

    def prefixes(self, ver: Int64) -> Prefixes:
        """Which prefixes of the writes an image equals. `ver`: int64, one for each sector."""
        clean, foreign_at = self.known(ver)
        if not len(ver):
            return Prefixes(0, len(self), -1, -1, -1)
        following = self.following[self._base[clean] + self._every]
        if clean is not ver:
            following[(clean == 0) & (ver != 0)] = len(self) + 1
        newest_at, missing_at = int(clean.argmax()), int(following.argmin())
        hi = int(following[missing_at]) - 1
        return Prefixes(int(clean[newest_at]), hi, newest_at, missing_at if hi < len(self) else -1, foreign_at)

    def latest_visible(self, ver: Int64) -> int:
        """When the latest of the writes that an image shows was issued; -NEVER if it shows none."""
        return int(self.issue[self.known(ver)[0]].max(initial=-NEVER))

    def flushed(self, instant: int) -> Bool:
        """Which writes (bool, index 0 is write 1) no disk may have lost when the power goes at `instant`.

        Those acknowledged before the issue of a flush that covers them and had been acknowledged before `instant`;
        and those that are durable themselves and were acknowledged before it.
        """
        w, f = self.writes, self.writes.flushes
        done = f.ack < instant
        durable = np.zeros(len(w), np.bool_) if w.fua is None else w.fua & (w.ack < instant)
        for start, stop in {*zip(f.start[done].tolist(), f.stop[done].tolist(), strict=True)}:
            last = f.issue[done & (f.start == start) & (f.stop == stop)].max()
            durable |= (w.start >= start) & (w.stop <= stop) & (w.ack < last)
        return durable

    def unflushed(self, ver: Int64, instant: int) -> tuple[int, int] | None:
        """The flush epoch test: (sector, write) where the image lacks a write that was durable at `instant`.

        Foreign content passes here: ask `known`. Where the order of the writes is not known, a sector may hold either
        of two writes that were in flight at the same time.
        """
        clean, _ = self.known(ver)
        must = np.append([False], self.flushed(instant))[self.owner]
        at, write = self.sector[must], self.owner[must]
        top = clean[at]
        stale = write > top if self.ordered else self.issue[write] > self.ack[top]
        found = _first(stale & (ver[at] == top))
        return None if found < 0 else (int(at[found]), int(write[found]))


def _first(where: Bool) -> int:
    """Index of the first True, -1 if there is none."""
    at = int(where.argmax()) if len(where) else 0
    return at if len(where) and where[at] else -1


def closed(inside_issue_max: int, outside_ack_min: int) -> bool:
    """Whether a cut is consistent, from the latest issue inside and the earliest acknowledgement outside it."""
    return inside_issue_max <= outside_ack_min


def consistent_cut(
    truths: Sequence[Truth], ranges: Sequence[tuple[int, int]], *, after: int = -NEVER
) -> Cut | Broken:  # fmt: skip
    """The least closed cut with lo <= k <= hi for each VM, or the two writes that forbid one.

    `after`: the cut also has every write that was acknowledged before this instant. Raises CoreError when lo > hi.
    """
    if any(lo > hi for lo, hi in ranges):
        raise CoreError("a cut is asked for of an image that is no prefix")
    k = [lo for lo, _ in ranges]
    while True:
        latest = max([after, *(int(truth.last_issue[n]) for truth, n in zip(truths, k, strict=True))])
        moved = False
        for j, truth in enumerate(truths):
            need = int(truth.first_ack.searchsorted(latest))
            if need <= k[j]:
                continue
            if need > ranges[j][1]:
                return _broken(truths, k, j, ranges[j][1], latest)
            k[j], moved = need, True
        if not moved:
            return Cut(tuple(k), latest)


def _broken(truths: Sequence[Truth], k: Sequence[int], j: int, hi: int, latest: int) -> Broken:
    missing = hi + 1 + int(truths[j].writes.ack[hi:].argmin())
    for i, truth in enumerate(truths):
        if k[i] and truth.last_issue[k[i]] == latest:
            return Broken((j, missing), (i, int(truth.issue[: k[i] + 1].argmax())))
    return Broken((j, missing), None)
