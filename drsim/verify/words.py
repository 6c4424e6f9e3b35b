"""Words: the witness of a judgement as values that can be checked by hand, and as one sentence."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from drsim.core.units import SECOND
from drsim.verify.history import History, Point, VmLog
from drsim.verify.levels import Kind
from drsim.verify.oracle import NEVER
from drsim.verify.sectors import SAID, Seen

Said = dict[str, Any]
LONG = 10 * 86400 * SECOND
"""Times beyond this are those of a calendar, and are told from the first write on."""


def epoch(history: History) -> int:
    """From when times are told: 0, or the first issue when the history's times are those of a calendar."""
    issued = [int(vm.writes.issue.min()) for vm in history.vms.values() if len(vm.writes)]
    first = min(issued, default=0)
    return first if first > LONG else 0


def clock(ns: int, zero: int) -> str:
    """A time exactly: 4.2 s."""
    sign, (whole, rest) = "-" if ns < zero else "", divmod(abs(ns - zero), SECOND)
    return f"{sign}{whole}" + f".{rest:09d}".rstrip("0").rstrip(".") + " s"


def write_said(log: VmLog, number: int) -> Said:
    """A write of a VM, `number` counted from 1 as the oracle does."""
    w = log.writes
    disk, lba = log.place(int(w.start[number - 1]))
    ack = int(w.ack[number - 1])
    return {
        "vm": log.name,
        "write": int(log.id[number - 1]),
        "disk": disk,
        "lba": lba,
        "sectors": int(w.stop[number - 1] - w.start[number - 1]),
        "issue_ns": int(w.issue[number - 1]),
        "ack_ns": None if ack == NEVER else ack,
    }


def place_said(point: Point, log: VmLog, sector: int) -> Said:
    """A sector of a recovered VM, and what it holds."""
    disk, lba = log.place(sector)
    runs = point.disks[log.name, disk]
    i = int(np.searchsorted(runs.lba, lba, "right")) - 1
    write, seen = 0, Seen.ZERO
    if i >= 0 and lba < runs.lba[i] + runs.sectors[i]:
        write, seen = int(runs.write[i]), Seen(int(runs.seen[i]))
    if seen is Seen.ZERO:
        holds = "what was there before any write"
    elif seen is not Seen.OURS:
        holds = SAID[seen]
    else:
        holds = f"write {write}{_strange(log, write, sector, int(runs.start[i]), int(runs.length[i]))}"
    return {"vm": log.name, "disk": disk, "lba": lba, "holds": holds}


def _strange(log: VmLog, write: int, sector: int, start: int, length: int) -> str:
    """What is odd about a write being at a sector, nothing if it belongs there."""
    found = np.flatnonzero(log.id == write)
    if not len(found):
        return ", which the history does not have"
    first, last = int(log.writes.start[found[0]]), int(log.writes.stop[found[0]])
    if not first <= sector < last:
        return ", which was not written there"
    if start >= 0 and (log.place(first)[1], last - first) != (start, length):
        return f", but one of {length} sectors from sector {start} on, which the history does not have"
    return ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Says a witness; `zero` is from when its times are told."""

    zero: int

    def of(self, said: Said) -> str:
        """One sentence without its full stop."""
        missing: Said = said.get("missing", {})
        present: Said = said.get("present", {})
        at: Said = said.get("at", {})
        match Kind(said["kind"]):
            case Kind.INCOMPLETE:
                return f"there is no image of disk {at['disk']} of VM {at['vm']}"
            case Kind.FOREIGN:
                return f"VM {at['vm']} holds {at['holds']}, at {_sector(at)}"
            case Kind.TORN:
                return f"VM {at['vm']} has only a part of {self.issued(missing)}: {_sector(at)} holds {at['holds']}"
            case Kind.HOLE:
                return (
                    f"VM {at['vm']} has {self.issued(present)} and lacks {self.acked(missing)}, which came first: "
                    f"{_sector(at)} holds {at['holds']}"
                )
            case Kind.TANGLED:
                return (
                    f"VM {missing['vm']} has parts of {self.issued(missing)} and {self.issued(present)}, which were in "
                    "flight together, and no order of landing leaves them so"
                )
            case Kind.CUT:
                return (
                    f"VM {present['vm']} has {self.issued(present)}, which was issued after write {missing['write']} "
                    f"of VM {missing['vm']} was acknowledged ({self.at(missing['ack_ns'])}), and that one is missing"
                )
            case Kind.UNFLUSHED:
                return (
                    f"VM {missing['vm']} lacks {self.acked(missing)}, which was durable before {self.issued(present)} "
                    f"of VM {present['vm']}, and that one is there"
                )
            case Kind.UNTOLD:
                return "no flush of its VMs is recorded, so nothing tells what their disks had to keep"
            case Kind.UNFROZEN:
                return "no VM was frozen for it"
            case Kind.FREEZE if missing:
                freeze = self.at(said["freeze_ns"])
                return f"VM {missing['vm']} lacks {self.acked(missing)} from before its freeze ({freeze})"
            case Kind.FREEZE:
                return f"VM {present['vm']} has {self.issued(present)} from after its thaw ({self.at(said['thaw_ns'])})"

    def at(self, ns: int) -> str:
        return clock(ns, self.zero)

    def issued(self, write: Said) -> str:
        return f"write {write['write']} (issued at {self.at(write['issue_ns'])})"

    def acked(self, write: Said) -> str:
        ack = write["ack_ns"]
        return f"write {write['write']} ({'never acknowledged' if ack is None else 'acknowledged at ' + self.at(ack)})"


def _sector(at: Said) -> str:
    return f"sector {at['lba']} of disk {at['disk']}"
