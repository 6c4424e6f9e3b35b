"""Stories of VMs that are captured by epochs: told, explained and drawn as those of tapped VMs are."""

import re
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from drsim.verify import pen
from drsim.verify.epoch_programs import OPERATIONS, random_epochs, shape_of
from drsim.verify.epoch_story import EpochRecorder, EpochStory, Inexact, inexact, record_epochs
from drsim.verify.epochs import PATIENCE, exact
from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.mutants import BY_NAME
from drsim.verify.pictures import EpochDiagram, draw
from drsim.verify.program import HEAD
from drsim.verify.shrink import shrink
from drsim.verify.story import Story
from drsim.verify.tale import tell
from drsim.verify.violation import Violation

SEEDS = range(25)
SVG = "{http://www.w3.org/2000/svg}"


@cache
def recorded(seed: int) -> Story:
    return record_epochs(random_epochs(seed))


@cache
def broken(mutant: str, prop: str) -> Story:
    """The story of the first program that a mutant breaks, shrunk."""
    hunter = HUNTERS["epochs"]
    with BY_NAME[mutant].patch():
        verdicts = ((n, judge(hunter, random_epochs(n))) for n in range(300))
        seed = next(n for n, verdict in verdicts if verdict and verdict.prop == prop)
        return record_epochs(shrink(hunter, random_epochs(seed), prop))


def of_epochs(story: Story) -> EpochRecorder:
    assert isinstance(story.x, EpochRecorder)
    return story.x


# -- the recorder -------------------------------------------------------------------------------------------------


def test_epochs_and_snapshots_are_there_as_the_truth_has_them() -> None:
    for seed in SEEDS:
        x = of_epochs(recorded(seed))
        assert [set(taking.snapshots) for taking in x.takings] == [set(epoch.held) for epoch in x.taken]
        assert all(taking.last is not None for taking in x.takings)
        assert all(a.last < b.first for a, b in pairwise(x.takings))  # type: ignore[operator]
        for taking, epoch in zip(x.takings, x.taken, strict=True):
            for vm, moment in taking.snapshots.items():
                assert taking.first <= moment <= (taking.last or 0)
                assert [m for m in sorted(taking.snapshots.values()) if m < moment] == [
                    taking.snapshots[v]
                    for v in sorted(epoch.at, key=epoch.at.__getitem__)
                    if epoch.at[v] < epoch.at[vm]
                ]
                held = [c.write for c in x.changes if c.at < moment and c.write.guest.vm == vm]
                disk = bytearray(len(epoch.held[vm]))
                for one in held:
                    disk[2 * one.start : 2 * one.stop] = one.index.to_bytes(2, "little") * one.sectors
                assert disk == epoch.held[vm]


def test_steps_follow_each_other_and_have_words() -> None:
    said: set[str] = set()
    for seed in SEEDS:
        steps, lines = recorded(seed).x.steps, recorded(seed).lines()
        assert all(a.last < b.first for a, b in pairwise(steps))
        assert all(step.first <= step.last for step in steps)
        assert not any("None" in line or "vpg=" in line for line in lines)
        said |= {re.sub(r"\d+(-\d+)?", "N", part) for line in lines for part in line.rstrip(".").split("; ")}
    for words in (
        "Epoch N began",
        "the platform took a snapshot of VM N",
        "epoch N is captured",
        "epoch N is given up",
        "the VPG is paused for it",
        "The process of the protected side died",
        "The process of the protected side came up",
        "The marks of epochs could not be written",
        "The platform forgot all its marks",
        "An operator paused replication",
        "sectors N of volume N went to the shadow of VM N (write N)",
    ):
        assert words in said


def test_a_program_is_told_without_the_faults_that_it_does_without() -> None:
    operations = b"".join(bytes([code, 0, 0]) for code in range(len(OPERATIONS)))
    everything = " ".join(tell("epochs", bytes(HEAD) + operations).lines)
    masked = " ".join(tell("epochs", bytes(6) + b"\xff\xff" + bytes(HEAD - 8) + operations).lines)
    for fault in ("died", "busy", "was lost"):
        assert fault in everything
        assert fault not in masked


# -- what is broken -----------------------------------------------------------------------------------------------


def test_the_change_that_no_snapshot_has_there_is_named() -> None:
    story = broken("operator-ends-the-pause-of-an-epoch", "P3")
    assert isinstance(story.broken, Inexact)
    assert story.broken.prop == "P3"
    assert re.search(
        r"Checkpoint \d+ has the disks of VM \d as they are in no snapshot of it. The nearest is that of epoch \d+, "
        r"taken at step \d+; but sector \d+ of the VM holds .*, and it held .* then",
        story.broken.why,
    )
    ((number, vm),) = story.broken.snapshots
    step = int(re.findall(r"taken at step (\d+)", story.broken.why)[0])
    assert f"took a snapshot of VM {vm}" in story.lines()[step - 1]
    assert f"poch {number} " in story.lines()[step - 1]


@cache
def of_two_epochs() -> Story:
    """A checkpoint that has one VM as in the first epoch and the other as in the second, by a truth that is bent."""
    x = EpochRecorder(shape_of(bytes(HEAD)))
    x.drain()
    for _ in range(2):
        for vm in x.vms:
            x.change(vm, 0, 0, 3)
        x.begin()
        for _ in range(PATIENCE):
            x.drain()
            x.answer()
        x.tick(x.name)
        x.drain()
    one, two = x.taken
    vm = x.vms[1]
    one.held[vm], two.held[vm] = two.held[vm], one.held[vm]
    newest = x.kept[x.name][max(x.kept[x.name])]
    with pytest.raises(Violation) as found:
        exact(x, newest)
    return EpochStory(x, inexact(x, found.value))


def test_vms_of_several_epochs_are_named_with_theirs() -> None:
    story = of_two_epochs()
    assert isinstance(story.broken, Inexact)
    assert story.broken.prop == "P5"
    x = of_epochs(story)
    assert [number for number, _ in story.broken.snapshots] == [2, 1]
    for number, vm in story.broken.snapshots:
        assert f"VM {vm} as in epoch {number} (snapshot at step " in story.broken.why
        assert vm in x.taken[number - 1].held
    assert story.verdict.endswith("and no epoch has all of that.")


def test_an_epoch_older_than_its_checkpoint_says_is_named() -> None:
    story = broken("epoch-stamped-when-it-ends", "P6")
    assert isinstance(story.broken, Inexact)
    assert "says that it was taken at" in story.verdict
    assert len({number for number, _ in story.broken.snapshots}) == 1


def test_what_the_core_breaks_is_told_as_of_tapped_vms() -> None:
    story = broken("in-flight-forgotten", "P12")
    assert story.broken is not None
    assert not isinstance(story.broken, Inexact)
    assert "neither dirty nor queued nor in flight" in story.verdict


# -- the diagram --------------------------------------------------------------------------------------------------


def test_pictures_are_well_formed() -> None:
    for seed in SEEDS:
        picture = draw(recorded(seed))
        root = ElementTree.fromstring(picture)
        high = float(root.get("height", "0"))
        for rect in root.iter(f"{SVG}rect"):
            if rect.get("width") != "100%":
                x, y = float(rect.get("x", "nan")), float(rect.get("y", "nan"))
                assert 0 <= x < 1200
                assert 0 <= y < high
                assert 0 < float(rect.get("width", "nan")) <= 1200 - x + 10
        assert "nan" not in picture
        assert picture == draw(recorded(seed))


def test_an_arrow_leads_from_a_snapshot_to_what_it_brought() -> None:
    program = bytes(HEAD) + bytes([1, 0, 0, 2, 0, 15, 3, 0, 15])  # a VM writes, an epoch, and it goes on
    story = record_epochs(program)
    diagram, x = EpochDiagram(story), of_epochs(story)
    picture = diagram.svg()
    taking = x.takings[0]
    (change,) = [c for c in x.changes if c.at < taking.first]
    vm = change.write.guest.vm
    (wrote,) = [w for w in x.writes if taking.first <= w.issued <= (taking.last or 0)]
    assert wrote.write.guest.vm == vm
    left, top, *_ = diagram.box(wrote)
    lane = diagram.lanes[f"west/vm/{vm}"]  # type: ignore[index]
    start = f"M{diagram.at(taking.snapshots[vm]):.1f} {lane.middle + 6:.1f}"
    assert f'{start} L{left + 10:.1f} {top - 1:.1f}"' in picture
    assert lane.middle < top
    assert f">shadow of VM {vm}<".replace("s", "S", 1) in picture
    assert ">epoch 1<" in picture


def test_what_is_broken_is_in_red() -> None:
    story = of_two_epochs()
    assert isinstance(story.broken, Inexact)
    texts = [e for e in ElementTree.fromstring(draw(story)).iter(f"{SVG}text") if e.get("fill") == pen.BAD]
    said = {e.text for e in texts}
    assert {f"epoch {number}" for number, _ in story.broken.snapshots} <= said
    assert "P5 does not hold" in said
