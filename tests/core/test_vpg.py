"""Vpg: checkpoints (PROTOCOL 3), tags, and the five regions with the causes of what is wrong."""

from collections.abc import Iterable

import pytest
from support import TINY

from drsim.core.effects import Arm, Effect, Publish, Send
from drsim.core.errors import PeerError
from drsim.core.events import (
    Connected,
    DeleteAsked,
    EpochCaptured,
    Event,
    Fired,
    Lost,
    PauseAsked,
    Received,
    Reconfigured,
    Started,
    Stopped,
    SyncAsked,
    TagAsked,
    VmMoved,
)  # fmt: skip
from drsim.core.facts import CheckpointSealed, CheckpointSkipped, EpochDue, StateChanged
from drsim.core.messages import (
    Aborted,
    Ack,
    Cut,
    Forced,
    ForceSync,
    Held,
    Hold,
    Listed,
    Members,
    Pause,
    Release,
    Released,
    Retention,
    Sealed,
    StoreState,
    SyncChanged,
    Trigger,
    Withdrawn,
)
from drsim.core.names import Address, CheckpointId, StreamId, VmId, VolumeId
from drsim.core.status import Health, Lifecycle, Peer, Regions, Status, Sync, project
from drsim.core.units import Ns
from drsim.core.vpg import DEADLINE, REST, TICK, Vpg

HERE, CATALOG = Address("west/vpg"), Address("east/catalog")
VRAS = [Address("west/h1"), Address("west/h2")]
STREAMS = [StreamId("crm", vra, Address("east/r")) for vra in VRAS]
INTERVAL, ALERT, HISTORY = 100, 500, 10_000


class Rig:
    """A manager over two VRAs, or one."""

    def __init__(
        self, *, vras: int = 2, first: int = 1, creating: bool = False, paused: bool = False, epochs: bool = False,
        **tweaks: int,
    ) -> None:  # fmt: skip
        self.vras = VRAS[:vras]
        small = TINY.model_copy(update={"age_interval": 50, **tweaks})
        self.vpg = Vpg(HERE, "crm", self.vras, CATALOG, interval=Ns(INTERVAL), rpo_alert=Ns(ALERT),
                       history=Ns(HISTORY), tweaks=small, first=CheckpointId(first), creating=creating,
                       paused=paused, epochs=epochs)  # fmt: skip
        self.now = 0
        self.began = self(Started())

    def __call__(self, event: Event, *, at: int | None = None) -> list[Effect]:
        self.now = self.now if at is None else at
        return self.vpg.handle(Ns(self.now), event)

    def hears(self, message: object, *, at: int | None = None) -> list[Effect]:
        return self(Received(Address("x"), message), at=at)  # type: ignore[arg-type]

    def tick(self, at: int | None = None) -> list[Effect]:
        effects = self(Fired(TICK), at=at)
        assert effects[0] == Arm(TICK, Ns(INTERVAL))
        return effects[1:]

    def held(self, n: int, *vras: int) -> list[Effect]:
        return [
            e for k in vras
            for e in self.hears(Held("crm", CheckpointId(n), VRAS[k], {STREAMS[k]: Cut(1, (10 * n + k,))}))
        ]  # fmt: skip

    def released(self, n: int, *vras: int) -> list[Effect]:
        return [e for k in vras for e in self.hears(Released("crm", CheckpointId(n), VRAS[k]))]

    def aborted(self, n: int, vra: int = 0, reason: str = "hold budget") -> list[Effect]:
        return self.hears(Aborted("crm", CheckpointId(n), VRAS[vra], reason))

    def seal(self, n: int) -> list[Effect]:
        self.held(n, 0, 1)
        return self.released(n, 0, 1)

    def listed(
        self, n: int, taken: int, oldest: int, *, at: int, count: int = 1000, limited: bool = False
    ) -> list[Effect]:
        return self.hears(Listed("crm", CheckpointId(n), Ns(taken), Ns(oldest), count, limited), at=at)

    def syncs(self, trigger: Trigger = Trigger.COMMUNICATION, on: bool = True, waiting: bool = False) -> list[Effect]:
        sync, trigger = (Sync.BITMAP, trigger) if on else (Sync.IN_SYNC, Trigger.NONE)
        return self.hears(SyncChanged(STREAMS[0], sync, waiting, trigger))


def sent(effects: Iterable[Effect], kind: type) -> list:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def skipped(effects: Iterable[Effect]) -> list[tuple[int, str]]:
    facts = [e.fact for e in effects if isinstance(e, Publish)]
    return [(f.checkpoint, f.reason) for f in facts if isinstance(f, CheckpointSkipped)]


def states(effects: Iterable[Effect]) -> list[tuple[Regions, str]]:
    facts = [e.fact for e in effects if isinstance(e, Publish)]
    return [(f.regions, f.cause) for f in facts if isinstance(f, StateChanged)]


def holds(n: int, *, alone: bool = False) -> list[Effect]:
    vras = VRAS[:1] if alone else VRAS
    return [
        *(Send(vra, Hold("crm", CheckpointId(n), alone)) for vra in vras), Arm(DEADLINE, Ns(TINY.hold_budget))
    ]  # fmt: skip


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_hold_held_release_released_seal() -> None:
    rig = Rig()
    assert rig.tick(100) == holds(1)
    assert rig.held(1, 1) == []
    assert rig.held(1, 0) == [Send(vra, Release("crm", CheckpointId(1))) for vra in VRAS]
    assert rig.released(1, 0) == []
    effects = rig.released(1, 1)
    assert effects[0] == Publish(CheckpointSealed("crm", CheckpointId(1), Ns(100), ""))
    checkpoint = sent(effects, Sealed)[0].checkpoint
    assert (checkpoint.id, checkpoint.taken, checkpoint.tag) == (1, 100, "")
    assert checkpoint.cut == {STREAMS[0]: Cut(1, (10,)), STREAMS[1]: Cut(1, (11,))}
    assert list(checkpoint.cut) == sorted(checkpoint.cut), "in one order, whoever answered first"


def test_alone_the_answer_seals() -> None:
    rig = Rig(vras=1)
    assert rig.tick(100) == holds(1, alone=True)
    assert len(sent(rig.held(1, 0), Sealed)) == 1
    assert skipped(rig(Fired(DEADLINE))) == []


@pytest.mark.parametrize("held", [(), (0,), (0, 1)])
def test_one_abort_voids_it(held: tuple[int, ...]) -> None:
    rig = Rig()
    rig.tick()
    rig.held(1, *held)
    effects = rig.aborted(1)
    assert skipped(effects) == [(1, "hold budget")]
    assert sent(effects, Release) == [Release("crm", CheckpointId(1))] * 2
    assert rig.held(1, 0, 1) == rig.released(1, 0, 1) == rig.aborted(1) == []


def test_an_answer_missing_at_the_deadline_voids_it() -> None:
    rig = Rig()
    rig.tick()
    rig.held(1, 0, 1)
    rig.released(1, 0)
    effects = rig(Fired(DEADLINE))
    assert skipped(effects) == [(1, "hold budget")]
    assert rig.released(1, 1) == [], "too late: nobody knows whether the hold was whole"
    assert rig.tick()[:3] == holds(2)


def test_an_answer_to_an_old_attempt_does_not_count() -> None:
    rig = Rig()
    rig.tick()
    rig.held(1, 0)
    rig(Fired(DEADLINE))
    rig.tick()
    assert rig.held(1, 1) == []
    assert rig.held(2, 0) == []
    assert rig.aborted(1) == []
    assert len(sent(rig.held(2, 1), Release)) == 2


def test_the_deadline_of_a_sealed_one_is_nothing() -> None:
    rig = Rig()
    rig.tick()
    rig.seal(1)
    assert rig(Fired(DEADLINE)) == []


def test_a_tick_during_an_attempt_starts_no_other() -> None:
    rig = Rig()
    rig.tick()
    assert rig.tick() == []


def test_none_while_a_stream_synchronizes_or_the_peer_is_gone() -> None:
    rig = Rig()
    rig.syncs()
    assert skipped(rig.tick()) == [(1, "synchronizing")]
    rig.syncs(on=False)
    rig(Lost(CATALOG))
    assert skipped(rig.tick()) == [(2, "peer unreachable")]
    rig(Connected(CATALOG))
    assert rig.tick() == holds(3)


# -- tags ---------------------------------------------------------------------------------------------------------


def test_a_tag_is_a_checkpoint_at_once() -> None:
    rig = Rig()
    assert rig(TagAsked("before upgrade"), at=7) == holds(1)
    effects = rig.seal(1)
    assert sent(effects, Sealed)[0].checkpoint.tag == "before upgrade"
    assert Publish(CheckpointSealed("crm", CheckpointId(1), Ns(7), "before upgrade")) in effects


def test_a_tag_asked_during_an_attempt_comes_next() -> None:
    rig = Rig()
    rig.tick()
    assert rig(TagAsked("a")) == []
    assert rig(TagAsked("b")) == []
    assert rig.seal(1)[-3:] == holds(2)
    assert rig.seal(2)[-3:] == holds(3)
    assert sent(rig.seal(3), Sealed)[0].checkpoint.tag == "b"


def test_a_voided_tag_waits_for_the_next_tick() -> None:
    """Tried again at once, it would hold the guests for as long as its cause lasts."""
    rig = Rig()
    rig(TagAsked("a"))
    rig(TagAsked("b"))
    rig.held(1, 0)
    assert not sent(rig.aborted(1), Hold)
    assert not sent(rig.held(1, 1), Hold), "nor when an old answer comes"
    assert not sent(rig.released(1, 0), Hold)
    assert rig.tick()[:3] == holds(2)
    assert sent(rig.seal(2), Sealed)[0].checkpoint.tag == "a"


# -- restart ------------------------------------------------------------------------------------------------------


def test_a_restart_gives_up_the_attempt_and_keeps_what_it_knew() -> None:
    rig = Rig()
    rig.listed(1, 50, 50, at=60)
    rig.tick(100)
    rig(Stopped())
    effects = rig(Started(), at=900)
    assert effects[0] == Arm(TICK, Ns(INTERVAL))
    assert skipped(effects) == [(1, "manager restart")]
    assert rig.tick()[:3] == holds(2)
    assert not rig.vpg.regions.rpo_ok, "the newest checkpoint is as old as it was"


# -- after a crash ------------------------------------------------------------------------------------------------


def test_a_rebuilt_manager_claims_nothing_until_the_catalogue_tells() -> None:
    rig = Rig(first=1001)
    unknown = Regions(rpo_ok=False, history_ok=False)
    assert states(rig.began) == [(unknown, "manager restart")]
    assert rig.vpg.newest is None
    rig(Connected(CATALOG), at=10)
    assert rig.vpg.regions == unknown
    assert states(rig.listed(7, 20_000, 9_000, at=20_100)) == [(Regions(), "")]
    assert rig.vpg.newest == 20_000
    rig.listed(7, 20_000, 9_000, at=20_001 + ALERT)
    assert not rig.vpg.regions.rpo_ok, "it is as old as it is"


def test_a_rebuilt_manager_does_not_know_how_long_history_can_be() -> None:
    rig = Rig(first=1001)
    rig.listed(7, 900, 100, at=1_000)
    assert rig.vpg.regions == Regions(history_ok=False), "protection may be older than the manager"


def test_a_rebuilt_manager_hears_that_there_is_no_recovery_point() -> None:
    rig = Rig(first=1001)
    rig.hears(Withdrawn("crm"), at=10)
    assert rig.vpg.regions == Regions(peer=Peer.DISCONNECTED_NO_POINTS, rpo_ok=False, history_ok=False)
    assert rig.vpg.newest is None


def test_a_rebuilt_manager_numbers_beyond_its_earlier_lives() -> None:
    rig = Rig(first=1001)
    assert rig.held(7, 0, 1) == rig.released(7, 0, 1) == rig.aborted(7) == []
    assert rig.tick()[:3] == holds(1001)
    assert sent(rig.seal(1001), Sealed)[0].checkpoint.id == 1001


def test_a_rebuilt_manager_hears_what_synchronizes() -> None:
    rig = Rig(first=1001)
    rig.syncs()
    assert skipped(rig.tick()) == [(1001, "synchronizing")]
    assert rig.vpg.regions.sync is Sync.BITMAP


def test_the_newest_is_what_the_catalogue_says() -> None:
    rig = Rig()
    assert rig.vpg.newest is None
    rig.listed(1, 50, 40, at=60)
    assert rig.vpg.newest == 50
    rig.hears(Withdrawn("crm"))
    assert rig.vpg.newest is None


# -- regions and causes -------------------------------------------------------------------------------------------


def test_the_start_is_published() -> None:
    vpg = Vpg(HERE, "crm", VRAS, CATALOG, interval=Ns(1), rpo_alert=Ns(1), history=Ns(1), tweaks=TINY)
    assert vpg.handle(Ns(0), Started()) == [Arm(TICK, Ns(1)), Publish(StateChanged("crm", Regions(), ""))]


@pytest.mark.parametrize("trigger", [t for t in Trigger if t is not Trigger.NONE])
def test_a_sync_and_its_trigger(trigger: Trigger) -> None:
    rig = Rig()
    assert states(rig.syncs(trigger)) == [(Regions(sync=Sync.BITMAP), trigger.value)]
    assert rig.syncs(trigger) == [], "published when it changes"
    assert states(rig.syncs(on=False)) == [(Regions(), trigger.value)], "the consequence is not over"
    assert states(rig.listed(1, 10, 10, at=20)) == [(Regions(), "")]


def test_a_sync_held_up_by_the_peer_is_a_pause() -> None:
    rig = Rig()
    effects = rig.syncs(Trigger.RECOVERY_CONGESTION, waiting=True)
    assert states(effects) == [(Regions(sync=Sync.PAUSED_SYSTEM), "recovery storage congestion")]
    rig(Lost(CATALOG))
    assert rig.vpg.regions.sync is Sync.BITMAP, "no word of the peer's room while it cannot be reached"


def test_a_lost_peer() -> None:
    rig = Rig()
    effects = rig(Lost(CATALOG))
    assert states(effects) == [(Regions(peer=Peer.DISCONNECTED), Trigger.COMMUNICATION.value)]
    assert states(rig(Connected(CATALOG)))[0][0] == Regions()


def test_a_vra_is_not_the_peer() -> None:
    """A VRA of our own site comes and goes: the other site is as far or near as it was."""
    rig = Rig()
    assert rig(Lost(VRAS[0])) == []
    assert rig.vpg.regions.peer is Peer.CONNECTED
    rig(Lost(CATALOG))
    assert rig(Connected(VRAS[0])) == [Send(VRAS[0], Pause("crm", False))]
    assert rig.vpg.regions.peer is Peer.DISCONNECTED


def test_a_store_that_takes_nothing_is_the_worst_cause() -> None:
    rig = Rig()
    rig.syncs(Trigger.COMMUNICATION)
    effects = rig.hears(StoreState("crm", STREAMS[0], False, "no room"))
    full = Regions(sync=Sync.BITMAP, health=Health.JOURNAL_STORAGE)
    assert states(effects) == [(full, "recovery or journal storage error")]
    effects = rig.hears(StoreState("crm", STREAMS[0], True, ""))
    assert states(effects) == [(Regions(sync=Sync.BITMAP), "recovery VRA communication problem")]


def test_rpo_counts_from_the_newest_listed_checkpoint() -> None:
    rig = Rig()
    rig.listed(1, 100, 100, at=120)
    rig.tick(100 + ALERT)
    assert rig.vpg.regions.rpo_ok
    rig.seal(1)
    assert states(rig.tick(101 + ALERT)) == [(Regions(rpo_ok=False), "network congestion")]
    assert states(rig.listed(2, 590, 100, at=700)) == [(Regions(), "")]


def test_a_checkpoint_voided_by_a_sync_does_not_hide_its_trigger() -> None:
    rig = Rig()
    rig.tick()
    rig.syncs(Trigger.PROTECTED_VRA)
    rig.aborted(1, reason="synchronizing")
    rig.syncs(on=False)
    assert rig.vpg.cause == "protected VRA congestion"


def test_rpo_missed_because_checkpoints_are_voided() -> None:
    rig = Rig()
    for n in range(1, 8):
        rig.tick(n * INTERVAL)
        rig.aborted(n)
    assert rig.vpg.regions == Regions(rpo_ok=False)
    assert rig.vpg.cause == "checkpoints voided"


def test_history_is_what_the_list_spans_or_what_there_can_be() -> None:
    rig = Rig()
    rig.listed(1, 4_000, 0, at=4_000)
    assert rig.vpg.regions.history_ok, "a new VPG fills its history"
    rig.listed(2, 20_000, 9_800, at=20_000)
    assert rig.vpg.regions.history_ok
    short = rig.listed(3, 20_010, 10_500, at=20_010, limited=True)
    assert states(short) == [(Regions(history_ok=False), "journal limit")]
    assert states(rig.listed(4, 20_900, 10_500, at=20_900)) == [(Regions(), "")]


def test_a_history_that_no_limit_cut_short_is_not_full_yet() -> None:
    """After every checkpoint was withdrawn, say, or when more history is asked for than before."""
    rig = Rig()
    rig.listed(1, 20_000, 9_800, at=20_000)
    assert states(rig.listed(2, 20_010, 19_000, at=20_010)) == [(Regions(history_ok=False), "history not full yet")]


def test_how_much_history_there_should_be_can_change() -> None:
    rig = Rig()
    rig.listed(1, 40_000, 29_900, at=40_000)
    effects = rig(Reconfigured(2, (), {}, retention=Retention(Ns(2 * HISTORY), Ns(7))))
    assert [m.retention for m in sent(effects, Members)] == [Retention(Ns(2 * HISTORY), Ns(7))]
    assert not rig.vpg.regions.history_ok
    rig(Reconfigured(3, (), {}, retention=Retention(Ns(HISTORY))))
    assert rig.vpg.regions.history_ok


def test_a_missing_volume_is_shown_and_said_to_be_the_cause() -> None:
    rig = Rig()
    lost = SyncChanged(STREAMS[0], Sync.BITMAP, False, Trigger.MISSING_VOLUME, missing=True)
    assert states(rig.hears(lost)) == [(Regions(sync=Sync.PAUSED_MISSING), "protected volume missing")]
    assert project(rig.vpg.regions) == (Status.MEETING_SLA, "ReplicationPausedForMissingVolume")
    graver = SyncChanged(STREAMS[1], Sync.DELTA, False, Trigger.PROTECTED_VRA)
    assert rig.hears(graver) == [], "another stream's sync does not hide it"
    rig(PauseAsked(True))
    assert rig.vpg.regions.sync is Sync.PAUSED_USER


def test_messages_for_others_are_refused() -> None:
    with pytest.raises(PeerError):
        Rig().hears(Ack(STREAMS[0], 1, 1, (1,)))


# -- pause, force sync and creation -------------------------------------------------------------------------------


FEW, REST_TIME = TINY.pause_checkpoints, 7_000
PAUSES = {"replication_pause": REST_TIME}


def pauses(effects: Iterable[Effect]) -> list[tuple[str, bool]]:
    return [(e.to, e.message.paused) for e in effects if isinstance(e, Send) and isinstance(e.message, Pause)]


def forces(effects: Iterable[Effect]) -> list[str]:
    return [e.to for e in effects if isinstance(e, Send) and isinstance(e.message, ForceSync)]


def test_an_operators_pause_is_told_to_all_and_told_again_until_it_ends() -> None:
    rig = Rig()
    effects = rig(PauseAsked(True))
    assert pauses(effects) == [(vra, True) for vra in VRAS]
    assert states(effects) == [(Regions(sync=Sync.PAUSED_USER), "paused by the user")]
    assert skipped(rig.tick(100)) == [(1, "paused")]
    assert pauses(rig(Connected(VRAS[1]))) == [(VRAS[1], True)]
    rig(Stopped())
    assert rig(Started())
    assert pauses(rig(Connected(VRAS[0]))) == [(VRAS[0], True)], "a restart changes nothing"
    effects = rig(PauseAsked(False))
    assert pauses(effects) == [(vra, False) for vra in VRAS]
    assert rig.vpg.regions.sync is Sync.IN_SYNC
    assert rig.tick(200) == holds(2)
    assert pauses(rig(Connected(VRAS[1]))) == [(VRAS[1], False)], "it may not have heard"


def test_a_manager_that_is_built_again_knows_of_the_pause() -> None:
    rig = Rig(first=1000, paused=True)
    assert pauses(rig(Connected(VRAS[0]))) == [(VRAS[0], True)]
    assert skipped(rig.tick(100)) == [(1000, "paused")]


def test_a_pause_hides_the_sync_that_it_causes_and_what_is_worse_stays() -> None:
    rig = Rig()
    rig(PauseAsked(True))
    rig.syncs(Trigger.PAUSE)
    assert rig.vpg.regions == Regions(sync=Sync.PAUSED_USER)
    rig.hears(StoreState("crm", STREAMS[0], False, "no room"))
    assert rig.vpg.regions == Regions(sync=Sync.PAUSED_USER, health=Health.JOURNAL_STORAGE)
    assert rig.vpg.cause == "recovery or journal storage error"


@pytest.mark.parametrize("count", [FEW + 1, FEW])
def test_a_sync_is_paused_when_few_checkpoints_are_left(count: int) -> None:
    rig = Rig(**PAUSES)
    rig.syncs()
    effects = rig.listed(1, 10, 10, at=20, count=count)
    few = count <= FEW
    assert pauses(effects) == ([(vra, True) for vra in VRAS] if few else [])
    assert (Arm(REST, Ns(REST_TIME)) in effects) is few
    assert (rig.vpg.regions.sync is Sync.PAUSED_SYSTEM) is few


def test_the_system_pauses_once_in_each_sync_and_for_its_time() -> None:
    rig = Rig(**PAUSES)
    rig.listed(1, 10, 10, at=20, count=FEW)
    assert pauses(rig.syncs()) == [(vra, True) for vra in VRAS], "few were left before it began"
    assert rig.vpg.cause == "paused to keep the history"
    assert pauses(rig(Connected(VRAS[0]))) == [(VRAS[0], True)]
    assert pauses(rig.listed(1, 10, 10, at=30, count=FEW - 1)) == []
    effects = rig(Fired(REST), at=20 + REST_TIME)
    assert pauses(effects) == [(vra, False) for vra in VRAS]
    assert rig.vpg.regions.sync is Sync.BITMAP
    assert pauses(rig.listed(1, 10, 10, at=40 + REST_TIME, count=1)) == [], "once"
    assert pauses(rig.syncs(Trigger.NETWORK_CONGESTION)) == []
    rig.syncs(on=False)
    assert pauses(rig.syncs()) == [(vra, True) for vra in VRAS], "the next sync has its own"


def test_without_a_time_for_it_the_system_never_pauses() -> None:
    rig = Rig(replication_pause=0)
    rig.syncs()
    assert pauses(rig.listed(1, 10, 10, at=20, count=1)) == []


def test_in_sync_few_checkpoints_are_no_reason() -> None:
    rig = Rig(**PAUSES)
    assert pauses(rig.listed(1, 10, 10, at=20, count=1)) == []
    assert rig.tick(100) == holds(1)


def test_after_the_systems_pause_an_operators_lasts() -> None:
    rig = Rig(**PAUSES)
    rig.syncs()
    rig.listed(1, 10, 10, at=20, count=FEW)
    rig(PauseAsked(True))
    assert pauses(rig(Fired(REST))) == [(vra, True) for vra in VRAS]
    assert rig.vpg.regions.sync is Sync.PAUSED_USER


def test_a_restart_during_the_systems_pause_ends_it_all_the_same() -> None:
    rig = Rig(**PAUSES)
    rig.syncs()
    rig.listed(1, 10, 10, at=20, count=FEW)
    rig(Stopped())
    assert Arm(REST, Ns(REST_TIME)) in rig(Started())


def test_a_force_sync_is_told_again_until_a_vra_answers_that_it_compares_everything() -> None:
    rig = Rig()
    assert forces(rig(SyncAsked())) == VRAS
    assert forces(rig(Connected(VRAS[0]))) == [VRAS[0]]
    rig.hears(SyncChanged(STREAMS[0], Sync.FORCED_DELTA, False, Trigger.FORCE_SYNC))
    assert forces(rig(Connected(VRAS[0]))) == [VRAS[0]], "it may be the sync of an earlier one"
    rig.hears(Forced("crm", VRAS[0]))
    assert forces(rig(Connected(VRAS[0]))) == []
    assert forces(rig(Connected(VRAS[1]))) == [VRAS[1]], "the other has not said so"
    rig.hears(Forced("crm", VRAS[1]))
    assert forces(rig(Connected(VRAS[1]))) == []


def test_a_second_wish_for_a_sync_does_not_lose_the_first() -> None:
    rig = Rig()
    rig(SyncAsked(full=True, volumes=(VolumeId(3),)))
    rig.hears(Forced("crm", VRAS[1]))
    effects = rig(SyncAsked(volumes=(VolumeId(4),)))
    some = ForceSync("crm", False, (VolumeId(4),))
    assert effects == [Send(VRAS[0], ForceSync("crm", True, (VolumeId(3), VolumeId(4)))), Send(VRAS[1], some)]
    assert Send(VRAS[1], some) in rig(Connected(VRAS[1]))


@pytest.mark.parametrize("sync", [Sync.INITIAL, Sync.FULL])
def test_a_new_vpg_is_being_created_until_it_is_in_sync_and_has_a_checkpoint(sync: Sync) -> None:
    rig = Rig(creating=True)
    assert rig.vpg.regions.lifecycle is Lifecycle.CREATING
    effects = rig.hears(SyncChanged(STREAMS[0], sync, False, Trigger.CONFIGURATION))
    assert states(effects) == [(Regions(lifecycle=Lifecycle.CREATING, sync=sync), "VPG configuration changed")]
    assert project(rig.vpg.regions) == (Status.INITIALIZING, sync.value)
    assert skipped(rig.tick(100)) == [(1, "synchronizing")]
    rig.syncs(on=False)
    assert rig.vpg.regions.lifecycle is Lifecycle.CREATING, "there is no checkpoint yet"
    assert rig.tick(200) == holds(2)
    rig.seal(2)
    assert rig.vpg.regions.lifecycle is Lifecycle.CREATING, "sealed, not listed"
    rig.listed(2, 200, 200, at=210)
    assert rig.vpg.regions == Regions()


def test_the_history_of_a_new_vpg_is_counted_from_when_it_is_protected() -> None:
    """Not from when its long initial sync began: no history could have been then."""
    rig = Rig(creating=True)
    rig.listed(1, 100_000, 100_000, at=100_010)
    assert rig.vpg.regions.history_ok


def test_a_vpg_that_was_created_stays_so_when_it_synchronizes_again() -> None:
    rig = Rig(creating=True)
    rig.listed(1, 10, 10, at=20)
    assert rig.vpg.regions.lifecycle is Lifecycle.PROTECTING
    rig.syncs()
    assert rig.vpg.regions.lifecycle is Lifecycle.PROTECTING
    rig.hears(Withdrawn("crm"))
    assert rig.vpg.regions.lifecycle is Lifecycle.PROTECTING


# -- epochs -----------------------------------------------------------------------------------------------------------


def sealed_at(effects: Iterable[Effect]) -> list[int]:
    return [checkpoint.checkpoint.taken for checkpoint in sent(effects, Sealed)]


def test_one_checkpoint_for_each_epoch_as_of_when_it_was_taken() -> None:
    rig = Rig(vras=1, epochs=True)
    assert sent(rig.tick(100), Hold) == []  # nothing has been captured yet
    assert sent(rig(EpochCaptured(Ns(150)), at=190), Hold) == [Hold("crm", CheckpointId(1), True)]
    assert sealed_at(rig.held(1, 0)) == [150]
    assert sent(rig.tick(200), Hold) == []  # there is one of this epoch


def test_a_checkpoint_of_an_epoch_is_tried_until_it_is_there() -> None:
    rig = Rig(vras=1, epochs=True)
    rig.syncs()
    assert sent(rig(EpochCaptured(Ns(150)), at=190), Hold) == []
    assert sent(rig.tick(200), Hold) == []
    rig.syncs(on=False)
    assert sent(rig.tick(300), Hold) == [Hold("crm", CheckpointId(3), True)]
    rig.aborted(3)
    assert sent(rig.tick(400), Hold) == [Hold("crm", CheckpointId(4), True)]
    assert sealed_at(rig.held(4, 0)) == [150]
    assert sent(rig.tick(500), Hold) == []


def test_an_epoch_that_comes_while_the_one_before_is_being_sealed_gets_its_own() -> None:
    rig = Rig(vras=1, epochs=True)
    rig(EpochCaptured(Ns(150)), at=190)
    rig(EpochCaptured(Ns(180)), at=195)
    assert sealed_at(rig.held(1, 0)) == [150]
    assert sent(rig.tick(200), Hold) == [Hold("crm", CheckpointId(2), True)]
    assert sealed_at(rig.held(2, 0)) == [180]


def test_a_tag_is_of_the_last_epoch_and_waits_for_the_first() -> None:
    rig = Rig(vras=1, epochs=True)
    assert rig(TagAsked("now"), at=50) == []
    assert sent(rig.tick(100), Hold) == []
    assert sent(rig(EpochCaptured(Ns(150)), at=190), Hold) == [Hold("crm", CheckpointId(1), True)]
    sealed = sent(rig.held(1, 0), Sealed)
    assert [(c.checkpoint.taken, c.checkpoint.tag) for c in sealed] == [(150, "now")]
    assert sent(rig.tick(200), Hold) == []
    assert sent(rig(TagAsked("again"), at=250), Hold) == [Hold("crm", CheckpointId(2), True)]
    assert sealed_at(rig.held(2, 0)) == [150]


def test_after_a_move_an_epoch_is_due_at_once_of_a_vpg_that_has_any() -> None:
    rig = Rig(vras=1, epochs=True)
    assert rig(VmMoved(VmId(7), "esx-2"), at=50) == [Publish(EpochDue("crm", VmId(7), "esx-2"))]
    assert sent(rig(EpochCaptured(Ns(60)), at=70), Hold) == [Hold("crm", CheckpointId(1), True)]
    rig(DeleteAsked(keep_disks=False))
    assert rig(VmMoved(VmId(7), "esx-1")) == []
    assert Rig(vras=1)(VmMoved(VmId(7), "esx-2")) == []
