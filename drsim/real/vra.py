"""VRA: the process that serves and taps a host's disks (`host_process.py`): begun by its site, or by somebody else.

Theory of operation. A process serves one life: from the moment a site has its socket until that socket ends. The site
begins it by itself (`Started`), or finds it where `drsim vra up` listens (`Found`): then the VRA is a program of its
own, which a service manager starts, limits and watches, and which stays when the site restarts.

    VRA hears                  it
    -------------------------  ----------------------------------------------------------------------------------
    a site connects            begins a process for it, and gives it the connection
    another one connects       the same; the earlier process was given up, and is ended first
    the process ends           says so, and waits for the site to connect again
    it is told to end          ends the process, and its guests lose their connections

A site also ends a process that does not answer, whoever began it: by a descriptor, so that nobody else is hit. The lock
of the host (`host_process.py`) keeps two processes from the same disks.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from drsim.core.errors import PlatformError
from drsim.real.chunk import BYTES
from drsim.real.files import blame, make_directory
from drsim.real.loopback import bound

LOCKED = 20
"""Seconds that a new process waits for an earlier one that is dying."""
_SPARE = 16  # chunks that may be in use beyond the VRA's buffer


class Life(Protocol):
    """A process that serves."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def kill(self) -> None:
        """End it at once, if it is there."""
        ...

    def wait(self, timeout: float | None = None) -> object:
        """Until it is gone. Raises subprocess.TimeoutExpired."""
        ...


Begin = Callable[[], tuple[socket.socket, Life | None]]
"""Begin or find a process: the site's end of its socket, and the process if it is known before it says its number
(then it is `Found`). Raises PlatformError."""


def command(folder: Path, host: str, pool_bytes: int) -> list[str]:
    """The command of a host's process, but for its socket. `folder` is the site's, `pool_bytes` the VRA's buffer."""
    return [
        sys.executable, "-m", "drsim.real.host_process", str(folder / "recordings"),
        str(folder / "hosts" / f"{host}.lock"), str(pool_bytes // BYTES + _SPARE), str(LOCKED),
    ]  # fmt: skip


def begun(words: list[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A process that has this socket."""
    fd = theirs.fileno()
    return subprocess.Popen([*words, str(fd)], pass_fds=[fd], stdin=subprocess.DEVNULL)


def own(words: list[str]) -> tuple[socket.socket, Life | None]:
    """Begin a process of the site's own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        return ours, begun(words, theirs)


class Found:
    """A process that is somebody else's child."""

    def __init__(self, pid: int) -> None:
        self.pid, self._fd = pid, os.pidfd_open(pid)

    def kill(self) -> None:
        """See `Life`."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        """See `Life`."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1e3):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)

    def __del__(self) -> None:
        os.close(self._fd)


def place(folder: Path, host: str) -> Path:
    """Where a host's VRA listens."""
    return folder / "hosts" / f"{host}.sock"


def found(folder: Path, host: str, hint: str) -> tuple[socket.socket, Life | None]:
    """Find the VRA of a host. Raises PlatformError with this hint."""
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        ours.connect(str(place(folder, host)))
    except OSError as error:
        ours.close()
        raise PlatformError(f"the VRA of host {host} is not up", place=str(place(folder, host)), hint=hint) from error
    return ours, None


class Vra:
    """A VRA that is a program of its own. `said` is told what happens to it. Raises PlatformError when one is up."""

    def __init__(self, folder: Path, host: str, pool_bytes: int, said: Callable[[str], None]) -> None:
        self._words, self._said, self._path = command(folder, host, pool_bytes), said, place(folder, host)
        with blame(self._path.parent):
            make_directory(self._path.parent)
        self._listener = bound(self._path, socket.SOCK_SEQPACKET)
        self._listener.listen()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Serve one site after the other, until an exception, as of a signal, ends it."""
        self._said(f"waits for its site at {self._path}")
        try:
            while True:
                with self._site() as connection:
                    self._end()
                    self._process = begun(self._words, connection)
                self._said(f"its site is here; process {self._process.pid} serves")
        finally:
            self._end()
            self._listener.close()
            self._path.unlink(missing_ok=True)

    def _site(self) -> socket.socket:
        """The next site that connects; says meanwhile when the process has ended."""
        if self._process is not None:
            poll, ended = select.poll(), os.pidfd_open(self._process.pid)
            poll.register(self._listener, select.POLLIN)
            poll.register(ended, select.POLLIN)
            try:
                happened = dict(poll.poll())
            finally:
                os.close(ended)
            if self._listener.fileno() not in happened:
                self._end()
                self._said("its site is gone; waits for it")
        return self._listener.accept()[0]

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
