"""Figures, frames and summaries of runs; output folders that are whole or not there."""

import json
import math
from pathlib import Path

import pytest
from estates import SECOND, two_site

from drsim.core.errors import FileError
from drsim.sim.run import Run, simulate
from drsim.study.output import folder, write_tables
from drsim.study.results import figures, frames, summarise
from drsim.study.runner import replicate
from drsim.study.stats import interval

POISSON = {"kind": "poisson", "rate": 60.0, "size": "8 KiB"}
OUTAGE = [{"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "1 min"}]


@pytest.fixture(scope="module")
def bad_run() -> Run:
    return simulate(
        two_site(workload=POISSON, vms=2, hosts=2, faults=OUTAGE, vpg={"rpo_alert": "20 s"}, run={"until": "4 min"})
    )


def test_figures_add_up(bad_run: Run) -> None:
    made = figures(bad_run)
    one = made["vpgs"]["crm"]
    assert one["rpo_s"] == made["all"]["rpo_s"]
    assert one["rpo_s"]["p50"] < one["rpo_s"]["p95"] <= one["rpo_s"]["p99"] <= one["rpo_s"]["max"]
    assert sum(one["status_share"].values()) == pytest.approx(1.0)
    assert sum(one["sla"]["causes"].values()) == pytest.approx(1.0)
    assert one["sla"]["missed_s"] == pytest.approx(
        sum(b - a for a, b in bad_run.teeth("crm").above(20 * SECOND)) / SECOND
    )
    assert set(one["sla"]["causes"]) == {"recovery VRA communication problem"}
    assert one["worst_loss"]["seconds"] == one["rpo_s"]["max"]
    assert one["worst_loss"]["writes"] == pytest.approx(120 * one["worst_loss"]["seconds"], rel=0.1)
    wan = made["wan"]["wan london>leeds"]
    assert wan["bytes"]["sync"] > 0
    assert wan["mean_bps"] * 240 / 8 == pytest.approx(sum(wan["bytes"].values()), rel=0.01)


def test_a_site_lost_at_the_very_start_has_figures_too() -> None:
    lost = [{"kind": "site-loss", "site": "london", "at": "0 s"}]
    made = figures(simulate(two_site(faults=lost, run={"until": "1 min"})))
    assert made["disaster"]["crm"]["loss_s"] == 0.0
    json.dumps(made, allow_nan=False)


def test_frames_are_tidy(bad_run: Run) -> None:
    tables = frames(bad_run)
    checkpoints = tables["checkpoints"]
    assert (checkpoints.listed_s > checkpoints.taken_s).all()
    assert checkpoints.checkpoint.is_monotonic_increasing
    assert {"rpo_s", "journal_bytes", "buffer_bytes", "data_bytes"} <= set(tables["timeseries"].measure)
    assert "link-down" in set(tables["events"].kind)
    assert tables["timeseries"].notna().all().all()


def test_replications_give_intervals_and_do_not_depend_on_the_executor() -> None:
    model = two_site(workload=POISSON, run={"until": "1 min"})
    done = replicate(model, 3)
    summary = summarise(model, "m", done.figures(), trace_digest=done.first.trace_digest, command="drsim run m")
    p95 = summary["all"]["rpo_s"]["p95"]
    assert p95["low"] <= p95["value"] <= p95["high"]
    assert [part.seed for part in done.parts] == [1, 2, 3]
    again = figures(simulate(model, seed=3))
    assert json.dumps(done.parts[2].figures) == json.dumps(again)
    assert set(done.frames()["checkpoints"].replication) == {0, 1, 2}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_interval_is_students_t() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert low is not None
    assert high is not None
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3))
    assert interval([5.0]) == (5.0, None, None)


def write(out: Path, run: Run) -> None:
    summary = summarise(run.model, "m", [figures(run)], trace_digest="", command="")
    with folder(out) as where:
        write_tables(where, summary, frames(run))


def test_output_is_replaced_whole(bad_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    write(out, bad_run)
    (out / "left-over").write_text("x")
    write(out, bad_run)
    assert {p.name for p in out.iterdir()} == {
        "summary.json", "timeseries.parquet", "checkpoints.parquet", "events.parquet",
    }  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_what_was_there(bad_run: Run, tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    write(out, bad_run)
    before = (out / "summary.json").read_bytes()

    def fail() -> None:
        with folder(out) as where:
            (where / "summary.json").write_text("half")
            raise error

    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
        fail()
    assert (out / "summary.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(FileError, match="not a drsim result"), folder(tmp_path):
        raise AssertionError
    assert (tmp_path / "thesis.txt").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(FileError, match="is a file"), folder(tmp_path / "x"):
        raise AssertionError
