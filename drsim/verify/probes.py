"""Probes: named points that say "this interesting state was reached, and it mattered".

A checker that never meets a fault proves nothing. Operations note what they did to the explorer; `reached` reads from
the facts of a run what came of it. Every name is in `PROBES`; a swarm that never hits one of them has not looked
there, and fails.
"""

from functools import cache
from typing import TYPE_CHECKING

from drsim.core.facts import (
    BitmapGivenUp,
    CheckpointListed,
    CheckpointSkipped,
    CheckpointsRetired,
    FrameRefused,
    StateChanged,
    SyncEnded,
    SyncStarted,
)  # fmt: skip
from drsim.core.messages import Refusal, Trigger
from drsim.core.status import Health, Peer, Regions, Sync

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer

TRIGGERS = (
    Trigger.NETWORK_CONGESTION, Trigger.PROTECTED_VRA, Trigger.RECOVERY_STORAGE_ERROR, Trigger.RECOVERY_CONGESTION,
    Trigger.COMMUNICATION, Trigger.CONFIGURATION, Trigger.FORCE_SYNC, Trigger.PAUSE, Trigger.MISSING_VOLUME,
)  # fmt: skip
SKIPPED = (
    "peer unreachable", "synchronizing", "hold budget", "manager restart", "VRA stops", "broken",
    "history withdrawn", "journal limit", "sync window fills the journal", "paused", "VM left", "VM not protected",
    "configuration", "deleted", "fenced",
)  # fmt: skip
KINDS = (
    Sync.BITMAP, Sync.FORCED_DELTA, Sync.VOLUME_DELTA, Sync.DELTA, Sync.VOLUME_INITIAL, Sync.VOLUME_FULL, Sync.FULL,
    Sync.INITIAL,
)  # fmt: skip
RETIRED = ("history", "journal limit", "sync window fills the journal", "deleted")

PROBES = {
    **{f"sync began: {t.value}": "a stream fell out of sync for this reason" for t in TRIGGERS},
    **{f"refused: {r.value}": "a recovery VRA refused a frame for this reason" for r in Refusal},
    **{f"skipped: {reason}": "a checkpoint was given up for this reason" for reason in SKIPPED},
    **{f"retired: {reason}": "checkpoints left the list for this reason" for reason in RETIRED},
    **{f"synchronized: {s.value}": "a stream is in sync again after a sync of this kind" for s in KINDS},
    "writes were missed: in sync": "a tap had no room for what was written to a stream in sync",
    "writes were missed: tail": "likewise, when the end of a sweep was in sight",
    "a bitmap was given up": "more regions were dirty than a bitmap has memory for",
    "a region was found equal": "digests said that a region need not be sent",
    "a region was written while it was compared": "the answer must not call it clean",
    "a VM moved to another host": "a VM that is protected runs on another host, with a VRA",
    "a VM moved to a host without a VRA": "a VM that is protected runs where nobody hears of its writes",
    "the source was fenced": "an operation gave the right to accept guest writes to the recovery side",
    "a fenced source went on": "an operation gave it back",
    "a VM was added": "an operator added a VM to a VPG",
    "a VM was removed": "an operator took a VM out of a VPG",
    "a volume was added": "a VM got another volume, and wrote to it before anybody heard of it",
    "a volume grew": "a volume of a VM grew, and the VM wrote there before anybody heard of it",
    "a volume was removed": "a volume was taken out of a VPG",
    "a volume went missing": "a protected volume was not there",
    "a VM got another recovery VRA": "an operator had a VM recovered elsewhere",
    "a journal was changed": "an operator changed how much history a VPG keeps, or how large its journals may be",
    "status: volume missing": "a manager showed that a protected volume is missing",
    "a VPG was deleted": "an operator deleted a VPG while another one stayed",
    "journals were discarded": "a recovery VRA deleted what no checkpoint has any more",
    "status: VM not protected": "a manager showed that a VM of its VPG is not protected",
    "status: paused by the user": "a manager showed that an operator paused replication",
    "sync ended": "a stream is in sync again",
    "listed after a sync": "a checkpoint was listed although its VPG had been out of sync before",
    "listed after a withdrawal": "a checkpoint was listed again after all had been withdrawn",
    "tag listed": "a checkpoint with an operator's tag was listed",
    "status: no recovery points": "a manager showed that nothing can be recovered",
    "status: journal storage": "a manager showed that a store does not take data",
    "status: peer gone": "a manager showed that its peer cannot be reached",
    "status: paused": "a manager showed that the system paused replication",
    "status: RPO missed": "a manager showed that its RPO is missed",
    "pin held the history": "a pinned checkpoint was older than the history and stayed",
    "neighbour stayed broken": "a VPG recovered while another one on the same VRAs stayed broken",
    "restarted with frames pending": "a recovery VRA went down with frames on their way to its store",
    "performed, not answered": "a component went down after an effect was performed and before it was answered",
    "protected VRA crashed": "a protected VRA lost its memory and came back",
    "recovery VRA crashed": "a recovery VRA was built again from its store",
    "catalogue crashed": "a catalogue was built again from its list",
    "manager crashed": "a protected manager lost its memory and came back",
    "withheld": "a guest's write waited for its acknowledgement because of a hold",
    "aged": "journal data was applied to a mirror",
    "an effect failed: store": "a store did not take a frame",
    "an effect failed: mirror": "a mirror could not be written",
    "an effect failed: disk": "a protected disk could not be read",
    "an effect failed: list": "the list of checkpoints could not be written",
    "an effect failed: guests": "no guest of a VRA could be frozen",
    "a VM took no part in a freeze": "a guest could not be frozen, or was too slow",
    "a freeze ended by itself": "the freeze timeout ran out with guests frozen",
    "a checkpoint claims VMs at rest": "a checkpoint that is application consistent for some VM was listed",
    "a hold ended by itself": "the hold budget ran out before the release",
    "half-open: a message vanished": "a connection swallowed a message unnoticed",
    "data was lost on its way": "a frame or an answer was lost on a connection that stayed",
    "data came twice": "a frame or an answer was delivered twice",
    "a frame overlapped another": "the rows of a frame came again together with those behind them",
    "a frame overtook another": "frames arrived out of order",
    "a frame was cut in two": "a frame arrived as two",
    "two frames were joined": "two frames arrived as one",
    "a frame of an old epoch came": "a frame of an earlier epoch arrived late",
    "a frame of an old generation came": "a frame of an earlier generation arrived late",
    "a write landed before an older one": "two writes in flight landed in the other order",
    "a whole side died": "every component of one site lost its memory at once",
    "a stream overtook another": "messages of one VPG went before those of another that were sent earlier",
    "a clock jumped": "the clocks of a site jumped ahead",
}
EPOCH_PROBES = {
    "an epoch mattered": "a checkpoint of an epoch was listed, and its VMs had written more since",
    "a VM wrote between its snapshot and the end of the epoch": "which must not be in it",
    "an epoch was written in several steps": "it was too large for one, and its VPG was paused",
    "an operator let a VPG go on during an epoch": "which must wait until the epoch is whole",
    "an epoch failed between its first write and its mark": "its shadows were of two epochs",
    "a process died with shadows of two epochs": "and was built again from what it had kept",
    "a change source had forgotten its mark": "everything had to be read",
    "the marks of an epoch could not be written": "so the next one began where the one before had",
    "an epoch was due at once": "because a VM had moved",
}
"""Those that only capture by epochs can reach (`epochs.py`)."""
PROBES |= EPOCH_PROBES
"""Every name, and what it means that it was reached."""


def reached(x: "Explorer") -> set[str]:
    """What a run's facts say was reached."""
    names: set[str] = set()
    synced: set[str] = set()
    withdrawn: set[str] = set()
    for fact in x.facts:
        match fact:
            case SyncStarted(stream=stream, trigger=trigger):
                names.add(f"sync began: {trigger.value}")
                synced.add(stream.vpg)
            case SyncEnded(sync=sync):
                names.add("sync ended")
                names.add(f"synchronized: {sync.value}")
            case BitmapGivenUp():
                names.add("a bitmap was given up")
            case FrameRefused(reason=reason):
                names.add(f"refused: {reason}")
            case CheckpointSkipped(reason=reason):
                names.add(f"skipped: {reason}")
            case CheckpointsRetired(vpg=vpg, before=before, reason=reason):
                names.add(f"retired: {reason}")
                if before is None:
                    withdrawn.add(vpg)
            case CheckpointListed(vpg=vpg, tag=tag):
                if tag:
                    names.add("tag listed")
                if vpg in synced:
                    names.add("listed after a sync")
                if vpg in withdrawn:
                    names.add("listed after a withdrawal")
            case StateChanged():
                names |= _shown(fact.regions)
    return names & PROBES.keys()


@cache
def _shown(regions: Regions) -> set[str]:
    shown = {
        "status: no recovery points": regions.peer is Peer.DISCONNECTED_NO_POINTS,
        "status: peer gone": regions.peer is Peer.DISCONNECTED,
        "status: journal storage": regions.health is Health.JOURNAL_STORAGE,
        "status: VM not protected": regions.health is Health.VM_NOT_PROTECTED,
        "status: paused by the user": regions.sync is Sync.PAUSED_USER,
        "status: volume missing": regions.sync is Sync.PAUSED_MISSING,
        "status: paused": regions.sync is Sync.PAUSED_SYSTEM,
        "status: RPO missed": not regions.rpo_ok,
    }
    return {name for name, is_so in shown.items() if is_so}
