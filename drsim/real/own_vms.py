"""OwnVms: the VMs that are a site's own, from its file or adopted after a recovery, with their numbers and disks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from drsim.core.errors import FileError
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.disk import Disk
from drsim.real.local.hypervisor import LocalVm
from drsim.spec.live import LiveVm

if TYPE_CHECKING:
    from drsim.real.installation import Installation


class OwnVms:
    """Those of one site."""

    def __init__(self, site: "Installation") -> None:
        self._site = site

    @property
    def vms(self) -> dict[str, LiveVm]:
        """By name."""
        return self._site.state.state.own(self._site.spec)

    def vm(self, name: str) -> LiveVm:
        """One of them. Raises FileError when there is none of this name."""
        found = self.vms.get(name)
        if found is None:
            hint = f"there is: {', '.join(self.vms) or 'none'}"
            raise FileError(f"no VM is called {name!r}", place=self._site.spec.site, hint=hint)
        return found

    def open(self) -> None:
        """Numbers for all of them, and their disks are served."""
        self.number({name: list(vm.disks) for name, vm in self.vms.items()})
        for name, vm in self.vms.items():
            self.serve(name, vm)

    def number(self, disks: Mapping[str, Sequence[str]]) -> None:
        """Numbers for VMs and their volumes, once and for ever."""
        state = self._site.state
        vms, volumes = dict(state.state.vms), dict(state.state.volumes)
        for name, names in disks.items():
            vms.setdefault(name, len(vms) + 1)
            for disk in names:
                volumes.setdefault(f"{name}/{disk}", len(volumes) + 1)
        state.put(vms=vms, volumes=volumes)

    def serve(self, name: str, vm: LiveVm) -> None:
        """Open the disks of a VM that has numbers, and serve them."""
        site, state = self._site, self._site.state.state
        for disk_name, disk in vm.disks.items():
            export = f"{name}/{disk_name}"
            id_ = VolumeId(state.volumes[export])
            info = VolumeInfo(id_, VmId(state.vms[name]), disk.size // SECTOR)
            site.site.disks[id_] = Disk(info, site.base / disk.path)
            site.splitter.add(export, site.site.disks[id_])

    def describe(self) -> None:
        """Make them at the hypervisor, powered off, unless they are there."""
        for name, vm in self.vms.items():
            disks = tuple(f"{name}/{disk}" for disk in vm.disks)
            nics = tuple({"network": network} for network in vm.networks)
            self._site.hypervisor.create(LocalVm(name, "", vm.memory, vm.cpus, disks, nics, vm.ready))
