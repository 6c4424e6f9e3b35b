"""Messages between machines. Plain values; a world carries them, the wire format belongs to the world.

A *position* is what a stream has reached: the last log sequence number of each of its VMs, in the stream's order.
Every message about data carries the VPG's generation and the stream's epoch; an epoch ends when records are folded
into the dirty bitmap, because then numbers were given to writes that will never be sent as such.
"""

from enum import StrEnum

from drsim.core.batch import WriteBatch
from drsim.core.names import Address, CheckpointId, Extent, StreamId, StreamSpec, VmId, VolumeId
from drsim.core.status import Sync
from drsim.core.units import Ns
from drsim.core.value import value

Position = tuple[int, ...]
NONE = Ns(0)


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
    PAUSE = "replication paused"  # ours: the field shows a pause as a state only
    MISSING_VOLUME = "protected volume missing"  # likewise


class Start(StrEnum):
    """What the protected side knows of the other one when a stream begins."""

    EQUAL = "equal"
    """Both sides are the same: nothing was ever written, or a test says so."""
    CRASHED = "crashed"
    """An earlier life of the VRA knew; its memory is gone."""
    MOVED = "moved"
    """The VRA of another host knew; these VMs came from there."""
    INITIAL = "initial"
    """There is nothing on the other side."""
    RETARGETED = "retargeted"
    """Another recovery VRA knew; there is nothing at this one."""
    PRESEEDED = "preseeded"
    """A copy of some past state was brought there."""


class Refusal(StrEnum):
    """Why a recovery VRA did not take a frame."""

    GAP = "gap"
    BUSY = "busy"
    LIMIT = "journal limit"
    FULL = "store full"


@value
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

    def carrying(self, batch: WriteBatch) -> "Frame":
        """The same rows, with their content."""
        return Frame(
            self.stream, self.generation, self.epoch, self.after, self.upto, self.sizes, self.sync, batch
        )  # fmt: skip


@value
class Ack:
    """Everything up to `durable` is durable at the recovery side."""

    stream: StreamId
    generation: int
    epoch: int
    durable: Position


@value
class Nack:
    """A frame was not taken; send again from `expected`."""

    stream: StreamId
    generation: int
    epoch: int
    expected: Position
    reason: Refusal


@value
class Resync:
    """A new epoch begins after `after`; what was numbered before and not acknowledged comes as dirty regions."""

    stream: StreamId
    generation: int
    epoch: int
    after: Position
    spec: StreamSpec


@value
class Resynced:
    """The recovery VRA is in this epoch now."""

    stream: StreamId
    generation: int
    epoch: int


@value
class SyncDone:
    """Data up to `upto` closes the sync window: the image is a past state of the source again."""

    stream: StreamId
    generation: int
    epoch: int
    upto: Position


@value
class Where:
    """Where does the stream stand? From a protected VRA to which it is new, or that lost its memory."""

    stream: StreamId
    generation: int
    spec: StreamSpec


@value
class Standing:
    """The recovery VRA knows of no later epoch than this, and of no number beyond this position."""

    stream: StreamId
    generation: int
    epoch: int
    position: Position


@value
class Compare:
    """A stretch that the sender does not know about, and the digests of its regions at the source, one after another.

    They are of equal length, and cryptographic wherever there is content (PROTOCOL 5); a simulation's say whether a
    region differs.
    """

    stream: StreamId
    generation: int
    epoch: int
    extent: Extent
    digests: bytes


@value
class Compared:
    """Which regions of the stretch differ at the recovery side: a byte for each, 0 or 1, in their order."""

    stream: StreamId
    generation: int
    epoch: int
    extent: Extent
    differs: bytes


DataMessage = Frame | Ack | Nack | Resync | Resynced | SyncDone | Where | Standing | Compare | Compared


@value
class Cut:
    """One stream's part of a checkpoint. `without`: volumes that had left the stream before."""

    epoch: int
    position: Position
    without: tuple[VolumeId, ...] = ()


@value
class Checkpoint:
    """A consistent cut over a VPG. Holds no data. `taken` is when the manager asked for the hold.

    `quiesced`: the VMs whose applications were frozen at the cut, ascending; for the others it is crash consistent.
    `generation`: of the manager that sealed it.
    """

    vpg: str
    id: CheckpointId
    taken: Ns
    cut: dict[StreamId, Cut]
    tag: str = ""
    quiesced: tuple[VmId, ...] = ()
    generation: int = 1


@value
class Hold:
    """Stop acknowledging guest writes of the VPG and say what is captured. `alone`: no other VRA is asked."""

    vpg: str
    checkpoint: CheckpointId
    alone: bool


@value
class Held:
    """All that the VRA had captured when it held. `frozen`: the VMs of the cut that were frozen then, ascending."""

    vpg: str
    checkpoint: CheckpointId
    vra: Address
    cut: dict[StreamId, Cut]
    frozen: tuple[VmId, ...] = ()


@value
class Release:
    """Acknowledge guest writes again."""

    vpg: str
    checkpoint: CheckpointId


@value
class Released:
    """The VRA had held until the release came."""

    vpg: str
    checkpoint: CheckpointId
    vra: Address


@value
class Aborted:
    """The VRA cannot vouch for the checkpoint: it let go by itself, or a stream is not in sync."""

    vpg: str
    checkpoint: CheckpointId
    vra: Address
    reason: str


@value
class Freeze:
    """Bring the applications on the VPG's VMs to rest. Manager to protected VRA.

    `number`: of this freeze, from the count of the manager's checkpoints, so that no life of it gives one twice.
    """

    vpg: str
    number: int


@value
class Frozen:
    """The VMs that can be frozen are, or nobody needs to wait for them any more. Protected VRA to manager."""

    vpg: str
    number: int
    vra: Address


@value
class Thaw:
    """The checkpoint is sealed or void: let the applications go on. Manager to protected VRA."""

    vpg: str
    number: int


@value
class SyncChanged:
    """A stream entered or left synchronization, or what it does changed. Protected VRA to manager.

    `waiting`: the recovery side has no room. `missing`: a volume of it is not there, and nothing is sent.
    """

    stream: StreamId
    sync: Sync
    waiting: bool
    trigger: Trigger
    missing: bool = False


@value
class Configure:
    """The streams of a VPG from now on, those of all its VRAs. Manager to protected VRA.

    `starts`: of streams that are new, what the other side has.
    """

    vpg: str
    version: int
    streams: tuple[StreamSpec, ...]
    starts: dict[StreamId, Start]


@value
class Pause:
    """Send nothing for the VPG until told otherwise: what is written becomes dirty. Manager to protected VRA."""

    vpg: str
    paused: bool


@value
class Lineage:
    """The generation that the VPG is in; no earlier one counts. `fenced`: guest writes are another side's.

    Recovery manager to recovery VRAs and to the protected manager, and from there to protected VRAs.
    """

    vpg: str
    generation: int = 1
    fenced: bool = False


@value
class ForceSync:
    """Compare every region of the VPG's disks with the other side. Manager to protected VRA.

    `full`: do not compare, send everything. `volumes`: of these only; empty for all.
    """

    vpg: str
    full: bool = False
    volumes: tuple[VolumeId, ...] = ()

    def and_(self, other: "ForceSync") -> "ForceSync":
        """One that does what both ask for, at least."""
        some = tuple(sorted({*self.volumes, *other.volumes})) if self.volumes and other.volumes else ()
        return ForceSync(self.vpg, self.full or other.full, some)


@value
class Forced:
    """The VRA compares everything from now on. Protected VRA to manager."""

    vpg: str
    vra: Address


@value
class Delete:
    """The VPG is to be deleted (T30). Protected manager to recovery manager, until `Deleted` comes back."""

    vpg: str
    keep_disks: bool


@value
class Deleted:
    """Nothing of the VPG is listed any more, and its journals are gone. Recovery manager to protected manager."""

    vpg: str


@value
class Retention:
    """How much history a VPG keeps, counted back from its newest checkpoint, in nanoseconds.

    `fail_safe`: what it keeps at any price, no more than `history`: for lack of room, replication stops before less is
    kept. 0 for none.
    """

    history: Ns
    fail_safe: Ns = NONE


@value
class Members:
    """The streams that the VPG has now: no others will have anything new. Protected manager to recovery manager.

    `retention`: how much history it keeps now; None: as before.
    """

    vpg: str
    streams: tuple[StreamId, ...]
    retention: Retention | None = None


@value
class Sealed:
    """A checkpoint whose cut is known to be consistent. Protected manager to recovery manager."""

    checkpoint: Checkpoint


@value
class Await:
    """Tell me when the stream's journal is durable through this cut. Recovery manager to recovery VRA."""

    vpg: str
    checkpoint: CheckpointId
    stream: StreamId
    cut: Cut


@value
class Reached:
    """It is."""

    vpg: str
    checkpoint: CheckpointId
    stream: StreamId


@value
class Missed:
    """It never will be: the epoch ended before."""

    vpg: str
    checkpoint: CheckpointId
    stream: StreamId


@value
class Marks:
    """All checkpoints that the stream's journal has reached, oldest first. Recovery manager to recovery VRA.

    Told over every new connection: a VRA that lost its memory puts the marks back.
    """

    vpg: str
    stream: StreamId
    marks: dict[CheckpointId, Cut]


@value
class Listed:
    """The newest checkpoint that can be recovered, and how many there are. Recovery manager to protected manager.

    `limited`: older ones would be there if a journal had not reached its limit.
    """

    vpg: str
    checkpoint: CheckpointId
    taken: Ns
    oldest_taken: Ns
    count: int
    limited: bool = False


@value
class Withdrawn:
    """No checkpoint is listed any more: there is no recovery point. Recovery manager to protected manager."""

    vpg: str


@value
class Age:
    """Nothing older than this checkpoint is listed: its data may go to the mirror. Recovery manager to VRA.

    None: no checkpoint is listed at all, everything durable may go.
    """

    vpg: str
    checkpoint: CheckpointId | None
    stream: StreamId


@value
class Close:
    """No listed checkpoint, and none to come, has this stream: its journals can go. Recovery manager to VRA, until
    `Closed` comes back.

    `keep_disks`: the mirror disks stay, with all that is in the journals applied.
    """

    vpg: str
    stream: StreamId
    keep_disks: bool = False


@value
class Closed:
    """The journals of a stream are gone, or never were here. Recovery VRA to manager."""

    vpg: str
    stream: StreamId


@value
class JournalLimit:
    """A journal is near its hard limit; it fits again if `keep_from` becomes the oldest checkpoint.

    `keep_from` is None when the newest checkpoint's data alone is too much; `syncing`: data of a sync window lies
    behind it; `fresh`: no checkpoint was ever taken of what is in it.
    """

    vpg: str
    stream: StreamId
    keep_from: CheckpointId | None
    syncing: bool
    fresh: bool = False


@value
class StoreState:
    """The recovery VRA's journal store takes data, or does not. VRA to recovery manager, on to the protected one."""

    vpg: str
    stream: StreamId
    ok: bool
    reason: str


ControlMessage = (
    Hold | Held | Release | Released | Aborted | Freeze | Frozen | Thaw | SyncChanged | Configure | Pause | Lineage
    | ForceSync | Forced | Members | Delete | Deleted | Sealed | Await | Reached | Missed | Marks | Listed | Age
    | Close | Closed | JournalLimit | StoreState | Withdrawn
)  # fmt: skip
Message = DataMessage | ControlMessage
