"""OwnVms: the VMs that are a site's own, from its file or adopted after a recovery, with their numbers and disks."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from drsim.core.errors import FileError, PlatformError
from drsim.core.events import VolumeLost
from drsim.core.names import VmId, VolumeId, VolumeInfo, vra_address
from drsim.core.units import SECTOR
from drsim.real.disk import Disk
from drsim.real.host import HostLink
from drsim.real.local.hypervisor import LocalVm
from drsim.real.local.network import mac_of
from drsim.real.recorder import Recorders
from drsim.real.vra import Begin, command, found, own
from drsim.spec.live import LiveVm

if TYPE_CHECKING:
    from drsim.real.installation import Installation

LOOK = 5.0
"""Seconds between looks at whether a VM was paused."""


class OwnVms:
    """Those of one site."""

    def __init__(self, site: "Installation") -> None:
        self._site = site
        self.recorders = Recorders(site.base / site.spec.folder / "recordings")
        self.missing: dict[str, PlatformError] = {}
        """Disks that could not be opened, by export, and why."""

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
        """Numbers for all of them, and their disks are served; one that cannot be opened is `missing`.

        A disk that is new is made; one that had been there is not.
        """
        known = set(self._site.state.state.volumes)
        self.number({name: list(vm.disks) for name, vm in self.vms.items()})
        for name, vm in self.vms.items():
            if not vm.disks:
                hint = "give it disks, or the site a platform that knows them"
                raise FileError(f"VM {name} has no disk", place=self._site.spec.site, hint=hint)
            for disk in vm.disks:
                export = f"{name}/{disk}"
                try:
                    self._serve(name, vm, disk, must_exist=export in known)
                except PlatformError as error:
                    self.missing[export] = error

    def tell(self) -> None:
        """The VRAs of disks that are missing hear of it: nothing of them is sent until they are there again."""
        numbers = self._site.state.state.volumes
        for export in self.missing:
            vra = vra_address(self._site.spec.site, self.vms[export.partition("/")[0]].host)
            self._site.site.post(vra, VolumeLost(VolumeId(numbers[export])))

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
        """Open the disks of a VM that has numbers, and serve them. Raises PlatformError."""
        for disk in vm.disks:
            self._serve(name, vm, disk, must_exist=True)

    def _serve(self, name: str, vm: LiveVm, disk: str, *, must_exist: bool) -> None:
        site, state, export = self._site, self._site.state.state, f"{name}/{disk}"
        id_ = VolumeId(state.volumes[export])
        info = VolumeInfo(id_, VmId(state.vms[name]), vm.disks[disk].size // SECTOR)
        path, served = site.base / vm.disks[disk].path, site.elsewhere is None
        if site.spec.processes and served:
            site.site.disks[id_] = self._host(vm.host).open(info, path, must_exist=must_exist)
        else:
            site.site.disks[id_] = Disk(info, path, must_exist=must_exist)
        if served:
            site.splitter.add(export, site.site.disks[id_])

    def _host(self, name: str) -> HostLink:
        """The process that serves the disks of a host, begun or found for the first of them. Raises PlatformError."""
        site, vra = self._site, vra_address(self._site.spec.site, name)
        if vra not in site.site.hosts:
            site.site.hosts[vra] = HostLink(site.site, vra, self._begin(name), lambda why: site.refused(why))
        return site.site.hosts[vra]

    def _begin(self, host: str) -> Begin:
        site = self._site
        if site.spec.processes == "apart":
            return lambda: found(site.folder, host, f"start it (drsim vra up SITE.yaml {host}), then the site")
        words = command(site.folder, host, site.spec.hosts[host].pool)
        return lambda: own(words)

    def record(self, vm: str, *, on: bool) -> tuple[Path, int]:
        """Record what a VM of this site writes, or end that; gives the file, and how many writes are in it."""
        site, spec = self._site, self.vm(vm)
        numbers = {name: VolumeId(site.state.state.volumes[f"{vm}/{name}"]) for name in spec.disks}
        host = site.site.hosts.get(vra_address(site.spec.site, spec.host))
        if host is not None:
            return host.record(vm, tuple(numbers.values()), on=on)
        disks = {name: disk for name, n in numbers.items() if isinstance(disk := site.site.disks[n], Disk)}
        return self.recorders.record(vm, disks, on=on)

    def describe(self) -> None:
        """Make them at the hypervisor, powered off, unless they are there; those of a platform are.

        One that was adopted keeps its NICs.
        """
        there = self._site.hypervisor.vms() if self._site.elsewhere is None else {}
        for name, vm in self.vms.items() if self._site.elsewhere is None else ():
            if name in there and name in self._site.state.state.adopted:
                continue
            disks = tuple(f"{name}/{disk}" for disk in vm.disks)
            nics = tuple({"network": network, "mac": mac_of(name, n)} for n, network in enumerate(vm.networks))
            self._site.hypervisor.create(LocalVm(name, "", vm.memory, vm.cpus, disks, nics, vm.ready))

    async def watch(self) -> None:
        """VMs that an error of a disk has paused try again, for ever."""
        hypervisor = self._site.hypervisor
        while True:
            for name in hypervisor.vms():
                with suppress(PlatformError):  # it has ended, or is busy: looked at again
                    await hypervisor.resume(name)
            await asyncio.sleep(LOOK)
