"""Membership: the explorer's VPGs after an edit, or after a VM moved to another host (`core/membership.py`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from drsim.core.membership import Membership
from drsim.core.messages import Retention, Start
from drsim.core.names import Address, VmId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.verify.estate import Estate, VpgEstate

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


def _members(vpg: VpgEstate) -> Membership:
    return Membership(vpg.streams, vpg.version, vpg.starts, vpg.unprotected, vpg.last, vpg.retention)


def _with(vpg: VpgEstate, now: Membership) -> VpgEstate:
    return replace(
        vpg, streams=now.streams, version=now.version, starts=now.starts, unprotected=now.unprotected, last=now.last,
        retention=now.retention,
    )  # fmt: skip


def limit_of(vpg: VpgEstate, estate: Estate) -> int | None:
    """Bytes that a journal of the VPG may have."""
    if vpg.retention is not None:
        return vpg.limit
    return None if estate.shape.limit is None else estate.shape.limit * SECTOR


def added(
    vpg: VpgEstate, vm: VmId, volumes: tuple[VolumeInfo, ...], host: Address, estate: Estate, start: Start
) -> VpgEstate:
    """A VM with these volumes, which runs on `host`, belongs to the VPG from now on."""
    targets = [t for t in estate.targets if t in estate.addresses]
    target = targets[vm % len(targets)]
    return _with(vpg, _members(vpg).added(vpg.name, volumes, host, target, limit_of(vpg, estate), start))


def removed(vpg: VpgEstate, vm: VmId) -> VpgEstate:
    """A VM belongs to the VPG no more."""
    return _with(vpg, _members(vpg).removed(vm))


def reshaped(vpg: VpgEstate, vm: VmId, volumes: tuple[VolumeInfo, ...]) -> VpgEstate:
    """A VM has these volumes from now on."""
    return _with(vpg, _members(vpg).reshaped(vm, volumes))


def retargeted(
    vpg: VpgEstate, vm: VmId, volumes: tuple[VolumeInfo, ...], target: Address, estate: Estate
) -> VpgEstate | None:
    """A VM is recovered by this VRA from now on; None: it is already, or is not protected."""
    now = _members(vpg).retargeted(vm, volumes, target, limit_of(vpg, estate))
    return None if now is None else _with(vpg, now)


def keeping(vpg: VpgEstate, retention: Retention, limit: int | None) -> VpgEstate:
    """The journals keep so much from now on."""
    return replace(_with(vpg, _members(vpg).keeping(retention, limit)), limit=limit)


def relocated(
    vpg: VpgEstate, hosts: Mapping[VmId, Address | None], volumes: Mapping[VmId, tuple[VolumeInfo, ...]], estate: Estate
) -> VpgEstate | None:
    """The VPG with its VMs where they run; None when that is where they are. At most one VM a version."""
    now = _members(vpg).relocated(hosts, volumes, limit_of(vpg, estate))
    return None if now is None else _with(vpg, now)


def relocate(x: "Explorer") -> bool:
    """The managers that are up learn where their VMs run, one VM each. Whether any had to."""
    moved = False
    for vpg in x.estate.vpgs:
        hosts = {vm: x.guests[vm].host for vm in vpg.vms}
        changed = relocated(vpg, hosts, {vm: x.guests[vm].volumes for vm in vpg.vms}, x.estate)
        if changed is not None and vpg.manager not in x.down:
            x.configure(changed)
            moved = True
    return moved
