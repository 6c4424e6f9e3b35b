"""Sender: the sending half of one stream inside a protected VRA.

Theory of operation.

    state      guest writes are     leaves when
    ---------  -------------------  --------------------------------------------------------------------------
    IN_SYNC    numbered and queued  `fold`: buffer full, writes missed, peer lost, pause -> WAITING or HANDSHAKE
    ASKING     marked dirty         `Standing`: epoch and numbers are known           -> WAITING or HANDSHAKE
    WAITING    marked dirty         the peer is connected, nothing holds it up        -> HANDSHAKE
    HANDSHAKE  marked dirty         `Resynced` for this epoch                         -> SWEEP
    SWEEP      marked dirty         what is dirty fits the tail                       -> TAIL
    TAIL       numbered and queued  nothing is dirty and the last sync frame durable  -> IN_SYNC

Captured writes collect in an open frame, which is cut when it is full, when its timer fires and when a checkpoint
holds; where it is cut depends on the writes only, never on how they were handed in. Cut frames queue, are sent while
the window has room, and are freed by acknowledgement.

`fold` is one step: everything not acknowledged (open, queued, in flight) is marked dirty and the epoch ends. Numbers
are never used twice: the next epoch begins after the last number given. In a sweep, dirty regions are sent with
their current content. Such a sync frame takes its numbers and its place in the queue when the read is *asked*, so a
write captured while the read is under way comes after it and cannot be overwritten by older content. A region is in
flight until its frame is acknowledged; a fold marks it dirty again. While much is to be swept the tap need not keep the
content of writes (`Capture`). It is asked for with the tail; a write that it missed by then is dirty as before.

All kinds of synchronization are this one sweep; they differ in what is marked when it begins (`Start`, `distrust`):

    kind                            marked                         before it is sent
    ------------------------------  -----------------------------  ----------------------
    bitmap                          what was not acknowledged      -
    delta, forced delta             every region, as unsure        compared by digests
    volume delta                    every region of some volumes   compared by digests
    initial; full; of some volumes  every region, as dirty         -
    of a volume that grew           its new regions, as dirty      -
    initial, preseeded              every region, as unsure        compared by digests

Unsure regions are compared one stretch at a time, beside the sweep of what is known to be dirty: the digests of the
source go to the peer, which answers which regions differ from what it holds. What a guest writes meanwhile is dirty,
whatever the answer. A region is compared at most once in an epoch and before it is sent in that epoch, and the epoch
begins when everything of the one before is durable or gone: so no older frame can change a region after it was found
equal.

After a crash the bitmap is lost with the rest, and a new stream knows nothing of the other side; so the peer is asked
where the stream stands: the next epoch lies beyond any that it knows of, and the next number beyond any that it may
hold. Until an epoch has begun it is asked again over each new connection: what a recovery VRA told before it crashed
does not bind the one that is built after it. A bitmap that outgrows its memory is given up for a delta sync.

What holds a stream up: an operator's pause, a volume that is missing, and a fence (`adopt`): the VPG is in a later
generation, in which another side accepts guest writes. Everything that was not acknowledged when it came is dirty.

No checkpoint may be cut outside IN_SYNC: data of a sweep arrives out of write order.

Assumes: a connection keeps order and loses nothing until it is reported `Lost`. Gaps and refusals are still answered
by sending again from what the receiver expects.
"""

from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from operator import add

from drsim.core.batch import OpenFrame, WriteBatch
from drsim.core.bitmap import DirtyBitmap
from drsim.core.effects import Arm, Capture, Effect, Publish, ReadDigests, ReadRegions, Send, TapVolumes
from drsim.core.facts import BitmapGivenUp, SyncEnded, SyncStarted
from drsim.core.messages import (
    Ack,
    Compare,
    Compared,
    Cut,
    Frame,
    Nack,
    Position,
    Refusal,
    Resync,
    Resynced,
    Standing,
    Start,
    SyncDone,
    Trigger,
    Where,
)  # fmt: skip
from drsim.core.names import Extent, StreamSpec, VolumeId
from drsim.core.status import GRAVITY, Sync
from drsim.core.units import SECTOR, Ns
from drsim.core.window import Window, reaches
from drsim.spec.tweaks import Tweaks


class SendState(StrEnum):
    """States of the table above."""

    IN_SYNC = "in sync"
    ASKING = "asking"
    WAITING = "waiting"
    HANDSHAKE = "handshake"
    SWEEP = "sweep"
    TAIL = "tail"


IN_SYNC, ASKING, WAITING, HANDSHAKE, SWEEP, TAIL = SendState  # found ten times as fast, and asked for at every step
NUMBERING = (IN_SYNC, TAIL)
SWEEPING = (SWEEP, TAIL)

TRIGGER_OF = {
    Refusal.GAP: Trigger.NETWORK_CONGESTION,
    Refusal.BUSY: Trigger.RECOVERY_CONGESTION,
    Refusal.LIMIT: Trigger.RECOVERY_STORAGE_ERROR,
    Refusal.FULL: Trigger.RECOVERY_STORAGE_ERROR,
}


STARTS = {
    Start.CRASHED: Sync.DELTA, Start.MOVED: Sync.VOLUME_DELTA, Start.INITIAL: Sync.INITIAL,
    Start.PRESEEDED: Sync.INITIAL, Start.RETARGETED: Sync.VOLUME_INITIAL,
}  # fmt: skip
EMPTY = (Start.INITIAL, Start.RETARGETED)
JOINING = (Start.INITIAL, Start.PRESEEDED)


class Sender:
    """One stream's sending half. `used` is its share of the VRA's buffer, in bytes."""

    def __init__(
        self, spec: StreamSpec, tweaks: Tweaks, *, tail_bytes: int, generation: int = 1, start: Start = Start.EQUAL
    ) -> None:
        self.spec, self.tweaks, self.generation = spec, tweaks, generation
        self.state = IN_SYNC
        self.sync = Sync.IN_SYNC  # which kind is under way
        self._begun = start is Start.EQUAL  # an epoch has, in this life
        self.joining = start in JOINING  # no checkpoint has this stream before it is in sync for the first time
        self.trigger = Trigger.NONE
        self.epoch = 1
        self.connected = True
        self.paused = False
        self.fenced = False  # another side accepts guest writes
        self.missing: set[VolumeId] = set()  # volumes that are not there: nothing is sent
        self.refused: Refusal | None = None
        self.numbered: Position = (0,) * len(spec.vms)  # last number given to each VM
        self.durable: Position = self.numbered  # last acknowledged
        self.bitmap = DirtyBitmap(tweaks.region_bytes, spec.volumes)
        self.window = Window(max_frames=tweaks.window_frames, max_bytes=tweaks.window_bytes)
        self._open = OpenFrame()
        self._queue: deque[Frame] = deque()
        self._queued_bytes = 0
        self._reading: Frame | None = None  # the queued sync frame whose content is being read
        self._comparing: Extent | None = None  # being compared
        self._flushing = False
        self._content = True  # the tap is to keep it
        self._tail_bytes = tail_bytes
        self._swept: Position = self.numbered  # the end of the youngest sync frame
        self._sync_upto: Position | None = None  # the position that ends the sync, once known
        self._sync_sent = self._sync_compared = 0  # bytes
        self._flush_timer = f"flush {spec.id}"
        self._pause_timer = f"pause {spec.id}"
        if start is not Start.EQUAL:
            self.state, self.epoch = ASKING, 0
            self.sync = STARTS[start]
            self.trigger = Trigger.PROTECTED_VRA if start is Start.CRASHED else Trigger.CONFIGURATION
            (self.bitmap.fill if start in EMPTY else self.bitmap.distrust)()

    # -- what the VRA asks ------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes of memory that this stream holds: open, queued and in flight."""
        return self._open.nbytes + self._queued_bytes + self.window.nbytes

    @property
    def syncing(self) -> bool:
        return self.state is not IN_SYNC

    @property
    def waiting(self) -> bool:
        """Whether the peer has no room for what we send."""
        return self.refused is not None

    def cut(self) -> Cut:
        """All that is captured, as a stream's part of a checkpoint. Call after `flush`, in sync."""
        assert self.state is IN_SYNC
        assert not self._open.rows
        return Cut(self.epoch, self.numbered, tuple(volume.id for volume in self.spec.left))

    # -- capture ----------------------------------------------------------------------------------------------

    def capture(self, batch: WriteBatch, room: int) -> tuple[list[Effect], int]:
        """Take guest writes in order while the VRA has `room` bytes of buffer left.

        Returns effects and how many rows were taken; fewer than all means that the row after them found the buffer
        full, and the caller folds. Rows that are marked dirty need no room.
        """
        if self.state not in NUMBERING:
            return self._mark(batch), len(batch)
        nbytes, rows = batch.nbytes, len(batch)
        taken = rows if nbytes <= room else batch.rows_within(room)
        effects: list[Effect] = []
        if taken and not self._flushing:
            self._flushing = True
            effects.append(Arm(self._flush_timer, Ns(self.tweaks.frame_delay)))
        if taken < rows:
            batch = batch.rows(0, taken)
            nbytes = batch.nbytes
        while batch.hi > batch.lo:
            batch, nbytes = self._fill(batch, nbytes, effects)
        return effects, taken

    def _fill(self, batch: WriteBatch, nbytes: int, effects: list[Effect]) -> tuple[WriteBatch, int]:
        """Move rows into the open frame, cut it when full; returns what is left."""
        opened, tweaks, waiting = self._open, self.tweaks, len(batch)
        rows = min(waiting, tweaks.frame_writes - opened.rows)
        size = nbytes if rows == waiting else batch.rows(0, rows).nbytes
        if opened.nbytes + size >= tweaks.frame_bytes:  # the row that reaches the limit is the frame's last
            rows = min(rows, batch.rows_within(tweaks.frame_bytes - opened.nbytes - 1) + 1)
            size = batch.rows(0, rows).nbytes
        opened.add(batch if rows == waiting else batch.rows(0, rows), size)
        if opened.rows >= tweaks.frame_writes or opened.nbytes >= tweaks.frame_bytes:
            effects += self.flush()
        return batch.rows(rows, waiting), nbytes - size

    def missed(self, batch: WriteBatch) -> list[Effect]:
        """Guest writes whose content nobody kept: where they went is dirty."""
        if self.state is IN_SYNC or self._sync_upto is not None:
            self.bitmap.mark(batch)
            return self.fold(Trigger.PROTECTED_VRA)
        return self._mark(batch)

    def flush(self) -> list[Effect]:
        """Cut the open frame, if it holds anything, and send what the window allows."""
        if self._open.rows:
            self._enqueue(self._open.cut(), sync=False)
        return self._pump()

    def _enqueue(self, batch: WriteBatch, *, sync: bool) -> Frame:
        counts, sizes = batch.per_vm(self.spec.vms)
        upto = tuple(map(add, self.numbered, counts))
        frame = Frame(self.spec.id, self.generation, self.epoch, self.numbered, upto, sizes, sync, batch)
        self.numbered = upto
        self._queue.append(frame)
        self._queued_bytes += sum(sizes)
        return frame

    def _pump(self) -> list[Effect]:
        effects: list[Effect] = []
        if not self.connected or self.refused is not None:
            return effects
        while self._queue and self._queue[0] is not self._reading:
            frame = self._queue[0]
            nbytes = frame.nbytes
            if not self.window.has_room(nbytes):
                break
            self._queue.popleft()
            self._queued_bytes -= nbytes
            self.window.add(frame)
            if frame.sync:
                self._sync_sent += nbytes
            effects.append(Send(self.spec.id.target, frame))
        if self.state in SWEEPING:
            effects += self._sweep()
        return effects

    # -- synchronization --------------------------------------------------------------------------------------

    def fold(self, trigger: Trigger) -> list[Effect]:
        """Leave sync, or start its sweep again: everything not acknowledged becomes dirty, in one step."""
        self._end_epoch()
        return [*self._begin(Sync.BITMAP, trigger), *self._outgrown(), *self._restart()]

    def distrust(
        self, sync: Sync, trigger: Trigger, volumes: Iterable[VolumeId] | None = None, *, empty: bool = False
    ) -> list[Effect]:
        """Nobody knows what the other side holds of these volumes (None: of all), or it holds nothing (`empty`)."""
        restart: list[Effect] = []
        if self.state not in (ASKING, WAITING, HANDSHAKE):
            self._end_epoch()  # no region may be compared in an epoch in which it was sent
            restart = self._restart()
        (self.bitmap.fill if empty else self.bitmap.distrust)(volumes)
        return [*self._begin(sync, trigger), *restart]

    def _begin(self, sync: Sync, trigger: Trigger) -> list[Effect]:
        """A synchronization begins, or the one under way becomes a graver one."""
        if GRAVITY[sync] <= GRAVITY[self.sync]:
            return []
        if self.sync is Sync.IN_SYNC:
            self._sync_sent = self._sync_compared = 0
        self.sync, self.trigger = sync, trigger
        return [Publish(SyncStarted(self.spec.id, sync, trigger, self.bitmap.nbytes))]

    def _mark(self, batch: WriteBatch) -> list[Effect]:
        self.bitmap.mark(batch)
        return self._outgrown()

    def _outgrown(self) -> list[Effect]:
        """A bitmap that has no room for another region is given up: a delta sync will find out (T6)."""
        if not self.bitmap.outgrown(self.tweaks.bitmap_regions):
            return []
        given_up = Publish(BitmapGivenUp(self.spec.id))
        return [given_up, *self.distrust(Sync.DELTA, Trigger.PROTECTED_VRA)]

    def reconfigure(self, spec: StreamSpec) -> list[Effect]:
        """Volumes have left the stream, come to it, or grown; or its journals may be larger, or smaller.

        The other side learns of it at the beginning of an epoch.
        """
        if spec == self.spec:
            return []
        if self.state not in (WAITING, ASKING):
            self._end_epoch()
        known = {volume.id for volume in self.spec.volumes}
        new = any(volume.id not in known for volume in spec.volumes)
        self.spec = spec
        self.bitmap.reshape(spec.volumes)
        self.missing.intersection_update(volume.id for volume in spec.volumes)
        kind = Sync.VOLUME_INITIAL if new else Sync.BITMAP
        return [TapVolumes(spec), *self._begin(kind, Trigger.CONFIGURATION), *self._go_on()]

    def unacknowledged(self) -> list[WriteBatch]:
        """All rows, not in the bitmap, that are not known to be durable at the other side: open, queued, in flight."""
        return [*(f.batch for f in self.window), *(f.batch for f in self._queue), *self._open.parts]

    def adopt(self, generation: int, *, fenced: bool) -> list[Effect]:
        """The VPG is in a later generation; `fenced`: it is another side's, and nothing is sent."""
        if generation <= self.generation:
            return []
        self.generation, self.fenced, self.refused = generation, fenced, None
        if self.state is ASKING:
            return self._ask() if self.connected else []
        return self._restart() if self.state is WAITING else self.fold(Trigger.CONFIGURATION)

    def pause(self, paused: bool) -> list[Effect]:
        """Send nothing until told otherwise."""
        if paused == self.paused:
            return []
        self.paused = paused
        return self._rest(Trigger.PAUSE) if paused else self._go_on()

    def lost_volume(self, volume: VolumeId) -> list[Effect]:
        """A volume is not there: nothing is sent until it is found, or has left the stream."""
        self.missing.add(volume)
        return self._rest(Trigger.MISSING_VOLUME)

    def found_volume(self, volume: VolumeId) -> list[Effect]:
        """It is back; nobody knows what happened to it."""
        if volume not in self.missing:
            return []
        self.missing.discard(volume)
        return [*self.distrust(Sync.VOLUME_DELTA, Trigger.MISSING_VOLUME, [volume]), *self._go_on()]

    def arrived(self, volumes: list[VolumeId]) -> list[Effect]:
        """The VM of these volumes was elsewhere. Who taps them says anew which are missing."""
        self.missing.difference_update(volumes)
        return [*self.distrust(Sync.VOLUME_DELTA, Trigger.CONFIGURATION, volumes), *self._go_on()]

    def _rest(self, trigger: Trigger) -> list[Effect]:
        return [] if self.state in (WAITING, ASKING) else self.fold(trigger)

    def _go_on(self) -> list[Effect]:
        return self._restart() if self.state is WAITING else []

    def _end_epoch(self) -> None:
        self._reading = None
        if self._comparing is not None:
            self.bitmap.put_back(self._comparing)
            self._comparing = None
        for batch in self.unacknowledged():
            self.bitmap.mark(batch)
        self.window.clear()
        self._queue.clear()
        self._queued_bytes = 0
        if self._open.rows:
            self._open.cut()  # never numbered: the numbers of a stream belong to frames that were cut
        self.epoch += 1
        self._sync_upto = None
        self.state = WAITING

    def started(self) -> list[Effect]:
        """The VRA is up: go on after a stop or a crash."""
        if self.state is ASKING:
            begun = SyncStarted(self.spec.id, self.sync, self.trigger, self.bitmap.nbytes)
            return [Publish(begun), *self._ask()]
        return [] if self.connected else self.reconnected()

    def _ask(self) -> list[Effect]:
        return [] if self.fenced else [Send(self.spec.id.target, Where(self.spec.id, self.generation, self.spec))]

    def standing(self, message: Standing) -> list[Effect]:
        """The peer tells what it may know of our earlier lives."""
        if self.state is not ASKING or message.generation != self.generation:
            return []
        self.epoch = message.epoch + 1
        self.numbered = self.durable = self._swept = message.position
        self.state = WAITING
        return self._restart()

    def _restart(self) -> list[Effect]:
        # A journal at its limit may have to give up all its checkpoints for the sync window, so it must learn of it.
        held_up = not self.connected or self.paused or self.fenced or self.missing
        if held_up or self.refused not in (None, Refusal.LIMIT):
            return []
        self.refused = None
        self.state = HANDSHAKE
        return [Send(self.spec.id.target, Resync(self.spec.id, self.generation, self.epoch, self.numbered, self.spec))]

    def _sweep(self) -> list[Effect]:
        """Ask for the next dirty regions when the window has room; number writes again when little is left."""
        if self._sync_upto is not None:
            return []
        if self._reading is not None or (self._queue and not reaches(self._queue[0].after, self._swept)):
            return []  # one sync frame at a time waits for the window, so that live frames get their turn
        effects = self._compare()
        if self.state is SWEEP:
            fits = self._comparing is None and self.bitmap.nbytes <= self._tail_bytes
            if fits:
                self.state = TAIL
            if fits is not self._content:
                self._content = fits
                effects.append(Capture(self.spec.id, content=fits))
        if self.bitmap.known:
            if self._open.rows:
                self._enqueue(self._open.cut(), sync=False)
            batch = self.bitmap.take(self.tweaks.sync_bytes, Ns(0))
            self._reading = self._enqueue(batch, sync=True)
            self._swept = self._reading.upto
            effects.append(ReadRegions(self.spec.id, batch))
        elif self._comparing is None:
            # Every region was read before now, so everything numbered until now repairs the image.
            self._sync_upto = self.numbered
            done = SyncDone(self.spec.id, self.generation, self.epoch, self.numbered)
            effects += [Send(self.spec.id.target, done), *self._end_if_durable()]
        return effects

    def _compare(self) -> list[Effect]:
        """Ask for the digests of the next stretch of regions that nobody knows about."""
        enough = self.tweaks.compare_bytes // self.tweaks.region_bytes
        if self._comparing is not None or not self.bitmap.unsure or self.bitmap.outgrown(enough):
            return []  # the sweep is to keep up
        self._comparing = self.bitmap.take_unsure(self.tweaks.compare_bytes)
        self._sync_compared += self._comparing.sectors * SECTOR
        return [ReadDigests(self.spec.id, self.epoch, self._comparing)]

    def digested(self, asked: ReadDigests, digests: bytes) -> list[Effect]:
        """The source's digests of these regions."""
        if asked.epoch != self.epoch or asked.extent != self._comparing:
            return []  # of an epoch that has ended
        return [Send(self.spec.id.target, Compare(self.spec.id, self.generation, self.epoch, asked.extent, digests))]

    def compared(self, message: Compared) -> list[Effect]:
        """The peer has told which of the regions differ."""
        of_now = message.generation == self.generation and message.epoch == self.epoch
        if not of_now or message.extent != self._comparing:
            return []
        self.bitmap.settle(message.extent, message.differs)
        self._comparing = None
        return self._pump()

    def read(self, asked: ReadRegions, batch: WriteBatch) -> list[Effect]:
        """The content of dirty regions has been read."""
        frame = self._reading
        if frame is None or frame.batch is not asked.batch:
            return []  # of an epoch that has ended
        self._queue[self._queue.index(frame)] = frame.carrying(batch)
        self._reading = None
        return self._pump()

    def read_failed(self, asked: ReadRegions | ReadDigests) -> list[Effect]:
        """The protected disk could not be read: the regions are dirty again, and we wait before the next try."""
        if isinstance(asked, ReadRegions):
            of_now = self._reading is not None and self._reading.batch is asked.batch
        else:
            of_now = asked.epoch == self.epoch and asked.extent == self._comparing
        if not of_now:
            return []
        self.trigger = Trigger.PROTECTED_STORAGE
        self._end_epoch()
        return [Arm(self._pause_timer, Ns(self.tweaks.retry_pause))]

    def _end_if_durable(self) -> list[Effect]:
        if self._sync_upto is None or not reaches(self.durable, self._sync_upto):
            return []
        ended = SyncEnded(self.spec.id, self.sync, self._sync_sent, self._sync_compared)
        self.state, self.sync, self.trigger, self._sync_upto = IN_SYNC, Sync.IN_SYNC, Trigger.NONE, None
        self.joining = False
        return [Publish(ended)]

    # -- the peer ---------------------------------------------------------------------------------------------

    def acknowledged(self, ack: Ack) -> list[Effect]:
        """The peer has more; if it had refused, it takes frames again."""
        if ack.generation != self.generation:
            return []
        if self.refused is not None:
            self.refused = None
            if self.state is WAITING:
                return self._restart()
        if ack.epoch != self.epoch or self.state is HANDSHAKE:
            return []
        self.durable = tuple(map(max, self.durable, ack.durable))
        self.window.acknowledge(self.durable)
        ended = self._end_if_durable() if self._sync_upto is not None else []
        return ended + self._pump()

    def refuse(self, nack: Nack) -> list[Effect]:
        """The peer did not take a frame: go back to what it expects. If it has no room, wait for its next word."""
        if nack.generation != self.generation or nack.epoch != self.epoch or self.state is HANDSHAKE:
            return []
        again = self.window.clear()
        self._queue.extendleft(reversed(again))
        self._queued_bytes += sum(frame.nbytes for frame in again)
        while self._queue and self._queue[0] is not self._reading and reaches(nack.expected, self._queue[0].upto):
            # Received, not yet acknowledged: it stays in flight, so that only an acknowledgement frees it.
            frame = self._queue.popleft()
            self._queued_bytes -= frame.nbytes
            self.window.add(frame)
        if nack.reason is not Refusal.GAP:
            self.refused = nack.reason
        return self._pump()

    def resynced(self, message: Resynced) -> list[Effect]:
        """The peer entered our epoch."""
        if self.state is not HANDSHAKE or message.epoch != self.epoch:
            return []
        self.state, self._begun = SWEEP, True
        self.durable = self.numbered
        return self._pump()

    def stopped(self) -> list[Effect]:
        """The VRA goes down, and its timers with it."""
        self._flushing = False
        return self.lost(Trigger.PROTECTED_VRA)

    def lost(self, trigger: Trigger = Trigger.COMMUNICATION) -> list[Effect]:
        """The connection to the peer is gone."""
        self.connected = False
        self.refused = None
        if not self._begun:
            self.state = ASKING
        return self._rest(trigger)

    def reconnected(self) -> list[Effect]:
        """The peer can be reached again. Whatever was under way before is in the bitmap."""
        self.connected = True
        self.refused = None
        if self.state is ASKING:
            return self._ask()
        if self.state is not WAITING:
            return self.fold(Trigger.COMMUNICATION)
        return self._restart()

    def fired(self, timer: str) -> list[Effect]:
        """A timer of this stream ran out."""
        if timer == self._flush_timer:
            self._flushing = False
            return self.flush()
        if timer == self._pause_timer and self.state is WAITING:
            return self._restart()
        return []
