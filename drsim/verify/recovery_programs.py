"""Recovery programs: bytes that say which operation is rehearsed, and what goes wrong at which point.

    0 operation   1 VMs and boot groups   2 shutdown and commit policies   3 options
    4 what an operator decides   5 when   6 at which effect the manager dies   7 how   8 a second time   9 how
    10 which step fails, by its turn   11 how   12 order, and the source's state   13 another step   14 how
    15 a kind of action that the platform never does

Zeros are a failover test of one VM in which nothing goes wrong.
"""

import random

from drsim.core.events import Decided, Verdict
from drsim.core.names import CheckpointId, VmId, VolumeId
from drsim.core.recovery.plan import Commit, Kind, Nic, OnFailure, Plan, PlannedVm, Script, Shutdown
from drsim.core.units import SECOND, Ns
from drsim.verify.platform import Platform
from drsim.verify.rehearsal import PHASES, Rehearsal

LENGTH = 16
REFUSED: tuple[tuple[str, ...], ...] = (
    (), (), (), (), ("PowerOff", "DeleteVm"), ("DropScratch",), ("ShutDown",), ("PowerOnSource",), ("Fence",),
    ("Unfence",), ("ReIp",), ("AwaitGuest",), ("Promote",), ("CommitRecovery",), ("Unpin",),
    ("Reverse", "DeleteSource"),
)  # fmt: skip
"""Kinds of actions that fail together."""
KINDS = (Kind.TEST, Kind.LIVE, Kind.MOVE, Kind.CLONE, Kind.RESTORE, Kind.LIVE, Kind.MOVE, Kind.LIVE)
VERDICTS = (None, Verdict.COMMIT, Verdict.ROLL_BACK, Verdict.CANCEL)


def random_recovery(seed: int) -> bytes:
    """The program of a seed."""
    return random.Random(seed).randbytes(LENGTH)


def plan_of(program: bytes) -> Plan:
    """The plan of a program."""
    kind, count, options = KINDS[program[0] % len(KINDS)], 1 + program[1] % 3, program[3]
    network = "test" if kind is Kind.TEST else "lan"
    vms = tuple(
        PlannedVm(
            VmId(n), f"app-{n}{'-clone' if kind is Kind.CLONE else ''}", "r1", (VolumeId(2 * n), VolumeId(2 * n + 1)),
            group=n if program[1] // 4 % 2 else 0, nics=(Nic(network),),
        )
        for n in range(count)
    )  # fmt: skip
    groups = len({vm.group for vm in vms})
    commit = (Commit.NONE, Commit.COMMIT, Commit.ROLL_BACK)[program[2] // 3 % 3]
    return Plan(
        kind, "crm", () if kind is Kind.RESTORE else vms,
        CheckpointId(2) if options & 1 and kind is not Kind.MOVE else None,
        (Shutdown.NONE, Shutdown.GRACEFUL, Shutdown.FORCE)[program[2] % 3], commit,
        Ns(0) if options & 2 and commit is Commit.COMMIT else Ns(600 * SECOND),
        (Ns(30 * SECOND),) * (groups - 1) if options & 4 else (), OnFailure.GO_ON if options & 8 else OnFailure.STOP,
        bool(options & 16), bool(options & 32), bool(options & 64 and not options & 32),
        Script("before") if options & 128 else None, Script("after") if options & 128 else None,
        VolumeId(1) if kind is Kind.RESTORE else None, bool(program[1] % 2),
    )  # fmt: skip


def rehearsal_of(program: bytes) -> Rehearsal:
    """The rehearsal of a program."""
    plan = plan_of(program)
    platform = Platform.of(max(1, len(plan.vms)))
    platform.reachable = not (program[12] // 2 % 8 == 7 and plan.kind is Kind.LIVE)
    for vm in platform.source.values():
        vm.tools = program[12] // 16 % 4 != 3
    for at, how in ((program[10], program[11]), (program[13], program[14])):
        if at:
            platform.broken_turns[at % 40] = "after" if how % 2 else "before"
    platform.refused = REFUSED[program[15] % len(REFUSED)]
    verdict = VERDICTS[program[4] % 4]
    rehearsal = Rehearsal(plan, platform, last_first=bool(program[12] % 2))
    if verdict is Verdict.CANCEL:
        rehearsal.wish = program[5] % 40, Decided(verdict)
    elif verdict is not None and program[5] % 2:
        rehearsal.verdict = Decided(verdict)
    elif verdict is not None:
        rehearsal.wish = program[5] // 2 % 40, Decided(verdict)
    if plan.commit is Commit.NONE and rehearsal.verdict is None:
        rehearsal.verdict = Decided(Verdict.ROLL_BACK if program[4] // 4 % 2 else Verdict.COMMIT)
    for at, how in ((program[6], program[7]), (program[8], program[9])):
        if at:
            rehearsal.crashes[at % 40] = PHASES[how % len(PHASES)]
    return rehearsal
