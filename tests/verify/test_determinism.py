"""P27: the same program takes the same steps, state for state, in another process and with another hash seed."""

import hashlib
import os
import subprocess
import sys

import pytest

from drsim.core.events import Event
from drsim.core.names import Address
from drsim.core.trace import TraceDigest, TraceLines
from drsim.core.units import Ns
from drsim.verify.hunt import HUNTERS
from drsim.verify.program import random_program, run

SEEDS = range(100, 112)

STATES = """
import hashlib
from drsim.core.trace import TraceLines
from drsim.verify.program import random_program, run
for seed in range({first}, {last}):
    lines = TraceLines()
    run(random_program(seed), trace=lines)
    for line in lines.lines:
        print(hashlib.blake2b(line.encode(), digest_size=6).hexdigest())
"""


def elsewhere(code: str, hash_seed: str) -> list[str]:
    """What a fresh interpreter with that hash seed prints."""
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_each_step_is_the_same_with_other_hash_seeds() -> None:
    """All events, all effects, in their order; `text` writes sets and dicts out as they come where order matters."""
    code = STATES.format(first=SEEDS.start, last=SEEDS.stop)
    here = []
    for seed in SEEDS:
        lines = TraceLines()
        run(random_program(seed), trace=lines)
        here += [hashlib.blake2b(line.encode(), digest_size=6).hexdigest() for line in lines.lines]
    assert len(here) > 1000
    for hash_seed in ("0", "4711"):
        assert elsewhere(code, hash_seed) == here


@pytest.mark.parametrize("kind", sorted(HUNTERS))
def test_every_kind_of_program_has_the_same_digest_elsewhere(kind: str) -> None:
    hunter = HUNTERS[kind]
    here = [hunter.digest(hunter.program(seed)) for seed in SEEDS]
    assert len(set(here)) == len(here)
    code = f"from drsim.verify.hunt import HUNTERS; h = HUNTERS[{kind!r}]\n"
    code += f"for n in range({SEEDS.start}, {SEEDS.stop}): print(h.digest(h.program(n)))"
    assert elsewhere(code, "99") == here


def test_one_event_more_or_less_is_another_digest() -> None:
    class Forgetful(TraceDigest):
        """Leaves out one step."""

        seen = 0

        def record(self, now: Ns, address: Address, event: Event, effects: object) -> None:
            self.seen += 1
            if self.seen != 17:
                super().record(now, address, event, effects)  # type: ignore[arg-type]

    whole, holed = TraceDigest(), Forgetful()
    for trace in (whole, holed):
        run(random_program(100), trace=trace)
    assert whole.hexdigest != holed.hexdigest


def test_an_order_that_hashes_decide_is_seen() -> None:
    """The proof that this can fail: a set of strings decides the order of effects, and two hash seeds disagree."""
    planted = """
from drsim.core import vpg
begin = vpg.Vpg._begin
def mutant(self, now, tag):
    self.vras = list(set(self.vras))
    return begin(self, now, tag)
vpg.Vpg._begin = mutant
"""
    code = planted + STATES.format(first=SEEDS.start, last=SEEDS.stop)
    assert len({tuple(elsewhere(code, str(n))) for n in range(4)}) > 1
