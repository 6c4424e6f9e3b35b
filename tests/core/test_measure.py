"""The exact folds against brute force."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.measure import Teeth, attribute, joined, mixture_quantiles, time_in


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=12))
def test_quantiles_of_a_mixture_of_uniforms(parts: list[tuple[int, int]]) -> None:
    low = np.array([a for a, _ in parts])
    high = np.array([a + n for a, n in parts])
    shares = [0.05, 0.3, 0.5, 0.95]
    for share, value in zip(shares, mixture_quantiles(low, high, shares), strict=True):
        below = np.clip(value - low, 0, high - low).sum()
        assert below == pytest.approx(share * (high - low).sum(), abs=1e-6)
    assert mixture_quantiles(low, high, [1.0]) == [high.max()]


def test_teeth_of_a_healthy_run() -> None:
    teeth = Teeth.of([6, 11, 16], [5, 10, 15], 0, 20)
    assert teeth.low.tolist() == [0, 1, 1, 1]
    assert teeth.high.tolist() == [6, 6, 6, 5]
    assert teeth.quantiles([1.0]) == [6.0]
    assert teeth.above(5) == [(5, 6), (10, 11), (15, 16)]
    assert teeth.mean() == pytest.approx((3 * 6 + 3.5 * 5 + 3.5 * 5 + 3 * 4) / 20)


def test_a_listing_of_an_older_checkpoint_never_lowers_what_is_newest() -> None:
    teeth = Teeth.of([6, 7], [5, 3], 0, 10)
    assert teeth.taken.tolist() == [0, 5, 5]


def test_after_a_withdrawal_everything_would_be_lost_until_the_next_listing() -> None:
    teeth = Teeth.of([6, 11, 31], [5, 10, 30], 0, 35, [20])
    assert teeth.start.tolist() == [0, 6, 11, 20, 31]
    assert teeth.taken.tolist() == [0, 5, 10, 0, 30]
    assert teeth.high.max() == 31


def test_listings_after_the_end_do_not_count() -> None:
    assert Teeth.of([6, 30], [5, 29], 0, 10).high.max() == 6


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)), max_size=12))
def test_joined_covers_the_same_instants_once(parts: list[tuple[int, int]]) -> None:
    intervals = sorted((a, a + n) for a, n in parts)
    merged = joined(intervals)
    covered = {t for a, b in intervals for t in range(a, b)}
    assert {t for a, b in merged for t in range(a, b)} == covered
    assert all(b < c for (_, b), (c, _) in pairwise(merged))


def test_time_in_states() -> None:
    assert time_in([(0, "a"), (4, "b"), (6, "a")], 10) == {"a": 8, "b": 2}
    assert time_in([(0, "a"), (12, "b")], 10) == {"a": 10}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6),
    st.lists(st.tuples(st.integers(0, 80), st.sampled_from(["", "link", "store"])), max_size=8),
)
def test_causes_add_up_to_all_of_what_was_missed(missed: list[tuple[int, int]], changes: list[tuple[int, str]]) -> None:
    intervals = joined(sorted((a, a + n) for a, n in missed))
    causes = [(0, ""), *sorted(changes)]
    spent = attribute(intervals, causes, 100, "network congestion")
    assert sum(spent.values()) == sum(b - a for a, b in intervals)
    assert "" not in spent


def test_an_instant_without_a_cause_belongs_to_the_next_one_in_the_same_miss() -> None:
    causes = [(0, ""), (10, "link"), (20, "")]
    assert attribute([(5, 25)], causes, 30, "other") == {"link": 20}
    assert attribute([(21, 25)], causes, 30, "other") == {"other": 4}
