"""Sabotage: runs `drsim`'s command line as a process in which something is going to go wrong, for tests of live sites.

    python -m drsim.cli.sabotage site up SITE.yaml ...      as `drsim site up SITE.yaml ...`, and then:

    DRSIM_DIE_AT=F      when the file F says N, the process kills itself (SIGKILL) before the Nth change from then on of
                        its history of operations: what was begun is not written down, what was done has no outcome.
                        N = 1, 2, 3 ... is every step there is
    DRSIM_SLOW_DISK=F   while the file F exists, each fdatasync takes as many seconds longer as F says

The product knows nothing of this: functions are replaced before it starts.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from drsim.cli.main import main
from drsim.real.history import HistoryStore

DIE_AT, SLOW_DISK = "DRSIM_DIE_AT", "DRSIM_SLOW_DISK"
_CHANGES = ("INSERT", "UPDATE")


def die_at(path: Path) -> None:
    """Before the change of a history that the file says, counted from when it was written, the process is gone."""
    real = HistoryStore._do

    def do(self: HistoryStore, statement: str, *values: object) -> list[tuple[object, ...]]:
        if statement.startswith(_CHANGES) and path.exists():
            left = int(path.read_text()) - 1
            if left:
                path.write_text(str(left))
            else:
                path.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return real(self, statement, *values)

    HistoryStore._do = do  # type: ignore[method-assign]


def slow_disk(path: Path) -> None:
    """What is made durable takes as much longer as the file says, while it is there."""
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        with suppress(OSError, ValueError):
            time.sleep(float(path.read_text()))
        real(fd)

    os.fdatasync = fdatasync  # type: ignore[assignment]


if __name__ == "__main__":
    if DIE_AT in os.environ:
        die_at(Path(os.environ[DIE_AT]))
    if SLOW_DISK in os.environ:
        slow_disk(Path(os.environ[SLOW_DISK]))
    main()
