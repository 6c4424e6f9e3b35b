"""Epoch programs: what one byte does to a world of epochs (`epochs.py`). Laid out as programs of the explorer are."""

import random
from contextlib import closing

from drsim.core.kernel import Sink
from drsim.verify import operations as common
from drsim.verify.epochs import EpochWorld
from drsim.verify.estate import TIGHT, TINY, Shape
from drsim.verify.explorer import Explorer
from drsim.verify.operations import Operation, codes
from drsim.verify.operators import force, pause
from drsim.verify.program import HEAD, follow, weighed

LENGTH = HEAD + 3 * 120


def _vm_writes(x: Explorer, a: int, b: int) -> None:
    """A VM writes."""
    assert isinstance(x, EpochWorld)
    for n in range(1 + a // 16 % 3):
        vm, seed = x.vms[(a + n) % len(x.vms)], b + 37 * n
        index = seed % len(x.guests[vm].volumes)
        size = x.guests[vm].volumes[index].sectors
        sectors = 1 + seed // 5 % min(6, size)
        x.change(vm, index, seed * 7 % (size - sectors + 1), sectors)


def _epoch(x: Explorer, a: int, b: int) -> None:
    """An epoch is due; it may come far at once."""
    assert isinstance(x, EpochWorld)
    x.begin()
    for _ in range(b % 16):
        x.answer()


def _answers(x: Explorer, a: int, b: int) -> None:
    """The epoch under way goes on."""
    assert isinstance(x, EpochWorld)
    for _ in range(1 + b % 16):
        x.answer()


def _busy(x: Explorer, a: int, b: int) -> None:
    """What the epoch under way asks of the platform fails."""
    assert isinstance(x, EpochWorld)
    x.answer(fail=True)


def _forgets(x: Explorer, a: int, b: int) -> None:
    """The change source knows none of its marks any more."""
    assert isinstance(x, EpochWorld)
    x.marks.clear()


def _moves(x: Explorer, a: int, b: int) -> None:
    """A VM runs on another host now."""
    assert isinstance(x, EpochWorld)
    x.moved(x.vms[a % len(x.vms)], f"host-{b}")


def _unwritable(x: Explorer, a: int, b: int) -> None:
    """Marks cannot be written for a while, or can again."""
    assert isinstance(x, EpochWorld)
    x.unwritable = bool(b % 2)


def _resume(x: Explorer, a: int, b: int) -> None:
    """An operator lets the VPG go on, and wants a checkpoint when it is in sync."""
    name = x.estate.vpgs[0].name
    x.pause(name, False)
    x.drain()
    x.tag(name, f"tag {b}")
    x.drain()


OPERATIONS = (
    Operation("deliver", 30, common.deliver),
    Operation("VM writes", 32, _vm_writes),
    Operation("epoch", 20, _epoch),
    Operation("answers", 34, _answers),
    Operation("perform", 28, common.perform),
    Operation("drain", 14, common.drain),
    Operation("tick", 16, common.tick),
    Operation("flush", 6, common.flush),
    Operation("age", 5, common.age),
    Operation("busy", 6, _busy, "platform"),
    Operation("forgets", 2, _forgets, "platform"),
    Operation("unwritable", 3, _unwritable, "marks"),
    Operation("crash", 4, common.crash, "crashes"),
    Operation("start", 6, common.start),
    Operation("lose", 4, common.lose, "links"),
    Operation("connect", 8, common.connect),
    Operation("clog", 2, common.clog, "half links"),
    Operation("drop", 2, common.drop, "loss"),
    Operation("duplicate", 2, common.duplicate, "order"),
    Operation("overtake", 2, common.overtake, "order"),
    Operation("resize", 2, common.resize, "order"),
    Operation("old", 2, common.old, "old"),
    Operation("fail", 4, common.fail, "effects"),
    Operation("fill", 2, common.fill, "full"),
    Operation("make room", 2, common.make_room),
    Operation("tag", 3, common.tag),
    Operation("pin", 2, common.pin, "pins"),
    Operation("pause", 4, pause, "pauses"),
    Operation("force", 1, force),
    Operation("alarm", 3, common.alarm),
    Operation("resume", 3, _resume, "pauses"),
    Operation("vMotion", 2, _moves, "moves"),
)
"""As in `operations.py`: a place is a code. Append only, never reorder, never remove."""
TABLE = codes(OPERATIONS)


def shape_of(program: bytes) -> Shape:
    """The estate of a program. Zeros are two VMs of which the journals are at one recovery VRA."""
    a, b, c, d, e, f = program[:6]
    return Shape(
        protected=1, recovery=1 + (a // 4 % 3 == 1), vms=2 - a % 2, volumes=((22, 9), (12,), (40, 5))[b % 3],
        pool=(200, 60, 30)[c % 3], limit=(None, None, 60)[d % 3], history=(10_000, 60)[e % 2],
        tweaks=(TINY, TINY, TIGHT)[f % 3], epochs=True,
    )  # fmt: skip


def weighed_epochs(raw: bytes) -> bytes:
    """A program of random bytes."""
    return weighed(raw, TABLE)


def random_epochs(seed: int) -> bytes:
    """The program of a seed."""
    return weighed_epochs(random.Random(seed).randbytes(LENGTH))


def run_epochs(
    program: bytes, *, trace: Sink | None = None, explorer: type[EpochWorld] = EpochWorld
) -> EpochWorld:  # fmt: skip
    """Play a program: faults, then healing. Raises Violation when a property does not hold."""
    x = explorer(shape_of(program), trace=trace)
    with closing(x):
        follow(x, program, operations=OPERATIONS)
    return x
