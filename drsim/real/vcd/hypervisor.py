"""VcdHypervisor: VMs are built in the vCenter, with their disks, and imported when they get networks or start.

A tenant cannot bring data in: named disks are born blank. So the provider builds the VM where its disks are and
imports it, which moves it into the tenant's VDC and gives it another name in the vCenter. All VMs of an operation in a
VDC are one vApp, which is the VPG there. Whatever happens to the disks afterwards is done in the vCenter, to the VM of
the same reference.
"""

import asyncio
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import DiskId, NewVm, NotFound, QuotaReached, Taken
from drsim.real.vcd.inventory import NAME, POLICY, VDC, Entry, VcdInventory, ident
from drsim.real.vcd.session import MEDIA, Refused, V, X
from drsim.real.vsphere.disks import escaped
from drsim.real.vsphere.hypervisor import VsphereHypervisor

_ON = "POWERED_ON"
_OVF = "http://schemas.dmtf.org/ovf/envelope/1"


def _node(tag: str, text: str | None = None, space: str = V, **attributes: str) -> ET.Element:
    made = ET.Element(f"{{{space}}}{tag}", attributes)
    made.text = text
    return made


def _with(node: ET.Element, *children: ET.Element) -> ET.Element:
    node.extend(children)
    return node


class VcdHypervisor:
    """A tenant's VMs."""

    def __init__(self, inventory: VcdInventory, below: VsphereHypervisor) -> None:
        self._inventory, self._below, self._session = inventory, below, inventory.session
        self._imports: Mapping[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def _alone(self, owner: str) -> asyncio.Lock:
        """One change of an owner's vApp at a time: vCloud Director refuses another one meanwhile."""
        return self._locks.setdefault(owner, asyncio.Lock())

    async def create(self, new: NewVm) -> None:
        """Build it in the vCenter, for a VDC that takes it."""

        async def look() -> bool:
            with suppress(NotFound):
                there = (await self._inventory.entry(new.name)).facts
                if there.owner != new.owner:
                    hint = "rename it, or recover under another name"
                    raise Taken(f"there is a VM {new.name} already", place=self._session.place, hint=hint)
                return True
            return False

        if not await self._session.patient(f"look for VM {new.name}", look):
            store = await self._place(new)
            hosts = [host for host in await self._inventory.vcenter.hosts() if host.usable]
            if not hosts:
                raise QuotaReached("the vCenter has no host that takes VMs", place=self._session.place)
            host = max(hosts, key=lambda each: each.memory).name
            noted = {VDC: ident(await self._inventory.vdc(new.host)), POLICY: new.store, NAME: new.name}
            await self._below.create(replace(new, host=host, store=store), more=noted)

    async def _place(self, new: NewVm) -> str:
        """The datastore of its policy. Raises NotFound, QuotaReached."""
        vdcs = {vdc.name: vdc for vdc in await self._inventory.hosts()}
        vdc, store = vdcs.get(new.host), self._session.spec.policies.get(new.store)
        if vdc is None:
            raise NotFound(f"no VDC is called {new.host}", place=self._session.place)
        if store is None:
            raise NotFound(f"no storage policy is called {new.store}", place=self._session.place)
        if not vdc.usable:
            raise QuotaReached(f"VDC {new.host} is switched off", place=self._session.place)
        if new.memory > vdc.memory:
            message = f"VDC {new.host} has {vdc.memory} bytes of memory free; VM {new.name} needs {new.memory}"
            raise QuotaReached(message, place=self._session.place)
        return store

    async def delete(self, name: str, owner: str) -> None:
        """Its disks are taken off in the vCenter first: vCloud Director would delete them."""

        async def work() -> None:
            with suppress(NotFound):
                entry = await self._inventory.entry(name)
                if entry.facts.owner != owner:
                    return
                if not entry.href:
                    await self._below.delete(entry.inside, owner)
                    return
                await self._undeploy(entry)
                for disk in entry.facts.disks:
                    await self._below.detach(entry.inside, disk)
                vapp = await self._session.ask("GET", entry.vapp)
                await self._session.finished(vapp)
                last = len(vapp.findall(f"{{{V}}}Children/{{{V}}}Vm")) <= 1
                await self._session.finished(await self._session.ask("DELETE", entry.vapp if last else entry.href))

        async with self._alone(owner):
            await self._session.patient(f"delete VM {name}", work)

    async def attach(self, name: str, disk: DiskId) -> None:
        """In the vCenter."""
        await self._below.attach(await self._inside(name), disk)

    async def detach(self, name: str, disk: DiskId) -> None:
        """In the vCenter."""
        with suppress(NotFound):
            await self._below.detach(await self._inside(name), disk)

    async def _inside(self, name: str) -> str:
        async def look() -> str:
            return (await self._inventory.entry(name)).inside

        return await self._session.patient(f"look for VM {name}", look)

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Import it, connect its vApp to these networks and it to the vApp's; its guest is customised at its start."""
        known = await self._inventory.networks()
        unknown = [nic.network for nic in nics if nic.network not in known]
        if unknown:
            raise NotFound(f"no network is called {unknown[0]}", place=self._session.place)

        wanted = _connections(nics)

        async def work() -> None:
            entry = await self._imported(name)
            section = await self._session.ask("GET", f"{entry.href}/networkConnectionSection")
            if _said(section) == _said(wanted):
                return
            if entry.status == _ON:
                raise PlatformError(f"VM {name} is on; its networks are given to it while it is off")
            async with self._alone(entry.facts.owner):
                await self._connect(entry, nics)
            guest = _with(
                _node("GuestCustomizationSection"), _node("Info", "drsim", _OVF), _node("Enabled", "true"),
                _node("ChangeSid", "false"), _node("ComputerName", re.sub("[^A-Za-z0-9-]", "-", name)[:63]),
            )  # fmt: skip
            where, media = f"{entry.href}/guestCustomizationSection", "vcloud.guestCustomizationSection"
            await self._session.finished(await self._session.ask("PUT", where, guest, media))
            where, media = f"{entry.href}/networkConnectionSection", "vcloud.networkConnectionSection"
            await self._session.finished(await self._session.ask("PUT", where, wanted, media))

        await self._session.patient(f"give VM {name} its networks", work)

    async def _connect(self, entry: Entry, nics: Sequence[Nic]) -> None:
        """Let the vApp have these networks of its VDC, bridged."""
        where = f"{entry.vapp}/networkConfigSection"
        section = await self._session.ask("GET", where)
        has = {each.get("networkName") for each in section.findall(f"{{{V}}}NetworkConfig")}
        missing = [network for network in dict.fromkeys(nic.network for nic in nics) if network not in has]
        if not missing:
            return
        vdc = await self._inventory.vdc(entry.facts.host)
        records = sorted(await self._inventory.networks_here(), key=lambda each: ident(each.get("vdc")) == ident(vdc))
        hrefs = {each.get("name"): each.get("href", "") for each in records}  # the VDC's own come last, and stay
        for network in missing:
            parent = _node("ParentNetwork", href=hrefs[network], name=network)
            bridged = _with(_node("Configuration"), parent, _node("FenceMode", "bridged"))
            section.append(_with(_node("NetworkConfig", networkName=network), bridged))
        media = "vcloud.networkConfigSection"
        await self._session.finished(await self._session.ask("PUT", where, section, media))

    async def _imported(self, name: str) -> Entry:
        """The VM, in the tenant's VDC; imported if it is not there yet."""
        entry = await self._inventory.entry(name)
        if entry.href:
            return entry
        async with self._alone(entry.facts.owner):
            await self._import(name, entry)
        return await self._inventory.entry(name)

    async def _import(self, name: str, entry: Entry) -> None:
        """Into the vApp of its owner in its VDC, which the first one makes."""
        vapp, vdc = f"drsim {escaped(entry.facts.owner)}", await self._inventory.vdc(entry.facts.host)
        what = [_node("VmName", name, X), _node("VmMoRef", entry.moref, X)]
        profiles = await self._session.query("adminOrgVdcStorageProfile", name=entry.policy) if entry.policy else []
        mine = [each.get("href", "") for each in profiles if ident(each.get("vdc")) == ident(vdc)]
        if not mine:
            message = f"VDC {entry.facts.host} has no storage policy {entry.policy}"
            raise NotFound(message, place=self._session.place)
        policy = _node("VdcStorageProfile", space=X, href=mine[0])
        there = await self._session.query("adminVApp", name=vapp)
        vapps = [each.get("href", "") for each in there if ident(each.get("vdc")) == ident(vdc)]
        if vapps:
            await self._session.finished(await self._session.ask("GET", vapps[0]))
            kind, rest = "admin.importVmIntoExistingVAppParams", [policy, _node("VApp", space=X, href=vapps[0])]
            body = _node("ImportVmIntoExistingVAppParams", space=X, sourceMove="true")
        else:
            kind, rest = "admin.importVmAsVAppParams", [_node("Vdc", space=X, href=vdc), policy]
            body = _node("ImportVmAsVAppParams", space=X, name=vapp, sourceMove="true")
        got = await self._session.ask("POST", await self._import_at(kind), _with(body, *what, *rest), kind)
        await self._session.finished(got)

    async def _import_at(self, kind: str) -> str:
        """Where imports of a kind are asked for, as the vCenter's page here says."""
        if not self._imports:
            links = await self._session.ask("GET", await self._inventory.server())
            self._imports = {link.get("type", ""): link.get("href", "") for link in links.iter(f"{{{V}}}Link")}
        if (found := self._imports.get(f"{MEDIA}{kind}+xml")) is None:
            hint = "is the account a system administrator's?"
            raise PlatformError("VMs cannot be imported from the vCenter", place=self._session.place, hint=hint)
        return found

    async def power_on(self, name: str) -> None:
        """Import it if it is not there yet, and start it."""

        async def work() -> None:
            entry = await self._imported(name)
            if entry.status == _ON:
                return
            try:
                await self._session.finished(await self._session.ask("POST", f"{entry.href}/power/action/powerOn"))
            except Refused:  # a start whose answer was lost may have ended since it was looked at
                if (await self._inventory.entry(name)).status != _ON:
                    raise

        await self._session.patient(f"start VM {name}", work)

    async def power_off(self, name: str) -> None:
        """Stop it at once."""

        async def work() -> None:
            entry = await self._inventory.entry(name)
            if entry.href and entry.status == _ON:
                await self._undeploy(entry)

        await self._session.patient(f"stop VM {name}", work)

    async def shut_down(self, name: str, timeout: float) -> bool:
        """In the vCenter, which tells when its guest has stopped."""
        return await self._below.shut_down(await self._inside(name), timeout)

    async def wait(self, name: str, timeout: float) -> None:
        """As the vCenter sees it."""
        await self._below.wait(await self._inside(name), timeout)

    async def _undeploy(self, entry: Entry) -> None:
        """Off, and not deployed either: a VM whose guest has stopped it still is."""
        vm = await self._session.ask("GET", entry.href)
        await self._session.finished(vm)
        if vm.get("deployed") != "false":
            body = _with(_node("UndeployVAppParams"), _node("UndeployPowerAction", "powerOff"))
            where, media = f"{entry.href}/action/undeploy", "vcloud.undeployVAppParams"
            await self._session.finished(await self._session.ask("POST", where, body, media))


def _connections(nics: Sequence[Nic]) -> ET.Element:
    section = _with(_node("NetworkConnectionSection"), _node("Info", "drsim", _OVF))
    section.append(_node("PrimaryNetworkConnectionIndex", "0"))
    for n, nic in enumerate(nics):
        connection = _with(_node("NetworkConnection", network=nic.network), _node("NetworkConnectionIndex", str(n)))
        if nic.address:
            connection.append(_node("IpAddress", nic.address))
        connection.append(_node("IsConnected", "true"))
        connection.append(_node("IpAddressAllocationMode", "MANUAL" if nic.address else "DHCP"))
        section.append(connection)
    return section


def _said(section: ET.Element) -> list[tuple[str | None, ...]]:
    """What a section says of each adapter."""
    return [
        (nic.get("network"), nic.findtext(f"{{{V}}}IpAddress") or "", nic.findtext(f"{{{V}}}IpAddressAllocationMode"))
        for nic in section.findall(f"{{{V}}}NetworkConnection")
    ]
