"""Pen: SVG by hand. Lines, boxes, arrows and words, in the colours of the house; every number to one decimal."""

from collections.abc import Sequence
from html import escape

INK, SOFT, FAINT, GRID = "#1d2530", "#5b6675", "#9aa4b1", "#e6e9ee"
BAD, FAULT, FAULT_INK = "#b3261e", "#f4ead9", "#7a5514"
DATA, DATA_INK, SYNC_INK, CONTROL_INK, CUT = "#5b93d1", "#2f6aae", "#a8620a", "#5b6675", "#8245b5"
HOLD, PALE, PAPER, EPOCH = "#efe9f7", "#cfe0f3", "#ffffff", "#eef5ea"
FONTS = "'Inter', 'Segoe UI', 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
LETTER = 0.53  # width of a letter, of its size

Point = tuple[float, float]


class Pen:
    """Collects elements; `labels` keep clear of each other."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._boxes: list[tuple[float, float, float, float]] = []

    def line(
        self, points: Sequence[Point], colour: str, *, width: float = 1, dash: str = "", head: bool = False
    ) -> None:
        """A line through points; `head` ends it in an arrow."""
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.path(path, colour, width=width, dash=dash, head=head)

    def path(self, path: str, colour: str, *, width: float = 1, dash: str = "", head: bool = False) -> None:
        """Any path."""
        more = f' stroke-dasharray="{dash}"' if dash else ""
        more += f' marker-end="url(#head-{colour[1:]})"' if head else ""
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{more}/>')

    def box(
        self, x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none", weight: float = 1.2,
        round_: float = 0, dash: str = "", title: str = "",
    ) -> None:  # fmt: skip
        """A rectangle; `title` shows when one points at it."""
        more = f' stroke-dasharray="{dash}"' if dash else ""
        inside = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{weight}"{more}>{inside}</rect>'
        )

    def area(self, points: Sequence[Point], colour: str, opacity: float) -> None:
        """A tinted area."""
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path d="{path} z" fill="{colour}" fill-opacity="{opacity}"/>')

    def ring(self, x: float, y: float, radius: float, colour: str) -> None:
        """A circle that nothing shines through."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{PAPER}" stroke="{colour}" stroke-width="2"/>'
        )

    def cross(self, x: float, y: float, size: float, colour: str) -> None:
        """An x."""
        a, b, c, d = x - size, x + size, y - size, y + size
        self.path(f"M{a:.1f} {c:.1f} L{b:.1f} {d:.1f} M{a:.1f} {d:.1f} L{b:.1f} {c:.1f}", colour, width=2)

    def diamond(self, x: float, y: float, size: float, colour: str) -> None:
        """A diamond."""
        self.parts.append(
            f'<path d="M{x:.1f} {y - size:.1f} l{size} {size} l{-size} {size} l{-size} {-size} z" fill="{colour}"/>'
        )

    def text(
        self, x: float, y: float, words: str, colour: str = INK, *, size: float = 12, anchor: str = "start",
        bold: bool = False, halo: bool = False,
    ) -> None:  # fmt: skip
        """Words; `halo` keeps them readable over lines."""
        more = ' font-weight="600"' if bold else ""
        more += f' stroke="{PAPER}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"' if halo else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}"{more}>'
            f"{escape(words)}</text>"
        )

    def keep_clear(self, x: float, y: float, width: float, height: float) -> None:
        """No label goes here."""
        self._boxes.append((x, y, x + width, y + height))

    def label(
        self, spots: Sequence[Point], words: str, colour: str, *, size: float = 11, bold: bool = False,
        anchor: str = "middle", must: bool = False,
    ) -> None:  # fmt: skip
        """Words at the first spot (of its middle) that is free; at none if there is none, but for what must be said."""
        width = len(words) * size * LETTER
        left = {"start": 0.0, "middle": width / 2, "end": width}[anchor]

        def box(spot: Point) -> tuple[float, float, float, float]:
            x, y = spot
            return x - left - 2, y - size * 0.75, x - left + width + 2, y + size * 0.45

        spot = next((s for s in spots if self._free(box(s))), spots[0] if must else None)
        if spot is not None:
            self._boxes.append(box(spot))
            self.text(spot[0], spot[1] + size * 0.35, words, colour, size=size, anchor=anchor, bold=bold, halo=True)

    def _free(self, box: tuple[float, float, float, float]) -> bool:
        return all(box[2] < a or box[0] > c or box[3] < b or box[1] > d for a, b, c, d in self._boxes)

    def paragraph(self, x: float, y: float, words: str, width: float, *, size: float = 13, colour: str = INK) -> float:
        """Words over several lines; the y below them."""
        line = ""
        for word in words.split():
            if len(line) + len(word) + 1 > width / (size * LETTER * 0.87):
                self.text(x, y, line, colour, size=size)
                line, y = "", y + size * 1.45
            line = f"{line} {word}".strip()
        self.text(x, y, line, colour, size=size)
        return y + size * 1.45

    def svg(self, width: float, height: float, says: str) -> str:
        """The whole picture."""
        heads = "".join(
            f'<marker id="head-{c[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{s}" markerHeight="{s}" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.6 L8 4 L0 7.4 z" fill="{c}"/></marker>'
            for c, s in ((BAD, 13), (DATA_INK, 8), (SYNC_INK, 8), (CONTROL_INK, 7), (FAINT, 7), (CUT, 8))
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="img" aria-label="{escape(says)}" font-family="{FONTS}">'
            f"<defs>{heads}</defs>\n"
            f'<rect width="100%" height="100%" fill="{PAPER}"/>\n' + "\n".join(self.parts) + "\n</svg>\n"
        )
