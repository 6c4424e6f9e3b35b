"""Mutants: planted mistakes, and the property that must see each of them.

`MUTANTS` is the list; `EXCUSED` says of every number of verification.md 6 and products.md 4.2 that has none why not.
`kill` finds a program on which a mutant's property fails.
"""

from types import ModuleType

from drsim.verify.mutants import (
    capture,
    checkpoints,
    edits,
    epochs,
    fences,
    journals,
    membership,
    quiesce,
    recovery,
    status,
    stores,
    stream,
    syncs,
    system,
)
from drsim.verify.mutants.base import Mutant

MODULES: tuple[ModuleType, ...] = (
    capture, stream, syncs, checkpoints, quiesce, journals, membership, edits, fences, epochs, status, stores, system,
    recovery,
)  # fmt: skip
MUTANTS: tuple[Mutant, ...] = tuple(m for module in MODULES for m in vars(module).values() if isinstance(m, Mutant))
BY_NAME = {m.name: m for m in MUTANTS}

EXCUSED: dict[str, str] = {
    "B50": "no bug of the product: it demands that the tests are tested, which this list does",
}
"""Numbers without a mutant, and why."""
