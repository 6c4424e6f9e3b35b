"""Plain: what happens in a run of the explorer, in the words of the field.

VMs, sectors and writes are numbered as the truth has them (`guests.py`): write 3 of VM 1 is the third that VM 1's disk
took. A machine's own numbers, of epochs and journals, are told only where nothing else says it.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from drsim.core.catalog import AGE
from drsim.core.effects import Append, Effect, Forget, FreezeGuests, Keep, Promote, ReadDigests, ReadRegions
from drsim.core.facts import (
    BitmapGivenUp,
    CheckpointListed,
    CheckpointSealed,
    CheckpointSkipped,
    CheckpointsRetired,
    EpochDue,
    Fact,
    FrameRefused,
    GenerationChanged,
    RecoverySideChanged,
    StoreChanged,
    SyncDropped,
    SyncEnded,
    SyncStarted,
    VpgDeleted,
)  # fmt: skip
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
    Message,
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
    StoreState,
    SyncChanged,
    SyncDone,
    Thaw,
    Where,
    Withdrawn,
)  # fmt: skip
from drsim.core.names import Address, Extent, VmId
from drsim.core.recovery_vra import RETRY
from drsim.core.status import Sync
from drsim.core.vpg import DEADLINE, TICK
from drsim.verify.bags import Link
from drsim.verify.guests import Write

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer

FOLLOWED = (Held, Released, Aborted, Hold, Release, Ack, Nack, Resync, Age, Sealed)
"""Messages that are told when they are sent; all are told when they arrive."""
PLAINLY: Mapping[type, str] = {
    Marks: "the marks of what is listed",
    StoreState: "the state of a store",
    JournalLimit: "the word that a journal is nearly full",
    Withdrawn: "the word that there is no recovery point",
    Deleted: "the word that the VPG is deleted",
    ForceSync: "the word to compare everything",
}
"""Messages that need no more than a name."""


def runs(numbers: Iterable[int]) -> str:
    """1-3, 5."""
    groups = [[n for _, n in g] for _, g in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)


def listing(parts: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


class Words:
    """The words for one estate."""

    def __init__(self, x: "Explorer") -> None:
        self.x = x
        self._several = len(x.estate.vpgs) > 1

    # -- who --------------------------------------------------------------------------------------------------

    def of(self, vpg: str) -> str:
        """Which VPG, where there are several."""
        return f" of {vpg}" if self._several else ""

    def place(self, address: Address) -> str:
        """A machine: VRA h1, recovery VRA r1, the manager, the catalogue."""
        _, middle, last = address.split("/")
        match middle, last:
            case "vpg", vpg:
                return f"the manager{self.of(vpg)}"
            case "catalog", vpg:
                return f"the catalogue{self.of(vpg)}"
            case host, "vra":
                return f"VRA {host}"
            case host, _:
                return f"recovery VRA {host}"

    def link(self, link: Link) -> str:
        """A connection."""
        return f"{self.place(link[0])} - {self.place(link[1])}"

    def write(self, write: Write) -> str:
        """A write by its number: write 2 of VM 1."""
        number = f"write {write.index}" if write.index else "a write in flight"
        return f"{number} of VM {write.guest.vm}"

    def where(self, write: Write) -> str:
        """Which sectors a write has: sectors 0-3 of volume 1."""
        last = write.lba + write.sectors - 1
        sectors = f"sector {write.lba}" if last == write.lba else f"sectors {write.lba}-{last}"
        volumes = write.guest.volumes
        if len(volumes) == 1:
            return sectors
        return f"{sectors} of volume {[v.id for v in volumes].index(write.volume)}"  # type: ignore[arg-type]

    def extent(self, extent: Extent) -> str:
        """A stretch: sectors 0-7 of VM 1."""
        return f"sectors {extent.lba}-{extent.lba + extent.sectors - 1} of VM {extent.vm}"

    def writes(self, writes: Iterable[Write]) -> str:
        """Several: writes 1-2 of VM 1 and write 1 of VM 2."""
        of: dict[VmId, list[int]] = {}
        for write in writes:
            of.setdefault(write.guest.vm, []).append(write.index)
        return listing([f"write{'s' if len(n) > 1 else ''} {runs(n)} of VM {vm}" for vm, n in of.items()]) or "nothing"

    # -- guests -----------------------------------------------------------------------------------------------

    def wrote(self, write: Write) -> str:
        """A guest wrote."""
        word = "discarded" if write.discard else "wrote"
        return f"VM {write.guest.vm} {word} {self.where(write)} (write {write.index})"

    def issued(self, write: Write) -> str:
        """A guest issued a write that stays in flight."""
        number = f" (later write {write.index})" if write.index else ""
        return f"VM {write.guest.vm} issued a write of {self.where(write)}{number}, which stays in flight"

    # -- messages ---------------------------------------------------------------------------------------------

    def content(self, frame: Frame) -> str:
        """What a frame carries."""
        batch = frame.batch
        if batch.payload is None:
            rows = self.x.rows[frame.stream].writes
            return self.writes(rows[row] for row in batch.issued.tolist())
        of: dict[int, list[int]] = {}
        columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
        for vm, volume, lba, n in zip(*columns, strict=True):
            start = self.x.guests[VmId(vm)].offset[volume] + lba
            of.setdefault(vm, []).extend(range(start, start + n))
        return listing([f"sectors {runs(n)} of VM {vm}" for vm, n in of.items()]) or "the begin of an epoch"

    def message(self, message: Message) -> str:
        """A message."""
        match message:
            case Frame(sync=True):
                return f"a frame of the sync with {self.content(message)}"
            case Frame():
                return f"a frame with {self.content(message)}"
            case Ack(durable=durable):
                return f"an acknowledgement (durable up to {_position(durable)})"
            case Nack(reason=reason):
                return f"a refusal ({reason})"
            case Resync(epoch=epoch):
                return f"the begin of epoch {epoch}"
            case Resynced(epoch=epoch):
                return f"the word that epoch {epoch} has begun"
            case SyncDone():
                return "the word that all of the sync is sent"
            case Where():
                return "the question where the stream stands"
            case Standing():
                return "the answer where the stream stands"
            case SyncChanged(sync=sync):
                return f"the word that a stream {'is in sync' if sync is Sync.IN_SYNC else 'synchronizes'}"
            case Compare(extent=extent):
                return f"the digests of {self.extent(extent)}"
            case Compared(extent=extent, differs=differs):
                return f"the answer that {sum(differs)} of {len(differs)} regions of {self.extent(extent)} differ"
            case Freeze(number=number):
                return f"the word to freeze guests (freeze {number})"
            case Frozen(vra=vra, number=number):
                return f"{self.place(vra)}'s word that it waits for no more guests (freeze {number})"
            case Thaw(number=number):
                return f"the word to end freeze {number}"
            case Configure(version=version):
                return f"configuration {version}"
            case Close(stream=stream):
                return f"the word that stream {stream} is needed no more"
            case Pause(paused=paused):
                return f"the word to {'pause' if paused else 'resume'} replication"
            case Lineage(generation=generation, fenced=fenced):
                return f"the word that it is in generation {generation}, {'fenced' if fenced else 'and goes on'}"
            case Delete():
                return "the word to delete the VPG"
            case Members(streams=streams):
                return f"the word that it has {len(streams)} streams now"
            case Closed(stream=stream):
                return f"the word that the journals of stream {stream} are gone"
            case Forced(vra=vra):
                return f"{self.place(vra)}'s word that it compares everything"
            case Age(checkpoint=None):
                return "the leave to age everything"
            case Sealed(checkpoint):
                return f"the sealed checkpoint {checkpoint.id}"
            case Marks() | StoreState() | JournalLimit() | Withdrawn() | Deleted() | ForceSync():
                return PLAINLY[type(message)]
            case _:
                return f"{self._control(message)} {message.checkpoint}"

    def _control(self, message: Message) -> str:
        match message:
            case Hold():
                return "the hold for checkpoint"
            case Held(vra=vra, vpg=vpg, checkpoint=checkpoint, cut=parts):
                cut = self.x.checks.cuts[vpg, checkpoint]
                mine = [vm for stream in parts for vm in self.x.specs[stream].vms if vm in cut]
                captured = listing([f"VM {vm} up to write {cut[vm]}" for vm in mine])
                return f"{self.place(vra)}'s answer ({captured}) for checkpoint"
            case Release():
                return "the release of checkpoint"
            case Released(vra=vra):
                return f"{self.place(vra)}'s word that it had held for checkpoint"
            case Aborted(vra=vra, reason=reason):
                return f"{self.place(vra)}'s word that it cannot vouch ({reason}) for checkpoint"
            case Await():
                return "the question for checkpoint"
            case Reached():
                return "the word that a journal has reached checkpoint"
            case Missed():
                return "the word that a journal never will reach checkpoint"
            case Listed():
                return "the word that the newest that can be recovered is checkpoint"
            case _:
                return "the leave to age what lies before checkpoint"

    def sends(self, sender: Address, message: Message) -> str:
        """A machine sends; nothing for what is told well enough when it arrives."""
        if not isinstance(message, FOLLOWED):
            return ""
        who = self.place(sender)
        what = self.message(message).replace(f"{who}'s", "its")
        return f"{who} sent {what}"

    def got(self, to: Address, messages: Sequence[Message]) -> str:
        """Messages arrived."""
        return f"{self.place(to)} got {listing([self.message(m) for m in messages])}"

    # -- effects, timers, facts -------------------------------------------------------------------------------

    def done(self, address: Address, effect: Effect, *, fail: bool) -> str:
        """An effect was performed, or failed."""
        who = self.place(address)
        match effect:
            case Append(frame):
                return f"{who} {'could not journal' if fail else 'journaled'} {self.content(frame)}"
            case Promote(checkpoint=checkpoint):
                until = "everything durable" if checkpoint is None else f"what lies before checkpoint {checkpoint}"
                return f"{who} {'could not age' if fail else 'aged'} {until} into the mirror disks"
            case ReadRegions():
                return f"{who} {'could not read' if fail else 'read'} dirty regions of its disks"
            case ReadDigests(extent=extent):
                return f"{who} {'could not digest' if fail else 'digested'} {self.extent(extent)}"
            case FreezeGuests(number=number):
                return f"{who} {'could not freeze its' if fail else 'froze those of its'} guests (freeze {number})"
            case Keep(checkpoint):
                return f"{who} {'could not keep' if fail else 'kept'} checkpoint {checkpoint.id}"
            case Forget(_, before):
                which = "all checkpoints" if before is None else f"the checkpoints before {before}"
                return f"{who} {'could not forget' if fail else 'forgot'} {which}"
            case _:
                return f"{who}: {type(effect).__name__}"

    def expired(self, address: Address, timer: str) -> str:
        """A timer ran out."""
        who, name = self.place(address), timer.partition(" ")[0]
        whole = {
            TICK: f"a checkpoint{self.of(address.split('/')[-1])} was due",
            AGE: f"the history{self.of(address.split('/')[-1])} was looked through",
            DEADLINE: f"{who} had waited long enough for answers",
            RETRY: f"{who} tried its store again",
        }
        if timer in whole:
            return whole[timer]
        return {
            "hold": f"the hold of {who} ran out",
            "freeze": f"{who} had waited long enough for guests to be frozen, or had them frozen long enough",
            "flush": f"a frame of {who} had waited long enough",
            "pause": f"{who} tried again",
        }.get(name, f"the timer {name} of {who} ran out")

    def fact(self, fact: Fact) -> str:
        """Something that a machine made known."""
        match fact:
            case CheckpointSealed(vpg=vpg, checkpoint=checkpoint):
                cut = self.x.checks.cuts[vpg, checkpoint]
                has = listing([f"VM {vm} up to write {k}" for vm, k in cut.items()])
                return f"checkpoint {checkpoint}{self.of(vpg)} is sealed: {has}"
            case CheckpointSkipped(vpg=vpg, checkpoint=checkpoint, reason=reason):
                return f"checkpoint {checkpoint}{self.of(vpg)} is void: {reason}"
            case CheckpointListed(vpg=vpg, checkpoint=checkpoint):
                return f"checkpoint {checkpoint}{self.of(vpg)} is listed"
            case CheckpointsRetired(vpg=vpg, before=before, reason=reason):
                which = "all checkpoints" if before is None else f"the checkpoints before {before}"
                return f"{which}{self.of(vpg)} left the list: {reason}"
            case EpochDue(vpg=vpg, vm=vm, host=host):
                return f"VM {vm} runs on {host}, and an epoch{self.of(vpg)} is due at once"
            case GenerationChanged(vpg=vpg, generation=generation, fenced=fenced):
                what = "is fenced" if fenced else "goes on"
                return f"the source{self.of(vpg)} {what} in generation {generation}"
            case SyncStarted(stream=stream, sync=sync, trigger=trigger):
                return f"{self.place(stream.source)} fell out of sync: {trigger} ({sync})"
            case SyncEnded(stream=stream):
                return f"{self.place(stream.source)} is in sync"
            case SyncDropped(stream=stream):
                return f"{self.place(stream.source)} ended before it was in sync"
            case RecoverySideChanged(vpg=vpg, peer=peer):
                return f"the recovery site says{self.of(vpg)}: {peer}"
            case VpgDeleted(vpg=vpg):
                return f"the VPG {vpg} is gone"
            case BitmapGivenUp(stream=stream):
                return f"the bitmap of {self.place(stream.source)} had no room for more"
            case StoreChanged(stream=stream, ok=ok, reason=reason):
                return f"the store of {self.place(stream.target)} {'takes data' if ok else f'takes no data: {reason}'}"
            case FrameRefused(stream=stream, reason=reason):
                return f"{self.place(stream.target)} refused a frame: {reason}"
            case _:
                return type(fact).__name__

    def mark(self, name: str, item: tuple[Address, str], *, there: bool) -> str:
        """The world does otherwise from now on: a store, or a connection."""
        first, other = self.place(item[0]), item[1]
        if name == "store":
            return f"the store of {first}{self.of(other)} {'was full' if there else 'had room again'}"
        second = self.place(Address(other))
        if name == "clogged":
            return f"the connection from {first} to {second} carried {'nothing' if there else 'again'}"
        return f"the connection {first} - {second} {'swallowed everything, unnoticed' if there else 'was put right'}"


def _position(position: tuple[int, ...]) -> str:
    return ", ".join(map(str, position))
