"""Fitting the generator of writes to real disks, and saying how far it misses.

Theory. The generator has a rate that varies by independent factors, each holding for one time scale; a mix of sizes;
and places that continue, hit the hot set, or fall anywhere on the working set. Rate, sizes and the share of
continuing writes are read off the data. The factors' spreads are fitted by simulation: the same random numbers at
every trial, least squares on the mean logarithms of variation and peak, since heavy tails make the moments of
one realisation lie far below those of the ensemble. Hot set and working set are fitted on generated writes, so that
written over unique bytes comes out at each time scale.

What it cannot do: sizes are drawn without regard to the rate, whereas real bursts have larger writes; so bursts are
fitted half-way between the variation of writes and that of bytes. There is no daily or hourly rhythm.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from drsim.core.errors import FileError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces import BlockTrace, read_trace
from drsim.sim.workload import source
from drsim.spec.workload import Burst, Fitted, SizeMix
from drsim.study.fit_report import (
    BURST_WINDOWS,
    DISK_WINDOWS,
    HALF_HOUR,
    PAGE,
    REWRITE_WINDOWS,
    Profile,
    Row,
    catalogue_text,
    coalescing,
    errors,
    measure_disk,
    measure_writes,
    seconds,
    typical,
    unique,
)
from drsim.study.fit_targets import DiskTable, Target, disk_targets, trace_target

Float = NDArray[np.float64]

TRACE = "cloudPhysicsIO.vscsi.gz"
"""The recorded VM in the traces' directory (its README says where it comes from)."""
TURNOVER = 300
"""Seconds in which a disk's hot set is written once; our choice, since 30-min windows do not show it."""
REALISATIONS, LEAST, MOST_WRITES = 128, 5, 60_000_000
"""Realisations of a generated profile: 128, or as many as make 60 million writes, but at least 5."""
DISK = 16 << 40
"""Bytes of the volume on which generated writes are measured: larger than any working set."""
_SIZES = 10
_FLOOR = 0.01
_DAMPING = 0.4
"""How dear it is to damp the short bursts away, against missing a goal by a factor of e."""
_WINDOWS_FOR_HOT = 6


def fit_bursts(
    scales: Sequence[int],
    goals: Mapping[int, float],
    peak: tuple[int, float],
    span: int,
    *,
    short: Sequence[Burst] = (),
    seed: int = 0,
    realisations: int = 32,
) -> tuple[Burst, ...]:
    """Spreads of the factors at `scales` for which the typical variation over each window is its goal.

    scales, span and windows in seconds. goals: squared coefficient of variation, without Poisson noise, by window.
    peak: a window and the goal of its largest amount over the mean. short: factors at shorter
    scales, known from elsewhere. They are all damped alike when the disk is too steady for them, and as little as
    possible; those far below the shortest window average out and are not simulated.
    """
    held = [(burst.scale // SECOND, burst.sigma) for burst in short if burst.scale * 60 >= min(goals) * SECOND]
    slot = min(*scales, *(scale for scale, _ in held), *goals)
    slots = span // slot
    rng = np.random.default_rng([seed, 1])
    normal = [
        rng.standard_normal((realisations, span // scale + 1))[:, np.arange(slots) * slot // scale]
        for scale in (*scales, *(scale for scale, _ in held))
    ]

    def miss(x: Float) -> Float:
        level = np.zeros((realisations, slots))
        for z, spread in zip(normal, [*x[: len(scales)], *(x[-1] * sigma for _, sigma in held)], strict=True):
            level += spread * z - spread**2 / 2
        rate = np.exp(level)
        # A run's own mean rate lies below the ensemble's, the more so the wilder the factors are.
        residuals = [_DAMPING * (1 - x[-1]), np.log(rate.mean(axis=1)).mean()]
        for window, goal in goals.items():
            sums = _sums(rate, window // slot)
            got = np.log(sums.var(axis=1) / sums.mean(axis=1) ** 2 + _FLOOR)
            residuals.append(got.mean() - np.log(goal + _FLOOR))
        sums = _sums(rate, peak[0] // slot)
        residuals.append(np.log(sums.max(axis=1) / sums.mean(axis=1)).mean() - np.log(peak[1]))
        return np.array(residuals)

    n = len(scales)
    start, most = np.array([0.7] * n + [0.8]), np.array([3.5] * n + [1.0])
    best = least_squares(miss, start, bounds=(np.zeros(n + 1), most), diff_step=[0.03] * (n + 1)).x
    damped = [Burst(scale=burst.scale, sigma=round(float(best[-1]) * burst.sigma, 2)) for burst in short]
    new = [Burst(scale=scale * SECOND, sigma=round(float(x), 2)) for scale, x in zip(scales, best, strict=False)]
    return tuple(burst for burst in (*damped, *new) if burst.sigma >= 0.05)


def _sums(rate: Float, group: int) -> Float:
    whole = rate.shape[1] // group
    return np.asarray(rate[:, : whole * group].reshape(len(rate), whole, group).sum(axis=2))


def fit_sizes(sectors: NDArray[np.int32]) -> tuple[SizeMix, ...]:
    """At most ten of the sizes; each other size counts for the nearest of them on a log scale.

    They are chosen one by one, each time the size that brings all writes nearest to a chosen one.
    """
    sizes, counts = np.unique(sectors, return_counts=True)
    distance = np.abs(np.log(sizes)[:, None] - np.log(sizes)[None, :])
    chosen: list[int] = []
    nearest = np.full(len(sizes), 100.0)
    for _ in range(min(_SIZES, len(sizes))):
        chosen.append(int(np.argmin(counts @ np.minimum(nearest[:, None], distance))))
        nearest = np.minimum(nearest, distance[:, chosen[-1]])
    kept = np.sort(chosen)
    weights = np.bincount(np.argmin(distance[:, kept], axis=1), counts, minlength=len(kept))
    return _mix(sizes[kept].astype(np.int64) * SECTOR, weights)


def sizes_of_quantiles(profile: Mapping[str, float]) -> tuple[SizeMix, ...]:
    """Five sizes with the quantiles of a profile, their shares within what these allow chosen to meet the mean.

    The sizes are the four quantiles and the geometric middle of the median and the 95th percentile.
    """
    p5, p50, p95, p99 = (profile[f"size p{q} B"] for q in (5, 50, 95, 99))
    sizes = np.array([p5, p50, (p50 * p95) ** 0.5, p95, p99])
    sizes = np.maximum(1, np.round(sizes / SECTOR)) * SECTOR
    small = np.array([0.10, 0.845, 0.0, 0.035, 0.02])
    large = np.array([0.06, 0.45, 0.42, 0.05, 0.02])
    low, high = float(sizes @ small), float(sizes @ large)
    part = float(np.clip((profile["mean size B"] - low) / max(high - low, 1e-9), 0, 1))
    distinct, where = np.unique(sizes, return_inverse=True)
    return _mix(distinct, np.bincount(where, (1 - part) * small + part * large))


def _mix(nbytes: NDArray[Any], weights: NDArray[Any]) -> tuple[SizeMix, ...]:
    """Shares in tenths of a percent that add up to one (largest remainders); sizes without any are left out."""
    exact = 1000 * weights / weights.sum()
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: 1000 - shares.sum()]] += 1
    return tuple(
        SizeMix(size=int(s), share=n / 1000) for s, n in zip(nbytes.tolist(), shares.tolist(), strict=True) if n
    )


def fit_trace(trace: BlockTrace, *, seed: int = 0, realisations: int = 40) -> Fitted:
    """The generator fitted to one recorded disk. Takes about a minute for 67,000 writes.

    realisations: how many runs of the trace's length each trial of the places generates. Raises FileError for a
    trace shorter than 4 s.
    """
    target = trace_target(trace)
    profile, span = target.profile, trace.duration // SECOND
    noise = {w: 1 / (profile["writes/s"] * w) for w in BURST_WINDOWS}
    goals = {
        w: (profile[f"variation of writes {seconds(w)}"] * profile[f"variation of bytes {seconds(w)}"]) ** 0.5
        - noise[w]
        for w in BURST_WINDOWS
        if w * 4 <= span
    }
    if not goals:
        raise FileError(f"the trace lasts {span} s; a fit needs at least 4 s", hint="record for longer")
    first = min(goals)
    bursts = fit_bursts(tuple(goals), goals, (first, profile[f"peak/mean of bytes {seconds(first)}"]), span, seed=seed)
    start = Fitted(
        rate=_digits(profile["writes/s"], 3),
        bursts=bursts,
        sizes=fit_sizes(trace.sectors),
        hot_share=0.3,
        hot_set=_mebibytes(target.working_set / 20),
        sequential=round(target.sequential, 3),
        working_set=_mebibytes(target.working_set),
    )
    return _fit_places(start, target, seed, realisations)


def _fit_places(start: Fitted, target: Target, seed: int, realisations: int) -> Fitted:
    """Hot share, hot set and working set for which the coalescing comes out at every window, and over all.

    A coarse grid, then Nelder and Mead's simplex, on logarithms and with the same random numbers at every trial.
    """
    goals = [target.profile[f"coalescing {seconds(w)}, 4-KiB pages"] for w in REWRITE_WINDOWS]

    def fitted(x: Float) -> Fitted:
        working_set = _mebibytes(target.working_set * float(np.exp(np.clip(x[2], -3, 3))))
        hot_set = min(working_set, _mebibytes(target.working_set * float(np.exp(np.clip(x[1], -9, 0)))))
        share = round(float(1 / (1 + np.exp(-x[0]))), 3)
        return start.model_copy(update={"hot_share": share, "hot_set": hot_set, "working_set": working_set})

    def miss(x: Float) -> float:
        found = []
        for n in range(realisations):
            w = source(fitted(x), [DISK], np.random.default_rng([seed, 2, n])).take(target.span)
            factors = [coalescing(w.issued, w.lba, w.sectors, width * SECOND, PAGE) for width in REWRITE_WINDOWS]
            distinct = unique(np.zeros(1, np.int64), w.lba, w.lba + w.sectors) * SECTOR
            found.append([*factors, int(w.sectors.sum()) * SECTOR / max(1, distinct)])
        off = np.median(np.log(found), axis=0) - np.log([*goals, target.profile["coalescing of all, sectors"]])
        return float(off[:-1] @ off[:-1] + 0.02 * off[-1] ** 2)

    # The valley is narrow: look around first, then go down.
    grid = [np.array(x) for x in product((-1.5, -0.4, 0.6), (-4.5, -3.0, -1.5), (0.0, 0.5))]
    first = min(grid, key=miss)
    simplex = np.vstack([first, first + np.diag([0.5, 0.7, 0.3])])
    best = minimize(
        miss,
        first,
        method="Nelder-Mead",
        options={"maxfev": 50, "xatol": 0.02, "fatol": 1e-5, "initial_simplex": simplex},
    )
    return fitted(best.x)


def fit_disks(table: DiskTable, *, short: Sequence[Burst] = (), seed: int = 0) -> dict[str, Fitted]:
    """The generator fitted to the typical disks of a table, by name.

    short: factors below 30 min, which the table does not show; `fit_all` takes those of the recorded VM.
    """
    return {name: _fit_disk(target, short, seed) for name, target in disk_targets(table).items()}


def _fit_disk(target: Target, short: Sequence[Burst], seed: int) -> Fitted:
    profile = target.profile
    goals = {n * HALF_HOUR: profile[f"variation of pages {seconds(n * HALF_HOUR)}"] for n in DISK_WINDOWS}
    peak = (HALF_HOUR, profile["peak/mean of pages 30 min"])
    bursts = fit_bursts(tuple(goals), goals, peak, target.span // SECOND, short=short, seed=seed)
    start = Fitted(
        rate=_digits(profile["writes/s"], 3),
        bursts=bursts,
        sizes=sizes_of_quantiles(profile),
        hot_share=0,
        hot_set=1 << 20,
        sequential=round(target.sequential, 3),
        working_set=_mebibytes(target.working_set),
    )
    rate = profile["writes/s"] * sum(mix.size * mix.share for mix in start.sizes)
    low, high = 0.0, 0.995
    while high - low > 0.01:
        share = (low + high) / 2
        if _steady_coalescing(_heated(start, share, rate), seed) < profile["coalescing 30 min, 4-KiB pages"]:
            low = share
        else:
            high = share
    return _heated(start, round((low + high) / 2, 3), rate)


def _heated(start: Fitted, share: float, rate: float) -> Fitted:
    """With this share of the writes in a hot set that is written once in `TURNOVER`."""
    hot_set = min(start.working_set, _mebibytes(share * rate * TURNOVER))
    return start.model_copy(update={"hot_share": share, "hot_set": hot_set})


def _steady_coalescing(fitted: Fitted, seed: int) -> float:
    """Written over unique pages in half an hour at the median rate, without the long factors' wandering."""
    long = [b for b in fitted.bursts if b.scale >= HALF_HOUR * SECOND]
    rate = fitted.rate * float(np.exp(-sum(b.sigma**2 for b in long) / 2))
    steady = fitted.model_copy(update={"rate": rate, "bursts": tuple(b for b in fitted.bursts if b not in long)})
    w = source(steady, [DISK], np.random.default_rng([seed, 3])).take(_WINDOWS_FOR_HOT * HALF_HOUR * SECOND)
    return coalescing(w.issued, w.lba, w.sectors, HALF_HOUR * SECOND, PAGE)


def fit_error(fitted: Fitted, target: Target, seed: int) -> dict[str, Row]:
    """What the workload generates beside its target, by statistic: `real`, `generated`, `error %`.

    Generated figures are typical ones of several realisations of the target's length (see `REALISATIONS`).
    """

    def realise(n: int) -> Profile:
        guest = source(fitted, [DISK], np.random.default_rng([seed, 4, n]))
        if target.kind == "disk":
            return measure_disk(guest, target.span // (HALF_HOUR * SECOND))
        w = guest.take(target.span - 1)
        return measure_writes(w.issued, w.lba, w.sectors, target.span)

    count = int(MOST_WRITES / (fitted.rate * target.span / SECOND))
    real, middle = target.profile, "writes/s of the median run"
    generated = typical(
        lambda n: (found := realise(n)) | {middle: found["writes/s"]}, max(LEAST, min(REALISATIONS, count))
    )
    return errors({"writes/s": real["writes/s"], middle: real["writes/s"], **real}, generated)


def fit_all(directory: Path, seed: int = 0) -> tuple[dict[str, Fitted], list[Row]]:
    """Fit everything that the catalogue ships to the traces of a directory; takes about three minutes.

    Returns the workloads by name and the errors as rows: workload, statistic, real, generated, error %. The same
    files and seed give the same result. Raises FileError when a file is missing or damaged.
    """
    trace, table = read_trace(directory / TRACE), DiskTable.read(directory)
    machine = fit_trace(trace, seed=seed)
    short = [b for b in machine.bursts if b.scale <= 60 * SECOND]
    fitted = {"vm-cloudphysics": machine, **fit_disks(table, short=short, seed=seed)}
    targets = {"vm-cloudphysics": trace_target(trace), **disk_targets(table)}
    rows: list[Row] = [
        {"workload": name, "statistic": statistic, **row}
        for name, workload in fitted.items()
        for statistic, row in fit_error(workload, targets[name], seed).items()
    ]
    return fitted, rows


ABOUT = {
    "vm-cloudphysics": "One VMware VM of the CloudPhysics traces, fitted by `drsim fit` to a recording of two hours.",
    "disk-small": "A small VMware disk, the 25th percentile by rate, fitted by `drsim fit` to a week of 53 disks.",
    "disk-median": "A median VMware disk by rate, fitted by `drsim fit` to a week of 53 disks.",
    "disk-busy": "A busy VMware disk, the 95th percentile by rate, fitted by `drsim fit` to a week of 53 disks.",
}


def catalogue(fitted: Mapping[str, Fitted], rows: Sequence[Row]) -> dict[str, str]:
    """The catalogue files `workloads/NAME.yaml` of what `fit_all` returned, by name."""
    return {
        name: catalogue_text(ABOUT[name], workload, [row for row in rows if row["workload"] == name])
        for name, workload in fitted.items()
    }


def _digits(value: float, count: int) -> float:
    return float(f"{value:.{count}g}")


def _mebibytes(nbytes: float) -> int:
    return max(1, round(nbytes / (1 << 20))) << 20
