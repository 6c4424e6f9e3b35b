"""What fits aim at: the profile of a recorded disk, and of typical disks of the table of 53."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drsim.core.errors import FileError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces import BlockTrace
from drsim.study.fit_report import HALF_HOUR, PAGE, Profile, disk_variation, measure_writes, unique

TABLE, SUMMARY = "cloudphysics_53vm_30min.csv.gz", "cloudphysics_53vm_summary.csv"
"""The table's files in the traces' directory (its README says where they come from)."""
QUANTILES = {"disk-small": 0.25, "disk-median": 0.5, "disk-busy": 0.95}
"""Fitted disks, and where their rate lies among all disks."""
NEIGHBOURS = 9
"""Disks around a quantile whose medians describe it; one disk alone would be a portrait, not a type."""
WEEK = 336
"""Half-hours in a week."""
_WHERE = "name the directory with the traces, for example by DRSIM_TRACES"


@dataclass(frozen=True, slots=True)
class DiskTable:
    """The disks' table: one row per disk and window (`windows`) and one per disk (`summary`), as in the README."""

    windows: pd.DataFrame
    summary: pd.DataFrame

    @staticmethod
    def read(directory: Path) -> "DiskTable":
        """Read it from the traces' directory. Raises FileError when a file is missing or is another table."""
        tables = []
        needed = ({"vm", "ts_s", "write_pages4k", "write_wss_bytes"}, {"vm", "days", "write_reqs", "write_size_avg"})
        for name, columns in zip((TABLE, SUMMARY), needed, strict=True):
            path = directory / name
            try:
                table = pd.read_csv(path)
            except (OSError, EOFError, ValueError) as error:
                raise FileError(f"cannot read the disks' table: {error}", place=str(path), hint=_WHERE) from None
            if missing := columns - set(table.columns):
                raise FileError(f"the table lacks {', '.join(sorted(missing))}", place=str(path), hint=_WHERE)
            tables.append(table)
        return DiskTable(*tables)


@dataclass(frozen=True, slots=True)
class Target:
    """What a fit aims at: a profile, and what was measured besides. `span` is nanoseconds."""

    kind: str
    profile: Profile
    span: int
    sequential: float
    working_set: int


def trace_target(trace: BlockTrace) -> Target:
    """What a trace says."""
    ends = trace.lba + trace.sectors
    follows = float(np.mean(trace.lba[1:] == ends[:-1])) if len(trace) > 1 else 0.0
    profile = measure_writes(trace.issued, trace.lba, trace.sectors, trace.duration)
    everything = unique(np.zeros(1, np.int64), trace.lba, ends) * SECTOR
    return Target("trace", profile, trace.duration, follows, everything)


def disk_targets(table: DiskTable) -> dict[str, Target]:
    """The typical disks of `QUANTILES`: the rate's quantile, and for the rest the medians of its neighbours."""
    summary = table.summary.set_index("vm")
    summary = summary.assign(rate=summary.write_reqs / (summary.days * 86_400))
    summary = summary[summary.write_reqs > 0].sort_values(["rate", "write_reqs"])
    grouped = {str(vm): rows for vm, rows in table.windows.groupby("vm")}
    found: dict[str, Target] = {}
    for name, quantile in QUANTILES.items():
        rate = float(summary.rate.quantile(quantile))
        at = round(quantile * (len(summary) - 1))
        low = max(0, min(at - NEIGHBOURS // 2, len(summary) - NEIGHBOURS))
        near = summary.iloc[low : low + NEIGHBOURS]
        shapes = pd.DataFrame([_disk_shape(grouped[str(vm)]) for vm in near.index]).median()
        size = float(near.write_size_avg.median())
        profile: Profile = {"writes/s": rate, "MB/s": rate * size / 1e6, "mean size B": size}
        for q in (5, 50, 95, 99):
            profile[f"size p{q} B"] = float(near[f"write_size_p{q}"].median())
        profile |= {str(statistic): float(value) for statistic, value in shapes.items()}
        follows = float((near.write_seq_count / near.write_reqs).median())
        found[name] = Target("disk", profile, WEEK * HALF_HOUR * SECOND, follows, int(near.write_wss.median()))
    return found


def _disk_shape(rows: pd.DataFrame) -> Profile:
    """Variation and rewriting of one disk; idle half-hours that the table leaves out count as such."""
    nth = (np.ceil(rows.ts_s / HALF_HOUR) - 1).clip(lower=0).astype(int)
    pages = np.asarray(np.bincount(nth, rows.write_pages4k.to_numpy(np.float64)), np.float64)
    busy = rows[rows.write_wss_bytes > 0]
    factor = float((busy.write_pages4k * (PAGE * SECTOR) / busy.write_wss_bytes).median())
    # A disk recorded for months would have more windows to peak in: the busiest week stands for it.
    if len(pages) > WEEK:
        week = int(np.argmax(np.convolve(pages, np.ones(WEEK), "valid")))
        pages = pages[week : week + WEEK]
    return {**disk_variation(pages), "coalescing 30 min, 4-KiB pages": factor}
