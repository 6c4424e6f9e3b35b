"""Statistics: intervals cover what they say, tails whatever the distribution, warm-ups are found, pairs pay."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.study.design import Study
from drsim.study.goal import goal, sentence
from drsim.study.stats import batch_means, bootstrap, chance, compare, interval, mser, tail

RNG = np.random.default_rng(1)


def covered(make: "object", truth: float, times: int = 400) -> float:
    found = [make() for _ in range(times)]  # type: ignore[operator]
    return float(np.mean([low is not None and high is not None and low <= truth <= high for _, low, high in found]))


def test_intervals_cover_as_often_as_they_say() -> None:
    assert covered(lambda: interval(RNG.normal(3, 2, 8).tolist()), 3) == pytest.approx(0.95, abs=0.035)
    assert covered(lambda: bootstrap(RNG.exponential(3, 40).tolist()), 3, 150) == pytest.approx(0.93, abs=0.06)
    assert covered(lambda: chance(int(RNG.binomial(50, 0.1)), 50), 0.1) >= 0.94
    assert covered(lambda: tail(RNG.exponential(1, 200).tolist(), 0.9), math.log(10)) >= 0.93


def test_a_tail_of_few_values_has_no_upper_end() -> None:
    value, low, high = tail(list(range(1, 21)), 0.99)
    assert value == 20
    assert high is None
    assert low is not None
    assert tail(list(range(1, 501)), 0.95)[2] is not None


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_a_tail_lies_within_its_interval(values: list[float], share: float) -> None:
    value, low, high = tail(values, share)
    assert low is None or low <= value
    assert high is None or value <= high
    assert sum(v <= value for v in values) >= share * len(values) - 1e-9


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert interval([2.0]) == bootstrap([2.0]) == (2.0, None, None)


def test_a_warm_up_is_left_out() -> None:
    noise = RNG.normal(0, 1, 1000)
    warm = np.where(np.arange(1000) < 150, 30 * np.exp(-np.arange(1000) / 40), 0)
    assert 80 <= mser((10 + warm + noise).tolist()) <= 300
    assert mser((10 + noise).tolist()) < 200
    assert mser([1.0, 2.0, 3.0]) == 0


def test_batch_means_allow_for_correlation() -> None:
    """An autoregressive series of 0.9: independent intervals would cover far too seldom."""

    def series() -> list[float]:
        x = np.zeros(4000)
        shocks = RNG.normal(0, 1, 4000)
        for n in range(1, 4000):
            x[n] = 0.9 * x[n - 1] + shocks[n]
        return (5 + x).tolist()

    made = [series() for _ in range(120)]
    batched = np.mean([low <= 5 <= high for _, low, high in map(batch_means, made) if low is not None])  # type: ignore[operator]
    naive = np.mean([low <= 5 <= high for _, low, high in map(interval, made) if low is not None])  # type: ignore[operator]
    assert batched > 0.85
    assert naive < 0.6


def test_pairs_take_out_what_both_sides_share() -> None:
    shared = RNG.normal(0, 10, 12)
    a, b = (shared + RNG.normal(0, 1, 12)).tolist(), (shared + 3 + RNG.normal(0, 1, 12)).tolist()
    found = compare(a, b)
    assert found.sure
    assert found.low < 3 < found.high
    assert found.gain > 3
    assert found.low_apart < 0 < found.high_apart, "apart nobody could tell"
    with pytest.raises(ValueError, match="needs pairs"):
        compare([1.0], [1.0, 2.0])


def test_a_target_is_met_surely_perhaps_or_not() -> None:
    wanted = goal("RPO p99 <= 15 s")
    assert [wanted.met(each) for each in ((9, 8, 10), (14, 9, 19), (20, 16, 24), (15, None, None))] == [
        "yes", "perhaps", "no", "yes",
    ]  # fmt: skip
    assert goal("history >= 0.5").met((1.0, 0.4, 1.6)) == "perhaps"
    assert sentence(wanted.text, [("1 VRA", "no"), ("2", "perhaps"), ("4", "yes"), ("8", "yes")]) == (
        "RPO p99 <= 15 s is met with 4, 8, perhaps with 2, not with 1 VRA"
    )
    assert "surely met by none" in sentence(wanted.text, [("1 VRA", "no")])
    for text in ("RPO p99 = 15 s", "RPO p99 <= soon"):
        with pytest.raises(ValueError, match="write"):
            goal(text)
    with pytest.raises(ValueError, match=r"'RPO p9' is not among the measures.*RPO p99"):
        Study(question="?", factors={"vras.dr": (1, 2)}, measures={"RPO p99": "all.rpo_s.p99"}, target="RPO p9 <= 1 s")
