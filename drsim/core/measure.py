"""Measures: pure folds over what was published. RPO, history and the causes of missed service levels, exactly.

A VPG's RPO at an instant t is t - T, T being when its newest listed checkpoint was taken (before the first one, when
protection began). Between two listings it grows at slope one, so over a run it is a set of *teeth*: `start`, `end`
and `taken`, three int64 columns in nanoseconds. Every figure below is taken from the teeth, not from samples: the
distribution of RPO over a disaster instant chosen uniformly is a mixture of uniforms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Teeth:
    """RPO over time: between `start` and `end` it is t - `taken`. Columns of equal length, in time order."""

    start: Int64
    end: Int64
    taken: Int64

    @staticmethod
    def of(listed: Sequence[int], taken: Sequence[int], begin: int, end: int, withdrawn: Sequence[int] = ()) -> "Teeth":
        """From the times at which checkpoints were listed and taken, over [begin, end].

        `withdrawn`: times at which all checkpoints left the list; from then to the next listing everything since
        `begin` would be lost.
        """
        at = np.concatenate([np.asarray(listed, np.int64), np.asarray(withdrawn, np.int64)])
        of = np.concatenate([np.asarray(taken, np.int64), np.full(len(withdrawn), begin, np.int64)])
        order = np.argsort(at, kind="stable")
        at, of = at[order], of[order]
        keep = at < end
        at, of = at[keep], of[keep]
        start = np.concatenate([[begin], at])
        stop = np.concatenate([at, [end]])
        newest = np.concatenate([[begin], of])
        lost = np.flatnonzero(np.isin(at, np.asarray(withdrawn, np.int64))) + 1
        for part in np.split(np.arange(len(newest)), lost):
            newest[part] = np.maximum.accumulate(newest[part])
        real = stop > start
        return Teeth(start[real], stop[real], newest[real])

    @staticmethod
    def pooled(parts: Sequence["Teeth"]) -> "Teeth":
        """The teeth of several VPGs together, for figures over a VPG and an instant chosen at random."""
        return Teeth(
            np.concatenate([t.start for t in parts]),
            np.concatenate([t.end for t in parts]),
            np.concatenate([t.taken for t in parts]),
        )

    @property
    def low(self) -> Int64:
        """RPO just after each listing."""
        return self.start - self.taken

    @property
    def high(self) -> Int64:
        """RPO just before the next listing."""
        return self.end - self.taken

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """RPO in nanoseconds that is not exceeded in these shares of the time."""
        if not len(self.start):
            return [float("nan")] * len(shares)
        return mixture_quantiles(self.low, self.high, shares)

    def mean(self) -> float:
        """Mean RPO over time, nanoseconds."""
        length = (self.end - self.start).astype(float)
        return float(np.sum((self.low + self.high) / 2 * length) / np.sum(length)) if len(length) else float("nan")

    def above(self, level: int) -> list[tuple[int, int]]:
        """The intervals in which RPO is above a level, neighbours joined."""
        begin = np.maximum(self.start, self.taken + level)
        bad = begin < self.end
        return joined(list(zip(begin[bad].tolist(), self.end[bad].tolist(), strict=True)))


def mixture_quantiles(low: Int64, high: Int64, shares: Sequence[float]) -> list[float]:
    """Quantiles of the mixture of uniforms on [low, high], each weighted by its length.

    The distribution function is piecewise linear with corners at all ends: its slope at x is the number of intervals
    that contain x, over the total length. Solved exactly by one sort.
    """
    corners = np.concatenate([low, high])
    steps = np.concatenate([np.ones(len(low)), -np.ones(len(high))])
    order = np.argsort(corners, kind="stable")
    x, slope = corners[order].astype(float), np.cumsum(steps[order])
    mass = np.concatenate([[0.0], np.cumsum(np.diff(x) * slope[:-1])])
    return [float(v) for v in np.interp(np.asarray(shares) * mass[-1], mass, x)]


def joined(intervals: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted intervals with those that touch made one."""
    result: list[tuple[int, int]] = []
    for begin, end in intervals:
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def time_in(states: Sequence[tuple[int, str]], end: int) -> dict[str, int]:
    """Nanoseconds spent in each state, from changes in time order; the last lasts until `end`."""
    spent: dict[str, int] = {}
    for n, (begin, state) in enumerate(states):
        stop = states[n + 1][0] if n + 1 < len(states) else end
        spent[state] = spent.get(state, 0) + max(0, min(stop, end) - begin)
    return {state: ns for state, ns in spent.items() if ns}


def attribute(
    missed: Sequence[tuple[int, int]], causes: Sequence[tuple[int, str]], end: int, otherwise: str
) -> dict[str, int]:
    """Nanoseconds of `missed` under each cause; they add up to all of it.

    `causes` are changes in time order; an instant without a cause of its own belongs to the cause that comes next in
    the same miss, then to the last one before it, then to `otherwise`.
    """
    spent: dict[str, int] = {}
    spans = [
        (begin, causes[n + 1][0] if n + 1 < len(causes) else end, cause) for n, (begin, cause) in enumerate(causes)
    ]
    for begin, stop in missed:
        inside = [(max(begin, b), min(stop, e), cause) for b, e, cause in spans if max(begin, b) < min(stop, e)]
        inside = inside or [(begin, stop, "")]
        named = [cause for _, _, cause in inside if cause]
        for n, (b, e, cause) in enumerate(inside):
            follows = [c for _, _, c in inside[n:] if c]
            owner = cause or (follows[0] if follows else named[-1] if named else otherwise)
            spent[owner] = spent.get(owner, 0) + e - b
    return spent
