"""What do two workers gain? The same study of 20 points on one worker process and on two, alternating.

    python experiments/speed/workers.py [--json] [--repeat N]

Required: at least 1.8 times as fast on two idle cores. Both sides start their processes anew, which is part of it.
What two cores give at all is measured beside it, in the same run: the same points, dealt out to one and to two plain
processes with nothing between them. On a shared machine that is seldom 2.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from drsim.study.design import Plan, read
from drsim.study.pool import processes
from drsim.study.sampling import Task, sample
from drsim.study.sampling import measure as measure_point

REQUIRED = 1.8
STUDY = """
question: What do two workers gain?
model: hundred-vms
set: [run.fidelity=fluid, run.until=30 d, run.tick=20 s]
factors:
  links.wan.bandwidth: {from: 80 Mbit/s, to: 300 Mbit/s, steps: 20}
replications: {at_least: 1, at_most: 1}
measures: {RPO p99: all.rpo_s.p99}
"""


def _each(tasks: Sequence[Task]) -> None:
    for task in tasks:
        measure_point(task)


def bare(plan: Plan, workers: int) -> None:
    """The points of a study on plain processes, every `workers`-th on the same."""
    tasks = [Task(n, m.run.seed, m, plan.study.measures, steady=False) for n, m in enumerate(plan.models)]
    spawn = get_context("spawn")
    started = [spawn.Process(target=_each, args=(tasks[k::workers],)) for k in range(workers)]
    for process in started:
        process.start()
    for process in started:
        process.join()


def measure(repeat: int) -> dict[str, float]:
    """Medians of seconds, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.yaml").write_text(STUDY)
        plan = read(Path(folder))
        ways = {
            "one_s": lambda: sample(plan, processes(1)), "two_s": lambda: sample(plan, processes(2)),
            "bare_one_s": lambda: bare(plan, 1), "bare_two_s": lambda: bare(plan, 2),
        }  # fmt: skip
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeat):
            for name, way in ways.items():
                begun = time.perf_counter()
                way()
                took[name].append(time.perf_counter() - begun)
    found = {name: round(statistics.median(times), 1) for name, times in took.items()}
    ratio, possible = found["one_s"] / found["two_s"], found["bare_one_s"] / found["bare_two_s"]
    return found | {"ratio": round(ratio, 2), "possible": round(possible, 2), "required": REQUIRED}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default 3)")
    options = parser.parse_args()
    found = measure(options.repeat)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"one worker {found['one_s']} s, two {found['two_s']} s: {found['ratio']} x (required {REQUIRED})")
        print(f"two plain processes gain {found['possible']} x on this machine now")


if __name__ == "__main__":
    main()
