"""Checkers: the properties P1-P28 of verification.md 2.3, as far as a run of the explorer can break them.

`PROPERTIES` says of each property what it demands and where it is checked. The functions here compare the truth
(`guests.py`, `disks.py`) with what the core does; each says what it does not compare. `Checkers` only decides when
each is asked: after every step of a protected VRA, at every message, fact and effect that could break it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from drsim.core.effects import Promote
from drsim.core.errors import CoreError
from drsim.core.events import Event, Received
from drsim.core.facts import CheckpointSealed, CheckpointsRetired, Fact, StateChanged, SyncEnded
from drsim.core.messages import Ack, Checkpoint, Frame, Held, Hold, Listed, Message, Resync
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId
from drsim.core.sender import Sender
from drsim.core.status import ALLOWED, Lifecycle, Peer, Regions, Sync, project
from drsim.core.units import SECTOR
from drsim.core.window import reaches
from drsim.verify.estate import VpgEstate
from drsim.verify.guests import NEVER, Guest, Write
from drsim.verify.superset import Superset
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer

PROPERTIES = {
    "P1": "capture soundness: nothing is acknowledged before it is captured, in the order in which the disk has it",
    "P2": "write fidelity: the journal of a VM is a contiguous run of its writes",
    "P3": "prefix: every image that is served is the VM's disk after some first k of its writes",
    "P4": "consistent cut: with a write, a checkpoint has every write of its VPG that was acknowledged before it",
    "P5": "checkpoint atomicity: a checkpoint's cut is fixed when it is made, and listed when all journals have it",
    "P6": "RPO honesty: the reported RPO is never better than the true one",
    "P8": "acknowledged means durable",
    "P9": "idempotent redelivery: what comes twice, late, split or merged changes nothing",
    "P10": "batch splitting: n writes at once are n writes one by one",
    "P11": "retention: what is listed can be rebuilt; data is aged only from before the oldest checkpoint",
    "P12": "sync windows: no checkpoint while a VM syncs; what differs is dirty, queued or in flight",
    "P16": "generations: nothing of an old generation is applied",
    "P20": "liveness: when faults stop, every VPG is in sync and lists checkpoints again, or says why not",
    "P21": "corruption is seen: no altered record, segment or frame is applied, acknowledged or served",
    "P22": "conservation: what machines report about themselves is what is there",
    "P24": "restarts keep numbers gap-free, or force a sync",
    "P26": "isolation: a broken VPG does not hold up another",
    "P27": "determinism: the same token gives the same digest, in another process and with another hash seed",
    "P28": "transcript parity: the events of a run, given to fresh machines, give the same effects",
}
"""The properties that the present core can break. The others join with the issue that brings what they speak of."""

LATER = {
    "P7": "planned move loses nothing (recovery)",
    "P13": "test isolation (recovery)",
    "P14": "clone non-interference (recovery)",
    "P15": "commit and rollback atomicity (recovery)",
    "P17": "reverse protection equivalence (recovery)",
    "P18": "control-plane linearizability (life cycle)",
    "P19": "application-consistent tags (life cycle)",
    "P23": "membership changes (life cycle)",
    "P25": "recovery plan (recovery)",
}


# -- P1: the source side -------------------------------------------------------------------------------------


def capture(write: Write) -> None:
    """P1, when a write is acknowledged. Compares disk and log, not how long a guest waited."""
    guest = write.guest
    if not 0 < write.index <= guest.captured:
        raise Violation("P1", f"VM {guest.vm}: a write was acknowledged before it was captured")
    if guest.disk != guest.image:
        raise Violation("P1", f"VM {guest.vm}: its disk is not what its writes make in the order of their capture")


# -- P2, P9, P16, P11: the journals -------------------------------------------------------------------------------


def fidelity(x: "Explorer", frame: Frame, newest: dict[VmId, int]) -> None:
    """P2, P9, P16, when a frame is durable. Compares order and completeness; content is P3's matter."""
    if frame.generation != 1:
        raise Violation("P16", f"a frame of generation {frame.generation} was applied ({frame.stream})")
    disks = x.disks[frame.stream]
    counts, sizes = frame.batch.per_vm(disks.spec.vms)
    if any(a + c != u for a, c, u in zip(frame.after, counts, frame.upto, strict=True)):
        raise Violation("P2", f"a frame's rows are not those between its positions ({frame.stream})")
    if sizes != frame.sizes:
        raise Violation("P22", f"a frame says {frame.sizes} bytes, its rows have {sizes} ({frame.stream})")
    if frame.batch.payload is not None:
        return
    writes = x.rows[frame.stream].writes
    for row in frame.batch.issued.tolist():
        write = writes[row]
        vm = write.guest.vm
        last = disks.vms[vm].last
        if write.index <= newest[vm]:
            raise Violation("P9", f"VM {vm}: write {write.index} was applied after write {newest[vm]}")
        if last and write.index != last + 1:
            raise Violation("P2", f"VM {vm}: write {write.index} follows write {last} in the journal")
        disks.vms[vm].last = newest[vm] = write.index


def fresh(x: "Explorer", message: Resync) -> None:
    """P24, when an epoch is announced: its numbers begin beyond all that the journals hold, whoever restarted."""
    disks = x.disks[message.stream]
    if message.epoch <= disks.epoch or not reaches(message.after, disks.end):
        held = f"which hold {disks.end} of epoch {disks.epoch}"
        raise Violation("P24", f"epoch {message.epoch} begins at {message.after} in journals {held} ({message.stream})")


def within_limit(x: "Explorer", stream: StreamId) -> None:
    """P11: a journal never passes its hard limit. Compares the store's bytes, not the core's account of them."""
    limit = x.shape.limit
    if limit is None:
        return
    for vm in x.estate.streams[stream].vms:
        if x.disks[stream].nbytes(vm) > limit * SECTOR:
            raise Violation("P11", f"the journal of VM {vm} has passed its hard limit")


def not_aged_past(x: "Explorer", effect: Promote) -> None:
    """P11, before data goes to a mirror: no checkpoint that is listed, or may be again, lies before it."""
    disks = x.disks[effect.stream]
    if not reaches(disks.end, effect.upto):
        raise Violation("P11", f"the mirror is asked for what is not durable ({effect.stream})")
    for checkpoint in x.kept[effect.stream.vpg].values():
        if not reaches(checkpoint.cut[effect.stream].position, effect.upto):
            said = f"data beyond checkpoint {checkpoint.id} is aged although it is listed"
            cut = zip(disks.vms.values(), checkpoint.cut[effect.stream].position, effect.upto, strict=True)
            swept = any(
                write is None for d, k, n in cut for lsn, write in zip(d.lsns, d.writes, strict=True) if k < lsn <= n
            )
            raise Violation(
                "P12" if swept else "P11", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, stream=effect.stream
            )


def young(x: "Explorer", fact: CheckpointsRetired) -> None:
    """P11: for its age a checkpoint leaves the list only when the history does without it."""
    taken = [c.taken for c in x.kept[fact.vpg].values()]
    lost = [c.taken for c in x.kept[fact.vpg].values() if fact.before is not None and c.id < fact.before]
    if lost and max(lost) >= max(taken) - x.shape.history:
        raise Violation("P11", f"{fact.vpg}: a checkpoint leaves the list for its age, younger than the history")


def given_up(x: "Explorer", vpg: str) -> None:
    """P11: all checkpoints are withdrawn only for a sync window that none of them closes."""
    newest = max(x.kept[vpg].values(), key=lambda c: c.id, default=None)
    if newest is not None and all(x.disks[stream].epoch <= cut.epoch for stream, cut in newest.cut.items()):
        raise Violation("P11", f"{vpg}: all checkpoints are withdrawn, and no sync asks for it")


def images(x: "Explorer", checkpoint: Checkpoint, blame: str) -> None:
    """P3, P5, P11: each VM's image at a kept checkpoint is its disk after the writes of the cut.

    Compares content, byte for byte; not how it would be booted. `blame` is the property when it is another point.
    """
    truth = x.checks.cuts.get((checkpoint.vpg, checkpoint.id), {})
    for stream, cut in checkpoint.cut.items():
        disks = x.disks[stream]
        if not reaches(disks.end, cut.position):
            said = f"checkpoint {checkpoint.id} is listed and a journal does not have it ({stream})"
            raise Violation("P5", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, stream=stream)
        for vm, upto in zip(disks.vms, cut.position, strict=True):
            guest = x.guests[vm]
            image = disks.image(vm, upto)
            if image != guest.images[truth[vm]]:
                known = image in guest.images
                say = "those of another point" if known else "no past state of it"
                said = f"checkpoint {checkpoint.id}: VM {vm}'s disks are {say}"
                raise Violation(blame if known else "P3", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, vm=vm)


def marked(x: "Explorer", checkpoint: Checkpoint) -> None:
    """P11, at rest: the recovery VRAs know how to rebuild what is listed."""
    for stream, cut in checkpoint.cut.items():
        for (vm, journal), upto in zip(x.receiver(stream).journals.items(), cut.position, strict=True):
            try:
                plan = journal.plan(checkpoint.id)
            except CoreError as error:
                raise Violation("P11", f"checkpoint {checkpoint.id} is listed: {error}") from error
            if plan.upto != upto:
                raise Violation(
                    "P5", f"checkpoint {checkpoint.id}: VM {vm}'s journal has it at {plan.upto}, not {upto}"
                )


# -- P4, P5, P12: checkpoints -------------------------------------------------------------------------------------


def closed(guests: Iterable[tuple[Guest, int]], checkpoint: CheckpointId) -> None:
    """P4, when a checkpoint is sealed: acknowledgements to come are later than everything issued, so this is final."""
    inside, outside = 0, NEVER
    for guest, k in guests:
        inside = max(inside, max(guest.issued[:k], default=0))
        outside = min(outside, min(guest.acked[k:], default=NEVER))
    if inside > outside:
        said = f"checkpoint {checkpoint} has a write issued at {inside}, not one acknowledged at {outside}"
        raise Violation("P4", said, vpg=guest.stream.vpg, checkpoint=checkpoint)


def includes(guests: Iterable[tuple[Guest, int]], checkpoint: CheckpointId, asked: int) -> None:
    """P5: what was acknowledged before a checkpoint was asked for is in it."""
    for guest, k in guests:
        if min(guest.acked[k:], default=NEVER) < asked:
            said = f"checkpoint {checkpoint}: VM {guest.vm} had acknowledged more before it was asked for"
            raise Violation("P5", said, vpg=guest.stream.vpg, checkpoint=checkpoint, vm=guest.vm)


# -- P6: what the manager says ------------------------------------------------------------------------------------


def honest(x: "Explorer", name: str) -> None:
    """P6: every write acknowledged before the time that the manager counts from is in a checkpoint that was listed.

    Does not compare while word of a withdrawal is on its way; a run's end does.
    """
    newest = x.vpg(name).newest
    if newest is None:
        return
    claim = x.checks.when.get((name, newest), newest - x.skew.get(x.estate.managers[name], 0))
    guests = x.checks.guests_of[name]
    cut = x.checks.newest_kept.get(name)
    for guest in guests:
        k = cut[guest.vm] if cut else 0
        outside = min(guest.acked[k:], default=NEVER)
        if outside < claim:
            raise Violation("P6", f"{name}: RPO counts from {claim}, a write acknowledged at {outside} would be lost")


MISSED = {(True, True): "MeetingSLA", (False, True): "RpoNotMeetingSLA", (True, False): "HistoryNotMeetingSLA"}


def shown(address: Address, regions: Regions) -> None:
    """P20, "says why not": the field knows the pair that is shown, and it names what is missed and nothing else."""
    status, sub = project(regions)
    if sub not in ALLOWED[status]:
        raise Violation("P20", f"{address} shows {status} with {sub}, which the field does not know")
    expected = MISSED.get((regions.rpo_ok, regions.history_ok), "NotMeetingSLA")
    if regions.lifecycle is Lifecycle.PROTECTING and status.value not in (expected, "NotMeetingSLA"):
        met = f"RPO met: {regions.rpo_ok}, history met: {regions.history_ok}"
        raise Violation("P20", f"{address} shows {status}; {met}")


def truthful(x: "Explorer", name: str) -> None:
    """P20, "says why not": a manager whose peer is gone shows it. Does not compare while a component starts."""
    vpg = x.estate.vpg_of[name]
    regions = x.vpg(name).regions
    gone = (vpg.manager, vpg.catalog) in x.cut and vpg.manager not in x.down
    if gone and regions.peer is Peer.CONNECTED:
        raise Violation("P20", f"{name} shows {Peer.CONNECTED} although its peer is gone")


def synced(x: "Explorer", name: str) -> None:
    """P20, when nothing is under way within the site: the manager shows a sync exactly while a stream syncs."""
    vpg = x.estate.vpg_of[name]
    lan = [(source, vpg.manager) for source in vpg.sources]
    if vpg.manager in x.down or x.down.intersection(vpg.sources) or x.cut.intersection(lan) or x.half_open:
        return
    if any(x.queues.get(link) for link in lan):
        return
    syncing = any(x.sender(s.id).syncing for s in vpg.streams)
    if syncing != (x.vpg(name).regions.sync is not Sync.IN_SYNC):
        shown, are = x.vpg(name).regions.sync, "syncing" if syncing else "in sync"
        raise Violation("P20", f"{name} shows {shown}, its streams are {are}")


def unsynced(sender: Sender) -> bool:
    """P12: whether a stream synchronizes, whatever it says: a region is dirty, or a sync frame is not durable."""
    return sender.syncing or bool(len(sender.bitmap)) or any(f.sync for f in (*sender.window, *sender._queue))


def leaks(x: "Explorer", vpg: VpgEstate) -> None:
    """P20, in the end: nothing is held, withheld or pinned any more."""
    if any((source, vpg.name) in x.held for source in vpg.sources):
        raise Violation("P20", f"{vpg.name}: guests are held for ever")
    if any(x.unacked.get((source, vpg.name)) for source in vpg.sources):
        raise Violation("P20", f"{vpg.name}: guests wait for an acknowledgement for ever")
    if x.tags.get(vpg.name):
        raise Violation("P20", f"{vpg.name}: no checkpoint was sealed for the tag {x.tags[vpg.name][0]!r}")
    if x.catalog(vpg.name).pins:
        raise Violation("P20", f"{vpg.name}: a checkpoint stays pinned that nobody needs")
    catalog = x.catalog(vpg.name)
    if catalog._arriving or catalog._keeping or catalog._forget is not None:
        raise Violation("P20", f"{vpg.name}: a checkpoint is on its way into the list, or out of it, for ever")


def reported(x: "Explorer", message: Listed) -> None:
    """P22, when a catalogue tells what it lists: the newest and the oldest are those of its list."""
    listed = x.catalog(message.vpg).listed
    told = (message.checkpoint, message.taken, message.oldest_taken)
    if told != (listed[-1].id, listed[-1].taken, listed[0].taken):
        raise Violation("P22", f"{message.vpg}: the catalogue tells {told}, which are not its newest and its oldest")


def account(x: "Explorer", spec: StreamSpec) -> None:
    """P22: what machines say that they hold is what they hold. Journals may count up to a frame too much."""
    sender, receiver = x.sender(spec.id), x.receiver(spec.id)
    frames = [*sender.window, *sender._queue]
    held = sum(f.batch.nbytes for f in frames) + sum(p.nbytes for p in sender._open.parts)
    if sender.used != held:
        raise Violation("P22", f"{spec.id}: the sender says it holds {sender.used} bytes, it holds {held}")
    for vm, journal in receiver.journals.items():
        there = x.disks[spec.id].nbytes(vm)
        if journal.durable_total - journal.base_total < there:
            raise Violation("P22", f"VM {vm}: the journal has {there} bytes, the VRA says fewer")


WATCHED = frozenset((Ack, Held, Hold, Resync, Listed))
"""Messages that a property is about."""


class Checkers:
    """When each property is asked."""

    def __init__(self, x: "Explorer", *, enabled: bool) -> None:
        self.x, self.enabled = x, enabled
        self.cuts: dict[tuple[str, CheckpointId], dict[VmId, int]] = {}  # truth: writes of each VM in a checkpoint
        self.asked: dict[tuple[str, CheckpointId], int] = {}
        self.when: dict[tuple[str, int], int] = {}  # the time on a manager's clock at which it asked, in our time
        self.newest_kept: dict[str, dict[VmId, int]] = {}  # of each VPG, the cut of the newest ever listed
        self.guests_of = {vpg.name: [x.guests[vm] for s in vpg.streams for vm in s.vms] for vpg in x.estate.vpgs}
        self._newest = dict.fromkeys(x.guests, 0)
        self._mirrors: dict[VmId, bytes] = {}
        estate = x.estate
        sources = estate.sources if enabled else ()
        self._streams = {
            a: {id_: Superset(x, spec) for id_, spec in estate.streams.items() if id_.source == a} for a in sources
        }
        self._managers = {vpg.manager: vpg.name for vpg in estate.vpgs} if enabled else {}

    def stepped(self, address: Address, event: Event) -> None:
        """A machine took a step. One that is about a single stream is looked at for that stream alone."""
        streams = self._streams.get(address)
        if streams is not None:
            stream = getattr(event.message if isinstance(event, Received) else event, "stream", None)
            if stream is not None:
                streams[stream].check()
            else:
                for superset in streams.values():
                    superset.check()
        elif address in self._managers:
            honest(self.x, self._managers[address])

    def sent(self, sender: Address, message: Message) -> None:
        """A machine sends."""
        match message:
            case Ack(stream=stream, epoch=epoch, durable=durable):
                disks = self.x.disks[stream]
                if self.enabled and epoch == disks.epoch and not reaches(disks.end, durable):
                    said = f"{stream}: acknowledged up to {durable}, durable up to {disks.end}"
                    raise Violation("P8", said, stream=stream)
            case Held(vpg=vpg, checkpoint=checkpoint):
                cut = self.cuts.setdefault((vpg, checkpoint), {})
                cut.update(self.x.note_held(sender, message))
                if self.enabled and any(unsynced(self.x.sender(s)) for s in message.cut):
                    raise Violation("P12", f"checkpoint {checkpoint}: {sender} answers although a VM is synchronizing")
            case Hold(vpg=vpg, checkpoint=checkpoint):
                self.asked.setdefault((vpg, checkpoint), self.x.now)
                self.when.setdefault((vpg, self.x.now + self.x.skew.get(sender, 0)), self.x.now)
            case Resync() if self.enabled:
                fresh(self.x, message)
            case Listed() if self.enabled:
                reported(self.x, message)

    def published(self, address: Address, fact: Fact) -> None:
        """A machine made something known."""
        if not self.enabled:
            return
        match fact:
            case CheckpointSealed(vpg=vpg, checkpoint=checkpoint):
                cut = self.cuts[vpg, checkpoint]
                guests = [(g, cut[g.vm]) for g in self.guests_of[vpg]]
                closed(guests, checkpoint)
                includes(guests, checkpoint, self.asked[vpg, checkpoint])
            case StateChanged(regions=regions):
                shown(address, regions)
            case SyncEnded(stream=stream):
                if unsynced(self.x.sender(stream)):
                    raise Violation("P12", f"{stream}: the sync is over, and not all that it sent is durable")
            case CheckpointsRetired(reason="history"):
                young(self.x, fact)
            case CheckpointsRetired(before=None):
                given_up(self.x, fact.vpg)

    def acknowledged(self, write: Write) -> None:
        """A guest was told that a write is done."""
        if self.enabled:
            capture(write)

    def is_acknowledged(self, write: Write) -> bool:
        """Whether a guest was told that a write is done."""
        return write.index > 0 and write.guest.acked[write.index - 1] < NEVER

    def appended(self, frame: Frame) -> None:
        """A frame is durable."""
        if self.enabled:
            fidelity(self.x, frame, self._newest)
            within_limit(self.x, frame.stream)

    def kept(self, checkpoint: Checkpoint) -> None:
        """A checkpoint can be recovered from now on."""
        cut = self.cuts[checkpoint.vpg, checkpoint.id]
        before = self.newest_kept.get(checkpoint.vpg)
        if self.enabled:
            images(self.x, checkpoint, "P5")
            if before and any(cut[vm] < k for vm, k in before.items()):
                raise Violation("P5", f"checkpoint {checkpoint.id} has less of a VM than one listed before it")
        self.newest_kept[checkpoint.vpg] = cut

    def promoting(self, effect: Promote) -> None:
        """Data is about to go to the mirrors."""
        if self.enabled:
            not_aged_past(self.x, effect)
            disks = self.x.disks[effect.stream]
            self._mirrors = {vm: disks.image(vm, k) for vm, k in zip(disks.vms, effect.upto, strict=True)}

    def promoted(self, effect: Promote) -> None:
        """Data has gone to the mirrors."""
        if self.enabled:
            for vm, disks in self.x.disks[effect.stream].vms.items():
                if disks.mirror != self._mirrors[vm]:
                    raise Violation("P11", f"VM {vm}: the mirror is not its disk at the position it was aged to")

    def pinned(self, vpg: str, checkpoint: CheckpointId, pinned: bool) -> None:
        """An operator pinned a checkpoint, or let it go."""
        pins = self.x.pins[vpg]
        if not pinned:
            pins.discard(checkpoint)
        elif checkpoint in self.x.catalog(vpg).pins:
            pins.add(checkpoint)

    def forgotten(self, vpg: str) -> None:
        """Checkpoints left the durable list."""
        lost = self.x.pins[vpg] - self.x.kept[vpg].keys()
        if self.enabled and lost:
            raise Violation("P11", f"{vpg}: checkpoint {min(lost)} is pinned and left the list")

    def drained(self) -> None:
        """Nothing is under way but what is clogged."""
        if self.enabled:
            for name in self.guests_of:
                truthful(self.x, name)
                synced(self.x, name)

    def restless(self) -> None:
        """Everything was delivered, again and again, and there is still more."""
        raise Violation("P20", "the machines do not come to rest")

    def whole(self, *, at_rest: bool = False) -> None:
        """Look at everything that can be recovered, and at what machines report; `at_rest`: nothing is under way."""
        for vpg in self.x.estate.vpgs:
            for checkpoint in self.x.kept[vpg.name].values():
                images(self.x, checkpoint, "P11")
                if at_rest:
                    marked(self.x, checkpoint)
            listed = [c.id for c in self.x.catalog(vpg.name).listed]
            if at_rest and listed != sorted(self.x.kept[vpg.name]):
                raise Violation("P11", f"{vpg.name}: listed are {listed}, durably kept {sorted(self.x.kept[vpg.name])}")
        for spec in self.x.estate.streams.values():
            account(self.x, spec)
