"""Membership: what a VPG consists of after a VM was added, removed or moved to another host.

Streams never change their VMs, so each change that brings a VM somewhere makes a new stream, a *part* numbered by the
version of the configuration. A VM that leaves a stream which has others takes its volumes out of it; a stream whose
last VM leaves ends. Who places VMs decides, the machines are told (`Reconfigured`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from drsim.core.events import Reconfigured
from drsim.core.messages import Start
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeInfo


@dataclass(frozen=True, slots=True)
class Membership:
    """The configuration of one VPG: its streams, and VMs on hosts without a VRA (`unprotected`).

    `starts`: of streams that this version brought. `last`: of unprotected VMs, the stream that had them.
    """

    streams: tuple[StreamSpec, ...]
    version: int = 1
    starts: Mapping[StreamId, Start] = field(default_factory=dict)
    unprotected: tuple[VmId, ...] = ()
    last: Mapping[VmId, StreamId] = field(default_factory=dict)

    @property
    def vms(self) -> list[VmId]:
        """Its VMs, protected or not, ascending."""
        return sorted({*(volume.vm for spec in self.streams for volume in spec.volumes), *self.unprotected})

    @property
    def configured(self) -> Reconfigured | None:
        """What its manager is told; None for the first version, which it knows."""
        if self.version == 1:
            return None
        return Reconfigured(self.version, self.streams, dict(self.starts), self.unprotected)

    def added(
        self, vpg: str, volumes: tuple[VolumeInfo, ...], host: Address, target: Address, limit: int | None, start: Start
    ) -> "Membership":
        """A VM with these volumes, which runs on `host`, belongs to the VPG from now on."""
        id_ = StreamId(vpg, host, target, self.version + 1)
        part = StreamSpec(id_, (volumes[0].vm,), volumes, limit)
        return replace(self, streams=(*self.streams, part), version=self.version + 1, starts={part.id: start})

    def removed(self, vm: VmId) -> "Membership":
        """A VM belongs to the VPG no more."""
        unprotected = tuple(v for v in self.unprotected if v != vm)
        return replace(self, streams=self._without(vm), version=self.version + 1, starts={}, unprotected=unprotected)

    def relocated(
        self, hosts: Mapping[VmId, Address | None], volumes: Mapping[VmId, tuple[VolumeInfo, ...]], limit: int | None
    ) -> "Membership | None":
        """With its VMs where they run (None: without a VRA), at most one VM a version. None when they are there."""
        where = {v.vm: spec.id for spec in self.streams for v in spec.volumes}
        for vm in self.vms:
            stream, host = where.get(vm), hosts[vm]
            if (stream.source if stream is not None else None) != host:
                was = stream or self.last[vm]
                return self._moved(vm, host, was, volumes[vm], limit)
        return None

    def _moved(
        self, vm: VmId, host: Address | None, was: StreamId, volumes: tuple[VolumeInfo, ...], limit: int | None
    ) -> "Membership":
        streams, version = self._without(vm), self.version + 1
        unprotected = tuple(v for v in self.unprotected if v != vm)
        if host is None:
            last = {**self.last, vm: was}
            return replace(self, streams=streams, version=version, starts={}, unprotected=(*unprotected, vm), last=last)
        part = StreamSpec(StreamId(was.vpg, host, was.target, version), (vm,), volumes, limit, was)
        starts = {part.id: Start.MOVED}
        return replace(self, streams=(*streams, part), version=version, starts=starts, unprotected=unprotected)

    def _without(self, vm: VmId) -> tuple[StreamSpec, ...]:
        """The streams when a VM has left. One that is left with no volume ends."""
        kept = []
        for spec in self.streams:
            gone = tuple(v.id for v in spec.volumes if v.vm == vm)
            volumes = tuple(v for v in spec.volumes if v.vm != vm)
            if volumes:
                kept.append(replace(spec, volumes=volumes, left=(*spec.left, *gone)) if gone else spec)
        return tuple(kept)
