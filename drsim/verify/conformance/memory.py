"""Memory: a platform that is nothing but what its ports promise: the arm `sim`, and the suite's own yardstick.

Whatever changes something is one call that the bench may trouble, and goes through `patiently` as in every adapter. A
platform of this kind that breaks one promise has to be caught by the suite (`tests/platforms/test_suite.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from drsim.core.recovery.plan import Nic
from drsim.core.units import Ns
from drsim.real.clock import now_ns
from drsim.real.ports import (
    About,
    Area,
    Change,
    DiskFacts,
    DiskId,
    Epoch,
    Gone,
    HostChanged,
    HostFacts,
    LoginRefused,
    Moved,
    NewVm,
    NotFound,
    Platform,
    Power,
    StoreFacts,
    Taken,
    Untrusted,
    VmFacts,
)  # fmt: skip
from drsim.verify.conformance.bench import Trouble
from drsim.verify.conformance.boot import boot
from drsim.verify.conformance.estate import Estate, Part, Wire

GRAIN = 4096
"""Bytes that changes are told in."""


class MemoryInventory(Part):
    """Looks."""

    async def about(self) -> About:
        """Of this process."""
        return About("memory", "1", _now())

    async def hosts(self) -> Sequence[HostFacts]:
        """With what their VMs leave."""
        return [
            replace(host, memory=host.memory - sum(vm.memory for vm in self.estate.vms.values() if vm.host == name))
            for name, host in self.estate.hosts.items()
        ]

    async def stores(self) -> Sequence[StoreFacts]:
        """One."""
        used = sum(disk.size for disk in self.estate.disks.values())
        return [StoreFacts("store", 1 << 30, (1 << 30) - used)]

    async def networks(self) -> Sequence[str]:
        """All."""
        return self.estate.networks

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """All, or an owner's."""
        return [vm for vm in self.estate.vms.values() if owner is None or vm.owner == owner]

    async def vm(self, name: str) -> VmFacts:
        """Raises NotFound."""
        return self.estate.vm(name)

    async def changes(self) -> AsyncIterator[Change]:
        """As they happen."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        self.estate.listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.estate.listeners.remove(queue)


class MemoryHypervisor(Part):
    """Makes VMs that do nothing."""

    async def create(self, vm: NewVm) -> None:
        """Raises Taken, NotFound."""
        await self._change("create", lambda: self._create(vm))

    def _create(self, vm: NewVm) -> None:
        if vm.store != "store":
            raise NotFound(f"there is no datastore {vm.store}", place="sim")
        there = self.estate.vms.get(vm.name)
        if there is not None and there.owner != vm.owner:
            raise Taken(f"a VM is called {vm.name} already", place="sim")
        host = self.estate.hosts.get(vm.host)
        if host is None or not host.usable:
            raise NotFound(f"host {vm.host} takes no VMs", place="sim")
        if there is None:
            self.estate.vms[vm.name] = VmFacts(
                vm.name, vm.owner, vm.host, Power.OFF, vm.cpus, vm.memory, vm.firmware, secure_boot=vm.secure_boot,
                system=vm.system,
            )  # fmt: skip

    async def delete(self, name: str, owner: str) -> None:
        """Without its disks."""

        def work() -> None:
            there = self.estate.vms.get(name)
            if there is not None and there.owner == owner:
                for disk in there.disks:
                    self.estate.disks[disk] = replace(self.estate.disks[disk], attached="")
                del self.estate.vms[name]
                self.estate.nics.pop(name, None)
                self.estate.tell(Gone(name))

        await self._change("delete", work)

    async def attach(self, name: str, disk: DiskId) -> None:
        """Raises NotFound, Taken."""

        def work() -> None:
            vm, facts = self.estate.vm(name), self.estate.disks.get(disk)
            if facts is None:
                raise NotFound(f"there is no disk {disk}", place="sim")
            if facts.attached not in ("", name):
                raise Taken(f"disk {disk} is attached to {facts.attached}", place="sim")
            if disk not in vm.disks:
                self.estate.put(name, disks=(*vm.disks, disk))
                self.estate.disks[disk] = replace(facts, attached=name)

        await self._change("attach", work)

    async def detach(self, name: str, disk: DiskId) -> None:
        """The disk stays."""

        def work() -> None:
            vm = self.estate.vms.get(name)
            if vm is not None and disk in vm.disks:
                self.estate.put(name, disks=tuple(each for each in vm.disks if each != disk))
                self.estate.disks[disk] = replace(self.estate.disks[disk], attached="")

        await self._change("detach", work)

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Raises NotFound."""

        def work() -> None:
            unknown = [nic.network for nic in nics if nic.network not in self.estate.networks]
            if unknown:
                raise NotFound(f"there is no network {unknown[0]}", place="sim")
            self.estate.put(name, networks=tuple(nic.network for nic in nics))
            self.estate.nics[name] = tuple(nics)

        await self._change("set the networks", work)

    async def power_on(self, name: str) -> None:
        """Its guest has its addresses at once."""

        def work() -> None:
            nics = self.estate.nics.get(name, ())
            addresses = tuple(nic.address for nic in nics if nic.address is not None)
            self.estate.put(name, power=Power.ON, addresses=addresses)

        await self._change("power on", work)

    async def power_off(self, name: str) -> None:
        """At once."""
        await self._change("power off", lambda: self.estate.put(name, power=Power.OFF, addresses=()))

    async def shut_down(self, name: str, timeout: float) -> bool:
        """It does."""
        await self.power_off(name)
        return True

    async def wait(self, name: str, timeout: float) -> None:
        """It is up when it runs. Raises Taken."""
        if self.estate.vm(name).power is not Power.ON:
            raise NotFound(f"{name} does not run", place="sim")


class MemoryDisks(Part):
    """Disks are files of a folder."""

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """The one of this owner and name."""

        def work() -> DiskId:
            if store != "store":
                raise NotFound(f"there is no datastore {store}", place="sim")
            found = [d.id for d in self.estate.disks.values() if (d.name, d.owner) == (name, owner)]
            if found:
                return found[0]
            disk = DiskId(f"disk-{next(self.estate.numbers)}")
            self.estate.path(disk).write_bytes(bytes(size))
            self.estate.disks[disk] = DiskFacts(disk, name, size, owner)
            return disk

        return await self._change("create a disk", work)

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Raises Taken."""

        def work() -> None:
            facts = self.estate.disks.get(disk)
            if facts is None or facts.owner != owner:
                return
            if facts.attached:
                raise Taken(f"disk {disk} is attached to {facts.attached}", place="sim")
            del self.estate.disks[disk]
            self.estate.path(disk).unlink()

        await self._change("delete a disk", work)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """An owner's."""
        return [disk for disk in self.estate.disks.values() if disk.owner == owner]

    async def disk(self, disk: DiskId) -> DiskFacts:
        """Raises NotFound."""
        if disk not in self.estate.disks:
            raise NotFound(f"there is no disk {disk}", place="sim")
        return self.estate.disks[disk]


class MemoryLocator(Part):
    """The folder."""

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """Raises NotFound."""
        if self.estate.disks.get(disk, DiskFacts(disk, "", 0)).attached != appliance:
            raise NotFound(f"disk {disk} is not attached to {appliance}", place="sim")
        return self.estate.path(disk)


class MemoryChanges(Part):
    """Snapshots are copies; a mark is a copy that is kept."""

    async def begin(self, vm: str, owner: str) -> Epoch:
        """An unfinished one of this owner goes first."""

        def work() -> Epoch:
            facts = self.estate.vm(vm)
            number = next(self.estate.numbers)
            id_ = f"{vm}/{owner}"
            self.estate.snapshots[id_] = {}
            marks = []
            for disk in facts.disks:
                copy = self.estate.folder / f"mark-{number}-{disk}"
                copy.write_bytes(self.estate.path(disk).read_bytes())
                self.estate.snapshots[id_][disk] = self.estate.marks[copy.name] = copy
                marks.append((disk, copy.name))
            return Epoch(vm, id_, _now(), tuple(marks))

        return await self._change("snapshot", work)

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """In grains that differ. Raises Untrusted."""
        new = self.estate.snapshots[epoch.id][disk].read_bytes()
        if since is None:
            old = bytes(len(new))
        elif since in self.estate.marks:
            old = self.estate.marks[since].read_bytes()
        else:
            raise Untrusted(f"the mark {since} is not known", place="sim")
        return [
            Area(at, min(GRAIN, len(new) - at))
            for at in range(0, len(new), GRAIN)
            if new[at : at + GRAIN] != old[at : at + GRAIN]
        ]

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        """Of the snapshot."""
        return self.estate.snapshots[epoch.id][disk].read_bytes()[area.offset : area.offset + area.length]

    async def forget(self, vm: str, owner: str) -> None:
        """With their marks."""

        def work() -> None:
            self.estate.snapshots.pop(f"{vm}/{owner}", None)
            for disk in self.estate.vm(vm).disks if vm in self.estate.vms else ():
                gone = [mark for mark in self.estate.marks if mark.endswith(f"-{disk}")]
                for mark in gone:
                    del self.estate.marks[mark]

        await self._change("forget epochs", work)

    async def end(self, epoch: Epoch) -> None:
        """Its marks stay."""
        await self._change("end a snapshot", lambda: self.estate.snapshots.pop(epoch.id, None))


class MemoryBench:
    """The bench over it. Make it with `open_memory`."""

    host, other_host, store, network, test_network = "host-1", "host-2", "store", "lan", "test"
    address, mask, stride = "10.0.0.5", "255.255.255.0", 1
    inventory, hypervisor, disks, epochs = MemoryInventory, MemoryHypervisor, MemoryDisks, MemoryChanges
    """What the platform is made of; a wrong one is put here."""

    def __init__(self, folder: Path) -> None:
        hosts = {name: HostFacts(name, 64 << 30, 64) for name in (self.host, self.other_host)}
        self._estate = Estate(folder, hosts, (self.network, self.test_network))
        self._estate.vms["vra"] = VmFacts("vra", "", self.host, Power.ON, 1, 1 << 30)
        self.wire = Wire()
        self.platform = self._connect()

    def _connect(self) -> Platform:
        parts = self._estate, self.wire
        return Platform(
            "sim", self.inventory(*parts), self.hypervisor(*parts), self.disks(*parts), MemoryLocator(*parts), "vra",
            _nothing, self.epochs(*parts),
        )  # fmt: skip

    def trouble(self, trouble: Trouble, times: int = 1, skip: int = 0) -> None:
        """So much of it."""
        self.wire.expect(trouble, times, skip)

    def changes(self) -> int:
        """Calls so far."""
        return self.wire.changes

    async def lose_host(self, name: str) -> None:
        """It takes no VMs."""
        self._estate.hosts[name] = replace(self._estate.hosts[name], usable=False)
        self._estate.tell(HostChanged(name, usable=False))

    async def move_vm(self, name: str, host: str) -> None:
        """It is there at once."""
        self._estate.put(name, host=host)
        self._estate.tell(Moved(name, host))

    async def restart(self) -> Platform:
        """Another connection."""
        self.platform = self._connect()
        return self.platform

    async def refused(self) -> Platform:
        """Raises LoginRefused."""
        raise LoginRefused("user or password are not accepted", place="sim", hint="correct them in the site's file")

    async def booted(self, vm: str) -> str:
        """QEMU boots its first disk."""
        return await boot(self._estate.path(self._estate.vm(vm).disks[0]))

    async def fill(self, disk: DiskId, content: bytes) -> None:
        """In the file."""
        with self._estate.path(disk).open("r+b") as file:
            file.write(content)

    async def content(self, disk: DiskId, length: int) -> bytes:
        """Of the file."""
        return self._estate.path(disk).read_bytes()[:length]


async def _nothing() -> None:
    pass


def _now() -> Ns:
    return Ns(now_ns())
