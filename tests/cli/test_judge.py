"""`drsim judge`: what it prints, its JSON, its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from drsim.cli.judge import judge
from drsim.core.errors import FileError

DRSIM = Path(sys.executable).parent / "drsim"


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(judge)
    return made


@pytest.fixture(autouse=True)
def example(app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example history in the current directory."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--example", "h.jsonl"])
    assert result.exit_code == 0, result.output
    assert result.output == "h.jsonl: three recovery points of two VMs. Next: drsim judge h.jsonl\n"


def keep(*names: str) -> None:
    """Leave only some checkpoints in the history."""
    rows = [json.loads(line) for line in Path("h.jsonl").read_text().splitlines()]
    kept = [r for r in rows if r.get("checkpoint", r["name"] if r["kind"] == "checkpoint" else names[0]) in names]
    Path("h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))


def test_the_guide_prints_what_it_prints(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["h.jsonl"])
    assert result.exit_code == 1
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "judge.md").read_text()
    for line in result.output.splitlines():
        assert line.rstrip() in guide


def test_exit_0_when_all_points_are_consistent(app: typer.Typer) -> None:
    keep("with barrier")
    result = CliRunner().invoke(app, ["h.jsonl"])
    assert result.exit_code == 0
    assert result.output.endswith("1 of 1 recovery points reach the level that they must.\n")


def test_the_level_that_must_be_reached(app: typer.Typer) -> None:
    keep("with barrier", "VM by VM")
    assert CliRunner().invoke(app, ["h.jsonl"]).exit_code == 1
    assert CliRunner().invoke(app, ["h.jsonl", "--level", "l0"]).exit_code == 0
    result = CliRunner().invoke(app, ["h.jsonl", "--level", "L3"])
    assert result.exit_code == 1
    assert "with barrier: no VM was frozen for it.\n" in result.output
    with pytest.raises(FileError, match="no level is called 'L9'"):
        CliRunner().invoke(app, ["h.jsonl", "--level", "L9"], catch_exceptions=False)


def test_writes_from_after_the_points_time_are_told(app: typer.Typer) -> None:
    keep("VM by VM")
    Path("h.jsonl").write_text(Path("h.jsonl").read_text().replace("4500000000", "4000000000"))
    result = CliRunner().invoke(app, ["h.jsonl"])
    assert "VM by VM: it has writes issued up to 0.2 s after its time.\n" in result.output


def test_json_is_one_stable_document(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["h.jsonl", "--json"])
    assert result.exit_code == 1
    said = json.loads(result.output)
    assert list(said) == ["version", "consistent", "points"]
    assert said["version"] == 1
    assert said["consistent"] is False
    good, bad, half = said["points"]
    assert good == {
        "name": "with barrier", "time_ns": 3_000_000_000, "consistent": True, "level": "L2",
        "reached": ["L0", "L1", "L2"], "cut": {"db": {"writes": 2, "of": 4}, "web": {"writes": 1, "of": 2}},
        "loss": {"ns": 0, "writes": 0}, "ahead_ns": 0, "reason": None, "witness": None,
    }  # fmt: skip
    assert bad["loss"] == {"ns": 396_000_000, "writes": 1}
    assert bad["witness"]["kind"] == "no consistent cut"
    assert bad["witness"]["present"] == {
        "vm": "web", "write": 2, "disk": "0", "lba": 64, "sectors": 2,
        "issue_ns": 4_200_000_000, "ack_ns": 4_203_000_000,
    }  # fmt: skip
    assert half["cut"] is None
    assert half["witness"]["at"] == {
        "vm": "db", "disk": "0", "lba": 4101, "holds": "what was there before any write",
    }  # fmt: skip


def test_an_example_replaces_nothing(app: typer.Typer) -> None:
    with pytest.raises(FileError, match="there is a file already"):
        CliRunner().invoke(app, ["--example", "h.jsonl"], catch_exceptions=False)


def test_bad_input_exits_2_with_the_line_on_stderr() -> None:
    with Path("h.jsonl").open("a") as file:
        file.write('{"kind": "write", "vm": "db", "lba": 1, "sectors": 1, "issue": 7, "ack": 3}\n')
    done = subprocess.run([DRSIM, "judge", "h.jsonl"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "drsim: h.jsonl:17: the write is acknowledged (3) before it is issued (7)\n"
