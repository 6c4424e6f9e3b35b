"""The flat status is a projection of the regions that never leaves the field's table (products.md 1.2)."""

import itertools

import pytest

from drsim.core.status import ALLOWED, Health, Lifecycle, Peer, Phase, Regions, Status, Sync, project

OPERATING = (Lifecycle.FAILING_OVER, Lifecycle.MOVING)


def every() -> list[Regions]:
    return [
        Regions(*choice)
        for choice in itertools.product(Lifecycle, Phase, Sync, Peer, Health, (True, False), (True, False))
        if (choice[1] is not Phase.NONE) == (choice[0] in OPERATING)
    ]


def test_every_combination_is_in_the_table() -> None:
    found = {regions: project(regions) for regions in every()}
    assert len(found) == (4 + 2 * 4) * len(Sync) * len(Peer) * len(Health) * 4
    wrong = {r: pair for r, pair in found.items() if pair[1] not in ALLOWED[pair[0]]}
    assert not wrong
    assert {status for status, _ in found.values()} == set(Status), "every status can be seen"


def test_a_phase_without_an_operation_cannot_be() -> None:
    for lifecycle, phase in ((Lifecycle.PROTECTING, Phase.COMMITTING), (Lifecycle.MOVING, Phase.NONE)):
        with pytest.raises(AssertionError):
            Regions(lifecycle, phase)


@pytest.mark.parametrize(
    ("regions", "status", "sub"),
    [
        (Regions(), "MeetingSLA", "None"),
        (Regions(sync=Sync.BITMAP), "MeetingSLA", "BitmapSync"),
        (Regions(sync=Sync.FORCED_DELTA), "MeetingSLA", "DeltaSync"),
        (Regions(sync=Sync.DELTA), "NotMeetingSLA", "DeltaSync"),
        (Regions(sync=Sync.VOLUME_INITIAL), "MeetingSLA", "VolumeInitialSync"),
        (Regions(sync=Sync.VOLUME_DELTA), "NotMeetingSLA", "VolumeDeltaSync"),
        (Regions(sync=Sync.PAUSED_USER), "MeetingSLA", "ReplicationPausedUserInitiated"),
        (Regions(sync=Sync.PAUSED_SYSTEM, rpo_ok=False), "RpoNotMeetingSLA", "ReplicationPausedSystemInitiated"),
        (Regions(rpo_ok=False), "RpoNotMeetingSLA", "None"),
        (Regions(history_ok=False), "HistoryNotMeetingSLA", "None"),
        (Regions(rpo_ok=False, history_ok=False), "NotMeetingSLA", "None"),
        (Regions(peer=Peer.DISCONNECTED), "NotMeetingSLA", "DisconnectedFromPeer"),
        (Regions(peer=Peer.RECOVERY_POSSIBLE), "MeetingSLA", "RecoveryPossible"),
        (Regions(peer=Peer.DISCONNECTED, sync=Sync.BITMAP, rpo_ok=False), "RpoNotMeetingSLA", "DisconnectedFromPeer"),
        (Regions(health=Health.JOURNAL_STORAGE, peer=Peer.DISCONNECTED), "NotMeetingSLA", "JournalStorageError"),
        (Regions(health=Health.EMPTY), "NotMeetingSLA", "EmptyProtectionGroup"),
        (Regions(Lifecycle.CREATING), "Initializing", "Creating"),
        (Regions(Lifecycle.CREATING, sync=Sync.INITIAL, rpo_ok=False), "Initializing", "InitialSync"),
        (Regions(Lifecycle.FAILING_OVER, Phase.BEFORE_COMMIT, health=Health.ERROR), "FailingOver", "BeforeCommit"),
        (Regions(Lifecycle.MOVING, Phase.ROLLING_BACK, peer=Peer.DISCONNECTED), "Moving", "RollingBack"),
        (Regions(Lifecycle.RECOVERED, health=Health.ERROR), "Recovered", "None"),
        (Regions(Lifecycle.DELETING, sync=Sync.BITMAP), "Deleting", "Deleting"),
    ],
)
def test_known_pairs(regions: Regions, status: str, sub: str) -> None:
    assert project(regions) == (status, sub)
