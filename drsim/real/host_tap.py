"""HostTap: what a site has of disks that a host's own process serves and taps (`host.py`)."""

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drsim.core.batch import Columns, WriteBatch
from drsim.core.effects import EffectId, ReadDigests, ReadRegions
from drsim.core.events import Done, Failed, GuestWrote, VolumeLost
from drsim.core.names import StreamSpec, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real.host_words import Answered, LetGo, Refused, Wrote, mapped

if TYPE_CHECKING:
    from drsim.real.host import HostLink

HostHeard = GuestWrote | Done | Failed | VolumeLost


@dataclass(frozen=True, slots=True)
class HostDisk:
    """A disk that the process serves."""

    link: "HostLink"
    info: VolumeInfo
    path: Path
    read_only = False

    @property
    def size(self) -> int:
        """In bytes."""
        return self.info.sectors * SECTOR

    def take_over(self, connection: socket.socket, rest: bytes) -> None:
        """See `splitter.Elsewhere`."""
        self.link.serve(self.info.id, connection, rest)

    def close(self) -> None:
        """The process closes it when it ends."""

    async def give_up(self) -> None:
        """The process closes it now; nobody uses it any more."""
        await self.link.close_disk(self)


class HostTap:
    """The disks of one stream, as `tap.Tap` is to the site. Use from the event loop's thread, but for `answer`."""

    def __init__(self, link: "HostLink", number: int, spec: StreamSpec, captured: Callable[[bool], None]) -> None:
        self.spec, self.number = spec, number
        self._link, self.captured = link, captured
        self.heard: deque[HostHeard] = deque()
        self.chunks: dict[int, Columns] = {}
        """Those that more may be written to, by number."""

    def hold(self, until: float) -> bool:
        """See `Tap.hold`; False: the process has not answered. If there is none, its volumes are known to be lost."""
        return self._link.hold(self.number, until)

    def release(self, failure: BaseException | None = None) -> None:
        """See `Tap.release`."""
        self._link.say(LetGo(self.number, failure is not None))

    def pull(self) -> list[HostHeard]:
        """See `Tap.pull`."""
        heard, self.heard = list(self.heard), deque()
        return heard

    def answer(self, id_: EffectId, effect: ReadRegions | ReadDigests, region_bytes: int) -> None:
        """See `Tap.answer`. From any thread."""
        self._link.soon(lambda: self._link.read(self, id_, effect, region_bytes))

    def wrote(self, word: Wrote) -> None:
        """Rows were written."""
        for old in [number for number in self.chunks if number < word.chunk]:
            del self.chunks[old]
        self.heard.append(GuestWrote(self.spec.id, WriteBatch(self.chunks[word.chunk], word.lo, word.hi)))

    def close(self) -> None:
        """See `Tap.close`."""
        self._link.untap(self)


def answer_of(id_: EffectId, effect: ReadRegions | ReadDigests, word: Answered | Refused, fd: int) -> Done | Failed:
    """What a read comes to, from the word and the memory that came with it."""
    if isinstance(word, Refused):
        return Failed(id_, effect, word.error)
    memory = memoryview(mapped(fd, word.nbytes))[: word.nbytes]
    if isinstance(effect, ReadDigests):
        return Done(id_, effect, bytes(memory))
    batch = effect.batch
    return Done(id_, effect, WriteBatch.of(batch.vm, batch.volume, batch.lba, batch.sectors, batch.issued, memory))
