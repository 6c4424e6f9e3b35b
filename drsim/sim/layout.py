"""Layout: a model's names turned into numbers, streams and machines, the same way in every run."""

from dataclasses import dataclass

from drsim.core.catalog import Catalog
from drsim.core.machine import Machine
from drsim.core.names import (
    Address,
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
from drsim.spec.model import Model
from drsim.spec.protect import Vm
from drsim.spec.protect import Vpg as VpgSpec
from drsim.spec.tweaks import Tweaks


@dataclass(frozen=True, slots=True)
class VpgLayout:
    """One VPG: its sites, streams and the addresses of its managers."""

    name: str
    spec: VpgSpec
    source: str
    target: str
    manager: Address
    catalog: Address
    streams: tuple[StreamSpec, ...]

    @property
    def peers(self) -> list[tuple[Address, Address]]:
        """Its connections between the sites: protected end, recovery end."""
        return [(self.manager, self.catalog), *((s.id.source, s.id.target) for s in self.streams)]


class Layout:
    """Numbers for VMs and volumes in the order of the model, and streams for each VPG."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.vms, vpgs = model.expand()
        self.vm_names = tuple(self.vms)
        self.vm_ids = {name: VmId(n) for n, name in enumerate(self.vm_names)}
        self.volumes: dict[VmId, tuple[VolumeInfo, ...]] = {}
        number = 0
        for name, vm in self.vms.items():
            id_ = self.vm_ids[name]
            self.volumes[id_] = tuple(
                VolumeInfo(VolumeId(number + n), id_, v.size // SECTOR) for n, v in enumerate(vm.volumes)
            )
            number += len(vm.volumes)
        self.vpgs = [self._vpg(name, spec) for name, spec in vpgs.items()]
        self.streams = {s.id: s for vpg in self.vpgs for s in vpg.streams}
        self.vpg_of = {vpg.name: vpg for vpg in self.vpgs}

    def vras(self, host: str) -> tuple[Address, Address]:
        """The addresses of a host's VRA: its protecting half and its recovering half."""
        site = self.model.hosts[host].site
        return vra_address(site, host), recovery_vra_address(site, host)

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
            StreamSpec(s, tuple(sorted(vms)), tuple(v for vm in sorted(vms) for v in self.volumes[vm]), limit)
            for s, vms in sorted(groups.items())
        )
        first = self.vms[spec.vms[0]].host
        assert isinstance(first, str)
        source, target = self.model.hosts[first].site, self.model.hosts[hosts[0]].site
        return VpgLayout(name, spec, source, target, vpg_address(source, name), catalog_address(target, name), streams)

    def machines(self, tweaks: Tweaks) -> dict[Address, Machine]:
        """Every machine of the core, by address."""
        made: dict[Address, Machine] = {}
        for vpg in self.vpgs:
            spec = vpg.spec
            vras = sorted({s.id.source for s in vpg.streams})
            made[vpg.manager] = Vpg(
                vpg.manager, vpg.name, vras, vpg.catalog, interval=Ns(spec.checkpoint_interval),
                rpo_alert=Ns(spec.rpo_alert), history=Ns(spec.journal.history), tweaks=tweaks,
            )  # fmt: skip
            made[vpg.catalog] = Catalog(
                vpg.catalog, vpg.name, vpg.manager, [s.id for s in vpg.streams], history=Ns(spec.journal.history),
                tweaks=tweaks,
            )  # fmt: skip
        managers = {vpg.name: vpg.manager for vpg in self.vpgs}
        catalogs = {vpg.name: vpg.catalog for vpg in self.vpgs}
        for host, spec_ in self.model.hosts.items():
            (protecting, recovering), pool = self.vras(host), spec_.vra.pool_bytes
            out = [s for s in self.streams.values() if s.id.source == protecting]
            into = [s for s in self.streams.values() if s.id.target == recovering]
            if out:
                made[protecting] = ProtectedVra(protecting, managers, out, pool_bytes=pool, tweaks=tweaks)
            if into:
                made[recovering] = RecoveryVra(recovering, catalogs, into, pool_bytes=pool, tweaks=tweaks)
        return made
