"""RTO: the time to service as the sum of its parts, along the critical path of an operation's steps.

A step begins when what it waits for is over, so the path is found backwards: from the moment of service to the step
that ended then, to its begin, to the step that ended there, and so on. Between two steps nothing happens but what the
plan itself waits for: boot delays, an operator's decision.

Closed form 9: with constant durations, RTO = detect + decide + shut down + create + attach + promote + re-IP
+ boot groups + health, exactly. All times in nanoseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from drsim.core.recovery import actions as do
from drsim.core.recovery.report import Report
from drsim.core.units import Ns
from drsim.core.workflow import Record

PARTS: Mapping[type, str] = MappingProxyType(
    {
        do.ShutDown: "shut down the source", do.Drain: "drain", do.Fence: "fence", do.RunScript: "scripts",
        do.CreateVm: "create", do.CreateScratch: "disks", do.AttachDisks: "attach", do.Promote: "promote",
        do.CopyDisks: "copy", do.RestoreVolume: "restore", do.ReIp: "re-IP", do.PowerOn: "boot", do.AwaitGuest: "boot",
    }
)  # fmt: skip
OTHER, WAITS = "checks", "delays"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the critical path: from `begun` to `ended`, in `step`, or waiting when that is None."""

    name: str
    begun: Ns
    ended: Ns
    step: Record | None


def critical_path(report: Report) -> tuple[Part, ...]:
    """From the begin of the operation until its last VM answered (or its end), without a gap."""
    parts: list[Part] = []
    at = report.ended if report.service is None else report.service
    steps = [record for record in report.steps if record.ended is not None and record.ended > record.begun]
    while at > report.begun:
        here = [record for record in steps if record.ended == at]
        if here:
            step = max(here, key=lambda record: record.begun)
            parts.append(Part(PARTS.get(type(step.action), OTHER), step.begun, at, step))
            at = step.begun
        else:
            before = max([r.ended for r in steps if r.ended is not None and r.ended < at], default=report.begun)
            before = Ns(max(before, report.begun))
            parts.append(Part(WAITS, before, at, None))
            at = before
    return tuple(reversed(parts))


def rto_parts(report: Report, *, detect: int = 0, decide: int = 0) -> dict[str, int]:
    """How much each part adds to the time to service, in nanoseconds, in the order in which they come."""
    found = {"detect": detect, "decide": decide}
    for part in critical_path(report):
        found[part.name] = found.get(part.name, 0) + part.ended - part.begun
    return {name: ns for name, ns in found.items() if ns}
