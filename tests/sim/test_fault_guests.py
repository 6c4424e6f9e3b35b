"""Faults of guests: bursts, pauses, crashes, as a change of their time."""

import numpy as np
import pytest
from faulty import listed, run, said, settled, states
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.sim.warp import Span, Warped
from drsim.sim.workload import Writes, source
from drsim.spec.workload import Poisson

BOTH = pytest.mark.parametrize("fidelity", ["write", "slice"])
SIZES = [1 << 30]
MS = 10**6


def journaled(done: object) -> int:
    world = done.world  # type: ignore[attr-defined]
    return sum(world.journals[s].files[s].writes for s in done.layout.streams)  # type: ignore[attr-defined]


@BOTH
@pytest.mark.parametrize(("kind", "minutes"), [("guest-burst", 13), ("guest-pause", 4), ("guest-crash", 4)])
def test_a_guest_writes_more_or_nothing_for_a_minute(kind: str, minutes: int, fidelity: str) -> None:
    more = {"factor": 9} if kind == "guest-burst" else {}
    done = run({"kind": kind, "vm": "app", "lasts": "1 min", **more}, fidelity=fidelity)
    said(done, kind)
    settled(done)
    assert states(done) == {"MeetingSLA"}
    assert journaled(done) == pytest.approx(3 * 50 * 60 * minutes, abs=3 * 50 * 6)
    assert done.mattered[kind] == pytest.approx(3 * 50 * 60 * (9 if kind == "guest-burst" else 1), abs=9)
    assert len(listed(done, 60, 120)) == 12


def test_both_fidelities_journal_the_same_writes() -> None:
    faults = [
        {"kind": "guest-burst", "vm": "app", "lasts": "30 s", "factor": 2.5},
        {"kind": "guest-pause", "vm": "app", "lasts": "20 s", "at": "75 s"},
        {"kind": "host-loss", "host": "london-2", "lasts": "10 s", "at": "2 min"},
        {"kind": "clock-step", "site": "london", "by": "1 min", "at": "150 s"},
    ]
    exact, sliced = (run(*faults, fidelity=fidelity, until="3 min") for fidelity in ("write", "slice"))
    one = next(s for s in exact.layout.streams if "london-1" in s.source)  # the other one synchronized
    for stream in (exact, sliced):
        assert stream.mattered.keys() == {fault["kind"] for fault in faults}
    frames = [r.world.acknowledged("crm") for r in (exact, sliced)]
    assert frames[0] == frames[1]
    assert exact.mattered["guest-burst"] == sliced.mattered["guest-burst"]
    listed_by = [dict(zip(r.record("crm").ids, r.record("crm").taken, strict=True)) for r in (exact, sliced)]
    shared = listed_by[0].keys() & listed_by[1].keys()
    assert len(shared) > 20
    assert {c: listed_by[0][c] for c in shared} == {c: listed_by[1][c] for c in shared}
    assert abs(exact.world.journals[one].files[one].writes - sliced.world.journals[one].files[one].writes) < 2 * 50 * 2


@BOTH
def test_a_burst_beyond_the_buffer_ends_in_bitmap_sync(fidelity: str) -> None:
    burst = {"kind": "guest-burst", "vm": "app", "lasts": "1 min", "factor": 60}
    done = run(burst, fidelity=fidelity, vra={"ram": 1}, size=1 << 28)
    said(done, "guest-burst")
    settled(done)
    assert any("BitmapSync" in label for label in states(done))


def test_overlapping_faults_of_a_guest_multiply_and_off_wins() -> None:
    found = [Span("burst", 10, 30, speed=2000), Span("pause", 20, 40, speed=0), Span("crash", 35, 60, off=True)]
    warped = Warped(Ticks(), [span._replace(begin=span.begin * MS, end=span.end * MS) for span in found])
    times = (warped.take(100 * MS).issued / MS).tolist()
    # Up to 10 as usual; twice as fast up to 20; still up to 40; then off up to 60, while its clock goes on.
    assert times == [*range(11), *(10 + k / 2 for k in range(1, 21)), *range(61, 101)]
    # The pause of 20 ms held up what the clock showed from 30 to 50; of that, up to 50 was then lost to the crash.
    assert warped.changed(100 * MS) == {"burst": 20, "pause": 20, "crash": 20}


class Ticks:
    """A guest that writes every millisecond by its own clock."""

    def __init__(self) -> None:
        self.after = -1

    def take(self, until: int) -> Writes:
        issued = np.arange(-(-(self.after + 1) // MS) * MS, until + 1, MS, dtype=np.int64)
        self.after = until
        n = len(issued)
        return Writes(issued, np.zeros(n, np.int32), np.zeros(n, np.int64), np.ones(n, np.int32))


SPANS = st.lists(
    st.builds(
        lambda begin, length, speed, off: Span("fault", begin, begin + length, speed, off),
        st.integers(0, 50 * MS), st.integers(1, 40 * MS), st.sampled_from([0, 1, 333, 1000, 1500, 7777]), st.booleans(),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(SPANS, st.lists(st.integers(0, 100 * MS), max_size=8))
def test_what_a_guest_writes_does_not_depend_on_how_time_is_cut(found: list[Span], cuts: list[int]) -> None:
    def guest() -> Warped:
        return Warped(source(Poisson(rate=20000, size=4096), SIZES, np.random.default_rng(1)), found)

    whole, cut = guest(), guest()
    once = whole.take(100 * MS)
    parts = [cut.take(until) for until in [*sorted(cuts), 100 * MS]]
    for until, part in zip([*sorted(cuts), 100 * MS], parts, strict=True):
        assert not len(part.issued) or part.issued[-1] <= until
    for a, b in zip(once, Writes.join(parts), strict=True):
        assert a.tolist() == b.tolist()
    assert np.all(np.diff(once.issued) >= 0)
    for span in found:
        if span.off or not span.speed:
            assert not np.any((once.issued > span.begin) & (once.issued <= span.end))
    assert whole.changed(100 * MS) == cut.changed(100 * MS)
