"""Rules: verdicts, their order, and that nothing delayed is overtaken."""

from collections import Counter

from drsim.core.errors import DrsimError, PlatformError
from drsim.core.messages import ForceSync, Message
from drsim.core.names import Address
from drsim.sim.clock import Clock
from drsim.sim.rules import Delay, Drop, Fail, Rule, Rules

A, B, C = Address("a/1/vra"), Address("b/1/vra"), Address("c/1/vra")
WORD = ForceSync("crm")


class Says(Rule):
    """Gives the same verdict on everything."""

    def __init__(self, kind: str, verdict: Delay | Drop | Fail) -> None:
        super().__init__(kind)
        self.verdict, self.asked = verdict, 0

    def message(self, now: int, sender: Address, to: Address, message: Message) -> Delay | Drop | None:
        self.asked += 1
        return self.verdict if not isinstance(self.verdict, Fail) else None

    def effect(self, now: int, store: str, effect: object) -> Delay | Fail | None:
        return self.verdict if not isinstance(self.verdict, Drop) else None


class Bench:
    """Rules on a clock of their own; `send` and `do` note when something went on."""

    def __init__(self) -> None:
        self.clock, self.mattered = Clock(), Counter[str]()
        self.rules = Rules(self.clock, self.mattered)
        self.log: list[tuple[int, str]] = []

    def at(self, time: int, what: str, to: Address = B) -> None:
        self.clock.call_at(time, lambda: self.rules.message(A, to, WORD, lambda: self._note(what)))

    def do(self, time: int, what: str) -> None:
        self.clock.call_at(time, lambda: self.rules.effect(A, "san", None, lambda: self._note(what), self._failed))  # type: ignore[arg-type]

    def _note(self, what: str) -> None:
        self.log.append((self.clock.now, what))

    def _failed(self, error: DrsimError) -> None:
        self._note(error.message)

    def run(self) -> list[tuple[int, str]]:
        self.clock.env.run(until=1000)
        return self.log


def test_delays_add_up_and_each_counts() -> None:
    bench = Bench()
    for rule in (Says("one", Delay(3)), Says("two", Delay(4))):
        bench.rules.add(rule, 100)
    bench.at(1, "x")
    assert bench.run() == [(8, "x")]
    assert bench.mattered == {"one": 1, "two": 1}


def test_the_first_that_drops_decides_and_later_ones_are_not_asked() -> None:
    bench, last = Bench(), Says("late", Delay(1))
    for rule in (Says("drop", Drop()), last):
        bench.rules.add(rule, 100)
    bench.at(1, "x")
    assert bench.run() == []
    assert (bench.mattered, last.asked) == ({"drop": 1}, 0)


def test_the_first_that_fails_decides_after_the_delays_before_it() -> None:
    bench = Bench()
    for rule in (Says("slow", Delay(5)), Says("gone", Fail(PlatformError("gone"))), Says("more", Delay(9))):
        bench.rules.add(rule, 100)
    bench.do(1, "x")
    assert bench.run() == [(6, "gone")]
    assert bench.mattered == {"slow": 1, "gone": 1}


def test_nothing_overtakes_what_was_delayed_on_the_same_way() -> None:
    bench = Bench()
    bench.at(30, "at that very instant")  # on the clock before the others are sent
    bench.rules.add(Says("slow", Delay(20)), 11)
    for time, what in ((10, "first"), (12, "second"), (29, "third"), (40, "later")):
        bench.at(time, what)
    bench.at(12, "to another", to=C)
    bench.run()
    assert (12, "to another") in bench.log
    order = [what for _, what in bench.log if what != "to another"]
    assert order == ["first", "second", "third", "at that very instant", "later"]


def test_rules_are_quiet_again_when_nothing_is_left_to_order() -> None:
    bench = Bench()
    assert not bench.rules.active
    bench.rules.add(Says("slow", Delay(20)), 11)
    bench.at(10, "x")
    seen: list[bool] = []
    for time in (12, 30, 32):
        bench.clock.call_at(time, lambda: seen.append(bench.rules.active))
    bench.run()
    assert seen == [True, True, False]


def test_a_rule_lets_everything_pass() -> None:
    bench = Bench()
    bench.rules.add(Rule("nothing"), 100)
    bench.at(1, "x")
    bench.do(2, "y")
    assert bench.run() == [(1, "x"), (2, "y")]
    assert not bench.mattered
