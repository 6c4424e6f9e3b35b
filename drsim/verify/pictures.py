"""Pictures: the time diagram of any story. Where VMs are captured by epochs, it shows them behind their shadows.

tinted      an epoch is being taken
boxes       above: changes of a VM, which nobody hears of; below: what an epoch writes to its shadow
rings       snapshots, with an arrow to each write that brings what one holds
red         what is broken: also the snapshots that a checkpoint is of, and the change that it should not have
"""

from collections.abc import Collection, Iterable, Iterator

from drsim.core.names import Address, VmId
from drsim.verify.diagram import Diagram
from drsim.verify.epoch_story import Change, EpochRecorder, Inexact, Taking
from drsim.verify.guests import Guest
from drsim.verify.layout import LOW, TALL
from drsim.verify.pen import BAD, DATA_INK, EPOCH, INK, LETTER, PAPER, SOFT
from drsim.verify.story import Story


class EpochDiagram(Diagram):
    """See the module."""

    writes = "write of an epoch"

    def __init__(self, story: Story) -> None:
        assert isinstance(story.x, EpochRecorder)
        self.run = story.x
        super().__init__(story)

    def moments(self) -> Iterable[int]:
        yield from super().moments()
        yield from (change.at for change in self.run.changes)
        for taking in self.run.takings:
            yield from (m for m in (taking.first, *taking.snapshots.values(), taking.last) if m is not None)

    def of_guest(self, guest: Guest, used: Collection[int | Address]) -> list[tuple[int | Address, str, float]]:
        return [(_behind(guest.vm), f"VM {guest.vm}", TALL), (guest.vm, f"shadow of VM {guest.vm}", LOW)]

    def _epochs(self) -> Iterator[tuple[int, Taking]]:
        """Those that last into what is shown."""
        for number, taking in enumerate(self.run.takings, 1):
            if taking.last is None or taking.last >= self.first:
                yield number, taking

    def _y(self, vm: VmId) -> float:
        return self.lanes[_behind(vm)].middle

    def _ground(self) -> None:
        shadows = [self.lanes[vm] for vm in self.run.vms]
        top, bottom = self.lanes[_behind(self.run.vms[0])].y, shadows[-1].y + shadows[-1].height
        for number, taking in self._epochs():
            a, b = self.at(taking.first) - 6, self.at(taking.last) + 6
            given_up = taking.last is not None and not taking.whole
            self.pen.box(a, top + 2, b - a, bottom - top - 4, fill=EPOCH, round_=4, title=f"epoch {number}")
            words = f"epoch {number}{', given up' if given_up else ''}"
            self.pen.label([(a + 3, top + 8), (a + 3, bottom - 9)], words, SOFT, size=10, anchor="start")
        super()._ground()

    def _writes(self) -> None:
        for _, taking in self._epochs():
            for vm, moment in taking.snapshots.items():
                for wrote in self.x.writes:
                    ours = taking.first <= wrote.issued <= (taking.last or self.end)
                    if wrote.write.guest.vm == vm and ours and moment >= self.first:
                        x, y, *_ = self.box(wrote)
                        self.pen.line([(self.at(moment), self._y(vm) + 6), (x + 10, y - 1)], DATA_INK, head=True)
        super()._writes()
        for change in self.run.changes:
            if change.at >= self.first:
                self._change(change, INK, 1)
        for _, taking in self._epochs():
            for vm, moment in taking.snapshots.items():
                if moment >= self.first:
                    self.pen.ring(self.at(moment), self._y(vm), 5, DATA_INK)
                    self.pen.keep_clear(self.at(moment) - 7, self._y(vm) - 7, 14, 14)

    def _change(self, change: Change, colour: str, weight: float) -> None:
        write, x = change.write, self.at(change.at)
        title = f"change {write.index} of VM {write.guest.vm}: {self.x.words.where(write)}"
        y = self._y(write.guest.vm)
        self.pen.box(x - 9, y - 10, 18, 20, fill=PAPER, stroke=colour, weight=weight, round_=4, title=title)
        self.pen.text(x, y + 4, str(write.index), INK, size=11, anchor="middle")
        self.pen.keep_clear(x - 11, y - 12, 22, 24)

    def _red(self) -> None:
        broken = self.broken
        if isinstance(broken, Inexact):
            if broken.change is not None and broken.change.at >= self.first:
                self._change(broken.change, BAD, 2.4)
            for number, vm in broken.snapshots:
                moment, y = self.run.takings[number - 1].snapshots[vm], self._y(vm)
                if moment >= self.first:
                    x = self.at(moment)
                    self.pen.ring(x, y, 7, BAD)
                    spots = [(x, y - 17), (x, y + 17)]
                    says = f"nearest to checkpoint {broken.checkpoint}" if broken.prop == "P3" else f"epoch {number}"
                    self.pen.label(spots, says, BAD, size=11.5, bold=True, must=True)
        super()._red()

    def _words(self) -> float:
        return super()._words() + 20

    def _legend(self, y: float) -> None:
        super()._legend(y)
        pen, x, y = self.pen, 24.0, y + 20
        pen.box(x, y - 10, 20, 13, fill=PAPER, stroke=INK, weight=1, round_=3)
        says = "change of a VM, which nobody hears of"
        pen.text(x + 27, y, says, SOFT, size=11.5)
        x += 27 + len(says) * 11.5 * LETTER + 22
        pen.ring(x + 10, y - 4, 5, DATA_INK)
        pen.text(x + 22, y, "snapshot", SOFT, size=11.5)
        x += 22 + 8 * 11.5 * LETTER + 22
        pen.box(x, y - 10, 20, 13, fill=EPOCH, round_=2)
        pen.text(x + 27, y, "an epoch is being taken", SOFT, size=11.5)


def _behind(vm: VmId) -> Address:
    """The lane of the VM behind a shadow."""
    return Address(f"west/vm/{vm}")


def draw(story: Story) -> str:
    """The time diagram of a story, as SVG."""
    return (EpochDiagram if isinstance(story.x, EpochRecorder) else Diagram)(story).svg()
