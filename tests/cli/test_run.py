"""`drsim` as a user runs it: in a process of its own, with exit codes, pipes and files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--until", "1min"]


def drsim(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", "from drsim.cli.main import main; main()", *words]
    return subprocess.run(program, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_run_writes_everything_and_says_so(tmp_path: Path) -> None:
    done = drsim("run", "two-site", *QUICK, "--out", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar when piped
    assert "report: first/report.html" in done.stdout
    assert "crm" in done.stdout
    assert {p.name for p in (tmp_path / "first").iterdir()} == {
        "summary.json", "timeseries.parquet", "checkpoints.parquet", "events.parquet", "report.html",
    }  # fmt: skip
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["all"]["checkpoints"]["listed"] >= 20
    assert summary["run"]["until_s"] == 60


def test_json_is_only_json_and_the_same_twice(tmp_path: Path) -> None:
    words = ["run", "two-site", *QUICK, "--json", "--seed", "7"]
    one, two = drsim(*words, cwd=tmp_path), drsim(*words, cwd=tmp_path)
    assert json.loads(one.stdout)["run"]["seed"] == 7
    assert one.stdout == two.stdout


def test_overrides_and_fidelity(tmp_path: Path) -> None:
    words = ["--set", "links.wan.bandwidth=20 Mbit/s", "--set", "tweaks.hold_budget=10 ms", "--fidelity", "write"]
    done = drsim("run", "two-site", "--until", "20s", *words, "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert summary["run"]["fidelity"] == "write"
    assert {w["bandwidth_bps"] for w in summary["wan"].values()} == {20_000_000}


def test_a_trace_feeds_every_vm(tmp_path: Path) -> None:
    rows = "".join(f"{n * 10_000_000} 0 {n * 8 % 4096} 8 0\n" for n in range(1000))
    (tmp_path / "t.ascii").write_text(rows)
    done = drsim("run", "two-site", *QUICK, "--trace", "t.ascii", "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    data = next(iter(summary["wan"].values()))["bytes"]["data"]
    assert data == pytest.approx(5 * 100 * 60 * 4096 * 0.6, rel=0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "two-sit"], ["no model is called 'two-sit'", "did you mean 'two-site'"]),
        (["run", "two-site", "--until", "6 parsecs"], ["parsecs", "write it like"]),
        (["run", "two-site", "--set", "links.wan.bandwidth=0 Mbit/s"], ["links.wan.bandwidth", "1 Mbit/s"]),
        (["run", "two-site", "--set", "links.wan.latency=-5 ms"], ["links.wan.latency"]),
        (["run", "two-site", "--trace", "nothing.vscsi"], ["nothing.vscsi", "no such trace"]),
        (["run", "two-site", "--trace", "foreign.bin"], ["foreign.bin"]),
        (["run", "bad.yaml"], ["bad.yaml:2", "vpsg", "did you mean 'vpgs'"]),
        (["run", "two-site", "--out", "mine"], ["mine", "not a drsim result"]),
        (["run", "two-site", "--fidelity", "exact"], ["exact", "write", "slice"]),
    ],
)
def test_bad_input_says_what_and_where_and_exits_2(words: list[str], said: list[str], tmp_path: Path) -> None:
    (tmp_path / "foreign.bin").write_bytes(os.urandom(1000))
    (tmp_path / "bad.yaml").write_text("extends: two-site\nvpsg: {}\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    done = drsim(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for piece in said:
        assert piece in done.stderr
    assert len(list(tmp_path.iterdir())) == 3


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from drsim.cli.main import main; print('ready', flush=True); main()"]
    process = subprocess.Popen(
        [*program, "run", "two-site", "--until", "200h", "--out", "out"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.5)  # anywhere in the run will do
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_version_and_help(tmp_path: Path) -> None:
    assert drsim("--version", cwd=tmp_path).stdout.startswith("drsim 0.")
    help_ = drsim("--help", cwd=tmp_path).stdout
    assert all(command in help_ for command in ("run", "show", "check", "schema", "fit"))


def test_trace_format_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("0,W,0,4096,0\n0,W,8192,4096,1000000\n")
    good = drsim("run", "two-site", *QUICK, "--trace", "t.csv", "--format", "alibaba", "--json", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    bad = drsim("run", "two-site", "--trace", "t.csv", "--format", "alibab", cwd=tmp_path)
    assert bad.returncode == 2
    assert "no trace format is called 'alibab'" in bad.stderr
    assert "alibaba" in bad.stderr


def test_a_command_loads_no_more_than_it_needs() -> None:
    """Real sites start without the simulation, and a simulation without what verifies it."""
    heavy = {"live": ["drsim.sim", "drsim.study", "matplotlib"], "show": ["hypothesis", "drsim.real", "fastapi"]}
    for name, modules in heavy.items():
        load = f"import sys; from drsim.cli.main import program; program(['{name}'])"
        code = f"{load}; print([m for m in {modules} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
