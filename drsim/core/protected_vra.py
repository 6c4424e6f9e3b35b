"""ProtectedVra: the machine on a protected host. Taps guest writes, shares one buffer between streams, holds guests.

Theory of operation. Each VPG with VMs on this host has one stream to each recovery VRA (`sender.py`). The VRA owns
what they share: the buffer (a share of the appliance's pool) and the holds of PROTOCOL 3.

Buffer. A write is taken while it fits. One that does not fit makes the stream that holds most fold into its bitmap
(the first of equals), which frees that stream's memory at once; the guest never waits.

Hold. On `Hold` the VRA cuts every open frame of the VPG, stops acknowledging its guests and answers `Held` with what
is captured. It lets go on `Release` and answers `Released`, or by itself when the hold budget has run out, and then
answers `Aborted`: at once, and again to a `Release` that comes late. A stream that is not in sync, or that folded
during the hold, makes the answer `Aborted` too. A VPG that lives on this VRA alone needs no hold: its own capture
order is the cut (`Hold.alone`).

After a stop in good order the VRA goes on from its bitmaps. After a crash (`crashed`) it knows nothing: its streams
find out where they stand (`sender.py`), and of the holds of its earlier life it answers `Aborted`; the world released
their guests when that life ended.

Invariant: guests of a VPG are held at most for the hold budget, whatever fails.
"""

from dataclasses import dataclass

from drsim.core.effects import Arm, Effect, HoldGuests, ReadRegions, ReleaseGuests, Send
from drsim.core.errors import PeerError
from drsim.core.events import Connected, Done, Event, Failed, Fired, GuestWrote, Lost, Received, Started, Stopped
from drsim.core.messages import (
    Aborted,
    Ack,
    Cut,
    Held,
    Hold,
    Nack,
    Release,
    Released,
    Resynced,
    Standing,
    SyncChanged,
    Trigger,
)  # fmt: skip
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec
from drsim.core.sender import TRIGGER_OF, Sender
from drsim.core.units import Ns
from drsim.spec.tweaks import Tweaks

SETTLED = (False, False, Trigger.NONE)  # what a manager is told of a stream in sync


@dataclass(slots=True)
class _Hold:
    checkpoint: CheckpointId
    cut: dict[StreamId, Cut]


class ProtectedVra:
    """The VRA of one protected host. `pool_bytes` is its whole buffer pool. `crashed`: an earlier life was."""

    def __init__(
        self, address: Address, managers: dict[str, Address], streams: list[StreamSpec], *, pool_bytes: int,
        tweaks: Tweaks, crashed: bool = False,
    ) -> None:  # fmt: skip
        self.address, self.tweaks = address, tweaks
        self._managers = managers
        self.limit = int(pool_bytes * tweaks.buffer_use_protect)
        tail = int(pool_bytes * tweaks.sync_tail) // max(1, len(streams))
        self.senders = {s.id: Sender(s, tweaks, tail_bytes=tail, crashed=crashed) for s in streams}
        self._holds: dict[str, _Hold] = {}
        self._told: dict[StreamId, tuple[bool, bool, Trigger] | None] = dict.fromkeys(self.senders, SETTLED)

    @property
    def used(self) -> int:
        """Bytes of the buffer in use."""
        return sum(sender.used for sender in self.senders.values())

    def handle(self, now: Ns, event: Event) -> list[Effect]:
        """See the module. Raises PeerError for a message that a protected VRA cannot get."""
        match event:
            case GuestWrote(stream, batch):
                sender = self.senders[stream]
                effects, taken = sender.capture(batch, self.limit - self.used)
                if taken == len(batch):
                    return effects
                effects += self._overflow(sender, event, taken)
            case Received(_, message):
                effects = self._received(message)
            case Fired(timer):
                effects = self._fired(timer)
            case Done(_, ReadRegions() as asked, value):
                assert not isinstance(value, Exception)
                effects = self.senders[asked.stream].read(asked, value)  # type: ignore[arg-type]
            case Failed(_, ReadRegions() as asked, _):
                effects = self.senders[asked.stream].read_failed(asked)
            case Lost(peer):
                effects = [e for s in self._to(peer) for e in s.lost()]
            case Connected(peer):
                self._told.update((id_, None) for id_ in self.senders if self._managers[id_.vpg] == peer)
                effects = [e for s in self._to(peer) for e in s.reconnected()]
            case Stopped():
                effects = self._stop()
            case Started():
                effects = [e for s in self.senders.values() for e in s.started()]
            case _:
                raise PeerError(f"a protected VRA cannot take {event!r}", place=self.address)
        return effects + self._tell()

    def _to(self, peer: Address) -> list[Sender]:
        return [s for s in self.senders.values() if s.spec.id.target == peer]

    def _overflow(self, sender: Sender, event: GuestWrote, taken: int) -> list[Effect]:
        """Fold the largest stream until every row is captured or marked dirty."""
        effects: list[Effect] = []
        rest = event.batch.rows(taken, len(event.batch))
        while len(rest):
            largest = max(self.senders.values(), key=lambda s: s.used)
            victim = largest if largest.used else sender
            effects += victim.fold(TRIGGER_OF[victim.refused] if victim.refused else Trigger.NETWORK_CONGESTION)
            effects += self._tell()
            more, taken = sender.capture(rest, self.limit - self.used)
            effects += more
            rest = rest.rows(taken, len(rest))
        return effects

    def _received(self, message: object) -> list[Effect]:
        match message:
            case Ack():
                return self.senders[message.stream].acknowledged(message)
            case Nack():
                return self.senders[message.stream].refuse(message)
            case Resynced():
                return self.senders[message.stream].resynced(message)
            case Standing():
                return self.senders[message.stream].standing(message)
            case Hold():
                return self._hold(message)
            case Release():
                return self._release(message)
            case _:
                raise PeerError(f"a protected VRA cannot take {message!r}", place=self.address)

    def _hold(self, message: Hold) -> list[Effect]:
        vpg = message.vpg
        mine = [s for s in self.senders.values() if s.spec.id.vpg == vpg]
        effects = [e for s in mine if not s.syncing for e in s.flush()]
        if any(s.syncing for s in mine):
            return [*effects, self._answer(vpg, Aborted(vpg, message.checkpoint, self.address, "synchronizing"))]
        cut = {s.spec.id: s.cut() for s in mine}
        effects.append(HoldGuests(vpg, message.checkpoint))
        if message.alone:
            effects.append(ReleaseGuests(vpg, message.checkpoint))
        else:
            self._holds[vpg] = _Hold(message.checkpoint, cut)
            effects.append(Arm(f"hold {vpg}", Ns(self.tweaks.hold_budget)))
        return [*effects, self._answer(vpg, Held(vpg, message.checkpoint, self.address, cut))]

    def _release(self, message: Release) -> list[Effect]:
        vpg, held = message.vpg, self._holds.get(message.vpg)
        if held is None or held.checkpoint != message.checkpoint:
            return [self._answer(vpg, Aborted(vpg, message.checkpoint, self.address, "hold budget"))]
        del self._holds[vpg]
        if any(self.senders[s].epoch != c.epoch for s, c in held.cut.items()):
            answer: Aborted | Released = Aborted(vpg, message.checkpoint, self.address, "synchronizing")
        else:
            answer = Released(vpg, message.checkpoint, self.address)
        return [ReleaseGuests(vpg, message.checkpoint), self._answer(vpg, answer)]

    def _let_go(self, vpg: str, reason: str) -> list[Effect]:
        held = self._holds.pop(vpg, None)
        if held is None:
            return []
        aborted = Aborted(vpg, held.checkpoint, self.address, reason)
        return [ReleaseGuests(vpg, held.checkpoint), self._answer(vpg, aborted)]

    def _fired(self, timer: str) -> list[Effect]:
        if timer.startswith("hold "):
            return self._let_go(timer.removeprefix("hold "), "hold budget")
        return [e for s in self.senders.values() for e in s.fired(timer)]

    def _stop(self) -> list[Effect]:
        """Going down in good order: release the guests, keep everything in the bitmaps (the driver marks on)."""
        effects = [e for vpg in list(self._holds) for e in self._let_go(vpg, "VRA stops")]
        return effects + [e for s in self.senders.values() for e in s.stopped()]

    def _answer(self, vpg: str, message: Held | Released | Aborted | SyncChanged) -> Send:
        return Send(self._managers[vpg], message)

    def _tell(self) -> list[Effect]:
        """Tell the managers which streams entered or left synchronization."""
        effects: list[Effect] = []
        for id_, sender in self.senders.items():
            told = self._told[id_]
            if told is SETTLED and not sender.syncing:
                continue
            state = (sender.syncing, sender.syncing and sender.waiting, sender.trigger) if sender.syncing else SETTLED
            if state != told:
                self._told[id_] = state
                effects.append(self._answer(id_.vpg, SyncChanged(id_, *state)))
        return effects
