"""System programs that tests use: found, or the test is skipped with a reason; in CI a missing one is a failure."""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """The path of a program of a Debian package."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("DRSIM_REQUIRE") == "all":
            pytest.fail(f"{name} is missing; .ci/run installs it")
        pytest.skip(f"needs the system program {name} (Debian package {package})")
    return found
