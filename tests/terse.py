"""Terse: what machines hear, say and do in a few words each, for golden conversations and diagrams of them.

A write of 4 sectors from sector 8 on is "vm1 8+4" ("vm1/1 8+4" on its second volume), a frame "0..1" takes the
journals from position 0 to 1, "at 1,0" is a position of a stream with two VMs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from drsim.core.batch import WriteBatch
from drsim.core.effects import (
    Append,
    Arm,
    Capture,
    Discard,
    Effect,
    Forget,
    FreezeGuests,
    HoldGuests,
    Keep,
    Promote,
    Publish,
    ReadDigests,
    ReadRegions,
    ReleaseGuests,
    Send,
    TapVolumes,
    ThawGuests,
    UntapVolumes,
)
from drsim.core.events import (
    Connected,
    DeleteAsked,
    Done,
    Event,
    Failed,
    FenceAsked,
    Fired,
    GuestWrote,
    Lost,
    PauseAsked,
    PinAsked,
    Received,
    Reconfigured,
    SyncAsked,
    TagAsked,
    VmArrived,
    VmLeft,
    VolumeFound,
    VolumeLost,
    WritesMissed,
)
from drsim.core.facts import (
    BitmapGivenUp,
    CheckpointListed,
    CheckpointSealed,
    CheckpointSkipped,
    CheckpointsRetired,
    FrameRefused,
    GenerationChanged,
    RecoverySideChanged,
    StateChanged,
    StoreChanged,
    SyncEnded,
    SyncStarted,
    VpgDeleted,
)
from drsim.core.messages import (
    Aborted,
    Ack,
    Age,
    Await,
    Close,
    Closed,
    Compare,
    Compared,
    Configure,
    Delete,
    Deleted,
    Forced,
    ForceSync,
    Frame,
    Freeze,
    Frozen,
    Held,
    Hold,
    JournalLimit,
    Lineage,
    Listed,
    Marks,
    Members,
    Missed,
    Nack,
    Pause,
    Reached,
    Release,
    Released,
    Resync,
    Resynced,
    Sealed,
    Standing,
    Start,
    StoreState,
    SyncChanged,
    SyncDone,
    Thaw,
    Where,
    Withdrawn,
)
from drsim.core.names import Address, Extent, StreamId, StreamSpec, VmId, VolumeId
from drsim.core.status import Sync, project
from drsim.core.units import SECTOR

QUIET = ("checkpoint", "age")  # timers that are armed again each time; not worth a line
Name = Callable[[Address], str]
"""Who is who."""


def span(batch: WriteBatch) -> str:
    """Rows as "vm1 8+4": volume, if not the first, behind a slash."""
    columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
    return ", ".join(
        f"vm{vm}{f'/{volume % 10}' if volume % 10 else ''} {lba}+{sectors}"
        for vm, volume, lba, sectors in zip(*columns, strict=True)
    )


def machines(vms: Sequence[VmId]) -> str:
    return ", ".join(f"vm{vm}" for vm in vms)


def at(position: Sequence[int]) -> str:
    return ",".join(map(str, position))


def frame(f: Frame) -> str:
    kind = "sync frame" if f.sync else "frame"
    return f"{kind} {at(f.after)}..{at(f.upto)}{epoch(f.epoch)} [{span(f.batch)}]"


def stretch(extent: Extent) -> str:
    """As a row of a batch."""
    volume = f"/{extent.volume % 10}" if extent.volume % 10 else ""
    return f"vm{extent.vm}{volume} {extent.lba}+{extent.sectors}"


def host(address: Address) -> str:
    return address.split("/")[1]


def part(stream: StreamId) -> str:
    return f", part {stream.part}" if stream.part > 1 else ""


def spoken(kind: StrEnum) -> str:
    """BitmapSync in words."""
    return re.sub("(?<!^)([A-Z])", r" \1", kind.value).lower()


def forced(full: bool, volumes: Sequence[VolumeId]) -> str:
    """What an operator wants synchronized."""
    some = f" of {', '.join(f'volume {v}' for v in volumes)}" if volumes else ""
    return f"force {'full ' if full else ''}sync{some}"


def configuration(version: int, streams: Sequence[StreamSpec], starts: Mapping[StreamId, Start]) -> str:
    """A VPG's streams, and of those that are new what the other side has."""
    parts = []
    for spec in streams:
        start = starts.get(spec.id)
        new = f" new, {start.value}" if start else ""
        vms = " ".join(f"vm{vm}" for vm in spec.vms)
        parts.append(f"{vms} {host(spec.id.source)}-{host(spec.id.target)}{part(spec.id)}{new}")
    return f"version {version}: {'; '.join(parts) or 'nothing'}"


def epoch(n: int) -> str:
    return f" epoch {n}" if n > 1 else ""


def time(ns: int) -> str:
    return f"{ns // 10**6} ms" if ns >= 10**6 else f"{ns} ns"


def message(m: object) -> str:
    """A message in a few words."""
    match m:
        case Frame():
            return frame(m)
        case Ack():
            return f"ack {at(m.durable)}{epoch(m.epoch)}"
        case Nack():
            return f"nack, expected {at(m.expected)}{epoch(m.epoch)}: {m.reason.value}"
        case Resync():
            return f"resync{epoch(m.epoch)} after {at(m.after)}"
        case Resynced():
            return f"resynced{epoch(m.epoch)}"
        case SyncDone():
            return f"sync done at {at(m.upto)}{epoch(m.epoch)}"
        case Where():
            return "where do we stand?"
        case Standing():
            return f"nothing is beyond {at(m.position)}, epoch {m.epoch}"
        case Marks():
            marks = (f"{n} at {at(cut.position)}{epoch(cut.epoch)}" for n, cut in m.marks.items())
            return f"marks: {', '.join(marks) or 'none'}"
        case Hold():
            return f"hold {m.checkpoint}{' alone' if m.alone else ''}"
        case Held():
            frozen = f", frozen: {machines(m.frozen)}" if m.frozen else ""
            return f"held {m.checkpoint} at {' '.join(at(c.position) + epoch(c.epoch) for c in m.cut.values())}{frozen}"
        case Freeze():
            return f"freeze {m.number}"
        case Frozen():
            return f"frozen {m.number}"
        case Thaw():
            return f"thaw {m.number}"
        case Release():
            return f"release {m.checkpoint}"
        case Released():
            return f"released {m.checkpoint}"
        case Aborted():
            return f"aborted {m.checkpoint}: {m.reason}"
        case SyncChanged():
            if m.sync is Sync.IN_SYNC:
                return "in sync"
            rest = f"{', waiting' if m.waiting else ''}{', volume missing' if m.missing else ''}"
            return f"{spoken(m.sync)}: {m.trigger.value}{rest}"
        case Compare():
            return f"compare {stretch(m.extent)}{epoch(m.epoch)}"
        case Compared():
            return f"{stretch(m.extent)}: {sum(m.differs)} of {len(m.differs)} regions differ{epoch(m.epoch)}"
        case Configure():
            return f"configuration {configuration(m.version, m.streams, m.starts)}"
        case Pause():
            return "pause" if m.paused else "resume"
        case Lineage():
            return f"generation {m.generation}{', fenced' if m.fenced else ''}"
        case Forced():
            return "forced"
        case ForceSync():
            return forced(m.full, m.volumes)
        case Close():
            return f"close the stream from {host(m.stream.source)}{part(m.stream)}"
        case Members():
            return f"members: {', '.join(host(s.source) + part(s) for s in m.streams) or 'none'}"
        case Delete():
            return f"delete{', keep the disks' if m.keep_disks else ''}"
        case Deleted():
            return "deleted"
        case Closed():
            return f"closed the stream from {host(m.stream.source)}{part(m.stream)}"
        case Sealed(checkpoint):
            tag = f" {checkpoint.tag!r}" if checkpoint.tag else ""
            rest = f", at rest: {machines(checkpoint.quiesced)}" if checkpoint.quiesced else ""
            return f"sealed {checkpoint.id}{tag} at {' | '.join(at(c.position) for c in checkpoint.cut.values())}{rest}"
        case Await():
            return f"await {m.checkpoint} at {at(m.cut.position)}{epoch(m.cut.epoch)}"
        case Reached():
            return f"reached {m.checkpoint}"
        case Missed():
            return f"missed {m.checkpoint}"
        case Listed():
            return f"listed {m.checkpoint}"
        case Withdrawn():
            return "no recovery point"
        case Age():
            return "age everything" if m.checkpoint is None else f"age up to checkpoint {m.checkpoint}"
        case JournalLimit():
            keep = "nothing helps" if m.keep_from is None else f"keep from {m.keep_from}"
            return f"journal limit, {keep}{', sync window' if m.syncing else ''}"
        case StoreState():
            return "store ok" if m.ok else f"store not ok: {m.reason}"
    raise TypeError(m)


def fact(f: object) -> str:
    match f:
        case CheckpointSealed():
            return f"checkpoint {f.checkpoint} sealed"
        case CheckpointListed():
            return f"checkpoint {f.checkpoint} listed"
        case CheckpointSkipped():
            return f"checkpoint {f.checkpoint} skipped: {f.reason}"
        case CheckpointsRetired():
            return f"checkpoints {'all' if f.before is None else f'before {f.before}'} retired: {f.reason}"
        case GenerationChanged():
            return f"generation {f.generation}{', fenced' if f.fenced else ''}"
        case SyncStarted():
            return f"{spoken(f.sync)} begins, {f.dirty_bytes // SECTOR} sectors dirty: {f.trigger.value}"
        case SyncEnded():
            compared = f"{f.compared_bytes // SECTOR} sectors compared, " if f.compared_bytes else ""
            return f"{spoken(f.sync)} ended, {compared}{f.sent_bytes // SECTOR} sectors sent"
        case StateChanged():
            return "state " + ", ".join(filter(None, (*project(f.regions), f.cause)))
        case FrameRefused():
            return f"frame refused: {f.reason}"
        case StoreChanged():
            return "store takes data again" if f.ok else f"store takes no data: {f.reason}"
        case RecoverySideChanged():
            return f"recovery side: {f.peer}"
        case VpgDeleted():
            return "deleted"
        case BitmapGivenUp():
            return "bitmap given up"
    raise TypeError(f)


def event(e: Event, name: Name) -> str:
    """What a machine hears."""
    match e:
        case GuestWrote(_, batch):
            return f"wrote {span(batch)}"
        case WritesMissed(_, batch):
            return f"wrote {span(batch)}, content unknown"
        case Received(sender, said):
            return f"<- {name(sender)}: {message(said)}"
        case Fired(timer):
            return f"timer {timer.split()[0]}"
        case Done(_, Append(f)) if not len(f.batch):
            return f"stored the beginning of epoch {f.epoch}"
        case Done(_, Append(f)):
            return f"stored {at(f.after)}..{at(f.upto)}"
        case Done(_, Promote() as promote):
            return f"mirror is at {at(promote.upto)}"
        case Done(_, ReadRegions(_, batch)):
            return f"has read {span(batch)}"
        case Done(_, ReadDigests(_, _, extent)):
            return f"has digested {stretch(extent)}"
        case Done(_, FreezeGuests(_, number), vms):
            return f"freeze {number}: {machines(vms) or 'nobody'} frozen"
        case Done(_, done):
            return f"done: {effect(done, name)}"
        case Failed(_, failed, error):
            return f"failed, {error.message}: {effect(failed, name)}"
        case Lost(peer):
            return f"lost {name(peer)}"
        case Connected(peer):
            return f"connected to {name(peer)}"
        case TagAsked(tag, quiesce):
            return f"tag {tag!r} asked{', with applications at rest' if quiesce else ''}"
        case PinAsked(checkpoint, pinned):
            return f"{'pin' if pinned else 'unpin'} {checkpoint}"
        case PauseAsked(paused):
            return f"{'pause' if paused else 'resume'} asked"
        case FenceAsked(generation, fenced):
            return f"{'fence' if fenced else 'let the source go on'} asked, generation {generation}"
        case SyncAsked(full, volumes):
            return f"{forced(full, volumes)} asked"
        case VolumeLost(volume):
            return f"volume {volume} is missing"
        case VolumeFound(volume):
            return f"volume {volume} is back"
        case Reconfigured(version, streams, starts):
            return f"reconfigured, {configuration(version, streams, starts)}"
        case VmLeft(vm):
            return f"vm{vm} has left"
        case VmArrived(vm):
            return f"vm{vm} has arrived"
        case DeleteAsked(keep_disks):
            return f"delete{', keep the disks' if keep_disks else ''} asked"
    return type(e).__name__.lower()


def effect(e: Effect, name: Name) -> str:
    """What a machine wants; nothing for what is not worth a line."""
    match e:
        case Send(to, said):
            return f"-> {name(to)}: {message(said)}"
        case Arm(timer, delay):
            return "" if timer in QUIET else f"timer {timer.split()[0]} in {time(delay)}"
        case HoldGuests():
            return "hold guests"
        case ReleaseGuests():
            return "release guests"
        case FreezeGuests(_, number, vms):
            return f"freeze {number}: {machines(vms)}"
        case ThawGuests(_, number):
            return f"thaw {number}"
        case Append(f) if not len(f.batch):
            return f"store the beginning of epoch {f.epoch}, after {at(f.after)}"
        case Append(f):
            return f"store {at(f.after)}..{at(f.upto)}"
        case Promote():
            return f"mirror up to {at(e.upto)}, {e.nbytes // SECTOR} sectors"
        case ReadRegions(_, batch):
            return f"read {span(batch)}"
        case ReadDigests(_, _, extent):
            return f"digest {stretch(extent)}"
        case Discard(stream, vms):
            return f"discard what there is of {', '.join(f'vm{vm}' for vm in vms)}{part(stream)}"
        case TapVolumes(spec):
            return f"tap {', '.join(f'vm{vm}' for vm in spec.vms)}{part(spec.id)}"
        case Capture(_, content):
            return "capture content" if content else "capture without content"
        case UntapVolumes(stream):
            return f"untap the stream to {host(stream.target)}{part(stream)}"
        case Keep(checkpoint):
            return f"keep checkpoint {checkpoint.id}"
        case Forget(_, before):
            return "forget all checkpoints" if before is None else f"forget checkpoints before {before}"
        case Publish(f):
            return f"note: {fact(f)}"
    raise TypeError(e)
