"""Serve: one live site as a process: its installation, its API, structured logs, an end in good order.

The API is on a unix socket that only this user may open and, if the site's file says so, on a TCP port: over TLS 1.3,
with the site's certificate, for whoever shows the token that is in the file `api.token` of the site's folder.

SIGTERM and SIGINT end it; VMs run on, and wait for their disks until the site is up again (`hypervisor.RECONNECT`).
"""

import asyncio
import gc
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import structlog
import uvicorn
from starlette.types import ASGIApp

from drsim.core.errors import PlatformError
from drsim.core.facts import CheckpointListed, CheckpointSealed, Fact
from drsim.core.units import SECOND, Ns
from drsim.real import pki
from drsim.real.api import Keyed, api
from drsim.real.files import blame, replace_file
from drsim.real.installation import Installation
from drsim.spec.live import SiteFile

QUIET = (CheckpointListed, CheckpointSealed)
"""Facts of every few seconds, which the log leaves out; `/events` has them."""
SWITCH = 0.0002
"""Seconds that a thread may keep the interpreter while another waits: guests are answered between the core's steps."""
_LONGEST_SOCKET = 107
_SHORTEST_TOKEN = 32


def socket_of(spec: SiteFile, base: Path) -> Path:
    """Where a site's API is."""
    return base / spec.folder / "api.sock"


async def serve(
    spec: SiteFile, base: Path, *, armed: bool, transcript: bool = False, ready: Callable[[], None] = lambda: None
) -> None:
    """Run a site until it is told to end. Raises DrsimError for what keeps it from running."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(_Lossy(sys.stdout)),  # type: ignore[arg-type]
    )
    sys.setswitchinterval(SWITCH)
    log = structlog.get_logger().bind(site=spec.site)
    path = socket_of(spec, base)
    if len(str(path.absolute()).encode()) > _LONGEST_SOCKET:
        hint = f"unix sockets have paths of at most {_LONGEST_SOCKET} bytes; put the site into a shorter folder"
        raise PlatformError("the path is too long", place=str(path), hint=hint)
    async with Installation(spec, base, transcript=transcript) as site:
        site.site.observers.append(lambda now, fact: _note(log, now, fact))
        site.refused = lambda why: log.warning("client refused", why=why)
        site.warned = lambda why: log.warning("platform", why=why)
        app = api(site, armed=armed)
        servers = []
        if spec.api is not None:
            assert spec.pki is not None
            keyed = Keyed(app, _token(path.with_name("api.token")), lambda why: site.refused(why))
            servers.append(_Server(keyed, _tcp(spec.api.listen), pki.api_context(base / spec.pki)))
        servers.append(_Server(app, _unix(path)))
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        serving = [asyncio.create_task(server.run_on()) for server in servers]
        log.info("up", armed=armed, life=site.state.state.lives)
        for stream, error in site.distrust.damaged.items():
            log.error("journal damaged and set aside", stream=stream, why=str(error))
        for export, error in site.own.missing.items():
            log.error("disk is not served", disk=export, why=str(error))
        gc.collect()
        gc.freeze()  # a collection that goes through everything imported would take 40 ms, in which guests may be held
        ready()
        try:
            over = asyncio.create_task(ended.wait())
            failed = asyncio.create_task(site.site.news.wait(lambda: site.site.failure is not None))
            await asyncio.wait({over, failed, *serving}, return_when=asyncio.FIRST_COMPLETED)
            for task in (over, failed):
                task.cancel()
        finally:
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
            path.unlink(missing_ok=True)
        log.info("down", failure=str(site.site.failure or ""))


class _Server(uvicorn.Server):
    """The API on a socket that listens."""

    def __init__(self, app: ASGIApp, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._listener = listener

    async def run_on(self) -> None:
        """Answer until `should_exit`."""
        await self.serve([self._listener])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The site looks after signals."""
        yield


def _unix(path: Path) -> socket.socket:
    with blame(path):
        beside = path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(beside))
        beside.chmod(0o600)
        listener.listen(16)
        beside.replace(path)  # who finds it is heard
    return listener


def _tcp(place: str) -> socket.socket:
    host, _, port = place.rpartition(":")
    with blame(f"API on {place}"):
        return socket.create_server((host, int(port)), backlog=16)


def _token(path: Path) -> str:
    """What the file says; a new one when it is not there."""
    with blame(path):
        if not path.exists():
            replace_file(path, (secrets.token_urlsafe(32) + "\n").encode())
        found = path.read_text().strip()
    if len(found) < _SHORTEST_TOKEN:
        hint = "delete the file: the site makes a new one"
        raise PlatformError(f"a token has at least {_SHORTEST_TOKEN} characters", place=str(path), hint=hint)
    return found


class _Lossy:
    """A log that loses lines when its disk is full: the site goes on."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Of a line, what the disk takes."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """Likewise."""
        with suppress(OSError):
            self._file.flush()


def _note(log: Any, now: Ns, fact: Fact) -> None:
    if not isinstance(fact, QUIET):
        values = {name: _plain(getattr(fact, name)) for name in getattr(fact, "__slots__", ())}
        log.info(type(fact).__name__, when=now / SECOND, **values)


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | None) else str(value)
