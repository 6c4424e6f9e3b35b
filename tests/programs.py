"""Byte programs: a run of the bag (`support.py`) as bytes, so that Hypothesis can choose it and shrink it.

Fixed length, a weighted table of operations, byte 0 the most harmless one (verification.md 4.5).
"""

import random

from support import Bag, Shape

from drsim.core.catalog import AGE
from drsim.core.kernel import Sink
from drsim.core.names import VmId
from drsim.core.vpg import TICK

LENGTH = 4 + 3 * 110


def random_program(seed: int, operations: int = 110) -> bytes:
    """The program of a seed, for loops without Hypothesis."""
    return random.Random(seed).randbytes(4 + 3 * operations)


OPCODES = (
    ["deliver"] * 14 + ["write"] * 10 + ["pair"] * 6 + ["do"] * 10 + ["drain"] * 3 + ["flush"] * 3 + ["tick"] * 4
    + ["budget"] * 2 + ["age"] * 2 + ["lose"] * 2 + ["connect"] * 2 + ["fail"] * 2
    + ["fire", "stop", "crash", "start", "full", "fits", "tag", "pin"]
)  # fmt: skip
"""Weighted; byte 0 is the most harmless operation, so that shrinking to zeros simplifies."""

MASKED = {"lose": 0, "stop": 1, "full": 2, "fail": 3, "fire": 4, "pin": 5, "tag": 5, "crash": 6}
"""Operations that a bit of the swarm mask takes away."""


def shape_of(config: bytes) -> Shape:
    """A bag for the first bytes of a program."""
    a, b, c = config[:3]
    return Shape(
        protected=1 + (a % 4 > 0), recovery=1 + (a // 4 % 3 == 1), vms=1 + (a // 16 % 2),
        pool=(60, 30, 18, 200)[b % 4], recovery_pool=(64, 16)[b // 4 % 2],
        limit=(None, None, 60, 30)[b // 8 % 4], history=(10_000, 60)[c % 2],
    )  # fmt: skip


def run(program: bytes, *, healing: bool = True, trace: Sink | None = None) -> Bag:
    """Play a byte program: three bytes of shape, one of swarm mask, then three an operation."""
    bag = Bag(shape_of(program), trace=trace)
    mask = program[3]
    for at in range(4, len(program) - 2, 3):
        op = OPCODES[program[at] % len(OPCODES)]
        if op in MASKED and mask >> MASKED[op] & 1:
            op = "deliver"
        step(bag, op, program[at + 1], program[at + 2])
    bag.check_checkpoints()
    if healing:
        bag.heal()
        bag.check_checkpoints()
    return bag


def _rows(bag: Bag, a: int, b: int) -> list[tuple[int, int, int, int]]:
    vms = list(bag.guests)
    first = vms[a % len(vms)]
    same = [vm for vm in vms if bag.guests[vm].stream == bag.guests[first].stream]
    rows = []
    for n in range(1 + a // 16 % 4):
        vm = first if n == 0 else same[(a + n) % len(same)]
        seed = b + 37 * n
        index = int(seed % 5 == 0) % len(bag.shape.volumes)
        size = bag.shape.volumes[index]
        sectors = 1 + seed // 5 % min(6, size)
        rows.append((vm, index, seed * 7 % (size - sectors + 1), sectors))
    return rows


def step(bag: Bag, op: str, a: int, b: int) -> None:
    """One operation of a program; one that cannot be done now does nothing."""
    match op:
        case "deliver":
            pairs = [pair for pair, queue in bag.queues.items() if queue]
            if pairs:
                bag.deliver(pairs[a % len(pairs)], 1 + b % 4)
        case "write":
            bag.write(*_rows(bag, a, b))
        case "pair":  # a write, and one on another VM that depends on it
            rows = _rows(bag, a, b)
            if bag.write(rows[0]):
                here = bag.guests[VmId(rows[0][0])].stream.source
                others = [vm for vm, guest in bag.guests.items() if guest.stream.source != here]
                vm = others[b % len(others)] if others else rows[0][0]
                bag.write((vm, *rows[0][1:]))
        case "do" | "fail":
            keys = [key for key, queue in bag.work.items() if queue and (op == "do" or key[0] != "list" or b % 4 == 0)]
            if keys:
                for _ in range(1 + b % 3 if op == "do" else 1):
                    key = keys[a % len(keys)]
                    if bag.work.get(key):
                        bag.do(key, fail=op == "fail")
        case "drain":
            bag.drain()
        case "flush" | "fire":
            timers = [t for t in bag.timers if t[1].startswith("flush") or (op == "fire" and t[1] not in (TICK, AGE))]
            if timers:
                bag.fire(*timers[a % len(timers)])
        case "budget":  # a hold has lasted too long
            timers = [t for t in bag.timers if t[1].startswith("hold") and t[0] in bag.held]
            if timers:
                bag.fire(*timers[a % len(timers)])
        case "tick":
            if bag.manager not in bag.down:
                bag.tick()
        case "age":
            bag.now += b
            if bag.catalog_at not in bag.down:
                bag.age()
        case "lose" | "connect":
            links = [*bag.links(), *(bag.inner_links() if b >= 192 else ())]
            (bag.lose if op == "lose" else bag.connect)(links[a % len(links)])
        case "stop" | "crash" | "start":
            choice = [*bag.sources, *bag.targets] * 2 + [bag.manager, bag.catalog_at]
            address = choice[a % len(choice)]
            if op == "start":
                bag.start(address)
            else:
                (bag.stop if op == "stop" else bag.crash)(address, unanswered=b % 3)
        case "full" | "fits":
            (bag.full.add if op == "full" else bag.full.discard)(bag.targets[a % len(bag.targets)])
        case "tag":
            if bag.manager not in bag.down:
                bag.tag(f"tag {a}")
        case "pin":
            if bag.catalog.listed and bag.catalog_at not in bag.down:
                bag.pin(bag.catalog.listed[a % len(bag.catalog.listed)].id, bool(b % 2))
