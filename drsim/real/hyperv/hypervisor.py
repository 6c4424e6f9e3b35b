"""HypervHypervisor: makes and runs VMs on Hyper-V hosts.

Every call looks first and does what is missing, so that it may be asked again at any point. A VM of generation 1 starts
from its IDE controller, which takes no disk while it runs: its first disk goes there, all others to SCSI. Addresses for
the guest are left with Hyper-V, whose integration services set them when the guest is up.
"""

import asyncio
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.hyperv import wmi
from drsim.real.hyperv.cmdlets import Step, cmdlet
from drsim.real.hyperv.hosts import Drive, FoundVm, Hosts, Part, literal, note, quoted, same
from drsim.real.hyperv.session import Session
from drsim.real.ports import DiskId, Firmware, NewVm, NotFound, Power, Taken, Unsupported

UNITS, CONTROLLERS = 64, 4
"""Disks of one SCSI controller, and controllers of one VM."""
_LOOK = 0.5  # seconds between looks while a guest starts or stops
_IPV4, _IPV6 = "4096", "4097"


class HypervHypervisor:
    """The VMs of a site."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def create(self, vm: NewVm) -> None:
        """Make a VM without disks and networks."""
        session = self._hosts.session(vm.host)
        folder = f"{self._hosts.folder(vm.store)}\\{_folder(vm.name, vm.owner)}"

        async def on(_: Session) -> None:
            there = await self._hosts.find(vm.name, Part.NONE)
            if there is not None and there.facts.owner != vm.owner:
                whose = there.facts.owner or "somebody else"
                hint = "choose another name, or rename the other VM"
                raise Taken(f"a VM of {whose} is called {vm.name} already", place=there.facts.host, hint=hint)
            if there is None:
                generation = 2 if vm.firmware is Firmware.UEFI else 1
                await session.run(
                    cmdlet("New-VM", Name=vm.name, Generation=generation, MemoryStartupBytes=vm.memory, NoVHD=True,
                           Path=folder)
                )  # fmt: skip
            await self._finish(vm, there)

        await self._hosts.ask(session, f"create VM {vm.name}", on)

    async def _finish(self, vm: NewVm, there: FoundVm | None) -> None:
        """What New-VM does not take, and a network adapter that it makes without being asked."""
        session = there.session if there else self._hosts.session(vm.host)
        name = literal(vm.name)
        steps = [
            cmdlet("Set-VM", Name=name, Notes=note(vm.owner), ProcessorCount=vm.cpus, StaticMemory=True,
                   AutomaticStartAction="Nothing", AutomaticCheckpointsEnabled=False)
        ]  # fmt: skip
        if vm.firmware is Firmware.UEFI:
            steps.append(cmdlet("Set-VMFirmware", VMName=name, EnableSecureBoot="Off"))
        if there is None or not there.noted:
            steps.append(cmdlet("Remove-VMNetworkAdapter", VMName=name))
        await session.run(*steps)

    async def delete(self, name: str, owner: str) -> None:
        """Delete a VM of this owner; its disks stay."""

        async def once() -> None:
            vm = await self._hosts.find(name, Part.DRIVES)
            if vm is not None and vm.facts.owner == owner:
                off = [cmdlet("Stop-VM", Name=literal(name), TurnOff=True, Force=True)]
                await vm.session.run(
                    *(off if vm.facts.power is Power.ON else []), *(remove_drive(name, each) for each in vm.drives),
                    cmdlet("Remove-VM", Name=literal(name), Force=True),
                )  # fmt: skip
            await self._hosts.anywhere(f"delete the folder of {name}", on)

        async def on(session: Session) -> None:
            for store in map(self._hosts.folder, self._hosts.site.stores):
                parent, _, own = f"{store}\\{_folder(name, owner)}".rpartition("\\")
                if any(same(own, each) for each in await self._hosts.names(session, parent)):
                    gone = cmdlet("Remove-Item", LiteralPath=f"{parent}\\{own}", Force=True, Recurse=True)
                    await session.run(gone)

        await self._hosts.patiently(f"delete VM {name}", once)

    # -- disks ------------------------------------------------------------------------------------------------

    async def attach(self, name: str, disk: DiskId) -> None:
        """Attach a disk behind those that a VM has."""

        async def once() -> None:
            vms = await self._hosts.look(parts=Part.DRIVES)
            vm = next((each for each in vms if same(each.facts.name, name)), None) or await self._hosts.need(
                name, Part.DRIVES
            )
            has = next((other.facts.name for other in vms if any(same(d.path, disk) for d in other.drives)), None)
            if has == vm.facts.name:
                return
            if has is not None:
                raise Taken(f"the VM {has} has the disk", place=disk, hint="detach it there first")
            kind, controller, unit = await self._place(vm)
            await vm.session.run(
                cmdlet("Add-VMHardDiskDrive", VMName=literal(name), Path=disk, ControllerType=kind,
                       ControllerNumber=controller, ControllerLocation=unit)
            )  # fmt: skip

        await self._hosts.patiently(f"attach a disk to {name}", once)

    async def _place(self, vm: FoundVm) -> tuple[str, int, int]:
        if vm.generation == 1 and not vm.drives and vm.facts.power is Power.OFF:
            return "IDE", 0, 0
        scsi = [(drive.controller, drive.location) for drive in vm.drives if drive.kind == "SCSI"]
        controller, unit = max(scsi, default=(0, -1))
        if unit + 1 < UNITS:
            return "SCSI", controller, unit + 1
        if controller + 1 == CONTROLLERS or vm.facts.power is Power.ON:
            hint = "a controller can be added while the VM is off, up to four"
            raise Unsupported(
                f"all {UNITS} places of the last SCSI controller are taken", place=vm.facts.name, hint=hint
            )
        rows = await vm.session.rows(
            cmdlet("Get-VMScsiController", VMName=literal(vm.facts.name)), properties=("ControllerNumber",)
        )
        if len(rows) == controller + 1:
            await vm.session.run(cmdlet("Add-VMScsiController", VMName=literal(vm.facts.name)))
        return "SCSI", controller + 1, 0

    async def detach(self, name: str, disk: DiskId) -> None:
        """Detach a disk; it stays."""

        async def once() -> None:
            try:
                vm = await self._hosts.need(name, Part.DRIVES)
            except NotFound:
                return
            for drive in vm.drives:
                if same(drive.path, disk):
                    await vm.session.run(remove_drive(name, drive))

        await self._hosts.patiently(f"detach a disk from {name}", once)

    # -- networks ---------------------------------------------------------------------------------------------

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Replace a VM's adapters, and leave its guest's addresses with Hyper-V."""
        wanted = [self._wanted(n, nic) for n, nic in enumerate(nics)]

        async def once() -> None:
            vm = await self._hosts.need(name, Part.NICS)
            if vm.facts.power is Power.ON:
                raise PlatformError("the VM runs", place=name, hint="networks are given to a VM that is off")
            switches = await vm.session.rows(cmdlet("Get-VMSwitch"), properties=("Name",))
            for _, switch, _ in wanted:
                if switch not in [row["Name"] for row in switches]:
                    raise NotFound(f"the host has no virtual switch {switch}", place=vm.facts.host)
            await self._adapters(vm, wanted)
            if any(nic.address for nic in nics):
                await self._addresses(await self._hosts.need(name, Part.NICS), nics)

        await self._hosts.patiently(f"set the networks of {name}", once)

    def _wanted(self, n: int, nic: Nic) -> tuple[str, str, int | None]:
        network = self._hosts.site.networks.get(nic.network)
        switch, vlan = (network.switch, network.vlan) if network else (nic.network, None)
        return f"drsim-{n}", switch, vlan

    async def _adapters(self, vm: FoundVm, wanted: Sequence[tuple[str, str, int | None]]) -> None:
        name = literal(vm.facts.name)
        has = [(nic["Name"], nic["SwitchName"], (nic["VlanSetting"] or {}).get("AccessVlanId") or None)
               for nic in vm.nics]  # fmt: skip
        if has == list(wanted):
            return
        steps = [cmdlet("Remove-VMNetworkAdapter", VMName=name)] if has else []
        for adapter, switch, vlan in wanted:
            steps.append(cmdlet("Add-VMNetworkAdapter", VMName=name, Name=adapter, SwitchName=switch))
            if vlan is not None:
                steps.append(
                    cmdlet("Set-VMNetworkAdapterVlan", VMName=name, VMNetworkAdapterName=adapter, Access=True,
                           VlanId=vlan)
                )  # fmt: skip
        await vm.session.run(*steps)

    async def _addresses(self, vm: FoundVm, nics: Sequence[Nic]) -> None:
        """SetGuestNetworkAdapterConfiguration: applied as soon as the guest's integration services answer."""
        texts = []
        for adapter, nic in zip(vm.nics, nics, strict=True):
            path = "GuestNetwork\\" + adapter["Id"].removeprefix("Microsoft:")
            texts.append(configuration(f"Microsoft:{path}", nic))
        service = await wmi.path(vm.session, "Msvm_VirtualSystemManagementService")
        system = await wmi.path(vm.session, "Msvm_ComputerSystem", f"Name='{vm.id}'")
        await wmi.invoke(vm.session, service, "SetGuestNetworkAdapterConfiguration", [system, texts])

    # -- power ------------------------------------------------------------------------------------------------

    async def power_on(self, name: str) -> None:
        """Start a VM."""

        async def once() -> None:
            vm = await self._hosts.need(name, Part.NONE)
            if vm.facts.power is Power.OFF:
                await vm.session.run(cmdlet("Start-VM", Name=literal(name)))

        await self._hosts.patiently(f"power on {name}", once)

    async def power_off(self, name: str) -> None:
        """Stop a VM as by pulling its plug. Nothing to do when there is none."""

        async def once() -> None:
            vm = await self._hosts.find(name, Part.NONE)
            if vm is not None and vm.facts.power is Power.ON:
                await vm.session.run(cmdlet("Stop-VM", Name=literal(name), TurnOff=True, Force=True))

        await self._hosts.patiently(f"power off {name}", once)

    async def shut_down(self, name: str, timeout: float) -> bool:
        """Ask a guest to stop, and look whether it has."""

        async def ask() -> FoundVm:
            vm = await self._hosts.need(name, Part.SERVICES)
            if vm.facts.tools:
                await vm.session.run(cmdlet("Stop-VM", Name=literal(name), Force=True, AsJob=True))
            return vm

        vm = await self._hosts.patiently(f"shut down {name}", ask)
        if vm.facts.power is Power.ON and not vm.facts.tools:
            return False
        return await self._until(name, lambda vm: vm.facts.power is Power.OFF, timeout)

    async def wait(self, name: str, timeout: float) -> None:
        """Until a guest's heartbeat comes."""
        vm = await self._hosts.need(name, Part.NONE)
        if vm.facts.power is Power.OFF:
            raise PlatformError("the VM does not run", place=name)
        if not await self._until(name, lambda vm: vm.heartbeat, timeout):
            hint = "does its guest have Hyper-V's integration services? Linux has had them since 3.4"
            raise PlatformError(f"no heartbeat from the guest within {timeout:g} s", place=name, hint=hint)

    async def _until(self, name: str, reached: Callable[[FoundVm], bool], timeout: float) -> bool:
        deadline = asyncio.get_running_loop().time() + timeout
        while not reached(await self._hosts.need(name, Part.SERVICES)):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await asyncio.sleep(min(_LOOK, left))
        return True


def _folder(name: str, owner: str) -> str:
    return f"vms\\{quoted(name)}@{quoted(owner)}"


def remove_drive(name: str, drive: Drive) -> Step:
    """The cmdlet that detaches a disk."""
    return cmdlet(
        "Remove-VMHardDiskDrive", VMName=name, ControllerType=drive.kind, ControllerNumber=drive.controller,
        ControllerLocation=drive.location,
    )  # fmt: skip


def _mask(nic: Nic) -> str:
    return str(nic.subnet.netmask if nic.subnet.version == 4 else nic.subnet.prefixlen)


def configuration(instance: str, nic: Nic) -> str:
    """A Msvm_GuestNetworkAdapterConfiguration in the text form of CIM, as embedded instances are sent."""
    root = ElementTree.Element("INSTANCE", CLASSNAME="Msvm_GuestNetworkAdapterConfiguration")

    def one(name: str, kind: str, value: str) -> None:
        found = ElementTree.SubElement(root, "PROPERTY", NAME=name, TYPE=kind)
        ElementTree.SubElement(found, "VALUE").text = value

    def many(name: str, values: Sequence[str]) -> None:
        found = ElementTree.SubElement(root, "PROPERTY.ARRAY", NAME=name, TYPE="string")
        array = ElementTree.SubElement(found, "VALUE.ARRAY")
        for value in values:
            ElementTree.SubElement(array, "VALUE").text = value

    one("InstanceID", "string", instance)
    one("ProtocolIFType", "uint16", _IPV6 if nic.address and ":" in nic.address else _IPV4)
    one("DHCPEnabled", "boolean", "false" if nic.address else "true")
    many("IPAddresses", [nic.address] if nic.address else [])
    many("Subnets", [_mask(nic)] if nic.address else [])
    many("DefaultGateways", [nic.gateway] if nic.address and nic.gateway else [])
    many("DNSServers", nic.dns)
    return ElementTree.tostring(root, encoding="unicode")
