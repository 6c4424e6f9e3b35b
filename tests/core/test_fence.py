"""Generations (PROTOCOL 2, P16): nothing of a source that was fenced is taken, and it can go on in a later one."""

import pytest
from sender_rig import MANAGER, ONE, THERE, Rig, messages

from drsim.core.effects import Append, Send
from drsim.core.events import Connected, FenceAsked, Lost, PauseAsked, Received, TagAsked
from drsim.core.facts import CheckpointSkipped, GenerationChanged
from drsim.core.messages import Checkpoint, Frame, Lineage, Resync, Sealed, Standing, Start, Where
from drsim.core.names import CheckpointId
from drsim.core.receiver import Receiver
from drsim.core.sender import SendState
from drsim.core.units import Ns
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.heal import heal

FENCED, BACK = Lineage("crm", 2, True), Lineage("crm", 3, False)


def begun(**shape: int) -> Explorer:
    """Something was written and listed."""
    x = Explorer(Shape(**shape))  # type: ignore[arg-type]
    x.drain()
    wrote(x)
    x.tick("crm")
    x.drain()
    assert len(x.catalog("crm").listed) == 1
    return x


def wrote(x: Explorer) -> None:
    """Every VM, and what was written was sent as far as it can be."""
    for vm in x.vms:
        x.write([x.new_write(vm, 0, 2, 4)])
    for timer in [t for t in x.timers if t[1].startswith("flush")]:
        x.expire(*timer)
    x.drain()


def apart(x: Explorer) -> None:
    for link in x.estate.wan:
        x.break_link(link)


def together(x: Explorer) -> None:
    for link in x.estate.wan:
        x.renew(link)


def ends(x: Explorer) -> list[tuple[int, ...]]:
    """How far the journals of each stream are durable."""
    return [tuple(x.disks[stream].end) for stream in x.streams]


# -- the sender -------------------------------------------------------------------------------------------------------


def test_a_fenced_sender_sends_nothing_and_keeps_everything() -> None:
    rig = Rig()
    rig.write((0, 2))
    effects = rig.hears(FENCED, MANAGER) + rig.write((8, 2))
    assert not messages(effects, Frame)
    assert not messages(effects, Resync)
    assert rig.one.bitmap.nbytes > 0
    assert (rig.one.state, rig.one.generation) == (SendState.WAITING, 2)


@pytest.mark.parametrize("event", [Connected(THERE), Lost(THERE)])
def test_a_fenced_sender_begins_nothing_over_a_new_connection(event: Connected | Lost) -> None:
    rig = Rig()
    rig.hears(FENCED, MANAGER)
    assert not [e for e in rig(event) if isinstance(e, Send) and e.to == THERE]


def test_it_goes_on_in_a_later_generation_and_only_in_a_later_one() -> None:
    rig = Rig()
    rig.hears(FENCED, MANAGER)
    assert rig.hears(Lineage("crm", 1, False), MANAGER) == []
    assert rig.hears(Lineage("crm", 2, False), MANAGER) == []
    (resync,) = messages(rig.hears(BACK, MANAGER), Resync)
    assert resync.generation == 3


def test_a_refusal_of_an_earlier_generation_is_over() -> None:
    rig = Rig()
    rig.one.refused = "busy"  # type: ignore[assignment]
    rig.hears(Lineage("crm", 2, False), MANAGER)
    assert rig.one.refused is None


def test_a_sender_that_asks_where_it_stands_asks_again_in_the_later_generation() -> None:
    rig = Rig(start=Start.CRASHED)
    assert not messages(rig.hears(FENCED, MANAGER), Where)
    assert not messages(rig(Connected(THERE)), Where)
    (where,) = messages(rig.hears(BACK, MANAGER), Where)
    assert where.generation == 3
    assert not rig.hears(Standing(ONE, 2, 4, (9,)), THERE), "an answer to an earlier life"


# -- the receiver -----------------------------------------------------------------------------------------------------


def receiver() -> Receiver:
    rig = Rig()
    return Receiver(rig.one.spec, MANAGER, lambda: 1 << 20, region_bytes=4096)


def test_a_receiver_takes_nothing_of_an_earlier_generation() -> None:
    one, rig = receiver(), Rig()
    (frame,) = messages(rig.write((0, 8)), Frame)
    one.fence(2)
    assert one.frame(frame) == []
    assert one.where(Where(ONE, 1, rig.one.spec)) == []
    assert one.resync(Resync(ONE, 1, 5, (9,), rig.one.spec)) == []
    one.fence(1)
    assert one.generation == 2


def test_a_receiver_learns_of_a_later_generation_from_its_sender() -> None:
    one, rig = receiver(), Rig()
    effects = one.resync(Resync(ONE, 3, 2, (0,), rig.one.spec))
    assert [e.frame.generation for e in effects if isinstance(e, Append)] == [3]


# -- the catalogue ----------------------------------------------------------------------------------------------------


def test_what_an_earlier_generation_seals_is_not_listed() -> None:
    """The manager has not heard: between the sites its word was on its way."""
    x = begun(protected=1)
    catalog, manager = x.catalog("crm"), x.estate.managers["crm"]
    x.fence(x.estate.vpg_of["crm"], fenced=True)
    late = Checkpoint("crm", CheckpointId(9), Ns(90), dict(catalog.listed[0].cut))
    effects = catalog.handle(Ns(100), Received(manager, Sealed(late)))
    assert any(getattr(e, "fact", None) == CheckpointSkipped("crm", CheckpointId(9), "fenced") for e in effects)


def test_an_operation_that_is_late_changes_nothing() -> None:
    x = begun(protected=1)
    catalog = x.catalog("crm")
    effects = catalog.handle(Ns(1), FenceAsked(3, True))
    assert any(getattr(e, "fact", None) == GenerationChanged("crm", 3, True) for e in effects)
    assert catalog.handle(Ns(2), FenceAsked(3, False)) == []
    assert catalog.handle(Ns(2), FenceAsked(2, False)) == []
    assert catalog.lineage == Lineage("crm", 3, True)


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protected", [1, 2])
def test_back_from_the_dead(protected: int) -> None:
    """B39, B40: the source was not told, went on, and comes back: nothing of it is taken, and it stops."""
    x = begun(protected=protected)
    apart(x)
    x.fence(x.estate.vpg_of["crm"], fenced=True)
    wrote(x)
    before = ends(x)
    together(x)
    wrote(x)
    x.tick("crm")
    x.drain()
    assert ends(x) == before
    assert [c.id for c in x.catalog("crm").listed] == [1]
    assert x.vpg("crm").lineage == Lineage("crm", 2, True)
    assert x.vpg("crm").cause == "recovered at the other site"


@pytest.mark.parametrize("who", range(4), ids=["protected VRA", "recovery VRA", "manager", "catalogue"])
def test_a_fence_outlives_a_crash_of_anybody(who: int) -> None:
    x = begun(protected=1)
    address = x.estate.addresses[who]
    x.fence(x.estate.vpg_of["crm"], fenced=True)
    x.drain()
    before = ends(x)
    x.crash(address, 0)
    x.boot(address)
    x.drain()
    wrote(x)
    assert ends(x) == before
    heal(x)
    assert not x.estate.vpg_of["crm"].fenced


def test_tags_wait_and_pauses_last_while_the_source_is_fenced() -> None:
    x = begun(protected=1)
    x.fence(x.estate.vpg_of["crm"], fenced=True)
    x.drain()
    manager = x.estate.managers["crm"]
    x.post(manager, TagAsked("patch"))
    x.post(manager, PauseAsked(True))
    x.fence(x.estate.vpg_of["crm"], fenced=False)
    x.drain()
    assert x.vpg("crm").asked
    assert x.sender(x.streams[0]).state is SendState.WAITING
    x.post(manager, PauseAsked(False))
    x.drain()
    x.tick("crm")
    x.drain()
    assert [c.tag for c in x.catalog("crm").listed if c.generation == 3][:1] == ["patch"]
