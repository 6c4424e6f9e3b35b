"""Sequence diagrams show every message and note of a scene, in order, in words that can be read."""

import os
import re
import subprocess
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conversation import scene

from drsim.verify.pen import FAULT_INK, HOLD, LETTER
from drsim.verify.sequence import INKS, WIDTH, Kind, Lifeline, Saying, Scene, draw, wrapped

GOLDEN = {path.stem: path for path in sorted((Path(__file__).parent.parent / "golden").glob("*.txt"))}
SVG = "{http://www.w3.org/2000/svg}"
A, B, C = Lifeline("a", "one", "here"), Lifeline("b", "two", "here"), Lifeline("c", "three", "there")
Box = tuple[float, float, float, float]


@cache
def golden(name: str) -> Scene:
    return scene(GOLDEN[name].read_text(encoding="utf-8"), name)


def elements(of: Scene, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(draw(of)).iter(SVG + tag))


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.get(name, "nan"))


def arrows(of: Scene) -> list[ElementTree.Element]:
    """Lines with a head, without those of the legend."""
    lines = [path for path in elements(of, "path") if (path.get("marker-end") or "").startswith("url(#head-")]
    kinds = {saying.kind for saying in of.sayings} & INKS.keys()
    return lines[: len(lines) - len(kinds)]


def ends(path: ElementTree.Element) -> tuple[float, float, float]:
    """Where a level line begins and ends, and its height."""
    found = re.fullmatch(r"M(\S+) (\S+) L(\S+) (\S+)", path.get("d", ""))
    assert found is not None
    a, y, b, same = map(float, found.groups())
    assert y == same
    return a, b, y


def box(text: ElementTree.Element) -> Box:
    size, said = number(text, "font-size"), text.text or ""
    width = len(said) * size * LETTER
    left = number(text, "x") - {"start": 0, "middle": width / 2}[text.get("text-anchor", "")]
    return left, number(text, "y") - size * 0.8, left + width, number(text, "y") + size * 0.1


@pytest.mark.parametrize("name", GOLDEN)
def test_all_that_is_said_can_be_read(name: str) -> None:
    texts = elements(golden(name), "text")
    said = " ".join(text.text or "" for text in texts)
    assert all(saying.words in said for saying in golden(name).sayings)
    boxes = [(text.text, box(text)) for text in texts]
    assert all(left > 0 and right < WIDTH for _, (left, _, right, _) in boxes)
    for (one, (a, b, c, d)), (other, (e, f, g, h)) in combinations(boxes, 2):
        assert c < e or g < a or d < f or h < b, f"{one!r} lies over {other!r}"


@pytest.mark.parametrize("name", GOLDEN)
def test_every_message_has_its_arrow_from_one_lifeline_to_another(name: str) -> None:
    of = golden(name)
    heads = {t.text: number(t, "x") for t in elements(of, "text") if t.get("font-weight") == "600"}
    came = [saying for saying in of.sayings if saying.kind in INKS and not saying.lost]
    drawn = [ends(path) for path in arrows(of)]
    assert len(drawn) == len(came)
    for saying, (a, b, _) in zip(came, drawn, strict=True):
        assert abs(b - heads[saying.to]) < 2
        assert abs(a - heads[saying.sender]) < 14
        assert (b > a) == (heads[saying.to] > heads[saying.sender])
    heights = [y for _, _, y in drawn]
    assert heights == sorted(set(heights)), "time runs down, one row each"
    crosses = [path for path in elements(of, "path") if (path.get("d") or "").count("M") == 2]
    assert len(crosses) == sum(saying.lost for saying in of.sayings)


SCRIPT = """
import sys
from pathlib import Path
from conversation import scene
from drsim.verify.sequence import draw
print(draw(scene(Path(sys.argv[1]).read_text(encoding="utf-8"), "hold_budget")), end="")
"""


def test_the_same_in_every_process() -> None:
    for seed in ("1", "4242"):
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", SCRIPT, str(GOLDEN["hold_budget"])]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert done.stdout == draw(golden("hold_budget"))


# -- by hand ------------------------------------------------------------------------------------------------------


def by_hand(*sayings: Saying) -> Scene:
    return Scene("by hand", (A, B, C), sayings)


def test_a_message_that_waited_shows_since_when() -> None:
    quick = Saying(2, "a", "b", "quick", Kind.CONTROL, sent=1)
    late = Saying(9, "a", "c", "late", Kind.DATA, sent=1)
    notes = [Saying(time, "a", "a", f"note {time}") for time in (1, 4, 5, 6)]
    scene_ = by_hand(notes[0], quick, *notes[1:], late)
    (ring,) = elements(scene_, "circle")
    assert ring.get("stroke") == INKS[Kind.DATA]
    rows = {text.text: number(text, "y") for text in elements(scene_, "text")}
    assert rows["note 1"] < number(ring, "cy") < rows["note 4"], "it left where its sender had done what it did at 1"
    assert rows["late"] > rows["note 6"]


def test_what_lasts_is_shown_as_long_as_it_does() -> None:
    scene_ = by_hand(
        Saying(1, "a", "a", "held", Kind.HOLD), Saying(2, "b", "b", "in between"),
        Saying(3, "a", "a", "", Kind.RELEASE), Saying(4, "b", "b", "after"), Saying(5, "b", "c", "lost", Kind.APART),
    )  # fmt: skip
    rows = {text.text: number(text, "y") for text in elements(scene_, "text")}
    (band,) = (r for r in elements(scene_, "rect") if r.get("fill") == HOLD and r.find(SVG + "title") is not None)
    top, bottom = number(band, "y"), number(band, "y") + number(band, "height")
    assert top < rows["held"] < rows["in between"] < bottom < rows["after"]
    dotted = [p.get("d", "") for p in elements(scene_, "path") if p.get("stroke") == FAULT_INK]
    assert len(dotted) == 2, "the connection stays lost, at both ends"
    assert all(float(path.rpartition(" ")[2]) > rows["lost"] for path in dotted)


def test_a_chapter_is_a_scene_with_what_still_lasts() -> None:
    whole = by_hand(
        Saying(1, "a", "a", "down", Kind.DOWN), Saying(2, "b", "b", "held", Kind.HOLD),
        Saying(3, "b", "b", "", Kind.RELEASE), Saying(3, "", "", "the second", Kind.CHAPTER),
        Saying(4, "b", "c", "on", Kind.CONTROL, sent=3), Saying(5, "", "", "the third", Kind.CHAPTER),
        Saying(6, "a", "a", "up", Kind.UP),
    )  # fmt: skip
    assert whole.chapters == ("the second", "the third")
    assert whole.chapter(0).title == "by hand"
    second = whole.chapter(1)
    assert second.title == "the second"
    assert [(s.kind, s.sender, s.words) for s in second.sayings] == [(Kind.DOWN, "a", ""), (Kind.CONTROL, "b", "on")]
    assert [s.words for s in whole.chapter(2).sayings] == ["", "up"]
    assert [text.text for text in elements(second, "text")].count("down") == 0
    with pytest.raises(IndexError):
        whole.chapter(3)


def test_only_those_who_take_part_have_a_lifeline() -> None:
    scene_ = by_hand(Saying(1, "a", "b", "hello", Kind.CONTROL))
    texts = [text.text for text in elements(scene_, "text")]
    assert "a" in texts
    assert "b" in texts
    assert "c" not in texts
    assert "THERE" not in texts


def test_a_scene_needs_somebody_and_knows_everybody() -> None:
    with pytest.raises(ValueError, match="nobody in 'by hand' says anything"):
        draw(by_hand())
    with pytest.raises(ValueError, match="no lifeline for d, e"):
        draw(by_hand(Saying(1, "e", "d", "hello", Kind.DATA), Saying(2, "a", "a", "hello")))


def test_words_are_wrapped_evenly() -> None:
    assert wrapped("one two three four", 13) == ["one two", "three four"]
    assert wrapped("one two three four", 30) == ["one two three four"]
    assert wrapped("one DisconnectedFromPeer two", 6) == ["one", "DisconnectedFromPeer", "two"]
    assert wrapped("", 5) == [""]


def test_words_longer_than_their_arrow_have_several_lines() -> None:
    words = "words that are rather longer than the way from one lifeline to the next, far longer"
    scene_ = by_hand(Saying(1, "a", "b", words, Kind.CONTROL), Saying(2, "a", "c", words, Kind.CONTROL))
    near, far = (ends(arrow) for arrow in arrows(scene_))
    parts = [text for text in elements(scene_, "text") if (text.text or "?") in words and len(text.text or "") > 3]
    narrow = [part for part in parts if number(part, "y") < near[2]]
    assert " ".join(part.text or "" for part in narrow) == words
    assert all(near[0] < left and right < near[1] for left, _, right, _ in map(box, narrow))
    assert [part.text for part in parts if part not in narrow] == [words]
    assert all(near[2] < number(part, "y") < far[2] for part in parts if part not in narrow)


def test_words_that_could_be_markup_stay_words() -> None:
    scene_ = by_hand(Saying(1, "a", "b", "<hold> & 'release'", Kind.CONTROL))
    assert "<hold> & 'release'" in [text.text for text in elements(scene_, "text")]
