"""The adapter itself: what a body awaits, in which order it goes on, and what a cancel does."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from drsim.core.action import Action
from drsim.core.effects import Arm, Effect, EffectId, Perform
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import Decided, Done, Failed, Fired, Started, Verdict
from drsim.core.names import Address
from drsim.core.saga import Saga
from drsim.core.units import Ns
from drsim.core.workflow import Cancelled, Operation, Sleep, Together, Waiting, Workflow

AT = Address("east/operation/1")


@dataclass(frozen=True, slots=True)
class Say(Action[str]):
    word: str

    def __str__(self) -> str:
        return f"say {self.word}"


class Bench:
    """A workflow and what it has asked for."""

    def __init__(self, body: Callable[[Operation], Coroutine[Any, Any, object]]) -> None:
        self.flow, self.now, self.asked = Workflow(AT, body), Ns(0), list[Effect]()
        self.post(Started())

    def post(self, event: Any) -> None:
        self.now = Ns(self.now + 1)
        effects = self.flow.handle(self.now, event)
        self.asked += [effect for effect in effects if isinstance(effect, Perform | Arm)]

    def words(self) -> list[str]:
        return [e.action.word if isinstance(e, Perform) and isinstance(e.action, Say) else str(e) for e in self.asked]

    def done(self, word: str, value: object = None) -> None:
        self.post(Done(EffectId(AT, 0), self._take(word), value))

    def failed(self, word: str) -> None:
        self.post(Failed(EffectId(AT, 0), self._take(word), PlatformError(f"{word} failed")))

    def _take(self, word: str) -> Perform:
        (found,) = [e for e in self.asked if isinstance(e, Perform) and e.action == Say(word)]
        self.asked.remove(found)
        return found


def test_an_action_gives_its_result_or_raises() -> None:
    heard: list[object] = []

    async def body(_: Operation) -> None:
        heard.append(await Say("a"))
        with pytest.raises(PlatformError, match="b failed"):
            await Say("b")
        heard.append("end")

    bench = Bench(body)
    bench.done("a", 7)
    bench.failed("b")
    assert heard == [7, "end"]
    assert bench.flow.over
    assert [record.error for record in bench.flow.operation.records.values()] == ["", "b failed"]


def test_together_waits_for_all_and_then_raises_the_first_failure() -> None:
    heard: list[object] = []

    async def say(word: str) -> str:
        return await Say(word)

    async def body(_: Operation) -> None:
        heard.append(await Together([say("a"), say("b")]))
        with pytest.raises(PlatformError, match="d failed"):
            await Together([say("c"), say("d"), say("e")])
        heard.append(await Together([]))

    bench = Bench(body)
    bench.done("b", 2)
    assert heard == []
    bench.done("a", 1)
    assert heard == [[1, 2]]
    bench.failed("d")
    bench.failed("e")
    assert not bench.flow.over
    bench.done("c")
    assert heard == [[1, 2], []]


def test_steps_are_places_whatever_the_order() -> None:
    async def branch(name: str) -> None:
        await Say(f"{name}1")
        await Say(f"{name}2")

    async def body(_: Operation) -> None:
        await Together([branch("a"), branch("b")])
        await Say("end")

    for order in (["a1", "a2", "b1", "b2"], ["b1", "a1", "b2", "a2"], ["b1", "b2", "a1", "a2"]):
        bench = Bench(body)
        for word in order:
            bench.done(word)
        found = {str(r.action): step for step, r in bench.flow.operation.records.items()}
        assert found == {
            "say a1": (0, 0, 0), "say a2": (0, 0, 1), "say b1": (0, 1, 0), "say b2": (0, 1, 1), "say end": (1,),
        }  # fmt: skip


def test_an_answer_that_comes_twice_changes_nothing() -> None:
    async def body(_: Operation) -> None:
        await Say("a")
        await Say("b")

    bench = Bench(body)
    first = bench.asked[0]
    assert isinstance(first, Perform)
    for _ in range(3):
        bench.post(Done(EffectId(AT, 0), first, None))
    assert bench.words() == ["a", "b"]


def test_sleep_and_wait() -> None:
    heard: list[object] = []

    async def body(_: Operation) -> None:
        await Sleep(Ns(5))
        heard.append(await Waiting(Ns(9)))
        heard.append(await Waiting(None))

    bench = Bench(body)
    bench.post(Decided(Verdict.COMMIT))
    assert bench.asked == [Arm("step 0", Ns(5))], "nobody was asked yet"
    bench.post(Fired("step 0"))
    bench.post(Fired("step 0"))
    bench.post(Fired("step 1"))
    bench.post(Decided(Verdict.ROLL_BACK, "no"))
    assert heard == [None, Decided(Verdict.ROLL_BACK, "no")]
    assert bench.asked == [Arm("step 0", Ns(5)), Arm("step 1", Ns(9))]


def test_a_timer_after_the_decision_is_not_heard() -> None:
    heard: list[object] = []

    async def body(_: Operation) -> None:
        heard.append(await Waiting(Ns(9)))
        heard.append(await Waiting(None))

    bench = Bench(body)
    bench.post(Decided(Verdict.ROLL_BACK))
    bench.post(Fired("step 0"))
    assert heard == [Decided(Verdict.ROLL_BACK)]


def test_started_again_asks_again_for_what_is_open_only() -> None:
    async def say(word: str) -> None:
        await Say(word)

    async def body(_: Operation) -> None:
        await Together([say("a"), say("b"), say("c")])

    bench = Bench(body)
    bench.done("b")
    again = [e for e in bench.flow.handle(Ns(9), Started()) if isinstance(e, Perform)]
    assert [(e.step, e.action) for e in again] == [((0, 0, 0), Say("a")), ((0, 2, 0), Say("c"))]


def test_cancel_waits_for_what_is_under_way_and_is_told_once_in_each_branch() -> None:
    heard: list[str] = []

    async def branch(word: str) -> None:
        try:
            await Say(word)
        except Cancelled:
            heard.append(word)
            await Say(f"clean {word}")
            raise

    async def body(operation: Operation) -> None:
        try:
            await Together([branch("a"), branch("b")])
        except Cancelled:
            heard.append("body")
            await Say("last")

    bench = Bench(body)
    bench.post(Decided(Verdict.CANCEL))
    assert heard == []
    bench.done("a")
    assert heard == ["a"]
    bench.done("clean a")
    bench.done("b")
    bench.done("clean b")
    bench.done("last")
    assert heard == ["a", "b", "body"]
    assert bench.flow.over


def test_cancel_ends_a_sleep_at_once_and_nothing_that_is_settled() -> None:
    heard: list[str] = []

    async def body(operation: Operation) -> None:
        try:
            await Sleep(Ns(100))
        except Cancelled:
            heard.append("cancelled")
        operation.settle()
        await Sleep(Ns(100))
        heard.append("end")

    bench = Bench(body)
    bench.post(Decided(Verdict.CANCEL))
    bench.post(Decided(Verdict.CANCEL))
    assert heard == ["cancelled"]


def test_a_mistake_in_a_body_is_not_swallowed() -> None:
    async def body(_: Operation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Bench(body)


def test_a_saga_undoes_newest_first_whatever_fails_and_says_what() -> None:
    sagas: list[Saga] = []

    async def part(saga: Saga, word: str) -> None:
        await saga.do(Say(word), Say(f"undo {word}"))

    async def body(operation: Operation) -> None:
        saga = Saga(operation)
        sagas.append(saga)
        await saga.do(Say("a"), Say("undo a"), guarded=True)
        await Together([part(s, w) for s, w in zip(saga.branches(2), "bc", strict=True)])
        with pytest.raises(DrsimError):
            await saga.do(Say("d"), Say("undo d"))
        await saga.unwind()

    bench = Bench(body)
    for word in ("a", "b", "c"):
        bench.done(word)
    bench.failed("d")
    assert bench.words() == ["undo d"], "it may have taken effect"
    bench.done("undo d")
    assert bench.words() == ["undo b", "undo c"], "at the same time"
    bench.done("undo c")
    bench.failed("undo b")
    assert bench.flow.over
    assert sagas[0].failed == ["say undo b: undo b failed", "say undo a: not before the rest is cleaned up"]
