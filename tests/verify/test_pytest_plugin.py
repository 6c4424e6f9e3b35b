"""The pytest plugin as a user meets it: the guide's lines are run as they stand, and what a failure shows is read."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from drsim.verify.hunt import HUNTERS, judge
from drsim.verify.token import decode

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "verify-in-ci.md"
PLUGIN = "drsim.verify.pytest_plugin"
INSTALLED = any(point.value == PLUGIN for point in entry_points(group="pytest11"))
TOKEN = re.compile(r"dr1\.\w+\.[\w-]+\.[\w-]+")

EARLY_ACK = """
import pytest
from drsim.core.effects import Append, Send
from drsim.core.messages import Ack
from drsim.core.receiver import Receiver

take = Receiver.frame


def early(self, frame):
    effects = take(self, frame)
    ack = Send(self.spec.id.source, Ack(self.spec.id, self.generation, self.epoch, self.accepted))
    return [*effects, ack] if any(isinstance(e, Append) for e in effects) else effects


@pytest.fixture(autouse=True)
def acknowledged_too_early(monkeypatch):
    monkeypatch.setattr(Receiver, "frame", early)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.M | re.S)


def run(words: list[str], directory: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        words,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    return done.returncode, done.stdout + done.stderr


def pytest_run(directory: Path, *words: str) -> tuple[int, str]:
    """With our plugin alone, which is quick."""
    words = ("-p", "no:cacheprovider", "-p", PLUGIN, *words)
    return run([sys.executable, "-m", "pytest", *words], directory, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def mask(text: str) -> str:
    """Without what depends on which program was found, and how it could be shrunk."""
    return re.sub(r"\d+", "N", re.sub(r"operations?\b", "operations", TOKEN.sub("TOKEN", text)))


def write(directory: Path, test: str, conftest: str = "") -> Path:
    (directory / "test_replication.py").write_text(test)
    (directory / "conftest.py").write_text(conftest)
    return directory


# -- the guide ------------------------------------------------------------------------------------------------


def test_the_three_lines_of_the_guide(tmp_path: Path) -> None:
    install, swarm, tests = blocks("sh")[0].splitlines()
    assert install.endswith('pip install "drsim[verify]"')  # done
    words = swarm.replace("--seconds 60", "--seconds 1").split()
    code, said = run([str(Path(sys.executable).parent / words[0]), *words[1:]], tmp_path)
    assert code == 0, said
    assert "no violation" in said
    write(tmp_path, blocks("python")[0])
    words = tests.replace("--drsim-seconds 20", "--drsim-seconds 1").split()
    assert words[:3] == ["python", "-m", "pytest"]
    found = [] if INSTALLED else ["-p", PLUGIN]  # an editable install may be older than the entry point
    code, said = run([sys.executable, *words[1:], *found, "-p", "no:cacheprovider"], tmp_path)
    assert code == 0, said
    assert "2 passed" in said
    assert re.search(r"^drsim: [\d,]+ programs, [\d,]+ steps of the core$", said, re.M)


def test_every_option_of_a_command_in_the_guide_exists() -> None:
    from typer.main import get_command

    from drsim.cli.main import program

    known = get_command(program()).commands  # type: ignore[attr-defined]
    for command, rest in re.findall(r"\bdrsim (verify|replay|explain)\b([^\n|`]*)", GUIDE.read_text()):
        options = {option for parameter in known[command].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"drsim {command} {rest}"


def test_what_the_guide_says_of_a_failure_is_what_is_shown(tmp_path: Path) -> None:
    write(tmp_path, blocks("python")[0], EARLY_ACK)
    code, said = pytest_run(tmp_path, "test_replication.py", "-k", "test_replication")
    assert code == 1, said
    (shown,) = blocks("text")
    start = said.index("P8 does not hold")
    assert mask(said[start:]).startswith(mask(shown)), said
    assert len(set(TOKEN.findall(said))) == 1
    assert "site-packages" not in said
    assert not re.search(r"drsim/\w+/\w+\.py", said), "none of drsim's inside is shown"


def test_the_token_shows_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "def test_replication(drsim_verify):\n    drsim_verify()\n", EARLY_ACK)
    _, said = pytest_run(tmp_path)
    token = decode(TOKEN.findall(said)[0])
    assert judge(HUNTERS[token.kind], token.program) is None
    space: dict[str, object] = {}
    exec(EARLY_ACK.replace("@pytest.fixture(autouse=True)", ""), space)
    space["acknowledged_too_early"](monkeypatch)  # type: ignore[operator]
    verdict = judge(HUNTERS[token.kind], token.program)
    assert verdict is not None
    assert verdict.prop == "P8"
    assert verdict.message in said


# -- fixtures and options -------------------------------------------------------------------------------------

SCENARIO = """
def test_scenario(drsim_explorer):
    x = drsim_explorer(vms=1)
    x.write([x.new_write(1, 0, 3, 2)])
    x.expire(*next(t for t in x.timers if t[1].startswith("flush")))
    x.drain()
"""


def test_a_violation_in_a_scenario_is_shown_where_the_test_met_it(tmp_path: Path) -> None:
    code, said = pytest_run(write(tmp_path, SCENARIO), "-q")
    assert code == 0, said
    write(tmp_path, SCENARIO, EARLY_ACK)
    code, said = pytest_run(tmp_path, "-q")
    assert code == 1
    assert ">       x.drain()" in said
    assert "P8 demands: acknowledged means durable" in said
    assert not re.search(r"drsim/\w+/\w+\.py", said)
    code, said = pytest_run(tmp_path, "-q", "--full-trace")
    assert re.search(r"drsim/verify/\w+\.py", said)


def test_what_a_scenario_leaves_is_looked_at(tmp_path: Path) -> None:
    test = SCENARIO + (
        '    x.tick("crm")\n    x.drain()\n    assert x.catalog("crm").listed\n'
        "    for disks in x.disks.values():\n"
        "        for vm in disks.vms.values():\n"
        "            vm.states[:] = [bytes(len(vm.tip))] * len(vm.states)\n"
    )
    code, said = pytest_run(write(tmp_path, test), "-q")
    assert code == 1
    assert "1 passed, 1 error" in said
    assert re.search(r"P(3|11): checkpoint 1: ", said)


PROGRAMS = """
from drsim.verify.program import run


def test_mine(drsim_program, worker_id):
    x = run(drsim_program)
    assert len(x.estate.vpgs) == 1, worker_id
"""


def test_programs_are_parameters_and_spread_over_workers(tmp_path: Path) -> None:
    words = ["--drsim-programs", "8", "--drsim-seed", "90", "-rA", "-p", "xdist.plugin", "-n", "2"]
    code, said = pytest_run(write(tmp_path, PROGRAMS), *words)
    assert set(re.findall(r"test_mine\[(\d+)\]", said)) == {str(n) for n in range(90, 98)}
    assert code == 1, "some programs have two VPGs"
    (*tokens,) = dict.fromkeys(TOKEN.findall(said))
    assert tokens
    programs = {HUNTERS["explorer"].program(n) for n in range(90, 98)}
    assert {decode(token).program for token in tokens} <= programs


def test_options(tmp_path: Path) -> None:
    count = "def test_n(drsim_verify):\n    print('tally', drsim_verify(**{}).programs)\n"
    write(tmp_path, count)
    _, said = pytest_run(tmp_path, "-s", "--drsim-programs", "7")
    assert "tally 7" in said
    assert "drsim: 7 programs" in said
    _, said = pytest_run(write(tmp_path, count.replace("{}", "{'programs': 3}")), "-s", "--drsim-seconds", "9")
    assert "tally 3" in said
    code, said = pytest_run(tmp_path, "--drsim-programs", "-1")
    assert code == 4
    assert "--drsim-programs" in said
    _, said = pytest_run(tmp_path, "--help")
    assert all(option in said for option in ("--drsim-programs=N", "--drsim-seconds=S", "--drsim-seed=N"))


def test_the_same_seed_is_the_same_programs(tmp_path: Path) -> None:
    test = (
        "def test_n(drsim_verify):\n    for seed in (3, 3, 4):\n        print('steps', drsim_verify(seed=seed).steps)\n"
    )
    _, said = pytest_run(write(tmp_path, test), "-s", "--drsim-programs", "5")
    steps = re.findall(r"steps (\d+)", said)
    assert steps[0] == steps[1] != steps[2]


# -- a guest in a foreign house -------------------------------------------------------------------------------


def test_it_costs_nothing_when_it_is_not_used(tmp_path: Path) -> None:
    heavy = ("numpy", "hypothesis", "pydantic", "simpy", "drsim.core", "drsim.verify.explorer")
    code = f"import sys, drsim.verify.pytest_plugin; print([m for m in {heavy!r} if m in sys.modules])"
    assert run([sys.executable, "-c", code], tmp_path) == (0, "[]\n")
    write(tmp_path, f"import sys\n\ndef test_n():\n    assert not [m for m in {heavy[2:]!r} if m in sys.modules]\n")
    code_, said = pytest_run(tmp_path)
    assert code_ == 0, said
    assert "drsim:" not in said


def test_it_goes_with_our_own_conftest() -> None:
    code, said = pytest_run(ROOT, "--collect-only", "-q", "-p", "pytest_timeout", "tests/house")
    assert code == 0, said


def test_it_is_an_entry_point() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"drsim": "drsim.verify.pytest_plugin"}
    assert os.path.exists(ROOT / "drsim" / "verify" / "pytest_plugin.py")
