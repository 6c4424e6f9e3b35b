"""HostTap: what a site has of disks that a host's own process serves and taps (`host.py`)."""

import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drsim.core.batch import Columns, WriteBatch
from drsim.core.effects import EffectId, ReadDigests, ReadRegions
from drsim.core.events import Done, Failed, GuestWrote, VolumeLost, WritesMissed
from drsim.core.names import StreamSpec, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.files import blame, read_into
from drsim.real.host_words import LetGo, Missed, Want, Wrote
from drsim.real.missed import batch_of
from drsim.real.sweep import answer_of

if TYPE_CHECKING:
    from drsim.real.host import HostLink

HostHeard = GuestWrote | WritesMissed | Done | Failed | VolumeLost


class HostDisk:
    """A disk that the process serves; the site reads it for itself, so that no guest waits for a synchronization."""

    read_only = False

    def __init__(self, link: "HostLink", info: VolumeInfo, path: Path) -> None:
        self.link, self.info, self.path = link, info, path
        self._fd = -1

    @property
    def size(self) -> int:
        """In bytes."""
        return self.info.sectors * SECTOR

    def take_over(self, connection: socket.socket, rest: bytes) -> None:
        """See `splitter.Elsewhere`."""
        self.link.serve(self.info.id, connection, rest)

    def read_into(self, offset: int, memory: memoryview) -> None:
        """See `sweep.Readable`."""
        with blame(self.path):
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDONLY)
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)  # as in `disk.py`
            read_into(self._fd, memory, offset, self.path)

    def close(self) -> None:
        """Read it no more; the process closes it for itself."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def give_up(self) -> None:
        """The process closes it now; nobody uses it any more."""
        await self.link.close_disk(self)
        self.close()


class HostTap:
    """The disks of one stream, as `tap.Tap` is to the site. Use from the event loop's thread, but for `answer`."""

    def __init__(self, link: "HostLink", number: int, spec: StreamSpec, captured: Callable[[bool], None]) -> None:
        self.spec, self.number = spec, number
        self._link, self.captured = link, captured
        self._volumes = {volume.id: volume for volume in spec.volumes}
        self._held = 0  # the ask that holds its guests
        self.heard: deque[HostHeard] = deque()
        self.chunks: dict[int, Columns] = {}
        """Those that more may be written to, by number."""

    def hold(self) -> None:
        """See `Tap.hold`. Once until it is released."""
        if not self._held:
            self._held = self._link.hold(self.number)

    def holds(self, until: float) -> bool:
        """See `Tap.holds`; False: the process has not answered. If there is none, its volumes are known to be lost."""
        return self._link.holds(self._held, until)

    def release(self, failure: BaseException | None = None) -> None:
        """See `Tap.release`."""
        self._held = 0
        self._link.say(LetGo(self.number, failure is not None))

    def want(self, *, content: bool) -> None:
        """See `Tap.want`."""
        self._link.say(Want(self.number, content))

    def pull(self) -> list[HostHeard]:
        """See `Tap.pull`."""
        heard, self.heard = list(self.heard), deque()
        return heard

    def answer(self, id_: EffectId, effect: ReadRegions | ReadDigests, region_bytes: int) -> None:
        """See `Tap.answer`. From any thread."""
        known = self._link.disks.copy()  # others may be opened meanwhile
        disks = {int(volume): disk for volume, disk in known.items()}
        found = answer_of(id_, effect, disks, region_bytes)
        self._link.soon(lambda: self._link.settle(self, found))

    def wrote(self, word: Wrote | Missed) -> None:
        """Rows were written, or there was no room for what was written."""
        if isinstance(word, Missed):
            rows = np.frombuffer(word.rows, np.int64).reshape(-1, 3)
            self.heard.append(WritesMissed(self.spec.id, batch_of(rows, self._volumes)))
            return
        for old in [number for number in self.chunks if number < word.chunk]:
            del self.chunks[old]
        self.heard.append(GuestWrote(self.spec.id, WriteBatch(self.chunks[word.chunk], word.lo, word.hi)))

    def close(self) -> None:
        """See `Tap.close`."""
        self._link.untap(self)
