"""Rehearsal: one recovery operation against the platform in memory, with crashes and failures at every point.

The world here is the smallest one: it keeps the operation's history, carries out what is asked for, and answers. It
may lose the operation's manager at any effect, in three ways:

    before      the effect was asked for, and not begun
    after       it took effect, and nobody noted that
    noted       its answer is in the history, and what the operation asked for next is lost

and builds it again from its history. A step may fail, before or after it took effect. Between any two events time goes
by: the VMs that run write. After every event P16 is checked, in the end everything that `recovery_checks.py` has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from drsim.core.action import Step
from drsim.core.effects import Arm, Effect, EffectId, Perform
from drsim.core.errors import DrsimError
from drsim.core.events import Decided, Done, Event, Failed, Fired, Started, Verdict
from drsim.core.names import Address
from drsim.core.recovery.operations import Recovery
from drsim.core.recovery.plan import Plan
from drsim.core.recovery.report import Report
from drsim.core.units import SECOND, Ns
from drsim.verify.platform import Platform
from drsim.verify.recovery_checks import check_end, check_now

AT = Address("east/operation/1")
MOST_EVENTS = 2000
PHASES = ("before", "after", "noted")


@dataclass(slots=True)
class Rehearsal:
    """One operation. `crashes`: at which effects its manager dies, and how.

    `verdict`: what an operator decides once the operation waits for it; None leaves it to the policy. `wish`: what an
    operator wants after so many effects, whatever is under way. `last_first`: of what is asked for, the newest is
    carried out first.
    """

    plan: Plan
    platform: Platform
    crashes: dict[int, str] = field(default_factory=dict)
    verdict: Decided | None = None
    wish: tuple[int, Decided] | None = None
    last_first: bool = False
    performed: int = 0
    steps: list[Step] = field(default_factory=list)
    history: list[tuple[Ns, Event]] = field(default_factory=list)

    def play(self) -> Report:
        """To its end. Raises Violation, or AssertionError when it does not end."""
        before, now = self.platform.digest(), Ns(0)
        machine, work = Recovery(AT, self.plan), list[Effect]()
        self._hear(machine, work, now, Started())
        for _ in range(MOST_EVENTS):
            now = Ns(now + SECOND)
            self.platform.live()
            check_now(self.platform)
            if machine.report is not None:
                check_end(machine.report, self.platform, before)
                return machine.report
            if self.wish is not None and self.performed >= self.wish[0]:
                wish, self.wish = self.wish[1], None
                self._hear(machine, work, now, wish)
                continue
            machine = self._step(machine, work, now)
        raise AssertionError("the operation does not end")

    def _step(self, machine: Recovery, work: list[Effect], now: Ns) -> Recovery:
        """One effect is carried out and answered, or nothing is left but to wait."""
        asked = [effect for effect in work if isinstance(effect, Perform)]
        if not asked:
            self._hear(machine, work, now, self._waited(machine, work))
            return machine
        effect = asked[-1 if self.last_first else 0]
        phase = self.crashes.get(self.performed, "")
        self.performed += 1
        self.steps.append(effect.step)
        if phase == "before":
            return self._again(work, now)
        answer = self._answer(effect, now)
        if phase == "after":
            return self._again(work, now)
        work.remove(effect)
        if phase == "noted":
            self.history.append((now, answer))
            return self._again(work, now)
        self._hear(machine, work, now, answer)
        return machine

    def _waited(self, machine: Recovery, work: list[Effect]) -> Event:
        if machine.waiting and self.verdict is not None:
            verdict, self.verdict = self.verdict, None
            return verdict
        timer = next((effect for effect in work if isinstance(effect, Arm)), None)
        if timer is None:
            return Decided(Verdict.ROLL_BACK, "what was said before was not heard")
        work.remove(timer)
        return Fired(timer.timer)

    def _answer(self, effect: Perform, now: Ns) -> Event:
        id_ = EffectId(AT, 0)
        try:
            return Done(id_, effect, self.platform.carry_out(effect.step, effect.action, now))
        except DrsimError as error:
            return Failed(id_, effect, error)

    def _hear(self, machine: Recovery, work: list[Effect], now: Ns, event: Event) -> None:
        self.history.append((now, event))
        work += machine.handle(now, event)

    def _again(self, work: list[Effect], now: Ns) -> Recovery:
        """Its manager has died, and is built again from the history."""
        work.clear()
        machine = Recovery(AT, self.plan, list(self.history))
        self._hear(machine, work, now, Started())
        return machine


def length(plan: Plan, platform: Platform, verdict: Decided | None = None) -> list[Step]:
    """The steps of an operation in which nothing goes wrong."""
    rehearsal = Rehearsal(plan, platform, verdict=verdict)
    rehearsal.play()
    return rehearsal.steps


def everywhere(plan: Plan, vms: int, verdict: Decided | None = None) -> Iterator[tuple[str, Rehearsal]]:
    """The operation with its manager lost at every effect in every way, with every step failing, and cancelled."""
    steps = length(plan, Platform.of(vms), verdict)
    for n in range(len(steps) + 1):
        cancel = n, Decided(Verdict.CANCEL)
        yield f"cancelled at {n}", Rehearsal(plan, Platform.of(vms), verdict=verdict, wish=cancel)
    for last_first in (False, True):
        for n in range(len(steps)):
            for phase in PHASES:
                name = f"dies at {n}, {phase}{', newest first' if last_first else ''}"
                yield name, Rehearsal(plan, Platform.of(vms), {n: phase}, verdict, last_first=last_first)
    for step in steps:
        for how in ("before", "after"):
            broken: Mapping[Step, str] = {step: how}
            yield f"{step} fails {how}", Rehearsal(plan, _broken(vms, broken), verdict=verdict)
            for n in range(len(steps)):
                name = f"{step} fails {how}, dies at {n}"
                yield name, Rehearsal(plan, _broken(vms, broken), {n: "after"}, verdict)


def _broken(vms: int, broken: Mapping[Step, str]) -> Platform:
    platform = Platform.of(vms)
    platform.broken = broken
    return platform
