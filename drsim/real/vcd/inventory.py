"""VcdInventory: a tenant's VMs, VDCs, policies and networks, and the vCenter's VMs behind.

A VM is known by its reference in the vCenter, which has another name for it. Before it is imported it is a VM of the
vCenter only, which says in its advanced settings for which VDC it is meant. What stands for hosts are VDCs, for
datastores storage policies. vCloud Director tells nothing by itself, so changes are found by looking.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyVmomi import vim

from drsim.core.errors import PlatformError
from drsim.core.units import SECOND
from drsim.real.ports import About, Change, Gone, HostChanged, HostFacts, Moved, NotFound, StoreFacts, VmFacts
from drsim.real.vcd.session import V, VcdSession
from drsim.real.vsphere.inventory import VM, VsphereInventory, called, extra, vm_facts

VDC, POLICY, NAME = "drsim.vcd.vdc", "drsim.vcd.policy", "drsim.vcd.name"
"""Keys of a VM's extraConfig: the VDC (its id) and policy that it is meant for, and what it is to be called there."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A VM. `inside`: what the vCenter calls it; `moref`: its reference there; `href`: where it is here, if it is."""

    facts: VmFacts
    inside: str
    moref: str
    href: str = ""
    vapp: str = ""
    status: str = ""
    policy: str = ""


def ident(href: str | None) -> str:
    """What an address is of: the same thing has several, an administrator's and a tenant's."""
    return (href or "").rpartition("/")[2]


class VcdInventory:
    """What a tenant has."""

    def __init__(self, session: VcdSession, vcenter: VsphereInventory) -> None:
        self.session, self.vcenter = session, vcenter
        self._server, self._vdcs = "", dict[str, Any]()

    async def about(self) -> About:
        """Version, and the vCenter's clock and privileges."""
        below = await self.vcenter.about()

        async def look() -> str:
            build = (await self.session.ask("GET", "/api/admin")).findtext(f"{{{V}}}Description")
            return f"vCloud Director {build or ''}".rstrip()

        product = await self.session.patient("ask who it is", look)
        return About(f"{product} over {below.product}", below.version, below.clock, below.missing)

    async def hosts(self) -> Sequence[HostFacts]:
        """The tenant's VDCs. What a VDC does not limit, the vCenter's hosts do."""

        async def look() -> list[HostFacts]:
            below = [host for host in await self.vcenter.hosts() if host.usable]
            room = sum(host.memory for host in below), sum(host.cpus for host in below)
            return [_vdc(record, *room) for record in await self.vdcs()]

        return await self.session.patient("list the VDCs", look)

    async def vdcs(self) -> Sequence[Any]:
        """Their records."""
        records = await self.session.query("adminOrgVdc", orgName=self.session.spec.org)
        self._vdcs = {ident(record.get("href")): record for record in records}
        return records

    async def vdc(self, name: str) -> str:
        """Where a VDC is. Raises NotFound."""
        for look in (self._known, self.vdcs):
            await look()
            for record in self._vdcs.values():
                if record.get("name") == name:
                    return str(record.get("href", ""))
        raise NotFound(f"no VDC is called {name}", place=self.session.place)

    async def _known(self) -> None:
        if not self._vdcs:
            await self.vdcs()

    async def stores(self) -> Sequence[StoreFacts]:
        """The storage policies, with the room of the datastores behind them."""
        below = {store.name: store for store in await self.vcenter.stores()}
        policies = self.session.spec.policies
        return [replace(below[store], name=name) for name, store in policies.items() if store in below]

    async def networks(self) -> Sequence[str]:
        """The networks of the tenant's VDCs."""

        async def look() -> list[str]:
            return sorted({record.get("name", "") for record in await self.networks_here()})

        return await self.session.patient("list the networks", look)

    async def networks_here(self) -> list[Any]:
        """Their records; the provider sees those of all tenants."""
        await self._known()
        return [each for each in await self.session.query("orgVdcNetwork") if ident(each.get("vdc")) in self._vdcs]

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """All of the tenant's VMs, and those that are to become some; or those that an owner made."""

        async def look() -> list[VmFacts]:
            mine = [each for each in await self.entries() if owner is None or each.facts.owner == owner]
            return [await self._connected(each) for each in mine]

        return await self.session.patient("list the VMs", look)

    async def vm(self, name: str) -> VmFacts:
        """One VM. Raises NotFound."""

        async def look() -> VmFacts:
            return await self._connected(await self.entry(name))

        return await self.session.patient(f"look at VM {name}", look)

    async def changes(self) -> AsyncIterator[Change]:
        """VDCs that are switched off and on, VMs that go to another VDC or away."""
        hosts, places = await self._state()
        while True:
            await asyncio.sleep(self.session.spec.poll / SECOND)
            now, there = await self._state()
            for name, usable in now.items():
                if hosts.get(name, usable) != usable:
                    yield HostChanged(name, usable)
            for vm, host in places.items():
                if vm not in there:
                    yield Gone(vm)
                elif there[vm] != host:
                    yield Moved(vm, there[vm])
            hosts, places = now, there

    async def _state(self) -> tuple[dict[str, bool], dict[str, str]]:
        hosts = {host.name: host.usable for host in await self.hosts()}
        there = await self.session.patient("list the VMs", self.entries)
        return hosts, {each.facts.name: each.facts.host for each in there}

    # -- what the other ports ask ------------------------------------------------------------------------------------

    async def entries(self) -> list[Entry]:
        """All VMs, with the vCenter's below them: read first, so that one that is just imported is not missed."""
        below = await self.vcenter.session.patient("list the VMs", lambda: self.vcenter.all(vim.VirtualMachine, *VM))
        await self.vdcs()
        records = {each.get("moref", ""): each for each in await self._records()}
        found = [self._entry(thing, facts, records.get(thing._moId)) for thing, facts in below]
        return [each for each in found if each is not None]

    async def entry(self, name: str) -> Entry:
        """One. Raises NotFound; PlatformError when two have the name, which vCloud Director lets VMs of two vApps."""
        records = [each for each in await self._records(name=name) if await self._ours(each)]
        if len(records) > 1:
            hint = "rename one of them"
            raise PlatformError(f"{len(records)} VMs are called {name}", place=self.session.place, hint=hint)
        below = self.vcenter.session
        if records:
            thing = vim.VirtualMachine(records[0].get("moref", ""), below.root._stub)
            look = partial(below.read, thing, *VM)
            found = self._entry(thing, await below.patient(f"look at VM {name}", look), records[0])
        else:
            await self._known()
            one = partial(self.vcenter.one, vim.VirtualMachine, name, *VM)
            found = self._entry(*await below.patient(f"look for VM {name}", one), None)
        if found is None or found.facts.name != name:
            raise NotFound(f"no VM is called {name}", place=self.session.place)
        return found

    async def _records(self, **filters: str) -> list[Any]:
        """Of VMs that are in this vCenter, of whatever tenant."""
        server = ident(await self.server())
        records = await self.session.query("adminVM", isVAppTemplate="false", **filters)
        return [each for each in records if ident(each.get("vc")) == server]

    async def _ours(self, record: Any) -> bool:
        """Whether it is in one of the tenant's VDCs; one that is not known may be new."""
        if ident(record.get("vdc")) not in self._vdcs:
            await self.vdcs()
        return ident(record.get("vdc")) in self._vdcs

    def _entry(self, thing: Any, facts: dict[str, Any], record: Any) -> Entry | None:
        """A VM of the vCenter, if it is the tenant's, is to become it, or is the appliance."""
        inside, vm, noted = called(facts["name"]), vm_facts(facts, {}), extra(facts.get("config.extraConfig", ()))
        meant, policy = noted.get(VDC, ""), noted.get(POLICY, "")
        if record is None:
            if meant in self._vdcs or inside == self.session.spec.vcenter.appliance:
                host = self._vdcs[meant].get("name", "") if meant in self._vdcs else ""
                vm = replace(vm, name=noted.get(NAME, inside), host=host)
                return Entry(vm, inside, thing._moId, policy=policy)
            return None
        vdc = ident(record.get("vdc"))
        if vdc not in self._vdcs:
            return None
        vm = replace(vm, name=record.get("name", ""), host=self._vdcs[vdc].get("name", ""))
        here, vapp, status = record.get("href", ""), record.get("container", ""), record.get("status", "")
        return Entry(vm, inside, thing._moId, here, vapp, status, policy)

    async def server(self) -> str:
        """Where the vCenter is, as it is registered here. Raises NotFound."""
        if not self._server:
            records = await self.session.query("virtualCenter", name=self.session.spec.server)
            if not records:
                message = f"no vCenter is registered as {self.session.spec.server}"
                raise NotFound(message, place=self.session.place)
            self._server = f"/api/admin/extension/vimServer/{ident(records[0].get('href'))}"
        return self._server

    async def _connected(self, entry: Entry) -> VmFacts:
        """Its facts, with its networks by the names that they have here."""
        if not entry.href:
            return entry.facts
        section = await self.session.ask("GET", f"{entry.href}/networkConnectionSection")
        nics = section.findall(f"{{{V}}}NetworkConnection")
        return replace(entry.facts, networks=tuple(nic.get("network", "") for nic in nics))


def _vdc(record: Any, memory: int, cpus: int) -> HostFacts:
    def free(limit: str, used: str, unlimited: int, unit: float) -> int:
        most = int(record.get(limit) or 0)
        return max(0, int((most - int(record.get(used) or 0)) * unit)) if most else unlimited

    memory = free("memoryLimitMB", "memoryUsedMB", memory, _MIB)
    cpus = free("cpuLimitMhz", "cpuUsedMhz", cpus, 1 / 1000)
    return HostFacts(record.get("name", ""), memory, cpus, record.get("isEnabled") == "true")
