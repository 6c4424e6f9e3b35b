"""Protection the other way (P17): what the old source never shipped must not survive there."""

import pytest

from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.mutants import BY_NAME
from drsim.verify.program import HEAD
from drsim.verify.reverse import INHERITED, left_by, random_reverse, run_reverse
from drsim.verify.tale import tell

SEEDS = range(60)


def test_both_runs_are_healed_and_equal() -> None:
    """Of some programs the old source has what nobody shipped, and in the end it has not."""
    differ = 0
    for seed in SEEDS:
        first, second = run_reverse(random_reverse(seed))
        left = left_by(first)
        differ += any(disk != old for disk, old in left.values())
        for vm, guest in second.guests.items():
            assert guest.images[0] == left[vm][0], "the VM runs from its checkpoint"
    assert differ > len(SEEDS) // 8


def test_what_was_inherited_is_told_from_what_is_written() -> None:
    first, _ = run_reverse(random_reverse(3))
    stamps = {
        int.from_bytes(old[at : at + 2], "little") for _, old in left_by(first).values() for at in range(0, 20, 2)
    }
    assert all(stamp == 0 or stamp >= INHERITED for stamp in stamps)


def test_trusting_the_old_disks_is_seen() -> None:
    with BY_NAME["reverse-keeps-the-old-bitmap"].patch():
        verdicts = [judge(HUNTERS["reverse"], random_reverse(seed)) for seed in range(12)]
    assert {v.prop for v in verdicts if v is not None} == {"P17"}


@pytest.mark.parametrize("kind", sorted(HUNTERS))
def test_a_program_of_any_kind_can_be_told(kind: str) -> None:
    hunter = HUNTERS[kind]
    for seed in (1, 2):
        tale = tell(kind, hunter.program(seed))
        assert tale.holds
        assert tale.cast.endswith(".")
        assert tale.lines or kind == "figures"
    tale = tell(kind, bytes(HEAD + hunter.length))
    assert tale.verdict
