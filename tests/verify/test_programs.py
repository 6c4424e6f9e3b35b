"""Programs that Hypothesis chooses, in the active profile: `dev` and `ci` look for a second, `nightly` for an hour.

The swarm (`drsim verify`) plays more programs a second. What Hypothesis adds: it repeats and changes what was
interesting, looks for deeper queues and longer synchronizations, and keeps what failed in its database.
"""

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from drsim.core.effects import Append, Effect, Send
from drsim.core.messages import Ack, Frame
from drsim.core.receiver import Receiver
from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.operations import FAULTS
from drsim.verify.program import HEAD, LENGTH, run
from drsim.verify.strategies import Watched, observe, programs, verify
from drsim.verify.token import decode
from drsim.verify.violation import Violation

SEARCH = [phase for phase in settings.default.phases if phase is not Phase.explain]  # a program explains itself
QUICK = settings(phases=[Phase.generate], derandomize=True, database=None, max_examples=300, deadline=None,
                 suppress_health_check=[HealthCheck.too_slow])  # fmt: skip


@settings(phases=SEARCH)
@given(programs())
def test_no_program_breaks_a_property(program: bytes) -> None:
    verify(program)


@settings(phases=SEARCH, max_examples=max(5, settings.default.max_examples // 10))
@given(st.sampled_from(sorted(HUNTERS)).flatmap(lambda kind: st.tuples(st.just(kind), programs(kind))))
def test_nor_of_any_kind(choice: tuple[str, bytes]) -> None:
    kind, program = choice
    verify(program, hunter=kind)


# -- what is drawn --------------------------------------------------------------------------------------------


def test_programs_are_long_and_mixed() -> None:
    """Nearly all have their full length, and each class of faults is left out of about half of them."""
    seen: list[bytes] = []
    QUICK(given(programs())(lambda p: seen.append(p)))()
    assert sum(len(p) == LENGTH for p in seen) > 0.9 * len(seen)
    masks = [p[6] | p[7] << 8 for p in seen]
    for n in range(len(FAULTS)):
        assert 0.25 < sum(mask >> n & 1 for mask in masks) / len(masks) < 0.75


def test_zeros_are_simplest_and_are_left_out() -> None:
    plain = settings(QUICK, phases=[Phase.generate, Phase.shrink])
    assert find(programs(operations=20), lambda p: True, settings=plain) == bytes(HEAD)
    some = find(programs(operations=20), lambda p: any(p[HEAD:]), settings=plain)
    assert len(some) == HEAD + HUNTERS["explorer"].unit


def test_observed_are_queues_synchronization_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}
    monkeypatch.setattr("drsim.verify.strategies.target", lambda value, label: seen.update({label: value}))
    deepest = dict[str, float]()
    for seed in range(12):
        observe(run(HUNTERS["explorer"].program(seed), explorer=Watched))  # type: ignore[arg-type]
        deepest = {label: max(value, deepest.get(label, 0)) for label, value in seen.items()}
    assert len(deepest) == 3
    assert all(value > 1 for value in deepest.values())
    observe(run(bytes(HEAD), explorer=Watched))  # type: ignore[arg-type]
    held = "bytes that a sender held"
    assert 4 * seen[held] < deepest[held]


# -- what is said ---------------------------------------------------------------------------------------------


def test_a_failure_shrinks_and_carries_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Receiver.frame

    def early(self: Receiver, frame: Frame) -> list[Effect]:
        effects = take(self, frame)
        ack = Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.accepted))
        return [*effects, ack] if any(isinstance(e, Append) for e in effects) else effects

    monkeypatch.setattr(Receiver, "frame", early)
    test = settings(max_examples=200, derandomize=True, database=None, deadline=None,
                    phases=[Phase.generate, Phase.shrink])(given(programs())(lambda p: verify(p)))  # fmt: skip
    with pytest.raises(Violation, match="P8") as error:
        test()
    (said,) = [note for note in error.value.__notes__ if note.startswith("drsim replay ")]
    token = decode(said.removeprefix("drsim replay "))
    assert (len(token.program) - HEAD) // 3 <= 3
    verdict = judge(HUNTERS[token.kind], token.program)
    assert verdict is not None
    assert verdict.prop == "P8"
