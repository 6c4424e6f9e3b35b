"""Every platform passes the same suite."""

import asyncio
from collections.abc import Iterable

import pytest
from platforms.arms import ARMS

from drsim.verify.conformance.bench import Arm
from drsim.verify.conformance.checks import CHECKS, NEEDS
from drsim.verify.conformance.operations import OPERATIONS


def _all(names: Iterable[str], *, quick: tuple[str, ...]) -> list[object]:
    """Each with each; those of arms that are not quick are slow."""
    return [
        pytest.param(arm, name, id=f"{arm.name}-{name}", marks=() if arm.name in quick else pytest.mark.slow)
        for arm in ARMS
        for name in names
    ]


def _skip(arm: Arm, name: str) -> None:
    if name in arm.cannot:
        pytest.skip(f"{arm.name} cannot: {arm.cannot[name]}")
    if NEEDS.get(name) in arm.lacks:
        pytest.skip(f"{arm.name} has no {NEEDS[name]}")


@pytest.mark.parametrize(("arm", "name"), _all(CHECKS, quick=tuple(arm.name for arm in ARMS)))
def test_a_promise_of_the_ports(arm: Arm, name: str) -> None:
    _skip(arm, name)

    async def run() -> None:
        async with arm.bench() as bench:
            await CHECKS[name](bench)
            await bench.platform.close()

    asyncio.run(run())


@pytest.mark.parametrize(("arm", "name"), _all(OPERATIONS, quick=("sim",)))
def test_an_operation(arm: Arm, name: str) -> None:
    _skip(arm, name)

    async def run() -> None:
        async with arm.bench() as bench:
            await OPERATIONS[name](bench, arm.every)
            await bench.platform.close()

    asyncio.run(run())
