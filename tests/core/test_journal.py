"""Window and Journal: what they count, and in which order it may change."""

import random
from dataclasses import dataclass, field

import pytest
from support import writes

from drsim.core.errors import CoreError
from drsim.core.journal import Journal
from drsim.core.messages import Frame
from drsim.core.names import Address, CheckpointId, StreamId, VmId
from drsim.core.units import SECTOR, Lsn
from drsim.core.window import Window, reaches

STREAM = StreamId("crm", Address("a"), Address("b"))


def frame(n: int, sectors: int = 8) -> Frame:
    return Frame(STREAM, 1, 1, (n - 1,), (n,), (sectors * SECTOR,), False, writes((1, 1, 0, sectors)))


def test_reaches_needs_every_vm() -> None:
    assert reaches((3, 4), (3, 4))
    assert not reaches((9, 3), (3, 4))
    with pytest.raises(ValueError, match="longer"):
        reaches((1,), (1, 2))


def test_window_is_bounded_by_frames_and_bytes() -> None:
    window = Window(max_frames=2, max_bytes=20 * SECTOR)
    assert window.has_room(1 << 40), "an empty window takes a frame of any size"
    window.add(frame(1))
    assert window.has_room(12 * SECTOR)
    assert not window.has_room(13 * SECTOR)
    window.add(frame(2))
    assert not window.has_room(0)
    assert (len(window), window.nbytes) == (2, 16 * SECTOR)


def test_window_frees_what_is_covered_and_no_more() -> None:
    window = Window(max_frames=9, max_bytes=1 << 20)
    frames = [frame(n) for n in (1, 2, 3)]
    for one in frames:
        window.add(one)
    assert window.acknowledge((2,)) == 16 * SECTOR
    assert window.acknowledge((2,)) == 0
    assert list(window) == frames[2:]
    assert window.clear() == frames[2:]
    assert (len(window), window.nbytes) == (0, 0)


def filled(*sizes: int, limit: int | None = None) -> Journal:
    """One frame of one write for each size, all durable."""
    journal = Journal(VmId(1), limit=limit)
    for n, size in enumerate(sizes, 1):
        journal.append(Lsn(n), size)
        journal.persisted(Lsn(n), size)
    return journal


def mark(journal: Journal, *marks: tuple[int, int]) -> None:
    for checkpoint, lsn in marks:
        journal.mark(CheckpointId(checkpoint), Lsn(lsn))


def age(journal: Journal, checkpoint: int) -> None:
    journal.age(*journal.at(CheckpointId(checkpoint)), CheckpointId(checkpoint))


def test_append_persist_and_the_hard_limit() -> None:
    journal = filled(10, 20, limit=50)
    assert journal.has_room(20)
    assert not journal.has_room(21)
    with pytest.raises(CoreError):
        journal.append(Lsn(3), 21)
    with pytest.raises(CoreError):
        journal.append(Lsn(1), 1)
    assert Journal(VmId(1)).has_room(1 << 60)


def test_rollback_forgets_what_was_not_durable() -> None:
    journal = filled(10)
    journal.append(Lsn(2), 20)
    journal.append(Lsn(3), 30)
    journal.rollback()
    assert (journal.appended, journal.durable, journal.nbytes) == (1, 1, 10)
    journal.append(Lsn(2), 5)
    journal.persisted(Lsn(2), 5)
    mark(journal, (1, 2))
    assert journal.at(CheckpointId(1)) == (2, 15)


def test_an_empty_part_skips_numbers() -> None:
    journal = filled(10)
    journal.append(Lsn(40), 0)
    journal.rollback()
    assert (journal.durable, journal.appended, journal.nbytes) == (1, 1, 10)
    journal.append(Lsn(40), 0)
    journal.persisted(Lsn(40), 0)
    assert (journal.durable, journal.appended, journal.nbytes) == (40, 40, 10)


def test_restored_from_what_the_store_holds_beyond_the_mirror() -> None:
    journal = Journal(VmId(1), limit=60)
    journal.restore(Lsn(4), Lsn(9), [(5, 20), (8, 30)])
    assert (journal.base, journal.durable, journal.appended, journal.nbytes) == (4, 9, 9, 50)
    mark(journal, (1, 4), (2, 6), (3, 9))
    assert [journal.plan(CheckpointId(n)).nbytes for n in (1, 2, 3)] == [0, 20, 50]
    assert not journal.has_room(11)
    empty = Journal(VmId(1))
    empty.restore(Lsn(7), Lsn(3), [])
    assert (empty.durable, empty.nbytes) == (7, 0), "the mirror may be past the last frame's numbers"


def test_marks_are_counted_at_the_frame_end_before_them() -> None:
    journal = Journal(VmId(1))
    for upto in (4, 8):
        journal.append(Lsn(upto), 100)
        journal.persisted(Lsn(upto), 100)
    mark(journal, (1, 0), (2, 5), (3, 8))
    assert [journal.at(CheckpointId(c)) for c in (1, 2, 3)] == [(0, 0), (5, 100), (8, 200)]
    for bad in ((3, 8), (4, 7)):
        with pytest.raises(CoreError):
            mark(journal, bad)
    with pytest.raises(AssertionError):
        mark(journal, (4, 9))
    with pytest.raises(CoreError, match="no mark"):
        journal.at(CheckpointId(9))


def test_marked_and_settled() -> None:
    journal = filled(1, 1, 1)
    assert not journal.settled(CheckpointId(1))
    mark(journal, (2, 1), (4, 2), (6, 3))
    assert [journal.marked(CheckpointId(c)) for c in range(1, 8)] == [False, True, False, True, False, True, False]
    assert [journal.settled(CheckpointId(c)) for c in (3, 6, 7)] == [True, True, False]
    age(journal, 4)
    assert not journal.marked(CheckpointId(2))
    assert journal.marked(CheckpointId(4))


def test_aging_moves_the_base_to_a_mark() -> None:
    journal = filled(10, 20, 30)
    mark(journal, (1, 1), (2, 2))
    age(journal, 2)
    assert (journal.base, journal.nbytes) == (2, 30)
    with pytest.raises(CoreError):
        journal.at(CheckpointId(1))
    age(journal, 2)
    assert (journal.base, journal.nbytes) == (2, 30)
    with pytest.raises(AssertionError):
        journal.age(Lsn(1), 10, None)


def test_plan_is_the_mirror_and_what_follows() -> None:
    journal = filled(10, 20, 30)
    mark(journal, (1, 1), (2, 2), (3, 3))
    age(journal, 2)
    plan = journal.plan(CheckpointId(3))
    assert (plan.vm, plan.mirror_at, plan.upto, plan.nbytes) == (1, 2, 3, 30)
    assert journal.plan(CheckpointId(2)).nbytes == 0


def test_withdraw_drops_the_marks_and_a_later_one_survives_the_aging() -> None:
    journal = filled(10, 20, 30)
    mark(journal, (1, 1), (2, 2))
    journal.withdraw()
    assert not journal.marked(CheckpointId(2))
    mark(journal, (5, 3))  # marked between the wish and the deed
    journal.age(Lsn(3), 60, None)
    assert journal.plan(CheckpointId(5)).nbytes == 0
    assert journal.nbytes == 0


def test_fits_from() -> None:
    journal = filled(10, 20, 30)
    assert journal.fits_from(1000) is None
    mark(journal, (1, 1), (2, 2), (3, 3))
    found = [journal.fits_from(n) for n in (60, 50, 49, 30, 29, 0)]
    assert found == [1, 1, 2, 2, 3, 3]
    journal.append(Lsn(4), 5)
    assert journal.fits_from(4) is None


@dataclass
class Naive:
    """The same journal as lists."""

    frames: list[tuple[int, int]] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    base: int = 0

    def total(self, lsn: int) -> int:
        return sum(size for upto, size in self.frames if upto <= lsn)


@pytest.mark.parametrize("seed", range(20))
def test_against_lists(seed: int) -> None:
    rng = random.Random(seed)
    journal, naive, number = Journal(VmId(1)), Naive(), 0
    for _ in range(3000 if seed == 0 else 300):
        steps = ["frame", "frame", "mark", "mark", "age", "skip", "crash"] if seed else ["frame", "mark", "age"]
        match rng.choice(steps):
            case "frame":
                upto, size = journal.durable + rng.randint(0, 3), rng.randint(0, 9)
                if upto > journal.durable:
                    journal.append(Lsn(upto), size)
                    journal.persisted(Lsn(upto), size)
                    naive.frames.append((upto, size))
            case "mark":
                number += rng.randint(1, 3)
                low = naive.marks[-1][1] if naive.marks else naive.base
                lsn = rng.randint(low, journal.durable)
                mark(journal, (number, lsn))
                naive.marks.append((number, lsn))
            case "age" if naive.marks:
                at = rng.randrange(min(3, len(naive.marks)))
                age(journal, naive.marks[at][0])
                naive.base, naive.marks = naive.marks[at][1], naive.marks[at:]
            case "skip":
                upto = Lsn(journal.durable + rng.randint(0, 5))
                journal.append(upto, 0)
                journal.persisted(upto, 0)
            case "crash":
                end, journal = journal.durable, Journal(VmId(1))
                journal.restore(Lsn(naive.base), end, [f for f in naive.frames if f[0] > naive.base])
                mark(journal, *naive.marks)
        assert journal.base == naive.base
        assert journal.nbytes == naive.total(1 << 60) - naive.total(naive.base)
        for id_, lsn in naive.marks[:3] + naive.marks[-3:]:
            plan = journal.plan(CheckpointId(id_))
            assert (plan.upto, plan.nbytes) == (lsn, naive.total(lsn) - naive.total(naive.base))
        room = rng.randint(0, 40)
        fits = [c for c, lsn in naive.marks if naive.total(1 << 60) - naive.total(lsn) <= room]
        assert journal.fits_from(room) == (fits[0] if fits else None)


def test_old_marks_take_no_room() -> None:
    journal = filled(1)
    for n in range(1, 10_000):
        mark(journal, (n, 1))
        age(journal, max(1, n - 5))
    assert len(journal._ids) < 3000
