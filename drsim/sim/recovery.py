"""Recovery in the simulation: plans from a model, platforms that take their time, what each operation lost.

Theory of operation. An operation is a machine of the core (`core/recovery`) at its recovery site. What it asks for
is carried out here, by the VPG's machines (pins, the last checkpoint, the fence) and by the guests (shut down, power
on), and by the platforms (`hypervisor.py`).

What the source has to do needs the connection between the managers; a VM that is to be started again there waits for
it. A source that was fenced and could not be told goes on writing, and all of that is lost (`late`): when it is back
from the dead, it hears that it is of an earlier generation, and nothing of it is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from drsim.core.action import Action
from drsim.core.catalog import Catalog
from drsim.core.effects import EffectId, Perform
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import Decided, Done, Failed, FenceAsked, PinAsked, Started, TagAsked, Verdict
from drsim.core.facts import CheckpointListed, Fact, OperationEnded, RecoverySideChanged
from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.recovery import actions as do
from drsim.core.recovery.facts import Facts, Trial
from drsim.core.recovery.operations import Recovery
from drsim.core.recovery.plan import Commit, Kind, Nic, OnFailure, Plan, PlannedVm, Script, Shutdown
from drsim.core.recovery.report import Outcome, Report
from drsim.core.status import Lifecycle, Peer, Phase, Regions
from drsim.core.units import SECOND, SECTOR, Ns
from drsim.core.vpg import Vpg
from drsim.sim.hypervisor import Platforms
from drsim.sim.layout import VpgLayout
from drsim.sim.tap import NONE, Amount
from drsim.spec.operations import Clone, Failover, FailoverTest, Move, RecoveryOperation, Restore
from drsim.spec.protect import ReIp
from drsim.spec.recovery import Script as SpecScript

if TYPE_CHECKING:
    from drsim.sim.world import World

KINDS = {Failover: Kind.LIVE, FailoverTest: Kind.TEST, Move: Kind.MOVE, Clone: Kind.CLONE,
         Restore: Kind.RESTORE}  # fmt: skip
SUFFIX = {Kind.TEST: "-test", Kind.CLONE: "-clone"}


@dataclass(slots=True)
class Underway:
    """One operation of a timeline. `asked`: when it was wanted; `cut_off`: when the source stopped counting.

    `taken`: when its checkpoint was. `lost`: writes acknowledged at the source until `cut_off` that are not recovered;
    None when nothing was recovered in its place. `told`: the source knows that it was fenced;
    if not, `late` is what it has acknowledged to its guests since then, and all of that is lost.
    """

    spec: RecoveryOperation
    asked: int
    machine: Recovery
    address: Address
    cut_off: int
    acknowledged: Amount = NONE
    taken: int | None = None
    lost: Amount | None = None
    told: bool = True
    late: Amount = NONE
    full: int | None = None
    """When the VMs of a test had filled their scratch."""

    @property
    def report(self) -> Report | None:
        """What it did, when it is over."""
        return self.machine.report


class Recoveries:
    """All recovery operations of a world. `operations`: in the order in which they began."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.operations: list[Underway] = []
        self.platforms = Platforms(world)
        self._drains: dict[str, Callable[[CheckpointId], None]] = {}  # by tag
        self._off: set[VmId] = set()  # shut down at the source
        self._waiting: dict[str, list[Callable[[], None]]] = {}  # of each VPG, what waits for its source
        self.tags: dict[tuple[str, CheckpointId], str] = {}

    # -- operations -------------------------------------------------------------------------------------------

    def begin(self, operation: RecoveryOperation) -> None:
        """Somebody has decided: the operation begins, at the recovery site."""
        world, vpg = self._world, self._world.layout.vpg_of[operation.vpg]
        number = len(self.operations) + 1
        address = Address(f"{vpg.target}/operation/{number}")
        machine = Recovery(address, self._plan(operation, vpg))
        cut_off = world.clock.now if vpg.source not in world.dead_sites else operation.at
        self.operations.append(Underway(operation, operation.at, machine, address, cut_off))
        world.add(address, machine)
        world.post(address, Started())

    def _plan(self, operation: RecoveryOperation, vpg: VpgLayout) -> Plan:
        kind = KINDS[type(operation)]
        layout, spec = self._world.layout, vpg.spec
        if isinstance(operation, Restore):
            volume = layout.volume(layout.vm_ids[operation.vm], operation.volume)
            return Plan(kind, vpg.name, (), self._checkpoint(operation, vpg), volume=volume.id)
        groups = {name: n + 1 for n, group in enumerate(spec.boot_groups) for name in group}
        names = operation.vms or tuple(layout.vm_names[vm] for vm in vpg.members.vms)
        hosts = spec.recovery.hosts
        vms = tuple(
            PlannedVm(
                layout.vm_ids[name], name + SUFFIX.get(kind, ""), hosts[layout.vm_ids[name] % len(hosts)],
                tuple(v.id for v in layout.volumes(layout.vm_ids[name])), layout.vms[name].cpus,
                layout.vms[name].memory, groups.get(name, 0), _nics(layout.vms[name].nics, kind),
            )
            for name in names
        )  # fmt: skip
        delays = (Ns(spec.boot_delay),) * max(0, len({vm.group for vm in vms}) - 1) if spec.boot_delay else ()
        plan = Plan(
            kind, vpg.name, vms, self._checkpoint(operation, vpg), delays=delays,
            on_failure=OnFailure(operation.on_failure), instant=operation.instant,
        )  # fmt: skip
        match operation:
            case Failover() | Move():
                shutdown, commit = Shutdown(operation.shutdown), Commit(operation.commit)
                keep = isinstance(operation, Move) and operation.keep_source
                plan = replace(plan, shutdown=shutdown, commit=commit, wait=Ns(operation.wait), keep_source=keep)
                return replace(plan, pre=_script(operation.pre), post=_script(operation.post))
            case FailoverTest():
                pre, post = _script(operation.pre), _script(operation.post)
                return replace(plan, commit=Commit.NONE, pre=pre, post=post)
            case _:
                return plan

    def _checkpoint(self, operation: RecoveryOperation, vpg: VpgLayout) -> CheckpointId | None:
        listed = self._catalog(vpg).listed
        match operation.checkpoint:
            case "latest":
                return None
            case "latest tagged":
                return next((c.id for c in reversed(listed) if c.tag), CheckpointId(0))
            case age:
                until = self._world.clock.now - age
                return next((c.id for c in reversed(listed) if c.taken <= until), CheckpointId(0))

    def _catalog(self, vpg: VpgLayout) -> Catalog:
        machine = self._world.kernel.machines[vpg.catalog]
        assert isinstance(machine, Catalog)
        return machine

    def of(self, address: str) -> Underway:
        """The operation of an address."""
        return next(each for each in self.operations if each.address == address)

    def publish(self, fact: Fact) -> None:
        """A machine published a fact."""
        match fact:
            case CheckpointListed(_, checkpoint, _, tag) if tag in self._drains:
                self._drains.pop(tag)(checkpoint)
            case RecoverySideChanged(vpg, Peer.CONNECTED):
                for work in self._waiting.pop(vpg, ()):
                    self._world.clock.call(0, work)
            case OperationEnded(address):
                operation = self.of(address)
                report = operation.report
                if report is not None and report.outcome is Outcome.COMMITTED:
                    operation.lost = self._lost(operation, report)
            case _:
                pass

    def _lost(self, operation: Underway, report: Report) -> Amount:
        included = self._world.included.get((report.plan.vpg, report.checkpoint or CheckpointId(0)), NONE)
        lost = operation.acknowledged - included
        return Amount(max(0, lost.writes), max(0, lost.nbytes))

    def finish(self) -> None:
        """The run is over."""
        for operation in self.operations:
            report = operation.report
            if report is not None and report.outcome is Outcome.COMMITTED and not operation.told:
                vpg = self._world.layout.vpg_of[operation.spec.vpg]
                operation.late = self._acknowledged(vpg) - operation.acknowledged

    def _reached(self, vpg: VpgLayout) -> bool:
        """Whether the source's manager can be asked for anything."""
        world = self._world
        there = vpg.source not in world.dead_sites and vpg.manager not in world.down
        return there and not world.apart(vpg.manager, vpg.catalog)

    def decide(self, operation: Underway) -> None:
        """What the timeline's operator does once the operation waits for it."""
        spec, verdict, after = operation.spec, None, 0
        match spec:
            case FailoverTest(lasts=lasts, note=note, writes=writes):
                verdict, after = Decided(Verdict.COMMIT, note), lasts
                scratch = self._world.layout.vpg_of[spec.vpg].spec.journal.scratch
                if writes and (fills := scratch * 8 * SECOND // writes) < lasts:
                    operation.full = self._world.clock.now + fills
            case Failover(verdict=str(said), after=after) | Move(verdict=str(said), after=after):
                verdict = Decided(Verdict.COMMIT if said == "commit" else Verdict.ROLL_BACK)
        if verdict is not None:
            self._world.clock.call(after, lambda: self._world.post(operation.address, verdict))

    # -- actions ----------------------------------------------------------------------------------------------

    def perform(self, id_: EffectId, effect: Perform) -> None:
        """Carry out an action, and answer."""
        world = self._world
        operation = self.of(id_.address)

        def answer(error: DrsimError | None, value: object = None) -> None:
            world.post(id_.address, Failed(id_, effect, error) if error else Done(id_, effect, value))
            if operation.machine.waiting and not operation.machine.over:
                self.decide(operation)

        try:
            self._carry_out(operation, effect.action, answer)
        except DrsimError as error:
            failure = error
            world.clock.call(0, lambda: answer(failure))

    def _carry_out(
        self, operation: Underway, action: Action[object], answer: Callable[..., None]
    ) -> None:  # fmt: skip
        match action:
            case do.Inspect() | do.Pin() | do.Unpin() | do.Tag() | do.CommitRecovery() | do.Uncommit():
                value = self._at_manager(operation, action)
                self._world.clock.call(0, lambda: answer(None, value))
            case do.RunScript(script):
                self._run_script(operation, script, answer)
            case do.ShutDown() | do.PowerOnSource() | do.DeleteSource() | do.Drain() | do.Fence() | do.Unfence():
                self._at_source(operation, action, answer)
            case _:
                self.platforms.carry_out(self._world.layout.vpg_of[operation.spec.vpg], action, answer)

    def _run_script(self, operation: Underway, script: Script, answer: Callable[..., None]) -> None:
        assert isinstance(operation.spec, Failover | FailoverTest | Move)
        spec = next(s for s in (operation.spec.pre, operation.spec.post) if s is not None and _script(s) == script)
        error = PlatformError(f"{script.command} has failed") if spec.fails else None
        if spec.takes > script.timeout:
            error = PlatformError(f"{script.command} ran for longer than {script.timeout // SECOND} s")
        self._world.clock.call(min(spec.takes, script.timeout), lambda: answer(error))

    def _at_manager(self, operation: Underway, action: Action[object]) -> object:
        world, vpg = self._world, self._world.layout.vpg_of[operation.spec.vpg]
        match action:
            case do.Inspect(plan):
                return self._facts(operation, plan, vpg)
            case do.Pin(_, checkpoint):
                if all(c.id != checkpoint for c in self._catalog(vpg).listed):
                    raise PlatformError(f"checkpoint {checkpoint} is not listed any more")
                operation.taken = next(c.taken for c in self._catalog(vpg).listed if c.id == checkpoint)
                world.post(vpg.catalog, PinAsked(checkpoint, True))
            case do.Unpin(_, checkpoint):
                world.post(vpg.catalog, PinAsked(checkpoint, False))
            case do.Tag(_, checkpoint, text):
                self.tags[vpg.name, checkpoint] = text
        return None

    def _facts(self, operation: Underway, plan: Plan, vpg: VpgLayout) -> Facts:
        world = self._world
        manager = world.kernel.machines[vpg.manager]
        assert isinstance(manager, Vpg)
        if vpg.catalog in world.down:
            raise PlatformError(f"the manager of site {vpg.target} is down")
        volumes = world.layout.volumes
        copied = [v for vm in plan.vms for v in volumes(vm.vm)] if plan.kind is Kind.CLONE else []
        copied += [v for vm in vpg.members.vms for v in volumes(vm) if v.id == plan.volume]
        needed = sum(v.sectors * SECTOR for v in copied)
        store = world.stores[vpg.spec.recovery.datastore]
        memory, cpus = self.platforms.free(vpg.target)
        return Facts(
            self.shown(vpg.name, manager.regions), tuple(c.id for c in self._catalog(vpg).listed),
            self._catalog(vpg).lineage.generation, frozenset(vpg.members.vms), self._trial(operation),
            self._reached(vpg),
            frozenset(vm.vm for vm in plan.vms if world.layout.vm(vm.vm).tools), memory, cpus,
            frozenset(self.platforms.made), frozenset(world.model.sites[vpg.target].networks),
            store.capacity - store.used, needed,
        )  # fmt: skip

    def _others(self, operation: Underway) -> list[Underway]:
        """Earlier operations on the same VPG."""
        return [o for o in self.operations if o is not operation and o.spec.vpg == operation.spec.vpg]

    def shown(self, vpg: str, regions: Regions) -> Regions:
        """The VPG's state as users see it: what its manager says of it, and how far a recovery operation is."""
        for operation in self.operations:
            if operation.spec.vpg != vpg:
                continue
            machine = operation.machine
            if machine.report is not None and machine.report.outcome is Outcome.COMMITTED:
                return replace(regions, lifecycle=Lifecycle.RECOVERED, phase=Phase.NONE)
            if machine.phase is not Phase.NONE:
                moving = machine.plan.kind is Kind.MOVE
                lifecycle = Lifecycle.MOVING if moving else Lifecycle.FAILING_OVER
                return replace(regions, lifecycle=lifecycle, phase=machine.phase)
        return regions

    def _trial(self, operation: Underway) -> Trial:
        for other in self._others(operation):
            if other.report is None and other.machine.plan.kind is Kind.TEST:
                return Trial.RUNNING if other.machine.waiting else Trial.STARTING
        return Trial.NONE

    # -- the source -------------------------------------------------------------------------------------------

    def _at_source(self, operation: Underway, action: Action[object], answer: Callable[..., None]) -> None:
        world, vpg = self._world, self._world.layout.vpg_of[operation.spec.vpg]
        reached = self._reached(vpg)
        if isinstance(action, do.PowerOnSource) and not reached and vpg.source not in world.dead_sites:
            self._when_reached(vpg, lambda: self._at_source(operation, action, answer))
            return
        if not reached and not isinstance(action, do.Fence | do.Unfence | do.Drain):
            raise PlatformError(f"site {vpg.source} cannot be reached")
        platform = self.platforms.of(vpg.source)
        match action:
            case do.ShutDown(vm, force, timeout):
                tools = world.layout.vm(vm).tools
                if not tools and not force:
                    raise PlatformError(f"{world.layout.vm_names[vm]} has no guest tools")
                takes = (
                    self.platforms.time(vm, "shutdown", platform.shutdown, platform)
                    if tools
                    else timeout + platform.power_off
                )

                def off() -> None:
                    world.places.stop(vm)
                    self._off.add(vm)
                    answer(None)

                world.clock.call(takes, off)
            case do.PowerOnSource(vm):

                def on() -> None:
                    if vm in self._off:
                        self._off.discard(vm)
                        world.places.run(vm)
                    answer(None)

                world.clock.call(self.platforms.time(vm, "power_on", platform.power_on, platform), on)
            case do.DeleteSource(vm):
                world.clock.call(self.platforms.time(vm, "delete", platform.delete, platform), lambda: answer(None))
            case do.Drain(_, timeout):
                self._drain(operation, vpg, timeout, answer)
            case do.Fence(_, generation):
                operation.told = reached
                operation.cut_off = world.clock.now if vpg.source not in world.dead_sites else operation.cut_off
                operation.acknowledged = self._acknowledged(vpg)
                world.post(vpg.catalog, FenceAsked(generation, True))
                world.clock.call(0, lambda: answer(None, reached))
            case do.Unfence():
                lineage = self._catalog(vpg).lineage
                if lineage.fenced:
                    world.post(vpg.catalog, FenceAsked(lineage.generation + 1, False))
                world.clock.call(0, lambda: answer(None))

    def _when_reached(self, vpg: VpgLayout, work: Callable[[], None]) -> None:
        if self._reached(vpg):
            work()
        else:
            self._waiting.setdefault(vpg.name, []).append(work)

    def _drain(self, operation: Underway, vpg: VpgLayout, timeout: int, answer: Callable[..., None]) -> None:
        """All VMs are down: what they wrote last is on its way, and a checkpoint behind it."""
        tag, clock = f"last before {operation.address}", self._world.clock
        late = PlatformError(f"not everything was brought over in {timeout // SECOND} s")

        def give_up() -> None:
            if self._drains.pop(tag, None) is not None:
                answer(late)

        self._drains[tag] = lambda checkpoint: clock.call(0, lambda: answer(None, checkpoint))
        clock.call(timeout, give_up)
        self._when_reached(vpg, lambda: self._world.post(vpg.manager, TagAsked(tag)))

    def _acknowledged(self, vpg: VpgLayout) -> Amount:
        """To the guests at the source, up to now or until their site was lost."""
        for vm in vpg.members.vms:
            self._world.places.taps_of(vm)  # brings them up to now
        return self._world.last.get(vpg.name) or self._world.acknowledged(vpg.name)


def _script(spec: SpecScript | None) -> Script | None:
    return None if spec is None else Script(spec.command, Ns(spec.timeout))


def _nics(nics: tuple[ReIp, ...] | None, kind: Kind) -> tuple[Nic, ...] | None:
    if nics is None or kind is Kind.CLONE:
        return None
    chosen = [nic.test if kind is Kind.TEST else nic.live for nic in nics]
    return tuple(Nic(n.network, n.address, n.mask, n.gateway, n.dns, n.new_mac) for n in chosen)
