"""Recovery operations in the simulation: their times, what they lose, and what they leave alone."""

from itertools import pairwise
from typing import Any

import pytest
from estates import MIB, SECOND, two_site

from drsim.core.recovery.report import Outcome
from drsim.core.recovery.rto import critical_path, rto_parts
from drsim.sim.recovery import Underway
from drsim.sim.run import Run, simulate
from drsim.spec.model import Model
from drsim.study.operation import answer, figures

AT = 600 * SECOND


def model(
    *operations: dict[str, Any], vms: int = 2, faults: tuple[dict[str, Any], ...] = (), until: str = "30 min",
    vm: dict[str, Any] | None = None, vpg: dict[str, Any] | None = None, leeds: dict[str, Any] | None = None,
    **more: Any,
) -> Model:  # fmt: skip
    """Equal VMs of 20 writes a second with small disks."""
    made = two_site(vms=vms, rate=20, run={"until": until}, vpg=vpg, **more).model_dump()
    made["vms"]["app"] |= {"volumes": [{"size": 16 * MIB}, {"name": "log", "size": 8 * MIB}], **(vm or {})}
    made["sites"]["leeds"] |= leeds or {}
    return Model.model_validate({**made, "operations": operations, "faults": faults})


def op(kind: str, **what: Any) -> dict[str, Any]:
    return {"kind": kind, "at": "10 min", "vpg": "crm", **what}


def done(run: Run) -> Underway:
    (operation,) = run.world.recoveries.operations
    assert operation.report is not None
    return operation


def played(*operations: dict[str, Any], **more: Any) -> Underway:
    return done(simulate(model(*operations, **more)))


HYPERVISOR = {"create": "20 s", "attach": "3 s", "power_on": "4 s", "re_ip": "90 s"}
VM = {"boot": "50 s", "application": "30 s", "nics": [{"live": {"network": "lan"}, "test": {"network": "test"}}]}
LEEDS = {"networks": ["lan", "test"], "hypervisor": HYPERVISOR}


def test_closed_form_9_is_exact_when_durations_are_constant() -> None:
    """RTO = detect + decide + shut down + create + attach + promote + re-IP + boot groups + health."""
    groups = {"boot_groups": [["app-001"], ["app-002"]], "boot_delay": "25 s"}
    operation = played(
        op("failover", detect="2 min", decide="5 min", shutdown="graceful", instant=True),
        vm=VM,
        leeds=LEEDS,
        vpg=groups,
    )
    report = operation.report
    assert report is not None
    assert report.service is not None
    shutdown, create, attach, re_ip, boot = 45, 20, 2 * 3, 90, 4 + 50 + 30
    expected = 120 + 300 + shutdown + create + attach + re_ip + boot + 25 + boot
    assert report.service - operation.asked == expected * SECOND
    parts = rto_parts(report, detect=120 * SECOND, decide=300 * SECOND)
    assert {name: ns / SECOND for name, ns in parts.items()} == {
        "detect": 120, "decide": 300, "shut down the source": 45, "create": 20, "attach": 6, "re-IP": 90, "boot": 168,
        "delays": 25,
    }  # fmt: skip
    path = critical_path(report)
    assert all(a.ended == b.begun for a, b in pairwise(path))


def test_the_journal_is_laid_out_first_unless_recovery_is_instant() -> None:
    at_once, laid_out = (played(op("failover", instant=instant), vm=VM, leeds=LEEDS) for instant in (True, False))
    assert at_once.report is not None
    assert laid_out.report is not None
    assert "disks" not in rto_parts(at_once.report)
    assert rto_parts(laid_out.report)["disks"] > 0


@pytest.mark.parametrize("shutdown", ["none", "graceful"])
def test_a_failover_loses_what_was_acknowledged_after_its_checkpoint(shutdown: str) -> None:
    operation = played(op("failover", shutdown=shutdown))
    assert operation.lost is not None
    assert operation.taken is not None
    assert operation.lost.writes == pytest.approx(2 * 20 * (operation.cut_off - operation.taken) / SECOND, abs=42)
    assert operation.lost.nbytes == operation.lost.writes * 8192


def test_after_a_disaster_time_and_loss_count_from_the_disaster() -> None:
    lost = {"kind": "site-loss", "site": "london", "at": "10 min"}
    operation = played(op("failover", detect="3 min"), faults=(lost,))
    assert operation.lost is not None
    assert operation.lost.writes <= 2 * 20 * 6
    assert operation.cut_off == AT
    assert operation.report is not None
    assert any("could not be told" in text for text in operation.report.people)


def test_an_older_checkpoint_loses_more() -> None:
    operation = played(op("failover", checkpoint="5 min"))
    assert operation.lost is not None
    assert operation.lost.writes == pytest.approx(2 * 20 * 300, rel=0.03)


def test_a_move_loses_nothing() -> None:
    for shutdown in ("graceful", "force"):
        operation = played(op("move", shutdown=shutdown))
        assert operation.report is not None
        assert operation.report.outcome is Outcome.COMMITTED
        assert operation.lost is not None
        assert operation.lost.writes == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_move_loses_nothing_of_vms_that_write_at_random(seed: int) -> None:
    poisson = {"kind": "poisson", "rate": 200.0, "size": "8 KiB", "pattern": "uniform"}
    run = simulate(model(op("move"), vms=3, workload=poisson), seed=seed)
    operation = done(run)
    assert operation.lost is not None
    assert operation.lost.writes == 0


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_move_that_is_rolled_back_goes_on_protecting(fidelity: str) -> None:
    made = model(op("move", commit="none", verdict="rollback", after="1 min")).model_dump()
    run = simulate(Model.model_validate({**made, "run": {**made["run"], "fidelity": fidelity}}))
    operation, record = done(run), run.record("crm")
    assert operation.report is not None
    assert operation.report.outcome is Outcome.ROLLED_BACK
    assert operation.lost is None
    assert record.statuses[-1][1] == "MeetingSLA"
    assert run.end - record.listed[-1] < 6 * SECOND
    assert run.observed("crm") == run.end
    kinds = [text.split()[0] for _, _, kind, text in run.recorder.events if kind == "sync started"]
    assert set(kinds) == {"BitmapSync"}, "no full sync"
    assert run.world.places.taps_of(run.layout.vm_ids["app-001"])[0].pulled.writes < 2 * 20 * 1800


@pytest.mark.parametrize("kind", ["test", "clone"])
def test_a_test_and_a_clone_leave_protection_alone(kind: str) -> None:
    """P13, P14: what is journaled and listed is what it would be without."""
    what = op("test", lasts="5 min") if kind == "test" else op("clone")
    run, shadow = simulate(model(what)), simulate(model())
    assert run.journal_digest() == shadow.journal_digest()
    assert list(run.record("crm").taken) == list(shadow.record("crm").taken)
    assert list(run.record("crm").listed) == pytest.approx(list(shadow.record("crm").listed), abs=SECOND)
    assert run.record("crm").statuses == shadow.record("crm").statuses
    assert run.world.acknowledged("crm") == shadow.world.acknowledged("crm")


def test_a_test_is_written_on_its_checkpoint_and_leaves_nothing() -> None:
    run = simulate(model(op("test", lasts="5 min", note="all well")))
    operation = done(run)
    assert operation.report is not None
    assert run.record("crm").tags == {operation.report.checkpoint: "tested: all well"}
    assert not run.world.recoveries.platforms.made
    assert all(used == [0, 0] for used in run.world.recoveries.platforms.used.values())
    assert not run.world.kernel.machines[run.layout.vpg_of["crm"].catalog].pins  # type: ignore[attr-defined]


def test_the_platforms_quota_makes_vms_wait() -> None:
    """Ten at a time on AWS: 25 VMs need three rounds."""
    journal = {"journal": {"hard_limit": "unlimited"}}
    one, all_ = (
        played(
            op("failover", instant=True),
            vms=n,
            vpg=journal,
            leeds={"platform": "aws", "hypervisor": {"concurrent": 99}},
        )
        for n in (1, 25)
    )
    assert one.report is not None
    assert all_.report is not None
    assert rto_parts(all_.report)["create"] == 3 * rto_parts(one.report)["create"]


def test_a_host_does_so_many_things_at_a_time() -> None:
    report = played(op("failover", instant=True), vms=8, leeds={"hypervisor": {"concurrent": 2}}).report
    assert report is not None
    assert rto_parts(report)["create"] == 4 * 15 * SECOND


def test_durations_with_a_spread_differ_from_seed_to_seed_and_not_from_run_to_run() -> None:
    spec = model(op("failover"), leeds={"hypervisor": {"spread": 0.5}})
    ends = [done(simulate(spec, seed=seed)).report for seed in (1, 1, 2)]
    services = [report.service for report in ends if report is not None]
    assert services[0] == services[1] != services[2]


def test_what_fails_is_undone_or_left_out() -> None:
    for on_failure, outcome in (("stop", Outcome.FAILED), ("go on", Outcome.COMMITTED)):
        run = simulate(model(op("failover", on_failure=on_failure), vms=8, leeds={"hypervisor": {"fails": 0.15}}))
        operation = done(run)
        assert operation.report is not None
        assert operation.report.outcome is outcome
        if outcome is Outcome.FAILED:
            assert run.record("crm").statuses[-1][1] == "MeetingSLA"
            assert not run.world.recoveries.platforms.made
        else:
            assert 0 < len(operation.report.left_out) < 8


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "memory": (op("failover"), {"vm": {"memory": "400 GiB"}}, "lacks 288.0 GiB of memory"),
    "network": (op("failover"), {"vm": VM}, "network lan of app-001 is not at the recovery site"),
    "tools": (op("failover", shutdown="graceful"), {"vm": {"tools": False}}, "no guest tools"),
    "tag": (op("failover", checkpoint="latest tagged"), {}, "not listed any more, or never was"),
    "wait": (op("failover", wait="10 s"), {}, "300 s to 86400 s"),
    "move without a source": (
        op("move"), {"faults": ({"kind": "site-loss", "site": "london", "at": "9 min"},)}, "a move needs both sites",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_touched(case: str) -> None:
    what, more, words = REFUSED[case]
    operation = played(what, **more)
    assert operation.report is not None
    assert operation.report.outcome is Outcome.REFUSED
    assert any(words in reason for reason in operation.report.reasons)
    assert len(operation.report.steps) == 1


@pytest.mark.parametrize(
    ("second", "words"),
    [("11 min", "another operation is under way on VPG crm (BeforeCommit)"), ("25 min", "recovered already")],
)
def test_a_second_operation_on_a_vpg_is_refused(second: str, words: str) -> None:
    run = simulate(model(op("failover", wait="10 min"), {**op("failover"), "at": second}))
    first, other = run.world.recoveries.operations
    assert first.report is not None
    assert first.report.outcome is Outcome.COMMITTED
    assert other.report is not None
    assert other.report.outcome is Outcome.REFUSED
    assert words in other.report.reasons[0]


def test_a_failover_is_allowed_while_a_test_runs_and_another_test_is_not() -> None:
    test, failover = op("test", lasts="10 min"), {**op("failover"), "at": "15 min"}
    run = simulate(model(test, {**test, "at": "14 min"}, failover))
    outcomes = [each.report.outcome for each in run.world.recoveries.operations if each.report is not None]
    assert outcomes == [Outcome.DONE, Outcome.REFUSED, Outcome.COMMITTED]


# -- fences, phases, sites that do not see each other -----------------------------------------------------------------

APART = {"kind": "link-down", "link": "wan", "at": "9 min", "lasts": "11 min"}


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_source_that_is_back_from_the_dead_is_refused(fidelity: str) -> None:
    """P16, B39: the link is cut, the source runs on and is not told; what it sends later is not taken."""
    made = model(op("failover", detect="1 min"), faults=(APART,)).model_dump()
    run = simulate(Model.model_validate({**made, "run": {**made["run"], "fidelity": fidelity}}))
    operation = done(run)
    assert operation.report is not None
    assert operation.report.outcome is Outcome.COMMITTED
    assert not operation.told
    fenced = next(now for now, _, kind, _ in run.recorder.events if kind == "generation")
    assert operation.lost is not None
    assert operation.taken is not None
    assert operation.lost.writes == pytest.approx(40 * (fenced - operation.taken) / SECOND, rel=0.01)
    assert operation.late.writes == pytest.approx(40 * (run.end - fenced) / SECOND, rel=0.01)
    assert max(run.record("crm").listed) < 9.5 * 60 * SECOND
    assert run.world.sender(next(iter(run.layout.streams))).fenced, "it has heard of it"


def test_statuses_follow_the_operation() -> None:
    run = simulate(model(op("failover", wait="5 min"), until="20 min"))
    statuses = [label for _, label in run.record("crm").statuses if label != "Initializing"]
    assert statuses == [
        "MeetingSLA", "FailingOver / BeforeCommit", "FailingOver / Committing", "FailingOver / Promoting", "Recovered",
    ]  # fmt: skip
    run = simulate(model(op("move", verdict="rollback", commit="none", after="1 min"), until="20 min"))
    statuses = [label for _, label in run.record("crm").statuses]
    assert statuses[1:3] == ["Moving / BeforeCommit", "Moving / RollingBack"]
    assert statuses[-1] == "MeetingSLA"


@pytest.mark.parametrize(("lasts", "outcome"), [("5 min", Outcome.COMMITTED), ("2 h", Outcome.FAILED)])
def test_a_move_whose_link_is_lost_waits_or_is_undone_and_loses_nothing(lasts: str, outcome: Outcome) -> None:
    """P7: either everything was brought over, or the source's VMs run again when the sites see each other."""
    cut = {"kind": "link-down", "link": "wan", "at": "10 min 20 s", "lasts": lasts}
    run = simulate(model(op("move"), faults=(cut,), until="3 h"))
    operation = done(run)
    assert operation.report is not None
    assert operation.report.outcome is outcome
    assert not operation.report.people
    if outcome is Outcome.COMMITTED:
        assert operation.lost is not None
        assert operation.lost.writes == 0
    else:
        assert "not everything was brought over in 3600 s" in operation.report.reasons[0]
        assert operation.report.ended > (10 * 60 + 20 + 7200) * SECOND, "they could not be told earlier"
        assert run.record("crm").statuses[-1][1] == "MeetingSLA"
        assert run.end - run.record("crm").listed[-1] < 6 * SECOND


def test_a_failover_without_a_link_cannot_ask_the_source() -> None:
    operation = played(op("failover", shutdown="graceful"), faults=(APART,))
    assert operation.report is not None
    assert operation.report.outcome is Outcome.REFUSED
    assert "use the shutdown policy none" in operation.report.reasons[0]


# -- scripts and restores ---------------------------------------------------------------------------------------------

SCRIPT = {"command": "warm up", "takes": "40 s"}


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        ({}, Outcome.COMMITTED, ""),
        ({"fails": True}, Outcome.FAILED, "warm up has failed"),
        ({"takes": "10 min"}, Outcome.FAILED, "ran for longer than 300 s"),
    ],
)
@pytest.mark.parametrize("when", ["pre", "post"])
def test_scripts_run_before_and_after_and_may_fail(
    when: str, script: dict[str, Any], outcome: Outcome, words: str
) -> None:
    run = simulate(model(op("failover", **{when: {**SCRIPT, **script}}), until="40 min"))
    operation = done(run)
    report = operation.report
    assert report is not None
    assert report.outcome is outcome
    assert words in "".join(report.reasons)
    if outcome is Outcome.COMMITTED:
        assert rto_parts(report).get("scripts", 0) == (40 * SECOND if when == "pre" else 0), "after service, not before"
    else:
        assert run.record("crm").statuses[-1][1] == "MeetingSLA"
        assert not run.world.recoveries.platforms.made


@pytest.mark.parametrize(("writes", "full"), [("400 Mbit/s", True), ("1 Mbit/s", False)])
def test_a_full_scratch_stops_the_tests_writes_and_not_protection(writes: str, full: bool) -> None:
    """T15: 8 GiB at 400 Mbit/s are full after 172 s of a test of 5 min."""
    made = model(op("test", lasts="5 min", writes=writes)).model_dump()
    made["vpgs"]["crm"]["journal"]["scratch"] = "8 GiB"
    run = simulate(Model.model_validate(made))
    operation = done(run)
    assert operation.report is not None
    if full:
        assert operation.full is not None
        running = max(each.ended or 0 for each in operation.report.steps if str(each.action).startswith("wait for"))
        assert operation.full - running == pytest.approx(8 * 2**30 * 8 / 4e8 * SECOND, rel=1e-6)
        assert "scratch was full" in answer(figures(operation))
    else:
        assert operation.full is None
    assert run.record("crm").statuses == simulate(model()).record("crm").statuses


def test_a_volume_is_restored_beside_the_others_and_protection_goes_on() -> None:
    what = op("restore", vm="app-001", volume="log", checkpoint="5 min")
    run, shadow = simulate(model(what)), simulate(model())
    report = done(run).report
    assert report is not None
    assert report.outcome is Outcome.DONE
    assert report.ended > report.begun
    assert run.journal_digest() == shadow.journal_digest()
    assert run.record("crm").statuses == shadow.record("crm").statuses
    assert not run.world.kernel.machines[run.layout.vpg_of["crm"].catalog].pins  # type: ignore[attr-defined]


def test_a_volume_that_does_not_fit_is_refused() -> None:
    made = model(op("restore", vm="app-001", volume="log")).model_dump()
    made["datastores"]["san-2"]["capacity"] = 50 * MIB
    report = done(simulate(Model.model_validate(made))).report
    assert report is not None
    assert report.outcome is Outcome.REFUSED
    assert "the recovery datastore lacks" in report.reasons[0]


@pytest.mark.parametrize(("what", "words"), [({"vm": "apq-001"}, "apq-001"), ({"volume": "lo"}, "no volume 'lo'")])
def test_what_is_restored_must_be_there(what: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(op("restore", **{"vm": "app-001", "volume": "log", **what}))


# -- disasters within disasters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_failure", "outcome"), [("stop", Outcome.FAILED), ("go on", Outcome.COMMITTED)])
def test_a_recovery_host_that_is_lost_takes_its_vms_out_of_a_failover(on_failure: str, outcome: Outcome) -> None:
    lost = {"kind": "host-loss", "host": "leeds-2", "at": "10 min 30 s", "lasts": "30 min"}
    made = {**model(op("failover", on_failure=on_failure), vms=4).model_dump(), "faults": [lost]}
    made["hosts"]["leeds-2"] = made["hosts"]["leeds-1"]
    made["vpgs"]["crm"]["recovery"]["hosts"] = ["leeds-1", "leeds-2"]
    run = simulate(Model.model_validate(made))
    report = done(run).report
    assert report is not None
    assert report.outcome is outcome
    if outcome is Outcome.FAILED:
        assert "host leeds-2 is lost" in report.reasons[0]
        assert not run.world.recoveries.platforms.made
        assert not report.people
    else:
        assert len(report.left_out) == 2
        assert len(report.vms) == 2


def test_a_recovery_site_that_is_lost_ends_nothing_well_and_disturbs_no_guest() -> None:
    lost = {"kind": "site-loss", "site": "leeds", "at": "10 min 30 s"}
    run = simulate(model(op("failover"), faults=(lost,)))
    (operation,) = run.world.recoveries.operations
    assert operation.report is None, "who would carry it out is gone"
    assert run.world.acknowledged("crm").writes == pytest.approx(2 * 20 * 1800, rel=0.01)
