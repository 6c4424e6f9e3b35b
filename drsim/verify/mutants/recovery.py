"""Mutants of recovery operations: undo, commit, fences, order, and platforms that do things twice or half."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from drsim.core.action import Action, Step
from drsim.core.bitmap import DirtyBitmap
from drsim.core.errors import DrsimError
from drsim.core.events import Decided, Verdict
from drsim.core.messages import Start
from drsim.core.names import CheckpointId, StreamSpec
from drsim.core.recovery import actions as do
from drsim.core.recovery import boot, clone, failover, move
from drsim.core.recovery.plan import SHUTDOWN_TIMEOUT, Commit, PlannedVm
from drsim.core.recovery.run import RolledBack, Run
from drsim.core.saga import Saga
from drsim.core.sender import Sender
from drsim.core.units import Ns
from drsim.core.workflow import Together, Waiting
from drsim.spec.tweaks import Tweaks
from drsim.verify.mutants.base import Patch, mutant, patched, several
from drsim.verify.platform import Platform, content


@mutant("38", "B42", by=("P13",), cites="scratch rule of products.md 1.5", hunter="recovery")
def test_writes_reach_the_mirror() -> Patch:
    """What a test VM writes goes to the mirror disk that it reads from."""
    live = Platform.live

    def mutated(self: Platform) -> None:
        live(self)
        for target in self.targets.values():
            if target.wrote:
                self.mirror[target.vm] += "w"

    return patched(Platform, "live", mutated)


@mutant("39", by=("P13",), hunter="recovery")
def end_of_a_test_drops_the_journal() -> Patch:
    """Dropping the scratch of a test drops what was journaled since its checkpoint as well."""
    at_target = Platform._at_target

    def mutated(self: Platform, action: Action[object]) -> None:
        if isinstance(action, do.DropScratch) and action.name in self.scratch:
            newest = self.checkpoints[max(self.checkpoints)]
            self.replicated = {vm: min(n, newest[vm]) for vm, n in self.replicated.items()}
        at_target(self, action)

    return patched(Platform, "_at_target", mutated)


@mutant("40", "B41", by=("P14",), cites="longhorn #1101", hunter="recovery")
def clone_reads_the_mirror_while_it_ages() -> Patch:
    """A clone is read from the mirror as it is when its disks are attached, not as of the checkpoint."""
    at_target = Platform._at_target

    def mutated(self: Platform, action: Action[object]) -> None:
        at_target(self, action)
        if isinstance(action, do.AttachDisks) and action.name in self.copies:
            vm = self.targets[action.name].vm
            self.copies[action.name] = content(vm, self.replicated[vm])

    return patched(Platform, "_at_target", mutated)


@mutant("41", "B38", by=("P15",), cites="ceph #68019, #71031", hunter="recovery")
def commit_ignores_a_vm_that_failed() -> Patch:
    """A VM whose promotion fails is committed like the others, and nobody is told."""

    async def mutated(run: Run, vm: PlannedVm, checkpoint: CheckpointId) -> bool:
        with suppress(DrsimError):
            await do.Promote(vm.name, vm.vm, checkpoint)
        return True

    return patched(failover, "_promote", mutated)


@mutant("42", by=("P20",), hunter="recovery")
def second_vm_on_retry() -> Patch:
    """A VM whose creation is asked for again, because its answer was lost, is made again under another name."""
    carry_out = Platform.carry_out

    def mutated(self: Platform, step: Step, action: Action[object], now: Ns) -> object:
        if isinstance(action, do.CreateVm) and step in self._answers and action.name in self.targets:
            self._at_target(replace(action, name=f"{action.name} (2)"))
        return carry_out(self, step, action, now)

    return patched(Platform, "carry_out", mutated)


@mutant("43", by=("P15",), hunter="recovery")
def roll_back_forgets_replication() -> Patch:
    """A roll back starts the source's VMs again, and does not let them replicate."""
    at_source = Platform._at_source

    def mutated(self: Platform, action: Action[object]) -> object:
        return None if isinstance(action, do.Unfence) else at_source(self, action)

    return patched(Platform, "_at_source", mutated)


@mutant("44", by=("P15",), hunter="recovery")
def policy_commits_after_the_roll_back() -> Patch:
    """The timer of the commit policy counts although an operator has rolled back meanwhile."""

    async def mutated(run: Run) -> None:
        plan = run.plan
        if plan.commit is Commit.COMMIT and not plan.wait:
            return
        said: Decided | None = await Waiting(None if plan.commit is Commit.NONE else plan.wait)
        back = said is not None and said.verdict is Verdict.ROLL_BACK
        if back and plan.commit is Commit.COMMIT:
            await do.CommitRecovery(plan.vpg, run.facts.generation + 1, tuple(vm.vm for vm in plan.vms))
        if back or (said is None and plan.commit is Commit.ROLL_BACK):
            raise RolledBack("rolled back")

    return several(patched(failover, "decide", mutated), patched(move, "decide", mutated))


@mutant("45", "B44", by=("P7",), cites="ceph #70042", hunter="recovery")
def move_takes_the_newest_checkpoint() -> Patch:
    """A move recovers to the newest checkpoint that there is, instead of draining."""
    at_source = Platform._at_source

    def mutated(self: Platform, action: Action[object]) -> object:
        return max(self.checkpoints) if isinstance(action, do.Drain) else at_source(self, action)

    return patched(Platform, "_at_source", mutated)


@mutant("46", "B40", by=("P16",), cites="repmgr #311", hunter="recovery")
def both_sides_in_one_generation() -> Patch:
    """The fence does not raise the generation: a source that is back writes in that of the recovered VMs."""
    at_source = Platform._at_source

    def mutated(self: Platform, action: Action[object]) -> object:
        if isinstance(action, do.Fence):
            action = replace(action, generation=self.generation)
        return at_source(self, action)

    return patched(Platform, "_at_source", mutated)


@mutant("52", by=("P15", "P20"), hunter="recovery")
def undo_only_what_succeeded() -> Patch:
    """A step that failed is not undone, although it may have taken effect."""

    async def mutated(self: Saga, action: Action[Any], undo: Action[object], *, guarded: bool = False) -> Any:
        value = await action
        self._undo.append((undo, guarded))
        return value

    return patched(Saga, "do", mutated)


@mutant("55", by=("P25",), hunter="recovery")
def boot_groups_start_together() -> Patch:
    """All boot groups start at once."""

    async def mutated(run: Run, ready: Sequence[tuple[PlannedVm, Saga]]) -> list[PlannedVm]:
        there = await Together([boot.guarded(run, saga, vm, boot._boot(saga, vm)) for vm, saga in ready])
        up = [vm for (vm, _), answers in zip(ready, there, strict=True) if answers]
        run.vms += [vm.name for vm in up]
        return up

    return several(patched(failover, "start", mutated), patched(move, "start", mutated))


@mutant("B34", "B35", by=("P16",), cites="ceph-csi #3209, ramen #176", hunter="recovery")
def source_replicates_on_after_the_commit() -> Patch:
    """The source is not fenced: it goes on replicating over what was recovered."""
    at_source = Platform._at_source

    def mutated(self: Platform, action: Action[object]) -> object:
        was = self.replicates
        value = at_source(self, action)
        self.replicates = was if isinstance(action, do.Fence) else self.replicates
        return value

    return patched(Platform, "_at_source", mutated)


@mutant("B36", "B43", by=("P15",), cites="ramen #1087; ceph #30548; VPG0008", hunter="recovery")
def roll_back_leaves_promoted_blocks() -> Patch:
    """Disks are promoted before anybody has decided, and a roll back leaves them so."""
    prepare = boot.prepare

    async def mutated(run: Run, checkpoint: CheckpointId) -> list[tuple[PlannedVm, Saga]]:
        ready = await prepare(run, checkpoint)
        await Together([_promote(vm, checkpoint) for vm, _ in ready])
        return ready

    async def _promote(vm: PlannedVm, checkpoint: CheckpointId) -> None:
        await do.Promote(vm.name, vm.vm, checkpoint)

    return several(patched(failover, "prepare", mutated), patched(move, "prepare", mutated))


@mutant("B37", by=("P15",), cites="ceph #17979", hunter="recovery")
def commit_that_is_not_on_record() -> Patch:
    """The recovered VMs run on and are reported as committed, and the VPG does not know."""
    commit = Platform._commit

    def mutated(self: Platform, action: Action[object]) -> None:
        if not isinstance(action, do.CommitRecovery):
            commit(self, action)

    return patched(Platform, "_commit", mutated)


@mutant("B45", by=("P20",), cites="oVirt vdsm #397, #400", hunter="recovery")
def leftover_on_the_target() -> Patch:
    """The unwind powers the recovered VMs off, and does not delete them."""
    at_target = Platform._at_target

    def mutated(self: Platform, action: Action[object]) -> None:
        if not isinstance(action, do.DeleteVm):
            at_target(self, action)

    return patched(Platform, "_at_target", mutated)


@mutant(by=("P16",), hunter="recovery")
def source_goes_on_beside_what_could_not_be_undone() -> Patch:
    """A roll back lets the source write again although a recovered VM may still run."""
    attempt = Saga._try

    async def mutated(self: Saga, action: Action[object], *, guarded: bool) -> None:
        await attempt(self, action, guarded=False)

    return patched(Saga, "_try", mutated)


@mutant(by=("P20",), hunter="recovery")
def pin_for_ever() -> Patch:
    """An operation that is done keeps its checkpoint pinned."""
    forward = Run.forward

    async def mutated(self: Run, action: Action[object]) -> bool:
        return True if isinstance(action, do.Unpin) else await forward(self, action)

    return patched(Run, "forward", mutated)


@mutant(by=("P15",), hunter="recovery")
def shut_down_source_is_left_off() -> Patch:
    """A roll back does not start the source's VMs that the operation has shut down."""

    async def mutated(run: Run) -> None:
        force = run.plan.shutdown.value == "force"
        for vm in run.plan.vms:
            await do.ShutDown(vm.vm, force, SHUTDOWN_TIMEOUT)

    return several(patched(failover, "shut_down", mutated), patched(move, "shut_down", mutated))


@mutant(by=("P20",), hunter="recovery")
def clone_keeps_what_failed() -> Patch:
    """A VM that is left out of a clone keeps what was made for it."""

    async def mutated(run: Run, saga: Saga, vm: PlannedVm, part: Any) -> bool:
        try:
            await part
        except DrsimError:
            if run.plan.on_failure.value == "stop":
                raise
            return False
        return True

    return patched(clone, "guarded", mutated)


@mutant("47", by=("P17",), hunter="reverse")
def reverse_keeps_the_old_bitmap() -> Patch:
    """Protection the other way trusts the old source's disks: what it never shipped survives there."""
    init = Sender.__init__

    def mutated(self: Sender, spec: StreamSpec, tweaks: Tweaks, **options: Any) -> None:
        init(self, spec, tweaks, **options)
        if options.get("start") is Start.PRESEEDED:
            self.bitmap = DirtyBitmap(tweaks.region_bytes, spec.volumes)

    return patched(Sender, "__init__", mutated)
