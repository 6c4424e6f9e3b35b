"""Estate: a site of a model file as a real one: the same sites, hosts, VMs and VPGs that are simulated."""

from drsim.core.errors import FileError
from drsim.spec.live import LiveDisk, LiveHost, LiveLink, LiveVm, SiteFile
from drsim.spec.model import Model
from drsim.spec.protect import Vm, Vpg


def site_of(model: Model, name: str, *, place: str) -> SiteFile:
    """A site of a model as its own file would have it. Raises FileError for what a real site needs and has not."""
    site = model.sites.get(name)
    if site is None:
        raise FileError(f"no site is called {name!r}", place=place, hint=f"there is: {', '.join(model.sites)}")
    if site.live is None:
        hint = f"give sites.{name}.live a folder, and listen or connect"
        raise FileError(f"site {name!r} says nothing of how it is run for real", place=place, hint=hint)
    others = [other for other, each in model.sites.items() if other != name and each.live is not None]
    if len(others) != 1:
        hint = "a real site has one peer: give live to two sites of the estate"
        raise FileError(f"site {name!r} has {len(others)} peers that are run for real", place=place, hint=hint)
    live = site.live
    hosts = {
        each: LiveHost(pool=host.vra.pool_bytes, memory=host.memory, cpus=host.cpus)
        for each, host in model.hosts.items() if host.site == name
    }  # fmt: skip
    if not hosts:
        raise FileError(f"site {name!r} has no host", place=place, hint="add one under hosts")
    vms = {each: vm for each, vm in model.expand()[0].items() if model.site_of(vm) == name}
    return SiteFile(
        site=name, folder=live.folder, pki=live.pki, api=live.api, hosts=hosts, networks=site.networks,
        accel=live.accel, platform=live.access, datastore=live.datastore, tweaks=model.tweaks,
        link=LiveLink(peer=others[0], listen=live.listen, connect=live.connect),
        vms={each: _vm(each, vm, place, here=live.access is None) for each, vm in vms.items()},
    )  # fmt: skip


def _vm(name: str, vm: Vm, place: str, *, here: bool) -> LiveVm:
    assert isinstance(vm.host, str)
    if not here:  # the platform knows the rest
        return LiveVm(host=vm.host, ready=vm.ready)
    lacking = [volume.name for volume in vm.volumes if volume.path is None]
    if lacking:
        hint = f"give vms.{name}.volumes a path: a file, from the estate file's folder, or a block device"
        raise FileError(f"volume {lacking[0]} of VM {name} is nowhere", place=place, hint=hint)
    disks = {volume.name: LiveDisk(path=volume.path or "", size=volume.size) for volume in vm.volumes}
    return LiveVm(host=vm.host, memory=vm.memory, cpus=vm.cpus, disks=disks, tools=vm.tools, ready=vm.ready)


def vpg_of_estate(model: Model, name: str, *, place: str) -> Vpg:
    """A VPG of a model, with single VMs, for the site that protects it. Raises FileError."""
    vpgs = model.expand()[1]
    if name not in vpgs:
        raise FileError(f"no VPG is called {name!r}", place=place, hint=f"there is: {', '.join(vpgs)}")
    return vpgs[name]
