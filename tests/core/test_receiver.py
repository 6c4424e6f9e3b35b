"""Receiver and RecoveryVra: each row of the answer table in `receiver.py`, the store, epochs, checkpoints, aging."""

from collections.abc import Iterable

import pytest
from support import TINY, writes

from drsim.core.effects import Append, Arm, Effect, EffectId, Promote, Publish, Send
from drsim.core.errors import PeerError, PlatformError, StoreFull
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, Received, Started, Stopped
from drsim.core.facts import FrameRefused
from drsim.core.journal import Stored
from drsim.core.messages import (
    Ack,
    Age,
    Await,
    Cut,
    Frame,
    Hold,
    JournalLimit,
    Marks,
    Missed,
    Nack,
    Reached,
    Resync,
    Resynced,
    Standing,
    StoreState,
    SyncDone,
    Where,
)
from drsim.core.names import Address, CheckpointId, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.receiver import Receiver
from drsim.core.recovery_vra import RETRY, RecoveryVra
from drsim.core.units import SECTOR, Ns

HERE, SOURCE, SECOND, CATALOG = Address("east/r"), Address("west/h"), Address("west/h2"), Address("east/catalog")
ONE, TWO = StreamId("crm", SOURCE, HERE), StreamId("crm", SECOND, HERE)
ID = EffectId(HERE, 0)


class Rig:
    """A recovery VRA with one stream of VM 1 (and one of VM 2), whose frames are of one sector a number."""

    def __init__(
        self, *, streams: int = 1, pool: int = 64, limit: int | None = None, stored: Stored | None = None
    ) -> None:
        specs = [
            StreamSpec(id_, (VmId(vm),), (VolumeInfo(VolumeId(vm), VmId(vm), 64),), limit and limit * SECTOR)
            for id_, vm in ((ONE, 1), (TWO, 2))[:streams]
        ]
        self.vra = RecoveryVra(HERE, {"crm": CATALOG}, specs, pool_bytes=pool * SECTOR, tweaks=TINY,
                               durable=stored and dict.fromkeys((s.id for s in specs), stored))  # fmt: skip
        self.one: Receiver = self.vra.receivers[ONE]
        self.store: list[Append] = []
        self.mirror: list[Promote] = []
        self.epoch = stored.epoch if stored else 1

    def __call__(self, event: Event) -> list[Effect]:
        effects = self.vra.handle(Ns(0), event)
        self.store += [e for e in effects if isinstance(e, Append)]
        self.mirror += [e for e in effects if isinstance(e, Promote)]
        return effects

    def hears(self, message: object, sender: Address = SOURCE) -> list[Effect]:
        return self(Received(sender, message))  # type: ignore[arg-type]

    def frame(self, after: int, upto: int, *, vm: int = 1, epoch: int = 0, generation: int = 1) -> list[Effect]:
        batch = writes(*((vm, vm, n % 64, 1) for n in range(after, upto)), issued=range(after, upto))
        stream, sizes = (ONE, TWO)[vm - 1], (batch.nbytes,)
        return self.hears(Frame(stream, generation, epoch or self.epoch, (after,), (upto,), sizes, False, batch))

    def stored(self, n: int = 1) -> list[Effect]:
        return [e for _ in range(n) for e in self(Done(ID, self.store.pop(0)))]

    def store_fails(self) -> list[Effect]:
        return self(Failed(ID, self.store.pop(0), StoreFull("no room")))

    def mirrored(self) -> list[Effect]:
        return self(Done(ID, self.mirror.pop(0)))

    def take(self, after: int, upto: int) -> None:
        """A frame arrives and becomes durable."""
        self.frame(after, upto)
        self.stored()

    def resync(self, after: int) -> list[Effect]:
        """The sender begins an epoch; its anchor is not durable yet."""
        self.epoch += 1
        return self.hears(Resync(ONE, 1, self.epoch, (after,), self.one.spec))

    def turn(self, after: int) -> list[Effect]:
        """The sender begins an epoch, and its anchor becomes durable."""
        self.resync(after)
        return self.stored()

    def asks(self, checkpoint: int, position: int, *, epoch: int | None = None) -> list[str]:
        asked = Await("crm", CheckpointId(checkpoint), ONE, Cut(epoch or self.epoch, (position,)))
        return said(self.hears(asked, CATALOG))

    def put_back(self, *marks: tuple[int, int, int]) -> list[str]:
        """Marks of (checkpoint, epoch, position)."""
        cuts = {CheckpointId(n): Cut(epoch, (position,)) for n, epoch, position in marks}
        return said(self.hears(Marks("crm", ONE, cuts), CATALOG))

    def age(self, checkpoint: int | None) -> list[Effect]:
        return self.hears(Age("crm", checkpoint and CheckpointId(checkpoint), ONE), CATALOG)


def said(effects: Iterable[Effect]) -> list[str]:
    """Messages, shortly."""
    found = []
    for effect in effects:
        match effect:
            case Send(_, Ack(_, _, epoch, durable)):
                found.append(f"ack {epoch}:{durable[0]}")
            case Send(_, Nack(_, _, _, expected, reason)):
                found.append(f"nack {expected[0]} {reason.value}")
            case Send(_, Resynced(_, _, epoch)):
                found.append(f"resynced {epoch}")
            case Send(_, Standing(_, _, epoch, position)):
                found.append(f"standing {epoch}:{position[0]}")
            case Send(_, Reached(_, checkpoint, _)):
                found.append(f"reached {checkpoint}")
            case Send(_, Missed(_, checkpoint, _)):
                found.append(f"missed {checkpoint}")
            case Send(_, JournalLimit(_, _, keep, syncing)):
                found.append(f"limit keep {keep}{' sync' if syncing else ''}")
            case Send(_, StoreState(_, _, ok, reason)):
                found.append("store ok" if ok else f"store: {reason}")
    return found


# -- the answer table ---------------------------------------------------------------------------------------------


def test_what_continues_is_stored_and_acknowledged_when_durable() -> None:
    rig = Rig()
    effects = rig.frame(0, 3)
    assert [type(e) for e in effects] == [Append]
    assert said(rig.stored()) == ["ack 1:3"]


def test_a_duplicate_is_acknowledged_and_not_applied() -> None:
    rig = Rig()
    rig.take(0, 3)
    assert said(rig.frame(0, 3)) == ["ack 1:3"]
    assert said(rig.frame(1, 2)) == ["ack 1:3"]
    rig.frame(3, 5)
    assert said(rig.frame(3, 5)) == ["ack 1:3"], "taken, not yet durable"
    assert len(rig.store) == 1


def test_of_an_overlap_the_new_rows_are_taken() -> None:
    rig = Rig()
    rig.take(0, 3)
    rig.frame(1, 5)
    frame = rig.store[0].frame
    assert (frame.after, frame.upto, frame.sizes, frame.batch.lba.tolist()) == ((3,), (5,), (2 * SECTOR,), [3, 4])
    assert said(rig.stored()) == ["ack 1:5"]


def test_an_overlap_of_several_vms_is_cut_for_each() -> None:
    spec = StreamSpec(ONE, (VmId(1), VmId(2)), ())
    receiver = Receiver(spec, CATALOG, lambda: 1 << 30, region_bytes=TINY.region_bytes)
    rows = [(1, 1, 0, 1), (2, 2, 0, 2), (2, 2, 8, 2), (1, 1, 8, 3), (2, 2, 16, 2)]
    first = Frame(ONE, 1, 1, (0, 0), (1, 1), (SECTOR, 2 * SECTOR), False, writes(*rows[:2]))
    both = Frame(ONE, 1, 1, (0, 0), (2, 3), (4 * SECTOR, 6 * SECTOR), False, writes(*rows))
    receiver.frame(first)
    receiver.appended(first)
    taken = next(e for e in receiver.frame(both) if isinstance(e, Append)).frame
    assert (taken.after, taken.upto, taken.sizes) == ((1, 1), (2, 3), (3 * SECTOR, 4 * SECTOR))
    assert taken.batch == writes(*rows[2:], issued=[2, 3, 4])


def test_a_gap_is_told_once_until_the_stream_stands_right() -> None:
    rig = Rig()
    rig.take(0, 1)
    assert said(rig.frame(2, 3)) == ["nack 1 gap"]
    assert rig.frame(3, 4) == []
    rig.take(1, 2)
    assert said(rig.frame(3, 4)) == ["nack 2 gap"]


@pytest.mark.parametrize("old", [{"epoch": 7}, {"generation": 2}])
def test_another_epoch_or_generation_gets_no_answer(old: dict[str, int]) -> None:
    assert Rig().frame(0, 1, **old) == []


def test_busy_when_memory_is_full_and_an_ack_when_it_is_not() -> None:
    rig = Rig(pool=16)  # 12 sectors
    rig.take(0, 1)
    rig.frame(1, 9)
    effects = rig.frame(9, 17)
    assert said(effects) == ["nack 9 busy"]
    assert Publish(FrameRefused(ONE, "busy")) in effects
    assert said(rig.stored()) == ["ack 1:9"]
    assert said(rig.frame(9, 17)) == []


def test_a_frame_larger_than_the_memory_goes_alone() -> None:
    rig = Rig(pool=4)
    assert [type(e) for e in rig.frame(0, 8)] == [Append]


def test_memory_is_shared_by_streams() -> None:
    rig = Rig(streams=2, pool=16)
    rig.take(0, 1)
    rig.frame(1, 5)
    rig.frame(0, 6, vm=2)
    assert rig.vra.used == 10 * SECTOR
    assert said(rig.frame(5, 8)) == ["nack 5 busy"]


# -- the hard limit -----------------------------------------------------------------------------------------------


def test_near_the_limit_the_catalogue_is_told_once() -> None:
    rig = Rig(limit=20)  # margin 2
    for n in range(1, 19):
        rig.take(n - 1, n)
        if n == 4:
            rig.asks(1, 4)
    rig.store.clear()
    assert said(rig.frame(18, 19)) == ["limit keep 1"]
    rig.stored()
    assert said(rig.frame(19, 20)) == []


def test_at_the_limit_frames_are_refused_until_aging_made_room() -> None:
    rig = Rig(limit=20)
    rig.take(0, 10)
    rig.asks(1, 10)
    rig.take(10, 18)
    assert said(rig.frame(18, 23)) == ["nack 18 journal limit", "limit keep 1"]
    assert said(rig.frame(23, 24)) == ["nack 18 gap"]
    assert said(rig.age(1)) == []
    assert said(rig.mirrored()) == ["ack 1:18"], "the gap told in between does not cancel the debt"
    assert said(rig.frame(18, 23)) == []


def test_a_frame_larger_than_the_margin_asks_for_the_room_it_needs() -> None:
    rig = Rig(limit=20)
    for n, upto in enumerate((6, 12, 16), 1):
        rig.take(rig.one.durable[0], upto)
        rig.asks(n, upto)
    assert said(rig.frame(16, 24)) == ["nack 16 journal limit", "limit keep 1"], "8 sectors fit when 6 go"
    assert said(rig.turn(30)) == ["resynced 2"]
    assert said(rig.frame(30, 44)) == ["nack 30 journal limit", "limit keep 2 sync"]


def test_the_limit_is_told_again_when_it_turns_into_a_sync_window() -> None:
    rig = Rig(limit=20)
    rig.take(0, 18)
    assert said(rig.frame(18, 19)) == ["limit keep None"]
    rig.stored()
    rig.turn(19)
    assert said(rig.frame(19, 20)) == ["limit keep None sync"]


def test_a_catalogue_that_is_back_is_told_again() -> None:
    rig = Rig(limit=20)
    rig.take(0, 19)
    assert said(rig(Connected(CATALOG))) == ["store ok", "limit keep None"]
    assert rig(Connected(SOURCE)) == []
    assert rig(Lost(CATALOG)) == []


# -- the store ----------------------------------------------------------------------------------------------------


def test_a_store_that_fails_keeps_the_oldest_and_gives_back_the_rest() -> None:
    rig = Rig()
    rig.take(0, 1)
    rig.frame(1, 2)
    rig.frame(2, 3)
    effects = rig.store_fails()
    assert said(effects) == ["nack 2 store full", "store: no room"]
    assert Arm(RETRY, Ns(TINY.retry_pause)) in effects
    assert rig(Failed(ID, rig.store.pop(0), PlatformError("does not continue"))) == []
    assert said(rig.frame(2, 3)) == ["nack 2 store full"]
    assert [e.frame.upto for e in rig(Fired(RETRY)) if isinstance(e, Append)] == [(2,)]
    assert said(rig.stored()) == ["ack 1:2", "store ok"]
    rig.take(2, 3)
    assert rig.one.durable == (3,)


def test_a_try_that_fails_again_is_told_once() -> None:
    rig = Rig()
    rig.frame(0, 1)
    rig.store_fails()
    rig(Fired(RETRY))
    effects = rig.store_fails()
    assert said(effects) == ["nack 1 store full"]
    assert Arm(RETRY, Ns(TINY.retry_pause)) in effects


def test_one_try_at_a_time() -> None:
    rig = Rig(streams=2)
    rig.frame(0, 1)
    rig.frame(0, 1, vm=2)
    rig.store_fails()
    rig(Fired(RETRY))
    rig(Failed(ID, rig.store.pop(0), StoreFull("no room")))
    assert len(rig.store) == 1
    assert [e.frame.stream for e in rig(Fired(RETRY)) if isinstance(e, Append)] == [TWO]


# -- epochs -------------------------------------------------------------------------------------------------------


def test_an_epoch_begins_when_its_anchor_is_durable() -> None:
    """A crash must not forget an epoch in which a checkpoint may be cut."""
    rig = Rig()
    rig.take(0, 2)
    effects = rig.resync(9)
    assert [(e.frame.epoch, e.frame.after, e.frame.upto, len(e.frame.batch)) for e in rig.store] == [(2, (9,), (9,), 0)]
    assert said(effects) == []
    assert (rig.one.epoch, rig.one.durable, rig.one.syncing) == (1, (2,), False)
    assert said(rig.stored()) == ["resynced 2"]
    assert (rig.one.epoch, rig.one.durable, rig.one.syncing) == (2, (9,), True)


def test_resync_waits_for_what_is_on_its_way() -> None:
    rig = Rig()
    rig.frame(0, 2)
    assert rig.resync(9) == []
    assert rig.frame(9, 10) == []
    assert said(rig.stored()) == ["ack 1:2"]
    assert said(rig.stored()) == ["resynced 2"]


def test_an_anchor_that_fails_is_tried_again() -> None:
    rig = Rig()
    rig.resync(3)
    effects = rig.store_fails()
    assert said(effects) == ["store: no room"]
    assert Arm(RETRY, Ns(TINY.retry_pause)) in effects
    rig(Fired(RETRY))
    assert said(rig.stored()) == ["resynced 2", "store ok"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_newer_epoch_follows_an_anchor_that_is_under_way(fails: bool) -> None:
    rig = Rig()
    rig.resync(3)
    assert rig.resync(5) == []
    assert said(rig.store_fails() if fails else rig.stored()) == ([] if fails else ["resynced 2"])
    assert said(rig.stored()) == ["resynced 3"]
    assert rig.one.durable == (5,)


def test_resync_is_answered_again_and_an_old_one_is_not() -> None:
    rig = Rig()
    rig.turn(0)
    assert said(rig.hears(Resync(ONE, 1, 2, (0,), rig.one.spec))) == ["resynced 2"]
    assert rig.hears(Resync(ONE, 1, 1, (0,), rig.one.spec)) == []
    assert rig.hears(Resync(ONE, 0, 3, (0,), rig.one.spec)) == [], "of an earlier generation"


def test_resync_frees_a_stalled_stream() -> None:
    rig = Rig()
    rig.frame(0, 1)
    rig.store_fails()
    assert said(rig.turn(1)) == ["resynced 2", "store ok"], "the manager learns that the store is well"
    assert rig(Fired(RETRY)) == []


@pytest.mark.parametrize(("stored", "durable"), [(True, "ack 1:1"), (False, None)])
def test_resync_during_a_try_waits_for_its_end(stored: bool, durable: str | None) -> None:
    rig = Rig()
    rig.frame(0, 1)
    rig.store_fails()
    rig(Fired(RETRY))
    assert rig.resync(1) == []
    answers = said(rig.stored() if stored else rig.store_fails()) + said(rig.stored())
    assert [a for a in answers if "store" not in a] == [a for a in (durable, "resynced 2") if a]


def test_an_epoch_before_what_is_durable_is_refused() -> None:
    rig = Rig()
    rig.take(0, 3)
    with pytest.raises(PeerError, match="begins before what is durable"):
        rig.resync(2)


def test_the_sync_window_ends_when_its_end_is_durable() -> None:
    rig = Rig()
    rig.turn(0)
    rig.frame(0, 2)
    rig.hears(SyncDone(ONE, 1, 1, (0,)))
    rig.hears(SyncDone(ONE, 1, 2, (2,)))
    assert rig.one.syncing
    rig.stored()
    assert not rig.one.syncing


def test_after_a_restart_only_what_is_durable_is_left() -> None:
    rig = Rig()
    rig.take(0, 2)
    rig.frame(2, 3)
    rig.asks(1, 3)
    rig(Stopped())
    assert rig(Started()) == []
    rig.store.clear()
    assert (rig.one.accepted, rig.one.durable, rig.vra.used) == ((2,), (2,), 0)
    assert said(rig.turn(3)) == ["resynced 2"]
    assert rig.asks(1, 3, epoch=1) == ["missed 1"]


def test_a_stall_does_not_outlive_a_restart() -> None:
    rig = Rig()
    rig.frame(0, 1)
    rig.store_fails()
    rig(Stopped())
    rig(Started())
    assert said(rig.turn(1)) == ["resynced 2", "store ok"]


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_a_cut_is_reached_when_durable() -> None:
    rig = Rig()
    rig.frame(0, 2)
    assert rig.asks(1, 1) == []
    assert rig.asks(2, 3) == []
    assert said(rig.stored()) == ["ack 1:2", "reached 1"]
    rig.frame(2, 3)
    assert said(rig.stored()) == ["ack 1:3", "reached 2"]
    assert rig.asks(3, 3) == ["reached 3"]


def test_a_cut_of_an_epoch_that_ended_before_it_is_missed_although_the_numbers_pass_it() -> None:
    rig = Rig()
    rig.take(0, 2)
    assert rig.asks(1, 3) == []
    assert said(rig.turn(5)) == ["resynced 2", "missed 1"]
    assert rig.asks(2, 2, epoch=1) == ["reached 2"]
    assert rig.asks(3, 4, epoch=1) == ["missed 3"]
    assert rig.asks(4, 5, epoch=3) == [], "an epoch to come"


def test_asked_again_a_cut_is_marked_once() -> None:
    rig = Rig()
    rig.take(0, 2)
    assert rig.asks(1, 2) == ["reached 1"]
    assert rig.asks(1, 2) == ["reached 1"], "the answer was lost"
    assert rig.asks(2, 3) == []
    assert rig.asks(3, 4) == []
    assert rig.asks(1, 2) == ["reached 1"]
    assert rig.asks(2, 3) == []
    assert rig.asks(3, 4) == []
    rig.frame(2, 4)
    assert said(rig.stored()) == ["ack 1:4", "reached 2", "reached 3"]
    rig.turn(9)
    assert rig.asks(5, 8, epoch=1) == ["missed 5"]
    assert rig.asks(6, 9) == ["reached 6"]
    assert rig.asks(5, 8, epoch=1) == ["missed 5"]


# -- aging --------------------------------------------------------------------------------------------------------


def marked(*marks: int, upto: int, **rig_options: int) -> Rig:
    rig = Rig(**rig_options)
    rig.take(0, upto)
    for n, position in enumerate(marks, 1):
        assert rig.asks(n, position) == [f"reached {n}"]
    return rig


def test_data_before_a_checkpoint_goes_to_the_mirror_one_promotion_at_a_time() -> None:
    rig = Rig()
    for n in (1, 2, 3):
        rig.take(n - 1, n)
        rig.asks(n, n)
    assert rig.age(1) == [Promote(ONE, (0,), (1,), SECTOR, CheckpointId(1))]
    assert rig.age(2) == []
    assert rig.age(3) == []
    assert rig.mirrored() == [Promote(ONE, (1,), (3,), 2 * SECTOR, CheckpointId(3))]
    assert rig.mirrored() == []
    assert (rig.one.journals[VmId(1)].base, rig.one.journals[VmId(1)].nbytes) == (3, 0)


def test_a_promotion_that_fails_is_tried_again() -> None:
    rig = marked(2, upto=2)
    rig.age(1)
    failed = rig.mirror.pop(0)
    assert rig(Failed(ID, failed, PlatformError("bad disk"))) == [Arm(RETRY, Ns(TINY.retry_pause))]
    assert rig(Fired(RETRY)) == [failed]


def test_a_promotion_that_a_restart_broke_is_tried_again() -> None:
    rig = marked(2, upto=2)
    rig.age(1)
    rig(Stopped())
    assert rig(Started()) == rig.mirror[:1]


def test_what_a_withdrawal_lets_go_is_fixed_when_it_is_asked() -> None:
    """The mirror may take it much later, when a new checkpoint is listed."""
    rig = marked(2, upto=4)
    rig.age(None)
    rig(Failed(ID, rig.mirror.pop(0), PlatformError("bad disk")))
    rig.take(4, 6)
    assert rig.asks(2, 5) == ["reached 2"]
    rig.take(6, 8)
    assert rig(Fired(RETRY)) == [Promote(ONE, (0,), (4,), 4 * SECTOR, None)]
    rig.mirrored()
    journal = rig.one.journals[VmId(1)]
    assert (journal.base, journal.at(CheckpointId(2))[0], journal.nbytes) == (4, 5, 4 * SECTOR)


def test_a_cut_before_what_was_let_go_is_missed() -> None:
    rig = Rig()
    rig.take(0, 4)
    rig.age(None)
    assert rig.asks(1, 3) == ["missed 1"]
    assert rig.asks(2, 4) == ["reached 2"]


# -- after a crash ------------------------------------------------------------------------------------------------


def rebuilt(*, epoch: int = 3, base: int = 4, end: int = 9, **rig_options: int) -> Rig:
    """A new life: parts of 2 sectors up to 6 and of 3 up to 9 lie beyond the mirror, which is at 4."""
    parts = tuple(p for p in ((6, 2 * SECTOR), (9, 3 * SECTOR)) if p[0] <= end)
    return Rig(stored=Stored(epoch, (base,), (end,), (parts,)), **rig_options)


def test_a_rebuilt_receiver_stands_where_its_store_ends() -> None:
    rig = rebuilt()
    assert (rig.one.epoch, rig.one.accepted, rig.one.durable) == (3, (9,), (9,))
    assert rig.one.journals[VmId(1)].nbytes == 5 * SECTOR
    assert rig(Started()) == []
    assert said(rig.frame(9, 10)) == []
    assert said(rig.stored()) == ["ack 3:10"]
    assert said(rig.turn(12)) == ["resynced 4"]


def test_a_rebuilt_receiver_gets_its_marks_back_and_goes_on() -> None:
    rig = rebuilt()
    assert rig.put_back((1, 2, 4), (2, 2, 6), (5, 3, 9)) == []
    assert [rig.one.journals[VmId(1)].plan(CheckpointId(n)).nbytes // SECTOR for n in (1, 2, 5)] == [0, 2, 5]
    assert rig.asks(5, 9) == ["reached 5"]
    assert rig.asks(4, 9) == ["missed 4"]
    assert rig.asks(6, 9) == ["reached 6"]
    assert rig.age(2) == [Promote(ONE, (4,), (6,), 2 * SECTOR, CheckpointId(2))]


def test_marks_that_are_there_are_not_put_back() -> None:
    rig = marked(2, 3, upto=4)
    assert rig.put_back((1, 1, 2)) == []
    assert rig.put_back((1, 1, 2), (2, 1, 3)) == []
    assert rig.one.journals[VmId(1)].plan(CheckpointId(2)).upto == 3


def test_what_an_ended_epoch_had_reached_is_forgotten_and_missed() -> None:
    rig = rebuilt()
    rig.put_back((1, 2, 4))
    assert rig.asks(2, 6, epoch=2) == ["missed 2"], "it may have been, nobody knows"
    assert rig.asks(3, 3) == ["missed 3"], "before the mirror"
    assert rig.asks(4, 9) == ["reached 4"]


def test_without_its_marks_a_receiver_says_nothing_of_its_limit() -> None:
    """It would look as if no checkpoint could be kept, and history would be given up for nothing."""
    rig = rebuilt(limit=6)
    assert said(rig(Connected(CATALOG))) == ["store ok"]
    assert said(rig.frame(9, 11)) == ["nack 9 journal limit"]
    assert rig.put_back((1, 2, 4), (2, 3, 6)) == ["limit keep 2"]


@pytest.mark.parametrize(("newest", "swept"), [(2, True), (3, False)])
def test_a_sync_window_is_open_until_a_checkpoint_of_its_epoch(newest: int, swept: bool) -> None:
    rig = rebuilt(limit=5)
    assert rig.put_back((1, 2, 4), (2, newest, 9)) == [f"limit keep 2{' sync' if swept else ''}"]


@pytest.mark.parametrize("rig", [rebuilt(), Rig()], ids=["rebuilt", "first life"])
def test_a_sender_that_asks_is_told_what_is_stored(rig: Rig) -> None:
    assert said(rig.hears(Where(ONE, 1, rig.one.spec))) == [f"standing {rig.one.epoch}:{rig.one.durable[0]}"]
    assert rig.hears(Where(ONE, 0, rig.one.spec)) == [], "of an earlier generation"


def test_a_sender_that_asks_is_told_of_all_that_may_come_to_be_stored() -> None:
    rig = Rig()
    rig.take(0, 2)
    rig.frame(2, 3)
    assert said(rig.hears(Where(ONE, 1, rig.one.spec))) == ["standing 1:3"], "taken, not durable"
    rig.resync(8)
    assert said(rig.hears(Where(ONE, 1, rig.one.spec))) == ["standing 2:8"], "an epoch that has not begun"
    rig.stored()
    rig(Stopped())
    rig(Started())
    assert said(rig.hears(Where(ONE, 1, rig.one.spec))) == ["standing 2:8"], "its anchor may be there"


def test_messages_for_others_are_refused() -> None:
    with pytest.raises(PeerError):
        Rig().hears(Hold("crm", CheckpointId(1), False))
