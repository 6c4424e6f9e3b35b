"""Mutants of capture by epochs: what a checkpoint of one holds, and when it says that it was taken."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from drsim.core.effects import Effect
from drsim.core.errors import PlatformError
from drsim.core.quiesce import Tag
from drsim.core.units import Ns
from drsim.core.vpg import Vpg
from drsim.real.epochs import Epochs, Shadow, Taken
from drsim.real.ports import Area, DiskId, Epoch
from drsim.verify.epochs import EpochWorld
from drsim.verify.mutants.base import Patch, mutant, patched


@mutant(by=("P6",), hunter="epochs")
def epoch_stamped_when_it_ends() -> Patch:
    """An epoch says that it was taken when its last write was captured, not before its snapshots."""
    take = Epochs.take

    async def mutated(self: Epochs) -> Taken:
        return replace(await take(self), at=Ns(self._process.clock()))

    return patched(Epochs, "take", mutated)


@mutant(by=("P6",), hunter="epochs")
def epoch_stamped_at_its_checkpoint() -> Patch:
    """The checkpoint of an epoch says that it was taken when it was tried."""
    begin = Vpg._begin

    def mutated(self: Vpg, now: Ns, tag: Tag) -> list[Effect]:
        known, effects = self.attempt, begin(self, now, tag)
        if self.attempt is not None and self.attempt is not known:
            self.attempt.taken = now
        return effects

    return patched(Vpg, "_begin", mutated)


@mutant(by=("P3", "P5"), hunter="epochs")
def large_epoch_without_a_pause() -> Patch:
    """Checkpoints go on while an epoch is written in several steps: one is listed before its last batch."""
    init = Epochs.__init__

    async def go_on(on: bool) -> None:
        """No pause."""

    def mutated(self: Epochs, source: Any, shadows: Any, owner: str, marks: Any, pause: Any, *process: Any) -> None:
        init(self, source, shadows, owner, marks, go_on, *process)

    return patched(Epochs, "__init__", mutated)


@mutant(by=("P3", "P5"), cites="drsim: bugs-found, an operator resumes during an epoch", hunter="epochs")
def operator_ends_the_pause_of_an_epoch() -> Patch:
    """An operator who lets a VPG go on ends the pause in which a large epoch is written as well."""
    return patched(EpochWorld, "pauses", lambda self, vpg: False)


@mutant(by=("P3",), hunter="epochs")
def forgotten_marks_count_as_unchanged() -> Patch:
    """A change source that knows a mark no more is taken to say that nothing changed since."""
    changed = Epochs._changed

    async def mutated(self: Epochs, epoch: Epoch, disk: DiskId, shadow: Shadow) -> tuple[Sequence[Area], bool]:
        areas, whole = await changed(self, epoch, disk, shadow)
        return ([], False) if whole else (areas, whole)

    return patched(Epochs, "_changed", mutated)


@mutant(by=("P3",), hunter="epochs")
def marks_of_a_failed_epoch_count() -> Patch:
    """After an epoch that failed the next one asks what changed since then."""
    take = Epochs._take

    async def mutated(self: Epochs, asked: Ns, epochs: dict[str, Epoch]) -> Taken:
        try:
            return await take(self, asked, epochs)
        except PlatformError:
            with suppress(PlatformError):
                marks = {disk: mark for each in epochs.values() for disk, mark in each.marks}
                self._keep(marks, unfinished=self.unfinished)
            raise

    return patched(Epochs, "_take", mutated)


@mutant(by=("P3", "P5"), hunter="epochs")
def tag_before_the_first_epoch() -> Patch:
    """A tag has its checkpoint at once, although nothing of the VMs was captured yet in this life."""
    following = Vpg._next_tag

    def mutated(self: Vpg, now: Ns) -> list[Effect]:
        if self._epoch == 0 and self.freeze.tag is None and self.attempt is None and self._tags:
            return self._begin(now, self._tags.pop(0))
        return following(self, now)

    return patched(Vpg, "_next_tag", mutated)
