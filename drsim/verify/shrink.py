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


class Tries:
    """Plays candidates for so many seconds, none of them twice: it is `over` when one more might not fit.

    `program` is known to fail.
    """

    def __init__(self, hunter: Hunter, program: bytes, prop: str, seconds: float) -> None:
        self._hunter, self._prop, self._deadline = hunter, prop, time.monotonic() + seconds
        self._longest = 0.0  # seconds that a try took
        self._tried = {program: True}

    @property
    def over(self) -> bool:
        """Whether a try that takes as long as the longest so far would end too late."""
        left = self._deadline - time.monotonic()
        return left <= 0 or left < self._longest

    def fails(self, candidate: bytes) -> bool:
        """Whether a program violates the property."""
        if candidate not in self._tried:
            began = time.monotonic()
            verdict = judge(self._hunter, candidate)
            self._tried[candidate] = verdict is not None and verdict.prop == self._prop
            self._longest = max(self._longest, time.monotonic() - began)
        return self._tried[candidate]


def shrink(hunter: Hunter, program: bytes, prop: str, *, seconds: float = 5.0) -> bytes:
    """A program, as small as `seconds` allow, that violates the same property as `program`."""
    tries = Tries(hunter, program, prop, seconds)
    head, body = program[: hunter.head], program[hunter.head :]
    operations = [body[at : at + hunter.unit] for at in range(0, len(body) - hunter.unit + 1, hunter.unit)]
    operations = _shorter(head, operations, tries)
    while not tries.over:
        before = head, list(operations)
        operations = _fewer(head, operations, tries)
        head = _lower(head, lambda lower: tries.fails(lower + b"".join(operations)), tries)  # noqa: B023
        if (head, operations) == before:
            operations = _simpler(head, operations, tries)
        if (head, operations) == before:
            break
    return head + b"".join(operations)


def _shorter(head: bytes, operations: list[bytes], tries: Tries) -> list[bytes]:
    """Without what comes after the failure: a beginning that fails, and the shortest if longer ones fail as well."""
    passes, end = -1, len(operations)
    while end - passes > 1 and not tries.over:
        middle = (passes + end) // 2
        if tries.fails(head + b"".join(operations[:middle])):
            end = middle
        else:
            passes = middle
    return operations[:end]


def _fewer(head: bytes, operations: list[bytes], tries: Tries) -> list[bytes]:
    """Without every piece that can be spared, from halves down to single operations."""
    size = max(1, len(operations) // 2)
    while True:
        at = 0
        while at < len(operations) and not tries.over:
            rest = operations[:at] + operations[at + size :]
            if tries.fails(head + b"".join(rest)):
                operations = rest
            else:
                at += size
        if size == 1 or tries.over:
            return operations
        size //= 2


def _simpler(head: bytes, operations: list[bytes], tries: Tries) -> list[bytes]:
    """With each operation's bytes as low as they go."""
    operations = list(operations)
    for at in range(len(operations)):
        before, after = operations[:at], operations[at + 1 :]

        def same(lower: bytes, before: list[bytes] = before, after: list[bytes] = after) -> bool:
            return tries.fails(head + b"".join((*before, lower, *after)))

        operations[at] = _lower(operations[at], same, tries)
    return operations


def _lower(part: bytes, same: Callable[[bytes], bool], tries: Tries) -> bytes:
    """Each byte 0, or else as low as halving finds."""
    for at in range(len(part)):
        below = -1  # the highest that is known not to do
        while part[at] - below > 1 and not tries.over:
            value = 0 if below < 0 else (below + part[at]) // 2
            if same(part[:at] + bytes([value]) + part[at + 1 :]):
                part = part[:at] + bytes([value]) + part[at + 1 :]
            else:
                below = value
    return part
