"""Ports: what drsim asks of a platform, be it vSphere or QEMU. A platform is a folder beside this file.

Theory of operation. The data plane (capture, ship, journal, promote) is written once, for files and block devices; a
platform is control plane only. Mirror disks are disks of the platform, attached to the recovery VRA (an *appliance*: a
VM, or this machine) and written by it; recovery attaches a disk to the recovered VM. What every method promises:

    asked again     does what is missing and answers the same; nothing is made twice. Whoever lost an answer asks again,
                    and what a killed manager has half made is found and finished, not doubled.
    owner           whoever made something, an operation or a site. It is written on the thing itself (a tag, a note, a
                    folder), before the thing can be used. Nothing is deleted for an owner who did not make it.
    undo            of what is not there is done already; that is no error.
    time            a call ends within `Limits.call`; what waits for a guest has a timeout of its own.
    trouble         throttling, an expired session and a lost connection are retried within `Limits`, and only then
                    raised as Unavailable. Everything else is raised at once, as one of the errors below.
    secrets         no password, token or key is in any error, log or value.

Names of VMs, hosts, datastores and networks are those that administrators know. A `DiskId` is the platform's own name
of a disk, and means something to that platform only.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NewType, Protocol

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.core.units import Ns

DiskId = NewType("DiskId", str)


class NotFound(PlatformError):
    """No VM, disk, host, datastore or network has this name."""


class Taken(PlatformError):
    """A name belongs to somebody else, or a disk is attached to another VM."""


class LoginRefused(PlatformError):
    """User, password, token or certificate are not accepted."""


class NotAllowed(PlatformError):
    """The account lacks a privilege; the message names it."""


class QuotaReached(PlatformError):
    """The platform has no room, or allows no more; the message names what is short."""


class Unavailable(PlatformError):
    """The platform does not answer, or says "not now", and went on to for as long as `Limits` allow."""


class Untrusted(PlatformError):
    """What changed cannot be told; everything has to be compared."""


class Unsupported(PlatformError):
    """The platform has no such thing at all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one call. Seconds. A wait before another attempt grows from `first` by `factor` up to `most`."""

    call: float = 60.0
    attempts: int = 6
    first: float = 0.25
    factor: float = 2.0
    most: float = 20.0

    def waits(self) -> Iterator[float]:
        """Seconds before each attempt but the first."""
        wait = self.first
        for _ in range(self.attempts - 1):
            yield wait
            wait = min(self.most, wait * self.factor)


# -- what there is ----------------------------------------------------------------------------------------------------


class Power(StrEnum):
    """Whether a VM runs."""

    ON = "on"
    OFF = "off"


class Firmware(StrEnum):
    """What starts a VM's disk."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True, slots=True)
class About:
    """A platform as it introduces itself. `clock`: its time. `missing`: privileges that the account lacks, by name."""

    product: str
    version: str
    clock: Ns
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Where VMs run: a host, or what a cloud has instead. Bytes and cores that are free. `usable`: takes VMs now."""

    name: str
    memory: int
    cpus: int
    usable: bool = True


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """Where disks are. Bytes."""

    name: str
    capacity: int
    free: int


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk. `name`: as it was created. `attached`: to which VM, by name. Bytes."""

    id: DiskId
    name: str
    size: int
    owner: str = ""
    attached: str = ""


@dataclass(frozen=True, slots=True)
class NewVm:
    """A VM that is to be made: without disks, powered off. `memory` in bytes. `secure_boot`, `system`: as in VmFacts.

    `ready`: what its guest prints when it is up, where a platform can see that.
    """

    name: str
    owner: str
    host: str
    store: str
    cpus: int = 1
    memory: int = 4 << 30
    firmware: Firmware = Firmware.BIOS
    ready: str = ""
    secure_boot: bool = False
    system: str = ""


@dataclass(frozen=True, slots=True)
class VmFacts:
    """A VM. `disks` in the order in which the guest sees them; `addresses`: what its guest says that it has.

    `tools`: its guest can be asked to shut down. `secure_boot`: its firmware starts only what is signed. `system`: its
    guest's, linux or windows, or nothing where nobody says.
    """

    name: str
    owner: str
    host: str
    power: Power
    cpus: int
    memory: int
    firmware: Firmware = Firmware.BIOS
    disks: tuple[DiskId, ...] = ()
    networks: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    tools: bool = False
    secure_boot: bool = False
    system: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """A VM runs on another host now."""

    vm: str
    host: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A VM is not there any more."""

    vm: str


@dataclass(frozen=True, slots=True)
class HostChanged:
    """A host takes VMs, or does not any more."""

    host: str
    usable: bool


Change = Moved | Gone | HostChanged


# -- the ports --------------------------------------------------------------------------------------------------------


class Inventory(Protocol):
    """Looks, and changes nothing."""

    async def about(self) -> About:
        """Who answers, its clock, and what the account may not do. Raises LoginRefused, Unavailable."""
        ...

    async def hosts(self) -> Sequence[HostFacts]:
        """All hosts."""
        ...

    async def stores(self) -> Sequence[StoreFacts]:
        """All datastores."""
        ...

    async def networks(self) -> Sequence[str]:
        """All networks that VMs can be attached to."""
        ...

    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        """All VMs, or those that an owner made."""
        ...

    async def vm(self, name: str) -> VmFacts:
        """One VM. Raises NotFound."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """What changes from now on, as the platform tells it, for ever."""
        ...


class Hypervisor(Protocol):
    """Makes and runs VMs."""

    async def create(self, vm: NewVm) -> None:
        """Make a VM. Raises Taken when another owner's has the name, NotFound, QuotaReached."""
        ...

    async def delete(self, name: str, owner: str) -> None:
        """Power a VM off and delete it, never its disks: they are detached. Nothing to do when this owner has none."""
        ...

    async def attach(self, name: str, disk: DiskId) -> None:
        """Attach a disk behind those that a VM has; running or not. Raises NotFound, Taken when another VM has it."""
        ...

    async def detach(self, name: str, disk: DiskId) -> None:
        """Detach a disk; it stays. Nothing to do when the VM, or the disk on it, is not there."""
        ...

    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        """Give a VM that is off these network adapters, and its guest these addresses when it starts (re-IP); once."""
        ...

    async def power_on(self, name: str) -> None:
        """Start a VM. Raises NotFound, QuotaReached."""
        ...

    async def power_off(self, name: str) -> None:
        """Stop it at once."""
        ...

    async def shut_down(self, name: str, timeout: float) -> bool:
        """Ask its guest to stop in good order; whether it has within `timeout` seconds."""
        ...

    async def wait(self, name: str, timeout: float) -> None:
        """Until its guest is up, as far as the platform can tell. Raises PlatformError after `timeout` seconds."""
        ...


class Disks(Protocol):
    """Makes disks."""

    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        """An empty disk of `size` bytes. One of this owner and name that is there is the one. Raises QuotaReached."""
        ...

    async def delete(self, disk: DiskId, owner: str) -> None:
        """Delete a disk that this owner made. Raises Taken while a VM has it."""
        ...

    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        """The disks that an owner has."""
        ...

    async def disk(self, disk: DiskId) -> DiskFacts:
        """One disk. Raises NotFound."""
        ...


class DiskLocator(Protocol):
    """Finds the disks of an appliance as files or block devices of the machine that it is."""

    async def locate(self, appliance: str, disk: DiskId) -> Path:
        """Where a disk that is attached to this appliance is. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a disk, in bytes; whole sectors."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """A snapshot of a VM that changes are told from. `marks`: for each disk what a later epoch is compared with."""

    vm: str
    id: str
    taken: Ns
    marks: tuple[tuple[DiskId, str], ...]


class ChangeSource(Protocol):
    """Capture by epochs: snapshots, and what changed between two (CBT, RCT, EBS changed blocks)."""

    async def begin(self, vm: str, owner: str) -> Epoch:
        """Take a snapshot of a VM and make it ready to be read. An unfinished one of this owner goes first."""
        ...

    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        """A superset of what changed since an earlier epoch's mark, ascending; None: all that was ever written.

        Raises Untrusted when the mark means nothing any more.
        """
        ...

    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        """What an area held at the snapshot."""
        ...

    async def end(self, epoch: Epoch) -> None:
        """The snapshot is not needed any more; its marks stay good."""
        ...

    async def forget(self, vm: str, owner: str) -> None:
        """No epoch of this owner is wanted any more: what was kept of them goes, and their marks mean nothing."""
        ...


class ObjectStore(Protocol):
    """Keeps objects that are written once: a journal in the cloud."""

    async def put(self, key: str, data: bytes) -> bool:
        """Write an object that is not there, with a checksum that the store verifies; False when it was there."""
        ...

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """A part of it. Raises NotFound; PlatformError when it does not verify."""
        ...

    async def keys(self, prefix: str) -> Sequence[str]:
        """All keys with a prefix, ascending."""
        ...

    async def delete(self, key: str) -> None:
        """Delete it. Raises NotAllowed while a retention holds it."""
        ...


@dataclass(slots=True)
class Platform:
    """A platform that is connected. What it has not is None. `appliance`: the VM that has its mirror disks."""

    name: str
    inventory: Inventory
    hypervisor: Hypervisor
    disks: Disks
    locator: DiskLocator
    appliance: str
    close: Callable[[], Awaitable[None]]
    """Log out."""
    changes: ChangeSource | None = None
    objects: ObjectStore | None = None
