"""Saying: a study's measures in words, in the cells of tables, and on axes."""

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from drsim.study import style
from drsim.study.canvas import durations
from drsim.study.design import Plan
from drsim.study.plots import LARGE
from drsim.study.stats import Interval


def said(plan: Plan, name: str, number: float) -> str:
    """A measure's value with its unit."""
    of = plan.study.measures[name]
    if timed(of):
        return ("−" if number < 0 else "") + style.seconds(abs(number))
    return style.words(of, number)


def timed(of: str) -> bool:
    """Whether a measure is a duration."""
    return any(part.endswith("_s") for part in of.split("."))


def cell(plan: Plan, name: str, found: Interval) -> str:
    """A value with its interval: 4.9 s (4.8 s to 5 s)."""
    value, low, high = found
    if not math.isfinite(value):
        return "no run"
    low = low if low is None or value < 0 else max(0.0, low)  # nothing that is measured here is below nothing
    text = said(plan, name, value)
    if low is None or high is None or said(plan, name, low) == said(plan, name, high):
        return text
    return f"{text} ({said(plan, name, low)} to {said(plan, name, high)})"


def axis(axes: Axes, plan: Plan, name: str, which: str) -> None:
    """Ticks of the x or y axis as people say the measure."""
    if timed(plan.study.measures[name]):
        low, high = axes.dataLim.intervaly if which == "y" else axes.dataLim.intervalx
        durations(axes, low / 1.5, high * 1.5, log=0 < low * LARGE < high, which=which)
        return
    low, high = axes.dataLim.intervaly
    if which == "y" and 0 < low * LARGE < high:
        axes.set_yscale("log")
    elif which == "y":
        axes.set_ylim(bottom=0)
    of = axes.yaxis if which == "y" else axes.xaxis
    if of.get_scale() == "linear":
        of.set_major_locator(MaxNLocator(5))
    of.set_major_formatter(FuncFormatter(lambda value, _: said(plan, name, value) if value else "0"))
