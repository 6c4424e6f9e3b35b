"""Layout: a model's names turned into numbers, streams and machines, the same way in every run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from drsim.core.catalog import Catalog
from drsim.core.journal import Stored
from drsim.core.machine import Machine
from drsim.core.membership import Membership
from drsim.core.messages import Checkpoint, Retention, Start
from drsim.core.names import (
    Address,
    CheckpointId,
    StreamId,
    StreamSpec,
    VmId,
    VolumeId,
    VolumeInfo,
    catalog_address,
    recovery_vra_address,
    vpg_address,
    vra_address,
)  # fmt: skip
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.units import SECTOR, Ns
from drsim.core.vpg import Vpg
from drsim.spec.faults import HostLoss
from drsim.spec.model import Model
from drsim.spec.operations import AddVm, Retarget, VMotion
from drsim.spec.protect import Journal, Vm
from drsim.spec.protect import Vpg as VpgSpec
from drsim.spec.tweaks import Tweaks

LIFE = 1_000_000  # checkpoints that one life of a manager can number: 57 days of one every 5 s
STARTS = {"done": Start.EQUAL, "initial": Start.INITIAL, "preseeded": Start.PRESEEDED}


@dataclass(frozen=True, slots=True)
class VpgLayout:
    """One VPG: its sites, streams and the addresses of its managers."""

    name: str
    spec: VpgSpec
    source: str
    target: str
    manager: Address
    catalog: Address
    members: Membership
    """What it consists of at present."""
    ever: tuple[StreamId, ...]
    """All streams that it has or had."""
    deleting: bool | None = None
    """Somebody deleted it, with or without keeping its disks."""

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """Its streams at present."""
        return self.members.streams

    @property
    def peers(self) -> list[tuple[Address, Address]]:
        """Its connections between the sites, those of earlier streams too: protected end, recovery end."""
        return [(self.manager, self.catalog), *((s.source, s.target) for s in self.ever)]


class Layout:
    """Numbers for VMs and volumes in the order of the model, and streams for each VPG."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.vms, vpgs = model.expand()
        self.vm_names = tuple(self.vms)
        self.vm_ids = {name: VmId(n) for n, name in enumerate(self.vm_names)}
        self._disks: dict[VmId, dict[str, VolumeInfo]] = {id_: {} for id_ in self.vm_ids.values()}
        self._numbered = 0
        for name, vm in self.vms.items():
            for volume in vm.volumes:
                self.size(self.vm_ids[name], volume.name, volume.size)
        self.vpgs = [self._vpg(name, spec) for name, spec in vpgs.items()]
        self.streams = {s.id: s for vpg in self.vpgs for s in vpg.streams}
        """All streams that there are or were, as they are or were in the end."""
        self.vpg_of = {vpg.name: vpg for vpg in self.vpgs}

    def volumes(self, vm: VmId) -> tuple[VolumeInfo, ...]:
        """The disks of a VM at present."""
        return tuple(self._disks[vm].values())

    def volume(self, vm: VmId, name: str) -> VolumeInfo:
        """A disk that a VM has at present."""
        return self._disks[vm][name]

    def size(self, vm: VmId, name: str, nbytes: int) -> None:
        """A VM has a disk of this size from now on, a new one or one that grew."""
        known = self._disks[vm].get(name)
        if known is None:
            known = VolumeInfo(VolumeId(self._numbered), vm, 0)
            self._numbered += 1
        self._disks[vm][name] = replace(known, sectors=nbytes // SECTOR)

    def remove(self, vm: VmId, name: str) -> VolumeInfo:
        """A VM has this disk no more."""
        return self._disks[vm].pop(name)

    def configure(self, name: str, members: Membership, spec: VpgSpec | None = None) -> None:
        """A VPG consists of something else from now on, and its `spec` may be another one."""
        old = self.vpg_of[name]
        ever = tuple(dict.fromkeys([*old.ever, *(stream.id for stream in members.streams)]))
        self._change(old, replace(old, members=members, ever=ever, spec=spec or old.spec))
        self.streams.update({stream.id: stream for stream in members.streams})

    def delete(self, name: str, *, keep_disks: bool) -> None:
        """A VPG is being deleted."""
        old = self.vpg_of[name]
        nothing = replace(old.members, streams=(), unprotected=(), starts={}, version=old.members.version + 1)
        self._change(old, replace(old, members=nothing, deleting=keep_disks))

    def _change(self, old: VpgLayout, new: VpgLayout) -> None:
        self.vpg_of[new.name] = self.vpgs[self.vpgs.index(old)] = new

    def host_vra(self, host: str) -> Address | None:
        """The address of a host's protecting VRA, if it has one."""
        return self.vras(host)[0] if self.model.hosts[host].vra.installed else None

    def vras(self, host: str) -> tuple[Address, Address]:
        """The addresses of a host's VRA: its protecting half and its recovering half."""
        site = self.model.hosts[host].site
        return vra_address(site, host), recovery_vra_address(site, host)

    def recovers(self, address: Address) -> bool:
        """Whether a machine is of a recovery side."""
        return any(address == vpg.catalog for vpg in self.vpgs) or any(
            address == self.vras(host)[1] for host in self.model.hosts
        )

    def vm(self, id_: VmId) -> Vm:
        """The spec of a VM."""
        return self.vms[self.vm_names[id_]]

    def _vpg(self, name: str, spec: VpgSpec) -> VpgLayout:
        hosts = spec.recovery.hosts
        groups: dict[StreamId, list[VmId]] = {}
        for n, vm in enumerate(spec.vms):
            host = self.vms[vm].host
            assert isinstance(host, str)
            stream = StreamId(name, self.vras(host)[0], self.vras(hosts[n % len(hosts)])[1])
            groups.setdefault(stream, []).append(self.vm_ids[vm])
        limit = spec.journal.limit_bytes
        streams = tuple(
            StreamSpec(s, tuple(sorted(vms)), tuple(v for vm in sorted(vms) for v in self.volumes(vm)), limit)
            for s, vms in sorted(groups.items())
        )
        first = self.vms[spec.vms[0]].host
        assert isinstance(first, str)
        source, target = self.model.hosts[first].site, self.model.hosts[hosts[0]].site
        manager, catalog = vpg_address(source, name), catalog_address(target, name)
        ever = tuple(spec.id for spec in streams)
        return VpgLayout(name, spec, source, target, manager, catalog, Membership(streams), ever)

    def machines(self, tweaks: Tweaks) -> dict[Address, Machine]:
        """Every machine of the core in its first life, by address."""
        managers = [address for vpg in self.vpgs for address in (vpg.manager, vpg.catalog)]
        used = {address for s in self.streams for address in (s.source, s.target)} | self._later()
        vras = [address for host in self.model.hosts for address in self.vras(host) if address in used]
        return {address: self.build(address, tweaks) for address in (*managers, *vras)}

    def _later(self) -> set[Address]:
        """VRAs that protect or recover something only after an operation."""
        hosts = [op.to for op in self.model.operations if isinstance(op, VMotion)]
        hosts += [str(self.vms[op.vm].host) for op in self.model.operations if isinstance(op, AddVm)]
        hosts += [f.restart.on for f in self.model.faults if isinstance(f, HostLoss) and f.restart is not None]
        targets = [self.recovery_vra(self.vpg_of[op.vpg], self.vm_ids[op.vm])
                   for op in self.model.operations if isinstance(op, AddVm)]  # fmt: skip
        targets += [self.vras(op.to)[1] for op in self.model.operations if isinstance(op, Retarget)]
        return {vra for vra in (*map(self.host_vra, hosts), *targets) if vra is not None}

    def recovery_vra(self, vpg: VpgLayout, vm: VmId) -> Address:
        """The recovery VRA of a VM that is added to a VPG."""
        hosts = vpg.spec.recovery.hosts
        return self.vras(hosts[vm % len(hosts)])[1]

    def build(self, address: Address, tweaks: Tweaks, earlier: "Earlier | None" = None) -> Machine:
        """The machine of an address: in its first life, or from what earlier ones left."""
        for vpg in self.vpgs:
            if address == vpg.manager:
                return self._manager(vpg, tweaks, earlier)
            if address == vpg.catalog:
                return self._catalog(vpg, tweaks, earlier)
        host = next(host for host in self.model.hosts if address in self.vras(host))
        pool = self.model.hosts[host].vra.pool_bytes
        if address == self.vras(host)[0]:
            mine = [s for vpg in self.vpgs for s in vpg.streams if address == s.id.source]
            managers = {vpg.name: vpg.manager for vpg in self.vpgs}
            begins = {s.id: STARTS[self.vpg_of[s.id.vpg].spec.sync] for s in mine}
            again = {s: Start.PRESEEDED if earlier and s in earlier.joining else Start.CRASHED for s in begins}
            return ProtectedVra(
                address, managers, mine, pool_bytes=pool, tweaks=tweaks, starts=begins if earlier is None else again,
                versions={vpg.name: vpg.members.version for vpg in self.vpgs},
            )  # fmt: skip
        catalogs = {vpg.name: vpg.catalog for vpg in self.vpgs}
        durable = None if earlier is None else earlier.stored
        known = self.streams if durable is None else durable
        mine = [self.streams[s] for s in known if s.target == address]
        return RecoveryVra(address, catalogs, mine, pool_bytes=pool, tweaks=tweaks, durable=durable)

    def _manager(self, vpg: VpgLayout, tweaks: Tweaks, earlier: "Earlier | None") -> Vpg:
        spec, vras = vpg.spec, sorted({s.id.source for s in vpg.streams})
        first = 1 if earlier is None else 1 + LIFE * earlier.lives
        return Vpg(
            vpg.manager, vpg.name, vras, vpg.catalog, interval=Ns(spec.checkpoint_interval),
            rpo_alert=Ns(spec.rpo_alert), history=Ns(spec.journal.history), tweaks=tweaks, first=CheckpointId(first),
            creating=spec.sync != "done" if earlier is None else earlier.creating,
            paused=earlier is not None and earlier.paused, configured=vpg.members.configured,
            deleting=vpg.deleting,
        )  # fmt: skip

    def _catalog(self, vpg: VpgLayout, tweaks: Tweaks, earlier: "Earlier | None") -> Catalog:
        kept, pins = (earlier.kept, earlier.pins) if earlier else (None, ())
        streams = list(earlier.stored) if earlier and vpg.deleting is not None else [s.id for s in vpg.streams]
        return Catalog(
            vpg.catalog, vpg.name, vpg.manager, streams, retention=retention(vpg.spec.journal), tweaks=tweaks,
            kept=kept, pins=pins, deleting=vpg.deleting,
        )  # fmt: skip


def retention(journal: Journal) -> Retention:
    """How much history a journal's spec asks for."""
    return Retention(Ns(journal.history), Ns(journal.fail_safe))


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier lives of a machine left: all that is durable of it.

    `stored`: of the streams of a recovery VRA, or of a VPG that is being deleted. `joining`: streams that were never in
    sync. `kept`, `pins`: of a catalogue. `paused`, `creating`: of a VPG's manager.
    """

    lives: int
    stored: Mapping[StreamId, Stored] = field(default_factory=dict)
    joining: frozenset[StreamId] = frozenset()
    kept: tuple[Checkpoint, ...] = ()
    pins: tuple[CheckpointId, ...] = ()
    paused: bool = False
    creating: bool = False


def hosts_over_time(model: Model, vm: str, first: str) -> Callable[[int], str]:
    """Where a VM runs just before an instant: moved by operations, or started elsewhere when its host was lost."""
    changes: list[tuple[int, str | None, str]] = [
        (each.at, None, each.to) for each in model.operations if isinstance(each, VMotion) and each.vm == vm
    ]
    changes += [
        (fault.at + fault.restart.after, fault.host, fault.restart.on)
        for fault in model.faults
        if isinstance(fault, HostLoss) and fault.restart is not None and fault.restart.after < fault.lasts
    ]

    def host_at(time: int) -> str:
        host = first
        for at, only, to in sorted(changes, key=lambda change: change[0]):
            if at < time and only in (None, host):
                host = to
        return host

    return host_at
