"""Syncs of vSphere Replication by the clock: minutes from 12:00 on, when each began and was over."""

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from drsim.core.measure import Teeth
from drsim.study import style
from drsim.study.policies.snapshots import DAY, MINUTE, retained, scheduled

RPO, END = 15 * MINUTE, 60 * MINUTE
SYNCS = {"five": 5 * MINUTE, "seven": 15 * MINUTE // 2, "ten": 10 * MINUTE}


def _syncs(takes: int) -> tuple[np.ndarray, np.ndarray]:
    return scheduled(RPO, lambda since, begin: takes, END)


def _measures(takes: int) -> dict[str, float]:
    begun, over = _syncs(takes)
    late = Teeth.of(over.tolist(), begun.tolist(), 0, END).above(RPO)
    found = {f"sync.{n}.begins_s": t / 1e9 for n, t in enumerate(begun.tolist(), 1)}
    found |= {f"sync.{n}.over_s": t / 1e9 for n, t in enumerate(over.tolist(), 1)}
    found |= {"violations": len(late), "idle_s": sum(b - a for a, b in zip(over[:-1], begun[1:], strict=True)) / 1e9}
    for n, (begin, end) in enumerate(late, 1):
        found |= {f"violation.{n}.begins_s": begin / 1e9, f"violation.{n}.over_s": end / 1e9}
    return found


def five() -> dict[str, float]:
    """A sync takes 5 min."""
    return _measures(SYNCS["five"])


def seven() -> dict[str, float]:
    """A sync takes 7.5 min."""
    return _measures(SYNCS["seven"])


def ten() -> dict[str, float]:
    """A sync takes 10 min."""
    return _measures(SYNCS["ten"])


def kept() -> dict[str, float]:
    """Three instances a day for five days, after ten days of a sync each quarter of an hour."""
    shows = np.arange(0, 10 * DAY, RPO)
    found = retained(shows, per_day=3, days=5, now=int(shows[-1]))
    apart = [b - a for a, b in pairwise(found[:-1].tolist())]
    return {"instances": len(found), "apart_s": max(apart) / 1e9, "oldest_s": (shows[-1] - found[0]) / 1e9}


def draw(path: Path) -> None:
    """The age of the newest instance over an hour, for each length of a sync; syncs as bars below."""
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        for axes, takes in zip(figure.subplots(3, 1, sharex=True), SYNCS.values(), strict=True):
            begun, over = _syncs(takes)
            teeth = Teeth.of(over.tolist(), begun.tolist(), 0, END)
            x = np.column_stack([teeth.start, teeth.end]).ravel() / MINUTE
            axes.plot(x, np.column_stack([teeth.low, teeth.high]).ravel() / MINUTE, color=style.SERIES[0])
            axes.axhline(15, color=style.SOFT, lw=0.8, ls="--")
            for n, (a, b) in enumerate(zip(begun / MINUTE, over / MINUTE, strict=True)):
                axes.broken_barh([(a, min(b, 60) - a)], (-3, 2), color=style.SERIES[n % 2], lw=0)
            for begin, end in teeth.above(RPO):
                axes.axvspan(begin / MINUTE, end / MINUTE, color=style.BAD, alpha=0.18, lw=0)
            axes.set_title(f"a sync takes {takes / MINUTE:g} min", loc="left", color=style.INK)
            axes.set(xlim=(0, 60), ylim=(-3.5, 22), yticks=(0, 5, 10, 15, 20), ylabel="RPO, min")
        axes.set_xticks(range(0, 61, 10), [f"12:{m:02d}" for m in range(0, 60, 10)] + ["13:00"])
        figure.savefig(path, dpi=96, format="png", metadata={"Software": None})
