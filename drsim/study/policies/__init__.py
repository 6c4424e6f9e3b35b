"""The same writes under different protection policies: recovery points, bytes sent, storage, waiting, side by side."""

from drsim.core.units import SECOND
from drsim.study.policies.base import Capacity, Load, Policy, Protection, Wan
from drsim.study.policies.chain import NightlyBackup
from drsim.study.policies.snapshots import PeriodicSnapshots, SnapshotMirror
from drsim.study.policies.streams import (
    AnytimeLogs,
    Asynchronous,
    CrashPoints,
    Journal,
    JournalMirror,
    LogShipping,
    PullAhead,
    Synchronous,
)

POLICIES: tuple[Policy, ...] = (
    Journal(), CrashPoints(), PeriodicSnapshots(), JournalMirror(), SnapshotMirror(), Synchronous(), Asynchronous(),
    PullAhead(), LogShipping(30 * SECOND), LogShipping(300 * SECOND), AnytimeLogs(), NightlyBackup(),
)  # fmt: skip

__all__ = ["POLICIES", "Capacity", "Load", "Policy", "Protection", "Wan"]
