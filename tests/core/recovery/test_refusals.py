"""What cannot be is refused before anything is touched: all reasons at once, each with what to do."""

from dataclasses import replace
from typing import Any

import pytest
from core.recovery.plans import LIVE, MOVE, TEST_VMS, VMS

from drsim.core.names import CheckpointId, VmId, VolumeId
from drsim.core.recovery.facts import Facts, Trial, refusals
from drsim.core.recovery.plan import Commit, Kind, Nic, Plan, Shutdown
from drsim.core.recovery.report import Outcome
from drsim.core.status import Lifecycle, Peer, Phase, Regions
from drsim.core.units import SECOND, Ns
from drsim.verify.platform import Platform
from drsim.verify.rehearsal import Rehearsal

GOOD = Facts(
    Regions(), (CheckpointId(1), CheckpointId(2)), 1, frozenset({VmId(0), VmId(1)}),
    tools=frozenset({VmId(0), VmId(1)}), memory={"r1": 64 << 30}, cpus={"r1": 16}, networks=frozenset({"lan", "test"}),
)  # fmt: skip
BEFORE_COMMIT = Regions(lifecycle=Lifecycle.FAILING_OVER, phase=Phase.BEFORE_COMMIT)
TESTING = replace(LIVE, kind=Kind.TEST, vms=TEST_VMS)


def with_nic(**what: Any) -> Plan:
    return replace(LIVE, vms=(replace(VMS[0], nics=(replace(Nic("lan", "10.0.0.1", "24"), **what),)),), delays=())


CASES: dict[str, tuple[Plan, Facts, str]] = {
    "deleting": (LIVE, replace(GOOD, regions=Regions(lifecycle=Lifecycle.DELETING)), "is being deleted"),
    "creating": (LIVE, replace(GOOD, regions=Regions(lifecycle=Lifecycle.CREATING)), "wait for its initial"),
    "before commit": (TESTING, replace(GOOD, regions=BEFORE_COMMIT), "(BeforeCommit); end it"),
    "recovered": (LIVE, replace(GOOD, regions=Regions(lifecycle=Lifecycle.RECOVERED)), "protect what runs now"),
    "test starting": (LIVE, replace(GOOD, test=Trial.STARTING), "is starting; wait"),
    "test stopping": (LIVE, replace(GOOD, test=Trial.STOPPING), "is stopping; wait"),
    "test running": (MOVE, replace(GOOD, test=Trial.RUNNING), "is running; stop it first"),
    "no source": (MOVE, replace(GOOD, source_reachable=False), "use a failover if the source is lost"),
    "no peer": (MOVE, replace(GOOD, regions=Regions(peer=Peer.DISCONNECTED)), "use a failover"),
    "nothing to shut down": (
        replace(LIVE, shutdown=Shutdown.FORCE), replace(GOOD, source_reachable=False), "use the shutdown policy none",
    ),
    "no tools": (replace(LIVE, shutdown=Shutdown.GRACEFUL), replace(GOOD, tools=frozenset()), "use force (T19)"),
    "no checkpoint": (LIVE, replace(GOOD, listed=()), "nothing to recover from"),
    "expired": (replace(LIVE, checkpoint=CheckpointId(9)), GOOD, "choose one of 1 to 2"),
    "not a member": (LIVE, replace(GOOD, members=frozenset({VmId(0)})), "app-1 is not in VPG crm; leave it out"),
    "no VM": (replace(LIVE, vms=(), delays=()), GOOD, "name one at least"),
    "name taken": (LIVE, replace(GOOD, names=frozenset({"app-0"})), "called app-0 exists"),
    "one name for two": (
        replace(LIVE, vms=(VMS[0], replace(VMS[1], name="app-0"))), GOOD, "2 VMs are to be called app-0",
    ),
    "network": (with_nic(network="dmz"), GOOD, "map it to one of: lan, test"),
    "gateway": (with_nic(gateway="10.0.1.254"), GOOD, "outside 10.0.0.0/24"),
    "address": (with_nic(address="10.0.0.300"), GOOD, "an address of app-0 is wrong"),
    "mask": (with_nic(mask="255.0.255.0"), GOOD, "an address of app-0 is wrong"),
    "memory": (LIVE, replace(GOOD, memory={"r1": 7 << 30}), "lacks 1.0 GiB of memory"),
    "CPUs": (LIVE, replace(GOOD, cpus={"r1": 1}), "lacks 1 CPUs"),
    "host": (LIVE, replace(GOOD, memory={}, cpus={}), "recovery host r1 is not there"),
    "datastore": (LIVE, replace(GOOD, free_bytes=1 << 30, needed_bytes=3 << 30), "lacks 2.0 GiB"),
    "wait": (replace(LIVE, commit=Commit.COMMIT, wait=Ns(10 * SECOND)), GOOD, "300 s to 86400 s"),
    "delays": (replace(LIVE, delays=(Ns(1), Ns(2))), GOOD, "2 delays for 2 boot groups"),
    "kept and reversed": (replace(MOVE, keep_source=True, reverse=True), GOOD, "(T27)"),
    "not recovered": (Plan(Kind.REVERSE, "crm", ()), GOOD, "nothing to protect the other way"),
    "old source away": (
        Plan(Kind.REVERSE, "crm", ()),
        replace(GOOD, regions=Regions(lifecycle=Lifecycle.RECOVERED), source_reachable=False), "has to take the data",
    ),
    "in place without the source": (
        Plan(Kind.RESTORE, "crm", (), volume=VolumeId(1), in_place=True), replace(GOOD, source_reachable=False),
        "restore the volume beside",
    ),
    "unfit": (LIVE, replace(GOOD, unfit=("app-0 cannot be recovered on aws: too large; split it",)), "too large"),
    "privilege": (LIVE, replace(GOOD, lacks=("the account at vCenter lacks PowerOn; grant it",)), "lacks PowerOn"),
    "volume": (Plan(Kind.RESTORE, "crm", ()), GOOD, "name the volume"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_says_why_and_what_to_do(case: str) -> None:
    plan, facts, words = CASES[case]
    found = refusals(plan, facts)
    assert any(words in reason for reason in found), found
    assert all("; " in reason or ": " in reason or "to be restored" in reason or "at once" in reason
               or "(T19)" in reason for reason in found)  # fmt: skip


@pytest.mark.parametrize("plan", [LIVE, MOVE, TESTING, Plan(Kind.CLONE, "crm", VMS)])
def test_what_can_be_is_not_refused(plan: Plan) -> None:
    assert refusals(plan, GOOD) == ()


def test_a_failover_is_allowed_while_a_test_runs() -> None:
    assert refusals(LIVE, replace(GOOD, test=Trial.RUNNING)) == ()


def test_a_failover_needs_no_source() -> None:
    assert refusals(LIVE, replace(GOOD, source_reachable=False, tools=frozenset())) == ()


def test_all_reasons_at_once_and_nothing_is_touched() -> None:
    platform = Platform.of(2)
    platform.names, platform.free_memory = {"app-0", "app-1"}, 1
    before = platform.digest()
    rehearsal = Rehearsal(replace(LIVE, checkpoint=CheckpointId(77)), platform)
    report = rehearsal.play()
    assert report.outcome is Outcome.REFUSED
    assert len(report.reasons) == 4
    assert rehearsal.performed == 1
    assert platform.digest() == before


@pytest.mark.parametrize("mask", ["24", "255.255.255.0", None])
def test_a_mask_may_be_said_in_two_ways_and_left_out(mask: str | None) -> None:
    assert str(Nic("lan", "10.0.0.1", mask).subnet) == "10.0.0.0/24"
