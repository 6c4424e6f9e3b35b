"""Components: VRAs and managers that stop, die and come back, and when their peers notice.

    ends              its memory          its peers notice
    ----------------  ------------------  -----------------------------------------------------------
    in good order     stays               at once: it says goodbye
    by a crash        gone: built again   after the peer timeout, or when it is back before that

A component that several faults keep down comes back when the last of them ends, and without its memory if one of them
was a crash. On a site that is lost nothing comes back.
"""

from functools import partial

from drsim.core.names import Address, site_of
from drsim.core.recovery_vra import RecoveryVra
from drsim.sim.connections import Connections
from drsim.sim.world import World


class Components:
    """The components of a world that are down."""

    def __init__(self, world: World, connections: Connections) -> None:
        self._world, self._connections = world, connections
        self._held: dict[Address, int] = {}  # how many faults keep it down
        self._crashed: set[Address] = set()  # its memory is gone
        self._outages: dict[Address, int] = {}

    def down(self, address: Address, lasts: int, kind: str, *, crash: bool, noticed: int | None = None) -> None:
        """A component is down for so many nanoseconds. `noticed`: when its peers notice a crash; None: at a timeout."""
        world = self._world
        if address not in world.kernel.machines or site_of(address) in world.dead_sites:
            return
        world.mattered[kind] += 1
        self._held[address] = self._held.get(address, 0) + 1
        world.clock.call(lasts, lambda: self._end(address))
        fresh = self._held[address] == 1
        if crash and address not in self._crashed:
            self._crashed.add(address)
            world.crash(address)
        if not fresh:
            return
        outage = self._outages[address] = self._outages.get(address, 0) + 1
        if crash:
            after = world.model.tweaks.peer_timeout if noticed is None else noticed
            world.clock.call(after, lambda: self._notice(address, outage))
        else:
            world.stop(address)
        self._close(address)
        if not crash:
            self._connections.sever(self._connections.of(address), address)

    def one_after_another(self, groups: list[tuple[Address, ...]], lasts: int, pause: int, kind: str) -> None:
        """Groups of components go down in good order, each a while after the one before is back."""
        for n, group in enumerate(groups):
            self._world.clock.call(n * (lasts + pause), partial(self._restart, group, lasts, kind))

    def _restart(self, group: tuple[Address, ...], lasts: int, kind: str) -> None:
        for address in group:
            self.down(address, lasts, kind, crash=False)

    def _close(self, address: Address) -> None:
        """What waits on links for or from it goes nowhere."""
        for stream in self._world.layout.streams:
            if address in (stream.source, stream.target):
                for direction in self._world.links.values():
                    direction.drop(stream)

    def _notice(self, address: Address, outage: int) -> None:
        if self._held[address] and self._outages[address] == outage:
            self._connections.sever(self._connections.of(address), address)

    def _end(self, address: Address) -> None:
        self._held[address] -= 1
        world = self._world
        if self._held[address] or site_of(address) in world.dead_sites:
            return
        self._connections.sever(self._connections.of(address), address)  # those that had not noticed do now
        if address in self._crashed:
            self._crashed.discard(address)
            if isinstance(world.kernel.machines[address], RecoveryVra):
                world.rebuild(address)  # from what its store has by now
        world.begin_life(address)
        self._connections.returned(address)
