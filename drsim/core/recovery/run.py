"""Run: what all operations have in common: checks first, a pin, undo when something fails, a report in the end.

    check the plan            everything that could refuse it, all at once; nothing has been touched
    freeze the checkpoint     "latest" is the newest one now, whatever is listed later
    pin it                    retention leaves it and all that it needs
    the operation's own part  `failover.py`, `move.py`, `clone.py`, `restore.py`
    unwind, or keep           newest first; an undo that fails is reported, and the rest is undone

An operation ends in one of the ways of `Outcome`. Until its point of no return (`CommitRecovery`) it can only end as if
it had not been; from there on it goes forward, and what fails is left to people.
"""

from collections.abc import Awaitable, Callable

from drsim.core.action import Action
from drsim.core.errors import CoreError, DrsimError
from drsim.core.names import CheckpointId
from drsim.core.recovery.actions import Inspect, Pin, RunScript, Unpin
from drsim.core.recovery.facts import Facts, Refused, refusals
from drsim.core.recovery.plan import Plan, Script
from drsim.core.recovery.report import Outcome, Report
from drsim.core.saga import Saga
from drsim.core.status import Phase
from drsim.core.units import Ns
from drsim.core.workflow import Cancelled, Operation


class RolledBack(DrsimError):
    """Somebody, or the commit policy, wants everything as it was."""


class Run:
    """One operation under way. `report` is there when it is over."""

    def __init__(self, operation: Operation, plan: Plan) -> None:
        self.operation, self.plan = operation, plan
        self.saga = Saga(operation)
        self.checkpoint: CheckpointId | None = None
        self.generation: int | None = None
        self.phase = Phase.NONE
        """How far an operation in place of the source is; none for the others."""
        self.vms: list[str] = []
        self.left_out: list[str] = []
        self.people: list[str] = []
        self.service: Ns | None = None
        self.report: Report | None = None
        self._facts: Facts | None = None
        self._begun = operation.now

    @property
    def facts(self) -> Facts:
        """What was there when the plan was checked."""
        if self._facts is None:
            raise CoreError("an operation must check its plan first")
        return self._facts

    async def carry_out(self, body: "Callable[[Run], Awaitable[Outcome]]") -> None:
        """The operation, from its checks to its report. Raises nothing."""
        self._begun = self.operation.now
        reasons: tuple[str, ...] = ()
        try:
            outcome = await self._attempt(body)
        except Refused as refused:
            outcome, reasons = Outcome.REFUSED, refused.reasons
        except RolledBack as wish:
            outcome, reasons = Outcome.ROLLED_BACK, (wish.message,)
        except Cancelled as wish:
            outcome, reasons = Outcome.CANCELLED, (wish.message,)
        except DrsimError as failure:
            outcome, reasons = Outcome.FAILED, (failure.line,)
        if self.phase is not Phase.NONE and outcome is not Outcome.COMMITTED:
            self.phase = Phase.ROLLING_BACK
        await self.saga.unwind()  # nothing, if it is to stay
        self.phase = Phase.NONE
        self.people += [f"could not be undone: {text}" for text in self.saga.failed]
        self.report = Report(
            self.plan, outcome, tuple(reasons), self._begun, self.operation.now, self.checkpoint, self.generation,
            tuple(self.vms), tuple(self.left_out), self.service, tuple(self.operation.records.values()),
            tuple(self.people),
        )  # fmt: skip

    async def _attempt(self, body: "Callable[[Run], Awaitable[Outcome]]") -> Outcome:
        self._facts = await Inspect(self.plan)
        found = refusals(self.plan, self._facts)
        if found:
            raise Refused(found)
        return await body(self)

    async def pin(self, checkpoint: CheckpointId | None = None) -> CheckpointId:
        """Freeze the checkpoint of the plan, or take this one, and keep it while the operation lasts."""
        chosen = checkpoint or self.plan.checkpoint or self.facts.listed[-1]
        self.checkpoint = chosen
        await self.saga.do(Pin(self.plan.vpg, chosen), Unpin(self.plan.vpg, chosen))
        return chosen

    async def script(self, script: Script | None) -> None:
        """Run a script of the plan, if there is one."""
        if script is not None:
            await RunScript(script)

    def keep(self) -> None:
        """The point of no return: what was done stays."""
        self.saga.keep()

    async def forward(self, action: Action[object]) -> bool:
        """A step after the point of no return: what fails is left to people. Whether it was done."""
        try:
            await action
        except DrsimError as error:
            self.people.append(f"{action} failed: {error.line}")
            return False
        return True
