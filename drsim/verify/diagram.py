"""Diagram: the time diagram of a story, as SVG. Time runs right, one lane for each VM and machine.

    boxes        writes, from issue to acknowledgement; filled when the checkpoint in question has them
    shaded       guests are held
    arrows       messages, from when they are sent to when they arrive; a cross where one is lost
    dashed line  the checkpoint's cut: what each VRA had captured when it answered
    red          what is broken: mostly the happens-before arrow that crosses the cut the wrong way

Where things stand is `layout.py`'s matter.
"""

from drsim.core.messages import (
    Aborted,
    Ack,
    Age,
    Await,
    Frame,
    Held,
    Hold,
    Message,
    Nack,
    Reached,
    Release,
    Released,
    Resync,
    Resynced,
    Sealed,
    SyncDone,
)  # fmt: skip
from drsim.core.names import Address
from drsim.verify.bags import Link
from drsim.verify.complaint import demand
from drsim.verify.guests import Write
from drsim.verify.layout import LEFT, LOW, RIGHT, TOP, WIDTH, Box, Lane, Layout
from drsim.verify.pen import (
    BAD,
    CONTROL_INK,
    CUT,
    DATA,
    DATA_INK,
    FAINT,
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
from drsim.verify.story import Story

SHORT: dict[type, str] = {
    Hold: "hold", Held: "held", Release: "release", Released: "released", Aborted: "cannot vouch", Resync: "new epoch",
    Resynced: "begun", SyncDone: "all sent", Sealed: "sealed", Ack: "ack", Nack: "refused", Age: "age",
    Await: "reached?", Reached: "reached",
}  # fmt: skip


class Diagram(Layout):
    """See the module. Made once for each story."""

    writes = "guest write"
    """What a box is."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.pen = Pen()

    def svg(self) -> str:
        """The picture."""
        for part in (self._ground, self._ruler, self._spans, self._cut, self._writes, self._red, self._messages,
                     self._points):  # fmt: skip
            part()
        below = self._words()
        says = self.story.verdict
        return self.pen.svg(WIDTH, below, says)

    def _ground(self) -> None:
        pen = self.pen
        for lane in self.lanes.values():
            machine = lane.height == LOW
            pen.line([(LEFT - 8, lane.middle), (WIDTH - RIGHT + 14, lane.middle)], GRID, width=1.6 if machine else 1)
            pen.text(LEFT - 18, lane.middle + 4, lane.name, SOFT if machine else INK, size=12.5, anchor="end",
                     bold=not machine)  # fmt: skip
        east = [lane for lane in self.lanes.values() if not isinstance(lane.of, int) and lane.of.startswith("east/")]
        west = [lane for lane in self.lanes.values() if lane not in east]
        for site, lanes in (("PROTECTED SITE", west), ("RECOVERY SITE", east)):
            if lanes:
                pen.text(24, lanes[0].y - 3, site, FAINT, size=10, bold=True)
        if east and west:
            y = east[0].y - 17
            pen.line([(LEFT - 8, y), (WIDTH - RIGHT + 14, y)], FAINT, width=1, dash="1 5")

    def _ruler(self) -> None:
        """Numbers of the steps, as in the story."""
        pen, last = self.pen, LEFT - 40
        shown = [(n, step) for n, step in enumerate(self.x.steps, 1) if step.last >= self.first]
        for n, step in shown:
            x = self.at(max(step.first, self.first)) - 9
            pen.line([(x, TOP - 36), (x, self.bottom)], GRID, width=1)
            if x - last > 7 + 7 * len(str(n)):
                pen.text(x + 4, TOP - 28, str(n), SOFT, size=11)
                last = x
        healing = next((step for _, step in shown if step.healing), None)
        if healing is not None and not self.x.steps[shown[0][0] - 1].healing:
            x = self.at(healing.first) - 9
            pen.line([(x, TOP - 48), (x, self.bottom)], FAINT, width=1.2)
            pen.text(x + 4, TOP - 42, "faults stop", SOFT, size=11)
        pen.text(LEFT - 18, TOP - 28, "step", SOFT, size=11, anchor="end")
        if shown and shown[0][0] > 1:
            pen.text(LEFT - 4, TOP - 44, f"steps 1-{shown[0][0] - 1} are left out", SOFT, size=11)

    def _spans(self) -> None:
        for span in self.x.spans:
            if span.last is not None and span.last < self.first:
                continue
            a, b = self.at(span.first), self.at(span.last)
            if isinstance(span.of, tuple):
                self._lost(span.of, a, None if span.last is None else b)
            elif span.kind == "down":
                self._down(span.of, a, b, ends=span.last is not None)
            else:
                vpg = span.kind.removeprefix("hold ")
                self._hold(span.of, vpg, a, b)

    def _hold(self, vra: Address, vpg: str, a: float, b: float) -> None:
        for lane in self.lanes.values():
            guest = self.x.guests.get(lane.of) if isinstance(lane.of, int) else None  # type: ignore[call-overload]
            if lane.of == vra or (guest and guest.host == vra):
                self.pen.box(a - 3, lane.y + 5, b - a + 6, lane.height - 10, fill=HOLD, round_=3,
                             title="guests are held: nothing is acknowledged")  # fmt: skip
                if isinstance(lane.of, int) and b - a > 34:
                    self.pen.text((a + b) / 2, lane.y + 15, "held", CUT, size=10, anchor="middle")

    def _lost(self, link: Link, a: float, b: float | None) -> None:
        near, far = (self.lanes.get(end) for end in link)
        if near is None or far is None:
            return
        top, bottom = sorted((near.middle, far.middle))
        self.pen.line([(a, top), (a, bottom)], FAULT_INK, width=1.4, dash="2 3")
        for lane in (near, far):
            self.pen.cross(a, lane.middle, 4.5, FAULT_INK)
        self.pen.label(
            [(a + 6, lane.middle - 12) for lane in (near, far)], "connection lost", FAULT_INK, anchor="start"
        )
        if b is not None:
            self.pen.line([(b, top), (b, bottom)], FAULT_INK, width=1.4, dash="2 3")
            self.pen.label([(b + 6, lane.middle - 12) for lane in (near, far)], "back", FAULT_INK, anchor="start")

    def _down(self, address: Address, a: float, b: float, *, ends: bool) -> None:
        lane = self.lanes.get(address)
        if lane is not None:
            self.pen.line([(a, lane.middle), (b, lane.middle)], FAULT_INK, width=5, dash="1.5 4")
            self.pen.cross(a, lane.middle, 6, FAULT_INK)
            self.pen.label([(a + 8, lane.middle - 12)], "down", FAULT_INK, anchor="start")
            if ends:
                self.pen.ring(b, lane.middle, 4, FAULT_INK)

    def _messages(self) -> None:
        for carried in self.shown():
            near, far = self.lanes.get(carried.sender), self.lanes.get(carried.to)
            if self.broken and self.broken.prop == "P8" and carried is self.x.carried[-1]:
                continue  # in red
            until = carried.arrived or carried.lost
            if near is None or far is None or (until is not None and until < self.first):
                continue
            a, b = self.at(carried.sent), self.at(until) if until else min(self.at(carried.sent) + 40, WIDTH - RIGHT)
            down = 1 if far.middle > near.middle else -1
            start, stop = (a, near.middle + 3 * down), (b, far.middle - 3 * down)
            if carried.arrived is None:
                part = 0.72
                stop = (a + (b - a) * part, start[1] + (stop[1] - start[1]) * part)
            colour = _colour(carried.message)
            self.pen.line([start, stop], colour, width=1.3, dash="" if carried.arrived else "4 3",
                          head=carried.arrived is not None)  # fmt: skip
            if carried.lost is not None:
                self.pen.cross(*stop, 4, FAULT_INK)
            spots = [(start[0] + (stop[0] - start[0]) * t + 4, start[1] + (stop[1] - start[1]) * t)
                     for t in (0.5, 0.35, 0.65, 0.2, 0.8)]  # fmt: skip
            self.pen.label(spots, self._short(carried.message), colour, size=10.5, anchor="start")

    def _short(self, message: Message) -> str:
        if isinstance(message, Frame):
            said = self.x.words.content(message)
            return f"sync: {said}" if message.sync else said
        return SHORT[type(message)]

    def _points(self) -> None:
        for point in self.x.points:
            lane = self.lanes.get(point.address)
            if lane is None or point.at < self.first or point.at >= self.end:
                continue
            x = self.at(point.at)
            if point.kind in ("sealed", "listed"):
                self.pen.diamond(x, lane.middle, 6, CUT)
                spots = [(x, lane.middle - 14), (x, lane.middle + 15)]
                ours = self.broken is not None and point.say().split()[0] == str(self.broken.checkpoint)
                self.pen.label(spots, f"checkpoint {point.say()}", CUT, size=11, bold=True, must=ours)
            elif point.kind == "journal":
                self.pen.box(x - 4, lane.middle - 4, 8, 8, fill=DATA_INK, title=f"journaled: {point.say()}")
                self.pen.label([(x, lane.middle + 14)], "journaled", DATA_INK, size=10.5)
            else:
                self.pen.box(x - 4, lane.middle - 4, 8, 8, fill=SYNC_INK, title="aged into the mirror disks")
                self.pen.label([(x, lane.middle + 14), (x, lane.middle - 14)], "aged", SYNC_INK, size=10.5)

    # -- writes and what is broken ----------------------------------------------------------------------------

    def _inside(self, write: Write) -> bool | None:
        """Whether the checkpoint in question has a write; None when there is none in question."""
        if self.broken is None or self.broken.checkpoint is None:
            return None
        cut = self.x.checks.cuts.get((self.broken.vpg, self.broken.checkpoint), {})
        return None if write.guest.vm not in cut else 0 < write.index <= cut[write.guest.vm]

    def _writes(self) -> None:
        witness = (self.broken.present, self.broken.missing) if self.broken else ()
        for wrote in self.x.writes:
            if not self.visible(wrote):
                continue
            write, inside = wrote.write, self._inside(wrote.write)
            x, y, width, height = self.box(wrote)
            fill = PAPER if inside is False else DATA if inside else PALE
            title = f"{self.x.words.write(write)}: {self.x.words.where(write)}"
            dash = "" if wrote.acked else "3 2"
            self.pen.box(x, y, width, height, fill=fill, stroke=DATA_INK, round_=4, dash=dash, title=title)
            self.pen.text(x + 10, y + height / 2 + 4.5, str(write.index or "?"), PAPER if inside else INK, size=12.5,
                          anchor="middle", bold=True)  # fmt: skip
            self.pen.keep_clear(x - 2, y - 2, width + 4, height + 4)
        for wrote in self.x.writes:
            if self.visible(wrote) and any(wrote.write is each for each in witness):
                self.pen.box(*self.box(wrote), fill="none", stroke=BAD, weight=2.4, round_=4)

    def _cut(self) -> None:
        """The line through the lanes of the VMs: left of it is what the checkpoint has."""
        broken = self.broken
        if broken is None or broken.checkpoint is None:
            return
        held = self.x.held_at.get((broken.vpg, broken.checkpoint), {})
        points: list[tuple[float, float]] = []
        for vra, moment in held.items():
            lanes = [lane for lane in self.lanes.values() if lane.of == vra or self._of(lane, vra, broken.vpg)]
            if lanes and moment >= self.first:
                x = self.at(moment) + 0.5
                points += [(x, min(lane.y for lane in lanes) + 2), (x, max(lane.y + lane.height for lane in lanes) - 8)]
        if points:
            points.sort(key=lambda point: point[1])
            points[0] = (x := points[0][0], TOP - 2)
            inside = [(LEFT - 8, points[0][1]), *points, (LEFT - 8, points[-1][1])]
            self.pen.area(inside, CUT, 0.055)
            self.pen.line(points, CUT, width=2, dash="7 4")
            self.pen.label(
                [(x, TOP - 11)], f"cut of checkpoint {broken.checkpoint}", CUT, size=12, bold=True, must=True
            )

    def _of(self, lane: Lane, vra: Address, vpg: str) -> bool:
        guest = self.x.guests.get(lane.of) if isinstance(lane.of, int) else None  # type: ignore[call-overload]
        return guest is not None and guest.host == vra

    def _red(self) -> None:
        broken = self.broken
        if broken is None:
            return
        boxes = {id(w.write): self.box(w) for w in self.x.writes if self.visible(w)}
        missing = boxes.get(id(broken.missing))
        present = boxes.get(id(broken.present))
        match broken.prop:
            case "P4" if missing and present:
                self._before(missing, present)
            case "P12" if missing:
                self._where(missing, "nobody will send it")
            case "P8":
                self._word_given()
                self._where(None, "in no journal")
            case "P11" if present:
                self._where(present, f"aged past checkpoint {broken.checkpoint}")
            case _:
                self._where(present or missing, f"{broken.prop} does not hold")

    def _word_given(self) -> None:
        """The acknowledgement that should not have been sent."""
        for carried in reversed(self.x.carried):
            near, far = self.lanes.get(carried.sender), self.lanes.get(carried.to)
            if isinstance(carried.message, Ack) and near and far:
                x = self.at(self.end)
                self.pen.line([(x, near.middle), (x, far.middle + 4)], BAD, width=2.4, head=True)
                self.pen.label([(x - 8, (near.middle + far.middle) / 2)], "acknowledged", BAD, size=13, bold=True,
                               anchor="end", must=True)  # fmt: skip
                return

    def _before(self, missing: Box, present: Box) -> None:
        """The happens-before arrow: from the acknowledgement outside the cut to the issue inside."""
        a, b = missing[0] + missing[2], missing[1] + missing[3] / 2
        c, d = present[0], present[1] + present[3] / 2
        bend = max(36.0, abs(c - a) * 0.5)
        self.pen.path(f"M{a:.1f} {b:.1f} C{a + bend:.1f} {b:.1f} {c - bend:.1f} {d:.1f} {c - 1:.1f} {d:.1f}", BAD,
                      width=2.6, head=True)  # fmt: skip
        x, y = (a + c) / 2, (b + d) / 2
        spots = [(x + 16, y - 8), (x + 16, y + 12), (x + 16, y - 24)]
        self.pen.label(spots, "happened before", BAD, size=13, bold=True, anchor="start", must=True)
        falls = d > b
        for box, says, above in ((missing, "not in the checkpoint", falls), (present, "in the checkpoint", not falls)):
            x, over, under = box[0] + box[2] / 2, box[1] - 11, box[1] + box[3] + 13
            spots = [(x, over), (x, under)] if above else [(x, under), (x, over)]
            self.pen.label(spots, says, BAD, size=11.5, bold=True, must=True)

    def _where(self, box: Box | None, says: str) -> None:
        """Where it broke, and the write that it is about."""
        lane = self.lanes.get(self.broken.at) if self.broken and self.broken.at else None
        if lane is None:
            return
        x, y = self.at(self.end), lane.middle
        if box is not None and y > box[1]:
            a, b = box[0] + box[2] / 2, box[1] + box[3]
            self.pen.path(
                f"M{a:.1f} {b:.1f} V{b + 8:.1f} H{x - 10:.1f} Q{x:.1f} {b + 8:.1f} {x:.1f} {b + 18:.1f} V{y - 7:.1f}",
                BAD, width=2, dash="5 4", head=True,
            )  # fmt: skip
        self.pen.ring(x, y, 7, BAD)
        self.pen.cross(x, y, 3, BAD)
        self.pen.label([(x + 12, y + 21), (x + 12, y - 21)], says, BAD, size=13, bold=True, anchor="end", must=True)

    def _words(self) -> float:
        """Title above, the reason and a legend below; the height of the whole."""
        pen, broken = self.pen, self.broken
        if broken is None:
            pen.text(24, 40, "Every property held", INK, size=20, bold=True)
        elif broken.prop == "core":
            pen.text(24, 40, "The core gave up", BAD, size=20, bold=True)
        else:
            name, _, demands = demand(broken.prop).partition(": ")
            pen.text(24, 40, f"{broken.prop} does not hold: {name}", BAD, size=20, bold=True)
            pen.text(24, 62, demands, SOFT, size=13)
        y = self.bottom + 40
        y = pen.paragraph(24, y, f"{broken.why}." if broken else self.story.verdict, WIDTH - 48, size=14)
        self._legend(y + 8)
        return y + 30

    def _legend(self, y: float) -> None:
        pen, x = self.pen, 24.0
        cut = self.broken is not None and self.broken.checkpoint is not None
        kinds = [(DATA, "write in the checkpoint"), (PAPER, "write not in it")] if cut else [(PALE, self.writes)]
        for fill, says in kinds:
            pen.box(x, y - 10, 20, 13, fill=fill, stroke=DATA_INK, round_=3)
            pen.text(x + 27, y, says, SOFT, size=11.5)
            x += 27 + len(says) * 11.5 * LETTER + 22
        pen.box(x, y - 10, 20, 13, fill=HOLD, round_=2)
        pen.text(x + 27, y, "guests are held: nothing is acknowledged", SOFT, size=11.5)
        x += 27 + 40 * 11.5 * LETTER + 22
        for colour, says in ((DATA_INK, "data"), (SYNC_INK, "sync"), (CONTROL_INK, "control")):
            pen.line([(x, y - 4), (x + 22, y - 4)], colour, width=1.4, head=True)
            pen.text(x + 29, y, says, SOFT, size=11.5)
            x += 29 + len(says) * 11.5 * LETTER + 22


def _colour(message: Message) -> str:
    match message:
        case Frame(sync=False):
            return DATA_INK
        case Frame() | Resync() | Resynced() | SyncDone():
            return SYNC_INK
        case _:
            return CONTROL_INK
