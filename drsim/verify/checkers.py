"""Checkers: when each property is asked, after every step, message, fact and effect that could break it.

The questions themselves are in `superset.py` (P12), `content.py` (journals, images, checkpoints) and `reports.py`
(what machines say about themselves); what all properties demand is in `properties.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drsim.core.effects import Promote
from drsim.core.events import Done, Event, Fired, Received
from drsim.core.facts import (
    CheckpointSealed,
    CheckpointSkipped,
    CheckpointsRetired,
    Fact,
    StateChanged,
    SyncEnded,
    SyncStarted,
)
from drsim.core.messages import Ack, Checkpoint, Compared, Frame, Held, Hold, Lineage, Listed, Position, Resync
from drsim.core.names import Address, CheckpointId, StreamId, VmId
from drsim.core.window import reaches
from drsim.verify import linear
from drsim.verify.guests import NEVER, Write
from drsim.verify.superset import Superset
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.estate import VpgEstate
    from drsim.verify.explorer import Explorer
from drsim.verify.content import (
    capture,
    closed,
    fidelity,
    fresh,
    given_up,
    images,
    includes,
    marked,
    not_aged_past,
    not_listed,
    of_now,
    whole,
    within_limit,
    young,
)
from drsim.verify.quiesce import claimed, held, ran_out, under_way
from drsim.verify.reports import account, honest, reported, shown, synced, truthful, unsynced


class Checkers:
    """When each property is asked."""

    def __init__(self, x: "Explorer", *, enabled: bool) -> None:
        self.x, self.enabled = x, enabled
        self.cuts: dict[tuple[str, CheckpointId], dict[VmId, int]] = {}  # truth: writes of each VM in a checkpoint
        self.asked: dict[tuple[str, CheckpointId], int] = {}
        self.when: dict[tuple[str, int], int] = {}  # the time on a manager's clock at which it asked, in our time
        self.tapped: dict[tuple[str, CheckpointId], dict[VmId, int]] = {}  # of the same
        self.newest_kept: dict[str, dict[VmId, int]] = {}  # of each VPG, the cut of the newest ever listed
        self.honest: dict[str, tuple[int, dict[VmId, int] | None, tuple[VmId, ...]]] = {}  # P6: answered with yes
        self.members: dict[str, set[VmId]] = {vpg.name: set() for vpg in x.estate.vpgs}  # VMs that checkpoints have
        self._control: dict[str, list[linear.Operation]] = {vpg.name: [] for vpg in x.estate.vpgs}
        self._start = {vpg.name: linear.Control(frozenset(vpg.vms)) for vpg in x.estate.vpgs}
        self.fences: dict[StreamId, tuple[int, Position]] = {}  # what a stream had taken when it heard of a generation
        self._sealed: dict[str, CheckpointId] = {}  # of each VPG, the newest that had come when its generation began
        self._mirrors: dict[VmId, bytes] = {}
        self._sync_sent: dict[StreamId, int] = {}  # bytes of sync frames since a stream fell out of sync
        self.watched: dict[type, Callable[[Address, Any], None]] = {
            Ack: self._acknowledges, Frame: self._sends, Held: self._answers, Hold: self._asks,
            Compared: self._compares, Resync: self._begins, Listed: self._lists,
        }  # fmt: skip
        """Messages that a property is about, and what is asked when one is sent."""
        estate = x.estate
        self._streams: dict[Address, dict[StreamId, Superset]] = {}
        self.configured()
        self._managers = {vpg.manager: vpg.name for vpg in estate.vpgs} if enabled else {}

    def configured(self) -> None:
        """A VPG consists of other streams from now on."""
        x = self.x
        known = {id_: superset for supersets in self._streams.values() for id_, superset in supersets.items()}
        for address in x.estate.sources if self.enabled else ():
            self._streams[address] = {
                id_: known.get(id_) or Superset(x, spec)
                for id_, spec in x.estate.streams.items()
                if id_.source == address
            }
        for vpg in x.estate.vpgs:
            self.members[vpg.name].intersection_update(vpg.vms)

    def stepped(self, address: Address, event: Event) -> None:
        """A machine took a step. One that is about a single stream is looked at for that stream alone."""
        kind = type(event)
        about = event.message if kind is Received else event.effect if kind is Done else event  # type: ignore[union-attr]
        if address in self._streams:
            streams = self._streams[address]
            stream = getattr(about, "stream", None)
            if stream is None:
                for superset in streams.values():
                    superset.check()
            elif stream in streams:
                streams[stream].check()
            if kind is Fired and self.x.freezer.frozen and event.timer.startswith("freeze "):  # type: ignore[union-attr]
                ran_out(self.x, address, event.timer.removeprefix("freeze "))  # type: ignore[union-attr]
        elif address in self._managers:
            honest(self.x, self._managers[address])
        elif type(about) is Lineage:
            self._heard(address, about)

    def _heard(self, vra: Address, lineage: Lineage) -> None:
        """A recovery VRA was told of a generation, or was built by somebody who knows of it."""
        for stream in [s for s in self.x.streams if s.target == vra and s.vpg == lineage.vpg and self.x.has(s)]:
            if self.fences.get(stream, (1, ()))[0] < lineage.generation:
                self.fences[stream] = lineage.generation, self.x.receiver(stream).accepted

    def fenced(self, vpg: "VpgEstate") -> None:
        """A generation begins."""
        self._sealed[vpg.name] = self.x.catalog(vpg.name).newest_seen

    def _acknowledges(self, _: Address, message: Ack) -> None:
        stream, disks = message.stream, self.x.disks[message.stream]
        if self.enabled and message.epoch == disks.epoch and not reaches(disks.end, message.durable):
            said = f"{stream}: acknowledged up to {message.durable}, durable up to {disks.end}"
            raise Violation("P8", said, stream=stream)

    def _sends(self, _: Address, message: Frame) -> None:
        if message.sync:
            stream = message.stream
            self._sync_sent[stream] = self._sync_sent.get(stream, 0) + message.nbytes

    def _answers(self, vra: Address, message: Held) -> None:
        vpg, checkpoint = message.vpg, message.checkpoint
        self.cuts.setdefault((vpg, checkpoint), {}).update(self.x.note_held(vra, message))
        self.tapped.setdefault((vpg, checkpoint), {}).update(self.x.note_tapped(message))
        if self.enabled and any(unsynced(self.x.sender(s)) for s in message.cut):
            raise Violation("P12", f"checkpoint {checkpoint}: {vra} answers although a VM is synchronizing")
        if self.enabled:
            held(self.x, vra, message)

    def _asks(self, manager: Address, message: Hold) -> None:
        self.asked.setdefault((message.vpg, message.checkpoint), self.x.now)
        self.when.setdefault((message.vpg, self.x.now + self.x.skew.get(manager, 0)), self.x.now)

    def _compares(self, _: Address, message: Compared) -> None:
        if 0 in message.differs:
            self.x.probes.add("a region was found equal")

    def _begins(self, _: Address, message: Resync) -> None:
        if self.enabled:
            fresh(self.x, message)

    def _lists(self, _: Address, message: Listed) -> None:
        if self.enabled:
            reported(self.x, message)

    def published(self, address: Address, fact: Fact) -> None:
        """A machine made something known."""
        if not self.enabled:
            return
        match fact:
            case StateChanged():
                shown(address, fact.regions)
            case CheckpointSealed(vpg=vpg, checkpoint=checkpoint):
                cut = self.cuts[vpg, checkpoint]
                guests = [(self.x.guests[vm], k) for vm, k in cut.items()]
                closed(guests, vpg, checkpoint)
                includes(guests, vpg, checkpoint, self.asked[vpg, checkpoint])
                whole(self.members[vpg], set(cut), vpg, checkpoint)
                seal = linear.Seal(frozenset(cut), fact.tag)
                self._control[vpg].append(linear.Operation(seal, self.asked[vpg, checkpoint], self.x.now))
                self.members[vpg] = set(cut).intersection(self.x.estate.vpg_of[vpg].vms)
            case SyncStarted(stream=stream):
                self._sync_sent.setdefault(stream, 0)
            case SyncEnded(stream=stream, sent_bytes=sent):
                counted = self._sync_sent.pop(stream, sent)
                if sent != counted:
                    raise Violation("P22", f"{stream}: {sent} bytes of the sync reported, {counted} sent")
                if unsynced(self.x.sender(stream)):
                    raise Violation("P12", f"{stream}: the sync is over, and not all that it sent is durable")
            case CheckpointSkipped(vpg=vpg, checkpoint=checkpoint, reason="configuration"):
                if (vpg, checkpoint) in self.cuts and self.x.estate.vpg_of[vpg].version == 1:
                    raise Violation("P20", f"{vpg}: checkpoint {checkpoint} is given up for a change that never was")
            case CheckpointsRetired(before=None):
                given_up(self.x, fact.vpg)
            case CheckpointsRetired():
                young(self.x, fact)

    def asked_for(self, vpg: str, what: linear.Edit | linear.Pause | linear.Tag) -> None:
        """A manager was told what somebody wants."""
        self._control[vpg].append(linear.Operation(what, self.x.now, self.x.now))

    def ordered(self) -> None:
        """P18: what was asked of each VPG, and what was sealed, are some order of the sequential machine."""
        for vpg, start in self._start.items():
            wrong = linear.stuck(self._control[vpg], start)
            if wrong is not None:
                said = (
                    f"{vpg}: {wrong.what}, between {wrong.asked} and {wrong.answered}, fits no order of what was asked"
                )
                raise Violation("P18", said, vpg=vpg)

    def buried(self, address: Address) -> None:
        """A component died, and what it counted died with it."""
        for stream in [s for s in self._sync_sent if s.source == address]:
            del self._sync_sent[stream]
        for vpg in self.x.estate.vpgs:
            self._heard(address, Lineage(vpg.name, vpg.generation))

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
            fidelity(self.x, frame)
            within_limit(self.x, frame.stream)

    def kept(self, checkpoint: Checkpoint) -> None:
        """A checkpoint can be recovered from now on."""
        cut = self.cuts[checkpoint.vpg, checkpoint.id]
        before = self.newest_kept.get(checkpoint.vpg)
        if self.enabled:
            images(self.x, checkpoint, "P5")
            claimed(self.x, checkpoint, cut)
            of_now(self.x, checkpoint, self._sealed.get(checkpoint.vpg, CheckpointId(0)))
            if before and any(cut.get(vm, k) < k for vm, k in before.items()):
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

    def discarding(self, stream: StreamId, vms: tuple[VmId, ...]) -> None:
        """Journals and mirrors are about to be deleted."""
        if self.enabled:
            not_listed(self.x, stream, vms)

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
        if self.enabled and lost and self.x.estate.vpg_of[vpg].deleting is None:
            raise Violation("P11", f"{vpg}: checkpoint {min(lost)} is pinned and left the list")

    def drained(self) -> None:
        """Nothing is under way but what is clogged."""
        if self.enabled:
            for name in self.members:
                truthful(self.x, name)
                synced(self.x, name)
            under_way(self.x)

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
            if spec.id in self.x.opened and self.x.has(spec.id):
                account(self.x, spec)
