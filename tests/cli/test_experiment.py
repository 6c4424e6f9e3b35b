"""`drsim experiment`: what it prints, what it writes, and how it ends."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drsim.cli.main import program
from drsim.core.errors import FileError

app = program()

ONE_VM = Path(__file__).parents[2] / "experiments" / "one-vm.yaml"
EXPECT = """question: How much is written in a minute?
figures:
  - {what: journal, measure: vpgs.app.journal.peak_bytes, expected: 100 * 8192 * 60, tolerance: 5 %, source: arithmetic}
"""
README = "# A minute\n\n<!-- figures: drsim experiment -->\n<!-- end of figures -->\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one experiment."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "experiments" / "minute"
    made.mkdir(parents=True)
    (made / "expect.yaml").write_text(EXPECT)
    (made / "model.yaml").write_text(f"extends: {ONE_VM}\nrun: {{until: 1 min}}\n")
    (made / "README.md").write_text(README)
    return made


def test_it_judges_and_makes_table_and_picture_new(folder: Path) -> None:
    done = CliRunner().invoke(app, ["experiment"])
    assert done.exit_code == 0
    assert "How much is written in a minute?" in done.output
    assert "holds" in done.output
    readme = (folder / "README.md").read_text()
    assert "| journal | 49.2 MB |" in readme
    assert (folder / "picture.png").stat().st_size > 1000
    again = (folder / "picture.png").read_bytes()
    assert CliRunner().invoke(app, ["experiment", "minute"]).exit_code == 0
    assert (folder / "README.md").read_text() == readme
    assert (folder / "picture.png").read_bytes() == again


def test_out_of_tolerance_ends_with_1(folder: Path) -> None:
    (folder / "expect.yaml").write_text(EXPECT.replace("60", "66"))
    done = CliRunner().invoke(app, ["experiment", "minute"])
    assert done.exit_code == 1
    assert "OUT" in done.output


def test_json_and_out_leave_the_folder_alone(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["experiment", str(folder), "--json", "--out", str(tmp_path / "pictures")])
    assert done.exit_code == 0
    (told,) = json.loads(done.output)
    assert told["experiment"] == "minute"
    assert told["holds"] is True
    assert told["figures"][0]["measured"] == pytest.approx(49.2e6, rel=0.05)
    assert (tmp_path / "pictures" / "minute.png").exists()
    assert (folder / "README.md").read_text() == README
    assert not (folder / "picture.png").exists()


def test_measures_are_listed(folder: Path) -> None:
    done = CliRunner().invoke(app, ["experiment", "minute", "--measures"])
    assert done.exit_code == 0
    assert "run\tvpgs.app.rpo_s.max\t" in done.output
    assert not (folder / "picture.png").exists()


def test_a_wrong_name_or_place_is_an_error(folder: Path) -> None:
    for arguments in (["experiment", "hour"], ["experiment", "minute", "--out", str(folder / "README.md")]):
        found = CliRunner().invoke(app, arguments)
        assert isinstance(found.exception, FileError)
