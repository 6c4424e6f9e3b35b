"""Quiesce: the agents in the simulated guests, which bring applications to rest for a checkpoint, and let them go on.

Theory of operation. Each VM with an agent (`Vm.quiesce`) takes its time to flush; it goes on writing until then, and
writes nothing from then on until it is thawed. What its application would have written meanwhile comes at once after
the thaw: its users wait, and do not go away. A freeze is answered when the last agent has succeeded, failed or used
up the time that it was given. The death of a VRA ends its freezes, as it ends its holds.

A VM in several VPGs may be in several freezes at once. It is at rest for all of them together: from the first one on,
until the last one is over. When it leaves its host, what had it at rest there has not any more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from drsim.core.effects import FreezeGuests
from drsim.core.names import Address, VmId
from drsim.sim.clock import Clock
from drsim.sim.layout import Layout
from drsim.sim.streams import Streams
from drsim.sim.tap import Tap

Mark = tuple[Address, str, int]


@dataclass(slots=True)
class _Rest:
    since: int
    freezes: set[Mark] = field(default_factory=set)


class Agents:
    """The agents of all guests of a world. `taps`: of a VM, brought up to now. `runs_on`: at which VRA.

    `rest`: how long each VM was at rest so far, in nanoseconds.
    """

    def __init__(
        self, clock: Clock, layout: Layout, taps: Callable[[VmId], Sequence[Tap]],
        runs_on: Callable[[VmId], Address | None], streams: Streams,
    ) -> None:  # fmt: skip
        self.clock, self.layout = clock, layout
        self._taps, self._runs_on = taps, runs_on
        self.rest: dict[VmId, int] = {}
        self._frozen: dict[Mark, list[VmId]] = {}  # of each freeze that goes on: VMs that came to rest
        self._at_rest: dict[VmId, _Rest] = {}
        self._rng = {
            id_: streams.rng(f"vm/{name}/quiesce")
            for name, id_ in layout.vm_ids.items()
            if layout.vms[name].quiesce is not None
        }

    def freeze(self, vra: Address, effect: FreezeGuests, answer: Callable[[tuple[VmId, ...]], None]) -> None:
        """Bring VMs to rest; `answer` is called with those that are, unless the freeze ended before."""
        mark = (vra, effect.vpg, effect.number)
        self._frozen[mark] = []
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
        self._frozen[mark].append(vm)
        if self._runs_on(vm) != mark[0]:
            return  # it left meanwhile
        if vm not in self._at_rest:
            for tap in self._taps(vm):
                tap.freeze(vm)
        self._at_rest.setdefault(vm, _Rest(self.clock.now)).freezes.add(mark)

    def thaw(self, mark: Mark) -> None:
        """The VMs of a freeze go on, but for those that another one has at rest."""
        for vm in self._frozen.pop(mark, ()):
            rest = self._at_rest.get(vm)
            if rest is not None:
                rest.freezes.discard(mark)
                if not rest.freezes:
                    self.go_on(vm)

    def go_on(self, vm: VmId) -> None:
        """A VM goes on, if it is at rest, whoever wants it to be."""
        rest, now = self._at_rest.pop(vm, None), self.clock.now
        if rest is not None:
            self.rest[vm] = self.rest.get(vm, 0) + now - rest.since
            for tap in self._taps(vm):
                tap.thaw(vm, now)

    def bury(self, vra: Address) -> None:
        """A VRA died."""
        for mark in [mark for mark in self._frozen if mark[0] == vra]:
            self.thaw(mark)
