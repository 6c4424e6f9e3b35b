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
from drsim.verify.superset import Pair, Superset

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
P12 = [m.name for m in MUTANTS if "P12" in m.properties and m.hunter == "explorer"]


@pytest.mark.parametrize("mutant", ["", *P6, *P12])
def test_with_and_without_memory_the_verdict_is_the_same(mutant: str) -> None:
    with BY_NAME[mutant].patch() if mutant else nullcontext():
        for seed in range(PROGRAMS):
            program = HUNTERS["explorer"].program(seed)
            assert outcome(program, Forgetful) == outcome(program, Explorer)


def stale_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = Pair.compare
    monkeypatch.setattr(Pair, "compare", lambda self: None if hasattr(self, "differ") else compare(self))


def stale_bitmap(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = Superset._clean
    monkeypatch.setattr(
        Superset, "_clean", lambda self, bitmap: self._bitmap[2] if self._bitmap[0] is not None else clean(self, bitmap)
    )


def frames_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    remember = Superset._remember
    monkeypatch.setattr(
        Superset, "_remember", lambda self, frame: next(iter(self._frames.values()), None) or remember(self, frame)
    )


@pytest.mark.parametrize("broken", [stale_disks, stale_bitmap, frames_alike], ids=lambda b: b.__name__)
def test_a_memory_that_is_not_renewed_changes_verdicts(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof that the test above can fail: each kind of memory, broken, says otherwise than no memory."""
    broken(monkeypatch)
    programs = [HUNTERS["explorer"].program(seed) for seed in range(PROGRAMS)]
    unlike = set()
    for mutant in ("", "in-flight-forgotten"):
        with BY_NAME[mutant].patch() if mutant else nullcontext():
            unlike |= {n for n, p in enumerate(programs) if outcome(p, Forgetful) != outcome(p, Explorer)}
    assert unlike
