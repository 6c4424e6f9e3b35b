"""Shrinking: a small program that fails in the same way."""

import pytest

from drsim.verify.hunt import HUNTERS, Hunter, Played, judge
from drsim.verify.mutants import BY_NAME
from drsim.verify.shrink import shrink
from drsim.verify.violation import Violation


def _hunter(fails: set[bytes]) -> Hunter:
    """One whose programs fail as P1 when they hold all of these operations in any order, as P2 when only the first."""
    first = min(fails)

    def play(program: bytes) -> Played:
        operations = {program[at : at + 2] for at in range(1, len(program), 2)}
        if fails <= operations:
            raise Violation("P1", "all of them")
        if first in operations:
            raise Violation("P2", "one of them")
        return Played()

    return Hunter("toy", 41, 1, 2, lambda _: b"", play, lambda _: "")


def test_only_what_is_needed_is_left() -> None:
    needed = {b"\x07\x09", b"\x08\x01"}
    program = b"\xff" + b"\x50\x50" * 7 + b"\x08\x01" + b"\x51\x52" * 8 + b"\x07\x09" + b"\x01\x01" * 3
    small = shrink(_hunter(needed), program, "P1")
    assert small == b"\x00" + b"\x08\x01" + b"\x07\x09"


def test_it_still_fails_in_the_same_way() -> None:
    """One operation alone fails too, but as another property."""
    needed = {b"\x07\x09", b"\x08\x01"}
    hunter = _hunter(needed)
    small = shrink(hunter, b"\xff" + b"\x08\x01" + b"\x07\x09" * 9, "P1")
    verdict = judge(hunter, small)
    assert verdict is not None
    assert verdict.prop == "P1"


def test_bytes_get_as_low_as_they_can() -> None:
    def play(program: bytes) -> Played:
        if len(program) >= 3 and program[1] >= 37:
            raise Violation("P1", "large")
        return Played()

    hunter = Hunter("toy", 3, 1, 2, lambda _: b"", play, lambda _: "")
    assert shrink(hunter, b"\x10\xf0\x33", "P1") == b"\x00\x25\x00"


@pytest.mark.parametrize("name", ["naive-marker", "pin-ignored", "clean-when-read", "history-by-the-wall-clock"])
def test_counterexamples_of_the_explorer_get_short(name: str) -> None:
    mutant, hunter = BY_NAME[name], HUNTERS["explorer"]
    with mutant.patch():
        for seed in range(3000):
            verdict = judge(hunter, hunter.program(seed))
            if verdict is not None and verdict.prop in mutant.properties:
                break
        else:
            raise AssertionError("nobody noticed")
        small = shrink(hunter, hunter.program(seed), verdict.prop, seconds=20)
    assert (len(small) - hunter.head) // hunter.unit <= 20
