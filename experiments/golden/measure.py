"""Published worked examples that no other experiment plays, computed with drsim's own parts."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from drsim.core.units import SECOND
from drsim.files.models import load_model
from drsim.sim.fluid.run import simulate_fluid
from drsim.spec.model import Vra
from drsim.study import style
from drsim.study.figures import reached_history
from drsim.study.policies import Capacity, Load, Wan
from drsim.study.policies.snapshots import MINUTE, SnapshotMirror

MIB, GIB = 1 << 20, 1 << 30
T1, T10, T100 = 1.544e6, 10e6, 100e6


def examples() -> dict[str, float]:
    """Each figure under the number that the reference gives it (products.md 3.3)."""
    found = {f"G4.{name}_s": Capacity.constant(bits / 8).over(0, 100e9) / SECOND
             for name, bits in (("t1", T1), ("ten", T10), ("hundred", T100))}  # fmt: skip
    found["G5.mean_bps"] = 2 * GIB * 8 / 3600
    found["G7.mean_bps"] = 1e12 * 8 / 86400
    found |= {f"G9.{ram}.pool_mib": Vra(ram=ram).pool_bytes / MIB for ram in (1, 2, 3)}
    found["G9.2.usable_mib"] = 0.9 * Vra(ram=2).pool_bytes / MIB
    found["G10.reach_s"] = reached_history(50 * 1024.0, 28.4)
    found |= {f"G13.{rate}.day_gib": rate * 86400 / 1024 for rate in (2, 4, 5, 8, 20)}
    return found | compressed() | mirrored()


def compressed() -> dict[str, float]:
    """G8: 200 MB/s that compress by 40 %, simulated as rates."""
    constant = ["vms.db.workload.rate=25000", "vms.db.workload.size=8 KiB", "vms.db.volumes.0.size=1 TiB"]
    run = simulate_fluid(load_model(
        Path(__file__).parents[1] / "one-vm.yaml",
        overrides=[*constant, "vms.db.workload.working_set=1 TiB", "vms.db.workload.compress_to=60 %",
                   "vpgs.app.compression=true", "links.wan.bandwidth=10 Gbit/s", "run.until=1 h"],
    ))  # fmt: skip
    return {"G8.written.bytes": float(run.raw.sum()) / 3600, "G8.sent.bytes": float(run.sent.sum()) / 3600}


def mirrored() -> dict[str, float]:
    """G15: a mirror snapshot every 5 min that takes 4; what one can go back to in the middle of a transfer."""
    at = np.arange(1, 3600, dtype=np.int64) * SECOND
    load = Load(at, np.full(len(at), 4096), at, np.arange(len(at)), 4096, 3600 * SECOND)
    found = SnapshotMirror().protect(load, Wan(Capacity.constant(300 * 4096 / 240)))
    middle = int(np.searchsorted(found.ready, 22 * MINUTE)) - 1
    return {"G15.shows_s": found.shows[middle] / SECOND, "G15.points": found.points}


def draw(path: Path) -> None:
    """The transfers of G4, ideal and published."""
    found = examples()
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(8, 2.6), layout="constrained")
        axes = figure.subplots()
        for y, (name, published) in enumerate((("t1", 200), ("ten", 30), ("hundred", 3))):
            ideal = found[f"G4.{name}_s"] / 3600
            axes.barh(y, published, height=0.6, color=style.REST)
            axes.barh(y, ideal, height=0.3, color=style.SERIES[0])
            axes.annotate(
                f"{ideal:.3g} h of {published} h", (published, y), (5, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(3), ["1.544 Mbit/s", "10 Mbit/s", "100 Mbit/s"])
        axes.set(xscale="log", xlim=(1, 1000), xlabel="hours for 100 GB: blue at the bare bandwidth, grey as published")
        figure.savefig(path, dpi=96, format="png", metadata={"Software": None})
