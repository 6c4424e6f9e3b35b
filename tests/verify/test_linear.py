"""The search for an order (P18) against all orders, and the cases that it is for."""

import itertools
import random

import pytest

from drsim.core.names import VmId
from drsim.verify.linear import Control, Edit, Operation, Pause, Seal, Tag, stuck

A, B = VmId(1), VmId(2)
BOTH, ONE = frozenset({A, B}), frozenset({A})
START = Control(BOTH)


def any_order(history: list[Operation], start: Control) -> bool:
    """By definition: some permutation respects the intervals, and the machine takes it."""
    for order in itertools.permutations(history):
        late = any(order[j].answered < order[i].asked for i in range(len(order)) for j in range(i + 1, len(order)))
        if late:
            continue
        state: Control | None = start
        for operation in order:
            state = state.after(operation.what) if state is not None else None
        if state is not None:
            return True
    return False


@pytest.mark.parametrize("seed", range(300))
def test_against_every_order(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [
        Edit(BOTH), Edit(ONE), Edit(ONE, frozenset({A})), Pause(True), Pause(False), Tag("t"), Seal(BOTH), Seal(ONE),
        Seal(ONE, "t"), Seal(frozenset()),
    ]  # fmt: skip
    history = []
    for _ in range(rng.randint(1, 6)):
        asked = rng.randint(0, 12)
        history.append(Operation(rng.choice(kinds), asked, asked + rng.choice([0, 0, 1, 3, 6])))
    assert (stuck(history, START) is None) == any_order(history, START)


def test_both_verdicts_occur_often() -> None:
    """The comparison above would prove little if one answer were rare."""
    rng, verdicts = random.Random(1), []
    for _ in range(200):
        kinds = [Edit(BOTH), Edit(ONE), Pause(True), Pause(False), Seal(BOTH), Seal(ONE)]
        history = [Operation(rng.choice(kinds), n, n + rng.randint(0, 4)) for n in range(5)]
        verdicts.append(stuck(history, START) is None)
    assert 40 < sum(verdicts) < 160


def test_a_checkpoint_under_way_when_the_vpg_is_edited_may_be_of_either() -> None:
    for members in (BOTH, ONE):
        assert stuck([Operation(Seal(members), 1, 5), Operation(Edit(ONE), 3, 3)], Control(BOTH, seen=ONE)) is None


def test_one_that_was_asked_for_after_the_edit_is_of_the_new_one() -> None:
    wrong = Operation(Seal(BOTH), 4, 5)
    assert stuck([Operation(Edit(ONE), 3, 3), wrong], START) == wrong
    assert stuck([Operation(Edit(ONE), 3, 3), Operation(Seal(ONE), 4, 5)], START) is None


def test_nothing_is_sealed_while_paused() -> None:
    wrong = Operation(Seal(BOTH), 2, 3)
    assert stuck([Operation(Pause(True), 1, 1), wrong, Operation(Pause(False), 4, 4)], START) == wrong


def test_a_tag_is_sealed_once() -> None:
    once, twice = Operation(Seal(BOTH, "t"), 2, 3), Operation(Seal(BOTH, "t"), 4, 5)
    assert stuck([Operation(Tag("t"), 1, 1), once], START) is None
    assert stuck([Operation(Tag("t"), 1, 1), once, twice], START) is not None


def test_a_vm_does_not_vanish_from_checkpoints() -> None:
    assert stuck([Operation(Seal(BOTH), 1, 2), Operation(Seal(ONE), 3, 4)], START) is not None


def test_twelve_that_all_overlap_are_soon_decided() -> None:
    history = [Operation(Seal(BOTH), 0, 100) for _ in range(10)]
    history += [Operation(Pause(True), 0, 100), Operation(Seal(frozenset()), 0, 100)]
    assert stuck(history, START) is None
    assert stuck([*history, Operation(Seal(ONE), 101, 102)], START) is not None
