"""Layout: where the things of a story stand in its time diagram. Moments are columns, VMs and machines are lanes.

Moments at which nothing is drawn take no room; writes of one VM at one moment stand beside each other. Of a long
story only the end is shown.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from drsim.core.messages import (
    Aborted,
    Ack,
    Age,
    Await,
    Frame,
    Held,
    Hold,
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
from drsim.verify.guests import Guest
from drsim.verify.spans import Carried, Wrote
from drsim.verify.story import Story

WIDTH, LEFT, RIGHT, TOP = 1200.0, 176.0, 40.0, 132.0
MOST = 56
"""Columns that are told apart at this width."""
TALL, LOW = 50.0, 40.0  # lanes of VMs and of machines
SIDE = 25.0  # from one write to the next of the same moment
ALWAYS = (Frame, Hold, Held, Release, Released, Aborted, Resync, Sealed, Nack)
ALSO: dict[str, tuple[type, ...]] = {
    "P8": (Ack,), "P12": (Ack, Resynced, SyncDone), "P11": (Age, Await, Reached), "P5": (Await, Reached),
    "P3": (Age, Ack), "P20": (Ack, Resynced, SyncDone, Await, Reached),
}  # fmt: skip
Box = tuple[float, float, float, float]  # x, y, width, height
At = tuple[int, int]  # a moment, and the place in it of one of several writes


@dataclass(frozen=True, slots=True)
class Lane:
    """One line of the picture: a VM (its number), or a machine (its address)."""

    of: int | Address
    name: str
    y: float
    height: float

    @property
    def middle(self) -> float:
        """The y of what happens there."""
        return self.y + self.height / 2


class Layout:
    """Columns and lanes of one story. `first` and `end`: the first moment that is shown, and the one after the last."""

    def __init__(self, story: Story) -> None:
        self.story, self.x, self.broken = story, story.x, story.broken
        prop = self.broken.prop if self.broken else ""
        self.kinds = ALWAYS + ALSO.get(prop, ())
        self.end = self.x.moment + 1
        self._beside = self._places()
        columns = sorted({(m, 0) for m in self.moments()} | set(self._beside.values()))
        self.first = columns[-MOST][0] if len(columns) > MOST else 0
        self.columns = self._columns([c for c in columns if c[0] >= self.first])
        self.lanes = self._lanes()
        self.bottom = max(lane.y + lane.height for lane in self.lanes.values())

    def visible(self, wrote: Wrote) -> bool:
        """Whether a write lasts into what is shown."""
        return (wrote.acked or self.end) >= self.first

    def shown(self) -> Iterable[Carried]:
        """The messages that are drawn."""
        for carried in self.x.carried:
            if isinstance(carried.message, self.kinds) and carried.lost != carried.sent:
                yield carried

    def _places(self) -> dict[int, At]:
        """Writes of one VM at one moment stand beside each other."""
        places: dict[int, At] = {}
        taken: dict[tuple[int, int], int] = {}
        for wrote in self.x.writes:
            key = wrote.write.guest.vm, wrote.issued
            places[id(wrote.write)] = wrote.issued, taken.get(key, 0)
            taken[key] = taken.get(key, 0) + 1
        return places

    def moments(self) -> Iterable[int]:
        """When something is to be seen."""
        for wrote in self.x.writes:
            yield from (m for m in (wrote.issued, wrote.landed, wrote.acked) if m is not None)
        for carried in self.shown():
            yield from (m for m in (carried.sent, carried.arrived, carried.lost) if m is not None)
        for span in self.x.spans:
            yield from (m for m in (span.first, span.last) if m is not None)
        yield from (point.at for point in self.x.points)
        yield from (step.first for step in self.x.steps if step.first == step.last)
        yield self.end

    def _columns(self, columns: list[At]) -> dict[At, float]:
        """The x of each column; a step's first stands a little apart."""
        firsts = {step.first for step in self.x.steps}
        at: dict[At, tuple[float, int]] = {}
        units, beside = 0.0, 0
        for n, column in enumerate(columns):
            if column[1]:
                beside += 1
            else:
                units += (1.6 if column[0] in firsts or column[0] == self.end else 1.0) if n else 0.6
            at[column] = units, beside
        unit = min(110.0, (WIDTH - LEFT - RIGHT - beside * SIDE) / (units + 0.8))
        return {column: LEFT + units * unit + beside * SIDE for column, (units, beside) in at.items()}

    def at(self, moment: int | None, place: int = 0) -> float:
        """The x of a moment; of one that is left out, the left edge; of one that never comes, the right edge."""
        if moment is None:
            return WIDTH - RIGHT
        if moment < self.first:
            return LEFT
        return max((x for column, x in self.columns.items() if column <= (moment, place)), default=LEFT)

    def _lanes(self) -> dict[int | Address, Lane]:
        """Each host's VMs and its VRA, the managers, then the recovery site from its managers to its VRAs."""
        estate, used = self.x.estate, self._used()
        order: list[tuple[int | Address, str, float]] = []
        for source in estate.sources:
            guests = [g for g in self.x.guests.values() if g.host == source]
            order += [lane for guest in guests for lane in self.of_guest(guest, used)]
            order += [(source, self.x.words.place(source), LOW)] if source in used else []
        managers = [vpg.manager for vpg in estate.vpgs]
        catalogs = [vpg.catalog for vpg in estate.vpgs]
        order += [(a, self.x.words.place(a), LOW) for a in managers if a in used]
        west = len(order)
        order += [(a, self.x.words.place(a), LOW) for a in (*catalogs, *estate.targets) if a in used]
        lanes: dict[int | Address, Lane] = {}
        y = TOP
        for n, (of, name, height) in enumerate(order):
            y += 34 if n == west else 0
            name = name.removeprefix("the ")
            lanes[of] = Lane(of, name[0].upper() + name[1:], y, height)
            y += height
        return lanes

    def of_guest(self, guest: Guest, used: Collection[int | Address]) -> list[tuple[int | Address, str, float]]:
        """The lanes of a VM, if anything is to be seen of it: whose, its name, its height."""
        return [(guest.vm, f"VM {guest.vm}", TALL)] if guest.vm in used else []

    def _used(self) -> set[int | Address]:
        used: set[int | Address] = {w.write.guest.vm for w in self.x.writes if self.visible(w)}
        for carried in self.shown():
            if max(carried.sent, carried.arrived or 0) >= self.first:
                used |= {carried.sender, carried.to}
        for span in self.x.spans:
            used |= {span.of[0], span.of[1]} if isinstance(span.of, tuple) else {span.of}
        used |= {point.address for point in self.x.points}
        if self.broken and self.broken.checkpoint:
            used |= self.x.checks.cuts.get((self.broken.vpg, self.broken.checkpoint), {}).keys()
        used |= {g.host for g in self.x.guests.values() if g.vm in used and g.host}
        return used | ({self.broken.at} if self.broken and self.broken.at else set())

    def box(self, wrote: Wrote) -> Box:
        """The box of a write: x, y, width, height."""
        lane = self.lanes[wrote.write.guest.vm]
        moment, place = self._beside[id(wrote.write)]
        a = self.at(moment, place)
        b = a if wrote.acked == wrote.issued else self.at(wrote.acked)
        return a - 10, lane.middle - 12, max(20.0, b - a + 20), 24
