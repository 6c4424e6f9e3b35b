"""Operations on a platform: the core's recovery workflows, carried out through its ports, with everything going wrong.

Theory of operation. An operation is rehearsed as in `rehearsal.py`, against the platform in memory; but whatever it
asks of the target is done on the platform under test as well (`OnBench`), by the code that does it live
(`real/target.py`). The manager may die at any effect and each step may fail, and in the end both have to agree: the
same VMs, with their owner, power, networks and disks, the disks' bytes those of the checkpoint (booted by QEMU), and
nothing left behind.

A rehearsal is a plain function in a thread; the platform lives in the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from drsim.core.action import Action, Step
from drsim.core.events import Decided, Verdict
from drsim.core.names import CheckpointId, VmId, VolumeId
from drsim.core.recovery import actions as do
from drsim.core.recovery.facts import Facts, Trial
from drsim.core.recovery.plan import Commit, Kind, Nic, Plan, PlannedVm, Shutdown
from drsim.core.recovery.report import Outcome, Report
from drsim.core.status import Regions
from drsim.core.units import Ns
from drsim.real.ports import Power
from drsim.real.target import Origin, Target
from drsim.verify.conformance.bench import Bench
from drsim.verify.conformance.boot import speaking
from drsim.verify.conformance.claims import MEMORY, OTHER, SIZE, a_vm, demand, left_behind
from drsim.verify.platform import Platform as InMemory
from drsim.verify.platform import TargetVm
from drsim.verify.rehearsal import AT, PHASES, Rehearsal

OWNER = str(AT)
VMS = 2
Operation = Callable[[Bench, int], Awaitable[None]]
OPERATIONS: dict[str, Operation] = {}
"""All operations, by name. The number: of proofs that go through all points, each so many-th is played."""


class Sentences:
    """Volumes whose content says of which VM and checkpoint it is. The second disk of each VM is empty."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def sizes(self, vm: VmId) -> Mapping[VolumeId, int]:
        """Two."""
        return {VolumeId(10 * vm + 1): SIZE, VolumeId(10 * vm + 2): SIZE}

    async def lay_out(self, vm: VmId, volume: VolumeId, checkpoint: CheckpointId, to: Path) -> None:
        """In the file that the appliance has."""
        first = next(iter(self.sizes(vm)))
        content = speaking(sentence(vm, checkpoint), SIZE) if volume == first else bytes(SIZE)
        with to.open("r+b") as file:
            file.write(content)

    def origin(self, vm: VmId) -> Origin:
        """As old as the boot sector; what it prints first."""
        return Origin(ready=f"vm {vm}")


def sentence(vm: VmId, checkpoint: CheckpointId | None) -> str:
    """What a recovered VM prints."""
    return f"vm {vm} as of checkpoint {checkpoint}"


class OnBench(InMemory):
    """The platform in memory, with every action at the target carried out on a bench first."""

    _bench: Bench
    _loop: asyncio.AbstractEventLoop
    _target: Target

    @classmethod
    def over(cls, bench: Bench) -> "OnBench":
        """With two VMs and three checkpoints; call it in the bench's event loop."""
        here = cls.of(VMS)
        assert isinstance(here, OnBench)
        here._bench, here._loop = bench, asyncio.get_running_loop()
        here._target = Target(lambda: bench.platform, Sentences(bench), bench.store)
        return here

    def carry_out(self, step: Step, action: Action[object], now: Ns) -> object:
        """As in memory; what is asked for again, because its answer was lost, is asked of the platform again, too."""
        if step in self._answers and self._answers[step][1] is None:
            self._on_bench(action)
        return super().carry_out(step, action, now)

    def _do(self, action: Action[object]) -> object:
        self._on_bench(action)
        return super()._do(action)

    def _on_bench(self, action: Action[object]) -> None:
        at_target = (
            do.CreateVm | do.DeleteVm | do.CreateScratch | do.DropScratch | do.CopyDisks | do.DeleteCopy
            | do.AttachDisks | do.DetachDisks | do.ReIp | do.PowerOn | do.PowerOff | do.AwaitGuest | do.Promote
        )  # fmt: skip
        if isinstance(action, at_target):
            self._wait(self._target.carry_out(AT, action))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _inspect(self) -> Facts:
        here = self._bench.platform.inventory
        hosts = self._wait(here.hosts())
        names = [vm.name for vm in self._wait(here.vms()) if vm.owner != OWNER]
        stores = {store.name: store.free for store in self._wait(here.stores())}
        return Facts(
            Regions(), tuple(sorted(self.checkpoints)), self.generation, frozenset(self.source), test=Trial.NONE,
            tools=frozenset(self.source), memory={host.name: host.memory for host in hosts if host.usable},
            cpus={host.name: host.cpus for host in hosts if host.usable}, names=frozenset(names),
            networks=frozenset(self._wait(here.networks())), free_bytes=stores[self._bench.store],
            needed_bytes=2 * SIZE * VMS,
        )  # fmt: skip


def plan_of(bench: Bench, kind: Kind, **options: Any) -> Plan:
    """Two VMs on two hosts; a test in the test network, the others in production with an address."""
    networks = [Nic(bench.test_network)] if kind is Kind.TEST else [Nic(bench.network, bench.address, bench.mask)]
    nics = (tuple(networks), (Nic(networks[0].network),))
    vms = tuple(
        PlannedVm(VmId(n), f"web-{n}", host, (VolumeId(10 * n + 1), VolumeId(10 * n + 2)), cpus=1, memory=MEMORY,
                  group=n, nics=nics[n])
        for n, host in enumerate((bench.host, bench.other_host))
    )  # fmt: skip
    checkpoint = None if kind is Kind.MOVE else CheckpointId(2)
    return Plan(kind, "crm", vms, checkpoint, **options)


async def rehearse(bench: Bench, plan: Plan, **how: Any) -> tuple[Report, OnBench]:
    """One operation to its end, judged by the checks of recovery and by `agree`. Raises Violation, NotConforming."""
    here = OnBench.over(bench)
    here.broken = how.pop("broken", {})
    rehearsal = Rehearsal(plan, here, **how)
    report = await asyncio.to_thread(rehearsal.play)
    await agree(bench, here, report)
    return report, here


async def agree(bench: Bench, here: InMemory, report: Report) -> None:
    """The platform has what the one in memory has. Raises NotConforming."""
    found = {vm.name: vm for vm in await bench.platform.inventory.vms(OWNER)}
    demand(set(found) == set(here.targets), f"{report.outcome}: VMs {sorted(found)}, and {sorted(here.targets)} wanted")
    for name, target in here.targets.items():
        await _agree(bench, report, name, target)
    disks = await bench.platform.disks.owned(OWNER)
    if any(text.startswith("could not be undone") for text in report.people):
        return  # a person has been told that something is left
    demand(len(disks) == 2 * len(found), f"{report.outcome}: disks {[disk.name for disk in disks]} of {len(found)} VMs")
    busy = (await bench.platform.inventory.vm(bench.platform.appliance)).disks
    demand(not {disk.id for disk in disks} & set(busy), "the appliance gives all of them back")


async def _agree(bench: Bench, report: Report, name: str, target: TargetVm) -> None:
    vm = await bench.platform.inventory.vm(name)
    demand((vm.power is Power.ON) == target.running, f"{name} is {vm.power}, and running={target.running} wanted")
    demand(len(vm.disks) == 2 * target.attached, f"{name} has {len(vm.disks)} disks")
    if target.addressed:
        demand(vm.networks == target.networks, f"{name} is in {vm.networks}, and {target.networks} wanted")
    if not target.attached:
        return
    content = await bench.content(vm.disks[0], SIZE)
    wanted = speaking(sentence(target.vm, report.checkpoint), SIZE)
    demand(content == wanted, f"the disk of {name} is not that of checkpoint {report.checkpoint}")


async def clean(bench: Bench) -> None:
    """Delete what an operation has rightly left. Raises NotConforming when something is left all the same."""
    here = bench.platform
    for vm in await here.inventory.vms(OWNER):
        await here.hypervisor.delete(vm.name, OWNER)
    for disk in await here.disks.owned(OWNER):
        await here.disks.delete(disk.id, OWNER)
    demand(not (left := await left_behind(bench, OWNER)), f"left behind: {left}")


def _operation(work: Operation) -> Operation:
    OPERATIONS[work.__name__] = work
    return work


COMMIT, ROLL_BACK = Decided(Verdict.COMMIT), Decided(Verdict.ROLL_BACK)


@_operation
async def recover(bench: Bench, every: int) -> None:
    """Failover and commit: the VMs run on the disks of the checkpoint, and QEMU boots what the platform names."""
    report, _ = await rehearse(bench, plan_of(bench, Kind.LIVE), verdict=COMMIT)
    demand(report.outcome is Outcome.COMMITTED, f"committed: {report.outcome} {report.reasons}")
    for n in range(VMS):
        said = await bench.booted(f"web-{n}")
        demand(said == sentence(VmId(n), report.checkpoint), f"web-{n} prints {said!r}")
    vm = await bench.platform.inventory.vm("web-0")
    demand(not vm.addresses or bench.address in vm.addresses, f"web-0 has its new address: {vm.addresses}")
    await clean(bench)


@_operation
async def roll_back(bench: Bench, every: int) -> None:
    """Failover and roll back: nothing is left."""
    report, _ = await rehearse(bench, plan_of(bench, Kind.LIVE), verdict=ROLL_BACK)
    demand(report.outcome is Outcome.ROLLED_BACK, f"rolled back: {report.outcome} {report.reasons}")


@_operation
async def move(bench: Bench, every: int) -> None:
    """Planned move: the checkpoint that it takes itself, nothing lost."""
    plan = plan_of(bench, Kind.MOVE, shutdown=Shutdown.GRACEFUL, commit=Commit.COMMIT, wait=Ns(0))
    report, _ = await rehearse(bench, plan)
    demand(report.outcome is Outcome.COMMITTED, f"committed: {report.outcome} {report.reasons}")
    demand(report.checkpoint == CheckpointId(4), "of the checkpoint that the move has taken")
    await clean(bench)


@_operation
async def failover_test(bench: Bench, every: int) -> None:
    """Test and clean-up: in the test network, and gone afterwards."""
    report, _ = await rehearse(bench, plan_of(bench, Kind.TEST), verdict=Decided(Verdict.COMMIT, "fine"))
    demand(report.outcome is Outcome.DONE, f"done: {report.outcome} {report.reasons}")
    demand(not (left := await left_behind(bench, OWNER)), f"left behind: {left}")


@_operation
async def clone(bench: Bench, every: int) -> None:
    """Copies, powered off, that stay."""
    report, _ = await rehearse(bench, plan_of(bench, Kind.CLONE))
    demand(report.outcome is Outcome.DONE, f"done: {report.outcome} {report.reasons}")
    demand(len(await bench.platform.inventory.vms(OWNER)) == VMS, "the clones are there")
    await clean(bench)


@_operation
async def rename_clash(bench: Bench, every: int) -> None:
    """A name that somebody else has refuses the plan before anything is made; theirs stays as it was."""
    await a_vm(bench, "web-1", OTHER)
    before = bench.changes()
    report, _ = await rehearse(bench, plan_of(bench, Kind.LIVE), verdict=COMMIT)
    demand(report.outcome is Outcome.REFUSED, f"refused: {report.outcome}")
    demand(any("web-1" in reason for reason in report.reasons), f"with the name: {report.reasons}")
    demand(bench.changes() == before, "and nothing was changed")
    demand((await bench.platform.inventory.vm("web-1")).owner == OTHER, "theirs stays")


@_operation
async def disk_elsewhere(bench: Bench, every: int) -> None:
    """A disk that somebody has attached to another VM is not torn away: the operation fails and says where it is."""
    await a_vm(bench, "other", OTHER)
    here = bench.platform
    disk = await here.disks.create("drsim-web-0-000001", SIZE, bench.store, OWNER)
    await here.hypervisor.attach("other", disk)
    report = await asyncio.to_thread(Rehearsal(plan_of(bench, Kind.CLONE), OnBench.over(bench)).play)
    demand(report.outcome is Outcome.FAILED, f"failed: {report.outcome}")
    demand("attached to other" in " ".join(report.reasons), f"and says where the disk is: {report.reasons}")
    demand((await here.inventory.vm("other")).disks == (disk,), "the other VM has what it had")
    await here.hypervisor.detach("other", disk)
    await clean(bench)


@_operation
async def undo_everywhere(bench: Bench, every: int) -> None:
    """Each step fails, before or after it took effect: undone or reported, and the platform agrees."""
    plan = plan_of(bench, Kind.TEST)
    points = [(step, how) for step in await _steps(bench, plan) for how in ("before", "after")]
    for step, how in points[::every]:
        await rehearse(bench, plan, verdict=COMMIT, broken={step: how})
        await clean(bench)


@_operation
async def die_everywhere(bench: Bench, every: int) -> None:
    """The manager dies at each effect, before, after, or noted, and goes on with a connection that knows nothing."""
    plan = plan_of(bench, Kind.LIVE)
    points = [(n, phase) for n in range(len(await _steps(bench, plan))) for phase in PHASES]
    for n, phase in points[::every]:
        await bench.restart()
        await rehearse(bench, plan, verdict=ROLL_BACK, crashes={n: phase})
        demand(not (left := await left_behind(bench, OWNER)), f"dies at {n}, {phase}: left behind: {left}")


async def _steps(bench: Bench, plan: Plan) -> list[Step]:
    rehearsal = Rehearsal(plan, OnBench.over(bench), verdict=ROLL_BACK)
    await asyncio.to_thread(rehearsal.play)
    return rehearsal.steps
