"""Hosts: the Hyper-V hosts of one site; what is on them, and whose it is.

A VM is on one host, and Hyper-V lets two VMs have one name, on two hosts or even on one. So every look is at all hosts,
and a name that two have is refused. A host that does not answer is left out of a look; whoever has to be sure asks for
`all_answer`.

Whose something is, its place says from the moment it is made; a VM's notes say it too, for people.

    STORE\\drsim\\NAME@OWNER.vhdx     a disk
    STORE\\drsim\\vms\\NAME@OWNER\\    a VM's configuration
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from drsim.real.hyperv import wmi
from drsim.real.hyperv.cmdlets import cmdlet
from drsim.real.hyperv.session import Session, judge
from drsim.real.patience import patiently
from drsim.real.ports import DiskId, Firmware, Limits, NotFound, Power, Taken, Unavailable, VmFacts
from drsim.spec.hyperv import HypervSite

T = TypeVar("T")
FOLDER = "drsim"
NOTE = "drsim: "
SILENCE = 30.0
"""Seconds for which a host that has not answered is left out of looks."""
_OFF = (3, "Off", 6, "Saved")
_OK = (2, "Ok", "OK")
_ON = (0, "On")  # of Microsoft.HyperV.PowerShell.OnOffState
HEARTBEAT, SHUTDOWN = "84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47", "9F8233AC-BE49-4C79-8EE3-E7E1985B2077"
"""Integration services, by the ids that they have in every language."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk in a VM. `path`: of the disk; `top`: of what is written to, which is another file under a checkpoint."""

    path: str
    top: str
    kind: str
    controller: int
    location: int

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it comes among the disks that the guest sees: IDE first."""
        return (self.kind != "IDE", self.controller, self.location)


class Part(Flag):
    """Parts of a VM that a look may go without, because each costs a while."""

    NONE = 0
    DRIVES = auto()
    NICS = auto()
    SERVICES = auto()
    FIRMWARE = auto()
    SYSTEM = auto()
    ALL = DRIVES | NICS | SERVICES | FIRMWARE | SYSTEM


@dataclass(frozen=True, slots=True)
class FoundVm:
    """A VM on a host, with those of its parts that were looked for."""

    session: Session
    id: str
    facts: VmFacts
    generation: int
    drives: tuple[Drive, ...]
    nics: tuple[dict[str, Any], ...]
    heartbeat: bool
    noted: bool
    """Its notes say whose it is: it was finished."""


class Hosts:
    """The hosts of a site, by name."""

    def __init__(self, site: HypervSite, sessions: Mapping[str, Session], limits: Limits) -> None:
        self.site, self.sessions, self._limits = site, sessions, limits
        self._where: dict[str, str] = {}  # which host had a VM when we looked last
        self._silent: dict[str, float] = {}  # until when a host that has not answered is not asked again

    # -- asking -----------------------------------------------------------------------------------------------

    def session(self, host: str) -> Session:
        """One host's. Raises NotFound."""
        found = self.sessions.get(host)
        if found is None:
            raise NotFound(f"no host is called {host}", hint=f"hosts: {', '.join(self.sessions)}")
        return found

    async def everywhere(
        self, what: str, call: Callable[[Session], Awaitable[T]], *, all_answer: bool = False
    ) -> dict[str, T]:
        """What each host that answers gives. Raises Unavailable when none does, or not all when all have to."""
        now = asyncio.get_running_loop().time()
        sessions = [each for name, each in self.sessions.items() if all_answer or self._silent.get(name, now) <= now]
        sessions = sessions or list(self.sessions.values())
        said = await asyncio.gather(*(self.ask(each, what, call) for each in sessions), return_exceptions=True)
        found: dict[str, T] = {}
        for session, answer in zip(sessions, said, strict=True):
            if isinstance(answer, Unavailable) and not all_answer:
                self._silent[session.host] = asyncio.get_running_loop().time() + SILENCE
                continue
            if isinstance(answer, BaseException):
                raise answer
            found[session.host] = answer
        if not found:
            raise next(each for each in said if isinstance(each, Unavailable))
        return found

    async def anywhere(self, what: str, call: Callable[[Session], Awaitable[T]]) -> T:
        """What the first host gives that answers: for what all of them see. Raises Unavailable when none does."""
        last: Unavailable | None = None
        for session in self.sessions.values():
            try:
                return await self.ask(session, what, call)
            except Unavailable as error:
                last = error
        assert last is not None
        raise last

    async def patiently(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """What a call gives that looks at all hosts first, and may be repeated."""
        return await patiently(call, judge, what=what, place=", ".join(self.sessions), limits=self._limits)

    async def ask(self, session: Session, what: str, call: Callable[[Session], Awaitable[T]]) -> T:
        """What one host gives, asked patiently."""
        return await session.patiently(what, lambda: call(session))

    # -- VMs --------------------------------------------------------------------------------------------------

    async def look(self, name: str | None = None, parts: Part = Part.ALL, *, all_answer: bool = False) -> list[FoundVm]:
        """All VMs, or those that have a name, with these parts."""

        async def on(session: Session) -> list[FoundVm]:
            return await self._look_on(session, name, parts)

        found = await self.everywhere("look at VMs", on, all_answer=all_answer)
        self._where |= {vm.facts.name.casefold(): host for host, vms in found.items() for vm in vms}
        return [vm for vms in found.values() for vm in vms]

    async def find(self, name: str, parts: Part = Part.ALL, *, all_answer: bool = False) -> FoundVm | None:
        """The VM of a name, or None. Raises Taken when two have it."""
        found = await self.look(name, parts, all_answer=all_answer)
        if len(found) > 1:
            where = ", ".join(sorted(vm.facts.host for vm in found))
            hint = "rename or remove one: Hyper-V lets two have a name, drsim does not"
            raise Taken(f"two VMs are called {name}", place=where, hint=hint)
        return found[0] if found else None

    async def need(self, name: str, parts: Part = Part.ALL) -> FoundVm:
        """The VM of a name, first where it was. Raises NotFound; Unavailable when a host that may have it is silent."""
        found = await self._still(name, parts)
        if found is not None:
            return found
        found = await self.find(name, parts) or await self.find(name, parts, all_answer=True)
        if found is None:
            raise NotFound(f"no VM is called {name}", place=", ".join(self.sessions))
        return found

    async def _still(self, name: str, parts: Part) -> FoundVm | None:
        """The VM of a name, if it is where it was."""
        host = self._where.get(name.casefold())
        now = asyncio.get_running_loop().time()
        if host is None or self._silent.get(host, now) > now:
            return None

        async def on(session: Session) -> list[FoundVm]:
            return await self._look_on(session, name, parts)

        try:
            found = await self.ask(self.sessions[host], "look at a VM", on)
        except Unavailable:
            return None
        return found[0] if len(found) == 1 else None

    async def _look_on(self, session: Session, name: str | None, parts: Part) -> list[FoundVm]:
        get = cmdlet("Get-VM", Name=None if name is None else literal(name))
        try:
            asked = [([get, *of], names) for part, of, names in _PARTS if part in parts]
            vms, *others = await session.tables(([get], _VM), *asked)
        except NotFound:
            return []  # there is none, or it went while we looked
        found = dict(zip([part for part, *_ in _PARTS if part in parts], others, strict=True))
        drives, nics = found.get(Part.DRIVES, []), found.get(Part.NICS, [])
        bases = await self._bases(session, [row["Path"] for row in drives if row["Path"]])
        on = [vm["Id"] for vm in vms if vm["State"] not in _OFF and Part.SYSTEM in parts]
        systems = await wmi.systems(session, on)
        return [
            self._found(
                session, vm,
                tuple(sorted((_drive(row, bases) for row in _of(vm, drives) if row["Path"]), key=lambda d: d.place)),
                tuple(_of(vm, nics)), _of(vm, found.get(Part.SERVICES, [])),
                any(row["SecureBoot"] in _ON for row in _of(vm, found.get(Part.FIRMWARE, []))),
                systems.get(vm["Id"].upper(), ""),
            )
            for vm in vms
        ]  # fmt: skip

    async def _bases(self, session: Session, paths: Sequence[str]) -> dict[str, str]:
        """Of which disk each file is that is written to under a checkpoint."""
        bases = {path: path for path in paths}
        while over := [path for path in set(bases.values()) if path.lower().endswith(".avhdx")]:
            rows = await session.rows(cmdlet("Get-VHD", Path=over), properties=("Path", "ParentPath"))
            below = {row["Path"]: row["ParentPath"] for row in rows if row["ParentPath"]}
            if not below:
                break
            bases = {top: below.get(base, base) for top, base in bases.items()}
        return bases

    def _found(
        self, session: Session, row: dict[str, Any], drives: tuple[Drive, ...], nics: tuple[dict[str, Any], ...],
        services: list[dict[str, Any]], secure_boot: bool, system: str,
    ) -> FoundVm:  # fmt: skip
        well = {service["Id"].rsplit("\\", 1)[-1].upper() for service in services
                if service["PrimaryOperationalStatus"] in _OK}  # fmt: skip
        off = row["State"] in _OFF
        facts = VmFacts(
            name=row["Name"], owner=self._owner(row), host=session.host, power=Power.OFF if off else Power.ON,
            cpus=row["ProcessorCount"], memory=row["MemoryStartup"],
            firmware=Firmware.UEFI if row["Generation"] == 2 else Firmware.BIOS,
            disks=tuple(DiskId(drive.path) for drive in drives),
            networks=tuple(self._network(nic) for nic in nics),
            addresses=tuple(address for nic in nics for address in _list(nic["IPAddresses"])),
            tools=not off and SHUTDOWN in well, secure_boot=secure_boot, system=system,
        )  # fmt: skip
        noted = NOTE in (row["Notes"] or "")
        return FoundVm(session, row["Id"], facts, row["Generation"], drives, nics, not off and HEARTBEAT in well, noted)

    def _owner(self, row: dict[str, Any]) -> str:
        for line in (row["Notes"] or "").splitlines():
            if line.startswith(NOTE):
                return unquote(line.removeprefix(NOTE))
        parts = (row["Path"] or "").split("\\")
        ours = [parts[n + 2] for n in range(len(parts) - 2) if parts[n : n + 2] == [FOLDER, "vms"]]
        return unquote(ours[0].rpartition("@")[2]) if ours else ""

    def _network(self, nic: dict[str, Any]) -> str:
        switch, setting = nic["SwitchName"] or "", nic["VlanSetting"] or {}
        vlan = setting.get("AccessVlanId") or None
        named = [name for name, each in self.site.networks.items() if (each.switch, each.vlan) == (switch, vlan)]
        return named[0] if named else switch

    # -- files ------------------------------------------------------------------------------------------------

    def folder(self, store: str) -> str:
        """Our folder of a store. Raises NotFound."""
        if store not in self.site.stores:
            raise NotFound(f"no store is called {store}", hint=f"stores: {', '.join(self.site.stores)}")
        return f"{self.site.stores[store]}\\{FOLDER}"

    async def names(self, session: Session, folder: str) -> list[str]:
        """The names of what is in a folder; none when it is not there."""
        try:
            rows = await session.rows(cmdlet("Get-ChildItem", LiteralPath=folder), properties=("Name",))
        except NotFound:
            return []
        return [row["Name"] for row in rows]


_VM = ("Name", "Id", "State", "Generation", "ProcessorCount", "MemoryStartup", "Notes", "Path")
_DRIVE = ("VMId", "Path", "ControllerType", "ControllerNumber", "ControllerLocation")
_NIC = ("VMId", "Id", "Name", "SwitchName", "IPAddresses", "VlanSetting")
_SERVICE = ("VMId", "Id", "PrimaryOperationalStatus")
_PARTS = (
    (Part.DRIVES, (cmdlet("Get-VMHardDiskDrive"),), _DRIVE), (Part.NICS, (cmdlet("Get-VMNetworkAdapter"),), _NIC),
    (Part.SERVICES, (cmdlet("Get-VMIntegrationService"),), _SERVICE),
    (Part.FIRMWARE, (cmdlet("Where-Object", Property="Generation", EQ=True, Value="2"), cmdlet("Get-VMFirmware")),
     ("VMId", "SecureBoot")),
)  # fmt: skip
"""What the VMs of a pipeline are asked for each part. Generation 1 has no firmware, and an error for who asks."""


def _of(vm: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["VMId"] == vm["Id"]]


def _drive(row: dict[str, Any], bases: Mapping[str, str]) -> Drive:
    kind = row["ControllerType"]
    kind = {0: "IDE", 1: "SCSI"}.get(kind, kind)
    return Drive(bases[row["Path"]], row["Path"], kind, row["ControllerNumber"], row["ControllerLocation"])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


def quoted(text: str) -> str:
    """A text as a part of a file's name, whatever is in it."""
    return quote(text, safe=" ").replace("~", "%7E")


def literal(name: str) -> str:
    """A name for a parameter that takes wildcards."""
    return "".join(f"`{c}" if c in "[]*?`" else c for c in name)


def note(owner: str) -> str:
    """What a VM's notes say."""
    return f"{NOTE}{quote(owner)}\nMade by drsim; its disks are in the folder {FOLDER} of a store."


def same(one: str, other: str) -> bool:
    """Whether two paths name one file."""
    return one.casefold() == other.casefold()
