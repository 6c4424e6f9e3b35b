"""VcdDisks and VcdChanges: disks and epochs are the vCenter's; here they have the tenant's names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from drsim.real.ports import Area, ChangeSource, DiskFacts, DiskId, Epoch, NotFound
from drsim.real.vcd.inventory import VcdInventory
from drsim.real.vsphere.disks import VsphereDisks


class VcdDisks:
    """Disks are the vCenter's; a storage policy stands for a datastore."""

    def __init__(self, inventory: VcdInventory, below: VsphereDisks, policies: Mapping[str, str]) -> None:
        self._inventory, self._below, self._policies = inventory, below, policies
        self.locate = below.locate

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """On the datastore of a policy. Raises NotFound."""
        if store not in self._policies:
            raise NotFound(f"no storage policy is called {store}", place=self._inventory.session.place)
        return await self._below.create(name, size, self._policies[store], owner)

    async def delete(self, disk: DiskId, owner: str) -> None:
        """As in the vCenter."""
        await self._below.delete(disk, owner)

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """With the names that VMs have here."""
        return await self._here(await self._below.owned(owner))

    async def disk(self, disk: DiskId) -> DiskFacts:
        """With the name that its VM has here."""
        return (await self._here([await self._below.disk(disk)]))[0]

    async def _here(self, disks: Sequence[DiskFacts]) -> list[DiskFacts]:
        if not any(disk.attached for disk in disks):
            return list(disks)
        session = self._inventory.session
        entries = await session.patient("look whose a disk is", self._inventory.entries)
        names = {entry.inside: entry.facts.name for entry in entries}
        return [replace(disk, attached=names.get(disk.attached, disk.attached)) for disk in disks]


class VcdChanges:
    """Capture from a tenant, by the vCenter's changed block tracking."""

    def __init__(self, inventory: VcdInventory, below: ChangeSource) -> None:
        self._inventory, self._below = inventory, below
        self.read, self.end = below.read, below.end

    async def begin(self, vm: str, owner: str) -> Epoch:
        """Of the VM that is meant in the vCenter."""
        return replace(await self._below.begin(await self._inside(vm), owner), vm=vm)

    async def forget(self, vm: str, owner: str) -> None:
        """Of the VM that is meant in the vCenter."""
        await self._below.forget(await self._inside(vm), owner)

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """As the vCenter tells it. Raises Untrusted, NotFound."""
        return await self._below.changed(replace(epoch, vm=await self._inside(epoch.vm)), disk, since)

    async def _inside(self, vm: str) -> str:
        look = partial(self._inventory.entry, vm)
        return (await self._inventory.session.patient(f"look for VM {vm}", look)).inside
