"""Serve: one live site as a process: its installation, its API on a unix socket, structured logs, an end in good order.

SIGTERM and SIGINT end it; VMs run on, and wait for their disks until the site is up again (`hypervisor.RECONNECT`).
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from drsim.core.errors import PlatformError
from drsim.core.facts import CheckpointListed, CheckpointSealed, Fact
from drsim.core.units import SECOND, Ns
from drsim.real.api import api
from drsim.real.files import blame
from drsim.real.installation import Installation
from drsim.spec.live import SiteFile

QUIET = (CheckpointListed, CheckpointSealed)
"""Facts of every few seconds, which the log leaves out; `/events` has them."""
SWITCH = 0.0002
"""Seconds that a thread may keep the interpreter while another waits: guests are answered between the core's steps."""
_LONGEST_SOCKET = 107


def socket_of(spec: SiteFile, base: Path) -> Path:
    """Where a site's API is."""
    return base / spec.folder / "api.sock"


async def serve(
    spec: SiteFile, base: Path, *, armed: bool, transcript: bool = False, ready: Callable[[], None] = lambda: None
) -> None:
    """Run a site until it is told to end. Raises DrsimError for what keeps it from running."""
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
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
        with blame(path):
            beside = path.with_suffix(".new")
            beside.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(beside))
            beside.chmod(0o600)
            listener.listen(16)
            beside.replace(path)  # who finds it is heard
        server = uvicorn.Server(uvicorn.Config(api(site, armed=armed), log_config=None, lifespan="off"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        serving = asyncio.create_task(server._serve([listener]))
        log.info("up", armed=armed, life=site.state.state.lives)
        ready()
        try:
            over = asyncio.create_task(ended.wait())
            failed = asyncio.create_task(site.site.news.wait(lambda: site.site.failure is not None))
            await asyncio.wait({over, failed, serving}, return_when=asyncio.FIRST_COMPLETED)
            for task in (over, failed):
                task.cancel()
        finally:
            server.should_exit = True
            await serving
            path.unlink(missing_ok=True)
        log.info("down", failure=str(site.site.failure or ""))


def _note(log: Any, now: Ns, fact: Fact) -> None:
    if not isinstance(fact, QUIET):
        values = {name: _plain(getattr(fact, name)) for name in getattr(fact, "__slots__", ())}
        log.info(type(fact).__name__, when=now / SECOND, **values)


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str | None) else str(value)
