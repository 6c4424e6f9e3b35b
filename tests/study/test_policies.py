"""Policies: sending against a loop, points and lags against their definitions, schedules and chains against forms."""

from pathlib import Path

import numpy as np
import pytest
from estates import SECOND, two_site
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.measure import Teeth
from drsim.sim.capacity import over_time
from drsim.spec.faults import LinkDown, LinkFlapping
from drsim.spec.model import Model
from drsim.study.policies import POLICIES, Capacity, Load, Wan
from drsim.study.policies.chain import HOUR, Level, aligned, copies, worst_loss
from drsim.study.policies.compare import compare, draw
from drsim.study.policies.estate import load_of, wan_of
from drsim.study.policies.snapshots import DAY, MINUTE, PeriodicSnapshots, retained, scheduled
from drsim.study.policies.streams import Asynchronous, Journal, PullAhead, Synchronous, lag, ship

PAGE = 4096
times = st.lists(st.integers(0, 600 * 1000), min_size=1, max_size=40).map(sorted)


def load(at_ms: list[int], nbytes: int = PAGE, pages: list[int] | None = None, end_s: int = 1000) -> Load:
    at = np.array(at_ms, np.int64) * 1_000_000
    page = np.array(pages if pages is not None else range(len(at)), np.int64)
    return Load(at, np.full(len(at), nbytes, np.int64), at, page, PAGE, end_s * SECOND)


def steady(rate: float = 10, seconds: int = 3600, nbytes: int = PAGE, pages: int = 1 << 20) -> Load:
    at = (np.arange(1, int(rate * seconds)) / rate * 1000).astype(int).tolist()
    return load(at, nbytes, [n % pages for n in range(len(at))], seconds)


# -- sending ----------------------------------------------------------------------------------------------------------


@given(times, st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0, 100, 1000, 5000])), min_size=1, max_size=6))
def test_sending_is_first_in_first_out_at_the_rate_of_the_hour(at_ms: list[int], pieces: list[tuple[int, int]]) -> None:
    edges = np.cumsum([0, *(span for span, _ in pieces[:-1])]) * SECOND
    capacity = Capacity(edges, np.array([*(float(rate) for _, rate in pieces[:-1]), 2000.0]))
    nbytes = np.full(len(at_ms), 700)
    left = capacity.sent(np.array(at_ms) * 1_000_000, nbytes)
    free = 0.0
    for at, got in zip(at_ms, left.tolist(), strict=True):
        now, rest = max(float(at) * 1e6, free), 700.0
        for n in range(len(edges)):  # spend the pieces one by one
            begin, over = float(edges[n]), float(edges[n + 1]) if n + 1 < len(edges) else np.inf
            rate = float(pieces[n][1]) if n + 1 < len(edges) else 2000.0
            span = max(0.0, min(over, np.inf) - max(now, begin))
            if not rest or over <= now:
                continue
            if rate * span / SECOND >= rest:
                now, rest = max(now, begin) + rest / rate * SECOND, 0.0
            else:
                rest -= rate * span / SECOND
                now = over
        free = now
        assert got == pytest.approx(now, abs=2e6)


def test_a_full_buffer_marks_pages_and_sweeps_them_once() -> None:
    """10 pages/s on 200 pages; the link is down for 100 s and the buffer holds 100: 200 pages are swept, not 1000."""
    found = steady(10, 600, pages=200)
    capacity = Capacity(np.array([0, 100, 200]) * SECOND, np.array([1e6, 0.0, 1e6]))
    shipped = ship(found, Wan(capacity), 100 * PAGE)
    ((begin, over),) = shipped.swept
    assert begin == pytest.approx(110 * SECOND, abs=SECOND)
    assert 200 * SECOND < over < 202 * SECOND
    assert shipped.sent < (6000 - 1000 + 220) * PAGE
    assert (np.diff(shipped.left) >= 0).all()


@given(times, st.integers(0, 90_000))
def test_what_a_mirror_would_lose_is_the_age_of_the_oldest_write_on_its_way(at_ms: list[int], late_ms: int) -> None:
    found = load(at_ms)
    there = np.maximum.accumulate(found.at + late_ms * 1_000_000 * (np.arange(len(at_ms)) % 3 + 1))
    teeth = lag(found, found.at, there)
    for t in range(0, 900 * SECOND, 7 * SECOND + 13):
        waiting = found.at[(found.at <= t) & (there > t)]
        inside = (teeth.start <= t) & (t < teeth.end)
        assert inside.sum() == bool(len(waiting))
        if len(waiting):
            assert t - teeth.taken[inside][0] == t - waiting[0]


# -- policies ---------------------------------------------------------------------------------------------------------


def test_rpo_in_health_is_each_ones_closed_form() -> None:
    """Interval and transfer, half the interval in the median: form 1 and 7 of products.md 3.2."""
    wan = Wan(Capacity.constant(1e6), 20_000_000)
    rows = {row.name: row for row in compare(POLICIES, steady(seconds=2 * 86400, rate=2), wan)}
    assert rows["journal"].p50 == pytest.approx(2.52, rel=0.02)
    assert rows["journal"].max == pytest.approx(5.02, rel=0.02)
    assert rows["5-min crash points"].p50 == pytest.approx(150, rel=0.01)
    assert rows["log shipping, 30 s"].max == pytest.approx(30 + 60 * PAGE / 1e6, rel=0.01)
    assert rows["synchronous"].max == 0
    assert rows["synchronous"].wait == pytest.approx(0.044, rel=0.02), "there and back, and the transfer"
    assert rows["asynchronous"].max == pytest.approx(0.024, rel=0.05)
    assert rows["nightly backup"].max == pytest.approx(86400 + 708, rel=0.01), "a day, and 173 k pages at 1 MB/s"
    assert rows["periodic snapshots"].max < 900 + 15
    assert rows["periodic snapshots"].points == 3 * 2 + 1 - 1, "of two days, the last part being open"


def test_waiting_pulling_ahead_and_a_journal_after_a_cut() -> None:
    cut = Wan(Capacity(np.array([0, 600, 1200]) * SECOND, np.array([1e6, 0.0, 1e6])))
    found = steady(10, 3600)
    wait = Asynchronous(buffer=100 * PAGE).protect(found, cut)
    assert wait.waited > 300 * 5000 * SECOND, "5900 writes wait 300 s in the mean"
    assert wait.quantiles((1.0,)) == [pytest.approx(600, rel=0.02)]
    ahead = PullAhead(buffer=100 * PAGE).protect(found, cut)
    assert ahead.waited == 0
    assert ahead.quantiles((1.0,))[0] > 1200, "nothing of the copy is whole while it catches up"
    journal = Journal(buffer=100 * PAGE).protect(found, cut)
    assert journal.quantiles((1.0,))[0] == pytest.approx(600 + 24, rel=0.05), "the cut and the sweep"
    assert Synchronous().protect(found, cut).quantiles((1.0,)) == [0.0]


@given(st.integers(1, 40), st.integers(5, 60))
def test_an_objective_holds_when_a_sync_takes_half_of_it_at_most(takes: int, rpo: int) -> None:
    begun, over = scheduled(rpo * MINUTE, lambda since, begin: takes * MINUTE, 10 * rpo * MINUTE)
    late = Teeth.of(over.tolist(), begun.tolist(), 0, 10 * rpo * MINUTE).above(rpo * MINUTE)
    assert bool(late) == (2 * takes > rpo)
    assert (begun[1:] >= over[:-1]).all(), "one at a time"


def test_syncs_are_predicted_by_the_longest_of_the_last() -> None:
    lengths = iter([1, 1, 6, 1, 1, 1, 1, 1, 1])
    begun, _ = scheduled(15 * MINUTE, lambda since, begin: next(lengths) * MINUTE, 90 * MINUTE)
    gaps = np.diff(begun) // MINUTE
    assert gaps.tolist()[:7] == [14, 14, 9, 9, 9, 14, 14], "9 while the long one is among the last three"


@given(st.integers(1, 8), st.integers(1, 10), st.integers(1, 30))
def test_as_many_instances_are_kept_as_said_and_the_latest(per_day: int, days: int, ran: int) -> None:
    shows = np.arange(0, ran * DAY, 15 * MINUTE)
    found = retained(shows, per_day=per_day, days=days, now=int(shows[-1]))
    assert found[-1] == shows[-1]
    assert len(found) == min(per_day * days, per_day * ran - 1) + 1


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=3))
def test_a_chain_never_loses_more_than_its_closed_form_and_that_when_it_is_aligned(
    levels: list[tuple[int, int, int]],
) -> None:
    """Aligned, with each level's period a multiple of the one before it, so that it stays aligned."""
    chain, period = [], 1
    for times, hold, brings in levels:
        period *= 1 + times % 4
        chain.append(Level(period * HOUR, hold * HOUR, brings * HOUR))
    end = sum(each.hold + each.brings for each in chain) + 6 * chain[-1].every
    shows, ready = copies(aligned(chain), end)
    high = Teeth.of(ready.tolist(), shows.tolist(), 0, int(ready[-1])).high
    assert high[1:].max() == worst_loss(chain)


# -- estates ----------------------------------------------------------------------------------------------------------


def test_a_link_is_what_its_faults_and_windows_leave() -> None:
    made = two_site(run={"until": "1 d"}).model_dump()
    made["links"]["wan"] |= {
        "bandwidth": "80 Mbit/s",
        "throttle": [{"start": "22:00", "end": "02:00", "limit": "8 Mbit/s"}],
    }
    made["faults"] = [
        LinkDown(at=HOUR, lasts=HOUR, link="wan").model_dump(),
        LinkFlapping(at=10 * HOUR, lasts=3 * MINUTE, link="wan", down=MINUTE, up=MINUTE).model_dump(),
    ]
    times, rates = over_time(Model.model_validate(made), "wan", DAY)
    steps = {t // MINUTE: r for t, r in zip(times.tolist(), rates.tolist(), strict=True)}
    assert steps == {0: 1e6, 60: 0, 120: 1e7, 600: 0, 601: 1e7, 602: 0, 603: 1e7, 1320: 1e6}


def test_a_models_guests_write_the_same_under_every_policy(tmp_path: Path) -> None:
    model = two_site(rate=20, run={"until": "30 min"})
    found = load_of(model, "crm")
    assert (np.diff(found.at) >= 0).all()
    assert found.written(0, found.end) == found.nbytes.sum()
    wan, squeeze = wan_of(model, "crm")
    rows = compare(POLICIES, found, wan, squeeze=squeeze)
    assert {row.wan for row in rows[:2]} == {found.nbytes.sum() * squeeze}
    draw(rows, tmp_path / "policies.png")
    assert (tmp_path / "policies.png").read_bytes()[1:4] == b"PNG"
    assert PeriodicSnapshots().protect(found, wan).points == 1
