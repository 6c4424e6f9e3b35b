"""Shrink: from a program that fails to a small one that fails in the same way.

First whole operations are taken away (delta debugging: large pieces, then smaller ones), then the estate and the
operations that are left are made simpler byte by byte, where zero is simplest. A try costs one play, so a program of
100 operations is usually down to ten within a second.
"""

import time
from collections.abc import Callable

from drsim.verify.hunt import Hunter, judge

Fails = Callable[[bytes], bool]


def shrink(hunter: Hunter, program: bytes, prop: str, *, seconds: float = 5.0) -> bytes:
    """A program, as small as `seconds` allow, that violates the same property as `program`."""
    deadline = time.monotonic() + seconds

    def fails(candidate: bytes) -> bool:
        verdict = judge(hunter, candidate)
        return verdict is not None and verdict.prop == prop

    head, body = program[: hunter.head], program[hunter.head :]
    operations = [body[at : at + hunter.unit] for at in range(0, len(body) - hunter.unit + 1, hunter.unit)]
    while time.monotonic() < deadline:
        before = head, list(operations)
        operations = _fewer(head, operations, fails, deadline)
        head = _lower(head, lambda tried: fails(tried + b"".join(operations)), deadline)  # noqa: B023
        operations = _simpler(head, operations, fails, deadline)
        if (head, operations) == before:
            break
    return head + b"".join(operations)


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
