"""Faults of datastores: full, slow, gone, read-only, hung, enlarged, and reads that fail."""

import pytest
from faulty import kinds, listed, model, run, said, settled, states, syncs, worst_rpo

from drsim.core.effects import Append, Promote
from drsim.core.events import Done, Event, Failed
from drsim.core.names import StreamId, recovery_vra_address, vra_address
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.units import Ns
from drsim.sim.clock import Clock
from drsim.sim.run import simulate
from drsim.sim.store import JournalStore, Store
from drsim.spec.faults import DatastoreSlow
from drsim.spec.model import Datastore, Model

BOTH = pytest.mark.parametrize("fidelity", ["write", "slice"])
OUTAGE = {"kind": "link-down", "link": "wan", "lasts": "1 min"}


@BOTH
@pytest.mark.parametrize("kind", ["datastore-full", "datastore-gone", "datastore-read-only"])
def test_a_journal_store_that_takes_nothing_stops_replication(kind: str, fidelity: str) -> None:
    done = run({"kind": kind, "datastore": "san-2", "lasts": "1 min"}, fidelity=fidelity)
    said(done, kind)
    settled(done)
    assert any("JournalStorageError" in label for label in states(done))
    assert not listed(done, 61, 120)
    assert 60 < worst_rpo(done) < 70
    assert not done.record("crm").withdrawn


@BOTH
@pytest.mark.parametrize("kind", ["datastore-gone", "datastore-hung", "datastore-read-only"])
def test_guests_stand_still_while_their_store_cannot_be_written(kind: str, fidelity: str) -> None:
    done = run({"kind": kind, "datastore": "san-1", "lasts": "1 min"}, fidelity=fidelity)
    said(done, kind)
    settled(done)
    # 4 minutes of 3 guests' writes: a minute is missing, not lost; nothing else changed.
    writes = sum(done.world.journals[s].files[s].writes for s in done.layout.streams)
    assert 3 * 50 * (240 - 6) < writes <= 3 * 50 * 240
    assert states(done) == {"MeetingSLA"}
    assert done.mattered[kind] == pytest.approx(3 * 50 * 60, abs=3)


@BOTH
def test_a_hung_store_answers_when_it_is_over(fidelity: str) -> None:
    done = run({"kind": "datastore-hung", "datastore": "san-2", "lasts": "1 min"}, fidelity=fidelity)
    said(done, "datastore-hung")
    settled(done)
    assert not listed(done, 61, 120)
    assert not any("JournalStorageError" in label for label in states(done)), "nobody is told anything"
    assert listed(done, 120, 124)


def test_a_vra_that_crashes_while_its_store_hangs() -> None:
    done = run(
        {"kind": "datastore-hung", "datastore": "san-2", "lasts": "1 min"},
        {"kind": "vra-crash", "host": "leeds-1", "lasts": "20 s", "at": "65 s"},
    )
    settled(done)


@BOTH
def test_a_slow_journal_store_lists_later(fidelity: str) -> None:
    slow = {"kind": "datastore-slow", "datastore": "san-2", "lasts": "2 min", "latency": 500}
    done = run(slow, fidelity=fidelity)
    said(done, "datastore-slow")
    settled(done)
    record = done.record("crm")
    delays = {t / 1e9: (a - t) / 1e9 for a, t in zip(record.listed, record.taken, strict=True)}
    assert min(d for t, d in delays.items() if 65 < t < 178) > 0.4
    assert max(d for t, d in delays.items() if t > 190) < 0.4


def test_a_store_with_a_thousandth_of_its_ios_falls_behind_and_catches_up() -> None:
    done = run({"kind": "datastore-slow", "datastore": "san-2", "lasts": "1 min", "iops": "0.005 %"})
    settled(done)
    assert worst_rpo(done) > 20


def test_a_slow_protected_store_acknowledges_later_and_more_is_lost_by_less() -> None:
    """What is not acknowledged is not lost: with 2 s of latency a disaster costs what was acknowledged before."""
    slow = {"kind": "datastore-slow", "datastore": "san-1", "lasts": "2 min", "latency": 2000, "at": "30 s"}
    gone = {"kind": "site-loss", "site": "london", "at": "63 s"}
    losses = [simulate(model(*faults)).record("crm").loss.writes for faults in ([gone], [slow, gone])]
    assert losses[0] == pytest.approx(3 * 50 * 3, abs=4)
    assert losses[1] == pytest.approx(3 * 50 * 1, abs=4)


def test_a_store_that_is_too_small_goes_on_when_it_is_enlarged() -> None:
    small = {"store": {"capacity": "80 MiB"}, "until": "6 min"}
    more = {"kind": "datastore-enlarged", "datastore": "san-2", "at": "3 min"}
    stuck = run(**small)  # type: ignore[arg-type]
    assert any("JournalStorageError" in label for label in states(stuck))
    assert not listed(stuck, 120, 360)
    for size in ({"by": "10 GiB"}, {"to": "20 GiB"}):
        done = run({**more, **size}, **small)  # type: ignore[arg-type]
        said(done, "datastore-enlarged")
        settled(done)
        assert not listed(done, 120, 180)
        assert listed(done, 180, 184)


def test_an_enlargement_that_nobody_needed_did_not_matter() -> None:
    done = run({"kind": "datastore-enlarged", "datastore": "san-2", "by": "1 GiB"})
    settled(done)
    assert done.mattered == {"datastore-enlarged": 0}


@BOTH
def test_read_errors_stop_a_sync_until_they_end(fidelity: str) -> None:
    errors = {"kind": "read-errors", "datastore": "san-1", "lasts": "1 min", "at": "110 s"}
    done = run(OUTAGE, errors, fidelity=fidelity)
    said(done, "read-errors")
    settled(done)
    assert not listed(done, 71, 170)
    assert done.mattered["read-errors"] > 50  # each stream tries again every second


def test_some_read_errors_only_delay_a_sync() -> None:
    errors = {"kind": "read-errors", "datastore": "san-1", "lasts": "1 min", "at": "110 s", "share": "5 %"}
    done = run(OUTAGE, errors)
    said(done, "read-errors")
    settled(done)
    assert listed(done, 121, 150)


def test_digests_that_cannot_be_read_at_the_other_side_count_as_different() -> None:
    crash = {"kind": "vra-crash", "host": "london-1", "lasts": "20 s"}
    errors = {"kind": "read-errors", "datastore": "san-2", "lasts": "1 min", "at": "70 s"}
    sent = [sum(s for s in _sent(run(*faults))) for faults in ([crash], [crash, errors])]
    assert sent[1] > 10 * sent[0]


def _sent(done: object) -> list[int]:
    events = done.recorder.events  # type: ignore[attr-defined]
    return [int(text.split()[0]) for _, _, kind, text in events if kind == "sync ended"]


def test_read_errors_without_a_sync_do_not_matter() -> None:
    done = run({"kind": "read-errors", "datastore": "san-1", "lasts": "1 min"})
    assert "read-errors" in kinds(done)
    assert done.mattered == {"read-errors": 0}
    assert not syncs(done)


def test_slowness_multiplies_and_goes() -> None:
    slow = {"kind": "datastore-slow", "datastore": "san-2", "lasts": "30 s", "latency": 3}
    made: Model = model(slow, {**slow, "at": "75 s", "iops": "50 %"}, until="2 min")
    done = simulate(made)
    assert done.world.stores["san-2"]._latency == made.datastores["san-2"].latency
    assert done.world.stores["san-2"]._iops == made.datastores["san-2"].iops


def test_what_waits_at_a_slow_store_is_done_at_full_speed_when_it_is_over() -> None:
    clock, log = Clock(), []
    store = Store(clock, Datastore(site="x", latency=0, iops=1000, bandwidth=10**12))
    store.slow(DatastoreSlow(at=0, datastore="x", lasts=2_500_000_000, iops=0.001))
    for n in range(5):  # a second each, but the fault ends within the third: it begins anew
        store.io(0, 1, lambda n=n: log.append((n, clock.now / 1e6)))  # type: ignore[misc]
    clock.env.run()
    assert log == [(0, 1000), (1, 2000), (2, 2501), (3, 2502), (4, 2503)]


def test_a_failure_is_answered_after_what_the_store_does_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery VRA takes answers in the order of its appends; a failure that overtook one would be lost on it."""
    answers: list[tuple[str, object]] = []
    handle = RecoveryVra.handle

    def watch(machine: RecoveryVra, now: Ns, event: Event) -> object:
        if isinstance(event, Done | Failed) and isinstance(event.effect, Append):
            answers.append((type(event).__name__, event.id.n))
        return handle(machine, now, event)

    monkeypatch.setattr(RecoveryVra, "handle", watch)
    slow = {"kind": "datastore-slow", "datastore": "san-2", "lasts": "2 min", "latency": 900, "at": "30 s"}
    done = run(slow, {"kind": "datastore-gone", "datastore": "san-2", "lasts": "1 s"}, vms=1, hosts=1, fidelity="write")
    settled(done)
    first = [name for name, _ in answers].index("Failed")
    assert [n for _, n in answers[: first + 1]] == sorted(n for _, n in answers[: first + 1])
    assert answers[first - 1][0] == "Done"
    assert all(n > answers[first][1] for _, n in answers[first + 1 :])


def test_a_promotion_that_a_restart_cut_short_frees_nothing() -> None:
    clock = Clock()
    store = Store(clock, Datastore(site="x"))
    stream = StreamId("crm", vra_address("a", "h"), recovery_vra_address("b", "h"))
    journals = JournalStore(store, {stream: (1,)}, keep=False)
    journals.files[stream].nbytes = store.used = 4096
    wanted = [False, True]
    for each in wanted:
        effect = Promote(stream, (0,), (1,), 4096, None)
        journals.promote(effect, lambda: None, lambda each=each: each)  # type: ignore[misc]
    clock.env.run()
    assert (journals.files[stream].nbytes, store.used, journals.files[stream].base) == (0, 0, (1,))
