"""What is protected, and how: VMs, volumes, VPGs, journals."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from drsim.spec.base import Name, Spec
from drsim.spec.quantity import DURATION_UNITS, Bandwidth, Duration, Ratio, Size
from drsim.spec.workload import SECTOR, Workload

HOUR, DAY = DURATION_UNITS["h"], DURATION_UNITS["d"]
LONGEST_HISTORY = 30 * DAY
"""Products.md 1.4."""
GIB = 1 << 30
VolumeSize = Annotated[Size, Field(ge=1 << 20, le=64 << 40, multiple_of=SECTOR)]
Limit = Annotated[Size, Field(ge=8 * GIB)] | Literal["unlimited"]

Priority = Literal["low", "medium", "high"]


class Volume(Spec):
    """One virtual disk."""

    name: Name = "disk-1"
    """Unique within its VM."""
    size: VolumeSize = 100 * GIB
    """Up to 64 TiB."""
    path: str | None = Field(default=None, min_length=1)
    """Live, on a local site: its file or block device, from the estate file's folder; a simulation does not look."""


class Agent(Spec):
    """What brings a VM's applications to rest for a checkpoint: a VSS agent, or scripts."""

    takes: Annotated[Duration, Field(ge=0, le=600 * 10**9)] = 2 * 10**9
    """How long it takes until nothing more is written. Our choice."""
    fails: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    """How often it does not succeed."""


class ApplicationConsistent(Spec):
    """Checkpoints with applications at rest, of their own accord."""

    every: Annotated[Duration, Field(ge=60 * 10**9, le=30 * DAY)] = HOUR
    """Time between two. Hyper-V Replica takes them every 1 to 12 h (products.md 2.1)."""


class Address(Spec):
    """A network adapter of a recovered VM: its network, and a static address; without one it asks DHCP."""

    network: Name
    """A network of the recovery site."""
    address: str | None = None
    """Like 10.1.2.3."""
    mask: str | None = None
    """Like 255.255.255.0 or 24."""
    gateway: str | None = None
    """Within the subnet."""
    dns: tuple[str, ...] = ()
    """Name servers."""
    new_mac: bool = False
    """Not the MAC address that it has at the source."""


class ReIp(Spec):
    """What a network adapter becomes, separately for a failover test and in earnest."""

    live: Address
    """In a failover or move."""
    test: Address
    """In a failover test; its network should reach nobody."""


class Vm(Spec):
    """A protected VM, or `count` equal ones."""

    host: Name | tuple[Name, ...]
    """Protected host; equal VMs are dealt over several."""
    datastore: Name
    """Where its own disks lie."""
    volumes: Annotated[tuple[Volume, ...], Field(min_length=1, max_length=60)] = (Volume(),)
    """Up to 60 disks: 4 SCSI controllers x 15 (products.md 1.6)."""
    workload: Workload
    """What it writes."""
    count: Annotated[int, Field(ge=1, le=5000)] = 1
    """How many equal VMs; named name-001, name-002 ... when more than one."""
    cpus: Annotated[int, Field(ge=1, le=768)] = 2
    """What it takes of its recovery host. Our choice."""
    memory: Annotated[Size, Field(ge=1 << 20)] = 4 * GIB
    """Likewise."""
    boot: Annotated[Duration, Field(ge=0, le=DAY)] = 60 * 10**9
    """Until its guest has booted. Our choice."""
    application: Annotated[Duration, Field(ge=0, le=DAY)] = 60 * 10**9
    """Until its application answers, after that. Our choice."""
    tools: bool = True
    """Whether its guest can be asked to shut down (products.md T19)."""
    ready: str = ""
    """Live, on a local site: what its guest prints when its application answers."""
    nics: tuple[ReIp, ...] | None = None
    """Its network adapters at the recovery site; none: as they are, without a re-IP."""
    quiesce: Agent | None = None
    """Its agent; without one it takes no part in application-consistent checkpoints."""

    @model_validator(mode="after")
    def _volume_names(self) -> "Vm":
        names = [v.name for v in self.volumes]
        if len(set(names)) < len(names):
            raise ValueError(f"two volumes have the same name; the names are {', '.join(names)}")
        return self


class Journal(Spec):
    """The journal of each VM of a VPG."""

    history: Annotated[Duration, Field(ge=HOUR, le=LONGEST_HISTORY)] = 24 * HOUR
    """How far back checkpoints go: 1 h to 30 d, 24 h by default (products.md 1.4)."""
    hard_limit: Limit = 150 * GIB
    """Most journal per VM: 150 GB by default, at least 8 GB (products.md 1.4)."""
    fail_safe: Annotated[Duration, Field(ge=0, le=LONGEST_HISTORY)] = 0
    """History that is kept at any price: a full journal stops replication rather than keep less. Off by default;
    240 min is the field's value for it (products.md 1.4). What it does is our choice."""
    warning: Annotated[Ratio, Field(gt=0, le=1)] = 0.75
    """Share of the hard limit at which a warning is raised (products.md 1.4: 75 %)."""
    scratch: Annotated[Size, Field(ge=8 * GIB)] = 300 * GIB
    """Scratch limit during a test, apart from the journal's (products.md 1.4: 300 GB)."""

    @property
    def limit_bytes(self) -> int | None:
        """Bytes, None when unlimited."""
        return None if self.hard_limit == "unlimited" else self.hard_limit

    @model_validator(mode="after")
    def _fail_safe_within_history(self) -> "Journal":
        if self.fail_safe > self.history:
            raise ValueError("a journal cannot keep more fail-safe history than history; lower fail_safe")
        return self


class Recovery(Spec):
    """Where a VPG is recovered."""

    hosts: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Recovery hosts; the VPG's VMs are dealt over them."""
    datastore: Name
    """Where journals and mirror disks lie."""


class Vpg(Spec):
    """VMs protected and recovered together, consistent with each other at every checkpoint."""

    vms: Annotated[tuple[Name, ...], Field(min_length=1)]
    """VM names, or names of counted VMs (then all of them)."""
    recovery: Recovery
    """The recovery side."""
    split: Annotated[int, Field(ge=1)] | None = None
    """Make one VPG for each `split` VMs, named name-01, name-02 ..."""
    journal: Journal = Journal()
    """History and limits."""
    boot_groups: tuple[tuple[Name, ...], ...] = ()
    """Groups of its VMs that boot one after the other; those in none boot first."""
    boot_delay: Annotated[Duration, Field(ge=0, le=HOUR)] = 0
    """Between two groups (products.md 1.5: 0)."""
    priority: Priority = "medium"
    """Higher is served first on the WAN (products.md 1.6)."""
    checkpoint_interval: Annotated[Duration, Field(ge=10**9, le=HOUR)] = 5 * 10**9
    """Time between automatic checkpoints: 5 s when healthy (products.md 1.4)."""
    application_consistent: ApplicationConsistent | None = None
    """Checkpoints with applications at rest; none unless asked for (VSS or scripts, products.md 1.4)."""
    rpo_alert: Annotated[Duration, Field(ge=10**9, le=30 * DAY)] = 300 * 10**9
    """An alert, not a frequency (products.md 5.2: 300 s)."""
    sync: Literal["done", "initial", "preseeded"] = "done"
    """How the run begins: in sync; with an initial sync of whole volumes; or comparing with copies that are there."""
    preseed_differs: Annotated[Ratio, Field(ge=0, le=1)] = 0.05
    """Share of the regions in which a preseeded copy differs. Our choice."""
    compression: bool = True
    """WAN compression, on by default (products.md 1.6)."""


class Throttle(Spec):
    """A limit on replication data in a daily clock window; control traffic comes on top."""

    start: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    """Clock time "08:00"."""
    end: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
    """Clock time "18:00"; before `start` means the next morning."""
    limit: Annotated[Bandwidth, Field(gt=0)]
    """Bandwidth left to replication data."""


def clock(text: str) -> int:
    """Nanoseconds since midnight of "08:30"."""
    hours, minutes = text.split(":")
    return int(hours) * HOUR + int(minutes) * DURATION_UNITS["min"]
