"""How fast is `fluid`? A thousand VMs for a month, and what it costs by VMs and by ticks.

    python experiments/speed/fluid.py [--json] [--picture FILE]

Each figure is one run in a process of its own, so that its memory is its own. Required: a month of 5-s ticks within
60 s and 2 GB, one of 60-s ticks within 6 s, on one core.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from drsim.files.models import load_model
from drsim.sim.fluid.run import simulate_fluid

VMS = (250, 500, 1000, 2000)
DAYS = (4, 8, 15, 30)


def one(vms: int, days: float, tick: int) -> dict[str, float]:
    """Seconds and peak memory (MB) of one run."""
    counts = {"small": vms // 2, "median": vms * 2 // 5, "busy": vms // 10}
    changes = [f"vms.{name}.count={count}" for name, count in counts.items()]
    rate = f"links.wan.bandwidth={vms} Mbit/s"
    throttle = f'links.wan.throttle=[{{start: "08:00", end: "18:00", limit: {vms * 6 // 10} Mbit/s}}]'
    made = load_model("thousand-vms", overrides=[*changes, rate, throttle, f"run.until={days} d", f"run.tick={tick} s"])
    begun = time.perf_counter()
    simulate_fluid(made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(time.perf_counter() - begun, 2), "mb": round(peak)}


def apart(vms: int, days: float, tick: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", str(vms), str(days), str(tick)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def measure() -> dict[str, Any]:
    """A month of both ticks, and how the cost grows."""
    return {
        "month_5s": apart(1000, 30, 5), "month_60s": apart(1000, 30, 60),
        "by_vms_60s": {str(n): apart(n, 15, 60)["seconds"] for n in VMS},
        "by_days_60s": {str(n): apart(1000, n, 60)["seconds"] for n in DAYS},
        "required": {"month_5s": 60, "month_60s": 6, "mb": 2000},
    }  # fmt: skip


def draw(found: dict[str, Any], path: Path) -> None:
    """Cost over VMs and over days, each with a line through the origin and its largest point."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from drsim.study import style

    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(9, 3), layout="constrained")
        titles = (("by_vms_60s", "VMs, 15 days of 60-s ticks"), ("by_days_60s", "days, 1000 VMs in 60-s ticks"))
        for axes, (key, title) in zip(figure.subplots(1, 2), titles, strict=True):
            x, y = [int(n) for n in found[key]], list(found[key].values())
            axes.plot([0, x[-1]], [0, y[-1]], color=style.REST)
            axes.plot(x, y, "o", color=style.SERIES[0])
            axes.set(xlabel=title, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        figure.savefig(path, dpi=96, format="png", metadata={"Software": None})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--picture", type=Path, help="draw the growth to this file")
    parser.add_argument("--one", nargs=3, type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        vms, days, tick = options.one
        print(json.dumps(one(int(vms), days, int(tick))))
        return
    found = measure()
    if options.picture is not None:
        draw(found, options.picture)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name in ("month_5s", "month_60s"):
        print(
            f"{name:<10} {found[name]['seconds']:>6} s {found[name]['mb']:>6} MB  required {found['required'][name]} s"
        )
    for name in ("by_vms_60s", "by_days_60s"):
        print(f"{name}: {', '.join(f'{n}: {s} s' for n, s in found[name].items())}")


if __name__ == "__main__":
    main()
