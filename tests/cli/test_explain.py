"""`drsim explain` tells the story of a token, draws it, and says what is wrong with a token that is none."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner
from verify.test_litmus import naive_marker

from drsim.cli.main import program
from drsim.core.errors import FileError
from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.program import random_program
from drsim.verify.token import Token

app = program()

runner = CliRunner()


def test_a_clean_token_is_told_and_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "new" / "story.svg"
    found = runner.invoke(app, ["explain", str(Token("explorer", random_program(3))), "--svg", str(picture)])
    assert found.exit_code == 0
    lines = found.stdout.splitlines()
    assert lines[0].startswith("explorer program of 120 operations, written by drsim ")
    assert "VPG crm: VM 1 on h1" in found.stdout
    assert "From here on nothing breaks any more" in found.stdout
    assert "Every property held in these " in found.stdout
    assert lines[-1] == f"{picture}: the time diagram"
    assert max(map(len, lines[:-1])) <= 110
    assert ElementTree.parse(picture).getroot().get("width") == "1200"


def test_a_violation_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    naive_marker(monkeypatch)
    hunter = HUNTERS["explorer"]
    verdicts = ((n, judge(hunter, random_program(n))) for n in range(200))
    seed = next(n for n, verdict in verdicts if verdict and verdict.prop == "P4")
    found = runner.invoke(app, ["explain", str(Token("explorer", random_program(seed)))])
    assert found.exit_code == 0
    said = " ".join(found.stdout.split())
    assert "P4 does not hold: consistent cut: with a write, a checkpoint has every write" in said
    assert "Whoever issued the one could have known of the other" in said


def test_a_store_token_is_told_and_not_drawn(tmp_path: Path) -> None:
    token = str(Token("store", bytes(10)))
    found = runner.invoke(app, ["explain", token])
    assert found.exit_code == 0
    assert "1. Append\n2. Append\n" in found.stdout
    refused = runner.invoke(app, ["explain", token, "--svg", str(tmp_path / "x.svg")])
    assert isinstance(refused.exception, FileError)
    assert "no time diagram" in str(refused.exception)
    assert not (tmp_path / "x.svg").exists()


def test_a_cut_token_is_an_error() -> None:
    found = runner.invoke(app, ["explain", str(Token("explorer", random_program(3)))[:-5]])
    assert isinstance(found.exception, FileError)
