"""Studies: designs, any executor with the same results, resuming, workers that die, limits, and the command."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from drsim.core.errors import FileError
from drsim.study.design import Range, Study, between, number, parts, points, read
from drsim.study.frontier import cheapest, chosen, frontier
from drsim.study.pool import Died, Pool, cluster, processes
from drsim.study.pool import run as run_all
from drsim.study.prices import Prices, cost
from drsim.study.sampling import RUNS, Measured, Results, measure, sample
from drsim.study.sensitivity import effects, rows
from drsim.study.stats import compare
from drsim.study.study_report import answer, comparisons, named, page, plain, write_runs

ONE_VM = Path(__file__).parents[2] / "experiments" / "one-vm.yaml"
BASE: dict[str, Any] = {
    "question": "What does the link do?",
    "model": str(ONE_VM),
    "set": ["run.fidelity=fluid", "run.until=1 h", "run.tick=60 s"],
    "factors": {"links.wan.bandwidth": ["4 Mbit/s", "8 Mbit/s", "20 Mbit/s"]},
    "replications": {"at_least": 2, "at_most": 2},
    "measures": {"RPO p95": "all.rpo_s.p95"},
}


def written(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "a-study"
    folder.mkdir(exist_ok=True)
    with (folder / "study.yaml").open("w") as file:
        YAML().dump({**BASE, **changes}, file)
    return folder


class Here:
    """An executor that works here and now."""

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # as an executor does
            future.set_exception(error)
        return future


HERE = Pool(Here, 1)  # type: ignore[arg-type]


# -- designs ----------------------------------------------------------------------------------------------------------


def made(**changes: Any) -> Study:
    return Study.model_validate({**BASE, **changes})


def test_a_grid_is_every_combination_and_one_at_a_time_is_not() -> None:
    factors = {"a.x": [1, 2, 3], "a.y": ["off", "on"]}
    assert len(points(made(factors=factors))) == 6
    alone = points(made(factors=factors, design={"kind": "one-at-a-time"}))
    assert [tuple(p.values.values()) for p in alone] == [(1, "off"), (2, "off"), (3, "off"), (1, "on")]


@given(st.sampled_from(["latin-hypercube", "sobol"]), st.integers(1, 40), st.integers(0, 5))
def test_designs_that_fill_the_space_stay_in_their_ranges(kind: str, count: int, seed: int) -> None:
    factors = {
        "a.x": {"from": "10 Mbit/s", "to": "1 Gbit/s", "scale": "log"},
        "a.n": {"from": 2, "to": 9, "whole": True},
    }
    study = made(factors=factors, design={"kind": kind, "points": count, "seed": seed})
    found = points(study)
    assert len(found) >= count
    assert all(1.24e6 <= p.numbers["a.x"] <= 1.26e8 and p.values["a.n"] in range(2, 10) for p in found)
    if kind == "latin-hypercube":  # each of so many equal slices has one
        slices = sorted(int(u * count * (1 - 1e-12)) for u in parts(study)[:, 0])
        assert slices == list(range(count))


@given(st.floats(0, 1))
def test_a_range_keeps_its_unit(part: float) -> None:
    found = between(Range.model_validate({"from": "2 GiB", "to": "64 GiB"}), part)
    assert isinstance(found, str)
    assert found.endswith(" GiB")
    assert number(found) == pytest.approx((2 + 62 * part) * 2**30, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factors": {"links.wan.bandwith": ["1 Mbit/s"]}}, "bandwith"),
        ({"design": {"kind": "sobol"}}, "needs a range"),
        ({"replications": {"half_width": "1 s"}}, "at_most"),
        ({"mesures": {}}, "did you mean 'measures'"),
        ({"factors": {}}, "at least 1"),
        ({"model": "two-sites"}, "two-sites"),
    ],
)
def test_a_wrong_study_says_what_and_where(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=words) as error:
        read(written(tmp_path, **changes))
    assert any(place in str(error.value) for place in ("study.yaml", "factors.", "links.wan", "two-sites"))


def test_quick_thins_a_study(tmp_path: Path) -> None:
    values = [f"{n} Mbit/s" for n in range(4, 24)]
    folder = written(tmp_path, factors={"links.wan.bandwidth": values}, quick={"points": 3, "replications": 1})
    plan = read(folder, quick=True)
    assert [p.words for p in plan.points] == ["4 Mbit/s", "14 Mbit/s", "23 Mbit/s"]
    assert plan.study.replications.at_most == 1


def test_so_many_vras_are_copies_of_the_first_one(tmp_path: Path) -> None:
    plan = read(written(tmp_path, model="hundred-vms", factors={"vras.prod": [2, 6]}))
    for model, count in zip(plan.models, (2, 6), strict=True):
        vms, _ = model.expand()
        assert len({vm.host for vm in vms.values()}) == count
        assert sum(host.site == "dr" for host in model.hosts.values()) == 4


# -- runs -------------------------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_executor(tmp_path: Path) -> None:
    plan = read(
        written(tmp_path, set=["run.until=5 min"], measures={"RPO": "all.rpo_s.p95", "WAN": "wan.wan prod>dr.mean_bps"})
    )
    here, there = sample(plan, HERE), sample(plan, processes(2))
    for n in range(3):
        assert here.values(n, "RPO") == there.values(n, "RPO")
        assert here.values(n, "WAN") == there.values(n, "WAN")


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[str]:
    """A real scheduler with two workers, each a process of its own, ended by their process ids."""
    script = (
        "import sys\n"
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    what = dict(n_workers=2, threads_per_worker=1, dashboard_address=None, host='127.0.0.1')\n"
        "    with LocalCluster(**what) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    (tmp_path / "cluster.py").write_text(script)
    server = subprocess.Popen(
        [sys.executable, str(tmp_path / "cluster.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.stdout.close()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def test_a_cluster_gives_the_same_and_one_that_is_not_there_is_named(tmp_path: Path, dask: str) -> None:
    plan = read(written(tmp_path))
    with cluster(dask) as pool:
        assert pool.workers == 2
        found = sample(plan, pool)
    assert [found.values(n, "RPO p95") for n in range(3)] == [sample(plan, HERE).values(n, "RPO p95") for n in range(3)]
    with (
        pytest.raises(FileError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9") as error,
        cluster("tcp://127.0.0.1:9"),
    ):
        pass
    assert "dask scheduler" in str(error.value)


def test_an_earlier_try_is_gone_on_with(tmp_path: Path) -> None:
    plan, out = read(written(tmp_path)), tmp_path / "out"
    whole = sample(plan, HERE, kept=out)
    lines = (out / RUNS).read_text().splitlines()
    (out / RUNS).write_text("\n".join([*lines[:4], lines[4][:30]]) + "\n")
    told: list[tuple[int, int, float]] = []
    again = sample(plan, HERE, kept=out, resume=True, tell=lambda *each: told.append(each))
    assert len(told) == 2, "four of six were there, and one cut off half-way was not"
    assert [again.values(n, "RPO p95") for n in range(3)] == [whole.values(n, "RPO p95") for n in range(3)]
    other = read(written(tmp_path, set=["run.fidelity=fluid", "run.until=2 h", "run.tick=60 s"]))
    told.clear()
    sample(other, HERE, kept=out, resume=True, tell=lambda *each: told.append(each))
    assert len(told) == 6, "of another model nothing is known"


def test_runs_are_kept_as_a_row_group_a_point(tmp_path: Path) -> None:
    found = sample(read(written(tmp_path)), HERE)
    write_runs(found, tmp_path / "runs.parquet")
    file = pq.ParquetFile(tmp_path / "runs.parquet")
    assert file.num_row_groups == 3
    frame = file.read_row_group(1).to_pandas()
    assert frame["links.wan.bandwidth"].unique().tolist() == ["8 Mbit/s"]
    assert frame.seed.tolist() == [1, 2]


def test_points_go_on_until_their_interval_is_narrow_enough(tmp_path: Path) -> None:
    again = {"at_least": 3, "at_most": 12, "half_width": "0.2 s"}
    changes = ["run.fidelity=fluid", "run.until=2 h", "run.tick=60 s", "links.wan.bandwidth=90 Mbit/s"]
    folder = written(tmp_path, model="hundred-vms", set=changes, replications=again,
                     factors={"links.wan.bandwidth": ["60 Mbit/s", "1 Gbit/s"]})  # fmt: skip
    found = sample(read(folder), processes(2))
    assert len(found.runs[1]) == 3, "the wide link has no variation"
    assert len(found.runs[0]) > 3


def dies(task: int) -> int:
    if task == 3:
        os._exit(1)
    return task * 2


def test_a_dead_worker_costs_its_task_only() -> None:
    found = dict(run_all(dies, list(range(8)), processes(2)))
    assert {task: result for task, result in found.items() if task != 3} == {n: 2 * n for n in range(8) if n != 3}
    assert found[3] == Died(3)


def test_a_study_that_would_take_too_long_says_how_long_and_what_to_cut(tmp_path: Path) -> None:
    folder = written(tmp_path, replications={"at_least": 500, "at_most": 500}, limit="1 ms")
    with pytest.raises(FileError, match=r"1.500 runs of .* its limit is 1 ms") as error:
        sample(read(folder), HERE)
    assert "--quick" in str(error.value)


def test_a_measure_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no measure 'all\.rpo_s\.p59'; did you mean"):
        sample(read(written(tmp_path, measures={"x": "all.rpo_s.p59"})), HERE)


def test_a_steady_state_is_one_long_run(tmp_path: Path) -> None:
    folder = written(tmp_path, state="steady", replications={"at_least": 1, "at_most": 1},
                     measures={"RPO": "all.rpo_s.mean"}, factors={"links.wan.bandwidth": ["20 Mbit/s"]})  # fmt: skip
    value, low, high = sample(read(folder), HERE).interval(0, "RPO")
    assert value == pytest.approx(2.5, rel=0.05)
    assert low is not None
    assert high is not None
    with pytest.raises(FileError, match="no mean over time"):
        sample(read(written(tmp_path, state="steady")), HERE)


# -- what is told -----------------------------------------------------------------------------------------------------


def test_common_random_numbers_make_a_comparison_narrow(tmp_path: Path) -> None:
    """At least three times on the shipped example."""
    plan = read(Path(__file__).parents[2] / "experiments" / "compress", quick=True)
    found = sample(plan, processes(2))
    (paired,) = [c for _, name, _, c in comparisons(found) if name == "WAN mean"]
    assert paired.gain >= 3
    off, on = ([found.runs[n][seed].values["WAN mean"] for seed in sorted(found.runs[n])] for n in (0, 1))
    assert compare(off, on) == paired
    assert named(found)["sure.off → on.WAN mean"] == 1
    assert "for sure" in answer(found)


def test_the_page_says_it_all(tmp_path: Path) -> None:
    found = sample(read(written(tmp_path)), HERE)
    text = page(found, "drsim study a-study").render()
    for words in ("What does the link do?", "RPO p95", "20 Mbit/s", "drsim study a-study", "Assumptions", "<svg"):
        assert words in text
    told = plain(found, "x")
    assert json.loads(json.dumps(told, allow_nan=False))["points"][0]["runs"] == 2


def test_what_costs_more_and_is_no_better_is_not_on_the_frontier() -> None:
    assert cheapest([(5, 10, 0), (1, 30, 1), (3, 30, 2), (9, 10, 3), (7, 4, 4)]) == [(1, 30, 1), (5, 10, 0), (7, 4, 4)]


def made_up(tmp_path: Path, rows: dict[str, tuple[float, float, float]]) -> Results:
    """A study with two targets whose points gave these RPOs, RTOs and costs, each run the same."""
    plan = read(written(
        tmp_path, factors={"links.wan.bandwidth": list(rows)}, prices={"wan": 1.0},
        measures={"RPO p99": "all.rpo_s.p99", "RTO": "all.rto_s.max", "cost": "cost"},
        target=["RPO p99 <= 15 s", "RTO <= 10 min"],
    ))  # fmt: skip
    names = ("RPO p99", "RTO", "cost")
    runs = [dict.fromkeys((1, 2), Measured(dict(zip(names, row, strict=True)), {}, 0.1)) for row in rows.values()]
    return Results(plan, runs)


def test_the_cheapest_design_is_the_one_that_meets_every_target(tmp_path: Path) -> None:
    found = made_up(tmp_path, {
        "4 Mbit/s": (90, 300, 10), "8 Mbit/s": (10, 900, 20), "10 Mbit/s": (9, 500, 40), "20 Mbit/s": (5, 500, 30),
    })  # fmt: skip
    assert chosen(found) == 3
    told = answer(found)
    assert "RPO p99 <= 15 s is met with 8 Mbit/s, 10 Mbit/s, 20 Mbit/s, not with 4 Mbit/s" in told
    assert "RTO <= 10 min is met with 4 Mbit/s, 10 Mbit/s, 20 Mbit/s, not with 8 Mbit/s" in told
    assert "All of it is met with 10 Mbit/s, 20 Mbit/s, not with 4 Mbit/s, 8 Mbit/s" in told
    assert "the cheapest of those is 20 Mbit/s, at 30 a month" in told.replace("The cheapest", "the cheapest")
    one, other = frontier(found).axes
    assert (one.get_xlabel(), other.get_xlabel()) == ("RPO p99", "RTO")
    assert [text.get_text() for axes in (one, other) for text in axes.texts] == ["20 Mbit/s"] * 2
    sections = page(found, "drsim study a-study").sections
    assert any("blue points surely meet every target" in text for section in sections for text in section.text)


def test_where_nothing_meets_every_target_nothing_is_chosen(tmp_path: Path) -> None:
    found = made_up(tmp_path, {"4 Mbit/s": (90, 300, 10), "8 Mbit/s": (10, 900, 20)})
    assert chosen(found) is None
    assert "All of it is surely met by none" in answer(found)
    labels = [[text.get_text() for text in axes.texts] for axes in frontier(found).axes]
    assert labels == [["4 Mbit/s"], ["8 Mbit/s"]], "the cheapest of those that meet the other target"


def test_a_target_that_is_not_measured_is_named() -> None:
    with pytest.raises(ValidationError, match="'RTO' is not among the measures"):
        made(target=["RPO p95 <= 15 s", "RTO <= 1 h"])


def test_an_outage_costs_what_the_failovers_took(tmp_path: Path) -> None:
    model = read(written(tmp_path)).models[0]
    prices, found = Prices(disasters=12, outage=20, recovery=9), {"all.sla.missed_s": 0.0, "all.rpo_s.mean": 0.0}
    found["all.journal.peak_bytes"] = 0.0
    assert cost(prices, model, found) == pytest.approx(20 * 9)
    assert cost(prices, model, {**found, "all.rto_s.mean": 1800.0}) == pytest.approx(20 * 0.5)


def test_a_month_costs_what_the_book_says(tmp_path: Path) -> None:
    model = read(written(tmp_path)).models[2]
    found = {"all.journal.peak_bytes": 1e12, "all.sla.missed_s": 36.0, "all.rpo_s.mean": 36.0}
    disks = 20 * 2**30 / 1e12
    prices = Prices(wan=3, storage=10, vra=5, vm=7, missed=100, disasters=12, lost=50, outage=20, recovery=2)
    hours = 36 / 3600 * 720
    expected = 3 * 20 + 10 * (1 + disks) + 5 * 2 + 7 + 100 * hours + 1 * (50 * 0.01 + 20 * 2)
    assert cost(prices, model, found) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["morris", "saltelli"])
def test_what_matters_is_found(method: Any) -> None:
    """y = 10 a + b: a matters ten times as much as b, and c not at all."""
    x = rows(method, ["c", "b", "a"], 64, 1)
    found = effects(method, ["c", "b", "a"], x, (10 * x[:, 2] + x[:, 1]).tolist())
    assert [effect.factor for effect in found] == ["a", "b", "c"]
    first, second, third = found
    if method == "morris":
        assert (first.first, second.first, third.first) == (pytest.approx(10), pytest.approx(1), pytest.approx(0))
    else:
        assert first.second == pytest.approx(100 / 101, abs=0.05)
        assert abs(third.second) < 0.02


def test_the_command_writes_what_it_says_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    folder, out = written(tmp_path), tmp_path / "out"
    drsim = [sys.executable, "-c", "from drsim.cli.main import main; main()", "study"]
    done = subprocess.run(
        [*drsim, str(folder), "--workers", "2", "--out", str(out)], capture_output=True, text=True, check=True
    )
    assert "RPO p95 is" in done.stdout
    assert {path.name for path in out.iterdir()} == {"runs.jsonl", "runs.parquet", "report.html", "summary.json"}
    again = subprocess.run(
        [*drsim, str(folder), "--resume", "--out", str(out), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(again.stdout)["answer"] == json.loads((out / "summary.json").read_text())["answer"]
    for arguments, words in ((["nothing"], "no study is called 'nothing'"), ([str(folder), "--resume"], "--out")):
        failed = subprocess.run([*drsim, *arguments], capture_output=True, text=True, check=False)
        assert failed.returncode == 2
        assert words in failed.stderr


def test_a_run_knows_how_long_it_took(tmp_path: Path) -> None:
    plan = read(written(tmp_path))
    from drsim.study.sampling import Task

    done = measure(Task(0, 1, plan.models[0], plan.study.measures, steady=False))
    assert done.seconds > 0
    assert math.isfinite(done.values["RPO p95"])
