"""Experiments: each one of the folder runs and holds, its README says what comes out, and what is wrong is said."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from drsim.core.errors import FileError
from drsim.study.experiment import BEGIN, END, experiments, find, read, run, table, with_table
from drsim.study.formula import quantity, value
from drsim.study.panels import picture
from drsim.study.results import measures
from drsim.study.style import words

ROOT = Path(__file__).parents[2] / "experiments"
FOLDERS = experiments(ROOT)
QUANTITY = re.compile(r"\d[\d.,\u202f]* (?:TB|GB|MB|kB|GiB|Mbit/s|%|h|min|s)\b(?: \d+ (?:min|s)\b)*")
MODEL = "extends: {one_vm}\nrun: {{until: 1 min}}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_each_of_the_folder_holds_says_so_and_shows_it(name: str, tmp_path: Path) -> None:
    """One test, so that each experiment is run once."""
    done = run(read(FOLDERS[name]))
    assert not [f"{v.what} ({v.arm}): {v.measured}, expected {v.expected}" for v in done.verdicts if not v.holds]

    readme = (FOLDERS[name] / "README.md").read_text()
    assert readme == with_table(readme, done)
    answer = " ".join(readme.partition("**Answer.**")[2].partition("\n\n")[0].split())
    known = table(done) + (FOLDERS[name] / "expect.yaml").read_text()
    stale = [text for text in QUANTITY.findall(answer) if not re.search(rf"(?<![\d.]){re.escape(text)}\b", known)]
    assert not stale
    assert len(QUANTITY.findall(answer)) >= 2

    made, kept = tmp_path / "picture.png", FOLDERS[name] / "picture.png"
    picture(done, made)
    assert made.read_bytes()[:8] == kept.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert kept.stat().st_size < 120_000
    assert kept.read_bytes()[16:24] == made.read_bytes()[16:24]  # width and height: the same panels


@pytest.mark.parametrize("name", FOLDERS)
def test_each_of_the_folder_is_in_the_index(name: str) -> None:
    question = " ".join(
        (FOLDERS[name] / "README.md").read_text().partition("**Question.** ")[2].partition("\n\n")[0].split()
    )
    assert f"| [{name}]({name}/README.md) | {question} |" in (ROOT / "README.md").read_text()


# -- a small experiment of our own ----------------------------------------------------------------------------------


def write(folder: Path, expect: str, model: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "expect.yaml").write_text(expect)
    (folder / "model.yaml").write_text(MODEL.format(one_vm=ROOT / "one-vm.yaml") + model)
    return folder


GOOD = """question: How much is written in a minute?
given:
  r: 100 * 8192
figures:
  - what: journal
    measure: vpgs.app.journal.peak_bytes
    expected: r * 60
    tolerance: 5 %
    source: rate times time
"""


def test_a_sound_experiment_holds_and_a_wrong_expectation_does_not(tmp_path: Path) -> None:
    good = run(read(write(tmp_path / "good", GOOD)))
    assert good.holds
    assert [v.holds for v in good.verdicts] == [True, True]
    bad = run(read(write(tmp_path / "bad", GOOD.replace("r * 60", "r * 66"))))
    assert not bad.holds
    assert [v.holds for v in bad.verdicts] == [False, True]


def test_within_is_a_quantity_and_nothing_said_is_exact(tmp_path: Path) -> None:
    near = GOOD.replace("tolerance: 5 %", "within: 1 MB")
    assert run(read(write(tmp_path / "near", near))).holds
    assert not run(read(write(tmp_path / "exact", GOOD.replace("    tolerance: 5 %\n", "").replace("60", "61")))).holds
    figure = run(read(write(tmp_path / "near", near))).verdicts[0]
    assert not replace(figure, measured=figure.expected + 1_000_100).holds
    assert replace(figure, measured=figure.expected - 999_900).holds


def test_a_cause_that_nobody_expects_makes_it_red(tmp_path: Path) -> None:
    alert = "vpgs: {app: {rpo_alert: 2 s}}\n"
    found = run(read(write(tmp_path / "unexplained", GOOD, alert)))
    (unexpected,) = [v for v in found.verdicts if not v.holds]
    assert unexpected.measure == "vpgs.app.causes_s.network congestion"
    assert unexpected.measured > 10
    named = GOOD + (
        "  - {what: missed, measure: vpgs.app.causes_s.network congestion, expected: 30 s, within: 15 s, source: s}\n"
    )
    assert run(read(write(tmp_path / "explained", named, alert))).holds


def test_causes_add_up_to_what_was_missed() -> None:
    found = measures(run(read(FOLDERS["vra-reboot"])).runs["protected"])
    causes = {name: s for name, s in found.items() if name.startswith("vpgs.app.causes_s.")}
    assert len(causes) == 2
    assert sum(causes.values()) == pytest.approx(found["vpgs.app.sla.missed_s"])


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("r * 60", "q * 60", 7, "figures.0.expected: nothing is called 'q' (given: r)"),
        ("r * 60", "r *", 7, "neither a quantity nor a formula"),
        ("r * 60", "open('x')", 7, "is not allowed"),
        ("r * 60", "r / 0", 7, "has no value"),
        ("100 * 8192", "10 parsecs", 3, "given.r: '10 parsecs' is neither a quantity nor a formula"),
        ("tolerance", "tolerence", 8, "unknown field; did you mean 'tolerance'?"),
        ("tolerance: 5 %", "arm: other", 8, "no arm is called 'other'"),
        ("tolerance: 5 %", "tolerance: -5 %", 8, "greater than or equal to 0"),
        (
            "tolerance: 5 %",
            "tolerance: 5 %\n    within: 1 s",
            5,
            "say `tolerance` (a share) or `within`",
        ),
        ("    source: rate times time\n", "", 5, "figures.0.source: is missing"),
        ("question: How much is written in a minute?\n", "", 1, "question: is missing"),
    ],
)
def test_errors_name_file_line_and_cause(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    with pytest.raises(FileError) as caught:
        read(write(tmp_path / "wrong", GOOD.replace(old, new)))
    assert f"expect.yaml:{line}" in str(caught.value)
    assert says in str(caught.value)


def test_an_unknown_measure_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"expect.yaml:6: figures.0.measure: the run has no measure .*did you mean"):
        run(read(write(tmp_path / "wrong", GOOD.replace("peak_bytes", "peek_bytes"))))


def test_names_are_found_and_a_wrong_one_is_said(tmp_path: Path) -> None:
    assert find("wan-cut", ROOT) == ROOT / "wan-cut"
    assert find(str(ROOT / "wan-cut"), tmp_path) == ROOT / "wan-cut"
    with pytest.raises(FileError, match="no experiment is called 'wan-cat'; did you mean 'wan-cut'"):
        find("wan-cat", ROOT)
    with pytest.raises(FileError, match=r"no folder in it has expect.yaml"):
        experiments(tmp_path)
    with pytest.raises(FileError, match=r"has no expect.yaml"):
        find(str(tmp_path), ROOT)


def test_a_readme_without_a_place_for_the_figures() -> None:
    done = run(read(FOLDERS["vra-reboot"]))
    assert with_table(f"a\n{BEGIN}\nold\n{END}\nz\n", done).startswith(f"a\n{BEGIN}\n\n| figure |")
    with pytest.raises(FileError, match="no place for the figures"):
        with_table(f"a\n{BEGIN}\n", done)


# -- formulas and words ---------------------------------------------------------------------------------------------


def test_formulas_and_quantities() -> None:
    assert quantity("1 h") == 3600
    assert quantity("8 KiB") == 8192
    assert quantity("20 Mbit/s") == 2.5e6
    assert quantity("5 %") == 0.05
    assert quantity("x") is None
    assert value("2 * (a + 1) ** 2 - min(a, 10) / 2", {"a": 3.0}) == 30.5
    assert value("-exp(log(a))", {"a": 3.0}) == pytest.approx(-3)
    for text in ("a.b", "a[0]", "lambda: 1", "a if a else 1", "True", "'x'", "exp(a, b=1)", "9 ** 999 ** 9.0"):
        with pytest.raises(ValueError, match=r"is not allowed|no number|no value|nothing is called"):
            value(text, {"a": 3.0})


def test_words_have_the_unit_of_the_measure() -> None:
    assert words("vpgs.a.rpo_s.max", 4106) == "1 h 8 min 26 s"
    assert words("vpgs.a.causes_s.network congestion", 7200) == "2 h"
    assert words("wan.wan a>b.bytes.sync", 2e9) == "2 GB"
    assert words("wan.wan a>b.peak_bps", 2e7) == "20 Mbit/s"
    assert words("vpgs.a.sync.ended", 15) == "15"
