"""Chains of copies after Keeton and Merchant: what is lost at most, walked through time for two years."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from drsim.core.measure import Teeth
from drsim.study import style
from drsim.study.policies.chain import HOUR, Level, aligned, copies, worst_loss

DAY, WEEK = 24 * HOUR, 168 * HOUR
END = 100 * WEEK
MIRROR = Level(12 * HOUR)
TAPE = Level(WEEK, HOUR, 48 * HOUR)
VAULT = Level(4 * WEEK, 4 * WEEK + 12 * HOUR, 24 * HOUR)
WEEKLY = Level(WEEK, 12 * HOUR, 24 * HOUR)
DESIGNS: dict[str, tuple[list[Level], list[Level]]] = {
    "baseline": ([TAPE], [TAPE, VAULT]),
    "weekly vault": ([TAPE], [TAPE, WEEKLY]),
    "daily incrementals": ([Level(DAY, HOUR, 48 * HOUR)], [TAPE, WEEKLY]),
    "daily fulls": ([Level(DAY, HOUR, 12 * HOUR)], [Level(DAY, HOUR, 12 * HOUR), WEEKLY]),
    "batched mirror": ([Level(HOUR // 60, 0, HOUR // 60)], [Level(HOUR // 60, 0, HOUR // 60)]),
}
"""Chains that survive the loss of the array, and of the site."""


def _walked(chain: list[Level]) -> float:
    """Most that is lost, seconds, once the chain is full."""
    end = END if chain[0].every >= HOUR else DAY
    shows, ready = copies(aligned(chain), end)
    return float(Teeth.of(ready.tolist(), shows.tolist(), int(shows[0]), end).high[1:].max()) / 1e9


def _measures(design: str) -> dict[str, float]:
    array, site = DESIGNS[design]
    return {
        "array.walked_s": _walked(array), "array.closed_s": worst_loss(array) / 1e9,
        "site.walked_s": _walked(site), "site.closed_s": worst_loss(site) / 1e9,
        "object.walked_s": _walked([MIRROR]),
    }  # fmt: skip


def _of(design: str) -> Callable[[], dict[str, float]]:
    return lambda: _measures(design)


baseline, weekly, incrementals, fulls, mirror = (_of(design) for design in DESIGNS)


def draw(path: Path) -> None:
    """What a disaster at each instant would lose of the whole site, over three months."""
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        axes = figure.subplots()
        for (design, (_, site)), colour in zip(DESIGNS.items(), style.SERIES, strict=False):
            label = f"{design}: {style.seconds(worst_loss(site) / 1e9)}"
            if site[0].every < HOUR:  # too many teeth to be seen
                axes.axhspan(site[0].brings / HOUR, worst_loss(site) / HOUR, color=colour, lw=0, label=label)
                continue
            shows, ready = copies(aligned(site), END)
            teeth = Teeth.of(ready.tolist(), shows.tolist(), 0, END)
            x = np.column_stack([teeth.start, teeth.end]).ravel() / DAY - 30 * 7
            y = np.column_stack([teeth.low, teeth.high]).ravel() / HOUR
            inside = (x >= 0) & (x <= 90)
            axes.plot(
                x[inside], y[inside], color=colour, label=label, ls="--" if design == "daily incrementals" else "-"
            )
        axes.set(xlim=(0, 90), ylim=(0.01, 3000), yscale="log", xlabel="days", ylabel="lost with the site")
        axes.set_yticks([1 / 60, 1, 24, 168, 672, 1429], ["1 min", "1 h", "1 d", "1 wk", "4 wk", "1429 h"])
        axes.minorticks_off()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)
        figure.savefig(path, dpi=96, format="png", metadata={"Software": None})
