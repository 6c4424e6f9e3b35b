"""VMs that move, come and go, and what operators ask for: protection goes on, and guests do not notice."""

from functools import cache
from typing import Any

import pytest
from estates import MIB, SECOND, two_site

from drsim.core.batch import WriteBatch
from drsim.core.catalog import Catalog
from drsim.sim.run import Run, simulate
from drsim.sim.tap import Tap
from drsim.spec.model import Model
from drsim.spec.protect import Volume

CASES: dict[str, list[dict[str, Any]]] = {
    "force sync": [{"kind": "force-sync", "at": "60 s", "vpg": "crm"}],
    "pause": [{"kind": "pause", "at": "60 s", "vpg": "crm"}, {"kind": "resume", "at": "100 s", "vpg": "crm"}],
    "vmotion": [{"kind": "vmotion", "at": "60 s", "vm": "app-001", "to": "london-3"}],
    "from a stream with others": [{"kind": "vmotion", "at": "60 s", "vm": "app-003", "to": "london-2"}],
    "there and back at once": [
        {"kind": "vmotion", "at": "60 s", "vm": "app-001", "to": "london-3"},
        {"kind": "vmotion", "at": "62 s", "vm": "app-001", "to": "london-1"},
    ],
    "there and back": [
        {"kind": "vmotion", "at": "60 s", "vm": "app-001", "to": "london-3"},
        {"kind": "vmotion", "at": "110 s", "vm": "app-001", "to": "london-1"},
    ],
    "all leave a host": [
        {"kind": "vmotion", "at": "60 s", "vm": "app-002", "to": "london-1"},
        {"kind": "vmotion", "at": "61 s", "vm": "app-004", "to": "london-3"},
    ],
    "without a VRA and back": [
        {"kind": "vmotion", "at": "60 s", "vm": "app-001", "to": "bare"},
        {"kind": "vmotion", "at": "110 s", "vm": "app-001", "to": "london-1"},
    ],
    "add": [{"kind": "add-vm", "at": "60 s", "vm": "more", "vpg": "crm"}],
    "remove": [{"kind": "remove-vm", "at": "60 s", "vm": "app-001"}],
    "add volume": [{"kind": "add-volume", "at": "60 s", "vm": "app-001", "volume": "more", "size": "8 MiB"}],
    "grow volume": [{"kind": "grow-volume", "at": "60 s", "vm": "app-003", "volume": "disk-1", "size": "24 MiB"}],
    "add volume to one that moves": [
        {"kind": "vmotion", "at": "58 s", "vm": "app-003", "to": "london-2"},
        {"kind": "add-volume", "at": "60 s", "vm": "app-003", "volume": "more", "size": "8 MiB"},
    ],
    "grow where nobody protects": [
        {"kind": "vmotion", "at": "60 s", "vm": "app-001", "to": "bare"},
        {"kind": "grow-volume", "at": "80 s", "vm": "app-001", "volume": "disk-1", "size": "24 MiB"},
        {"kind": "vmotion", "at": "110 s", "vm": "app-001", "to": "london-1"},
    ],
    "retarget": [{"kind": "retarget", "at": "60 s", "vm": "app-001", "to": "leeds-2"}],
    "change journal": [{"kind": "change-journal", "at": "60 s", "vpg": "crm", "history": "2 h", "hard_limit": "9 GiB"}],
    "full sync": [{"kind": "force-sync", "at": "60 s", "vpg": "crm", "full": True}],
    "sync of one VM": [{"kind": "force-sync", "at": "60 s", "vpg": "crm", "vms": ["app-001"]}],
    "add, move, remove": [
        {"kind": "add-vm", "at": "60 s", "vm": "more", "vpg": "crm"},
        {"kind": "vmotion", "at": "80 s", "vm": "more", "to": "london-3"},
        {"kind": "remove-vm", "at": "120 s", "vm": "more"},
    ],
}


def model(operations: list[dict[str, Any]], *, rate: float = 20, until: str = "220 s", **more: Any) -> Model:
    """Four VMs on two hosts with a third VRA and one host without; one more VM that is in no VPG."""
    run = {"until": until, "fidelity": more.pop("fidelity", "slice")}
    made = two_site(rate=rate, vms=4, hosts=2, run=run, tweaks={"age_interval": "20 s"}, **more)
    app = made.vms["app"].model_copy(update={"volumes": (Volume(size=16 * MIB),)})
    hosts = {**made.hosts, "london-3": made.hosts["london-1"], "leeds-2": made.hosts["leeds-1"]}
    spare = app.model_copy(update={"count": 1, "host": "london-2"})
    whole = made.model_copy(update={"vms": {"app": app, "more": spare}, "hosts": hosts}).model_dump()
    whole["hosts"]["bare"] = {"site": "london", "vra": "none"}
    return Model.model_validate({**whole, "operations": operations})


def healthy_at_the_end(run: Run) -> bool:
    record = run.record("crm")
    in_sync = not any(sender.syncing for sender in run.world.senders("crm"))
    return in_sync and record.statuses[-1][1] == "MeetingSLA" and run.end - record.listed[-1] < 6 * SECOND


def listed(run: Run) -> Catalog:
    machine = run.world.kernel.machines[run.layout.vpg_of["crm"].catalog]
    assert isinstance(machine, Catalog)
    return machine


def books(run: Run) -> None:
    """Bytes on the store are those of the files, and of the journals that the recovery VRAs count."""
    files = [file for store in set(run.world.journals.values()) for file in store.files.values()]
    journals = run.world.journals_of("crm")
    assert run.world.stores["san-2"].used == sum(file.nbytes for file in files) >= 0
    assert sum(journal.durable_total - journal.base_total for journal in journals) == sum(f.nbytes for f in files)
    assert all(file.nbytes >= 0 for file in files)


def played(spec: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, dict[int, list[tuple[int, ...]]]]:
    """A run, and every write of each VM as some tap issued it: when, where, how long."""
    issued: dict[int, list[tuple[int, ...]]] = {}
    pull = Tap.pull

    def noted(self: Tap, now: int) -> list[WriteBatch]:
        batches = pull(self, now)
        for batch in batches:
            rows = (batch.vm, batch.issued, batch.volume, batch.lba, batch.sectors)
            for vm, *row in zip(*(column.tolist() for column in rows), strict=True):
                issued.setdefault(vm, []).append(tuple(row))
        return batches

    with monkeypatch.context() as patch:
        patch.setattr(Tap, "pull", noted)
        run = simulate(spec)
        for tap in (*run.world.taps.values(), *run.world.places.loose.values()):
            tap.pull(run.end)
    return run, issued


BURSTS = {"kind": "onoff", "rate": 60.0, "size": "8 KiB", "on": "7 s", "off": "9 s", "pattern": "uniform"}


@cache
def undisturbed(fidelity: str) -> tuple[Run, dict[int, list[tuple[int, ...]]]]:
    """The same guests, with nothing that moves."""
    return played(model([], workload=BURSTS, fidelity=fidelity), pytest.MonkeyPatch())


MOVES = [case for case, operations in CASES.items() if operations[0]["kind"] not in ("add-vm", "remove-vm")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_guests_write_the_same_at_the_same_times(case: str, fidelity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moves. Bursts, so that writes are drawn ahead unevenly."""
    plain, expected = undisturbed(fidelity)
    run, found = played(model(CASES[case], workload=BURSTS, fidelity=fidelity), monkeypatch)
    assert len(expected) == 4
    assert all(len(writes) > 1000 for writes in expected.values())
    assert {vm: found[vm] for vm in expected} == expected
    if case in MOVES:
        assert run.world.acknowledged("crm") == plain.world.acknowledged("crm")
        assert run.record("crm").taken[-1] == plain.record("crm").taken[-1]
        assert run.record("crm").loss == plain.record("crm").loss


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_ends_in_sync_with_checkpoints_listed(case: str, fidelity: str) -> None:
    run = simulate(model(CASES[case], fidelity=fidelity))
    assert healthy_at_the_end(run), run.recorder.events[-8:]
    books(run)
    operations = [each["kind"] for each in CASES[case]]
    assert [kind for _, _, kind, _ in run.recorder.events if kind in operations] == operations


@pytest.mark.parametrize("case", CASES)
def test_older_checkpoints_stay_listed(case: str) -> None:
    run = simulate(model(CASES[case]))
    record = run.record("crm")
    assert not record.withdrawn
    assert not record.retired
    assert [c.id for c in listed(run).listed] == list(record.ids)
    assert record.taken[0] < 10 * SECOND


@pytest.mark.parametrize("case", CASES)
def test_write_and_slice_agree(case: str) -> None:
    """With no guest writing while something synchronizes: between 50 and 150 s."""
    load = {"kind": "onoff", "rate": 20.0, "size": "8 KiB", "on": "50 s", "off": "100 s", "pattern": "uniform"}
    a, b = (simulate(model(CASES[case], fidelity=fidelity, workload=load)) for fidelity in ("write", "slice"))
    assert a.journal_digest() == b.journal_digest()
    cuts = [{c.id: {s: cut.position for s, cut in c.cut.items()} for c in listed(run).listed} for run in (a, b)]
    assert cuts[0] == cuts[1]
    assert len(cuts[0]) > 20


# -- what each operation is to the VPG ------------------------------------------------------------------------------


def syncs(run: Run) -> list[str]:
    return [text.partition(";")[0] for _, _, kind, text in run.recorder.events if kind == "sync started"]


def states(run: Run) -> set[str]:
    return {label for _, label in run.record("crm").statuses}


def between(run: Run, begin: float, end: float) -> int:
    """How many checkpoints were taken."""
    return sum(begin < taken / SECOND < end for taken in run.record("crm").taken)


def test_a_moved_vm_is_compared_and_only_what_differs_is_sent() -> None:
    run = simulate(model(CASES["vmotion"]))
    sent = [text for _, _, kind, text in run.recorder.events if kind == "sync ended"][
        -1
    ]  # after that of the old stream
    # What it wrote in the 5 s until the manager knew, and while it was compared; regions are larger than writes.
    assert 5 * 20 * 8192 <= int(sent.split()[0]) < 8 * 20 * 3 * 8192
    assert any("Volume" in text or "volume" in text for text in syncs(run))


def test_without_a_vra_there_are_no_checkpoints_and_the_rpo_grows() -> None:
    run = simulate(model(CASES["without a VRA and back"]))
    assert any("VmNotProtected" in label for label in states(run)), states(run)
    assert between(run, 61, 114) == 0
    assert between(run, 0, 61) >= 11
    assert max(run.teeth("crm").high) > 50 * SECOND


def test_checkpoints_go_on_beside_the_sync_of_an_added_vm() -> None:
    """At 4 Mbit/s the disk of 16 MiB takes more than half a minute."""
    run = simulate(model(CASES["add"], rate=2, link={"bandwidth": "4 Mbit/s"}))
    ended = [time for time, _, kind, _ in run.recorder.events if kind == "sync ended"]
    assert ended[-1] > 90 * SECOND
    assert between(run, 66, 90) >= 4
    (vm,) = [run.layout.vm_ids["more"]]
    first = next(c for c in listed(run).listed if any(vm in run.layout.streams[s].vms for s in c.cut))
    assert first.taken > ended[-1]


def test_a_paused_vpg_has_no_checkpoints_and_says_so() -> None:
    run = simulate(model(CASES["pause"]))
    assert any("PausedByUser" in label or "Paused" in label for label in states(run)), states(run)
    assert between(run, 61, 99) == 0


def test_a_removed_vm_is_in_older_checkpoints_until_they_are_retired() -> None:
    """With an hour of history: then its journal is discarded."""
    run = simulate(model(CASES["remove"], rate=0.5, until="70 min", vpg={"journal": {"history": "1 h"}}))
    gone = run.layout.vm_ids["app-001"]
    assert gone not in [journal.vm for journal in run.world.journals_of("crm")]
    books(run)
    soon = simulate(model(CASES["remove"], rate=0.5))
    assert gone in [journal.vm for journal in soon.world.journals_of("crm")]


def test_what_would_be_lost_does_not_forget_a_host_that_stays_dead() -> None:
    """A host is lost, its VM starts on another: the writes before are in checkpoints, and not lost for ever."""
    lost = {"kind": "host-loss", "host": "london-1", "at": "60 s", "lasts": "600 s",
            "restart": {"on": "london-3", "after": "10 s"}}  # fmt: skip
    run = simulate(Model.model_validate({**model([]).model_dump(), "faults": [lost]}))
    assert run.record("crm").statuses[-1][1] == "MeetingSLA"
    assert run.record("crm").loss.writes <= 4 * 20 * max(run.teeth("crm").high) / SECOND
