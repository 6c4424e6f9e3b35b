# ruff: noqa: N803  (parameters are called as PowerShell calls them)
"""A few Hyper-V hosts of our own for tests: VMs, switches, and files in stores that all of them see.

A host takes pipelines of cmdlets and refuses what the adapter's table does not have: another cmdlet, another parameter,
another type. It is as Hyper-V is where that hurts: two VMs may have one name, New-VM makes a network adapter without
being asked, an IDE controller takes no disk while its VM runs, ConvertTo-Json writes one object without a list and
enumerations as numbers, and an error need not end a pipeline. A VHDX's content is a raw file of a temporary folder.
"""

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from platforms.fake_winrm import CmdletError
from psrpcore import types as ps

from drsim.real.hyperv.cmdlets import CMDLETS

LEAST = 3 << 20
RUNNING, OFF = 2, 3
OK, NO_CONTACT = 2, 12
SERVICES = {"Heartbeat": "84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47", "Shutdown": "9F8233AC-BE49-4C79-8EE3-E7E1985B2077"}
PROVIDER = "\\\\FAKE\\root\\virtualization\\v2:"
GRAIN = 32 << 10
"""Bytes: how finely changes are tracked."""


@dataclass
class Vhdx:
    """A disk's file. `raw`: its content; `parent`: what a differencing disk lies over.

    `marks`: by tracking id, the grains that were written since.
    """

    path: str
    size: int
    raw: Path
    parent: "Vhdx | None" = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()).upper())
    marks: dict[str, set[int]] = field(default_factory=dict)


@dataclass
class Drive:
    """A place of a VM that has a disk."""

    path: str
    kind: str
    controller: int
    location: int


@dataclass
class Adapter:
    """A network adapter."""

    name: str
    switch: str | None = None
    vlan: int = 0
    id: str = field(default_factory=lambda: str(uuid.uuid4()).upper())
    addresses: list[str] = field(default_factory=list)


@dataclass
class Vm:
    """A VM. `guest`: its integration services answer while it runs; `left`: addresses for its guest, by adapter.

    `system`: what its guest says that it is, while it runs.
    """

    name: str
    generation: int
    memory: int
    path: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()).upper())
    state: int = OFF
    cpus: int = 1
    notes: str = ""
    secure_boot: str = "On"
    drives: list[Drive] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=lambda: [Adapter("Network Adapter")])
    scsi: list[str] = field(default_factory=lambda: [str(uuid.uuid4()).upper()])
    snapshots: dict[str, list[Drive]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    guest: bool = True
    system: str = ""
    stubborn: bool = False


class Fabric:
    """What all hosts share: files by path, in small letters. `folder`: where the contents are. `full`: no room left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.full = folder, False
        self.files: dict[str, Vhdx] = {}
        self.names: dict[str, str] = {}
        self.folders: dict[str, str] = {}
        self.hosts: dict[str, HypervHost] = {}
        self.points: dict[str, dict[str, Any]] = {}
        self._count = 0

    def vhdx(self, path: str) -> Vhdx:
        """A disk's file."""
        found = self.files.get(path.lower())
        if found is None:
            raise CmdletError(f"The system cannot find the file '{path}'. (0x80070002)", "ObjectNotFound", "NotFound")
        return found

    def base(self, path: str) -> Vhdx:
        """The disk under its checkpoints."""
        found = self.vhdx(path)
        while found.path.endswith(".avhdx"):
            assert found.parent is not None
            found = found.parent
        return found

    def top(self, path: str) -> Vhdx:
        """What is written to now when a disk is."""
        over = [each for each in self.files.values()
                if each.path.endswith(".avhdx") and each.parent is self.vhdx(path)]  # fmt: skip
        return self.top(over[0].path) if over else self.vhdx(path)

    def make_folder(self, path: str) -> None:
        """With those above it."""
        parts = path.split("\\")
        for n in range(2, len(parts) + 1):
            each = "\\".join(parts[:n])
            self.folders.setdefault(each.lower(), each)

    def add(self, path: str, size: int, parent: Vhdx | None = None) -> Vhdx:
        """A new file; over a parent it begins with what that holds."""
        self._count += 1
        raw = self.folder / f"{self._count}.vhdx"
        if parent is not None:
            shutil.copy(parent.raw, raw)
        with raw.open("ab") as file:
            file.truncate(size)
        self.files[path.lower()] = found = Vhdx(path, size, raw, parent)
        self.names[path.lower()] = path
        return found

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        """What a guest or an appliance writes."""
        found = self.top(path)
        with found.raw.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        for marks in self.base(path).marks.values():
            marks |= set(range(offset // GRAIN, (offset + len(data) - 1) // GRAIN + 1))


def row(**values: Any) -> ps.PSCustomObject:
    """An object of a pipeline."""
    return ps.PSCustomObject(**values)


def value(each: Any) -> Any:
    """As JSON has it."""
    if isinstance(each, ps.PSCustomObject):
        return {p.name: value(p.get_value(each)) for p in each.PSObject.extended_properties}
    if isinstance(each, dict):
        return {key: value(item) for key, item in each.items()}
    if isinstance(each, list):
        return [value(item) for item in each]
    return each


def unescaped(name: str) -> str:
    return name.replace("`", "")


def not_found(name: str) -> CmdletError:
    return CmdletError(
        f'Hyper-V was unable to find a virtual machine with name "{name}".', "InvalidArgument", "InvalidParameter"
    )


class HypervHost:
    """One host. `switches`: its virtual switches; `denied`: cmdlets that the account may not use."""

    def __init__(self, fabric: Fabric, name: str, switches: Sequence[str], memory: int = 64 << 30) -> None:
        self.fabric, self.name, self.switches, self.memory = fabric, name, list(switches), memory
        self.vms: list[Vm] = []
        self.denied: set[str] = set()
        self.version, self.clock_ahead = "10.0.20348", 0.0
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.changed: Callable[[], None] = lambda: None
        fabric.hosts[name] = self

    # -- pipelines --------------------------------------------------------------------------------------------

    def changes(self, commands: Sequence[Any]) -> bool:
        """Whether a pipeline changes something."""
        return any(CMDLETS[c.command_text].changes for c in commands if c.command_text in CMDLETS)

    def run(self, commands: Sequence[Any]) -> tuple[list[Any], list[CmdletError]]:
        """What a pipeline gives, and the errors that do not end it."""
        flow: list[Any] | None = None
        output: list[Any] = []
        errors: list[CmdletError] = []
        for command in commands:
            parameters = self._checked(command)
            self.log.append((command.command_text, parameters))
            if command.command_text in self.denied:
                message = "You do not have the required permission to complete this task."
                raise CmdletError(message, "PermissionDenied", "AccessDenied")
            work = getattr(self, "do_" + command.command_text.lower().replace("-", "_"))
            try:
                flow = list(work(flow, **parameters) or [])
            except CmdletError as error:
                errors.append(error)
                flow = []
            if command.end_of_statement:
                output, flow = output + flow, None
        if self.changes(commands):
            self.changed()
        return output + (flow or []), errors

    def _checked(self, command: Any) -> dict[str, Any]:
        if command.is_script:
            raise CmdletError("script text is not run here", "NotImplemented")
        known = CMDLETS.get(command.command_text)
        if known is None:
            message = f"The term '{command.command_text}' is not recognized as the name of a cmdlet"
            raise CmdletError(message, "ObjectNotFound", "CommandNotFoundException")
        found = {}
        for key, each in command.parameters:
            if key not in known.types:
                message = f"A parameter cannot be found that matches parameter name '{key}'."
                raise CmdletError(message, "InvalidArgument", "NamedParameterNotFound")
            found[key] = self._typed(known.types[key], each)
        return found

    def _typed(self, kind: str, each: Any) -> Any:
        kinds = {"int16": ps.PSInt16, "int": ps.PSInt, "int64": ps.PSInt64, "uint64": ps.PSUInt64}
        if kind in kinds:
            assert type(each) is kinds[kind], (kind, type(each))
            return int(each)
        if kind == "switch":
            return True if each is None else each
        if kind == "strings":
            return [str(item) for item in (each if isinstance(each, list) else [each])]
        if kind == "table":
            return {str(key): int(item) if isinstance(item, ps.PSUInt64) else str(item) for key, item in each.items()}
        return str(each) if kind == "string" else each

    def _named(self, names: Sequence[str] | None) -> list[Vm]:
        if names is None:
            return list(self.vms)
        found = [vm for vm in self.vms if unescaped(names[0]).lower() == vm.name.lower()]
        if not found:
            raise not_found(unescaped(names[0]))
        return found

    def _from(self, flow: list[Any] | None, names: Sequence[str] | None) -> list[Vm]:
        if flow is None:
            return self._named(names)
        ids = [each.Id for each in flow]
        return [vm for vm in self.vms if vm.id in ids]

    # -- what there is ----------------------------------------------------------------------------------------

    def do_get_vm(self, _: Any, Name: list[str] | None = None) -> list[Any]:
        return [
            row(Name=vm.name, Id=vm.id, State=vm.state, Generation=vm.generation, ProcessorCount=vm.cpus,
                MemoryStartup=ps.PSInt64(vm.memory), Notes=vm.notes, Path=f"{vm.path}\\{vm.name}")
            for vm in self._named(Name)
        ]  # fmt: skip

    def do_get_vmhost(self, _: Any) -> list[Any]:
        return [row(Name=self.name, LogicalProcessorCount=16)]

    def do_get_vmswitch(self, _: Any, Name: str | None = None) -> list[Any]:
        return [row(Name=each) for each in self.switches if Name in (None, each)]

    def do_get_vmharddiskdrive(self, flow: Any, VMName: list[str] | None = None) -> list[Any]:
        if flow and hasattr(flow[0], "Drives"):
            return [self._drive(each.Vm, drive) for each in flow for drive in each.Drives]
        return [self._drive(vm, drive) for vm in self._from(flow, VMName) for drive in vm.drives]

    def _drive(self, vm: Vm, drive: Drive) -> Any:
        kind = {"IDE": 0, "SCSI": 1}[drive.kind]
        return row(VMId=vm.id, VMName=vm.name, Path=drive.path, ControllerType=kind,
                   ControllerNumber=drive.controller, ControllerLocation=drive.location)  # fmt: skip

    def do_get_vmscsicontroller(self, flow: Any, VMName: list[str]) -> list[Any]:
        return [row(VMId=vm.id, ControllerNumber=n, Id=f"Microsoft:{vm.id}\\{each}")
                for vm in self._from(flow, VMName) for n, each in enumerate(vm.scsi)]  # fmt: skip

    def do_get_vmnetworkadapter(self, flow: Any, VMName: list[str] | None = None) -> list[Any]:
        return [
            row(VMId=vm.id, Id=f"Microsoft:{vm.id}\\{nic.id}", Name=nic.name, SwitchName=nic.switch,
                IPAddresses=nic.addresses if vm.state == RUNNING else [],
                VlanSetting=row(OperationMode=1 if nic.vlan else 0, AccessVlanId=nic.vlan))
            for vm in self._from(flow, VMName) for nic in vm.adapters
        ]  # fmt: skip

    def do_get_vmintegrationservice(self, flow: Any, VMName: list[str] | None = None) -> list[Any]:
        return [
            row(VMId=vm.id, Id=f"Microsoft:{vm.id}\\{each}",
                PrimaryOperationalStatus=OK if vm.guest and vm.state == RUNNING else NO_CONTACT)
            for vm in self._from(flow, VMName) for each in SERVICES.values()
        ]  # fmt: skip

    def do_get_vmfirmware(self, flow: Any, VMName: list[str] | None = None) -> list[Any]:
        found = self._from(flow, VMName)
        if any(vm.generation != 2 for vm in found):
            raise CmdletError("This feature is not supported for generation 1 VMs.", "InvalidArgument")
        return [row(VMId=vm.id, VMName=vm.name, SecureBoot={"On": 0, "Off": 1}[vm.secure_boot]) for vm in found]

    def do_get_vmsnapshot(self, _: Any, VMName: list[str], Name: str | None = None) -> list[Any]:
        return [row(Name=name, VMId=vm.id, Drives=drives, Vm=vm) for vm in self._named(VMName)
                for name, drives in vm.snapshots.items() if Name in (None, name)]  # fmt: skip

    def do_get_vhd(self, _: Any, Path: list[str]) -> list[Any]:
        found = [self.fabric.vhdx(each) for each in Path]
        return [row(Path=each.path, Size=ps.PSUInt64(each.size), DiskIdentifier=self.fabric.base(each.path).id,
                    ParentPath=each.parent.path if each.parent else "") for each in found]  # fmt: skip

    def do_get_volume(self, _: Any, FilePath: str) -> list[Any]:
        if FilePath.lower() not in self.fabric.folders:
            raise CmdletError(f"No MSFT_Volume objects found for path '{FilePath}'", "ObjectNotFound")
        return [row(Size=ps.PSUInt64(4 << 40), SizeRemaining=ps.PSUInt64(0 if self.fabric.full else 1 << 40))]

    def do_get_childitem(self, _: Any, LiteralPath: list[str]) -> list[Any]:
        folder = LiteralPath[0].lower()
        if folder not in self.fabric.folders:
            raise CmdletError(f"Cannot find path '{folder}' because it does not exist.", "ObjectNotFound")
        there = [*self.fabric.names.values(), *self.fabric.folders.values()]
        return [row(Name=name.rpartition("\\")[2]) for name in sorted(there)
                if name.lower().rpartition("\\")[0] == folder]  # fmt: skip

    def do_get_ciminstance(self, _: Any, ClassName: str) -> list[Any]:
        assert ClassName == "Win32_OperatingSystem"
        used = sum(vm.memory for vm in self.vms if vm.state == RUNNING)
        free = ps.PSUInt64((self.memory - used) >> 10)
        now = int((time.time() + self.clock_ahead) * 1000)
        return [row(Caption="Microsoft Windows Server 2022 Datacenter", Version=self.version,
                    LocalDateTime=f"/Date({now})/", FreePhysicalMemory=free)]  # fmt: skip

    def do_get_wmiobject(self, _: Any, Class: str, Namespace: str, Filter: str | None = None) -> list[Any]:
        wanted = Filter.partition("=")[2].strip("'") if Filter else None
        if Class.endswith("Service"):
            return [row(Name=Class, __PATH=f"{PROVIDER}{Class}")]
        if Class == "Msvm_ComputerSystem":
            return [row(__PATH=f'{PROVIDER}{Class}.Name="{vm.id}"') for vm in self.vms if vm.id == wanted]
        if Class == "Msvm_KvpExchangeComponent":
            ids = re.findall(r"SystemName='([^']*)'", Filter) if Filter else [vm.id for vm in self.vms]
            assert Filter is None or Filter == " OR ".join(f"SystemName='{each}'" for each in ids)
            return [row(SystemName=vm.id.upper(), GuestIntrinsicExchangeItems=_pairs(vm)) for vm in self.vms
                    if vm.id in ids]  # fmt: skip
        if Class == "Msvm_ConcreteJob":
            return [row(JobState=7, ErrorDescription=None)]
        assert Class == "Msvm_VirtualSystemReferencePoint"
        return [row(InstanceID=key, __PATH=f'{PROVIDER}{Class}.InstanceID="{key}"',
                    VirtualDiskIdentifiers=list(each["disks"]), ResilientChangeTrackingIdentifiers=list(each["marks"]))
                for key, each in self.fabric.points.items() if each["vm"] == wanted]  # fmt: skip

    # -- of any object ----------------------------------------------------------------------------------------

    def do_select_object(self, flow: list[Any], Property: list[str]) -> list[Any]:
        return [row(**{name: getattr(each, name, None) for name in Property}) for each in flow]

    def do_where_object(self, flow: list[Any], Property: str, EQ: bool, Value: str) -> list[Any]:
        assert EQ
        return [each for each in flow if str(getattr(each, Property)) == Value]

    def do_convertto_json(self, flow: list[Any], Depth: int, Compress: bool = False) -> list[Any]:
        plain = [value(each) for each in flow]
        return [json.dumps(plain[0] if len(plain) == 1 else plain)] if plain else []

    # -- VMs --------------------------------------------------------------------------------------------------

    def do_new_vm(
        self, _: Any, Name: str, Generation: int, MemoryStartupBytes: int, NoVHD: bool, Path: str
    ) -> list[Any]:
        self.fabric.make_folder(f"{Path}\\{Name}")
        self.vms.append(Vm(Name, Generation, MemoryStartupBytes, Path))
        return self.do_get_vm(None, Name=[Name])

    def do_set_vm(self, _: Any, Name: list[str], **given: Any) -> None:
        for vm in self._named(Name):
            vm.notes, vm.cpus = given.get("Notes", vm.notes), given.get("ProcessorCount", vm.cpus)

    def do_set_vmfirmware(self, _: Any, VMName: list[str], EnableSecureBoot: str) -> None:
        for vm in self._named(VMName):
            if vm.generation != 2:
                raise CmdletError("The generation of the virtual machine has no firmware.", "InvalidArgument")
            vm.secure_boot = EnableSecureBoot

    def do_remove_vm(self, _: Any, Name: list[str], Force: bool) -> None:
        for vm in self._named(Name):
            if vm.state != OFF:
                raise CmdletError("The operation cannot be performed while the VM is in its current state.")
            self.vms.remove(vm)

    def do_start_vm(self, _: Any, Name: list[str]) -> None:
        for vm in self._named(Name):
            free = self.memory - sum(each.memory for each in self.vms if each.state == RUNNING)
            if vm.memory > free:
                raise CmdletError("Not enough memory in the system to start the VM. (0x8007000E)")
            for drive in vm.drives:
                self.fabric.vhdx(drive.path)
            for host in self.fabric.hosts.values():
                for other in host.vms:
                    both = {d.path.lower() for d in other.drives} & {d.path.lower() for d in vm.drives}
                    if other is not vm and other.state == RUNNING and both:
                        message = "The process cannot access the file because it is being used by another process."
                        raise CmdletError(message + " (0x80070020)", "ResourceBusy")
            vm.state = RUNNING
            for nic in vm.adapters if vm.guest else ():
                nic.addresses = vm.left.pop(nic.id, nic.addresses)

    def do_stop_vm(
        self, _: Any, Name: list[str], Force: bool = False, TurnOff: bool = False, AsJob: bool = False
    ) -> None:
        for vm in self._named(Name):
            if TurnOff or (vm.guest and not vm.stubborn):
                vm.state = OFF

    def do_checkpoint_vm(self, _: Any, Name: list[str], SnapshotName: str) -> None:
        for vm in self._named(Name):
            vm.snapshots[SnapshotName] = [Drive(d.path, d.kind, d.controller, d.location) for d in vm.drives]
            for drive in vm.drives:
                below = self.fabric.vhdx(drive.path)
                path = f"{self.fabric.base(drive.path).path.removesuffix('.vhdx')}_{uuid.uuid4()}.avhdx"
                drive.path = self.fabric.add(path, below.size, below).path

    def do_remove_vmsnapshot(self, _: Any, VMName: list[str], Name: list[str]) -> None:
        for vm in self._named(VMName):
            for frozen in vm.snapshots.pop(Name[0]):
                for drive in vm.drives:
                    top = self.fabric.vhdx(drive.path)
                    if top.parent is not None and top.parent.path == frozen.path:
                        top.raw.replace(top.parent.raw)
                        self._forget(top.path)
                        drive.path = frozen.path

    # -- their parts ------------------------------------------------------------------------------------------

    def do_add_vmscsicontroller(self, _: Any, VMName: list[str]) -> None:
        for vm in self._named(VMName):
            vm.scsi.append(str(uuid.uuid4()).upper())

    def do_add_vmharddiskdrive(self, _: Any, VMName: list[str], Path: str, ControllerType: str, ControllerNumber: int,
                               ControllerLocation: int) -> None:  # fmt: skip
        place = (ControllerType, ControllerNumber, ControllerLocation)
        for vm in self._named(VMName):
            if ControllerType == "IDE" and (vm.generation == 2 or vm.state != OFF):
                raise CmdletError("An IDE controller takes no disk here.", "InvalidOperation")
            if any((d.kind, d.controller, d.location) == place for d in vm.drives):
                raise CmdletError("The location of the controller is in use.", "ResourceExists")
            vm.drives.append(Drive(self.fabric.vhdx(Path).path, *place))

    def do_remove_vmharddiskdrive(self, _: Any, VMName: str, ControllerType: str, ControllerNumber: int,
                                  ControllerLocation: int) -> None:  # fmt: skip
        place = (ControllerType, ControllerNumber, ControllerLocation)
        for vm in self._named([VMName]):
            vm.drives = [d for d in vm.drives if (d.kind, d.controller, d.location) != place]

    def do_add_vmnetworkadapter(self, _: Any, VMName: list[str], Name: str, SwitchName: str) -> None:
        if SwitchName not in self.switches:
            raise CmdletError(f"Hyper-V was unable to find a switch with name {SwitchName}.", "InvalidArgument")
        for vm in self._named(VMName):
            vm.adapters.append(Adapter(Name, SwitchName))

    def do_remove_vmnetworkadapter(self, _: Any, VMName: list[str]) -> None:
        for vm in self._named(VMName):
            vm.adapters, vm.left = [], {}

    def do_set_vmnetworkadaptervlan(self, _: Any, VMName: list[str], VMNetworkAdapterName: str, Access: bool,
                                    VlanId: int) -> None:  # fmt: skip
        for vm in self._named(VMName):
            for nic in vm.adapters:
                if nic.name == VMNetworkAdapterName:
                    nic.vlan = VlanId

    # -- files ------------------------------------------------------------------------------------------------

    def do_new_vhd(self, _: Any, Path: list[str], SizeBytes: int | None = None, Dynamic: bool = False,
                   ParentPath: str | None = None, Differencing: bool = False) -> None:  # fmt: skip
        if Path[0].lower() in self.fabric.files:
            raise CmdletError("The file exists. (0x80070050)", "ResourceExists")
        if self.fabric.full:
            raise CmdletError("There is not enough space on the disk. (0x80070070)", "NotSpecified")
        if ParentPath is not None:
            parent = self.fabric.vhdx(ParentPath)
            self.fabric.add(Path[0], parent.size, parent)
        elif SizeBytes is None or SizeBytes < LEAST or SizeBytes % 512:
            raise CmdletError(f"The size {SizeBytes} is not valid.", "InvalidArgument")
        else:
            self.fabric.add(Path[0], SizeBytes)

    def do_new_item(self, _: Any, Path: list[str], ItemType: str, Force: bool) -> list[Any]:
        assert (ItemType, Force) == ("Directory", True)
        self.fabric.make_folder(Path[0])
        return [row(Name=Path[0])]

    def do_remove_item(self, _: Any, LiteralPath: list[str], Force: bool, Recurse: bool = False) -> None:
        path = LiteralPath[0].lower()
        if path not in self.fabric.files and path not in self.fabric.folders:
            raise CmdletError(f"Cannot find path '{path}' because it does not exist.", "ObjectNotFound")
        gone = [each for each in self.fabric.files if each == path or (Recurse and each.startswith(path + "\\"))]
        running = [vm for host in self.fabric.hosts.values() for vm in host.vms if vm.state == RUNNING]
        if any(drive.path.lower() in gone for vm in running for drive in vm.drives):
            raise CmdletError("The file is being used by another process. (0x80070020)", "WriteError")
        for each in gone:
            self._forget(each)
        for folder in list(self.fabric.folders):
            if folder == path or folder.startswith(path + "\\"):
                del self.fabric.folders[folder]

    def _forget(self, path: str) -> None:
        found = self.fabric.files.pop(path.lower())
        self.fabric.names.pop(path.lower())
        found.raw.unlink(missing_ok=True)

    # -- WMI --------------------------------------------------------------------------------------------------

    def do_invoke_wmimethod(self, _: Any, Path: str, Name: str, ArgumentList: list[Any]) -> list[Any]:
        service = Path.removeprefix(PROVIDER)
        if (service, Name) == ("Msvm_VirtualSystemManagementService", "SetGuestNetworkAdapterConfiguration"):
            vm = self._system(ArgumentList[0])
            for text in ArgumentList[1]:
                found = _properties(str(text))
                vm.left[found["InstanceID"].rpartition("\\")[2]] = found["IPAddresses"]
            return [row(ReturnValue=4096, Job=f'{PROVIDER}Msvm_ConcreteJob.InstanceID="{uuid.uuid4()}"')]
        assert service == "Msvm_VirtualSystemReferencePointService"
        if Name == "DestroyReferencePoint":
            self.fabric.points.pop(str(ArgumentList[0]).rpartition("InstanceID=")[2].strip('"'))
        else:
            assert (Name, int(ArgumentList[2])) == ("CreateReferencePoint", 1)
            vm = self._system(ArgumentList[0])
            disks = {self.fabric.base(drive.path).id: f"rct:{uuid.uuid4()}" for drive in vm.drives}
            for drive in vm.drives:
                base = self.fabric.base(drive.path)
                base.marks[disks[base.id]] = set()
            self.fabric.points[str(uuid.uuid4())] = {"vm": vm.id, "disks": disks.keys(), "marks": disks.values()}
        return [row(ReturnValue=0, Job=None)]

    def _system(self, path: Any) -> Vm:
        wanted = str(path).rpartition("Name=")[2].strip('"')
        return next(vm for vm in self.vms if vm.id == wanted)

    def do_invoke_cimmethod(
        self, _: Any, Query: str, Namespace: str, MethodName: str, Arguments: dict[str, Any]
    ) -> list[Any]:
        assert (Query, MethodName) == ("SELECT * FROM Msvm_ImageManagementService", "GetVirtualDiskChanges")
        disk = self.fabric.vhdx(Arguments["Path"])
        start, length = Arguments["ByteOffset"], Arguments["ByteLength"]
        marks = self.fabric.base(disk.path).marks.get(Arguments["LimitId"])
        if marks is None or length >= disk.size:
            return [row(ReturnValue=32773)]
        grains = [grain for grain in sorted(marks) if start <= grain * GRAIN < start + length]
        return [row(ReturnValue=0, ProcessedByteLength=ps.PSUInt64(length),
                    ChangedByteOffsets=[ps.PSUInt64(grain * GRAIN) for grain in grains],
                    ChangedByteLengths=[ps.PSUInt64(GRAIN) for _ in grains])]  # fmt: skip


def _pairs(vm: Vm) -> list[str] | None:
    """What its guest tells of itself: nothing while it is off, or without integration services."""
    if vm.state != RUNNING or not vm.guest or not vm.system:
        return None
    pairs = {"FullyQualifiedDomainName": f"{vm.name}.example", "OSName": vm.system, "OSVersion": "10.0.20348"}
    made = []
    for name, data in pairs.items():
        root = ElementTree.Element("INSTANCE", CLASSNAME="Msvm_KvpExchangeDataItem")
        for key, text in (("Caption", None), ("Data", data), ("Name", name), ("Source", "2")):
            one = ElementTree.SubElement(root, "PROPERTY", NAME=key, TYPE="uint16" if key == "Source" else "string")
            if text is not None:
                ElementTree.SubElement(one, "VALUE").text = text
        made.append(ElementTree.tostring(root, encoding="unicode"))
    return made


def _properties(text: str) -> dict[str, Any]:
    """Of an embedded instance; as strict as its class is."""
    root = ElementTree.fromstring(text)
    assert (root.tag, root.get("CLASSNAME")) == ("INSTANCE", "Msvm_GuestNetworkAdapterConfiguration")
    found: dict[str, Any] = {}
    for each in root:
        values = [item.text or "" for item in each.iter("VALUE")]
        found[each.get("NAME", "")] = values if each.tag == "PROPERTY.ARRAY" else values[0]
    assert set(found) == {"InstanceID", "ProtocolIFType", "DHCPEnabled", "IPAddresses", "Subnets", "DefaultGateways",
                          "DNSServers"}  # fmt: skip
    assert found["InstanceID"].startswith("Microsoft:GuestNetwork\\")
    return found
