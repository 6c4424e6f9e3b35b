"""`drsim failover`, `test`, `move`, `clone`, `plan` as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AT = ["--at", "2 min"]


def drsim(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", "from drsim.cli.main import main; main()", *words]
    return subprocess.run(program, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_a_failover_says_what_came_of_it_and_writes_a_report(tmp_path: Path) -> None:
    done = drsim(
        "failover", "two-site", "--vpg", "crm", *AT, "--site-lost", "--detect", "5 min", "--out", "there", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Failover of crm: committed; 3 VMs answered" in done.stdout
    assert "of work is lost" in done.stdout
    assert "RTO" in done.stdout
    assert "= detect 5 min + create 15 s" in done.stdout
    assert "needs a person: the source could not be told" in done.stdout
    page = (tmp_path / "there" / "report.html").read_text()
    assert "Time to service" in page
    assert "<svg" in page
    (found,) = json.loads((tmp_path / "there" / "summary.json").read_text())["operations"]
    assert found["rto_s"] == pytest.approx(sum(found["parts_s"].values()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test", "--lasts", "10 min"], "Failover test of crm: done; 3 VMs answered"),
        (["move"], "nothing is lost"),
        (["clone", "--vm", "crm-web"], "Clone of crm: done"),
        (["failover", "--vm", "crm-db"], "1 VM answered"),
        (["restore", "--vm", "crm-db", "--volume", "data"], "Restore of crm: done"),
    ],
)
def test_each_operation(words: list[str], said: str, tmp_path: Path) -> None:
    done = drsim(words[0], "two-site", "--vpg", "crm", *AT, *words[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_over_several_runs_rto_is_a_distribution(tmp_path: Path) -> None:
    spread = ["--set", "sites.dr.hypervisor.spread=0.5"]
    done = drsim("move", "two-site", "--vpg", "crm", *AT, *spread, "--replications", "3", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert len({each["rto_s"] for each in found}) == 3
    assert all(each["lost"]["writes"] == 0 for each in found)


def test_a_plan_is_the_runbook_and_a_refused_one_says_why(tmp_path: Path) -> None:
    done = drsim("plan", "two-site", "--vpg", "crm", *AT, cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "failover of crm at 2 min, if nothing goes wrong"
    order = ["check the plan", "pin checkpoint", "fence the source", "create: 3", "boot: 3", "commit", "promote"]
    at = [next(n for n, line in enumerate(lines) if word in line) for word in order]
    assert at == sorted(at)
    small = ["--set", "hosts.dr-host-1.memory=1 GiB"]
    refused = drsim("plan", "two-site", "--vpg", "crm", *AT, *small, cwd=tmp_path)
    assert refused.returncode == 1
    assert "refused: host dr-host-1 lacks" in refused.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--vpg: the model has several VPGs\n  hint: name one of: crm, files"),
        (["--vpg", "crn"], "--vpg: no VPG is called 'crn'"),
        (["--vpg", "crm", "--vm", "files-1"], "no VM 'files-1' in VPG 'crm' then"),
        (["--vpg", "crm", "--shutdown", "often"], "--shutdown: it must be 'none', 'graceful' or 'force'"),
        (["--vpg", "crm", "--checkpoint", "old"], "--checkpoint: 'old' is not a duration"),
        (["--vpg", "crm", "--at", "noon"], "'noon' is not a duration"),
    ],
)
def test_bad_options_are_named(words: list[str], said: str, tmp_path: Path) -> None:
    done = drsim("failover", "two-site", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_tells_of_the_operations_of_its_model(tmp_path: Path) -> None:
    failover = "{kind: failover, at: 2 min, vpg: crm}"
    (tmp_path / "m.yaml").write_text(f"extends: two-site\noperations:\n  - {failover}\nrun: {{until: 10 min}}\n")
    done = drsim("run", "m.yaml", "--out", "there", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "at 2 min: Failover of crm: committed" in done.stdout
    assert "Recovery operations" in (tmp_path / "there" / "report.html").read_text()
