"""Membership: the explorer's VPGs after a VM was added, removed or moved to another host (`core/membership.py`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from drsim.core.membership import Membership
from drsim.core.messages import Start
from drsim.core.names import Address, VmId
from drsim.core.units import SECTOR
from drsim.verify.estate import Estate, VpgEstate

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


def _members(vpg: VpgEstate) -> Membership:
    return Membership(vpg.streams, vpg.version, vpg.starts, vpg.unprotected, vpg.last)


def _with(vpg: VpgEstate, now: Membership) -> VpgEstate:
    return replace(
        vpg, streams=now.streams, version=now.version, starts=now.starts, unprotected=now.unprotected, last=now.last
    )


def _limit(estate: Estate) -> int | None:
    return None if estate.shape.limit is None else estate.shape.limit * SECTOR


def added(vpg: VpgEstate, vm: VmId, host: Address, estate: Estate, start: Start) -> VpgEstate:
    """A VM that runs on `host` belongs to the VPG from now on."""
    targets = [t for t in estate.targets if t in estate.addresses]
    target = targets[vm % len(targets)]
    return _with(vpg, _members(vpg).added(vpg.name, estate.volumes(vm), host, target, _limit(estate), start))


def removed(vpg: VpgEstate, vm: VmId) -> VpgEstate:
    """A VM belongs to the VPG no more."""
    return _with(vpg, _members(vpg).removed(vm))


def relocated(vpg: VpgEstate, hosts: Mapping[VmId, Address | None], estate: Estate) -> VpgEstate | None:
    """The VPG with its VMs where they run; None when that is where they are. At most one VM a version."""
    volumes = {vm: estate.volumes(vm) for vm in vpg.vms}
    now = _members(vpg).relocated(hosts, volumes, _limit(estate))
    return None if now is None else _with(vpg, now)


def relocate(x: "Explorer") -> bool:
    """The managers that are up learn where their VMs run, one VM each. Whether any had to."""
    moved = False
    for vpg in x.estate.vpgs:
        changed = relocated(vpg, {vm: x.guests[vm].host for vm in vpg.vms}, x.estate)
        if changed is not None and vpg.manager not in x.down:
            x.configure(changed)
            moved = True
    return moved
