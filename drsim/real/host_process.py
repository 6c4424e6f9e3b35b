"""HostProcess: serves and taps the disks of one host, in a process whose interpreter its guests share with nobody.

Theory of operation. The site (`host.py`) starts it with one end of a socket and tells it what to do (`host_words.py`).

    thread              does
    ------------------  ----------------------------------------------------------------------------------------
    main                hears words; opens disks, taps them, holds their guests
    one per connection  serves a client (`splitter.py`), after the site has negotiated
    one per close       ends the clients of a disk, and closes it
    teller              tells what was captured, and answers, in the order of each tap
    settler             waits until the writes under way have been captured, for what the site has read

Captured content lies in chunks that the site can see (`chunk.py`): it is never sent. A chunk is used again when the
site says that nobody looks at it; while too many are in use, the site hears where guests write, and not what. No guest
waits for the site but in a hold: what it is to hear waits in this process, and takes little memory.

It ends when the socket does, and then at once: guests get no answer that the site might not know of. The lock of its
host is let go by its death alone, so that the next one opens no disk that this one may still write to.
"""

import fcntl
import os
import queue
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from mmap import mmap
from pathlib import Path
from time import sleep

from drsim.core.batch import WriteBatch
from drsim.core.errors import CoreError, DrsimError, PlatformError
from drsim.core.events import GuestWrote, WritesMissed
from drsim.real.chunk import BYTES, Chunk, size_of
from drsim.real.disk import Disk
from drsim.real.files import blame, make_directory
from drsim.real.host_words import (
    ROWS,
    Answered,
    Channel,
    Chunked,
    Close,
    Freed,
    HoldOn,
    LetGo,
    Missed,
    Open,
    Record,
    Serve,
    Settle,
    TurnedAway,
    Unwatch,
    Want,
    Watch,
    Word,
    Wrote,
    refusal,
    shared,
)
from drsim.real.missed import rows_of
from drsim.real.recorder import Recorders
from drsim.real.splitter import MOST_CONNECTIONS
from drsim.real.tap import Tap
from drsim.real.transmission import serve_client

COLLECT, PLACES = 0.002, 0.02
"""Seconds that a captured write waits for company before the site hears of it; the same when nobody wants content."""
SWITCH = 0.0005
AHEAD = 10
"""By how much guests are nicer to serve than to replicate."""
KEPT = 8
"""Free chunks that are kept, at most."""


class SharedPool:
    """A tap's chunks, whose memory the site sees. `most`: so many may be in use."""

    def __init__(self, channel: Channel, tap: int, most: int) -> None:
        self._channel, self._tap, self._most = channel, tap, most
        self._lock = threading.Lock()
        self._made = 0
        self._used: dict[int, tuple[int, mmap]] = {}  # descriptor and memory, by number
        self._untold: dict[int, Chunked] = {}  # those that the site does not know yet
        self._free: deque[tuple[int, mmap]] = deque()
        self._numbers: dict[int, int] = {}  # by the identity of columns; who asks has them

    @property
    def crowded(self) -> bool:
        """Whether there should be no more chunks until the site has freed some."""
        return len(self._used) > self._most

    def chunk(self, least: int) -> Chunk:
        """See `tap.ChunkPool`."""
        content = max(least, BYTES)
        with self._lock:
            if content == BYTES and self._free:
                fd, memory = self._free.pop()  # what was used last is in the processor's cache
            else:
                fd = shared(size_of(content))
                memory = mmap(fd, size_of(content))
            self._made += 1
            number = self._made
            chunk = Chunk(memory, content)
            self._used[number], self._numbers[id(chunk.columns)] = (fd, memory), number
            self._untold[number] = Chunked(self._tap, number, content)
        return chunk

    def rest(self, chunk: Chunk) -> None:
        """See `tap.ChunkPool`; the site says when nobody looks at it any more."""

    def tell(self, batch: WriteBatch) -> None:
        """The site is to hear of a batch in one of the chunks."""
        number = self._numbers[id(batch.columns)]
        if (word := self._untold.pop(number, None)) is not None:
            self._channel.say(word, self._used[number][0])
        self._channel.say(Wrote(self._tap, number, batch.lo, batch.hi))

    def freed(self, number: int) -> None:
        """Nobody at the site looks at a chunk any more."""
        with self._lock:
            fd, memory = self._used.pop(number)
            if len(memory) == size_of(BYTES) and len(self._free) < KEPT:
                self._free.append((fd, memory))
            else:
                os.close(fd)

    def close(self) -> None:
        """The tap is closed."""
        with self._lock:
            for fd, _ in (*self._used.values(), *self._free):
                os.close(fd)
            self._used.clear()
            self._free.clear()


class HostProcess:
    """See the module."""

    def __init__(self, channel: Channel, folder: Path, most_chunks: int) -> None:
        self._channel, self._most_chunks = channel, most_chunks
        self._disks: dict[int, Disk] = {}
        self._clients: dict[int, dict[threading.Thread, socket.socket]] = {}  # by volume
        self._taps: dict[int, tuple[Tap, SharedPool]] = {}
        self._told, self._urgent = threading.Event(), False
        self._telling = threading.Lock()
        self._asks: queue.SimpleQueue[Settle] = queue.SimpleQueue()
        self._recorders = Recorders(folder)

    def run(self) -> None:
        """Do what the site says, until it goes away. Raises EOFError, OSError."""
        for work in (self._tell_on, self._settle_on):
            threading.Thread(target=self._or_die, args=(work,), daemon=True).start()
        while True:
            word, fd = self._channel.hear()
            self._do(word, fd)

    def _or_die(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (EOFError, OSError):
            os._exit(0)  # the site is gone
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    def _do(self, word: Word, fd: int) -> None:
        match word:
            case Freed(tap, chunk) if tap in self._taps:
                self._taps[tap][1].freed(chunk)
            case Freed():
                pass  # of one that is closed
            case Settle():
                self._asks.put(word)
            case HoldOn(number, tap):
                self._taps[tap][0].hold()
                self._tell()
                self._channel.say(Answered(number))
            case Want(tap, content):
                self._taps[tap][0].want(content=content)
            case LetGo(tap, failed):
                self._taps[tap][0].release(PlatformError("the site stops") if failed else None)
            case Serve(volume, rest):
                self._serve(socket.socket(fileno=fd), volume, rest)
            case Watch(tap, spec):
                disks: dict[int, Disk] = {v.id: self._disks[v.id] for v in spec.volumes if v.id in self._disks}
                pool = SharedPool(self._channel, tap, self._most_chunks)
                self._taps[tap] = Tap(spec, disks, None, self._captured, pool), pool
            case Unwatch(tap):
                with self._telling:
                    for each in self._taps.pop(tap):
                        each.close()
            case Open(number):
                self._answer(number, lambda: self._open(word))
            case Close(number, volume):
                disk, clients = self._disks.pop(volume, None), self._clients.pop(volume, {})
                work = partial(self._or_die, partial(self._close, number, disk, dict(clients)))
                threading.Thread(target=work, daemon=True).start()  # clients may have to hear from us before they end
            case Record(number):
                self._answer(number, lambda: self._record(word))
            case _:
                raise PlatformError(f"what is {type(word).__name__} to a host?")

    def _serve(self, client: socket.socket, volume: int, rest: bytes) -> None:
        disk = self._disks.get(volume)
        if disk is None or threading.active_count() > MOST_CONNECTIONS:
            client.close()
            self._refused("the disk is served no more" if disk is None else f"more than {MOST_CONNECTIONS} connections")
            return
        theirs = self._clients.setdefault(volume, {})

        def serve() -> None:
            serve_client(client, disk, rest, self._refused)
            theirs.pop(threading.current_thread(), None)

        thread = threading.Thread(target=serve, daemon=True)
        theirs[thread] = client
        thread.start()

    def _refused(self, why: str) -> None:
        with suppress(OSError):
            self._channel.say(TurnedAway(why))

    def _close(self, number: int, disk: Disk | None, clients: dict[threading.Thread, socket.socket]) -> None:
        for client in clients.values():
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in clients:
            thread.join()
        if disk is not None:
            disk.close()
        self._channel.say(Answered(number))

    def _answer(self, number: int, work: Callable[[], int]) -> None:
        try:
            value = work()
        except DrsimError as error:
            self._channel.say(refusal(number, error))
        else:
            self._channel.say(Answered(number, value))

    def _open(self, word: Open) -> int:
        self._disks[word.volume.id] = Disk(word.volume, Path(word.path), must_exist=word.must_exist)
        return 0

    def _record(self, word: Record) -> int:
        disks = {str(volume): self._disks[volume] for volume in word.volumes}
        return self._recorders.record(word.vm, disks, on=word.on)[1]

    # -- telling ----------------------------------------------------------------------------------------------

    def _captured(self, urgent: bool) -> None:
        self._urgent |= urgent
        self._told.set()

    def _tell_on(self) -> None:
        while True:
            self._told.wait()
            if not self._urgent:
                sleep(COLLECT if any(tap.wanted for tap, _ in tuple(self._taps.values())) else PLACES)
            self._told.clear()
            self._urgent = False
            self._tell()

    def _tell(self) -> None:
        """What every tap has heard, in order."""
        with self._telling:
            for number, (tap, pool) in tuple(self._taps.items()):
                for heard in tap.pull():
                    match heard:
                        case GuestWrote(_, batch):
                            pool.tell(batch)
                        case WritesMissed(_, batch):
                            rows = rows_of(batch)
                            for at in range(0, len(rows), ROWS):
                                self._channel.say(Missed(number, rows[at : at + ROWS].tobytes()))
                        case _:
                            raise CoreError("the site reads for itself")

    def _settle_on(self) -> None:
        while True:
            ask = self._asks.get()
            if (known := self._taps.get(ask.tap)) is not None:
                known[0].settle()
                self._tell()
            self._channel.say(Answered(ask.number))


def main() -> None:
    """Arguments: recordings, lock file, most chunks of a tap, seconds to wait for the lock, the socket's descriptor."""
    folder, lock = map(Path, sys.argv[1:3])
    most, patience, end = map(int, sys.argv[3:6])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the site ends it
    sys.setswitchinterval(SWITCH)
    with suppress(OSError):  # who may not, has the same priority for both
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - AHEAD)
    channel = Channel(socket.socket(fileno=end))
    with suppress(EOFError, OSError):
        error = _locked(lock, patience)
        if error is not None:
            channel.say(refusal(0, error))
        else:
            channel.say(Answered(0, os.getpid()))
            HostProcess(channel, folder, most).run()
    os._exit(0)  # at once: no guest is served that the site does not hear of


def _locked(path: Path, patience: int) -> PlatformError | None:
    """Why this process may not work for its host, if so. An earlier one that is dying is waited for."""
    try:
        with blame(path):
            make_directory(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PlatformError as error:
        return error
    for _ in range(patience * 20 + 1):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        sleep(0.05)
    return PlatformError("another process serves this host's disks", place=str(path), hint="end it first")


if __name__ == "__main__":
    main()
