"""The table of alerts: the states that alerts are about, and for each alert its words and what raises and clears it.

Identifiers are the field's (products.md 1.8), words and predicates are ours. How alerts are raised: `alerts.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from drsim.core.messages import Trigger
from drsim.core.names import StreamId
from drsim.core.status import Health, Lifecycle, Peer, Regions, Sync
from drsim.core.units import SECOND, Ns

MET = Regions()  # of a VPG of which nothing is known yet
LOW_ROOM, ENOUGH_ROOM = 0.10, 0.15  # of a datastore; our choice
BUFFER_LOW, BUFFER_CALM = 0.75, 0.50  # of the usable buffer; our choice
CALM = 0.05  # of the hard limit below the warning: a journal's warnings are cleared there; our choice
SLOW, FAST = 40 * SECOND // 1000, 20 * SECOND // 1000  # storage latency; products.md 1.6: 40 ms is bad
FAR_OVER = 2  # times the target RPO, from which it is an error; our choice
FAR_UNDER = 0.5  # of the history there should be, below which it is an error; our choice


class Kind(StrEnum):
    """What an alert may be about."""

    VPG = "VPG"
    JOURNAL = "journal"
    VRA = "VRA"
    DATASTORE = "datastore"
    SITE = "site"
    LINK = "link"


class Severity(StrEnum):
    """Warnings want a look, errors an action."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """One thing that alerts are about. `vpg`: whose it is, if it is one VPG's."""

    kind: Kind
    name: str
    vpg: str = ""


# -- states -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What was promised for a VPG; durations in nanoseconds. `link` names the connection of its sites.

    `failsafe` is the history that must be kept in any case (None: none); see `VpgState.history`. With `filling`, a new
    journal that still fills counts as too short (products.md 1.3, open point).
    """

    rpo_alert: int
    history: int
    link: str
    failsafe: int | None = None
    filling: bool = False


@dataclass(frozen=True, slots=True)
class VpgState:
    """A VPG at the time `at`. `newest` and `oldest`: when the ends of the list were taken; None while it is empty."""

    terms: Terms
    began: Ns
    at: Ns
    regions: Regions = MET
    newest: Ns | None = None
    oldest: Ns | None = None
    early: bool = False
    """The checkpoints that left last did so for lack of room, not of age."""

    @property
    def protecting(self) -> bool:
        """Only then is anything promised."""
        return self.regions.lifecycle is Lifecycle.PROTECTING

    @property
    def deleting(self) -> bool:
        """Nobody wants it any more."""
        return self.regions.lifecycle is Lifecycle.DELETING

    @property
    def rpo(self) -> int:
        """Age of the newest checkpoint, or of protection itself."""
        return self.at - (self.began if self.newest is None else self.newest)

    @property
    def history(self) -> int:
        """How far back the list reaches."""
        return 0 if self.oldest is None else self.at - self.oldest

    @property
    def due(self) -> int:
        """How far back it should reach: as far as is configured, or as far as it can."""
        return self.terms.history if self.terms.filling else min(self.terms.history, self.at - self.began)

    @property
    def nothing(self) -> bool:
        """There was a recovery point, and there is none any more."""
        return self.regions.peer is Peer.DISCONNECTED_NO_POINTS

    @property
    def far_short(self) -> bool:
        """The history is too short by far: below half of what it should be, or below the fail-safe history."""
        failsafe = min(self.terms.failsafe or 0, self.due)
        return not self.regions.history_ok and self.history < max(self.due * FAR_UNDER, failsafe)


@dataclass(frozen=True, slots=True)
class JournalState:
    """One VM's journal in bytes. It warns from the share `warning` of its limit, and is at it with less than `margin`
    of it free. Journals without a limit have no alerts."""

    used: int
    limit: int
    warning: float
    margin: float

    @property
    def share(self) -> float:
        """Of the hard limit."""
        return self.used / self.limit

    @property
    def calm(self) -> bool:
        """Well below the warning, and below where early aging leaves a journal that is at its limit."""
        return self.share < min(self.warning - CALM, 1 - 3 * self.margin)


@dataclass(frozen=True, slots=True)
class VraState:
    """A host's VRA. `cut_off`: streams that do not reach their recovery VRA. `used` and `usable`: bytes of buffer."""

    up: bool
    cut_off: int = 0
    used: int = 0
    usable: int = 1


@dataclass(frozen=True, slots=True)
class SyncState:
    """The streams of a protected VRA that are not in sync, and why; of these, those without a trusted bitmap."""

    syncing: Mapping[StreamId, Trigger] = field(default_factory=dict)
    given_up: frozenset[StreamId] = frozenset()


@dataclass(frozen=True, slots=True)
class WritingState:
    """The streams whose journals a recovery VRA cannot write, and why."""

    failing: Mapping[StreamId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoreState:
    """A datastore: bytes used and there are, whether it takes no data, whether nothing of it can be reached, and how
    long an I/O takes (nanoseconds)."""

    used: int
    capacity: int
    full: bool = False
    gone: bool = False
    latency: int = 0

    @property
    def free(self) -> float:
        """Share of the room."""
        return max(0.0, 1 - self.used / self.capacity)


@dataclass(frozen=True, slots=True)
class SiteState:
    """A site's manager, and the VRAs of the site that it does not reach."""

    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection of two sites' managers: the VPGs for which it is lost."""

    lost: frozenset[str] = frozenset()


State = VpgState | JournalState | VraState | SyncState | WritingState | StoreState | SiteState | LinkState

# -- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `of` is the class of state that `when` and `until` judge; `rule` says in words what they ask."""

    id: str
    severity: Severity
    kind: Kind
    words: str
    rule: str
    of: type
    when: Callable[[Any], bool]
    until: Callable[[Any], bool] | None = None

    def cleared_by(self, state: State) -> bool:
        """Whether a state ends it."""
        return not self.when(state) if self.until is None else self.until(state)


W, E = Severity.WARNING, Severity.ERROR
FULL_BUFFER = {Trigger.NETWORK_CONGESTION, Trigger.RECOVERY_CONGESTION, Trigger.RECOVERY_STORAGE_ERROR}
BROKEN = set(Health) - {Health.OK, Health.EMPTY, Health.NEEDS_CONFIGURATION, Health.VM_NOT_PROTECTED}
FULL_STORE = ("datastore full", "store full")


def _full(reason: str) -> bool:
    return reason in FULL_STORE


TABLE: tuple[Alert, ...] = (
    Alert("VPG0003", W, Kind.VPG, "The history is shorter than configured.",
          "the history region is missed", VpgState,
          lambda s: s.protecting and not s.regions.history_ok),
    Alert("VPG0004", E, Kind.VPG, "The history is far too short.",
          "missed, and below half of what it should be, or below the fail-safe history (our choice)", VpgState,
          lambda s: s.protecting and s.far_short),
    Alert("VPG0005", E, Kind.VPG, "Something that the VPG needs is broken.",
          "health is a storage, profile or general error", VpgState, lambda s: s.regions.health in BROKEN),
    Alert("VPG0006", E, Kind.VPG, "The VPG lacks settings and cannot protect.",
          "health is NeedsConfiguration, or the VPG is empty and not being deleted", VpgState,
          lambda s: not s.deleting and s.regions.health in (Health.NEEDS_CONFIGURATION, Health.EMPTY)),
    Alert("VPG0007", W, Kind.VPG, "An operator has paused replication.",
          "sync is paused by the user", VpgState, lambda s: s.regions.sync is Sync.PAUSED_USER),
    Alert("VPG0009", W, Kind.VPG, "The newest checkpoint is older than the target RPO.",
          "the RPO region is missed", VpgState, lambda s: s.protecting and not s.regions.rpo_ok),
    Alert("VPG0010", E, Kind.VPG, "The newest checkpoint is far older than the target RPO.",
          f"missed, and above {FAR_OVER} times the target (our choice)", VpgState,
          lambda s: s.protecting and not s.regions.rpo_ok and s.rpo > FAR_OVER * s.terms.rpo_alert),
    Alert("VPG0017", W, Kind.VPG, "The system has paused replication by itself.",
          "sync is paused by the system, or for a missing volume", VpgState,
          lambda s: s.regions.sync in (Sync.PAUSED_SYSTEM, Sync.PAUSED_MISSING)),
    Alert("VPG0027", E, Kind.VPG, "A VM of the VPG is not protected any more.",
          "health is VmNotProtectedError", VpgState, lambda s: s.regions.health is Health.VM_NOT_PROTECTED),
    Alert("VPG0037", W, Kind.VPG, "Checkpoints left early for lack of room in a journal.",
          "those that left last left before their time, and the history is missed", VpgState,
          lambda s: s.protecting and (s.early and not s.regions.history_ok)),
    Alert("VPG0038", E, Kind.VPG, "There is no recovery point any more.",
          "all checkpoints were withdrawn, none is listed yet, and the VPG is not being deleted", VpgState,
          lambda s: not s.deleting and s.nothing),
    Alert("VRA0005", E, Kind.VRA, "The VRA does not reach a recovery VRA that it sends to.",
          "it is up, and one of its streams is not connected", VraState, lambda s: s.up and s.cut_off > 0),
    Alert("VRA0006", E, Kind.VRA, "The VRA cannot write a journal: its datastore is full.",
          "a journal's last append failed because the store is full", WritingState,
          lambda s: any(_full(reason) for reason in s.failing.values())),
    Alert("VRA0007", E, Kind.VRA, "The VRA cannot write a journal: the store reports an error.",
          "a journal's last append failed for another reason", WritingState,
          lambda s: any(not _full(reason) for reason in s.failing.values())),
    Alert("VRA0025", W, Kind.VRA, "The VRA's streams are being synchronized.",
          "a stream of it is not in sync", SyncState, lambda s: bool(s.syncing)),
    Alert("VRA0028", E, Kind.VRA, "The VRA is off.", "it is not up", VraState, lambda s: not s.up),
    Alert("VRA0029", W, Kind.VRA, "The VRA's buffer is getting full.",
          f"{BUFFER_LOW:.0%} of the usable buffer is in use, until below {BUFFER_CALM:.0%} (our choice)", VraState,
          lambda s: s.up and s.used >= BUFFER_LOW * s.usable,
          lambda s: not s.up or s.used < BUFFER_CALM * s.usable),
    Alert("VRA0039", E, Kind.JOURNAL, "The journal is at its hard limit.",
          "it has less free than the limit margin, until it is well below (our choice)", JournalState,
          lambda s: s.share > 1 - s.margin, lambda s: s.calm),
    Alert("VRA0040", W, Kind.JOURNAL, "The journal is getting near its hard limit.",
          "it has reached its warning share, until it is well below (our choice)", JournalState,
          lambda s: s.share >= s.warning or s.share > 1 - s.margin, lambda s: s.calm),
    Alert("VRA0059", W, Kind.DATASTORE, "The storage answers slowly.",
          f"an I/O takes {SLOW // 10**6} ms (products.md 1.6), until below {FAST // 10**6} ms (our choice)", StoreState,
          lambda s: s.latency >= SLOW, lambda s: s.latency < FAST),
    Alert("DRV0001", W, Kind.VRA, "The buffer for outgoing writes was full; what it held became dirty regions.",
          "a stream synchronizes because it could not send", SyncState,
          lambda s: any(trigger in FULL_BUFFER for trigger in s.syncing.values())),
    Alert("DRV0002", E, Kind.VRA, "The dirty bitmap had no memory left; everything has to be compared.",
          "a stream synchronizes without its bitmap, which outgrew its memory", SyncState, lambda s: bool(s.given_up)),
    Alert("STR0001", E, Kind.DATASTORE, "The datastore cannot be reached.",
          "every I/O on it fails", StoreState, lambda s: s.gone),
    Alert("STR0002", E, Kind.DATASTORE, "The datastore is full.",
          "it takes no more data", StoreState, lambda s: s.full or s.used >= s.capacity),
    Alert("STR0004", W, Kind.DATASTORE, "The datastore has little room left.",
          f"less than {LOW_ROOM:.0%} is free, until {ENOUGH_ROOM:.0%} are (our choice)", StoreState,
          lambda s: s.full or s.free < LOW_ROOM, lambda s: not s.full and s.free >= ENOUGH_ROOM),
    Alert("ZVM0002", E, Kind.SITE, "The site's manager does not reach a VRA of its site.",
          "a VRA does not answer", SiteState, lambda s: bool(s.silent)),
    Alert("ZVM0003", E, Kind.LINK, "The managers of two sites do not reach each other.",
          "the peer of a VPG is disconnected", LinkState, lambda s: bool(s.lost)),
)  # fmt: skip
"""Every alert that can be raised today, in the order of reports."""

ALERTS: dict[str, Alert] = {alert.id: alert for alert in TABLE}
OF: dict[type, tuple[Alert, ...]] = {
    state: tuple(alert for alert in TABLE if alert.of is state) for state in dict.fromkeys(a.of for a in TABLE)
}

LATER: dict[str, str] = {
    "VPG0008": "a roll-back failed (recovery)",
    "VPG0011, VPG0012": "a failover test is due, or overdue (recovery)",
    "VPG0014": "an operation waits for commit or roll-back (recovery)",
    "VPG0015": "there are too few resources to recover (recovery)",
    "VPG0051 to VPG0053": "a test could not be stopped, or an operation not be rolled back (recovery)",
    "VPG0066, VPG0067": "the parts of a VPG contradict each other (live)",
    "VRA0001": "a host has no VRA (life cycle: vMotion)",
    "VRA0008 to VRA0013": "a mirror disk is missing, or cannot be read or written (life cycle: faults of storage)",
    "VRA0061, VRA0062": "the path between VRAs has too small an MTU (live)",
    "DRV0003": "a guest's I/O hangs (live)",
    "ENC0001": "writes look encrypted (workloads)",
    "ZCA0002": "a cloud's quota of instances is used up (recovery in a cloud)",
}
"""Alerts of the field that something has to bring first: what they will say, and with which work they come."""
