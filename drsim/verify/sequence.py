"""Sequence: a conversation of machines as an SVG sequence diagram. Time runs down, one lifeline for each machine.

    arrows        messages, in the row in which they arrive; a ring and a thin line show when they were sent, where
                  something else happened in between; a cross where one is lost
    notes         what a machine did, or how its state changed
    shaded        guests are held
    dotted        the machine is down; between two machines: their connection is lost

A `Scene` is data and knows nothing of the core: an explored run, a simulated one or a real one can be drawn. The same
scene gives the same bytes. The picture brings its own paper, so it reads on a light page and on a dark one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby, pairwise

from drsim.verify.pen import (
    CONTROL_INK,
    CUT,
    DATA_INK,
    FAINT,
    FAULT,
    FAULT_INK,
    GRID,
    HOLD,
    INK,
    LETTER,
    PALE,
    PAPER,
    SOFT,
    SYNC_INK,
    Pen,
)  # fmt: skip


class Kind(StrEnum):
    """What a saying is about."""

    DATA = "data"
    SYNC = "sync"
    CONTROL = "control"
    NOTE = "note"  # one machine, as all below but the connections
    STATE = "state"
    WRITE = "write"
    HOLD = "hold"
    RELEASE = "release"
    DOWN = "down"
    UP = "up"
    APART = "apart"  # a connection is lost
    TOGETHER = "together"  # and is back
    CHAPTER = "chapter"  # nobody's


INKS = {Kind.DATA: DATA_INK, Kind.SYNC: SYNC_INK, Kind.CONTROL: CONTROL_INK}
"""The messages, and their colours."""
ENDS = {Kind.RELEASE: Kind.HOLD, Kind.UP: Kind.DOWN, Kind.TOGETHER: Kind.APART}
"""What lasts from a saying of one kind to one of another."""


@dataclass(frozen=True, slots=True)
class Saying:
    """One thing said or done. `time` counts anything that grows: instants, steps, nanoseconds.

    A message goes from one machine to another, a note is a machine's own: then `to` is `sender`.
    """

    time: int  # of a message: when it arrives, or is lost
    sender: str
    to: str
    words: str
    kind: Kind = Kind.NOTE
    sent: int | None = None  # of a message
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Lifeline:
    """A machine."""

    name: str
    role: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """A conversation. `sayings` in order of time, `lifelines` from left to right, those of a site together."""

    title: str
    lifelines: tuple[Lifeline, ...]
    sayings: tuple[Saying, ...]

    @property
    def chapters(self) -> tuple[str, ...]:
        """The titles of its chapters."""
        return tuple(s.words for s in self.sayings if s.kind is Kind.CHAPTER)

    def chapter(self, number: int) -> "Scene":
        """One chapter of it, under its title; 0 is what comes before the first. Raises IndexError.

        What has begun before and still lasts is shown from the first row on.
        """
        starts = [0, *(n + 1 for n, s in enumerate(self.sayings) if s.kind is Kind.CHAPTER)]
        stops = [*(start - 1 for start in starts[1:]), len(self.sayings)]
        start, stop = starts[number], stops[number]
        going = tuple(replace(s, words="") for s in _going(self.sayings[:start]))
        title = (self.title, *self.chapters)[number]
        return replace(self, title=title, sayings=going + self.sayings[start:stop])


def _going(sayings: Iterable[Saying]) -> list[Saying]:
    """What has begun and not ended."""
    going: dict[tuple[Kind, str, str], Saying] = {}
    for saying in sayings:
        if saying.kind in ENDS.values():
            going[saying.kind, saying.sender, saying.to] = saying
        elif saying.kind in ENDS:
            going.pop((ENDS[saying.kind], saying.sender, saying.to), None)
    return list(going.values())


WIDTH, SIDE = 900, 96  # of the picture; from its edge to the first lifeline
ROW, GAP, TOP = 9.0, 5.0, 100.0  # what a row has beside its words; between two times; the first row
SIZE, LINE = 11.0, 14.0  # of letters; from one line to the next
WIDE = 40  # letters on a line of a note
SLANT = 13  # sideways, where a message waited before it arrived
LOOKS = {
    Kind.STATE: (HOLD, CUT, INK),
    Kind.WRITE: (PALE, DATA_INK, INK),
    Kind.HOLD: (HOLD, CUT, INK),
    **dict.fromkeys((Kind.DOWN, Kind.UP, Kind.APART, Kind.TOGETHER), (FAULT, FAULT_INK, FAULT_INK)),
}
"""Paper, edge and ink of a note."""


class Drawing:
    """Draws one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.pen = scene, Pen()
        heard = {name for s in scene.sayings for name in (s.sender, s.to)}
        self.lines = [line for line in scene.lifelines if line.name in heard]
        if not self.lines:
            raise ValueError(f"nobody in {scene.title!r} says anything")
        strange = heard - {line.name for line in self.lines} - {""}
        if strange:
            raise ValueError(f"no lifeline for {', '.join(sorted(strange))}")
        step = (WIDTH - 2 * SIDE) / max(1, len(self.lines) - 1)
        self.at = {
            line.name: SIDE + step * n if len(self.lines) > 1 else WIDTH / 2 for n, line in enumerate(self.lines)
        }
        self.y: dict[int, float] = {}  # of each saying, by its number: its row
        self.ends: dict[int, float] = {}  # the end of each time's rows
        self.bottom = self._lay_out()

    def _lay_out(self) -> float:
        """Give every saying its row; those of one time follow each other closely."""
        y, number = TOP, 0
        for time, group in groupby(self.scene.sayings, key=lambda saying: saying.time):
            for saying in group:
                height = ROW + LINE * len(self._lines(saying)) if saying.words or saying.kind in INKS else 0.0
                height += ROW if saying.kind is Kind.DOWN else 0.0  # so that it can be seen
                self.y[number] = y + height / 2
                y += height
                number += 1
            self.ends[time] = y
            y += GAP
        return y + 6

    def _lines(self, saying: Saying) -> list[str]:
        """Its words, as long as an arrow or as wide as a note is."""
        if saying.kind in INKS:
            return wrapped(saying.words, int((abs(self.at[saying.to] - self.at[saying.sender]) - 30) / SIZE / LETTER))
        return wrapped(saying.words, WIDE if saying.kind is not Kind.CHAPTER else int((WIDTH - 40) / SIZE / LETTER))

    def svg(self) -> str:
        """The picture."""
        for part in (self._lifelines, self._long, self._messages, self._notes, self._legend):
            part()
        return self.pen.svg(WIDTH, self.bottom + 32, self.scene.title)

    def _lifelines(self) -> None:
        pen = self.pen
        pen.text(20, 28, self.scene.title, INK, size=16, bold=True)
        for line in self.lines:
            x = self.at[line.name]
            pen.line([(x, TOP - 6), (x, self.bottom)], FAINT, width=1.2)
            pen.text(x, TOP - 28, line.name, INK, size=13, anchor="middle", bold=True)
            pen.text(x, TOP - 13, line.role, SOFT, size=10.5, anchor="middle")
        places = [(site, [self.at[line.name] for line in group])
                  for site, group in groupby(self.lines, key=lambda line: line.site)]  # fmt: skip
        for (_, left), (_, right) in pairwise(places):
            x = (left[-1] + right[0]) / 2
            pen.line([(x, TOP - 44), (x, self.bottom)], GRID, width=1.4, dash="2 5")
        for site, xs in places:
            pen.text((xs[0] + xs[-1]) / 2, TOP - 50, site.upper(), FAINT, size=10, anchor="middle", bold=True)

    def _spans(self) -> Iterator[tuple[Saying, float, float]]:
        """What lasts: the saying that it began with, and from where to where."""
        going: dict[tuple[Kind, str, str], tuple[Saying, float]] = {}
        for n, saying in enumerate(self.scene.sayings):
            if saying.kind in ENDS.values():
                going.setdefault((saying.kind, saying.sender, saying.to), (saying, self.y[n]))
            elif saying.kind in ENDS:
                began = going.pop((ENDS[saying.kind], saying.sender, saying.to), None)
                if began is not None:
                    yield *began, self.y[n]
        for saying, y in going.values():
            yield saying, y, self.bottom

    def _long(self) -> None:
        pen = self.pen
        for saying, a, b in self._spans():
            x = self.at[saying.sender]
            match saying.kind:
                case Kind.HOLD:
                    pen.box(x - 6, a, 12, b - a, fill=HOLD, stroke=CUT, weight=0.8, round_=2, title="guests are held")
                case Kind.DOWN:
                    pen.box(x - 2, a, 4, b - a, fill=PAPER)
                    pen.line([(x, a), (x, b)], FAULT_INK, width=3, dash="1.5 5")
                    if b < self.bottom:
                        pen.ring(x, b, 4, FAULT_INK)
                case _:
                    for end in (x, self.at[saying.to]):
                        side = 9 if end == min(x, self.at[saying.to]) else -9
                        pen.line([(end + side, a), (end + side, b)], FAULT_INK, width=1.4, dash="1.5 4")

    # -- messages ---------------------------------------------------------------------------------------------

    def _messages(self) -> None:
        for n, saying in enumerate(self.scene.sayings):
            if saying.kind in INKS:
                self._message(saying, self.y[n])

    def _message(self, saying: Saying, y: float) -> None:
        pen, ink, lines = self.pen, INKS[saying.kind], self._lines(saying)
        a, b = self.at[saying.sender], self.at[saying.to]
        way = 1 if b > a else -1
        y += LINE * len(lines) / 2 - 2  # below its words
        left = self._left(saying, y)
        start = a
        if left is not None:
            start = a + SLANT * way
            pen.ring(a, left, 1.6, ink)
            pen.line([(a, left), (start, y)], ink, width=0.9)
        if saying.lost:
            stop = a + (b - a) * 0.6
            pen.line([(start, y), (stop, y)], ink, width=1.4, dash="4 3")
            pen.cross(stop, y, 4.5, FAULT_INK)
        else:
            pen.line([(start, y), (b - 1.5 * way, y)], ink, width=1.5, head=True)
        for k, line in enumerate(lines, 1 - len(lines)):
            pen.text((a + b) / 2, y - 5 + k * LINE, line, ink, size=SIZE, anchor="middle", halo=True)

    def _left(self, saying: Saying, y: float) -> float | None:
        """Where a message left its sender; None when not much happened before it arrived."""
        if saying.sent is None:
            return None
        left = max((end for time, end in self.ends.items() if time <= saying.sent), default=TOP)
        return left if y - left > 2 * (ROW + LINE) else None

    # -- notes ------------------------------------------------------------------------------------------------

    def _notes(self) -> None:
        for n, saying in enumerate(self.scene.sayings):
            if saying.kind not in INKS and saying.words:
                self._note(saying, self.y[n], self._lines(saying))

    def _note(self, saying: Saying, y: float, lines: list[str]) -> None:
        pen, height = self.pen, 5 + LINE * len(lines)
        if saying.kind is Kind.CHAPTER:
            for k, line in enumerate(lines):
                pen.text(20, y - height / 2 + 13 + k * LINE, line, SOFT, size=SIZE + 0.5, bold=True, halo=True)
            return
        width = max(map(len, lines)) * SIZE * LETTER + 14
        middle = (self.at[saying.sender] + self.at[saying.to]) / 2
        middle = min(max(middle, 6 + width / 2), WIDTH - 6 - width / 2)
        fill, stroke, ink = LOOKS.get(saying.kind, (PAPER, FAINT, SOFT))
        pen.box(middle - width / 2, y - height / 2, width, height, fill=fill, stroke=stroke, weight=0.9, round_=3)
        for k, line in enumerate(lines):
            pen.text(middle, y - height / 2 + 13.5 + k * LINE, line, ink, size=SIZE, anchor="middle")

    def _legend(self) -> None:
        """Below: what the colours say, of those that are there."""
        pen, x, y = self.pen, 20.0, self.bottom + 18
        kinds = {saying.kind for saying in self.scene.sayings}
        for kind, ink in INKS.items():
            if kind in kinds:
                pen.line([(x, y - 4), (x + 22, y - 4)], ink, width=1.5, head=True)
                pen.text(x + 29, y, kind.value, SOFT, size=SIZE)
                x += 29 + len(kind.value) * SIZE * LETTER + 22
        if Kind.HOLD in kinds:
            pen.box(x, y - 10, 12, 13, fill=HOLD, stroke=CUT, weight=0.8, round_=2)
            pen.text(x + 19, y, "guests are held: nothing is acknowledged", SOFT, size=SIZE)


def wrapped(words: str, letters: int) -> list[str]:
    """Words on as few lines as they need, of about the same length; a word that is longer has a line of its own."""
    lines = _filled(words, letters)
    while letters > 1 and len(tighter := _filled(words, letters - 1)) == len(lines):
        lines, letters = tighter, letters - 1
    return lines


def _filled(words: str, letters: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw(scene: Scene) -> str:
    """The sequence diagram of a scene, as SVG, 900 wide. Raises ValueError when a saying is of nobody in it."""
    return Drawing(scene).svg()
