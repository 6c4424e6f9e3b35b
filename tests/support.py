"""A bag: every machine of one VPG in one process, with nothing between them but queues that a test empties by choice.

Theory of operation. The bag performs effects as the core's contract allows, and no better: messages keep their order
for each pair of addresses only, effects keep theirs on one target only, a connection or a component may go at any
step, an effect may be performed without its answer arriving. There is no clock: a step is one instant later than the
one before, and an armed timer may fire at any step.

A crash throws a machine away with all that it knew and was sent; the new one gets what is durable: what the stores
hold (`File`), the list of checkpoints, the pins of operations, and how many lives there were.

The truth is kept at the guests' boundary, apart from the core. Content of a sector is the *stamp* of its last write:
the count of that write among its VM's writes. A guest write carries its stamp in the `issued` column, which the core
passes on unread; a sync frame carries stamps as payload.

    replica   mirror + every journaled row, in order
    image     mirror + journaled rows up to a cut

`check` holds after every step: the superset rule (PROTOCOL 5), and for every checkpoint in the durable list (a crash
may list again what was about to be forgotten) that its image is the guests' state at the cut and that the cut is
consistent (verification.md 2.2).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from drsim.core.batch import WriteBatch
from drsim.core.catalog import AGE, Catalog
from drsim.core.effects import (
    Append,
    Arm,
    Effect,
    EffectId,
    Forget,
    HoldGuests,
    Keep,
    Promote,
    Publish,
    ReadRegions,
    ReleaseGuests,
    Send,
)
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.events import (
    Connected,
    Done,
    Event,
    Failed,
    Fired,
    GuestWrote,
    Lost,
    PinAsked,
    Received,
    Started,
    Stopped,
    TagAsked,
)
from drsim.core.facts import Fact
from drsim.core.journal import Stored
from drsim.core.kernel import Kernel, Sink
from drsim.core.machine import Machine
from drsim.core.messages import Checkpoint, Held, Message, Refusal
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
)
from drsim.core.protected_vra import ProtectedVra
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.sender import Sender, SendState
from drsim.core.units import SECTOR, Ns
from drsim.core.vpg import TICK, Vpg
from drsim.core.window import reaches
from drsim.spec.tweaks import Tweaks

VPG = "crm"
NEVER = 1 << 60
KIB = 1 << 10

TINY = Tweaks(
    frame_bytes=4 * KIB, frame_writes=3, window_bytes=64 * KIB, window_frames=2, region_bytes=2 * KIB,
    sync_bytes=4 * KIB, sync_tail=0.2, limit_margin=0.1, max_steps=100_000,
)  # fmt: skip
"""Small enough that frames fill, windows close and buffers overflow within a few writes."""


def writes(*rows: tuple[int, int, int, int], issued: Sequence[int] | None = None) -> WriteBatch:
    """A batch of rows (vm, volume, lba, sectors)."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return WriteBatch.of(*columns, issued if issued is not None else range(len(rows)))


@dataclass(slots=True)
class Guest:
    """The truth about one VM: what it wrote, when, and what its disks hold."""

    vm: VmId
    volumes: tuple[VolumeInfo, ...]
    stream: StreamId
    source: np.ndarray = field(init=False)
    offset: dict[int, int] = field(init=False)
    extents: list[tuple[int, int]] = field(default_factory=list)
    issued: list[int] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.offset = {}
        total = 0
        for volume in self.volumes:
            self.offset[volume.id] = total
            total += volume.sectors
        self.source = np.zeros(total, np.int64)

    def blank(self) -> np.ndarray:
        return np.zeros(len(self.source), np.int64)

    def image(self, k: int) -> np.ndarray:
        """The disks after the first `k` writes."""
        disk = self.blank()
        for stamp, (start, stop) in enumerate(self.extents[:k], 1):
            disk[start:stop] = stamp
        return disk


@dataclass(slots=True)
class Row:
    """A journaled write."""

    lsn: int
    start: int
    stop: int
    stamps: np.ndarray | int


@dataclass(slots=True)
class File:
    """What a recovery VRA's disks hold of one stream; durable."""

    rows: dict[VmId, list[Row]]
    mirror: dict[VmId, np.ndarray]
    tip: dict[VmId, np.ndarray]
    epoch: int = 0
    end: tuple[int, ...] = ()
    base: tuple[int, ...] = ()
    parts: dict[VmId, list[tuple[int, int]]] = field(default_factory=dict)  # of each frame: last number, bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a bag is. Sizes in sectors."""

    protected: int = 2
    recovery: int = 1
    vms: int = 2  # on each protected host
    volumes: tuple[int, ...] = (22, 9)
    pool: int = 40
    recovery_pool: int = 64
    limit: int | None = None
    history: int = 10_000
    tweaks: Tweaks = TINY


class Bag:
    """One VPG's machines, their queues, disks and stores."""

    def __init__(
        self, shape: Shape, *, trace: Sink | None = None, checking: bool = True,
        protected: type[ProtectedVra] = ProtectedVra, recovery: type[RecoveryVra] = RecoveryVra,
    ) -> None:  # fmt: skip
        self.shape, self.checking, self.now = shape, checking, 0
        self.protected, self.recovery = protected, recovery
        self.kernel = Kernel(max_steps=shape.tweaks.max_steps, trace=trace)
        self.manager, self.catalog_at = vpg_address("west", VPG), catalog_address("east", VPG)
        self.sources = [vra_address("west", f"h{n}") for n in range(1, shape.protected + 1)]
        self.targets = [recovery_vra_address("east", f"r{n}") for n in range(1, shape.recovery + 1)]
        self.guests: dict[VmId, Guest] = {}
        self.streams: list[StreamSpec] = []
        self._lay_out()
        self.queues: dict[tuple[Address, Address], deque[Message]] = {}
        self.work: dict[tuple[str, Address, object], deque[tuple[EffectId, Effect]]] = {}
        self.timers: dict[tuple[Address, str], int] = {}
        self.files = {s.id: self._file(s) for s in self.streams}
        self.held: set[Address] = set()
        self.unacked: dict[Address, list[tuple[Guest, int]]] = {a: [] for a in self.sources}
        self.down: set[Address] = set()
        self.cut_links: set[tuple[Address, Address]] = set()
        self.full: set[Address] = set()  # recovery VRAs whose store takes nothing
        self.kept: dict[CheckpointId, Checkpoint] = {}  # the durable list
        self.facts: list[Fact] = []
        self.cut_at: dict[CheckpointId, dict[VmId, int]] = {}  # truth: writes of each VM in a checkpoint
        self.pins: set[CheckpointId] = set()  # that operations need
        self.lives: dict[Address, int] = dict.fromkeys([*self.sources, *self.targets, self.manager, self.catalog_at], 0)
        self.vras: dict[Address, ProtectedVra] = {}
        self.receivers: dict[Address, RecoveryVra] = {}
        for address in self.lives:
            self.kernel.add(address, self._machine(address))
        for address in self.lives:
            self.post(address, Started())

    def _machine(self, address: Address) -> Machine:
        """The machine of an address, built from what is durable if it had a life before."""
        shape, tweaks, life = self.shape, self.shape.tweaks, self.lives[address]
        if address in self.sources:
            mine = [s for s in self.streams if s.id.source == address]
            self.vras[address] = self.protected(
                address, {VPG: self.manager}, mine, pool_bytes=shape.pool * SECTOR, tweaks=tweaks, crashed=life > 0
            )
            return self.vras[address]
        if address in self.targets:
            mine = [s for s in self.streams if s.id.target == address]
            self.receivers[address] = self.recovery(
                address, {VPG: self.catalog_at}, mine, pool_bytes=shape.recovery_pool * SECTOR, tweaks=tweaks,
                durable={s.id: self._stored(s) for s in mine} if life else None,
            )  # fmt: skip
            return self.receivers[address]
        if address == self.manager:
            self.vpg = Vpg(address, VPG, self.sources, self.catalog_at, interval=Ns(50), rpo_alert=Ns(500),
                           history=Ns(shape.history), tweaks=tweaks, first=CheckpointId(1000 * life + 1))  # fmt: skip
            return self.vpg
        self.catalog = Catalog(address, VPG, self.manager, [s.id for s in self.streams], history=Ns(shape.history),
                               tweaks=tweaks, kept=[*self.kept.values()] if life else None, pins=self.pins)  # fmt: skip
        return self.catalog

    def _stored(self, spec: StreamSpec) -> Stored:
        file = self.files[spec.id]
        return Stored(file.epoch, file.base, file.end, tuple(tuple(file.parts[vm]) for vm in spec.vms))

    def _lay_out(self) -> None:
        shape = self.shape
        for n, source in enumerate(self.sources):
            vms = [VmId(n * shape.vms + k + 1) for k in range(shape.vms)]
            for m, target in enumerate(self.targets):
                mine = tuple(vm for vm in vms if vm % len(self.targets) == m)
                if not mine:
                    continue
                volumes = {
                    vm: tuple(VolumeInfo(VolumeId(vm * 10 + i), vm, s) for i, s in enumerate(shape.volumes))
                    for vm in mine
                }
                limit = None if shape.limit is None else shape.limit * SECTOR
                id_ = StreamId(VPG, source, target)
                flat = tuple(v for vm in mine for v in volumes[vm])
                self.streams.append(StreamSpec(id_, mine, flat, limit))
                self.guests.update((vm, Guest(vm, volumes[vm], id_)) for vm in mine)

    def _file(self, spec: StreamSpec) -> File:
        blank = {vm: self.guests[vm].blank for vm in spec.vms}
        zero = (0,) * len(spec.vms)
        return File(
            {vm: [] for vm in spec.vms}, {vm: b() for vm, b in blank.items()}, {vm: b() for vm, b in blank.items()},
            1, zero, zero, {vm: [] for vm in spec.vms},
        )  # fmt: skip

    # -- steps: each is one instant ---------------------------------------------------------------------------

    def post(self, address: Address, event: Event) -> None:
        """An event reaches a machine, and its effects begin."""
        for id_, effect in self.kernel.post(Ns(self.now), address, event):
            self._perform(id_, effect)
        if self.checking:
            self.check()

    def write(self, *rows: tuple[int, int, int, int]) -> bool:
        """Guests on one VRA write rows (vm, volume index, lba, sectors); true when they were acknowledged at once."""
        self.now += 1
        stream = self.guests[VmId(rows[0][0])].stream
        stamped, stamps = [], []
        for vm, index, lba, sectors in rows:
            guest = self.guests[VmId(vm)]
            assert guest.stream == stream
            volume = guest.volumes[index]
            assert 0 <= lba < lba + sectors <= volume.sectors
            start = guest.offset[volume.id] + lba
            guest.extents.append((start, start + sectors))
            guest.issued.append(self.now)
            guest.acked.append(NEVER)
            stamp = len(guest.issued)
            guest.source[start : start + sectors] = stamp
            stamped.append((vm, int(volume.id), lba, sectors))
            stamps.append(stamp)
        self.post(stream.source, GuestWrote(stream, writes(*stamped, issued=stamps)))
        self.unacked[stream.source] += [(self.guests[VmId(r[0])], s) for r, s in zip(rows, stamps, strict=True)]
        if stream.source not in self.held:
            self._acknowledge(stream.source)
        return stream.source not in self.held

    def _acknowledge(self, vra: Address) -> None:
        for guest, stamp in self.unacked[vra]:
            guest.acked[stamp - 1] = self.now
        self.unacked[vra].clear()

    def fire(self, address: Address, timer: str) -> None:
        """A timer runs out."""
        self.now += 1
        del self.timers[address, timer]
        self.post(address, Fired(timer))

    def tick(self) -> None:
        """A checkpoint is due."""
        self.fire(self.manager, TICK)

    def age(self) -> None:
        """The history is looked through."""
        self.fire(self.catalog_at, AGE)

    def tag(self, name: str) -> None:
        """An operator wants a checkpoint."""
        self.now += 1
        self.post(self.manager, TagAsked(name))

    def pin(self, checkpoint: int, pinned: bool = True) -> None:
        """An operation needs a checkpoint, or no longer."""
        self.now += 1
        self.post(self.catalog_at, PinAsked(checkpoint, pinned))
        self.pins = set(self.catalog.pins)

    def deliver(self, pair: tuple[Address, Address], count: int = 1) -> None:
        """The next messages from one address to another arrive."""
        self.now += 1
        for _ in range(count):
            if not self.queues.get(pair):
                return
            message = self.queues[pair].popleft()
            self.post(pair[1], Received(pair[0], message))

    def do(self, key: tuple[str, Address, object], *, fail: bool = False) -> None:
        """The next effect on a target is performed and answered; or fails, and leaves no trace."""
        self.now += 1
        id_, effect = self.work[key].popleft()
        if fail:
            answer: object = StoreFull("no room") if isinstance(effect, Append) else PlatformError("broken")
        else:
            answer = self._done(effect)
        event = Failed(id_, effect, answer) if isinstance(answer, DrsimError) else Done(id_, effect, answer)
        self.post(id_.address, event)

    def drain(self, rounds: int = 200) -> None:
        """Everything under way arrives and is done, in a fixed order; no timer fires."""
        for _ in range(rounds):
            pairs = [pair for pair, queue in self.queues.items() if queue]
            keys = [key for key, queue in self.work.items() if queue]
            if not pairs and not keys:
                return
            for pair in pairs:
                self.deliver(pair, len(self.queues[pair]))
            for key in keys:
                for _ in range(len(self.work.get(key, ()))):
                    self.do(key)
        raise AssertionError("the machines do not come to rest")

    # -- faults -----------------------------------------------------------------------------------------------

    def links(self) -> list[tuple[Address, Address]]:
        """The connections that may be lost: protected end, recovery end."""
        return [*dict.fromkeys((s.id.source, s.id.target) for s in self.streams), (self.manager, self.catalog_at)]

    def inner_links(self) -> list[tuple[Address, Address]]:
        """The connections within a site."""
        return [(s, self.manager) for s in self.sources] + [(self.catalog_at, t) for t in self.targets]

    def lose(self, link: tuple[Address, Address]) -> None:
        """A connection is gone with all that was on it, and both ends notice."""
        if link in self.cut_links:
            return
        self.now += 1
        self._cut(link)
        for near, far in (link, link[::-1]):
            if near not in self.down:
                self.post(near, Lost(far))

    def _cut(self, link: tuple[Address, Address]) -> None:
        self.cut_links.add(link)
        self.queues.pop(link, None)
        self.queues.pop(link[::-1], None)

    def connect(self, link: tuple[Address, Address]) -> None:
        """A connection can be used again."""
        if link not in self.cut_links or self.down.intersection(link):
            return
        self.now += 1
        self.cut_links.discard(link)
        for near, far in (link, link[::-1]):
            self.post(near, Connected(far))

    def stop(self, address: Address, *, unanswered: int = 0) -> None:
        """A component goes down in good order; its first `unanswered` effects on each target are still performed."""
        if address in self.down:
            return
        self.now += 1
        self.post(address, Stopped())
        last_words = self.queues.pop((address, self.manager), None)
        self._go(address, unanswered)
        if last_words and self.manager not in self.down:
            self.queues[address, self.manager] = last_words

    def crash(self, address: Address, *, unanswered: int = 0) -> None:
        """A component dies, or what a stopped one remembers is lost. It is down until `start`.

        Its first `unanswered` effects on each target are still performed.
        """
        self.now += 1
        if address not in self.down:
            self._go(address, unanswered)
        if address in self.held:
            self.held.discard(address)
            self._acknowledge(address)
        self.lives[address] += 1
        self.kernel.replace(address, self._machine(address))

    def _go(self, address: Address, unanswered: int) -> None:
        """Nothing reaches a component any more, and nothing that it was doing comes back."""
        self.down.add(address)
        for key in [k for k in self.work if k[1] == address]:
            for _, effect in list(self.work.pop(key))[:unanswered]:
                self._done(effect)
        for timer in [t for t in self.timers if t[0] == address]:
            del self.timers[timer]
        for link in [*self.links(), *self.inner_links()]:
            if address in link:
                self.lose(link)

    def start(self, address: Address) -> None:
        """A component comes up again; its connections do, one by one."""
        if address not in self.down:
            return
        self.now += 1
        self.down.discard(address)
        self.post(address, Started())
        for link in [*self.links(), *self.inner_links()]:
            if address in link:
                if self.down.intersection(link):
                    self.post(address, Lost(link[link[0] == address]))
                else:
                    self.connect(link)

    # -- effects ----------------------------------------------------------------------------------------------

    def _perform(self, id_: EffectId, effect: Effect) -> None:
        here = id_.address
        match effect:
            case Send(to, message):
                if isinstance(message, Held):
                    self._note_cut(here, message)
                if (here, to) not in self.cut_links and (to, here) not in self.cut_links and to not in self.down:
                    self.queues.setdefault((here, to), deque()).append(message)
            case Arm(timer, delay):
                self.timers[here, timer] = self.now + delay
            case HoldGuests():
                self.held.add(here)
            case ReleaseGuests():
                self.held.discard(here)
                self._acknowledge(here)
            case Append(frame):
                self._begin(("store", here, frame.stream), id_, effect)
            case Promote(stream):
                self._begin(("mirror", here, stream), id_, effect)
            case ReadRegions(stream):
                self._begin(("disk", here, stream), id_, effect)
            case Keep() | Forget():
                self._begin(("list", here, VPG), id_, effect)
            case Publish(fact):
                self.facts.append(fact)

    def _begin(self, key: tuple[str, Address, object], id_: EffectId, effect: Effect) -> None:
        self.work.setdefault(key, deque()).append((id_, effect))

    def _note_cut(self, vra: Address, held: Held) -> None:
        at = self.cut_at.setdefault(held.checkpoint, {})
        at.update((g.vm, len(g.issued)) for g in self.guests.values() if g.stream.source == vra)

    def _done(self, effect: Effect) -> object:
        match effect:
            case Append():
                return self._append(effect)
            case Promote():
                return self._promote(effect)
            case ReadRegions(_, batch):
                return self._read(batch)
            case Keep(checkpoint):
                self.kept[checkpoint.id] = checkpoint
            case Forget(_, before):
                for id_ in [c for c in self.kept if before is None or c < before]:
                    del self.kept[id_]
        return None

    def _append(self, effect: Append) -> DrsimError | None:
        frame = effect.frame
        if frame.stream.target in self.full:
            return StoreFull("no room")
        file = self.files[frame.stream]
        begins = frame.epoch > file.epoch and not len(frame.batch) and reaches(frame.after, file.end)
        if not begins and (frame.epoch, frame.after) != (file.epoch, file.end):
            return PlatformError("the frame does not continue the journal")
        file.epoch, file.end = frame.epoch, frame.upto
        lsn = dict(zip(file.rows, frame.after, strict=True))
        batch = frame.batch
        stamps = self._stamps(batch)
        for i, (vm, volume, lba, n) in enumerate(self._extents(batch)):
            guest = self.guests[vm]
            start = guest.offset[volume] + lba
            lsn[vm] += 1
            file.parts[vm].append((lsn[vm], n * SECTOR))
            file.rows[vm].append(Row(lsn[vm], start, start + n, stamps[i]))
            file.tip[vm][start : start + n] = stamps[i]
        assert tuple(lsn.values()) == frame.upto, "the rows of a frame are those between its positions"
        return None

    def _extents(self, batch: WriteBatch) -> Iterable[tuple[VmId, int, int, int]]:
        columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
        return zip(*columns, strict=True)  # type: ignore[arg-type]

    def _stamps(self, batch: WriteBatch) -> list[np.ndarray | int]:
        if batch.payload is None:
            return batch.issued.tolist()
        content = np.frombuffer(batch.payload, np.int64)[:: SECTOR // 8]
        ends = np.cumsum(batch.sectors)
        return list(np.split(content, ends[:-1]))

    def _read(self, batch: WriteBatch) -> WriteBatch:
        parts = []
        for vm, volume, lba, n in self._extents(batch):
            guest = self.guests[vm]
            start = guest.offset[volume] + lba
            parts.append(np.repeat(guest.source[start : start + n], SECTOR // 8))
        payload = np.concatenate(parts).tobytes()
        return WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, payload)

    def _promote(self, effect: Promote) -> None:
        file = self.files[effect.stream]
        file.base = effect.upto
        for (vm, rows), upto in zip(file.rows.items(), effect.upto, strict=True):
            for row in rows:
                if row.lsn <= upto:
                    file.mirror[vm][row.start : row.stop] = row.stamps
            file.rows[vm] = [row for row in rows if row.lsn > upto]
            file.parts[vm] = [part for part in file.parts[vm] if part[0] > upto]
        if self.checking:
            self.check_checkpoints()

    # -- what must hold ---------------------------------------------------------------------------------------

    def sender(self, stream: StreamId) -> Sender:
        return self.vras[stream.source].senders[stream]

    def check(self) -> None:
        """After every step."""
        for spec in self.streams:
            self._check_superset(spec)
        if self.facts and self.facts[-1].__class__.__name__ == "CheckpointListed":
            self.check_checkpoints()

    def _check_superset(self, spec: StreamSpec) -> None:
        file, sender = self.files[spec.id], None
        for vm in spec.vms:
            guest = self.guests[vm]
            differ = np.flatnonzero(file.tip[vm] != guest.source)
            if not len(differ):
                continue
            sender = sender or self.sender(spec.id)
            covered = np.zeros(len(guest.source), bool)
            held = [*sender._open.parts, *(f.batch for f in sender._queue), *(f.batch for f in sender.window)]
            for batch in held:
                for row_vm, volume, lba, n in self._extents(batch):
                    if row_vm == vm:
                        at = guest.offset[volume] + lba
                        covered[at : at + n] = True
            for at in differ:
                if not covered[at]:
                    volume = max((v for v in guest.volumes if guest.offset[v.id] <= at), key=lambda v: v.id)
                    dirty = sender.bitmap.covers(volume.id, int(at) - guest.offset[volume.id])
                    assert dirty, f"superset rule: VM {vm} sector {at} differs and nobody will send it ({spec.id})"

    def check_checkpoints(self) -> None:
        """Every checkpoint that is listed, or may be after a crash, is what the guests had at its cut."""
        assert {c.id for c in self.catalog.listed} | self.pins <= self.kept.keys()
        for checkpoint in self.kept.values():
            for spec in self.streams:
                receiver = self.receivers[spec.id.target].receivers[spec.id]
                for vm, upto in zip(spec.vms, checkpoint.cut[spec.id].position, strict=True):
                    if not receiver.unmarked:
                        assert receiver.journals[vm].plan(checkpoint.id).upto == upto
                    self._check_image(checkpoint, spec, vm, upto)
            self._check_cut(checkpoint)

    def _check_image(self, checkpoint: Checkpoint, spec: StreamSpec, vm: VmId, upto: int) -> None:
        file, guest = self.files[spec.id], self.guests[vm]
        disk = file.mirror[vm].copy()
        for row in file.rows[vm]:
            if row.lsn <= upto:
                disk[row.start : row.stop] = row.stamps
        truth = guest.image(self.cut_at[checkpoint.id][vm])
        wrong = np.flatnonzero(disk != truth)
        assert not len(wrong), f"checkpoint {checkpoint.id}, VM {vm}: sectors {wrong.tolist()} are not those of its cut"

    def _check_cut(self, checkpoint: Checkpoint) -> None:
        cut = self.cut_at[checkpoint.id]
        inside = max((t for g in self.guests.values() for t in g.issued[: cut[g.vm]]), default=0)
        outside = min((t for g in self.guests.values() for t in g.acked[cut[g.vm] :]), default=NEVER)
        assert inside <= outside, f"checkpoint {checkpoint.id} has a write and not the one that it depends on"

    # -- the second phase of a run ----------------------------------------------------------------------------

    def heal(self, rounds: int = 30) -> None:
        """Faults stop. Everything is in sync again and a new checkpoint is listed, or it is a stuck system (P20)."""
        self.full.clear()
        for address in sorted(self.down):
            self.start(address)
        for link in sorted(self.cut_links):
            self.connect(link)
        for checkpoint in sorted(self.catalog.pins):
            self.pin(checkpoint, False)
        began = self.now
        for _ in range(rounds):
            self.drain()
            for address, timer in list(self.timers):
                if (address, timer) in self.timers:
                    self.fire(address, timer)
                    self.drain()
            if self._healthy(began):
                return
            self._press()
        states = {str(s.id): self.sender(s.id).state.value for s in self.streams}
        raise AssertionError(f"stuck: {states}, listed {[c.id for c in self.catalog.listed]}, {self.vpg.regions}")

    def _press(self) -> None:
        """A full journal whose newest checkpoint must stay stops replication, until the writes that wait overflow."""
        for spec in self.streams:
            sender = self.sender(spec.id)
            while sender.refused is Refusal.LIMIT and sender.state is SendState.IN_SYNC:
                self.write((spec.vms[0], 0, 0, 6))

    def _healthy(self, began: int) -> bool:
        return (
            not any(r.unmarked for vra in self.receivers.values() for r in vra.receivers.values())
            and all(self.sender(s.id).state is SendState.IN_SYNC and not self.sender(s.id).used for s in self.streams)
            and bool(self.catalog.listed)
            and self.catalog.listed[-1].taken > began
            and self.vpg.regions.health.value == "OK"
        )
