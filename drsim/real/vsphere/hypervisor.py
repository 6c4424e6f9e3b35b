"""VsphereHypervisor: makes VMs and runs them. Every method looks first, and again after each lost answer.

A VM's devices are the dear part of a look: they are remembered for some seconds, with what is done here, because an
owner has one manager. Nothing is taken for done, and no refusal for true, by that alone; after trouble it is forgotten.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any

from pyVmomi import vim, vmodl

from drsim.core.convert import KINDS
from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import DiskId, Firmware, NewVm, NotFound, QuotaReached, Taken, Unavailable, Unsupported
from drsim.real.vsphere.disks import VsphereDisks, parts
from drsim.real.vsphere.faults import Refused, is_fault, suppress_fault
from drsim.real.vsphere.inventory import (
    HOST,
    NAMED,
    NICS,
    OWNER,
    RECENT,
    VsphereInventory,
    cards_of,
    disk_id,
    disks_of,
    extra,
    host_facts,
    system_of,
)
from drsim.real.vsphere.nics import addresses, card

_DEVICES, _POWER, _EXTRA = "config.hardware.device", "runtime.powerState", "config.extraConfig"
_PENDING, _GUEST = "config.tools.pendingCustomization", "config.guestId"
_NO_STATIC = KINDS["vsphere"].no_static
_MIB = 1 << 20
_UNITS = [unit for unit in range(16) if unit != 7]
"""Places of a SCSI controller; the seventh is its own."""
_CONTROLLERS = 4
_KINDS = {
    "pvscsi": vim.vm.device.ParaVirtualSCSIController,
    "lsilogic": vim.vm.device.VirtualLsiLogicController,
    "lsisas": vim.vm.device.VirtualLsiLogicSASController,
}

Plan = Callable[[Any, Sequence[Any], Mapping[str, Any]], Awaitable[Any]]


class VsphereHypervisor:
    """The VMs of a datacenter."""

    def __init__(self, inventory: VsphereInventory, disks: VsphereDisks) -> None:
        self._inventory, self._disks, self._session = inventory, disks, inventory.session
        self._locks: dict[str, asyncio.Lock] = {}
        self._seen: dict[str, tuple[float, Any, list[Any]]] = {}
        """Of VMs by name: when its devices were looked at, itself, and its devices."""

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

        since: float | None = time.monotonic() - NAMED

        async def work() -> None:
            nonlocal since
            with suppress(NotFound):
                listed, since = since, None  # it may be there when this is done again
                _, facts = await self._inventory.one(vim.VirtualMachine, new.name, _EXTRA, since=listed)
                if _EXTRA not in facts:
                    raise Refused(vim.fault.TaskInProgress(msg="the VM is just being made"))
                if extra(facts[_EXTRA]).get(OWNER) != new.owner:
                    hint = "rename it, or recover under another name"
                    raise Taken(f"there is a VM {new.name} already", place=self._session.place, hint=hint)
                return
            host = await self._host(new)
            await self._inventory.find(vim.Datastore, new.store)
            pool, folder = await self._pool(host), await self._folder()
            made = await self._session.finished(folder.CreateVM_Task, self._config(new, more or {}), pool, host)
            self._inventory.took(new, made)

        async with self._alone(new.name):
            await self._session.patient(f"make VM {new.name}", work)

    def _config(self, new: NewVm, more: Mapping[str, str]) -> Any:
        controller = _KINDS[self._session.spec.controller](key=-1, busNumber=0, sharedBus="noSharing")
        add = vim.vm.device.VirtualDeviceSpec(operation="add", device=controller)
        written, spec = {OWNER: new.owner, **more}, self._session.spec
        uefi = new.firmware is Firmware.UEFI
        return vim.vm.ConfigSpec(
            name=new.name, guestId=spec.windows if new.system == "windows" else spec.guest, numCPUs=new.cpus,
            memoryMB=-(-new.memory // _MIB), firmware="efi" if uefi else "bios",
            bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=True) if uefi and new.secure_boot else None,
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
        pool = self._session.spec.pool

        async def ask() -> Any:
            if pool is not None:
                return await self._inventory.find(vim.ResourcePool, pool)
            parent = (await self._session.read(host, "parent"))["parent"]
            return (await self._session.read(parent, "resourcePool"))["resourcePool"]

        return await self._inventory.once(("pool", pool or host), ask)

    async def _folder(self) -> Any:
        wanted = self._session.spec.folder

        async def ask() -> Any:
            if wanted is not None:
                return await self._inventory.find(vim.Folder, wanted)
            return (await self._session.read(await self._inventory.home(), "vmFolder"))["vmFolder"]

        return await self._inventory.once("folder", ask)

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
                self._seen.pop(name, None)
                if disks:
                    off = vim.vm.ConfigSpec(deviceChange=[_removal(disk) for disk in disks])
                    await self._session.finished(vm.ReconfigVM_Task, off)
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

        async def plan(vm: Any, devices: Sequence[Any], _: Mapping[str, Any]) -> Any:
            if disk in map(disk_id, disks_of(devices)):
                return None
            holder = None if frozen else await self._disks.holder(disk)
            if holder is not None and holder[0] != vm:
                raise Taken(
                    f"disk {disk} is attached to {holder[1]}", place=self._session.place, hint="detach it there"
                )
            mode = "independent_nonpersistent" if frozen else "persistent"
            return vim.vm.ConfigSpec(deviceChange=self._addition(name, devices, disk, mode))

        async def work() -> None:
            vm, _, changed = await self._changed(name, plan)
            if changed and not frozen:
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

        async def plan(_: Any, devices: Sequence[Any], __: Mapping[str, Any]) -> Any:
            found = [each for each in disks_of(devices) if disk_id(each) == disk and each.key >= 0]
            return vim.vm.ConfigSpec(deviceChange=[_removal(found[0])]) if found else None

        async def work() -> None:
            if any(each.key < 0 for each in self._seen.get(name, (0, None, []))[2]):
                del self._seen[name]  # it does not say which key the disk has got
            with suppress(NotFound):
                _, _, changed = await self._changed(name, plan)
                if changed:
                    self._disks.held(disk, None)

        async with self._alone(name):
            await self._session.patient(f"detach disk {disk} from VM {name}", work)

    async def _changed(self, name: str, plan: Plan, *paths: str) -> tuple[Any, dict[str, Any], bool]:
        """Change a VM's hardware: `plan` says how, given the VM, its devices and these properties; None: it is so.

        Gives the VM, its properties, and whether something was to be done.
        """
        at, seen, devices = self._seen.get(name, (-RECENT, None, []))
        if time.monotonic() - at < RECENT:
            vm, facts = await self._vm(name, *paths)
            with suppress(Refused, PlatformError):
                spec = await plan(vm, devices, facts) if vm == seen else None
                if spec is not None:
                    await self._change(name, vm, spec)
                    return vm, facts, True
        vm, facts = await self._vm(name, *paths, _DEVICES)
        now = time.monotonic()
        self._seen = {each: seen for each, seen in self._seen.items() if now - seen[0] < RECENT}
        self._seen[name] = now, vm, list(facts.get(_DEVICES, ()))
        spec = await plan(vm, self._seen[name][2], facts)
        if spec is not None:
            await self._change(name, vm, spec)
        return vm, facts, spec is not None

    async def _change(self, name: str, vm: Any, spec: Any) -> None:
        """Change it. What is added has a key of its own that is not known: disks can be remembered without."""
        at, _, devices = self._seen.pop(name)
        await self._session.finished(vm.ReconfigVM_Task, spec)
        gone = {each.device.key for each in spec.deviceChange if each.operation == "remove"}
        added = [each.device for each in spec.deviceChange if each.operation == "add"]
        if disks_of(added) == added:
            self._seen[name] = at, vm, [each for each in devices if each.key not in gone] + added

    # -- networks ----------------------------------------------------------------------------------------------------

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Give a VM that is off these adapters in place of its own (with new MACs), and its guest their addresses."""
        wanted = json.dumps([asdict(nic) for nic in nics])

        async def plan(_: Any, devices: Sequence[Any], facts: Mapping[str, Any]) -> Any:
            if extra(facts.get(_EXTRA, ())).get(NICS) == wanted:
                return None
            if facts.get(_POWER) != "poweredOff":
                raise PlatformError(f"VM {name} is on; its networks are given to it while it is off")
            changes = [_removal(card) for card in cards_of(devices)]
            changes += [await card(self._inventory, -201 - n, nic.network) for n, nic in enumerate(nics)]
            note = vim.option.OptionValue(key=NICS, value=wanted)
            return vim.vm.ConfigSpec(deviceChange=changes, extraConfig=[note])

        async def work() -> None:
            vm, facts, _ = await self._changed(name, plan, _EXTRA, _POWER, _PENDING, _GUEST)
            static = any(nic.address for nic in nics)
            if static and (why := _NO_STATIC.get(system_of(facts.get(_GUEST, "")))):
                hint = "give it DHCP, or set its addresses inside"
                raise Unsupported(f"VM {name} gets no static address: {why}", place=self._session.place, hint=hint)
            if static and facts.get(_POWER) == "poweredOff" and not facts.get(_PENDING):
                with suppress_fault(vim.fault.CustomizationPending):
                    await self._session.finished(vm.CustomizeVM_Task, addresses(nics, self._session.spec.domain))

        async with self._alone(name):
            await self._session.patient(f"give VM {name} its networks", work)

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
