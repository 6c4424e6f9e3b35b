"""Planner: what a churn profile needs, as the field's deployment planners tell it, and what they leave out.

What they tell: products.md 2.2.

A profile is bytes a minute. Sending is first in, first out at a constant bandwidth: Lindley's recursion gives the
backlog, and RPO is the age of the oldest byte that waits (products.md 3.2, form 2).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.files.models import load_model
from drsim.sim.fluid.load import Load
from drsim.sim.layout import Layout
from drsim.sim.run import load_traces
from drsim.sim.streams import Streams

Float = NDArray[np.float64]
MINUTE = 60.0
DAY = 1440  # minutes
GIVEN = {"always": 1.0, "mostly": 0.9}


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Bytes written in each minute, float64[minutes], by how many VMs with how many bytes of disks."""

    churn: Float
    vms: int
    disks: float

    def grown(self, share: float) -> "Profile":
        """With so much more churn."""
        return replace(self, churn=self.churn * (1 + share))

    def with_disks(self, nbytes: float) -> "Profile":
        """With disks of this size."""
        return replace(self, disks=nbytes)


def profile_of(source: str, overrides: tuple[str, ...] = ()) -> Profile:
    """A profile from a CSV (columns time_s and bytes, perhaps vm), or from a model's workloads. Raises FileError."""
    if source.endswith(".csv") or source.endswith(".csv.gz"):
        return _table(Path(source))
    model = load_model(source, overrides=overrides)
    layout = Layout(model)
    protected = {vm for vpg in layout.vpgs for spec in vpg.streams for vm in spec.vms}
    vms = {name: vm for name, vm in layout.vms.items() if layout.vm_ids[name] in protected}
    groups = {each: group for group, names in model.members().items() for each in names}
    tick = int(MINUTE * 1e9)
    load = Load(vms, tick, Streams(model.run.seed), load_traces(model), model.faults, groups)
    minutes = max(1, model.run.until // tick)
    parts = [load.block(n, min(4096, minutes - n)).sum(1, dtype=float) for n in range(0, minutes, 4096)]
    disks = float(sum(volume.size for vm in vms.values() for volume in vm.volumes))
    return Profile(np.concatenate(parts), len(vms), disks)


def _table(path: Path) -> Profile:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read the churn profile: {error}", place=str(path)) from error
    if missing := {"time_s", "bytes"} - set(table.columns):
        text = f"the profile lacks the column {' and '.join(sorted(missing))}"
        raise FileError(text, place=str(path), hint="a CSV with time_s, bytes and perhaps vm")
    if table.empty or not np.isfinite(table[["time_s", "bytes"]].to_numpy(float)).all() or (table.bytes < 0).any():
        raise FileError("the profile has no rows, or some that are no amounts", place=str(path))
    minute = ((table.time_s - table.time_s.min()) // MINUTE).astype(int)
    churn = np.bincount(minute, table.bytes.to_numpy(float))
    return Profile(np.asarray(churn, float), table.vm.nunique() if "vm" in table else 1, 0.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a given bandwidth comes to: RPO in seconds, violations a day, the worst day's RPO in the mean of days,

    and the initial sync, s; None when the link cannot ever do it.
    """

    p50: float
    p95: float
    worst: float
    violations: float
    peak_day: float
    initial: float | None


@dataclass(frozen=True, slots=True)
class Planned:
    """What a profile needs. Rates in bytes/s of the wire: mean, peak of a minute, and for the objective 100 % and 90 %

    of the time; journal: most bytes written within the history. short: share of the time in which a limit leaves less.
    """

    span: float
    vms: int
    mean: float
    peak: float
    always: float
    mostly: float
    journal: float
    given: Judged | None
    short: float | None


def ages(churn: Float, bandwidth: float) -> Float:
    """RPO at the end of each minute, s: how long ago the oldest byte that waits was written, evenly in its minute.

    churn: float64[minutes], wire bytes. What is written in the last minutes and cannot leave is as old as it is then.
    """
    arrived = np.concatenate(([0.0], np.cumsum(churn)))
    capacity = bandwidth * MINUTE
    slack = capacity * np.arange(len(arrived)) - arrived
    served = arrived + slack - np.maximum.accumulate(slack)
    # The last minute that has been served whole, and how much of the next one.
    whole = np.minimum(np.searchsorted(arrived, served + 1e-6, side="right") - 1, len(arrived) - 2)
    part = np.clip((served - arrived[whole]) / np.maximum(arrived[whole + 1] - arrived[whole], 1e-9), 0, 1)
    waits = arrived - served > 1e-6
    ages_ = np.where(waits, np.arange(len(arrived)) - (whole + part), 0) * MINUTE
    return np.asarray(np.maximum(0.0, ages_[1:]))


def needed(churn: Float, rpo: float, share: float) -> float:
    """The least bandwidth, bytes/s, with which RPO is at most `rpo` for a share of the time: bisection to 0.1 %."""

    def good(bandwidth: float) -> bool:
        return float(np.mean(ages(churn, bandwidth) <= rpo + 1e-6)) >= share

    low, high = 0.0, float(churn.max(initial=0)) / MINUTE + 1e-9
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def plan(
    profile: Profile, *, rpo: float, history: float, squeeze: float = 1.0, bandwidth: float | None = None,
    limit: float | None = None,
) -> Planned:  # fmt: skip
    """What a profile needs. rpo, history: seconds. squeeze: wire bytes for each written one. bandwidth: bytes/s."""
    wire = profile.churn * squeeze
    total = np.concatenate(([0.0], np.cumsum(profile.churn)))
    window = max(1, round(history / MINUTE))
    back = np.maximum(0, np.arange(1, len(total)) - window)
    kept = total[1:] - total[back]
    return Planned(
        len(wire) * MINUTE, profile.vms, float(wire.mean()) / MINUTE, float(wire.max(initial=0)) / MINUTE,
        needed(wire, rpo, 1.0), needed(wire, rpo, 0.9), float(kept.max(initial=0)),
        None if bandwidth is None else _judge(profile, wire, bandwidth, rpo, squeeze),
        None if limit is None else float(np.mean(kept > limit)),
    )  # fmt: skip


def _judge(profile: Profile, wire: Float, bandwidth: float, rpo: float, squeeze: float) -> Judged:
    found = ages(wire, bandwidth)
    late = found > rpo
    begins = np.flatnonzero(late & ~np.concatenate(([False], late[:-1])))
    days = max(1.0, len(wire) / DAY)
    peaks = [float(found[n : n + DAY].max()) for n in range(0, len(found), DAY)]
    spare = bandwidth - float(wire.mean()) / MINUTE
    initial = profile.disks * squeeze / spare if spare > 0 else None
    p50, p95 = (float(q) for q in np.quantile(found, (0.5, 0.95)))
    return Judged(p50, p95, float(found.max()), len(begins) / days, float(np.mean(peaks)), initial)


def plain(found: Planned) -> dict[str, Any]:
    """As plain values: rates in bits a second, times in seconds, sizes in bytes."""
    told = asdict(found)
    bits: Callable[[str], float] = lambda key: told.pop(key) * 8  # noqa: E731
    return {f"{key}_bps": bits(key) for key in ("mean", "peak", "always", "mostly")} | told
