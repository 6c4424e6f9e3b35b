"""Tests of the sources of guest writes: the same however time is cut, in order, on the volumes, at the right rate."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.core.errors import CoreError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces import BlockTrace
from drsim.sim import workload as workload_module
from drsim.sim.workload import NOTHING, Source, Writes, mean_rate, source
from drsim.spec.workload import Burst, Constant, Fitted, OnOff, Poisson, SizeMix, Trace, Workload

GIB = 1 << 30


def fitted(rate: float = 300.0, **changes: object) -> Fitted:
    values: dict[str, object] = {
        "bursts": (Burst(scale=SECOND, sigma=1.0), Burst(scale=7 * SECOND, sigma=0.7)),
        "sizes": (SizeMix(size=512, share=0.2), SizeMix(size=4096, share=0.5), SizeMix(size=65536, share=0.3)),
        "hot_share": 0.4,
        "hot_set": 8 << 20,
        "sequential": 0.5,
        "working_set": 200 << 20,
        **changes,
    }
    return Fitted.model_validate({"rate": rate, **values})


def recorded(seed: int = 0, n: int = 500, devices: int = 1, span: int = 20 * SECOND) -> BlockTrace:
    rng = np.random.default_rng(seed)
    return BlockTrace(
        "ssdsim",
        np.sort(rng.integers(0, span // 1000, n)) * 1000,
        rng.integers(0, devices, n).astype(np.int32),
        rng.integers(0, 1 << 26, n),
        rng.integers(1, 200, n).astype(np.int32),
        tuple(f"d{d}" for d in range(devices)),
        span,
        3,
    )


KINDS: dict[str, Workload] = {
    "constant": Constant(rate=777.0, size=8192),
    "constant-quick": Constant(rate=90_000.0),
    "constant-slow": Constant(rate=0.3),
    "constant-uniform": Constant(rate=500.0, pattern="uniform", working_set=10 << 20),
    "poisson": Poisson(rate=1200.0),
    "poisson-uniform": Poisson(rate=300.0, pattern="uniform"),
    "onoff": OnOff(rate=900.0, on=300_000_000, off=1_700_000_000, pattern="uniform"),
    "fitted": fitted(),
    "fitted-slow": fitted(0.5),
    "fitted-plain": fitted(bursts=()),
    "trace": Trace(path="t"),
    "trace-once": Trace(path="t", loop=False, shift=5 * SECOND),
    "trace-changed": Trace(path="t", speed=3.7, scale=2.4, shift=13 * SECOND, stagger=SECOND),
    "trace-thinned": Trace(path="t", scale=0.3),
}
VOLUMES = ([GIB], [GIB, 3 * GIB + 512, 40 << 20])


def make(kind: str, volumes: list[int], seed: int = 1, devices: int = 1, index: int = 0) -> Source:
    workload = KINDS[kind]
    trace = recorded(devices=devices) if isinstance(workload, Trace) else None
    return source(workload, volumes, np.random.default_rng(seed), trace=trace, index=index)


def same(a: Writes, b: Writes) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40 * SECOND), max_size=12),
    volumes=st.sampled_from(VOLUMES),
    seed=st.integers(0, 5),
    devices=st.sampled_from([1, 3]),
)
def test_cutting_the_time_changes_nothing(kind, cuts, volumes, seed, devices):
    whole = make(kind, volumes, seed, devices).take(40 * SECOND)
    cut = make(kind, volumes, seed, devices)
    ends = [*sorted(cuts), 40 * SECOND]
    parts = [cut.take(end) for end in ends]
    assert same(whole, Writes.join(parts))
    for (low, high), part in zip(pairwise([-1, *ends]), parts, strict=True):
        assert np.all((part.issued > low) & (part.issued <= high))


@pytest.mark.parametrize("kind", [k for k in KINDS if "quick" not in k])
def test_cutting_at_every_write_changes_nothing(kind, monkeypatch):
    # Blocks so small that the cuts fall on many of their ends.
    monkeypatch.setattr(workload_module, "LARGE_BLOCK", 16)
    whole = make(kind, VOLUMES[1]).take(3 * SECOND)
    cut = make(kind, VOLUMES[1])
    ends = sorted({*whole.issued.tolist(), *(whole.issued - 1).tolist(), 3 * SECOND} - {-1})
    parts = [cut.take(end) for end in ends]
    assert same(whole, Writes.join(parts))
    for (low, high), part in zip(pairwise([-1, *ends]), parts, strict=True):
        assert np.all((part.issued > low) & (part.issued <= high))


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("volumes", [*VOLUMES, [4096, 1000, 70_000]])
@pytest.mark.parametrize("kind", KINDS)
def test_writes_are_in_order_and_on_their_volumes(kind, volumes, devices):
    w = make(kind, volumes, devices=devices).take(60 * SECOND)
    assert [c.dtype for c in w] == [np.int64, np.int32, np.int64, np.int32]
    assert len(w.issued) > 10
    assert np.all(np.diff(w.issued) >= 0)
    assert w.issued[0] >= 0
    assert w.lba.min() >= 0
    assert w.sectors.min() >= 1
    room = np.array([v // SECTOR for v in volumes])
    assert np.all(w.lba + w.sectors <= room[w.volume])


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_handed_out_cannot_be_changed(kind):
    first, second = make(kind, VOLUMES[0]), make(kind, VOLUMES[0])
    w = first.take(SECOND // 2)
    for column in w:
        if len(column) and not column.flags.writeable:
            with pytest.raises(ValueError, match="read-only"):
                column[0] = 0
        elif len(column):
            column[:] = 0  # a joined copy: changing it must not reach the source
    second.take(SECOND // 2)
    assert same(first.take(30 * SECOND), second.take(30 * SECOND))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_writes(kind):
    assert same(make(kind, VOLUMES[1]).take(9 * SECOND), make(kind, VOLUMES[1]).take(9 * SECOND))


@pytest.mark.parametrize("kind", ["poisson", "fitted", "onoff", "poisson-uniform", "trace-thinned"])
def test_another_seed_gives_other_writes(kind):
    assert not same(make(kind, VOLUMES[1], 1).take(9 * SECOND), make(kind, VOLUMES[1], 2).take(9 * SECOND))


def test_taking_nothing_and_taking_back():
    s = make("constant", VOLUMES[0])
    assert len(s.take(0).issued) == 0
    assert len(s.take(SECOND).issued) == 777
    assert same(s.take(SECOND // 2), NOTHING)
    assert len(s.take(2 * SECOND).issued) == 777


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("trace-once", "fitted", "fitted-slow")])
def test_the_mean_rate_is_what_comes_out(kind):
    workload = KINDS[kind]
    span = 2000 if workload.kind != "constant" or workload.rate < 1000 else 20
    trace = recorded() if isinstance(workload, Trace) else None
    w = make(kind, [1 << 40]).take(span * SECOND)
    writes, nbytes = mean_rate(workload, trace)
    # A thinned trace keeps a random tenth of five hundred rows, the same in every round.
    tolerance = 0.15 if workload.kind == "trace" else 0.03
    assert len(w.issued) / span == pytest.approx(writes, rel=tolerance)
    assert w.sectors.sum(dtype=np.int64) * SECTOR / span == pytest.approx(nbytes, rel=tolerance)


def test_the_fitted_mean_rate_over_many_realisations():
    workload = fitted(rate=20.0)
    counts = [len(source(workload, [GIB], np.random.default_rng([9, n])).take(600 * SECOND).issued) for n in range(300)]
    assert np.mean(counts) / 600 == pytest.approx(20.0, rel=0.05)
    assert mean_rate(workload)[1] == pytest.approx(20 * (0.2 * 512 + 0.5 * 4096 + 0.3 * 65536))


def test_bursts_vary_the_rate_as_a_lognormal_factor_should():
    for sigma in (0.0, 0.5, 1.0):
        workload = fitted(rate=1000.0, bursts=(Burst(scale=SECOND, sigma=sigma),))
        issued = source(workload, [GIB], np.random.default_rng(3)).take(4000 * SECOND).issued
        counts = np.bincount(issued // SECOND, minlength=4001)[:4000]
        assert counts.var() / counts.mean() ** 2 == pytest.approx(np.exp(sigma**2) - 1 + 1e-3, rel=0.35)


def test_a_burst_holds_for_its_scale():
    workload = fitted(rate=2000.0, bursts=(Burst(scale=SECOND, sigma=0.0), Burst(scale=10 * SECOND, sigma=1.0)))
    issued = source(workload, [GIB], np.random.default_rng(3)).take(2000 * SECOND - 1).issued
    counts = np.bincount(issued // SECOND, minlength=2000).reshape(200, 10)
    assert counts.std(axis=1).mean() < 0.1 * counts.mean()
    assert counts.mean(axis=1).std() > 0.5 * counts.mean()


def test_fitted_places_have_the_shares_that_they_say():
    workload = fitted(rate=5000.0, bursts=())
    w = source(workload, [GIB], np.random.default_rng(4)).take(100 * SECOND)
    follows = w.lba[1:] == w.lba[:-1] + w.sectors[:-1]
    assert follows.mean() == pytest.approx(0.5, abs=0.01)
    starts = w.lba[1:][~follows] - 63
    hot = starts < (8 << 20) // SECTOR
    assert hot.mean() == pytest.approx(0.4 + 0.6 * 8 / 200, abs=0.01)
    assert np.all(starts[starts > 400_000] % 8 == 0) or (starts % 8 == 0).mean() > 0.99
    assert (w.lba + w.sectors).max() <= 63 + (200 << 20) // SECTOR
    sizes, counts = np.unique(w.sectors, return_counts=True)
    assert dict(zip(sizes.tolist(), counts / len(w.lba), strict=True)) == pytest.approx(
        {1: 0.2, 8: 0.5, 128: 0.3}, abs=0.01
    )


def test_a_run_goes_on_from_block_to_block(monkeypatch):
    monkeypatch.setattr(workload_module, "LARGE_BLOCK", 16)
    w = source(fitted(sequential=1, bursts=()), [GIB], np.random.default_rng(4)).take(10 * SECOND)
    follows = w.lba[1:] == w.lba[:-1] + w.sectors[:-1]
    assert len(follows) > 2000
    assert np.count_nonzero(~follows) <= w.sectors.sum() // ((200 << 20) // SECTOR) + 1


def test_fitted_writes_spread_over_volumes_by_their_size():
    w = source(fitted(rate=5000.0, working_set=GIB), VOLUMES[1], np.random.default_rng(4)).take(100 * SECOND)
    total = sum(VOLUMES[1])
    shares = np.bincount(w.volume, minlength=3) / len(w.volume)
    assert shares == pytest.approx([v / total for v in VOLUMES[1]], abs=0.01)


def test_constant_is_equal_writes_at_equal_distances_around_the_volumes():
    w = source(Constant(rate=4.0, size=1024), [4096, 2048], np.random.default_rng()).take(2 * SECOND)
    assert w.issued.tolist() == [n * SECOND // 4 for n in range(1, 9)]
    assert w.volume.tolist() == [0, 1] * 4
    assert w.lba.tolist() == [0, 0, 2, 2, 4, 0, 6, 2]
    assert set(w.sectors.tolist()) == {2}


def test_a_working_set_is_the_start_of_the_disk():
    for pattern in ("sequential", "uniform"):
        workload = Poisson(rate=1000.0, pattern=pattern, working_set=64 << 10)
        w = source(workload, [GIB], np.random.default_rng(1)).take(10 * SECOND)
        assert sorted(set(w.lba.tolist())) == list(range(0, 128, 8))


def test_onoff_is_silent_in_the_off_periods():
    w = make("onoff", VOLUMES[0]).take(100 * SECOND)
    assert np.all(w.issued % (2 * SECOND) <= 300_000_000)
    assert len(w.issued) == pytest.approx(900 * 0.3 * 50, rel=0.05)


def replay(
    trace: BlockTrace, until: int, volumes: tuple[int, ...] = (1 << 40,), index: int = 0, **how: object
) -> Writes:
    workload = Trace.model_validate({"path": "t", **how})
    return source(workload, volumes, np.random.default_rng(0), trace=trace, index=index).take(until)


def test_a_trace_is_replayed_as_it_is():
    trace = recorded()
    w = replay(trace, 10 * trace.duration, loop=False)
    assert np.array_equal(w.issued, trace.issued)
    assert np.array_equal(w.lba, trace.lba)
    assert np.array_equal(w.sectors, trace.sectors)


def test_a_trace_loops_with_its_length():
    trace = recorded()
    w = replay(trace, 3 * trace.duration - 1)
    rounds = [trace.issued + n * trace.duration for n in range(3)]
    assert np.array_equal(w.issued, np.concatenate(rounds))


def test_shift_and_stagger_start_inside_and_speed_makes_time_run():
    trace = recorded()
    late = trace.issued >= 7 * SECOND
    for shift, stagger, index in ((7, 0, 0), (3, 2, 2), (27, 20, 5)):
        w = replay(trace, 10 * SECOND, index=index, speed=2.0, shift=shift * SECOND, stagger=stagger * SECOND)
        expected = (trace.issued[late] - 7 * SECOND) / 2
        assert np.array_equal(w.issued[: late.sum()], expected.astype(np.int64))
        assert np.array_equal(w.lba[: late.sum()], trace.lba[late])
        # The rest is the trace's beginning: one full round in half the time, all rows once.
        assert sorted(w.lba[: len(trace)].tolist()) == sorted(trace.lba.tolist())
    assert len(replay(trace, 99 * SECOND, loop=False, shift=7 * SECOND).issued) == late.sum()


def test_scale_copies_to_other_places_and_thins():
    trace = recorded()
    w = replay(trace, 99 * SECOND, loop=False, scale=3)
    assert np.array_equal(w.issued, np.repeat(trace.issued, 3))
    copies = w.lba.reshape(-1, 3)
    assert np.array_equal(copies[:, 0], trace.lba)
    assert np.all(np.abs(np.diff(copies, axis=1)) > 200)
    thin = replay(trace, 2 * trace.duration - 1, scale=0.3)
    half = len(thin.lba) // 2
    assert np.array_equal(thin.lba[:half], thin.lba[half:])
    assert 0.2 < half / len(trace) < 0.4


def test_devices_go_to_volumes_and_one_device_spans_them():
    trace = recorded(devices=3)
    w = replay(trace, 99 * SECOND, (1 << 40, 1 << 39), loop=False)
    assert np.array_equal(w.volume, trace.device % 2)
    assert np.array_equal(w.lba, trace.lba)
    one = recorded()
    w = replay(one, 99 * SECOND, (1 << 33, 1 << 40), loop=False)
    assert np.array_equal(w.volume, (one.lba >= 1 << 24).astype(np.int32))
    moved_back = np.minimum(one.lba % (1 << 24), np.where(w.volume == 0, (1 << 24) - one.sectors, 1 << 40))
    inside = np.where(w.volume == 0, moved_back, one.lba - (1 << 24))
    assert np.array_equal(w.lba, inside)


def test_a_source_without_a_trace_or_a_volume_is_our_mistake():
    rng = np.random.default_rng(0)
    with pytest.raises(CoreError, match="given no trace"):
        source(Trace(path="t"), [GIB], rng)
    with pytest.raises(CoreError, match="given no trace"):
        mean_rate(Trace(path="t"))
    for volumes in ([], [100]):
        with pytest.raises(CoreError, match="needs volumes"):
            source(Constant(rate=1.0), volumes, rng).take(SECOND)


@pytest.mark.parametrize(
    ("workload", "least"),
    [
        (Constant(rate=100_000.0), 5e6),
        (Poisson(rate=100_000.0, pattern="uniform"), 5e6),
        (fitted(rate=5000.0), 2e6),
    ],
)
def test_large_takes_are_quick(workload, least):
    best = 0.0
    for _ in range(3):
        s = source(workload, [GIB], np.random.default_rng(1))
        start = time.perf_counter()
        n = len(s.take(int(1e6 / workload.rate) * SECOND).issued)
        best = max(best, n / (time.perf_counter() - start))
    assert best > least
