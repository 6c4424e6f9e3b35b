"""Sizing, the planner and calibration: answers against closed forms, and what stops them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.errors import FileError
from drsim.files.models import load_model
from drsim.study.planner import Profile, ages, needed, plan, profile_of
from drsim.study.pool import processes
from drsim.study.recordings import fit_churn, fit_run, read_churn
from drsim.study.size import Task, search, size, spread, target

ONE_VM = str(Path(__file__).parents[2] / "experiments" / "one-vm.yaml")
FLUID = ("run.fidelity=fluid", "run.until=30 min", "run.tick=30 s")
RATE = 100 * 8192


def task(path: str, until: str, *, span: str | None = None, overrides: tuple[str, ...] = FLUID) -> Task:
    return Task(ONE_VM, overrides, {path: spread(ONE_VM, overrides, path, span)}, target(until), 1)


def test_the_least_bandwidth_is_the_rate() -> None:
    found = size(task("links.wan.bandwidth", "rpo_max <= 6 s"), 2, processes(2))
    (value, low, high) = found.values["links.wan.bandwidth"]
    assert value == pytest.approx(RATE, rel=0.02)
    assert low == high == value, "no chance in it"
    assert found.up
    assert str(found.value("links.wan.bandwidth")).endswith("Mbit/s")


def test_the_most_of_something_is_found_too() -> None:
    found = search(task("vpgs.app.checkpoint_interval", "rpo_max <= 20 s", span="1 s..1000 s"))
    assert not found.up
    assert found.part is not None
    assert 10 ** (3 * found.part) == pytest.approx(20, rel=0.02)


def test_the_journal_of_a_history_is_its_bytes() -> None:
    overrides = ("run.fidelity=fluid", "run.until=8 h", "run.tick=60 s", "vpgs.app.journal.history=6 h")
    found = search(task("vpgs.app.journal.hard_limit", "missed <= 0", span="8 GiB..64 GiB", overrides=overrides))
    assert found.part is not None
    assert 8 * 8**found.part == pytest.approx(RATE * 6.02 * 3600 / 0.95 / 2**30, rel=0.03)


def test_a_target_that_no_value_reaches_says_which_bound_stopped_it() -> None:
    with pytest.raises(FileError, match=r"nothing meets .* at the lower bound and .* at the upper one") as error:
        size(task("links.wan.bandwidth", "rpo_max <= 1 s"), 1, processes(1))
    assert "widen the range" in str(error.value)


@pytest.mark.parametrize(
    ("path", "until", "span", "words"),
    [
        ("links.wan.bandwith", "rpo_p99 <= 1 s", None, "did you mean 'bandwidth'"),
        ("links.wan.bandwidth", "rpo_p99 < 1 s", None, "is no target"),
        ("links.wan.bandwidth", "rpo_p99 <= soon", None, "'soon' is no quantity"),
        ("links.wan.bandwidth", "rpo_p99 <= 1 s", "fast..faster", "is no range"),
        ("links.wan.bandwidth", "rpo_p98 <= 1 s", None, "no measure 'rpo_p98'"),
        ("vpgs.app.compression", "rpo_p99 <= 1 s", None, "no range follows"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_refused(path: str, until: str, span: str | None, words: str) -> None:
    with pytest.raises(FileError, match=words):
        search(task(path, until, span=span))


# -- the planner ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50), st.integers(1, 600))
def test_ages_are_those_of_the_oldest_byte_that_waits(churn: list[int], bandwidth: int) -> None:
    """Against a loop in which each minute's bytes are a packet that is sent evenly."""
    found = ages(np.array(churn, float), bandwidth / 60)
    waiting: list[tuple[int, float]] = []
    for minute, nbytes in enumerate(churn):
        waiting.append((minute, float(nbytes)))
        left = float(bandwidth)
        while waiting and left >= waiting[0][1]:
            left -= waiting.pop(0)[1]
        if waiting:
            first, rest = waiting[0]
            rest -= left
            waiting[0] = (first, rest)
            expected = (minute + 1 - first - (1 - rest / churn[first])) * 60
            assert found[minute] == pytest.approx(expected, abs=0.1)
        else:
            assert found[minute] == pytest.approx(0, abs=0.1)


def test_a_plan_of_a_known_profile() -> None:
    """An hour at 60 MB a minute each day, 6 MB else: 10 Mbit/s... all by arithmetic."""
    churn = np.where(np.arange(2880) % 1440 < 60, 60e6, 6e6)
    found = plan(Profile(churn, 3, 90e9), rpo=900, history=86400, bandwidth=0.5e6, limit=10e9)
    # The burst of an hour may wait for 15 min: 60 min of it leave in 75.
    assert found.always == pytest.approx(1e6 * 60 / 75, rel=0.02)
    assert found.mostly < found.always
    assert found.journal == pytest.approx(60 * 60e6 + 1380 * 6e6)
    assert found.given is not None
    assert found.given.violations == 1.0
    assert found.given.worst == pytest.approx(3600, rel=0.02), "what is written last waits for all before it"
    assert found.given.initial == pytest.approx(90e9 / (0.5e6 - churn.mean() / 60))
    within = np.convolve(churn, np.ones(1440))[:2880]
    assert found.short == pytest.approx(np.mean(within > 10e9))
    assert needed(churn, 0.0, 1.0) == pytest.approx(1e6, rel=0.01), "the busiest minute"


def test_a_profile_of_a_model_is_its_workloads(tmp_path: Path) -> None:
    found = profile_of(ONE_VM, ("run.until=1 h",))
    assert found.churn.tolist() == pytest.approx([RATE * 60] * 60)
    assert found.disks == 20 * 2**30
    table = tmp_path / "churn.csv"
    table.write_text("time_s,vm,bytes\n0,a,10\n30,b,5\n60,a,7\n")
    assert profile_of(str(table)).churn.tolist() == [15, 7]
    table.write_text("time,bytes\n0,1\n")
    with pytest.raises(FileError, match="lacks the column time_s"):
        profile_of(str(table))


# -- calibration ------------------------------------------------------------------------------------------------------


def test_a_churn_tables_rate_and_bursts_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    slow = np.repeat(np.exp(0.5 * rng.standard_normal(60)), 60)
    churn = 60 * 1e6 * slow * np.exp(0.4 * rng.standard_normal(3600))
    path = tmp_path / "churn.csv"
    lines = [f"{n * 60},db,{x:.0f},{x / 16384:.0f}" for n, x in enumerate(churn)]
    path.write_text("\n".join(["time_s,vm,bytes,writes", *lines]))
    found = fit_churn(path)
    assert all(abs(row.error) < 0.3 for row in found.rows), found.rows
    model = load_model("two-site", overrides=[])
    values = found.values["db"]
    assert isinstance(values, dict)
    workload = type(model.vms["crm-app"].workload).model_validate(values, context={"file": True})
    mean = sum(m.size * m.share for m in workload.sizes) / sum(m.share for m in workload.sizes)  # type: ignore[union-attr]
    assert workload.rate * mean == pytest.approx(churn.mean() / 60, rel=0.05)  # type: ignore[union-attr]
    assert mean == pytest.approx(16384, rel=0.1)


def test_a_table_that_tells_too_little_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "churn.csv"
    for text, words in (
        ("time_s,bytes\n0,1\n", "no two windows"),
        ("a\n1\n", "lacks"),
        ("time_s,bytes\n0,1\n60,2\n", "too few"),
    ):
        path.write_text(text)
        with pytest.raises(FileError, match=words):
            read_churn(path)
    with pytest.raises(FileError, match="no result of a run"):
        fit_run(tmp_path)


def test_a_runs_own_tables_tell_its_platform(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", "from drsim.cli.main import main; main()", "run", ONE_VM, "--until", "20min",
               "--set", "links.wan.bandwidth=6 Mbit/s", "--out", str(tmp_path / "run")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    found = fit_run(tmp_path / "run")
    assert found.values["vpgs.app.checkpoint_interval"] == "5 s"
    assert float(str(found.values["links.wan.bandwidth"]).split()[0]) == pytest.approx(6, rel=0.03)
