"""How fast is drsim? Writes per second of both fidelities against the plain SimPy yardstick, in one run.

    python experiments/speed/run.py [--json] [--repeat N] [--only simulation|verification]

All three simulate the same steady two-site path on one core: 10 VMs on one protected host, 2,000 writes/s of 4 KiB
each, 1 Gbit/s. Runs alternate, so that a noisy machine disturbs all alike; medians are printed, and the ratios of
medians. Counted are guest writes that reached the journal; building the model is part of the time.
The verification's figures are in verification.py.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import verification
import yardstick

from drsim.sim.run import simulate
from drsim.spec.model import Model

VMS, RATE, NBYTES = 10, 2000.0, 4096
BANDWIDTH, DISK = 1_000_000_000, 4_000_000_000
SECONDS = {"yardstick": 3, "write": 10, "slice": 300}
REQUIRED = {"slice": 15.0, "write": 0.5}


def model(fidelity: str, seconds: int) -> Model:
    """The steady two-site model."""
    return Model.model_validate(
        {
            "sites": {"london": {}, "leeds": {}},
            "datastores": {"san-1": {"site": "london"}, "san-2": {"site": "leeds", "bandwidth": DISK, "iops": 1e5}},
            "hosts": {"london-1": {"site": "london"}, "leeds-1": {"site": "leeds"}},
            "links": {"wan": {"between": ["london", "leeds"], "bandwidth": BANDWIDTH, "latency": "5 ms"}},
            "vms": {
                "app": {
                    "host": "london-1",
                    "datastore": "san-1",
                    "count": VMS,
                    "workload": {"kind": "poisson", "rate": RATE, "size": NBYTES},
                }
            },
            "vpgs": {"app": {"vms": ["app"], "recovery": {"hosts": ["leeds-1"], "datastore": "san-2"}}},
            "run": {"until": f"{seconds} s", "fidelity": fidelity},
        }
    )


def drsim_writes(fidelity: str) -> int:
    """Run drsim; returns the writes that reached the journals."""
    run = simulate(model(fidelity, SECONDS[fidelity]))
    return sum(file.writes for store in set(run.world.journals.values()) for file in store.files.values())


def yardstick_writes() -> int:
    """Run the yardstick; returns the writes that were acknowledged."""
    return yardstick.run(
        vms=VMS, rate=RATE, nbytes=NBYTES, seconds=SECONDS["yardstick"], bandwidth=BANDWIDTH, disk_bandwidth=DISK
    )


def measure(repeat: int) -> dict[str, Any]:
    """Writes per second of each, alternating, and the ratios of medians."""
    ways: dict[str, Callable[[], int]] = {
        "yardstick": yardstick_writes,
        "write": lambda: drsim_writes("write"),
        "slice": lambda: drsim_writes("slice"),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            writes = way()
            rates[name].append(writes / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "writes_per_s": {name: round(value) for name, value in medians.items()},
        "range": {name: [round(min(v)), round(max(v))] for name, v in rates.items()},
        "ratio_to_yardstick": {name: round(medians[name] / medians["yardstick"], 2) for name in REQUIRED},
        "required": REQUIRED,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--only", choices=("simulation", "verification"), help="one half of the figures")
    options = parser.parse_args()
    figures = measure(options.repeat) if options.only != "verification" else {}
    if options.only != "simulation":
        figures["verification"] = verification.measure(options.repeat)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    _show(figures)


def _show(figures: dict[str, Any]) -> None:
    verified = figures.get("verification", {})
    for name, asked in verified.get("required", {}).items():
        print(f"{name:<22} {verified[name]:>10,}  required {asked}")
    if verified:
        print(f"{'mutants_killed':<22} {verified['mutants_killed']:>10}")
    if "writes_per_s" not in figures:
        return
    for name, value in figures["writes_per_s"].items():
        ratio = figures["ratio_to_yardstick"].get(name)
        note = f"  {ratio:6.2f} x the yardstick (required {REQUIRED[name]})" if ratio is not None else ""
        print(f"{name:<10} {value:>12,} writes/s{note}")


if __name__ == "__main__":
    main()
