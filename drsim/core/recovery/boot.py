"""Boot: recovered VMs are made, get their disks and addresses, and start in groups.

    all VMs at the same time    create, disks as of the checkpoint, attach, networks and addresses
    group after group           the group's delay, then all of it: power on, wait for the guests

A group starts when every VM of the groups before it answers. A failure of the addresses is reported and undoes nothing
(products.md 1.5). Any other failure of a VM ends the operation, or leaves this VM out, as the plan says; what was made
for it is undone at once.
"""

from collections.abc import Awaitable, Sequence

from drsim.core.errors import DrsimError, PlatformError
from drsim.core.names import CheckpointId
from drsim.core.recovery.actions import (
    AttachDisks,
    AwaitGuest,
    CreateScratch,
    CreateVm,
    DeleteVm,
    DetachDisks,
    DropScratch,
    PowerOff,
    PowerOn,
    ReIp,
)  # fmt: skip
from drsim.core.recovery.plan import HEALTH_TIMEOUT, OnFailure, PlannedVm
from drsim.core.recovery.run import Run
from drsim.core.saga import Saga
from drsim.core.workflow import Cancelled, Sleep, Together


async def prepare(run: Run, checkpoint: CheckpointId) -> list[tuple[PlannedVm, Saga]]:
    """Make all VMs of the plan, with their disks and addresses, powered off. Gives those that are to go on."""
    vms = run.plan.vms
    sagas = run.saga.branches(len(vms))
    made = await Together([guarded(run, saga, vm, _make(run, saga, vm, checkpoint)) for vm, saga in _zip(vms, sagas)])
    return [each for each, there in zip(_zip(vms, sagas), made, strict=True) if there]


async def start(run: Run, ready: Sequence[tuple[PlannedVm, Saga]]) -> list[PlannedVm]:
    """Boot them group by group. Gives those that answer."""
    up: list[PlannedVm] = []
    groups = sorted({vm.group for vm in run.plan.vms})
    for number, group in enumerate(groups):
        if number and number <= len(run.plan.delays) and run.plan.delays[number - 1]:
            await Sleep(run.plan.delays[number - 1])
        mine = [(vm, saga) for vm, saga in ready if vm.group == group]
        answered = await Together([guarded(run, saga, vm, _boot(saga, vm)) for vm, saga in mine])
        up += [vm for (vm, _), there in zip(mine, answered, strict=True) if there]
    if not up:
        raise PlatformError("no VM could be recovered")
    run.vms += [vm.name for vm in up]
    run.service = run.operation.now
    return up


def _zip(vms: Sequence[PlannedVm], sagas: Sequence[Saga]) -> list[tuple[PlannedVm, Saga]]:
    return list(zip(vms, sagas, strict=True))


async def guarded(run: Run, saga: Saga, vm: PlannedVm, part: Awaitable[None]) -> bool:
    """A VM's part; if the plan wants to go on without a VM that fails, its part is undone. Whether it is there."""
    try:
        await part
    except Cancelled:
        raise
    except DrsimError as error:
        if run.plan.on_failure is OnFailure.STOP:
            raise
        run.left_out.append(vm.name)
        run.people.append(f"{vm.name} was left out: {error.line}")
        await saga.rewind()
        return False
    return True


async def _make(run: Run, saga: Saga, vm: PlannedVm, checkpoint: CheckpointId) -> None:
    await saga.do(CreateVm(vm.name, vm.vm, vm.host, vm.cpus, vm.memory), DeleteVm(vm.name))
    await saga.do(CreateScratch(vm.name, vm.vm, checkpoint, run.plan.instant), DropScratch(vm.name))
    await saga.do(AttachDisks(vm.name), DetachDisks(vm.name))
    if vm.nics is not None:
        try:
            await ReIp(vm.name, vm.nics)
        except Cancelled:
            raise
        except DrsimError as error:
            run.people.append(f"{vm.name} has not got its addresses: {error.line}")


async def _boot(saga: Saga, vm: PlannedVm) -> None:
    await saga.do(PowerOn(vm.name), PowerOff(vm.name))
    await AwaitGuest(vm.name, HEALTH_TIMEOUT)
