"""Quiesce: applications on the explorer's guests. Who is at rest, and whether checkpoints claim nobody else (P19).

Theory of operation. An application writes in transactions: one write opens it, a later one closes it. A cut is
application consistent for a VM (L3) exactly when none is open after the writes of that VM that it has. A VM can be
frozen when no transaction is open, no write is in flight and none waits for its acknowledgement; one that is not
there yet when the effect is performed was too slow. A frozen VM issues nothing. It is thawed by `ThawGuests` of the
same freeze and by the death of its VRA, as a hold ends.
"""

from typing import TYPE_CHECKING

from drsim.core.effects import FreezeGuests, ThawGuests
from drsim.core.messages import Checkpoint, Held
from drsim.core.names import Address, CheckpointId, VmId
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer

Mark = tuple[Address, str, int]


class Freezer:
    """The guests' side of freezes."""

    def __init__(self, x: "Explorer") -> None:
        self.x = x
        self.frozen: dict[VmId, Mark] = {}
        """VMs at rest: for which VRA, VPG and freeze."""
        self.failing: set[VmId] = set()
        """VMs that cannot be frozen."""
        self.at_cut: dict[tuple[str, CheckpointId], set[VmId]] = {}
        """Truth: which VMs of a checkpoint were at rest when their VRA held."""
        self._ended: dict[tuple[Address, str], int] = {}

    def freeze(self, vra: Address, effect: FreezeGuests) -> tuple[VmId, ...]:
        """The VMs that come to rest."""
        if vra in self.x.down or self._ended.get((vra, effect.vpg), 0) >= effect.number:
            return ()
        vms = tuple(vm for vm in effect.vms if self._can_rest(vm, vra))
        self.frozen.update(dict.fromkeys(vms, (vra, effect.vpg, effect.number)))
        if len(vms) < len(effect.vms):
            self.x.probes.add("a VM took no part in a freeze")
        return vms

    def _can_rest(self, vm: VmId, vra: Address) -> bool:
        guest = self.x.guests[vm]
        waits = any(write.guest is guest for writes in self.x.unacked.values() for write in writes)
        busy = guest.open[-1] or guest.in_flight or waits
        return guest.host == vra and vm not in self.failing and vm not in self.frozen and not busy

    def thaw(self, vra: Address, effect: ThawGuests) -> None:
        """The VMs of a freeze go on."""
        self._ended[vra, effect.vpg] = effect.number
        self._release((vra, effect.vpg, effect.number))

    def bury(self, vra: Address) -> None:
        """A VRA died: its guests go on."""
        for mark in {mark for mark in self.frozen.values() if mark[0] == vra}:
            self._release(mark)

    def _release(self, mark: Mark) -> None:
        for vm in [vm for vm, of in self.frozen.items() if of == mark]:
            del self.frozen[vm]


def held(x: "Explorer", vra: Address, message: Held) -> None:
    """P19, when a VRA holds: it names the guests of its part of the cut that are frozen now, and no other."""
    mine = [vm for vm, (of, vpg, _) in x.freezer.frozen.items() if (of, vpg) == (vra, message.vpg)]
    there = {vm for vm in mine if x.guests[vm].stream in message.cut}
    if set(message.frozen) != there:
        said = f"checkpoint {message.checkpoint}: {vra} calls VMs {list(message.frozen)} frozen, {sorted(there)} are"
        raise Violation("P19", said, vpg=message.vpg, checkpoint=message.checkpoint)
    x.freezer.at_cut.setdefault((message.vpg, message.checkpoint), set()).update(there)


def claimed(x: "Explorer", checkpoint: Checkpoint, cut: dict[VmId, int]) -> None:
    """P19, when a checkpoint is listed: no VM that it claims has a transaction open; it claims all frozen ones.

    Compares the truth at the guests; not what an application makes of its disks.
    """
    if not checkpoint.quiesced:
        return
    x.probes.add("a checkpoint claims VMs at rest")
    number, vpg = checkpoint.id, checkpoint.vpg
    for vm in checkpoint.quiesced:
        if x.guests[vm].open[cut[vm]]:
            said = f"checkpoint {number} claims VM {vm}, which has a transaction open at its cut"
            raise Violation("P19", said, vpg=vpg, checkpoint=number, vm=vm)
    if set(checkpoint.quiesced) != x.freezer.at_cut.get((vpg, number), set()):
        said = f"checkpoint {number} claims VMs {list(checkpoint.quiesced)}, which are not those that were frozen"
        raise Violation("P19", said, vpg=vpg, checkpoint=number)


def ran_out(x: "Explorer", vra: Address, vpg: str) -> None:
    """P19, when the freeze timeout has run out: nobody is frozen any more."""
    still = [vm for vm, (of, name, _) in x.freezer.frozen.items() if (of, name) == (vra, vpg)]
    if still:
        raise Violation("P19", f"VMs {still} are frozen beyond the timeout", vpg=vpg, vm=still[0])


def under_way(x: "Explorer") -> None:
    """P19, when nothing is under way: whoever is frozen waits for a checkpoint that is being taken, and has an alarm.

    Does not compare where a connection carries nothing and nobody has noticed.
    """
    silent = x.half_open | x.clogged
    for vm, (vra, vpg, number) in x.freezer.frozen.items():
        if not any(address == vra and timer.startswith("freeze") for address, timer in x.timers):
            raise Violation("P19", f"VM {vm} is frozen, and no alarm ends it", vpg=vpg, vm=vm)
        manager = x.estate.managers[vpg]
        freeze = x.vpg(vpg).freeze
        over = freeze.tag is None or freeze.number != number
        if over and not silent.intersection(((vra, manager), (manager, vra))):
            raise Violation("P19", f"VM {vm} is frozen for a checkpoint that is sealed or void", vpg=vpg, vm=vm)
