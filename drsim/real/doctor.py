"""Doctor: looks whether sites on platforms can do what recovery will ask of them, and says what an administrator does.

It changes nothing, but for the self-test: that makes one small VM with a disk, both under an owner of its own, takes
them away again and looks whether anything is left.
"""

import asyncio
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drsim.core import convert
from drsim.core.errors import DrsimError
from drsim.core.units import SECOND
from drsim.real.certificate import advice
from drsim.real.clock import now_ns
from drsim.real.platforms import connect, outdated
from drsim.real.ports import Limits, LoginRefused, NewVm, NotFound, Platform, Power
from drsim.spec.aws import AwsSite
from drsim.spec.hyperv import HypervSite
from drsim.spec.sites import PlatformSite
from drsim.spec.vcd import Vcd
from drsim.spec.vsphere import Vsphere

LIMITS = Limits(call=30.0, attempts=3)
_SECONDS = 5.0  # for a connection
SMALL_DISK, SMALL_MEMORY = 4 << 20, 512 << 20
"""Bytes of the self-test's disk and memory; a platform may give more."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing looked at. `fine`: None for something to know."""

    site: str
    check: str
    fine: bool | None
    what: str
    hint: str = ""


class Examination:
    """Of one site. `base`: the folder of the file."""

    def __init__(self, name: str, site: PlatformSite, base: Path, limits: Limits = LIMITS) -> None:
        self.name, self.site, self._base, self._limits = name, site, base, limits
        self.lines: list[Line] = []
        self.platform: Platform | None = None

    def _say(self, check: str, fine: bool | None, what: str, hint: str = "") -> None:
        self.lines.append(Line(self.name, check, fine, what, "" if fine else hint))

    async def run(self, *, self_test: bool = False) -> None:
        """Everything; what depends on something that is not fine is left out. Leaves `platform` connected."""
        for host, address, port, ca, tls in endpoints(self.site.platform):
            if not await self._reach(host, address, port, ca, tls):
                return
        if not await self._log_in():
            return
        for check, look in (("privileges", self._about), ("hosts", self._hosts), ("capacity", self._stores),
                            ("networks", self._networks), ("appliance", self._appliance)):  # fmt: skip
            await self._try(check, look)
        if self_test and all(line.fine is not False for line in self.lines):
            await self._try("self-test", self._self_test)
        elif self_test:
            self._say("self-test", False, "left out: something above is not right", "put that right first")

    async def close(self) -> None:
        """Log out."""
        if self.platform is not None:
            await self.platform.close()

    async def _try(self, check: str, look: Callable[[Platform], Awaitable[None]]) -> bool:
        assert self.platform is not None
        try:
            await look(self.platform)
        except DrsimError as error:
            self._say(check, False, error.message, error.hint or "see the platform's own log")
            return False
        return True

    async def _reach(self, host: str, address: str, port: int, ca: str | None, tls: bool) -> bool:
        where = f"{host} ({address}:{port})" if host != address else f"{address}:{port}"
        try:
            authority = str(self._base / ca) if ca else None
            context = ssl.create_default_context(cafile=authority) if tls else None
        except (OSError, ssl.SSLError) as error:
            self._say("TLS", False, f"{ca}: {error}", "`ca` is a PEM file with the authority's certificate")
            return False
        try:
            await asyncio.to_thread(_shake, address, port, context)
        except ssl.SSLCertVerificationError as error:
            self._say("reachable", True, where)
            self._say("TLS", False, f"{where}: {error.verify_message}", advice(error.verify_message))
            return False
        except ssl.SSLError as error:
            self._say("TLS", False, f"{where}: {error.reason}", "is it the right port? does it speak TLS 1.2 or later?")
            return False
        except OSError as error:
            hint = f"check the address, the firewall and that the service listens on port {port}"
            self._say("reachable", False, f"{where}: {error.strerror or error}", hint)
            return False
        self._say("reachable", True, where)
        if tls:
            self._say("TLS", True, f"the certificate of {where} is trusted")
        return True

    async def _log_in(self) -> bool:
        try:
            self.platform = await connect(self.site.platform, self._base, limits=self._limits)
        except LoginRefused as error:
            self._say("login", False, error.message, error.hint or "check user and password, or token")
            return False
        except NotFound as error:
            self._say("login", False, error.message, error.hint or "correct the file, or make it")
            return False
        except DrsimError as error:
            self._say("login", False, error.message, error.hint or "is the platform overloaded? try again")
            return False
        self._say("login", True, "accepted")
        return True

    # -- looks ------------------------------------------------------------------------------------------------

    async def _about(self, here: Platform) -> None:
        about = await here.inventory.about()
        for right in about.missing:
            hint = "give it to the account; the guide of this platform lists all that are needed"
            self._say("privileges", False, f"missing: {right}", hint)
        if not about.missing:
            self._say("privileges", True, "complete")
        wanted = outdated(self.site.platform.kind, about.version)
        said = f"{about.product} {about.version}" + (f" is older than {wanted}" if wanted else "")
        self._say("version", not wanted, said, f"update it to {wanted} or later")
        apart = abs(about.clock - now_ns()) / SECOND
        fine = apart <= self.site.clock / SECOND
        self._say(
            "clock", fine, f"{apart:.1f} s from this machine's", "let both take the time from the same NTP servers"
        )

    async def _hosts(self, here: Platform) -> None:
        hosts = {host.name: host for host in await here.inventory.hosts()}
        self._named("hosts", self.site.hosts, list(hosts))
        for host in hosts.values():
            if not host.usable and (not self.site.hosts or host.name in self.site.hosts):
                self._say("hosts", False, f"{host.name} takes no VMs", "is it in maintenance, or switched off?")
        if any(host.usable for host in hosts.values()):
            usable = [host for host in hosts.values() if host.usable]
            memory = sum(host.memory for host in usable)
            self._say("hosts", True, f"{len(usable)} take VMs, with {memory / (1 << 30):.0f} GiB of memory free")
        elif not hosts:
            self._say("hosts", False, "there is none", "does the account see them?")

    async def _stores(self, here: Platform) -> None:
        stores = {store.name: store for store in await here.inventory.stores()}
        self._named("datastores", self.site.stores, list(stores))
        if not stores:
            self._say("capacity", False, "there is no datastore", "does the account see them?")
        for name in self.site.stores or stores:
            if name in stores:
                free, room = stores[name].free, self.site.room
                said = f"{name}: {free / (1 << 30):.0f} GiB free"
                hint = f"{room / (1 << 30):.0f} GiB are wanted: free some space, or ask for a larger quota"
                self._say("capacity", free >= room, said, hint)

    async def _networks(self, here: Platform) -> None:
        networks = await here.inventory.networks()
        self._named("networks", self.site.networks, networks)

    def _named(self, check: str, wanted: Sequence[str], there: Sequence[str]) -> None:
        for name in wanted:
            hint = f"correct the file, or make it; there are: {', '.join(sorted(there)) or 'none'}"
            said = f"{name} is there" if name in there else f"{name} is not there"
            self._say(check, name in there, said, hint)

    async def _appliance(self, here: Platform) -> None:
        try:
            vm = await here.inventory.vm(here.appliance)
        except NotFound:
            hint = "deploy the appliance, or correct its name in the file"
            self._say("appliance", False, f"no VM is called {here.appliance}", hint)
            return
        where = f" on {vm.host}" if vm.host else ""
        self._say("appliance", vm.power is Power.ON, f"{vm.name} is {vm.power}{where}", "power it on")

    # -- the self-test ----------------------------------------------------------------------------------------

    async def _self_test(self, here: Platform) -> None:
        token = secrets.token_hex(4)
        owner, name = f"drsim/self-test/{token}", f"drsim-self-test-{token}"
        try:
            await self._make(here, owner, name)
        finally:
            left = await _unmake(here, owner, name)
            if left:
                self._say("self-test", False, f"left behind: {', '.join(left)}", f"delete them; their owner is {owner}")
        if not left:
            self._say("self-test", True, f"VM {name} with a disk was made and is gone")

    async def _make(self, here: Platform, owner: str, name: str) -> None:
        hosts = [host.name for host in await here.inventory.hosts() if host.usable]
        stores = [store.name for store in await here.inventory.stores()]
        host = next(iter(self.site.hosts), hosts[0])
        store = next(iter(self.site.stores), stores[0])
        await here.hypervisor.create(NewVm(name, owner, host, store, cpus=1, memory=SMALL_MEMORY))
        disk = await here.disks.create(name, SMALL_DISK, store, owner)
        await here.hypervisor.attach(name, disk)
        if disk not in (await here.inventory.vm(name)).disks:
            raise DrsimError("a disk was attached and is not there", hint="report this, with `drsim doctor --json`")
        await here.hypervisor.detach(name, disk)


async def _unmake(here: Platform, owner: str, name: str) -> list[str]:
    """Take everything of an owner away; what is left, in words."""
    left = []
    try:
        await here.hypervisor.delete(name, owner)
        for disk in await here.disks.owned(owner):
            await here.disks.delete(disk.id, owner)
    except DrsimError as error:
        left.append(f"not deleted: {error.message}")
    left += [f"VM {vm.name}" for vm in await here.inventory.vms(owner)]
    left += [f"disk {disk.id}" for disk in await here.disks.owned(owner)]
    return left


def endpoints(spec: Any) -> list[tuple[str, str, int, str | None, bool]]:
    """Name, address, port, authority and TLS of what a site is reached at; none where an SDK knows that."""
    match spec:
        case Vsphere():
            return [(spec.address, spec.address, spec.port, spec.ca, True)]
        case HypervSite():
            usual = 5986 if spec.tls else 5985
            return [(n, host.address, host.port or usual, spec.ca, spec.tls) for n, host in spec.hosts.items()]
        case AwsSite(endpoint=str(url)):
            parts = urlsplit(url)
            tls, name = parts.scheme == "https", parts.hostname or ""
            return [(name, name, parts.port or (443 if tls else 80), None, tls)]
        case Vcd():
            own = (spec.address, spec.address, spec.port, spec.ca, True)
            return [own, *endpoints(spec.vcenter)]
        case _:
            return []


def _shake(address: str, port: int, context: ssl.SSLContext | None) -> None:
    with socket.create_connection((address, port), timeout=_SECONDS) as plain:
        if context is not None:
            with context.wrap_socket(plain, server_hostname=address):
                pass


async def conversions(one: Examination, other: Examination) -> list[Line]:
    """What becomes of a site's protected VMs at another site, and whether their names are free there."""
    here, to = one.platform, other.site.platform.kind
    assert here is not None
    lines, theirs = [], set[str]()
    if other.platform is not None and one.site.vms:
        theirs = {vm.name for vm in await other.platform.inventory.vms() if not vm.owner}
    for name in one.site.vms:
        if name in theirs:
            hint = "rename one of them, or recover it under another name"
            lines.append(Line(one.name, f"to {other.name}", False, f"{name}: a VM is called so there", hint))
        try:
            vm = await here.inventory.vm(name)
            sizes = [(await here.disks.disk(disk)).size for disk in vm.disks]
        except DrsimError as error:
            lines.append(Line(one.name, "conversion", False, f"{name}: {error.message}", error.hint))
            continue
        machine = convert.Machine(
            name, one.site.platform.kind, tuple(sizes), len(vm.networks), vm.cpus, vm.memory, vm.firmware,
            vm.secure_boot, vm.system,
        )  # fmt: skip
        for found in convert.check(machine, to):
            fine = False if found.weight is convert.Weight.STOPS else None
            lines.append(Line(one.name, f"to {other.name}", fine, f"{name}: {found.what}", found.hint))
        if not any(line.fine is False and line.what.startswith(f"{name}:") for line in lines):
            lines.append(Line(one.name, f"to {other.name}", True, f"{name} can be recovered there"))
    return lines
