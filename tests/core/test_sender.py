"""Sender and ProtectedVra: each row of the state table in `sender.py`, the shared buffer, the holds."""

import pytest
from sender_rig import HERE, MANAGER, ONE, THERE, TWO, Rig, S, facts, frames, messages
from support import TINY, writes

from drsim.core.effects import Arm, EffectId, HoldGuests, ReleaseGuests, Send
from drsim.core.errors import PeerError, PlatformError
from drsim.core.events import Connected, Failed, Fired, Lost, Started, Stopped
from drsim.core.facts import SyncEnded, SyncStarted
from drsim.core.messages import (
    Aborted,
    Ack,
    Cut,
    Frame,
    Held,
    Hold,
    Listed,
    Nack,
    Refusal,
    Release,
    Released,
    Resync,
    Resynced,
    Standing,
    Start,
    SyncChanged,
    SyncDone,
    Trigger,
    Where,
)
from drsim.core.names import CheckpointId
from drsim.core.sender import SendState
from drsim.core.status import Sync
from drsim.core.units import SECTOR, Ns


@pytest.mark.parametrize("state", S)
def test_the_rig_reaches_every_state(state: SendState) -> None:
    assert Rig().into(state).one.state is state


# -- what becomes of guest writes, by state -----------------------------------------------------------------------


@pytest.mark.parametrize("state", S)
def test_guest_writes_by_state(state: SendState) -> None:
    rig = Rig().into(state)
    before = rig.one.numbered
    effects = rig.write((60, 1), (61, 1), (62, 1))
    if state in (S.IN_SYNC, S.TAIL):
        assert rig.one.numbered[0] == before[0] + 3
        assert 60 not in rig.dirty()
    else:
        assert effects == []
        assert rig.one.numbered == before
        assert {60, 61, 62} <= rig.dirty()


def test_in_sync_frames_are_cut_by_writes_bytes_and_timer() -> None:
    rig = Rig()
    assert rig.write((0, 1), (1, 1)) == [Arm(f"flush {ONE}", Ns(TINY.frame_delay))]
    assert frames(rig.write((2, 1), (3, 1))) == [((0,), (3,), False)]
    assert frames(rig(Fired(f"flush {ONE}"))) == [((3,), (4,), False)]
    assert frames(rig.write((8, 7), (8, 1))) == [((4,), (6,), False)], "8 sectors fill a frame"
    assert rig(Fired(f"flush {ONE}")) == []


def test_the_window_bounds_what_is_sent() -> None:
    rig = Rig(window_frames=1)
    assert len(frames(rig.write((0, 8), (8, 8)))) == 1
    assert frames(rig.ack(1)) == [((1,), (2,), False)]
    assert rig.one.used == 8 * SECTOR
    assert rig.ack(2) == []
    assert rig.one.used == 0


# -- leaving sync -------------------------------------------------------------------------------------------------


def test_a_full_buffer_folds_open_queued_and_in_flight() -> None:
    rig = Rig(window_frames=1)  # 36 sectors of buffer
    rig.write((0, 8), (8, 8), (16, 4))
    assert rig.one.used == 20 * SECTOR
    effects = rig.write((24, 17))
    assert rig.dirty() == set(range(20)) | set(range(24, 44))
    assert rig.one.used == 0
    assert rig.one.state is S.HANDSHAKE
    assert facts(effects, SyncStarted) == [SyncStarted(ONE, Sync.BITMAP, Trigger.NETWORK_CONGESTION, 20 * SECTOR)]
    assert messages(effects, Resync) == [Resync(ONE, 1, 2, (2,), rig.one.spec)], (
        "numbers of an epoch that ended are not used again"
    )
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, Sync.BITMAP, False, Trigger.NETWORK_CONGESTION)]


def test_a_write_larger_than_the_buffer_is_marked() -> None:
    rig = Rig(pool=10)
    rig.write((0, 20))
    assert rig.one.state is S.HANDSHAKE
    assert rig.dirty() == set(range(20))


def test_the_largest_stream_makes_room() -> None:
    rig = Rig(streams=2)
    rig.write((0, 8), (8, 8), (16, 8), vm=2)
    rig.write((0, 8))
    effects = rig.write((8, 8))
    assert [f.stream for f in facts(effects, SyncStarted)] == [TWO]
    assert rig.one.state is S.IN_SYNC
    assert rig.vra.used == 16 * SECTOR


@pytest.mark.parametrize(
    ("refusal", "trigger"),
    [
        (Refusal.BUSY, Trigger.RECOVERY_CONGESTION),
        (Refusal.FULL, Trigger.RECOVERY_STORAGE_ERROR),
        (Refusal.LIMIT, Trigger.RECOVERY_STORAGE_ERROR),
    ],
)
def test_the_trigger_names_what_the_peer_lacked(refusal: Refusal, trigger: Trigger) -> None:
    rig = Rig()
    rig.write((0, 8))
    rig.nack(refusal, 0)
    effects = rig.write((8, 8), (16, 8), (24, 8), (32, 8))
    assert facts(effects, SyncStarted)[0].trigger is trigger


def test_a_lost_peer_folds_into_waiting() -> None:
    rig = Rig()
    rig.write((0, 8), (8, 2))
    effects = rig(Lost(THERE))
    assert rig.one.state is S.WAITING
    assert rig.dirty() == set(range(12))
    assert facts(effects, SyncStarted)[0].trigger is Trigger.COMMUNICATION
    assert not messages(effects, Resync)
    assert rig(Lost(THERE)) == []


def test_a_stop_folds_and_says_so_and_a_start_goes_on() -> None:
    rig = Rig()
    rig.write((0, 2))
    effects = rig(Stopped())
    assert facts(effects, SyncStarted)[0].trigger is Trigger.PROTECTED_VRA
    assert rig.write((32, 1)) == []
    assert messages(rig(Started()), Resync) == [Resync(ONE, 1, 2, (0,), rig.one.spec)]
    assert rig.dirty() == {0, 1, 2, 3, 32, 33, 34, 35}


def test_a_restart_forgets_that_a_flush_was_to_come() -> None:
    rig = Rig()
    rig.write((0, 1))
    rig(Stopped())
    rig(Started())
    rig.hears(Resynced(ONE, 1, 2))
    rig.read()
    assert rig.one.state is S.TAIL
    assert rig.write((8, 1)) == [Arm(f"flush {ONE}", Ns(TINY.frame_delay))]


# -- ASKING -------------------------------------------------------------------------------------------------------


def test_after_a_crash_everything_is_dirty_and_the_peer_is_asked() -> None:
    rig = Rig(start=Start.CRASHED)
    assert rig.dirty() == set(range(64))
    effects = rig(Started())
    assert facts(effects, SyncStarted) == [SyncStarted(ONE, Sync.DELTA, Trigger.PROTECTED_VRA, 64 * SECTOR)]
    assert messages(effects, Where) == [Where(ONE, 1, rig.one.spec)]
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, Sync.DELTA, False, Trigger.PROTECTED_VRA)]
    assert rig.write((0, 8)) == []
    assert rig.one.used == 0


def test_the_answer_gives_an_epoch_and_numbers_beyond_all_earlier_ones() -> None:
    rig = Rig(start=Start.CRASHED)
    rig(Started())
    assert messages(rig.hears(Standing(ONE, 1, 4, (70,))), Resync) == [Resync(ONE, 1, 5, (70,), rig.one.spec)]
    assert rig.one.state is S.HANDSHAKE
    assert rig.hears(Standing(ONE, 1, 9, (99,))) == [], "once"
    rig.hears(Resynced(ONE, 1, 5))
    rig.digest()
    rig.compared(1, 1)
    assert frames(rig.read()) == [((70,), (71,), True)]
    effects = rig.ends()
    assert rig.one.numbered == (78,), "two regions a frame"
    assert rig.dirty() == set()
    ended = SyncEnded(ONE, Sync.DELTA, 64 * SECTOR, 64 * SECTOR)
    assert facts(effects, SyncEnded) == [ended], "the whole disk is compared, and sent"


def test_it_is_asked_again_over_each_new_connection() -> None:
    rig = Rig(start=Start.CRASHED)
    rig(Started())
    assert rig(Lost(THERE)) == []
    assert rig.one.state is S.ASKING
    assert messages(rig(Connected(THERE)), Where) == [Where(ONE, 1, rig.one.spec)]
    assert messages(rig(Connected(THERE)), Where) == [Where(ONE, 1, rig.one.spec)]
    rig(Stopped())
    assert rig.one.state is S.ASKING
    assert messages(rig(Started()), Where) == [Where(ONE, 1, rig.one.spec)]


def test_what_was_answered_over_an_earlier_connection_counts_only_once_an_epoch_has_begun() -> None:
    """Meanwhile the other side may have taken what was on its way, and then the epoch began before it."""
    rig = Rig(start=Start.CRASHED)
    rig(Started())
    rig.hears(Standing(ONE, 1, 4, (70,)))
    rig(Lost(THERE))
    assert rig.one.state is S.ASKING
    assert messages(rig(Connected(THERE)), Where) == [Where(ONE, 1, rig.one.spec)]
    rig.hears(Standing(ONE, 1, 5, (75,)))
    rig.hears(Resynced(ONE, 1, 6))
    rig(Lost(THERE))
    again = rig(Connected(THERE))
    assert messages(again, Where) == []
    assert messages(again, Resync) == [Resync(ONE, 1, 7, (75,), rig.one.spec)]


def test_while_asking_nothing_of_an_earlier_life_counts() -> None:
    rig = Rig(start=Start.CRASHED)
    for message in (
        Resynced(ONE, 1, 1), Ack(ONE, 1, 1, (3,)), Nack(ONE, 1, 1, (3,), Refusal.BUSY), Standing(ONE, 2, 1, (3,)),
    ):  # fmt: skip
        rig.hears(message)
        assert (rig.one.state, rig.one.durable, rig.one.waiting) == (S.ASKING, (0,), False)
    released = rig.hears(Release("crm", CheckpointId(1)), MANAGER)
    assert messages(released, Aborted) == [Aborted("crm", CheckpointId(1), HERE, "hold budget")]


# -- WAITING ------------------------------------------------------------------------------------------------------


def test_waiting_ends_when_the_peer_is_connected() -> None:
    rig = Rig().into(S.WAITING)
    assert messages(rig(Connected(THERE)), Resync) == [Resync(ONE, 1, 2, (1,), rig.one.spec)]
    assert rig.one.state is S.HANDSHAKE


@pytest.mark.parametrize("refusal", [Refusal.BUSY, Refusal.FULL])
def test_waiting_for_a_peer_without_room_ends_with_its_next_word(refusal: Refusal) -> None:
    rig = Rig()
    rig.write((0, 8))
    rig.nack(refusal, 0)
    effects = rig.write((8, 16), (24, 16))
    assert rig.one.state is S.WAITING
    assert messages(effects, SyncChanged)[-1].waiting
    assert messages(rig.ack(0, epoch=1), Resync) == [Resync(ONE, 1, 2, (2,), rig.one.spec)]


def test_a_journal_at_its_limit_is_told_of_the_new_epoch_at_once() -> None:
    """It may have to give up its checkpoints for the sync window; nobody else could wake us."""
    rig = Rig()
    rig.write((0, 8))
    rig.nack(Refusal.LIMIT, 0)
    effects = rig.write((8, 16), (24, 16))
    assert rig.one.state is S.HANDSHAKE
    assert len(messages(effects, Resync)) == 1


def test_waiting_after_a_failed_read_ends_with_the_pause() -> None:
    rig = Rig().into(S.SWEEP)
    before = rig.dirty() | set(range(8))
    effects = rig(Failed(EffectId(HERE, 0), rig.reads.pop(), PlatformError("bad block")))
    assert Arm(f"pause {ONE}", Ns(TINY.retry_pause)) in effects
    assert messages(effects, SyncChanged)[-1].trigger is Trigger.PROTECTED_STORAGE
    assert rig.one.state is S.WAITING
    assert rig.dirty() == before
    assert messages(rig(Fired(f"pause {ONE}")), Resync)
    assert rig(Fired(f"pause {ONE}")) == []


def test_a_read_of_an_ended_epoch_is_ignored() -> None:
    rig = Rig().into(S.SWEEP)
    rig(Lost(THERE))
    assert rig.read() == []
    assert rig.into(S.WAITING).one.state is S.WAITING


# -- HANDSHAKE, SWEEP, TAIL ---------------------------------------------------------------------------------------


def test_handshake_ends_with_resynced_for_this_epoch_only() -> None:
    rig = Rig().into(S.HANDSHAKE)
    assert rig.hears(Resynced(ONE, 1, 1)) == []
    assert rig.ack(1) == []
    assert rig.nack(Refusal.GAP, 0) == []
    assert rig.one.state is S.HANDSHAKE
    rig.hears(Resynced(ONE, 1, 2))
    assert rig.one.state is S.TAIL


def test_a_connection_back_without_a_loss_starts_the_epoch_again() -> None:
    rig = Rig().into(S.SWEEP)
    rig(Connected(THERE))
    assert rig.one.state is S.HANDSHAKE
    assert rig.one.epoch == 3


def test_a_sync_frame_takes_its_number_when_the_read_is_asked() -> None:
    rig = Rig().into(S.TAIL)
    assert rig.one.numbered == (2,)
    rig.write((0, 1))
    rig(Fired(f"flush {ONE}"))
    assert frames(rig.read()) == [((1,), (2,), True), ((2,), (3,), False)], "the write of the read's time comes after"


def test_what_was_open_is_numbered_before_the_sync_frame() -> None:
    rig = Rig(pool=100).into(S.TAIL)
    rig.one.bitmap.mark(writes((1, 1, 40, 1)))
    rig.write((40, 1))
    assert frames(rig.read()) == [((1,), (2,), True)]
    assert frames(rig.read()) == [((2,), (3,), False), ((3,), (4,), True)]


def test_a_region_written_during_the_sweep_is_dirty_again() -> None:
    rig = Rig().into(S.SWEEP)
    assert 0 not in rig.dirty()
    rig.write((0, 1))
    assert 0 in rig.dirty()


def test_a_fold_marks_sync_frames_in_flight() -> None:
    rig = Rig().into(S.TAIL)
    rig.read()
    assert rig.dirty() == set()
    rig(Lost(THERE))
    assert rig.dirty() == set(range(8))


def test_the_tail_ends_when_the_last_sync_frame_is_durable() -> None:
    rig = Rig().into(S.TAIL)
    effects = rig.read()
    assert messages(effects, SyncDone) == [SyncDone(ONE, 1, 2, (2,))]
    rig.write((8, 1))
    effects = rig.ack(2)
    assert facts(effects, SyncEnded) == [SyncEnded(ONE, Sync.BITMAP, 8 * SECTOR, 0)]
    assert messages(effects, SyncChanged) == [SyncChanged(ONE, Sync.IN_SYNC, False, Trigger.NONE)]
    assert rig.one.state is S.IN_SYNC
    assert rig.one.used == SECTOR


def test_a_sync_with_nothing_dirty_ends_at_once() -> None:
    rig = Rig()
    rig(Lost(THERE))
    rig(Connected(THERE))
    effects = rig.hears(Resynced(ONE, 1, 2))
    assert messages(effects, SyncDone)
    assert rig.one.state is S.IN_SYNC


# -- acknowledgements and refusals --------------------------------------------------------------------------------


def test_acks_of_another_epoch_or_generation_free_nothing() -> None:
    rig = Rig()
    rig.write((0, 8))
    rig.hears(Ack(ONE, 2, 1, (1,)))
    rig.ack(1, epoch=7)
    assert rig.one.used == 8 * SECTOR


def test_a_gap_is_sent_again_and_what_was_received_stays_in_flight() -> None:
    rig = Rig()
    rig.write((0, 8), (8, 8), (16, 8))
    assert frames(rig.nack(Refusal.GAP, 1)) == [((1,), (2,), False), ((2,), (3,), False)]
    assert len(rig.one.window) == 3


def test_a_refusal_stops_the_stream_until_the_next_ack() -> None:
    rig = Rig()
    rig.write((0, 8), (8, 8))
    assert frames(rig.nack(Refusal.BUSY, 1)) == []
    assert frames(rig.write((16, 8))) == []
    assert frames(rig.ack(1)) == [((1,), (2,), False), ((2,), (3,), False)]


# -- holds --------------------------------------------------------------------------------------------------------


def hold(n: int = 1, *, alone: bool = False) -> Hold:
    return Hold("crm", CheckpointId(n), alone)


def test_hold_cuts_the_frame_and_says_what_is_captured() -> None:
    rig = Rig()
    rig.write((0, 1))
    effects = rig.hears(hold(), MANAGER)
    assert frames(effects) == [((0,), (1,), False)]
    cut = {ONE: Cut(1, (1,))}
    assert effects[1:] == [
        HoldGuests("crm", CheckpointId(1)), Arm("hold crm", Ns(TINY.hold_budget)),
        Send(MANAGER, Held("crm", CheckpointId(1), HERE, cut)),
    ]  # fmt: skip
    released = [ReleaseGuests("crm", CheckpointId(1)), Send(MANAGER, Released("crm", CheckpointId(1), HERE))]
    assert rig.hears(Release("crm", CheckpointId(1)), MANAGER) == released


def test_alone_nobody_is_held() -> None:
    effects = Rig().hears(hold(alone=True), MANAGER)
    assert [type(e) for e in effects] == [HoldGuests, ReleaseGuests, Send]


def test_the_hold_budget_lets_go_and_a_late_release_is_told_so() -> None:
    rig = Rig()
    rig.hears(hold(), MANAGER)
    aborted = Aborted("crm", CheckpointId(1), HERE, "hold budget")
    assert rig(Fired("hold crm")) == [ReleaseGuests("crm", CheckpointId(1)), Send(MANAGER, aborted)]
    assert rig(Fired("hold crm")) == []
    assert rig.hears(Release("crm", CheckpointId(1)), MANAGER) == [Send(MANAGER, aborted)]


@pytest.mark.parametrize("state", [S.ASKING, S.WAITING, S.HANDSHAKE, S.SWEEP, S.TAIL])
def test_out_of_sync_nothing_is_held(state: SendState) -> None:
    effects = Rig().into(state).hears(hold(), MANAGER)
    assert effects == [Send(MANAGER, Aborted("crm", CheckpointId(1), HERE, "synchronizing"))]


def test_a_fold_during_the_hold_aborts_even_when_sync_is_over() -> None:
    rig = Rig()
    rig.hears(hold(), MANAGER)
    rig(Lost(THERE))
    rig(Connected(THERE))
    rig.hears(Resynced(ONE, 1, 2))
    assert rig.one.state is S.IN_SYNC
    effects = rig.hears(Release("crm", CheckpointId(1)), MANAGER)
    assert effects[0] == ReleaseGuests("crm", CheckpointId(1))
    assert isinstance(messages(effects, Aborted)[0], Aborted)


def test_a_stop_releases_the_guests() -> None:
    rig = Rig()
    rig.hears(hold(), MANAGER)
    effects = rig(Stopped())
    assert effects[:2] == [
        ReleaseGuests("crm", CheckpointId(1)), Send(MANAGER, Aborted("crm", CheckpointId(1), HERE, "VRA stops"))
    ]  # fmt: skip


def test_other_vpgs_are_not_held() -> None:
    rig = Rig(streams=2)
    rig.write((0, 1), vm=2)
    effects = rig.hears(hold(), MANAGER)
    assert not messages(effects, Frame)
    assert list(messages(effects, Held)[0].cut) == [ONE]


def test_a_manager_that_is_back_is_told_again() -> None:
    rig = Rig().into(S.SWEEP)
    told = SyncChanged(ONE, Sync.BITMAP, False, Trigger.COMMUNICATION)
    assert messages(rig(Connected(MANAGER)), SyncChanged) == [told]
    rig = Rig()
    assert messages(rig(Connected(MANAGER)), SyncChanged) == [SyncChanged(ONE, Sync.IN_SYNC, False, Trigger.NONE)]


def test_messages_for_others_are_refused() -> None:
    with pytest.raises(PeerError):
        Rig().hears(Listed("crm", CheckpointId(1), Ns(0), Ns(0), 1))
