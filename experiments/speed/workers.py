"""What do two workers gain? The same study of 20 points on one worker process and on two, alternating.

    python experiments/speed/workers.py [--json] [--repeat N]

Required: at least 1.8 times as fast on two idle cores. Both sides start their processes anew, which is part of it.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from drsim.study.design import read
from drsim.study.pool import processes
from drsim.study.sampling import sample

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


def measure(repeat: int) -> dict[str, float]:
    """Medians of seconds, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.yaml").write_text(STUDY)
        plan = read(Path(folder))
        took: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(repeat):
            for workers, times in took.items():
                begun = time.perf_counter()
                sample(plan, processes(workers))
                times.append(time.perf_counter() - begun)
    one, two = (statistics.median(times) for times in took.values())
    return {"one_s": round(one, 1), "two_s": round(two, 1), "ratio": round(one / two, 2), "required": REQUIRED}


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


if __name__ == "__main__":
    main()
