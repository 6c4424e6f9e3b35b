"""Faults of VRAs, managers and hosts: restart, upgrade, crash, slowness, loss; and of clocks."""

import pytest
from faulty import kinds, listed, model, run, said, settled, states, syncs, worst_rpo

from drsim.core.catalog import Catalog
from drsim.core.events import Connected, Event, Lost
from drsim.core.names import site_of
from drsim.sim.run import simulate
from drsim.sim.world import World

BOTH = pytest.mark.parametrize("fidelity", ["write", "slice"])
HISTORY = {"journal": {"history": "1 h"}}


@BOTH
@pytest.mark.parametrize("lasts", ["40 s", "4 s"])
def test_a_protected_vra_that_crashed_compares_everything(lasts: str, fidelity: str) -> None:
    done = run({"kind": "vra-crash", "host": "london-1", "lasts": lasts}, fidelity=fidelity)
    said(done, "vra-crash")
    settled(done)
    assert len(syncs(done)) == 1  # the other host's stream is not concerned
    assert "delta" in syncs(done)[0].lower()
    back = 60 + float(lasts.split()[0])
    assert not listed(done, 66, back)
    told = [time / 1e9 for time, label in done.record("crm").statuses if "DeltaSync" in label]
    assert told[0] > back, "a dead VRA tells nothing"


@BOTH
@pytest.mark.parametrize("lasts", ["40 s", "4 s"])
def test_a_recovery_vra_that_crashed_goes_on_from_its_store(lasts: str, fidelity: str) -> None:
    done = run({"kind": "vra-crash", "host": "leeds-1", "lasts": lasts}, fidelity=fidelity)
    said(done, "vra-crash")
    settled(done)
    assert len(syncs(done)) == 2
    assert all("bitmap" in text.lower() for text in syncs(done))
    before = [c for c, t in zip(done.record("crm").ids, done.record("crm").listed, strict=True) if t < 60e9]
    (vpg,) = done.layout.vpgs
    catalog = done.world.kernel.machines[vpg.catalog]
    assert isinstance(catalog, Catalog)
    assert before[0] in {checkpoint.id for checkpoint in catalog.listed}, "what was listed stays listed"
    receiver = done.world.receiver(next(iter(done.layout.streams)))
    assert all(journal.marked(before[0]) for journal in receiver.journals.values()), "and has its marks again"


def test_a_recovery_vra_that_crashed_ages_what_its_journals_held() -> None:
    crash = {"kind": "vra-crash", "host": "leeds-1", "lasts": "20 s", "at": "65 min"}
    forgets = {"kind": "manager-crash", "site": "leeds", "lasts": "5 s", "at": "69 min"}
    done = run(crash, forgets, until="69.5 min", rate=5, vms=1, hosts=1, vpg={**HISTORY, "checkpoint_interval": "20 s"})
    catalog = done.world.kernel.machines[done.layout.vpgs[0].catalog]
    assert isinstance(catalog, Catalog)
    assert catalog.listed[0].id == done.record("crm").retired[-1][1] > 1, "what was forgotten stays so"
    world, (stream,) = done.world, done.layout.streams
    file, receiver = world.journals[stream].files[stream], world.receiver(stream)
    assert 0 < file.base[0] == next(iter(receiver.journals.values())).base
    assert file.nbytes == sum(journal.nbytes for journal in receiver.journals.values()) == world.stores["san-2"].used
    # An hour's history, with what a sync sent again; without aging it would be 70 minutes' worth.
    assert 59 * 60 * 5 * 8192 < file.nbytes < 64 * 60 * 5 * 8192


@pytest.mark.parametrize("host", ["london-1", "leeds-1"])
def test_peers_notice_a_crash_after_the_timeout_or_when_it_is_back(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[float] = []
    post = World.post

    def watch(world: World, address: str, event: Event) -> None:
        if isinstance(event, Lost) and address not in world.down:
            heard.append(world.clock.now / 1e9)
        post(world, address, event)  # type: ignore[arg-type]

    monkeypatch.setattr(World, "post", watch)
    run({"kind": "vra-crash", "host": host, "lasts": "40 s"}, until="2 min")
    assert set(heard) == {70.0}
    heard.clear()
    run({"kind": "vra-crash", "host": host, "lasts": "4 s"}, until="2 min")
    assert set(heard) == {64.0}
    heard.clear()
    run({"kind": "vra-restart", "host": host, "lasts": "40 s"}, until="2 min")
    assert set(heard) == {60.0}


@pytest.mark.parametrize(("site", "restarts"), [("london", 2), ("leeds", 1)])
def test_an_upgrade_restarts_one_vra_after_another(site: str, restarts: int) -> None:
    done = run({"kind": "vra-upgrade", "site": site, "lasts": "20 s", "pause": "40 s"})
    said(done, "vra-upgrade")
    settled(done)
    assert done.mattered["vra-upgrade"] == restarts
    assert len(syncs(done)) == 2
    assert all("bitmap" in text.lower() for text in syncs(done))
    if restarts == 2:
        assert listed(done, 83, 120), "between the two all is well"


@BOTH
def test_a_slow_vra_breaks_the_hold_budget(fidelity: str) -> None:
    done = run({"kind": "vra-slow", "host": "london-1", "lasts": "1 min", "delay": "15 ms"}, fidelity=fidelity)
    said(done, "vra-slow")
    settled(done)
    assert done.record("crm").skipped["hold budget"] >= 11
    assert not syncs(done)


@BOTH
def test_a_protected_manager_that_crashed_numbers_its_checkpoints_beyond(fidelity: str) -> None:
    done = run({"kind": "manager-crash", "site": "london", "lasts": "30 s"}, fidelity=fidelity)
    said(done, "manager-crash")
    settled(done, "HistoryNotMeetingSLA")  # an heir does not know how long protection lasts
    assert not syncs(done)
    assert not listed(done, 61, 90)
    ids = list(done.record("crm").ids)
    assert ids == sorted(ids)
    assert ids[-1] > 1_000_000 > ids[0]


@BOTH
def test_a_catalogue_that_crashed_knows_what_is_listed(fidelity: str) -> None:
    done = run({"kind": "manager-crash", "site": "leeds", "lasts": "30 s"}, fidelity=fidelity)
    said(done, "manager-crash")
    settled(done)
    assert any("Disconnected" in label for label in states(done))
    (vpg,) = done.layout.vpgs
    catalog = done.world.kernel.machines[vpg.catalog]
    assert isinstance(catalog, Catalog)
    assert [checkpoint.id for checkpoint in catalog.listed] == list(done.record("crm").ids)
    assert not syncs(done)


@BOTH
def test_a_lost_protected_host_writes_nothing_and_comes_back_knowing_nothing(fidelity: str) -> None:
    done = run({"kind": "host-loss", "host": "london-1", "lasts": "1 min"}, fidelity=fidelity)
    said(done, "host-loss")
    settled(done)
    assert done.mattered["host-loss"] == pytest.approx(1 + 2 * 50 * 60, abs=2)  # a VRA, and two VMs' writes
    assert len(syncs(done)) == 1
    assert not listed(done, 61, 120)


def test_a_lost_recovery_host_ends_in_bitmap_sync() -> None:
    done = run({"kind": "host-loss", "host": "leeds-1", "lasts": "1 min"})
    said(done, "host-loss")
    settled(done)
    assert done.mattered["host-loss"] == 1
    assert len(syncs(done)) == 2


@pytest.mark.parametrize("host", ["london-1", "leeds-1"])
def test_a_crash_during_a_restart_costs_the_memory_all_the_same(host: str) -> None:
    done = run(
        {"kind": "vra-restart", "host": host, "lasts": "40 s"},
        {"kind": "host-loss", "host": host, "lasts": "40 s", "at": "80 s"},
    )
    settled(done)
    assert not listed(done, 66, 120)
    assert any("delta" in text.lower() for text in syncs(done)) == (host == "london-1")


def test_a_crash_while_the_link_is_down_is_over_when_both_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[tuple[float, str, str]] = []
    post = World.post

    def watch(world: World, address: str, event: Event) -> None:
        if isinstance(event, Connected) and site_of(address) != site_of(event.peer):  # type: ignore[arg-type]
            met.append((world.clock.now / 1e9, address, event.peer))
        post(world, address, event)  # type: ignore[arg-type]

    monkeypatch.setattr(World, "post", watch)
    done = run(
        {"kind": "link-down", "link": "wan", "lasts": "1 min"},
        {"kind": "vra-crash", "host": "leeds-1", "lasts": "20 s", "at": "75 s"},
        {"kind": "vra-crash", "host": "london-2", "lasts": "50 s", "at": "80 s"},
    )
    settled(done)
    assert not listed(done, 62, 120)
    assert {time for time, *ends in met if "london-2" not in str(ends)} == {120.01}
    assert {time for time, *ends in met if "london-2" in str(ends)} == {130.0}


def test_guests_are_released_when_the_vra_that_holds_them_dies() -> None:
    slow = {"kind": "vra-slow", "host": "london-2", "lasts": "20 s", "delay": "5 ms", "at": "50 s"}
    done = run(slow, {"kind": "vra-crash", "host": "london-1", "lasts": "20 s", "at": "60.003 s"}, until="62 s")
    assert not done.world._held_since
    assert any(2_000_000 < length < 3_000_000 for length in done.world.holds["crm"]), "it did hold them"


def test_what_was_in_the_memory_of_a_vra_that_crashed_is_sent_again() -> None:
    slow = {"kind": "link-degraded", "link": "wan", "lasts": "26 s", "bandwidth": "1 Mbit/s"}
    crash = {"kind": "vra-crash", "host": "london-1", "lasts": "2 s", "at": "85 s"}
    done = run(slow, crash, size=1 << 28)
    settled(done)
    (sent,) = [int(text.split()[0]) for _, _, kind, text in done.recorder.events if kind == "sync ended"]
    assert sent > 0.8 * 25 * 2 * 50 * 8192  # of 25 s nearly nothing had been sent


@pytest.mark.parametrize(
    ("fault", "built"),
    [
        ({"kind": "vra-crash", "host": "leeds-1"}, {"leeds/leeds-1/recovery-vra"}),
        ({"kind": "host-loss", "host": "london-1"}, {"london/london-1/vra"}),
        ({"kind": "manager-crash", "site": "leeds"}, {"leeds/catalog/crm"}),
        ({"kind": "manager-crash", "site": "london"}, {"london/vpg/crm"}),
        ({"kind": "vra-restart", "host": "london-1"}, set()),
        ({"kind": "vra-upgrade", "site": "leeds"}, set()),
    ],
    ids=str,
)
def test_only_what_crashed_is_built_again(
    fault: dict[str, str], built: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    rebuild = World.rebuild
    monkeypatch.setattr(World, "rebuild", lambda world, address: (seen.append(address), rebuild(world, address)))
    run({**fault, "lasts": "5 s"}, until="80 s")
    assert sorted(seen) == sorted(built)


def test_a_clock_step_of_the_protected_site_shortens_history_and_is_seen() -> None:
    done = run({"kind": "clock-step", "site": "london", "by": "2 h"}, vpg=HISTORY, until="6 min")
    said(done, "clock-step")
    settled(done, "HistoryNotMeetingSLA")
    assert any("RpoNotMeetingSLA" in label for label in states(done)), "for an instant the newest looks two hours old"
    assert [reason for _, _, reason in done.record("crm").retired] == ["history"], "all from before, at once"
    assert worst_rpo(done) < 8, "people see true times"
    gaps = [b - a for a, b in zip(done.record("crm").taken, done.record("crm").taken[1:], strict=False)]
    assert set(gaps) == {5_000_000_000}


def test_a_clock_step_of_the_recovery_site_changes_nothing() -> None:
    done = run({"kind": "clock-step", "site": "leeds", "by": "2 h"}, vpg=HISTORY)
    assert "clock-step" in kinds(done)
    assert done.mattered == {"clock-step": 0}
    settled(done)
    assert states(done) == {"MeetingSLA"}


def test_sites_need_not_agree_on_the_time() -> None:
    agree = model()
    ahead = {name: site.model_copy(update={"clock_ahead": 3600 * 10**9}) for name, site in agree.sites.items()}
    differ = [agree.model_copy(update={"sites": {**agree.sites, name: ahead[name]}}) for name in ahead]
    first, *others = [list(simulate(each).record("crm").taken) for each in (agree, *differ)]
    assert others == [first, first]
