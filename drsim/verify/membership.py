"""Membership: what a VPG consists of after a VM was added, removed or moved to another host.

Streams never change their VMs, so each change that brings a VM somewhere makes a new stream, a *part* numbered by the
version of the configuration. A VM that leaves a stream which has others takes its volumes out of it; a stream whose
last VM leaves ends.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from drsim.core.messages import Start
from drsim.core.names import Address, StreamId, StreamSpec, VmId
from drsim.core.units import SECTOR
from drsim.verify.estate import Estate, VpgEstate

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


def _part(vpg: VpgEstate, vm: VmId, host: Address, estate: Estate, follows: StreamId | None) -> StreamSpec:
    targets = [t for t in estate.targets if t in estate.addresses]
    target = follows.target if follows is not None else targets[vm % len(targets)]
    limit = None if estate.shape.limit is None else estate.shape.limit * SECTOR
    return StreamSpec(StreamId(vpg.name, host, target, vpg.version + 1), (vm,), estate.volumes(vm), limit, follows)


def _without(streams: tuple[StreamSpec, ...], vm: VmId) -> tuple[StreamSpec, ...]:
    """The streams when a VM has left. One that is left with no volume ends."""
    kept = []
    for spec in streams:
        gone = tuple(v.id for v in spec.volumes if v.vm == vm)
        volumes = tuple(v for v in spec.volumes if v.vm != vm)
        if volumes:
            kept.append(replace(spec, volumes=volumes, left=(*spec.left, *gone)))
    return tuple(kept)


def added(vpg: VpgEstate, vm: VmId, host: Address, estate: Estate, start: Start) -> VpgEstate:
    """A VM that runs on `host` belongs to the VPG from now on."""
    part = _part(vpg, vm, host, estate, None)
    return replace(vpg, streams=(*vpg.streams, part), version=vpg.version + 1, starts={part.id: start})


def removed(vpg: VpgEstate, vm: VmId) -> VpgEstate:
    """A VM belongs to the VPG no more."""
    unprotected = tuple(v for v in vpg.unprotected if v != vm)
    streams = _without(vpg.streams, vm)
    return replace(vpg, streams=streams, version=vpg.version + 1, starts={}, unprotected=unprotected)


def relocated(vpg: VpgEstate, hosts: Mapping[VmId, Address | None], estate: Estate) -> VpgEstate | None:
    """The VPG with its VMs where they run; None when that is where they are. At most one VM a version."""
    where = {v.vm: spec for spec in vpg.streams for v in spec.volumes}
    for vm in vpg.vms:
        spec, host = where.get(vm), hosts[vm]
        if (spec.id.source if spec is not None else None) == host:
            continue
        streams = _without(vpg.streams, vm)
        version = vpg.version + 1
        unprotected = tuple(v for v in vpg.unprotected if v != vm)
        was = spec.id if spec is not None else vpg.last.get(vm)
        last = {**vpg.last, vm: was} if was is not None else vpg.last
        if host is None:
            return replace(vpg, streams=streams, version=version, starts={}, unprotected=(*unprotected, vm), last=last)
        part = _part(vpg, vm, host, estate, was)
        return replace(
            vpg, streams=(*streams, part), version=version, starts={part.id: Start.MOVED}, unprotected=unprotected
        )
    return None


def relocate(x: "Explorer") -> bool:
    """The managers that are up learn where their VMs run, one VM each. Whether any had to."""
    moved = False
    for vpg in x.estate.vpgs:
        changed = relocated(vpg, {vm: x.guests[vm].host for vm in vpg.vms}, x.estate)
        if changed is not None and vpg.manager not in x.down:
            x.configure(changed)
            moved = True
    return moved
