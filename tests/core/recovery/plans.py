"""Plans for tests: two VMs of two volumes each, in two boot groups."""

from dataclasses import replace

from drsim.core.events import Decided, Verdict
from drsim.core.names import VmId, VolumeId
from drsim.core.recovery.plan import Commit, Kind, Nic, OnFailure, Plan, PlannedVm, Script, Shutdown
from drsim.core.units import SECOND, Ns

VMS = tuple(
    PlannedVm(
        VmId(n), f"app-{n}", "r1", (VolumeId(2 * n), VolumeId(2 * n + 1)), group=n,
        nics=(Nic("lan", f"10.0.0.{n + 1}", "24", "10.0.0.254"),),
    )
    for n in range(2)
)  # fmt: skip
TEST_VMS = tuple(replace(vm, nics=(Nic("test"),)) for vm in VMS)
LIVE = Plan(Kind.LIVE, "crm", VMS, delays=(Ns(30 * SECOND),), pre=Script("before"), post=Script("after"))
MOVE = replace(LIVE, kind=Kind.MOVE)
COMMIT, ROLL_BACK = Decided(Verdict.COMMIT, "fine"), Decided(Verdict.ROLL_BACK)

CASES: dict[str, tuple[Plan, Decided | None]] = {
    "test": (replace(LIVE, kind=Kind.TEST, vms=TEST_VMS), COMMIT),
    "test that ends by itself": (replace(LIVE, kind=Kind.TEST, vms=TEST_VMS, commit=Commit.COMMIT), None),
    "live, committed": (LIVE, COMMIT),
    "live, rolled back": (replace(LIVE, shutdown=Shutdown.FORCE), ROLL_BACK),
    "live, committed by policy": (replace(LIVE, commit=Commit.COMMIT, shutdown=Shutdown.GRACEFUL, reverse=True), None),
    "live, rolled back by policy": (replace(LIVE, commit=Commit.ROLL_BACK), None),
    "live, at once, what fails is left out": (
        replace(LIVE, commit=Commit.COMMIT, wait=Ns(0), on_failure=OnFailure.GO_ON, instant=True), None,
    ),
    "live, one VM of two": (replace(LIVE, vms=VMS[1:], delays=()), COMMIT),
    "move, committed": (replace(MOVE, commit=Commit.COMMIT), None),
    "move, reversed": (replace(MOVE, reverse=True, shutdown=Shutdown.FORCE), COMMIT),
    "move, source kept": (replace(MOVE, keep_source=True), COMMIT),
    "move, rolled back": (MOVE, ROLL_BACK),
    "clone": (Plan(Kind.CLONE, "crm", VMS), None),
    "clone, what fails is left out": (Plan(Kind.CLONE, "crm", VMS, on_failure=OnFailure.GO_ON), None),
    "restore beside": (Plan(Kind.RESTORE, "crm", (), volume=VolumeId(1)), None),
    "restore in place": (Plan(Kind.RESTORE, "crm", (), volume=VolumeId(1), in_place=True), COMMIT),
    "restore to be looked into": (Plan(Kind.RESTORE, "crm", (), volume=VolumeId(1), export=True), COMMIT),
    "restore in place, taken back": (Plan(Kind.RESTORE, "crm", (), volume=VolumeId(1), in_place=True), ROLL_BACK),
}  # fmt: skip
