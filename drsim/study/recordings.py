"""Recordings: workload and platform parameters from a churn table, or from a run's own tables, with the fit's error.

A churn table is a CSV with `time_s` and `bytes` in windows of equal length, and perhaps `vm` and `writes`. Its mean is
read off; its bursts are fitted as `calibrate.fit_bursts` does, at the scales that the table can show: its window, ten
and sixty of them. What a table cannot show, sizes and places, stays at what the catalogue's median disk has.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.core.units import SECOND
from drsim.files.models import load_model
from drsim.sim.fluid.load import Load
from drsim.sim.streams import Streams
from drsim.spec.workload import Fitted
from drsim.study.calibrate import fit_bursts
from drsim.study.fit_report import variation
from drsim.study.output import MARK

Float = NDArray[np.float64]
TYPICAL = ("hundred-vms", "median")
"""Where sizes and places come from: a model's VM."""
GROUPS = (1, 10, 60)
LEAST = 30
"""Windows that a table must have, and that a scale must be seen in."""
REALISATIONS = 40


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of what was recorded and of what the fit generates."""

    what: str
    recorded: float
    fitted: float

    @property
    def error(self) -> float:
        """Relative; NaN where nothing was recorded."""
        return self.fitted / self.recorded - 1 if self.recorded else float("nan")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was found: model values by path or VM (YAML values), and how far the fit misses."""

    values: Mapping[str, object]
    rows: list[Row]


def read_churn(path: Path) -> tuple[dict[str, Float], dict[str, float], int]:
    """Bytes of each window by VM, the mean size of their writes (NaN: not told), the window in seconds."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read the churn table: {error}", place=str(path)) from error
    if missing := {"time_s", "bytes"} - set(table.columns):
        text = f"the table lacks the column {' and '.join(sorted(missing))}"
        raise FileError(text, place=str(path), hint="a CSV with time_s, bytes, and perhaps vm and writes")
    times = np.unique(table.time_s.to_numpy(float))
    window = int(np.median(np.diff(times))) if len(times) > 1 else 0
    if window < 1:
        raise FileError("the table has no two windows", place=str(path), hint="time_s are seconds, in equal steps")
    vms = table.assign(vm=table.vm.astype(str) if "vm" in table else "vm")
    series, sizes = {}, {}
    count = round(float(times[-1] - times[0]) / window) + 1
    if count < LEAST:
        raise FileError(f"{count} windows are too few for a fit", place=str(path), hint=f"{LEAST} or more")
    for name, rows in vms.groupby("vm"):
        at = np.round((rows.time_s - times[0]) / window).astype(int)
        series[str(name)] = np.asarray(np.bincount(at, rows.bytes.to_numpy(float), count), float)
        writes = float(rows.writes.sum()) if "writes" in rows else 0.0
        sizes[str(name)] = float(rows.bytes.sum()) / writes if writes else float("nan")
    return series, sizes, window


def fit_churn(path: Path, *, seed: int = 0) -> Calibrated:
    """A workload for each VM of a churn table. Raises FileError for a table that does not tell enough."""
    series, sizes, window = read_churn(path)
    found: dict[str, object] = {}
    rows: list[Row] = []
    for name, churn in series.items():
        fitted = _fit(churn, sizes[name], window, seed)
        sizes_ = [{"size": f"{mix.size} B", "share": round(mix.share, 4)} for mix in fitted.sizes]
        plain = fitted.model_dump(mode="json", exclude_defaults=True)
        found[name] = {"kind": "fitted", **plain, "sizes": sizes_}
        rows += _compare(name, churn, fitted, window, seed)
    return Calibrated(found, rows)


def _fit(churn: Float, size: float, window: int, seed: int) -> Fitted:
    model = load_model(TYPICAL[0])
    base = model.vms[TYPICAL[1]].workload
    assert isinstance(base, Fitted)
    mean = sum(mix.size * mix.share for mix in base.sizes) / sum(mix.share for mix in base.sizes)
    if np.isfinite(size):
        scale = size / mean
        mixes = tuple(m.model_copy(update={"size": max(512, round(m.size * scale / 512) * 512)}) for m in base.sizes)
        base = base.model_copy(update={"sizes": mixes})
        mean = sum(mix.size * mix.share for mix in mixes) / sum(mix.share for mix in mixes)
    rate = float(churn.mean()) / window / mean
    if not rate:
        raise FileError("a VM of the table writes nothing", place="bytes", hint="leave it out")
    scales = [window * group for group in GROUPS if len(churn) // group >= LEAST]
    goals = {scale: variation(_grouped(churn, scale // window)) for scale in scales}
    peak = float(churn.max() / churn.mean())
    bursts = fit_bursts(scales, goals, (window, peak), len(churn) * window, seed=seed)
    return base.model_copy(update={"rate": round(rate, 3), "bursts": bursts})


def _grouped(churn: Float, group: int) -> Float:
    whole = len(churn) // group * group
    return np.asarray(churn[:whole].reshape(-1, group).sum(1))


def _compare(name: str, churn: Float, fitted: Fitted, window: int, seed: int) -> list[Row]:
    """What was recorded beside the typical run of what was fitted."""
    vm = load_model(TYPICAL[0]).vms[TYPICAL[1]].model_copy(update={"workload": fitted})
    vms = {f"{name}/{n}": vm for n in range(REALISATIONS)}
    load = Load(vms, window * SECOND, Streams(seed), {}, (), dict.fromkeys(vms, ""))
    made = load.block(0, len(churn)).astype(float)
    rows = [Row(f"{name}: bytes/s", float(churn.mean()) / window, float(np.median(made.mean(0))) / window)]
    for group in GROUPS:
        if len(churn) // group >= LEAST:
            got = [variation(_grouped(made[:, n], group)) for n in range(REALISATIONS)]
            rows.append(Row(f"{name}: variation over {group * window} s", variation(_grouped(churn, group)),
                            float(np.median(got))))  # fmt: skip
    peaks = made.max(0) / made.mean(0)
    return [*rows, Row(f"{name}: peak over mean", float(churn.max() / churn.mean()), float(np.median(peaks)))]


def fit_run(folder: Path) -> Calibrated:
    """Platform parameters from a run's own tables: what the WAN carried, how late checkpoints were listed, how often.

    Raises FileError when the folder is no result of `drsim run` with checkpoints.
    """
    try:
        summary = json.loads((folder / MARK).read_text(encoding="utf-8"))
        series = pd.read_parquet(folder / "timeseries.parquet")
        points = pd.read_parquet(folder / "checkpoints.parquet")
    except (OSError, ValueError) as error:
        raise FileError(
            f"this is no result of a run: {error}", place=str(folder), hint="a folder of `drsim run MODEL --out FOLDER`"
        ) from error
    if points.empty:
        raise FileError("no checkpoint was listed in this run", place=str(folder))
    values: dict[str, object] = {}
    rows: list[Row] = []
    points = points[points.replication == 0]
    for vpg, mine in points.groupby("vpg"):
        gaps, late = mine.taken_s.diff().dropna(), (mine.listed_s - mine.taken_s).sort_values()
        fastest = late.iloc[: max(1, len(late) // 4)]  # of the others queues are part
        values[f"vpgs.{vpg}.checkpoint_interval"] = f"{gaps.median():.4g} s"
        values[f"latency of {vpg}"] = f"{fastest.median() * 1000:.4g} ms"
        rows.append(Row(f"{vpg}: interval, s (mean, median)", float(gaps.mean()), float(gaps.median())))
        rows.append(Row(f"{vpg}: latency, s (least, fastest quarter)", float(late.min()), float(fastest.median())))
    wan = series[(series.kind == "wan") & (series.replication == 0)]
    for link, of in wan.groupby("name"):
        total = of.pivot_table(index="time_s", columns="measure", values="value").sum(axis=1)
        step = np.diff(total.index.to_numpy(float))
        rate = np.diff(total.to_numpy(float))[step > 0] / step[step > 0] * 8
        if not len(rate) or not rate.max():
            continue
        busy = float(np.quantile(rate, 0.995))
        full = float(np.mean(rate > 0.97 * busy)) > 0.02
        values[f"links.{str(link).split(' ')[0]}.bandwidth"] = f"{'' if full else 'at least '}{busy / 1e6:.4g} Mbit/s"
        known = float(summary["wan"][link]["bandwidth_bps"])
        if full:
            rows.append(Row(f"{link}: bandwidth, bit/s", known, busy))
    return Calibrated(values, rows)
