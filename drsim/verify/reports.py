"""Reports: the properties of what machines say about themselves. RPO, status, history, accounts; and what may not leak.

Each function says what it compares, when it is asked (`checkers.py`), and what it does not compare.
"""

from typing import TYPE_CHECKING

from drsim.core.messages import Listed
from drsim.core.names import Address, StreamSpec
from drsim.core.sender import Sender
from drsim.core.status import ALLOWED, Lifecycle, Peer, Regions, Sync, project
from drsim.verify.estate import VpgEstate
from drsim.verify.guests import NEVER
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


# -- P6: what the manager says ------------------------------------------------------------------------------------


def honest(x: "Explorer", name: str) -> None:
    """P6: every write acknowledged before the time that the manager counts from is in a checkpoint that was listed.

    Does not compare while word of a withdrawal is on its way; a run's end does.
    """
    newest = x.vpg(name).newest
    if newest is None:
        return
    claim = x.checks.when.get((name, newest), newest - x.skew.get(x.estate.managers[name], 0))
    cut = x.checks.newest_kept.get(name)
    vms = x.estate.vpg_of[name].vms
    if x.checks.honest.get(name) == (claim, cut, vms):
        return  # asked before, and whatever was acknowledged since then was so after the time that is claimed
    for vm in vms:
        guest = x.guests[vm]
        if cut and vm not in cut:
            continue  # it is new, and in no checkpoint yet
        k = cut[vm] if cut else 0
        outside = min(guest.acked[k:], default=NEVER)
        if outside < claim:
            raise Violation("P6", f"{name}: RPO counts from {claim}, a write acknowledged at {outside} would be lost")
    if claim <= x.now:
        x.checks.honest[name] = claim, cut and dict(cut), vms


MISSED = {(True, True): "MeetingSLA", (False, True): "RpoNotMeetingSLA", (True, False): "HistoryNotMeetingSLA"}


def shown(address: Address, regions: Regions) -> None:
    """P20, "says why not": the field knows the pair that is shown, and it names what is missed and nothing else."""
    status, sub = project(regions)
    if sub not in ALLOWED[status]:
        raise Violation("P20", f"{address} shows {status} with {sub}, which the field does not know")
    expected = MISSED.get((regions.rpo_ok, regions.history_ok), "NotMeetingSLA")
    if regions.lifecycle is Lifecycle.PROTECTING and status not in (expected, "NotMeetingSLA"):
        met = f"RPO met: {regions.rpo_ok}, history met: {regions.history_ok}"
        raise Violation("P20", f"{address} shows {status}; {met}")


def truthful(x: "Explorer", name: str) -> None:
    """P20, "says why not": a manager whose peer is gone shows it. Does not compare while a component starts."""
    vpg = x.estate.vpg_of[name]
    regions = x.vpg(name).regions
    gone = (vpg.manager, vpg.catalog) in x.cut and vpg.manager not in x.down
    if gone and regions.peer is Peer.CONNECTED:
        raise Violation("P20", f"{name} shows {Peer.CONNECTED} although its peer is gone")


def synced(x: "Explorer", name: str) -> None:
    """P20, when nothing is under way within the site: the manager shows a sync exactly while a stream syncs."""
    vpg = x.estate.vpg_of[name]
    if vpg.manager in x.down or x.down.intersection(vpg.sources) or x.half_open:
        return
    lan = [(source, vpg.manager) for source in vpg.sources]
    if x.cut.intersection(lan):
        return
    if any(x.queues.get(link) or x.queues.get(link[::-1]) for link in lan):
        return
    if not vpg.streams or not all(x.has(s.id) for s in vpg.streams):
        return
    syncing = any(x.sender(s.id).syncing for s in vpg.streams)
    if syncing != (x.vpg(name).regions.sync is not Sync.IN_SYNC):
        shown, are = x.vpg(name).regions.sync, "syncing" if syncing else "in sync"
        raise Violation("P20", f"{name} shows {shown}, its streams are {are}")


def unsynced(sender: Sender) -> bool:
    """P12: whether a stream synchronizes, whatever it says: a region is dirty, or a sync frame is not durable."""
    return sender.syncing or bool(len(sender.bitmap)) or any(f.sync for f in (*sender.window, *sender._queue))


def leaks(x: "Explorer", vpg: VpgEstate) -> None:
    """P20, in the end: nothing is held, withheld or pinned any more."""
    if any((source, vpg.name) in x.held for source in vpg.sources):
        raise Violation("P20", f"{vpg.name}: guests are held for ever")
    if any(x.unacked.get((source, vpg.name)) for source in vpg.sources):
        raise Violation("P20", f"{vpg.name}: guests wait for an acknowledgement for ever")
    if x.tags.get(vpg.name):
        raise Violation("P20", f"{vpg.name}: no checkpoint was sealed for the tag {x.tags[vpg.name][0]!r}")
    if x.catalog(vpg.name).pins:
        raise Violation("P20", f"{vpg.name}: a checkpoint stays pinned that nobody needs")
    catalog = x.catalog(vpg.name)
    if catalog._arriving or catalog._keeping or catalog._forget is not None:
        raise Violation("P20", f"{vpg.name}: a checkpoint is on its way into the list, or out of it, for ever")


def reported(x: "Explorer", message: Listed) -> None:
    """P22, when a catalogue tells what it lists: the newest and the oldest are those of its list."""
    listed = x.catalog(message.vpg).listed
    told = (message.checkpoint, message.taken, message.oldest_taken)
    if told != (listed[-1].id, listed[-1].taken, listed[0].taken):
        raise Violation("P22", f"{message.vpg}: the catalogue tells {told}, which are not its newest and its oldest")


def account(x: "Explorer", spec: StreamSpec) -> None:
    """P22: what machines say that they hold is what they hold. Journals may count up to a frame too much."""
    sender, receiver = x.sender(spec.id), x.receiver(spec.id)
    frames = [*sender.window, *sender._queue]
    held = sum(f.batch.nbytes for f in frames) + sum(p.nbytes for p in sender._open.parts)
    if sender.used != held:
        raise Violation("P22", f"{spec.id}: the sender says it holds {sender.used} bytes, it holds {held}")
    for _, journal in receiver.owned:
        if not sender.syncing and journal.limit != sender.spec.limit:
            raise Violation(
                "P22", f"{spec.id}: a journal's limit is {journal.limit}, it ought to be {sender.spec.limit}"
            )
    for vm, journal in receiver.journals.items():
        there = x.disks[spec.id].nbytes(vm)
        if journal.durable_total - journal.base_total < there:
            raise Violation("P22", f"VM {vm}: the journal has {there} bytes, the VRA says fewer")
