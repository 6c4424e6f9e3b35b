"""Convert: what becomes of a VM on another platform, from one table, and what stands in its way.

Limits and sizes are the platforms' published ones; where a platform has several, the smallest that its usual VMs have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
MBR = 2 * TIB
"""Bytes of a disk that a BIOS starts from: its partition table has no larger numbers (32 bits of 512-byte sectors)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a platform takes. `step`, `least`, `most`: bytes of a disk. `units`: disks of one SCSI controller.

    `controller`, `nic`: what a recovered VM gets; `drivers`: what its guest needs for them, by operating system.
    `no_static`: the systems whose guests are given no static addresses (re-IP), and why.
    """

    name: str
    format: str
    step: int
    least: int
    most: int
    disks: Mapping[str, int]
    nics: int
    cpus: int
    memory: int
    firmware: tuple[str, ...]
    secure_boot: bool
    units: int
    controllers: int
    controller: str
    nic: str
    drivers: Mapping[str, str]
    no_static: Mapping[str, str] = field(default_factory=dict)


_SYSPREP = MappingProxyType({"windows": "a vCenter would run Sysprep, which makes it another one (a new SID)"})
_HOOK = MappingProxyType({"windows": "the hook that sets them is for Linux"})


def _any(number: int) -> Mapping[str, int]:
    return MappingProxyType({"": number, "linux": number, "windows": number})


_KINDS = (
    Kind("vsphere", "vmdk", MIB, MIB, 62 * TIB, _any(60), 10, 768, 24 * TIB, ("bios", "uefi"), True, 15, 4, "pvscsi",
         "vmxnet3", MappingProxyType({"linux": "vmw_pvscsi and vmxnet3 (in Linux since 2.6.33)",
                                      "windows": "VMware Tools (PVSCSI, VMXNET3)"}), _SYSPREP),
    Kind("vcd", "vmdk", MIB, MIB, 62 * TIB, _any(60), 10, 768, 24 * TIB, ("bios", "uefi"), True, 15, 4, "pvscsi",
         "vmxnet3", MappingProxyType({"linux": "vmw_pvscsi and vmxnet3 (in Linux since 2.6.33)",
                                      "windows": "VMware Tools (PVSCSI, VMXNET3)"})),
    Kind("hyperv", "vhdx", 4096, 3 * MIB, 64 * TIB, _any(256), 8, 240, 12 * TIB, ("bios", "uefi"), False, 64, 4,
         "synthetic SCSI", "synthetic",
         MappingProxyType({"linux": "hv_storvsc and hv_netvsc (in Linux since 3.4); in the initial ramdisk",
                           "windows": "none: Windows has them since Server 2012"})),
    Kind("aws", "raw", GIB, GIB, 16 * TIB, MappingProxyType({"": 26, "linux": 40, "windows": 26}), 2, 448, 24 * TIB,
         ("bios", "uefi"), False, 40, 1, "NVMe", "ENA",
         MappingProxyType({"linux": "nvme and ena; in the initial ramdisk", "windows": "AWS NVMe and ENA drivers"})),
    Kind("local", "raw", 512, 512, 8 << 60, _any(24), 8, 64, TIB, ("bios",), False, 24, 1, "virtio-blk", "virtio-net",
         MappingProxyType({"linux": "virtio_blk and virtio_net", "windows": "virtio drivers (viostor, NetKVM)"}),
         _HOOK),
)  # fmt: skip
KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All platforms, by the name that a site's file uses. products.md 1.7 has AWS's limits of volumes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM as far as a conversion goes. `disks`: bytes of each, in order; `system`: linux, windows or unknown.

    `static`: it is to have a static address there.
    """

    name: str
    kind: str
    disks: tuple[int, ...]
    nics: int = 1
    cpus: int = 1
    memory: int = 4 * GIB
    firmware: str = "bios"
    secure_boot: bool = False
    system: str = ""
    static: bool = False


class Weight(StrEnum):
    """What a finding means: it will not work, something will be different, or something has to be there."""

    STOPS = "stops"
    DIFFERS = "differs"
    NEEDS = "needs"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one VM on its way to another platform, and what to do about it."""

    vm: str
    weight: Weight
    what: str
    hint: str = ""


def rounded(size: int, kind: str) -> int:
    """Bytes of the smallest disk of a platform that holds one of `size` bytes."""
    to = KINDS[kind]
    return max(to.least, -(-size // to.step) * to.step)


def place(number: int, kind: str, firmware: str) -> tuple[str, int, int]:
    """Bus, controller and unit of a VM's `number`-th disk. Raises ValueError when there is no such place."""
    to = KINDS[kind]
    if kind == "hyperv" and firmware == "bios":
        if number == 0:
            return "IDE", 0, 0  # what generation 1 starts from
        number -= 1
    controller, unit = divmod(number, to.units)
    if controller >= to.controllers:
        raise ValueError(f"{kind} has no place for another disk")
    if kind in ("vsphere", "vcd"):
        unit += unit >= 7  # the controller itself is unit 7
    return to.controller, controller, unit


def generation(firmware: str) -> int:
    """Hyper-V's word for a VM's firmware: 1 BIOS, 2 UEFI."""
    return 2 if firmware == "uefi" else 1


def converted(vm: Machine, to: str) -> Machine:
    """The VM as it will be. Its firmware never changes: a disk that starts with one does not start with the other."""
    return replace(
        vm, kind=to, disks=tuple(rounded(size, to) for size in vm.disks),
        secure_boot=vm.secure_boot and KINDS[to].secure_boot,
    )  # fmt: skip


def check(vm: Machine, to: str) -> list[Finding]:
    """What stands in the way of a VM, what will be different, and what its guest needs; the worst first."""
    found = [*_stops(vm, KINDS[to]), *_differs(vm, KINDS[to])]
    if vm.kind != to and vm.disks:
        drivers = KINDS[to].drivers
        needs = drivers.get(vm.system) or "; ".join(f"{system}: {what}" for system, what in drivers.items())
        found.append(Finding(vm.name, Weight.NEEDS, f"drivers in the guest: {needs}", "install them before it moves"))
    return found


def _stops(vm: Machine, to: Kind) -> list[Finding]:
    def stop(what: str, hint: str) -> None:
        found.append(Finding(vm.name, Weight.STOPS, what, hint))

    found: list[Finding] = []
    if vm.firmware not in to.firmware:
        stop(f"it starts with {vm.firmware.upper()}, which {to.name} has not", "choose another recovery site for it")
    for n, size in enumerate(vm.disks):
        if size > to.most:
            stop(f"disk {n} has {_said(size)}; {to.name} takes at most {_said(to.most)}", "split it, or leave it out")
    if vm.disks and vm.firmware == "bios" and MBR < vm.disks[0] <= to.most and to.name in ("hyperv", "aws"):
        stop(f"its first disk has {_said(vm.disks[0])}; a BIOS starts from at most {_said(MBR)} on {to.name}",
             "move its data to another disk, or convert it to UEFI first")  # fmt: skip
    most = to.disks.get(vm.system, to.disks[""])
    for have, limit, things in ((len(vm.disks), most, "disks"), (vm.nics, to.nics, "network adapters"),
                                (vm.cpus, to.cpus, "processors")):  # fmt: skip
        if have > limit:
            stop(f"it has {have} {things}; {to.name} takes at most {limit}", f"take some {things} away")
    if vm.static and (why := to.no_static.get(vm.system)):
        stop(f"{to.name} gives a guest with {vm.system.title()} no static address: {why}",
             "give its adapters DHCP (no address in its re-IP, or --network), and set the address inside")  # fmt: skip
    if vm.memory > to.memory:
        stop(f"it has {_said(vm.memory)} of memory; {to.name} takes at most {_said(to.memory)}", "give it less")
    return found


def _differs(vm: Machine, to: Kind) -> list[Finding]:
    found = []
    for n, size in enumerate(vm.disks):
        if size <= to.most and (new := rounded(size, to.name)) != size:
            what = f"disk {n} grows from {size} to {new} bytes"
            found.append(
                Finding(vm.name, Weight.DIFFERS, what, "nothing: what is added is empty, and not synchronised back")
            )
    if vm.secure_boot and not to.secure_boot:
        found.append(
            Finding(vm.name, Weight.DIFFERS, "it starts without Secure Boot", "switch it on there when it runs")
        )
    if not vm.static and (why := to.no_static.get(vm.system)):
        what = f"it can be given no static address there: {why}"
        found.append(Finding(vm.name, Weight.DIFFERS, what, "let it keep its addresses, or have them by DHCP"))
    if vm.kind != to.name:
        what = f"controllers become {to.controller}, network adapters {to.nic}"
        if to.name == "hyperv":
            what = f"generation {generation(vm.firmware)}; {what}"
        found.append(Finding(vm.name, Weight.DIFFERS, what))
    return found


def _said(size: int) -> str:
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"


def stopped(findings: Sequence[Finding]) -> list[str]:
    """In words, what will not work."""
    return [f"{each.vm}: {each.what}" for each in findings if each.weight is Weight.STOPS]
