"""The figures of this experiment for `drsim experiment`, and its picture."""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from drsim.study import style

sys.path.insert(0, str(Path(__file__).parent))

from run import kept, series, validity  # they lie beside this file
from scenarios import PREDICTED

__all__ = ["draw", "kept", "validity"]


def _sawtooth(listed: list[float], taken: list[float], until: float) -> tuple[list[float], list[float]]:
    """Corners of RPO over time."""
    xs: list[float] = []
    ys: list[float] = []
    newest = taken[0]
    for at, of in zip(listed, taken, strict=True):
        if 0 <= at <= until:
            xs += [at, at]
            ys += [at - newest, at - max(newest, of)]
        newest = max(newest, of)
    return [*xs, until], [*ys, until - newest]


def draw(path: Path) -> None:
    """RPO over time of each run, live and simulated."""
    found = series()
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(9, 1.7 * len(found)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(found)))
        for axes, (name, (live, simulated)) in zip(panels, found.items(), strict=True):
            until = PREDICTED[name].seconds
            for seen, colour, width, label in (
                (live, style.SERIES[1], 2.4, "live"), (simulated, style.SERIES[0], 1.0, "simulated"),
            ):  # fmt: skip
                axes.plot(*_sawtooth(seen.listed, seen.taken, until), color=colour, linewidth=width, label=label)
            axes.set(xlim=(0, until), ylim=(0, None), ylabel="RPO, s")
            axes.set_title(f"{name}: {PREDICTED[name].about}", loc="left")
            if name == next(iter(found)):
                axes.legend(loc="upper right", ncols=2, frameon=False)
        figure.supxlabel("seconds since the begin of the run")
        figure.savefig(path, dpi=72, format="png", metadata={"Software": None})
