"""Linear: P18. What operators ask of a VPG, and the checkpoints that come of it, are some order of a small machine.

Theory of operation. An *operation* has an interval: from when it was asked to when its result was known. A history is
linearizable when each operation can be given an instant within its interval so that, one after another, they are a
run of the sequential machine (`Control`). The search is Wing and Gong's with Lowe's memory of what was tried before:
the next operation is one that was asked before any of those left was answered; a set of operations already placed,
together with the machine's state, is tried once. Operations of different VPGs never meet, so each VPG is judged
alone (verification.md 2.3, P18).

    operation         interval                      the machine
    ----------------  ----------------------------  ---------------------------------------------------------------
    Edit(vms, ...)    when the manager was told     the VPG has these VMs, some of them unprotected
    Pause(paused)     when the manager was told     nothing is sealed while paused
    Tag(name)         when the manager was told     one checkpoint with this name is owed
    Seal(vms, tag)    from the hold to the sealing  not paused, nothing unprotected; of the VPG's VMs, and all that were
                                                    in the last one and are still in the VPG; a tag that is owed

Not compared: that a tag is ever sealed, which is liveness (P20).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drsim.core.names import VmId


@dataclass(frozen=True, slots=True)
class Edit:
    """An operator or the inventory says what the VPG consists of."""

    vms: frozenset[VmId]
    unprotected: frozenset[VmId] = frozenset()


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator pauses replication, or resumes it."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """An operator wants a checkpoint of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Seal:
    """A checkpoint was sealed: of these VMs, with this tag."""

    vms: frozenset[VmId]
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """What was done between `asked` and `answered`; any unit of time."""

    what: Edit | Pause | Tag | Seal
    asked: int
    answered: int


@dataclass(frozen=True, slots=True)
class Control:
    """The sequential machine of one VPG. `seen`: VMs of the last checkpoint that still belong to it."""

    vms: frozenset[VmId]
    unprotected: frozenset[VmId] = frozenset()
    paused: bool = False
    seen: frozenset[VmId] = frozenset()
    owed: tuple[str, ...] = ()

    def after(self, what: Edit | Pause | Tag | Seal) -> "Control | None":
        """The machine after an operation; None when it cannot take it now."""
        match what:
            case Edit(vms, unprotected):
                return replace(self, vms=vms, unprotected=unprotected, seen=self.seen & vms)
            case Pause(paused):
                return replace(self, paused=paused)
            case Tag(name):
                return replace(self, owed=tuple(sorted((*self.owed, name))))
            case Seal(vms, tag):
                if self.paused or self.unprotected or not self.seen <= vms <= self.vms:
                    return None
                if not tag:
                    return replace(self, seen=vms)
                if tag not in self.owed:
                    return None
                at = self.owed.index(tag)
                return replace(self, seen=vms, owed=self.owed[:at] + self.owed[at + 1 :])


def stuck(history: Sequence[Operation], start: Control) -> Operation | None:
    """None when the history is linearizable; otherwise the operation that no order reaches, the earliest answered."""
    operations = sorted(history, key=lambda o: (o.asked, o.answered))
    tried: set[tuple[frozenset[int], Control]] = set()
    furthest: tuple[int, Operation | None] = (-1, None)
    todo = [(frozenset(range(len(operations))), start)]
    while todo:
        left, state = todo.pop()
        if not left:
            return None
        if (left, state) in tried:
            continue
        tried.add((left, state))
        first = min((operations[n] for n in left), key=lambda o: o.answered)
        if len(operations) - len(left) > furthest[0]:
            furthest = len(operations) - len(left), first
        for n in left:
            if operations[n].asked <= first.answered:
                after = state.after(operations[n].what)
                if after is not None:
                    todo.append((left - {n}, after))
    return furthest[1]
