"""Operators: what people and the platform do to VPGs and VMs in the explorer. One small function each."""

from drsim.core.messages import Retention, Start
from drsim.core.names import Address, VmId, VolumeInfo
from drsim.core.units import SECTOR, Ns
from drsim.verify.estate import VpgEstate
from drsim.verify.explorer import Explorer
from drsim.verify.membership import added, keeping, relocate, removed, reshaped, retargeted


def pause(x: Explorer, a: int, b: int) -> None:
    """An operator pauses replication of a VPG, or resumes it."""
    x.pause(x.estate.vpgs[a % len(x.estate.vpgs)].name, bool(b % 2))


def fence(x: Explorer, a: int, b: int) -> None:
    """An operation fences the source of a VPG, or lets it go on."""
    vpg = x.estate.vpgs[a % len(x.estate.vpgs)]
    if vpg.deleting is None:
        x.fence(vpg, fenced=not vpg.fenced if b % 4 else vpg.fenced)
        x.probes.add("the source was fenced" if not vpg.fenced else "a fenced source went on")


def force(x: Explorer, a: int, b: int) -> None:
    """An operator has everything compared with the other side."""
    x.force(x.estate.vpgs[a % len(x.estate.vpgs)].name)


def _host(x: Explorer, pick: int) -> Address:
    hosts = [address for address in x.estate.addresses if address in x.estate.sources]
    return hosts[pick % len(hosts)]


def vmotion(x: Explorer, a: int, b: int) -> None:
    """A VM moves to another host; one in four to one without a VRA. The manager may learn of it at once, or later."""
    protected = [vm for vpg in x.estate.vpgs for vm in vpg.vms]
    vm = protected[a % len(protected)] if protected else x.vms[0]
    host = None if b % 4 == 3 else _host(x, b // 4)
    if host != x.guests[vm].host:
        x.move(vm, host)
        if host is None:
            x.probes.add("a VM moved to a host without a VRA")
        else:
            x.probes.add("a VM moved to another host")
        if b // 64 % 2:
            inventory(x, 0, 0)


def inventory(x: Explorer, a: int, b: int) -> None:
    """The managers learn where their VMs run."""
    relocate(x)


def enlist(x: Explorer, a: int, b: int) -> None:
    """An operator adds a VM to a VPG."""
    vpgs = [vpg for vpg in x.estate.vpgs if vpg.deleting is None]
    if not vpgs:
        return
    vpg = vpgs[a % len(vpgs)]
    taken = {vm for each in x.estate.vpgs for vm in each.vms}
    free = [vm for vm in x.estate.spares if vm not in taken]
    host = x.guests[free[b % len(free)]].host if free else None
    if host is not None and vpg.manager not in x.down:
        start = Start.PRESEEDED if b // 16 % 2 else Start.INITIAL
        vm = free[b % len(free)]
        x.configure(added(vpg, vm, x.guests[vm].volumes, host, x.estate, start))
        x.probes.add("a VM was added")


def dismiss(x: Explorer, a: int, b: int) -> None:
    """An operator takes a VM out of a VPG."""
    vpg = x.estate.vpgs[a % len(x.estate.vpgs)]
    if len(vpg.vms) > 1 and vpg.manager not in x.down:
        x.configure(removed(vpg, vpg.vms[b % len(vpg.vms)]))
        x.probes.add("a VM was removed")


def delete(x: Explorer, a: int, b: int) -> None:
    """An operator deletes a VPG, and keeps its disks or not; not the last one."""
    vpgs = [vpg for vpg in x.estate.vpgs if vpg.deleting is None]
    if len(vpgs) > 1 and vpgs[a % len(vpgs)].manager not in x.down:
        x.delete(vpgs[a % len(vpgs)], keep_disks=bool(b % 2))
        x.probes.add("a VPG was deleted")


def force_some(x: Explorer, a: int, b: int) -> None:
    """An operator has a volume compared, or sent; or all of a VPG sent."""
    vpg = x.estate.vpgs[a % len(x.estate.vpgs)]
    volumes = [v.id for spec in vpg.streams for v in spec.volumes]
    if volumes:
        some = (volumes[b // 4 % len(volumes)],) if b % 4 else ()
        x.force(vpg.name, full=b % 4 < 2, volumes=some)


def _vm(x: Explorer, a: int) -> tuple[VpgEstate, VmId] | None:
    """A VPG whose manager is up, and a VM of it that is in a stream."""
    vpg = x.estate.vpgs[a % len(x.estate.vpgs)]
    vms = [vm for vm in vpg.vms if vm not in vpg.unprotected]
    if not vms or vpg.manager in x.down:
        return None
    return vpg, vms[a // 4 % len(vms)]


def _reshape(x: Explorer, vpg: VpgEstate, vm: VmId, volumes: tuple[VolumeInfo, ...], b: int) -> None:
    """The platform changes the disks of a VM; what it writes there now nobody hears until the manager has told all."""
    guest = x.guests[vm]
    guest.volumes = volumes
    index = len(volumes) - 1 if b % 2 else 0
    if vm not in x.freezer.frozen and volumes[index].id not in x.missing:
        x.write([x.new_write(vm, index, volumes[index].sectors - 1, 1)])
    x.configure(reshaped(vpg, vm, volumes))


def add_volume(x: Explorer, a: int, b: int) -> None:
    """A VM gets another volume."""
    picked = _vm(x, a)
    if picked is not None:
        vpg, vm = picked
        room, volumes = x.estate.room(vm), x.guests[vm].volumes
        if room[-1].id not in x.gone and room[-1] not in volumes and x.shape.room:
            _reshape(x, vpg, vm, (*volumes, room[-1]), 1)
            x.probes.add("a volume was added")


def grow(x: Explorer, a: int, b: int) -> None:
    """The first volume of a VM grows."""
    picked = _vm(x, a)
    if picked is not None:
        vpg, vm = picked
        first, *rest = x.guests[vm].volumes
        most = next((v.sectors for v in x.estate.room(vm) if v.id == first.id), 0)
        if first.sectors < most:
            now = VolumeInfo(first.id, vm, min(most, first.sectors + 1 + b % x.shape.room))
            _reshape(x, vpg, vm, (now, *rest), 0)
            x.probes.add("a volume grew")


def remove_volume(x: Explorer, a: int, b: int) -> None:
    """A VM loses a volume, for ever; not its last one, and none with a write in flight."""
    picked = _vm(x, a)
    if picked is not None:
        vpg, vm = picked
        volumes = x.guests[vm].volumes
        gone = volumes[b % len(volumes)]
        if len(volumes) > 1 and not any(write.volume == gone.id for write in x.guests[vm].in_flight):
            x.gone.add(gone.id)
            x.missing.discard(gone.id)
            x.guests[vm].volumes = tuple(v for v in volumes if v != gone)
            x.configure(reshaped(vpg, vm, x.guests[vm].volumes))
            x.probes.add("a volume was removed")


def retarget(x: Explorer, a: int, b: int) -> None:
    """A VM is to be recovered by another VRA."""
    picked = _vm(x, a)
    targets = [t for t in x.estate.targets if t in x.estate.addresses]
    if picked is not None and len(targets) > 1:
        vpg, vm = picked
        now = next(s.id.target for s in vpg.streams if any(v.vm == vm for v in s.volumes))
        others = [target for target in targets if target != now]
        changed = retargeted(vpg, vm, x.guests[vm].volumes, others[b % len(others)], x.estate)
        if changed is not None:
            x.configure(changed)
            x.probes.add("a VM got another recovery VRA")


def keep(x: Explorer, a: int, b: int) -> None:
    """A VPG is to keep more history, or less, or some of it at any price; its journals are larger, or smaller."""
    vpg = x.estate.vpgs[a % len(x.estate.vpgs)]
    if vpg.deleting is None and vpg.manager not in x.down:
        history = (10_000, 60, 20)[b % 3]
        limit = None if x.shape.limit is None else (x.shape.limit, 30, 60, 90)[b // 3 % 4]
        fail_safe = min(history, (0, 60, 10_000)[b // 12 % 3])
        x.configure(keeping(vpg, Retention(Ns(history), Ns(fail_safe)), limit and limit * SECTOR))
        x.probes.add("a journal was changed")


def volume_lost(x: Explorer, a: int, b: int) -> None:
    """A protected volume is not there; or all that were lost are back."""
    if x.missing and b % 2:
        x.find_volumes()
        return
    picked = _vm(x, a)
    if picked is not None:
        volumes = x.guests[picked[1]].volumes
        x.lose_volume(volumes[b // 2 % len(volumes)])
