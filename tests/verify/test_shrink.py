"""A failure is shrunk to what matters, and still fails in the same way."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from drsim.verify.hunt import HUNTERS, Hunter, Played, judge
from drsim.verify.mutants import BY_NAME
from drsim.verify.shrink import shrink
from drsim.verify.swarm import operations
from drsim.verify.violation import Violation

HEAD, UNIT = 2, 3


def hunter(prop_of: Callable[[bytes, list[bytes]], str]) -> Hunter:
    """Programs of two bytes and operations of three, which violate the property that `prop_of` names, if any."""

    def play(program: bytes) -> Played:
        body = program[HEAD:]
        prop = prop_of(program[:HEAD], [body[at : at + UNIT] for at in range(0, len(body) - UNIT + 1, UNIT)])
        if prop:
            raise Violation(prop, "so it is")
        return Played()

    return Hunter("toy", 62, HEAD, UNIT, lambda seed: bytes(62), play, lambda program: "")


def program(head: bytes, *made: bytes) -> bytes:
    return head + b"".join(made)


NOISE = [bytes([n, 3 * n, 5 * n]) for n in range(10, 28)]


def test_what_does_not_matter_goes() -> None:
    """Two operations in this order, far apart, one of their bytes, and one byte of the estate."""

    def prop(head: bytes, made: list[bytes]) -> str:
        first = next((n for n, op in enumerate(made) if op[0] == 200), len(made))
        return "P3" if head[1] % 2 and any(op[1] >= 9 for op in made[first + 1 :]) else ""

    big = program(b"\x63\x63", *NOISE[:5], b"\xc8\x55\x55", *NOISE[5:], b"\x42\xf0\x42")
    assert shrink(hunter(prop), big, "P3") == program(b"\x00\x01", b"\xc8\0\0", b"\0\x09\0")


def test_a_program_without_operations_is_enough_if_it_is() -> None:
    always = hunter(lambda head, made: "P1")
    assert shrink(always, program(b"\x09\x09", *NOISE), "P1") == b"\0\0"
    assert shrink(always, b"\x09\x09", "P1") == b"\0\0"


def test_it_goes_on_while_anything_becomes_smaller() -> None:
    """One operation that cannot be spared, and a byte that halving lowers a little in each round."""
    five = hunter(lambda head, made: "P1" if any(op[2] >= 5 for op in made) else "")
    assert shrink(five, program(b"\0\0", b"\0\0\xff"), "P1") == program(b"\0\0", b"\0\0\x05")


def test_what_became_simpler_may_then_be_spared() -> None:
    """An operation makes another one necessary until one of its bytes is lowered."""

    def prop(head: bytes, made: list[bytes]) -> str:
        needs = [op for op in made if op[0] == 7]
        return "P1" if needs and (needs[0][1] == 0 or b"\x02\x02\x02" in made) else ""

    assert shrink(hunter(prop), program(b"\0\0", b"\x02\x02\x02", b"\x07\x40\0"), "P1") == b"\0\0\x07\0\0"


def test_it_stays_the_same_failure() -> None:
    """A smaller program violates another property: that is another story."""

    def prop(head: bytes, made: list[bytes]) -> str:
        if any(op[0] == 1 for op in made):
            return "P5" if any(op[0] == 2 for op in made) else "P3"
        return "core"

    both = program(b"\0\0", *NOISE, b"\x01\0\0", b"\x02\0\0")
    assert shrink(hunter(prop), both, "P5") == program(b"\0\0", b"\x01\0\0", b"\x02\0\0")
    assert shrink(hunter(prop), both[:-UNIT], "P3") == program(b"\0\0", b"\x01\0\0")


def test_without_time_the_program_stays_as_it_is() -> None:
    played: list[bytes] = []
    spied = hunter(lambda head, made: played.append(head) or "P1")  # type: ignore[func-returns-value]
    whole = program(b"\x09\x09", *NOISE)
    assert shrink(spied, whole, "P1", seconds=0) == whole
    assert not played


def test_when_the_time_is_over_the_best_so_far_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second with each play; nothing is played that might end after its end."""
    played: list[bytes] = []

    def prop(head: bytes, made: list[bytes]) -> str:
        played.append(head)
        return "P1" if NOISE[7] in made else ""

    monkeypatch.setattr("drsim.verify.shrink.time", SimpleNamespace(monotonic=lambda: len(played)))
    whole = program(b"\x09\x09", *NOISE)
    sizes = []
    for seconds in (3, 9.5, 14):
        played.clear()
        small = shrink(hunter(prop), whole, "P1", seconds=seconds)
        sizes.append(len(small))
        assert len(played) == int(seconds)
        assert prop(b"", [small[at : at + UNIT] for at in range(HEAD, len(small), UNIT)]) == "P1"
    assert len(whole) > sizes[0] > sizes[1] >= sizes[2]


def test_what_does_not_fail_stays_as_it_is() -> None:
    whole = program(b"\x09\x09", *NOISE)
    assert shrink(hunter(lambda head, made: ""), whole, "P1") == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed"),
    [("cut-by-wall-clocks", 6), ("rollback-keeps-the-count", 167), ("gap-not-seen", 14),
     ("sealed-without-confirmation", 246)],
)  # fmt: skip
def test_failures_of_the_core_become_small(name: str, seed: int) -> None:
    """Of 120 operations at most 20 stay. The seeds are programs that kill the mutant, if they still do."""
    mutant = BY_NAME[name]
    explorer = HUNTERS[mutant.hunter]
    with mutant.patch():
        seeds = (seed, *range(2000))
        verdicts = ((n, judge(explorer, explorer.program(n))) for n in seeds)
        n, verdict = next((n, v) for n, v in verdicts if v is not None and v.prop in mutant.properties)
        small = shrink(explorer, explorer.program(n), verdict.prop, seconds=60)
        again = judge(explorer, small)
    assert operations(mutant.hunter, small) <= 20
    assert again is not None
    assert again.prop == verdict.prop
