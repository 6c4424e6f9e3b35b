"""The commands that look at a model: what they print, in which form, and how they exit."""

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import drsim.cli.show
from drsim.spec.model import Model
from drsim.study.figures import Rates

MODEL = """\
about: One VM [of ours], ten minutes of cut.
sites: {a: {}, b: {}}
datastores: {s: {site: a}, t: {site: b}}
hosts: {h: {site: a}, i: {site: b}}
links: {wan: {between: [a, b], bandwidth: 100 Mbit/s, throttle: [{start: "08:00", end: "18:00", limit: 50 Mbit/s}]}}
vms: {v: {host: h, datastore: s, count: 20, workload: {kind: constant, rate: 10}}}
vpgs: {p: {vms: [v], recovery: {hosts: [i], datastore: t}}}
faults: [{use: faults/wan-cut-10min, at: 30 min, link: wan}]
"""


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    for command in (drsim.cli.show.show, drsim.cli.show.check, drsim.cli.show.schema):
        made.command()(command)
    return made


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model file in the current directory, and 10 writes of 10 kB a second on every VM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("m.yaml").write_text(MODEL, encoding="utf-8")

    def rates(model: Model) -> Rates:
        return dict.fromkeys(model.expand()[0], (10.0, 100_000.0))

    monkeypatch.setattr(drsim.cli.show, "mean_rates", rates)


def run(app: typer.Typer, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_show_prints_what_the_file_says_and_what_follows(app: typer.Typer) -> None:
    result = run(app, "show", "m.yaml")
    assert result.exit_code == 0, result.output
    for text in (
        "m  One VM [of ours], ten minutes of cut.",
        "host h: VRA with 3 GiB, 1 vCPU, pool 2509 MiB",
        "protects 20 VMs, 20 volumes, 2 MB/s; 90 % of the pool is 2258 MiB, which 19.7 min of writes fill",
        "recovers 20 volumes, 2 MB/s; 75 % of the pool is 1882 MiB",
        "link wan a - b: 100 Mbit/s, 5 ms one way, 0 % loss",
        "from a: mean load 9.6 Mbit/s, 9.6 %",
        "from 08:00 to 18:00 replication gets 50 Mbit/s",
        "VPG p 20 VMs, a to b over wan, medium priority",
        "writes 2 MB/s in 200 writes/s, 9.6 Mbit/s on the link; journal grows 172.8 GB a day",
        "history 24 h of 24 h, 150 GiB a VM; 17280 checkpoints",
        "RPO in health 0.011 s to 5.01 s, alert at 5 min",
        "VM v-001 on h, to i: 100 GiB, constant, 10 writes/s, 100 kB/s",
        "and 8 more",
        "at 30 min link-down: lasts 10 min, link wan",
    ):
        assert text in result.output


def test_show_as_json(app: typer.Typer) -> None:
    result = run(app, "show", "m.yaml", "--json", "--set", "links.wan.bandwidth=10 Mbit/s")
    told = json.loads(result.output)
    assert told["model"]["links"]["wan"]["bandwidth"] == "10 Mbit/s"
    assert told["figures"]["links"]["wan from a"]["load"] == pytest.approx(0.96)
    assert told["figures"]["vpgs"]["p"]["checkpoints"] == 17280
    assert told["figures"]["hosts"]["i"]["buffer_full_after_s"] is None


def test_check_finds_nothing_and_exits_0(app: typer.Typer) -> None:
    result = run(app, "check", "m.yaml")
    assert (result.exit_code, result.output) == (0, "nothing found\n")


def test_check_exits_0_with_a_warning_and_1_with_an_error(app: typer.Typer) -> None:
    result = run(app, "check", "m.yaml", "--set", "vpgs.p.rpo_alert=5 s")
    assert result.exit_code == 0, "a warning is no error"
    assert "warning  vpgs.p.rpo_alert: 5 s is less than the RPO in health, up to 5.011 s" in result.output
    assert result.output.endswith("1 warning\n")
    result = run(app, "check", "m.yaml", "--set", "links.wan.bandwidth=5 Mbit/s")
    assert result.exit_code == 1
    assert "error    links.wan.bandwidth: 5 Mbit/s is less than the mean of what crosses it" in result.output
    assert "         hint:" not in result.output.splitlines()[0]
    result = run(app, "check", "m.yaml", "--json", "--set", "links.wan.bandwidth=5 Mbit/s")
    assert result.exit_code == 1
    assert json.loads(result.output)[0]["severity"] == "error"


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_wrong_file_exits_2_and_says_why_on_stderr(app: typer.Typer, command: str) -> None:
    result = run(app, command, "m.yaml", "--set", "links.wan.bandwith=5 Mbit/s")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("--set links.wan.bandwith=5 Mbit/s: unknown field 'bandwith' of links.wan")
    assert run(app, command, "no-such").exit_code == 2


def test_schema_prints_json(app: typer.Typer) -> None:
    result = run(app, "schema")
    assert result.exit_code == 0
    assert json.loads(result.output)["title"] == "drsim model"
