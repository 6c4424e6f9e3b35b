"""Does the simulation predict a live site? Live runs over an emulated WAN, and what the simulation said of them.

    python experiments/validity/run.py                    simulate, beside the live runs that are kept (seconds)
    python experiments/validity/run.py --live             run everything live anew, and keep it (half an hour; root)
    python experiments/validity/run.py --live --quick     one short live run, kept nowhere, with wider bands
    python experiments/validity/run.py --json             the figures as JSON

Parameters are calibrated on runs of their own (`calibrate.py`); the runs that are predicted have no part in that.
Exit 1: a figure is out of its band.
"""

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from calibrate import calibrate
from predict import Seen, away, measures, of_live, of_simulated
from scenarios import CALIBRATION, PREDICTED, Parameters, Scenario

KEPT = Path(__file__).parent / "live.json.gz"
REPEATS = {"failover": 3, "one guest": 3, "three guests": 3, "short cut": 3}
"""How often a run is repeated; the others once. Of repeated ones the mean counts."""
LATE, TRIES = 0.5, 3
"""A run in which a guest came later than this many seconds was disturbed by other work, and is done again."""
BANDS = {"wan_bytes": 0.03, "rpo_p50_s": 0.15, "rpo_p95_s": 0.15, "drain_s": 0.15, "rto_s": 0.20}
"""Relative, as demanded. The peak of the buffer is shown, and held to nothing."""
QUICK = {"wan_bytes": 0.10, "rpo_p50_s": 0.35, "rpo_p95_s": 0.50, "drain_s": 0.50}
"""For short runs on a machine that does other things too; where even a guest came too late, WAN bytes alone count."""
QUICK_RUNS = ("steady",)
SHOWN = {
    "rpo_p50_s": "RPO p50", "rpo_p95_s": "RPO p95", "wan_bytes": "WAN bytes", "buffer_peak_bytes": "buffer peak",
    "drain_s": "drain time", "rto_s": "RTO",
}  # fmt: skip
"""Figures in the order of the table, in words."""
Records = dict[str, list[dict[str, Any]]]


def record(runs: dict[str, Scenario], repeats: dict[str, int], done: Callable[[Records], None]) -> Records:
    """Run them live, in turns; `done` is called after each."""
    from live import MEMORY, go_first, measure

    go_first()
    found: Records = {name: [] for name in runs}
    for turn in range(max([1, *(repeats.get(name, 1) for name in runs)])):
        for name, scenario in runs.items():
            if turn < repeats.get(name, 1):
                for attempt in range(TRIES):
                    print(f"live: {name}", file=sys.stderr, flush=True)
                    with tempfile.TemporaryDirectory(prefix="drsim-", dir=MEMORY) as folder:
                        seen = measure(scenario, Path(folder))
                    if seen["late_s"] <= LATE or attempt == TRIES - 1:
                        break
                found[name].append(seen)
                done(found)
    return found


def kept() -> Records:
    """The live runs that are kept beside this file."""
    with gzip.open(KEPT, "rt") as file:
        found: Records = json.load(file)
    return found


def keep(records: Records) -> None:
    """Keep what is needed of these live runs, and of others what was kept."""
    wanted = ("CheckpointListed", "SyncEnded")
    records = (kept() if KEPT.exists() else {}) | {name: each for name, each in records.items() if each}
    for each in records.values():
        for one in each:
            one["facts"] = [[round(at, 4), site, fact, what] for at, site, fact, what in one["facts"] if fact in wanted]
    with gzip.GzipFile(KEPT, "wb", mtime=0) as file:
        file.write(json.dumps(records).encode())


def mean(seen: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in seen) / len(seen) for name in seen[0]}


def simulated(scenario: Scenario, live: list[dict[str, Any]], found: Parameters) -> list[Seen]:
    """The run, simulated once for each way in which the machine made it: how long a VRA was away, what guests wrote."""
    ways = {(away(each), each.get("written", 0)) for each in live}
    return [of_simulated(scenario, found, away=time, written=written) for time, written in ways]


def compare(runs: dict[str, Scenario], records: Records, found: Parameters) -> dict[str, dict[str, dict[str, float]]]:
    """Of each run and figure: measured, predicted, error."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, scenario in runs.items():
        measured = mean([measures(scenario, of_live(scenario, each)) for each in records[name]])
        predicted = mean([measures(scenario, each) for each in simulated(scenario, records[name], found)])
        table[name] = {
            what: {"measured": value, "predicted": predicted[what], "error": predicted[what] / value - 1}
            for what, value in measured.items()
        }
    return table


def validity() -> dict[str, float]:
    """For `drsim experiment validity`: all figures and their errors, from the live runs that are kept."""
    records = kept()
    table = compare(PREDICTED, records, calibrate(records))
    found: dict[str, float] = {}
    for name, rows in table.items():
        for what, row in rows.items():
            place = f"{name.replace(' ', '-')}.{what}"
            found[f"{place}_error_share"] = abs(row["error"])
            found |= {f"live_{place}": row["measured"], f"simulated_{place}": row["predicted"]}
    return found


def series() -> dict[str, tuple[Seen, Seen]]:
    """Of each run that has an RPO over time: the live one, and the simulated one."""
    records = kept()
    found = calibrate(records)
    return {
        name: (of_live(scenario, records[name][0]), simulated(scenario, records[name][:1], found)[0])
        for name, scenario in PREDICTED.items() if scenario.ends is None
    }  # fmt: skip


def out(table: dict[str, dict[str, dict[str, float]]], bands: dict[str, float]) -> list[str]:
    """Figures out of their bands, in words."""
    return [
        f"{name}: {what} is {row['error']:+.1%} off, allowed are {bands[what]:.0%}"
        for name, rows in table.items() for what, row in rows.items()
        if what in bands and not abs(row["error"]) <= bands[what]
    ]  # fmt: skip


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table of the README."""
    lines = ["| run | figure | measured | predicted | error |", "| --- | --- | ---: | ---: | ---: |"]
    for name, rows in table.items():
        for what, words in SHOWN.items():
            if what in rows:
                unit, size = ("MB", 1e6) if what.endswith("bytes") else ("s", 1.0)
                values = " | ".join(f"{rows[what][key] / size:.2f} {unit}" for key in ("measured", "predicted"))
                lines.append(f"| {name} | {words} | {values} | {100 * rows[what]['error']:+.1f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--live", "--quick", "--json"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="with --live: run these only")
    wanted = parser.parse_args()
    if wanted.quick:
        runs = {name: replace((CALIBRATION | PREDICTED)[name], seconds=12) for name in QUICK_RUNS}
        records = record(runs, {}, lambda found: None)
        base = calibrate(kept())
        disturbed = any(each["late_s"] > LATE for live in records.values() for each in live)
        table, bands = compare(runs, records, base), {"wan_bytes": QUICK["wan_bytes"]} if disturbed else QUICK
    else:
        if wanted.live:
            every = CALIBRATION | PREDICTED
            record({name: every[name] for name in wanted.only or every}, REPEATS, keep)
        records = kept()
        base = calibrate(records)
        table, bands = compare(PREDICTED, records, base), BANDS
    wrong = out(table, bands)
    if wanted.json:
        print(json.dumps({"parameters": asdict(base), "runs": table, "out": wrong}, indent=2))
    else:
        print(f"parameters: {asdict(base)}\n\n{markdown(table)}")
        print("\n".join(wrong) or "every figure is within its band")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
