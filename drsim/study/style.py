"""Style of pictures and words: colours, matplotlib settings, clean SVG, and quantities as people say them."""

import math
import re
from collections.abc import Iterable
from io import StringIO
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
from matplotlib.figure import Figure

INK, SOFT, FAINT, GRID = "#1d2530", "#5b6675", "#9aa4b1", "#e6e9ee"
BAD, FAULT, REST = "#b3261e", "#f4ead9", "#b5bdc8"
FAULT_INK = "#7a5514"
SERIES = ("#1f5fae", "#c8580a", "#0e7c66", "#8245b5", "#b0246b", "#5c7000")
"""Of VPGs and VRAs, told apart by people with any kind of colour vision; each has 4.5:1 on white."""
KINDS = {"data": "#5b93d1", "sync": "#e39a3b", "control": "#7d8896"}
KINDS_INK = {"data": "#2f6aae", "sync": "#a8620a", "control": "#5b6675"}
STATES = {
    "MeetingSLA": ("#bfe0cb", "#f2dc8c", "#e3c55a", "#d3ae2c"),
    "RpoNotMeetingSLA": ("#f0a35e", "#e0813a", "#c9641d", "#a94d10", "#7f3808", "#562403"),
    "NotMeetingSLA": ("#e08a86", "#cf5b55", "#b3261e", "#8c1812", "#650e09", "#430704"),
    "HistoryNotMeetingSLA": ("#c9b3e6", "#a98ad6", "#8a63c2", "#6b46a3"),
    "Initializing": ("#bcd3ee", "#94b8e2", "#6d9bd3", "#4a7fc0"),
}
"""Shades of each status, for its sub-statuses in the order in which they occur; other statuses are grey."""
OTHER_STATES = ("#c3c9d1", "#a5adb8", "#88919d", "#6b7582")
LOST = "#3a4350"

FONTS = "'Inter', 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
SETTINGS: Any = {  # matplotlib types the keys, not what we do with them
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # measures text; the page's own fonts show it, and are narrower
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.3,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.5,
}


def svg(figure: Figure, name: str, says: str) -> str:
    """The figure as an SVG element: text as text, no metadata, ids that begin with `name`, the same bytes each time."""
    out = StringIO()
    with mpl.rc_context({**SETTINGS, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = text.replace('<style type="text/css">*{', f'<style type="text/css">#{name} *{{')
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?(?=[;\"])", FONTS, text)
    return text.replace("<svg ", f'<svg id="{name}" role="img" aria-label={quoteattr(says)} ', 1).strip()


# -- quantities ---------------------------------------------------------------------------------------------------


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def digits(value: float, significant: int = 3) -> str:
    """A number with so many significant digits, never in powers of ten, thousands parted by a thin space."""
    if not value:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(abs(value)) + 1e-12))
    text = f"{value:,.{places}f}".replace(",", "\u202f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(value: float | None) -> str:
    """A duration from seconds: 4.9 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if value is None or not _known(value):
        return "–"
    for limit, (big, big_name), (small, small_name) in (
        (3600, (60, "min"), (1, "s")), (2 * 86400, (3600, "h"), (60, "min")), (math.inf, (86400, "d"), (3600, "h")),
    ):  # fmt: skip
        if value < 99.5:
            break
        if value < limit - small / 2:
            whole, rest = divmod(round(value / small), big // small)
            return f"{whole} {big_name}" + (f" {rest} {small_name}" if rest else "")
    if 0 < value < 0.0995:
        return f"{digits(value * 1000, 2)} ms" if value >= 1e-6 else "0 s"
    return f"{value:.1f} s".replace(".0 s", " s") if 1 <= value < 9.95 else f"{digits(value, 2)} s"


def _scaled(value: float | None, units: Iterable[str]) -> str:
    if value is None or not _known(value):
        return "–"
    names, n = list(units), 0
    while abs(value) >= 999.5 and n < len(names) - 1:
        value, n = value / 1000, n + 1
    return f"{digits(value) if n else digits(round(value))} {names[n]}"


def size(nbytes: float | None) -> str:
    """Bytes in decimal units: 16.4 MB."""
    return _scaled(nbytes, ("B", "kB", "MB", "GB", "TB", "PB"))


def rate(bits: float | None) -> str:
    """Bits a second, as links are sold: 15.5 Mbit/s."""
    return _scaled(bits, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


def count(n: float) -> str:
    """A whole number with its thousands parted by a thin space."""
    return f"{n:,.0f}".replace(",", "\u202f")


def percent(share: float | None) -> str:
    """A share of one: 6.8 %, 0.04 %, 100 % only when it is all."""
    if share is None or not _known(share):
        return "–"
    value = share * 100
    if 99.95 <= value < 100:
        return "> 99.9 %"
    return f"{digits(value, 3 if value >= 10 else 2)} %" if value >= 0.01 or not value else "< 0.01 %"


def plural(n: int, word: str) -> str:
    """1 fault, 3 faults."""
    return f"{count(n)} {word}{'' if n == 1 else 's'}"


def status(label: str) -> str:
    """A status and sub-status in words: "RPO not meeting SLA: disconnected from peer"."""
    head, _, sub = label.partition(" / ")
    said = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part).lower() for part in (head, sub) if part]
    text = ": ".join(said).replace("sla", "SLA").replace("rpo", "RPO").replace("vm ", "VM ")
    return text[:1].upper() + text[1:]


def words(measure: str, number: float) -> str:
    """A measured number with the unit that its name tells."""
    parts = measure.split(".")
    if any(part.endswith("_s") or part == "seconds" for part in parts):
        return _duration(number)
    if any(part.endswith("bytes") for part in parts):
        return size(number)
    if parts[-1].endswith("_bps"):
        return rate(number)
    if any(part.endswith("_share") for part in parts):
        return percent(number)
    return count(number)


def _duration(span: float) -> str:
    """A duration to the second from 100 s on: 8 min 21 s, 1 h 8 min 26 s."""
    if span < 99.5:
        return seconds(span)
    minutes, rest = divmod(round(span), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{n} {unit}" for n, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if n]
    return " ".join(parts)
