"""The closed forms of products.md 3.2 and its golden tests, reproduced by the simulation."""

import numpy as np
import pytest
from estates import MIB, SECOND, two_site

from drsim.core.measure import Teeth
from drsim.core.sender import SendState
from drsim.sim.link import fair_shares, mathis_bps
from drsim.sim.run import Run, simulate
from drsim.spec.model import Vra

MB = 10**6


def sender(run: Run):  # the one stream's sending half
    (vra,) = run.world.protected.values()
    (half,) = vra.senders.values()
    return half


def test_form_1_steady_rpo_is_uniform_between_latency_and_latency_plus_interval() -> None:
    run = simulate(two_site(run={"until": "10 min", "fidelity": "write"}))
    teeth = run.teeth("crm")
    steady = teeth.start > 60 * SECOND
    low, high = teeth.low[steady][:-1], teeth.high[steady][:-1]
    # From the manager's hold to the listing: LAN to the VRA, the last frame (one write) on the WAN, the store, and
    # the recovery VRA's word to its manager over the LAN.
    expected = 0.0002 + 8192 * 8 / 100e6 + 0.005 + 8192 * 8 / 4e9 + 0.001 + 0.0002
    latency = float(np.median(low)) / SECOND
    assert latency == pytest.approx(expected, rel=0.02)
    assert low == pytest.approx(low[0], abs=0.002 * SECOND)
    assert high - low == pytest.approx(5 * SECOND, abs=0.002 * SECOND)
    settled = Teeth(teeth.start[steady][:-1], teeth.end[steady][:-1], teeth.taken[steady][:-1])
    p25, p50, p100 = (q / SECOND for q in settled.quantiles([0.25, 0.5, 1.0]))
    assert p25 == pytest.approx(latency + 1.25, abs=0.01)
    assert p50 == pytest.approx(latency + 2.5, abs=0.01)
    assert p100 == pytest.approx(latency + 5.0, abs=0.01)
    assert settled.mean() / SECOND == pytest.approx(latency + 2.5, abs=0.01)


def test_form_2_backlog_is_the_distance_between_arrival_and_service_curves() -> None:
    # On for 60 s at 4 MB/s into 2 MB/s, then off: the backlog peaks at 120 MB when the burst ends, and the age of the
    # oldest unsent byte is then 60 s * (1 - 2/4) = 30 s; it is empty again at 120 s.
    burst = {"kind": "onoff", "rate": 1000.0, "size": "4 KiB", "on": "60 s", "off": "10 min"}
    run = simulate(
        two_site(workload=burst, link={"bandwidth": "16.384 Mbit/s"}, run={"until": "3 min", "slice": "100 ms"})
    )
    teeth, samples = run.teeth("crm"), run.recorder.samples
    backlog = {s.time // SECOND: sum(s.buffers.values()) for s in samples}
    arrival = 1000 * 4096
    assert backlog[60] == pytest.approx(60 * arrival / 2, rel=0.06)
    assert backlog[30] == pytest.approx(30 * arrival / 2, rel=0.06)
    assert backlog[125] == 0
    # RPO just before the listing of a checkpoint taken at time c in the burst: it is listed at 2c, one interval later
    # at most, so the highest RPO is that of the checkpoint at 60 s: 60 s + up to two intervals.
    assert float(teeth.high.max()) / SECOND == pytest.approx(65, abs=5)
    listed = dict(zip(run.record("crm").taken, run.record("crm").listed, strict=True))
    for taken in (20, 40, 60):
        assert listed[taken * SECOND] / SECOND == pytest.approx(2 * taken, rel=0.04)


def test_form_3_time_to_bitmap_sync_is_226_seconds() -> None:
    # r = 30 MB/s, W = 20 MB/s, 3 GB of VRA memory: 0.9 * (1024 * 3 - 563) MB / 10 MB/s. MB as the product counts.
    rate, size = 30 * MIB / 65536, "64 KiB"
    run = simulate(
        two_site(
            rate=rate, size=size, link={"bandwidth": f"{20 * MIB * 8} bit/s"},
            run={"until": "4 min", "slice": "100 ms"},
        )
    )  # fmt: skip
    started = [t / SECOND for t, _, kind, _ in run.recorder.events if kind == "sync started"]
    assert started[0] == pytest.approx(0.9 * (1024 * 3 - 563) / 10, abs=1.0)
    assert round(0.9 * (1024 * 3 - 563) / 10) == 226


def test_form_4_bitmap_drain_after_an_outage() -> None:
    # Uniform writes of one region each: dirty after T is N*b*(1 - (1 - 1/N)^(rate*T)). The drain ends when what is left
    # is sent at W minus what is dirtied again meanwhile; W is far above the unique rate here, so one pass nearly.
    n, block, rate, outage = 16384, 4096, 400.0, 100.0
    load = {"kind": "poisson", "rate": rate, "size": "4 KiB", "pattern": "uniform", "working_set": f"{n * block} B"}
    run = simulate(
        two_site(
            workload=load, link={"bandwidth": "80 Mbit/s"}, run={"until": "6 min", "slice": "100 ms"},
            faults=[{"kind": "link-down", "link": "wan", "at": "60 s", "lasts": f"{outage:.0f} s"}],
            tweaks={"peer_timeout": "10 ms", "sync_tail": 0.0},
        )
    )  # fmt: skip

    def dirty(seconds: float) -> float:
        return n * block * (1 - (1 - 1 / n) ** (rate * seconds))

    wide = 80e6 / 8
    drain, sent = 0.0, 0.0
    left = dirty(outage)
    while left > block:  # rounds: half of what is dirtied meanwhile lies behind the sweep and waits for the next one
        new = dirty(left / wide)
        once = left + new / 2 * (1 - left / (n * block))  # ahead of it, what was clean is sent in this round
        drain, sent, left = drain + once / wide, sent + once, new / 2
    ended = next(t / SECOND for t, _, kind, _ in run.recorder.events if kind == "sync ended")
    swept = next(int(text.split()[0]) for _, _, kind, text in run.recorder.events if kind == "sync ended")
    assert swept == pytest.approx(sent, rel=0.05)
    assert ended - 60 - outage == pytest.approx(drain, rel=0.12)
    assert sender(run).state is SendState.IN_SYNC


def test_form_5_and_g10_journal_size_and_history_at_the_limit() -> None:
    # Scaled: 10 GB of limit at 5 MB/s, 1 h of history wanted: the limit is reached after 33 min and holds ~31.
    limit, rate = 8 * 1024 * MIB, 4 * MIB
    run = simulate(
        two_site(
            rate=rate / 65536, size="64 KiB", run={"until": "70 min", "slice": "1 s"},
            vpg={"journal": {"history": "1 h", "hard_limit": "8 GiB"}},
        )
    )  # fmt: skip
    peak = max(s.journal["crm"] for s in run.recorder.samples)
    assert peak <= limit
    record = run.record("crm")
    oldest = record.retired[-1][1]
    held = (record.taken[-1] - record.taken[record.ids.index(oldest)]) / SECOND
    assert limit * 0.88 / rate < held <= limit / rate
    assert any(reason == "journal limit" for _, _, reason in record.retired)
    # Below the limit the size is the integral of the rate over the history.
    at = next(s for s in run.recorder.samples if s.time >= 20 * 60 * SECOND)
    assert at.journal["crm"] == pytest.approx(20 * 60 * rate, rel=0.01)
    # G10 itself: 50 GB at 28.4 MB/s are half an hour.
    assert pytest.approx(30, rel=0.03) == 50e9 / 28.4e6 / 60


def test_form_5_history_is_kept_when_the_limit_allows_it() -> None:
    run = simulate(two_site(rate=20, run={"until": "2 h"}, vpg={"journal": {"history": "1 h"}}))
    record = run.record("crm")
    oldest = record.taken[record.ids.index(record.retired[-1][1])]
    assert 3590 <= (record.taken[-1] - oldest) / SECOND <= 3600 + 70
    assert {reason for _, _, reason in record.retired} == {"history"}
    assert max(s.journal["crm"] for s in run.recorder.samples) == pytest.approx(3600 * 20 * 8192, rel=0.03)


def test_form_6_sync_time_is_bytes_over_bandwidth() -> None:
    # The part of a delta sync that this core has: what differs goes over the wire at the link's rate.
    run = simulate(
        two_site(
            rate=250, size="64 KiB", link={"bandwidth": "400 Mbit/s"}, run={"until": "10 min"},
            faults=[{"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "2 min"}],
        )
    )  # fmt: skip
    times = {kind: t / SECOND for t, _, kind, _ in run.recorder.events if kind.startswith("sync")}
    swept = next(int(text.split()[0]) for _, _, kind, text in run.recorder.events if kind == "sync ended")
    assert times["sync ended"] - 180 >= swept * 8 / 400e6
    assert times["sync ended"] - 180 == pytest.approx(swept * 8 / 400e6, rel=0.35)


def test_form_10_asynchronous_link_needs_the_mean_and_a_buffer_for_bursts() -> None:
    # 2 s on, 6 s off: mean a quarter of the peak. A link a little above the mean carries it with a buffer.
    burst = {"kind": "onoff", "rate": 1000.0, "size": "4 KiB", "on": "2 s", "off": "6 s"}
    mean = 1000 * 4096 / 4
    run = simulate(
        two_site(workload=burst, link={"bandwidth": f"{round(mean * 8 * 1.1)} bit/s"}, run={"slice": "100 ms"})
    )
    assert not [e for e in run.recorder.events if e[2] == "sync started"]
    peak = max(run.recorder.buffer_peak.values())
    assert peak <= 2 * (1000 * 4096 - 1.1 * mean) * 1.3 + 2 * MIB
    worst = float(run.teeth("crm").high.max()) / SECOND
    # A checkpoint is listed when the burst before it has been sent: at most one period later.
    assert worst <= 5 + 8 + 0.5


def test_form_10_link_below_the_mean_never_catches_up() -> None:
    run = simulate(two_site(rate=1000, size="4 KiB", link={"bandwidth": "16.384 Mbit/s"}, run={"until": "10 min"}))
    teeth = run.teeth("crm")
    assert float(teeth.high[-1]) / SECOND > 250


def test_g7_a_terabyte_a_day_is_92_6_megabits_per_second() -> None:
    rate = 1e12 / 86400
    run = simulate(
        two_site(rate=rate / 65536, size="64 KiB", link={"bandwidth": "200 Mbit/s"}, run={"until": "10 min"})
    )
    sent = run.recorder.samples[-1].wan["wan london>leeds"]["data"] * 8 / 600
    assert sent == pytest.approx(92.6 * MB, rel=0.005)


def test_g8_two_hundred_megabytes_at_forty_percent_compression_need_120() -> None:
    load = {"kind": "constant", "rate": 200e6 / 65536, "size": "64 KiB", "compress_to": 0.6}
    run = simulate(
        two_site(
            workload=load, link={"bandwidth": "2 Gbit/s"}, vpg={"compression": True}, vra={"vcpus": 1},
            store={"bandwidth": "10 Gbit/s"}, run={"until": "30 s"},
        )
    )  # fmt: skip
    sent = run.recorder.samples[-1].wan["wan london>leeds"]["data"] / 30
    assert sent == pytest.approx(120 * MB, rel=0.05)
    assert run.world.wire.uncompressed == 0


def test_compression_gives_up_when_the_cpu_is_too_slow() -> None:
    load = {"kind": "constant", "rate": 60e6 / 65536, "size": "64 KiB"}
    run = simulate(
        two_site(
            workload=load, link={"bandwidth": "2 Gbit/s"}, vpg={"compression": True},
            vra={"compress_rate": "20 MB/s"}, store={"bandwidth": "10 Gbit/s"}, run={"until": "30 s"},
        )
    )  # fmt: skip
    assert run.world.wire.uncompressed > 10
    assert len(run.record("crm").listed) >= 4


@pytest.mark.parametrize(("ram", "pool"), [(1, 461), (2, 1485), (3, 2509)])
def test_g9_buffer_pool(ram: int, pool: int) -> None:
    assert Vra(ram=ram).pool_bytes == pool * MIB
    run = simulate(two_site(vra={"ram": ram}, run={"until": "10 s"}))
    (vra,) = run.world.protected.values()
    assert vra.limit == int(pool * MIB * 0.9)


def test_g9_usable_share_of_two_gigabytes() -> None:
    assert Vra(ram=2).pool_bytes * 0.9 / MIB == pytest.approx(1336.5)


def test_g12_journal_and_scratch_limits_are_independent() -> None:
    model = two_site(vpg={"journal": {"hard_limit": "160 GiB", "scratch": "160 GiB"}})
    journal = model.vpgs["crm"].journal
    assert journal.limit_bytes is not None
    assert journal.limit_bytes + journal.scratch == 320 << 30


def test_mathis_bound_on_one_stream() -> None:
    # 1 % loss at 20 ms round trip: 1460 * 8 / 0.02 * sqrt(1.5) / 0.1 = 7.15 Mbit/s.
    assert mathis_bps(0.01, 20_000_000) == pytest.approx(7.152e6, rel=0.001)
    run = simulate(two_site(rate=1000, size="4 KiB", link={"loss": 0.01, "latency": "10 ms"}, run={"until": "1 min"}))
    assert run.recorder.samples[-1].wan["wan london>leeds"]["data"] * 8 / 60 == pytest.approx(7.152e6, rel=0.02)


def test_fair_shares_are_max_min() -> None:
    assert fair_shares(10, [2, 8, 8]) == [2, 4, 4]
    assert fair_shares(10, [float("inf")] * 4) == [2.5] * 4
    assert sum(fair_shares(3, [1, 1, 0.5])) == pytest.approx(2.5)
