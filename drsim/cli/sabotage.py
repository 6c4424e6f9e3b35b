"""Sabotage: runs `drsim`'s command line as a process in which something is going to go wrong, for tests of live sites.

    python -m drsim.cli.sabotage site up SITE.yaml ...      as `drsim site up SITE.yaml ...`, and then:

    DRSIM_DIE_AT=F      when the file F says N, the process kills itself (SIGKILL) before the Nth change from then on of
                        its history of operations: what was begun is not written down, what was done has no outcome.
                        N = 1, 2, 3 ... is every step there is
    DRSIM_SLOW_DISK=F   while the file F exists, each fdatasync takes as many seconds longer as F says
    DRSIM_CLOCK=F       the clock is as many seconds ahead as F says; F is looked at twice a second

The product knows nothing of this: functions are replaced before it starts. The clock is the one that Python shows
(`time.time`); libfaketime would show another one to C as well, and slows threads down by a factor of ten.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DIE_AT, SLOW_DISK, CLOCK = "DRSIM_DIE_AT", "DRSIM_SLOW_DISK", "DRSIM_CLOCK"
_LOOK = 0.5  # seconds between looks at the clock's file
_CHANGES = ("INSERT", "UPDATE")


def die_at(path: Path) -> None:
    """Before the change of a history that the file says, counted from when it was written, the process is gone."""
    from drsim.real.history import HistoryStore  # after the clock is set

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


def clock(path: Path) -> None:
    """The time of day is what it is and what the file says."""
    real, ahead, due = time.time_ns, 0, 0.0

    def time_ns() -> int:
        nonlocal ahead, due
        if time.monotonic() >= due:
            due = time.monotonic() + _LOOK
            with suppress(OSError, ValueError):
                ahead = int(float(path.read_text()) * 10**9)
        return real() + ahead

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 10**9


SABOTAGE: dict[str, Callable[[Path], None]] = {CLOCK: clock, SLOW_DISK: slow_disk, DIE_AT: die_at}
"""By variable; the clock first."""


if __name__ == "__main__":
    for variable, sabotage in SABOTAGE.items():
        if variable in os.environ:
            sabotage(Path(os.environ[variable]))
    from drsim.cli.main import main

    main()
