"""Table: what each platform can do, and what that was proved against, as a page of the documentation (Markdown)."""

from collections.abc import Sequence
from inspect import getmembers, isfunction

from drsim.real import ports
from drsim.verify.conformance.bench import Arm, Label
from drsim.verify.conformance.checks import CHECKS, NEEDS
from drsim.verify.conformance.operations import OPERATIONS

PORTS = {
    "inventory": ports.Inventory, "hypervisor": ports.Hypervisor, "disks": ports.Disks, "locator": ports.DiskLocator,
    "changes": ports.ChangeSource, "objects": ports.ObjectStore,
}  # fmt: skip
"""The ports, by their name in `Platform`."""
_HEAD = """# Platforms: what each can do, and against what that was proved

Made from the conformance suite (`tests/platforms`, `--rewrite-golden` writes it anew). One suite, the same for every
platform: each promise of `drsim/real/ports.py`, and the core's recovery operations carried out through them, with
answers lost, managers killed and every step failing.

- **real**: ran against the real thing on this kind of machine
- **simulator by others**: vcsim of the govmomi project, moto
- **our fake behind a real client**: the client and its protocol are others', the platform's behaviour is ours
- **model**: nothing but the promises themselves
- **never run**: written from the manual, and run against nothing
"""


def page(arms: Sequence[Arm]) -> str:
    """The whole page."""
    return "\n".join([_HEAD, "## Calls", "", *_calls(arms), "", "## Checks", "", *_checks(arms), "", *_reasons(arms)])


def calls() -> list[str]:
    """All calls of all ports, as `port.method`."""
    return [
        f"{name}.{method}"
        for name, port in PORTS.items()
        for method, _ in sorted(getmembers(port, isfunction), key=lambda each: each[1].__code__.co_firstlineno)
        if not method.startswith("_")
    ]


def label(arm: Arm, call: str) -> Label | None:
    """What a call was proved against; None where a platform has no such port."""
    port = call.partition(".")[0]
    if port in arm.lacks:
        return None
    return arm.labels.get(call, arm.labels.get(port, arm.label))


def _calls(arms: Sequence[Arm]) -> list[str]:
    rows = [[call, *("-" if (it := label(arm, call)) is None else it.value for arm in arms)] for call in calls()]
    return _table(["call", *(arm.name for arm in arms)], rows)


def _checks(arms: Sequence[Arm]) -> list[str]:
    notes = _notes(arms)
    rows = []
    for name, work in {**CHECKS, **OPERATIONS}.items():
        said = (work.__doc__ or "").strip().splitlines()[0]
        cells = [_cell(arm, name, notes) for arm in arms]
        rows.append([f"{name.replace('_', ' ')}: {said}", *cells])
    return _table(["check", *(arm.name for arm in arms)], rows)


def _cell(arm: Arm, name: str, notes: dict[str, int]) -> str:
    if name in arm.cannot:
        return f"no ({notes[arm.cannot[name]]})"
    return "-" if NEEDS.get(name) in arm.lacks else "yes"


def _notes(arms: Sequence[Arm]) -> dict[str, int]:
    """Reasons, numbered in the order in which the table meets them."""
    found: dict[str, int] = {}
    for name in (*CHECKS, *OPERATIONS):
        for arm in arms:
            if name in arm.cannot:
                found.setdefault(arm.cannot[name], len(found) + 1)
    return found


def _reasons(arms: Sequence[Arm]) -> list[str]:
    return [f"{number}. {reason}" for reason, number in _notes(arms).items()] + [""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join([' --- '] * len(head))}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
