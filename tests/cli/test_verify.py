"""`drsim verify` looks, tells and exits as it says; `drsim replay` plays what it found."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import drsim
from drsim.cli import verify as command
from drsim.cli.main import program
from drsim.core.errors import FileError
from drsim.core.trace import TraceDigest, TraceLines
from drsim.verify.mutants import BY_NAME
from drsim.verify.program import random_program, run
from drsim.verify.swarm import Tally
from drsim.verify.token import Token, decode
from drsim.verify.violation import Violation

app = program()

runner = CliRunner()
CLEAN = str(Token("explorer", random_program(3)))
DOCUMENT = [
    "programs", "kinds", "steps", "steps_per_s", "steps_per_s_per_core", "seconds", "workers", "first_seed",
    "distinct_states", "played_twice", "interrupted", "properties", "probes_hit", "probes",
    "probes_missed", "violations",
]  # fmt: skip
VIOLATION = ["property", "message", "kind", "seed", "operations", "token"]


def drsim_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from drsim.cli.main import main; main()", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`drsim verify` in this process, where mistakes can be planted."""

    @contextmanager
    def executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(command, "_executor", executor)
    return lambda *arguments: runner.invoke(app, ["verify", *arguments])


# -- verify -----------------------------------------------------------------------------------------------------------


def test_a_run_on_processes_is_told_as_json() -> None:
    done = drsim_command("verify", "--programs", "70", "--seed", "40", "--workers", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert list(document) == DOCUMENT
    assert (document["programs"], document["kinds"]) == (70, {"explorer": 70})
    assert (document["first_seed"], document["workers"], document["interrupted"]) == (40, 2, False)
    assert document["steps"] == sum(run(random_program(n)).kernel.steps for n in range(40, 110))
    assert document["steps_per_s_per_core"] > 0
    assert document["steps_per_s"] > 0
    assert 0 < document["probes_hit"] < document["probes"]
    assert (document["probes_missed"], document["violations"]) == ([], [])
    assert document["properties"][:3] == ["P1", "P2", "P3"]


def test_a_clean_run_is_told_in_a_few_lines(here: Callable[..., Result]) -> None:
    found = here("--programs", "20")
    assert found.exit_code == 0
    lines = [line.rstrip() for line in found.stdout.splitlines()]
    assert lines[0] == "programs         20  (20 explorer)"
    assert re.fullmatch(r"steps            [\d,]+  \([\d,]+ per second and core\)", lines[1])
    assert lines[-1] == "no violation"
    assert not found.stderr


def test_a_violation_is_told_saved_and_played_again(here: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tokens"
    with BY_NAME["gap-not-seen"].patch():
        found = here("--seconds", "600", "--save", str(folder))
        assert found.exit_code == 1
        said = found.stdout
        (path, *_) = sorted(folder.iterdir())
        line = path.read_text()
        assert line.endswith("\n")
        token = decode(line)
        prop, kind, seed = re.fullmatch(r"(p\d+|core)-([a-z]+)-(\d+)\.token", path.name).groups()  # type: ignore[union-attr]
        assert kind == token.kind
        assert f"what is left of {kind} program {seed}" in said
        assert f"  replay   drsim replay {line}" in said
        assert f"  explain  drsim explain {line.strip()} --svg story.svg\n" in said
        assert "no violation" not in said
        again = runner.invoke(app, ["replay", line])
        assert again.exit_code == 1
        assert prop.upper() in again.stdout or "drsim does not hold" in said
        told, _, _ = said.partition(f"what is left of {kind} program {seed}")
        assert re.findall(r"  seen +(.*)", told)[-1] in again.stdout
    assert runner.invoke(app, ["replay", line]).exit_code == 0


def test_a_violation_as_json(here: Callable[..., Result]) -> None:
    with BY_NAME["cut-by-wall-clocks"].patch():
        found = here("--seconds", "600", "--json")
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert list(document) == DOCUMENT
    assert document["violations"]
    for one in document["violations"]:
        assert list(one) == VIOLATION
        assert one["operations"] <= 20
        assert decode(one["token"]).kind == one["kind"]


def test_nothing_is_saved_when_nothing_is_found(here: Callable[..., Result], tmp_path: Path) -> None:
    assert here("--programs", "5", "--save", str(tmp_path / "tokens")).exit_code == 0
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_place_that_cannot_be_is_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = runner.invoke(app, ["verify", "--seconds", "600", "--save", str(tmp_path / "file")])
    assert isinstance(found.exception, FileError)
    assert str(tmp_path / "file") in str(found.exception)


def test_a_probe_that_a_long_run_never_hits_fails_it(
    here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.ALL_PROBES, "the moon was full", "explorer")
    monkeypatch.setitem(command.ALL_PROBES, "the store was full of cats", "store")
    assert here("--programs", "10").exit_code == 0, "too short to say"
    monkeypatch.setitem(command.ENOUGH, "explorer", 10)
    found = here("--programs", "10")
    assert found.exit_code == 1
    assert "never reached, so nothing was proved there:\n" in found.stdout
    assert "\n  the moon was full\n" in found.stdout
    assert "cats" not in found.stdout, "no store program was played"
    assert "no violation" not in found.stdout
    document = json.loads(here("--programs", "10", "--json").stdout)
    assert "the moon was full" in document["probes_missed"]


def test_an_interrupt_is_told_and_is_no_success(here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "swarm", lambda *a, **b: Tally(programs=7, interrupted=True))
    found = here("--seconds", "600")
    assert found.exit_code == 130
    assert found.stdout.startswith("programs         7")
    assert found.stdout.endswith("interrupted; no violation so far\n")


def test_one_end_only() -> None:
    found = runner.invoke(app, ["verify", "--seconds", "5", "--programs", "5"])
    assert isinstance(found.exception, FileError)
    assert "--seconds and --programs" in str(found.exception)


# -- on a cluster -----------------------------------------------------------------------------------------------------


def test_a_scheduler_without_dask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    found = runner.invoke(app, ["verify", "--programs", "5", "--scheduler", "tcp://nobody:8786"])
    assert isinstance(found.exception, FileError)
    assert "drsim[cluster]" in found.exception.hint


def test_a_scheduler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __init__(self, address: str, **_: Any) -> None:
            raise OSError("timed out")

    module = ModuleType("distributed")
    module.Client = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distributed", module)
    found = runner.invoke(app, ["verify", "--programs", "5", "--scheduler", "tcp://nobody:8786"])
    assert isinstance(found.exception, FileError)
    assert "tcp://nobody:8786: timed out" in str(found.exception)


CLUSTER = """
import sys
from distributed import LocalCluster
from drsim.cli.main import main

if __name__ == "__main__":
    wanted = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp"}
    with LocalCluster(**wanted, dashboard_address=None) as one:
        sys.argv = ["drsim", "verify", "--programs", "60", "--json", "--scheduler", one.scheduler_address]
        main()
"""


def test_on_a_dask_cluster() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        if os.environ.get("DRSIM_REQUIRE") == "all":
            pytest.fail("dask is missing; the extra `cluster` has it")
        pytest.skip("needs the extra `cluster` (dask[distributed])")
    done = subprocess.run([sys.executable, "-c", CLUSTER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["programs"] == 60
    assert document["steps"] == sum(run(random_program(n)).kernel.steps for n in range(60))


# -- replay -----------------------------------------------------------------------------------------------------------


def test_a_clean_token_is_played() -> None:
    digest = TraceDigest()
    steps = run(random_program(3), trace=digest).kernel.steps
    found = runner.invoke(app, ["replay", CLEAN])
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        f"explorer program of 120 operations, written by drsim {drsim.__version__}",
        f"digest {digest.hexdigest}",
        f"no violation in {steps:,} steps",
    ]


def test_a_token_of_another_version_is_played_with_a_word_of_warning() -> None:
    found = runner.invoke(app, ["replay", str(Token("explorer", random_program(3), "0.0.1"))])
    assert found.exit_code == 0
    assert f"by drsim 0.0.1; this is {drsim.__version__}, which may take other steps\n" in found.stdout


def test_the_conversation_is_printed() -> None:
    lines = TraceLines()
    run(random_program(3), trace=lines)
    found = runner.invoke(app, ["replay", CLEAN, "--trace"])
    assert found.stdout.splitlines()[:-3] == lines.lines
    assert len(lines.lines) > 100


def _has_an_open_cut(program: bytes) -> bool:
    try:
        run(program)
    except Violation as seen:
        return seen.prop == "P4"
    return False


def test_the_conversation_of_a_failure_is_printed_up_to_there() -> None:
    with BY_NAME["cut-by-wall-clocks"].patch():
        failing = str(Token("explorer", next(filter(_has_an_open_cut, map(random_program, range(1000))))))
        found = runner.invoke(app, ["replay", failing, "--trace"])
    assert found.exit_code == 1
    assert "P4 does not hold: consistent cut" in found.stdout
    assert found.stdout.startswith("0 west/h1/vra Started -> ")


def test_what_has_no_conversation_says_so() -> None:
    token = str(Token("store", bytes(10)))
    assert runner.invoke(app, ["replay", token]).exit_code == 0
    found = runner.invoke(app, ["replay", token, "--trace"])
    assert isinstance(found.exception, FileError)
    assert "no trace" in str(found.exception)


def test_a_bad_token_is_a_message_and_not_a_traceback() -> None:
    done = drsim_command("replay", CLEAN[:-9])
    assert done.returncode == 2
    assert done.stderr.startswith("drsim: dr1.explorer.")
    assert "the token was cut or changed" in done.stderr
    assert "Traceback" not in done.stderr
