"""Platform: a hypervisor, its managers and the VPG's data, in memory, for proofs of recovery operations.

Theory of operation. Everything an action changes is here, with a digest of each disk's content and the truth of who
acknowledges guest writes. An action is carried out once for each key; asked for again, it answers what it answered
before (`core/action.py`). The adversary may make an action fail before it does anything, or half-way (it has taken
effect, and says that it has not).

The source's VMs write all the time while they run: each write makes their disk a new content. What has been replicated
is a content they once had. Written scratch, promoted mirrors and copies are told apart by their content.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drsim.core.action import Action, Step
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.names import CheckpointId, VmId, VolumeId
from drsim.core.recovery import actions as do
from drsim.core.recovery.facts import Facts, Trial
from drsim.core.status import Regions
from drsim.core.units import Ns

Content = str


@dataclass(slots=True)
class SourceVm:
    """A VM at the protected site. `writes`: how many it has had acknowledged."""

    running: bool = True
    deleted: bool = False
    tools: bool = True
    writes: int = 10


@dataclass(slots=True)
class TargetVm:
    """A recovered VM. `booted`: the guest has answered; `wrote`: it has written since it was started.

    `generation`: in which its writes are; 0 for one that runs beside the source and not in its place.
    """

    vm: VmId
    generation: int = 0
    disks: Content = ""
    attached: bool = False
    running: bool = False
    booted: bool = False
    networks: tuple[str, ...] = ()
    addressed: int = 0
    wrote: bool = False


@dataclass(slots=True)
class Platform:
    """Both sites and one VPG of these VMs. `replicated`: writes of each VM that are at the recovery side.

    `generation`: the VPG's; `of_source`: the last one in which its source may write.
    """

    source: dict[VmId, SourceVm]
    generation: int = 1
    of_source: int = 1
    replicates: bool = True
    reachable: bool = True
    replicated: dict[VmId, int] = field(default_factory=dict)
    checkpoints: dict[CheckpointId, dict[VmId, int]] = field(default_factory=dict)
    mirror: dict[VmId, Content] = field(default_factory=dict)
    pins: dict[CheckpointId, int] = field(default_factory=dict)
    tags: dict[CheckpointId, list[str]] = field(default_factory=dict)
    targets: dict[str, TargetVm] = field(default_factory=dict)
    scratch: dict[str, Content] = field(default_factory=dict)
    copies: dict[str, Content] = field(default_factory=dict)
    restored: dict[VolumeId, CheckpointId] = field(default_factory=dict)
    aside: set[VolumeId] = field(default_factory=set)
    committed: tuple[VmId, ...] | None = None
    reversed: bool = False
    scripts: list[str] = field(default_factory=list)
    acknowledged: dict[int, set[str]] = field(default_factory=dict)
    """Which side had guest writes acknowledged, by generation."""
    log: list[tuple[str, str]] = field(default_factory=list)
    """What happened, in order, for the checks of order: what, of what."""
    names: set[str] = field(default_factory=set)
    free_memory: int = 1 << 40
    broken: Mapping[Step, str] = field(default_factory=dict)
    """Steps that fail: "before", or "after" they took effect."""
    broken_turns: dict[int, str] = field(default_factory=dict)
    """The same, by their turn."""
    refused: tuple[str, ...] = ()
    """Kinds of actions, by the name of their class, that the platform never does."""
    _answers: dict[Step, tuple[object, DrsimError | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, vms: int) -> "Platform":
        """A VPG of so many VMs in good order, with three checkpoints."""
        ids = [VmId(n) for n in range(vms)]
        here = cls({vm: SourceVm() for vm in ids})
        for number in (1, 2, 3):
            here.checkpoints[CheckpointId(number)] = dict.fromkeys(ids, 3 * number)
        here.replicated = dict.fromkeys(ids, 9)
        here.mirror = {vm: content(vm, 3) for vm in ids}
        return here

    # -- the world --------------------------------------------------------------------------------------------

    def live(self) -> None:
        """Time goes by: whoever runs writes, and what is replicated catches up by a write."""
        for vm, source in self.source.items():
            if source.running:
                source.writes += 1
                self.acknowledged.setdefault(self.of_source, set()).add("source")
                if self.replicates:
                    self.replicated[vm] += 1
        for target in self.targets.values():
            if target.running:
                target.wrote = True
                if target.generation:
                    self.acknowledged.setdefault(target.generation, set()).add("target")
                if target.attached and target.disks.startswith("scratch"):
                    name = target.disks.partition(" ")[2]
                    self.scratch[name] = self.scratch.get(name, "") + "w"

    def digest(self) -> dict[str, Any]:
        """All that an operation must leave as it was when it is undone; not generations, which only grow, nor time."""
        return {
            "source": {vm: (each.running, each.deleted) for vm, each in self.source.items()},
            "replicates": self.replicates, "mirror": dict(self.mirror), "pins": dict(self.pins),
            "targets": sorted(self.targets), "scratch": sorted(self.scratch), "copies": sorted(self.copies),
            "restored": dict(self.restored), "aside": set(self.aside), "committed": self.committed,
            "checkpoints": {c: dict(cut) for c, cut in self.checkpoints.items() if c <= 3},
        }  # fmt: skip

    def carry_out(self, step: Step, action: Action[object], now: Ns) -> object:
        """Do it, or say again what came of it. Raises DrsimError."""
        if step not in self._answers:
            self._answers[step] = self._first(step, action)
        value, error = self._answers[step]
        if error is not None:
            raise error
        return value

    def _first(self, step: Step, action: Action[object]) -> tuple[object, DrsimError | None]:
        how = self.broken.get(step)
        how = self.broken_turns.get(len(self._answers), how)
        if type(action).__name__ in self.refused:
            how = "before"
        if how == "before":
            return None, PlatformError(f"{action}: it did not work")
        try:
            value = self._do(action)
        except DrsimError as error:
            return None, error
        return (None, PlatformError(f"{action}: it did not work, it says")) if how == "after" else (value, None)

    def _do(self, action: Action[object]) -> object:
        match action:
            case do.Inspect():
                return self._inspect()
            case do.Pin(_, checkpoint):
                if checkpoint not in self.checkpoints:
                    raise PlatformError(f"checkpoint {checkpoint} is not listed any more")
                self.pins[checkpoint] = self.pins.get(checkpoint, 0) + 1
            case do.Unpin(_, checkpoint):
                left = self.pins.pop(checkpoint, 1) - 1
                if left:
                    self.pins[checkpoint] = left
            case do.RunScript(script):
                self.scripts.append(script.command)
            case do.Tag(_, checkpoint, text):
                self.tags.setdefault(checkpoint, []).append(text)
            case do.RestoreVolume(_, volume, checkpoint, in_place):
                self.restored[volume] = checkpoint
                if in_place:
                    self.aside.add(volume)
            case do.UndoRestore(_, volume):
                self.restored.pop(volume, None)
                self.aside.discard(volume)
            case do.KeepRestore(_, volume):
                self.aside.discard(volume)
            case do.ShutDown() | do.PowerOnSource() | do.DeleteSource() | do.Drain() | do.Fence() | do.Unfence():
                return self._at_source(action)
            case do.CommitRecovery() | do.Uncommit() | do.Promote() | do.Reverse():
                self._commit(action)
            case _:
                self._at_target(action)
        return None

    def _inspect(self) -> Facts:
        return Facts(
            Regions(), tuple(sorted(self.checkpoints)), self.generation, frozenset(self.source), test=Trial.NONE,
            source_reachable=self.reachable, tools=frozenset(vm for vm, s in self.source.items() if s.tools),
            memory={"r1": self.free_memory}, cpus={"r1": 1000}, names=frozenset(self.names),
            networks=frozenset({"lan", "test"}),
        )  # fmt: skip

    # -- the source -------------------------------------------------------------------------------------------

    def _at_source(self, action: Action[object]) -> object:
        match action:
            case do.ShutDown(vm, force, _):
                self._reach()
                if not self.source[vm].tools and not force:
                    raise PlatformError(f"VM {vm} has no guest tools")
                self.source[vm].running = False
            case do.PowerOnSource(vm):
                self._reach()
                self.source[vm].running = True
            case do.DeleteSource(vm):
                self._reach()
                self.source[vm].running, self.source[vm].deleted = False, True
            case do.Drain():
                self._reach()
                self.replicated = {vm: each.writes for vm, each in self.source.items()}
                drained = CheckpointId(max(self.checkpoints) + 1)
                self.checkpoints[drained] = dict(self.replicated)
                self.log.append(("drained", str(drained)))
                return drained
            case do.Fence(_, generation):
                self.generation = max(self.generation, generation)
                self.replicates = False
                return self.reachable
            case do.Unfence():
                if not self.replicates:
                    self.generation += 1
                    self.of_source = self.generation
                    self.replicates = True
        return None

    def _reach(self) -> None:
        if not self.reachable:
            raise PlatformError("the source cannot be reached")

    # -- the target -------------------------------------------------------------------------------------------

    def _at_target(self, action: Action[object]) -> None:
        match action:
            case do.CreateVm(name, vm):
                if name in self.names:
                    raise PlatformError(f"{name} exists")
                self.targets[name] = TargetVm(vm, 0 if self.replicates else self.generation)
            case do.DeleteVm(name):
                self.targets.pop(name, None)
            case do.CreateScratch(name, vm, checkpoint):
                self.scratch[name] = content(vm, self.checkpoints[checkpoint][vm]) + " "
                self._vm(name).disks = f"scratch {name}"
            case do.DropScratch(name):
                self.scratch.pop(name, None)
            case do.CopyDisks(name, vm, checkpoint):
                self.copies[name] = self._vm(name).disks = content(vm, self.checkpoints[checkpoint][vm])
            case do.DeleteCopy(name):
                self.copies.pop(name, None)
            case do.AttachDisks(name):
                self._vm(name).attached = True
            case do.DetachDisks(name):
                if name in self.targets:
                    self.targets[name].attached = False
            case do.ReIp(name, nics):
                vm_ = self._vm(name)
                vm_.networks, vm_.addressed = tuple(nic.network for nic in nics), vm_.addressed + 1
            case do.PowerOn(name):
                self._vm(name).running = True
                self.log.append(("power on", name))
            case do.PowerOff(name):
                if name in self.targets:
                    self.targets[name].running = self.targets[name].booted = False
            case do.AwaitGuest(name):
                if not self._vm(name).attached:
                    raise PlatformError(f"{name} has no disks")
                self._vm(name).booted = True
                self.log.append(("answers", name))
            case _:
                raise TypeError(f"no such action: {action!r}")

    def _vm(self, name: str) -> TargetVm:
        if name not in self.targets:
            raise PlatformError(f"there is no VM {name}")
        return self.targets[name]

    def _commit(self, action: Action[object]) -> None:
        match action:
            case do.CommitRecovery(_, _, vms):
                self.committed = vms
                self.log.append(("committed", ""))
            case do.Uncommit():
                self.committed = None
            case do.Promote(name, vm, checkpoint):
                written = self.scratch.pop(name, "").partition(" ")[2]
                self.mirror[vm] = self._vm(name).disks = content(vm, self.checkpoints[checkpoint][vm]) + written
            case do.Reverse():
                self._reach()
                self.reversed = True


def content(vm: VmId, writes: int) -> Content:
    """What a VM's disks hold after so many writes."""
    return f"vm{vm}@{writes}"
