"""Golden conversations: what the machines say to each other in the situations that matter, readable as a diff.

`pytest --rewrite-golden` writes what they say now. Look at the diff before you commit it.
"""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conversation import replay, scene

from drsim.verify.mutants import BY_NAME
from drsim.verify.sequence import INKS as MESSAGES
from drsim.verify.sequence import Kind, Saying, draw
from drsim.verify.violation import Violation

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", GOLDEN, ids=[p.stem for p in GOLDEN])
def test_conversation(path: Path, rewrite_golden: bool) -> None:
    written = path.read_text(encoding="utf-8")
    assert written.startswith("# "), "say first why this conversation is kept"
    found = replay(written)
    if rewrite_golden:
        path.write_text(found, encoding="utf-8")
    assert found.splitlines() == written.splitlines() or rewrite_golden


@pytest.mark.parametrize("path", GOLDEN, ids=[p.stem for p in GOLDEN])
def test_as_data_it_is_the_same_conversation(path: Path) -> None:
    """Every message that arrives in the text does so in the data, in that order and in those words."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^  (\S+) +<- (\S+): (.*)$", replay(text), re.MULTILINE)
    messages = [s for s in scene(text, path.stem).sayings if s.kind in MESSAGES and not s.lost]
    assert [(s.to, s.sender, s.words) for s in messages] == found
    assert all(s.sent is not None and s.sent < s.time for s in messages)


def test_notes_and_spans_are_told_as_data() -> None:
    text = (GOLDEN[0].parent / "crash_of_a_protected_vra.txt").read_text(encoding="utf-8")
    told = scene(text, "a crash")
    assert [(line.name, line.role) for line in told.lifelines] == [
        ("h1", "protected VRA"), ("manager", "protected manager"), ("catalog", "catalogue"), ("r1", "recovery VRA"),
    ]  # fmt: skip
    last = told.sayings[-1]
    assert last == Saying(last.time, "manager", "manager", "state MeetingSLA, None", Kind.STATE)
    notes = [(s.kind, s.sender, s.words) for s in told.chapter(1).sayings if s.kind not in MESSAGES][:5]
    assert notes == [
        (Kind.WRITE, "h1", "wrote vm1 8+8"), (Kind.DOWN, "h1", "down"), (Kind.WRITE, "h1", "wrote vm1 16+2"),
        (Kind.UP, "h1", "up again"),
        (Kind.STATE, "h1", "delta sync begins, 36 sectors dirty: protected VRA congestion"),
    ]  # fmt: skip
    assert not any(s.lost for s in told.sayings), "what it asked before it was connected was never on its way"


def test_what_is_shown_twice_did_not_change() -> None:
    told = scene((GOLDEN[0].parent / "sync_window_fills_journal.txt").read_text(encoding="utf-8"), "full")
    states = [s.words for s in told.sayings if s.words.startswith("state")]
    assert len(states) > 5
    assert all(a != b for a, b in pairwise(states))
    assert Kind.HOLD not in {s.kind for s in told.sayings}, "let go at once, with no word to anybody between"


def test_what_lasts_begins_and_ends() -> None:
    text = (GOLDEN[0].parent / "link_lost.txt").read_text(encoding="utf-8")
    whole = scene(text, "the link")
    assert whole.chapters == ("The link is back.",)
    (begin, end) = (s for s in whole.sayings if s.kind in (Kind.APART, Kind.TOGETHER))
    assert (begin.kind, begin.sender, begin.to, end.kind) == (Kind.APART, "h1", "r1", Kind.TOGETHER)
    lost = [s.words for s in whole.sayings if s.lost]
    assert lost == ["frame 1..2 [vm1 8+8]", "ack 1"]
    text = (GOLDEN[0].parent / "first_checkpoint_over_two_vras.txt").read_text(encoding="utf-8")
    held = [(s.kind, s.sender) for s in scene(text, "holds").sayings if s.kind in (Kind.HOLD, Kind.RELEASE)]
    assert held == [(Kind.HOLD, "h1"), (Kind.HOLD, "h2"), (Kind.RELEASE, "h1"), (Kind.RELEASE, "h2")]


def test_in_the_end_everything_must_be_well() -> None:
    """Whatever a text says, nothing may be wrong in the end that the text does not show."""
    text = "# why\n> estate protected=1\n> crash h1\n"
    replay(text)
    with BY_NAME["full-sync-never-starts"].patch(), pytest.raises(Violation, match="stuck"):
        replay(text)


def test_several_vpgs_are_told_apart() -> None:
    text = "# why\n> estate protected=1 vpgs=2\n> tick erp\n> deliver all\n> status\n"
    lines = replay(text).splitlines()
    assert "  manager-erp timer checkpoint" in lines
    assert "  catalog-erp <- manager-erp: sealed 1 at 0" in lines
    assert [line.split(";")[1] for line in lines if line.startswith(("  crm: ", "  erp: "))] == [
        " checkpoints listed: none", " checkpoints listed: 1",
    ]  # fmt: skip
    told = [line.name for line in scene(text, "two").lifelines]
    assert told == ["h1", "manager-crm", "manager-erp", "catalog-crm", "catalog-erp", "r1"]


def test_there_are_some() -> None:
    assert len(GOLDEN) >= 8


def test_an_unknown_command_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such command: dance r1"):
        replay("# why\n> estate protected=1\n> dance r1\n")


# -- the pictures of the guides ---------------------------------------------------------------------------------------

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURES = {
    "sync-initial": ("initial_sync", 0, "Initial sync: a new VPG"),
    "sync-preseeded": ("preseeded_start", 0, "Initial sync of disks that were brought there before"),
    "sync-volume-initial": ("vm_added", 1, ""),
    "sync-bitmap": ("link_lost", 1, "Bitmap sync: the link is back"),
    "sync-delta": ("crash_of_a_protected_vra", 1, "Delta sync: a frame is on its way, and the protected VRA dies"),
    "sync-volume-delta": ("vmotion", 2, "Volume delta sync: the inventory says that a VM has moved"),
    "sync-forced": ("forced_delta_sync", 1, "Forced sync: an operator distrusts the other side"),
    "sync-full": ("forced_full_sync", 1, "Full sync: an operator wants everything sent"),
    "sync-volume-added": ("volume_added", 1, "Volume initial sync: a VM has another disk"),
    "sync-retargeted": ("another_recovery_host", 1, "Volume initial sync: another recovery host"),
    "volume-missing": ("volume_missing", 1, "A protected disk goes missing"),
    "volume-found": ("volume_missing", 2, "and is back"),
    "sync-paused": ("pause_and_resume", 1, "An operator pauses replication"),
    "sync-resumed": ("pause_and_resume", 2, "and resumes it"),
    "fence": ("back_from_the_dead", 0, "The source is fenced and cannot be told"),
    "back-from-the-dead": ("back_from_the_dead", 1, "It is back from the dead"),
    "rolled-back": ("back_from_the_dead", 2, "and goes on, if the operation is rolled back"),
    "application-consistent": ("application_consistent", 1, "A checkpoint with applications at rest"),
}
"""Of each picture, the golden conversation, its chapter, and a title if the chapter's own will not do."""


@pytest.mark.parametrize("name", PICTURES)
def test_the_guides_show_what_is_said_now(name: str, rewrite_golden: bool) -> None:
    golden, chapter, title = PICTURES[name]
    told = scene((GOLDEN[0].parent / f"{golden}.txt").read_text(encoding="utf-8"), golden).chapter(chapter)
    drawn = draw(replace(told, title=title or told.title))
    path = IMAGES / f"{name}.svg"
    if rewrite_golden:
        path.write_text(drawn, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == drawn, "pytest --rewrite-golden draws it anew"


def test_each_picture_is_in_a_guide() -> None:
    guides = "".join(path.read_text(encoding="utf-8") for path in (IMAGES.parent / "guides").glob("*.md"))
    assert {name for name in PICTURES if f"../images/{name}.svg" not in guides} == set()
