"""Catalog: the recovery manager's machine for one VPG. Lists, retires and pins checkpoints.

Theory of operation. A sealed checkpoint arrives from the protected manager. The catalogue asks every recovery VRA to
tell when its stream is durable through the cut. When all have, the checkpoint is kept durably, and then it is
*listed*: it can be recovered from. If one never will be, the checkpoint is dropped and counted.

Retention. Once per age interval, and when a journal nears its limit, the oldest checkpoints are retired: first they
leave the durable list (`Forget`), and only when that is done may the VRAs age their data into the mirrors (`Age`).
A pinned checkpoint and everything after it stays. The newest is never retired for age or size. Only when the sync
window alone fills the journal are all checkpoints withdrawn, in one step: there is no recovery point then.

Invariant: every listed checkpoint has a mark in every journal at or after that journal's base.
"""

from collections import deque
from dataclasses import dataclass, field

from drsim.core.effects import Arm, Effect, Forget, Keep, Publish, Send
from drsim.core.errors import PeerError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, PinAsked, Received, Started, Stopped
from drsim.core.facts import CheckpointListed, CheckpointSkipped, CheckpointsRetired
from drsim.core.messages import (
    Age,
    Await,
    Checkpoint,
    JournalLimit,
    Listed,
    Missed,
    Reached,
    Sealed,
    StoreState,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

AGE = "age"


@dataclass(slots=True)
class _Arriving:
    checkpoint: Checkpoint
    missing: set[StreamId] = field(default_factory=set)


class Catalog:
    """The checkpoints of one VPG at its recovery site. `history` in nanoseconds."""

    def __init__(
        self, address: Address, vpg: str, manager: Address, streams: list[StreamId], *, history: Ns, tweaks: Tweaks
    ) -> None:
        self.address, self.vpg, self.manager = address, vpg, manager
        self.streams, self.history, self.tweaks = streams, history, tweaks
        self.listed: deque[Checkpoint] = deque()  # oldest first
        self.pins: set[CheckpointId] = set()
        self._arriving: dict[CheckpointId, _Arriving] = {}
        self._limit: JournalLimit | None = None  # a journal that is still too full
        self._forgetting = False

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a catalogue cannot get."""
        match event:
            case Started():
                return [Arm(AGE, Ns(self.tweaks.age_interval))]
            case Fired(timer) if timer == AGE:
                return [Arm(AGE, Ns(self.tweaks.age_interval)), *self._retire_old(now)]
            case Received(_, Sealed(checkpoint)):
                return self._sealed(checkpoint)
            case Received(_, Reached() as reached):
                return self._reached(reached)
            case Received(_, Missed() as missed):
                if self._arriving.pop(missed.checkpoint, None) is None:
                    return []
                return [Publish(CheckpointSkipped(self.vpg, missed.checkpoint, "synchronizing"))]
            case Done(_, Keep(checkpoint), _):
                return self._list(now, checkpoint)
            case Done(_, Forget(_, before), _):
                self._forgetting = False
                ages = [Send(s.target, Age(self.vpg, before, s)) for s in self.streams]
                return [*ages, *self._shrink()]
            case Failed(_, Keep(checkpoint), error):
                return [Publish(CheckpointSkipped(self.vpg, checkpoint.id, error.message))]
            case Failed(_, Forget(), _):
                self._forgetting = False  # asked again at the next age interval
                return []
            case Received(_, JournalLimit() as limit):
                self._limit = limit
                return self._shrink()
            case Received(_, StoreState() as state):
                return [Send(self.manager, state)]
            case PinAsked(checkpoint, pinned):
                (self.pins.add if pinned else self.pins.discard)(CheckpointId(checkpoint))
                return []
            case Connected(peer):
                return self._ask_again(peer)
            case Lost() | Stopped():
                return []
            case _:
                raise PeerError(f"a catalogue cannot take {event!r}", place=self.address)

    def _sealed(self, checkpoint: Checkpoint) -> list[Effect]:
        self._arriving[checkpoint.id] = _Arriving(checkpoint, set(checkpoint.cut))
        return [
            Send(stream.target, Await(self.vpg, checkpoint.id, stream, cut)) for stream, cut in checkpoint.cut.items()
        ]

    def _ask_again(self, vra: Address) -> list[Effect]:
        """A recovery VRA restarted and has forgotten what it was asked."""
        return [
            Send(vra, Await(self.vpg, arriving.checkpoint.id, stream, arriving.checkpoint.cut[stream]))
            for arriving in self._arriving.values()
            for stream in arriving.checkpoint.cut
            if stream in arriving.missing and stream.target == vra
        ]

    def _reached(self, message: Reached) -> list[Effect]:
        arriving = self._arriving.get(message.checkpoint)
        if arriving is None:
            return []
        arriving.missing.discard(message.stream)
        if arriving.missing:
            return []
        del self._arriving[message.checkpoint]
        return [Keep(arriving.checkpoint)]

    def _list(self, now: Ns, checkpoint: Checkpoint) -> list[Effect]:
        assert not self.listed or checkpoint.id > self.listed[-1].id, "checkpoints are listed in order"
        self.listed.append(checkpoint)
        fact = CheckpointListed(self.vpg, checkpoint.id, checkpoint.taken, checkpoint.tag)
        listed = Listed(self.vpg, checkpoint.id, checkpoint.taken, self.listed[0].taken)
        return [Publish(fact), Send(self.manager, listed), *self._shrink()]

    # -- retention --------------------------------------------------------------------------------------------

    def _retire_old(self, now: Ns) -> list[Effect]:
        horizon = now - self.history
        keep_from = next((c.id for c in self.listed if c.taken >= horizon), None)
        if keep_from is None and self.listed:
            keep_from = self.listed[-1].id
        return self._retire(keep_from, "history")

    def _shrink(self) -> list[Effect]:
        """A journal is too full: retire what it takes, if it can be had."""
        limit = self._limit
        if limit is None or not self.listed or self._forgetting:
            return []
        if limit.keep_from is None and limit.syncing and len(self.listed) == 1 and not self.pins:
            return self._withdraw()
        newest = self.listed[-1].id
        effects = self._retire(min(limit.keep_from or newest, newest), "journal limit")
        if effects:
            self._limit = None
        return effects

    def _retire(self, keep_from: CheckpointId | None, reason: str) -> list[Effect]:
        if keep_from is None or self._forgetting:
            return []
        keep_from = min([keep_from, *self.pins])
        if not self.listed or self.listed[0].id >= keep_from:
            return []
        while self.listed[0].id < keep_from:
            self.listed.popleft()
        oldest = self.listed[0]
        self._forgetting = True
        fact = CheckpointsRetired(self.vpg, oldest.id, oldest.taken, reason)
        return [Publish(fact), Forget(self.vpg, oldest.id)]

    def _withdraw(self) -> list[Effect]:
        self.listed.clear()
        self._limit, self._forgetting = None, True
        return [Publish(CheckpointsRetired(self.vpg, None, None, "sync window fills the journal")),
                Forget(self.vpg, None)]  # fmt: skip
