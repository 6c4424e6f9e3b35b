"""Live: what people write down of a real site (SITE.yaml), and what sites tell each other of a protected VPG."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.protect import ReIp
from drsim.spec.quantity import Bandwidth, Duration, Size
from drsim.spec.sites import Access
from drsim.spec.tweaks import Tweaks

SECOND, MIB, GIB = 10**9, 1 << 20, 1 << 30
SECTOR = 512
Interface = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")]
HostPort = Annotated[str, StringConstraints(pattern=r"^[^:\s]+:\d{1,5}$")]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LiveDisk(Spec):
    """A disk of a VM: a file or a block device."""

    path: str = Field(min_length=1)
    """Where it is, from the site file's folder. A file that is not there is made."""
    size: Annotated[Size, Field(ge=SECTOR)]
    """Whole sectors of 512 bytes."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.size % SECTOR:
            raise ValueError(f"{self.size} bytes are no whole sectors of {SECTOR} bytes")
        return self


class LiveVm(Spec):
    """A VM of this site, on QEMU."""

    host: Name
    """Whose VRA serves its disks."""
    memory: Annotated[Size, Field(ge=MIB)] = 128 * MIB
    cpus: Annotated[int, Field(ge=1, le=64)] = 1
    disks: dict[Name, LiveDisk] = {}
    """At least one; of a VM on a platform none, because the platform knows them."""
    networks: tuple[Name, ...] = ()
    """Of this site, one for each NIC."""
    reip: tuple[ReIp, ...] = ()
    """What each NIC becomes at the other site; none: it has no network there, unless an operation says so."""
    tools: bool = False
    """Whether its guest stops when asked to (ACPI)."""
    ready: str = ""
    """What its guest prints on the serial console when its application answers; nothing: it runs."""
    firmware: Literal["bios", "uefi"] = "bios"
    """What starts its first disk."""
    secure_boot: bool = False
    system: Literal["", "linux", "windows"] = ""
    """Its guest's, if anybody says: platforms take more or fewer disks of one or the other."""


class LiveNetwork(Spec):
    """A network of this site, for its own and for recovered VMs. Without a bridge it reaches nobody."""

    bridge: Interface | None = None
    """A bridge of this machine that is there; each NIC gets a tap device on it, which needs CAP_NET_ADMIN."""
    netns: Name | None = None
    """The network namespace of the bridge (`ip netns`), if it is not the site's own."""

    @model_validator(mode="after")
    def _of_a_bridge(self) -> Self:
        if self.netns is not None and self.bridge is None:
            raise ValueError("a namespace without a bridge; give bridge")
        return self


def _named(networks: object) -> object:
    """A list of names stands for networks that reach nobody."""
    return {name: {} for name in networks} if isinstance(networks, list | tuple) else networks


class LiveHost(Spec):
    """A host of this site: a VRA, and room for recovered VMs."""

    pool: Annotated[Size, Field(ge=MIB)] = 128 * MIB
    """The VRA's buffer."""
    memory: Size = 4 * GIB
    cpus: Annotated[int, Field(ge=1)] = 8


class LiveLink(Spec):
    """The connection to the other site: one of the two listens, the other connects."""

    peer: Name
    listen: HostPort | None = None
    connect: HostPort | None = None
    rate: Bandwidth | None = None
    """What replication may use of the WAN; none: all."""
    compress: bool = True
    """Compress data that has to wait, if it becomes smaller."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.listen is None) == (self.connect is None):
            raise ValueError("give one of listen and connect")
        return self

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = (self.listen or self.connect or "").rpartition(":")
        return host, int(port)


class LiveApi(Spec):
    """The site's API for other machines, over TLS with its certificate; who asks shows the site's token."""

    listen: HostPort


class RemoteSite(Spec):
    """A real site as an operator's machine knows it: what its commands need instead of the site's own file."""

    site: Name
    connect: HostPort
    """Where its API listens."""
    ca: str = Field(min_length=1)
    """The authority's certificate (ca.pem), from this file's folder."""
    token: str = Field(min_length=1)
    """A copy of the site's file api.token, from this file's folder."""


class SiteFile(Spec):
    """One real site."""

    site: Name
    folder: str = "."
    """Where everything of the site is kept, from the site file's folder."""
    pki: str | None = None
    """The folder with its certificate (`drsim pki init`). Without one the sites talk on loopback only."""
    link: LiveLink
    api: LiveApi | None = None
    """Without it the API is on a unix socket only."""
    hosts: Annotated[dict[Name, LiveHost], Field(min_length=1)]
    vms: dict[Name, LiveVm] = {}
    networks: Annotated[dict[Name, LiveNetwork], BeforeValidator(_named)] = {}
    processes: bool | Literal["apart"] = False
    """Whether a process of its own serves and taps the disks of each host, or the site's does all of it; `apart`: one
    that somebody else starts (`drsim vra up`)."""
    accel: Annotated[str, StringConstraints(pattern="^(tcg|kvm)$")] = "tcg"
    """How QEMU runs VMs."""
    platform: Access | None = None
    """Where its VMs run, if not on this machine: this process is then that platform's appliance."""
    datastore: str | None = None
    """Of the platform: where recovered VMs go; none: where most is free."""
    tweaks: Tweaks = Tweaks()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, vm in self.vms.items():
            if vm.disks and self.platform is not None:
                raise ValueError(f"VM {name}: the platform knows its disks; leave them out")
            if vm.host not in self.hosts:
                raise ValueError(f"VM {name} is on host {vm.host}, which is not one of {', '.join(self.hosts)}")
            if unknown := set(vm.networks) - set(self.networks):
                raise ValueError(
                    f"VM {name} is on network {min(unknown)}, which is not one of {', '.join(self.networks) or 'none'}"
                )
        if self.processes and self.platform is not None:
            raise ValueError("processes of hosts are for VMs of this machine; leave processes out")
        if self.pki is None and self.link.place[0] not in LOOPBACK:
            raise ValueError(f"sites talk over {self.link.place[0]} with certificates only; give pki")
        if self.api is not None and self.pki is None:
            raise ValueError("the API listens with a certificate only; give pki")
        if self.link.peer == self.site:
            raise ValueError("a site is not its own peer")
        return self


class LivePlace(Spec):
    """What a site of an estate needs beyond its model to be run for real (`drsim site up ESTATE:SITE`)."""

    folder: str = Field(min_length=1)
    """Where everything of the site is kept, from the estate file's folder."""
    pki: str | None = None
    """As in a site's own file."""
    listen: HostPort | None = None
    connect: HostPort | None = None
    """One of the two sites listens, the other connects."""
    api: LiveApi | None = None
    """As in a site's own file."""
    accel: Annotated[str, StringConstraints(pattern="^(tcg|kvm)$")] = "tcg"
    """How QEMU runs VMs."""
    access: Access | None = None
    """How the site's platform is reached; none: this machine is it."""
    datastore: str | None = None
    """As in a site's own file."""


class ProtectedVolume(Spec):
    """A volume of a VPG. `id`: its number in the estate of the protected site."""

    id: int
    name: Name
    sectors: int


class ProtectedVm(Spec):
    """A VM of a VPG. `id`: its number in the estate of the protected site; `target`: the host that would run it."""

    id: int
    name: Name
    host: Name
    target: Name
    memory: int
    cpus: int
    tools: bool = False
    ready: str = ""
    firmware: Literal["bios", "uefi"] = "bios"
    secure_boot: bool = False
    system: Literal["", "linux", "windows"] = ""
    group: int = 0
    reip: tuple[ReIp, ...] = ()
    volumes: tuple[ProtectedVolume, ...]


class LiveVpg(Spec):
    """A VPG between two real sites."""

    name: Name
    source: Name
    target: Name
    vms: Annotated[tuple[ProtectedVm, ...], Field(min_length=1)]
    interval: Annotated[Duration, Field(ge=SECOND // 10)] = 5 * SECOND
    """Between checkpoints."""
    epochs: Annotated[Duration, Field(ge=SECOND // 10)] | None = None
    """Between snapshots, when its VMs' writes cannot be tapped; then there is a checkpoint for each. None: they can."""
    history: Annotated[Duration, Field(ge=SECOND)] = 24 * 3600 * SECOND
    """How far back checkpoints are kept."""
    rpo_alert: Annotated[Duration, Field(ge=SECOND)] = 300 * SECOND
    journal: Size | None = None
    """Hard limit of each VM's journal."""
    boot_delay: Duration = 0
    number: Annotated[int, Field(ge=1)] = 1
    """Of the VPGs that its site has made: one that is made anew under an old name is another one."""

    @property
    def version(self) -> int:
        """Of its configuration: later than that of every earlier VPG of this name."""
        return 10 * self.number


class VpgState(Spec):
    """A VPG and what a site has to remember of it. `creating`: never in sync yet; `recovered`: by which operation."""

    vpg: LiveVpg
    creating: bool = True
    paused: bool = False
    generation: int = 1
    fenced: bool = False
    pins: tuple[int, ...] = ()
    deleting: bool | None = None
    recovered: str = ""
    notes: dict[int, str] = {}
    """What was done with a checkpoint, in words."""


class Turning(Spec):
    """A VPG that is being protected the other way: what it will be, and in which generation."""

    vpg: LiveVpg
    generation: int


class SiteState(Spec):
    """All that a site has to remember. `lives`: how often it was started. `vms`, `volumes`: their numbers, by name.

    `operations`, `made`: how many operations were begun, and VPGs made. `distrusted`: VPGs of which journals were set
    aside, until a checkpoint is listed again. `adopted`: VMs that were recovered here and are the site's own now.
    `left`: VMs that are at the other site now, and where each of their disks is. `turning`: by name of the VPG.
    """

    lives: int = 0
    vms: dict[str, int] = {}
    volumes: dict[str, int] = {}
    vpgs: dict[str, VpgState] = {}
    operations: int = 0
    made: int = 0
    distrusted: tuple[str, ...] = ()
    adopted: dict[str, LiveVm] = {}
    left: dict[str, dict[str, str]] = {}
    turning: dict[str, Turning] = {}

    def own(self, site: SiteFile) -> dict[str, LiveVm]:
        """The VMs that are the site's own now: those of its file that have not left, and those that it adopted."""
        return {name: vm for name, vm in site.vms.items() if name not in self.left} | self.adopted
