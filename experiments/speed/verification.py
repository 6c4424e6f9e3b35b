"""How fast is the verification? Steps of the explorer, judging an image group, killing mutants, shrinking.

Used by run.py. A step is one event handled by a machine of the core, with every checker on; seconds are CPU seconds
of one core, because these machines are shared.
"""

import statistics
import time
from typing import Any

from drsim.verify.levels import Image, Level, judge_group, sample_group
from drsim.verify.mutants import MUTANTS
from drsim.verify.mutants.kill import kill_all
from drsim.verify.swarm import play_batch

PROGRAMS = 200
VMS, SECTORS, WRITES = 8, 65_536, 20_000
REQUIRED = {
    "explorer_steps_per_s": "at least 50,000",
    "judge_group_ms": "at most 30",
    "mutant_slowest_s": "at most 30",
    "mutant_median_s": "under 1",
    "shrunk_operations": "at most 20",
    "shrink_seconds": "at most 5",
}


def explorer_rates(repeat: int) -> list[float]:
    """Steps a CPU second, of the same programs in each repetition."""
    rates = []
    for _ in range(repeat):
        tally = play_batch("explorer", 0, count=PROGRAMS)
        rates.append(tally.steps / tally.seconds)
    return rates


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


def measure(repeat: int) -> dict[str, Any]:
    """All figures, with what is required of them."""
    rates, times = explorer_rates(repeat), judge_times(max(5, repeat))
    kills = kill_all([mutant.name for mutant in MUTANTS], workers=1)
    seconds = [kill.seconds for kill in kills if kill.killed]
    return {
        "explorer_steps_per_s": round(statistics.median(rates)),
        "explorer_range": [round(min(rates)), round(max(rates))],
        "judge_group_ms": round(statistics.median(times), 1),
        "mutants_killed": f"{len(seconds)} of {len(kills)}",
        "mutant_slowest_s": round(max(seconds), 2),
        "mutant_median_s": round(statistics.median(seconds), 2),
        "shrunk_operations": max(kill.operations for kill in kills if kill.killed),
        "shrink_seconds": round(max(kill.shrink_seconds for kill in kills if kill.killed), 2),
        "required": REQUIRED,
    }
