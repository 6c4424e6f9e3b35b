"""Journal: the accounting of one VM's journal at the recovery site. The bytes themselves belong to the world's store.

Theory of operation. The journal holds the VM's writes with numbers `base + 1 .. durable` (durable) and up to
`appended` (on their way to the store); the mirror disk holds `apply(writes, base)`. A *mark* is put where a listed
checkpoint's cut lies. Data leaves only through `age`, which moves `base` to a mark, so the mirror is always the state
at some checkpoint that was listed, never past the oldest one that still is. Only when all marks are withdrawn may
`base` move to what is durable.

Invariant: base <= every mark <= durable <= appended, and marks never decrease.
Invariant: nbytes never grows beyond the hard limit, because `has_room` is asked before `append`.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from drsim.core.errors import CoreError
from drsim.core.messages import Position
from drsim.core.names import CheckpointId, VmId
from drsim.core.units import Lsn


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store holds of a stream after a crash. Each tuple has one item for each VM, in the stream's order.

    `epoch` and `end` are those of the last frame appended. The mirrors hold everything up to `base`, or may. `parts`
    is what the frames beyond `base` added to a VM's journal, oldest first: (last number, bytes).
    """

    epoch: int
    base: Position
    end: Position
    parts: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """How to rebuild one VM at a checkpoint: the mirror as it is, then these journaled writes in order."""

    vm: VmId
    mirror_at: Lsn
    upto: Lsn
    nbytes: int


class Journal:
    """One VM's journal. `limit` is the hard limit in bytes, None for none."""

    __slots__ = (
        "_boundaries", "_ends", "_floor", "_head", "_ids", "_totals", "appended", "base", "base_total", "durable",
        "durable_total", "limit", "total", "vm", "withdrawn",
    )  # fmt: skip

    def __init__(self, vm: VmId, *, limit: int | None = None) -> None:
        self.vm, self.limit = vm, limit
        self.base, self.durable, self.appended = Lsn(0), Lsn(0), Lsn(0)
        self.withdrawn = Lsn(0)  # a checkpoint before this number cannot be rebuilt
        # Bytes since the beginning: given to the store, durable, aged.
        self.total, self.durable_total, self.base_total = 0, 0, 0
        # Where frames ended since the last mark, as (lsn, total), and the total before the first of them.
        self._boundaries: deque[tuple[int, int]] = deque()
        self._floor = 0
        self._ids, self._ends, self._totals = array("q"), array("q"), array("q")
        self._head = 0

    def restore(self, base: Lsn, end: Lsn, parts: Iterable[tuple[int, int]]) -> None:
        """A new journal takes over what a store holds: (last number, bytes) of each part beyond `base`. No marks."""
        self.base = base
        self.durable = self.appended = max(base, end)
        self.withdrawn = base  # what lies before may be in the mirror
        for upto, nbytes in parts:
            self.total += nbytes
            self._boundaries.append((upto, self.total))
        self.durable_total = self.total

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.total - self.base_total

    def has_room(self, nbytes: int) -> bool:
        """Whether this many bytes may be appended without passing the hard limit."""
        return self.limit is None or not nbytes or self.nbytes + nbytes <= self.limit

    def append(self, upto: Lsn, nbytes: int) -> None:
        """Writes up to `upto` were given to the store."""
        if upto < self.appended or not self.has_room(nbytes):
            raise CoreError(f"append to {upto} after {self.appended}, {nbytes} bytes on {self.nbytes}")
        self.appended = upto
        self.total += nbytes
        if nbytes:
            self._boundaries.append((upto, self.total))

    def persisted(self, upto: Lsn, nbytes: int) -> None:
        """The store has everything up to `upto`, which added `nbytes`."""
        assert self.durable <= upto <= self.appended, (self.durable, upto, self.appended)
        self.durable = upto
        self.durable_total += nbytes

    def rollback(self) -> None:
        """What is not durable is gone (the store failed or the VRA restarted); the bytes come again."""
        self.appended, self.total = self.durable, self.durable_total
        while self._boundaries and self._boundaries[-1][1] > self.total:
            self._boundaries.pop()

    def mark(self, checkpoint: CheckpointId, lsn: Lsn) -> None:
        """A checkpoint's cut lies at `lsn`. Its size is counted at the last frame end at or before the cut."""
        if self._ids and (checkpoint <= self._ids[-1] or lsn < self._ends[-1]):
            raise CoreError(f"mark {checkpoint} at {lsn} after {self._ids[-1]} at {self._ends[-1]}")
        assert self.base <= lsn <= self.durable, (self.base, lsn, self.durable)
        while self._boundaries and self._boundaries[0][0] <= lsn:
            self._floor = self._boundaries.popleft()[1]
        self._ids.append(checkpoint)
        self._ends.append(lsn)
        self._totals.append(self._floor)

    @property
    def is_marked(self) -> bool:
        """Whether any checkpoint has a mark here."""
        return self._head < len(self._ids)

    def marked(self, checkpoint: CheckpointId) -> bool:
        """Whether a checkpoint has a mark here."""
        at = bisect_left(self._ids, checkpoint, self._head)
        return at < len(self._ids) and self._ids[at] == checkpoint

    def settled(self, checkpoint: CheckpointId) -> bool:
        """Whether this checkpoint or a later one was marked: an earlier one never will be."""
        return bool(self._ids) and checkpoint <= self._ids[-1]

    def at(self, checkpoint: CheckpointId) -> tuple[Lsn, int]:
        """The mark of a checkpoint: its number, and the bytes appended before it since the beginning."""
        if not self.marked(checkpoint):
            raise CoreError(f"checkpoint {checkpoint} has no mark in the journal of VM {self.vm}")
        at = bisect_left(self._ids, checkpoint, self._head)
        return Lsn(self._ends[at]), self._totals[at]

    def age(self, upto: Lsn, total: int, oldest: CheckpointId | None) -> None:
        """The mirror holds everything up to `upto`, which is `total` bytes since the beginning.

        Marks of checkpoints before `oldest` are gone; None: no mark was left when the aging was asked for.
        """
        assert self.base <= upto <= self.durable, (self.base, upto, self.durable)
        self.base, self.base_total = upto, total
        if oldest is not None:
            self._head = bisect_left(self._ids, oldest, self._head)
        if self._head > 1024 and self._head * 2 > len(self._ids):
            del self._ids[: self._head], self._ends[: self._head], self._totals[: self._head]
            self._head = 0

    def withdraw(self) -> None:
        """No checkpoint is listed any more: all marks are gone, and what is durable now may go."""
        self.withdrawn = self.durable
        del self._ids[:], self._ends[:], self._totals[:]
        self._head = 0

    def fits_from(self, nbytes: int) -> CheckpointId | None:
        """The oldest checkpoint that may stay listed if the journal shall hold at most `nbytes`.

        None when not even the newest one's data fits.
        """
        at = bisect_left(self._totals, self.total - nbytes, self._head)
        return CheckpointId(self._ids[at]) if at < len(self._ids) else None

    def plan(self, checkpoint: CheckpointId) -> RecoveryPlan:
        """How to rebuild the VM at a checkpoint. Raises CoreError when it has no mark here."""
        lsn, total = self.at(checkpoint)
        return RecoveryPlan(self.vm, self.base, lsn, total - self.base_total)
