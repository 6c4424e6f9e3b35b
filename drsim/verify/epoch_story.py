"""Epoch story: a run of the explorer whose VMs are captured by epochs (`epochs.py`), and why it is wrong.

What the explorer calls a guest is a shadow here, and a *write* is what an epoch makes to it. What the VM behind it does
is told as a *change*: change 3 of VM 1 is the third that VM 1's disk took, and only a snapshot shows it.
"""

from contextlib import suppress
from dataclasses import dataclass, field

from drsim.core.errors import PlatformError
from drsim.core.events import EpochCaptured, Event
from drsim.core.kernel import Sink
from drsim.core.messages import Checkpoint
from drsim.core.names import Address, VmId
from drsim.verify.content import images
from drsim.verify.epoch_programs import run_epochs
from drsim.verify.epochs import EpochWorld, images_of
from drsim.verify.estate import Shape
from drsim.verify.guests import Write
from drsim.verify.plain import listing
from drsim.verify.recorder import Recorder
from drsim.verify.spans import Span
from drsim.verify.story import Broken, Story, record, why
from drsim.verify.violation import Violation


@dataclass(slots=True)
class Change:
    """A write of a VM: when, and what. Its `index` is the change's number."""

    at: int
    write: Write


@dataclass(slots=True)
class Taking:
    """An epoch: from when to when it was taken, whether it was in the end, and when the snapshot of each VM was."""

    first: int
    last: int | None = None
    whole: bool = False
    snapshots: dict[VmId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inexact(Broken):
    """What shows that a checkpoint is not of one epoch: snapshots (the number of the epoch, and whose), a change."""

    snapshots: tuple[tuple[int, VmId], ...] = ()
    change: Change | None = None


class EpochRecorder(Recorder, EpochWorld):
    """A world of epochs that remembers a run."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        self.changes: list[Change] = []
        self.takings: list[Taking] = []  # beside `taken`
        self._could = (True, False)  # marks could be written, and the source had some, when looked at last
        super().__init__(shape, trace=trace)

    # -- VMs and their snapshots ------------------------------------------------------------------------------

    def change(self, vm: VmId, index: int, lba: int, sectors: int) -> None:
        one = self.guests[vm].issue(self.now, index, lba, sectors)
        one.index = self.platform[vm].writes + 1
        with self._choice(lambda: f"VM {vm} changed {self.words.where(one)} (change {one.index})", quiet=True):
            self.changes.append(Change(self.moment + 1, one))
            super().change(vm, index, lba, sectors)

    def snapshot(self, vm: VmId) -> str:
        self.moment += 1
        self.takings[-1].snapshots[vm] = self.moment
        self._then(lambda: f"the platform took a snapshot of VM {vm}")
        return super().snapshot(vm)

    def write(self, writes: list[Write]) -> None:  # type: ignore[override]
        self._then(lambda: self._wrote_so(writes))
        super().write(writes)

    def _wrote_so(self, writes: list[Write]) -> str:  # type: ignore[override]
        return ", ".join(
            f"{self.words.where(w)} went to the shadow of VM {w.guest.vm} (write {w.index})" for w in writes
        )

    # -- epochs -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.taking is None and self.down.isdisjoint(self.process):
            number = len(self.takings) + 1
            with self._choice(lambda: f"epoch {number} began", quiet=True):
                self.takings.append(Taking(self.moment + 1))
                super().begin()

    def answer(self, *, fail: bool = False) -> None:
        went = "was told that the platform is busy" if fail else "went on"
        number = len(self.takings)
        with self._choice(lambda: f"epoch {number} {went}", quiet=fail and self.taking is not None):
            super().answer(fail=fail)

    def post(self, address: Address, event: Event) -> None:
        if isinstance(event, EpochCaptured):
            number = len(self.takings)
            self.takings[-1].whole = True
            self._then(lambda: f"epoch {number} is captured")
        super().post(address, event)

    async def _pause(self, on: bool) -> None:
        self._then(lambda: "the VPG is paused for it" if on else "the VPG goes on")
        await super()._pause(on)

    def _go_on(self, error: PlatformError | None) -> None:
        super()._go_on(error)
        if self.taking is None:
            number, whole = len(self.takings), self.takings[-1].whole
            if not whole:
                self.moment += 1
                self._then(lambda: f"epoch {number} is given up")
            self.takings[-1].last = self.moment

    def close(self) -> None:
        if self.taking is not None:
            self.takings[-1].last = self.moment + 1
        super().close()

    # -- the process ------------------------------------------------------------------------------------------

    def crash(self, address: Address, unanswered: int) -> None:
        if address not in self.process:
            super().crash(address, unanswered)
        elif address not in self.down:
            with self._choice(lambda: "the process of the protected side died"):
                self.spans += [Span("down", each, self.moment + 1) for each in self.process if each != address]
                super().crash(address, unanswered)

    def boot(self, address: Address) -> None:
        if address not in self.process:
            super().boot(address)
        elif address in self.down:
            with self._choice(lambda: "the process of the protected side came up"):
                super().boot(address)
                for each in self.process:
                    self._end("down", each)

    def pause(self, vpg: str, paused: bool) -> None:
        with self._choice(lambda: f"an operator {'paused' if paused else 'resumed'} replication"):
            super().pause(vpg, paused)

    def _look_around(self) -> None:
        super()._look_around()
        could, had = self._could
        self._could = writable, knows = not self.unwritable, bool(self.marks)
        if writable != could:
            self._saw(lambda: f"the marks of epochs could {'be written again' if writable else 'not be written'}")
        if had and not knows:
            self._saw(lambda: "the platform forgot all its marks")


# -- why ----------------------------------------------------------------------------------------------------------


def inexact(x: Recorder, seen: Violation) -> Broken:
    """What shows that a property does not hold: the snapshots that a checkpoint is of, or is not."""
    assert isinstance(x, EpochRecorder)
    kept = None if seen.checkpoint is None else x.kept[seen.vpg].get(seen.checkpoint)
    if kept is not None and seen.prop in ("P3", "P5", "P6"):
        with suppress(Violation):
            images(x, kept, seen.prop)  # shadows that are recovered as they were: it is they who are wrong
            return {"P3": _of_none, "P5": _of_several, "P6": _too_old}[seen.prop](x, seen, kept)
    return why(x, seen)


def _step(x: Recorder, moment: int) -> int:
    """The number of the step that has a moment."""
    return next(n for n, step in enumerate(x.steps, 1) if step.first <= moment <= step.last)


def _of_none(x: EpochRecorder, seen: Violation, kept: Checkpoint) -> Inexact:
    vm = seen.vm
    assert vm is not None
    image = images_of(x, kept)[vm]
    said = f"Checkpoint {kept.id} has the disks of VM {vm} as they are in no snapshot of it"
    held = [(n, epoch.held[vm]) for n, epoch in enumerate(x.taken, 1) if vm in epoch.held]
    if not held:
        return Inexact("P3", f"{said}; there was none", seen.vpg, kept.id, at=x.last)
    unlike = {n: [s for s in range(len(image) // 2) if _stamp(image, s) != _stamp(disk, s)] for n, disk in held}
    near = min(unlike, key=lambda n: (len(unlike[n]), -n))
    sector = unlike[near][0]
    there, then = _stamp(image, sector), _stamp(dict(held)[near], sector)
    change = next((c for c in x.changes if c.write.guest.vm == vm and c.write.index == there), None)
    said += (
        f". The nearest is that of epoch {near}, taken at step {_step(x, x.takings[near - 1].snapshots[vm])}; but "
        f"sector {sector} of the VM holds {_content(there)}, and it held {_content(then)} then"
    )
    return Inexact("P3", said, seen.vpg, kept.id, at=x.last, snapshots=((near, vm),), change=change)


def _stamp(disk: bytes, sector: int) -> int:
    return int.from_bytes(disk[2 * sector : 2 * sector + 2], "little")


def _content(stamp: int) -> str:
    return f"the data of change {stamp}" if stamp else "what was there before any change"


def _of_several(x: EpochRecorder, seen: Violation, kept: Checkpoint) -> Inexact:
    of = {}
    for vm, image in images_of(x, kept).items():
        of[vm] = max(n for n, epoch in enumerate(x.taken, 1) if epoch.held.get(vm) == image)
    parts = [
        f"VM {vm} as in epoch {n} (snapshot at step {_step(x, x.takings[n - 1].snapshots[vm])})" for vm, n in of.items()
    ]
    parts += [f"nothing of VM {vm}" for vm in x.vms if vm not in of]
    said = f"Checkpoint {kept.id} has {listing(parts)}, and no epoch has all of that"
    snapshots = tuple((n, vm) for vm, n in of.items())
    return Inexact("P5", said, seen.vpg, kept.id, at=x.last, snapshots=snapshots)


def _too_old(x: EpochRecorder, seen: Violation, kept: Checkpoint) -> Inexact:
    held = images_of(x, kept)
    number = max(n for n, epoch in enumerate(x.taken, 1) if epoch.held == held)
    snapshots = tuple((number, vm) for vm in held)
    said = f"{seen.message[0].upper()}{seen.message[1:]}: epoch {number}"
    return Inexact("P6", said, seen.vpg, kept.id, at=x.last, snapshots=snapshots)


class EpochStory(Story):
    """A run whose VMs are captured by epochs."""

    @property
    def cast(self) -> str:
        said = super().cast
        return (
            f"{said} The VMs are captured by epochs: a change of a VM shows in a snapshot only, a write is an epoch's."
        )


def record_epochs(program: bytes) -> Story:
    """Play a program of epochs and remember it."""
    story = record(program, run_epochs, EpochRecorder, inexact)
    return EpochStory(story.x, story.broken)
