"""The bag must see these mistakes. Each is a small change of the core; the property that sees it is named."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
from programs import random_program, run

from drsim.core import bitmap, catalog, protected_vra, receiver, sender, vpg
from drsim.core.effects import Append, Effect, ReadRegions, ReleaseGuests, Send
from drsim.core.messages import Ack, Age, Cut, Frame, Hold, Missed, Reached, Standing, SyncDone
from drsim.core.units import Lsn, Ns
from drsim.core.window import reaches

PROGRAMS = 200


def naive_marker(patch: pytest.MonkeyPatch) -> None:
    """The marker is dropped into each stream when the message gets there; no guest is held."""
    hold = protected_vra.ProtectedVra._hold

    def mutant(self: protected_vra.ProtectedVra, message: Hold) -> list[Effect]:
        effects = hold(self, message)
        held = [ReleaseGuests(message.vpg, message.checkpoint)] if message.vpg in self._holds else []
        return [*effects, *held]

    patch.setattr(protected_vra.ProtectedVra, "_hold", mutant)


def seal_without_confirmation(patch: pytest.MonkeyPatch) -> None:
    """Sealed when all have held, whether or not they held until the release."""
    held = vpg.Vpg._held

    def mutant(self: vpg.Vpg, now: Ns, message: vpg.Held) -> list[Effect]:
        effects = held(self, now, message)
        attempt = self.attempt
        if attempt is not None and len(attempt.held) == len(self.vras):
            effects += self._seal(now, attempt)
        return effects

    patch.setattr(vpg.Vpg, "_held", mutant)


def early_ack(patch: pytest.MonkeyPatch) -> None:
    """Acknowledged when taken, not when durable."""
    take = receiver.Receiver.frame

    def mutant(self: receiver.Receiver, frame: Frame) -> list[Effect]:
        effects = take(self, frame)
        early = Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.accepted))
        return [*effects, early] if any(isinstance(e, Append) for e in effects) else effects

    patch.setattr(receiver.Receiver, "frame", mutant)


def epoch_ignored(patch: pytest.MonkeyPatch) -> None:
    """A cut counts as reached once the numbers have grown past it, in whatever epoch."""

    def mutant(self: receiver.Receiver, cut: Cut) -> bool | None:
        return True if reaches(self.durable, cut.position) else None

    patch.setattr(receiver.Receiver, "_fate", mutant)


def in_flight_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A fold marks what is queued, but not what was sent."""
    end = sender.Sender._end_epoch

    def mutant(self: sender.Sender) -> None:
        self.window.clear()
        end(self)

    patch.setattr(sender.Sender, "_end_epoch", mutant)


def sync_numbered_when_read(patch: pytest.MonkeyPatch) -> None:
    """A sync frame gets its place when the content is there, behind writes that are newer than its content."""

    def sweep(self: sender.Sender) -> list[Effect]:
        S = sender.SendState
        if self.state not in (S.SWEEP, S.TAIL) or self._sync_upto is not None:
            return []
        if self.state is S.SWEEP and self.bitmap.nbytes <= self._tail_bytes:
            self.state = S.TAIL
        if self._reading is not None or any(frame.sync for frame in self._queue):
            return []
        if len(self.bitmap):
            batch = self.bitmap.take(self.tweaks.sync_bytes, Ns(0))
            self._reading = SimpleNamespace(batch=batch)  # type: ignore[assignment]
            return [ReadRegions(self.spec.id, batch)]
        self._sync_upto = self.numbered
        done = SyncDone(self.spec.id, self.generation, self.epoch, self.numbered)
        return [Send(self.spec.id.target, done), *self._end_if_durable()]

    def read(self: sender.Sender, asked: ReadRegions, batch: sender.WriteBatch) -> list[Effect]:
        if self._reading is None or self._reading.batch is not asked.batch:
            return []
        self._reading = None
        if self._open.rows:
            self._enqueue(self._open.cut(), sync=False)
        self._enqueue(batch, sync=True)
        return self._pump()

    end = sender.Sender._end_epoch

    def end_epoch(self: sender.Sender) -> None:
        if self._reading is not None:
            self.bitmap.mark(self._reading.batch)
        end(self)

    patch.setattr(sender.Sender, "_sweep", sweep)
    patch.setattr(sender.Sender, "read", read)
    patch.setattr(sender.Sender, "_end_epoch", end_epoch)


def forgotten_when_read(patch: pytest.MonkeyPatch) -> None:
    """A region counts as clean when it was read, not when it is durable."""
    end = sender.Sender._end_epoch

    def mutant(self: sender.Sender) -> None:
        for frame in [f for f in self.window.clear() if not f.sync]:
            self.window.add(frame)
        end(self)

    patch.setattr(sender.Sender, "_end_epoch", mutant)


def aged_before_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Data goes to the mirror while the checkpoint before it is still listed."""
    retire = catalog.Catalog._retire_old

    def mutant(self: catalog.Catalog) -> list[Effect]:
        early = [Send(s.target, Age(self.vpg, self.listed[-1].id, s)) for s in self.streams] if self.listed else []
        return [*early, *retire(self)]

    patch.setattr(catalog.Catalog, "_retire_old", mutant)


def everything_ages(patch: pytest.MonkeyPatch) -> None:
    """Everything durable goes to the mirror, although checkpoints are listed."""
    age = receiver.Receiver.age

    def mutant(self: receiver.Receiver, message: Age) -> list[Effect]:
        return age(self, replace(message, checkpoint=None))

    patch.setattr(receiver.Receiver, "age", mutant)


def first_journal_lists(patch: pytest.MonkeyPatch) -> None:
    """Listed when the first journal has it, not the last."""
    reached = catalog.Catalog._reached

    def mutant(self: catalog.Catalog, message: Reached) -> list[Effect]:
        if message.checkpoint in self._arriving:
            self._arriving[message.checkpoint].missing.clear()
        return reached(self, message)

    patch.setattr(catalog.Catalog, "_reached", mutant)


def gap_cancels_the_debt(patch: pytest.MonkeyPatch) -> None:
    """A gap told after a refusal makes the receiver forget that it owes an acknowledgement."""
    refuse = receiver.Receiver._refuse

    def mutant(self: receiver.Receiver, reason: receiver.Refusal) -> list[Effect]:
        effects = refuse(self, reason)
        self._owes_ack = reason is not receiver.Refusal.GAP
        return effects

    patch.setattr(receiver.Receiver, "_refuse", mutant)


def missed_is_reached(patch: pytest.MonkeyPatch) -> None:
    """A cut that never will be reached is reported as reached."""
    settle = receiver.Receiver._settle

    def mutant(self: receiver.Receiver) -> list[Effect]:
        return [
            Send(e.to, Reached(e.message.vpg, e.message.checkpoint, e.message.stream))
            if isinstance(e, Send) and isinstance(e.message, Missed) else e
            for e in settle(self)
        ]  # fmt: skip

    patch.setattr(receiver.Receiver, "_settle", mutant)


def overlap_unordered(patch: pytest.MonkeyPatch) -> None:
    """A frame is applied after the frame behind it."""
    pump = sender.Sender._pump

    def mutant(self: sender.Sender) -> list[Effect]:
        effects = pump(self)
        frames = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Frame)]
        if len(frames) == 2:
            a, b = (f.message for f in frames)
            assert isinstance(a, Frame)
            assert isinstance(b, Frame)
            if not a.sync and not b.sync and len(a.batch) == len(b.batch) and (a.batch.vm == b.batch.vm).all():
                late, early = replace(a, batch=b.batch, sizes=b.sizes), replace(b, batch=a.batch, sizes=a.sizes)
                swapped = {id(frames[0]): Send(frames[0].to, late), id(frames[1]): Send(frames[1].to, early)}
                return [swapped.get(id(e), e) for e in effects]
        return effects

    patch.setattr(sender.Sender, "_pump", mutant)


def clean_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A VRA that lost its bitmap takes the disks for equal."""
    patch.setattr(bitmap.DirtyBitmap, "fill", lambda self: None)


def epoch_used_again(patch: pytest.MonkeyPatch) -> None:
    """A VRA that lost its memory goes on in the epoch that its peer is in."""
    standing = sender.Sender.standing

    def mutant(self: sender.Sender, message: Standing) -> list[Effect]:
        return standing(self, replace(message, epoch=message.epoch - 1))

    patch.setattr(sender.Sender, "standing", mutant)


def anchor_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An epoch begins when it is heard of, before that is durable."""

    def mutant(self: receiver.Receiver) -> list[Effect]:
        message = self._resync
        if message is None or self.pending:
            return []
        self._turn(message.epoch)
        for journal, after in zip(self.journals.values(), message.after, strict=True):
            journal.append(Lsn(after), 0)
            journal.persisted(Lsn(after), 0)
        self.accepted = self.durable = message.after
        return [self._resynced(), *self._settle()]

    patch.setattr(receiver.Receiver, "_begin_epoch", mutant)


def numbers_given_again(patch: pytest.MonkeyPatch) -> None:
    """A manager that lost its memory numbers its checkpoints from one."""
    init = vpg.Vpg.__init__

    def mutant(self: vpg.Vpg, *args: object, first: int = 1, **options: object) -> None:
        init(self, *args, **options)  # type: ignore[arg-type]

    patch.setattr(vpg.Vpg, "__init__", mutant)


def aged_before_marked(patch: pytest.MonkeyPatch) -> None:
    """A VRA that is back hears what may go before it hears what is marked."""
    ask = catalog.Catalog._ask_again

    def mutant(self: catalog.Catalog, vra: catalog.Address) -> list[Effect]:
        return sorted(ask(self, vra), key=lambda e: not (isinstance(e, Send) and isinstance(e.message, Age)))

    patch.setattr(catalog.Catalog, "_ask_again", mutant)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (naive_marker, "depends on"),
    (seal_without_confirmation, "depends on"),
    (early_ack, "superset rule"),
    (epoch_ignored, "are not those of its cut"),
    (in_flight_forgotten, "superset rule"),
    (sync_numbered_when_read, "superset rule|are not those of its cut"),
    (forgotten_when_read, "superset rule"),
    (aged_before_forgotten, "has no mark|are not those of its cut"),
    (everything_ages, "has no mark"),
    (first_journal_lists, "has no mark"),
    (gap_cancels_the_debt, "stuck"),
    (missed_is_reached, "has no mark"),
    (overlap_unordered, "superset rule|are not those of its cut"),
    (clean_after_a_crash, "superset rule"),
    (epoch_used_again, "stuck|are not those of its cut"),
    (anchor_forgotten, "stuck"),
    (numbers_given_again, "are not those of its cut|superset rule"),
    (aged_before_marked, "has no mark"),
]


def hunt(programs: Sequence[int]) -> tuple[int, str]:
    """The first program that fails, and how."""
    for seed in programs:
        try:
            run(random_program(seed))
        except Exception as error:
            return seed, f"{type(error).__name__}: {error}"
    return -1, ""


@pytest.mark.parametrize(("mutant", "seen"), MUTANTS, ids=[m.__name__ for m, _ in MUTANTS])
def test_is_caught(mutant: Callable[[pytest.MonkeyPatch], None], seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    seed, error = hunt(range(PROGRAMS))
    assert seed >= 0, "nobody noticed"
    assert re.search(seen, error), f"program {seed}: {error}"
