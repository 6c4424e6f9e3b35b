"""Facts: what machines make known to measures, reports and alerts. In the past tense, with no payload."""

from dataclasses import dataclass

from drsim.core.messages import Trigger
from drsim.core.names import CheckpointId, StreamId
from drsim.core.status import Regions
from drsim.core.units import Ns


@dataclass(frozen=True, slots=True)
class CheckpointSealed:
    """A consistent cut was taken."""

    vpg: str
    checkpoint: CheckpointId
    taken: Ns
    tag: str


@dataclass(frozen=True, slots=True)
class CheckpointSkipped:
    """No cut was taken at a time when one was due, or one was given up."""

    vpg: str
    checkpoint: CheckpointId
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointListed:
    """A checkpoint can be recovered from now on."""

    vpg: str
    checkpoint: CheckpointId
    taken: Ns
    tag: str


@dataclass(frozen=True, slots=True)
class CheckpointsRetired:
    """The checkpoints before `before` left the list (None: all), because of `reason`."""

    vpg: str
    before: CheckpointId | None
    oldest_taken: Ns | None
    reason: str


@dataclass(frozen=True, slots=True)
class SyncStarted:
    """A stream fell out of sync: its unacknowledged writes are dirty regions now."""

    stream: StreamId
    trigger: Trigger
    dirty_bytes: int


@dataclass(frozen=True, slots=True)
class SyncEnded:
    """A stream is in sync again."""

    stream: StreamId
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The VPG's state, as its protected manager sees it, and the cause of what is wrong."""

    vpg: str
    regions: Regions
    cause: str


@dataclass(frozen=True, slots=True)
class FrameRefused:
    """A recovery VRA refused a frame for lack of room or as out of order."""

    stream: StreamId
    reason: str


Fact = (
    CheckpointSealed | CheckpointSkipped | CheckpointListed | CheckpointsRetired | SyncStarted | SyncEnded
    | StateChanged | FrameRefused
)  # fmt: skip
