"""Events: every fact a world may report to a machine. In the past tense."""

from enum import StrEnum

from drsim.core.batch import WriteBatch
from drsim.core.effects import Effect, EffectId
from drsim.core.errors import DrsimError
from drsim.core.messages import Message, Retention, Start
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId
from drsim.core.units import Ns
from drsim.core.value import value


@value
class Started:
    """The machine's component is up, for the first time or again."""


@value
class Stopped:
    """The machine's component goes down in good order; nothing reaches it until `Started`."""


@value
class GuestWrote:
    """Writes that the tap has passed to the local disk, in capture order."""

    stream: StreamId
    batch: WriteBatch


@value
class WritesMissed:
    """Writes that the tap has passed to the local disk, but had no room for: where they went, without their content.

    In their place among those that it captured.
    """

    stream: StreamId
    batch: WriteBatch


@value
class VmLeft:
    """A VM runs on another host from now on (vMotion): nothing that it writes comes here."""

    vm: VmId


@value
class VmArrived:
    """A VM runs on this host from now on. What it wrote elsewhere did not come here."""

    vm: VmId


@value
class VolumeLost:
    """A protected volume is not there: nobody can write or read it. A VRA that begins to tap it is told as well."""

    volume: VolumeId


@value
class VolumeFound:
    """A volume that was lost is back. What happened to it meanwhile did not come here."""

    volume: VolumeId


@value
class Received:
    """A message arrived."""

    sender: Address
    message: Message


@value
class Fired:
    """A timer that the machine armed has run out."""

    timer: str


@value
class Done:
    """An effect was performed."""

    id: EffectId
    effect: Effect
    value: object = None


@value
class Failed:
    """An effect was not performed, and left no trace."""

    id: EffectId
    effect: Effect
    error: DrsimError


@value
class Lost:
    """The connection to a peer is gone; what was on it may or may not have arrived."""

    peer: Address


@value
class Connected:
    """The peer can be reached again, over a new connection."""

    peer: Address


@value
class TagAsked:
    """An operator wants a checkpoint now, under this name; with `quiesce` one with the applications at rest."""

    tag: str
    quiesce: bool = False


@value
class EpochCaptured:
    """All that changed until `taken` has been captured, of a VPG whose VMs are captured by epochs."""

    taken: Ns


@value
class VmMoved:
    """A VM that is captured by epochs runs on another host now (vMotion). VRAs have nothing to do with it."""

    vm: VmId
    host: str


@value
class Reconfigured:
    """The VPG consists of these streams from now on; `starts`: of the new ones, what the other side has.

    `version` grows with each change. `unprotected`: VMs of the VPG on hosts without a VRA; they are in no stream.
    `retention`: how much history it keeps from now on; None: as before.
    """

    version: int
    streams: tuple[StreamSpec, ...]
    starts: dict[StreamId, Start]
    unprotected: tuple[VmId, ...] = ()
    retention: Retention | None = None


@value
class DeleteAsked:
    """An operator wants the VPG deleted; its mirror disks may stay, for a later preseeded start."""

    keep_disks: bool


@value
class SyncAsked:
    """An operator distrusts the other side: everything is to be compared (the field's "force sync").

    `full`: or sent, because nothing there is worth a comparison. `volumes`: of these only; empty for all.
    """

    full: bool = False
    volumes: tuple[VolumeId, ...] = ()


@value
class PauseAsked:
    """An operator wants replication paused, or resumed."""

    paused: bool


@value
class FenceAsked:
    """An operation moves the right to accept guest writes: to the recovery side (`fenced`), or back to the source.

    `generation`: later than all before; an earlier one changes nothing.
    """

    generation: int
    fenced: bool


@value
class PinAsked:
    """An operation needs this checkpoint to stay (test, clone, failover before commit), or no longer."""

    checkpoint: int
    pinned: bool


class Verdict(StrEnum):
    """What an operator decides about an operation that is under way."""

    COMMIT = "commit"
    ROLL_BACK = "roll back"
    CANCEL = "cancel"


@value
class Decided:
    """An operator has decided. `note`: in their words; of a test, how it went."""

    verdict: Verdict
    note: str = ""


Event = (
    Started | Stopped | GuestWrote | WritesMissed | VmLeft | VmArrived | VolumeLost | VolumeFound | Received | Fired
    | Done | Failed | Lost | Connected | TagAsked | EpochCaptured | VmMoved | Reconfigured | DeleteAsked | SyncAsked
    | PauseAsked | FenceAsked | PinAsked | Decided
)  # fmt: skip
