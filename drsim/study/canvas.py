"""Canvas: what the pictures of a run have in common: frame over time, faults, limits, names, axes in human units."""

import re
from collections.abc import Callable, Sequence
from functools import wraps

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from drsim.core.units import SECOND
from drsim.sim.capacity import over_time
from drsim.sim.run import Run
from drsim.spec.faults import DatastoreFull, Fault, LinkDegraded, LinkDown, LinkFlapping, SiteLoss, VraRestart
from drsim.study import style

Floats = NDArray[np.float64]
WIDTH, LEFT, RIGHT = 11.04, 0.82, 1.72  # inches: 1060 px of page, room for ticks, room for names
LETTER = 4.6  # points, about the width of one at 8.5 points
DURATIONS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600,
    7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000, 2592000,
)  # fmt: skip
DECADES = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 21600, 86400, 864000)


# -- the frame of every picture over time -------------------------------------------------------------------------


def picture(draw: Callable[[Run], str]) -> Callable[[Run], str]:
    """A function that draws a run, in our style."""

    @wraps(draw)
    def styled(run: Run) -> str:
        with mpl.rc_context(style.SETTINGS):
            return draw(run)

    return styled


def fault_words(fault: Fault) -> str:
    """A fault in a few words."""
    match fault:
        case LinkDown():
            return f"{fault.link} down"
        case LinkDegraded():
            return f"{fault.link} degraded"
        case LinkFlapping():
            return f"{fault.link} flapping"
        case VraRestart():
            return f"VRA restart on {fault.host}"
        case DatastoreFull():
            return f"{fault.datastore} full"
        case SiteLoss():
            return f"site {fault.site} lost"
        case _:
            return re.sub(r"^vra\b", "VRA", fault.words)


def faults(run: Run) -> list[tuple[int, float, float, Fault]]:
    """The faults that came about: number, begin and end in seconds."""
    end = run.end / SECOND
    spans = [
        (f.at / SECOND, end if isinstance(f, SiteLoss) else (f.at + f.lasts) / SECOND, f) for f in run.model.faults
    ]
    spans.sort(key=lambda span: span[0])
    return [(n + 1, a, min(b, end), f) for n, (a, b, f) in enumerate(spans) if a < end]


def _instant(value: float, _: object) -> str:
    if 60 <= value < 3600 and value % 60 == 0:
        return f"{value / 60:.0f} min"
    return style.seconds(value) if value > 0 else "0"


def short(text: str, most: int = 22) -> str:
    """A name cut to what fits beside a picture."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def frame(
    run: Run, heights: Sequence[float], *, gap: float = 0.16, titles: Sequence[str] = (), below: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Panels below each other over the time of the run, with its faults; heights in inches."""
    top, bottom = (0.24 if run.model.faults else 0.06) + (0.2 if titles else 0), 0.3 + below
    tall = top + sum(heights) + gap * (len(heights) - 1) + bottom
    figure = Figure(figsize=(WIDTH, tall))
    panels: list[Axes] = []
    end, y = run.end / SECOND, tall - top
    step = next((d for d in DURATIONS if end / d <= 9.5), end / 8)
    for height in heights:
        axes = figure.add_axes((LEFT / WIDTH, (y - height) / tall, (WIDTH - LEFT - RIGHT) / WIDTH, height / tall))
        axes.set_xlim(0, end)
        axes.xaxis.set_major_locator(FixedLocator(list(np.arange(0, end * 1.0001, step))))
        axes.xaxis.set_major_formatter(FuncFormatter(_instant))
        axes.tick_params(labelbottom=len(panels) == len(heights) - 1)
        axes.grid(visible=False, axis="x")
        panels.append(axes)
        y -= height + gap
    for axes, title in zip(panels, titles, strict=False):
        raised = 17 if run.model.faults and axes is panels[0] else 4
        axes.annotate(title, (0, 1), xycoords="axes fraction", xytext=(0, raised), textcoords="offset points",
                      fontsize=9, fontweight="bold", color=style.INK)  # fmt: skip
    _mark_faults(run, panels)
    return figure, panels


def _mark_faults(run: Run, panels: Sequence[Axes]) -> None:
    end = run.end / SECOND
    letters = LETTER / 72 / (WIDTH - LEFT - RIGHT) * end  # in seconds
    found, free = faults(run), 0.0
    for at, (n, begin, stop, fault) in enumerate(found):
        for axes in panels:
            axes.axvspan(begin, stop, color=style.FAULT, lw=0, zorder=0)
            axes.axvline(begin, color="#d9b36c", lw=0.7, zorder=0.5)
        following = found[at + 1][1] if at + 1 < len(found) else end + 14 * letters
        text = f"{n} {short(fault_words(fault), 30)}"
        if begin < free:
            continue
        if begin + len(text) * letters > following:
            text = str(n)
        panels[0].annotate(
            text, (begin, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
            fontsize=8.5, color=style.FAULT_INK, annotation_clip=False,
        )  # fmt: skip
        free = begin + (len(text) + 1) * letters


def names(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names right of the axes at their heights (data), moved apart where they would meet."""
    transform = axes.transData + axes.transAxes.inverted()
    high = axes.get_position().height * float(axes.get_figure().get_figheight()) * 72  # type: ignore[union-attr]
    apart = 11.5 / high
    placed = sorted((float(transform.transform((0, y))[1]), n) for n, (y, _, _) in enumerate(labels))
    spots = [min(1.0, max(0.0, at)) for at, _ in placed]
    for n in range(1, len(spots)):
        spots[n] = max(spots[n], spots[n - 1] + apart)
    for n in reversed(range(len(spots))):
        spots[n] = min(spots[n], 1 - apart / 4 - (len(spots) - 1 - n) * apart)
    for spot, (_, n) in zip(spots, placed, strict=True):
        axes.annotate(
            labels[n][1], (1, spot), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=labels[n][2], annotation_clip=False,
        )  # fmt: skip


def limit(axes: Axes, value: float, text: str, top: float) -> float:
    """A limit as a dashed line, or as a note when it is far above what there is to see; the new top of the axis."""
    if value <= 2.5 * top:
        axes.axhline(value, color=style.BAD, lw=1, ls=(0, (5, 3)), zorder=3)
        axes.annotate(
            text, (0, value), xycoords=("axes fraction", "data"), xytext=(4, 3), textcoords="offset points",
            fontsize=8.5, color=style.BAD,
        )  # fmt: skip
        return max(top, value * 1.16)
    axes.annotate(
        f"↑ {text}, above this picture", (0, 1), xycoords="axes fraction", xytext=(4, -3), textcoords="offset points",
        va="top", fontsize=8.5, color=style.SOFT,
    )  # fmt: skip
    return top * 1.1


def amounts(axes: Axes, top: float, words: Callable[[float], str]) -> None:
    """A linear axis from 0 in sizes or rates."""
    axes.set_ylim(0, top if top > 0 else 1)
    axes.yaxis.set_major_locator(MaxNLocator(4) if top > 0 else FixedLocator([0.0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: words(y)))


def durations(axes: Axes, low: float, high: float, *, log: bool, which: str = "y", most: float = 4.2) -> None:
    """An axis in durations, given in seconds."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    limits = axes.set_ylim if which == "y" else axes.set_xlim
    if log:
        (axes.set_yscale if which == "y" else axes.set_xscale)("log")
        ticks = [d for d in DECADES if low <= d <= high]
    else:
        step = next((d for d in DURATIONS if high / d <= most), high)
        low, ticks = 0.0, list(np.arange(0, high * 1.0001, step))
    limits(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_instant))


def capacity(run: Run, link: str, at: Floats) -> Floats:
    """Bits a second that a link has at instants (seconds): its bandwidth, throttle windows and faults."""
    times, rates = over_time(run.model, link, run.end)
    return np.asarray(rates[np.searchsorted(times, at * SECOND, side="right") - 1] * 8)
