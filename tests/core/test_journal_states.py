"""The journal's accounting against plain lists, in any order of what may happen to it."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drsim.core.journal import Journal
from drsim.core.names import CheckpointId, VmId
from drsim.core.units import Lsn

LIMIT = 60


class JournalStates(RuleBasedStateMachine):
    """Frames as (last number, bytes), marks as (checkpoint, number); what the mirror holds is dropped from both."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal(VmId(1), limit=LIMIT)
        self.durable: list[tuple[int, int]] = []
        self.on_its_way: list[tuple[int, int]] = []
        self.marks: list[tuple[int, int]] = []
        self.base = self.last = self.checkpoints = 0
        self.wish: tuple[Lsn, int, CheckpointId | None] | None = None

    def total(self) -> int:
        return sum(size for _, size in self.durable + self.on_its_way)

    def before(self, lsn: int) -> int:
        """Bytes of the frames that end at or before a number."""
        return sum(size for upto, size in self.durable if upto <= lsn)

    def end(self) -> int:
        return self.on_its_way[-1][0] if self.on_its_way else self.last

    # -- what happens -----------------------------------------------------------------------------------------

    @rule(writes=st.integers(1, 4), size=st.integers(1, 20))
    def frame_given_to_the_store(self, writes: int, size: int) -> None:
        if self.total() + size <= LIMIT:
            self.on_its_way.append((self.end() + writes, size))
            self.journal.append(Lsn(self.end()), size)

    @rule(skipped=st.integers(0, 3))
    def epoch_begins(self, skipped: int) -> None:
        self.on_its_way.append((self.end() + skipped, 0))
        self.journal.append(Lsn(self.end()), 0)

    @precondition(lambda self: self.on_its_way)
    @rule()
    def frame_is_durable(self) -> None:
        frame = self.on_its_way.pop(0)
        self.durable.append(frame)
        self.last = frame[0]
        self.journal.persisted(Lsn(frame[0]), frame[1])

    @rule()
    def store_failed(self) -> None:
        self.on_its_way.clear()
        self.journal.rollback()

    @rule(back=st.integers(0, 6))
    def checkpoint_reached(self, back: int) -> None:
        wanted = self.wish[0] if self.wish and self.wish[2] is None else 0
        lsn = max(self.last - back, self.base, wanted, *(lsn for _, lsn in self.marks))
        self.checkpoints += 1
        self.marks.append((self.checkpoints, lsn))
        self.journal.mark(CheckpointId(self.checkpoints), Lsn(lsn))

    @precondition(lambda self: self.marks and self.wish is None)
    @rule(n=st.integers(0, 3))
    def aging_asked_for(self, n: int) -> None:
        oldest = CheckpointId(self.marks[min(n, len(self.marks) - 1)][0])
        self.wish = (*self.journal.at(oldest), oldest)

    @precondition(lambda self: self.wish is None)
    @rule()
    def all_withdrawn(self) -> None:
        self.marks.clear()
        self.journal.withdraw()
        self.wish = (self.journal.durable, self.journal.durable_total, None)

    @precondition(lambda self: self.wish is not None)
    @rule()
    def mirror_has_it(self) -> None:
        assert self.wish is not None
        self.journal.age(*self.wish)
        self.base, _, oldest = self.wish
        self.durable = [frame for frame in self.durable if frame[0] > self.base]
        self.marks = [mark for mark in self.marks if oldest is None or mark[0] >= oldest]
        self.wish = None

    @rule()
    def crash_and_rebuild(self) -> None:
        """From what the store holds; then the manager brings back the marks."""
        self.on_its_way.clear()
        self.wish = None
        self.journal = Journal(VmId(1), limit=LIMIT)
        self.journal.restore(Lsn(self.base), Lsn(self.last), [part for part in self.durable if part[1]])
        for checkpoint, lsn in self.marks:
            self.journal.mark(CheckpointId(checkpoint), Lsn(lsn))

    # -- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def numbers_are_those_of_the_lists(self) -> None:
        assert (self.journal.base, self.journal.durable, self.journal.appended) == (self.base, self.last, self.end())

    @invariant()
    def every_byte_is_counted_once(self) -> None:
        assert self.journal.nbytes == self.total() <= LIMIT
        assert self.journal.has_room(LIMIT - self.total())
        assert not self.journal.has_room(LIMIT - self.total() + 1)

    @invariant()
    def every_mark_can_be_rebuilt(self) -> None:
        for checkpoint, lsn in self.marks:
            plan = self.journal.plan(CheckpointId(checkpoint))
            assert (plan.mirror_at, plan.upto, plan.nbytes) == (self.base, lsn, self.before(lsn))

    @invariant()
    def only_what_was_marked_and_not_aged_is_marked(self) -> None:
        known = {checkpoint for checkpoint, _ in self.marks}
        everything = range(self.checkpoints + 2)
        assert {c for c in everything if self.journal.marked(CheckpointId(c))} == known
        newest = max(known, default=0)
        if known:
            assert [self.journal.settled(CheckpointId(c)) for c in everything] == [c <= newest for c in everything]

    @invariant()
    def the_oldest_that_fits_is_found(self) -> None:
        for room in range(0, LIMIT + 10, 7):
            fits = [checkpoint for checkpoint, lsn in self.marks if self.total() - self.before(lsn) <= room]
            assert self.journal.fits_from(room) == (fits[0] if fits else None)


TestJournalStates = JournalStates.TestCase
