"""Timeline: whether a model's operations, in the order of time, can be carried out as those before left things.

That every name exists is known already. What is checked here is what changes: which VM is in which VPG, what disks a
VM has and which of them are detached, what journals keep, and which VPGs are deleted.
"""

from typing import TYPE_CHECKING, assert_never

from drsim.spec.operations import (
    AddVm,
    AddVolume,
    AttachVolume,
    ChangeJournal,
    Clone,
    DeleteVpg,
    DetachVolume,
    Failover,
    FailoverTest,
    ForceSync,
    GrowVolume,
    Move,
    Operation,
    Pause,
    RemoveVm,
    RemoveVolume,
    Restore,
    Resume,
    Retarget,
    VMotion,
)  # fmt: skip
from drsim.spec.protect import Journal
from drsim.spec.quantity import format_duration, format_size
from drsim.spec.reference import Reference, closest

if TYPE_CHECKING:
    from drsim.spec.model import Model

MOST_VOLUMES = 60  # of one VM (products.md 1.6)
Path = tuple[str | int, ...]


def check_operations(model: "Model") -> None:
    """Raises Reference for the first operation that cannot be."""
    timeline = _Timeline(model) if model.operations else None
    for n, operation in sorted(enumerate(model.operations), key=lambda each: each[1].at):
        assert timeline is not None
        timeline.check(operation, ("operations", n))


class _Timeline:
    """What a model consists of at an instant, as far as operations change it."""

    def __init__(self, model: "Model") -> None:
        self.model = model
        self.vms, self.vpgs = model.expand()
        self.inside = {vm: [name for name, vpg in self.vpgs.items() if vm in vpg.vms] for vm in self.vms}
        self.volumes = {name: {v.name: v.size for v in vm.volumes} for name, vm in self.vms.items()}
        self.detached: set[tuple[str, str]] = set()
        self.journals = {name: vpg.journal for name, vpg in self.vpgs.items()}
        self.deleted: set[str] = set()

    def check(self, operation: Operation, here: Path) -> None:
        """Raises Reference when it cannot be; otherwise things are as it leaves them."""
        named = getattr(operation, "vpg", None)
        if named in self.deleted:
            raise Reference(f"VPG {named!r} is deleted by then", (*here, "vpg"))
        match operation:
            case VMotion(vm=vm, to=to):
                site = self._site(vm)
                if self.model.hosts[to].site != site:
                    text = f"VM {vm!r} runs on site {site!r}, and host {to!r} is on another one"
                    raise Reference(text, (*here, "to"))
            case AddVm(vm=vm, vpg=vpg):
                self._join(vm, vpg, here)
            case RemoveVm(vm=vm, vpg=left):
                self.inside[vm].remove(self._one_of(vm, left, "leaves", here))
            case AddVolume() | GrowVolume() | RemoveVolume() | DetachVolume() | AttachVolume():
                self._volume(operation, here)
            case ChangeJournal(vpg=vpg):
                self._journal(operation, here)
            case Retarget(vm=vm, vpg=named, to=to):
                self._retarget(self.vpgs[self._one_of(vm, named, "is meant in", here)].recovery.hosts[0], to, here)
            case DeleteVpg(vpg=vpg):
                self.deleted.add(vpg)
                for inside in self.inside.values():
                    inside[:] = [each for each in inside if each != vpg]
            case ForceSync(vpg=vpg, vms=vms):
                self._inside(vpg, vms, here)
            case Failover(vpg=vpg, vms=vms) | FailoverTest(vpg=vpg, vms=vms) | Clone(vpg=vpg, vms=vms):
                self._inside(vpg, vms, here)
            case Move(vpg=vpg, vms=vms):
                self._inside(vpg, vms, here)
            case Restore(vpg=vpg, vm=vm, volume=volume):
                if vpg not in self.inside.get(vm, ()):
                    there = [each for each, inside in self.inside.items() if vpg in inside]
                    raise Reference(f"no VM {vm!r} in VPG {vpg!r} then{closest(vm, there)}", (*here, "vm"))
                if volume not in self.volumes[vm]:
                    raise Reference(
                        f"VM {vm!r} has no volume {volume!r} then{closest(volume, self.volumes[vm])}", (*here, "volume")
                    )
            case Pause() | Resume():
                pass
            case _:
                assert_never(operation)

    def _inside(self, vpg: str, vms: tuple[str, ...], here: Path) -> None:
        """Raises Reference for a VM that is not in the VPG."""
        for n, vm in enumerate(vms):
            if vpg not in self.inside.get(vm, ()):
                there = [each for each, inside in self.inside.items() if vpg in inside]
                raise Reference(f"no VM {vm!r} in VPG {vpg!r} then{closest(vm, there)}", (*here, "vms", n))

    def _site(self, vm: str) -> str:
        return self.model.site_of(self.vms[vm])

    def _join(self, vm: str, vpg: str, here: Path) -> None:
        if self._site(vm) != self._site(self.vpgs[vpg].vms[0]):
            raise Reference(f"VM {vm!r} is on another site than VPG {vpg!r}", (*here, "vm"))
        has = {each: self.vpgs[each] for each in self.inside[vm]}
        if clash := self.model.clash(vm, has, vpg, self.vpgs[vpg]):
            raise Reference(f"{clash} then", (*here, "vm"))
        self.inside[vm].append(vpg)

    def _one_of(self, vm: str, named: str | None, does: str, here: Path) -> str:
        """The VPG of a VM that is meant."""
        inside = self.inside[vm]
        if not inside:
            raise Reference(f"VM {vm!r} is in no VPG then", (*here, "vm"))
        if named is None and len(inside) > 1:
            text = f"VM {vm!r} is in several VPGs then; say which it {does}: `vpg: {inside[0]}`"
            raise Reference(text, (*here, "vm"))
        if named is not None and named not in inside:
            raise Reference(f"VM {vm!r} is not in VPG {named!r} then, but in {', '.join(inside)}", (*here, "vpg"))
        return named or inside[0]

    def _volume(
        self, operation: AddVolume | GrowVolume | RemoveVolume | DetachVolume | AttachVolume, here: Path
    ) -> None:
        vm, name = operation.vm, operation.volume
        volumes, place = self.volumes[vm], (*here, "volume")
        if isinstance(operation, AddVolume):
            if name in volumes:
                raise Reference(f"VM {vm!r} has a volume {name!r} already", place)
            if len(volumes) == MOST_VOLUMES:
                raise Reference(f"VM {vm!r} has {MOST_VOLUMES} volumes, and can have no more", place)
        elif name not in volumes:
            raise Reference(f"VM {vm!r} has no volume {name!r} then{closest(name, volumes)}", place)
        if isinstance(operation, AttachVolume) != ((vm, name) in self.detached):
            said = "is not detached" if isinstance(operation, AttachVolume) else "is detached"
            raise Reference(f"volume {name!r} of VM {vm!r} {said} then", place)
        match operation:
            case AddVolume(size=size):
                volumes[name] = size
            case GrowVolume(size=size):
                if size <= volumes[name]:
                    text = f"volume {name!r} of VM {vm!r} has {format_size(volumes[name])} then; volumes do not shrink"
                    raise Reference(text, (*here, "size"))
                volumes[name] = size
            case RemoveVolume():
                if len(volumes) == 1:
                    raise Reference(f"{name!r} is the only volume of VM {vm!r} then; remove the VM", place)
                del volumes[name]
            case DetachVolume():
                self.detached.add((vm, name))
            case AttachVolume():
                self.detached.discard((vm, name))

    def _journal(self, operation: ChangeJournal, here: Path) -> None:
        now = changed(self.journals[operation.vpg], operation)
        if now == self.journals[operation.vpg]:
            raise Reference("nothing changes: give another history, hard_limit or fail_safe", here)
        if now.fail_safe > now.history:
            text = f"the journal keeps {format_duration(now.history)} then, less than that"
            raise Reference(text, (*here, "fail_safe"))
        target = self.model.hosts[self.vpgs[operation.vpg].recovery.hosts[0]].site
        if self.model.sites[target].platform == "aws" and now.hard_limit != "unlimited":
            raise Reference("recovery to AWS has no journal limit (products.md 1.4)", (*here, "hard_limit"))
        self.journals[operation.vpg] = now

    def _retarget(self, of: str, to: str, here: Path) -> None:
        site = self.model.hosts[of].site
        if self.model.hosts[to].site != site:
            raise Reference(f"the VPG recovers to site {site!r}, and host {to!r} is on another one", (*here, "to"))
        if not self.model.hosts[to].vra.installed:
            raise Reference(f"host {to!r} has no VRA", (*here, "to"))


def changed(journal: Journal, operation: ChangeJournal) -> Journal:
    """A journal after a change."""
    said = operation.model_dump(include={"history", "hard_limit", "fail_safe"}, exclude_none=True)
    return journal.model_copy(update=said)
