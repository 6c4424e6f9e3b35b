"""Messages between machines. Plain values; a world carries them, the wire format belongs to the world.

A *position* is what a stream has reached: the last log sequence number of each of its VMs, in the stream's order.
Every message about data carries the VPG's generation and the stream's epoch; an epoch ends when records are folded
into the dirty bitmap, because then numbers were given to writes that will never be sent as such.
"""

from dataclasses import dataclass
from enum import StrEnum

from drsim.core.batch import WriteBatch
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.units import Ns

Position = tuple[int, ...]


class Trigger(StrEnum):
    """Why a stream had to synchronize; the field's names (products.md 1.2)."""

    NONE = "none"
    FORCE_SYNC = "force sync"
    NETWORK_CONGESTION = "network congestion"
    PROTECTED_STORAGE = "protected storage error"
    PROTECTED_VRA = "protected VRA congestion"
    RECOVERY_STORAGE_ERROR = "recovery or journal storage error"
    RECOVERY_CONGESTION = "recovery storage congestion"
    COMMUNICATION = "recovery VRA communication problem"
    CONFIGURATION = "VPG configuration changed"


class Refusal(StrEnum):
    """Why a recovery VRA did not take a frame."""

    GAP = "gap"
    BUSY = "busy"
    LIMIT = "journal limit"
    FULL = "store full"


@dataclass(frozen=True, slots=True)
class Frame:
    """Writes of one stream. `after` and `upto` are the positions before and after; `sizes` the bytes of each VM."""

    stream: StreamId
    generation: int
    epoch: int
    after: Position
    upto: Position
    sizes: tuple[int, ...]
    sync: bool
    batch: WriteBatch

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything up to `durable` is durable at the recovery side."""

    stream: StreamId
    generation: int
    epoch: int
    durable: Position


@dataclass(frozen=True, slots=True)
class Nack:
    """A frame was not taken; send again from `expected`."""

    stream: StreamId
    generation: int
    epoch: int
    expected: Position
    reason: Refusal


@dataclass(frozen=True, slots=True)
class Resync:
    """A new epoch begins after `after`; what was numbered before and not acknowledged comes as dirty regions."""

    stream: StreamId
    generation: int
    epoch: int
    after: Position


@dataclass(frozen=True, slots=True)
class Resynced:
    """The recovery VRA is in this epoch now."""

    stream: StreamId
    generation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SyncDone:
    """Data up to `upto` closes the sync window: the image is a past state of the source again."""

    stream: StreamId
    generation: int
    epoch: int
    upto: Position


@dataclass(frozen=True, slots=True)
class Where:
    """Where does the stream stand? From a protected VRA that lost its memory."""

    stream: StreamId
    generation: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The recovery VRA knows of no later epoch than this, and of no number beyond this position."""

    stream: StreamId
    generation: int
    epoch: int
    position: Position


DataMessage = Frame | Ack | Nack | Resync | Resynced | SyncDone | Where | Standing


@dataclass(frozen=True, slots=True)
class Cut:
    """One stream's part of a checkpoint."""

    epoch: int
    position: Position


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A consistent cut over a VPG. Holds no data. `taken` is when the manager asked for the hold."""

    vpg: str
    id: CheckpointId
    taken: Ns
    cut: dict[StreamId, Cut]
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop acknowledging guest writes of the VPG and say what is captured. `alone`: no other VRA is asked."""

    vpg: str
    checkpoint: CheckpointId
    alone: bool


@dataclass(frozen=True, slots=True)
class Held:
    """All that the VRA had captured when it held."""

    vpg: str
    checkpoint: CheckpointId
    vra: Address
    cut: dict[StreamId, Cut]


@dataclass(frozen=True, slots=True)
class Release:
    """Acknowledge guest writes again."""

    vpg: str
    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class Released:
    """The VRA had held until the release came."""

    vpg: str
    checkpoint: CheckpointId
    vra: Address


@dataclass(frozen=True, slots=True)
class Aborted:
    """The VRA cannot vouch for the checkpoint: it let go by itself, or a stream is not in sync."""

    vpg: str
    checkpoint: CheckpointId
    vra: Address
    reason: str


@dataclass(frozen=True, slots=True)
class SyncChanged:
    """A stream entered or left synchronization. Protected VRA to manager."""

    stream: StreamId
    syncing: bool
    waiting: bool
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Sealed:
    """A checkpoint whose cut is known to be consistent. Protected manager to recovery manager."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Await:
    """Tell me when the stream's journal is durable through this cut. Recovery manager to recovery VRA."""

    vpg: str
    checkpoint: CheckpointId
    stream: StreamId
    cut: Cut


@dataclass(frozen=True, slots=True)
class Reached:
    """It is."""

    vpg: str
    checkpoint: CheckpointId
    stream: StreamId


@dataclass(frozen=True, slots=True)
class Missed:
    """It never will be: the epoch ended before."""

    vpg: str
    checkpoint: CheckpointId
    stream: StreamId


@dataclass(frozen=True, slots=True)
class Marks:
    """All checkpoints that the stream's journal has reached, oldest first. Recovery manager to recovery VRA.

    Told over every new connection: a VRA that lost its memory puts the marks back.
    """

    vpg: str
    stream: StreamId
    marks: dict[CheckpointId, Cut]


@dataclass(frozen=True, slots=True)
class Listed:
    """The newest checkpoint that can be recovered. Recovery manager to protected manager."""

    vpg: str
    checkpoint: CheckpointId
    taken: Ns
    oldest_taken: Ns


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """No checkpoint is listed any more: there is no recovery point. Recovery manager to protected manager."""

    vpg: str


@dataclass(frozen=True, slots=True)
class Age:
    """Nothing older than this checkpoint is listed: its data may go to the mirror. Recovery manager to VRA.

    None: no checkpoint is listed at all, everything durable may go.
    """

    vpg: str
    checkpoint: CheckpointId | None
    stream: StreamId


@dataclass(frozen=True, slots=True)
class JournalLimit:
    """A journal is near its hard limit; it fits again if `keep_from` becomes the oldest checkpoint.

    `keep_from` is None when the newest checkpoint's data alone is too much; `syncing`: data of
    a sync window lies behind it.
    """

    vpg: str
    stream: StreamId
    keep_from: CheckpointId | None
    syncing: bool


@dataclass(frozen=True, slots=True)
class StoreState:
    """The recovery VRA's journal store takes data, or does not. VRA to recovery manager, on to the protected one."""

    vpg: str
    stream: StreamId
    ok: bool
    reason: str


ControlMessage = (
    Hold | Held | Release | Released | Aborted | SyncChanged | Sealed | Await | Reached | Missed | Marks | Listed | Age
    | JournalLimit | StoreState | Withdrawn
)  # fmt: skip
Message = DataMessage | ControlMessage
