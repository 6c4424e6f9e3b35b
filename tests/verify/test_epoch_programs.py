"""Capture by epochs under the explorer: what a listed checkpoint holds, and the ways of the world around it."""

from collections import Counter

import pytest

from drsim.core.errors import PlatformError
from drsim.core.messages import Checkpoint
from drsim.core.names import CheckpointId, StreamId
from drsim.core.units import Ns
from drsim.verify.epoch_programs import random_epochs, run_epochs, shape_of
from drsim.verify.epochs import PATIENCE, SOURCE, EpochWorld, Snapshots, exact
from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.mutants import BY_NAME
from drsim.verify.probes import EPOCH_PROBES
from drsim.verify.program import HEAD
from drsim.verify.violation import Violation


def world() -> EpochWorld:
    """Two VMs on one VRA, recovered by another, at rest."""
    x = EpochWorld(shape_of(bytes(HEAD)))
    x.drain()
    return x


def epoch(x: EpochWorld) -> None:
    """One epoch and its checkpoint."""
    x.begin()
    for _ in range(PATIENCE):
        x.drain()
        x.answer()
    assert x.taking is None
    x.drain()
    x.tick(x.name)
    x.drain()


def test_programs_hold_and_look_everywhere() -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        seen.update(HUNTERS["epochs"].play(random_epochs(seed)).probes)
    assert EPOCH_PROBES.keys() <= seen.keys()
    assert seen["an epoch mattered"] > 50


def test_a_checkpoint_is_of_the_snapshots_and_of_nothing_written_since() -> None:
    x = world()
    first, second = x.vms
    x.change(first, 0, 0, 6)
    x.begin()
    while len(x.taken[-1].at) < 2:
        x.answer()
    x.change(first, 0, 3, 2)  # after its snapshot
    epoch_of = {vm: bytes(x.taken[-1].held[vm]) for vm in x.vms}
    for _ in range(PATIENCE):
        x.drain()
        x.answer()
    x.drain()
    x.tick(x.name)
    x.drain()
    (kept,) = x.kept[x.name].values()
    for stream, cut in kept.cut.items():
        for vm, upto in x.disks[stream].cut_through(cut):
            assert x.disks[stream].image(vm, upto) == epoch_of[vm]
    assert epoch_of[first] != x.platform[first].disk
    assert epoch_of[second] == x.platform[second].disk
    assert kept.taken == x.taken[0].asked


def test_a_mark_that_was_forgotten_costs_a_full_read_and_nothing_else() -> None:
    x = world()
    x.change(x.vms[0], 0, 1, 2)
    epoch(x)
    x.marks.clear()
    x.change(x.vms[1], 1, 0, 1)
    epoch(x)
    assert len(x.kept[x.name]) == 2
    assert "a change source had forgotten its mark" in x.probes


def test_a_process_that_dies_between_write_and_mark_is_not_trusted_before_it_took_an_epoch() -> None:
    x = world()
    for index in (0, 1):
        x.change(x.vms[0], index, 0, 6)
    x.begin()
    while not x.epochs.unfinished:
        x.drain()
        x.answer()
    x.crash(x.process[0], 0)
    assert x.epochs.paused
    x.boot(x.process[0])
    x.drain()
    x.pause(x.name, False)
    x.tag(x.name, "now")
    x.drain()
    assert not x.kept[x.name]
    epoch(x)
    epoch(x)
    assert [c.tag for c in x.kept[x.name].values()] == ["now", ""]


def test_what_fails_at_the_platform_leaves_the_epoch_before() -> None:
    x = world()
    x.change(x.vms[0], 0, 0, 2)
    epoch(x)
    x.change(x.vms[0], 0, 0, 2)
    x.begin()
    assert x.waits == SOURCE
    x.answer(fail=True)
    x.drain()
    while x.taking is not None:
        x.answer()
    x.tick(x.name)
    x.drain()
    assert len(x.kept[x.name]) == 1
    epoch(x)
    assert len(x.kept[x.name]) == 2


def test_marks_that_cannot_be_written_fail_the_epoch() -> None:
    x = world()
    x.unwritable = True
    with pytest.raises(PlatformError, match="no room"):
        x.keep(x.durable)  # type: ignore[arg-type]
    x.change(x.vms[0], 0, 0, 1)
    x.begin()
    while x.taking is not None:
        x.answer()
    assert x.durable is None


# -- the oracle -----------------------------------------------------------------------------------------------


def listed() -> tuple[EpochWorld, Checkpoint]:
    """A world with a checkpoint of its only epoch."""
    x = world()
    for vm in x.vms:
        x.change(vm, 0, 0, 3)
    epoch(x)
    (kept,) = x.kept[x.name].values()
    return x, kept


@pytest.mark.parametrize(
    ("prop", "said"),
    [("P3", "in no snapshot"), ("P5", "of several epochs"), ("P6", "says that it was taken")],
)  # fmt: skip
def test_each_way_to_be_inexact_is_seen(prop: str, said: str) -> None:
    x, kept = listed()
    exact(x, kept)
    (truth,) = x.taken
    first, second = x.vms
    other = Snapshots(truth.asked, dict(truth.at), {first: truth.held[first], second: bytes(len(truth.held[second]))})
    match prop:
        case "P3":
            x.taken = [other]
        case "P5":
            turned = Snapshots(truth.asked, dict(truth.at), {first: other.held[second], second: truth.held[second]})
            x.taken = [other, turned]
        case _:
            kept = Checkpoint(kept.vpg, kept.id, Ns(max(truth.at.values()) + 1), kept.cut)
    with pytest.raises(Violation, match=said) as found:
        exact(x, kept)
    assert found.value.prop == prop


def test_a_vm_that_a_checkpoint_lacks_is_missed() -> None:
    x, kept = listed()
    cut: dict[StreamId, object] = {}
    with pytest.raises(Violation, match="several epochs"):
        exact(x, Checkpoint(kept.vpg, CheckpointId(9), kept.taken, cut))  # type: ignore[arg-type]


def test_an_operator_who_resumes_waits_for_the_epoch() -> None:
    """The bug that taught it: see docs/background/bugs-found.md."""
    with BY_NAME["operator-ends-the-pause-of-an-epoch"].patch():
        verdicts = {v.prop for v in (judge(HUNTERS["epochs"], random_epochs(seed)) for seed in range(120)) if v}
    assert verdicts & {"P3", "P5"}


# -- programs -------------------------------------------------------------------------------------------------


def test_the_same_program_takes_the_same_steps() -> None:
    hunter = HUNTERS["epochs"]
    assert hunter.digest(random_epochs(5)) == hunter.digest(random_epochs(5)) != hunter.digest(random_epochs(6))
    assert run_epochs(bytes(HEAD)).kernel.steps > 10
