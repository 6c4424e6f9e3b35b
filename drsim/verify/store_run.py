"""StoreRun: a real journal store, its catalogue, its disk and its truth while a program plays; what can be done to it.

An operation on the store may be *armed*: the power goes at one of its changes of the disk, or the disk is full or
fails from there on. Then it was not acknowledged, and what of it is there is for the checks to judge.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from drsim.core.batch import WriteBatch
from drsim.core.errors import DrsimError, PlatformError
from drsim.core.messages import Checkpoint, Cut, Frame, Position
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.units import Ns
from drsim.real.catalog_store import CatalogStore
from drsim.real.journal_store import JournalStore
from drsim.real.stream_store import StreamStore
from drsim.verify.store_damage import Damage
from drsim.verify.store_disk import Disk
from drsim.verify.store_truth import Image, Truth, content
from drsim.verify.violation import Violation

STREAM = StreamId("crm", Address("west/h1/vra"), Address("east/r1/recovery-vra"))
OTHER = STREAM._replace(vpg="erp")
SIZES = ((24,), (40, 9))
"""Sectors of the volumes of each VM."""
KEPT = 6
"""Earlier contents of each file that are remembered, to be put back."""
TWINS = 8
"""Frames that the other stream gets as well."""


class StoreProbes(StrEnum):
    """Interesting states that a program may reach."""

    TWO_VMS = "one frame for two VMs"
    OVERLAP = "overlapping extents in one batch"
    INSIDE = "cut inside of a frame"
    ENDED_EPOCH = "cut of an epoch that ended"
    NEVER = "cut that never was refused"
    ROLLED = "a second segment"
    DROPPED = "segments dropped"
    COMPACTED = "ledger compacted"
    CRASH_APPEND = "crash in an append"
    CRASH_PROMOTE = "crash in a promotion"
    CRASH_LIST = "crash while the list changes"
    CRASH_OPEN = "crash while opening"
    TORN_TAIL = "torn tail cut"
    TORN_LEDGER = "torn ledger entry cut"
    SURVIVED = "frame under way survived a crash"
    LOST = "frame under way lost in a crash"
    REPEATED = "promotion repeated after a crash"
    UNTOUCHED = "failed append left no trace"
    UNSURE = "store closed itself to changes"
    FLIP = "flip seen"
    ZERO = "sector never written seen"
    CUT = "lost end of a file seen"
    RECORD = "misdirected record seen"
    ENTRY = "misdirected ledger entry seen"
    SECTOR = "misdirected sector seen"
    STALE_LEDGER = "stale ledger seen"
    STALE_SEGMENT = "stale segment seen"
    STALE_MIRROR = "stale mirror seen"
    STALE_LIST = "checkpoint of a stale list refused"
    GONE = "missing file seen"
    UNREADABLE = "unreadable file seen"
    LIVE = "damage seen by a store that was open"
    LAST = "last append lost and said so"
    HARMLESS = "damage that does no harm"
    FRAME = "broken frame refused"
    REPLAY = "old frame refused"
    STRANGER = "frame of another stream refused"


@dataclass(frozen=True, slots=True)
class Shape:
    """The store of a program."""

    vms: int
    segment_bytes: int
    ledger_bytes: int
    other: bool

    def spec(self, stream: StreamId) -> StreamSpec:
        """The stream's VMs and volumes."""
        volumes = [(vm, size) for vm, sizes in enumerate(SIZES[: self.vms]) for size in sizes]
        infos = tuple(VolumeInfo(VolumeId(n), VmId(vm), size) for n, (vm, size) in enumerate(volumes))
        return StreamSpec(stream, tuple(map(VmId, range(self.vms))), infos)


class Outcome(StrEnum):
    """How an operation ended. DONE was acknowledged, CUT and FAILED were not."""

    DONE = "done"
    CUT = "cut"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Arm:
    """What breaks the next operation (crash, full, error), at which change of the disk, and what a crash leaves."""

    kind: str
    change: int
    seed: int


@dataclass(slots=True)
class StoreRun:
    """A program's store. `home` is an empty directory."""

    shape: Shape
    home: Path
    spec: StreamSpec = field(init=False)
    disk: Disk = field(init=False)
    truth: Truth = field(init=False)
    journals: JournalStore = field(init=False)
    catalog: CatalogStore = field(init=False)
    probes: set[str] = field(default_factory=set)
    past: dict[str, list[bytes]] = field(default_factory=dict)
    raw: list[bytes] = field(default_factory=list)
    """Frames that were acknowledged, as they went over the wire, oldest first."""
    stamp: int = 0
    fresh: bool = False
    """Whether the next frame begins an epoch."""
    armed: Arm | None = None
    damage: Damage | None = None
    seen: bool = False
    """Whether something was refused since the damage."""

    def __post_init__(self) -> None:
        (self.home / "store").mkdir()
        self.spec, self.disk = self.shape.spec(STREAM), Disk(self.home / "store")
        self.truth = Truth.empty(self.spec)

    # -- opening ----------------------------------------------------------------------------------------------

    @property
    def store(self) -> StreamStore:
        """The stream's store."""
        return self.journals.streams[STREAM]

    @property
    def stands(self) -> Cut:
        """Where the store says that it stands."""
        return Cut(self.store.state.epoch, self.store.state.end)

    def open(self) -> None:
        """Open the store and the catalogue. Raises PlatformError."""
        specs = [self.spec, *([self.shape.spec(OTHER)] if self.shape.other else [])]
        for spec in JournalStore.found(self.disk.root / "journals"):
            if spec not in specs:
                raise Violation("P21", f"the store finds {spec}, which nobody opened")
        sizes = {"segment_bytes": self.shape.segment_bytes, "ledger_bytes": self.shape.ledger_bytes}
        self.journals = JournalStore(self.disk.root / "journals", specs, **sizes)
        try:
            self.catalog = CatalogStore(self.disk.root / "catalog" / "crm.json")
        except BaseException:
            self.journals.close()
            raise

    def twin(self, frame: Frame) -> None:
        """The other stream gets a frame of the same shape: only its name tells its records from this one's."""
        store = self.journals.streams.get(OTHER)
        if store is not None and len(self.truth.ends) < TWINS and store.state.end == frame.after:
            batch = frame.batch
            other = bytes(b ^ 0xFF for b in batch.payload or b"")
            batch = WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, other)
            self.journals.append(replace(frame, stream=OTHER, batch=batch))

    def remember(self) -> None:
        """Note what the files hold, so that it may be put back later."""
        for path, now in self.disk.read().items():
            known = self.past.setdefault(path, [])
            if not known or known[-1] != now:
                if path.endswith("ledger") and known and len(now) < len(known[-1]) // 2:
                    self.probes.add(StoreProbes.COMPACTED)
                known.append(now)
                del known[:-KEPT]

    # -- doing things -----------------------------------------------------------------------------------------

    def do(self, wish: Callable[[], None], crash: StoreProbes) -> Outcome:
        """Perform an operation, broken if one is armed; `crash`: the probe of a power cut in it.

        After a power cut the store is open again. Raises PlatformError when nothing was broken.
        """
        armed, self.armed = self.armed, None
        self.disk.begin()
        if armed is None:
            wish()
            return Outcome.DONE
        if armed.kind != "crash":
            return self._do_broken(wish, armed)
        self.disk.cut_at, self.disk.seed = armed.change, armed.seed
        wish()
        outcome = Outcome.DONE if self.disk.picture is None else Outcome.CUT
        if self.disk.picture is None:
            self.disk.cut()  # after its last change: it was acknowledged
        else:
            self.probes.add(crash)
        self.journals.close()
        self._restart()
        return outcome

    def _restart(self) -> None:
        picture = self.disk.picture
        assert picture is not None
        self.disk.begin()
        self.disk.restore(picture)
        try:
            self.open()
        except PlatformError as error:
            raise Violation("P8", f"after a power cut the store does not open: {error}") from error
        now = self.disk.read()
        shorter = {path for path, data in picture.items() if len(now.get(path, data)) < len(data)}
        if any(path.endswith(".segment") for path in shorter):
            self.probes.add(StoreProbes.TORN_TAIL)
        if any(path.endswith("ledger") for path in shorter):
            self.probes.add(StoreProbes.TORN_LEDGER)

    def _do_broken(self, wish: Callable[[], None], armed: Arm) -> Outcome:
        self.disk.error = errno.ENOSPC if armed.kind == "full" else errno.EIO
        self.disk.fail_at = armed.change
        outcome = Outcome.DONE
        try:
            wish()
        except PlatformError:
            outcome = Outcome.FAILED
        finally:
            self.disk.begin()
        return outcome

    def settle(self) -> None:
        """After a failure: a store that cannot know what is there has closed itself, and is opened again."""
        if not self.store.closed and not self.catalog.closed:
            return
        self.probes.add(StoreProbes.UNSURE)
        self.journals.close()
        try:
            self.open()
        except PlatformError as error:
            raise Violation("P8", f"after a failed write the store does not open: {error}") from error

    def tolerate(self, wish: Callable[[], None]) -> bool:
        """Try something on a damaged store; whether it was done. An error that blames nobody is a defect."""
        try:
            wish()
        except DrsimError:
            self.seen = True
            return False
        except Exception as error:
            raise Violation("P21", f"{self.damage}: {type(error).__name__} instead of an error by blame") from error
        return True

    def image(self, cut: Cut) -> Image:
        """What the store makes of a cut. Raises PlatformError."""
        images = self.journals.rebuild({STREAM: cut}, self.home / "images")
        return {volume: path.read_bytes() for volume, path in images.items()}

    # -- frames -----------------------------------------------------------------------------------------------

    def next_frame(self, a: int, b: int) -> Frame:
        """The frame that follows what is acknowledged, picked by two bytes; in a new epoch when one is due."""
        now = self.truth.now
        after, epoch = now.position, now.epoch
        if self.fresh:
            self.fresh = False
            after, epoch = tuple(n + (a + b + k) % 3 for k, n in enumerate(after)), epoch + 1
        return self._frame(self._rows(a, b), after, epoch)

    def _rows(self, a: int, b: int) -> WriteBatch:
        """One to four writes. They begin at one place or close to it, so that most of them overlap."""
        rows: list[tuple[int, int, int, int]] = []
        parts: list[bytes] = []
        for k in range(1 + a % 4):
            vm = (a // 4 + k * (a // 16 % 2)) % self.shape.vms
            mine = [v for v in self.spec.volumes if v.vm == vm]
            volume = mine[b // 64 % len(mine)]
            sectors = 1 + (b // 8 + 5 * k) % 7
            lba = (b % 8 * 5 + k * (a // 32)) % (volume.sectors - sectors + 1)
            self.stamp += 1
            rows.append((vm, volume.id, lba, sectors))
            parts.append(content(self.stamp, sectors))
        vms, volumes, lbas, lengths = zip(*rows, strict=True)
        return WriteBatch.of(vms, volumes, lbas, lengths, [self.stamp] * len(rows), b"".join(parts))

    def _frame(self, batch: WriteBatch, after: Position, epoch: int) -> Frame:
        counts, sizes = batch.per_vm(self.spec.vms)
        upto = tuple(a + n for a, n in zip(after, counts, strict=True))
        return Frame(STREAM, 1, epoch, after, upto, sizes, False, batch)

    def checkpoint(self) -> Checkpoint:
        """One that lies where the store stands."""
        id_ = CheckpointId(1 + max(self.truth.ever, default=0))
        return Checkpoint("crm", id_, Ns(id_ * 1000), {STREAM: self.truth.now})
