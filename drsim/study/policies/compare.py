"""Policies side by side: figures as rows, and one picture of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from drsim.core.units import SECOND
from drsim.study import style
from drsim.study.policies.base import Load, Policy, Wan

SHARES = (0.5, 0.95, 0.99, 1.0)
LEAST = 0.01
"""Seconds at the left edge of the picture; less is shown there."""
TICKS = (0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400)
_WIDTH, _ROW = 10.4, 0.34  # inches


@dataclass(frozen=True, slots=True)
class Compared:
    """One policy's figures. RPO in seconds: mean, and what is not exceeded in 50, 95, 99 and 100 % of the time.

    wan: wire bytes; storage: bytes beside one copy of the disks; points: points in time at most; wait: seconds that
    a write waits for the link, in the mean.
    """

    name: str
    source: str
    mean: float
    p50: float
    p95: float
    p99: float
    max: float
    wan: float
    storage: float
    points: int
    wait: float


def compare(policies: Sequence[Policy], load: Load, wan: Wan, *, squeeze: float = 1.0) -> list[Compared]:
    """What each policy gives for the same writes over the same link. squeeze: wire bytes for each byte written."""
    rows = []
    for policy in policies:
        found = policy.protect(load, wan)
        p50, p95, p99, most = found.quantiles(SHARES)
        waited = found.waited / SECOND / max(1, len(load.at))
        rows.append(Compared(
            policy.name, policy.source, found.mean(), p50, p95, p99, most, found.sent * squeeze, found.storage,
            found.points, waited,
        ))  # fmt: skip
    return rows


def draw(rows: Sequence[Compared], out: Path) -> None:
    """A row for each policy: its RPO as a bar from the median to the worst on a scale of time, and its price."""
    columns: tuple[tuple[str, Callable[[Compared], str]], ...] = (
        ("WAN", lambda r: style.size(r.wan)), ("storage", lambda r: style.size(r.storage)),
        ("points", lambda r: style.count(r.points)), ("a write waits", lambda r: style.seconds(r.wait)),
    )  # fmt: skip
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(_WIDTH, 1.0 + _ROW * len(rows)))
        high = 1 - 0.35 / figure.get_figheight()
        axes = figure.add_axes((0.17, 0.55 / figure.get_figheight(), 0.46, high - 0.55 / figure.get_figheight()))
        for n, row in enumerate(rows):
            low, mid, high = (max(LEAST, each) for each in (row.p50, row.p95, row.max))
            colour = style.SERIES[0] if n == 0 else style.REST
            ink = style.SERIES[0] if n == 0 else style.SOFT
            axes.plot([low, high], [n, n], color=colour, lw=7, solid_capstyle="butt")
            axes.plot([mid], [n], "|", color=style.INK, ms=11, mew=1.4)
            axes.plot([low], [n], "o", color=ink, ms=5)
            axes.annotate(style.seconds(row.max), (high, n), (5, 0), textcoords="offset points", va="center", color=ink)
        axes.set_yticks(range(len(rows)), [row.name for row in rows], color=style.INK)
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.set_xscale("log")
        right = max([10.0, *(row.max for row in rows)]) * 8
        axes.set_xlim(LEAST, right)
        axes.xaxis.set_major_locator(FixedLocator([t for t in TICKS if t <= right]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: style.seconds(t)))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("RPO: ● median, | 95 % of the time, end of the bar: worst")
        for k, (title, words) in enumerate(columns):
            x = (0.71 + 0.09 * k - 0.17) / 0.46
            axes.text(x, 1.0, title, transform=axes.transAxes, ha="right", va="bottom", color=style.SOFT)
            for n, row in enumerate(rows):
                axes.text(x, n, words(row), transform=axes.get_yaxis_transform(), ha="right", va="center")
        figure.savefig(out, dpi=96, format="png", metadata={"Software": None})
