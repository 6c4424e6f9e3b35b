"""Heal: the second phase of a run. Faults stop for the VPGs that must recover; the rest may stay broken for ever.

A VPG that was deleted is gone within a bound, journals and all. Within the same bound each of the others is in sync
with empty queues, lists a checkpoint taken after the healing, says so, and holds nothing that an operation has given
back. Anything else is a stuck system (P20); if another VPG was left broken, it is a VPG that holds up its neighbour
(P26).
"""

from drsim.core.catalog import AGE
from drsim.core.facts import VpgDeleted
from drsim.core.messages import Refusal, Retention
from drsim.core.names import StreamId, site_of
from drsim.core.sender import SendState
from drsim.core.status import Health, Peer, Sync
from drsim.core.vpg import TICK
from drsim.verify.estate import VpgEstate
from drsim.verify.explorer import Explorer
from drsim.verify.membership import keeping, relocate
from drsim.verify.reports import leaks
from drsim.verify.violation import Violation

ROUNDS = 6  # healthy runs take one or two


def heal(x: Explorer, choice: int = 0) -> None:
    """Faults stop. `choice` odd and two VPGs: only one of them is healed. Raises Violation when one is stuck."""
    everyone = x.estate.vpgs
    core = everyone if len(everyone) == 1 or choice % 2 == 0 else (everyone[choice // 2 % len(everyone)],)
    x.healing = True
    _stop_faults(x, core)
    core = tuple(x.estate.vpg_of[vpg.name] for vpg in core)
    everyone = x.estate.vpgs
    began = x.now
    for _ in range(ROUNDS):
        x.routine()
        x.drain()
        for address, timer in list(x.timers):
            if (address, timer) in x.timers:
                x.expire(address, timer)
                x.drain()
        if all(_well(x, vpg, began) for vpg in core):
            for vpg in core:
                _flows(x, vpg)
            for vpg in core:
                leaks(x, vpg)
            if core != everyone:
                x.probes.add("neighbour stayed broken")
            x.checks.whole(at_rest=core == everyone)
            return
        for vpg in core:
            _press(x, vpg)
    stuck = "; ".join(_story(x, vpg) for vpg in core if not _well(x, vpg, began))
    raise Violation("P20" if core == everyone else "P26", f"stuck: {stuck}")


def _stop_faults(x: Explorer, core: tuple[VpgEstate, ...]) -> None:
    x.find_volumes()
    for guest in x.guests.values():
        while guest.in_flight:
            x.land(guest.in_flight[0])
    for address in sorted(x.down):
        x.boot(address)
    for vm, guest in x.guests.items():
        if guest.host is None:
            x.move(vm, x.estate.addresses[0])
    while relocate(x):
        pass
    for name in [vpg.name for vpg in x.estate.vpgs]:
        vpg = x.estate.vpg_of[name]
        if vpg.retention is not None and vpg.retention.fail_safe and vpg.deleting is None:
            x.configure(keeping(vpg, Retention(vpg.retention.history), vpg.limit))  # it may hold up replication
        if vpg.fenced:
            x.fence(x.estate.vpg_of[name], fenced=False)
    core = tuple(x.estate.vpg_of[vpg.name] for vpg in core)
    names = {vpg.name for vpg in core}
    wan = {(id_.source, id_.target) for id_ in x.streams if id_.vpg in names}
    wan |= {(vpg.manager, vpg.catalog) for vpg in core}
    lan = {link for link in x.links if site_of(link[0]) == site_of(link[1])}
    x.clogged.clear()
    x.full -= {(target, name) for target, name in x.full if name in names}
    for link in x.links:
        needed = link in wan or link in lan
        if needed and (link in x.holed or link in x.half_open or link[::-1] in x.half_open):
            x.break_link(link)
    for link in sorted(x.cut):
        if link in wan or link in lan:
            x.renew(link)
    for vpg in core:
        x.pause(vpg.name, False)
        for checkpoint in sorted(x.catalog(vpg.name).pins):
            x.pin(vpg.name, checkpoint, False)


def _flows(x: Explorer, vpg: VpgEstate) -> None:
    """A write goes its way without waiting for a checkpoint, and without a sync."""
    for spec in vpg.streams:
        for vm in [vm for vm in spec.vms if x.guests[vm].stream == spec.id][:1]:
            x.write([x.new_write(vm, 0, 0, 1)])
            if x.sender(spec.id).state is not SendState.IN_SYNC:
                raise Violation("P20", f"{vpg.name}: a write takes it out of sync ({spec.id})")
    for timer in [t for t in x.timers if t[1] not in (TICK, AGE)]:
        x.expire(*timer)
    x.drain()
    for spec in vpg.streams:
        sender = x.sender(spec.id)
        if sender.used and sender.refused is None:
            raise Violation("P20", f"{vpg.name}: a write waits although nothing keeps it ({spec.id})")


def _press(x: Explorer, vpg: VpgEstate) -> None:
    """A full journal whose newest checkpoint must stay stops replication, until the writes that wait overflow."""
    for spec in [spec for spec in vpg.streams if x.has(spec.id)]:
        sender, vms = x.sender(spec.id), [vm for vm in spec.vms if x.guests[vm].stream == spec.id]
        while vms and sender.refused is Refusal.LIMIT and sender.state is SendState.IN_SYNC:
            x.write([x.new_write(vms[0], 0, 0, min(6, x.guests[vms[0]].volumes[0].sectors))])


def _well(x: Explorer, vpg: VpgEstate, began: int) -> bool:
    catalog, regions = x.catalog(vpg.name), x.vpg(vpg.name).regions
    since = began + x.skew.get(vpg.manager, 0)
    if vpg.deleting is not None:
        return VpgDeleted(vpg.name) in x.facts and not _left(x, vpg.name)
    return (
        all(x.has(s.id) for s in vpg.streams)
        and catalog.retention == (vpg.retention or catalog.retention)
        and all(x.sender(s.id).state is SendState.IN_SYNC and not x.sender(s.id).used for s in vpg.streams)
        and bool(catalog.listed)
        and catalog.listed[-1].taken > since
        and not x.tags.get(vpg.name)  # a tag that was void waits for the next checkpoint that is due
        and (regions.sync, regions.peer, regions.health) == (Sync.IN_SYNC, Peer.CONNECTED, Health.OK)
    )


def _left(x: Explorer, name: str) -> list[StreamId]:
    """The streams of a VPG that some VRA has, or the journals of which exist."""
    return [s for s in x.streams if s.vpg == name and (x.known(s) or any(map(x.disks[s].nbytes, x.disks[s].vms)))]


def _story(x: Explorer, vpg: VpgEstate) -> str:
    if vpg.deleting is not None:
        return f"{vpg.name} is being deleted, and there are {_left(x, vpg.name)}"
    states = ", ".join(
        f"{s.id.source}: {x.sender(s.id).state.value}, {x.sender(s.id).used} B" if x.has(s.id) else f"{s.id}: unknown"
        for s in vpg.streams
    )
    listed = [c.id for c in x.catalog(vpg.name).listed]
    regions = x.vpg(vpg.name).regions
    return f"{vpg.name} ({states}; listed {listed}; {regions.sync}, {regions.peer}, {regions.health})"
