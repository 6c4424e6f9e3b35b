"""Report: what an operation did, when, and what is left to people (PROTOCOL 7)."""

from dataclasses import dataclass
from enum import StrEnum

from drsim.core.action import Step
from drsim.core.names import CheckpointId
from drsim.core.recovery.plan import Plan
from drsim.core.units import Ns
from drsim.core.workflow import Record


class Outcome(StrEnum):
    """How an operation ended."""

    REFUSED = "refused"  # nothing was touched
    DONE = "done"  # a test that ended, a clone, a restore
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"  # somebody wanted it so, or nobody decided
    FAILED = "failed"  # something did not work, and all is as it was
    CANCELLED = "cancelled"  # an operator stopped it, and all is as it was


@dataclass(frozen=True, slots=True)
class Report:
    """One operation. `steps`: in the order in which they began. `people`: what needs a person, in words.

    `checkpoint`: None when it never came so far. `generation`: of the recovered VMs, if it was raised. `vms`: names of
    those that were recovered, `left_out` of those that failed while the others went on. `service`: when the last
    recovered VM answered.
    """

    plan: Plan
    outcome: Outcome
    reasons: tuple[str, ...]
    begun: Ns
    ended: Ns
    checkpoint: CheckpointId | None
    generation: int | None
    vms: tuple[str, ...]
    left_out: tuple[str, ...]
    service: Ns | None
    steps: tuple[Record, ...]
    people: tuple[str, ...]

    def step(self, step: Step) -> Record:
        """One of its steps."""
        return next(record for record in self.steps if record.step == step)
