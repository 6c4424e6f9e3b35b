"""Whole runs: byte programs on a bag of machines; what must hold is checked after every step (`support.py`)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import LENGTH, random_program, run
from support import Bag, Shape

from drsim.core.facts import CheckpointListed, CheckpointSkipped, CheckpointsRetired, SyncEnded, SyncStarted
from drsim.core.trace import TraceDigest

KINDS = ("/vra", "recovery-vra", "/vpg/", "/catalog/")


@settings(max_examples=max(250, settings.get_profile(settings.get_current_profile_name()).max_examples))
@given(st.binary(min_size=LENGTH, max_size=LENGTH))
def test_any_run_keeps_the_rules_and_recovers(program: bytes) -> None:
    run(program)


def test_the_programs_reach_what_they_should() -> None:
    """A checker that never meets a fault proves nothing."""
    bags = [run(random_program(seed)) for seed in range(60)]
    facts = [fact for bag in bags for fact in bag.facts]
    kinds = {kind: sum(isinstance(f, kind) for f in facts) for kind in (CheckpointListed, SyncStarted, SyncEnded)}
    assert min(kinds.values()) > 60, kinds
    assert {f.trigger.name for f in facts if isinstance(f, SyncStarted)} >= {
        "NETWORK_CONGESTION", "COMMUNICATION", "PROTECTED_VRA", "RECOVERY_STORAGE_ERROR",
    }  # fmt: skip
    assert {f.reason for f in facts if isinstance(f, CheckpointSkipped)} >= {
        "synchronizing", "hold budget", "peer unreachable", "VRA stops",
    }  # fmt: skip
    reasons = {f.reason for f in facts if isinstance(f, CheckpointsRetired)}
    assert reasons == {"history", "journal limit", "sync window fills the journal"}
    crashes = {kind: sum(bag.lives[a] for bag in bags for a in bag.lives if kind in a) for kind in KINDS}
    assert min(crashes.values()) >= 3, crashes


@pytest.mark.parametrize("seed", range(5))
def test_a_program_plays_the_same_twice(seed: int) -> None:
    digests = []
    for _ in range(2):
        digest = TraceDigest()
        run(random_program(seed), trace=digest)
        digests.append(digest.hexdigest)
    assert digests[0] == digests[1]


def test_dependent_writes_across_hosts_are_kept_together() -> None:
    """The write that another VM depends on is in every checkpoint that holds the dependent one (PROTOCOL 3)."""
    bag = Bag(Shape(protected=2, vms=1))
    bag.tick()
    to_first, to_second = ((bag.manager, source) for source in bag.sources)
    bag.deliver(to_first)
    assert not bag.write((1, 0, 0, 2)), "held: the guest is not told"
    bag.write((2, 0, 0, 2))  # so this one cannot depend on it
    bag.deliver(to_second)
    bag.drain()
    assert [c.id for c in bag.catalog.listed] == [1]
    assert bag.cut_at[1] == {1: 0, 2: 1}
    bag.check_checkpoints()
