"""Twins: a program played again in another way, which must make no difference.

    property  the other way
    --------  ------------------------------------------------------------------------------------------------
    P10       every batch of guest writes is handed over row by row: n writes at once are n writes one by one
    P28       the events alone are given to fresh machines: nothing but events goes into a machine
    P27       once more, here and in a process with another hash seed: nothing depends on where it runs

The first is looked at for every program, the others for one in four each, as byte 9 says. P28 ends where a machine is
rebuilt after a crash: what it is rebuilt from is no event.
"""

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from drsim.core.errors import PlatformError
from drsim.core.kernel import Sink
from drsim.core.names import Address, StreamId
from drsim.core.trace import TraceDigest
from drsim.verify.estate import Shape, estate_of
from drsim.verify.explorer import Explorer
from drsim.verify.guests import Write
from drsim.verify.parity import Recording, fresh
from drsim.verify.program import run, shape_of
from drsim.verify.violation import Violation

ELSEWHERE = ["-m", "drsim.verify.twins"]
"""How the process with another hash seed is started."""


class Quick(Explorer):
    """Without checkers: they have looked at these programs elsewhere."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        super().__init__(shape, trace=trace, checking=False)


class RowByRow(Quick):
    """Hands guest writes to the VRA one at a time."""

    def captured(self, stream: StreamId, writes: Sequence[Write]) -> None:
        """The tap has captured these writes."""
        for write in writes:
            super().captured(stream, [write])


class Recorded(Quick):
    """Stops recording when a machine is rebuilt: that is no event."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        self.recording = trace
        super().__init__(shape, trace=trace)

    def _rebuild(self, address: Address) -> None:
        if isinstance(self.recording, _Until):
            self.recording.over = True
        super()._rebuild(address)


class _Until(Recording):
    """A recording that can be over before its run is."""

    over = False

    def record(self, *step: Any) -> None:
        if not self.over:
            super().record(*step)


def run_twins(program: bytes) -> Explorer:
    """Play a program in all ways. Raises Violation when they differ."""
    whole = run(program, explorer=Quick)
    row_by_row(whole, program)
    if program[9] % 4 == 1:
        same_events(program)
    if program[9] % 4 == 2:
        same_steps(program)
    return whole


def row_by_row(whole: Explorer, program: bytes) -> None:
    """P10. Compares journals, mirrors and lists; not how many steps it took."""
    rows = run(program, explorer=RowByRow)
    for id_, disks in whole.disks.items():
        other = rows.disks[id_]
        if disks.stored() != other.stored():
            raise Violation("P10", f"{id_}: row by row the journals end at {other.end}, at once at {disks.end}")
        for vm, mine in disks.vms.items():
            if (mine.lsns, mine.rows, mine.mirror) != (other.vms[vm].lsns, other.vms[vm].rows, other.vms[vm].mirror):
                raise Violation("P10", f"VM {vm}: row by row its journal has other rows")
    for vpg, kept in whole.kept.items():
        if kept != rows.kept[vpg]:
            raise Violation("P10", f"{vpg}: row by row other checkpoints are listed")


def same_events(program: bytes) -> None:
    """P28. Compares every step's effects as text."""
    recording, shape = _Until(), shape_of(program)
    with suppress(Violation):  # not the question here
        run(program, trace=recording, explorer=Recorded)
    estate = estate_of(shape)
    machines = {address: estate.build(address) for address in estate.addresses}
    fresh(machines, recording, max_steps=shape.tweaks.max_steps)


def same_steps(program: bytes) -> None:
    """P27. Compares a digest of every step's event."""
    first = steps(program)
    if steps(program) != first:
        raise Violation("P27", "played again in the same process, the program took other steps")
    if elsewhere(program) != first:
        raise Violation("P27", "played again with another hash seed, the program took other steps")


def steps(program: bytes) -> str:
    """A digest of the steps of a program."""
    digest = TraceDigest()
    with suppress(Exception):  # its steps up to there are what was asked for
        run(program, trace=digest, explorer=Quick)
    return digest.hexdigest


_helpers: dict[tuple[str, ...], subprocess.Popen[str]] = {}


def elsewhere(program: bytes) -> str:
    """The same in a process with another hash seed, which is started once and goes on."""
    key = tuple(ELSEWHERE)
    if key not in _helpers:
        env = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
        flags = ["-O"] * sys.flags.optimize
        pipe = subprocess.PIPE
        _helpers[key] = subprocess.Popen([sys.executable, *flags, *key], stdin=pipe, stdout=pipe, text=True, env=env)
    helper = _helpers[key]
    if helper.stdin is None or helper.stdout is None:
        raise PlatformError("a process without pipes")
    helper.stdin.write(program.hex() + "\n")
    helper.stdin.flush()
    answer = helper.stdout.readline().strip()
    if not answer:
        raise PlatformError("the process with another hash seed has ended")
    return answer


@atexit.register
def close() -> None:
    """End the other processes."""
    for helper in _helpers.values():
        helper.kill()
        helper.communicate()
    _helpers.clear()


def main(answer: Callable[[bytes], str] = steps) -> None:
    """The other process: programs in, digests out, one a line."""
    for line in sys.stdin:
        sys.stdout.write(answer(bytes.fromhex(line.strip())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
