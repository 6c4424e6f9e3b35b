"""Litmus tests hold on the real core, say all there is to say, and fail when the core is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from drsim.core import catalog, protected_vra, receiver, sender, vpg
from drsim.core.effects import Append, Effect, ReleaseGuests, Send
from drsim.core.messages import Ack, Age, Frame, Hold, Listed, Reached
from drsim.core.units import Ns
from drsim.core.window import reaches
from drsim.verify.explorer import Tap
from drsim.verify.guests import Write
from drsim.verify.litmus.interleave import MOST_RUNS, Litmus, Seen, every_order, faults
from drsim.verify.litmus.order import ORDER
from drsim.verify.litmus.page import GROUPS, INTRODUCTION, LITMUS_TESTS, page, section

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "litmus.md"
BY_NAME = {test.name: test for test in LITMUS_TESTS}


@cache
def seen(name: str) -> Seen:
    return every_order(BY_NAME[name])


@pytest.mark.parametrize("name", BY_NAME)
def test_holds_in_every_order(name: str, rewrite_golden: bool) -> None:
    assert faults(BY_NAME[name], seen(name)) == []
    assert seen(name).exhaustive
    assert seen(name).runs <= MOST_RUNS
    if not rewrite_golden:
        assert section(BY_NAME[name], seen(name)) in PAGE.read_text(encoding="utf-8")


def test_the_page_has_them_all(rewrite_golden: bool) -> None:
    if rewrite_golden:
        PAGE.write_text(page({name: seen(name) for name in BY_NAME}), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(INTRODUCTION)
    titles = [f"## {g}" if t is None else f"### {t.name[0].upper()}{t.name[1:]}"
              for g, tests in GROUPS.items() for t in (None, *tests)]  # fmt: skip
    assert [line for line in text.splitlines() if line.startswith(("## ", "### "))] == titles
    assert len(titles) - len(GROUPS) == len(LITMUS_TESTS) >= 20


@pytest.mark.parametrize(
    "name",
    ["two writes in order", "overlapping writes in flight", "cause and effect on two hosts", "one journal lags",
     "the first checkpoint after a sync", "a lost frame", "a full store"],
)  # fmt: skip
def test_orders_left_out_are_like_others(name: str) -> None:
    full = every_order(replace(BY_NAME[name], most=10_000), reduced=False)
    assert full.exhaustive
    assert full.runs > seen(name).runs
    assert set(full.outcomes) == set(seen(name).outcomes)
    assert full.consistent == seen(name).consistent


# -- the table itself is checked ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"allowed": ("{}", "{a}")}, "{a, b} is not in the table"),
        ({"allowed": ("{}", "{a}", "{a, b}", "none")}, "none is allowed and was never reached"),
        ({"forbidden": ("{a}",)}, "{a} is forbidden; it came of"),
        ({"broken": ("{b}",)}, "{b} is in the table, and never a consistent cut"),
    ],
    ids=["unknown", "unreachable", "forbidden", "inconsistent"],
)
def test_a_wrong_table_is_seen(change: dict[str, tuple[str, ...]], said: str) -> None:
    test = replace(ORDER[0], **change)  # type: ignore[arg-type]
    assert any(said in found for found in faults(test, every_order(test)))


def test_a_bound_is_a_bound() -> None:
    found = every_order(replace(ORDER[0], most=10))
    assert (found.runs, found.exhaustive) == (10, False)
    assert "the first 10, not all," in section(ORDER[0], found)


# -- a wrong core fails them --------------------------------------------------------------------------------------


def naive_marker(patch: pytest.MonkeyPatch) -> None:
    """The marker is dropped into each stream when the message gets there; no guest is held."""
    hold = protected_vra.ProtectedVra._hold

    def mutant(self: protected_vra.ProtectedVra, message: Hold) -> list[Effect]:
        held = hold(self, message)
        return [*held, ReleaseGuests(message.vpg, message.checkpoint)] if message.vpg in self._holds else held

    patch.setattr(protected_vra.ProtectedVra, "_hold", mutant)


def seal_without_confirmation(patch: pytest.MonkeyPatch) -> None:
    """Sealed when all have held, whether or not they held until the release."""
    held = vpg.Vpg._held

    def mutant(self: vpg.Vpg, now: Ns, message: vpg.Held) -> list[Effect]:
        effects, attempt = held(self, now, message), self.attempt
        return [*effects, *self._seal(now, attempt)] if attempt and len(attempt.held) == len(self.vras) else effects

    patch.setattr(vpg.Vpg, "_held", mutant)


def early_ack(patch: pytest.MonkeyPatch) -> None:
    """Acknowledged when taken, not when durable."""
    take = receiver.Receiver.frame

    def mutant(self: receiver.Receiver, frame: Frame) -> list[Effect]:
        effects = take(self, frame)
        early = Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.accepted))
        return [*effects, early] if any(isinstance(e, Append) for e in effects) else effects

    patch.setattr(receiver.Receiver, "frame", mutant)


def in_flight_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A fold marks what is queued, but not what was sent."""
    end = sender.Sender._end_epoch

    def mutant(self: sender.Sender) -> None:
        self.window.clear()
        end(self)

    patch.setattr(sender.Sender, "_end_epoch", mutant)


def sync_in_flight_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A region counts as clean when it was sent, not when it is durable."""
    end = sender.Sender._end_epoch

    def mutant(self: sender.Sender) -> None:
        for frame in [f for f in self.window.clear() if not f.sync]:
            self.window.add(frame)
        end(self)

    patch.setattr(sender.Sender, "_end_epoch", mutant)


def everything_ages(patch: pytest.MonkeyPatch) -> None:
    """Everything durable goes to the mirror, although checkpoints are listed."""
    age = receiver.Receiver.age

    def mutant(self: receiver.Receiver, message: Age) -> list[Effect]:
        return age(self, replace(message, checkpoint=None))

    patch.setattr(receiver.Receiver, "age", mutant)


def pins_ignored(patch: pytest.MonkeyPatch) -> None:
    """A pin is forgotten at once."""

    def mutant(self: catalog.Catalog, id_: int, pinned: bool) -> list[Effect]:
        return []

    patch.setattr(catalog.Catalog, "_pin", mutant)


def first_journal_lists(patch: pytest.MonkeyPatch) -> None:
    """Listed when the first journal has it, not the last."""
    reached = catalog.Catalog._reached

    def mutant(self: catalog.Catalog, message: Reached) -> list[Effect]:
        if message.checkpoint in self._arriving:
            self._arriving[message.checkpoint].missing.clear()
        return reached(self, message)

    patch.setattr(catalog.Catalog, "_reached", mutant)


def gap_ignored(patch: pytest.MonkeyPatch) -> None:
    """A frame beyond a gap is applied where the journal ends."""
    _renumbered(patch, lambda self, frame: not reaches(self.accepted, frame.after))


def duplicate_applied(patch: pytest.MonkeyPatch) -> None:
    """A frame that came before is applied again."""
    _renumbered(patch, lambda self, frame: reaches(self.accepted, frame.upto))


def _renumbered(patch: pytest.MonkeyPatch, when: Callable[[receiver.Receiver, Frame], bool]) -> None:
    take = receiver.Receiver.frame

    def mutant(self: receiver.Receiver, frame: Frame) -> list[Effect]:
        if frame.epoch == self.epoch and when(self, frame):
            upto = tuple(p + u - a for p, a, u in zip(self.accepted, frame.after, frame.upto, strict=True))
            frame = replace(frame, after=self.accepted, upto=upto)
        return take(self, frame)

    patch.setattr(receiver.Receiver, "frame", mutant)


def old_generation_taken(patch: pytest.MonkeyPatch) -> None:
    """The generation of a frame is not looked at."""
    take = receiver.Receiver.frame

    def mutant(self: receiver.Receiver, frame: Frame) -> list[Effect]:
        return take(self, replace(frame, generation=self.generation))

    patch.setattr(receiver.Receiver, "frame", mutant)


def ended_epoch_reached(patch: pytest.MonkeyPatch) -> None:
    """A cut counts as reached once the numbers have grown past it, in whatever epoch."""

    def mutant(self: receiver.Receiver, cut: receiver.Cut) -> bool | None:
        return True if reaches(self.durable, cut.position) else None

    patch.setattr(receiver.Receiver, "_fate", mutant)


def held_while_syncing(patch: pytest.MonkeyPatch) -> None:
    """A VRA answers for a stream that synchronizes as for any other."""
    patch.setattr(sender.Sender, "syncing", property(lambda _: False))
    patch.setattr(sender.Sender, "cut", lambda self: sender.Cut(self.epoch, self.numbered))


def rpo_from_now(patch: pytest.MonkeyPatch) -> None:
    """The RPO counts from when the manager hears of a checkpoint, not from when it was taken."""
    received = vpg.Vpg._received

    def mutant(self: vpg.Vpg, now: Ns, message: vpg.Message) -> list[Effect]:
        late = Ns(now + 1)
        return received(self, now, replace(message, taken=late) if isinstance(message, Listed) else message)

    patch.setattr(vpg.Vpg, "_received", mutant)


class IssueOrder(Tap):
    """Captures in the order of issue, whatever landed over what."""

    def capture(self, writes: Sequence[Write]) -> None:
        guest = writes[0].guest
        if not guest.in_flight:
            super().capture(sorted(guest.writes[guest.captured :], key=lambda w: w.issued))


class DiscardsUnseen(Tap):
    """A discard reaches the disk and is not captured."""

    def capture(self, writes: Sequence[Write]) -> None:
        seen = [write for write in writes if not write.discard]
        if seen:
            super().capture(seen)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None] | type[Tap], str, str]] = [
    (naive_marker, "cause and effect on two hosts", "{b}"),
    (seal_without_confirmation, "a hold that ends early", "{b}"),
    (early_ack, "the recovery VRA dies", "{}"),
    (in_flight_forgotten, "a connection lost between capture and journal", "{}"),
    (sync_in_flight_forgotten, "a sync that is interrupted", "{}"),
    (everything_ages, "the history passes", "2: {a, b, c}"),
    (pins_ignored, "a pinned checkpoint", "1: none"),
    (first_journal_lists, "one journal lags", "{b}"),
    (gap_ignored, "a lost frame", "{b}"),
    (duplicate_applied, "a frame that comes twice", "{a}"),
    (old_generation_taken, "a frame of an old generation", "{a}"),
    (ended_epoch_reached, "a checkpoint whose data never came", "{}"),
    (held_while_syncing, "a checkpoint during a sync", "{b}"),
    (rpo_from_now, "done after the checkpoint", "b counts as safe"),
    (IssueOrder, "overlapping writes in flight", "the image is not the disk"),
    (DiscardsUnseen, "discard", "{a}"),
]


@pytest.mark.parametrize(("mutant", "name", "outcome"), MUTANTS, ids=[m.__name__ for m, _, _ in MUTANTS])
def test_a_wrong_core_shows_the_forbidden_outcome(
    mutant: Callable[[pytest.MonkeyPatch], None] | type[Tap], name: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap: type[Tap] = Tap
    if isinstance(mutant, type):
        tap = mutant
    else:
        mutant(monkeypatch)
    test: Litmus = replace(BY_NAME[name], most=500)
    found = every_order(test, tap=tap)
    assert outcome in (*test.forbidden, *test.broken)
    assert any(fault.startswith(f"{outcome} is forbidden; it came of: ") for fault in faults(test, found)), [
        *found.outcomes
    ]
