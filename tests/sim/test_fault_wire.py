"""Faults of links and connections: one direction, one plane, connections that are dead unnoticed, late messages."""

import pytest
from faulty import kinds, listed, run, said, settled, states, syncs, worst_rpo

from drsim.sim.run import Run

BOTH = pytest.mark.parametrize("fidelity", ["write", "slice"])


@BOTH
@pytest.mark.parametrize("site", ["london", "leeds"])
def test_one_direction_down_is_half_open_and_then_lost(site: str, fidelity: str) -> None:
    done = run({"kind": "link-partition", "link": "wan", "site": site, "lasts": "1 min"}, fidelity=fidelity)
    said(done, "link-partition")
    settled(done)
    assert any("DisconnectedFromPeer" in label for label in states(done))
    assert not listed(done, 71, 120)
    assert 60 < worst_rpo(done) < 80


WAYS = ("wan london>leeds", "wan leeds>london")


def moved(of: Run, way: str, begin: float, end: float) -> float:
    """Bytes that a direction carried between two instants, in seconds."""
    inside = [sum(s.wan[way].values()) for s in of.recorder.samples if begin <= s.time / 1e9 <= end]
    return inside[-1] - inside[0]


def test_the_other_direction_still_carries_until_the_peers_give_up() -> None:
    done = run({"kind": "link-partition", "link": "wan", "site": "leeds", "lasts": "1 min"})
    assert moved(done, WAYS[0], 61, 69) > 100_000
    assert moved(done, WAYS[1], 61, 69) == 0
    assert moved(done, WAYS[0], 72, 118) == 0


def test_a_partition_shorter_than_the_peer_timeout_needs_no_sync() -> None:
    done = run({"kind": "link-partition", "link": "wan", "site": "london", "lasts": "8 s"})
    said(done, "link-partition")
    settled(done)
    assert not syncs(done)


def test_both_directions_apart_and_overlapping_end_with_the_last() -> None:
    done = run(
        {"kind": "link-partition", "link": "wan", "site": "london", "lasts": "40 s"},
        {"kind": "link-partition", "link": "wan", "site": "leeds", "lasts": "1 min", "at": "80 s"},
    )
    settled(done)
    assert not listed(done, 62, 140)
    assert len(syncs(done)) == 2  # one for each stream: the peers met only once


@BOTH
def test_half_open_connections_swallow_everything_until_the_peer_timeout(fidelity: str) -> None:
    done = run({"kind": "half-open", "link": "wan"}, fidelity=fidelity)
    said(done, "half-open")
    settled(done)
    assert len(syncs(done)) == 2
    assert not listed(done, 61, 70)
    assert listed(done, 70, 82)


@BOTH
def test_data_plane_down_the_managers_still_meet(fidelity: str) -> None:
    done = run({"kind": "data-plane-down", "link": "wan", "lasts": "1 min"}, fidelity=fidelity)
    said(done, "data-plane-down")
    settled(done)
    assert not any("Disconnected" in label for label in states(done))
    assert any("BitmapSync" in label for label in states(done))
    assert "peer unreachable" not in done.record("crm").skipped
    assert all("communication" in text for text in syncs(done))
    assert not listed(done, 62, 120)


@BOTH
def test_control_plane_down_data_goes_on_without_checkpoints(fidelity: str) -> None:
    done = run({"kind": "control-plane-down", "link": "wan", "lasts": "1 min"}, fidelity=fidelity)
    said(done, "control-plane-down")
    settled(done)
    assert any("Disconnected" in label for label in states(done))
    assert not syncs(done)
    assert not listed(done, 62, 120)
    assert moved(done, WAYS[0], 75, 115) > 40 * 3 * 50 * 8192 * 0.9


@pytest.mark.parametrize("plane", ["data-plane-down", "control-plane-down"])
def test_a_short_block_of_a_plane_loses_nothing(plane: str) -> None:
    done = run({"kind": plane, "link": "wan", "lasts": "8 s"})
    said(done, plane)
    settled(done)
    assert not syncs(done)
    assert 8 < worst_rpo(done) < 16


def test_late_messages_make_checkpoints_late_and_break_nothing() -> None:
    done = run({"kind": "latency-tail", "link": "wan", "lasts": "2 min", "share": "50 %", "delay": "1 s"})
    said(done, "latency-tail")
    settled(done)
    assert not syncs(done)
    record = done.record("crm")
    late = [a - t for a, t in zip(record.listed, record.taken, strict=True) if 62 < t / 1e9 < 180]
    well = [a - t for a, t in zip(record.listed, record.taken, strict=True) if t / 1e9 > 200]
    assert sum(late) / len(late) > 5 * max(well)


def test_overlapping_degradations_leave_the_link_as_it_was() -> None:
    slow = {"kind": "link-degraded", "link": "wan", "lasts": "30 s"}
    done = run({**slow, "latency": "80 ms"}, {**slow, "at": "75 s", "latency": "200 ms", "jitter": "1 ms"})
    said(done, "link-degraded")
    settled(done)
    assert {direction.latency for direction in done.world.links.values()} == {5_000_000}
    assert {direction.jitter for direction in done.world.links.values()} == {0}


def test_a_fault_that_changes_nothing_is_seen() -> None:
    done = run({"kind": "latency-tail", "link": "wan", "lasts": "1 s", "share": "0.0001 %", "delay": "1 s"})
    assert "latency-tail" in kinds(done)
    assert done.mattered == {"latency-tail": 0}
