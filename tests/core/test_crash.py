"""Crashes over several machines: what one has forgotten, the others know or nobody needs (`support.Bag.crash`)."""

import pytest
from support import Bag, Shape

from drsim.core.names import CheckpointId
from drsim.core.sender import SendState


def one(**shape: int) -> Bag:
    """One protected VRA with one VM, one recovery VRA; in sync, nothing listed."""
    return Bag(Shape(protected=1, vms=1, **shape))  # type: ignore[arg-type]


def listed(bag: Bag, count: int = 1) -> Bag:
    """With as many more checkpoints, each after a write."""
    for n in range(count):
        bag.write((1, 0, n, 1))
        for timer in [t for t in bag.timers if t[1].startswith("flush")]:
            bag.fire(*timer)
        bag.tick()
        bag.drain()
    return bag


def up(bag: Bag) -> Bag:
    """Everything starts again, and comes to rest."""
    for address in sorted(bag.down):
        bag.start(address)
    bag.drain()
    bag.check_checkpoints()
    return bag


@pytest.mark.parametrize("who", ["source", "target", "manager", "catalog", "all"])
def test_what_is_listed_survives_and_protection_goes_on(who: str) -> None:
    bag = listed(one(), 2)
    gone = {"source": bag.sources, "target": bag.targets, "manager": [bag.manager], "catalog": [bag.catalog_at]}
    for address in gone.get(who) or [a for some in gone.values() for a in some]:
        bag.crash(address)
    up(bag)
    assert [c.id for c in bag.catalog.listed] == [1, 2]
    listed(bag)
    assert len(bag.catalog.listed) == 3
    assert bag.vpg.newest == bag.catalog.listed[-1].taken
    bag.heal()


def test_a_vra_that_forgot_what_was_dirty_sends_everything() -> None:
    bag = listed(one())
    bag.lose((bag.sources[0], bag.targets[0]))
    bag.write((1, 0, 5, 3))
    bag.crash(bag.sources[0])
    bag.write((1, 1, 0, 2))
    up(bag)
    assert bag.sender(bag.streams[0].id).state is SendState.IN_SYNC
    file = bag.files[bag.streams[0].id]
    assert sum(row.stop - row.start for row in file.rows[bag.streams[0].vms[0]][1:]) == 22 + 9


def test_a_retirement_that_a_crash_broke_can_be_taken_back_by_a_vra_without_marks() -> None:
    """The VRA forgot its marks while checkpoint 1 was on its way out; then the catalogue lists it again."""
    bag = listed(one(history=1), 2)
    bag.age()
    assert [c.id for c in bag.catalog.listed] == [2]
    bag.crash(bag.targets[0])
    bag.start(bag.targets[0])
    bag.deliver((bag.catalog_at, bag.targets[0]), 9)
    bag.crash(bag.catalog_at)
    bag.start(bag.catalog_at)
    assert [c.id for c in bag.catalog.listed] == [1, 2]
    up(bag)
    assert bag.receivers[bag.targets[0]].receivers[bag.streams[0].id].journals[bag.streams[0].vms[0]].plan(
        CheckpointId(1)
    ).upto == 1  # fmt: skip


@pytest.mark.parametrize("arrived", [False, True])
def test_a_checkpoint_on_its_way_to_the_list_keeps_its_marks(arrived: bool) -> None:
    """The VRA had told that it has it, for one stream or both, and forgot."""
    bag = Bag(Shape(protected=2, vms=1))
    for vm in (1, 2):
        bag.write((vm, 0, 0, 8))
    bag.tick()
    first, second = (("store", bag.targets[0], s.id) for s in bag.streams)
    for _ in range(30):
        for pair in list(bag.queues):
            bag.deliver(pair, 9)
        for key in (first, *([second] if arrived else [])):
            if bag.work.get(key):
                bag.do(key)
    assert bool(bag.catalog._keeping) is arrived
    bag.crash(bag.targets[0], unanswered=1)
    up(bag)
    assert [c.id for c in bag.catalog.listed] == [1]
    bag.heal()


def test_an_epoch_in_which_nothing_was_sent_is_not_used_again() -> None:
    """The guests are idle: a checkpoint of epoch 2 holds no row of it. The epoch is durable all the same."""
    bag = listed(one())
    link = (bag.sources[0], bag.targets[0])
    bag.lose(link)
    bag.connect(link)
    bag.drain()
    bag.tick()
    bag.drain()
    assert [cut.epoch for c in bag.catalog.listed for cut in c.cut.values()] == [1, 2]
    bag.crash(bag.targets[0])
    bag.crash(bag.sources[0])
    up(bag)
    assert bag.sender(bag.streams[0].id).epoch == 3
    bag.heal()


def test_the_next_epoch_lies_beyond_one_that_the_peer_has_only_heard_of() -> None:
    """The receiver waits for its store before it begins epoch 2; the sender crashes and asks where it stands."""
    bag = one()
    source, target = bag.sources[0], bag.targets[0]
    bag.write((1, 0, 0, 8))
    bag.deliver((source, target))
    bag.write((1, 0, 8, 8), (1, 0, 0, 8), (1, 0, 8, 8), (1, 0, 0, 6))  # fills the buffer: a fold
    bag.write((1, 0, 0, 8))
    bag.deliver((source, target), 9)
    assert bag.receivers[target].receivers[bag.streams[0].id].epoch == 1
    bag.crash(source)
    bag.start(source)
    bag.deliver((source, target), 9)
    bag.deliver((target, source), 9)
    assert bag.sender(bag.streams[0].id).epoch == 3
    bag.heal()


def test_numbers_lie_beyond_what_a_stopped_vra_may_have_stored() -> None:
    """The store took a frame whose word was lost with the restart; then the sender crashes and asks."""
    bag = one()
    source, target = bag.sources[0], bag.targets[0]
    bag.write((1, 0, 0, 8))
    bag.deliver((source, target))
    bag.stop(target, unanswered=1)
    bag.crash(source)
    up(bag)
    bag.heal()


def test_pins_survive_with_the_operation_that_needs_them() -> None:
    bag = listed(one(history=1), 3)
    bag.pin(2)
    bag.crash(bag.catalog_at)
    up(bag)
    bag.age()
    bag.drain()
    assert [c.id for c in bag.catalog.listed] == [2, 3]


def test_guests_that_were_held_are_not_held_for_ever() -> None:
    bag = Bag(Shape(protected=2, vms=1))
    bag.tick()
    source = bag.sources[0]
    bag.deliver((bag.manager, source))
    assert not bag.write((1, 0, 0, 1))
    bag.crash(source)
    assert bag.guests[bag.streams[0].vms[0]].acked == [bag.now]
    up(bag)
    assert not bag.catalog.listed
    bag.heal()


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
