"""Rules: what faults do to messages and to effects on stores. A new fault of that sort is one class of a few lines.

Theory of operation. The world asks the rules in force about every message and every effect on a store, in the order in
which they came into force.

    verdict  on        meaning
    -------  --------  ---------------------------------------------------
    None     both      it passes
    Delay    both      it is that much later; delays of several rules add up
    Drop     messages  it is gone, and nobody is told
    Fail     effects   it is not performed, and its machine is told why

The first rule that drops or fails decides. What is delayed keeps its place: nothing overtakes it on its way from one
address to another, or from one machine to one store. So `Drop` is only for connections that are lost soon after
(`effects.Send`: "a connection may be lost, never holed"). Every verdict but None counts: the rule's fault mattered.
Without rules the world pays one look at `active`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

import numpy as np

from drsim.core.effects import Append, Discard, Effect, Promote, ReadDigests, ReadRegions
from drsim.core.errors import DrsimError
from drsim.core.messages import Message
from drsim.core.names import Address
from drsim.sim.clock import Clock

StoreEffect = Append | Promote | Discard | ReadRegions | ReadDigests
"""Effects that a datastore performs."""
WRITING = (Append, Promote, Discard)
READING = (ReadRegions, ReadDigests)


@dataclass(frozen=True, slots=True)
class Delay:
    """Later by so many nanoseconds."""

    ns: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Gone."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Not performed, because of this."""

    error: DrsimError


class Rule:
    """Lets everything pass. `kind` is the fault whose rule it is."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def message(self, now: int, sender: Address, to: Address, message: Message) -> Delay | Drop | None:
        """What happens to a message."""
        return None

    def effect(self, now: int, store: str, effect: Effect) -> Delay | Fail | None:
        """What happens to an effect on a datastore."""
        return None


class Clogged(Rule):
    """Nothing moves on these connections before an instant; then everything goes on, as TCP sends again."""

    def __init__(self, kind: str, pairs: Collection[tuple[Address, Address]], until: int) -> None:
        super().__init__(kind)
        self._connections, self._until = {frozenset(pair) for pair in pairs}, until

    def message(self, now: int, sender: Address, to: Address, message: Message) -> Delay | None:
        return Delay(self._until - now) if frozenset((sender, to)) in self._connections else None


class Swallowed(Rule):
    """These connections are dead, and nobody has noticed."""

    def __init__(self, kind: str, pairs: Collection[tuple[Address, Address]]) -> None:
        super().__init__(kind)
        self._connections = {frozenset(pair) for pair in pairs}

    def message(self, now: int, sender: Address, to: Address, message: Message) -> Drop | None:
        return Drop() if frozenset((sender, to)) in self._connections else None


class Late(Rule):
    """A share of the messages on these connections has an exponential extra delay of this mean."""

    def __init__(
        self, kind: str, pairs: Collection[tuple[Address, Address]], share: float, mean: int, rng: np.random.Generator
    ) -> None:
        super().__init__(kind)
        self._connections, self._share, self._mean, self._rng = {frozenset(p) for p in pairs}, share, mean, rng

    def message(self, now: int, sender: Address, to: Address, message: Message) -> Delay | None:
        if frozenset((sender, to)) not in self._connections or self._rng.random() >= self._share:
            return None
        return Delay(int(self._rng.exponential(self._mean)))


class Sluggish(Rule):
    """Everything that these machines say or hear is later by as much."""

    def __init__(self, kind: str, machines: Collection[Address], delay: int) -> None:
        super().__init__(kind)
        self._machines, self._delay = set(machines), delay

    def message(self, now: int, sender: Address, to: Address, message: Message) -> Delay | None:
        return Delay(self._delay) if sender in self._machines or to in self._machines else None


class Failing(Rule):
    """A share of these effects fails on a datastore; all of them when no random numbers are given."""

    def __init__(
        self, kind: str, store: str, effects: tuple[type, ...], error: DrsimError, *, share: float = 1.0,
        rng: np.random.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kind)
        self._store, self._effects, self._error, self._share, self._rng = store, effects, error, share, rng

    def effect(self, now: int, store: str, effect: Effect) -> Fail | None:
        if store != self._store or not isinstance(effect, self._effects):
            return None
        passes = self._rng is not None and self._rng.random() >= self._share
        return None if passes else Fail(self._error)


class Rules:
    """The rules in force, and the order of what they delay. `mattered` counts verdicts by kind of fault."""

    def __init__(self, clock: Clock, mattered: Counter[str]) -> None:
        self._clock, self._mattered = clock, mattered
        self._rules: list[Rule] = []
        self._held: dict[Hashable, int] = {}  # until when the last of them is delayed
        self.active = False
        """Whether there is a rule, or something that a rule delayed may yet be overtaken."""

    def add(self, rule: Rule, lasts: int) -> None:
        """A rule comes into force, for so many nanoseconds."""
        self._rules.append(rule)
        self.active = True
        self._clock.call(lasts, lambda: self._remove(rule))

    def _remove(self, rule: Rule) -> None:
        self._rules.remove(rule)
        self._rest()

    def _rest(self) -> None:
        """Nobody needs to ask once there is neither a rule nor anything delayed."""
        if self._rules:
            return
        last = max(self._held.values(), default=-1)
        self.active = last >= self._clock.now
        if self.active:
            self._clock.call_at(last + 1, self._rest)
        else:
            self._held.clear()

    def message(self, sender: Address, to: Address, message: Message, go: Callable[[], None]) -> None:
        """Let a message go on when the rules say."""
        delay = 0
        for rule in self._rules:
            match rule.message(self._clock.now, sender, to, message):
                case Delay(ns):
                    delay += ns
                case Drop():
                    self._mattered[rule.kind] += 1
                    return
                case None:
                    continue
            self._mattered[rule.kind] += 1
        self._go((sender, to), delay, go)

    def effect(
        self, here: Address, store: str, effect: Effect, go: Callable[[], None], fail: Callable[[DrsimError], None]
    ) -> None:
        """Let an effect on a store be performed, or fail, when the rules say."""
        delay = 0
        for rule in self._rules:
            match rule.effect(self._clock.now, store, effect):
                case Delay(ns):
                    delay += ns
                case Fail(error):
                    self._mattered[rule.kind] += 1
                    self._go((here, store), delay, lambda error=error: fail(error))  # type: ignore[misc]
                    return
                case None:
                    continue
            self._mattered[rule.kind] += 1
        self._go((here, store), delay, go)

    def _go(self, way: Hashable, delay: int, act: Callable[[], None]) -> None:
        """Act after a delay, and after everything before on the same way."""
        now, before = self._clock.now, self._held.get(way, -1)
        if not delay and before < now:
            act()
            return
        self._held[way] = at = max(now + delay, before)
        self._clock.call_at(at, act)
