"""VsphereInventory: what a vCenter has, by the names that its administrators know, read by the property collector.

Names lead to objects by an index that is read when a name is not in it; an object that has another name by now is
looked for again. Whose a VM is stands in its `extraConfig` and, for people, in its notes.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim, vmodl

from drsim.core.units import SECOND, Ns
from drsim.real.patience import Verdict
from drsim.real.ports import (
    About,
    Change,
    DiskId,
    Firmware,
    Gone,
    HostChanged,
    HostFacts,
    Moved,
    NewVm,
    NotFound,
    Power,
    StoreFacts,
    VmFacts,
)
from drsim.real.vsphere.collector import Updates
from drsim.real.vsphere.faults import TROUBLE, Refused, blamed, is_fault, judge
from drsim.real.vsphere.privileges import NEEDED
from drsim.real.vsphere.session import Session

OWNER, NICS = "drsim.owner", "drsim.nics"
"""Keys of a VM's extraConfig: who made it, and the network adapters that it was given."""
RECENT = 10.0
"""Seconds for which free room, and what this session has made itself, is not looked at again."""
NAMED = 2.0
"""Seconds for which a name that was not there is taken to be free; two VMs may have one name, in different folders."""
HOST = ("name", "runtime.connectionState", "runtime.inMaintenanceMode", "hardware.memorySize",
         "hardware.cpuInfo.numCpuCores", "summary.quickStats.overallMemoryUsage")  # fmt: skip
VM = ("name", "runtime.host", "runtime.powerState", "config.hardware", "config.firmware", "config.extraConfig",
       "config.bootOptions", "config.guestId", "guest.net", "guest.toolsRunningStatus")  # fmt: skip
_WORDS = {
    "vim.VirtualMachine": "VM", "vim.HostSystem": "host", "vim.Datastore": "datastore", "vim.Network": "network",
    "vim.ResourcePool": "resource pool", "vim.Folder": "folder",
}  # fmt: skip
_LINUX = (
    "linux", "ubuntu", "debian", "centos", "rhel", "redhat", "fedora", "sles", "suse", "asianux", "coreos", "photon",
    "mandriva", "mandrake", "sjds", "turbo", "crx",
)  # fmt: skip
_MIB = 1 << 20


def disks_of(devices: Iterable[Any] | None) -> list[Any]:
    """The disks among a VM's devices, in the order in which its guest sees them."""
    disks = [each for each in devices or () if isinstance(each, vim.vm.device.VirtualDisk)]
    return sorted(disks, key=lambda disk: (disk.controllerKey or 0, disk.unitNumber or 0))


def cards_of(devices: Iterable[Any] | None) -> list[Any]:
    """The network adapters among a VM's devices."""
    return [each for each in devices or () if isinstance(each, vim.vm.device.VirtualEthernetCard)]


def disk_id(disk: Any) -> DiskId:
    """A disk's name: its file, whatever snapshots stand above it."""
    backing = disk.backing
    while getattr(backing, "parent", None) is not None:
        backing = backing.parent
    return DiskId(getattr(backing, "fileName", "") or "")


def extra(config: Iterable[Any]) -> dict[str, str]:
    """A VM's extraConfig."""
    return {each.key: each.value for each in config or ()}


def called(name: str) -> str:
    """A name as people know it; the API escapes %, / and backslash."""
    return unquote(name)


class VsphereInventory:
    """Everything in one datacenter."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._index: dict[tuple[type, str], Any] = {}
        self._views: dict[type, Any] = {}
        self._lately: dict[tuple[type, str], tuple[float, Any, dict[str, Any]]] = {}
        self._reading, self._listed = asyncio.Lock(), dict[type, float]()
        self._once: dict[Any, Any] = {}
        self._asking: dict[Any, asyncio.Lock] = {}
        self.datacenter: Any = None
        session.fresh.append(self._views.clear)

    # -- the port ----------------------------------------------------------------------------------------------------

    async def about(self) -> About:
        """Who answers, its clock, and which of the privileges that drsim needs the account lacks."""
        return await self.session.patient("ask who it is", self._about)

    async def _about(self) -> About:
        session = self.session
        now = await session.call(session.root.CurrentTime)
        facts = await session.read(session.content.sessionManager, "currentSession")
        if "currentSession" not in facts:  # who asks without a session is told that there is none
            raise Refused(vim.fault.NotAuthenticated(msg="the session has ended"))
        manager, place = session.content.authorizationManager, await self.home()
        wanted, user = [need.privilege for need in NEEDED], facts["currentSession"].userName
        granted = await session.call(manager.HasUserPrivilegeOnEntities, [place], user, wanted)
        has = {each.privId for entity in granted for each in entity.privAvailability if each.isGranted}
        about = session.content.about
        missing = tuple(name for name in wanted if name not in has)
        return About(about.fullName or about.name, about.apiVersion, Ns(int(now.timestamp() * SECOND)), missing)

    async def hosts(self) -> Sequence[HostFacts]:
        """All hosts. Memory that is free by what VMs use of it now."""
        return await self.session.patient("list the hosts", self._hosts)

    async def _hosts(self) -> list[HostFacts]:
        found = await self.all(vim.HostSystem, *HOST)
        return [host_facts(facts) for _, facts in found]

    async def stores(self) -> Sequence[StoreFacts]:
        """All datastores."""

        async def look() -> list[StoreFacts]:
            found = await self.all(vim.Datastore, "name", "summary.capacity", "summary.freeSpace")
            return [StoreFacts(called(f["name"]), f["summary.capacity"], f["summary.freeSpace"]) for _, f in found]

        return await self.session.patient("list the datastores", look)

    async def networks(self) -> Sequence[str]:
        """All networks and port groups, but those of uplinks."""

        async def look() -> list[str]:
            found = await self.all(vim.Network, "name", "tag")
            uplinks = "SYSTEM/DVS.UPLINKPG"
            return [called(f["name"]) for _, f in found if uplinks not in {tag.key for tag in f.get("tag", ())}]

        return await self.session.patient("list the networks", look)

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """All VMs, or those that an owner made."""

        async def look() -> list[VmFacts]:
            names = await self._names()
            found = [vm_facts(facts, names) for _, facts in await self.all(vim.VirtualMachine, *VM)]
            return [vm for vm in found if owner is None or vm.owner == owner]

        return await self.session.patient("list the VMs", look)

    async def vm(self, name: str) -> VmFacts:
        """One VM. Raises NotFound."""

        async def look() -> VmFacts:
            _, facts = await self.one(vim.VirtualMachine, name, *VM)
            return vm_facts(facts, await self._names())

        return await self.session.patient(f"look at VM {name}", look)

    async def changes(self) -> AsyncIterator[Change]:
        """What changes from now on. It goes on after a lost connection, and tells what it has missed meanwhile."""
        known: dict[Any, dict[str, Any]] = {}
        first = True
        while True:
            await self.session.patient("be told of changes", self.home)
            try:
                async with aclosing(self._updates()) as batches:
                    whole = True  # the first batch of a session is all that there is
                    async for batch in batches:
                        told = [change for update in batch for change in _told(known, update)]
                        if whole:
                            gone = set(known) - {update.obj for update in batch}
                            told += [change for thing in gone for change in _left(known, thing)]
                            whole = False
                        for change in () if first else told:
                            yield change
                        first = False
            except TROUBLE as error:
                if judge(error) is Verdict.GIVE_UP:
                    raise blamed(error, "be told of changes", self.session.place) from error
                if judge(error) is Verdict.LOG_IN:
                    await self.session.login.renew(self.session.login.number)
            await asyncio.sleep(self.session.limits.first)

    async def _updates(self) -> AsyncGenerator[Any, None]:
        what = [
            ([await self._view(vim.HostSystem)], vim.HostSystem, HOST[:3]),
            ([await self._view(vim.VirtualMachine)], vim.VirtualMachine, ("name", "runtime.host")),
        ]
        async with Updates(self.session, what) as updates:
            while True:
                yield await updates.next(20)

    # -- what the other ports ask ------------------------------------------------------------------------------------

    async def home(self) -> Any:
        """The datacenter. Raises NotFound."""
        if self.datacenter is None:
            content, name = self.session.content, self.session.spec.datacenter
            view = await self.session.call(
                content.viewManager.CreateContainerView, content.rootFolder, [vim.Datacenter], True
            )
            found = await self.session.read_all(view, vim.Datacenter, "name", "vmFolder")
            names = [called(facts["name"]) for _, facts in found]
            if name not in names:
                hint = f"there is {', '.join(names)}" if names else "may the account see it?"
                raise NotFound(f"no datacenter is called {name}", place=self.session.place, hint=hint)
            self.datacenter = found[names.index(name)][0]
        return self.datacenter

    async def all(self, kind: type, *paths: str) -> list[tuple[Any, dict[str, Any]]]:
        """Properties of all objects of a kind; those that go meanwhile are left out."""
        found = await self.session.read_all(await self._view(kind), kind, *paths)
        found = [(thing, facts) for thing, facts in found if "name" in facts]
        self._index |= {(kind, called(facts["name"])): thing for thing, facts in found}
        return found

    async def one(self, kind: type, name: str, *paths: str, since: float | None = None) -> tuple[Any, dict[str, Any]]:
        """One object by its name, and its properties. Raises NotFound; `since`: see find."""
        thing = self._index.get((kind, name))
        if thing is not None:
            try:
                facts = await self.session.read(thing, *{"name", *paths})
            except Refused as error:
                if not is_fault(error, vmodl.fault.ManagedObjectNotFound):
                    raise
                facts = {}
            if "name" in facts and called(facts["name"]) == name:
                return thing, facts
            del self._index[kind, name]
        thing = await self.find(kind, name, since)
        return thing, await self.session.read(thing, *{"name", *paths})

    async def find(self, kind: type, name: str, since: float | None = None) -> Any:
        """One object by its name, which may be the one that it had a moment ago. Raises NotFound.

        `since`: a list that was begun later will do to say that there is none; otherwise one that is begun now.
        """
        asked = time.monotonic() if since is None else since
        if (kind, name) not in self._index:
            async with self._reading:
                begun = time.monotonic()
                if (kind, name) not in self._index and self._listed.get(kind, 0.0) < asked:
                    await self.all(kind, "name")
                    self._listed[kind] = begun
        found = self._index.get((kind, name))
        if found is None:
            raise NotFound(f"no {_WORDS.get(kind.__name__, 'object')} is called {name}", place=self.session.place)
        return found

    async def lately(self, kind: type, name: str, *paths: str, now: bool = False) -> tuple[Any, dict[str, Any]]:
        """One object and its properties as of a few seconds ago at most; what is changed in them stays so long.

        `now`: what was found so would be held against somebody, so it is looked at again.
        """
        async with self._alone(kind, name):
            made, thing, facts = self._lately.get((kind, name), (0.0, None, {}))
            if now or time.monotonic() - made > RECENT or not facts.keys() >= set(paths):
                thing, facts = await self.one(kind, name, *paths)
                self._lately[kind, name] = time.monotonic(), thing, facts
            return thing, facts

    async def once(self, what: Any, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What never changes: asked for once, and everybody who wants it meanwhile waits for it."""
        async with self._alone(what):
            if what not in self._once:
                self._once[what] = await ask()
            return self._once[what]

    def _alone(self, *what: Any) -> asyncio.Lock:
        return self._asking.setdefault(what, asyncio.Lock())

    def took(self, vm: NewVm, made: Any) -> None:
        """A VM has been made; its host has its memory to give, and does not say so at once."""
        self._index[vim.VirtualMachine, vm.name] = made
        _, _, facts = self._lately[vim.HostSystem, vm.host]
        facts[HOST[-1]] = facts.get(HOST[-1], 0) + vm.memory // _MIB

    def forget(self, kind: type, name: str) -> None:
        """This name is not to be trusted."""
        self._index.pop((kind, name), None)

    async def _view(self, kind: type) -> Any:
        if kind not in self._views:
            make = self.session.content.viewManager.CreateContainerView
            self._views[kind] = await self.session.call(make, await self.home(), [kind], True)
        return self._views[kind]

    async def _names(self) -> dict[str, str]:
        """Names of hosts and networks by the API's own, as of when they were last listed."""
        known = {thing._moId: name for (kind, name), thing in self._index.items() if kind is not vim.VirtualMachine}
        for kind in (vim.HostSystem, vim.Network):
            if not any(kind is each for each, _ in self._index):
                known |= {thing._moId: called(facts["name"]) for thing, facts in await self.all(kind, "name")}
        return known


def host_facts(facts: Mapping[str, Any]) -> HostFacts:
    """A host, of the properties that are read of it."""
    used = facts.get("summary.quickStats.overallMemoryUsage", 0) * _MIB
    free = max(0, facts.get("hardware.memorySize", 0) - used)
    usable = facts["runtime.connectionState"] == "connected" and not facts.get("runtime.inMaintenanceMode")
    return HostFacts(called(facts["name"]), free, facts.get("hardware.cpuInfo.numCpuCores", 0), usable)


def vm_facts(facts: dict[str, Any], names: dict[str, str]) -> VmFacts:
    """A VM, of the properties that are read of it. `names`: of hosts and networks, by the API's own."""
    hardware = facts.get("config.hardware")
    nets = facts.get("guest.net") or ()
    devices = hardware.device if hardware else ()
    return VmFacts(
        name=called(facts["name"]),
        owner=extra(facts.get("config.extraConfig", ())).get(OWNER, ""),
        host=names.get(getattr(facts.get("runtime.host"), "_moId", ""), ""),
        power=Power.ON if facts.get("runtime.powerState") == "poweredOn" else Power.OFF,
        cpus=hardware.numCPU if hardware else 0,
        memory=hardware.memoryMB * _MIB if hardware else 0,
        firmware=Firmware.UEFI if facts.get("config.firmware") == "efi" else Firmware.BIOS,
        disks=tuple(disk_id(disk) for disk in disks_of(devices)),
        networks=tuple(_network(card, names) for card in cards_of(devices)),
        addresses=tuple(address for net in nets for address in net.ipAddress or ()),
        tools=facts.get("guest.toolsRunningStatus") == "guestToolsRunning",
        secure_boot=bool(getattr(facts.get("config.bootOptions"), "efiSecureBootEnabled", False)),
        system=system_of(facts.get("config.guestId", "")),
    )


def system_of(guest: str) -> str:
    """linux or windows, by what vCenter calls a guest's operating system (VirtualMachineGuestOsIdentifier)."""
    if guest.startswith("win"):
        return "windows"
    return "linux" if any(word in guest.lower() for word in _LINUX) else ""


def _network(card: Any, names: dict[str, str]) -> str:
    port = getattr(card.backing, "port", None)
    return names.get(port.portgroupKey, "") if port is not None else called(card.backing.deviceName)


def _told(known: dict[Any, dict[str, Any]], update: Any) -> list[Change]:
    """What an update of the property collector means; `known` is brought up to date."""
    thing = update.obj
    if update.kind == "leave":
        return _left(known, thing)
    old = known.get(thing)
    new = known[thing] = (old or {}) | {change.name: change.val for change in update.changeSet}
    if isinstance(thing, vim.HostSystem):
        usable = host_facts(new).usable
        changed = old is not None and host_facts(old).usable != usable
        return [HostChanged(called(new["name"]), usable)] if changed else []
    if old is None or old.get("runtime.host") == new.get("runtime.host") or new.get("runtime.host") is None:
        return []
    return [Moved(called(new["name"]), called(known.get(new["runtime.host"], {}).get("name", "")))]


def _left(known: dict[Any, dict[str, Any]], thing: Any) -> list[Change]:
    facts = known.pop(thing, None)
    return [Gone(called(facts["name"]))] if facts and isinstance(thing, vim.VirtualMachine) else []
