"""Statistics over replications and within one long run: intervals, tails, steady states, comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float = NDArray[np.float64]
Interval = tuple[float, float | None, float | None]
"""A value and the ends of its confidence interval; None where there is none."""


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values and the ends of its Student-t confidence interval; no ends for a single value."""
    data = np.asarray(values, float)
    mean = float(data.mean())
    if len(data) < 2 or not math.isfinite(mean):
        return mean, None, None
    half = float(stats.t.ppf((1 + confidence) / 2, len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data)))
    return mean, mean - half, mean + half


def bootstrap(values: Sequence[float], confidence: float = 0.95, *, seed: int = 1) -> Interval:
    """Mean and its bias-corrected bootstrap interval, for skewed values; equal values have an interval of no width."""
    data = np.asarray(values, float)
    if len(data) < 2:
        return float(data.mean()), None, None
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0]), float(data[0])
    found = stats.bootstrap(
        (data,), np.mean, confidence_level=confidence, rng=np.random.default_rng(seed), n_resamples=2000
    ).confidence_interval
    return float(data.mean()), float(found.low), float(found.high)


def tail(values: Sequence[float], share: float, confidence: float = 0.95) -> Interval:
    """The quantile of a share of independent values, and its interval by order statistics, whatever the distribution.

    An end is missing where there are too few values: of n values none bounds a quantile q from above with more than
    1 - q^n (binomial; David and Nagaraja, Order Statistics, 7.1).
    """
    data = np.sort(np.asarray(values, float))
    n, alpha = len(data), 1 - confidence
    low = int(stats.binom.ppf(alpha / 2, n, share))
    high = int(stats.binom.ppf(1 - alpha / 2, n, share)) + 1
    value = float(data[min(n - 1, math.ceil(share * n) - 1)])
    below = float(data[low - 1]) if low >= 1 and stats.binom.cdf(low - 1, n, share) <= alpha / 2 else None
    above = float(data[high - 1]) if high <= n else None
    return value, below, above


def chance(times: int, of: int, confidence: float = 0.95) -> Interval:
    """The probability of what happened so many times, with its exact interval (Clopper and Pearson)."""
    found = stats.binomtest(times, of).proportion_ci(confidence)
    return times / of, float(found.low), float(found.high)


def mser(values: Sequence[float], batch: int = 5) -> int:
    """How many of the first values to leave out as warm-up: MSER-5, the cut with the least standard error of the rest.

    White, Cobb and Spratt, "A comparison of five steady-state truncation heuristics", 2000. At most half is left out.
    """
    means = np.asarray(values[: len(values) // batch * batch], float).reshape(-1, batch).mean(1)
    n = len(means)
    if n < 4:
        return 0
    left = np.arange(n, 0, -1)
    total, squares = np.cumsum(means[::-1])[::-1], np.cumsum((means**2)[::-1])[::-1]
    error = (squares - total**2 / left) / left.astype(float) ** 2
    return int(np.argmin(error[: n // 2 + 1])) * batch


def batch_means(values: Sequence[float], batches: int = 20, confidence: float = 0.95) -> Interval:
    """Mean of a long correlated series, its warm-up left out, with the interval of its batches' means."""
    data = np.asarray(values, float)[mser(values) :]
    batches = min(batches, len(data))
    size = len(data) // batches
    return interval(data[len(data) - batches * size :].reshape(batches, size).mean(1).tolist(), confidence)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two designs the mean of B - A and its interval: paired, and as it would be from independent runs."""

    difference: float
    low: float
    high: float
    low_apart: float
    high_apart: float

    @property
    def gain(self) -> float:
        """How many times narrower common random numbers make the interval."""
        paired = self.high - self.low
        return (self.high_apart - self.low_apart) / paired if paired > 0 else math.inf

    @property
    def sure(self) -> bool:
        """Whether one is better for sure: the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def compare(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Compare two designs that were run with the same random numbers: a[n] belongs to b[n]. At least two of each.

    Raises ValueError for lists of different lengths.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"a comparison needs pairs, at least two, not {len(a)} and {len(b)} values")
    mean, low, high = interval((np.asarray(b) - np.asarray(a)).tolist(), confidence)
    assert low is not None
    assert high is not None
    error = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / len(a))
    half = float(stats.t.ppf((1 + confidence) / 2, 2 * len(a) - 2)) * error
    return Comparison(mean, low, high, mean - half, mean + half)
