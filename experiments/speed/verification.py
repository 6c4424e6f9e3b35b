"""How fast is the verification? Steps of the explorer, judging an image group, killing mutants, shrinking.

Used by run.py. A step is one event handled by a machine of the core, with every checker on; seconds are CPU seconds
of one core, because these machines are shared, a mutant's too; shrinking counts wall seconds. Mutants are killed and
their programs shrunk with assertions off, so that no assertion takes the work from the checkers; this file is its own
helper there.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from drsim.verify.hunt import HUNTERS
from drsim.verify.levels import Image, Level, judge_group, sample_group
from drsim.verify.mutants import BY_NAME, MUTANTS
from drsim.verify.mutants.kill import kill_apart
from drsim.verify.shrink import shrink
from drsim.verify.swarm import operations, play_batch
from drsim.verify.token import decode

PROGRAMS = 200
VMS, SECTORS, WRITES = 8, 65_536, 20_000
REQUIRED = {
    "explorer_steps_per_s": "at least 50,000",
    "judge_group_ms": "at most 30",
    "mutant_slowest_s": "at most 30",
    "mutant_median_s": "under 1",
    "shrunk_operations": "at most 20",
    "shrink_slowest_s": "at most 5",
}


def explorer_rates(repeat: int) -> list[float]:
    """Steps a CPU second, of the same programs in each repetition."""
    tallies = [play_batch("explorer", 0, count=PROGRAMS) for _ in range(repeat)]
    return [tally.steps / tally.seconds for tally in tallies]


def judge_times(repeat: int) -> list[float]:
    """Milliseconds to judge a consistent group, its writes prepared."""
    prepared = sample_group(vms=VMS, sectors=SECTORS, writes=WRITES)
    times = []
    for _ in range(repeat):
        images = [Image(image.truth, image.ver) for image in prepared]  # nothing of it is known yet
        start = time.process_time()
        assert judge_group(images, Level.L2).ok
        times.append((time.process_time() - start) * 1000)
    return times


def shrink_one(name: str, token: str, prop: str) -> tuple[int, float]:
    """Operations left of a mutant's program, and wall seconds to get there."""
    it, start = decode(token), time.monotonic()
    hunter = HUNTERS[it.kind]
    with BY_NAME[name].patch():
        small = shrink(hunter, it.program, prop)
    return operations(it.kind, small), time.monotonic() - start


def measure(repeat: int) -> dict[str, Any]:
    """All figures, with what is required of them."""
    rates, times = explorer_rates(repeat), judge_times(max(5, repeat))
    kills = [kill for kill in kill_apart(MUTANTS) if kill.killed]
    asked = json.dumps([(kill.mutant, kill.token, kill.prop) for kill in kills])
    command = [sys.executable, "-O", __file__]
    env = {**os.environ, "PYTHONHASHSEED": "0"}  # as where they were killed: one mutant depends on it
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True, env=env)
    shrunk = json.loads(done.stdout)
    return {
        "explorer_steps_per_s": round(statistics.median(rates)),
        "explorer_range": [round(min(rates)), round(max(rates))],
        "judge_group_ms": round(statistics.median(times), 1),
        "mutants_killed": f"{len(kills)} of {len(MUTANTS)}",
        "mutant_slowest_s": round(max(kill.seconds for kill in kills), 2),
        "mutant_median_s": round(statistics.median(kill.seconds for kill in kills), 2),
        "shrunk_operations": max(left for left, _ in shrunk),
        "shrunk_operations_median": statistics.median(left for left, _ in shrunk),
        "shrink_slowest_s": round(max(seconds for _, seconds in shrunk), 2),
        "required": REQUIRED,
    }


if __name__ == "__main__":
    print(json.dumps([shrink_one(*each) for each in json.load(sys.stdin)]))
