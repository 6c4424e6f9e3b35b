"""Workflow: a straight-line `async def` as a machine.

Theory of operation. The body of an operation awaits four things, and nothing else:

    await                     gives                                        ended by
    ------------------------  -------------------------------------------  ---------------------------------------
    an action                 its result, or raises its DrsimError         `Done` or `Failed` of its `Perform`
    Sleep(delay)              nothing                                      its timer
    Waiting(wait)             the operator's verdict, None after `wait`    `Decided`, or its timer
    Together(branches)        the results; raises the first error, but     the last of its branches
                              only when all of them are over

Each await has a *step*, its place in the tree of branches, so the steps of a replay are those of the first time,
however the branches were interleaved. What is durable of a workflow is the list of events that it was given, with
their times. Built again with that `history` it is where it was, and `Started` makes it ask again for what was not
answered, with the same keys.

`Decided(CANCEL)` ends what only waits, at once, and everything else when its action is answered: `Cancelled` is raised
there, once in each branch, until the operation has called `settle`: it is being undone, or cannot be any more.

Invariant: nothing is asked for twice but after `Started`; every answer to what is not open is ignored.
"""

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from drsim.core.action import Action, Step
from drsim.core.effects import Arm, Effect, Perform, Publish
from drsim.core.errors import DrsimError
from drsim.core.events import Decided, Done, Event, Failed, Fired, Started, Stopped, Verdict
from drsim.core.facts import OperationEnded, StepBegun, StepEnded
from drsim.core.names import Address
from drsim.core.units import Ns

History = Sequence[tuple[Ns, Event]]
Body = Coroutine[Any, Any, object]


class Cancelled(DrsimError):
    """An operator wants the operation to stop."""


class _Awaited:
    """What a body may await beside actions."""

    __slots__ = ()

    def __await__(self) -> Generator["_Awaited", object, Any]:
        return (yield self)


@dataclass(frozen=True, slots=True)
class Sleep(_Awaited):
    """Go on after `delay`."""

    delay: Ns


@dataclass(frozen=True, slots=True)
class Waiting(_Awaited):
    """Wait for what an operator decides: gives a `Decided`, or None after `wait` (None: for ever)."""

    wait: Ns | None


@dataclass(frozen=True, slots=True)
class Together(_Awaited):
    """Carry out all branches at the same time; gives the list of their results when the last one is over."""

    branches: Sequence[Body]


@dataclass(slots=True)
class Record:
    """One step of an operation, for its report. `ended`: None while it lasts."""

    step: Step
    action: Action[object]
    begun: Ns
    ended: Ns | None = None
    error: str = ""


class Operation:
    """What the body of a workflow knows of itself: the time, what it has done, and whether it can be cancelled."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.now = Ns(0)
        self.records: dict[Step, Record] = {}
        self.settled = False

    def settle(self) -> None:
        """From now on nobody can cancel: it is being undone, or it stays done."""
        self.settled = True


@dataclass(slots=True)
class _Task:
    """A coroutine under way. `parent`: the Together that it is a branch of, and its number there."""

    body: Body
    path: Step
    parent: "tuple[_Group, int] | None" = None
    awaits: int = 0
    told: bool = False  # that the operation is cancelled


@dataclass(slots=True)
class _Group:
    """A Together under way."""

    task: _Task
    left: int
    results: list[object] = field(default_factory=list)
    error: DrsimError | None = None


class Workflow:
    """One operation. `history`: all that it was given in its earlier lives. `over`: the body has ended."""

    def __init__(self, address: Address, body: Callable[[Operation], Body], history: History = ()) -> None:
        self.operation = Operation(address)
        self.over = False
        self._body = body
        self._fresh = True
        self._cancelled = False
        self._open: dict[Step, tuple[_Task, Action[object] | Sleep | Waiting]] = {}
        for now, event in history:
            self.handle(now, event)

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module."""
        self.operation.now = now
        match event:
            case Started() if self._fresh:
                self._fresh = False
                return self._run(_Task(self._body(self.operation), ()), None)
            case Started():
                return [self._ask(step, wanted) for step, (_, wanted) in self._open.items() if _asks(wanted)]
            case Done(_, Perform(step), value):
                return self._answered(step, value, None)
            case Failed(_, Perform(step), error):
                return self._answered(step, None, error)
            case Fired(timer):
                return self._fired(timer)
            case Decided(Verdict.CANCEL):
                return self._cancel()
            case Decided():
                return self._decided(event)
            case Stopped():
                return []
            case _:
                raise TypeError(f"a workflow cannot take {event!r}")

    @property
    def waiting(self) -> bool:
        """Whether it waits for what an operator decides."""
        return any(isinstance(wanted, Waiting) for _, wanted in self._open.values())

    # -- what it waits for ------------------------------------------------------------------------------------

    def _ask(self, step: Step, wanted: Action[object] | Sleep | Waiting) -> Effect:
        match wanted:
            case Action():
                return Perform(step, wanted)
            case Sleep(delay) | Waiting(delay):
                assert delay is not None
                return Arm(_timer(step), delay)

    def _answered(self, step: Step, value: object, error: DrsimError | None) -> list[Effect]:
        if step not in self._open:
            return []
        task, _ = self._open.pop(step)
        record = self.operation.records[step]
        record.ended, record.error = self.operation.now, "" if error is None else error.message
        said = Publish(StepEnded(self.operation.address, step, record.error))
        return [said, *self._run(task, value, error)]

    def _fired(self, timer: str) -> list[Effect]:
        found = next((step for step in self._open if _timer(step) == timer), None)
        if found is None or isinstance(self._open[found][1], Action):
            return []
        task, _ = self._open.pop(found)
        return self._run(task, None)

    def _decided(self, decided: Decided) -> list[Effect]:
        waits = [step for step, (_, wanted) in self._open.items() if isinstance(wanted, Waiting)]
        return [effect for step in waits for effect in self._run(self._open.pop(step)[0], decided)]

    def _cancel(self) -> list[Effect]:
        if self.operation.settled:
            return []
        self._cancelled = True
        idle = [step for step, (_, wanted) in self._open.items() if not isinstance(wanted, Action)]
        return [effect for step in idle for effect in self._run(self._open.pop(step)[0], None)]

    # -- coroutines -------------------------------------------------------------------------------------------

    def _run(self, task: _Task, value: object, error: DrsimError | None = None) -> list[Effect]:
        """A task goes on, until it awaits something or is over."""
        if self._cancelled and not task.told and not self.operation.settled:
            task.told, error = True, Cancelled("an operator cancelled it")
        try:
            wanted = task.body.throw(error) if error is not None else task.body.send(value)
        except StopIteration as end:
            return self._ended(task, end.value, None)
        except DrsimError as failure:
            return self._ended(task, None, failure)
        step = (*task.path, task.awaits)
        task.awaits += 1
        match wanted:
            case Together(branches):
                return self._split(task, step, branches)
            case Action():
                self._open[step] = task, wanted
                self.operation.records[step] = Record(step, wanted, self.operation.now)
                return [Publish(StepBegun(self.operation.address, step, str(wanted))), self._ask(step, wanted)]
            case Sleep() | Waiting():
                self._open[step] = task, wanted
                return [self._ask(step, wanted)] if _asks(wanted) else []
            case _:
                raise TypeError(f"a workflow cannot await {wanted!r}")

    def _split(self, task: _Task, step: Step, branches: Sequence[Body]) -> list[Effect]:
        if not branches:
            return self._run(task, [])
        group = _Group(task, len(branches), [None] * len(branches))
        tasks = [_Task(body, (*step, n), (group, n), told=task.told) for n, body in enumerate(branches)]
        return [effect for each in tasks for effect in self._run(each, None)]

    def _ended(self, task: _Task, result: object, error: DrsimError | None) -> list[Effect]:
        if task.parent is None:
            self.over = True
            if error is not None:
                raise error
            return [Publish(OperationEnded(self.operation.address))]
        group, n = task.parent
        group.results[n] = result
        group.error = group.error or error
        group.left -= 1
        if group.left:
            return []
        if isinstance(group.error, Cancelled):
            group.task.told = True
        return self._run(group.task, group.results, group.error)


def _asks(wanted: Action[object] | Sleep | Waiting) -> bool:
    """Whether somebody has to be asked for it; who waits for ever asks nobody."""
    return not (isinstance(wanted, Waiting) and wanted.wait is None)


def _timer(step: Step) -> str:
    return "step " + ".".join(map(str, step))
