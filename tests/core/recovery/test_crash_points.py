"""Every workflow with its manager lost at every effect in every way, every step failing, and cancelled at every point.

The rehearsal checks P7, P13 to P16, P20 and P25 itself (`drsim/verify/recovery_checks.py`).
"""

from typing import Any

import pytest
from core.recovery.plans import CASES

from drsim.core.events import Started
from drsim.core.recovery.operations import Recovery
from drsim.core.recovery.report import Outcome
from drsim.verify.platform import Platform
from drsim.verify.rehearsal import AT, Rehearsal, everywhere

ENDS = {
    "test": Outcome.DONE, "test that ends by itself": Outcome.DONE, "live, committed": Outcome.COMMITTED,
    "live, rolled back": Outcome.ROLLED_BACK, "live, committed by policy": Outcome.COMMITTED,
    "live, rolled back by policy": Outcome.ROLLED_BACK, "live, at once, what fails is left out": Outcome.COMMITTED,
    "live, one VM of two": Outcome.COMMITTED, "move, committed": Outcome.COMMITTED,
    "move, reversed": Outcome.COMMITTED, "move, source kept": Outcome.COMMITTED,
    "move, rolled back": Outcome.ROLLED_BACK, "clone": Outcome.DONE, "clone, what fails is left out": Outcome.DONE,
    "restore beside": Outcome.DONE, "restore in place": Outcome.DONE,
    "restore in place, taken back": Outcome.ROLLED_BACK, "restore to be looked into": Outcome.DONE,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ends_as_it_should_when_nothing_goes_wrong(case: str) -> None:
    plan, verdict = CASES[case]
    report = Rehearsal(plan, Platform.of(2), verdict=verdict).play()
    assert report.outcome is ENDS[case]
    assert report.people == ()
    assert all(not record.error and record.ended is not None for record in report.steps)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_or_nothing_whatever_dies_fails_or_is_cancelled(case: str) -> None:
    plan, verdict = CASES[case]
    played = 0
    for _, rehearsal in everywhere(plan, 2, verdict):
        rehearsal.play()
        played += 1
    assert played > 50


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_manager_that_dies_changes_nothing_that_is_done(case: str) -> None:
    """The same end, with the same steps under the same keys."""
    plan, verdict = CASES[case]
    plain = Rehearsal(plan, Platform.of(2), verdict=verdict)
    expected = plain.play()
    for n in range(plain.performed):
        dies = Rehearsal(plan, Platform.of(2), {n: "after"}, verdict)
        report = dies.play()
        assert report.outcome is expected.outcome
        assert {r.step: r.action for r in report.steps} == {r.step: r.action for r in expected.steps}
        assert settled(dies.platform) == settled(plain.platform)


def settled(platform: Platform) -> dict[str, Any]:
    """All that does not depend on how long it took: what was written meanwhile is in the mirror."""
    return {**platform.digest(), "mirror": None}


@pytest.mark.parametrize("case", CASES)
def test_replay_from_any_prefix_of_the_history_asks_for_the_same(case: str) -> None:
    plan, verdict = CASES[case]
    whole = Rehearsal(plan, Platform.of(2), verdict=verdict)
    whole.play()
    first, asked = Recovery(AT, plan), [list[object]()]
    for now, event in whole.history:
        asked.append(list(first.handle(now, event)))
    for n, (now, _) in enumerate(whole.history):
        again = Recovery(AT, plan, whole.history[:n])
        rest = [effect for now, event in whole.history[n:] for effect in again.handle(now, event)]
        assert rest == [effect for effects in asked[n + 1 :] for effect in effects]
        once_more = Recovery(AT, plan, whole.history[: n + 1])
        outstanding = once_more.handle(now, Started())
        assert all(effect in [e for effects in asked for e in effects] for effect in outstanding)
