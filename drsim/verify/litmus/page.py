"""Page: all litmus tests, and the page of the guides that shows them: what may be, what never, why, how many runs."""

from textwrap import dedent

from drsim.verify.litmus.interleave import Litmus, Seen
from drsim.verify.litmus.order import ACROSS, ORDER
from drsim.verify.litmus.trouble import FAULTS, RETENTION, SYNC

GROUPS = {
    "Order within a VM": ORDER,
    "Several VMs": ACROSS,
    "Synchronization": SYNC,
    "Faults": FAULTS,
    "Retention": RETENTION,
}
BAGS = ("hold", "held", "data", "acks", "seal", "tell", "await", "reach", "store", "mirror", "disk", "list", "flush",
        "holds")  # fmt: skip
LITMUS_TESTS = tuple(test for tests in GROUPS.values() for test in tests)
INTRODUCTION = """\
# Litmus tests: what a checkpoint promises

Two or three writes, somebody who asks for a checkpoint, perhaps a fault: and what the checkpoint may hold then. Each of
these tests is run on the real core, in every order in which its steps happen, messages arrive, effects finish and
timers run out, as far as they matter to it (each test names them; the rest is done at once). Every outcome that is
allowed was reached, none that is forbidden ever was, and the oracle, which knows nothing of the core, agrees about
which of them are consistent cuts.

How to read the pictures: time runs to the right, each line is a VM, a VRA or the VPG.

| sign | means |
| --- | --- |
| `(a)` | write a: issued at `(`, its guest is told that it is done at `)` |
| `\\|` | the manager asks for a checkpoint; `..\\|..` at any time in the dotted span |
| `[ ]` | the VRA withholds acknowledgements from its guests |
| `~~~>` | a frame on its way to the recovery site |
| `x` | a connection is lost, or a machine dies |

`{a, b}`: the recovered disks hold writes a and b, as far as no later one in them lies above. `½b`: they hold a part
of b. `none`: no such checkpoint is listed. Orders that differ only in steps that have nothing to do with each other
count once.

| in every order of | that is |
| --- | --- |
| steps | what guests, manager and faults do, as in the picture |
| hold, held | messages between the manager and the protected VRAs |
| data, acks | frames and what else goes to the recovery VRAs, and what comes back |
| seal, tell | messages between the manager and the catalogue |
| await, reach | messages between the catalogue and the recovery VRAs |
| store, mirror, disk, list | appends, aging, reads of a sync, and the durable list of checkpoints |
| flush, holds | timers: a frame has waited long enough, a hold has lasted too long |

This page is made by the tests (`pytest tests/verify/test_litmus.py --rewrite-golden`).
"""


def section(test: Litmus, seen: Seen) -> str:
    """One test, with how many runs it took."""
    never = []
    if test.forbidden:
        never.append(f"{_list(test.forbidden)}: no consistent cut")
    if test.broken:
        never.append(f"{_list(test.broken)}: not what was promised")
    runs = f"all {seen.runs}" if seen.exhaustive else f"the first {seen.runs}, not all,"
    free = ", ".join(["steps", *(bag for bag in BAGS if bag in test.free)])
    lines = [
        f"### {test.name[0].upper()}{test.name[1:]}", "", "```text", dedent(test.picture).strip("\n").rstrip(), "```",
        "", test.why, "", f"- may: {_list(test.allowed)}",
        *(f"- never: {each}" for each in never), f"- run: in {runs} orders of {free}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _list(outcomes: tuple[str, ...]) -> str:
    return ", ".join(f"`{outcome}`" for outcome in outcomes)


def page(seen: dict[str, Seen]) -> str:
    """The whole page; `seen` by the tests' names."""
    parts = [INTRODUCTION]
    for title, tests in GROUPS.items():
        parts += [f"## {title}\n", *(section(test, seen[test.name]) for test in tests)]
    return "\n".join(parts)
