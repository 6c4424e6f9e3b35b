"""`drsim verify` and `drsim replay`, as a user meets them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drsim.cli.main import app
from drsim.core.errors import FileError
from drsim.verify.mutants import BY_NAME
from drsim.verify.program import random_program
from drsim.verify.swarm import play_batch
from drsim.verify.token import Token

runner = CliRunner()


def test_a_short_run_says_what_was_done() -> None:
    done = runner.invoke(app, ["verify", "--programs", "60", "--workers", "1"])
    assert done.exit_code == 0, done.output
    for word in ("programs", "steps", "distinct states", "properties", "probes hit", "no violation"):
        assert word in done.output


def test_the_figures_as_json() -> None:
    done = runner.invoke(app, ["verify", "--programs", "60", "--workers", "2", "--seed", "5", "--json"])
    figures = json.loads(done.stdout)
    assert (done.exit_code, figures["programs"], figures["first_seed"], figures["violations"]) == (0, 60, 5, [])
    assert figures["steps"] > 5000
    assert figures["probes_missed"] == []


def test_seconds_and_programs_exclude_each_other() -> None:
    done = runner.invoke(app, ["verify", "--programs", "5", "--seconds", "1"])
    assert isinstance(done.exception, FileError)
    assert "both given" in str(done.exception)


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    done = runner.invoke(app, ["verify", "--programs", "5", "--scheduler", "tcp://127.0.0.1:1"])
    assert isinstance(done.exception, FileError)
    assert "drsim[cluster]" in str(done.exception)


def test_a_clean_token_is_replayed() -> None:
    done = runner.invoke(app, ["replay", str(Token("explorer", random_program(1)))])
    assert done.exit_code == 0
    assert "no violation" in done.output


def test_a_failing_token_is_replayed_and_traced() -> None:
    with BY_NAME["naive-marker"].patch():
        (found,) = play_batch("explorer", 0, count=60).found
        done = runner.invoke(app, ["replay", found.token, "--trace"])
    assert done.exit_code == 1
    assert "P4 does not hold" in done.output
    assert "west/vpg/crm" in done.output


def test_a_broken_token_is_bad_input() -> None:
    done = runner.invoke(app, ["replay", "dr1.explorer"])
    assert isinstance(done.exception, FileError)


def test_found_tokens_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BY_NAME["naive-marker"].patch():
        tally = play_batch("explorer", 0, count=60)
    monkeypatch.setattr("drsim.cli.verify.swarm", lambda *_, **__: tally)
    done = runner.invoke(app, ["verify", "--programs", "60", "--workers", "1", "--save", str(tmp_path / "found")])
    assert done.exit_code == 1
    (saved,) = (tmp_path / "found").iterdir()
    assert saved.read_text().strip() == tally.found[0].token
    assert "drsim replay" in done.output
