"""Catalog: listing, retention, pins, withdrawal, and what is asked again after a loss."""

from collections.abc import Iterable, Sequence

import pytest
from support import TINY

from drsim.core.catalog import AGE, Catalog
from drsim.core.effects import Arm, Effect, EffectId, Forget, Keep, Publish, Send
from drsim.core.errors import PeerError, PlatformError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, PinAsked, Received, Started
from drsim.core.facts import CheckpointListed, CheckpointSkipped, CheckpointsRetired
from drsim.core.messages import (
    Age,
    Await,
    Checkpoint,
    Cut,
    JournalLimit,
    Listed,
    Marks,
    Members,
    Missed,
    Reached,
    Release,
    Retention,
    Sealed,
    StoreState,
    Withdrawn,
)
from drsim.core.names import Address, CheckpointId, StreamId
from drsim.core.units import Ns

HERE, MANAGER = Address("east/catalog"), Address("west/vpg")
TOLD = Send(MANAGER, Withdrawn("crm"))
STREAMS = [StreamId("crm", Address(f"west/h{n}"), Address(f"east/r{n}")) for n in (1, 2)]
ID = EffectId(HERE, 0)
HISTORY = 100


def checkpoint(n: int) -> Checkpoint:
    return Checkpoint("crm", CheckpointId(n), Ns(10 * n), {s: Cut(1, (n,)) for s in STREAMS})


class Rig:
    """A catalogue over two streams to two recovery VRAs; checkpoint n is taken at time 10 n."""

    def __init__(self, kept: Sequence[Checkpoint] | None = None, pins: Iterable[int] = ()) -> None:
        self.catalog = Catalog(HERE, "crm", MANAGER, STREAMS, retention=Retention(Ns(HISTORY)), tweaks=TINY, kept=kept,
                               pins=map(CheckpointId, pins))  # fmt: skip
        self.asked: list[Keep | Forget] = []
        self.began = self(Started())

    def __call__(self, event: Event, now: int = 0) -> list[Effect]:
        effects = self.catalog.handle(Ns(now), event)
        self.asked += [e for e in effects if isinstance(e, Keep | Forget)]
        return effects

    def hears(self, message: object) -> list[Effect]:
        return self(Received(Address("x"), message))  # type: ignore[arg-type]

    def sealed(self, n: int) -> list[Effect]:
        return self.hears(Sealed(checkpoint(n)))

    def reached(self, n: int, streams: Iterable[StreamId] = STREAMS) -> list[Effect]:
        return [e for s in streams for e in self.hears(Reached("crm", CheckpointId(n), s))]

    def done(self) -> list[Effect]:
        return self(Done(ID, self.asked.pop(0)))

    def fails(self) -> list[Effect]:
        return self(Failed(ID, self.asked.pop(0), PlatformError("broken")))

    def lists(self, *numbers: int) -> "Rig":
        for n in numbers:
            self.sealed(n)
            self.reached(n)
            self.done()
        return self

    def limit(self, keep_from: int | None, *, syncing: bool = False, stream: int = 0) -> list[Effect]:
        keep = None if keep_from is None else CheckpointId(keep_from)
        return self.hears(JournalLimit("crm", STREAMS[stream], keep, syncing))

    def age(self) -> list[Effect]:
        effects = self(Fired(AGE), 10**9)
        assert effects[0] == Arm(AGE, Ns(TINY.age_interval))
        return effects[1:]

    @property
    def listed(self) -> list[int]:
        return [c.id for c in self.catalog.listed]


def ages(effects: Iterable[Effect]) -> list[tuple[str, int | None]]:
    return [(e.to, e.message.checkpoint) for e in effects if isinstance(e, Send) and isinstance(e.message, Age)]


def awaits(effects: Iterable[Effect]) -> list[tuple[str, int]]:
    return [(e.to, e.message.checkpoint) for e in effects if isinstance(e, Send) and isinstance(e.message, Await)]


def marks(effects: Iterable[Effect]) -> list[tuple[str, list[int]]]:
    found = [(e.to, e.message) for e in effects if isinstance(e, Send) and isinstance(e.message, Marks)]
    return [(to, list(message.marks)) for to, message in found]


def word(newest: int, oldest: int, count: int, *, limited: bool = False) -> Send:
    """What the protected manager is told of the list."""
    return Send(MANAGER, Listed("crm", CheckpointId(newest), Ns(10 * newest), Ns(10 * oldest), count, limited))


def retired(before: int | None, reason: str) -> Publish:
    if before is None:
        return Publish(CheckpointsRetired("crm", None, None, reason))
    return Publish(CheckpointsRetired("crm", CheckpointId(before), Ns(10 * before), reason))


def skipped(n: int, reason: str) -> Publish:
    return Publish(CheckpointSkipped("crm", CheckpointId(n), reason))


# -- listing ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_listed_when_every_journal_has_it_and_it_is_kept() -> None:
    rig = Rig()
    assert awaits(rig.sealed(1)) == [("east/r1", 1), ("east/r2", 1)]
    assert rig.reached(1, STREAMS[:1]) == []
    assert [type(e) for e in rig.reached(1, STREAMS[1:])] == [Keep]
    assert rig.listed == []
    assert rig.done() == [
        Publish(CheckpointListed("crm", CheckpointId(1), Ns(10), "")),
        Send(MANAGER, Listed("crm", CheckpointId(1), Ns(10), Ns(10), 1)),
    ]
    assert rig.listed == [1]


def test_one_journal_that_misses_it_drops_it() -> None:
    rig = Rig()
    rig.sealed(1)
    rig.reached(1, STREAMS[:1])
    missed = Missed("crm", CheckpointId(1), STREAMS[1])
    assert rig.hears(missed) == [skipped(1, "synchronizing")]
    assert rig.hears(missed) == []
    assert rig.reached(1, STREAMS[1:]) == []


def test_one_that_cannot_be_kept_is_dropped() -> None:
    rig = Rig()
    rig.sealed(1)
    rig.reached(1)
    assert rig.fails() == [skipped(1, "broken")]
    rig.lists(2)
    assert rig.listed == [2]


# -- history ------------------------------------------------------------------------------------------------------


def test_old_checkpoints_leave_the_list_before_their_data_goes() -> None:
    rig = Rig().lists(1, 2, 3, 11)
    assert rig.age() == []
    rig.lists(13)
    assert rig.age() == [retired(3, "history"), word(13, 3, 3), Forget("crm", CheckpointId(3))]
    assert rig.listed == [3, 11, 13]
    rig.sealed(30)
    rig.reached(30)
    rig(Done(ID, rig.asked.pop()))
    assert rig.age() == [], "one at a time"
    assert ages(rig.done()) == [("east/r1", 3), ("east/r2", 3)]


def test_history_is_measured_by_the_clock_that_checkpoints_carry() -> None:
    """The sites' clocks may differ, and when nothing new comes (a site is lost) nothing old may go."""
    rig = Rig().lists(1, 2, 11)
    assert rig.age() == []
    assert rig.listed == [1, 2, 11]


def test_the_newest_is_never_retired() -> None:
    rig = Rig().lists(1, 50)
    assert rig.age() == [retired(50, "history"), word(50, 50, 1), Forget("crm", CheckpointId(50))]
    rig.done()
    assert rig.age() == []
    assert rig.limit(None) == []
    assert rig.listed == [50]


def test_a_list_that_cannot_be_shortened_ages_nothing_and_is_asked_again() -> None:
    rig = Rig().lists(1, 2, 12)
    rig.age()
    assert rig.fails() == []
    assert ages(rig.limit(2)) == []
    assert rig.age() == [Forget("crm", CheckpointId(2))]
    assert ages(rig.done()) == [("east/r1", 2), ("east/r2", 2)]


# -- pins ---------------------------------------------------------------------------------------------------------


def test_a_pin_keeps_it_and_everything_after_it() -> None:
    rig = Rig().lists(1, 2, 3, 40)
    rig(PinAsked(2, True))
    assert rig.age() == [retired(2, "history"), word(40, 2, 3), Forget("crm", CheckpointId(2))]
    rig.done()
    assert rig.age() == []
    assert rig.limit(40) == []
    assert rig(PinAsked(2, False)) == [
        retired(40, "journal limit"),
        word(40, 40, 1, limited=True),
        Forget("crm", CheckpointId(40)),
    ]


def test_only_what_is_listed_can_be_pinned() -> None:
    """A pin on what is gone would stop retention for ever."""
    rig = Rig().lists(1, 12)
    rig.age()
    rig(PinAsked(1, True))
    rig(PinAsked(9, True))
    assert rig.catalog.pins == set()


# -- full journals ------------------------------------------------------------------------------------------------


def test_the_limit_retires_the_oldest_as_far_as_needed() -> None:
    rig = Rig().lists(1, 2, 3, 4)
    assert rig.limit(3) == [retired(3, "journal limit"), word(4, 3, 2, limited=True), Forget("crm", CheckpointId(3))]
    assert rig.listed == [3, 4]
    assert ages(rig.done()) == [("east/r1", 3), ("east/r2", 3)]


def test_the_protected_manager_is_told_that_a_limit_took_history_until_it_is_whole_again() -> None:
    rig = Rig().lists(1, 2, 3, 4)
    rig.limit(3)
    rig.done()
    rig.sealed(5)
    rig.reached(5)
    assert word(5, 3, 3, limited=True) in rig.done()
    rig.sealed(13)
    rig.reached(13)
    assert word(13, 3, 4) in rig.done()


# -- fail-safe history ----------------------------------------------------------------------------------------------


def keeping(fail_safe: int, *listed: int) -> Rig:
    rig = Rig().lists(*listed)
    rig.hears(Members("crm", tuple(STREAMS), Retention(Ns(HISTORY), Ns(fail_safe))))
    return rig


@pytest.mark.parametrize(
    ("fail_safe", "kept"), [(0, [5]), (10, [4, 5]), (15, [4, 5]), (20, [3, 4, 5]), (99, [1, 2, 3, 4, 5])]
)
def test_the_limit_takes_no_fail_safe_history(fail_safe: int, kept: list[int]) -> None:
    rig = keeping(fail_safe, 1, 2, 3, 4, 5)
    rig.limit(None)
    assert rig.listed == kept


def test_with_fail_safe_history_a_sync_window_withdraws_nothing() -> None:
    rig = keeping(1, 1)
    assert ages(rig.limit(None, syncing=True)) == [("east/r1", 1)]
    assert rig.listed == [1]
    assert rig.hears(Members("crm", tuple(STREAMS), Retention(Ns(HISTORY)))) == [], "the limit was taken as met"
    assert rig.limit(None, syncing=True)[0] == retired(None, "sync window fills the journal")


def test_history_that_is_older_than_asked_for_goes_whatever_is_fail_safe() -> None:
    rig = keeping(50, 1, 2, 12)
    assert rig.age()[0] == retired(2, "history")


def test_data_before_the_oldest_goes_without_retiring_it() -> None:
    """The journal of a young VPG is full of what came before its first checkpoint."""
    rig = Rig().lists(1)
    assert ages(rig.limit(1)) == [("east/r1", 1)]
    assert rig.listed == [1]
    assert ages(rig.limit(1)) == [], "nothing more to gain"


def test_a_limit_that_cannot_be_met_now_is_met_when_the_next_is_listed() -> None:
    rig = Rig().lists(1)
    assert ages(rig.limit(None)) == [("east/r1", 1)]
    assert rig.limit(None) == []
    rig.sealed(2)
    rig.reached(2)
    assert rig.done()[2:] == [retired(2, "journal limit"), word(2, 2, 1, limited=True), Forget("crm", CheckpointId(2))]


def test_limits_of_two_journals_do_not_hide_each_other() -> None:
    rig = Rig().lists(1, 2, 3, 12)
    rig.age()
    rig.limit(3, stream=0)
    rig.limit(2, stream=1)
    assert retired(3, "journal limit") in rig.done()


def test_a_sync_window_that_fills_the_journal_withdraws_all() -> None:
    rig = Rig().lists(1)
    assert rig.limit(None, syncing=True) == [retired(None, "sync window fills the journal"), TOLD, Forget("crm", None)]
    assert rig.listed == []
    assert ages(rig.done()) == [("east/r1", None), ("east/r2", None)]
    rig.lists(2)
    assert rig.listed == [2]


def test_a_sync_window_retires_down_to_the_newest_first() -> None:
    rig = Rig().lists(1, 2)
    assert rig.limit(None, syncing=True) == [
        retired(2, "journal limit"),
        word(2, 2, 1, limited=True),
        Forget("crm", CheckpointId(2)),
    ]
    rig.done()
    assert rig.listed == [2]


def test_a_pin_stops_the_withdrawal() -> None:
    rig = Rig().lists(1)
    rig(PinAsked(1, True))
    assert ages(rig.limit(None, syncing=True)) == [("east/r1", 1)]
    assert rig.listed == [1]


def test_a_withdrawal_gives_up_what_is_on_its_way() -> None:
    """Its data may go to the mirror: listed later, it could not be rebuilt."""
    rig = Rig().lists(1)
    rig.sealed(2)
    rig.reached(2)
    rig.sealed(3)
    assert rig.limit(None, syncing=True) == [
        retired(None, "sync window fills the journal"), TOLD, skipped(2, "sync window fills the journal"),
        skipped(3, "sync window fills the journal"), Forget("crm", None),
    ]  # fmt: skip
    assert rig.done() == [], "it was kept, and is forgotten next"
    assert rig.sealed(4) == [skipped(4, "history withdrawn")]
    rig.done()
    assert rig.reached(3) == []
    assert rig.listed == []


def test_a_full_journal_with_nothing_listed_lets_everything_go() -> None:
    rig = Rig()
    rig.sealed(1)
    assert rig.limit(None) == [skipped(1, "journal limit"), Forget("crm", None)]
    assert ages(rig.done()) == [("east/r1", None), ("east/r2", None)]


def test_the_first_checkpoint_after_a_withdrawal_is_not_withdrawn_by_an_old_word() -> None:
    rig = Rig().lists(1)
    rig.limit(None, syncing=True)
    rig.limit(None, syncing=True)
    rig.done()
    if rig.asked:
        rig.done()
    rig.lists(5)
    assert rig.listed == [5]


def test_a_mark_that_will_never_be_listed_does_not_stop_the_withdrawal() -> None:
    rig = Rig().lists(1)
    rig.sealed(2)
    rig.reached(2, STREAMS[:1])
    assert ages(rig.limit(2, syncing=True)) == [("east/r1", 1)], "it may yet be listed"
    assert rig.limit(2, syncing=True) == []
    missed = rig.hears(Missed("crm", CheckpointId(2), STREAMS[1]))
    assert missed[1:] == [retired(None, "sync window fills the journal"), TOLD, Forget("crm", None)]


# -- after a loss -------------------------------------------------------------------------------------------------


def test_a_recovery_vra_that_is_back_is_asked_again() -> None:
    rig = Rig()
    rig.sealed(1)
    rig.sealed(2)
    rig.reached(1, STREAMS[:1])
    assert rig(Lost(Address("east/r1"))) == []
    assert awaits(rig(Connected(Address("east/r1")))) == [("east/r1", 2)]
    assert awaits(rig(Connected(Address("east/r2")))) == [("east/r2", 1), ("east/r2", 2)]


def test_a_recovery_vra_that_is_back_is_told_again_what_may_go() -> None:
    rig = Rig().lists(1, 2)
    rig.limit(2)
    rig.done()
    assert ages(rig(Connected(Address("east/r2")))) == [("east/r2", 2)]
    rig.lists(3)
    assert ages(rig.limit(None)) == []
    assert ages(rig(Connected(Address("east/r1")))) == [], "a retirement is under way"


def test_a_protected_manager_that_is_back_is_told_again() -> None:
    rig = Rig()
    assert rig(Connected(MANAGER)) == []
    rig.lists(1, 2)
    state = StoreState("crm", STREAMS[0], False, "no room")
    assert rig.hears(state) == [Send(MANAGER, state)]
    newest = Listed("crm", CheckpointId(2), Ns(20), Ns(10), 2)
    assert rig(Connected(MANAGER)) == [Send(MANAGER, state), Send(MANAGER, newest)]


def test_a_restart_asks_again_what_was_under_way() -> None:
    rig = Rig().lists(1, 12)
    rig.sealed(13)
    rig.reached(13)
    rig.sealed(14)
    rig.age()
    effects = rig(Started())
    assert [e.checkpoint.id for e in effects if isinstance(e, Keep)] == [13]
    assert Forget("crm", CheckpointId(12)) in effects
    assert awaits(effects) == [("east/r1", 14), ("east/r2", 14)]
    assert Send(MANAGER, Listed("crm", CheckpointId(12), Ns(120), Ns(120), 1)) in effects


# -- after a crash ------------------------------------------------------------------------------------------------


def test_a_first_life_has_nothing_to_say() -> None:
    assert Rig().began == [Arm(AGE, Ns(TINY.age_interval))]


def test_a_rebuilt_catalogue_lists_what_is_kept_and_says_so_to_all() -> None:
    kept = [checkpoint(n) for n in (3, 4)]
    rig = Rig(kept)
    assert rig.listed == [3, 4]
    newest = Send(MANAGER, Listed("crm", CheckpointId(4), Ns(40), Ns(30), 2))
    assert rig.began[1:] == [
        *(Send(s.target, said) for s in STREAMS for said in (
            Marks("crm", s, {c.id: c.cut[s] for c in kept}), Age("crm", CheckpointId(3), s)
        )),
        newest,
    ]  # fmt: skip
    again = rig(Connected(Address("east/r1")))
    assert (marks(again), ages(again)) == ([("east/r1", [3, 4])], [("east/r1", 3)])
    assert rig(Connected(MANAGER)) == [newest]
    assert rig.sealed(4) == []
    rig.lists(5)
    assert rig.listed == [3, 4, 5]


def test_a_rebuilt_catalogue_with_nothing_kept_says_that_there_is_no_recovery_point() -> None:
    rig = Rig([])
    assert rig.began[-1] == TOLD
    assert rig(Connected(MANAGER)) == [TOLD]
    rig.lists(1)
    assert rig(Connected(MANAGER)) == [Send(MANAGER, Listed("crm", CheckpointId(1), Ns(10), Ns(10), 1))]


def test_pins_of_operations_that_go_on_are_kept_and_others_are_not() -> None:
    assert Rig([checkpoint(3), checkpoint(4)], pins=(2, 4)).catalog.pins == {4}


def test_a_rebuilt_catalogue_lets_everything_go_when_a_journal_is_full() -> None:
    """The old one may have forgotten all checkpoints, and died before it could tell the VRAs."""
    rig = Rig([])
    assert rig.limit(None) == [Forget("crm", None)]
    assert ages(rig.done()) == [("east/r1", None), ("east/r2", None)]


def test_a_vra_that_is_back_hears_the_marks_of_all_that_may_be_kept_before_anything_else() -> None:
    rig = Rig().lists(1, 2, 12)
    rig.age()  # 1 is on its way out
    rig.sealed(13)
    rig.reached(13)  # not kept yet
    rig.sealed(14)
    rig.reached(14, STREAMS[:1])
    rig.sealed(15)
    first, second = (rig(Connected(s.target)) for s in STREAMS)
    assert marks(first) == [("east/r1", [1, 2, 12, 13, 14])]
    assert marks(second) == [("east/r2", [1, 2, 12, 13])]
    assert [type(e.message) for e in second if isinstance(e, Send)] == [Marks, Await, Await]
    rig.done()
    assert marks(rig(Connected(STREAMS[0].target))) == [("east/r1", [2, 12, 13, 14])]


def test_what_is_withdrawn_is_marked_until_it_is_forgotten() -> None:
    rig = Rig().lists(1)
    rig.sealed(2)
    rig.reached(2)
    rig.limit(None, syncing=True)
    assert marks(rig(Connected(STREAMS[0].target))) == [("east/r1", [1, 2])]
    rig.done()
    rig.done()
    assert marks(rig(Connected(STREAMS[0].target))) == [("east/r1", [])]


def test_messages_for_others_are_refused() -> None:
    with pytest.raises(PeerError):
        Rig().hears(Release("crm", CheckpointId(1)))
