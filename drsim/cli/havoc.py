"""What a siege does to processes, disks and clocks of real sites: made so that any site's process will do.

kill -9 of any process   the site's own, or one that it has started, whichever there are
a host's process         killed, or stopped for up to some seconds longer than its site waits for it
slow disk                each fdatasync takes longer, for a while (`sabotage.py`)
clock step               the clock, as this site sees it, goes forward or back by up to some hours, at once and for
                         good
"""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from drsim.cli.demo import Patience, SiteProcess
from drsim.cli.sabotage import CLOCK, SLOW_DISK
from drsim.core.errors import PlatformError
from drsim.real.host import PATIENCE

LONGEST_STEP = 3 * 3600.0
"""Seconds by which a clock is set forward or back at most."""
_COMES = 60.0
"""Seconds until a host's process is there again."""
_NOTICED = 1.2
"""Seconds until a process has looked at its clock's file again."""


def prepared(folder: Path, name: str) -> dict[str, str]:
    """The environment of a site's process that slow disks and clock steps need."""
    _set(folder, name, 0.0)
    return {SLOW_DISK: str(_slow(folder, name)), CLOCK: str(_clock(folder, name))}


def _slow(folder: Path, name: str) -> Path:
    return folder / f"{name}.slow"


def _clock(folder: Path, name: str) -> Path:
    return folder / f"{name}.clock"


def _set(folder: Path, name: str, ahead: float) -> None:
    beside = folder / f"{name}.clock.new"
    beside.write_text(f"{ahead:+.3f}\n")
    beside.replace(_clock(folder, name))


def step_clock(folder: Path, site: SiteProcess, rng: random.Random) -> None:
    """Set its clock; half of the time its process begins again after that, and sees it from the start."""
    _set(folder, site.name, rng.choice((1, 60, LONGEST_STEP)) * rng.uniform(-1, 1))
    if rng.random() < 0.5:
        site.kill()
        site.up()
    else:
        time.sleep(_NOTICED)


def slow_disk(folder: Path, site: SiteProcess, rng: random.Random) -> None:
    """Its disk takes up to half a second longer for everything durable, for up to three seconds."""
    path = _slow(folder, site.name)
    path.write_text(f"{rng.uniform(0.02, 0.5):.3f}")
    time.sleep(rng.uniform(0.5, 3))
    path.unlink()


def family(pid: int) -> list[int]:
    """A process and all that it has started and that still runs, QEMU left out: it is in nobody's family."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for children in Path(f"/proc/{each}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
    return found


def kill_any(site: SiteProcess, rng: random.Random) -> None:
    """One process of the site dies. If it was the site's own, or ended with another, it is started again."""
    victim = rng.choice(family(site.process.pid))
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    time.sleep(rng.uniform(0, 0.7))
    if victim == site.process.pid or site.process.poll() is not None:
        site.kill()
        site.up()


def disturb_host(site: SiteProcess, rng: random.Random, sent: signal.Signals) -> None:
    """Kill one of the processes that serve its hosts' disks, or stop it for a while. Raises PlatformError."""
    patience = Patience(_COMES, site)
    while not (hosts := family(site.process.pid)[1:]):
        if patience.over:
            raise PlatformError("no process serves the disks", place=site.name)
        time.sleep(0.02)
    victim = rng.choice(sorted(hosts))
    with suppress(ProcessLookupError):
        os.kill(victim, sent)
        if sent is signal.SIGSTOP:
            time.sleep(rng.uniform(0, 1.5 * PATIENCE))
            os.kill(victim, signal.SIGCONT)
