"""Edits (T10): volumes that come, grow or go missing, journals that change, other recovery hosts, syncs asked for."""

from dataclasses import replace

import pytest
from sender_rig import HERE, MANAGER, ONE, THERE, TWO, Rig, S, facts, messages

from drsim.core.effects import Effect, Send, TapVolumes
from drsim.core.events import Connected, Lost, Started, VolumeFound, VolumeLost
from drsim.core.facts import SyncStarted
from drsim.core.journal import Journal
from drsim.core.membership import Membership
from drsim.core.messages import (
    Configure,
    Forced,
    ForceSync,
    Frame,
    Pause,
    Resync,
    Resynced,
    Retention,
    Standing,
    Start,
    SyncChanged,
    Trigger,
)
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.receiver import Receiver
from drsim.core.sender import SendState
from drsim.core.status import Sync
from drsim.core.units import SECTOR, Lsn, Ns


def volume(number: int, sectors: int, vm: int = 1) -> VolumeInfo:
    return VolumeInfo(VolumeId(number), VmId(vm), sectors)


def configured(rig: Rig, *volumes: VolumeInfo, version: int = 2, limit: int | None = None) -> list[Effect]:
    """The first stream has these volumes from now on."""
    spec = replace(rig.one.spec, volumes=volumes, limit=limit)
    return rig.hears(Configure("crm", version, (spec,), {}), MANAGER)


def begun(rig: Rig) -> Rig:
    """The other side has entered the stream's epoch."""
    rig.hears(Resynced(ONE, 1, rig.one.epoch))
    return rig


def sent(effects: list[Effect]) -> dict[int, set[int]]:
    """Sectors of each volume that came in sync frames."""
    found: dict[int, set[int]] = {}
    for frame in messages(effects, Frame):
        rows = (frame.batch.volume.tolist(), frame.batch.lba.tolist(), frame.batch.sectors.tolist())
        for of, lba, n in zip(*rows, strict=True) if frame.sync else ():
            found.setdefault(of, set()).update(range(lba, lba + n))
    return found


# -- volumes ------------------------------------------------------------------------------------------------------


def test_a_new_volume_is_sent_whole_and_only_it() -> None:
    rig = Rig()
    effects = configured(rig, volume(1, 64), volume(9, 12))
    assert [e.spec.volumes for e in effects if isinstance(e, TapVolumes)] == [(volume(1, 64), volume(9, 12))]
    assert [(f.sync, f.trigger, f.dirty_bytes) for f in facts(effects, SyncStarted)] == [
        (Sync.VOLUME_INITIAL, Trigger.CONFIGURATION, 12 * SECTOR)
    ]
    assert [m.spec.volumes for m in messages(effects, Resync)] == [(volume(1, 64), volume(9, 12))]
    assert sent(begun(rig).ends()) == {9: set(range(12))}


@pytest.mark.parametrize(("old", "new", "dirty"), [(64, 80, range(64, 80)), (62, 80, range(60, 80))])
def test_of_a_volume_that_grew_its_new_regions_are_sent(old: int, new: int, dirty: range) -> None:
    """A region that was cut off by the old end is a new one as well."""
    rig = Rig()
    configured(rig, volume(1, old))
    begun(rig).ends()
    effects = configured(rig, volume(1, new), version=3)
    assert [f.sync for f in facts(effects, SyncStarted)] == [Sync.BITMAP]
    assert sent(begun(rig).ends()) == {1: set(dirty)}


def test_the_same_configuration_again_changes_nothing() -> None:
    rig = Rig()
    effects = configured(rig, volume(1, 64))
    assert effects == []
    assert rig.one.state is S.IN_SYNC


def test_a_journal_of_another_size_begins_an_epoch_that_says_so() -> None:
    rig = Rig()
    effects = configured(rig, volume(1, 64), limit=999)
    assert [m.spec.limit for m in messages(effects, Resync)] == [999]
    assert sent(begun(rig).ends()) == {}


@pytest.mark.parametrize("state", [S.WAITING, S.ASKING])
def test_an_edit_while_the_peer_is_away_waits_for_it(state: SendState) -> None:
    rig = Rig().into(state)
    assert messages(configured(rig, volume(1, 64), volume(9, 12)), Resync) == []
    if state is S.ASKING:
        rig.hears(Standing(ONE, 1, 1, (0,)))
    else:
        rig(Connected(THERE))
    found = sent(begun(rig).ends())
    assert found[9] == set(range(12))


# -- a volume that is missing ---------------------------------------------------------------------------------------


def test_nothing_is_sent_while_a_volume_is_missing() -> None:
    rig = Rig()
    rig.write((0, 4))
    effects = rig(VolumeLost(VolumeId(1)))
    assert messages(effects, SyncChanged)[-1] == SyncChanged(
        ONE, Sync.BITMAP, False, Trigger.MISSING_VOLUME, missing=True
    )
    rig.write((20, 4))
    rig(Lost(THERE))
    assert messages(rig(Connected(THERE)), Resync) == []
    assert rig.dirty() == {0, 1, 2, 3, 20, 21, 22, 23}


def test_when_it_is_back_the_volume_is_compared() -> None:
    rig = Rig()
    configured(rig, volume(1, 64), volume(9, 12))
    begun(rig).ends()
    rig.asked.clear()
    rig(VolumeLost(VolumeId(9)))
    effects = rig(VolumeFound(VolumeId(9)))
    assert [f.sync for f in facts(effects, SyncStarted)] == [Sync.VOLUME_DELTA]
    assert [m.missing for m in messages(effects, SyncChanged)] == [False]
    begun(rig).ends(differs=0)
    assert {(e.volume, lba) for e in rig.asked for lba in range(e.lba, e.lba + e.sectors)} == {
        (9, n) for n in range(12)
    }


def test_a_stream_goes_on_when_the_missing_volume_leaves_it() -> None:
    rig = Rig()
    configured(rig, volume(1, 64), volume(9, 12))
    begun(rig).ends()
    rig(VolumeLost(VolumeId(9)))
    assert messages(configured(rig, volume(1, 64), version=3), Resync)
    assert sent(begun(rig).ends()) == {}


def test_all_missing_volumes_must_be_back_and_no_pause_must_last() -> None:
    rig = Rig()
    configured(rig, volume(1, 64), volume(9, 12))
    begun(rig).ends()
    rig(VolumeLost(VolumeId(9)))
    rig(VolumeLost(VolumeId(1)))
    assert messages(rig(VolumeFound(VolumeId(9))), Resync) == []
    rig.hears(Pause("crm", True), MANAGER)
    assert messages(rig(VolumeFound(VolumeId(1))), Resync) == []
    assert messages(rig.hears(Pause("crm", False), MANAGER), Resync)


def test_a_volume_that_was_not_missing_is_not_compared_because_it_was_found() -> None:
    assert Rig()(VolumeFound(VolumeId(1))) == []


def test_other_streams_go_on() -> None:
    rig = Rig(streams=2)
    rig(VolumeLost(VolumeId(1)))
    assert not rig.vra.senders[TWO].syncing


# -- syncs that were asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "volumes", "kind", "there"),
    [
        (False, (), Sync.FORCED_DELTA, {1: range(64), 9: range(12)}),
        (False, (9,), Sync.VOLUME_DELTA, {9: range(12)}),
        (True, (), Sync.FULL, {1: range(64), 9: range(12)}),
        (True, (9,), Sync.VOLUME_FULL, {9: range(12)}),
    ],
)
def test_a_force_sync_is_of_all_or_some_volumes_compared_or_not(
    full: bool, volumes: tuple[int, ...], kind: Sync, there: dict[int, range]
) -> None:
    rig = Rig()
    configured(rig, volume(1, 64), volume(9, 12))
    begun(rig).ends()
    rig.asked.clear()
    effects = rig.hears(ForceSync("crm", full, tuple(map(VolumeId, volumes))), MANAGER)
    assert [f.sync for f in facts(effects, SyncStarted)] == [kind]
    assert messages(effects, Forced) == [Forced("crm", HERE)]
    found = sent(begun(rig).ends(differs=1))
    assert found == {of: set(sectors) for of, sectors in there.items()}
    assert bool(rig.asked) is not full


def test_a_force_sync_of_volumes_that_are_not_here_is_answered() -> None:
    rig = Rig()
    effects = rig.hears(ForceSync("crm", volumes=(VolumeId(77),)), MANAGER)
    assert effects == [Send(MANAGER, Forced("crm", HERE))]
    assert not rig.one.syncing


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (ForceSync("crm"), ForceSync("crm", True), ForceSync("crm", True)),
        (ForceSync("crm", volumes=(VolumeId(1),)), ForceSync("crm"), ForceSync("crm")),
        (
            ForceSync("crm", True, (VolumeId(2),)),
            ForceSync("crm", False, (VolumeId(1),)),
            ForceSync("crm", True, (VolumeId(1), VolumeId(2))),
        ),
    ],
)
def test_two_wishes_for_a_sync_become_one_that_does_both(a: ForceSync, b: ForceSync, both: ForceSync) -> None:
    assert a.and_(b) == b.and_(a) == both


# -- the recovery side -------------------------------------------------------------------------------------------------


def receiver(limit: int | None = None) -> Receiver:
    spec = StreamSpec(ONE, (VmId(1),), (volume(1, 64), volume(2, 8)), limit)
    return Receiver(spec, Address("east/catalog"), lambda: 1 << 30, region_bytes=4 * SECTOR)


def turned(one: Receiver, spec: StreamSpec) -> Receiver:
    """The receiver in the next epoch of a sender with this configuration."""
    one.resync(Resync(ONE, 1, one.epoch + 1, one.durable, spec))
    one.appended(one.pending[0])
    return one


def test_the_receiver_takes_over_the_senders_configuration_with_the_epoch() -> None:
    one = receiver(limit=100)
    new = replace(one.spec, volumes=(volume(1, 96), volume(3, 8)), left=(volume(2, 8),), limit=50)
    one.resync(Resync(ONE, 1, 2, (0,), new))
    assert one.spec.limit == 100, "the epoch is not durable yet"
    one.appended(one.pending[0])
    assert [journal.limit for _, journal in one.owned] == [50]
    assert one.spec == new


def test_a_journal_that_is_larger_than_its_new_limit_takes_an_empty_frame() -> None:
    one = receiver()
    one.journals[VmId(1)].append(Lsn(5), 5 * SECTOR)
    one.journals[VmId(1)].persisted(Lsn(5), 5 * SECTOR)
    one.accepted = one.durable = (5,)
    turned(one, replace(one.spec, limit=SECTOR))
    assert not one.journals[VmId(1)].has_room(1)
    turned(one, replace(one.spec, limit=SECTOR))
    assert one.epoch == 3


def test_a_full_journal_has_room_for_nothing() -> None:
    journal = Journal(VmId(1), limit=4)
    journal.append(Lsn(1), 4)
    assert journal.has_room(0)
    assert not journal.has_room(1)


# -- membership --------------------------------------------------------------------------------------------------------

WEST, EAST, OTHER = Address("west/h/vra"), Address("east/r/vra"), Address("east/s/vra")
HOME = StreamId("crm", WEST, EAST)
FIRST = Membership((StreamSpec(HOME, (VmId(1), VmId(2)), (volume(1, 64), volume(2, 32, vm=2)), 100),))


def test_a_vm_with_other_volumes_keeps_its_stream() -> None:
    now = FIRST.reshaped(VmId(1), (volume(1, 96), volume(7, 8)))
    (spec,) = now.streams
    assert (spec.id, spec.volumes) == (HOME, (volume(1, 96), volume(2, 32, vm=2), volume(7, 8)))
    assert (spec.left, now.version, now.starts) == ((), 2, {})
    without = now.reshaped(VmId(1), (volume(7, 8),))
    assert without.streams[0].volumes == (volume(2, 32, vm=2), volume(7, 8))
    assert without.streams[0].left == (volume(1, 96),)


def test_another_recovery_vra_makes_a_new_stream_with_journals_of_its_own() -> None:
    now = FIRST.retargeted(VmId(1), (volume(1, 64),), OTHER, 100)
    assert now is not None
    old, new = now.streams
    assert (old.id, old.volumes, old.left) == (HOME, (volume(2, 32, vm=2),), (volume(1, 64),))
    assert new == StreamSpec(StreamId("crm", WEST, OTHER, 2), (VmId(1),), (volume(1, 64),), 100, origin=2)
    assert now.starts == {new.id: Start.RETARGETED}
    assert now.retargeted(VmId(1), (volume(1, 64),), OTHER, 100) is None


def test_an_unprotected_vm_cannot_be_given_another_recovery_vra() -> None:
    away = FIRST.relocated({VmId(1): None, VmId(2): WEST}, {VmId(1): (volume(1, 64),)}, 100)
    assert away is not None
    assert away.retargeted(VmId(1), (volume(1, 64),), OTHER, 100) is None


def test_the_journals_of_a_vm_that_moves_on_have_one_origin() -> None:
    """So those of a time before it left and came back are not taken for its own."""
    added = FIRST.removed(VmId(1)).added("crm", (volume(1, 64),), WEST, EAST, 100, Start.INITIAL)
    moved = added.relocated({VmId(1): Address("west/i/vra"), VmId(2): WEST}, {VmId(1): (volume(1, 64),)}, 100)
    assert moved is not None
    assert [(s.id.part, s.origin) for s in moved.streams] == [(1, 1), (4, 3)]


def test_journals_that_keep_something_else() -> None:
    now = FIRST.keeping(Retention(Ns(7), Ns(3)), 55)
    assert [s.limit for s in now.streams] == [55]
    assert now.configured is not None
    assert now.configured.retention == Retention(Ns(7), Ns(3))
    again = now.removed(VmId(1))
    assert again.configured is not None
    assert again.configured.retention == Retention(Ns(7), Ns(3)), "later changes do not forget it"


def test_a_retargeted_stream_sends_everything_and_no_checkpoint_goes_on_without_it() -> None:
    rig = Rig(start=Start.RETARGETED)
    effects = rig(Started())
    assert [f.sync for f in facts(effects, SyncStarted)] == [Sync.VOLUME_INITIAL]
    assert not rig.one.joining
    rig.hears(Standing(ONE, 1, 0, (0,)))
    assert sent(begun(rig).ends()) == {1: set(range(64))}
