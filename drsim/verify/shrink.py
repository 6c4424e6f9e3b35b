"""Shrink: from a program that fails to a small one that fails in the same way.

First the end is taken away, of which bisection finds most in a few tries; then whole operations, wherever they are
(delta debugging: large pieces, then smaller ones), and the estate is made simpler. Only when no operation can be
spared are the bytes of those that are left made simpler one by one, where zero is simplest; what can be spared then
goes as well. A try costs one play, and no program is tried twice, so one of 100 operations is usually down to ten
within a second.
"""

import time
from collections.abc import Callable

from drsim.verify.hunt import Hunter, judge

Fails = Callable[[bytes], bool]


def shrink(hunter: Hunter, program: bytes, prop: str, *, seconds: float = 5.0) -> bytes:
    """A program, as small as `seconds` allow, that violates the same property as `program`."""
    deadline = time.monotonic() + seconds
    tried: dict[bytes, bool] = {program: True}

    def fails(candidate: bytes) -> bool:
        if candidate not in tried:
            verdict = judge(hunter, candidate)
            tried[candidate] = verdict is not None and verdict.prop == prop
        return tried[candidate]

    head, body = program[: hunter.head], program[hunter.head :]
    operations = [body[at : at + hunter.unit] for at in range(0, len(body) - hunter.unit + 1, hunter.unit)]
    operations = _shorter(head, operations, fails, deadline)
    while time.monotonic() < deadline:
        before = head, list(operations)
        operations = _fewer(head, operations, fails, deadline)
        head = _lower(head, lambda tried: fails(tried + b"".join(operations)), deadline)  # noqa: B023
        if (head, operations) == before:
            operations = _simpler(head, operations, fails, deadline)
        if (head, operations) == before:
            break
    return head + b"".join(operations)


def _shorter(head: bytes, operations: list[bytes], fails: Fails, deadline: float) -> list[bytes]:
    """Without what comes after the failure: a beginning that fails, and the shortest if longer ones fail as well."""
    passes, end = -1, len(operations)
    while end - passes > 1 and time.monotonic() < deadline:
        middle = (passes + end) // 2
        if fails(head + b"".join(operations[:middle])):
            end = middle
        else:
            passes = middle
    return operations[:end]


def _fewer(head: bytes, operations: list[bytes], fails: Fails, deadline: float) -> list[bytes]:
    """Without every piece that can be spared, from halves down to single operations."""
    size = max(1, len(operations) // 2)
    while True:
        at = 0
        while at < len(operations) and time.monotonic() < deadline:
            rest = operations[:at] + operations[at + size :]
            if fails(head + b"".join(rest)):
                operations = rest
            else:
                at += size
        if size == 1 or time.monotonic() >= deadline:
            return operations
        size //= 2


def _simpler(head: bytes, operations: list[bytes], fails: Fails, deadline: float) -> list[bytes]:
    """With each operation's bytes as low as they go."""
    operations = list(operations)
    for at in range(len(operations)):
        before, after = operations[:at], operations[at + 1 :]

        def same(tried: bytes, before: list[bytes] = before, after: list[bytes] = after) -> bool:
            return fails(head + b"".join((*before, tried, *after)))

        operations[at] = _lower(operations[at], same, deadline)
    return operations


def _lower(part: bytes, same: Fails, deadline: float) -> bytes:
    """Each byte 0, or else as low as halving finds."""
    for at in range(len(part)):
        below = -1  # the highest that is known not to do
        while part[at] - below > 1 and time.monotonic() < deadline:
            tried = 0 if below < 0 else (below + part[at]) // 2
            if same(part[:at] + bytes([tried]) + part[at + 1 :]):
                part = part[:at] + bytes([tried]) + part[at + 1 :]
            else:
                below = tried
    return part
