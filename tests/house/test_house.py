"""The repository's own rules: layers, sizes, every effect answered in every world, no foreign paths or addresses."""

import ast
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from programs import program

import drsim.real.world
import drsim.sim.world
from drsim.core.effects import Effect

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES, MOST_FUNCTION_LINES = 400, 60


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository: what git tracks or would track; every file where there is no git."""
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        return [p for pattern in patterns or ("**/*",) for p in ROOT.glob(f"**/{pattern}") if p.is_file()]
    return [ROOT / name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


def test_layers() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("world", [drsim.sim.world, drsim.real.world], ids=lambda w: w.__name__)
def test_every_effect_is_answered_in_every_world(world: ModuleType) -> None:
    cases = {
        node.cls.id
        for node in ast.walk(ast.parse(inspect.getsource(world)))
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name)
    }
    assert {effect.__name__ for effect in get_args(Effect)} <= cases


def test_no_absolute_path_of_a_machine_and_no_download_address() -> None:
    foreign = re.compile(
        r"(?<![\w.-])/(work|root|farm|home)/"
        r"|(files\.pythonhosted|pypi\.org|deb\.debian|registry\.npmjs|index-url|extra-index)"
    )
    bad = []
    for path in tracked():
        if path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        bad += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(text.splitlines(), 1) if foreign.search(line)]
    assert not bad


def sizes() -> list[str]:
    """Files and functions that are longer than a glance."""
    long = []
    for path in tracked("drsim/*.py"):
        source = path.read_text()
        lines = source.count("\n")
        if lines > MOST_LINES:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    return long


def test_size_report() -> None:
    """A report, not a gate: a long room is a warning in the summary."""
    found = sizes()
    if found:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.warn("longer than a glance: " + "; ".join(found), stacklevel=1)
    assert len(found) <= 10, found


def test_every_tweak_says_why() -> None:
    from drsim.spec.tweaks import Tweaks

    assert all(field.description for field in Tweaks.model_fields.values())


def test_constraints_pin_exact_versions_without_addresses() -> None:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)


def blocks() -> list[tuple[str, str]]:
    """Python and shell blocks of the documents that say how to run something."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for n, match in enumerate(re.finditer(r"^```(python|console)\n(.*?)^```", path.read_text(), re.M | re.S)):
            found.append((f"{path.relative_to(ROOT)}-{n}-{match[1]}", match[2]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), blocks(), ids=[name for name, _ in blocks()])
def test_code_blocks_in_the_docs_run(name: str, code: str, tmp_path: Path) -> None:
    if name.endswith("python"):
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
        return
    for line in code.splitlines():
        command = line.removeprefix("$ ")
        if not line.startswith("$ ") or "venv" in command or "pytest" in command:
            continue  # what a command prints, or the set-up commands, which CI runs as they stand
        if "../shared/traces" in command and not (ROOT / "../shared/traces").exists():
            pytest.skip("the traces are not here")
        command = command.replace("../shared/traces", str(ROOT / "../shared/traces"))
        if command.startswith("drsim "):
            command = f"{Path(sys.executable).parent / 'drsim'} {command.removeprefix('drsim ')}"
        if " live demo" in command:
            program("qemu-system-x86_64", "qemu-system-x86")
        if command.startswith("python experiments/"):
            continue  # benchmarks run by hand
        subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=120, capture_output=True)


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=lambda c: " ".join(c[:2])
)
def test_linters_and_types_are_clean(command: list[str]) -> None:
    tool = Path(sys.executable).parent / command[0]
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_notebooks_run_top_to_bottom() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "notebooks"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
