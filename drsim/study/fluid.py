"""Fluid results: a fluid run's figures under the names that every run's have, its tables, and its page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from drsim.core.measure import joined
from drsim.core.units import SECOND
from drsim.sim.fluid.run import FluidRun
from drsim.study import style
from drsim.study.canvas import amounts, durations
from drsim.study.page import Page, Section, lines

SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}
CONFIGURED = "VPG configuration changed"
"""The cause of what is missed until a VPG has its first checkpoint, as in `core.messages.Trigger`."""
WORST = 8  # VPGs that a page shows one by one


def short(run: FluidRun, vpg: int) -> list[tuple[int, int]]:
    """When a journal limit left a VPG less than its history, ns."""
    mine = run.network.vpg_of_stream[run.network.stream_of_vm] == vpg
    changes = np.diff(run.short[:, mine].any(1).astype(np.int8), prepend=0, append=0)
    begins, ends = (np.flatnonzero(changes == sign) * run.journals.width for sign in (1, -1))
    return [(a, min(b, run.end)) for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]


def missed(run: FluidRun, vpg: int) -> list[tuple[int, int]]:
    """When a VPG's service level was missed, ns: RPO above its alert, or a history shorter than configured."""
    return joined(sorted([*run.rpo.missed[vpg], *short(run, vpg)]))


def _rpo(run: FluidRun, which: "slice | int") -> dict[str, float]:
    return {**dict(zip(SHARES, run.rpo.quantiles(tuple(SHARES.values()), which), strict=True)),
            "mean": run.rpo.mean(which)}  # fmt: skip


def _begun(run: FluidRun, n: int) -> int:
    """When a leg had its first checkpoint, ns, if it began with a sync; else when it began."""
    leg = run.legs[n]
    if leg.after is None and leg.vpg.spec.sync == "done":
        return leg.begins
    mine = [stream for stream, k in enumerate(run.network.vpg_of_stream) if k == n]
    ended = {sync.stream: sync.ended for sync in reversed(run.syncs) if sync.stream in mine}
    return max(ended.values()) if len(ended) == len(mine) else leg.ends


def _syncs(run: FluidRun, n: int) -> dict[str, float]:
    """Of a leg's syncs how many ended, what they sent, and when the first and the last of them was over."""
    mine = [sync for sync in run.syncs if run.network.vpg_of_stream[sync.stream] == n]
    found = {"ended": float(len(mine)), "sent_bytes": sum(sync.sent for sync in mine)}
    if mine:
        found |= {"first_ended_s": mine[0].ended / SECOND, "last_ended_s": mine[-1].ended / SECOND}
    return found


def _turns(run: FluidRun) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Each failover and move, and what it meant for protection."""
    rows = []
    for n, leg in enumerate(run.legs):
        turn = leg.before
        if turn is None:
            continue
        back = run.legs[n + 1] if turn.reverse and n + 1 < len(run.legs) and run.legs[n + 1].after == turn else None
        synced = next((s.ended for s in run.syncs if back and run.network.vpg_of_stream[s.stream] == n + 1), None)
        after = [turn.service, None if back is None else back.begins, synced]
        rows.append((
            f"{turn.kind} of {turn.vpg} to {leg.vpg.target}", style.seconds(turn.begun / SECOND),
            *("" if time is None else f"+ {style.seconds((time - turn.begun) / SECOND)}" for time in after),
            "" if synced is None else style.seconds((synced - turn.cut) / SECOND),
        ))  # fmt: skip
    return ("operation", "begins", "VMs answer", "protected the other way", "in sync again", "no checkpoint for"), rows


def _vpg(run: FluidRun, n: int, kept: Any) -> dict[str, Any]:
    leg = run.legs[n]
    spec, lasted = leg.vpg.spec, max(1e-9, (leg.ends - leg.begins) / SECOND)
    mine = run.network.vpg_of_stream[run.network.stream_of_vm] == n
    seconds = sum(b - a for a, b in missed(run, n)) / SECOND
    limited = sum(b - a for a, b in short(run, n)) / SECOND
    begun = _begun(run, n)
    first = sum(max(0, min(b, begun) - a) for a, b in missed(run, n)) / SECOND
    spent = {CONFIGURED: first, "journal limit": limited, "network congestion": seconds - limited - first}
    causes = {cause: share / seconds for cause, share in spent.items()} if seconds else {}
    rate, writes = float(run.raw[mine].sum()) / lasted, float((run.raw[mine] / run.size[mine]).sum()) / lasted
    highest = float(run.rpo.highest[n])
    return {
        "leg": {
            "begins_s": leg.begins / SECOND, "ends_s": leg.ends / SECOND, "from": leg.vpg.source, "to": leg.vpg.target,
        },
        "sync": _syncs(run, n),
        "rpo_s": _rpo(run, n),
        "rpo_alert_s": spec.rpo_alert / SECOND,
        "worst_loss": {"seconds": highest, "writes": round(writes * highest), "bytes": round(rate * highest)},
        "status_share": {
            "MeetingSLA": 1 - seconds / lasted, **({"RpoNotMeetingSLA": seconds / lasted} if seconds else {}),
        },
        "journal": {
            "peak_bytes": round(float(kept[:, n].max())),
            "largest_vm_peak_bytes": round(float(run.kept[:, mine].max())),
            "limit_bytes": spec.journal.limit_bytes,
            "history_s": min(float(run.reach[mine].min()), spec.journal.history / SECOND),
            "configured_history_s": spec.journal.history / SECOND,
        },
        "checkpoints": {
            "sealed": 0, "listed": round(float(run.listing[n]) / spec.checkpoint_interval), "skipped": {}, "holds": 0,
            "longest_hold_s": 0.0,
        },
        "sla": {
            "missed_s": seconds, "missed_share": seconds / lasted,
            "causes": {cause: share for cause, share in causes.items() if share > 0},
        },
    }  # fmt: skip


def figures(run: FluidRun) -> dict[str, Any]:
    """All figures of one run as plain numbers, as `results.figures` has them; what fluid does not know is empty."""
    kept = _by_vpg(run)
    vpgs = {name: _vpg(run, n, kept) for n, name in enumerate(run.network.vpgs)}
    each, observed = list(vpgs.values()), sum(leg.ends - leg.begins for leg in run.legs) / SECOND
    seconds = sum(f["sla"]["missed_s"] for f in each)
    causes: dict[str, float] = {}
    for f in each:
        for cause, share in f["sla"]["causes"].items():
            causes[cause] = causes.get(cause, 0.0) + share * f["sla"]["missed_s"] / seconds
    every = {
        "rpo_s": _rpo(run, slice(None)),
        "rpo_alert_s": min(f["rpo_alert_s"] for f in each),
        "worst_loss": {k: max(f["worst_loss"][k] for f in each) for k in ("seconds", "writes", "bytes")},
        "status_share": {
            k: sum(f["status_share"].get(k, 0.0) for f in each) / len(each) for k in ("MeetingSLA", "RpoNotMeetingSLA")
        },
        "journal": {
            "peak_bytes": round(float(kept.sum(1).max())),
            "largest_vm_peak_bytes": max(f["journal"]["largest_vm_peak_bytes"] for f in each),
            "limit_bytes": None,
            "history_s": min(f["journal"]["history_s"] for f in each),
            "configured_history_s": max(f["journal"]["configured_history_s"] for f in each),
        },
        "checkpoints": {
            "sealed": 0, "listed": sum(f["checkpoints"]["listed"] for f in each), "skipped": {}, "holds": 0,
            "longest_hold_s": 0.0,
        },
        "sla": {
            "missed_s": seconds, "missed_share": seconds / max(1e-9, observed),
            "causes": causes,
        },
    }  # fmt: skip
    return {
        "all": every, "vpgs": vpgs, "wan": _wan(run),
        "buffers": {
            vra: {"peak_bytes": round(float(run.peak[n])), "usable_bytes": round(float(run.network.buffer[n]))}
            for n, vra in enumerate(run.network.vras)
        },
        "alerts": [], "disaster": None, "operations": None,
    }  # fmt: skip


def _by_vpg(run: FluidRun) -> Any:
    """Journal bytes kept of each VPG: [bins, VPGs]."""
    first = run.network.first_vm[run.network.first_stream]
    return np.add.reduceat(run.kept, first, axis=1, dtype=float)


def _wan(run: FluidRun) -> dict[str, Any]:
    end, found = run.end / SECOND, {}
    times = np.array([0, *(s.time for s in run.samples)]) / SECOND
    for n, direction in enumerate(run.network.directions):
        totals = np.array([0.0, *(s.data[n] + s.sync[n] for s in run.samples)])
        rates = np.diff(totals) * 8 / np.maximum(np.diff(times), 1e-9)
        found[direction.key] = {
            "bytes": {"data": round(float(run.sent[n])), "sync": round(float(run.synced[n])), "control": 0},
            "mean_bps": float(run.sent[n] + run.synced[n]) * 8 / end,
            "peak_bps": float(rates.max(initial=0.0)),
            "bandwidth_bps": run.model.links[direction.link].bandwidth,
        }
    return found


def frames(run: FluidRun, replication: int = 0) -> dict[str, pd.DataFrame]:
    """Tidy frames: "timeseries" (RPO of VPGs, journals, buffers, WAN) and "missed"; seconds and bytes."""
    times = np.array([s.time for s in run.samples]) / SECOND
    kept, parts = _by_vpg(run), []
    bins = np.minimum(np.array([s.time for s in run.samples], np.int64) // run.journals.width, len(kept)) - 1

    def column(kind: str, name: str, measure: str, values: Any, which: Any = slice(None)) -> None:
        value = np.asarray(values, float)[which]
        rows = {"time_s": times[which], "kind": kind, "name": name, "measure": measure, "value": value}
        parts.append(pd.DataFrame(rows))

    for n, name in enumerate(run.network.vpgs):
        there = np.array([s.rpo[n] >= 0 for s in run.samples], bool)
        column("vpg", name, "rpo_s", _rpo_over_time(run, n), there)
        column("vpg", name, "journal_bytes", kept[np.maximum(bins, 0), n], there)
    for n, vra in enumerate(run.network.vras):
        column("vra", vra, "buffer_bytes", [s.buffers[n] for s in run.samples])
    for n, direction in enumerate(run.network.directions):
        column("wan", direction.key, "data_bytes", [s.data[n] for s in run.samples])
        column("wan", direction.key, "sync_bytes", [s.sync[n] for s in run.samples])
    rows = [(n, a / SECOND, b / SECOND) for k, n in enumerate(run.network.vpgs) for a, b in missed(run, k)]
    made = {
        "timeseries": pd.concat(parts, ignore_index=True),
        "missed": pd.DataFrame(rows, columns=["vpg", "begin_s", "end_s"]),
    }
    for frame in made.values():
        frame.insert(0, "replication", replication)
        frame.insert(1, "seed", run.seed)
    return made


def _rpo_over_time(run: FluidRun, vpg: int) -> Any:
    """RPO at each sample, s; NaN while a leg is not there."""
    rpo = np.array([sample.rpo[vpg] for sample in run.samples], float) / SECOND
    return np.where(rpo < 0, np.nan, rpo)


def over_time(axes: Axes, top: float) -> None:
    """An axis of durations from 0."""
    durations(axes, 0, top, log=False)


# -- the page -----------------------------------------------------------------------------------------------------


def page(run: FluidRun, summary: dict[str, Any], answer: str) -> Page:
    """The run for people: what came out, RPO of the worst VPGs, the WAN, a table of VPGs, and what was left out."""
    worst = sorted(summary["vpgs"].items(), key=lambda item: -item[1]["rpo_s"]["max"]["value"])
    names = [name for name, _ in worst[:WORST]]
    times = np.array([s.time for s in run.samples]) / SECOND
    index = {name: n for n, name in enumerate(run.network.vpgs)}
    rpo = {name: _rpo_over_time(run, index[name]) for name in names[:4]}
    wan = {}
    for n, direction in enumerate(run.network.directions):
        total = np.array([0.0, *(s.data[n] + s.sync[n] for s in run.samples)])
        wan[direction.key] = np.diff(total) * 8 / np.diff(np.concatenate(([0.0], times)))
    header = ("VPG", "RPO p50", "p95", "p99", "max", "missed", "journal at most", "history at last")
    rows = [
        (
            name, *(style.seconds(f["rpo_s"][q]["value"]) for q in SHARES),
            style.seconds(f["sla"]["missed_s"]) if f["sla"]["missed_s"] else "never",
            style.size(f["journal"]["peak_bytes"]), style.seconds(f["journal"]["history_s"]),
        )
        for name, f in worst[:50]
    ]  # fmt: skip
    turns = _turns(run)
    operations = Section("Failovers and moves", table=turns)
    return Page(
        title=f"{summary['model']['name']}: rates over {style.seconds(summary['run']['until_s'])}",
        about=summary["model"]["about"], answer=answer, command=summary["run"]["command"],
        good=not summary["all"]["sla"]["missed_s"],
        sections=(
            Section("RPO of the worst VPGs", picture=lines(times, rpo, over_time, "rpo")),
            Section("WAN", picture=lines(times, wan, lambda axes, top: amounts(axes, top, style.rate), "wan")),
            *((operations,) if turns[1] else ()),
            Section(f"VPGs, worst first{'' if len(worst) <= 50 else f' (50 of {len(worst)})'}", table=(header, rows)),
            Section("Assumptions", text=(
                f"Rates are constant within a tick of {style.seconds(run.model.run.tick / SECOND)}. Machines and "
                "datastores do not fail and are never slow; RPO has a sawtooth of a checkpoint interval around what "
                "is drawn. A VPG that was failed over and protected the other way counts as another one, its second "
                "leg, and how long an operation takes is rehearsed alone. Fidelity slice simulates the core itself.",
            )),
        ),
    )  # fmt: skip


def write_report(path: Path, run: FluidRun, summary: dict[str, Any], answer: str) -> None:
    """Write the page."""
    path.write_text(page(run, summary, answer).render(), encoding="utf-8")
