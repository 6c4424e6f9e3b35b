"""Every planted mistake is seen by the property that must see it: with assertions off, and by Hypothesis as well."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, find, settings

from drsim.core.errors import FileError
from drsim.verify.hunt import HUNTERS
from drsim.verify.mutants import BY_NAME, EXCUSED, MUTANTS
from drsim.verify.mutants.base import Mutant
from drsim.verify.mutants.kill import kill, kill_apart, named
from drsim.verify.strategies import programs
from drsim.verify.violation import Violation

GROUPS = 8
PATIENCE = 120.0
"""Seconds for each mutant: a busy machine is no survivor. How long it really takes, experiments/speed/ measures."""
SEARCHED = MUTANTS if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else MUTANTS[::3]
"""Hypothesis searches for a third of them in CI, for all of them at night."""
SEARCH = settings(
    max_examples=10_000, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
PROPERTIES = {f"P{n}" for n in range(1, 29)}
OURS = [*range(1, 57)]
FIELD = [f"B{n:02}" for n in range(1, 51)]


# -- the table --------------------------------------------------------------------------------------------------------


def test_every_number_of_both_lists_has_its_mutant_or_says_what_it_waits_for() -> None:
    numbers = sorted([*EXCUSED, *(number for m in MUTANTS for number in m.numbers)])
    assert numbers == sorted([*map(str, OURS), *FIELD])


def test_what_the_present_core_can_have_is_there() -> None:
    wanted = {*range(1, 38), 48, 50, 51, 53, 54}
    assert not wanted & {int(number) for number in EXCUSED if number.isdigit()}


def test_each_mutant_says_what_it_breaks() -> None:
    assert len(BY_NAME) == len(MUTANTS)
    assert len({m.breaks for m in MUTANTS}) == len(MUTANTS)
    for m in MUTANTS:
        assert m.breaks.endswith("."), m.name
        assert set(m.properties) <= PROPERTIES, m.name
        assert m.properties
        assert m.hunter in HUNTERS, m.name
        assert m.cites


def test_mutants_by_name_and_by_number() -> None:
    assert named(["B08"]) == named(["16"]) == (BY_NAME["naive-marker"],)
    assert named([]) == MUTANTS
    with pytest.raises(FileError, match="no mutant 'nobody'"):
        named(["nobody"])


def test_a_patch_is_undone() -> None:
    before = {m.name: _fingerprint() for m in MUTANTS}
    for m in MUTANTS:
        with m.patch():
            assert _fingerprint() != before[m.name], f"{m.name} changes nothing"
        assert _fingerprint() == before[m.name], m.name


def _fingerprint() -> dict[str, int]:
    """What the names of all modules and classes of drsim stand for."""
    known: dict[str, int] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith("drsim."):
            for key, value in vars(module).items():
                known[f"{name}.{key}"] = id(value)
                if isinstance(value, type) and value.__module__ == name:
                    known |= {f"{name}.{key}.{inner}": id(held) for inner, held in vars(value).items()}
    return known


# -- the kills --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_each_mutant_is_killed_by_its_property_with_assertions_off(group: int) -> None:
    for done in kill_apart(MUTANTS[group::GROUPS], seconds=PATIENCE):
        assert not done.asserted
        assert done.killed, f"{done.mutant} survives {done.programs} programs; first seen: {done.also}"
        assert done.prop in BY_NAME[done.mutant].properties


@pytest.mark.slow
@pytest.mark.parametrize("mutant", SEARCHED, ids=lambda m: m.name)
def test_hypothesis_kills_it_as_well(mutant: Mutant) -> None:
    def seen(program: bytes) -> bool:
        try:
            HUNTERS[mutant.hunter].play(program)
        except Violation as violation:
            return violation.prop in mutant.properties
        except Exception:
            return False  # it may break the core in other ways, on other programs
        return False

    with mutant.patch():
        find(programs(mutant.hunter), seen, settings=SEARCH)


def test_what_breaks_nothing_survives() -> None:
    done = kill(replace(BY_NAME["naive-marker"], patch=nullcontext), seconds=0.5)
    assert (done.killed, done.prop, done.token) == (False, "", "")
    assert done.programs > 1


def test_another_property_does_not_count() -> None:
    elsewhere = replace(BY_NAME["acknowledged-when-taken"], properties=("P21",))
    done = kill(elsewhere, seconds=0.5)
    assert not done.killed
    assert done.also.startswith("Violation: P8")


# -- the command ------------------------------------------------------------------------------------------------------


def _drsim(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from drsim.cli.main import main; main()", "mutants", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_prints_a_table() -> None:
    done = _drsim("17", "naive-marker", "--workers", "1")
    assert done.returncode == 0, done.stderr
    first, *rows, last = done.stdout.splitlines()
    assert first.split() == ["number", "mutant", "what", "is", "broken", "property", "programs", "seconds"]
    assert "first-journal-lists" in rows[0]
    assert "P5" in rows[0]
    assert last.startswith("2 of 2 killed, median ")


def test_the_command_prints_json() -> None:
    done = _drsim("B49", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["mutants"]
    assert (row["numbers"], row["name"]) == (["B49"], "names-swapped")
    assert row["killed"]
    assert row["property"] in row["properties"]
    assert (document["killed"], document["of"], document["excused"]) == (1, 1, EXCUSED)


def test_the_command_refuses_a_name_that_is_not_there() -> None:
    done = _drsim("nobody")
    assert done.returncode == 2
    assert "no mutant 'nobody'" in done.stderr
