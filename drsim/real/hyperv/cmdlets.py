"""Cmdlets: the one table of what is asked of a Hyper-V host, by name, parameters and types.

The adapter builds its pipelines with `cmdlet`, which takes nothing that is not in the table; the fake host of the tests
refuses what is not in it. Names and types are those of Microsoft's reference for Windows PowerShell 5.1, read by hand.
No script text is ever sent: a name with a quote in it is a name with a quote in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from drsim.core.errors import CoreError


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """One cmdlet. `types`: of its parameters, by name. `changes`: something of the host."""

    name: str
    types: Mapping[str, str]
    changes: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A cmdlet of a pipeline with its parameters. A value of None leaves one out."""

    cmdlet: Cmdlet
    parameters: Mapping[str, Any]


def _table(*cmdlets: Cmdlet) -> Mapping[str, Cmdlet]:
    return MappingProxyType({each.name: each for each in cmdlets})


WMI = "root\\virtualization\\v2"
_VM = {"Name": "strings"}
_PATH = {"Path": "strings"}
_DRIVE = {"ControllerType": "string", "ControllerNumber": "int", "ControllerLocation": "int"}

CMDLETS = _table(
    # what there is
    Cmdlet("Get-VM", _VM),
    Cmdlet("Get-VMHost", {}),
    Cmdlet("Get-VMSwitch", {}),
    Cmdlet("Get-VMHardDiskDrive", {"VMName": "strings"}),
    Cmdlet("Get-VMScsiController", {"VMName": "strings"}),
    Cmdlet("Get-VMNetworkAdapter", {"VMName": "strings"}),
    Cmdlet("Get-VMIntegrationService", {"VMName": "strings"}),
    Cmdlet("Get-VMFirmware", {"VMName": "strings"}),
    Cmdlet("Get-VMSnapshot", {"VMName": "strings", "Name": "string"}),
    Cmdlet("Get-VHD", _PATH),
    Cmdlet("Get-Volume", {"FilePath": "string"}),
    Cmdlet("Get-ChildItem", {"LiteralPath": "strings"}),
    Cmdlet("Get-CimInstance", {"ClassName": "string"}),
    Cmdlet("Get-WmiObject", {"Class": "string", "Namespace": "string", "Filter": "string"}),
    # of any object
    Cmdlet("Select-Object", {"Property": "strings"}),
    Cmdlet("Where-Object", {"Property": "string", "EQ": "switch", "Value": "string"}),
    Cmdlet("ConvertTo-Json", {"Depth": "int", "Compress": "switch"}),
    # VMs
    Cmdlet(
        "New-VM",
        {"Name": "string", "Generation": "int16", "MemoryStartupBytes": "int64", "NoVHD": "switch", "Path": "string"},
        changes=True,
    ),
    Cmdlet("Set-VM", {"Name": "strings", "Notes": "string", "ProcessorCount": "int64", "StaticMemory": "switch",
                      "AutomaticStartAction": "string", "AutomaticCheckpointsEnabled": "bool"}, changes=True),
    Cmdlet("Set-VMFirmware", {"VMName": "strings", "EnableSecureBoot": "string"}, changes=True),
    Cmdlet("Remove-VM", {"Name": "strings", "Force": "switch"}, changes=True),
    Cmdlet("Start-VM", _VM, changes=True),
    Cmdlet("Stop-VM", {"Name": "strings", "TurnOff": "switch", "Force": "switch", "AsJob": "switch"}, changes=True),
    Cmdlet("Checkpoint-VM", {"Name": "strings", "SnapshotName": "string"}, changes=True),
    Cmdlet("Remove-VMSnapshot", {"VMName": "strings", "Name": "strings"}, changes=True),
    # their parts
    Cmdlet("Add-VMScsiController", {"VMName": "strings"}, changes=True),
    Cmdlet("Add-VMHardDiskDrive", {"VMName": "strings", "Path": "string", **_DRIVE}, changes=True),
    Cmdlet("Remove-VMHardDiskDrive", {"VMName": "string", **_DRIVE}, changes=True),
    Cmdlet("Add-VMNetworkAdapter", {"VMName": "strings", "Name": "string", "SwitchName": "string"}, changes=True),
    Cmdlet("Remove-VMNetworkAdapter", {"VMName": "strings", "Name": "string"}, changes=True),
    Cmdlet("Set-VMNetworkAdapterVlan", {"VMName": "strings", "VMNetworkAdapterName": "string", "Access": "switch",
                                        "VlanId": "int"}, changes=True),
    # disks and folders
    Cmdlet("New-VHD", {"Path": "strings", "SizeBytes": "uint64", "Dynamic": "switch", "ParentPath": "string",
                       "Differencing": "switch"}, changes=True),
    Cmdlet("New-Item", {"Path": "strings", "ItemType": "string", "Force": "switch"}, changes=True),
    Cmdlet("Remove-Item", {"LiteralPath": "strings", "Force": "switch", "Recurse": "switch"}, changes=True),
    # what has no cmdlet of its own
    Cmdlet("Invoke-CimMethod", {"Query": "string", "Namespace": "string", "MethodName": "string",
                                "Arguments": "table"}),
    Cmdlet("Invoke-WmiMethod", {"Path": "string", "Namespace": "string", "Name": "string", "ArgumentList": "list"},
           changes=True),
)  # fmt: skip
"""All cmdlets, by name."""


def cmdlet(name: str, /, **parameters: Any) -> Step:
    """A step of a pipeline. Raises CoreError for a cmdlet or a parameter that is not in the table."""
    known = CMDLETS.get(name)
    if known is None:
        raise CoreError(f"the cmdlet {name} is not in the table")
    unknown = sorted(set(parameters) - set(known.types))
    if unknown:
        raise CoreError(f"{name} has no parameter {', '.join(unknown)}")
    for key, value in parameters.items():
        check(known, key, value)
    return Step(known, {key: value for key, value in parameters.items() if value is not None})


_PYTHON: Mapping[str, type] = MappingProxyType({
    "string": str, "int16": int, "int": int, "int64": int, "uint64": int, "bool": bool, "switch": bool, "list": list,
    "table": dict,
})  # fmt: skip


def check(known: Cmdlet, key: str, value: Any) -> None:
    """Raises CoreError when a value is not of its parameter's type."""
    kind = known.types[key]
    if kind == "strings":
        fits = isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
    elif kind in ("bool", "switch"):
        fits = isinstance(value, bool)
    else:
        fits = isinstance(value, _PYTHON[kind]) and not isinstance(value, bool)
    if value is not None and not fits:
        raise CoreError(f"{known.name} -{key} is a {kind}, not {value!r}")
