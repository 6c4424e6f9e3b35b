"""What each fault does to protection, and that protection comes back."""

import pytest
from estates import SECOND, two_site

from drsim.sim.run import Run, simulate
from drsim.sim.world import World


def run(fault: dict[str, str], until: str = "6 min", **more: object) -> Run:
    options = {"rate": 50, "hosts": 2, "vms": 3, "vpg": {"rpo_alert": "20 s", "compression": False}, **more}
    return simulate(two_site(run={"until": until}, faults=[{"at": "1 min", **fault}], **options))  # type: ignore[arg-type]


def kinds(of: Run) -> list[str]:
    return [kind for _, _, kind, _ in of.recorder.events]


def healthy_at_the_end(of: Run) -> bool:
    record = of.record("crm")
    return record.statuses[-1][1] == "MeetingSLA" and of.end - record.listed[-1] < 6 * SECOND


def states(of: Run) -> set[str]:
    return {label for _, label in of.record("crm").statuses}


@pytest.mark.parametrize("fidelity", ["write", "slice"])
def test_link_down_ends_in_bitmap_sync_and_back(fidelity: str) -> None:
    done = simulate(
        two_site(
            rate=50, run={"until": "5 min", "fidelity": fidelity},
            faults=[{"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "1 min"}],
        )
    )  # fmt: skip
    assert kinds(done).count("sync started") == 1
    assert kinds(done).count("sync ended") == 1
    assert any("DisconnectedFromPeer" in label for label in states(done))
    assert healthy_at_the_end(done)
    # No checkpoint was taken between the loss and the end of the sync.
    taken = [t / SECOND for t in done.record("crm").taken]
    assert not [t for t in taken if 70 < t < 120]


def test_an_outage_shorter_than_the_peer_timeout_needs_no_sync() -> None:
    done = run({"kind": "link-down", "link": "wan", "lasts": "8 s"})
    assert "sync started" not in kinds(done)
    assert healthy_at_the_end(done)
    assert max(done.teeth("crm").high) > 8 * SECOND


def test_degraded_link_is_slower_and_recovers() -> None:
    slow = {"kind": "link-degraded", "link": "wan", "lasts": "1 min", "bandwidth": "4 Mbit/s", "latency": "80 ms"}
    done = run(slow)
    record = done.record("crm")
    during = [a - t for a, t in zip(record.listed, record.taken, strict=True) if 80 < t / SECOND < 110]
    after = [a - t for a, t in zip(record.listed, record.taken, strict=True) if t / SECOND > 300]
    assert min(during) > 5 * max(after)
    assert healthy_at_the_end(done)


def test_flapping_link() -> None:
    flap = {"kind": "link-flapping", "link": "wan", "lasts": "2 min", "down": "15 s", "up": "20 s"}
    done = run(flap)
    assert kinds(done).count("sync started") >= 2
    assert healthy_at_the_end(done)


@pytest.mark.parametrize("host", ["london-1", "leeds-1"])
def test_vra_restart_on_either_side(host: str) -> None:
    done = run({"kind": "vra-restart", "host": host, "lasts": "40 s"})
    assert "sync started" in kinds(done)
    assert "sync ended" in kinds(done)
    assert healthy_at_the_end(done)


def test_datastore_full_stops_replication_and_loses_nothing_that_is_listed() -> None:
    done = run({"kind": "datastore-full", "datastore": "san-2", "lasts": "90 s"})
    record = done.record("crm")
    assert any("JournalStorageError" in label for label in states(done))
    assert not [t for t in record.listed if 62 < t / SECOND < 150]
    assert healthy_at_the_end(done)
    assert done.world.stores["san-2"].used == sum(
        file.nbytes for store in set(done.world.journals.values()) for file in store.files.values()
    )


def test_site_loss_ends_the_observation_and_counts_the_loss() -> None:
    done = run({"kind": "site-loss", "site": "london"})
    record = done.record("crm")
    assert record.ended == 60 * SECOND
    age = record.ended - record.taken[-1]
    assert 0 < age <= 5 * SECOND
    assert record.loss.writes == pytest.approx(3 * 50 * age / SECOND, abs=4)
    assert record.loss.nbytes == record.loss.writes * 8192


def test_loss_of_the_recovery_site_leaves_the_source_running() -> None:
    done = run({"kind": "site-loss", "site": "leeds"})
    assert done.record("crm").ended is None
    assert any("DisconnectedFromPeer" in label for label in states(done))
    assert max(done.teeth("crm").high) > 290 * SECOND


def test_guests_are_never_held_longer_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    holds: list[int] = []
    since: dict[object, int] = {}
    hold, perform = World._hold, World._perform

    def start(world, vra, vpg, checkpoint):  # type: ignore[no-untyped-def]
        since[vra, vpg] = world.clock.now
        hold(world, vra, vpg, checkpoint)

    def watch(world, id_, effect):  # type: ignore[no-untyped-def]
        if type(effect).__name__ == "ReleaseGuests":
            holds.append(world.clock.now - since.pop((id_.address, effect.vpg)))
        perform(world, id_, effect)

    monkeypatch.setattr(World, "_hold", start)
    monkeypatch.setattr(World, "_perform", watch)
    slow_lan = {"london": {"lan_latency": "1 ms", "lan_jitter": "2 ms"}, "leeds": {}}
    done = simulate(two_site(rate=20, vms=4, hosts=4, run={"until": "10 min"}, sites=slow_lan))
    assert max(holds) <= 20_000_000
    assert list(done.world.holds["crm"]) == holds
    skipped = done.record("crm").skipped
    assert skipped.get("hold budget", 0) > 5
    assert done.record("crm").sealed > 5
    assert done.record("crm").sealed + sum(skipped.values()) >= 118
