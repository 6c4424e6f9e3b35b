"""Membership: what a VPG consists of after a VM or volume came, left, grew or moved, or its journal was changed.

Streams never change their VMs, so each change that brings a VM somewhere makes a new stream, a *part* numbered by the
version of the configuration. A VM that leaves a stream which has others takes its volumes out of it; a stream whose
last VM leaves ends. A volume comes to, leaves or grows in the stream that its VM is in. Who places VMs decides, the
machines are told (`Reconfigured`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from drsim.core.events import Reconfigured
from drsim.core.messages import Retention, Start
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeInfo

NO_STARTS: Mapping[StreamId, Start] = {}


def _reshaped(spec: StreamSpec, vm: VmId, volumes: tuple[VolumeInfo, ...]) -> StreamSpec:
    """A stream whose VM has these volumes now, if it is in it."""
    mine = {v.id for v in spec.volumes if v.vm == vm}
    if not mine:
        return spec
    now = {v.id: v for v in volumes}
    kept = (now.get(v.id, v) for v in spec.volumes if v.vm != vm or v.id in now)
    left = tuple(v for v in spec.volumes if v.vm == vm and v.id not in now)
    return replace(spec, volumes=(*kept, *(v for v in volumes if v.id not in mine)), left=(*spec.left, *left))


@dataclass(frozen=True, slots=True)
class Membership:
    """The configuration of one VPG: its streams, and VMs on hosts without a VRA (`unprotected`).

    `starts`: of streams that this version brought. `last`: of unprotected VMs, the stream that had them. `retention`:
    None for what it had in the first version.
    """

    streams: tuple[StreamSpec, ...]
    version: int = 1
    starts: Mapping[StreamId, Start] = field(default_factory=dict)
    unprotected: tuple[VmId, ...] = ()
    last: Mapping[VmId, StreamSpec] = field(default_factory=dict)
    retention: Retention | None = None

    @property
    def vms(self) -> list[VmId]:
        """Its VMs, protected or not, ascending."""
        return sorted({*(volume.vm for spec in self.streams for volume in spec.volumes), *self.unprotected})

    @property
    def configured(self) -> Reconfigured | None:
        """What its manager is told; None for the first version, which it knows."""
        if self.version == 1:
            return None
        return Reconfigured(self.version, self.streams, dict(self.starts), self.unprotected, self.retention)

    def added(
        self, vpg: str, volumes: tuple[VolumeInfo, ...], host: Address, target: Address, limit: int | None, start: Start
    ) -> "Membership":
        """A VM with these volumes, which runs on `host`, belongs to the VPG from now on."""
        id_ = StreamId(vpg, host, target, self.version + 1)
        part = StreamSpec(id_, (volumes[0].vm,), volumes, limit, origin=id_.part)
        return self._next((*self.streams, part), {part.id: start})

    def removed(self, vm: VmId) -> "Membership":
        """A VM belongs to the VPG no more."""
        unprotected = tuple(v for v in self.unprotected if v != vm)
        return replace(self._next(self._without(vm)), unprotected=unprotected)

    def reshaped(self, vm: VmId, volumes: tuple[VolumeInfo, ...]) -> "Membership":
        """A VM has these volumes from now on: others, or larger ones. Volumes do not shrink."""
        return self._next(tuple(_reshaped(spec, vm, volumes) for spec in self.streams))

    def retargeted(
        self, vm: VmId, volumes: tuple[VolumeInfo, ...], target: Address, limit: int | None
    ) -> "Membership | None":
        """A VM is recovered by another VRA from now on, which has nothing of it. None: it already is, or has no stream.

        No checkpoint is taken until that VRA has all of it; the older ones stay where they are.
        """
        was = next((s.id for s in self.streams if any(v.vm == vm for v in s.volumes)), None)
        if was is None or was.target == target:
            return None
        id_ = was._replace(target=target, part=self.version + 1)
        part = StreamSpec(id_, (vm,), volumes, limit, origin=id_.part)
        return self._next((*self._without(vm), part), {id_: Start.RETARGETED})

    def keeping(self, retention: Retention, limit: int | None) -> "Membership":
        """The journals of the VPG keep so much from now on."""
        return replace(self._next(tuple(replace(s, limit=limit) for s in self.streams)), retention=retention)

    def _next(self, streams: tuple[StreamSpec, ...], starts: Mapping[StreamId, Start] = NO_STARTS) -> "Membership":
        """The next version."""
        return replace(self, streams=streams, version=self.version + 1, starts=starts)

    def relocated(
        self, hosts: Mapping[VmId, Address | None], volumes: Mapping[VmId, tuple[VolumeInfo, ...]], limit: int | None
    ) -> "Membership | None":
        """With its VMs where they run (None: without a VRA), at most one VM a version. None when they are there."""
        where = {v.vm: spec for spec in self.streams for v in spec.volumes}
        for vm in self.vms:
            stream, host = where.get(vm), hosts[vm]
            if (stream.id.source if stream is not None else None) != host:
                was = stream or self.last[vm]
                return self._moved(vm, host, was, volumes[vm], limit)
        return None

    def _moved(
        self, vm: VmId, host: Address | None, was: StreamSpec, volumes: tuple[VolumeInfo, ...], limit: int | None
    ) -> "Membership":
        streams = self._without(vm)
        unprotected = tuple(v for v in self.unprotected if v != vm)
        if host is None:
            last = {**self.last, vm: was}
            return replace(self._next(streams), unprotected=(*unprotected, vm), last=last)
        id_ = was.id._replace(source=host, part=self.version + 1)
        part = StreamSpec(id_, (vm,), volumes, limit, was.id, origin=was.origin)
        return replace(self._next((*streams, part), {part.id: Start.MOVED}), unprotected=unprotected)

    def _without(self, vm: VmId) -> tuple[StreamSpec, ...]:
        """The streams when a VM has left. One that is left with no volume ends."""
        kept = []
        for spec in self.streams:
            gone = tuple(v for v in spec.volumes if v.vm == vm)
            volumes = tuple(v for v in spec.volumes if v.vm != vm)
            if volumes:
                kept.append(replace(spec, volumes=volumes, left=(*spec.left, *gone)) if gone else spec)
        return tuple(kept)
