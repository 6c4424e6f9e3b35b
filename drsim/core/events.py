"""Events: every fact a world may report to a machine. In the past tense."""

from dataclasses import dataclass
from enum import StrEnum

from drsim.core.batch import WriteBatch
from drsim.core.effects import Effect, EffectId
from drsim.core.errors import DrsimError
from drsim.core.messages import Message, Retention, Start
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId


@dataclass(frozen=True, slots=True)
class Started:
    """The machine's component is up, for the first time or again."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The machine's component goes down in good order; nothing reaches it until `Started`."""


@dataclass(frozen=True, slots=True)
class GuestWrote:
    """Writes that the tap has passed to the local disk, in capture order."""

    stream: StreamId
    batch: WriteBatch


@dataclass(frozen=True, slots=True)
class VmLeft:
    """A VM runs on another host from now on (vMotion): nothing that it writes comes here."""

    vm: VmId


@dataclass(frozen=True, slots=True)
class VmArrived:
    """A VM runs on this host from now on. What it wrote elsewhere did not come here."""

    vm: VmId


@dataclass(frozen=True, slots=True)
class VolumeLost:
    """A protected volume is not there: nobody can write or read it. A VRA that begins to tap it is told as well."""

    volume: VolumeId


@dataclass(frozen=True, slots=True)
class VolumeFound:
    """A volume that was lost is back. What happened to it meanwhile did not come here."""

    volume: VolumeId


@dataclass(frozen=True, slots=True)
class Received:
    """A message arrived."""

    sender: Address
    message: Message


@dataclass(frozen=True, slots=True)
class Fired:
    """A timer that the machine armed has run out."""

    timer: str


@dataclass(frozen=True, slots=True)
class Done:
    """An effect was performed."""

    id: EffectId
    effect: Effect
    value: object = None


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect was not performed, and left no trace."""

    id: EffectId
    effect: Effect
    error: DrsimError


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection to a peer is gone; what was on it may or may not have arrived."""

    peer: Address


@dataclass(frozen=True, slots=True)
class Connected:
    """The peer can be reached again, over a new connection."""

    peer: Address


@dataclass(frozen=True, slots=True)
class TagAsked:
    """An operator wants a checkpoint now, under this name; with `quiesce` one with the applications at rest."""

    tag: str
    quiesce: bool = False


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class DeleteAsked:
    """An operator wants the VPG deleted; its mirror disks may stay, for a later preseeded start."""

    keep_disks: bool


@dataclass(frozen=True, slots=True)
class SyncAsked:
    """An operator distrusts the other side: everything is to be compared (the field's "force sync").

    `full`: or sent, because nothing there is worth a comparison. `volumes`: of these only; empty for all.
    """

    full: bool = False
    volumes: tuple[VolumeId, ...] = ()


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """An operator wants replication paused, or resumed."""

    paused: bool


@dataclass(frozen=True, slots=True)
class FenceAsked:
    """An operation moves the right to accept guest writes: to the recovery side (`fenced`), or back to the source.

    `generation`: later than all before; an earlier one changes nothing.
    """

    generation: int
    fenced: bool


@dataclass(frozen=True, slots=True)
class PinAsked:
    """An operation needs this checkpoint to stay (test, clone, failover before commit), or no longer."""

    checkpoint: int
    pinned: bool


class Verdict(StrEnum):
    """What an operator decides about an operation that is under way."""

    COMMIT = "commit"
    ROLL_BACK = "roll back"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Decided:
    """An operator has decided. `note`: in their words; of a test, how it went."""

    verdict: Verdict
    note: str = ""


Event = (
    Started | Stopped | GuestWrote | VmLeft | VmArrived | VolumeLost | VolumeFound | Received | Fired | Done | Failed
    | Lost | Connected | TagAsked | Reconfigured | DeleteAsked | SyncAsked | PauseAsked | FenceAsked | PinAsked
    | Decided
)  # fmt: skip
