"""Results: runs folded into a summary of plain numbers, and into tidy frames.

The summary of several replications has the mean of each RPO figure with its 95 % confidence interval (Student t over
replications); every other figure is that of the worst replication, or the mean where it is a share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from drsim import __version__
from drsim.core.measure import Teeth, attribute, joined, time_in
from drsim.core.units import SECOND
from drsim.sim.fluid.run import FluidRun
from drsim.sim.layout import VpgLayout
from drsim.sim.run import Run
from drsim.spec.model import Model
from drsim.study import alerts, fluid, operation
from drsim.study.stats import interval

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
UNEXPLAINED = "network congestion"  # nothing is broken and nothing synchronizes: the data waits for the link


@dataclass(frozen=True, slots=True)
class Replication:
    """What is kept of one run when it is over: its figures and frames."""

    seed: int
    figures: dict[str, Any]
    frames: dict[str, pd.DataFrame]


def _rpo(teeth: Teeth) -> dict[str, float]:
    """Seconds; zero for a VPG that was lost before anything could be observed, with nothing to lose yet."""
    if not len(teeth.start):
        return dict.fromkeys([*QUANTILES, "mean"], 0.0)
    values = [*teeth.quantiles(list(QUANTILES.values())), teeth.mean()]
    return {name: value / SECOND for name, value in zip([*QUANTILES, "mean"], values, strict=True)}


def missed_intervals(run: Run, vpg: VpgLayout) -> list[tuple[int, int]]:
    """When the service level was missed: RPO above its alert, or a history shorter than configured."""
    record, end = run.record(vpg.name), run.observed(vpg.name)
    missed = run.teeth(vpg.name).above(vpg.spec.rpo_alert)
    changes = [*record.history_ok, (end, "")]
    missed += [(a, b) for (a, state), (b, _) in pairwise(changes) if state == "missed" and a < b]
    return joined(sorted(missed))


def _history_s(run: Run, name: str) -> float:
    record = run.record(name)
    if not record.taken:
        return 0.0
    first = record.retired[-1][1] if record.retired else record.ids[0]
    at = int(np.searchsorted(np.asarray(record.ids), first))
    return (record.taken[-1] - record.taken[at]) / SECOND if at < len(record.ids) else 0.0


def _vpg_figures(run: Run, vpg: VpgLayout) -> dict[str, Any]:
    name, record, end = vpg.name, run.record(vpg.name), run.observed(vpg.name)
    teeth = run.teeth(name)
    missed = missed_intervals(run, vpg)
    missed_ns = sum(b - a for a, b in missed)
    causes = attribute(missed, record.causes, end, UNEXPLAINED)
    samples = run.recorder.samples
    return {
        "rpo_s": _rpo(teeth),
        "rpo_alert_s": vpg.spec.rpo_alert / SECOND,
        "worst_loss": {
            "seconds": float(teeth.high.max(initial=0)) / SECOND,
            "writes": max([record.loss.writes, *record.lost_writes]),
            "bytes": max([record.loss.nbytes, *record.lost_bytes]),
        },
        "status_share": {k: v / max(1, end) for k, v in time_in(record.statuses, end).items()},
        "journal": {
            "peak_bytes": max(s.journal[name] for s in samples),
            "largest_vm_peak_bytes": max(s.journal_largest[name] for s in samples),
            "limit_bytes": vpg.spec.journal.limit_bytes,
            "history_s": _history_s(run, name),
            "configured_history_s": vpg.spec.journal.history / SECOND,
        },
        "checkpoints": {
            "sealed": record.sealed,
            "listed": len(record.listed),
            "skipped": dict(record.skipped),
            "holds": len(run.world.holds[name]),
            "longest_hold_s": max(run.world.holds[name], default=0) / SECOND,
        },
        "sla": {
            "missed_s": missed_ns / SECOND,
            "missed_share": missed_ns / max(1, end),
            "causes": {cause: ns / missed_ns for cause, ns in causes.items()},
        },
    }


def _pooled(run: Run, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures over all VPGs: RPO of a VPG and an instant chosen at random, sums and worst ones."""
    each = list(figures.values())
    missed = sum(f["sla"]["missed_s"] for f in each)
    observed = sum(run.observed(name) for name in figures) / SECOND
    causes: dict[str, float] = {}
    skipped: dict[str, int] = {}
    shares: dict[str, float] = {}
    for name, f in figures.items():
        weight = run.observed(name) / SECOND / max(observed, 1e-9)
        for cause, share in f["sla"]["causes"].items():
            causes[cause] = causes.get(cause, 0.0) + share * f["sla"]["missed_s"] / missed
        for reason, n in f["checkpoints"]["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + n
        for label, share in f["status_share"].items():
            shares[label] = shares.get(label, 0.0) + share * weight
    return {
        "rpo_s": _rpo(Teeth.pooled([run.teeth(name) for name in figures])),
        "rpo_alert_s": min(f["rpo_alert_s"] for f in each),
        "worst_loss": {k: max(f["worst_loss"][k] for f in each) for k in ("seconds", "writes", "bytes")},
        "status_share": shares,
        "journal": {
            "peak_bytes": max(sum(s.journal.values()) for s in run.recorder.samples),
            "largest_vm_peak_bytes": max(f["journal"]["largest_vm_peak_bytes"] for f in each),
            "limit_bytes": None,
            "history_s": min(f["journal"]["history_s"] for f in each),
            "configured_history_s": max(f["journal"]["configured_history_s"] for f in each),
        },
        "checkpoints": {
            "sealed": sum(f["checkpoints"]["sealed"] for f in each),
            "listed": sum(f["checkpoints"]["listed"] for f in each),
            "skipped": skipped,
            "holds": sum(f["checkpoints"]["holds"] for f in each),
            "longest_hold_s": max(f["checkpoints"]["longest_hold_s"] for f in each),
        },
        "sla": {"missed_s": missed, "missed_share": missed / max(observed, 1e-9), "causes": causes},
    }


def _wan(run: Run) -> dict[str, Any]:
    samples, links = run.recorder.samples, {}
    seconds = np.diff([s.time for s in samples]) / SECOND
    for key in samples[0].wan:
        totals = np.array([sum(s.wan[key].values()) for s in samples])
        rates = np.diff(totals)[seconds > 0] * 8 / seconds[seconds > 0]
        links[key] = {
            "bytes": {kind: round(n) for kind, n in samples[-1].wan[key].items()},
            "mean_bps": float(totals[-1] * 8 / (run.end / SECOND)),
            "peak_bps": float(rates.max(initial=0.0)),
            "bandwidth_bps": run.model.links[key.partition(" ")[0]].bandwidth,
        }
    return links


def figures(run: Run | FluidRun) -> dict[str, Any]:
    """All figures of one run as plain numbers: "all", "vpgs", "wan", "buffers", "alerts", "disaster", "operations"."""
    if isinstance(run, FluidRun):
        return fluid.figures(run)
    vpgs = {vpg.name: _vpg_figures(run, vpg) for vpg in run.layout.vpgs}
    lost = {
        name: {
            "at_s": record.ended / SECOND,
            "loss_s": float(run.teeth(name).high[-1:].sum()) / SECOND,  # none when it was lost at the very start
            "loss_writes": record.loss.writes,
            "loss_bytes": record.loss.nbytes,
        }
        for name, record in run.recorder.vpgs.items()
        if record.ended is not None
    }
    return {
        "all": _pooled(run, vpgs),
        "vpgs": vpgs,
        "wan": _wan(run),
        "buffers": {
            address: {"peak_bytes": run.recorder.buffer_peak[address], "usable_bytes": machine.limit}
            for address, machine in run.world.protected.items()
        },
        "alerts": alerts.figures(run),
        "disaster": lost or None,
        "operations": [operation.figures(each) for each in run.world.recoveries.operations if each.report] or None,
    }


# -- measures by name ----------------------------------------------------------------------------------------------


def measures(run: Run | FluidRun) -> dict[str, float]:
    """Every figure of one run as a number under a dotted name: "vpgs.crm.rpo_s.max", "wan.wan prod>dr.bytes.sync".

    Beside `figures`: of each VPG the seconds in each status ("status_s"), the missed seconds by cause ("causes_s"),
    its syncs ("sync"), what is dirty at the end ("dirty_bytes") and how often and when first it lost every checkpoint
    ("withdrawn"); what never happened has no time. Of each operation that is over, by its number, its figures and
    its "outcome"; over all that serve "all.rto_s". Of the estate how often each kind of fault mattered ("mattered").
    """
    each_figure = figures(run)
    found = dict(_flat(each_figure))
    if isinstance(run, Run):
        found |= {f"mattered.{kind}": float(n) for kind, n in run.mattered.items()}
        for vpg in run.layout.vpgs:
            found.update({f"vpgs.{vpg.name}.{name}": value for name, value in _more(run, vpg)})
    for n, each in enumerate(each_figure["operations"] or (), 1):
        found.update({f"operations.{n}.{name}": value for name, value in _flat(each)})
        found[f"operations.{n}.outcome.{each['outcome']}"] = 1.0
    if served := [each["rto_s"] for each in each_figure["operations"] or () if each["rto_s"] is not None]:
        found |= {"all.rto_s.mean": fmean(served), "all.rto_s.max": max(served)}
    for name, value in list(found.items()):
        before, part, cause = name.rpartition(".sla.causes.")
        if part:
            found[f"{before}.causes_s.{cause}"] = value * found[f"{before}.sla.missed_s"]
    return found


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in tree.items():
        match value:
            case dict():
                yield from _flat(value, f"{prefix}{name}.")
            case int() | float():
                yield f"{prefix}{name}", float(value)


def _more(run: Run, vpg: VpgLayout) -> Iterator[tuple[str, float]]:
    record = run.record(vpg.name)
    for status, ns in time_in(record.statuses, run.observed(vpg.name)).items():
        yield f"status_s.{status}", ns / SECOND
    yield "dirty_bytes", float(sum(run.world.sender(stream.id).bitmap.nbytes for stream in vpg.streams))
    yield "withdrawn.times", float(len(record.withdrawn))
    if record.withdrawn:
        yield "withdrawn.first_s", record.withdrawn[0] / SECOND
    syncs = [(t / SECOND, kind, text) for t, of, kind, text in run.recorder.events if of == vpg.name]
    began = [t for t, kind, _ in syncs if kind == "sync started"]
    ended = [(t, int(text.partition(" ")[0])) for t, kind, text in syncs if kind == "sync ended"]
    yield "sync.ended", float(len(ended))
    yield "sync.sent_bytes", float(sum(sent for _, sent in ended))
    if began:
        yield "sync.first_began_s", began[0]
    if ended:
        yield "sync.first_ended_s", ended[0][0]
        yield "sync.last_ended_s", ended[-1][0]


# -- frames -------------------------------------------------------------------------------------------------------


def frames(run: Run | FluidRun, replication: int = 0) -> dict[str, pd.DataFrame]:
    """Tidy frames of one run: "timeseries", "checkpoints", "events"; times in seconds, sizes in bytes.

    Alerts are events too; the columns "alert", "severity" and "entity" are empty for all others. A fluid run has the
    frames "timeseries" and "missed".
    """
    if isinstance(run, FluidRun):
        return fluid.frames(run, replication)
    rows: list[tuple[float, str, str, str, float]] = []
    for s in run.recorder.samples:
        t = s.time / SECOND
        rows += [(t, "vpg", name, "rpo_s", ns / SECOND) for name, ns in s.rpo.items()]
        rows += [(t, "vpg", name, "journal_bytes", n) for name, n in s.journal.items()]
        rows += [(t, "vra", name, "buffer_bytes", n) for name, n in s.buffers.items()]
        rows += [(t, "wan", name, f"{kind}_bytes", n) for name, by in s.wan.items() for kind, n in by.items()]
    series = pd.DataFrame(rows, columns=["time_s", "kind", "name", "measure", "value"])
    checkpoints = pd.concat([_checkpoints(run, vpg.name) for vpg in run.layout.vpgs], ignore_index=True)
    events = pd.DataFrame(
        [(t / SECOND, vpg, kind, text) for t, vpg, kind, text in run.recorder.events],
        columns=["time_s", "vpg", "kind", "text"],
    )
    events = pd.concat([events, alerts.frame_of(run)], ignore_index=True).fillna("")
    events = events.astype({"time_s": float}).sort_values("time_s", kind="stable", ignore_index=True)
    made = {"timeseries": series, "checkpoints": checkpoints, "events": events}
    for frame in made.values():
        frame.insert(0, "replication", replication)
        frame.insert(1, "seed", run.seed)
    return made


def _checkpoints(run: Run, name: str) -> pd.DataFrame:
    record = run.record(name)
    ids = np.asarray(record.ids, np.int64)
    retired = np.full(len(ids), np.nan)
    for time, before, _ in reversed(record.retired):
        retired[ids < before] = time / SECOND
    return pd.DataFrame(
        {
            "vpg": name,
            "checkpoint": ids,
            "taken_s": np.asarray(record.taken, np.int64) / SECOND,
            "listed_s": np.asarray(record.listed, np.int64) / SECOND,
            "tag": [record.tags.get(int(i), "") for i in ids],
            "loss_writes_before": np.asarray(record.lost_writes, np.int64),
            "loss_bytes_before": np.asarray(record.lost_bytes, np.int64),
            "retired_s": retired,
        }
    )


# -- replications -------------------------------------------------------------------------------------------------


def _merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One VPG's (or the pooled) figures over replications."""
    first = parts[0]
    merged = {**first, "rpo_s": {}}
    for name in first["rpo_s"]:
        value, low, high = interval([p["rpo_s"][name] for p in parts])
        merged["rpo_s"][name] = {"value": value, "low": low, "high": high}
    merged["worst_loss"] = {k: max(p["worst_loss"][k] for p in parts) for k in first["worst_loss"]}
    labels = dict.fromkeys(label for p in parts for label in p["status_share"])
    merged["status_share"] = {
        label: sum(p["status_share"].get(label, 0.0) for p in parts) / len(parts) for label in labels
    }
    journal = dict(first["journal"])
    for key in ("peak_bytes", "largest_vm_peak_bytes"):
        journal[key] = max(p["journal"][key] for p in parts)
    journal["history_s"] = min(p["journal"]["history_s"] for p in parts)
    merged["journal"] = journal
    missed = sum(p["sla"]["missed_s"] for p in parts)
    causes: dict[str, float] = {}
    for p in parts:
        for cause, share in p["sla"]["causes"].items():
            causes[cause] = causes.get(cause, 0.0) + share * p["sla"]["missed_s"] / missed
    merged["sla"] = {
        "missed_s": missed / len(parts),
        "missed_share": sum(p["sla"]["missed_share"] for p in parts) / len(parts),
        "causes": causes,
    }
    return merged


def summarise(
    model: Model, name: str, parts: Sequence[dict[str, Any]], *, trace_digest: str, command: str
) -> dict[str, Any]:
    """The summary of one or more replications; `parts` are their `figures`. Plain JSON values."""
    run = model.run
    return {
        "version": __version__,
        "model": {"name": name, "about": model.about},
        "run": {
            "seed": run.seed,
            "replications": len(parts),
            "fidelity": run.fidelity,
            "slice_s": run.slice / SECOND,
            "until_s": run.until / SECOND,
            "trace_digest": trace_digest,
            "command": command,
        },
        "all": _merge([p["all"] for p in parts]),
        "vpgs": {vpg: _merge([p["vpgs"][vpg] for p in parts if vpg in p["vpgs"]]) for vpg in parts[0]["vpgs"]},
        "wan": _merge_wan([p["wan"] for p in parts]),
        "buffers": {
            address: {**b, "peak_bytes": max(p["buffers"][address]["peak_bytes"] for p in parts)}
            for address, b in parts[0]["buffers"].items()
        },
        "alerts": alerts.merge([p["alerts"] for p in parts]),
        "disaster": parts[0]["disaster"],
        "operations": parts[0]["operations"],
    }


def _merge_wan(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged = {}
    for link, first in parts[0].items():
        each = [p[link] for p in parts]
        merged[link] = {
            **first,
            "bytes": {k: round(sum(e["bytes"][k] for e in each) / len(each)) for k in first["bytes"]},
            "mean_bps": sum(e["mean_bps"] for e in each) / len(each),
            "peak_bps": max(e["peak_bps"] for e in each),
        }
    return merged
