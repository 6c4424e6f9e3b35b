"""What checkers remember between steps changes no verdict: with and without memory they say the same."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from drsim.core.kernel import Sink
from drsim.core.names import Address
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.hunt import HUNTERS
from drsim.verify.mutants import BY_NAME, MUTANTS
from drsim.verify.program import run
from drsim.verify.superset import Superset

PROGRAMS = 6


class _Nothing(dict[str, Any]):
    """Forgets what it is given."""

    def __setitem__(self, key: str, value: Any) -> None:
        pass


class Forgetful(Explorer):
    """Its checkers ask everything anew."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        super().__init__(shape, trace=trace)
        self.checks.honest = _Nothing()
        remembering = self.stepped

        def stepped(address: Address, event: Any) -> None:
            for id_, spec in self.estate.streams.items():
                if id_.source == address and id_ in self.checks._streams[address]:
                    self.checks._streams[address][id_] = Superset(self, spec)
            assert remembering is not None
            remembering(address, event)

        self.stepped = stepped


def outcome(program: bytes, explorer: Callable[..., Explorer]) -> str:
    try:
        return str(run(program, explorer=explorer).kernel.steps)  # type: ignore[arg-type]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


P6 = [m.name for m in MUTANTS if "P6" in m.properties and m.hunter == "explorer"][:3]
P12 = ["comparison-forgotten", "equal-although-written-meanwhile"]


@pytest.mark.parametrize("mutant", ["", *P6, *P12])
def test_with_and_without_memory_the_verdict_is_the_same(mutant: str) -> None:
    with BY_NAME[mutant].patch() if mutant else nullcontext():
        for seed in range(PROGRAMS):
            program = HUNTERS["explorer"].program(seed)
            assert outcome(program, Forgetful) == outcome(program, Explorer)
