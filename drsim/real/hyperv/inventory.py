"""HypervInventory: what a site of Hyper-V hosts has. Looks, and changes nothing."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from drsim.core.units import SECOND, Ns
from drsim.real.hyperv.cmdlets import WMI, Step, cmdlet
from drsim.real.hyperv.hosts import Hosts, Part
from drsim.real.hyperv.session import Session
from drsim.real.ports import (
    About,
    Change,
    Gone,
    HostChanged,
    HostFacts,
    Moved,
    NotAllowed,
    NotFound,
    StoreFacts,
    Unavailable,
    VmFacts,
)

_SYSTEM = ("Caption", "Version", "LocalDateTime", "FreePhysicalMemory")
_RIGHTS: Sequence[tuple[str, Step]] = (
    ("Hyper-V Administrators", cmdlet("Get-VMHost")),
    ("Hyper-V Administrators (WMI root\\virtualization\\v2)",
     cmdlet("Get-WmiObject", Class="Msvm_VirtualSystemManagementService", Namespace=WMI)),
)  # fmt: skip
"""What an account needs on every host, and what fails without it."""


class HypervInventory:
    """Looks at hosts, stores, networks and VMs."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def about(self) -> About:
        """The first host that answers; of all hosts, what the account lacks."""
        systems = await self._hosts.everywhere("look at the hosts", _system)
        missing = await self._hosts.everywhere("look at privileges", self._missing)
        first = next(iter(systems.values()))
        return About(
            product="Hyper-V", version=min((row["Version"] for row in systems.values()), key=version),
            clock=_clock(first["LocalDateTime"]),
            missing=tuple(f"{right} on {host}" for host, rights in missing.items() for right in rights),
        )  # fmt: skip

    async def hosts_answer(self) -> None:
        """Log in to every host. Raises LoginRefused; Unavailable when none answers."""
        await self._hosts.everywhere("log in", _system)

    async def _missing(self, session: Session) -> list[str]:
        found = []
        probes = [*_RIGHTS, *((f"read and write {path}", cmdlet("Get-ChildItem", LiteralPath=path))
                              for path in self._hosts.site.stores.values())]  # fmt: skip
        for right, step in probes:
            try:
                await session.rows(step, properties=("Name",))
            except NotAllowed:
                found.append(right)
            except NotFound:
                continue  # doctor tells what is not there
        return found

    async def hosts(self) -> Sequence[HostFacts]:
        """All hosts; one that does not answer takes no VMs."""

        async def on(session: Session) -> HostFacts:
            system = await _system(session)
            rows = await session.rows(cmdlet("Get-VMHost"), properties=("Name", "LogicalProcessorCount"))
            return HostFacts(session.host, int(system["FreePhysicalMemory"]) << 10, rows[0]["LogicalProcessorCount"])

        try:
            found = await self._hosts.everywhere("look at the hosts", on)
        except Unavailable:
            found = {}
        return [found.get(name) or HostFacts(name, 0, 0, usable=False) for name in self._hosts.sessions]

    async def stores(self) -> Sequence[StoreFacts]:
        """The stores of the site's file."""

        async def on(session: Session) -> list[StoreFacts]:
            found = []
            for name, path in self._hosts.site.stores.items():
                rows = await session.rows(cmdlet("Get-Volume", FilePath=path), properties=("Size", "SizeRemaining"))
                found.append(StoreFacts(name, int(rows[0]["Size"]), int(rows[0]["SizeRemaining"])))
            return found

        return await self._hosts.anywhere("look at stores", on)

    async def networks(self) -> Sequence[str]:
        """Virtual switches that all hosts have, and the site's networks on them."""

        async def on(session: Session) -> set[str]:
            return {row["Name"] for row in await session.rows(cmdlet("Get-VMSwitch"), properties=("Name",))}

        found = await self._hosts.everywhere("look at networks", on)
        switches = set[str].intersection(*found.values())
        ours = [name for name, each in self._hosts.site.networks.items() if each.switch in switches]
        return sorted({*switches, *ours})

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """VMs of the hosts that answer."""
        found = [vm.facts for vm in await self._hosts.look()]
        return [vm for vm in found if owner is None or vm.owner == owner]

    async def vm(self, name: str) -> VmFacts:
        """One VM."""
        return (await self._hosts.need(name)).facts

    async def changes(self) -> AsyncIterator[Change]:
        """By looking again and again: PowerShell tells nothing by itself. A host that is lost already is told, too."""
        vms: dict[str, str] = {}
        hosts: dict[str, bool] = {}
        while True:
            new_vms, new_hosts = await self._now()
            for host, usable in new_hosts.items():
                if hosts.get(host, True) != usable:
                    yield HostChanged(host, usable)
            for vm, host in vms.items():
                if vm not in new_vms and new_hosts.get(host):
                    yield Gone(vm)
                elif new_vms.get(vm, host) != host:
                    yield Moved(vm, new_vms[vm])
            lost = {vm: host for vm, host in vms.items() if vm not in new_vms and not new_hosts.get(host)}
            vms, hosts = lost | new_vms, new_hosts
            await asyncio.sleep(self._hosts.site.poll / SECOND)

    async def _now(self) -> tuple[dict[str, str], dict[str, bool]]:
        hosts = {host.name: host.usable for host in await self.hosts()}
        try:
            return {vm.facts.name: vm.facts.host for vm in await self._hosts.look(parts=Part.NONE)}, hosts
        except Unavailable:
            return {}, hosts


async def _system(session: Session) -> dict[str, Any]:
    rows = await session.rows(cmdlet("Get-CimInstance", ClassName="Win32_OperatingSystem"), properties=_SYSTEM)
    return rows[0]


def version(text: str) -> tuple[int, ...]:
    """A version as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _clock(said: str) -> Ns:
    """A point in time as ConvertTo-Json writes it: PowerShell 5.1 in milliseconds, 7 as ISO 8601."""
    old = re.search(r"/Date\((-?\d+)", said)
    if old:
        return Ns(int(old[1]) * 1_000_000)
    return Ns(int(datetime.fromisoformat(said).timestamp() * SECOND))
