"""Host: the site's side of a host whose disks a process of its own serves and taps (`host_process.py`).

Theory of operation. `HostLink` starts the process and does what it says; `HostTap` is to the site what a tap is
(`tap.py`), `HostDisk` what the splitter serves. What was written comes as windows on memory that both see. The site
hears words in the event loop; it waits for one only where the order of things demands it: while disks are opened, and
for a hold, which is answered after everything that was captured before it. It waits for a hold as long as the budget
allows: guests of other hosts wait as well.

When the process dies, its guests lose their connections, and what it had captured and not told is unknown: the VRA
hears that the volumes are lost, before anything else, and so answers no hold with them. A new process is started, with
pauses that double; then the volumes are found again, and the core compares them with the other side. A process that
does not answer in time is killed.

Invariant: a chunk stays mapped while anybody looks at it; then the process is told, and may use it again.
"""

import asyncio
import select
import socket
import subprocess
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from drsim.core.errors import DrsimError, PlatformError
from drsim.core.events import Done, Failed, VolumeFound, VolumeLost
from drsim.core.names import Address, StreamSpec, VolumeId, VolumeInfo
from drsim.real.chunk import columns_on, size_of
from drsim.real.host_tap import HostDisk, HostTap
from drsim.real.host_words import (
    Answered,
    Channel,
    Chunked,
    Close,
    Freed,
    HoldOn,
    Missed,
    Open,
    Record,
    Refused,
    Serve,
    Settle,
    TurnedAway,
    Unwatch,
    Watch,
    Word,
    Wrote,
    mapped,
)
from drsim.real.vra import Begin, Found, Life

if TYPE_CHECKING:
    from drsim.real.world import Site

PATIENCE = 5.0
"""Seconds in which a process answers what the site waits for; what comes later is a death."""
_BEGIN = 30.0  # in which it has come up
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 5.0
_LOOK = 0.01  # seconds between looks at whether a disk is closed


class HostLink:
    """One host's process. Built and used in the event loop's thread; `serve` and `soon` from any.

    `begin` begins or finds the process (`vra.py`); `refused` is told why a client was turned away.
    """

    def __init__(self, site: "Site", vra: Address, begin: Begin, refused: Callable[[str], None]) -> None:
        self._site, self._vra, self._begin, self._refused = site, vra, begin, refused
        self.disks: dict[VolumeId, HostDisk] = {}
        self._loop = asyncio.get_running_loop()
        self._process: Life | None = None
        self._channel: Channel | None = None
        self._lock = Lock()  # of the channel's life
        self._asked = self._tapped = 0
        self._taps: dict[int, HostTap] = {}
        self._found: dict[int, tuple[HostTap, Done | Failed]] = {}  # what was read, by the ask for its place
        self._answers: dict[int, Answered | Refused] = {}
        self._late: dict[int, float] = {}  # holds that were not answered, and since when
        self._closed = False
        self._again: asyncio.Task[None] | None = None
        self._up(*self._started())

    @property
    def pid(self) -> int | None:
        """Of the process that serves now, if one does."""
        return self._process.pid if self._process is not None and self._channel is not None else None

    # -- life -------------------------------------------------------------------------------------------------

    def _started(self) -> tuple[Life, Channel]:
        """A process with the disks open. Raises PlatformError. In any thread."""
        ours, process = self._begin()
        channel = Channel(ours)
        ours.settimeout(_BEGIN)
        try:
            for number, disk in enumerate((None, *self.disks.values())):
                if disk is not None:
                    channel.say(Open(number, disk.info, str(disk.path.absolute()), must_exist=True))
                word, _ = channel.hear()
                if isinstance(word, Refused):
                    raise word.error
                if process is None and isinstance(word, Answered):
                    process = Found(word.value)
        except BaseException as error:
            channel.close()
            if process is not None:
                process.kill()
                process.wait()
            if isinstance(error, OSError | EOFError):
                raise PlatformError("the host's process does not come up", place=self._vra) from error
            raise
        assert process is not None
        ours.setblocking(False)
        return process, channel

    def _up(self, process: Life, channel: Channel) -> None:
        with self._lock:
            self._process, self._channel = process, channel
        self._loop.add_reader(channel.socket, self._ready)
        self._site.disks.update(self.disks)

    def _died(self) -> None:
        """The process is gone, or is to be."""
        channel, process = self._channel, self._process
        if channel is None or process is None:
            return
        with self._lock:
            self._channel = None
        self._loop.remove_reader(channel.socket)
        channel.close()
        process.kill()
        for tap, found in self._found.values():
            tap.heard.append(_in_vain(found, self._vra))
        self._found.clear()
        self._late.clear()
        for volume in self.disks:
            self._site.disks.pop(volume, None)
        for tap in self._taps.values():
            tap.chunks.clear()
            tap.heard.extend(VolumeLost(volume.id) for volume in tap.spec.volumes)
            tap.captured(True)
        self._taps.clear()
        if not self._closed:
            self._refused(f"{self._vra}: the process that serves its disks has died; another one is started")
            self._again = asyncio.create_task(self._start_again(process), name=f"start {self._vra} again")

    async def _start_again(self, dead: Life) -> None:
        pause = _FIRST_PAUSE
        await asyncio.to_thread(dead.wait)
        while True:
            await asyncio.sleep(pause)
            try:
                found = await asyncio.shield(asyncio.to_thread(self._started))
            except PlatformError as error:
                self._refused(f"{self._vra}: {error}")
                pause = min(2 * pause, _LAST_PAUSE)
                continue
            if self._closed:
                _end(*found)
                return
            self._up(*found)
            for stream, tap in list(self._site.taps.items()):
                if stream.source == self._vra:
                    self._site.tap(tap.spec)
            for volume in self.disks:
                self._site.post(self._vra, VolumeFound(volume))
            return

    async def close(self) -> None:
        """End the process; guests lose their connections."""
        self._closed = True
        if self._again is not None:
            with suppress(asyncio.CancelledError):
                await self._again
        channel, process = self._channel, self._process
        if channel is not None and process is not None:
            with self._lock:
                self._channel = None
            self._loop.remove_reader(channel.socket)
            await asyncio.to_thread(_end, process, channel)

    # -- words ------------------------------------------------------------------------------------------------

    def soon(self, work: Callable[[], None]) -> None:
        """Do it in the event loop. From any thread."""
        with suppress(RuntimeError):  # the loop is over
            self._loop.call_soon_threadsafe(work)

    def say(self, word: Word, fd: int = -1) -> None:
        """Tell the process, if there is one."""
        deadline = self._loop.time() + PATIENCE
        while (channel := self._channel) is not None:
            try:
                channel.say(word, fd)
            except BlockingIOError:  # it may wait for us to hear
                if not self._wait(channel, deadline, writing=True):
                    self._died()
            except OSError:
                self._died()
            else:
                return

    def wait_for(self, ask: Callable[[int], Word]) -> Answered | Refused | None:
        """Ask, and wait for the answer; None when the process dies instead."""
        deadline = self._loop.time() + PATIENCE
        self._asked += 1
        number = self._asked
        self.say(ask(number))
        while number not in self._answers:
            channel = self._channel
            if channel is None:
                return None
            if not self._wait(channel, deadline):
                self._died()
        return self._answers.pop(number)

    def hold(self, tap: int) -> int:
        """Ask to close the gate of a tap; the number of the ask."""
        self._asked += 1
        if self._channel is not None:  # a process that is started later is not late with what nobody asked it
            self._late[self._asked] = self._loop.time()
        self.say(HoldOn(self._asked, tap))
        return self._asked

    def holds(self, number: int, until: float) -> bool:
        """Whether it is closed by then. A process that is silent for long is ended."""
        while number in self._late and (channel := self._channel) is not None and self._wait(channel, until):
            pass
        if self._channel is not None and self._late and min(self._late.values()) < self._loop.time() - PATIENCE:
            self._died()
        return self._channel is None or number not in self._late

    def _wait(self, channel: Channel, deadline: float, *, writing: bool = False) -> bool:
        """Wait until something can be heard, and hear it, or until something can be said; False: in vain."""
        poll = select.poll()
        poll.register(channel.socket, select.POLLIN | (select.POLLOUT if writing else 0))
        happened = poll.poll(max(0.0, deadline - self._loop.time()) * 1e3)
        if any(events & ~select.POLLOUT for _, events in happened):
            self._ready()
        return bool(happened)

    def _ready(self) -> None:
        """Hear everything that has come."""
        told: set[int] = set()
        while (channel := self._channel) is not None:
            try:
                word, fd = channel.hear()
            except BlockingIOError:
                break
            except (OSError, EOFError, DrsimError):
                self._died()
                break
            if (tap := self._heard(word, fd)) is not None:
                told.add(tap.number)
        for number in told:
            if number in self._taps:
                self._taps[number].captured(True)

    def _heard(self, word: Word, fd: int) -> HostTap | None:
        """One word; the tap that has something new, if one has."""
        match word:
            case Chunked(number, chunk, content):
                self._chunk(number, chunk, content, fd)
            case Wrote(number) | Missed(number) if (tap := self._taps.get(number)) is not None:
                tap.wrote(word)
                return tap
            case Answered(number) if number in self._found:
                tap, found = self._found.pop(number)
                tap.heard.append(found)
                return tap
            case Answered(number) if number in self._late:
                del self._late[number]
            case Answered(number) | Refused(number):
                self._answers[number] = word
            case TurnedAway(why):
                self._refused(why)
            case _:
                pass  # of a tap that is closed
        return None

    def _chunk(self, number: int, chunk: int, content: int, fd: int) -> None:
        memory = mapped(fd, size_of(content))
        free = weakref.finalize(memory, self.soon, lambda: self.say(Freed(number, chunk)))
        free.atexit = False
        if number in self._taps:
            self._taps[number].chunks[chunk] = columns_on(memory, content)

    # -- what it does -----------------------------------------------------------------------------------------

    def serve(self, volume: VolumeId, connection: socket.socket, rest: bytes) -> None:
        """Hand a client over. Raises PlatformError. From any thread."""
        with self._lock:
            channel = self._channel
            if channel is None:
                raise PlatformError("the process that serves the disk is being started", place=self._vra)
            try:
                channel.say(Serve(volume, rest), connection.fileno())
            except OSError as error:
                raise PlatformError(f"the client cannot be handed over: {error}", place=self._vra) from error

    def open(self, info: VolumeInfo, path: Path, *, must_exist: bool) -> HostDisk:
        """Serve a disk, which is made unless it must be there. Raises PlatformError."""
        self._answered(lambda number: Open(number, info, str(path.absolute()), must_exist))
        disk = self.disks[info.id] = HostDisk(self, info, path)
        return disk

    async def close_disk(self, disk: HostDisk) -> None:
        """Serve it no more: when this returns, no client and no process of ours has it."""
        self.disks.pop(disk.info.id, None)  # first, so that no process opens it again
        process, channel = self._process, self._channel
        self._asked += 1
        number = self._asked
        self.say(Close(number, disk.info.id))
        while number not in self._answers and self._channel is channel is not None:
            await asyncio.sleep(_LOOK)
        if self._answers.pop(number, None) is None and process is not None:
            await asyncio.to_thread(process.wait)  # it dies, or is dead

    def _answered(self, ask: Callable[[int], Word]) -> Answered:
        answer = self.wait_for(ask)
        if answer is None:
            raise PlatformError("the process that serves the disks has died", place=self._vra)
        if isinstance(answer, Refused):
            raise answer.error
        return answer

    def tap(self, spec: StreamSpec, captured: Callable[[bool], None]) -> HostTap:
        """Tap the volumes of a stream."""
        self._tapped += 1
        tap = HostTap(self, self._tapped, spec, captured)
        if self._channel is not None:
            self._taps[tap.number] = tap
            self.say(Watch(tap.number, spec))
        return tap

    def untap(self, tap: HostTap) -> None:
        """Tap them no more. What is being read is not answered: its sender is gone, or reads anew."""
        if self._taps.pop(tap.number, None) is not None:
            self.say(Unwatch(tap.number))
            self._found = {n: found for n, found in self._found.items() if found[0] is not tap}

    def settle(self, tap: HostTap, found: Done | Failed) -> None:
        """What was read of a tap's disks takes its place among what is heard of it: behind all that it may have of."""
        self._asked += 1
        number = self._asked
        if tap.number in self._taps:
            self._found[number] = tap, found
            self.say(Settle(number, tap.number))
        else:
            tap.heard.append(_in_vain(found, self._vra))
            tap.captured(True)

    def record(self, vm: str, volumes: tuple[int, ...], *, on: bool) -> tuple[Path, int]:
        """Record what is written to these volumes, or end that. See `recorder.Recorders`."""
        answer = self._answered(lambda number: Record(number, vm, volumes, on))
        return self._site.directory / "recordings" / f"{vm}.csv", answer.value


def _in_vain(found: Done | Failed, vra: Address) -> Failed:
    """What was read counts for nothing."""
    return Failed(found.id, found.effect, PlatformError("the process that serves the disk has died", place=vra))


def _end(process: Life, channel: Channel) -> None:
    channel.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
