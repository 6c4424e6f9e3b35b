"""Alerts: what an operator is told without asking. The fold that raises and clears them by state.

Theory of operation. An alert is about one *entity* (a VPG, a VM's journal, a VRA, a datastore, a site, the connection
of two sites) and stands while a *predicate* over that entity's state holds. The table is data (`alert_table.py`).
States come from two sources, alike in a simulation and live: facts that machines publish are folded here (`fact`), and
what no machine says (a VRA that is off cannot) is looked at by the world (`see`). Time alone also changes a state, an
RPO grows: a world calls `tick` now and then, and what is raised is as of the last word.

An alert is raised when `when` holds of a state, and cleared when it no longer does. Where a value goes up and down
around its threshold, `until` lies apart from it, and the alert stands until that holds. Nobody raises or clears one by
hand, and where a warning has an error above it, the error comes on top: the warning stands too.

Invariant: an alert is raised iff `when` held of a state of its entity, and neither `until` (if there is one, else the
opposite of `when`) has held of a later one, nor has the entity gone since.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from drsim.core.alert_table import OF, Entity, Kind, LinkState, State, SyncState, Terms, VpgState, WritingState
from drsim.core.facts import (
    BitmapGivenUp,
    CheckpointListed,
    CheckpointsRetired,
    Fact,
    StateChanged,
    StoreChanged,
    SyncDropped,
    SyncEnded,
    SyncStarted,
)  # fmt: skip
from drsim.core.messages import Trigger
from drsim.core.names import Address, StreamId
from drsim.core.status import Peer
from drsim.core.units import Ns


@dataclass(frozen=True, slots=True)
class Raised:
    """An alert stands from now on."""

    time: Ns
    entity: Entity
    alert: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """It stands no longer."""

    time: Ns
    entity: Entity
    alert: str


Change = Raised | Cleared


def vra_of(address: Address) -> Entity:
    """The VRA that both halves of a host's VRA are."""
    return Entity(Kind.VRA, address.rpartition("/")[0])


class Alerts:
    """What is raised. `terms`: what is promised for each VPG; what is promised later is put there."""

    def __init__(self, terms: Mapping[str, Terms]) -> None:
        self.terms = dict(terms)
        self.raised: dict[tuple[Entity, str], Ns] = {}
        """Since when each stands."""
        self._vpgs: dict[str, VpgState] = {}
        self._links: dict[str, frozenset[str]] = {}
        self._syncs: dict[Entity, SyncState] = {}
        self._writes: dict[Entity, WritingState] = {}

    def see(self, now: Ns, entity: Entity, state: State) -> list[Change]:
        """An entity is in this state now; what that raises and clears."""
        changes: list[Change] = []
        for alert in OF[type(state)]:
            key = entity, alert.id
            if key not in self.raised:
                if alert.when(state):
                    self.raised[key] = now
                    changes.append(Raised(now, *key))
            elif alert.cleared_by(state):
                del self.raised[key]
                changes.append(Cleared(now, *key))
        return changes

    def gone(self, now: Ns, entity: Entity) -> list[Change]:
        """The entity is no more: a VPG was deleted, a VRA taken away."""
        if entity.kind is Kind.VPG:
            self._vpgs.pop(entity.name, None)
        self._syncs.pop(entity, None)
        self._writes.pop(entity, None)
        keys = [key for key in self.raised if key[0] == entity]
        for key in keys:
            del self.raised[key]
        return [Cleared(now, *key) for key in keys]

    def tick(self, now: Ns) -> list[Change]:
        """Time has passed, for every VPG."""
        return [change for vpg in self._vpgs for change in self._see_vpg(now, vpg)]

    def fact(self, now: Ns, fact: Fact) -> list[Change]:
        """A machine has published a fact."""
        match fact:
            case StateChanged(vpg, regions):
                return [*self._see_vpg(now, vpg, regions=regions), *self._peer(now, vpg, regions.peer)]
            case CheckpointListed(vpg, _, taken):
                oldest = self._vpg(now, vpg).oldest
                return self._see_vpg(now, vpg, newest=taken, oldest=taken if oldest is None else oldest)
            case CheckpointsRetired(vpg, before, oldest, reason):
                newest = None if before is None else self._vpg(now, vpg).newest
                return self._see_vpg(now, vpg, newest=newest, oldest=oldest, early=reason != "history")
            case SyncStarted(stream, _, trigger):
                return self._see_sync(now, stream, trigger)
            case SyncEnded(stream) | SyncDropped(stream):
                return self._see_sync(now, stream, None)
            case BitmapGivenUp(stream):
                vra = vra_of(stream.source)
                old = self._syncs.get(vra, SyncState())
                self._syncs[vra] = replace(old, given_up=old.given_up | {stream})
                return self.see(now, vra, self._syncs[vra])
            case StoreChanged(stream, ok, reason):
                vra = vra_of(stream.target)
                failing = dict(self._writes.get(vra, WritingState()).failing)
                failing.pop(stream, None)
                if not ok:
                    failing[stream] = reason
                self._writes[vra] = WritingState(failing)
                return self.see(now, vra, self._writes[vra])
            case _:
                return []  # nothing lasts of it

    def states(self) -> Iterator[tuple[Entity, State]]:
        """What was folded from facts, as of the last word about each."""
        for name, state in self._vpgs.items():
            yield Entity(Kind.VPG, name, name), state
        for link, lost in self._links.items():
            yield Entity(Kind.LINK, link), LinkState(lost)
        yield from self._syncs.items()
        yield from self._writes.items()

    def _vpg(self, now: Ns, vpg: str) -> VpgState:
        return self._vpgs.get(vpg) or VpgState(self.terms[vpg], began=now, at=now)

    def _see_vpg(self, now: Ns, vpg: str, **changed: Any) -> list[Change]:
        state = self._vpgs[vpg] = replace(self._vpg(now, vpg), terms=self.terms[vpg], at=now, **changed)
        return self.see(now, Entity(Kind.VPG, vpg, vpg), state)

    def _peer(self, now: Ns, vpg: str, peer: Peer) -> list[Change]:
        """The connection is lost while it is so for any VPG. Without a recovery point, nobody says whether it is."""
        link = self.terms[vpg].link
        if peer is Peer.DISCONNECTED_NO_POINTS:
            return []
        lost = self._links.get(link, frozenset())
        self._links[link] = lost | {vpg} if peer is Peer.DISCONNECTED else lost - {vpg}
        return self.see(now, Entity(Kind.LINK, link), LinkState(self._links[link]))

    def _see_sync(self, now: Ns, stream: StreamId, trigger: Trigger | None) -> list[Change]:
        vra = vra_of(stream.source)
        old = self._syncs.get(vra, SyncState())
        syncing = {id_: why for id_, why in old.syncing.items() if id_ != stream}
        if trigger is not None:
            syncing[stream] = trigger
        self._syncs[vra] = SyncState(syncing, old.given_up if trigger is not None else old.given_up - {stream})
        return self.see(now, vra, self._syncs[vra])
