"""Effects: every wish a machine may express. In the imperative.

Effects that can fail are answered by exactly one `Done` or `Failed`; `Send`, `Arm`, the guest holds, `ThawGuests`,
the taps and `Publish` cannot fail and are not answered. Effects on one target are performed in order, on different
targets in any order.
"""

from typing import NamedTuple

from drsim.core.action import Action, Step
from drsim.core.batch import WriteBatch
from drsim.core.facts import Fact
from drsim.core.messages import Checkpoint, Frame, Message, Position
from drsim.core.names import Address, CheckpointId, Extent, StreamId, StreamSpec, VmId
from drsim.core.units import Ns
from drsim.core.value import value


@value
class Send:
    """Carry a message. A connection may be `Lost`, never holed.

    Order is kept for each pair of addresses among the messages of one stream, and among those of none; one stream may
    overtake another, as priorities on a link demand.
    """

    to: Address
    message: Message


@value
class Arm:
    """Report `Fired(timer)` after `delay` nanoseconds; replaces an earlier alarm of that name."""

    timer: str
    delay: Ns


@value
class HoldGuests:
    """Stop acknowledging writes of the VPG's guests on this host. They may still reach the local disk."""

    vpg: str
    checkpoint: CheckpointId


@value
class ReleaseGuests:
    """Acknowledge what was withheld, and go on."""

    vpg: str
    checkpoint: CheckpointId


@value
class FreezeGuests:
    """Bring the applications on these VMs of the VPG to rest: no transaction open, nothing more is written.

    `Done.value` is the VMs (a tuple of VmId, ascending) that are frozen, with no write of theirs in flight and all
    handed over. One that has no agent, fails or needs longer than `timeout` is not among them, and not frozen. They
    stay frozen until `ThawGuests`; when the VRA dies, the world thaws them.
    """

    vpg: str
    number: int
    vms: tuple[VmId, ...]
    timeout: Ns


@value
class ThawGuests:
    """Let the applications of this freeze go on. What is not frozen for it yet will not be."""

    vpg: str
    number: int


@value
class TapVolumes:
    """Hand over all that is written to the stream's volumes from now on, and nothing that is written to others.

    A write that goes beyond the end that a volume has in the spec comes as far as it lies within. The VRA is told which
    volumes are missing (`VolumeLost`).
    """

    spec: StreamSpec


@value
class Capture:
    """Of what is written to the stream's volumes, content is wanted from now on, or only where it went.

    A hint: who taps may hand over more, or for want of room less (`WritesMissed`). A new tap begins with content.
    """

    stream: StreamId
    content: bool


@value
class UntapVolumes:
    """Hand over nothing of this stream any more."""

    stream: StreamId


@value
class Append:
    """Put a frame's rows at the end of the journals of its VMs; done when durable.

    Fails unless the frame continues where the journals end. An empty frame of an epoch that they have not seen begins
    that epoch, at their end or beyond.
    """

    frame: Frame


@value
class Promote:
    """Apply journaled writes up to `upto` to the mirror disks, durably, then forget them. Idempotent.

    `upto` is the cut of `checkpoint`, or what is durable when no checkpoint is listed (None).
    """

    stream: StreamId
    after: Position
    upto: Position
    nbytes: int
    checkpoint: CheckpointId | None


@value
class ReadRegions:
    """Read the current content of these extents of the protected disks.

    `Done.value` is the batch with its payload (the same rows).
    """

    stream: StreamId
    batch: WriteBatch


@value
class ReadDigests:
    """Digest the current content of a stretch, region by region: of the protected disk, or of the recovery side's.

    There, that is the mirror with everything durable in the journal, and the effect is ordered with `Append`.
    `Done.value` is the digests as bytes, of equal length, one after another (`messages.Compare`).
    """

    stream: StreamId
    epoch: int
    extent: Extent


@value
class Discard:
    """Delete the journals and mirror disks of these VMs of a stream. Idempotent.

    `keep_disks`: apply what is in the journals to the mirror disks, and delete the journals only.
    """

    stream: StreamId
    vms: tuple[VmId, ...]
    keep_disks: bool = False


@value
class Publish:
    """Make a fact known: to measures, reports, alerts."""

    fact: Fact


@value
class Keep:
    """Remember a checkpoint in the recovery site's catalogue, durably."""

    checkpoint: Checkpoint


@value
class Forget:
    """Remove the checkpoints before this one from the catalogue, durably. None: all of them."""

    vpg: str
    before: CheckpointId | None


@value
class Perform:
    """Carry out an action of a workflow. (address, step) is its key: asked for again, nothing is done twice.

    `Done.value` is the action's result.
    """

    step: Step
    action: Action[object]


Effect = (
    Send | Arm | HoldGuests | ReleaseGuests | FreezeGuests | ThawGuests | TapVolumes | Capture | UntapVolumes | Append
    | Promote | ReadRegions | ReadDigests | Discard | Publish | Keep | Forget | Perform
)  # fmt: skip


class EffectId(NamedTuple):
    """The same on replay; live, the idempotency key given to the platform."""

    address: Address
    n: int
