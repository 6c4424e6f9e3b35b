"""Every platform passes the same suite."""

import asyncio

import pytest
from platforms.arms import ARMS

from drsim.verify.conformance.bench import Arm
from drsim.verify.conformance.checks import CHECKS, NEEDS
from drsim.verify.conformance.operations import OPERATIONS


def _all(names: object) -> list[object]:
    return [pytest.param(arm, name, id=f"{arm.name}-{name}") for arm in ARMS for name in names]  # type: ignore[attr-defined]


def _skip(arm: Arm, name: str) -> None:
    if name in arm.cannot:
        pytest.skip(f"{arm.name} cannot: {arm.cannot[name]}")
    if NEEDS.get(name) in arm.lacks:
        pytest.skip(f"{arm.name} has no {NEEDS[name]}")


@pytest.mark.parametrize(("arm", "name"), _all(CHECKS))
def test_a_promise_of_the_ports(arm: Arm, name: str) -> None:
    _skip(arm, name)

    async def run() -> None:
        async with arm.bench() as bench:
            await CHECKS[name](bench)
            await bench.platform.close()

    asyncio.run(run())


@pytest.mark.parametrize(("arm", "name"), _all(OPERATIONS))
def test_an_operation(arm: Arm, name: str) -> None:
    _skip(arm, name)

    async def run() -> None:
        async with arm.bench() as bench:
            await OPERATIONS[name](bench, arm.every)
            await bench.platform.close()

    asyncio.run(run())
