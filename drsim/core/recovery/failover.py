"""Failover test and failover live.

    test                                            live
    ----------------------------------------------  --------------------------------------------------------------
    check, freeze and pin the checkpoint            the same
                                                    pre-script; shut the source's VMs down, if the plan says so
                                                    fence: raise the generation, so that nothing the source still
                                                    sends is taken, whether it can be told or not
    pre-script
    make VMs on scratch, boot them in groups        the same, in the networks of production
    post-script                                     post-script
    until somebody stops it, or `wait` is over      before commit: until somebody decides, or the policy does
    unwind, and tag the checkpoint with the result  roll back: unwind; commit: promote, drop the pin, reverse

A commit is one action for all VMs (`CommitRecovery`): before it everything can be undone, from it on nothing is. What
is promoted afterwards runs already on scratch, so no VM goes back: a promotion that fails is tried again, and then left
to people, with its scratch and the pin.
With a policy of commit and no wait, nothing waits before the commit.
"""

from drsim.core.errors import DrsimError
from drsim.core.events import Decided, Verdict
from drsim.core.names import CheckpointId
from drsim.core.recovery.actions import (
    CommitRecovery,
    Fence,
    PowerOnSource,
    Promote,
    Reverse,
    ShutDown,
    Tag,
    Uncommit,
    Unfence,
    Unpin,
)  # fmt: skip
from drsim.core.recovery.boot import prepare, start
from drsim.core.recovery.plan import SHUTDOWN_TIMEOUT, Commit, PlannedVm, Shutdown
from drsim.core.recovery.report import Outcome
from drsim.core.recovery.run import RolledBack, Run
from drsim.core.status import Phase
from drsim.core.workflow import Together, Waiting

TRIES = 3
"""How often a promotion is tried. Our choice."""


async def test(run: Run) -> Outcome:
    """Recover beside the source, which runs on, until somebody has seen enough."""
    plan = run.plan
    checkpoint = await run.pin()
    await run.script(plan.pre)
    await start(run, await prepare(run, checkpoint))
    await run.script(plan.post)
    said: Decided | None = await Waiting(None if plan.commit is Commit.NONE else plan.wait)
    note = "the time was over" if said is None else said.note or "passed"
    await run.saga.unwind()
    await run.forward(Tag(plan.vpg, checkpoint, f"tested: {note}"))
    return Outcome.DONE


async def live(run: Run) -> Outcome:
    """Recover in place of the source."""
    plan = run.plan
    run.phase = Phase.BEFORE_COMMIT
    checkpoint = await run.pin()
    await run.script(plan.pre)
    if plan.shutdown is not Shutdown.NONE:
        await shut_down(run)
    await fence(run)
    up = await start(run, await prepare(run, checkpoint))
    await run.script(plan.post)
    await decide(run)
    await commit(run, up, checkpoint)
    if plan.reverse:
        await protect_the_other_way(run)
    return Outcome.COMMITTED


async def shut_down(run: Run) -> None:
    """Stop the plan's VMs at the source, all at the same time; one that runs on ends the operation."""
    force = run.plan.shutdown is Shutdown.FORCE
    sagas = run.saga.branches(len(run.plan.vms))

    async def stop(number: int) -> None:
        vm = run.plan.vms[number].vm
        await sagas[number].do(ShutDown(vm, force, SHUTDOWN_TIMEOUT), PowerOnSource(vm), guarded=True)

    await Together([stop(number) for number in range(len(sagas))])


async def fence(run: Run) -> None:
    """From here on the source's generation is over, whether it knows or not."""
    generation = run.generation = run.facts.generation + 1
    told = await run.saga.do(Fence(run.plan.vpg, generation), Unfence(run.plan.vpg), guarded=True)
    if not told:
        run.people.append("the source could not be told that it is fenced; what it writes from now on is lost")


async def decide(run: Run) -> None:
    """Wait before the commit as the plan says. Raises RolledBack."""
    plan = run.plan
    if plan.commit is Commit.COMMIT and not plan.wait:
        return
    said: Decided | None = await Waiting(None if plan.commit is Commit.NONE else plan.wait)
    if said is None:
        if plan.commit is Commit.ROLL_BACK:
            raise RolledBack("nobody decided in time, and the plan says to roll back then")
    elif said.verdict is Verdict.ROLL_BACK:
        raise RolledBack(said.note or "an operator decided to roll back")


async def commit(run: Run, up: list[PlannedVm], checkpoint: CheckpointId) -> None:
    """The point of no return, and what follows from it."""
    plan, generation = run.plan, run.generation
    assert generation is not None
    run.operation.settle()
    run.phase = Phase.COMMITTING
    await run.saga.do(CommitRecovery(plan.vpg, generation, tuple(vm.vm for vm in up)), Uncommit(plan.vpg))
    run.keep()
    run.phase = Phase.PROMOTING
    promoted = await Together([_promote(run, vm, checkpoint) for vm in up])
    if all(promoted):
        await run.forward(Unpin(plan.vpg, checkpoint))


async def _promote(run: Run, vm: PlannedVm, checkpoint: CheckpointId) -> bool:
    """A few times, before a person is called: until then the VM runs on scratch, and needs it and the pin."""
    for _ in range(TRIES - 1):
        try:
            await Promote(vm.name, vm.vm, checkpoint)
        except DrsimError:
            continue
        return True
    return await run.forward(Promote(vm.name, vm.vm, checkpoint))


async def protect_the_other_way(run: Run) -> None:
    """Reverse protection, if the old source can be reached."""
    assert run.generation is not None
    await run.forward(Reverse(run.plan.vpg, run.generation))
