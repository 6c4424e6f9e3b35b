"""Mutants: planted mistakes, and the property that must see each of them.

`MUTANTS` is the list; `LATER` says of every number of verification.md 6 and products.md 4.2 that has no mutant yet
what it waits for. `kill` finds a program on which a mutant's property fails.
"""

from types import ModuleType

from drsim.verify.mutants import (
    capture,
    checkpoints,
    journals,
    membership,
    quiesce,
    status,
    stores,
    stream,
    syncs,
    system,
)
from drsim.verify.mutants.base import Mutant

MODULES: tuple[ModuleType, ...] = (
    capture, stream, syncs, checkpoints, quiesce, journals, membership, status, stores, system,
)  # fmt: skip
MUTANTS: tuple[Mutant, ...] = tuple(m for module in MODULES for m in vars(module).values() if isinstance(m, Mutant))
BY_NAME = {m.name: m for m in MUTANTS}

RECOVERY = "issue 5, recovery operations"
LATER: dict[str, str] = {
    **dict.fromkeys(("38", "39", "40", "41", "42", "43", "44", "45", "46", "47", "52", "55"), RECOVERY),
    **{f"B{number}": RECOVERY for number in range(34, 46)},
    "B50": "no bug of the product: it demands that the tests are tested, which this list does",
}
"""Numbers without a mutant, and what they wait for."""
