"""Sensitivity: which factors of a study matter, by Morris' elementary effects or Sobol's indices (SALib, an extra).

Morris: of each factor mu*, the mean size of what a step of it changes, and sigma, how much that depends on the others.
Sobol: of each factor the share of the measure's variance that it explains alone (S1) and with the others (ST).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from drsim.core.errors import FileError
from drsim.study import style

Method = Literal["morris", "saltelli"]
LEVELS = 4
"""Of a Morris design, the usual number."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A factor's first and second index (mu* and sigma, or S1 and ST), with the 95 % half width of the one shown."""

    factor: str
    first: float
    second: float
    half_width: float


def _problem(names: Sequence[str]) -> dict[str, Any]:
    return {"num_vars": len(names), "names": list(names), "bounds": [[0.0, 1.0]] * len(names)}


def rows(method: Method, names: Sequence[str], points: int, seed: int) -> NDArray[np.float64]:
    """A design: float64[rows, factors], parts of each range. points: trajectories, or base points (a power of two)."""
    salib = _salib()
    if method == "morris":
        found = salib["morris sample"](_problem(names), points, num_levels=LEVELS, seed=seed)
    else:
        base = 1 << max(1, (points - 1).bit_length())
        found = salib["sobol sample"](_problem(names), base, calc_second_order=False, seed=seed)
    return np.asarray(found, float)


def effects(method: Method, names: Sequence[str], parts: NDArray[np.float64], values: Sequence[float]) -> list[Effect]:
    """The factors' effects on a measure, the largest first. parts: the design's rows; values: of each row."""
    salib, y = _salib(), np.asarray(values, float)
    found: Mapping[str, Any]
    if method == "morris":
        found = salib["morris analyze"](_problem(names), parts, y, num_levels=LEVELS, seed=1)
        columns = found["mu_star"], found["sigma"], found["mu_star_conf"]
    else:
        found = salib["sobol analyze"](_problem(names), y, calc_second_order=False, seed=1)
        columns = found["S1"], found["ST"], found["ST_conf"]
    made = [Effect(name, float(a), float(b), float(c)) for name, a, b, c in zip(names, *columns, strict=True)]
    key = (lambda e: -e.first) if method == "morris" else (lambda e: -e.second)
    return sorted(made, key=key)


def _salib() -> dict[str, Any]:
    try:
        from SALib.analyze import morris, sobol
        from SALib.sample import morris as morris_sample
        from SALib.sample import sobol as sobol_sample
    except ImportError as error:
        raise FileError(
            "a sensitivity study needs SALib, which is not installed", place="design.kind",
            hint="pip install 'drsim[sensitivity]'",
        ) from error  # fmt: skip
    return {
        "morris sample": morris_sample.sample, "sobol sample": sobol_sample.sample, "morris analyze": morris.analyze,
        "sobol analyze": sobol.analyze,
    }  # fmt: skip


def bars(axes: Axes, found: Sequence[Effect], method: Method, names: Sequence[str]) -> None:
    """The factors as bars, the largest on top: mu* with sigma as a mark, or S1 within ST."""
    for y, effect in enumerate(found):
        long, mark = (effect.first, effect.second) if method == "morris" else (effect.second, effect.first)
        axes.barh(y, long, height=0.6, color=style.REST, xerr=effect.half_width, ecolor=style.SOFT)
        if method == "morris":
            axes.plot([mark], [y], "|", color=style.SERIES[1], ms=14, mew=2)
        else:
            axes.barh(y, mark, height=0.3, color=style.SERIES[0])
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
