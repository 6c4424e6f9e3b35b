"""Reverse protection as an operation of its own: for a failover that was committed without it, or could not have it.

    check                             the VPG has been recovered, and its old source can be reached
    protect the other way             the old source's disks are not trusted: everything is compared

Nothing of it is undone: what fails is done again by another such operation, which goes on where this one was.
"""

from drsim.core.recovery.actions import Reverse
from drsim.core.recovery.report import Outcome
from drsim.core.recovery.run import Run


async def reverse(run: Run) -> Outcome:
    """See the module."""
    run.operation.settle()
    await Reverse(run.plan.vpg, run.facts.generation)
    return Outcome.DONE
