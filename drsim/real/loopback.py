"""Sockets of this machine: a free port, and unix sockets that only this user may open."""

import os
import socket
from pathlib import Path

from drsim.core.errors import PlatformError
from drsim.real.files import blame


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bound(path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A unix socket at a path, not listening yet. Raises PlatformError when another server has the path."""
    with blame(path):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                raise PlatformError("a server listens here already", place=str(path))
        path.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, kind)
        before = os.umask(0o077)
        try:
            made.bind(str(path))
        except BaseException:
            made.close()
            raise
        finally:
            os.umask(before)
    return made
