"""VsphereHypervisor: makes VMs and runs them. Every method looks first, and again after each lost answer."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any

from pyVmomi import vim, vmodl

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import DiskId, Firmware, NewVm, NotFound, QuotaReached, Taken, Unavailable
from drsim.real.vsphere.disks import VsphereDisks, parts
from drsim.real.vsphere.inventory import (
    HOST,
    NICS,
    OWNER,
    VsphereInventory,
    cards_of,
    disk_id,
    disks_of,
    extra,
    host_facts,
)
from drsim.real.vsphere.session import Refused, is_fault, suppress_fault

_DEVICES, _POWER, _EXTRA = "config.hardware.device", "runtime.powerState", "config.extraConfig"
_MIB = 1 << 20
_UNITS = [unit for unit in range(16) if unit != 7]
"""Places of a SCSI controller; the seventh is its own."""
_CONTROLLERS = 4
_KINDS = {
    "pvscsi": vim.vm.device.ParaVirtualSCSIController,
    "lsilogic": vim.vm.device.VirtualLsiLogicController,
    "lsisas": vim.vm.device.VirtualLsiLogicSASController,
}


class VsphereHypervisor:
    """The VMs of a datacenter."""

    def __init__(self, inventory: VsphereInventory, disks: VsphereDisks) -> None:
        self._inventory, self._disks, self._session = inventory, disks, inventory.session
        self._locks: dict[str, asyncio.Lock] = {}
        self._places: dict[Any, Any] = {}
        self._folder: Any = None

    @asynccontextmanager
    async def _alone(self, name: str) -> Any:
        """One change of a VM's hardware at a time: each depends on what it has."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            yield

    async def _vm(self, name: str, *paths: str) -> tuple[Any, dict[str, Any]]:
        return await self._inventory.one(vim.VirtualMachine, name, *paths)

    # -- VMs ---------------------------------------------------------------------------------------------------------

    async def create(self, new: NewVm, *, more: Mapping[str, str] | None = None) -> None:
        """Make a VM without disks, on a host that takes it. What its guest prints is not seen here.

        `more`: to be written into its extraConfig.
        """

        async def work() -> None:
            with suppress(NotFound):
                _, facts = await self._vm(new.name, _EXTRA)
                if _EXTRA not in facts:
                    raise Refused(vim.fault.TaskInProgress(msg="the VM is just being made"))
                if extra(facts[_EXTRA]).get(OWNER) != new.owner:
                    hint = "rename it, or recover under another name"
                    raise Taken(f"there is a VM {new.name} already", place=self._session.place, hint=hint)
                return
            host = await self._host(new)
            await self._inventory.find(vim.Datastore, new.store)
            pool, folder = await self._pool(host), await self._vm_folder()
            made = await self._session.finished(folder.CreateVM_Task, self._config(new, more or {}), pool, host)
            self._inventory.took(new, made)

        async with self._alone(new.name):
            await self._session.patient(f"make VM {new.name}", work)

    def _config(self, new: NewVm, more: Mapping[str, str]) -> Any:
        controller = _KINDS[self._session.spec.controller](key=-1, busNumber=0, sharedBus="noSharing")
        add = vim.vm.device.VirtualDeviceSpec(operation="add", device=controller)
        written = {OWNER: new.owner, **more}
        return vim.vm.ConfigSpec(
            name=new.name, guestId=self._session.spec.guest, numCPUs=new.cpus, memoryMB=-(-new.memory // _MIB),
            firmware="efi" if new.firmware is Firmware.UEFI else "bios",
            annotation=f"Made by drsim for {new.owner}. It is deleted when that is undone.",
            files=vim.vm.FileInfo(vmPathName=f"[{new.store}]"), deviceChange=[add],
            extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in written.items()],
        )  # fmt: skip

    async def _host(self, new: NewVm) -> Any:
        host, facts = await self._inventory.lately(vim.HostSystem, new.host, *HOST)
        if self._unfit(new, facts):
            host, facts = await self._inventory.lately(vim.HostSystem, new.host, *HOST, now=True)
        why = self._unfit(new, facts)
        if why:
            raise QuotaReached(f"host {new.host} {why}", place=self._session.place, hint="choose another host")
        return host

    @staticmethod
    def _unfit(new: NewVm, facts: Mapping[str, Any]) -> str:
        """Why a host cannot take a VM."""
        found = host_facts(facts)
        if not found.usable:
            state = "in maintenance" if facts.get("runtime.inMaintenanceMode") else facts["runtime.connectionState"]
            return f"takes no VMs now: it is {state}"
        if new.memory > found.memory:
            return f"has {found.memory} bytes of memory free; VM {new.name} needs {new.memory}"
        return ""

    async def _pool(self, host: Any) -> Any:
        key = self._session.spec.pool or host
        if key not in self._places:
            if self._session.spec.pool is not None:
                self._places[key] = await self._inventory.find(vim.ResourcePool, self._session.spec.pool)
            else:
                parent = (await self._session.read(host, "parent"))["parent"]
                self._places[key] = (await self._session.read(parent, "resourcePool"))["resourcePool"]
        return self._places[key]

    async def _vm_folder(self) -> Any:
        if self._folder is None:
            root = (await self._session.read(await self._inventory.home(), "vmFolder"))["vmFolder"]
            wanted = self._session.spec.folder
            self._folder = root if wanted is None else await self._inventory.find(vim.Folder, wanted)
        return self._folder

    async def delete(self, name: str, owner: str) -> None:
        """Power a VM off, detach its disks and delete it, if this owner made it."""

        async def work() -> None:
            with suppress(NotFound):
                vm, facts = await self._vm(name, _EXTRA, _POWER, _DEVICES)
                if extra(facts.get(_EXTRA, ())).get(OWNER) != owner:
                    return
                if facts.get(_POWER) != "poweredOff":
                    await self._power(vm.PowerOffVM_Task)
                disks = disks_of(facts.get(_DEVICES))
                if disks:
                    await self._change(vm, [_removal(disk) for disk in disks])
                for disk in disks:
                    self._disks.held(disk_id(disk), None)
                with suppress_fault(vmodl.fault.ManagedObjectNotFound):
                    await self._session.finished(vm.Destroy_Task)
                self._inventory.forget(vim.VirtualMachine, name)

        async with self._alone(name):
            await self._session.patient(f"delete VM {name}", work)

    # -- disks -------------------------------------------------------------------------------------------------------

    async def attach(self, name: str, disk: DiskId, *, frozen: bool = False) -> None:
        """Attach a disk behind those that a VM has. Raises NotFound, Taken, QuotaReached when it has no place left.

        `frozen`: another VM has it too, below a snapshot; what is written here is thrown away.
        """

        parts(disk, self._session.place)

        async def work() -> None:
            vm, facts = await self._vm(name, _DEVICES)
            devices = facts.get(_DEVICES, ())
            if disk in map(disk_id, disks_of(devices)):
                return
            holder = None if frozen else await self._disks.holder(disk)
            if holder is not None and holder[0] != vm:
                raise Taken(
                    f"disk {disk} is attached to {holder[1]}", place=self._session.place, hint="detach it there"
                )
            mode = "independent_nonpersistent" if frozen else "persistent"
            await self._change(vm, self._addition(name, devices, disk, mode))
            if not frozen:
                self._disks.held(disk, (vm, name))

        async with self._alone(name):
            await self._session.patient(f"attach disk {disk} to VM {name}", work)

    def _addition(self, name: str, devices: Sequence[Any], disk: DiskId, mode: str) -> list[Any]:
        """What adds a disk: behind all others if there is a place, in a gap otherwise, on a new controller at last."""
        controllers = sorted(
            (each for each in devices if isinstance(each, vim.vm.device.VirtualSCSIController)), key=lambda c: c.key
        )
        taken = {(each.controllerKey, each.unitNumber) for each in disks_of(devices)}
        places = [(each.key, unit) for each in controllers for unit in _UNITS]
        last = max((places.index(place) for place in taken if place in places), default=-1)
        behind = places[last + 1 :]
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=disk, diskMode=mode)
        added = []
        if not behind and len(controllers) < _CONTROLLERS:
            bus = min(set(range(_CONTROLLERS)) - {each.busNumber for each in controllers})
            new = _KINDS[self._session.spec.controller](key=-101, busNumber=bus, sharedBus="noSharing")
            added.append(vim.vm.device.VirtualDeviceSpec(operation="add", device=new))
            behind = [(new.key, 0)]
        free = behind or [place for place in places if place not in taken]
        if not free:
            raise QuotaReached(f"VM {name} has no place for another disk", place=self._session.place)
        key, unit = free[0]
        device = vim.vm.device.VirtualDisk(key=-102, controllerKey=key, unitNumber=unit, backing=backing)
        return [*added, vim.vm.device.VirtualDeviceSpec(operation="add", device=device)]

    async def detach(self, name: str, disk: DiskId) -> None:
        """Detach a disk; its file stays."""

        async def work() -> None:
            with suppress(NotFound):
                vm, facts = await self._vm(name, _DEVICES)
                found = [each for each in disks_of(facts.get(_DEVICES)) if disk_id(each) == disk]
                if found:
                    await self._change(vm, [_removal(found[0])])
                    self._disks.held(disk, None)

        async with self._alone(name):
            await self._session.patient(f"detach disk {disk} from VM {name}", work)

    async def _change(self, vm: Any, devices: list[Any], **more: Any) -> None:
        await self._session.finished(vm.ReconfigVM_Task, vim.vm.ConfigSpec(deviceChange=devices, **more))

    # -- networks ----------------------------------------------------------------------------------------------------

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Give a VM that is off these adapters in place of its own (with new MACs), and its guest their addresses."""
        wanted = json.dumps([asdict(nic) for nic in nics])

        async def work() -> None:
            vm, facts = await self._vm(name, _DEVICES, _EXTRA, _POWER, "config.tools.pendingCustomization")
            given = extra(facts.get(_EXTRA, ())).get(NICS) == wanted
            if facts.get(_POWER) != "poweredOff":
                if given:
                    return
                raise PlatformError(f"VM {name} is on; its networks are given to it while it is off")
            if not given:
                changes = [_removal(card) for card in cards_of(facts.get(_DEVICES))]
                changes += [await self._card(-201 - n, nic.network) for n, nic in enumerate(nics)]
                await self._change(vm, changes, extraConfig=[vim.option.OptionValue(key=NICS, value=wanted)])
            if any(nic.address for nic in nics) and not facts.get("config.tools.pendingCustomization"):
                with suppress_fault(vim.fault.CustomizationPending):
                    await self._session.finished(vm.CustomizeVM_Task, self._addresses(nics))

        async with self._alone(name):
            await self._session.patient(f"give VM {name} its networks", work)

    async def _card(self, key: int, network: str) -> Any:
        found = await self._inventory.find(vim.Network, network)
        if isinstance(found, vim.dvs.DistributedVirtualPortgroup):
            if found not in self._places:
                facts = await self._session.read(found, "key", "config.distributedVirtualSwitch")
                switch = await self._session.read(facts["config.distributedVirtualSwitch"], "uuid")
                self._places[found] = facts["key"], switch["uuid"]
            group, uuid = self._places[found]
            port = vim.dvs.PortConnection(portgroupKey=group, switchUuid=uuid)
            backing = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port)
        else:
            backing = vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=network, network=found)
        connect = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True)
        card = vim.vm.device.VirtualVmxnet3(key=key, backing=backing, connectable=connect, addressType="generated")
        return vim.vm.device.VirtualDeviceSpec(operation="add", device=card)

    def _addresses(self, nics: Sequence[Nic]) -> Any:
        guest = vim.vm.customization
        adapters = []
        for nic in nics:
            ip = guest.FixedIp(ipAddress=nic.address) if nic.address else guest.DhcpIpGenerator()
            settings = guest.IPSettings(ip=ip, dnsServerList=list(nic.dns))
            if nic.address:
                settings.subnetMask = nic.mask
                settings.gateway = [nic.gateway] if nic.gateway else []
            adapters.append(guest.AdapterMapping(adapter=settings))
        servers = list(dict.fromkeys(server for nic in nics for server in nic.dns))
        identity = guest.LinuxPrep(hostName=guest.VirtualMachineNameGenerator(), domain=self._session.spec.domain)
        return guest.Specification(
            identity=identity, globalIPSettings=guest.GlobalIPSettings(dnsServerList=servers), nicSettingMap=adapters
        )

    # -- power -------------------------------------------------------------------------------------------------------

    async def power_on(self, name: str) -> None:
        """Start a VM."""
        await self._turn(name, "poweredOn", "PowerOnVM_Task", "start")

    async def power_off(self, name: str) -> None:
        """Stop it at once."""
        await self._turn(name, "poweredOff", "PowerOffVM_Task", "stop")

    async def _turn(self, name: str, state: str, method: str, verb: str) -> None:
        async def work() -> None:
            vm, facts = await self._vm(name, _POWER)
            if facts.get(_POWER) != state:
                await self._power(getattr(vm, method))

        await self._session.patient(f"{verb} VM {name}", work)

    async def _power(self, method: Callable[..., Any]) -> None:
        try:
            await self._session.finished(method)
        except Refused as error:
            if not is_fault(error, vim.fault.InvalidPowerState):
                raise
            if error.fault.requestedState != error.fault.existingState:
                raise

    async def shut_down(self, name: str, timeout: float) -> bool:
        """Ask its guest to stop in good order; whether it has within `timeout` seconds. Without VMware Tools: no."""
        ends = time.monotonic() + timeout

        async def ask() -> bool:
            vm, facts = await self._vm(name, _POWER)
            if facts.get(_POWER) != "poweredOff":
                try:
                    await self._session.call(vm.ShutdownGuest)
                except Refused as error:
                    if is_fault(error, vim.fault.ToolsUnavailable):
                        return False
                    if not is_fault(error, vim.fault.InvalidPowerState):
                        raise
            return True

        asked = await self._session.patient(f"shut VM {name} down", ask)
        return asked and await self._until(name, (_POWER,), lambda seen: seen.get(_POWER) == "poweredOff", ends)

    async def wait(self, name: str, timeout: float) -> None:
        """Until it is on and, with VMware Tools, its guest answers. Raises PlatformError after `timeout` seconds."""
        tools = self._session.spec.tools

        def up(seen: Mapping[str, Any]) -> bool:
            answers = seen.get("guest.toolsRunningStatus") == "guestToolsRunning"
            return seen.get(_POWER) == "poweredOn" and (answers or not tools)

        if not await self._until(name, (_POWER, "guest.toolsRunningStatus"), up, time.monotonic() + timeout):
            hint = "has it VMware Tools? If not, say `tools: false`" if tools else "look at its console"
            raise PlatformError(f"the guest of VM {name} was not up within {timeout:g} s", hint=hint)

    async def _until(
        self, name: str, paths: Sequence[str], enough: Callable[[Mapping[str, Any]], bool], ends: float
    ) -> bool:
        """Whether it comes so in time; told by the vCenter, not asked for. A lost session or connection is no end."""
        while True:
            vm, seen = await self._session.patient(f"look at VM {name}", lambda: self._vm(name, *paths))
            left = ends - time.monotonic()
            if enough(seen) or left <= 0:
                return enough(seen)
            with suppress(Unavailable):
                return await self._session.told(vm, paths, enough, left)


def _removal(device: Any) -> Any:
    """Takes a device away from a VM, and never its file."""
    return vim.vm.device.VirtualDeviceSpec(operation="remove", device=device)
