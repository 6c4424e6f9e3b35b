"""Receiver and RecoveryVra: a comparison in every state, what cannot be read, and digests that make no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import TINY, writes

from drsim.core.effects import Append, Effect, EffectId, ReadDigests, Send
from drsim.core.errors import PeerError, PlatformError, StoreFull
from drsim.core.events import Done, Event, Failed, Received, Started, Stopped
from drsim.core.journal import Stored
from drsim.core.messages import Compare, Compared, Frame, Resync
from drsim.core.names import Address, Extent, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.receiver import Receiver
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.units import SECTOR, Ns

HERE, SOURCE, CATALOG = Address("east/r"), Address("west/h"), Address("east/catalog")
ONE = StreamId("crm", SOURCE, HERE)
SPEC = StreamSpec(ONE, (VmId(1),), (VolumeInfo(VolumeId(1), VmId(1), 62),))
ID = EffectId(HERE, 0)


def stretch(lba: int, sectors: int) -> Extent:
    return Extent(VmId(1), VolumeId(1), lba, sectors)


class Rig:
    """A recovery VRA with one stream in epoch 2, whose regions have four sectors."""

    def __init__(self, stored: Stored | None = None) -> None:
        durable = None if stored is None else {ONE: stored}
        self.vra = RecoveryVra(HERE, {"crm": CATALOG}, [SPEC], pool_bytes=64 * SECTOR, tweaks=TINY, durable=durable)
        self.asked: list[ReadDigests] = []
        self.store: list[Append] = []
        if stored is None:
            self.resync(2)
            self.stored()

    @property
    def one(self) -> Receiver:
        return self.vra.receivers[ONE]

    def __call__(self, event: Event) -> list[Effect]:
        effects = self.vra.handle(Ns(0), event)
        self.asked += [e for e in effects if isinstance(e, ReadDigests)]
        self.store += [e for e in effects if isinstance(e, Append)]
        return effects

    def hears(self, message: object) -> list[Effect]:
        return self(Received(SOURCE, message))  # type: ignore[arg-type]

    def resync(self, epoch: int) -> list[Effect]:
        return self.hears(Resync(ONE, 1, epoch, self.one.accepted, SPEC))

    def stored(self) -> list[Effect]:
        return self(Done(ID, self.store.pop(0)))

    def frame(self) -> list[Effect]:
        batch, after = writes((1, 1, 0, 1)), self.one.accepted
        upto = (after[0] + 1,)
        return self.hears(Frame(ONE, 1, self.one.epoch, after, upto, (SECTOR,), False, batch))

    def compare(self, digests: bytes, *, epoch: int = 2, generation: int = 1, sectors: int = 12) -> list[Effect]:
        return self.hears(Compare(ONE, generation, epoch, stretch(0, sectors), digests))

    def digested(self, digests: object) -> list[Effect]:
        return self(Done(ID, self.asked.pop(0), digests))

    def unreadable(self) -> list[Effect]:
        return self(Failed(ID, self.asked.pop(0), PlatformError("bad block")))


def told(*differs: int, sectors: int = 12) -> list[Effect]:
    return [Send(SOURCE, Compared(ONE, 1, 2, stretch(0, sectors), bytes(differs)))]


@pytest.mark.parametrize(
    ("ours", "differs"), [(b"abc", (0, 0, 0)), (b"xbc", (1, 0, 0)), (b"abx", (0, 0, 1)), (b"cab", (1, 1, 1))]
)
def test_the_answer_says_which_regions_differ(ours: bytes, differs: tuple[int, ...]) -> None:
    rig = Rig()
    assert rig.compare(b"abc") == [ReadDigests(ONE, 2, stretch(0, 12))]
    assert rig.digested(ours) == told(*differs)


@given(st.integers(1, 15), st.integers(1, 5), st.data())
def test_against_one_region_after_another(regions: int, size: int, data: st.DataObject) -> None:
    some = st.binary(min_size=size, max_size=size)
    theirs = data.draw(st.lists(some, min_size=regions, max_size=regions))
    ours = [data.draw(st.just(each) | some) for each in theirs]
    rig = Rig()
    rig.compare(b"".join(theirs), sectors=4 * regions)
    expected = [int(a != b) for a, b in zip(theirs, ours, strict=True)]
    assert rig.digested(b"".join(ours)) == told(*expected, sectors=4 * regions)


def test_the_last_region_of_a_volume_may_be_shorter() -> None:
    rig = Rig()
    rig.hears(Compare(ONE, 1, 2, stretch(56, 6), b"ab"))
    assert rig.digested(b"ax") == [Send(SOURCE, Compared(ONE, 1, 2, stretch(56, 6), bytes([0, 1])))]


def test_what_cannot_be_read_differs() -> None:
    rig = Rig()
    rig.compare(b"abc")
    assert rig.unreadable() == told(1, 1, 1)


@pytest.mark.parametrize("theirs", [b"abcd", b"ab", b"", b"a"])
def test_digests_that_are_not_of_these_regions_are_the_peers_mistake(theirs: bytes) -> None:
    rig = Rig()
    rig.compare(theirs)
    with pytest.raises(PeerError):
        rig.digested(b"abc")


@pytest.mark.parametrize("theirs", [b"abcd", b"ab", b"", b"a"])
def test_also_when_nothing_can_be_read_here(theirs: bytes) -> None:
    """Above all nothing may be called equal then."""
    rig = Rig()
    rig.compare(theirs)
    with pytest.raises(PeerError):
        rig.unreadable()


@pytest.mark.parametrize("sectors", [0, -4])
def test_a_stretch_of_nothing_is_the_peers_mistake(sectors: int) -> None:
    rig = Rig()
    rig.compare(b"a", sectors=sectors)
    with pytest.raises(PeerError):
        rig.unreadable()


def test_digests_of_another_length_than_ours_are_the_peers_mistake() -> None:
    rig = Rig()
    rig.compare(b"aabbcc")
    with pytest.raises(PeerError):
        rig.digested(b"abc")


# -- in every state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "generation"), [(1, 1), (3, 1), (2, 2)])
def test_of_another_epoch_or_generation_nothing_is_compared(epoch: int, generation: int) -> None:
    rig = Rig()
    assert rig.compare(b"abc", epoch=epoch, generation=generation) == []


def test_a_comparison_is_ordered_behind_what_the_store_was_given() -> None:
    rig = Rig()
    rig.frame()
    assert len(rig.compare(b"abc")) == 1, "the store keeps the order"
    rig.stored()
    assert rig.digested(b"abc") == told(0, 0, 0)


def test_a_comparison_while_the_store_is_full_is_answered() -> None:
    rig = Rig()
    rig.frame()
    rig(Failed(ID, rig.store.pop(0), StoreFull("no room")))
    rig.compare(b"abc")
    assert rig.digested(b"xbc") == told(1, 0, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_an_answer_that_a_new_epoch_overtook_is_not_given(turned: bool) -> None:
    """Not said too early either: the epoch of the answer would be another one than that of the question."""
    rig = Rig()
    rig.compare(b"abc")
    rig.resync(3)
    if turned:
        rig.stored()
    effects = rig.digested(b"abc")
    assert effects == [] if turned else effects in ([], told(0, 0, 0))
    assert rig.compare(b"abc", epoch=2) == []


def test_while_an_epoch_begins_nothing_is_compared() -> None:
    rig = Rig()
    rig.resync(3)
    assert rig.compare(b"abc", epoch=3) == []
    rig.stored()
    assert len(rig.compare(b"abc", epoch=3)) == 1


def test_a_restart_forgets_the_question() -> None:
    rig = Rig()
    rig.compare(b"abc")
    rig(Stopped())
    rig(Started())
    assert rig.digested(b"abc") == []


def test_a_later_question_takes_the_place_of_an_earlier_one() -> None:
    rig = Rig()
    rig.compare(b"abc")
    rig.hears(Compare(ONE, 1, 2, stretch(12, 4), b"d"))
    assert rig.digested(b"abc") == []
    assert rig.digested(b"x") == [Send(SOURCE, Compared(ONE, 1, 2, stretch(12, 4), bytes([1])))]


def test_after_a_crash_the_epoch_that_is_stored_is_compared() -> None:
    rig = Rig(Stored(5, (0,), (9,), (((9, SECTOR),),)))
    assert rig.compare(b"abc", epoch=2) == []
    assert rig.compare(b"abc", epoch=5) == [ReadDigests(ONE, 5, stretch(0, 12))]


def test_of_a_stream_that_is_not_here_nothing_is_compared() -> None:
    rig = Rig()
    other = StreamId("web", SOURCE, HERE)
    assert rig.hears(Compare(other, 1, 2, stretch(0, 4), b"a")) == []
    assert rig(Done(ID, ReadDigests(other, 2, stretch(0, 4)), b"a")) == []
