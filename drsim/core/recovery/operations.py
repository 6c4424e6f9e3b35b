"""Operations: the workflow of each kind of plan."""

from collections.abc import Awaitable, Callable, Mapping

from drsim.core.names import Address
from drsim.core.recovery.clone import clone
from drsim.core.recovery.failover import live, test
from drsim.core.recovery.move import move
from drsim.core.recovery.plan import Kind, Plan
from drsim.core.recovery.report import Outcome, Report
from drsim.core.recovery.restore import restore
from drsim.core.recovery.reverse import reverse
from drsim.core.recovery.run import Run
from drsim.core.status import Phase
from drsim.core.workflow import Body, History, Operation, Workflow

BODIES: Mapping[Kind, Callable[[Run], Awaitable[Outcome]]] = {
    Kind.TEST: test, Kind.LIVE: live, Kind.MOVE: move, Kind.CLONE: clone, Kind.RESTORE: restore,
    Kind.REVERSE: reverse,
}  # fmt: skip


class Recovery(Workflow):
    """The machine of one operation. `history`: see `Workflow`. `report`: there when it is over."""

    def __init__(self, address: Address, plan: Plan, history: History = ()) -> None:
        self.plan = plan
        self._run_: Run | None = None
        super().__init__(address, self._begin, history)

    def _begin(self, operation: Operation) -> Body:
        self._run_ = Run(operation, self.plan)
        return self._run_.carry_out(BODIES[self.plan.kind])

    @property
    def phase(self) -> Phase:
        """How far it is, if it recovers in place of the source."""
        return Phase.NONE if self._run_ is None else self._run_.phase

    @property
    def report(self) -> Report | None:
        """What it did."""
        return None if self._run_ is None else self._run_.report
