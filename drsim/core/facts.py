"""Facts: what machines make known to measures, reports and alerts. In the past tense, with no payload."""

from drsim.core.messages import Trigger
from drsim.core.names import CheckpointId, StreamId, VmId
from drsim.core.status import Peer, Regions, Sync
from drsim.core.units import Ns
from drsim.core.value import value


@value
class CheckpointSealed:
    """A consistent cut was taken."""

    vpg: str
    checkpoint: CheckpointId
    taken: Ns
    tag: str


@value
class CheckpointSkipped:
    """No cut was taken at a time when one was due, or one was given up."""

    vpg: str
    checkpoint: CheckpointId
    reason: str


@value
class CheckpointListed:
    """A checkpoint can be recovered from now on. `quiesced`: the VMs for which it is application consistent."""

    vpg: str
    checkpoint: CheckpointId
    taken: Ns
    tag: str
    quiesced: tuple[VmId, ...] = ()


@value
class CheckpointsRetired:
    """The checkpoints before `before` left the list (None: all), because of `reason`."""

    vpg: str
    before: CheckpointId | None
    oldest_taken: Ns | None
    reason: str


@value
class EpochDue:
    """An epoch is to be taken at once: a VM runs on another host now, and what changed may not be told any more."""

    vpg: str
    vm: VmId
    host: str


@value
class GenerationChanged:
    """The VPG is in a later generation: the source is fenced, or goes on."""

    vpg: str
    generation: int
    fenced: bool


@value
class SyncStarted:
    """A stream fell out of sync, or its sync became a graver one; so much is dirty, or may be."""

    stream: StreamId
    sync: Sync
    trigger: Trigger
    dirty_bytes: int


@value
class SyncEnded:
    """A stream is in sync again: so much was sent, and so much compared before."""

    stream: StreamId
    sync: Sync
    sent_bytes: int
    compared_bytes: int


@value
class SyncDropped:
    """A stream ended before it was in sync: its VM went elsewhere, or its VPG is no more."""

    stream: StreamId


@value
class StateChanged:
    """The VPG's state, as its protected manager sees it, and the cause of what is wrong."""

    vpg: str
    regions: Regions
    cause: str


@value
class VpgDeleted:
    """A VPG is gone on both sides (T30)."""

    vpg: str


@value
class RecoverySideChanged:
    """What the recovery site can do for a VPG without its protected site: nothing to say while that answers (T13)."""

    vpg: str
    peer: Peer


@value
class FrameRefused:
    """A recovery VRA refused a frame for lack of room or as out of order."""

    stream: StreamId
    reason: str


@value
class BitmapGivenUp:
    """A stream's dirty bitmap outgrew its memory: until its sync ends, nobody knows which regions differ."""

    stream: StreamId


@value
class StoreChanged:
    """The store of a stream's journals stopped taking data, because of `reason`, or takes it again."""

    stream: StreamId
    ok: bool
    reason: str


@value
class StepBegun:
    """An operation has begun a step; `words`: what it is."""

    operation: str
    step: tuple[int, ...]
    words: str


@value
class StepEnded:
    """A step is over; `error`: why it failed, empty if it did not."""

    operation: str
    step: tuple[int, ...]
    error: str


@value
class OperationEnded:
    """An operation is over; its report is there."""

    operation: str


Fact = (
    CheckpointSealed | CheckpointSkipped | CheckpointListed | CheckpointsRetired | EpochDue | GenerationChanged
    | SyncStarted | SyncEnded | SyncDropped | StateChanged | FrameRefused | BitmapGivenUp | StoreChanged
    | RecoverySideChanged | VpgDeleted | StepBegun | StepEnded | OperationEnded
)  # fmt: skip
