"""Stories say what happened, name the very writes that show what is broken, and draw it as it was."""

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice, pairwise
from typing import get_args
from xml.etree import ElementTree

import pytest
from verify.test_litmus import (
    early_ack,
    ended_epoch_reached,
    everything_ages,
    first_journal_lists,
    in_flight_forgotten,
    naive_marker,
)  # fmt: skip

from drsim.core.facts import Fact
from drsim.core.messages import Frame, Message
from drsim.core.names import CheckpointId, VmId
from drsim.core.trace import TraceDigest
from drsim.study import style
from drsim.verify import pen
from drsim.verify.diagram import Diagram
from drsim.verify.epoch_programs import random_epochs, run_epochs
from drsim.verify.epoch_story import EpochRecorder
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.guests import Write
from drsim.verify.pictures import draw
from drsim.verify.plain import listing, runs
from drsim.verify.program import random_program, run
from drsim.verify.recorder import Recorder
from drsim.verify.story import Story, record, told, why
from drsim.verify.tale import tell
from drsim.verify.violation import Violation

SEEDS = range(40)
H1, H2, R1 = "west/h1/vra", "west/h2/vra", "east/r1/recovery-vra"
MANAGER, CATALOG = "west/vpg/crm", "east/catalog/crm"
SVG = "{http://www.w3.org/2000/svg}"


@cache
def recorded(seed: int) -> Story:
    return record(random_program(seed))


# -- the recorder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "play", "recorder"),
    [(random_program, run, Recorder), (random_epochs, run_epochs, EpochRecorder)], ids=["explorer", "epochs"],
)  # fmt: skip
def test_recording_changes_nothing(
    program: Callable[[int], bytes], play: Callable[..., Explorer], recorder: type[Recorder]
) -> None:
    for seed in SEEDS:
        plain, told_of = TraceDigest(), TraceDigest()
        play(program(seed), trace=plain)
        play(program(seed), trace=told_of, explorer=recorder)
        assert plain.hexdigest == told_of.hexdigest


def test_every_message_arrived_or_was_lost_or_is_under_way() -> None:
    for seed in SEEDS:
        x = recorded(seed).x
        under_way = Counter(id(m) for queue in x.queues.values() for m in queue)
        assert Counter(id(c.message) for c in x.carried if c.arrived is None and c.lost is None) == under_way
        assert not any(c.arrived and c.lost for c in x.carried)
        assert all(c.arrived is None or c.sent <= c.arrived for c in x.carried)


def test_every_write_is_there_as_the_truth_has_it() -> None:
    for seed in SEEDS:
        x = recorded(seed).x
        landed = [w for w in x.writes if w.landed is not None]
        assert {id(w.write) for w in landed} == {id(w) for g in x.guests.values() for w in g.writes}
        for wrote in landed:
            assert (wrote.acked is not None) == x.checks.is_acknowledged(wrote.write)
            assert wrote.issued <= wrote.landed <= (wrote.acked or math.inf)  # type: ignore[operator]


def test_steps_follow_each_other() -> None:
    for seed in SEEDS:
        steps = recorded(seed).x.steps
        assert all(a.last < b.first for a, b in pairwise(steps))
        assert all(step.first <= step.last for step in steps)
        healing = [step.healing for step in steps]
        assert healing == sorted(healing)
        assert healing[-1]


def test_everything_has_words() -> None:
    classes = {cls.__name__ for union in (Message, Fact) for cls in get_args(union)}
    said: set[str] = set()
    for seed in SEEDS:
        x = recorded(seed).x
        for text in (*recorded(seed).lines(), *(x.words.message(c.message) for c in x.carried)):
            assert not classes.intersection(re.findall(r"[A-Z][a-z]+[A-Z]\w+", text)), text
            assert "None" not in text
            assert "vpg=" not in text
            said.add(text)
    assert len(said) > 1000


def test_lists_in_words() -> None:
    assert runs([3, 1, 2, 7]) == "1-3, 7"
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b and c"


# -- what is broken, in words -------------------------------------------------------------------------------------


def broken(script: Callable[[Recorder], None], shape: Shape) -> Story:
    """The story of a script that ends in a violation."""
    x = Recorder(shape)
    with pytest.raises(Violation) as seen:
        script(x)
    return Story(x, why(x, seen.value))


def write(x: Recorder, vm: int, lba: int = 0, sectors: int = 2) -> Write:
    made = x.new_write(VmId(vm), 0, lba, sectors)
    x.write([made])
    return made


def flush(x: Recorder, host: str) -> None:
    x.expire(*next(timer for timer in x.timers if timer[0] == host and timer[1].startswith("flush")))


def open_cut(x: Recorder) -> None:
    write(x, 2, 4)
    x.tick("crm")
    x.arrive((MANAGER, H1))  # type: ignore[arg-type]
    write(x, 1)
    write(x, 2)
    x.drain()


TWO, ONE = Shape(protected=2, volumes=(8,), pool=200), Shape(protected=1, volumes=(8,), pool=200)


def test_an_open_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    naive_marker(monkeypatch)
    story = broken(open_cut, TWO)
    assert story.cast == "VPG crm: VM 1 on h1 and VM 2 on h2, recovered by r1."
    lines = story.lines()
    assert lines[:5] == [
        "VM 2 wrote sectors 4-5 (write 1); acknowledged.",
        "A checkpoint was due; the manager sent the hold for checkpoint 1.",
        "VRA h1 got the hold for checkpoint 1; VRA h1 holds its guests; VRA h1 sent its answer (VM 1 up to write 0) "
        "for checkpoint 1; VRA h1 lets its guests go on.",
        "VM 1 wrote sectors 0-1 (write 1); acknowledged.",
        "VM 2 wrote sectors 0-1 (write 2); acknowledged.",
    ]
    assert len(lines) == 6
    assert "checkpoint 1 is sealed: VM 1 up to write 0 and VM 2 up to write 2" in lines[5]
    assert story.verdict == (
        "P4 does not hold: consistent cut: with a write, a checkpoint has every write of its VPG that was acknowledged "
        "before it. Checkpoint 1 holds write 2 of VM 2, issued at step 5, but not write 1 of VM 1, which had been "
        "acknowledged at step 4. Whoever issued the one could have known of the other and built on it."
    )


def test_a_forgotten_write(monkeypatch: pytest.MonkeyPatch) -> None:
    in_flight_forgotten(monkeypatch)

    def script(x: Recorder) -> None:
        write(x, 1, 2)
        flush(x, H1)
        x.drain()
        write(x, 1, 3)
        flush(x, H1)
        x.break_link((H1, R1))  # type: ignore[arg-type]

    story = broken(script, ONE)
    assert "Sector 3 of VM 1 was written at step 4 (write 2 of VM 1). The recovery site still has" in story.verdict
    assert "neither dirty nor queued nor in flight" in story.verdict
    assert story.lines()[-1].startswith("The connection VRA h1 - recovery VRA r1 was lost")
    assert story.broken is not None
    assert (story.broken.prop, story.broken.at) == ("P12", H1)


def test_an_early_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    early_ack(monkeypatch)

    def script(x: Recorder) -> None:
        write(x, 1)
        flush(x, H1)
        x.arrive((H1, R1))  # type: ignore[arg-type]

    story = broken(script, ONE)
    assert "Recovery VRA r1 acknowledges write 1 of VM 1, which no journal has yet." in story.verdict
    assert story.lines()[-1].startswith("Recovery VRA r1 got a frame with write 1 of VM 1")


def age_all(x: Recorder) -> None:
    write(x, 1)
    x.tick("crm")
    x.drain()
    x.now += 100
    write(x, 1)
    x.tick("crm")
    x.drain()
    write(x, 1, 5)
    flush(x, H1)
    x.drain()
    x.age("crm")
    x.drain()


def test_aged_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    everything_ages(monkeypatch)
    story = broken(age_all, Shape(protected=1, volumes=(8,), pool=200, history=60))
    assert "Recovery VRA r1 is about to apply write 3 of VM 1 to the mirror disks, although checkpoint 2 is listed and "
    assert "although checkpoint 2 is listed and does not have it" in story.verdict


def test_listed_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    first_journal_lists(monkeypatch)

    def script(x: Recorder) -> None:
        write(x, 1)
        write(x, 2)
        x.tick("crm")
        x.clogged.add((H2, R1))  # type: ignore[arg-type]
        x.drain()

    story = broken(script, TWO)
    assert story.lines()[3] == "The connection from VRA h2 to recovery VRA r1 carried nothing."
    assert "checkpoint 1 is listed and a journal does not have it" in story.verdict.lower()
    assert "(crm:VRA h2>recovery VRA r1)" in story.verdict


def test_other_content_than_it_ought_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    ended_epoch_reached(monkeypatch)

    def script(x: Recorder) -> None:
        write(x, 1)
        x.tick("crm")
        x.arrive((MANAGER, H1))  # type: ignore[arg-type]
        x.arrive((H1, MANAGER))  # type: ignore[arg-type]
        x.break_link((H1, R1))  # type: ignore[arg-type]
        write(x, 1)
        x.renew((H1, R1))  # type: ignore[arg-type]
        x.drain()

    story = broken(script, ONE)
    assert story.broken is not None
    assert story.broken.prop == "P5"
    assert story.broken.why == (
        "Checkpoint 1 is VM 1 after write 1. Recovered from it now, sector 0 of the VM holds nothing; it ought to hold "
        "the data of write 1 of VM 1"
    )


def test_a_checkpoint_that_lacks_what_was_done_before_it_was_asked_for() -> None:
    x = Recorder(ONE)
    made = write(x, 1)
    x.tick("crm")
    x.drain()
    x.checks.cuts["crm", CheckpointId(1)] = {VmId(1): 0}
    seen = why(x, Violation("P5", "stale", vpg="crm", checkpoint=CheckpointId(1), vm=VmId(1)))
    assert seen.missing is made
    assert seen.why == (
        "Checkpoint 1 lacks write 1 of VM 1, which had been acknowledged at step 1, before the checkpoint was asked for"
    )


def test_the_core_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def tired(self: Explorer, rounds: int = 200) -> None:
        raise RuntimeError("enough")

    monkeypatch.setattr(Explorer, "drain", tired)
    story = recorded.__wrapped__(1)
    assert story.broken is not None
    assert story.broken.prop == "core"
    assert "core does not hold: the core raises no error" in story.verdict
    assert "RuntimeError: enough" in story.verdict


def test_the_steps_that_are_named_are_those(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole programs: the write is issued, and acknowledged, in the steps that the verdict names."""
    naive_marker(monkeypatch)
    stories = map(record, map(random_program, range(1000)))
    found = list(islice((story for story in stories if story.broken and story.broken.prop == "P4"), 5))
    assert len(found) == 5
    for story in found:
        assert story.broken is not None
        issued, acked = map(int, re.findall(r"at step (\d+)", story.broken.why))
        x, present, missing = story.x, story.broken.present, story.broken.missing
        assert present is not None
        assert missing is not None
        assert x.steps[issued - 1].first <= x.wrote(present).issued <= x.steps[issued - 1].last
        assert x.steps[acked - 1].first <= (x.wrote(missing).acked or 0) <= x.steps[acked - 1].last
        assert missing.guest.acked[missing.index - 1] < present.issued
        assert f"(write {present.index})" in told(x.steps[issued - 1]) or "in flight" in told(x.steps[issued - 1])


# -- kinds of programs --------------------------------------------------------------------------------------------


def test_a_program_that_holds_is_told_too() -> None:
    tale = tell("explorer", random_program(3))
    assert tale.holds
    assert tale.verdict.startswith("Every property held in these ")
    assert 0 < tale.healing < len(tale.lines)


def test_a_store_program_is_told_by_its_operations() -> None:
    tale = tell("store", bytes(10))
    assert tale.lines == ["Append", "Append"]
    assert tale.holds
    assert tale.story is None
    assert tale.verdict == "Every property held."


def test_what_only_the_hunter_sees_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from drsim.verify import hunt

    def differ(program: bytes) -> None:
        raise Violation("P10", "row by row it is otherwise")

    monkeypatch.setattr(hunt, "run_twins", differ)
    tale = tell("twins", random_program(3))
    assert not tale.holds
    assert tale.verdict.startswith("P10 does not hold: batch splitting")
    assert tale.verdict.endswith("Row by row it is otherwise.")
    assert len(tale.lines) > 20


# -- the diagram --------------------------------------------------------------------------------------------------


def numbers(picture: str) -> list[float]:
    return [float(n) for n in re.findall(r'(?:\bx|\by|cx|cy|width)="(-?[\d.]+)"', picture)]


def test_pictures_are_well_formed() -> None:
    for seed in SEEDS:
        root = ElementTree.fromstring(draw(recorded(seed)))
        assert root.get("width") == "1200"
        high = float(root.get("height", "0"))
        for rect in root.iter(f"{SVG}rect"):
            if rect.get("width") != "100%":
                x, y = float(rect.get("x", "nan")), float(rect.get("y", "nan"))
                assert 0 <= x < 1200
                assert 0 <= y < high
                assert 0 < float(rect.get("width", "nan")) <= 1200 - x + 10
        assert "nan" not in draw(recorded(seed))
        assert draw(recorded(seed)) == draw(recorded(seed))


def test_the_red_arrow_crosses_the_cut_the_wrong_way(monkeypatch: pytest.MonkeyPatch) -> None:
    naive_marker(monkeypatch)
    story = broken(open_cut, TWO)
    diagram = Diagram(story)
    picture = diagram.svg()
    assert story.broken is not None
    boxes = {(w.write.guest.vm, w.write.index): diagram.box(w) for w in story.x.writes}
    missing, present = boxes[VmId(1), 1], boxes[VmId(2), 2]
    held = story.x.held_at["crm", CheckpointId(1)]
    assert diagram.at(held[H1]) < missing[0]  # type: ignore[index]
    assert present[0] + present[2] < diagram.at(held[H2])  # type: ignore[index]
    assert missing[0] + missing[2] < present[0]
    start, end = (
        f"M{missing[0] + missing[2]:.1f} {missing[1] + 12:.1f} C",
        f" {present[0] - 1:.1f} {present[1] + 12:.1f}",
    )
    arrows = [line for line in picture.splitlines() if f'stroke="{pen.BAD}"' in line and "marker-end" in line]
    assert len(arrows) == 1
    assert start in arrows[0]
    assert f'{end}"' in arrows[0]
    for words in ("happened before", "not in the checkpoint", "in the checkpoint", "cut of checkpoint 1"):
        assert f">{words}<" in picture


@pytest.mark.parametrize(
    ("mutant", "script", "words"),
    [
        (everything_ages, age_all, "aged past checkpoint 2"),
        (early_ack, lambda x: (write(x, 1), flush(x, H1), x.arrive((H1, R1))), "in no journal"),
        (in_flight_forgotten, lambda x: (write(x, 1), flush(x, H1), x.break_link((H1, R1))), "nobody will send it"),
    ],
    ids=["P11", "P8", "P12"],
)
def test_what_is_broken_is_in_red(
    mutant: Callable[[pytest.MonkeyPatch], None], script: Callable[[Recorder], None], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    mutant(monkeypatch)
    picture = draw(broken(script, Shape(protected=1, volumes=(8,), pool=200, history=60)))
    (text,) = [e for e in ElementTree.fromstring(picture).iter(f"{SVG}text") if e.text == words]
    assert text.get("fill") == pen.BAD


def test_a_message_is_drawn_from_where_it_was_sent_to_where_it_arrived() -> None:
    x = Recorder(ONE)
    write(x, 1)
    flush(x, H1)
    x.arrive((H1, R1))  # type: ignore[arg-type]
    story = Story(x, None)
    diagram = Diagram(story)
    picture = diagram.svg()
    (frame,) = [c for c in x.carried if isinstance(c.message, Frame)]
    a, b = diagram.lanes[H1], diagram.lanes[R1]  # type: ignore[index]
    line = f"M{diagram.at(frame.sent):.1f} {a.middle + 3:.1f} L{diagram.at(frame.arrived):.1f} {b.middle - 3:.1f}"
    assert line in picture
    assert ">write 1 of VM 1<" in picture


def test_the_colours_are_those_of_the_house() -> None:
    assert (pen.INK, pen.SOFT, pen.FAINT, pen.GRID) == (style.INK, style.SOFT, style.FAINT, style.GRID)
    assert (style.BAD, style.FAULT_INK, style.SERIES[3]) == (pen.BAD, pen.FAULT_INK, pen.CUT)
    assert {"data": pen.DATA_INK, "sync": pen.SYNC_INK, "control": pen.CONTROL_INK} == style.KINDS_INK
    assert (style.KINDS["data"], style.FONTS) == (pen.DATA, pen.FONTS)
