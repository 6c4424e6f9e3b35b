"""Clone: VMs as of a checkpoint, powered off, that share nothing with the VPG. The source is not touched.

    check, freeze and pin the checkpoint
    all VMs at the same time: create, copy the disks, attach
    unpin

A failure of any VM undoes all of them, or leaves it out, as the plan says.
"""

from drsim.core.errors import PlatformError
from drsim.core.recovery.actions import AttachDisks, CopyDisks, CreateVm, DeleteCopy, DeleteVm, DetachDisks, Unpin
from drsim.core.recovery.boot import guarded
from drsim.core.recovery.plan import PlannedVm
from drsim.core.recovery.report import Outcome
from drsim.core.recovery.run import Run
from drsim.core.saga import Saga
from drsim.core.workflow import Together


async def clone(run: Run) -> Outcome:
    """See the module."""
    plan = run.plan
    checkpoint = await run.pin()
    sagas = run.saga.branches(len(plan.vms))

    async def copy(saga: Saga, vm: PlannedVm) -> None:
        await saga.do(CreateVm(vm.name, vm.vm, vm.host, vm.cpus, vm.memory), DeleteVm(vm.name))
        await saga.do(CopyDisks(vm.name, vm.vm, checkpoint), DeleteCopy(vm.name))
        await saga.do(AttachDisks(vm.name), DetachDisks(vm.name))

    pairs = list(zip(plan.vms, sagas, strict=True))
    made = await Together([guarded(run, saga, vm, copy(saga, vm)) for vm, saga in pairs])
    run.vms += [vm.name for vm, there in zip(plan.vms, made, strict=True) if there]
    if not run.vms:
        raise PlatformError("no VM could be cloned")
    run.keep()
    await run.forward(Unpin(plan.vpg, checkpoint))
    return Outcome.DONE
