"""Sampling: a study's runs, on any executor: which are still to be done, what each measures, when there are enough."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from drsim import __version__
from drsim.core.errors import FileError
from drsim.core.units import SECOND
from drsim.files.merge import near
from drsim.sim.fluid.run import FluidRun
from drsim.sim.run import Run
from drsim.spec.model import Model
from drsim.spec.quantity import parse_duration
from drsim.study.design import Plan, number
from drsim.study.pool import Died, Pool
from drsim.study.pool import run as run_all
from drsim.study.prices import Prices, cost
from drsim.study.results import measures
from drsim.study.runner import play
from drsim.study.stats import Interval, batch_means, bootstrap, interval
from drsim.study.style import count, seconds

RUNS = "runs.jsonl"
Tell = Callable[[int, int, float], None]
"""(runs done, runs known to be needed, seconds left)."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run: a point's model with a seed, and what is measured of it."""

    point: int
    seed: int
    model: Model
    names: Mapping[str, str]
    steady: bool
    prices: Prices | None = None

    @property
    def key(self) -> str:
        """What the result depends on."""
        what = [
            self.model.model_dump_json(),
            str(self.seed),
            json.dumps(dict(self.names)),
            str(self.steady),
            str(self.prices),
            __version__,
        ]
        return hashlib.blake2b("\n".join(what).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run gave: a value for each measure, its interval within a steady run, and how long it took."""

    values: Mapping[str, float]
    within: Mapping[str, tuple[float, float]]
    seconds: float


@dataclass(slots=True)
class Results:
    """All runs of a study: of each point by seed. `lost`: runs whose worker died twice, as (point, seed)."""

    plan: Plan
    runs: list[dict[int, Measured]]
    lost: list[tuple[int, int]] = field(default_factory=list)

    def values(self, point: int, name: str) -> list[float]:
        """A measure of a point, in the order of the seeds."""
        return [measured.values[name] for _, measured in sorted(self.runs[point].items())]

    def interval(self, point: int, name: str) -> Interval:
        """Mean and 95 % interval: over replications, or within one steady run."""
        values = self.values(point, name)
        if not values:
            return float("nan"), None, None
        if len(values) == 1 and (within := next(iter(self.runs[point].values())).within.get(name)):
            return values[0], *within
        return (bootstrap if self.plan.study.interval == "bootstrap" else interval)(values)


def measure(task: Task) -> Measured:
    """Run it. Raises DrsimError, for a measure that the run does not have too."""
    begun = time.perf_counter()
    run = play(task.model, seed=task.seed)
    if task.steady:
        found = {name: batch_means(series(run, of)) for name, of in task.names.items()}
        within = {name: (low, high) for name, (_, low, high) in found.items() if low is not None and high is not None}
        return Measured({name: each[0] for name, each in found.items()}, within, time.perf_counter() - begun)
    every = measures(run)
    if task.prices is not None:
        every["cost"] = cost(task.prices, task.model, every)
    values = {}
    for name, of in task.names.items():
        if of not in every and ".causes_s." not in of and ".status_s." not in of:
            hint = "drsim experiment NAME --measures and drsim run MODEL --json show what there is"
            raise FileError(
                f"the run has no measure {of!r}{near(of, every, most=6)}", place=f"measures.{name}", hint=hint
            )
        values[name] = every.get(of, 0.0)
    return Measured(values, {}, time.perf_counter() - begun)


def series(run: Run | FluidRun, of: str) -> list[float]:
    """A measure over time, at equal distances: mean RPO of VPGs, or the rate of a link's direction."""
    samples: Sequence[Any] = run.samples if isinstance(run, FluidRun) else run.recorder.samples
    names = list(run.network.vpgs) if isinstance(run, FluidRun) else [vpg.name for vpg in run.layout.vpgs]
    match of.split("."):
        case ["all", "rpo_s", "mean"] | ["vpgs", _, "rpo_s", "mean"]:
            kept = names if of.startswith("all") else [of.split(".")[1]]
            if set(kept) <= set(names):
                rpo = [
                    [s.rpo[names.index(n)] if isinstance(run, FluidRun) else s.rpo[n] for n in kept] for s in samples
                ]
                return [float(x) for x in np.mean(rpo, axis=1) / SECOND]
    hint = "all.rpo_s.mean, or vpgs.NAME.rpo_s.mean"
    raise FileError(f"{of!r} is no mean over time, which a steady state needs", place="measures", hint=hint)


# -- all runs ---------------------------------------------------------------------------------------------------------


def sample(
    plan: Plan, pool: Pool, *, kept: Path | None = None, resume: bool = False, tell: Tell | None = None
) -> Results:
    """Do a study's runs. kept: a folder in which each run is written down at once; resume: read what is there.

    Raises FileError for a study that would take longer than its limit, as soon as that can be told.
    """
    results = Results(plan, [{} for _ in plan.points])
    known = _known(kept / RUNS) if kept is not None and resume else {}
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        if not resume:
            (kept / RUNS).unlink(missing_ok=True)
    done, begun = 0, time.perf_counter()
    again = plan.study.replications
    wanted = again.at_least
    which = list(range(len(plan.points)))
    while which:
        tasks = [task for task in _tasks(plan, which, wanted) if task.seed not in results.runs[task.point]]
        tasks = [task for task in tasks if (task.point, task.seed) not in results.lost]
        for task in [task for task in tasks if task.key in known] if known else ():
            results.runs[task.point][task.seed] = known[task.key]
            tasks.remove(task)
        for n, (task, found) in enumerate(run_all(measure, _longest_first(tasks, results), pool), 1):
            if isinstance(found, Died):
                results.lost.append((task.point, task.seed))
                continue
            results.runs[task.point][task.seed] = found
            if kept is not None:
                _write(kept / RUNS, task, found)
            done += 1
            rest = (time.perf_counter() - begun) / done * (len(tasks) - n)
            if done == 1:
                _check(plan, found.seconds * (len(tasks) - 1) / pool.workers, len(tasks), found.seconds, pool.workers)
            if tell is not None:
                tell(n, len(tasks), rest)
        which = [point for point in which if _wide(results, point)] if wanted < again.at_most else []
        wanted = min(again.at_most, wanted + again.at_least)
    return results


def _tasks(plan: Plan, points: Sequence[int], wanted: int) -> Iterator[Task]:
    """Seeds first, so that all points have as many runs when it is stopped."""
    steady = plan.study.state == "steady"
    for n in range(wanted):
        for point in points:
            model = plan.models[point]
            yield Task(point, model.run.seed + n, model, plan.study.measures, steady, plan.study.prices)


def _longest_first(tasks: Sequence[Task], results: Results) -> Iterator[Task]:
    """Seed by seed, and of a seed first what took longest so far, so that no worker is left with it in the end."""
    for _, of_seed in groupby(tasks, key=lambda task: task.seed):
        took = {point: [run.seconds for run in runs.values()] for point, runs in enumerate(results.runs)}
        yield from sorted(of_seed, key=lambda task: -max(took[task.point], default=math.inf))


def _wide(results: Results, point: int) -> bool:
    """Whether a point's interval is wider than wanted."""
    again = results.plan.study.replications
    if again.half_width is None:
        return False
    _, low, high = results.interval(point, again.of or next(iter(results.plan.study.measures)))
    return low is None or high is None or (high - low) / 2 > number(again.half_width)


def _check(plan: Plan, left: float, runs: int, each: float, workers: int) -> None:
    limit = parse_duration(plan.study.limit) / SECOND
    if left > limit:
        text = (
            f"it would take about {seconds(left)}: {count(runs)} runs of {seconds(each)} on {workers} workers; "
            f"its limit is {seconds(limit)}"
        )
        hint = "run it with --quick, cut points, replications or run.until, set run.fidelity=fluid, or raise its limit"
        raise FileError(text, place=plan.name, hint=hint)


def _write(path: Path, task: Task, found: Measured) -> None:
    row = {"key": task.key, "point": task.point, "seed": task.seed, "values": dict(found.values),
           "within": {k: list(v) for k, v in found.within.items()}, "seconds": found.seconds}  # fmt: skip
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _known(path: Path) -> dict[str, Measured]:
    """What was measured before; a line that was cut off when it ended is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        within = {name: (low, high) for name, (low, high) in row["within"].items()}
        found[row["key"]] = Measured(row["values"], within, row["seconds"])
    return found
