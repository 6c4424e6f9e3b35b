"""How writes are measured, the same for real and generated ones, and the texts made of a fit: catalogue and tables.

A profile is a mapping from the name of a statistic to its value, so that two of them can be laid side by side.
Windows are cut from the first instant on; a window that the writes do not fill is left out.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from drsim.core.units import SECOND, SECTOR
from drsim.sim.workload import Source, Writes
from drsim.spec.quantity import format_duration
from drsim.spec.workload import Fitted

Int64 = NDArray[np.int64]
Float = NDArray[np.float64]
Profile = dict[str, float]
Row = dict[str, str | float]

PAGE = 4096 // SECTOR
"""Sectors of a 4-KiB page, in which the disks' table counts."""
BURST_WINDOWS = (1, 10, 60, 600)
"""Seconds over which a trace's variation is measured."""
REWRITE_WINDOWS = (1, 5, 60, 300)
"""Seconds over which a trace's rewriting is measured."""
HALF_HOUR = 1800
"""Seconds of the windows of the disks' table."""
DISK_WINDOWS = (1, 8, 48)
"""Half-hours over which a disk's variation is measured: 30 min, 4 h, 1 d."""
MEANS = ("writes/s", "MB/s")
"""Statistics averaged over realisations; the others, which are skewed, are given as medians."""


def seconds(count: int) -> str:
    """A window's name: "60 s", "30 min"."""
    return f"{count} s" if count < HALF_HOUR else format_duration(count * SECOND)


def unique(window: Int64, first: Int64, last: Int64) -> int:
    """Distinct units covered by the extents `first` to, not including, `last`, counted anew in each window.

    Sorts the extents by window and start and adds what each covers beyond all before it.
    """
    if not len(first):
        return 0
    base = window * (int(last.max()) + 1)
    order = np.argsort(base + first, kind="stable")
    low, high = (base + first)[order], (base + last)[order]
    reached = np.maximum.accumulate(np.concatenate(([low[0]], high[:-1])))
    return int(np.maximum(0, high - np.maximum(low, reached)).sum())


def coalescing(issued: Int64, lba: Int64, sectors: NDArray[np.int32], window: int, unit: int = 1) -> float:
    """Written over unique units of `unit` sectors, each window of `window` nanoseconds for itself, all together."""
    first, last = lba // unit, (lba + sectors - 1) // unit + 1
    return int((last - first).sum()) / max(1, unique(issued // window, first, last))


def variation(amounts: Float | Int64) -> float:
    """Squared coefficient of variation: variance over squared mean."""
    return float(np.var(amounts) / max(float(np.mean(amounts)) ** 2, 1e-12))


def size_quantiles(nbytes: NDArray[np.int32] | Int64) -> Profile:
    """Mean and quantiles of write sizes in bytes."""
    names = {0.05: "size p5 B", 0.5: "size p50 B", 0.95: "size p95 B", 0.99: "size p99 B"}
    values = np.quantile(nbytes, list(names), method="inverted_cdf")
    return {"mean size B": float(np.mean(nbytes)), **dict(zip(names.values(), map(float, values), strict=True))}


def measure_writes(issued: Int64, lba: Int64, sectors: NDArray[np.int32], span: int) -> Profile:
    """The profile of a trace of `span` nanoseconds: rates, sizes, variation and peaks by window, rewriting."""
    nbytes = sectors.astype(np.int64) * SECTOR
    profile: Profile = {
        "writes/s": len(issued) * SECOND / span,
        "MB/s": int(nbytes.sum()) * SECOND / span / 1e6,
        **size_quantiles(nbytes),
        "writes below 4 KiB %": 100 * float(np.mean(nbytes < 4096)),
    }
    for width in BURST_WINDOWS:
        count = max(1, span // (width * SECOND))
        nth = issued // (width * SECOND)
        writes = np.bincount(nth, minlength=count)[:count]
        data = np.bincount(nth, nbytes, minlength=count)[:count]
        profile[f"dispersion of writes {seconds(width)}"] = float(np.var(writes) / np.mean(writes))
        profile[f"variation of writes {seconds(width)}"] = variation(writes)
        profile[f"variation of bytes {seconds(width)}"] = variation(data)
        profile[f"peak/mean of bytes {seconds(width)}"] = float(data.max() / data.mean())
    for width in REWRITE_WINDOWS:
        name = f"coalescing {seconds(width)}"
        profile[f"{name}, sectors"] = coalescing(issued, lba, sectors, width * SECOND)
        profile[f"{name}, 4-KiB pages"] = coalescing(issued, lba, sectors, width * SECOND, PAGE)
    profile["coalescing of all, sectors"] = coalescing(issued, lba, sectors, span + 1)
    return profile


def measure_disk(guest: Source, windows: int) -> Profile:
    """The profile of a disk over `windows` half-hours, by the statistics that the disks' table allows.

    Variation and peaks are of 4-KiB pages written; the coalescing is the median of the windows that write.
    """
    pages, factors, writes, total = np.zeros(windows), [], 0, 0
    sizes: list[NDArray[np.int32]] = []
    for nth in range(windows):
        w: Writes = guest.take((nth + 1) * HALF_HOUR * SECOND - 1)
        first, last = w.lba // PAGE, (w.lba + w.sectors - 1) // PAGE + 1
        pages[nth] = int((last - first).sum())
        if len(first):
            factors.append(pages[nth] / unique(np.zeros(1, np.int64), first, last))
        sizes.append(w.sectors[:: max(1, len(w.sectors) // 2000)])
        writes, total = writes + len(first), total + int(w.sectors.sum(dtype=np.int64)) * SECTOR
    span = windows * HALF_HOUR
    return {
        "writes/s": writes / span,
        "MB/s": total / span / 1e6,
        **size_quantiles(np.concatenate(sizes).astype(np.int64) * SECTOR),
        "mean size B": total / max(1, writes),
        **disk_variation(pages),
        "coalescing 30 min, 4-KiB pages": float(np.median(factors)),
    }


def disk_variation(pages: Float) -> Profile:
    """Variation at each scale, and the peak half-hour over the mean, of 4-KiB pages written in each half-hour."""
    profile: Profile = {}
    for count in DISK_WINDOWS:
        whole = max(1, len(pages) // count)
        sums = pages[: whole * count].reshape(whole, -1).sum(axis=1)
        profile[f"variation of pages {seconds(count * HALF_HOUR)}"] = variation(sums)
    profile["peak/mean of pages 30 min"] = float(pages.max() / max(pages.mean(), 1e-12))
    return profile


def typical(realise: Callable[[int], Profile], count: int) -> Profile:
    """The typical profile of `count` realisations: the mean of rates, the median of everything else."""
    found = [realise(n) for n in range(count)]
    return {name: float((np.mean if name in MEANS else np.median)([each[name] for each in found])) for name in found[0]}


def errors(real: Mapping[str, float], generated: Mapping[str, float]) -> dict[str, Row]:
    """Every statistic of `real` beside the generated one, and the error in percent of the real one."""
    return {
        name: {"real": value, "generated": generated[name], "error %": 100 * (generated[name] / value - 1)}
        for name, value in real.items()
        if value
    }


def _size(nbytes: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes % factor == 0:
            return f"{nbytes // factor} {unit}"
    return f"{nbytes} B"


def _ratio(share: float) -> str:
    return f"{100 * share:.4g} %"


def _number(value: float) -> str:
    return f"{value:.4g}" if value < 10_000 else f"{value:.0f}"


def catalogue_text(about: str, fitted: Fitted, rows: Sequence[Row]) -> str:
    """The catalogue file of a fitted workload. The same workload and rows give the same bytes."""
    table = [
        f"#   {row['statistic']!s:34}{_number(float(row['real'])):>10}{_number(float(row['generated'])):>10}"
        f"{round(float(row['error %'])):>+8d} %"
        for row in rows
    ]
    bursts = ", ".join(f"{{scale: {format_duration(b.scale)}, sigma: {b.sigma:g}}}" for b in fitted.bursts)
    lines = [
        f"about: {about}",
        "# Made by `drsim fit`. What it generates beside what was measured (docs/reference/workload-fit.md):",
        f"#   {'':34}{'real':>10}{'generated':>10}{'error':>8}",
        *table,
        "values:",
        "  kind: fitted",
        f"  rate: {fitted.rate:g}",
        f"  bursts: [{bursts}]",
        "  sizes:",
        *(f"    - {{size: {_size(mix.size)}, share: {_ratio(mix.share)}}}" for mix in fitted.sizes),
        f"  hot_share: {_ratio(fitted.hot_share)}",
        f"  hot_set: {_size(fitted.hot_set)}",
        f"  sequential: {_ratio(fitted.sequential)}",
        f"  working_set: {_size(fitted.working_set)}",
    ]
    return "\n".join(lines) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """The rows of `fit_all` as a table in Markdown."""
    lines = ["| workload | statistic | real | generated | error |", "| --- | --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row['workload']} | {row['statistic']} | {_number(float(row['real']))} "
        f"| {_number(float(row['generated']))} | {round(float(row['error %'])):+d} % |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
