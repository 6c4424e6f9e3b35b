"""Stores of a simulated site: datastores as first-come-first-served servers, journals as counts and digests.

An I/O takes what the slower of two limits says, its share of the IOPS or its bytes over the bandwidth, after the
I/Os before it; its latency comes on top and does not occupy the store. A frame is one sequential append in pieces of
`APPEND_IO`. Aging reads the journal and writes the mirror, in chunks that let appends in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from drsim.core.batch import content_digest
from drsim.core.effects import Promote
from drsim.core.errors import DrsimError, PlatformError, StoreFull
from drsim.core.messages import Frame, Position
from drsim.core.names import StreamId
from drsim.core.units import SECOND
from drsim.sim.clock import Clock, FifoServer
from drsim.spec.model import Datastore

APPEND_IO = 256 << 10  # one large sequential write
AGE_CHUNK = 8 << 20
AGE_IO = 64 << 10  # aging goes to the mirror in place: smaller writes


class Store:
    """One datastore. `used` is the bytes of journals on it; `full` is set by a fault."""

    def __init__(self, clock: Clock, spec: Datastore) -> None:
        self._clock, self.spec = clock, spec
        self.server = FifoServer()
        self.used = 0
        self.full = False

    def service_ns(self, nbytes: int, ios: int) -> int:
        """How long the store is occupied."""
        return int(max(ios / self.spec.iops, nbytes * 8 / self.spec.bandwidth) * SECOND)

    def io(self, nbytes: int, ios: int, done: Callable[[], None]) -> None:
        """Do I/Os; call `done` when they are durable."""
        end = self.server.serve(self._clock.now, self.service_ns(nbytes, ios))
        self._clock.call_at(end + self.spec.latency, done)

    def background(self, nbytes: int, done: Callable[[], None]) -> None:
        """Read and write this many bytes in chunks, one after another."""
        chunk = min(nbytes, AGE_CHUNK)
        if chunk <= 0:
            self._clock.call(0, done)
            return
        ios = 2 * -(-chunk // AGE_IO)
        self.io(2 * chunk, ios, lambda: self.background(nbytes - chunk, done))


@dataclass(slots=True)
class JournalFile:
    """What one stream's journals hold: where they end, how much, and a digest of all rows ever appended."""

    epoch: int = 1
    end: Position = ()
    nbytes: int = 0
    writes: int = 0
    digest: int = 0
    frames: list[Frame] = field(default_factory=list)


class JournalStore:
    """The journals of a recovery VRA's streams on a datastore. `keep` keeps the frames for tests and the oracle."""

    def __init__(self, store: Store, vms: dict[StreamId, tuple[int, ...]], *, keep: bool) -> None:
        self.store, self._keep = store, keep
        self._vms = {s: np.asarray(v, np.int32) for s, v in vms.items()}
        self.files = {s: JournalFile(end=(0,) * len(v)) for s, v in vms.items()}

    def append(self, frame: Frame, done: Callable[[DrsimError | None], None]) -> None:
        """Append; `done` is called with None when durable, or with why not."""
        store, nbytes = self.store, frame.nbytes

        def finish() -> None:
            done(self._put(frame, nbytes))

        store.io(nbytes, -(-nbytes // APPEND_IO), finish)

    def _put(self, frame: Frame, nbytes: int) -> DrsimError | None:
        store, file = self.store, self.files[frame.stream]
        if store.full or store.used + nbytes > store.spec.capacity:
            return StoreFull("datastore full")
        if frame.epoch < file.epoch or (frame.epoch == file.epoch and frame.after != file.end):
            return PlatformError("the frame does not continue the journal")
        file.epoch, file.end = frame.epoch, frame.upto
        file.nbytes += nbytes
        file.writes += len(frame.batch)
        store.used += nbytes
        slot = np.searchsorted(self._vms[frame.stream], frame.batch.vm)
        first = np.asarray(frame.after, np.int64)[slot] + 1
        lsn = first + frame.batch.ranks()
        file.digest = (file.digest + content_digest(frame.batch, lsn)) & (2**64 - 1)
        if self._keep:
            file.frames.append(frame)
        return None

    def promote(self, effect: Promote, done: Callable[[], None]) -> None:
        """Apply to the mirror and free the space."""

        def finish() -> None:
            self.files[effect.stream].nbytes -= effect.nbytes
            self.store.used -= effect.nbytes
            done()

        self.store.background(effect.nbytes, finish)
