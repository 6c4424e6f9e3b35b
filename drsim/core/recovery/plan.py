"""Plan: what an operation is to do, as its user says it. Plain values, checked before anything is touched."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_interface

from drsim.core.names import CheckpointId, VmId, VolumeId
from drsim.core.units import SECOND, Ns

WAIT = Ns(3600 * SECOND)  # until the commit policy decides (products.md 1.5)
SCRIPT_TIMEOUT = Ns(300 * SECOND)  # products.md 1.5
SHUTDOWN_TIMEOUT = Ns(300 * SECOND)  # "force" waits 5 min for a graceful stop (products.md 1.5)
DRAIN_TIMEOUT = Ns(3600 * SECOND)  # until everything must have been brought over; our choice
HEALTH_TIMEOUT = Ns(900 * SECOND)  # until a guest must have answered; our choice


class Kind(StrEnum):
    """The operations of PROTOCOL 7."""

    TEST = "failover test"
    LIVE = "failover"
    MOVE = "move"
    CLONE = "clone"
    RESTORE = "restore"
    REVERSE = "reverse"


class Shutdown(StrEnum):
    """What a failover does to the VMs at the source."""

    NONE = "none"
    GRACEFUL = "graceful"
    FORCE = "force"


class Commit(StrEnum):
    """What happens when nobody has decided in time."""

    COMMIT = "commit"
    ROLL_BACK = "rollback"
    NONE = "none"


class OnFailure(StrEnum):
    """What one VM's failure does to the others."""

    STOP = "stop"
    GO_ON = "go on"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network adapter of a recovered VM. `address` etc.: static, as text; None: DHCP. `new_mac`: not the old one.

    `mask`: dotted, or the length of the prefix; None: 24.
    """

    network: str
    address: str | None = None
    mask: str | None = None
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    new_mac: bool = False

    @property
    def subnet(self) -> IPv4Network | IPv6Network:
        """Where its static address is. Raises ValueError when that, or the mask, is none."""
        return ip_interface(f"{self.address}/{self.mask or 24}").network


@dataclass(frozen=True, slots=True)
class Script:
    """A command that the site's manager runs, and how long it may take."""

    command: str
    timeout: Ns = SCRIPT_TIMEOUT


@dataclass(frozen=True, slots=True)
class PlannedVm:
    """One VM to be recovered: what it is, what it is to be called and where it runs. `group`: when it boots.

    `nics`: of the recovered VM; None for one that keeps its addresses. `memory` in bytes.
    """

    vm: VmId
    name: str
    host: str
    volumes: tuple[VolumeId, ...]
    cpus: int = 1
    memory: int = 4 << 30
    group: int = 0
    nics: tuple[Nic, ...] | None = None

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it is attached to."""
        return tuple(nic.network for nic in self.nics or ())


@dataclass(frozen=True, slots=True)
class Plan:
    """One operation on one VPG, or on some of its VMs.

    `checkpoint`: None for the newest, which is frozen when the operation begins (a move takes its own). `delays`:
    before each boot group but the first. `wait`: until `commit` is carried out; of a test, until it ends by itself
    (with `commit` none: never). `pre`, `post`: scripts before anything is touched, and after all VMs are up.
    """

    kind: Kind
    vpg: str
    vms: tuple[PlannedVm, ...]
    checkpoint: CheckpointId | None = None
    shutdown: Shutdown = Shutdown.NONE
    commit: Commit = Commit.NONE
    wait: Ns = WAIT
    delays: tuple[Ns, ...] = ()
    on_failure: OnFailure = OnFailure.STOP
    instant: bool = False
    reverse: bool = False
    keep_source: bool = False
    pre: Script | None = None
    post: Script | None = None
    volume: VolumeId | None = None
    in_place: bool = False
    export: bool = False

    @property
    def groups(self) -> list[list[PlannedVm]]:
        """Its VMs by boot group, in order."""
        numbers = sorted({vm.group for vm in self.vms})
        return [[vm for vm in self.vms if vm.group == number] for number in numbers]
