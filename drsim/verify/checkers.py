"""Checkers: when each property is asked, after every step, message, fact and effect that could break it.

The questions themselves are in `superset.py` (P12), `content.py` (journals, images, checkpoints) and `reports.py`
(what machines say about themselves); what all properties demand is in `properties.py`.
"""

from typing import TYPE_CHECKING

from drsim.core.effects import Promote
from drsim.core.events import Event, Received
from drsim.core.facts import CheckpointSealed, CheckpointsRetired, Fact, StateChanged, SyncEnded, SyncStarted
from drsim.core.messages import Ack, Checkpoint, Frame, Held, Hold, Listed, Message, Resync
from drsim.core.names import Address, CheckpointId, StreamId, VmId
from drsim.core.window import reaches
from drsim.verify.guests import NEVER, Write
from drsim.verify.superset import Superset
from drsim.verify.violation import Violation

if TYPE_CHECKING:
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
    within_limit,
    young,
)
from drsim.verify.reports import account, honest, reported, shown, synced, truthful, unsynced

WATCHED = frozenset((Ack, Frame, Held, Hold, Resync, Listed))
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
        self._sync_sent: dict[StreamId, int] = {}  # bytes of sync frames since a stream fell out of sync
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
            case Frame():
                if message.sync:
                    stream = message.stream
                    self._sync_sent[stream] = self._sync_sent.get(stream, 0) + message.nbytes
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
            case SyncStarted(stream=stream):
                self._sync_sent[stream] = 0
            case SyncEnded(stream=stream, sent_bytes=sent):
                if sent != self._sync_sent.get(stream, sent):
                    raise Violation(
                        "P22", f"{stream}: {sent} bytes of the sync reported, {self._sync_sent[stream]} sent"
                    )
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
