"""Planning: what an operator asks of a live site, as a VPG with its streams, or as a plan of the core."""

from collections.abc import Iterable, Mapping, Sequence

from drsim.core.errors import FileError
from drsim.core.messages import Checkpoint
from drsim.core.names import (
    CheckpointId,
    StreamId,
    StreamSpec,
    VmId,
    VolumeId,
    VolumeInfo,
    recovery_vra_address,
    vra_address,
)
from drsim.core.recovery.plan import Commit, Kind, Nic, OnFailure, Plan, PlannedVm, Shutdown
from drsim.core.units import SECOND, SECTOR, Ns
from drsim.spec.base import Spec
from drsim.spec.live import LiveVpg, ProtectedVm, ProtectedVolume, SiteFile, SiteState

SUFFIX = {Kind.TEST: "-test", Kind.CLONE: "-clone"}


class Wish(Spec):
    """An operation in an operator's words: those of `drsim failover` and the others."""

    kind: Kind
    vpg: str
    vms: tuple[str, ...] = ()
    checkpoint: str = "latest"
    """latest, `latest tagged`, a tag, or a number."""
    shutdown: Shutdown = Shutdown.NONE
    commit: Commit = Commit.NONE
    wait: int = 0
    """Seconds."""
    on_failure: OnFailure = OnFailure.STOP
    network: str = ""
    """Of recovered VMs, which ask DHCP there; none: what their re-IP says."""
    instant: bool = False
    """Boot at once, and read journal and mirror where they lie."""
    reverse: bool = False
    """Protect the other way after the commit."""
    keep_source: bool = False
    volume: str = ""
    """Of a restore: VM/volume."""
    in_place: bool = False
    """Of a restore: in its place at the source, which must be off."""
    export: bool = False
    """Of a restore: nothing is copied; it can be read over NBD until it is stopped."""


def plan_of(wish: Wish, vpg: LiveVpg, listed: Sequence[Checkpoint]) -> Plan:
    """The plan. Raises FileError for what the VPG does not have."""
    known = {vm.name: vm for vm in vpg.vms}
    unknown = [name for name in wish.vms if name not in known]
    if unknown:
        raise FileError(f"VPG {vpg.name} has no VM {unknown[0]}", hint=f"there is: {', '.join(known)}")
    nics = (Nic(wish.network),) if wish.network else None
    test = wish.kind is Kind.TEST
    vms = tuple(
        PlannedVm(
            VmId(vm.id), vm.name + SUFFIX.get(wish.kind, ""), vm.target, tuple(VolumeId(v.id) for v in vm.volumes),
            vm.cpus, vm.memory, vm.group, nics or _nics(vm, test=test),
        )
        for vm in vpg.vms if not wish.vms or vm.name in wish.vms
    )  # fmt: skip
    checkpoint = None if wish.kind is Kind.MOVE else _checkpoint(wish.checkpoint, listed)
    if wish.kind is Kind.RESTORE:
        if wish.in_place and wish.export:
            raise FileError("a volume is restored in its place or looked into, not both at once")
        return Plan(
            wish.kind, vpg.name, (), checkpoint, commit=wish.commit, wait=Ns(wish.wait * SECOND),
            volume=_volume(wish.volume, vpg), in_place=wish.in_place, export=wish.export,
        )  # fmt: skip
    delays = (Ns(vpg.boot_delay),) * max(0, len({vm.group for vm in vms}) - 1) if vpg.boot_delay else ()
    return Plan(
        wish.kind, vpg.name, vms, checkpoint, shutdown=wish.shutdown, commit=wish.commit, wait=Ns(wish.wait * SECOND),
        delays=delays, on_failure=wish.on_failure, keep_source=wish.keep_source, instant=wish.instant,
        reverse=wish.reverse,
    )  # fmt: skip


def _nics(vm: ProtectedVm, *, test: bool) -> tuple[Nic, ...] | None:
    chosen = [each.test if test else each.live for each in vm.reip]
    made = tuple(Nic(a.network, a.address, a.mask, a.gateway, a.dns, a.new_mac) for a in chosen)
    return made or None


def _checkpoint(wanted: str, listed: Sequence[Checkpoint]) -> CheckpointId | None:
    if wanted == "latest":
        return None
    if wanted == "latest tagged":
        found = [c.id for c in listed if c.tag]
    else:
        found = [c.id for c in listed if wanted in (c.tag, str(c.id))]
    if not found:
        raise FileError(f"no checkpoint {wanted!r} is listed", hint="latest, 'latest tagged', a tag or a number")
    return found[-1]


def _volume(wanted: str, vpg: LiveVpg) -> VolumeId:
    names = {f"{vm.name}/{v.name}": VolumeId(v.id) for vm in vpg.vms for v in vm.volumes}
    if wanted not in names:
        raise FileError(f"VPG {vpg.name} has no volume {wanted!r}", hint=f"there is: {', '.join(names)}")
    return names[wanted]


def vpg_of(
    spec: SiteFile, state: SiteState, name: str, vms: Iterable[str], target_host: str | Sequence[str], *,
    interval: int, history: int, rpo_alert: int, journal: int | None, epochs: int | None = None,
    groups: Mapping[str, int] | None = None, boot_delay: int = 0,
) -> LiveVpg:  # fmt: skip
    """A VPG of a site's own VMs, by name. Times in nanoseconds, `journal` in bytes. Raises FileError.

    VMs are dealt over several target hosts. `epochs`: time between snapshots, of VMs that are on a platform. `groups`:
    boot groups of VMs; others are in group 0.
    """
    members: list[ProtectedVm] = []
    targets = [target_host] if isinstance(target_host, str) else list(target_host)
    own = state.own(spec)
    for n, each in enumerate(vms):
        vm = own.get(each)
        if vm is None:
            hint = f"there is: {', '.join(own) or 'none'}"
            raise FileError(f"no VM is called {each!r}", place=spec.site, hint=hint)
        volumes = tuple(
            ProtectedVolume(id=state.volumes[f"{each}/{disk}"], name=disk, sectors=vm.disks[disk].size // SECTOR)
            for disk in vm.disks
        )
        members.append(
            ProtectedVm(
                id=state.vms[each],
                name=each,
                host=vm.host,
                target=targets[n % len(targets)],
                group=0 if groups is None else groups.get(each, 0),
                memory=vm.memory,
                cpus=vm.cpus,
                tools=vm.tools,
                ready=vm.ready,
                firmware=vm.firmware,
                secure_boot=vm.secure_boot,
                system=vm.system,
                reip=vm.reip,
                volumes=volumes,
            )
        )
    if not members:
        raise FileError("name the VMs that are to be protected", place=spec.site)
    return LiveVpg(
        name=name, source=spec.site, target=spec.link.peer, vms=tuple(members), interval=interval, history=history,
        rpo_alert=rpo_alert, journal=journal, number=state.made + 1, epochs=epochs,
        boot_delay=boot_delay,
    )  # fmt: skip


def turned(old: LiveVpg, vms: Iterable[str], state: SiteState) -> LiveVpg:
    """A VPG the other way round, for those of its VMs that run at its recovery site now and have numbers there.

    Back home they are what they were: without a re-IP their own configuration holds.
    """
    names = set(vms)
    members = tuple(
        vm.model_copy(
            update={
                "id": state.vms[vm.name], "host": vm.target, "target": vm.host, "reip": (),
                "volumes": tuple(v.model_copy(update={"id": state.volumes[f"{vm.name}/{v.name}"]}) for v in vm.volumes),
            }
        )
        for vm in old.vms if vm.name in names
    )  # fmt: skip
    update = {"source": old.target, "target": old.source, "vms": members, "number": max(state.made, old.number) + 1}
    return old.model_copy(update=update)


def streams_of(vpg: LiveVpg) -> list[StreamSpec]:
    """The streams of a VPG: one from each host of its VMs to each host that would run them."""
    made: list[StreamSpec] = []
    for source, target in sorted({(vm.host, vm.target) for vm in vpg.vms}):
        mine = sorted((vm for vm in vpg.vms if (vm.host, vm.target) == (source, target)), key=lambda vm: vm.id)
        id_ = StreamId(vpg.name, vra_address(vpg.source, source), recovery_vra_address(vpg.target, target), vpg.number)
        volumes = tuple(VolumeInfo(VolumeId(v.id), VmId(vm.id), v.sectors) for vm in mine for v in vm.volumes)
        vms = tuple(VmId(vm.id) for vm in mine)
        made.append(StreamSpec(id_, vms, volumes, vpg.journal, origin=vpg.number))
    return made
