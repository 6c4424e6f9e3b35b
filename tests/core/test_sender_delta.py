"""Sender: what nobody knows is compared before it is sent; distrust, pause and a bitmap outgrown, state by state."""

import pytest
from sender_rig import HERE, MANAGER, ONE, THERE, Rig, S, facts, frames, messages
from support import TINY

from drsim.core.effects import Arm, Effect, EffectId, ReadDigests, ReadRegions
from drsim.core.errors import PeerError, PlatformError
from drsim.core.events import Connected, Failed, Fired, Lost, Started
from drsim.core.facts import SyncEnded, SyncStarted
from drsim.core.messages import (
    Aborted,
    Compare,
    Compared,
    ForceSync,
    Frame,
    Hold,
    Pause,
    Refusal,
    Resync,
    Resynced,
    Standing,
    Start,
    SyncChanged,
    SyncDone,
    Trigger,
)
from drsim.core.names import CheckpointId, Extent, VmId, VolumeId
from drsim.core.sender import Sender, SendState
from drsim.core.status import GRAVITY, Sync
from drsim.core.units import SECTOR, Ns

SENT = (S.IN_SYNC, S.SWEEP, S.TAIL)
"""States in whose epoch something may have been sent."""
UNKNOWN = [sync for sync in Sync if sync not in (Sync.IN_SYNC, Sync.BITMAP) and not sync.value.startswith("Paused")]


def stretch(lba: int, sectors: int = 8) -> Extent:
    return Extent(VmId(1), VolumeId(1), lba, sectors)


def force(rig: Rig) -> list[Effect]:
    return rig.hears(ForceSync("crm"), MANAGER)


def comparing(**tweaks: int) -> Rig:
    """In a forced delta sync, the digests of the first stretch asked for."""
    rig = Rig(**tweaks)
    force(rig)
    rig.hears(Resynced(ONE, 1, 2))
    assert [asked.extent for asked in rig.digests] == [stretch(0)]
    return rig


def compared_to_the_end(rig: Rig, *differ: int) -> list[Effect]:
    """Answer every comparison until the sync is over; regions from these sectors on differ."""
    effects: list[Effect] = []
    while rig.one.syncing:
        before = len(effects)
        while rig.digests:
            effects += rig.digest()
            extent = rig.asked[-1]
            effects += rig.compared(*(lba in differ for lba in range(extent.lba, extent.lba + extent.sectors, 4)))
        while rig.reads:
            effects += rig.read()
        effects += rig.ack(*rig.one.numbered)
        assert len(effects) > before, rig.one.state
    return effects


def rows(effects: list[Effect]) -> list[tuple[int, int, bool]]:
    """(lba, sectors, of a sync) of every row that was sent."""
    return [
        (lba, n, f.sync)
        for f in messages(effects, Frame)
        for lba, n in zip(f.batch.lba.tolist(), f.batch.sectors.tolist(), strict=True)
    ]


# -- what is compared ---------------------------------------------------------------------------------------------


def test_every_region_is_compared_once_in_order_and_what_is_equal_is_not_sent() -> None:
    rig = comparing()
    effects = compared_to_the_end(rig)
    assert rig.asked == [stretch(lba) for lba in range(0, 64, 8)]
    assert rows(effects) == []
    assert facts(effects, SyncEnded) == [SyncEnded(ONE, Sync.FORCED_DELTA, 0, 64 * SECTOR)]
    assert rig.one.numbered == (0,)


@pytest.mark.parametrize("differ", [(0,), (4, 8), (60,), (0, 4, 8, 12, 24, 60), tuple(range(0, 64, 4))])
def test_what_differs_is_sent_and_nothing_else(differ: tuple[int, ...]) -> None:
    rig = comparing()
    effects = compared_to_the_end(rig, *differ)
    sent = [lba for first, n, sync in rows(effects) if sync for lba in range(first, first + n, 4)]
    assert sorted(sent) == list(differ)
    assert facts(effects, SyncEnded) == [SyncEnded(ONE, Sync.FORCED_DELTA, 4 * len(differ) * SECTOR, 64 * SECTOR)]


def test_the_digests_of_the_source_go_to_the_peer() -> None:
    rig = comparing()
    assert messages(rig.digest(), Compare) == [Compare(ONE, 1, 2, stretch(0), b"dd")]
    assert rig.digests == [], "one comparison at a time"
    rig.compared(0, 1)
    assert [asked.extent for asked in rig.digests] == [stretch(8)], "beside the sweep of what differs"
    assert [asked.batch.lba.tolist() for asked in rig.reads] == [[4]]
    assert rig.dirty() == set(range(8, 64)) - set(range(8, 16)), "4-7 is read, 8-15 is being compared"


def test_volumes_are_compared_to_their_end() -> None:
    rig = Rig()
    sender = Sender(rig.one.spec, TINY.model_copy(update={"compare_bytes": 3 * 4 * SECTOR}), tail_bytes=0)
    sender.distrust(Sync.DELTA, Trigger.PROTECTED_VRA)
    effects = sender.resynced(Resynced(ONE, 1, 2))
    found = []
    while asked := next((e for e in effects if isinstance(e, ReadDigests)), None):
        found.append((asked.extent.lba, asked.extent.sectors))
        effects = sender.compared(Compared(ONE, 1, 2, asked.extent, bytes(asked.extent.sectors // 4)))
    assert found == [(0, 12), (12, 12), (24, 12), (36, 12), (48, 12), (60, 4)]


@pytest.mark.parametrize("when", ["before the digests", "after the digests", "and is sent before the answer"])
def test_what_a_guest_writes_during_a_comparison_is_dirty_whatever_it_says(when: str) -> None:
    rig = comparing()
    if when == "before the digests":
        rig.write((5, 1))
    rig.digest()
    if when != "before the digests":
        rig.write((5, 1))
    assert rig.dirty() & set(range(8)) == {4, 5, 6, 7}
    if when == "and is sent before the answer":
        rig.ack(0)
        assert [asked.batch.lba.tolist() for asked in rig.reads] == [[4]]
    rig.compared(0, 0)
    effects = compared_to_the_end(rig)
    assert rows(effects) == [(4, 4, True)]


def test_what_a_guest_wrote_before_a_comparison_is_compared_with_the_rest() -> None:
    rig = comparing()
    rig.write((9, 1))
    assert rows(compared_to_the_end(rig)) == []


def test_a_write_in_the_tail_is_numbered_while_its_region_is_compared() -> None:
    """The tail holds more than a comparison here, so it is reached with some regions unsure."""
    rig = comparing(pool=200)
    while rig.asked[-1:] != [stretch(48)]:
        rig.digest()
        if rig.asked[-1] == stretch(48):
            rig.write((0, 16))
        rig.compared(0, 0)
    assert (rig.one.state, rig.digests) == (S.TAIL, []), "four regions are more than a comparison"
    rig.write((56, 1))
    assert rig.one.bitmap.unsure
    while not rig.digests:
        rig.read()
        rig.ack(*rig.one.numbered)
    rig.digest()
    before = rig.one.numbered
    rig.write((60, 1))
    assert 60 not in rig.dirty()
    rig.compared(0, 0)
    rig(Fired(f"flush {ONE}"))
    compared_to_the_end(rig)
    assert rig.one.numbered[0] >= before[0] + 1
    assert rig.dirty() == set()


@pytest.mark.parametrize("reached", ["digests asked", "peer asked"])
def test_a_fold_puts_a_comparison_back(reached: str) -> None:
    rig = comparing()
    rig.compared(0, 0, extent=stretch(0))
    first = [asked.extent for asked in rig.digests]
    if reached == "peer asked":
        rig.digest()
        rig.digest()
    rig(Lost(THERE))
    assert rig.dirty() == set(range(8, 64))
    rig.digests.clear()
    rig(Connected(THERE))
    rig.hears(Resynced(ONE, 1, 3))
    assert [asked.extent for asked in rig.digests] == [first[-1]]
    assert [asked.epoch for asked in rig.digests] == [3]


def test_a_region_that_was_written_during_a_comparison_that_was_put_back_is_compared_again() -> None:
    rig = comparing()
    rig.digest()
    rig.write((5, 1))
    rig(Lost(THERE))
    rig(Connected(THERE))
    rig.hears(Resynced(ONE, 1, 3))
    rig.asked.clear()
    compared_to_the_end(rig, 4)
    assert rig.asked == [stretch(lba) for lba in range(0, 64, 8)], "all of it, each once"


@pytest.mark.parametrize(
    "stale",
    [
        Compared(ONE, 1, 1, stretch(0), bytes(2)), Compared(ONE, 2, 2, stretch(0), bytes(2)),
        Compared(ONE, 1, 3, stretch(0), bytes(2)), Compared(ONE, 1, 2, stretch(8), bytes(2)),
        Compared(ONE, 1, 2, stretch(0, 4), bytes(1)),
    ],
    ids=["earlier epoch", "other generation", "later epoch", "other stretch", "part of it"],
)  # fmt: skip
def test_an_answer_that_is_not_to_the_question_says_nothing(stale: Compared) -> None:
    rig = comparing()
    rig.digest()
    assert rig.hears(stale) == []
    rig(Lost(THERE))
    assert rig.dirty() == set(range(64))


def test_an_answer_that_comes_twice_counts_once() -> None:
    rig = comparing()
    rig.digest()
    rig.compared(0, 0)
    assert rig.compared(1, 1) == []
    assert rig.dirty() == set(range(16, 64))


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_another_number_of_answers_is_the_peers_mistake(answers: int) -> None:
    rig = comparing()
    rig.digest()
    with pytest.raises(PeerError):
        rig.compared(*(0 for _ in range(answers)))


def test_digests_of_an_epoch_that_has_ended_are_not_sent() -> None:
    rig = comparing()
    rig(Lost(THERE))
    rig(Connected(THERE))
    rig.hears(Resynced(ONE, 1, 3))
    assert [asked.epoch for asked in rig.digests] == [2, 3]
    assert rig.digest() == [], "the old content, the same stretch"
    assert messages(rig.digest(), Compare) == [Compare(ONE, 1, 3, stretch(0), b"dd")]


def test_digests_that_cannot_be_read_are_asked_for_again_after_a_pause() -> None:
    rig = comparing()
    failed = Failed(EffectId(HERE, 0), rig.digests.pop(), PlatformError("bad block"))
    effects = rig(failed)
    assert Arm(f"pause {ONE}", Ns(TINY.retry_pause)) in effects
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, Sync.FORCED_DELTA, False, Trigger.PROTECTED_STORAGE)]
    assert (rig.one.state, rig.dirty()) == (S.WAITING, set(range(64)))
    assert rig(failed) == [], "once"
    assert messages(rig(Fired(f"pause {ONE}")), Resync) == [Resync(ONE, 1, 3, (0,), rig.one.spec)]
    rig.hears(Resynced(ONE, 1, 3))
    assert [asked.extent for asked in rig.digests] == [stretch(0)]


def test_the_comparison_waits_while_the_sweep_has_much_to_do() -> None:
    rig = comparing()
    rig.write((32, 1), (0, 1), (4, 1), (8, 1))
    rig.digest()
    rig.write((0, 12))
    rig.compared(1, 1)
    assert len(rig.digests) == 1, "two regions are as much as one comparison"
    rig.digest()
    rig.write((0, 12), (8, 8))
    rig.compared(1, 1)
    assert (rig.digests, len(rig.reads)) == ([], 1), "five regions are known to be dirty, less what is being read"
    while not rig.digests:
        rig.read()
        rig.ack(*rig.one.numbered)
    assert rig.digests[0].extent == stretch(16)


def test_no_region_is_compared_after_it_was_sent_in_the_same_epoch() -> None:
    """Whatever is distrusted when: an older frame in flight could change it behind the comparison's back."""
    for step in range(12):
        rig, sent, effects = comparing(), {2: set[int]()}, list[Effect]()
        for n in range(400):
            if n == step:
                effects += force(rig)
                if rig.one.state is S.HANDSHAKE:
                    effects += rig.hears(Resynced(ONE, 1, rig.one.epoch))
            elif rig.reads:
                effects += rig.read()
            elif rig.digests:
                effects += (asked := rig.digest())
                if messages(asked, Compare):
                    effects += rig.compared(*(1 for _ in range(rig.asked[-1].sectors // 4)))
            else:
                effects += rig.ack(*rig.one.numbered)
        assert not rig.one.syncing
        for effect in effects:
            match effect:
                case ReadDigests(_, epoch, extent):
                    stretch_ = set(range(extent.lba, extent.lba + extent.sectors))
                    assert not sent.setdefault(epoch, set()) & stretch_
        for f in messages(effects, Frame):
            for lba, n in zip(f.batch.lba.tolist(), f.batch.sectors.tolist(), strict=True):
                sent.setdefault(f.epoch, set()).update(range(lba, lba + n))
        assert sum(map(len, sent.values())) >= 64


# -- how a sync begins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "sync", "trigger", "sent", "compared"),
    [
        (Start.CRASHED, Sync.DELTA, Trigger.PROTECTED_VRA, 0, 64),
        (Start.MOVED, Sync.VOLUME_DELTA, Trigger.CONFIGURATION, 0, 64),
        (Start.INITIAL, Sync.INITIAL, Trigger.CONFIGURATION, 64, 0),
        (Start.PRESEEDED, Sync.INITIAL, Trigger.CONFIGURATION, 0, 64),
    ],
)
def test_what_is_known_of_the_other_side_decides_what_is_done(
    start: Start, sync: Sync, trigger: Trigger, sent: int, compared: int
) -> None:
    rig = Rig(start=start)
    effects = rig(Started())
    assert facts(effects, SyncStarted) == [SyncStarted(ONE, sync, trigger, 64 * SECTOR)]
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, sync, False, trigger)]
    rig.hears(Standing(ONE, 1, 0, (0,)))
    joining = start in (Start.INITIAL, Start.PRESEEDED)
    assert rig.one.joining is joining
    effects = rig.hears(Resynced(ONE, 1, 1)) + rig.ends(differs=0)
    assert facts(effects, SyncEnded) == [SyncEnded(ONE, sync, sent * SECTOR, compared * SECTOR)]
    assert not rig.one.joining
    assert messages(effects, SyncChanged)[-1] == SyncChanged(ONE, Sync.IN_SYNC, False, Trigger.NONE)


@pytest.mark.parametrize("start", [Start.INITIAL, Start.PRESEEDED])
def test_a_stream_that_joins_is_in_no_checkpoint(start: Start) -> None:
    rig = Rig(start=start)
    rig(Started())
    effects = rig.hears(Hold("crm", CheckpointId(1), alone=False), MANAGER)
    assert messages(effects, Aborted) == [Aborted("crm", CheckpointId(1), HERE, "synchronizing")]


@pytest.mark.parametrize("first", UNKNOWN)
@pytest.mark.parametrize("second", UNKNOWN)
def test_of_two_syncs_at_once_the_graver_one_is_shown(first: Sync, second: Sync) -> None:
    sender = Rig().one
    began = facts(sender.distrust(first, Trigger.FORCE_SYNC), SyncStarted)
    assert began == [SyncStarted(ONE, first, Trigger.FORCE_SYNC, 64 * SECTOR)]
    again = facts(sender.distrust(second, Trigger.PROTECTED_VRA), SyncStarted)
    graver = GRAVITY[second] > GRAVITY[first]
    assert again == ([SyncStarted(ONE, second, Trigger.PROTECTED_VRA, 64 * SECTOR)] if graver else [])
    assert sender.sync is max(first, second, key=GRAVITY.__getitem__)
    sender.fold(Trigger.COMMUNICATION)
    assert sender.sync is max(first, second, key=GRAVITY.__getitem__), "a bitmap sync is the lightest"


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("empty", [False, True])
def test_distrust_begins_a_new_epoch_where_something_was_sent(state: SendState, empty: bool) -> None:
    rig = Rig().into(state)
    before = rig.one.epoch
    effects = rig.one.distrust(Sync.FULL if empty else Sync.DELTA, Trigger.FORCE_SYNC, empty=empty)
    assert rig.one.epoch == before + (state in SENT)
    assert bool(messages(effects, Resync)) == (state in SENT)
    assert rig.dirty() == set(range(64))
    assert rig.one.used == 0, "nothing is in flight that could change what is compared"
    assert rig.one.bitmap.unsure is not empty
    if state is S.ASKING:
        rig.hears(Standing(ONE, 1, 0, (0,)))
    if state is S.WAITING:
        rig(Connected(THERE))
    effects = rig.hears(Resynced(ONE, 1, rig.one.epoch))
    rig.reads = [e for e in effects if isinstance(e, ReadRegions)]
    effects = rig.ends(differs=0)
    (ended,) = facts(effects, SyncEnded)
    assert ended.compared_bytes == (0 if empty else 64 * SECTOR)
    assert ended.sent_bytes >= 64 * SECTOR * empty


def test_only_some_volumes_are_distrusted() -> None:
    rig = Rig().into(S.WAITING)
    rig.one.distrust(Sync.VOLUME_DELTA, Trigger.CONFIGURATION, [])
    assert rig.dirty() == set(range(8))
    rig.one.distrust(Sync.VOLUME_DELTA, Trigger.CONFIGURATION, [VolumeId(1)])
    assert rig.dirty() == set(range(64))


# -- pause --------------------------------------------------------------------------------------------------------


def said(effects: list[Effect]) -> list[object]:
    """What went to the peer, and what was asked of the disk."""
    asked = [e for e in effects if isinstance(e, ReadRegions | ReadDigests)]
    return [m for kind in (Frame, Resync, SyncDone, Compare) for m in messages(effects, kind)] + asked


@pytest.mark.parametrize("state", S)
def test_a_pause_sends_nothing_until_it_ends(state: SendState) -> None:
    rig = Rig().into(state)
    effects = rig.hears(Pause("crm", True), MANAGER)
    assert said(effects) == []
    assert rig.one.used == 0
    numbered = rig.one.numbered
    for event in (
        lambda: rig.write((20, 1), (40, 8), (50, 3)), lambda: rig.ack(*rig.one.numbered),
        lambda: rig.nack(Refusal.BUSY, 0), lambda: rig.ack(0, epoch=1), lambda: rig(Fired(f"pause {ONE}")),
        lambda: rig(Fired(f"flush {ONE}")), lambda: rig(Lost(THERE)), lambda: rig(Connected(THERE)),
        lambda: rig.hears(Resynced(ONE, 1, rig.one.epoch)), lambda: rig.hears(Resynced(ONE, 1, rig.one.epoch - 1)),
        lambda: rig.hears(Pause("crm", True), MANAGER), lambda: force(rig),
        lambda: [e for _ in range(len(rig.reads)) for e in rig.read()], lambda: rig(Connected(THERE)),
    ):  # fmt: skip
        assert said(event()) == []
        assert rig.one.state is (S.ASKING if state is S.ASKING else S.WAITING)
    if state is S.ASKING:
        assert said(rig.hears(Standing(ONE, 1, 4, (9,)))) == []
        numbered = (9,)
    assert rig.one.numbered == numbered, "what is written becomes dirty"
    assert rig.dirty() >= {20, *range(40, 48), 50, 51, 52}
    effects = rig.hears(Pause("crm", False), MANAGER)
    assert messages(effects, Resync) == [Resync(ONE, 1, rig.one.epoch, numbered, rig.one.spec)]
    rig.reads.clear()
    rig.hears(Resynced(ONE, 1, rig.one.epoch))
    rig.ends()
    assert rig.dirty() == set()


def test_a_pause_says_why() -> None:
    effects = Rig().hears(Pause("crm", True), MANAGER)
    assert facts(effects, SyncStarted) == [SyncStarted(ONE, Sync.BITMAP, Trigger.PAUSE, 0)]
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, Sync.BITMAP, False, Trigger.PAUSE)]


@pytest.mark.parametrize("state", S)
def test_to_go_on_when_nothing_was_paused_changes_nothing(state: SendState) -> None:
    rig = Rig().into(state)
    before = rig.one.epoch
    assert rig.hears(Pause("crm", False), MANAGER) == []
    assert (rig.one.state, rig.one.epoch) == (state, before)


def test_a_pause_that_ends_while_the_peer_is_gone_goes_on_when_it_is_back() -> None:
    rig = Rig()
    rig.hears(Pause("crm", True), MANAGER)
    rig(Lost(THERE))
    assert said(rig.hears(Pause("crm", False), MANAGER)) == []
    assert len(messages(rig(Connected(THERE)), Resync)) == 1


def test_other_vpgs_are_not_paused() -> None:
    rig = Rig(streams=2)
    rig.hears(Pause("crm", True), MANAGER)
    assert len(frames(rig.write((0, 8), vm=2))) == 1


# -- a bitmap outgrown --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [S.WAITING, S.HANDSHAKE, S.SWEEP])
def test_a_bitmap_that_is_outgrown_is_given_up_for_a_delta_sync(state: SendState) -> None:
    rig = Rig(bitmap_regions=12).into(state)
    assert rig.one.sync is Sync.BITMAP
    before = rig.one.epoch
    assert facts(rig.write((0, 1)), SyncStarted) == []
    effects = rig.write((0, 32), (32, 32))
    assert facts(effects, SyncStarted) == [SyncStarted(ONE, Sync.DELTA, Trigger.PROTECTED_VRA, 64 * SECTOR)]
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, Sync.DELTA, False, Trigger.PROTECTED_VRA)]
    assert rig.one.epoch == before + (state is S.SWEEP)
    assert rig.one.bitmap.regions()[0].tolist() == [], "its memory is free again"
    if state is S.WAITING:
        rig(Connected(THERE))
    rig.reads.clear()
    rig.hears(Resynced(ONE, 1, rig.one.epoch))
    assert facts(rig.ends(differs=0), SyncEnded)[0].compared_bytes == 64 * SECTOR


def test_a_fold_may_outgrow_it_at_once() -> None:
    rig = Rig(bitmap_regions=3)
    rig.write((0, 8), (16, 8))
    effects = rig(Lost(THERE))
    assert [(f.sync, f.trigger) for f in facts(effects, SyncStarted)] == [
        (Sync.BITMAP, Trigger.COMMUNICATION), (Sync.DELTA, Trigger.PROTECTED_VRA)
    ]  # fmt: skip
    assert rig.dirty() == set(range(64))


def test_as_many_regions_as_it_has_room_for_are_no_more() -> None:
    rig = Rig(bitmap_regions=4).into(S.WAITING)
    assert facts(rig.write((8, 8)), SyncStarted) == []
    assert rig.one.sync is Sync.BITMAP
    assert facts(rig.write((63, 1)), SyncStarted) != []


def test_what_an_initial_sync_has_not_sent_needs_no_comparison_when_the_bitmap_is_outgrown() -> None:
    rig = Rig(start=Start.INITIAL, bitmap_regions=6)
    rig(Started())
    rig.hears(Standing(ONE, 1, 0, (0,)))
    rig.hears(Resynced(ONE, 1, 1))
    for _ in range(4):
        rig.read()
        rig.ack(*rig.one.numbered)
    rig.write((0, 4), (4, 24))
    assert rig.one.sync is Sync.INITIAL, "the graver one"
    assert rig.one.bitmap.unsure
    rig.reads.clear()
    rig.hears(Resynced(ONE, 1, rig.one.epoch))
    assert facts(rig.ends(differs=0), SyncEnded)[0].compared_bytes < 64 * SECTOR
