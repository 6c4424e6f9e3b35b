"""Connections: why machines cannot reach each other. Both ends hear when the first reason comes and the last one goes.

A reason is anything: the name of a link that was given up, the address of a machine that is down, a fault. Who breaks
a connection says when it is noticed; what is on it then is gone (`World.tell`).
"""

from collections.abc import Hashable, Iterable

from drsim.core.events import Connected, Lost
from drsim.core.names import Address
from drsim.sim.world import World

Pair = tuple[Address, Address]


class Connections:
    """The connections of a world that are broken, each with its reasons."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reasons: dict[Pair, set[Hashable]] = {}

    def all(self) -> list[Pair]:
        """Every connection: protected end, recovery end between sites; VRA and manager within one."""
        vpgs = self._world.layout.vpgs
        between = [pair for vpg in vpgs for pair in vpg.peers]
        near = [(s.source, vpg.manager) for vpg in vpgs for s in vpg.ever]
        far = [(vpg.catalog, s.target) for vpg in vpgs for s in vpg.ever]
        return list(dict.fromkeys([*between, *near, *far]))

    def of(self, address: Address) -> list[Pair]:
        """Those of one machine."""
        return [pair for pair in self.all() if address in pair]

    def sever(self, pairs: Iterable[Pair], reason: Hashable) -> None:
        """There is a reason more why these are broken, and it has been noticed."""
        for pair in pairs:
            reasons = self._reasons.setdefault(pair, set())
            if not reasons:
                self._world.tell([pair], Lost)
            reasons.add(reason)

    def mend(self, pairs: Iterable[Pair], reason: Hashable) -> None:
        """A reason is gone; those without another one can be used again."""
        for pair in pairs:
            reasons = self._reasons.get(pair)
            if reasons and reason in reasons:
                reasons.discard(reason)
                if not reasons:
                    self._world.tell([pair], Connected)

    def appeared(self, pairs: Iterable[Pair]) -> None:
        """These are new: of no use while a link or site that they need is lost, or one of their ends is down."""
        world = self._world
        between = {pair: (vpg.manager, vpg.catalog) for vpg in world.layout.vpgs for pair in vpg.peers}
        for pair in pairs:
            found = self._reasons.get(between.get(pair, pair), set())
            for reason in [
                r for r in found if isinstance(r, tuple)
            ]:  # a link or a site; the others are machines, faults
                self.sever([pair], reason)
            for end in world.down.intersection(pair):
                self.sever([pair], end)

    def returned(self, address: Address) -> None:
        """A machine is up again, and may know nothing: it hears of each connection whether it can be used."""
        world = self._world
        for pair in self.of(address):
            reasons = self._reasons.setdefault(pair, set())
            reasons.discard(address)
            if reasons or world.down.intersection(pair):
                world.post(address, Lost(pair[pair[0] == address]))
            else:
                world.tell([pair], Connected)
