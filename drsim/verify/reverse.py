"""Reverse: a failover, and protection the other way onto the old source's disks, which nobody trusts (P17).

Theory of operation. A program's operations are two runs of the explorer on one estate. The first is cut off where its
operations end: nothing heals, and the source may have written what nobody shipped. Then the VMs run at the other site
from their newest listed checkpoint, and the second run protects them onto the disks that the first left at the source,
as a preseeded start: every region is compared. Checkpoints, superset and images are checked as ever, and in the end the
old source's disks must be those of the new one.

The VMs of a VPG without a checkpoint stay as they are. VMs that came, went or moved are left to the explorer.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from drsim.core.kernel import Sink
from drsim.core.messages import Start
from drsim.core.names import VmId
from drsim.verify.explorer import Explorer
from drsim.verify.operations import FAULTS
from drsim.verify.program import HEAD, follow, random_program, shape_of
from drsim.verify.violation import Violation

LENGTH = HEAD + 3 * 120
KEPT_OUT = sum(1 << FAULTS.index(fault) for fault in ("edits", "moves"))
CONTENT = ("P3", "P4", "P5", "P11", "P12")
INHERITED = np.uint16(0x8000)  # in the stamp of every sector that the first run left

Left = Mapping[VmId, tuple[bytes, bytes]]
"""Of each VM: what it runs from now, and what its disks at the other side hold."""


def random_reverse(seed: int) -> bytes:
    """The program of a seed."""
    return random_program(seed, operations=(LENGTH - HEAD) // 3)


def run_reverse(
    program: bytes, *, trace: Sink | None = None, explorer: type[Explorer] = Explorer
) -> tuple[Explorer, Explorer]:
    """Play both runs. Raises Violation: P17 when the second finds wrong content, else the property that fails."""
    half = HEAD + (len(program) - HEAD) // 6 * 3
    mask = int.from_bytes(program[6:8], "little") | KEPT_OUT
    head = program[:6] + mask.to_bytes(2, "little") + program[8:9] + bytes(1)
    first = explorer(shape_of(head), trace=trace)
    follow(first, head + program[HEAD:half], ends=False)
    second = explorer(replace(first.shape, start=Start.PRESEEDED), trace=trace)
    second.inherit(left_by(first))
    try:
        follow(second, head + program[half:])
        for stream in (s for s in second.estate.streams if second.has(s)):
            sender = second.sender(stream)
            for vm, disks in second.disks[stream].vms.items() if not sender.syncing and not sender.used else ():
                if disks.tip != second.guests[vm].disk:
                    raise Violation("P17", f"VM {vm}: in sync, and the old source's disk is not that of the new one")
    except Violation as found:
        if found.prop in CONTENT:
            raise Violation("P17", f"protecting the other way: {found.message}") from found
        raise
    return first, second


def left_by(x: Explorer) -> Left:
    """What a run that was cut off leaves: images of the newest checkpoints, and the disks of the source."""
    left: dict[VmId, tuple[bytes, bytes]] = {}
    for kept in x.kept.values():
        newest = kept[max(kept)] if kept else None
        for stream, cut in newest.cut.items() if newest is not None else ():
            for vm, position in x.disks[stream].cut_through(cut):
                left[vm] = _marked(x.disks[stream].image(vm, position)), _marked(x.guests[vm].disk)
    for vm, guest in x.guests.items():
        left.setdefault(vm, (_marked(guest.disk), _marked(guest.disk)))
    return left


def _marked(content: bytes | bytearray) -> bytes:
    """With stamps that no write of the second run can have."""
    stamps = np.frombuffer(bytes(content), "<u2").copy()
    stamps[stamps > 0] |= INHERITED
    return stamps.tobytes()
