"""Page: a self-contained HTML page for people: an answer, pictures, tables, assumptions, the command."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from drsim.study import style

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header, and rows of words; the first column is text, the others are aligned as numbers."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: paragraphs, an SVG picture, a table."""

    title: str
    text: Sequence[str] = ()
    picture: str = ""
    table: Table | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says. `answer` is what a reader takes away; `command` makes the page again."""

    title: str
    answer: str
    command: str
    sections: Sequence[Section]
    about: str = ""
    good: bool = True

    def render(self) -> str:
        """The page as HTML."""
        environment = Environment(
            loader=PackageLoader("drsim.study", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True, keep_trailing_newline=True,
        )  # fmt: skip
        return environment.get_template("page.html.j2").render(page=self, Markup=Markup)


def drawn(
    draw: Callable[[Axes], None], name: str, says: str, *, size: tuple[float, float] = (11.04, 3.2)
) -> str:  # fmt: skip
    """One pair of axes in our style, as SVG."""
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        return style.svg(figure, name, says)


def lines(x: Any, series: Mapping[str, Any], axis: Callable[[Axes, float], None], name: str) -> str:
    """Lines over time in seconds: an SVG with a legend. axis: makes the axis, given its top."""

    def draw(axes: Axes) -> None:
        for (label, y), colour in zip(series.items(), style.SERIES, strict=False):
            axes.plot(x, y, color=colour, label=label, lw=1.1)
        top = max((float(np.nanmax(y, initial=0)) for y in series.values()), default=1.0)
        axes.set_xlim(0, float(x[-1]) if len(x) else 1)
        axis(axes, top * 1.08 or 1)
        day = 86400 if len(x) and x[-1] > 3 * 86400 else 3600 if len(x) and x[-1] > 2 * 3600 else 60
        axes.xaxis.set_major_locator(_Every(day))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: style.seconds(value) if value else "0"))
        axes.legend(loc="upper left", ncols=4, bbox_to_anchor=(0, 1.14))

    return drawn(draw, name, f"{', '.join(series)} over time")


class _Every(MaxNLocator):
    """Ticks at whole hours, days or minutes, not more than ten."""

    def __init__(self, unit: float) -> None:
        super().__init__(10, steps=[1, 2, 3, 6, 10])
        self._unit = unit

    def tick_values(self, vmin: float, vmax: float) -> Any:
        return np.asarray(super().tick_values(vmin / self._unit, vmax / self._unit)) * self._unit
