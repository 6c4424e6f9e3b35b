"""Checks of recovery operations: P7, P13 to P16, P20 and P25, on the platform in memory.

Each says what it does not compare. What the source writes meanwhile is time going by, and compared with nothing but
what is recovered.
"""

from typing import Any

from drsim.core.names import VmId
from drsim.core.recovery.plan import Kind, PlannedVm
from drsim.core.recovery.report import Outcome, Report
from drsim.verify.platform import Platform, content
from drsim.verify.violation import Violation

UNDONE = (Outcome.REFUSED, Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.CANCELLED)


def check_now(platform: Platform) -> None:
    """P16: at any time at most one side has guest writes of a generation acknowledged, and none runs that is outdated.

    What a source that is fenced acknowledges to itself is lost, and not compared.
    """
    for generation, sides in platform.acknowledged.items():
        if len(sides) > 1:
            said = f"both sides have guest writes of generation {generation} acknowledged"
            raise Violation("P16", said)
    serving = [name for name, target in platform.targets.items() if target.running and target.generation]
    if serving and platform.replicates:
        raise Violation("P16", f"the source may write again, and {', '.join(serving)} runs in its place")


def check_end(report: Report, platform: Platform, before: dict[str, Any]) -> None:
    """Everything that must hold when an operation is over."""
    check_atomic(report, platform, before)
    check_left_behind(report, platform)
    check_order(report, platform)
    if report.plan.kind is Kind.MOVE and report.outcome is Outcome.COMMITTED:
        check_lossless(report, platform)
    if report.plan.kind in (Kind.TEST, Kind.CLONE):
        check_undisturbed(report, platform, before)


def check_atomic(report: Report, platform: Platform, before: dict[str, Any]) -> None:
    """P15: all of it, or nothing. Undone means that every digest is what it was; not what people were told failed."""
    if report.outcome in UNDONE:
        after = platform.digest()
        for part, was in before.items():
            if after[part] != was and not _left_to_people(report, part):
                raise Violation("P15", f"{report.outcome}, and {part} is {after[part]} and was {was}")
        return
    if report.plan.kind in (Kind.LIVE, Kind.MOVE):
        up = [vm for vm in report.plan.vms if vm.name in report.vms]
        if platform.committed != tuple(vm.vm for vm in up):
            raise Violation("P15", f"{platform.committed} are committed, and {report.vms} reported")
        for vm in up:
            target = platform.targets.get(vm.name)
            if target is None or not (target.running and target.attached):
                raise Violation("P15", f"{vm.name} is committed and does not run")
            promoted = target.disks.startswith(content(vm.vm, platform.checkpoints[_cut(report)][vm.vm]))
            if not promoted and not any(f"promote {vm.name} failed" in text for text in report.people):
                raise Violation("P15", f"{vm.name} is committed and not promoted")
        if platform.replicates:
            raise Violation("P16", "the source goes on replicating after a commit")


def _cut(report: Report) -> Any:
    return report.checkpoint


def _left_to_people(report: Report, part: str) -> bool:
    """What could not be undone was said."""
    return any(text.startswith("could not be undone") for text in report.people)


def check_left_behind(report: Report, platform: Platform) -> None:
    """P20: no pin, scratch, copy, VM or disk kept aside that nobody has. Not what people were told of."""
    said = any(text.startswith("could not be undone") or " failed: " in text for text in report.people)
    if said:
        return
    kept = set(report.vms) if report.outcome not in UNDONE and report.plan.kind is not Kind.TEST else set()
    if platform.pins:
        raise Violation("P20", f"checkpoints {sorted(platform.pins)} are pinned for ever")
    if platform.scratch:
        raise Violation("P20", f"scratch disks of {sorted(platform.scratch)} are left")
    if set(platform.targets) != kept:
        raise Violation("P20", f"VMs {sorted(set(platform.targets) ^ kept)} are left, or missing")
    if not set(platform.copies) <= kept:
        raise Violation("P20", f"copied disks {sorted(platform.copies)} are left")
    if platform.aside:
        raise Violation("P20", f"what volumes {sorted(platform.aside)} held before is kept for ever")


def check_order(report: Report, platform: Platform) -> None:
    """P25: a boot group starts when all before it answer; addresses are set at most once. Not how long it took."""
    group = {vm.name: vm.group for vm in report.plan.vms}
    answered: set[str] = set()
    for what, name in platform.log:
        if what == "answers":
            answered.add(name)
        elif what == "power on":
            early = [n for n, g in group.items() if g < group[name] and n not in answered and n not in report.left_out]
            if early:
                raise Violation("P25", f"{name} starts before {', '.join(early)} answers")
    for name, target in platform.targets.items():
        if target.addressed > 1:
            raise Violation("P25", f"{name} got its addresses {target.addressed} times")


def check_lossless(report: Report, platform: Platform) -> None:
    """P7: what a move recovers is all that the source had acknowledged."""
    for vm in _recovered(report):
        cut = platform.checkpoints[_cut(report)][vm.vm]
        if cut != platform.source[vm.vm].writes:
            lost = platform.source[vm.vm].writes - cut
            raise Violation("P7", f"the move of {vm.name} has lost {lost} writes")


def _recovered(report: Report) -> list[PlannedVm]:
    return [vm for vm in report.plan.vms if vm.name in report.vms]


def check_undisturbed(report: Report, platform: Platform, before: dict[str, Any]) -> None:
    """P13 and P14: journal, mirror and replication are what they would have been without the operation."""
    name = "P13" if report.plan.kind is Kind.TEST else "P14"
    for part in ("mirror", "checkpoints", "replicates", "source"):
        if platform.digest()[part] != before[part]:
            raise Violation(name, f"{part} is {platform.digest()[part]} and was {before[part]}")
    for vm, source in platform.source.items():
        behind = source.writes - platform.replicated[VmId(vm)]
        if behind != 1:  # as it was in the beginning
            raise Violation(name, f"replication of VM {vm} is {behind} writes behind")
    for clone in _recovered(report) if name == "P14" else ():
        copied = platform.copies[clone.name]
        if copied != content(clone.vm, platform.checkpoints[_cut(report)][clone.vm]):
            raise Violation(name, f"the clone {clone.name} holds {copied}")
