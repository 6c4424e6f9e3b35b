"""Disks that come, grow, leave and go missing, journals that change, another recovery host, and deletion."""

from typing import Any

import pytest
from estates import MIB, SECOND, two_site
from pydantic import ValidationError

from drsim.core.alert_table import Kind
from drsim.core.catalog import Catalog
from drsim.core.receiver import Receiver
from drsim.sim.placement import Places
from drsim.sim.run import Run, simulate
from drsim.spec.model import Model
from drsim.spec.protect import Volume

LOAD = {"kind": "poisson", "rate": 20.0, "size": "8 KiB", "pattern": "uniform"}


def model(
    *operations: dict[str, Any], faults: tuple[dict[str, Any], ...] = (), until: str = "120 s", **more: Any
) -> Model:
    """Two VMs on two hosts, each with a disk of 16 MiB and one of 32 MiB; a second recovery host."""
    run = {"until": until, "fidelity": more.pop("fidelity", "slice")}
    made = two_site(workload=more.pop("workload", LOAD), vms=2, hosts=2, run=run, **more)
    app = made.vms["app"].model_copy(
        update={"volumes": (Volume(name="root", size=16 * MIB), Volume(name="data", size=32 * MIB))}
    )
    hosts = {**made.hosts, "leeds-2": made.hosts["leeds-1"], "london-3": made.hosts["london-1"]}
    whole = made.model_copy(update={"vms": {"app": app}, "hosts": hosts}).model_dump()
    whole["hosts"]["bare"] = {"site": "london", "vra": "none"}
    return Model.model_validate({**whole, "operations": operations, "faults": faults})


def op(kind: str, at: str, **what: Any) -> dict[str, Any]:
    return {"kind": kind, "at": at, **({"vm": "app-001"} if "vpg" not in what else {}), **what}


def events(run: Run, kind: str) -> list[tuple[float, str]]:
    return [(time / SECOND, text) for time, _, each, text in run.recorder.events if each == kind]


def sent(run: Run) -> list[int]:
    """Bytes of each synchronization."""
    return [int(text.split()[0]) for _, text in events(run, "sync ended")]


def kinds(run: Run) -> list[str]:
    return [text.split()[0] for _, text in events(run, "sync started")]


def taken(run: Run, begin: float, end: float) -> int:
    """How many listed checkpoints were taken in between."""
    return sum(begin < time / SECOND < end for time in run.record("crm").taken)


def healthy(run: Run, vpg: str = "crm") -> bool:
    record = run.record(vpg)
    in_sync = not any(sender.syncing for sender in run.world.senders(vpg))
    return in_sync and record.statuses[-1][1] == "MeetingSLA" and run.end - record.listed[-1] < 6 * SECOND


MISSING = "MeetingSLA / ReplicationPausedForMissingVolume"


def label(run: Run, at: float) -> str:
    """The status at a time."""
    return [label for time, label in run.record("crm").statuses if time <= at * SECOND][-1]


def written(run: Run, volume: str) -> list[float]:
    """When the first VM's writes to a disk were journaled."""
    number = run.world.layout.volume(run.layout.vm_ids["app-001"], volume).id
    frames = [f for id_, store in run.world.journals.items() for f in store.files[id_].frames if not f.sync]
    return sorted({t / SECOND for f in frames for t in f.batch.issued[f.batch.volume == number].tolist()})


# -- disks ----------------------------------------------------------------------------------------------------------


def test_all_of_an_added_disk_is_sent_and_nothing_else() -> None:
    run = simulate(model(op("add-volume", "60 s", volume="more", size="8 MiB"), link={"bandwidth": "10 Mbit/s"}))
    assert kinds(run) == ["VolumeInitialSync"]
    (amount,) = sent(run)
    assert 8 * MIB <= amount < 8 * MIB + 20 * 8192 * 40, "and what was written meanwhile"
    ((began, _),), ((ended, _),) = events(run, "sync started"), events(run, "sync ended")
    assert began == pytest.approx(65, abs=0.1), "5 s until the manager knows"
    assert taken(run, began, ended) == 0 < taken(run, 0, 64)
    assert healthy(run)


def test_of_a_grown_disk_what_is_new_is_sent() -> None:
    run = simulate(model(op("grow-volume", "60 s", volume="root", size="24 MiB"), workload={**LOAD, "rate": 0.001}))
    assert sent(run) == [8 * MIB]
    assert healthy(run)


def test_a_disk_that_was_added_grows_and_leaves_like_any_other() -> None:
    run = simulate(
        model(
            op("add-volume", "20 s", volume="more", size="8 MiB"),
            op("grow-volume", "40 s", volume="more", size="16 MiB"),
            op("remove-volume", "60 s", volume="more"),
            op("add-volume", "80 s", volume="more", size="4 MiB"),
            workload={**LOAD, "rate": 0.001},
        )
    )
    assert sent(run) == [8 * MIB, 8 * MIB, 0, 4 * MIB]
    assert healthy(run)


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_nothing_is_written_to_a_removed_disk_and_the_others_go_on(fidelity: str) -> None:
    spec = model(op("remove-volume", "60.1 s", volume="data"), fidelity=fidelity)
    run = simulate(spec, keep_frames=True)
    before = simulate(model(fidelity=fidelity), keep_frames=True)
    here, there = ([t for t in written(each, "root") if not 60 < t < 66] for each in (before, run))
    assert here == there
    assert "ReplicationPausedForMissingVolume" in " ".join(label for _, label in run.record("crm").statuses)
    assert taken(run, 60.1, 65.1) == 0 < taken(run, 66, 120)
    assert healthy(run)
    assert before.world.acknowledged("crm").writes > run.world.acknowledged("crm").writes + 20 * 40 // 4


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_detached_disk_pauses_the_vpg_until_it_is_back_and_compared(fidelity: str) -> None:
    run = simulate(
        model(
            op("detach-volume", "40.1 s", volume="data"),
            op("attach-volume", "80.1 s", volume="data"),
            fidelity=fidelity,
        ),
        keep_frames=True,
    )
    assert taken(run, 40.1, 80.1) == 0
    assert [t for t in written(run, "data") if 40.1 < t < 80.1] == []
    assert [t for t in written(run, "data") if t > 90]
    labels = {label for t, label in run.record("crm").statuses if 40 * SECOND < t < 80 * SECOND}
    assert labels == {"MeetingSLA / ReplicationPausedForMissingVolume"}, "the RPO alert is at 300 s"
    assert max(sent(run)) < 32 * MIB // 2, "what the other disk was written meanwhile, not the whole disk"
    assert healthy(run)


def test_a_vra_that_restarts_or_dies_meanwhile_hears_again_that_a_disk_is_missing() -> None:
    operations = op("detach-volume", "40 s", volume="data"), op("attach-volume", "100 s", volume="data")
    for kind in ("vra-restart", "vra-crash"):
        fault = {"kind": kind, "host": "london-1", "at": "50 s", "lasts": "10 s"}
        run = simulate(model(*operations, faults=(fault,), until="150 s"))
        assert taken(run, 41, 100) == 0, kind
        assert label(run, 90) == MISSING, kind
        assert run.world.sender(run.layout.vpg_of["crm"].streams[0].id).missing == set()
        assert healthy(run), kind


def test_a_disk_stays_missing_where_its_vm_goes() -> None:
    run = simulate(
        model(
            op("detach-volume", "40 s", volume="data"), op("vmotion", "50 s", to="london-3"),
            op("attach-volume", "90 s", volume="data"), until="140 s",
        )
    )  # fmt: skip
    assert taken(run, 41, 90) == 0
    assert label(run, 80) == MISSING
    assert healthy(run)


def test_a_vm_at_rest_goes_on_when_it_loses_a_disk() -> None:
    """At rest from 62 s, for a VM that needs longer."""
    lost = op("remove-volume", "63 s", volume="data")
    made = model(lost, until="67 s", tweaks={"freeze_timeout": "20 s"}).model_dump()
    made["vms"]["app"]["quiesce"] = {"takes": "2 s"}
    made["vms"]["slow"] = {**made["vms"]["app"], "quiesce": {"takes": "9 s"}, "count": 1, "host": "london-1"}
    made["vpgs"]["crm"] |= {"vms": ["app", "slow"], "application_consistent": {"every": "1 min"}}
    run = simulate(Model.model_validate(made))
    assert run.world.agents.rest == {run.layout.vm_ids["app-001"]: pytest.approx(SECOND, rel=0.01)}


def test_nobody_reads_a_disk_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a VRA that has not been told: no synchronization of it can end."""
    monkeypatch.setattr(Places, "_tell", lambda *_: None)
    for full in (False, True):
        forced = op("force-sync", "50 s", vpg="crm", vms=["app-001"], full=full)
        run = simulate(
            model(op("detach-volume", "40 s", volume="data"), forced, op("attach-volume", "80 s", volume="data"))
        )
        ((ended, _),) = events(run, "sync ended")
        assert ended > 80
        assert healthy(run)


def test_what_grew_where_nobody_protects_is_sent_when_the_vm_is_back() -> None:
    made = model(
        op("vmotion", "40 s", to="bare"), op("grow-volume", "60 s", volume="root", size="24 MiB"),
        op("vmotion", "80 s", to="london-1"), workload={**LOAD, "rate": 0.001},
    )  # fmt: skip
    run = simulate(made)
    assert sent(run)[-1] == 8 * MIB
    assert healthy(run)


def test_what_was_added_in_the_middle_of_a_sync_is_sent_whatever_dies() -> None:
    """The line is cut, a disk comes, the VRA dies, and all has to be compared."""
    cut = {"kind": "link-down", "link": "wan", "at": "40 s", "lasts": "40 s"}
    crash = {"kind": "vra-crash", "host": "london-1", "at": "70 s", "lasts": "5 s"}
    run = simulate(
        model(op("add-volume", "60 s", volume="more", size="8 MiB"), faults=(cut, crash),
              workload={**LOAD, "rate": 0.001})
    )  # fmt: skip
    assert sum(sent(run)) == pytest.approx(8 * MIB, abs=5 * 128 << 10)
    assert healthy(run)


def test_a_whole_copy_that_a_crash_cuts_off_is_finished() -> None:
    """What had not been sent differs, so the comparison finds it; what had been is found to differ as well."""
    crash = {"kind": "vra-crash", "host": "london-1", "at": "60 s", "lasts": "5 s"}
    run = simulate(
        model(faults=(crash,), workload={**LOAD, "rate": 0.001}, vpg={"sync": "initial"}, until="5 min",
              link={"bandwidth": "4 Mbit/s"})
    )  # fmt: skip
    assert sum(sent(run)) == 2 * 48 * MIB
    assert healthy(run)


# -- where and how much ---------------------------------------------------------------------------------------------


def receivers(run: Run, host: str) -> list[Receiver]:
    return [r for r in run.world.receivers("crm") if r.spec.id.target == run.layout.vras(host)[1]]


def test_another_recovery_host_gets_all_and_the_history_stays() -> None:
    spec = model(op("retarget", "60 s", to="leeds-2"), until="70 min", workload={**LOAD, "rate": 0.5},
                 vpg={"journal": {"history": "1 h"}}, tweaks={"age_interval": "1 min"})  # fmt: skip
    soon = simulate(spec.model_copy(update={"run": spec.run.model_copy(update={"until": 90 * SECOND})}))
    assert sent(soon)[-1] >= 48 * MIB
    assert not soon.record("crm").retired
    assert [len(receivers(soon, host)) for host in ("leeds-1", "leeds-2")] == [2, 1]
    run = simulate(spec)
    assert [len(receivers(run, host)) for host in ("leeds-1", "leeds-2")] == [1, 1], "no checkpoint has the old one"
    assert healthy(run)
    files = [file for store in set(run.world.journals.values()) for file in store.files.values()]
    assert run.world.stores["san-2"].used == sum(file.nbytes for file in files)


def test_a_shorter_history_retires_what_is_older_at_once_and_a_longer_one_is_missed_until_it_is_there() -> None:
    quiet = {"workload": {**LOAD, "rate": 0.5}, "tweaks": {"age_interval": "10 s"}}
    shorter = op("change-journal", "90 min", vpg="crm", history="1 h")
    longer = op("change-journal", "90 min", vpg="crm", history="3 h")
    start = {"vpg": {"journal": {"history": "80 min"}}}
    run = simulate(model(shorter, until="92 min", **quiet, **start))
    oldest = listed(run).listed[0].taken
    assert run.end - oldest == pytest.approx(3600 * SECOND, abs=20 * SECOND)
    assert not events(run, "checkpoints retired early")
    run = simulate(model(longer, until="92 min", **quiet, **start))
    assert run.record("crm").statuses[-1][1] == "HistoryNotMeetingSLA"
    assert run.record("crm").causes[-1][1] == "history not full yet"


def test_alerts_go_by_the_history_that_is_promised_now() -> None:
    """After 3 h one hour is enough, until somebody wants a day: less than half of what could be there."""
    run = simulate(
        model(op("change-journal", "3 h", vpg="crm", history="1 d"), until="3 h 1 min",
              workload={**LOAD, "rate": 0.01}, vpg={"journal": {"history": "1 h"}})
    )  # fmt: skip
    assert run.recorder.watch is not None
    raised = [change for change in run.recorder.watch.changes if change.alert == "VPG0004"]
    assert [change.time >= 3 * 3600 * SECOND for change in raised] == [True]


def listed(run: Run) -> Catalog:
    machine = run.world.kernel.machines[run.layout.vpg_of["crm"].catalog]
    assert isinstance(machine, Catalog)
    return machine


def test_a_larger_limit_lets_a_full_journal_grow() -> None:
    """At 70 Mbit/s 8 GiB are full after a quarter of an hour; from half an hour on there may be more."""
    full = {
        "workload": {"kind": "constant", "rate": 550, "size": "16 KiB"}, "until": "50 min", "hosts": 1,
    }  # fmt: skip
    change = op("change-journal", "30 min", vpg="crm", hard_limit="20 GiB")
    made = two_site(
        workload=full["workload"],
        run={"until": full["until"]},
        vpg={"journal": {"history": "1 h", "hard_limit": "8 GiB"}},
    ).model_dump()
    run = simulate(Model.model_validate({**made, "operations": [change]}))
    retired = [time / SECOND for time, _, reason in run.record("crm").retired if reason == "journal limit"]
    assert min(retired) > 14 * 60
    assert max(retired) < 30 * 60 + 10
    (journal,) = run.world.journals_of("crm")
    assert journal.nbytes > 15 << 30


# -- the end of a VPG -----------------------------------------------------------------------------------------------

TROUBLE: dict[str, tuple[dict[str, Any], ...]] = {
    "nothing else": (),
    "its manager dies": ({"kind": "manager-crash", "site": "london", "at": "60.004 s", "lasts": "10 s"},),
    **{
        f"the other manager dies {1000 * at:g} ms later": (
            {"kind": "manager-crash", "site": "leeds", "at": f"{60 + at} s", "lasts": "10 s"},
        )
        for at in (0.0045, 0.0051, 0.0053, 0.0056, 0.0062, 0.0068, 0.008)
    },
    "its datastore is full": ({"kind": "datastore-full", "datastore": "san-2", "at": "40 s", "lasts": "10 min"},),
    "a VRA dies": ({"kind": "vra-crash", "host": "london-1", "at": "60.001 s", "lasts": "10 s"},),
    "the other VRA dies": ({"kind": "vra-crash", "host": "leeds-1", "at": "60.02 s", "lasts": "10 s"},),
    "it synchronizes": (
        {"kind": "link-down", "link": "wan", "at": "20 s", "lasts": "30 s"},
        {"kind": "link-degraded", "link": "wan", "at": "50 s", "lasts": "20 s", "bandwidth": "100 kbit/s"},
    ),
    "the line is cut": ({"kind": "link-down", "link": "wan", "at": "55 s", "lasts": "20 s"},),
}


@pytest.mark.parametrize("keep_disks", [False, True])
@pytest.mark.parametrize("case", TROUBLE)
def test_a_deleted_vpg_leaves_nothing(case: str, keep_disks: bool) -> None:
    """Keeps out, among others, a catalogue that asks a recovery VRA only once to close a stream."""
    run = simulate(model(op("delete-vpg", "60 s", vpg="crm", keep_disks=keep_disks), faults=TROUBLE[case]))
    assert events(run, "deleted"), run.recorder.events[-6:]
    assert run.world.senders("crm") == []
    assert run.world.receivers("crm") == []
    assert run.world.stores["san-2"].used == 0
    assert list(listed(run).listed) == []
    assert run.observed("crm") == 60 * SECOND
    assert run.teeth("crm").end[-1] == 60 * SECOND
    assert run.recorder.watch is not None
    assert [each for each, _ in run.recorder.watch.alerts.raised if each.kind is not Kind.DATASTORE] == []


def test_a_deletion_is_over_when_the_journals_are_gone_whatever_the_manager_remembers() -> None:
    """The recovery store is slow, so it takes long to apply what the disks are to keep; the manager dies meanwhile."""
    slow = {"kind": "datastore-slow", "datastore": "san-2", "at": "59 s", "lasts": "10 min", "bandwidth": 0.001}
    dies = {"kind": "manager-crash", "site": "leeds", "at": "61 s", "lasts": "5 s"}
    deleted = op("delete-vpg", "60 s", vpg="crm", keep_disks=True)
    run = simulate(model(deleted, faults=(slow, dies), until="5 min"))
    ((over, _),) = events(run, "deleted")
    assert over > 100
    assert run.world.stores["san-2"].used == 0


def test_the_recovery_side_deletes_what_it_was_told_to_though_nobody_asks_again() -> None:
    """Its manager hears of it, its VRA does not, the manager dies, and the line is cut."""
    cut = {"kind": "link-down", "link": "wan", "at": "60.0051 s", "lasts": "10 min"}
    vra = {"kind": "vra-crash", "host": "leeds-1", "at": "60.0051 s", "lasts": "20 s"}
    manager = {"kind": "manager-crash", "site": "leeds", "at": "61 s", "lasts": "5 s"}
    run = simulate(model(op("delete-vpg", "60 s", vpg="crm"), faults=(cut, vra, manager)))
    assert run.world.receivers("crm") == []


def test_the_other_vpg_of_a_vm_goes_on_when_one_is_deleted() -> None:
    made = model(op("delete-vpg", "60 s", vpg="crm")).model_dump()
    made["sites"]["york"] = {}
    made["hosts"]["york-1"] = {"site": "york"}
    made["datastores"]["san-3"] = {"site": "york"}
    made["links"]["wan-2"] = {**made["links"]["wan"], "between": ["london", "york"]}
    made["vpgs"]["far"] = {**made["vpgs"]["crm"], "recovery": {"hosts": ["york-1"], "datastore": "san-3"}}
    run = simulate(Model.model_validate(made))
    assert healthy(run, "far")
    assert not [each for each in run.recorder.events if each[1] == "far" and each[2] == "sync started"]


# -- what cannot be -------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {
    "twice": ((op("add-volume", "1 s", volume="data", size="8 MiB"),), "has a volume 'data' already"),
    "unknown": ((op("remove-volume", "1 s", volume="dat"),), "no volume 'dat' then; did you mean 'data'?"),
    "gone": (
        (op("remove-volume", "1 s", volume="data"), op("grow-volume", "2 s", volume="data", size="64 MiB")),
        "no volume 'data' then",
    ),
    "last": (
        (op("remove-volume", "1 s", volume="data"), op("remove-volume", "2 s", volume="root")),
        "'root' is the only volume of VM 'app-001' then; remove the VM",
    ),
    "smaller": ((op("grow-volume", "1 s", volume="data", size="8 MiB"),), "volumes do not shrink"),
    "there": ((op("attach-volume", "1 s", volume="data"),), "is not detached then"),
    "detached": (
        (op("detach-volume", "1 s", volume="data"), op("remove-volume", "2 s", volume="data")), "is detached then",
    ),
    "other site": ((op("retarget", "1 s", to="london-3"),), "recovers to site 'leeds', and host 'london-3'"),
    "no VM of it": ((op("force-sync", "1 s", vpg="crm", vms=["app"]),), "no VM 'app' in VPG 'crm' then; did you mean"),
    "same journal": ((op("change-journal", "1 s", vpg="crm"),), "nothing changes"),
    "fail-safe": (
        (op("change-journal", "1 s", vpg="crm", history="2 h", fail_safe="3 h"),), "keeps 2 h then, less than that",
    ),
    "deleted": (
        (op("delete-vpg", "1 s", vpg="crm"), op("pause", "2 s", vpg="crm")), "VPG 'crm' is deleted by then",
    ),
    "in none": (
        (op("delete-vpg", "1 s", vpg="crm"), op("retarget", "2 s", to="leeds-2")), "VM 'app-001' is in no VPG then",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_said_before_anything_runs(case: str) -> None:
    operations, words = WRONG[case]
    with pytest.raises(ValidationError, match="(?s)" + words.replace("?", r"\?")):
        model(*operations)
