"""Content: the properties of journals, images and checkpoints. The truth is compared with what the other side holds.

Each function says what it compares, when it is asked (`checkers.py`), and what it does not compare.
"""

from collections.abc import Iterable
from operator import add
from typing import TYPE_CHECKING

from drsim.core.effects import Promote
from drsim.core.errors import CoreError
from drsim.core.facts import CheckpointsRetired
from drsim.core.messages import Checkpoint, Cut, Frame, Position, Resync
from drsim.core.names import CheckpointId, StreamId, VmId
from drsim.core.window import reaches
from drsim.verify.disks import StreamDisks
from drsim.verify.guests import NEVER, Guest, Write
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


# -- P1: the source side -------------------------------------------------------------------------------------


def capture(write: Write) -> None:
    """P1, when a write is acknowledged. Compares disk and log, not how long a guest waited."""
    guest = write.guest
    if not 0 < write.index < len(guest.images):
        raise Violation("P1", f"VM {guest.vm}: a write was acknowledged before it was captured")
    if guest.disk != guest.images[-1]:
        raise Violation("P1", f"VM {guest.vm}: its disk is not what its writes make in the order of their capture")


# -- P16: generations ----------------------------------------------------------------------------------------


def of_now(x: "Explorer", checkpoint: Checkpoint, newest: CheckpointId) -> None:
    """P16, when a checkpoint is listed. `newest`: of those that had come when its VPG's generation began."""
    generation = x.estate.vpg_of[checkpoint.vpg].generation
    if checkpoint.generation < generation and checkpoint.id > newest:
        said = f"checkpoint {checkpoint.id} of generation {checkpoint.generation} was listed in {generation}"
        raise Violation("P16", f"{checkpoint.vpg}: {said}")


# -- P2, P9, P16, P11: the journals -------------------------------------------------------------------------------


def fidelity(x: "Explorer", frame: Frame) -> None:
    """P2, P9, P16, when a frame is durable. Compares order and completeness; content is P3's matter."""
    generation, taken = x.checks.fences.get(frame.stream, (1, None))
    if frame.generation < generation and (taken is None or not reaches(taken, frame.upto)):
        raise Violation("P16", f"a frame of generation {frame.generation} was applied in {generation} ({frame.stream})")
    disks = x.disks[frame.stream]
    counts, sizes = frame.batch.per_vm(disks.spec.vms)
    if tuple(map(add, frame.after, counts)) != frame.upto:
        raise Violation("P2", f"a frame's rows are not those between its positions ({frame.stream})")
    if sizes != frame.sizes:
        raise Violation("P22", f"a frame says {frame.sizes} bytes, its rows have {sizes} ({frame.stream})")
    if frame.batch.columns.payload is not None:
        return
    writes = x.rows[frame.stream].writes
    for row in frame.batch.issued.tolist():
        write = writes[row]
        vm = write.guest.vm
        journal = disks.vms[vm]
        last = journal.last
        if write.index <= journal.newest:
            raise Violation("P9", f"VM {vm}: write {write.index} was applied after write {journal.newest}")
        if last and last + 1 < write.index and any(w.heard for w in write.guest.writes[last : write.index - 1]):
            raise Violation("P2", f"VM {vm}: write {write.index} follows write {last} in the journal")
        journal.last = journal.newest = write.index


def fresh(x: "Explorer", message: Resync) -> None:
    """P24, when an epoch is announced: its numbers begin beyond all that the journals hold, whoever restarted."""
    disks = x.disks[message.stream]
    last = tuple(max(d.lsns[-1] if d.lsns else 0, d.base) for d in disks.vms.values())
    if message.epoch <= disks.epoch or not reaches(message.after, disks.end) or not _beyond(x, message, last):
        held = f"which hold {disks.end} of epoch {disks.epoch}"
        raise Violation("P24", f"epoch {message.epoch} begins at {message.after} in journals {held} ({message.stream})")


def _beyond(x: "Explorer", message: Resync, last: Position) -> bool:
    """Whether an epoch begins beyond the rows of all VMs that are still in the stream, and in no later one."""
    taken = {vm for id_ in x.opened for vm in x.specs[id_].vms if id_.vpg == message.stream.vpg
             and id_.part > message.stream.part}  # fmt: skip
    inside = {volume.vm for volume in message.spec.volumes} - taken
    places = zip(x.disks[message.stream].vms, message.after, last, strict=True)
    return all(k >= end for vm, k, end in places if vm in inside)


def within_limit(x: "Explorer", stream: StreamId) -> None:
    """P11: a journal never passes its hard limit. Compares the store's bytes, not the core's account of them.

    Of a limit that was changed it compares the largest: nobody knows when the VRA heard of it.
    """
    limit = x.limits[stream.vpg]
    if not limit:
        return
    for vm in x.specs[stream].vms:
        if x.disks[stream].nbytes(vm) > limit:
            raise Violation("P11", f"the journal of VM {vm} has passed its hard limit")


def not_aged_past(x: "Explorer", effect: Promote) -> None:
    """P11, before data goes to a mirror: no checkpoint that is listed, or may be again, lies before it."""
    disks = x.disks[effect.stream]
    if any(k > d.end for d, k in zip(disks.vms.values(), effect.upto, strict=True)):
        raise Violation("P11", f"the mirror is asked for what is not durable ({effect.stream})")
    for checkpoint in x.kept[effect.stream.vpg].values():
        part = checkpoint.cut.get(effect.stream)
        if part is not None and _aged_past(disks, part, effect):
            said = f"data beyond checkpoint {checkpoint.id} is aged although it is listed"
            cut = zip(disks.vms.values(), part.position, effect.upto, strict=True)
            swept = any(
                write is None for d, k, n in cut for lsn, write in zip(d.lsns, d.writes, strict=True) if k < lsn <= n
            )
            raise Violation(
                "P12" if swept else "P11", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, stream=effect.stream
            )


def _aged_past(disks: StreamDisks, cut: Cut, effect: Promote) -> bool:
    """Whether rows beyond a cut would go to a mirror."""
    upto, inside = dict(zip(disks.vms, effect.upto, strict=True)), disks.cut_through(cut)
    return any(upto[vm] > max(k, disks.vms[vm].base) for vm, k in inside)


def not_listed(x: "Explorer", stream: StreamId, vms: tuple[VmId, ...]) -> None:
    """P23, before journals are deleted: no checkpoint that is listed, or may be again, has these VMs."""
    for checkpoint in x.kept[stream.vpg].values():
        inside = x.checks.cuts[stream.vpg, checkpoint.id].keys() & vms
        if stream in checkpoint.cut and inside:
            said = f"the journal of VM {min(inside)} is deleted although checkpoint {checkpoint.id} needs it"
            raise Violation("P23", said, vpg=stream.vpg, checkpoint=checkpoint.id, vm=min(inside))


def young(x: "Explorer", fact: CheckpointsRetired) -> None:
    """P11: for its age a checkpoint leaves the list only when the history does without it; never a fail-safe one.

    Of a history that was changed it compares the shortest: nobody knows when the catalogue heard of it.
    """
    taken = [c.taken for c in x.kept[fact.vpg].values()]
    lost = [c.taken for c in x.kept[fact.vpg].values() if fact.before is not None and c.id < fact.before]
    if lost and fact.reason == "history" and max(lost) >= max(taken) - x.histories[fact.vpg]:
        raise Violation("P11", f"{fact.vpg}: a checkpoint leaves the list for its age, younger than the history")
    fail_safe = x.catalog(fact.vpg).retention.fail_safe
    if lost and fail_safe and max(lost) >= max(taken) - fail_safe:
        raise Violation("P11", f"{fact.vpg}: a checkpoint of the fail-safe history leaves the list")


def given_up(x: "Explorer", vpg: str) -> None:
    """P11: all checkpoints are withdrawn only for a sync window that none of them closes, or with their VPG."""
    newest = max(x.kept[vpg].values(), key=lambda c: c.id, default=None)
    if newest is None:
        return
    if x.estate.vpg_of[vpg].deleting is not None:
        return
    if x.catalog(vpg).retention.fail_safe:
        raise Violation("P11", f"{vpg}: all checkpoints are withdrawn, and the fail-safe history with them")
    moved = [s for s in x.opened if s.vpg == vpg and s not in newest.cut and x.specs[s].follows is not None]
    if not moved and all(x.disks[stream].epoch <= cut.epoch for stream, cut in newest.cut.items()):
        raise Violation("P11", f"{vpg}: all checkpoints are withdrawn, and no sync asks for it")


def images(x: "Explorer", checkpoint: Checkpoint, blame: str) -> None:
    """P3, P5, P11: each VM's image at a kept checkpoint is its disk after the writes of the cut.

    Compares content, byte for byte; not how it would be booted, nor volumes that had left, or had not come. `blame` is
    the property when it is another point.
    """
    truth = x.checks.cuts.get((checkpoint.vpg, checkpoint.id), {})
    tapped = x.checks.tapped.get((checkpoint.vpg, checkpoint.id), {})
    for stream, cut in checkpoint.cut.items():
        disks = x.disks[stream]
        ends = dict(zip(disks.vms, disks.end, strict=True))
        if any(ends[vm] < k for vm, k in disks.cut_through(cut)):
            said = f"checkpoint {checkpoint.id} is listed and a journal does not have it ({stream})"
            raise Violation("P5", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, stream=stream)
        for vm, upto in disks.cut_through(cut):
            guest = x.guests[vm]
            if vm not in truth:
                said = f"checkpoint {checkpoint.id} has VM {vm}, which it was not taken of"
                raise Violation("P23", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, vm=vm)
            image = disks.image(vm, upto)
            if image != guest.images[truth[vm]] and not _same(image, guest.images[truth[vm]], tapped[vm]):
                known = any(_same(image, other, tapped[vm]) for other in guest.images)
                say = "those of another point" if known else "no past state of it"
                said = f"checkpoint {checkpoint.id}: VM {vm}'s disks are {say}"
                raise Violation(blame if known else "P3", said, vpg=checkpoint.vpg, checkpoint=checkpoint.id, vm=vm)


def _same(image: bytes, other: bytes, where: int) -> bool:
    """Whether two disks are the same in these `bits`."""
    return not (int.from_bytes(image, "little") ^ int.from_bytes(other, "little")) & where


def marked(x: "Explorer", checkpoint: Checkpoint) -> None:
    """P11, at rest: the recovery VRAs know how to rebuild what is listed."""
    for stream, cut in checkpoint.cut.items():
        journals = x.receiver(stream).journals
        for vm, upto in x.disks[stream].cut_through(cut):
            try:
                plan = journals[vm].plan(checkpoint.id)
            except CoreError as error:
                raise Violation("P11", f"checkpoint {checkpoint.id} is listed: {error}") from error
            if plan.upto != upto:
                raise Violation(
                    "P5", f"checkpoint {checkpoint.id}: VM {vm}'s journal has it at {plan.upto}, not {upto}"
                )


# -- P4, P5, P12: checkpoints -------------------------------------------------------------------------------------


def closed(guests: Iterable[tuple[Guest, int]], vpg: str, checkpoint: CheckpointId) -> None:
    """P4, when a checkpoint is sealed: acknowledgements to come are later than everything issued, so this is final."""
    inside, outside = 0, NEVER
    for guest, k in guests:
        inside = max(inside, max(guest.issued[:k], default=0))
        outside = min(outside, min(guest.acked[k:], default=NEVER))
    if inside > outside:
        said = f"checkpoint {checkpoint} has a write issued at {inside}, not one acknowledged at {outside}"
        raise Violation("P4", said, vpg=vpg, checkpoint=checkpoint)


def includes(guests: Iterable[tuple[Guest, int]], vpg: str, checkpoint: CheckpointId, asked: int) -> None:
    """P5: what was acknowledged before a checkpoint was asked for is in it."""
    for guest, k in guests:
        if min(guest.acked[k:], default=NEVER) < asked:
            said = f"checkpoint {checkpoint}: VM {guest.vm} had acknowledged more before it was asked for"
            raise Violation("P5", said, vpg=vpg, checkpoint=checkpoint, vm=guest.vm)


def whole(members: set[VmId], inside: set[VmId], vpg: str, checkpoint: CheckpointId) -> None:
    """P23: a checkpoint has every VM that the one before it had, unless an operator took it away meanwhile."""
    if missing := members - inside:
        said = f"checkpoint {checkpoint} lacks VM {min(missing)}, which belongs to its VPG and was in the one before"
        raise Violation("P23", said, vpg=vpg, checkpoint=checkpoint, vm=min(missing))
