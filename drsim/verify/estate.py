"""Estate: a small installation for the explorer, with every machine of the core and how to build each one.

Shapes are tiny on purpose: frames fill, windows close, buffers overflow and journals reach their limit within a few
writes, and the disks of a VM fit a short byte string.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache

from drsim.core.catalog import Catalog
from drsim.core.events import Reconfigured
from drsim.core.journal import Stored
from drsim.core.machine import Machine
from drsim.core.messages import Checkpoint, Retention, Start
from drsim.core.names import (
    Address,
    CheckpointId,
    StreamId,
    StreamSpec,
    VmId,
    VolumeId,
    VolumeInfo,
    catalog_address,
    recovery_vra_address,
    vpg_address,
    vra_address,
)  # fmt: skip
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.units import SECTOR, Ns
from drsim.core.vpg import Vpg
from drsim.spec.tweaks import Tweaks

KIB = 1 << 10
TINY = Tweaks(
    frame_bytes=4 * KIB, frame_writes=3, window_bytes=64 * KIB, window_frames=2, region_bytes=2 * KIB,
    sync_bytes=4 * KIB, compare_bytes=4 * KIB, sync_tail=0.2, limit_margin=0.1, max_steps=100_000,
)  # fmt: skip
TIGHT = TINY.model_copy(update={"bitmap_regions": 3, "pause_checkpoints": 2, "replication_pause": 100})
"""A bitmap that is soon outgrown, and a sync that pauses when few checkpoints are left."""
SPARE = 100  # number of the first VM that is in no VPG
LIFE = 1000  # checkpoints that one life of a manager can number
INTERVAL, RPO_ALERT = Ns(50), Ns(500)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large an estate is. `volumes`, pools and `limit` in sectors; `history` in steps of the explorer."""

    protected: int = 2
    recovery: int = 1
    vpgs: int = 1
    vms: int = 1  # of each VPG on each protected host
    volumes: tuple[int, ...] = (22, 9)
    pool: int = 40
    recovery_pool: int = 64
    limit: int | None = None
    history: int = 10_000
    start: Start = Start.EQUAL
    spares: int = 0  # VMs that may be added
    epochs: bool = False  # VMs are captured by epochs
    room: int = 0  # sectors by which the first volume of a VM may grow; with any, it may get another volume as well
    tweaks: Tweaks = field(default=TINY, hash=False)


@dataclass(frozen=True)
class VpgEstate:
    """One VPG: the addresses of its managers, and its streams.

    `version` of its configuration, `starts` of streams that came with it, `unprotected` VMs (see `Reconfigured`).
    `deleting`: somebody deleted it, with or without keeping its disks.
    """

    name: str
    manager: Address
    catalog: Address
    streams: tuple[StreamSpec, ...]
    version: int = 1
    starts: Mapping[StreamId, Start] = field(default_factory=dict)
    unprotected: tuple[VmId, ...] = ()
    last: Mapping[VmId, StreamSpec] = field(default_factory=dict)  # of unprotected VMs, the stream that had them
    deleting: bool | None = None
    retention: Retention | None = None  # another than the shape's, and then
    limit: int | None = None  # likewise, of each journal, in bytes
    generation: int = 1
    fenced: bool = False

    @cached_property
    def sources(self) -> tuple[Address, ...]:
        """Its protected VRAs."""
        return tuple(dict.fromkeys(s.id.source for s in self.streams))

    @cached_property
    def targets(self) -> tuple[Address, ...]:
        """Its recovery VRAs."""
        return tuple(dict.fromkeys(s.id.target for s in self.streams))

    @cached_property
    def vms(self) -> tuple[VmId, ...]:
        """Its VMs, protected or not."""
        inside = [v.vm for s in self.streams for v in s.volumes]
        return tuple(sorted({*inside, *self.unprotected}))

    @property
    def configured(self) -> Reconfigured | None:
        """What its manager was last told to consist of."""
        if self.version == 1:
            return None
        return Reconfigured(self.version, self.streams, dict(self.starts), self.unprotected, self.retention)

    @property
    def wan(self) -> list[tuple[Address, Address]]:
        """Its connections between the sites: protected end, recovery end."""
        return [*((s.id.source, s.id.target) for s in self.streams), (self.manager, self.catalog)]

    @property
    def lan(self) -> list[tuple[Address, Address]]:
        """Its connections within the sites."""
        return [*((s, self.manager) for s in self.sources), *((self.catalog, t) for t in self.targets)]


@cache
def _volumes(vm: VmId, sectors: tuple[int, ...]) -> tuple[VolumeInfo, ...]:
    return tuple(VolumeInfo(VolumeId(vm * 10 + n), vm, s) for n, s in enumerate(sectors))


@cache
def _room(vm: VmId, sectors: tuple[int, ...], more: int) -> tuple[VolumeInfo, ...]:
    first, *rest = _volumes(vm, sectors)
    another = (VolumeInfo(VolumeId(vm * 10 + 9), vm, more + 1),) if more else ()
    return (VolumeInfo(first.id, first.vm, first.sectors + more), *rest, *another)


class Estate:
    """The machines of a shape, by address, and the configuration of its VPGs: a new one makes a new estate."""

    def __init__(self, shape: Shape, vpgs: tuple[VpgEstate, ...] = ()) -> None:
        self.shape = shape
        self.sources = [vra_address("west", f"h{n}") for n in range(1, shape.protected + 1)]
        self.targets = [recovery_vra_address("east", f"r{n}") for n in range(1, shape.recovery + 1)]
        self.vpgs = vpgs or tuple(self._vpg(n) for n in range(shape.vpgs))
        self.vpg_of = {vpg.name: vpg for vpg in self.vpgs}
        self.streams = {s.id: s for vpg in self.vpgs for s in vpg.streams}
        self.managers = {vpg.name: vpg.manager for vpg in self.vpgs}
        self.catalogs = {vpg.name: vpg.catalog for vpg in self.vpgs}
        self.owners = {a: vpg for vpg in self.vpgs for a in (vpg.manager, vpg.catalog)}
        self.wan = list(dict.fromkeys(link for vpg in self.vpgs for link in vpg.wan))
        self.lan = list(dict.fromkeys(link for vpg in self.vpgs for link in vpg.lan))

    @cached_property
    def addresses(self) -> list[Address]:
        """The machines there are from the beginning."""
        used = {a for s in self.streams for a in (s.source, s.target)}
        return [*(a for a in (*self.sources, *self.targets) if a in used), *self.owners]

    @property
    def spares(self) -> list[VmId]:
        """VMs that belong to no VPG in the beginning."""
        return [VmId(SPARE + n) for n in range(self.shape.spares)]

    def configured(self, vpg: VpgEstate) -> "Estate":
        """The estate with another configuration of a VPG."""
        changed = Estate(self.shape, tuple(vpg if v.name == vpg.name else v for v in self.vpgs))
        changed.addresses = self.addresses
        return changed

    def _vpg(self, number: int) -> VpgEstate:
        shape, name = self.shape, ("crm", "erp", "web")[number]
        streams: dict[StreamId, list[VmId]] = {}
        for n, source in enumerate(self.sources):
            for k in range(shape.vms):
                vm = VmId(1 + k + shape.vms * (n + shape.protected * number))
                streams.setdefault(StreamId(name, source, self.targets[vm % shape.recovery]), []).append(vm)
        limit = None if shape.limit is None else shape.limit * SECTOR
        specs = tuple(
            StreamSpec(id_, tuple(vms), tuple(v for vm in vms for v in self.volumes(vm)), limit)
            for id_, vms in streams.items()
        )
        return VpgEstate(name, vpg_address("west", name), catalog_address("east", name), specs)

    def volumes(self, vm: VmId) -> tuple[VolumeInfo, ...]:
        """The disks of a VM, as they are in the beginning."""
        return _volumes(vm, self.shape.volumes)

    def room(self, vm: VmId) -> tuple[VolumeInfo, ...]:
        """All that the disks of a VM may become."""
        return _room(vm, self.shape.volumes, self.shape.room)

    def build(self, address: Address, earlier: "Earlier | None" = None) -> Machine:
        """The machine of an address: in its first life, or from what `earlier` ones left."""
        shape, tweaks = self.shape, self.shape.tweaks
        vpg = self.owners.get(address)
        if vpg is None:
            mine = [s for s in self.streams.values() if address in (s.id.source, s.id.target)]
            if address in self.sources:
                pool = shape.pool * SECTOR
                starts = {s.id: shape.start if earlier is None else earlier.starts[s.id] for s in mine}
                versions = {vpg.name: vpg.version for vpg in self.vpgs}
                return ProtectedVra(address, self.managers, mine, pool_bytes=pool, tweaks=tweaks, starts=starts,
                                    versions=versions)  # fmt: skip
            pool = shape.recovery_pool * SECTOR
            durable = None if earlier is None else {s.id: d for s, d in earlier.stored.items()}
            mine = mine if earlier is None else list(earlier.stored)
            generations = {vpg.name: vpg.generation for vpg in self.vpgs}
            return RecoveryVra(address, self.catalogs, mine, pool_bytes=pool, tweaks=tweaks, durable=durable,
                               generations=generations)  # fmt: skip
        history = Ns(shape.history) if vpg.retention is None else vpg.retention.history
        if address == vpg.manager:
            first = CheckpointId(1 if earlier is None else 1 + LIFE * earlier.lives)
            return Vpg(address, vpg.name, list(vpg.sources), vpg.catalog, interval=INTERVAL, rpo_alert=RPO_ALERT,
                       history=history, tweaks=tweaks, first=first, creating=shape.start is not Start.EQUAL,
                       paused=earlier is not None and earlier.paused, configured=vpg.configured,
                       deleting=vpg.deleting, epochs=shape.epochs)  # fmt: skip
        kept, pins = (earlier.kept, earlier.pins) if earlier else (None, ())
        streams = [s.id for s in (earlier.stored if earlier and vpg.deleting is not None else vpg.streams)]
        retention = vpg.retention or Retention(history)
        return Catalog(address, vpg.name, vpg.manager, streams, retention=retention, tweaks=tweaks, kept=kept,
                       pins=pins, deleting=vpg.deleting, generation=vpg.generation, fenced=vpg.fenced)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier lives of a machine left: all that is durable of it."""

    lives: int
    stored: Mapping[StreamSpec, Stored] = field(default_factory=dict)
    starts: Mapping[StreamId, Start] = field(default_factory=dict)
    kept: tuple[Checkpoint, ...] = ()
    pins: tuple[CheckpointId, ...] = ()
    paused: bool = False


@lru_cache(maxsize=512)
def estate_of(shape: Shape) -> Estate:
    """The estate of a shape; shared, because nothing in it changes."""
    return Estate(shape)
