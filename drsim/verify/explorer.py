"""Explorer: the real core under an adversary, with the truth beside it and every property checked as it goes.

Theory of operation. No clock, no SimPy: the bags (`bags.py`) hold what may happen next, and each method here is one
*choice* of an adversary, one instant after the choice before. Choices that cannot be made now do nothing, so any
sequence of them is a run. A run has two phases. In the first everything may go wrong that the specification allows;
in the second (`heal`) faults stop for the VPGs that are to recover, and the rest may stay broken for ever.

The truth is kept at the guests' boundary (`guests.py`) and on the recovery side's disks (`disks.py`), apart from the
core. The checkers (`checkers.py`) compare the two; they look into machines only for what nobody else knows.

Fault atlas. Faults enter through the effects and the connections only, and only such as PROTOCOL says the system
survives. Never injected here, because the specification calls them unrecoverable or excludes them:

    not injected                                  where its expected result is checked instead
    --------------------------------------------  ------------------------------------------------------------
    durable journal or mirror lost or rotten      store_programs.py: seen and reported, never served
    a frame altered on the wire                   store_programs.py: seen and refused
    a message lost on a connection that stays     here only for data, and only until the connection is renewed
    the protected disk lost                       a disaster: recovery, not replication
    a clock that goes back within one life        the world's duty: it gives machines a clock that does not
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import compress

from drsim.core.batch import Columns, WriteBatch
from drsim.core.catalog import AGE, Catalog
from drsim.core.effects import (
    Append,
    Capture,
    Discard,
    Effect,
    Forget,
    FreezeGuests,
    HoldGuests,
    Keep,
    Promote,
    Publish,
    ReadDigests,
    ReadRegions,
    ReleaseGuests,
    TapVolumes,
    ThawGuests,
    UntapVolumes,
)  # fmt: skip
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.events import (
    DeleteAsked,
    FenceAsked,
    GuestWrote,
    PauseAsked,
    PinAsked,
    Received,
    Started,
    SyncAsked,
    TagAsked,
    VmArrived,
    VmLeft,
    VolumeFound,
    VolumeLost,
    WritesMissed,
)  # fmt: skip
from drsim.core.facts import CheckpointSealed, Fact, SyncEnded
from drsim.core.kernel import Sink
from drsim.core.messages import Checkpoint, Frame, Held, Start
from drsim.core.names import Address, CheckpointId, Extent, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.sender import NUMBERING, Sender
from drsim.core.status import Regions
from drsim.core.units import SECTOR
from drsim.core.vpg import TICK, Vpg
from drsim.verify import linear
from drsim.verify.bags import Bags, Key, Link, Unanswered
from drsim.verify.checkers import Checkers
from drsim.verify.disks import StreamDisks
from drsim.verify.estate import Earlier, Shape, VpgEstate, estate_of
from drsim.verify.frames import merged, split
from drsim.verify.guests import Guest, Rows, Write, digests, sector_bytes
from drsim.verify.quiesce import Freezer

Word = VmLeft | VmArrived | VolumeLost | VolumeFound
"""What the platform tells a VRA."""


@cache
def fields_of(regions: Regions) -> str:
    """Regions written out, once for each: they are few."""
    return repr(regions)


def by_stream(writes: Sequence[Write]) -> Mapping[StreamId | None, Sequence[Write]]:
    """Writes by the stream that they go to now, in their order."""
    if len(writes) == 1:
        return {writes[0].guest.stream: writes}
    groups: dict[StreamId | None, list[Write]] = {}
    for write in writes:
        groups.setdefault(write.guest.stream, []).append(write)
    return groups


REMEMBERED = 8  # frames that may come back from an earlier connection


class Tap:
    """The splitter's part of PROTOCOL 2.1: landing order is capture order, captured before acknowledged."""

    def __init__(self, explorer: "Explorer") -> None:
        self.explorer = explorer

    def issued(self, write: Write) -> None:
        """A write has been issued and is in flight."""
        write.guest.in_flight.append(write)

    def landed(self, writes: Sequence[Write]) -> None:
        """The local disk has these writes, in this order: capture them, and let the guests go on."""
        for write in writes:
            write.guest.land(write)
        self.capture(writes)
        self.explorer.acknowledge(writes)

    def capture(self, writes: Sequence[Write]) -> None:
        """Hand writes to the VRA, in the order in which the disk has them."""
        for write in writes:
            write.guest.capture(write)
        for stream, some in by_stream(writes).items():
            heard = [write for write in some if write.heard]
            if stream is not None and heard:
                self.explorer.captured(stream, heard)


class Explorer(Bags):
    """One estate under an adversary."""

    def __init__(
        self, shape: Shape, *, trace: Sink | None = None, tap: Callable[["Explorer"], Tap] = Tap, checking: bool = True
    ) -> None:
        self.estate = estate = estate_of(shape)
        machines = {address: estate.build(address) for address in estate.addresses}
        super().__init__(machines, max_steps=shape.tweaks.max_steps, trace=trace)
        self.shape, self.tap = shape, tap(self)
        self.guests = {
            vm: Guest(vm, estate.volumes(vm), estate.room(vm), id_.source, id_)
            for id_, s in estate.streams.items()
            for vm in s.vms
        }
        for vm in estate.spares:
            self.guests[vm] = Guest(vm, estate.volumes(vm), estate.room(vm), estate.addresses[0], None)
        self.vms = list(self.guests)
        self.rows = {id_: Rows(spec) for id_, spec in estate.streams.items()}
        self.disks = {id_: StreamDisks(s, self.guests, self.rows[id_]) for id_, s in estate.streams.items()}
        self.kept: dict[str, dict[CheckpointId, Checkpoint]] = {vpg.name: {} for vpg in estate.vpgs}  # durable
        self.pins: dict[str, set[CheckpointId]] = {vpg.name: set() for vpg in estate.vpgs}  # the operators' wish
        self.paused: set[str] = set()  # likewise
        self.lives: dict[Address, int] = dict.fromkeys(estate.addresses, 1)
        self.streams = list(estate.streams)  # all that ever were
        self.specs = dict(estate.streams)  # likewise, as they are or were in the end
        self.opened = set(estate.streams)  # those whose journals exist
        self.unheard: dict[Address, list[Word]] = {}  # for VRAs that are down
        self.gone: set[VolumeId] = set()  # volumes that were removed for ever
        self.missing: set[VolumeId] = set()  # protected volumes that are not there
        most = (shape.limit or 0) * SECTOR
        self.limits = {vpg.name: most for vpg in estate.vpgs}  # the largest that a journal ever might be, in bytes
        self.histories = {vpg.name: shape.history for vpg in estate.vpgs}  # the shortest that one ever was to be
        self.joined: set[StreamId] = set()  # those that have been in sync
        self.links = [*estate.wan, *estate.lan]
        self.full: set[tuple[Address, str]] = set()  # recovery VRAs, and VPGs whose store there takes nothing
        self.clogged: set[Link] = set()  # directions that carry nothing for the time being
        self.holed: set[Link] = set()  # connections on which data was lost: they must be renewed some day
        self.roomless = False  # taps have no room for content
        self.places: set[StreamId] = set()  # streams of whose writes the tap keeps only where they went
        self.held: set[tuple[Address, str]] = set()
        self.unacked: dict[tuple[Address, str], list[Write]] = {}
        self.frames: deque[Frame] = deque(maxlen=REMEMBERED)  # delivered lately
        self.tags: dict[str, list[str]] = {}  # asked for, and not yet sealed
        self.facts: list[Fact] = []
        self.probes: set[str] = set()
        self.healing = False  # the second phase has begun
        self.states: set[int] = set()  # coarse, for counting how many different ones were seen
        self.freezer = Freezer(self)
        self.checks = Checkers(self, enabled=checking)
        self.stepped, self.watched = self.checks.stepped, self.checks.watched
        for address in estate.addresses:
            self.post(address, Started())

    def inherit(self, left: Mapping[VmId, tuple[bytes, bytes]]) -> None:
        """Of each VM what its disks hold in the beginning, and what the mirrors hold."""
        for vm, (disk, mirror) in left.items():
            guest = self.guests[vm]
            guest.disk = guest.images[0] = disk
            for disks in (d.vms[vm] for d in self.disks.values() if vm in d.vms):
                disks.mirror[:] = disks.tip = mirror

    # -- what another world adds ------------------------------------------------------------------------------

    def pauses(self, vpg: str) -> bool:
        """Whether a VPG is to be paused for the time being, whatever an operator wants."""
        return False

    def routine(self) -> None:
        """What the installation does again and again of its own accord, besides its timers."""

    # -- looking in -------------------------------------------------------------------------------------------

    def sender(self, stream: StreamId) -> Sender:
        """The sending half of a stream."""
        machine = self.kernel.machines[stream.source]
        assert isinstance(machine, ProtectedVra)
        return machine.senders[stream]

    def known(self, stream: StreamId) -> int:
        """How many of the two VRAs of a stream know of it."""
        source, target = self.kernel.machines[stream.source], self.kernel.machines[stream.target]
        assert isinstance(source, ProtectedVra)
        assert isinstance(target, RecoveryVra)
        return (stream in source.senders) + (stream in target.receivers)

    def has(self, stream: StreamId) -> bool:
        """Whether the VRAs of a stream, both, know of it."""
        source, target = self.kernel.machines[stream.source], self.kernel.machines[stream.target]
        return stream in source.senders and stream in target.receivers  # type: ignore[attr-defined]

    def receiver(self, stream: StreamId) -> Receiver:
        """The receiving half of a stream."""
        machine = self.kernel.machines[stream.target]
        assert isinstance(machine, RecoveryVra)
        return machine.receivers[stream]

    def vpg(self, name: str) -> Vpg:
        """The protected manager of a VPG."""
        machine = self.kernel.machines[self.estate.managers[name]]
        assert isinstance(machine, Vpg)
        return machine

    def catalog(self, name: str) -> Catalog:
        """The recovery manager of a VPG."""
        machine = self.kernel.machines[self.estate.catalogs[name]]
        assert isinstance(machine, Catalog)
        return machine

    # -- the bags' effects ------------------------------------------------------------------------------------

    def swallowed(self) -> None:
        self.probes.add("half-open: a message vanished")

    def told(self, address: Address, effect: Unanswered) -> None:
        match effect:
            case Publish():
                fact = effect.fact
                self.facts.append(fact)
                if isinstance(fact, SyncEnded):
                    self.joined.add(fact.stream)
                if isinstance(fact, CheckpointSealed) and fact.tag in self.tags.get(fact.vpg, ()):
                    self.tags[fact.vpg].remove(fact.tag)
                self.checks.published(address, fact)
            case HoldGuests(vpg, _):
                self.held.add((address, vpg))
            case ReleaseGuests(vpg, _):
                self.held.discard((address, vpg))
                self._acknowledge(address, vpg)
            case ThawGuests():
                self.freezer.thaw(address, effect)
            case TapVolumes(spec):
                self.places.discard(spec.id)
                self._tap(spec)
            case Capture(stream, content):
                (self.places.discard if content else self.places.add)(stream)
            case UntapVolumes(stream):
                self._untap(stream)

    def perform(self, address: Address, effect: Effect) -> object:
        match effect:
            case Append():
                frame = effect.frame
                if self.full and (frame.stream.target, frame.stream.vpg) in self.full:
                    return StoreFull("no room")
                if not self.disks[frame.stream].continues(frame):
                    return PlatformError("the frame does not continue the journal")
                self.disks[frame.stream].append(frame)
                self.opened.add(frame.stream)
                self.checks.appended(frame)
            case ReadRegions():
                return self._read(effect)
            case ReadDigests():
                return self._digest(effect.stream, effect.extent, here=address == effect.stream.source)
            case Discard(stream, vms, keep_disks):
                self.probes.add("journals were discarded")
                self.checks.discarding(stream, vms)
                self.disks[stream].discard(vms, keep_disks=keep_disks)
                machine = self.kernel.machines[address]
                assert isinstance(machine, RecoveryVra)
                if stream not in machine.receivers:
                    self.opened.discard(stream)
                    self.disks[stream].close()
            case Promote():
                self.probes.add("aged")
                self.checks.promoting(effect)
                self.disks[effect.stream].promote(effect)
                self.checks.promoted(effect)
            case FreezeGuests():
                return self.freezer.freeze(address, effect)
            case Keep(checkpoint):
                self.kept[checkpoint.vpg][checkpoint.id] = checkpoint
                self.checks.kept(checkpoint)
            case Forget(vpg, before):
                kept = self.kept[vpg]
                for id_ in [c for c in kept if before is None or c < before]:
                    del kept[id_]
                self.checks.forgotten(vpg)
        return None

    def _read(self, effect: ReadRegions) -> object:
        batch, parts = effect.batch, []
        if self.missing and not self.missing.isdisjoint(batch.volume.tolist()):
            return PlatformError("a volume is missing")
        for vm, volume, lba, n in zip(
            batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True
        ):
            guest = self.guests[VmId(vm)]
            start = guest.offset[volume] + lba
            parts.append(guest.disk[2 * start : 2 * (start + n)])
        c = batch.columns
        payload = sector_bytes(b"".join(parts))
        return WriteBatch(Columns(c.vm, c.volume, c.lba, c.sectors, c.issued, c.end, payload), batch.lo, batch.hi)

    def _digest(self, stream: StreamId, extent: Extent, *, here: bool) -> object:
        guest = self.guests[extent.vm]
        if here and extent.volume in self.missing:
            return PlatformError("a volume is missing")
        disk = guest.disk if here else self.disks[stream].vms[extent.vm].tip
        start = guest.offset[extent.volume] + extent.lba
        return digests(disk[2 * start : 2 * (start + extent.sectors)], self.shape.tweaks.region_bytes // SECTOR)

    # -- guests -----------------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write]) -> None:
        """Writes of one stream, issued and landed at once."""
        self.now += 1
        self.tap.landed(writes)

    def issue(self, write: Write) -> None:
        """A write is issued and stays in flight."""
        self.now += 1
        self.tap.issued(write)

    def land(self, write: Write) -> None:
        """A write in flight lands."""
        self.now += 1
        write.guest.in_flight.remove(write)
        self.tap.landed([write])

    def new_write(self, vm: VmId, index: int, lba: int, sectors: int, *, discard: bool = False) -> Write:
        """A write that a guest issues now; cut where what is tapped of its volume ends."""
        guest = self.guests[vm]
        write = guest.issue(self.now + 1, index, lba, sectors, discard=discard)
        while write.sectors > 1 and write.mask & guest.tapped and write.mask & ~guest.tapped:
            write = guest.issue(self.now + 1, index, lba, write.sectors - 1, discard=discard)
        return write

    def captured(self, stream: StreamId, writes: Sequence[Write]) -> None:
        """The tap has captured these writes: the VRA gets them."""
        batch = self.rows[stream].batch(list(writes))
        if self.roomless and self.has(stream) and self.sender(stream).state in NUMBERING:
            self.probes.add(f"writes were missed: {self.sender(stream).state.value}")
        missed = self.roomless or stream in self.places
        self.post(stream.source, (WritesMissed if missed else GuestWrote)(stream, batch))

    def acknowledge(self, writes: Sequence[Write]) -> None:
        """Tell the guests that these writes are done; later, while they are held."""
        for stream, some in by_stream(writes).items():
            key = None if stream is None else (stream.source, stream.vpg)
            if key in self.held:
                self.unacked.setdefault(key, []).extend(some)
                self.probes.add("withheld")
            else:
                self._done(some)

    def _acknowledge(self, vra: Address, vpg: str) -> None:
        self._done(self.unacked.pop((vra, vpg), ()))

    def _done(self, writes: Iterable[Write]) -> None:
        for write in writes:
            write.guest.acked[write.index - 1] = self.now
            self.checks.acknowledged(write)

    # -- what may happen --------------------------------------------------------------------------------------

    @property
    def carrying(self) -> list[Link]:
        """Connections on which something is on its way, and arrives."""
        links = compress(self.queues, self.queues.values())
        return [link for link in links if link not in self.clogged] if self.clogged else list(links)

    def arrive(self, link: Link, count: int = 1) -> None:
        """The next messages from one address to another arrive."""
        self.now += 1
        queue = self.queues.get(link)
        if not queue:
            return
        for _ in range(min(count, len(queue))):
            if type(queue[0]) is Frame:
                self.frames.append(queue[0])
            self.deliver(link)

    def finish(self, key: Key, *, fail: bool = False) -> None:
        """The next effect on a target is performed and answered; or fails."""
        self.now += 1
        error: DrsimError | None = None
        if fail:
            self.probes.add(f"an effect failed: {key[0]}")
            error = StoreFull("no room") if key[0] == "store" else PlatformError("broken")
        self.do(key, error)

    def expire(self, address: Address, timer: str) -> None:
        """A timer runs out."""
        self.now += 1
        self.fire(address, timer)

    def drain(self, rounds: int = 200) -> None:
        """Everything under way arrives and is done, in a fixed order; no timer fires."""
        for _ in range(rounds):
            links, keys = self.carrying, self.busy
            if not links and not keys:
                self.checks.drained()
                return
            for link in links:
                self.arrive(link, len(self.queues[link]))
            for key in keys:
                for _ in range(len(self.work[key])):
                    self.finish(key)
        self.checks.restless()

    def tick(self, vpg: str) -> None:
        """A checkpoint is due."""
        address = self.estate.managers[vpg]
        if address not in self.down:
            self.expire(address, TICK)

    def age(self, vpg: str) -> None:
        """The history is looked through."""
        address = self.estate.catalogs[vpg]
        if address not in self.down:
            self.expire(address, AGE)

    def tag(self, vpg: str, name: str, *, quiesce: bool = False) -> None:
        """An operator wants a checkpoint; with `quiesce` one with applications at rest."""
        address = self.estate.managers[vpg]
        if address not in self.down and self.estate.vpg_of[vpg].deleting is None:
            self.now += 1
            self.tags.setdefault(vpg, []).append(name)
            self.checks.asked_for(vpg, linear.Tag(name))
            self.post(address, TagAsked(name, quiesce))

    def pause(self, vpg: str, paused: bool) -> None:
        """An operator wants replication paused, or resumed."""
        address = self.estate.managers[vpg]
        if address not in self.down:
            self.now += 1
            (self.paused.add if paused else self.paused.discard)(vpg)
            self.checks.asked_for(vpg, linear.Pause(paused))
            self.post(address, PauseAsked(paused or self.pauses(vpg)))

    def force(self, vpg: str, *, full: bool = False, volumes: tuple[VolumeId, ...] = ()) -> None:
        """An operator distrusts the other side."""
        address = self.estate.managers[vpg]
        if address not in self.down:
            self.now += 1
            self.post(address, SyncAsked(full, volumes))

    def fence(self, vpg: VpgEstate, *, fenced: bool) -> None:
        """An operation moves the right to accept guest writes to the recovery side, or back."""
        if vpg.catalog not in self.down:
            self.now += 1
            vpg = replace(vpg, generation=vpg.generation + 1, fenced=fenced)
            self.estate = self.estate.configured(vpg)
            self.checks.fenced(vpg)
            self.post(vpg.catalog, FenceAsked(vpg.generation, fenced))

    def pin(self, vpg: str, checkpoint: CheckpointId, pinned: bool) -> None:
        """An operation needs a checkpoint, or no longer."""
        address = self.estate.catalogs[vpg]
        if address not in self.down:
            self.now += 1
            self.post(address, PinAsked(checkpoint, pinned))
            self.checks.pinned(vpg, checkpoint, pinned)

    # -- faults -----------------------------------------------------------------------------------------------

    def break_link(self, link: Link) -> None:
        """A connection is gone, and both ends notice."""
        self.now += 1
        for way in (link, link[::-1]):
            for marks in (self.half_open, self.holed):
                marks.discard(way)
        self.lose(link)

    def renew(self, link: Link) -> None:
        """A connection can be used again."""
        self.now += 1
        self.connect(link)

    def drop(self, link: Link) -> None:
        """The next frame or answer is lost on its way; the connection must be renewed some day."""
        self.queues[link].popleft()
        self.holed.add(link if link in self.links else link[::-1])

    def again(self, link: Link) -> None:
        """The next message comes twice."""
        queue = self.queues[link]
        queue.appendleft(queue[0])

    def overlap(self, link: Link) -> None:
        """Of two frames the second brings the rows of the first again."""
        queue = self.queues[link]
        first, second = queue[0], queue[1]
        assert isinstance(first, Frame)
        assert isinstance(second, Frame)
        queue[1] = merged(first, second)

    def overtake(self, link: Link) -> None:
        """Of two frames on several connections, the second arrives first."""
        queue = self.queues[link]
        queue[0], queue[1] = queue[1], queue[0]

    def prefer(self, link: Link, at: int) -> None:
        """A message further back goes first: it is of another stream than those before it."""
        queue = self.queues[link]
        message = queue[at]
        del queue[at]
        queue.appendleft(message)

    def cut_frame(self, link: Link, at: int) -> None:
        """A frame arrives as two."""
        queue = self.queues[link]
        frame = queue.popleft()
        assert isinstance(frame, Frame)
        queue.extendleft(reversed(split(frame, self.specs[frame.stream].vms, at)))

    def join_frames(self, link: Link) -> None:
        """Two frames arrive as one."""
        queue = self.queues[link]
        first, second = queue.popleft(), queue.popleft()
        assert isinstance(first, Frame)
        assert isinstance(second, Frame)
        queue.appendleft(merged(first, second))

    def replay(self, frame: Frame) -> None:
        """A frame comes again, long after it was delivered."""
        self.now += 1
        id_ = frame.stream
        if id_.target not in self.down:
            self.post(id_.target, Received(id_.source, frame))

    def step_clock(self, site: str, by: int) -> None:
        """A site's clocks jump ahead."""
        for address in self.estate.addresses:
            if address.startswith(f"{site}/"):
                self.skew[address] = self.skew.get(address, 0) + by

    def halt(self, address: Address, unanswered: int) -> None:
        """A component goes down in good order, and goes on from its memory, if that can be right.

        On the recovery side it cannot be when an effect was performed and not answered: then it is built again.
        """
        if address not in self.down:
            self.now += 1
            self._note_death(address, unanswered)
            self.stop(address, self.links, unanswered=unanswered)
            self._bury(address)
            recovers = address in self.estate.targets or address in self.estate.catalogs.values()
            if unanswered and recovers:
                self._rebuild(address)

    def crash(self, address: Address, unanswered: int) -> None:
        """A component dies, and is built again from what is durable."""
        if address not in self.down:
            self.now += 1
            self._note_death(address, unanswered)
            self.probes.add(f"{self._role(address)} crashed")
            self.end_life(address, self.links, unanswered=unanswered)
            self._bury(address)
            self._rebuild(address)
            self.places = {stream for stream in self.places if stream.source != address}  # new taps keep content
            self.skew.pop(address, None)  # the clock was put right meanwhile
            if address in self.estate.managers.values():
                self.tags.pop(self.estate.owners[address].name, None)  # the operator sees that it is gone

    def boot(self, address: Address) -> None:
        """A component comes up again."""
        if address in self.down:
            self.now += 1
            self.start(address, self.links)
            for word in self.unheard.pop(address, ()):
                self._tell_host(address, word)

    def _role(self, address: Address) -> str:
        match self.kernel.machines[address]:
            case ProtectedVra():
                return "protected VRA"
            case RecoveryVra():
                return "recovery VRA"
            case Catalog():
                return "catalogue"
            case _:
                return "manager"

    def _note_death(self, address: Address, unanswered: int) -> None:
        under_way = [key for key, work in self.work.items() if work and key[1] == address]
        if under_way and unanswered:
            self.probes.add("performed, not answered")
        if any(key[0] == "store" for key in under_way):
            self.probes.add("restarted with frames pending")

    def _bury(self, address: Address) -> None:
        for key in [k for k in self.held if k[0] == address]:
            self.held.discard(key)
            self._acknowledge(*key)
        self.freezer.bury(address)

    def _rebuild(self, address: Address) -> None:
        vpg = self.estate.owners.get(address)
        stored = {self.specs[id_]: self.disks[id_].stored() for id_ in self.streams if id_ in self.opened
                  and (id_.target == address or (vpg and id_.vpg == vpg.name))}  # fmt: skip
        starts = {id_: Start.CRASHED if id_ in self.joined or id_.part == 1 else Start.PRESEEDED
                  for id_ in self.estate.streams}  # fmt: skip
        kept = tuple(checkpoint for _, checkpoint in sorted(self.kept[vpg.name].items())) if vpg else ()
        pins = tuple(sorted(self.pins[vpg.name])) if vpg else ()
        paused = vpg is not None and (vpg.name in self.paused or self.pauses(vpg.name))
        earlier = Earlier(self.lives[address], stored, starts, kept, pins, paused=paused)
        self.kernel.replace(address, self.estate.build(address, earlier))
        self.checks.buried(address)
        self._tap_again(address)
        self.lives[address] += 1

    def note_state(self) -> None:
        """Count the state that everything is in, coarsely: the same in every process."""
        known = [self.sender(id_) for id_ in self.estate.streams if self.has(id_)]
        senders = [f"{m.state} {len(m.window)} {m.refused}" for m in known]
        listed = [str(len(self.catalog(vpg.name).listed)) for vpg in self.estate.vpgs]
        regions = [fields_of(self.vpg(vpg.name).regions) for vpg in self.estate.vpgs]
        gone = [*sorted(self.down), *map(">".join, sorted(self.cut)), *map(":".join, sorted(self.full))]
        parts = (*senders, "", *listed, *regions, *gone, str(len(self.held)))
        self.states.add(zlib.crc32("\n".join(parts).encode()))

    def note_held(self, vra: Address, held: Held) -> dict[VmId, int]:
        """Truth: what a VRA had captured of a VPG's guests when it held."""
        return {guest.vm: guest.captured for guest in self.guests.values() if guest.stream in held.cut}

    def note_tapped(self, held: Held) -> dict[VmId, int]:
        """Truth: where in their disks it heard of these guests' writes then."""
        return {guest.vm: guest.tapped for guest in self.guests.values() if guest.stream in held.cut}

    # -- configuration ----------------------------------------------------------------------------------------

    def configure(self, vpg: VpgEstate) -> None:
        """An operator, or the inventory, tells the manager what its VPG consists of now."""
        self.now += 1
        for spec in vpg.streams:
            self.specs[spec.id] = spec
            self.limits[vpg.name] = max(self.limits.get(vpg.name, 0), spec.limit or 0)
            if spec.id in self.disks:
                self.disks[spec.id].spec = spec
            else:
                self.streams.append(spec.id)
                self.rows[spec.id] = Rows(spec)
                follows = None if spec.follows is None else self.disks[spec.follows]
                self.disks[spec.id] = StreamDisks(spec, self.guests, self.rows[spec.id], follows)
        self.estate = self.estate.configured(vpg)
        known = set(self.links)
        self.links = list(dict.fromkeys([*self.links, *self.estate.wan, *self.estate.lan]))
        self.cut.update(link for link in self.links if link not in known and self.down.intersection(link))
        if vpg.retention is not None:
            self.histories[vpg.name] = min(self.histories[vpg.name], vpg.retention.history)
        self.checks.configured()
        configured = vpg.configured
        assert configured is not None
        self.checks.asked_for(vpg.name, linear.Edit(frozenset(vpg.vms), frozenset(vpg.unprotected)))
        self.post(vpg.manager, configured)

    def delete(self, vpg: VpgEstate, *, keep_disks: bool) -> None:
        """An operator deletes a VPG."""
        self.now += 1
        gone = replace(vpg, streams=(), version=vpg.version + 1, starts={}, unprotected=(), deleting=keep_disks)
        self.estate = self.estate.configured(gone)
        self.checks.configured()
        self.checks.asked_for(vpg.name, linear.Edit(frozenset()))
        self.tags.pop(vpg.name, None)
        self.post(vpg.manager, DeleteAsked(keep_disks))

    def move(self, vm: VmId, host: Address | None) -> None:
        """A VM runs on another host from now on; None: on one without a VRA."""
        self.now += 1
        guest = self.guests[vm]
        left, guest.host = guest.host, host
        held = [write for writes in self.unacked.values() for write in writes if write.guest is guest]
        for writes in self.unacked.values():
            writes[:] = [write for write in writes if write.guest is not guest]
        guest.stream = None
        self._done(held)
        if left is not None:
            self._tell_host(left, VmLeft(vm))
        if host is not None:
            self._tell_host(host, VmArrived(vm))

    def lose_volume(self, volume: VolumeInfo) -> None:
        """A volume of a VM is not there; the VM cannot write it, and its host's VRA is told."""
        self.now += 1
        self.probes.add("a volume went missing")
        self.missing.add(volume.id)
        guest = self.guests[volume.vm]
        guest.tapped &= ~guest.space([volume])
        if guest.host is not None:
            self._tell_host(guest.host, VolumeLost(volume.id))

    def find_volumes(self) -> None:
        """All volumes are there again, and something was written to them elsewhere."""
        self.now += 1
        found, self.missing = self.missing, set()
        for guest in self.guests.values():
            for index, volume in enumerate(guest.volumes):
                if volume.id in found:
                    if guest.vm not in self.freezer.frozen:
                        self.write([guest.issue(self.now, index, 0, 1)])
                    if guest.host is not None:
                        self._tell_host(guest.host, VolumeFound(volume.id))

    def _tap(self, spec: StreamSpec) -> None:
        """A VRA wants what is written to the stream's volumes, as far as their VMs run on its host."""
        self._untap(spec.id)
        members = self.estate.vpg_of[spec.id.vpg].vms
        for vm in sorted({volume.vm for volume in spec.volumes}):
            guest = self.guests[vm]
            if guest.host == spec.id.source:
                if vm in members:  # it may be another VPG's by now
                    guest.stream = spec.id
                    there = (v for v in spec.volumes if v.vm == vm and v.id not in self.missing)
                    guest.tapped = guest.space(there)
            else:
                self._tell_host(spec.id.source, VmLeft(vm))
        for volume in spec.volumes:
            if volume.id in self.missing:
                self._tell_host(spec.id.source, VolumeLost(volume.id))

    def _tell_host(self, vra: Address, word: Word) -> None:
        """A VRA that is down hears it when it starts."""
        if vra in self.down:
            self.unheard.setdefault(vra, []).append(word)
            return
        if isinstance(word, VolumeFound):
            for guest in self.guests.values():
                if guest.stream is not None and guest.stream.source == vra:
                    spec = self.sender(guest.stream).spec  # what it was told of the volume's size
                    here = [v for v in spec.volumes if v.vm == guest.vm and v.id == word.volume]
                    guest.tapped |= guest.space(v for v in here if v.id not in self.missing)
        self.post(vra, word)

    def _untap(self, stream: StreamId) -> None:
        for guest in self.guests.values():
            if guest.stream == stream:
                guest.stream = None

    def _tap_again(self, vra: Address) -> None:
        """A VRA was built again: it has the streams of the configuration as it is now."""
        for guest in self.guests.values():
            if guest.stream is not None and guest.stream.source == vra:
                guest.stream = None
        for spec in self.estate.streams.values():
            if spec.id.source == vra:
                self._tap(spec)
