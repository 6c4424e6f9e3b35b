"""Twins: a program played twice, the second time with every batch of guest writes handed over row by row (P10).

Batch invariance is a law of the core: n writes at once are n writes one by one. So both runs must leave the same
journals, mirrors and checkpoints behind, whatever faults the program brings.
"""

from collections.abc import Sequence

from drsim.core.kernel import Sink
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.guests import Write
from drsim.verify.program import run
from drsim.verify.violation import Violation


class Quick(Explorer):
    """Without checkers: they have looked at these programs elsewhere."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        super().__init__(shape, trace=trace, checking=False)


class RowByRow(Quick):
    """Hands guest writes to the VRA one at a time."""

    def captured(self, writes: Sequence[Write]) -> None:
        for write in writes:
            super().captured([write])


def run_twins(program: bytes) -> Explorer:
    """Play a program both ways. Raises Violation when they differ."""
    whole, rows = run(program, explorer=Quick), run(program, explorer=RowByRow)
    for id_, disks in whole.disks.items():
        other = rows.disks[id_]
        if (disks.epoch, disks.base, disks.end) != (other.epoch, other.base, other.end):
            raise Violation("P10", f"{id_}: row by row the journals end at {other.end}, at once at {disks.end}")
        for vm, mine in disks.vms.items():
            if (mine.lsns, mine.rows, mine.mirror) != (other.vms[vm].lsns, other.vms[vm].rows, other.vms[vm].mirror):
                raise Violation("P10", f"VM {vm}: row by row its journal has other rows")
    for vpg, kept in whole.kept.items():
        if kept != rows.kept[vpg]:
            raise Violation("P10", f"{vpg}: row by row other checkpoints are listed")
    return whole
