"""Store programs: clean on the real store, the same in any process, and they reach what they should."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.verify.store_programs import LENGTH, StoreProbes, random_store_program, run_store_program

PROGRAMS = 300


@pytest.mark.slow
def test_programs_are_clean_and_reach_every_probe() -> None:
    reached: set[str] = set()
    for seed in range(PROGRAMS):
        reached |= run_store_program(random_store_program(seed)).probes
    assert reached == set(StoreProbes)


@settings(max_examples=60)
@given(st.binary(min_size=LENGTH, max_size=LENGTH))
def test_any_program_is_clean(program: bytes) -> None:
    run_store_program(program)


def test_the_same_program_gives_the_same_digest_in_another_process() -> None:
    code = (
        "from drsim.verify.store_programs import *\n"
        "for n in range(8): print(run_store_program(random_store_program(n)).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_zeros_are_the_most_harmless_program() -> None:
    report = run_store_program(bytes(LENGTH))
    assert report.probes <= {StoreProbes.TWO_VMS, StoreProbes.OVERLAP}
