"""What the simulation says of a run, and what a live run has shown, in the same measures."""

import re
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scenarios import VPG, Parameters, Scenario, model

from drsim.core.measure import Teeth
from drsim.core.units import SECOND
from drsim.sim.run import Run, simulate
from drsim.study.operation import figures

WARM = 2.0
"""Seconds at the begin that do not count: checkpoints of before are listed."""
TAKEN = re.compile(r"taken=(\d+)")


@dataclass(frozen=True, slots=True)
class Seen:
    """A run, live or simulated. Times in seconds since its begin; `drains`: when the last sync ended."""

    listed: list[float]
    taken: list[float]
    synced: list[float]
    wan_bytes: float
    buffer_peak: float
    rto: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    back: float | None = None
    """When what was broken could be used again: the link, or the VRA."""
    frames: int = 0
    writes: int = 0
    data: int = 0


def of_live(scenario: Scenario, found: dict[str, Any]) -> Seen:
    """A live run's record."""
    listed, taken, synced = [], [], []
    for at, _, fact, what in found["facts"]:
        if fact == "CheckpointListed":
            listed.append(at)
            taken.append(int(TAKEN.search(what)[1]) / SECOND - found["zero"])  # type: ignore[index]
        elif fact == "SyncEnded" and at > 0:
            synced.append(at)
    reports = undisturbed(found)
    back = found.get("back_s") if scenario.down else found.get("met_s")
    return Seen(
        listed, taken, synced, found["wan_bytes"], found["buffer_peak"],
        statistics.median(sum(parts.values()) for parts in reports) if reports else None, back=back,
    )  # fmt: skip


def undisturbed(found: dict[str, Any]) -> list[dict[str, float]]:
    """The parts of the RTO of a run's failovers that other work disturbed least: half of them, and seven at most."""
    made = sorted(found.get("failovers", ()), key=lambda each: each["others"])
    return [each["parts_s"] for each in made[: min(7, -(-len(made) // 2))]]


def of_simulated(scenario: Scenario, found: Parameters, *, away: float | None = None, written: int = 0) -> Seen:
    """The same run, simulated."""
    made = model(scenario, found, away=away, written=written)
    run = simulate(made, keep_frames=True)
    record = run.record(VPG)
    synced = [at / SECOND for at, _, kind, _ in run.recorder.events if kind == "sync ended"]
    world = run.world
    sent = world.links["wan", "london"].measure()
    back = None
    if scenario.down is not None:
        back = sum(scenario.down)
    if scenario.killed is not None:
        back = scenario.killed[0] + (scenario.killed[1] if away is None else away)
    rto, parts = None, {}
    if scenario.ends is not None:
        told = figures(world.recoveries.operations[0])
        rto, parts = told["rto_s"], told["parts_s"]
    frames, writes, data = _frames(run)
    return Seen(
        [at / SECOND for at in record.listed], [at / SECOND for at in record.taken], synced, sum(sent.values()),
        max(run.recorder.buffer_peak.values(), default=0), rto, parts, back, frames, writes, data,
    )  # fmt: skip


def away(record: dict[str, Any]) -> float | None:
    """How long a killed VRA was away in a live run."""
    return record["met_s"] - record["killed_s"] if "killed_s" in record else None


def _frames(run: Run) -> tuple[int, int, int]:
    """Frames, writes and bytes that the recovery site has in its journals."""
    files = [store.files[stream] for stream, store in run.world.journals.items()]
    frames = [frame for file in files for frame in file.frames]
    return len(frames), sum(file.writes for file in files), sum(frame.nbytes for frame in frames)


def measures(scenario: Scenario, seen: Seen) -> dict[str, float]:
    """The figures that are compared: seconds and bytes."""
    if scenario.ends is not None:
        return {"rto_s": float(seen.rto or 0)}
    found = rpo(seen, scenario.seconds) | {"wan_bytes": seen.wan_bytes, "buffer_peak_bytes": seen.buffer_peak}
    if seen.back is not None:
        found["drain_s"] = max(seen.synced, default=float("nan")) - seen.back
    for workload in scenario.workloads:
        if workload["kind"] == "onoff":
            on = float(workload["on"].split()[0])
            after = [at for at, taken in zip(seen.listed, seen.taken, strict=True) if taken >= on]
            found["drain_s"] = min(after, default=float("nan")) - on
    return found


def rpo(seen: Seen, until: float) -> dict[str, float]:
    """RPO over the run, from its first listing after the begin."""
    rows = [(at, taken) for at, taken in zip(seen.listed, seen.taken, strict=True) if at >= WARM]
    listed, taken = (np.array([row[k] for row in rows]) * SECOND for k in (0, 1))
    teeth = Teeth.of(listed.astype(int), taken.astype(int), int(listed[0]), int(until * SECOND))
    p50, p95 = teeth.quantiles([0.5, 0.95])
    return {"rpo_p50_s": p50 / SECOND, "rpo_p95_s": p95 / SECOND}
