"""Hypervisor: the sites' platforms: recovered VMs, how long everything takes, and how much of it at a time.

    of one host        at most `Hypervisor.concurrent` operations at a time, the others queue
    of one platform    at most `Hypervisor.quota` VMs being created at a time (10 on AWS, products.md 1.7)
    each operation     its duration, from a random stream of its own when it has a spread; and may fail, as it does
                       when its host is lost before it is over

Laying out a checkpoint reads a VM's journals, promoting it and copying disks read and write, on a datastore that every
VPG there uses at the same time.
"""

from collections import deque
from collections.abc import Callable
from math import log, sqrt
from typing import TYPE_CHECKING

import numpy as np

from drsim.core.action import Action
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.names import VmId
from drsim.core.recovery import actions as do
from drsim.core.units import SECTOR
from drsim.sim.layout import VpgLayout
from drsim.spec.recovery import Hypervisor

if TYPE_CHECKING:
    from drsim.sim.world import World

AWS_QUOTA = 10
Answer = Callable[[DrsimError | None], None]


class Slots:
    """So many at a time, first come, first served; None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self._free, self._queue = limit, deque[Callable[[], None]]()

    def take(self, work: Callable[[], None]) -> None:
        """Begin it, now or when there is room."""
        if self._free is None:
            work()
        elif self._free:
            self._free -= 1
            work()
        else:
            self._queue.append(work)

    def give_back(self) -> None:
        """Something that was begun is over."""
        if self._queue:
            self._queue.popleft()()
        elif self._free is not None:
            self._free += 1


class Platforms:
    """The hypervisors of all sites. `made`: host, VM and VPG of each recovered VM. `used`: cores and bytes of hosts."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._hosts = {name: Slots(self.of(host.site).concurrent) for name, host in world.model.hosts.items()}
        self._quotas = {name: Slots(self._quota(name)) for name in world.model.sites}
        self._rngs: dict[str, np.random.Generator] = {}
        self.made: dict[str, tuple[str, VmId, str]] = {}
        self.used: dict[str, list[int]] = {host: [0, 0] for host in world.model.hosts}

    def of(self, site: str) -> Hypervisor:
        """A site's platform."""
        return self._world.model.sites[site].hypervisor

    def free(self, site: str) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes of memory and cores that are free on each host of a site."""
        hosts = {name: host for name, host in self._world.model.hosts.items() if host.site == site}
        return (
            {name: host.memory - self.used[name][1] for name, host in hosts.items()},
            {name: host.cpus - self.used[name][0] for name, host in hosts.items()},
        )

    def _quota(self, site: str) -> int | None:
        default = AWS_QUOTA if self._world.model.sites[site].platform == "aws" else None
        return self.of(site).quota or default

    def carry_out(self, vpg: VpgLayout, action: Action[object], answer: Callable[..., None]) -> None:
        """Do something at a VPG's recovery site, and answer when it is done, or with why not."""
        world, platform = self._world, self.of(vpg.target)
        store = world.stores[vpg.spec.recovery.datastore]
        match action:
            case do.CreateVm(name, vm, host, cpus, memory):
                self.made[name] = host, vm, vpg.name
                self.used[host][0] += cpus
                self.used[host][1] += memory
                quota = self._quotas[vpg.target]

                def done(error: DrsimError | None) -> None:
                    quota.give_back()
                    answer(error)

                quota.take(lambda: self._on_host(name, "create", platform.create, done))
            case do.DeleteVm(name) if name in self.made:
                host, vm, _ = self.made[name]

                def gone(_: DrsimError | None) -> None:
                    del self.made[name]  # on a host that is lost there is nothing left to delete
                    self.used[host][0] -= world.layout.vm(vm).cpus
                    self.used[host][1] -= world.layout.vm(vm).memory
                    answer(None)

                self._on_host(name, "delete", platform.delete, gone)
            case do.CreateScratch(_, vm, _, instant):
                store.scan(0 if instant else self._journal(vpg, vm), lambda: answer(None))
            case do.Promote(_, vm, _):
                store.background(self._journal(vpg, vm), lambda: answer(None))
            case do.RestoreVolume(_, volume, _, False):
                found = [v for vm in vpg.members.vms for v in world.layout.volumes(vm) if v.id == volume]
                store.background(sum(v.sectors * SECTOR for v in found), lambda: answer(None))
            case do.CopyDisks(_, vm, _):
                nbytes = sum(volume.sectors * SECTOR for volume in world.layout.volumes(vm))
                store.background(nbytes, lambda: answer(None))
            case do.AttachDisks(name) if name in self.made:
                disks = len(world.layout.volumes(self.made[name][1]))
                self._on_host(name, "attach", platform.attach * disks, answer)
            case do.ReIp(name, _) if name in self.made:  # the guest does it: no slot of the host
                takes = self.time(self.made[name][1], "re_ip", platform.re_ip, platform)
                world.clock.call(takes, lambda: answer(None))
            case do.PowerOn(name) if name in self.made:
                self._on_host(name, "power_on", platform.power_on, answer)
            case do.PowerOff(name) if name in self.made:
                self._on_host(name, "power_off", platform.power_off, lambda _: answer(None))  # off with its host, too
            case do.AwaitGuest(name, timeout) if name in self.made:
                spec = world.layout.vm(self.made[name][1])
                takes = self.time(self.made[name][1], "boot", spec.boot + spec.application, platform)
                late = PlatformError(f"{name} did not answer in time") if takes > timeout else None
                host = self.made[name][0]
                world.clock.call(min(takes, timeout), lambda: answer(self._lost(host) or late))
            case _:  # nothing to undo
                world.clock.call(0, lambda: answer(None))

    def _lost(self, host: str) -> DrsimError | None:
        return PlatformError(f"host {host} is lost") if host in self._world.lost_hosts else None

    def _journal(self, vpg: VpgLayout, vm: VmId) -> int:
        """Bytes of the VM's journals, which have to be read to lay out a checkpoint, and written to promote one."""
        return sum(journal.nbytes for journal in self._world.journals_of(vpg.name) if journal.vm == vm)

    def _on_host(self, name: str, what: str, mean: int, answer: Answer) -> None:
        """An operation on a recovered VM, when its host has a slot for it."""
        host, vm, vpg = self.made[name]
        slots = self._hosts[host]
        takes = self.time(vm, what, mean, self.of(self._world.model.hosts[host].site))
        fails = what in ("create", "attach", "power_on") and self._fails(vm, what, self._world.layout.vpg_of[vpg])
        error = PlatformError(f"{what} {name}: the platform has failed") if fails else None

        def over() -> None:
            slots.give_back()
            answer(self._lost(host) or error)

        slots.take(lambda: self._world.clock.call(takes, over))

    def time(self, vm: VmId, what: str, mean: int, platform: Hypervisor) -> int:
        """A duration: exactly the mean, or log-normal around it."""
        spread = platform.spread
        if not spread or not mean:
            return int(mean)
        sigma = sqrt(log(1 + spread * spread))
        return int(mean * self._rng(vm, what).lognormal(-sigma * sigma / 2, sigma))

    def _fails(self, vm: VmId, what: str, vpg: VpgLayout) -> bool:
        share = self.of(vpg.target).fails
        return bool(share) and bool(self._rng(vm, f"{what} fails").random() < share)

    def _rng(self, vm: VmId, what: str) -> np.random.Generator:
        name = f"vm/{self._world.layout.vm_names[vm]}/recovery/{what}"
        if name not in self._rngs:
            self._rngs[name] = self._world.streams.rng(name)
        return self._rngs[name]
