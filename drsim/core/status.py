"""The state of a VPG as five orthogonal regions, and the flat status that users see as a projection of them.

Theory of operation. The field's status and sub-status (products.md 1.2) mix five things that change independently:
where the VPG is in its life, whether it is in sync, whether the peer can be reached, what is broken, and whether the
service level is met. Each is a region here; `project` derives the pair that the field shows. The projection's
priority is Deleting > FailingOver, Moving > Recovered > Initializing > service level; the sub-status is the worst of
health, then peer, then sync. `ALLOWED` is the field's table; a test projects every combination of regions and looks
the result up in it.
"""

from enum import StrEnum

from drsim.core.value import value


class Lifecycle(StrEnum):
    """Region A: where the VPG is in its life."""

    CREATING = "Creating"
    PROTECTING = "Protecting"
    FAILING_OVER = "FailingOver"
    MOVING = "Moving"
    RECOVERED = "Recovered"
    DELETING = "Deleting"


class Phase(StrEnum):
    """Part of region A: how far a failover or move is."""

    NONE = "None"
    BEFORE_COMMIT = "BeforeCommit"
    COMMITTING = "Committing"
    PROMOTING = "Promoting"
    ROLLING_BACK = "RollingBack"


NO_PHASE = Phase.NONE
OPERATING = (Lifecycle.FAILING_OVER, Lifecycle.MOVING)


class Sync(StrEnum):
    """Region B: synchronization, best first."""

    IN_SYNC = "InSync"
    BITMAP = "BitmapSync"
    FORCED_DELTA = "ForcedDeltaSync"
    VOLUME_DELTA = "VolumeDeltaSync"
    DELTA = "DeltaSync"
    VOLUME_INITIAL = "VolumeInitialSync"
    VOLUME_FULL = "VolumeFullSync"
    FULL = "FullSync"
    INITIAL = "InitialSync"
    PAUSED_USER = "PausedByUser"
    PAUSED_SYSTEM = "PausedBySystem"
    PAUSED_MISSING = "PausedForMissingVolume"


GRAVITY = {sync: n for n, sync in enumerate(Sync)}
"""Of two syncs at once the graver one is shown."""


class Peer(StrEnum):
    """Region C: the other site."""

    CONNECTED = "Connected"
    RECOVERY_POSSIBLE = "RecoveryPossible"
    DISCONNECTED = "DisconnectedFromPeer"
    DISCONNECTED_NO_POINTS = "DisconnectedFromPeerNoRecoveryPoints"


class Health(StrEnum):
    """Region D: what is broken, if anything."""

    OK = "OK"
    EMPTY = "EmptyProtectionGroup"
    NEEDS_CONFIGURATION = "NeedsConfiguration"
    VM_NOT_PROTECTED = "VmNotProtectedError"
    PROFILE = "RecoveryStorageProfileError"
    MISSING = "JournalOrRecoveryMissingError"
    JOURNAL_STORAGE = "JournalStorageError"
    RECOVERY_STORAGE = "RecoveryStorageError"
    ERROR = "Error"


@value
class Regions:
    """The whole state. Region E, the service level, is the last two fields."""

    lifecycle: Lifecycle = Lifecycle.PROTECTING
    phase: Phase = Phase.NONE
    sync: Sync = Sync.IN_SYNC
    peer: Peer = Peer.CONNECTED
    health: Health = Health.OK
    rpo_ok: bool = True
    history_ok: bool = True

    def __post_init__(self) -> None:
        # Invariant: a phase exists exactly while failing over or moving.
        assert (self.phase is not NO_PHASE) == (self.lifecycle in OPERATING), self


class Status(StrEnum):
    """What users see. By name: published clients disagree on the numbers 3 and 4 (products.md 1.2)."""

    INITIALIZING = "Initializing"
    MEETING_SLA = "MeetingSLA"
    NOT_MEETING_SLA = "NotMeetingSLA"
    RPO_NOT_MEETING_SLA = "RpoNotMeetingSLA"
    HISTORY_NOT_MEETING_SLA = "HistoryNotMeetingSLA"
    FAILING_OVER = "FailingOver"
    MOVING = "Moving"
    DELETING = "Deleting"
    RECOVERED = "Recovered"


SERVICE = {
    (True, True): Status.MEETING_SLA,
    (False, True): Status.RPO_NOT_MEETING_SLA,
    (True, False): Status.HISTORY_NOT_MEETING_SLA,
    (False, False): Status.NOT_MEETING_SLA,
}

SYNC_NAMES = {
    Sync.IN_SYNC: "None",
    Sync.FORCED_DELTA: "DeltaSync",
    Sync.PAUSED_USER: "ReplicationPausedUserInitiated",
    Sync.PAUSED_SYSTEM: "ReplicationPausedSystemInitiated",
    Sync.PAUSED_MISSING: "ReplicationPausedForMissingVolume",
}

# Syncs that the field shows under MeetingSLA; any other one means that the service level is not met.
HARMLESS = {
    Sync.IN_SYNC, Sync.BITMAP, Sync.FORCED_DELTA, Sync.VOLUME_INITIAL, Sync.PAUSED_USER, Sync.PAUSED_SYSTEM,
    Sync.PAUSED_MISSING,
}  # fmt: skip

# Syncs that only exist while a VPG is created.
CREATION = {Sync.INITIAL: "InitialSync", Sync.FULL: "FullSync", Sync.VOLUME_INITIAL: "VolumeInitialSync"}

PHASES = {"BeforeCommit", "Committing", "Promoting", "RollingBack"}
_UNMET = {
    "DeltaSync", "VolumeDeltaSync", "Error", "JournalOrRecoveryMissingError", "JournalStorageError",
    "NeedsConfiguration", "RecoveryStorageError", "RecoveryStorageProfileError", "DisconnectedFromPeer",
    "DisconnectedFromPeerNoRecoveryPoints", "VmNotProtectedError", "VolumeFullSync", "VolumeInitialSync",
    "EmptyProtectionGroup",
}  # fmt: skip
_MET = {
    "None", "BitmapSync", "DeltaSync", "RecoveryPossible", "RollingBack", "ReplicationPausedUserInitiated",
    "ReplicationPausedSystemInitiated", "ReplicationPausedForMissingVolume", "VolumeInitialSync", "Backup",
}  # fmt: skip
# Ours: bitmap sync, a pause and "recovery possible" last while the service level is already missed; the field's
# table is silent on what is shown then, so their names are kept under the two partial statuses as well.
_LASTING = {
    "BitmapSync", "RecoveryPossible", "ReplicationPausedUserInitiated", "ReplicationPausedSystemInitiated",
    "ReplicationPausedForMissingVolume", "FullSync", "InitialSync",
}  # fmt: skip
ALLOWED: dict[Status, set[str]] = {
    Status.INITIALIZING: {"Creating", "InitialSync", "Sync", "FullSync", "VolumeInitialSync"},
    Status.MEETING_SLA: _MET,
    Status.NOT_MEETING_SLA: _UNMET | {"None"} | _LASTING,
    Status.RPO_NOT_MEETING_SLA: _UNMET | {"None"} | _LASTING,
    Status.HISTORY_NOT_MEETING_SLA: _UNMET | {"None"} | _LASTING,
    Status.FAILING_OVER: PHASES,
    Status.MOVING: PHASES,
    Status.DELETING: {"Deleting", "PendingRemove"},
    Status.RECOVERED: {"None"},
}
"""Which sub-status may appear under which status (products.md 1.2), with our marked additions."""


def project(regions: Regions) -> tuple[Status, str]:
    """The flat status and sub-status of a state."""
    match regions.lifecycle:
        case Lifecycle.DELETING:
            return Status.DELETING, "PendingRemove" if regions.peer is Peer.DISCONNECTED else "Deleting"
        case Lifecycle.FAILING_OVER:
            return Status.FAILING_OVER, regions.phase.value
        case Lifecycle.MOVING:
            return Status.MOVING, regions.phase.value
        case Lifecycle.RECOVERED:
            return Status.RECOVERED, "None"
        case Lifecycle.CREATING:
            return Status.INITIALIZING, CREATION.get(regions.sync, "Creating")
        case Lifecycle.PROTECTING:
            pass
    if regions.health is not Health.OK:
        sub = regions.health.value
    elif regions.peer is not Peer.CONNECTED:
        sub = regions.peer.value
    else:
        sub = SYNC_NAMES.get(regions.sync, regions.sync.value)
    status = SERVICE[regions.rpo_ok, regions.history_ok]
    if status is Status.MEETING_SLA and (sub not in _MET or (sub == regions.sync and regions.sync not in HARMLESS)):
        status = Status.NOT_MEETING_SLA
    return status, sub
