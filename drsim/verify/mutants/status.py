"""Mutants of what managers say: the RPO they count, the state they show, the schedule they keep."""

from dataclasses import replace
from typing import Any

from drsim.core import status
from drsim.core.catalog import Catalog
from drsim.core.effects import Arm, Effect, Send
from drsim.core.events import Fired, Lost
from drsim.core.messages import Listed, SyncChanged
from drsim.core.protected_vra import ProtectedVra
from drsim.core.status import Sync
from drsim.core.units import Ns
from drsim.core.vpg import TICK, Vpg
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("22", by=("P6",))
def rpo_counts_from_what_was_sent() -> Patch:
    """The RPO counts from the last checkpoint that was sent, not from the last that can be recovered."""
    seal = Vpg._seal

    def mutated(self: Vpg, now: Ns, attempt: Any) -> list[Effect]:
        self.newest = attempt.taken
        return seal(self, now, attempt)

    return patched(Vpg, "_seal", mutated)


@mutant("23", by=("P6",))
def rpo_zero_while_disconnected() -> Patch:
    """The RPO begins anew when the peer is lost."""
    handle = Vpg.handle

    def mutated(self: Vpg, now: Ns, event: Any) -> list[Effect]:
        if isinstance(event, Lost) and self.newest is not None:
            self.newest = now
        return handle(self, now, event)

    return patched(Vpg, "handle", mutated)


@mutant("B46", by=("P20",), cites="ramen #2809, #2811")
def stale_state_kept() -> Patch:
    """A manager whose peer is gone goes on showing what it showed before."""
    handle = Vpg.handle

    def mutated(self: Vpg, now: Ns, event: Any) -> list[Effect]:
        if isinstance(event, Lost):
            self._connected = event.peer != self.catalog and self._connected
            return []
        return handle(self, now, event)

    return patched(Vpg, "handle", mutated)


@mutant("B47", by=("P6", "P22"), cites="ceph/ceph #8442")
def negative_lag() -> Patch:
    """A listed checkpoint carries the clock of the recovery site, and with a clock ahead the lag is negative."""
    handle, newest = Catalog.handle, Catalog._newest
    clock = [0]

    def remember(self: Catalog, now: Ns, event: Any) -> list[Effect]:
        clock[0] = now
        return handle(self, now, event)

    def mutated(self: Catalog) -> Send:
        told = newest(self).message
        assert isinstance(told, Listed)
        return Send(self.manager, replace(told, taken=Ns(clock[0])))

    return several(patched(Catalog, "handle", remember), patched(Catalog, "_newest", mutated))


@mutant("B48", by=("P20",), cites="ceph/ceph #39522, cv4pve-autosnap #8")
def schedule_stops_with_the_peer() -> Patch:
    """A checkpoint that is due while the peer is gone is the last one that is ever due."""
    handle = Vpg.handle

    def mutated(self: Vpg, now: Ns, event: Any) -> list[Effect]:
        effects = handle(self, now, event)
        if isinstance(event, Fired) and event.timer == TICK and not self._connected:
            return [e for e in effects if not (isinstance(e, Arm) and e.timer == TICK)]
        return effects

    return patched(Vpg, "handle", mutated)


@mutant("B49", by=("P20",), cites="published clients of the field (products.md 1.2)")
def names_swapped() -> Patch:
    """The names for a missed RPO and a missed history are swapped."""
    service = dict(status.SERVICE)
    service[False, True], service[True, False] = service[True, False], service[False, True]
    return patched(status, "SERVICE", service)


@mutant(by=("P20",))
def sync_told_once() -> Patch:
    """A VRA tells that a stream synchronizes, and not when that is over."""
    tell = ProtectedVra._tell

    def mutated(self: ProtectedVra) -> list[Effect]:
        return [
            e for e in tell(self) if not (isinstance(e, Send) and isinstance(e.message, SyncChanged))
            or e.message.sync is not Sync.IN_SYNC
        ]  # fmt: skip

    return patched(ProtectedVra, "_tell", mutated)
