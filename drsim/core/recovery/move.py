"""Planned move: nothing is lost, or everything is back as it was.

    check, pre-script
    shut the source's VMs down        in good order; with `shutdown: force`, by power after five minutes
    drain                             everything they wrote is at the other side, in a checkpoint of its own;
                                      when that takes too long, the source's VMs start again
    pin that, fence the source        from now on it could not write if it ran
    make VMs on scratch, boot them    as a failover does
    before commit                     as a failover does; a roll back starts the source's VMs again
    commit                            promote; delete the source, or keep it; protect the other way, unless it is kept

Invariant (P7): what is recovered is all that the source ever acknowledged.
"""

from drsim.core.recovery.actions import DeleteSource, Drain
from drsim.core.recovery.boot import prepare, start
from drsim.core.recovery.failover import commit, decide, fence, protect_the_other_way, shut_down
from drsim.core.recovery.plan import DRAIN_TIMEOUT
from drsim.core.recovery.report import Outcome
from drsim.core.recovery.run import Run
from drsim.core.status import Phase
from drsim.core.workflow import Together


async def move(run: Run) -> Outcome:
    """See the module."""
    plan = run.plan
    run.phase = Phase.BEFORE_COMMIT
    await run.script(plan.pre)
    await shut_down(run)
    checkpoint = await run.pin(await Drain(plan.vpg, DRAIN_TIMEOUT))
    await fence(run)
    up = await start(run, await prepare(run, checkpoint))
    await run.script(plan.post)
    await decide(run)
    await commit(run, up, checkpoint)
    if plan.reverse:
        await protect_the_other_way(run)
    elif not plan.keep_source:
        await Together([run.forward(DeleteSource(vm.vm)) for vm in up])
    return Outcome.COMMITTED
