"""Quiesce: the agents in the simulated guests, which bring applications to rest for a checkpoint, and let them go on.

Theory of operation. Each VM with an agent (`Vm.quiesce`) takes its time to flush; it goes on writing until then, and
writes nothing from then on until it is thawed. What its application would have written meanwhile comes at once after
the thaw: its users wait, and do not go away. A freeze is answered when the last agent has succeeded, failed or used
up the time that it was given. The death of a VRA ends its freezes, as it ends its holds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from drsim.core.effects import FreezeGuests
from drsim.core.names import Address, VmId
from drsim.sim.clock import Clock
from drsim.sim.guest import Tap
from drsim.sim.layout import Layout
from drsim.sim.streams import Streams

Mark = tuple[Address, str, int]


class Agents:
    """The agents of all guests of a world. `taps`: of each VRA; `pull` brings a VRA's guests up to now.

    `rest`: how long each VM was at rest so far, in nanoseconds.
    """

    def __init__(
        self, clock: Clock, layout: Layout, taps: Mapping[Address, Sequence[Tap]], pull: Callable[[Address], None],
        streams: Streams,
    ) -> None:  # fmt: skip
        self.clock, self.layout = clock, layout
        self._taps_of, self._pull = taps, pull
        self.rest: dict[VmId, int] = {}
        self._frozen: dict[Mark, dict[VmId, int]] = {}  # of each freeze that goes on: VMs at rest, and since when
        self._rng = {
            id_: streams.rng(f"vm/{name}/quiesce")
            for name, id_ in layout.vm_ids.items()
            if layout.vms[name].quiesce is not None
        }

    def freeze(self, vra: Address, effect: FreezeGuests, answer: Callable[[tuple[VmId, ...]], None]) -> None:
        """Bring VMs to rest; `answer` is called with those that are, unless the freeze ended before."""
        mark = (vra, effect.vpg, effect.number)
        self._frozen[mark] = {}
        begun, ready = self.clock.now, 0
        for vm in effect.vms:
            spec = self.layout.vm(vm).quiesce
            if spec is None:
                continue
            fails = bool(self._rng[vm].random() < spec.fails)
            if spec.takes <= effect.timeout and not fails:
                self.clock.call(spec.takes, partial(self._rests, mark, vm))
            ready = max(ready, min(spec.takes, effect.timeout))

        def done() -> None:
            if mark in self._frozen:
                answer(tuple(sorted(self._frozen[mark])))

        self.clock.call_at(begun + ready, done)  # after those above, at the same instant

    def _rests(self, mark: Mark, vm: VmId) -> None:
        if mark not in self._frozen:
            return
        self._pull(mark[0])
        self._frozen[mark][vm] = self.clock.now
        for tap in self._taps(mark[0], vm):
            tap.freeze(vm)

    def thaw(self, mark: Mark) -> None:
        """The VMs of a freeze go on."""
        now = self.clock.now
        for vm, since in self._frozen.pop(mark, {}).items():
            self.rest[vm] = self.rest.get(vm, 0) + now - since
            for tap in self._taps(mark[0], vm):
                tap.thaw(vm, now)

    def bury(self, vra: Address) -> None:
        """A VRA died."""
        for mark in [mark for mark in self._frozen if mark[0] == vra]:
            self.thaw(mark)

    def _taps(self, vra: Address, vm: VmId) -> list[Tap]:
        return [tap for tap in self._taps_of.get(vra, ()) if vm in tap.spec.vms]
