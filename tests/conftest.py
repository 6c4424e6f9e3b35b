"""Options and profiles of the whole suite."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", deadline=None, suppress_health_check=SLOW, max_examples=100)
settings.register_profile(
    "ci", deadline=None, suppress_health_check=SLOW, max_examples=200, derandomize=True, database=None, print_blob=True
)
settings.register_profile(
    "nightly", deadline=None, suppress_health_check=SLOW, max_examples=20_000, phases=set(Phase), print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write what the golden conversations say now")


@pytest.fixture
def rewrite_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-golden"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is tested at both fidelities is tested write by write among the slow proofs."""
    for item in items:
        if getattr(item, "callspec", None) is not None and item.callspec.params.get("fidelity") == "write":
            item.add_marker(pytest.mark.slow)
