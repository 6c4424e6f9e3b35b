"""Restore of a volume out of the journal: beside the others as a new disk, in its own place, or to be looked into.

    check, freeze and pin the checkpoint
    restore the volume                   in place what it held is kept aside, and replication notices as of any write
    in place: before commit              as a failover decides
    to be looked into: until somebody stops it; nothing was copied
    keep it, unpin; or take it back

Files are not restored one by one: that needs the file systems of all guests. Look into the volume, and copy them.
"""

from drsim.core.recovery.actions import KeepRestore, RestoreVolume, UndoRestore, Unpin
from drsim.core.recovery.failover import decide
from drsim.core.recovery.report import Outcome
from drsim.core.recovery.run import Run
from drsim.core.workflow import Waiting


async def restore(run: Run) -> Outcome:
    """See the module."""
    plan, volume = run.plan, run.plan.volume
    assert volume is not None, "checked before"
    checkpoint = await run.pin()
    await run.saga.do(
        RestoreVolume(plan.vpg, volume, checkpoint, plan.in_place, plan.export), UndoRestore(plan.vpg, volume)
    )  # fmt: skip
    if plan.export:
        await Waiting(None)
        await run.saga.unwind()
        return Outcome.DONE
    if plan.in_place:
        await decide(run)
    run.keep()
    if plan.in_place:
        await run.forward(KeepRestore(plan.vpg, volume))
    await run.forward(Unpin(plan.vpg, checkpoint))
    return Outcome.DONE
