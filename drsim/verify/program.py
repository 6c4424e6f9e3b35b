"""Program: a run of the explorer as bytes. Fixed length, so that Hypothesis can choose it and anyone can shrink it.

bytes      what
---------  ---------------------------------------------------
0 .. 5     shape of the estate, and how it begins
6, 7       swarm mask: a bit set takes a class of faults away
8, 9       which VPGs are healed in the end, VMs that may be added
10 ...     three bytes an operation: which, and two to pick with
"""

import random
from collections.abc import Sequence

from drsim.core.kernel import Sink
from drsim.core.messages import Start
from drsim.verify.estate import TIGHT, TINY, Shape
from drsim.verify.explorer import Explorer
from drsim.verify.heal import heal
from drsim.verify.operations import OPERATIONS as STEPS
from drsim.verify.operations import TABLE, Operation, faults

HEAD = 10
OPERATIONS = 120
LENGTH = HEAD + 3 * OPERATIONS
SAMPLE = 3 * 20  # bytes between two looks at the state, the first of which is after the first operation


def weighed(raw: bytes, table: Sequence[int] = TABLE) -> bytes:
    """A program of random bytes: each operation's first byte becomes the code that it picks by weight."""
    program = bytearray(raw)
    for at in range(HEAD, len(raw) - 2, 3):
        program[at] = table[raw[at] * len(table) // 256]
    return bytes(program)


def random_program(seed: int, *, operations: int = OPERATIONS) -> bytes:
    """The program of a seed."""
    return weighed(random.Random(seed).randbytes(HEAD + 3 * operations))


def shape_of(program: bytes) -> Shape:
    """The estate of a program. Zeros are the smallest one on which two VMs on two hosts depend on each other."""
    a, b, c, d, e, f = program[:6]
    return Shape(
        protected=(2, 1, 2, 3)[a % 4], recovery=1 + (a // 4 % 3 == 1), vpgs=1 + (a // 16 % 4 == 1),
        vms=1 + (a // 64 % 2), volumes=((22, 9), (12,), (40, 5))[b % 3], pool=(200, 60, 30, 18)[c % 4],
        recovery_pool=(64, 16)[c // 4 % 2], limit=(None, None, 60, 30)[d % 4], history=(10_000, 60, 20)[e % 3],
        start=(Start.EQUAL, Start.EQUAL, Start.EQUAL, Start.EQUAL, Start.INITIAL, Start.PRESEEDED)[f % 6],
        tweaks=(TINY, TINY, TINY, TIGHT)[f // 6 % 4], spares=program[9] % 4 // 2,
        room=5 * (program[9] // 4 % 2),
    )  # fmt: skip


def run(program: bytes, *, trace: Sink | None = None, explorer: type[Explorer] = Explorer) -> Explorer:
    """Play a program: faults, then healing. Raises Violation when a property does not hold."""
    return follow(explorer(shape_of(program), trace=trace), program)


def follow(x: Explorer, program: bytes, *, ends: bool = True, operations: Sequence[Operation] = STEPS) -> Explorer:
    """Let an estate suffer a program's operations; then, if it `ends`, heal it."""
    mask = program[6] | program[7] << 8
    without = {fault for n, fault in enumerate(faults(operations)) if mask >> n & 1}
    steps = {code: operation.step for code, operation in enumerate(operations) if operation.fault not in without}
    for at in range(HEAD, len(program) - 2, 3):
        step = steps.get(program[at])
        if step is not None:
            step(x, program[at + 1], program[at + 2])
        if at % SAMPLE == HEAD:
            x.note_state()
    x.checks.whole()
    if ends:
        heal(x, program[8])
        x.checks.ordered()
    return x
