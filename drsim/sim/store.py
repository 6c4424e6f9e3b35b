"""Stores of a simulated site: datastores as first-come-first-served servers, journals as counts and digests.

An I/O takes what the slower of two limits says, its share of the IOPS or its bytes over the bandwidth, after the
I/Os before it; its latency comes on top and does not occupy the store. A frame is one sequential append in pieces of
`APPEND_IO`. Aging reads the journal and writes the mirror, in chunks that let appends in between.
Answers come in the order of the I/Os, also when the latency changes or the store hangs for a while.
"""

from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from drsim.core.batch import content_digest
from drsim.core.effects import Discard, Promote
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.journal import Stored
from drsim.core.messages import Frame, Position
from drsim.core.names import StreamId
from drsim.core.units import SECOND
from drsim.sim.clock import Clock, FifoServer
from drsim.spec.faults import DatastoreHung, DatastoreSlow
from drsim.spec.model import Datastore

APPEND_IO = 256 << 10  # one large sequential write
AGE_CHUNK = 8 << 20
AGE_IO = 64 << 10  # aging goes to the mirror in place: smaller writes


@dataclass(slots=True)
class _Io:
    """I/Os that were asked for, and when the store is done with them."""

    nbytes: int
    ios: int
    done: Callable[[], None]
    end: int = 0


class Store:
    """One datastore. `used` is the bytes of journals on it. `mattered` counts by kind what its faults changed."""

    def __init__(self, clock: Clock, spec: Datastore, mattered: Counter[str] | None = None) -> None:
        self._clock, self.spec = clock, spec
        self.server = FifoServer()
        self.used, self.capacity = 0, spec.capacity
        self.mattered: Counter[str] = Counter() if mattered is None else mattered
        self._begun: deque[_Io] = deque()  # not yet answered, oldest first
        self._version = 0  # of its rates
        self._slow: list[DatastoreSlow] = []
        self._hung = self._owed = 0  # faults that hang it; I/Os done meanwhile
        self._rates()

    def service_ns(self, nbytes: int, ios: int) -> int:
        """How long the store is occupied."""
        return int(max(ios / self._iops, nbytes * 8 / self._bandwidth) * SECOND)

    def io(self, nbytes: int, ios: int, done: Callable[[], None]) -> None:
        """Do I/Os; call `done` when they are durable."""
        if self._slow:
            self.mattered.update(fault.kind for fault in self._slow)
        io = _Io(nbytes, ios, done)
        self._begun.append(io)
        self._serve(io)

    def _serve(self, io: "_Io") -> None:
        io.end = self.server.serve(self._clock.now, self.service_ns(io.nbytes, io.ios))
        version = self._version
        self._clock.call_at(io.end + self._latency, lambda: self._finish(version))

    def _finish(self, version: int) -> None:
        if version != self._version:
            return
        if self._hung:
            self._owed += 1
        else:
            self._begun.popleft().done()

    # -- faults -----------------------------------------------------------------------------------------------

    def _rates(self) -> None:
        """What it does now, and what waits is done at that rate, the I/O under way from its beginning."""
        self._iops, self._bandwidth = self.spec.iops, float(self.spec.bandwidth)
        latency = float(self.spec.latency)
        for fault in self._slow:
            self._iops *= fault.iops
            self._bandwidth *= fault.bandwidth
            latency *= fault.latency
        self._latency = int(latency)
        self._version += 1
        self.server.free_at = min(self.server.free_at, int(self._clock.now))
        for io in list(self._begun)[self._owed :]:
            if io.end > self._clock.now:
                self._serve(io)
            else:  # only its latency was to pass
                self._clock.call_at(io.end + self._latency, partial(self._finish, self._version))

    def slow(self, fault: DatastoreSlow) -> None:
        """Slower while the fault lasts; several multiply."""
        self._slow.append(fault)
        self._rates()
        self._clock.call(fault.lasts, lambda: self._fast(fault))

    def _fast(self, fault: DatastoreSlow) -> None:
        self._slow.remove(fault)
        self._rates()

    def hang(self, fault: DatastoreHung) -> None:
        """No answer while the fault lasts; then all that are owed."""
        self._hung += 1
        self._clock.call(fault.lasts, lambda: self._answer(fault))

    def _answer(self, fault: DatastoreHung) -> None:
        self._hung -= 1
        if not self._hung:
            owed, self._owed = self._owed, 0
            self.mattered[fault.kind] += owed
            for _ in range(owed):
                self._begun.popleft().done()

    # -- long reads and writes --------------------------------------------------------------------------------

    def scan(self, nbytes: int, done: Callable[[], None]) -> None:
        """Read this many bytes in large chunks, one after another."""
        chunk = min(nbytes, AGE_CHUNK)
        if chunk <= 0:
            self._clock.call(0, done)
            return
        self.io(chunk, -(-chunk // APPEND_IO), lambda: self.scan(nbytes - chunk, done))

    def background(self, nbytes: int, done: Callable[[], None]) -> None:
        """Read and write this many bytes in chunks, one after another."""
        chunk = min(nbytes, AGE_CHUNK)
        if chunk <= 0:
            self._clock.call(0, done)
            return
        ios = 2 * -(-chunk // AGE_IO)
        self.io(2 * chunk, ios, lambda: self.background(nbytes - chunk, done))


@dataclass(slots=True)
class VmJournal:
    """One VM's journal, if remembered: for each frame not aged yet with writes of it, the last number and the bytes.

    `owner` is the file of the stream that has it; streams that had it before share it.
    """

    owner: "JournalFile"
    base: int = 0
    last: "array[int]" = field(default_factory=lambda: array("q"))
    size: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class JournalFile:
    """What one stream's journals hold: where they end, how much, and a digest of all rows ever appended.

    `nbytes` is of the journals that no other stream has taken over.
    """

    epoch: int = 1
    end: Position = ()
    nbytes: int = 0
    writes: int = 0
    digest: int = 0
    exists: bool = True
    frames: list[Frame] = field(default_factory=list)
    vms: dict[int, VmJournal] = field(default_factory=dict)

    @property
    def base(self) -> Position:
        """What the mirrors have, by VM."""
        return tuple(journal.base for journal in self.vms.values())


def always() -> bool:
    """Whoever asked for an effect still wants it."""
    return True


class JournalStore:
    """The journals of a recovery VRA's streams on a datastore.

    `keep` keeps the frames for tests and the oracle; `remember` what `stored` needs after a crash, and what journals
    need that change their stream or are discarded.
    """

    def __init__(
        self, store: Store, vms: dict[StreamId, tuple[int, ...]], *, keep: bool, remember: bool = False
    ) -> None:
        self.store, self._keep, self._remember = store, keep, remember
        self._vms: dict[StreamId, NDArray[np.int32]] = {}
        self.files: dict[StreamId, JournalFile] = {}
        for stream, members in vms.items():
            self.open(stream, members)

    def open(self, stream: StreamId, vms: tuple[int, ...], follows: StreamId | None = None) -> None:
        """A stream is new; it takes over the journals of those of its VMs that the one before had."""
        self._vms[stream] = np.asarray(vms, np.int32)
        first = stream.part == 1
        file = self.files[stream] = JournalFile(epoch=int(first), end=(0,) * len(vms), exists=first)
        before = self.files[follows].vms if follows is not None else {}
        for vm in vms:
            journal = file.vms[vm] = before.get(vm) or VmJournal(file)
            nbytes = sum(journal.size)
            journal.owner.nbytes -= nbytes
            file.nbytes += nbytes
            journal.owner = file

    def append(
        self, frame: Frame, done: Callable[[DrsimError | None], None], wanted: Callable[[], bool] = always
    ) -> None:
        """Append; `done` is called with None when durable, or with why not. Nothing happens if no longer `wanted`."""
        store, nbytes = self.store, frame.nbytes

        def finish() -> None:
            if wanted():
                done(self._put(frame, nbytes))

        store.io(nbytes, -(-nbytes // APPEND_IO), finish)

    def stored(self, stream: StreamId) -> Stored:
        """What a recovery VRA is built from after a crash. Only of a store that remembers."""
        assert self._remember, "nobody expected a crash"
        file = self.files[stream]
        parts = tuple(tuple(zip(journal.last, journal.size, strict=True)) for journal in file.vms.values())
        return Stored(file.epoch, file.base, file.end, parts)

    def discard(self, effect: Discard, done: Callable[[], None], wanted: Callable[[], bool] = always) -> None:
        """Delete the journals of these VMs, if still `wanted` when their turn has come."""
        file = self.files[effect.stream]

        def finish() -> None:
            if not wanted():
                return
            assert self._remember, "nobody expected a VM to leave"
            for vm in effect.vms:
                journal = file.vms[vm]
                if journal.owner is file:
                    self._free(journal, len(journal.last))
                    file.vms[vm] = VmJournal(file)
            file.exists = any(j.owner is file and vm not in effect.vms for vm, j in file.vms.items())
            done()

        applied = sum(sum(file.vms[vm].size) for vm in effect.vms) if effect.keep_disks else 0
        self.store.background(applied, finish)

    def _free(self, journal: VmJournal, parts: int) -> None:
        """The oldest parts of a journal are gone."""
        freed = sum(journal.size[:parts])
        del journal.last[:parts], journal.size[:parts]
        journal.owner.nbytes -= freed
        self.store.used -= freed

    def _put(self, frame: Frame, nbytes: int) -> DrsimError | None:
        store, file = self.store, self.files[frame.stream]
        if store.used + nbytes > store.capacity:
            return StoreFull("datastore full")
        if frame.epoch < file.epoch or (frame.epoch == file.epoch and frame.after != file.end):
            return PlatformError("the frame does not continue the journal")
        file.epoch, file.end, file.exists = frame.epoch, frame.upto, True
        file.writes += len(frame.batch)
        store.used += nbytes
        if store.used > store.spec.capacity:
            store.mattered["datastore-enlarged"] += 1
        if self._remember:
            for journal, upto, n in zip(file.vms.values(), frame.upto, frame.sizes, strict=True):
                if n:
                    journal.last.append(upto)
                    journal.size.append(n)
                    journal.owner.nbytes += n
        else:
            file.nbytes += nbytes
        slot = np.searchsorted(self._vms[frame.stream], frame.batch.vm)
        first = np.asarray(frame.after, np.int64)[slot] + 1
        lsn = first + frame.batch.ranks()
        file.digest = (file.digest + content_digest(frame.batch, lsn)) & (2**64 - 1)
        if self._keep:
            file.frames.append(frame)
        return None

    def promote(self, effect: Promote, done: Callable[[], None], wanted: Callable[[], bool] = always) -> None:
        """Apply to the mirror and free the space, if still `wanted` when all is read and written."""

        def finish() -> None:
            if not wanted():
                return
            file = self.files[effect.stream]
            for journal, upto in zip(file.vms.values(), effect.upto, strict=True):
                journal.base = max(journal.base, upto)
                if self._remember:
                    self._free(journal, bisect_right(journal.last, journal.base))
            if not self._remember:
                file.nbytes -= effect.nbytes
                self.store.used -= effect.nbytes
            done()

        self.store.background(effect.nbytes, finish)
