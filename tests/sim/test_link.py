"""The WAN as a shared fluid: sharing, priorities, throttle windows, outages, order."""

import numpy as np
import pytest
from estates import SECOND
from hypothesis import given
from hypothesis import strategies as st

from drsim.sim.clock import Clock
from drsim.sim.link import Direction, fair_shares
from drsim.spec.model import Link

MBIT = 1_000_000


def direction(clock: Clock, start_of_day: int = 0, **link: object) -> Direction:
    spec = Link.model_validate({"between": ["a", "b"], "bandwidth": 8 * MBIT, "latency": 0, **link})
    return Direction(clock, spec, start_of_day=start_of_day, rng=np.random.default_rng(1))


def arrivals(jobs: list[tuple[float, str, str, int]], until: float = 1e4, **link: object) -> dict[str, float]:
    """When frames (start s, name, priority, bytes) arrive, in seconds."""
    clock, found = Clock(), {}
    way = direction(clock, **link)
    for start, name, priority, nbytes in jobs:

        def put(name: str = name, priority: str = priority, nbytes: int = nbytes) -> None:
            way.carry(name.rstrip("'"), priority, nbytes, "data", lambda: found.setdefault(name, clock.now / SECOND))

        clock.call(int(start * SECOND), put)
    clock.env.run(until=int(until * SECOND))
    return found


def test_one_frame_takes_its_bytes_over_the_bandwidth_plus_latency() -> None:
    assert arrivals([(0, "x", "medium", MBIT)], latency="20 ms") == {"x": pytest.approx(1.02)}


def test_two_streams_share_equally_and_the_rest_goes_to_the_longer() -> None:
    found = arrivals([(0, "short", "medium", MBIT), (0, "long", "medium", 3 * MBIT)])
    assert found == {"short": pytest.approx(2.0), "long": pytest.approx(4.0)}


def test_a_stream_is_first_in_first_out() -> None:
    assert arrivals([(0, "x", "low", 2 * MBIT), (0, "x'", "low", 10)])["x'"] >= 2.0


def test_higher_priority_goes_first() -> None:
    found = arrivals([(0, "low", "low", MBIT), (0.5, "high", "high", MBIT)])
    assert found == {"high": pytest.approx(1.5), "low": pytest.approx(2.0)}


def test_throttle_window_slows_data_and_ends() -> None:
    window = {"start": "08:00", "end": "09:00", "limit": "4 Mbit/s"}
    clock = Clock()
    way = direction(clock, start_of_day=int(8.99 * 3600 * SECOND), throttle=[window])
    done: list[float] = []
    way.carry("x", "medium", 36 * MBIT, "data", lambda: done.append(clock.now / SECOND))
    clock.env.run(until=200 * SECOND)
    assert done == [pytest.approx(36 + (36 - 18))]  # 36 s at half, what is left at full speed


def test_throttle_window_over_midnight() -> None:
    window = {"start": "22:00", "end": "06:00", "limit": "1 Mbit/s"}
    for hour, capacity in ((23, MBIT), (3, MBIT), (12, 8 * MBIT)):
        assert direction(Clock(), start_of_day=hour * 3600 * SECOND, throttle=[window]).capacity == capacity


def test_an_outage_stalls_data_and_control_and_drop_empties_it() -> None:
    clock, found = Clock(), {}
    way = direction(clock)
    way.carry("x", "medium", MBIT, "data", lambda: found.setdefault("x", clock.now / SECOND))
    clock.call(SECOND // 2, lambda: way.set_up(False))
    clock.call(SECOND // 2 + 1, lambda: way.control(100, lambda: found.setdefault("c", clock.now / SECOND)))
    clock.call(5 * SECOND, lambda: way.set_up(True))
    clock.call(6 * SECOND, lambda: way.carry("y", "medium", MBIT, "data", lambda: found.setdefault("y", 0.0)))
    clock.call(int(6.5 * SECOND), way.drop)
    clock.env.run(until=20 * SECOND)
    assert found == {"x": pytest.approx(5.5), "c": pytest.approx(5.0)}
    assert way.measure()["data"] == pytest.approx(1.5 * MBIT, rel=1e-6)


def test_jitter_keeps_order_within_a_stream() -> None:
    clock, order = Clock(), []
    way = direction(clock, jitter="50 ms")
    for n in range(200):
        way.carry("x", "medium", 1000, "data", lambda n=n: order.append(n))
    clock.env.run(until=60 * SECOND)
    assert order == list(range(200))


@given(st.floats(0, 1000), st.lists(st.one_of(st.floats(0, 1000), st.just(float("inf"))), min_size=1, max_size=8))
def test_shares_are_work_conserving_and_max_min(capacity: float, caps: list[float]) -> None:
    shares = fair_shares(capacity, caps)
    assert all(0 <= s <= c + 1e-9 for s, c in zip(shares, caps, strict=True))
    assert sum(shares) == pytest.approx(min(capacity, sum(caps)), abs=1e-6)
    unsatisfied = [s for s, c in zip(shares, caps, strict=True) if s < c - 1e-6]
    assert all(s >= max(shares) - 1e-6 for s in unsatisfied)
