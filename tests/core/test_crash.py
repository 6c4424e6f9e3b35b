"""Crashes over several machines: what one has forgotten, the others know or nobody needs (`Explorer.crash`).

The explorer's checkers look on: the superset rule after every step, each image when a checkpoint is kept or data is
aged, cuts, epochs, reports. `whole` compares everything that can be recovered, byte for byte.
"""

import pytest
from support import write

from drsim.core.effects import Append
from drsim.core.facts import SyncEnded
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.sender import SendState
from drsim.core.units import SECTOR
from drsim.core.window import reaches
from drsim.verify.bags import Key
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.heal import heal

VPG = "crm"


class Strict(Explorer):
    """An explorer with a store that takes a new epoch's empty first frame, its anchor, before any of its rows."""

    def finish(self, key: Key, *, fail: bool = False) -> None:
        effect = self.work[key][0][1]
        if isinstance(effect, Append) and effect.frame.epoch > self.disks[effect.frame.stream].epoch:
            assert not len(effect.frame.batch)
            assert reaches(effect.frame.after, self.disks[effect.frame.stream].end)
        super().finish(key, fail=fail)


def one(**shape: int) -> Explorer:
    """One protected VRA with one VM, one recovery VRA; in sync, nothing listed."""
    return Strict(Shape(protected=1, **shape))  # type: ignore[arg-type]


def cast(x: Explorer) -> tuple[StreamId, Address, Address, Address, Address]:
    """The first stream, its two ends, and the managers."""
    stream, vpg = x.streams[0], x.estate.vpgs[0]
    return stream, stream.source, stream.target, vpg.manager, vpg.catalog


def ids(x: Explorer) -> list[int]:
    """The checkpoints that are listed."""
    return [c.id for c in x.catalog(VPG).listed]


def listed(x: Explorer, count: int = 1) -> Explorer:
    """With as many more checkpoints, each after a write."""
    for n in range(count):
        write(x, (1, 0, n, 1))
        for timer in [t for t in x.timers if t[1].startswith("flush")]:
            x.expire(*timer)
        x.tick(VPG)
        x.drain()
    return x


def up(x: Explorer) -> Explorer:
    """Everything starts again, and comes to rest."""
    for address in sorted(x.down):
        x.boot(address)
    x.drain()
    x.checks.whole(at_rest=True)
    return x


@pytest.mark.parametrize("who", ["source", "target", "manager", "catalog", "all"])
def test_what_is_listed_survives_and_protection_goes_on(who: str) -> None:
    x = listed(one(), 2)
    gone = dict(zip(("source", "target", "manager", "catalog"), cast(x)[1:], strict=True))
    for address in [gone[who]] if who in gone else gone.values():
        x.crash(address, 0)
    up(x)
    assert ids(x) == [1, 2]
    listed(x)
    assert len(ids(x)) == 3
    assert x.vpg(VPG).newest == x.catalog(VPG).listed[-1].taken
    heal(x)


def test_a_vra_that_forgot_what_was_dirty_compares_everything() -> None:
    x = listed(one())
    stream, source, target, _, _ = cast(x)
    x.break_link((source, target))
    write(x, (1, 0, 5, 3))
    x.crash(source, 0)
    write(x, (1, 1, 0, 2))
    up(x)
    assert x.sender(stream).state is SendState.IN_SYNC
    (ended,) = (fact for fact in x.facts if isinstance(fact, SyncEnded))
    assert ended.compared_bytes == (22 + 9) * SECTOR
    rows = x.disks[stream].vms[x.vms[0]].rows[1:]
    assert [(start // 2, stop // 2) for start, stop, _ in rows] == [(4, 8), (22, 26)], "the regions of what was written"
    heal(x)


def test_a_retirement_that_a_crash_broke_can_be_taken_back_by_a_vra_without_marks() -> None:
    """The VRA forgot its marks while checkpoint 1 was on its way out; then the catalogue lists it again."""
    x = listed(one(history=1), 2)
    stream, _, target, _, catalog = cast(x)
    x.age(VPG)
    assert ids(x) == [2]
    x.crash(target, 0)
    x.boot(target)
    x.arrive((catalog, target), 9)
    x.crash(catalog, 0)
    x.boot(catalog)
    assert ids(x) == [1, 2]
    up(x)
    assert x.receiver(stream).journals[x.vms[0]].plan(CheckpointId(1)).upto == 1
    heal(x)


@pytest.mark.parametrize("arrived", [False, True])
def test_a_checkpoint_on_its_way_to_the_list_keeps_its_marks(arrived: bool) -> None:
    """The VRA had told that it has it, for one stream or both, and forgot."""
    x = Strict(Shape(protected=2))
    target = cast(x)[2]
    for vm in (1, 2):
        write(x, (vm, 0, 0, 8))
    x.tick(VPG)
    first, second = (("store", target, stream) for stream in x.streams)
    for _ in range(30):
        for link in list(x.queues):
            x.arrive(link, 9)
        for key in (first, *([second] if arrived else [])):
            if x.work.get(key):
                x.finish(key)
    assert bool(x.catalog(VPG)._keeping) is arrived
    x.crash(target, 1)
    up(x)
    assert ids(x) == [1]
    heal(x)


def test_an_epoch_in_which_nothing_was_sent_is_not_used_again() -> None:
    """The guests are idle: a checkpoint of epoch 2 holds no row of it. The epoch is durable all the same."""
    x = listed(one())
    stream, source, target, _, _ = cast(x)
    x.break_link((source, target))
    x.renew((source, target))
    x.drain()
    x.tick(VPG)
    x.drain()
    assert [cut.epoch for c in x.catalog(VPG).listed for cut in c.cut.values()] == [1, 2]
    x.crash(target, 0)
    x.crash(source, 0)
    up(x)
    assert x.sender(stream).epoch == 3
    heal(x)


def test_the_next_epoch_lies_beyond_one_that_the_peer_has_only_heard_of() -> None:
    """The receiver waits for its store before it begins epoch 2; the sender crashes and asks where it stands."""
    x = one()
    stream, source, target, _, _ = cast(x)
    write(x, (1, 0, 0, 8))
    x.arrive((source, target))
    write(x, (1, 0, 8, 8), (1, 0, 0, 8), (1, 0, 8, 8), (1, 0, 0, 6))  # fills the buffer: a fold
    write(x, (1, 0, 0, 8))
    x.arrive((source, target), 9)
    assert x.receiver(stream).epoch == 1
    x.crash(source, 0)
    x.boot(source)
    x.arrive((source, target), 9)
    x.arrive((target, source), 9)
    assert x.sender(stream).epoch == 3
    heal(x)


@pytest.mark.parametrize("from_memory", [False, True])
def test_numbers_lie_beyond_what_a_stopped_vra_may_have_stored(from_memory: bool) -> None:
    """The store took a frame whose word was lost with the restart; then the sender crashes and asks.

    The explorer itself builds such a VRA again, because what it remembers lacks that frame's bytes. The numbers must be
    right all the same when it goes on from memory.
    """
    x = one()
    stream, source, target, _, _ = cast(x)
    write(x, (1, 0, 0, 8))
    x.arrive((source, target))
    if from_memory:
        x.stop(target, x.links, unanswered=1)
        x.crash(source, 0)
        x.boot(source)
        x.boot(target)
        x.drain()
        assert x.sender(stream).state is SendState.IN_SYNC
        x.crash(target, 0)  # so that the account is right again
    else:
        x.halt(target, 1)
        x.crash(source, 0)
    up(x)
    heal(x)


def test_pins_survive_with_the_operation_that_needs_them() -> None:
    x = listed(one(history=1), 3)
    x.pin(VPG, CheckpointId(2), True)
    x.crash(cast(x)[-1], 0)
    up(x)
    x.age(VPG)
    x.drain()
    assert ids(x) == [2, 3]
    x.checks.whole(at_rest=True)


def test_guests_that_were_held_are_not_held_for_ever() -> None:
    x = Strict(Shape(protected=2))
    _, source, _, manager, _ = cast(x)
    x.tick(VPG)
    x.arrive((manager, source))
    assert not write(x, (1, 0, 0, 1))
    x.crash(source, 0)
    assert x.guests[x.vms[0]].acked == [x.now]
    up(x)
    assert not ids(x)
    heal(x)


def test_dependent_writes_across_hosts_are_kept_together() -> None:
    """The write that another VM depends on is in every checkpoint that holds the dependent one (PROTOCOL 3)."""
    x = Strict(Shape(protected=2))
    to_first, to_second = ((cast(x)[3], source) for source in x.estate.sources)
    x.tick(VPG)
    x.arrive(to_first)
    assert not write(x, (1, 0, 0, 2)), "held: the guest is not told"
    write(x, (2, 0, 0, 2))  # so this one cannot depend on it
    x.arrive(to_second)
    x.drain()
    assert ids(x) == [1]
    assert x.checks.cuts[VPG, CheckpointId(1)] == {1: 0, 2: 1}
    x.checks.whole(at_rest=True)
