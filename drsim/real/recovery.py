"""Recovery at a live site: the core's workflows, and what they ask for carried out on the local platform.

Theory of operation. An operation is a machine of the core at its recovery site (`core/recovery`). All that it is told
is in the history first, so a site that dies at any point goes on with it when it is started again. What it asks for is
carried out here, one coroutine for each action; every action looks at what is there and does what is missing:

    manager     the VPG's catalogue and the site's state      Inspect Pin Unpin Fence Unfence Tag Commit Uncommit
    source      the other site's manager, over the desk       ShutDown PowerOnSource DeleteSource Drain
    disks       scratch over mirror and journal               CreateScratch DropScratch CopyDisks Promote RestoreVolume
    VMs         the hypervisor                                CreateVm DeleteVm Attach Detach ReIp PowerOn PowerOff

The disks of a recovered VM can be read as soon as its journal is laid out; with `instant` at once, from where it lies.
The rest is copied when the operation is committed, under the running VM.

Reverse protection is in `reverse.py`, restoring volumes in `restoring.py`.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from drsim.core.action import Action
from drsim.core.effects import EffectId, Perform
from drsim.core.errors import DrsimError, FileError, PlatformError
from drsim.core.events import Decided, Done, Event, Failed, FenceAsked, PinAsked, Verdict
from drsim.core.names import Address, CheckpointId
from drsim.core.recovery import actions as do
from drsim.core.recovery.operations import Recovery
from drsim.core.recovery.plan import Kind, Nic, Plan
from drsim.core.recovery.report import Outcome, Report
from drsim.core.recovery.rto import rto_parts
from drsim.core.status import Phase
from drsim.core.units import SECOND, Ns
from drsim.real.clock import now_ns
from drsim.real.desk import DropVm, LookAtSource, StartVm, StopVm, TakeTag
from drsim.real.history import HistoryStore
from drsim.real.inspection import inspect
from drsim.real.local.hypervisor import LocalVm
from drsim.real.local.network import mac_of
from drsim.real.planning import Wish, plan_of
from drsim.real.recovered import RecoveredDisks
from drsim.real.scripts import run_script
from drsim.spec.live import VpgState

if TYPE_CHECKING:
    from drsim.real.installation import Installation

POLL = 0.02
"""Seconds between looks at what has no event."""


class Recoveries:
    """All operations of a site. `reports`: of those that are over, by number."""

    def __init__(self, site: "Installation") -> None:
        self._site = site
        self.disks = RecoveredDisks(site, site.folder / "recovered")
        self.history = HistoryStore(site.folder / "history.db")
        self.running: dict[int, Recovery] = {}
        self._asked: dict[int, Ns] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._silence = site.spec.tweaks.peer_timeout / SECOND
        """Seconds within which the source may come back before it counts as lost."""
        site.site.perform = self._perform
        site.site.listeners.append(self._listen)

    # -- operations -------------------------------------------------------------------------------------------

    def plan(self, wish: Wish) -> Plan:
        """What an operator wishes, as a plan. Raises FileError for what the VPG does not have."""
        if wish.kind is Kind.REVERSE:
            return Plan(wish.kind, wish.vpg, ())
        return plan_of(wish, self._site.known(wish.vpg).vpg, self._site.listed(wish.vpg))

    def begin(self, plan: Plan) -> int:
        """Begin an operation; its number. Raises FileError when the VPG is not recovered here."""
        if plan.vpg not in self._site.state.state.turning:  # else it may be on neither side for a moment
            known = self._site.known(plan.vpg)
            if known.vpg.target != self._site.spec.site:
                message = f"VPG {plan.vpg} is recovered at site {known.vpg.target}"
                raise FileError(message, place=self._site.spec.site, hint="ask there")
        asked = Ns(now_ns())
        number = self.history.begin(plan, asked)
        self._open(number, plan, asked)
        return number

    def go_on(self) -> None:
        """Operations of an earlier life go on, and their VMs have their disks."""
        self.disks.serve_again()
        if self.history.open():
            self._work(self._go_on())

    async def _go_on(self) -> None:
        end = self._site.site.end
        with suppress(TimeoutError):  # the source may be there
            async with asyncio.timeout(self._silence):
                while end is not None and not end.connected:
                    await asyncio.sleep(POLL)
        for number, plan, asked in self.history.open():
            self._open(number, plan, asked)

    def _open(self, number: int, plan: Plan, asked: Ns) -> None:
        address = self.address(number)
        self._site.add(address, Recovery, address, plan, self.history.events(number, address))
        machine = self._site.site.kernel.machines[address]
        assert isinstance(machine, Recovery)
        self._asked[number] = asked
        self.running[number] = machine
        self._site.site.begin(address)
        self._over(number)

    def decide(self, number: int, verdict: Verdict, note: str = "") -> None:
        """An operator decides. Raises FileError when the operation is not under way."""
        if number not in self.running:
            over = "is over" if number in self.history.reports() else "was never begun"
            raise FileError(f"operation {number} {over}", place=self._site.spec.site)
        self._site.site.post(self.address(number), Decided(verdict, note))

    def status(self, number: int) -> dict[str, Any]:
        """How far an operation is, or its report. Raises FileError when there is none."""
        machine = self.running.get(number)
        if machine is None:
            waits = {number: plan for number, plan, _ in self.history.open()}.get(number)
            if waits is not None:
                shown = {"kind": waits.kind.value, "vpg": waits.vpg, "outcome": "", "phase": Phase.NONE.value}
                return {"operation": number, **shown, "waiting": False, "steps": []}
            report = self.history.reports().get(number)
            if report is None:
                raise FileError(f"operation {number} was never begun", place=self._site.spec.site)
            return report
        steps = [step_of(record) for record in machine.operation.records.values()]
        shown = {"kind": machine.plan.kind.value, "vpg": machine.plan.vpg, "outcome": "", "phase": machine.phase.value}
        return {"operation": number, **shown, "waiting": machine.waiting, "steps": steps, "exports": self._uris(number)}

    def _uris(self, number: int) -> list[str]:
        """Where what an operation restored can be looked into."""
        plan = self.running[number].plan
        name = self._site.restoring.name(plan.vpg, plan.volume or 0, number)
        if not plan.export or not self.disks.owned(name):
            return []
        socket = (self._site.folder / "nbd.sock").absolute()
        return [f"nbd+unix:///{quote(export)}?socket={quote(str(socket))}" for export in self.disks.exports(name)]

    def address(self, number: int) -> Address:
        """Of an operation."""
        return Address(f"{self._site.spec.site}/operation/{number}")

    def _number(self, address: Address) -> int:
        return int(address.rpartition("/")[2])

    def _listen(self, now: Ns, to: Address, event: Event) -> None:
        if "/operation/" in to:
            self.history.heard(self._number(to), now, event)
            asyncio.get_running_loop().call_soon(self._over, self._number(to))

    def _over(self, number: int) -> None:
        """When an operation has its report, it is written down, and its machine goes."""
        machine = self.running.get(number)
        if machine is not None and machine.report is not None and machine.over:
            self.history.end(number, self.summary(number, machine.report))
            del self.running[number]
            self._site.site.remove(self.address(number))
            self._site.site.news.wake()

    def summary(self, number: int, report: Report) -> dict[str, Any]:
        """A report as plain values. Instants in seconds since 1970, times in seconds."""
        asked, plan = self._asked[number], report.plan
        taken = self.history.taken(number)
        serves = report.service is not None and report.outcome in (Outcome.COMMITTED, Outcome.DONE)
        return {
            "operation": number, "kind": plan.kind.value, "vpg": plan.vpg, "outcome": report.outcome.value,
            "reasons": list(report.reasons), "people": list(report.people), "checkpoint": report.checkpoint,
            "asked": asked / SECOND, "ended": report.ended / SECOND,
            "rpo_s": None if taken is None else max(0, asked - taken) / SECOND,
            "rto_s": (report.service - asked) / SECOND if serves and report.service is not None else None,
            "parts_s": {name: ns / SECOND for name, ns in rto_parts(report, detect=Ns(0), decide=Ns(0)).items()},
            "vms": list(report.vms), "left_out": list(report.left_out),
            "steps": [step_of(record) for record in report.steps],
        }  # fmt: skip

    async def close(self) -> None:
        """Carry out nothing any more; VMs run on."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.disks.close()
        self.history.close()

    # -- actions ----------------------------------------------------------------------------------------------

    def _perform(self, id_: EffectId, effect: Perform) -> None:
        number = self._number(id_.address)
        known = self.history.intend(number, effect.step, effect.action)
        if isinstance(known, Done):
            self._site.site.post(id_.address, Done(id_, effect, known.value))
            return
        if isinstance(known, Failed):
            self._site.site.post(id_.address, Failed(id_, effect, known.error))
            return

        async def carry_out() -> None:
            answer: Event
            try:
                answer = Done(id_, effect, await self._carry_out(id_.address, effect.action))
            except DrsimError as error:
                answer = Failed(id_, effect, error)
            self.history.outcome(number, effect.step, answer)
            self._site.site.post(id_.address, answer)

        self._work(carry_out())

    def _work(self, work: Coroutine[None, None, None]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._site.site.failed(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    async def _carry_out(self, operation: Address, action: Action[Any]) -> Any:
        match action:
            case do.Inspect(plan):
                return await inspect(self._site, plan, operation)
            case do.Pin() | do.Unpin() | do.Fence() | do.Unfence() | do.Tag() | do.CommitRecovery() | do.Uncommit():
                return await self._at_manager(operation, action)
            case do.ShutDown() | do.PowerOnSource() | do.DeleteSource() | do.Drain():
                return await self._at_source(operation, action)
            case do.CreateVm() | do.DeleteVm() | do.AttachDisks() | do.DetachDisks() | do.ReIp() | do.PowerOn() | \
                    do.PowerOff() | do.AwaitGuest() if self._site.elsewhere is None:  # fmt: skip
                await self._at_hypervisor(operation, action)
            case do.RunScript(script):
                await run_script(script)
            case _ if self._site.elsewhere is not None:
                await self._site.elsewhere.carry_out(operation, action)
            case do.Reverse(vpg):
                await self._site.reversal.protect_the_other_way(vpg, self._number(operation))
            case _:
                await self._at_disks(operation, action)
        return None

    # -- at the manager ---------------------------------------------------------------------------------------

    async def _at_manager(self, operation: Address, action: Action[Any]) -> object:
        site = self._site
        match action:
            case do.Pin(vpg, checkpoint):
                taken = next((c.taken for c in site.listed(vpg) if c.id == checkpoint), None)
                if taken is None:
                    raise PlatformError(f"checkpoint {checkpoint} is not listed any more")
                self.history.pinned(self._number(operation), taken)
                self._remember(vpg, pins=(*self._pins(vpg, checkpoint), checkpoint))
                site.site.post(site.catalog(vpg), PinAsked(checkpoint, True))
            case do.Unpin(vpg, checkpoint):
                self._remember(vpg, pins=self._pins(vpg, checkpoint))
                site.site.post(site.catalog(vpg), PinAsked(checkpoint, False))
            case do.Fence(vpg, generation):
                self._remember(vpg, generation=generation, fenced=True)
                site.site.post(site.catalog(vpg), FenceAsked(generation, True))
                with suppress(DrsimError):  # behind the fence on the same connection: answered, it has been heard
                    await site.desk.ask(LookAtSource(vpg=vpg))
                    return True
                return False
            case do.Unfence(vpg):
                generation = site.known(vpg).generation + site.known(vpg).fenced
                self._remember(vpg, generation=generation, fenced=False)
                site.site.post(site.catalog(vpg), FenceAsked(generation, False))
            case do.Tag(vpg, checkpoint, text):
                self._remember(vpg, notes={**site.known(vpg).notes, checkpoint: text})
            case do.CommitRecovery(vpg):
                self._remember(vpg, recovered=operation)
            case do.Uncommit(vpg):
                self._remember(vpg, recovered="")
        return None

    def _pins(self, vpg: str, without: CheckpointId) -> tuple[int, ...]:
        return tuple(pin for pin in self._site.known(vpg).pins if pin != without)

    def _remember(self, vpg: str, **changes: object) -> None:
        def change(known: VpgState) -> VpgState:
            return known.model_copy(update=changes)

        self._site.state.vpg(vpg, change)

    # -- at the source ----------------------------------------------------------------------------------------

    async def _at_source(self, operation: Address, action: Action[Any]) -> object:
        desk, vpg = self._site.desk, self.running[self._number(operation)].plan.vpg
        match action:
            case do.ShutDown(vm, force, timeout):
                request = StopVm(vpg=vpg, vm=vm, force=force, timeout=timeout / SECOND)
                await desk.insist_ready(request, away=self._silence)
            case do.PowerOnSource(vm):
                while True:  # when the sites cannot see each other, then
                    try:
                        await desk.ask(StartVm(vpg=vpg, vm=vm))
                    except PlatformError:
                        await asyncio.sleep(1)
                    else:
                        return None
            case do.DeleteSource(vm):
                await desk.insist_ready(DropVm(vpg=vpg, vm=vm))
            case do.Drain(_, timeout):
                tag = f"drained for {operation}"
                await desk.insist_ready(TakeTag(vpg=vpg, tag=tag), away=self._silence)
                try:
                    async with asyncio.timeout(timeout / SECOND):
                        while not (found := [c.id for c in self._site.listed(vpg) if c.tag == tag]):
                            await asyncio.sleep(POLL)
                except TimeoutError as error:
                    message = f"the last checkpoint has not come within {timeout / SECOND:g} s"
                    raise PlatformError(message) from error
                return found[-1]
        return None

    # -- at the hypervisor ------------------------------------------------------------------------------------

    async def _at_hypervisor(self, operation: Address, action: Action[Any]) -> None:
        hypervisor = self._site.hypervisor
        match action:
            case do.CreateVm(name, vm, _, cpus, memory):
                plan = self.running[self._number(operation)].plan
                ready = next(each.ready for each in self._site.known(plan.vpg).vpg.vms if each.id == vm)
                hypervisor.create(LocalVm(name, operation, memory, cpus, ready=ready))
            case do.DeleteVm(name):
                there = hypervisor.vms().get(name)
                if there is not None and there.owner == operation:
                    await hypervisor.delete(name)
            case do.AttachDisks(name):
                hypervisor.change(name, disks=self.disks.exports(name))
            case do.DetachDisks(name):
                if name in hypervisor.vms():
                    hypervisor.change(name, disks=())
            case do.ReIp(name, nics):
                self._re_ip(self.running[self._number(operation)].plan, name, nics)
            case do.PowerOn(name):
                await hypervisor.power_on(name)
            case do.PowerOff(name):
                await hypervisor.power_off(name)
            case do.AwaitGuest(name, timeout):
                await hypervisor.wait(name, timeout / SECOND)

    def _re_ip(self, plan: Plan, name: str, nics: tuple[Nic, ...]) -> None:
        number = next(vm.vm for vm in plan.vms if vm.name == name)
        old = next(vm.name for vm in self._site.known(plan.vpg).vpg.vms if vm.id == number)
        new = f"{self._site.spec.site}/{name}"
        made = [asdict(nic) | {"mac": mac_of(new if nic.new_mac else old, n)} for n, nic in enumerate(nics)]
        self._site.hypervisor.change(name, nics=made)

    # -- disks ------------------------------------------------------------------------------------------------

    async def _at_disks(self, operation: Address, action: Action[Any]) -> None:
        number, restoring = self._number(operation), self._site.restoring
        match action:
            case do.CreateScratch(name, vm, checkpoint, instant):
                await self.disks.make(name, self.disks.of_vm(vm, checkpoint), instant=instant)
            case do.CopyDisks(name, vm, checkpoint):
                await self.disks.make(name, self.disks.of_vm(vm, checkpoint))
                await self.disks.hydrate(name)
            case do.Promote(name):
                await self.disks.hydrate(name)
            case do.DropScratch(name) | do.DeleteCopy(name):
                await self.disks.drop(name)
            case do.RestoreVolume(vpg, volume, checkpoint, in_place, export):
                await restoring.restore(number, vpg, volume, checkpoint, in_place=in_place, export=export)
            case do.UndoRestore(vpg, volume):
                await restoring.undo(number, vpg, volume, in_place=self.running[number].plan.in_place)
            case do.KeepRestore(vpg, volume):
                await restoring.keep(number, vpg, volume)
            case _:
                raise PlatformError(f"a live site cannot {action}")


def step_of(record: Any) -> dict[str, Any]:
    """One step of an operation as plain values."""
    return {
        "step": ".".join(map(str, record.step)), "what": str(record.action), "begun": record.begun / SECOND,
        "ended": None if record.ended is None else record.ended / SECOND, "error": record.error,
    }  # fmt: skip
