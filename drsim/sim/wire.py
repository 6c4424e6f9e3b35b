"""Wire: how messages travel: over the LAN of a site, or over a link, compressed as far as the VRA's CPU keeps up.

Between sites always a link; within one, what goes between the protected and the recovery side uses a link as well.
Messages between the same two ends keep their order on the LAN, and those of a stream keep theirs on a link.
"""

from collections import Counter
from collections.abc import Callable

from drsim.core.messages import Compare, Frame, Message, Resync, SyncDone, Where
from drsim.core.names import Address, StreamId, site_of
from drsim.core.units import SECOND
from drsim.sim.clock import Clock, FifoServer
from drsim.sim.layout import Layout
from drsim.sim.link import Direction
from drsim.sim.streams import Streams
from drsim.spec.protect import clock as clock_time

CONTROL_BYTES = 256  # a control message with its headers
DIGEST_BYTES = 16  # of one region on the wire; a truncated SHA-256

Shipped = Frame | Resync | SyncDone | Where | Compare
"""Messages of a stream that go in its order."""


class Wire:
    """The network of a model. `links`: by name and the site from which the direction leads.

    `uncompressed`: how many frames went as they were because the CPU was behind.
    """

    def __init__(self, clock: Clock, layout: Layout, streams: Streams, mattered: Counter[str]) -> None:
        model, start = layout.model, clock_time(layout.model.run.clock)
        self._clock, self._layout, self._model = clock, layout, model
        self.links = {
            (name, end): Direction(
                clock, link, start_of_day=start, rng=streams.rng(f"link/{name}/{n}"), mattered=mattered
            )
            for name, link in model.links.items()
            for n, end in enumerate(link.between)
        }
        self.uncompressed = 0
        self._lan = {site: streams.rng(f"lan/{site}") for site in model.sites}
        self._arrivals: dict[tuple[Address, Address], int] = {}
        self._routes: dict[tuple[Address, Address], Direction | None] = {}
        self._cpus = {layout.vras(host)[0]: FifoServer() for host in model.hosts}
        self._vras = {layout.vras(host)[0]: spec.vra for host, spec in model.hosts.items()}
        self._ratios: dict[StreamId, tuple[float, ...]] = {}
        self._ready: dict[StreamId, int] = {}

    def carry(
        self, sender: Address, to: Address, message: Message, deliver: Callable[[], None], alive: Callable[[], bool]
    ) -> None:
        """Bring a message to the other end; nothing of it leaves a sender that is not `alive` by then."""
        direction = self._route(sender, to)
        if direction is None:
            self._over_lan(sender, to, deliver)
        elif isinstance(message, Shipped):
            self._ship(direction, message, deliver, alive)
        else:
            direction.control(CONTROL_BYTES, deliver)

    def _route(self, sender: Address, to: Address) -> Direction | None:
        """The direction of the link that a message takes; None for the LAN."""
        if (sender, to) not in self._routes:
            source, target = site_of(sender), site_of(to)
            wan = source != target or self._layout.recovers(sender) != self._layout.recovers(to)
            link = self._model.link_between(source, target) if wan else None
            assert (link is not None) == wan, (source, target)
            self._routes[sender, to] = None if link is None else self.links[link, source]
        return self._routes[sender, to]

    def _over_lan(self, sender: Address, to: Address, deliver: Callable[[], None]) -> None:
        site = site_of(sender)
        spec = self._model.sites[site]
        jitter = int(self._lan[site].exponential(spec.lan_jitter)) if spec.lan_jitter else 0
        arrives = max(self._arrivals.get((sender, to), 0), self._clock.now + spec.lan_latency + jitter)
        self._arrivals[sender, to] = arrives
        self._clock.call_at(arrives, deliver)

    def _ship(
        self, direction: Direction, message: Shipped, deliver: Callable[[], None], alive: Callable[[], bool]
    ) -> None:
        id_, spec = message.stream, self._layout.vpg_of[message.stream.vpg].spec
        ready, wire, kind, framing = int(self._clock.now), float(CONTROL_BYTES), "control", direction.framing
        if isinstance(message, Frame):
            kind = "sync" if message.sync else "data"
            wire = float(message.nbytes)
            if spec.compression:
                ready, wire = self._compress(message)
            wire += framing.frame + framing.write * len(message.batch)
        elif isinstance(message, Compare):
            kind, wire = "sync", float(CONTROL_BYTES + DIGEST_BYTES * len(message.digests))
        ready = self._ready[id_] = max(ready, self._ready.get(id_, 0))
        wire = framing.whole(wire)

        def carry() -> None:
            if alive():
                direction.carry(id_, spec.priority, wire, kind, deliver)

        self._clock.call_at(ready, carry)

    def _compress(self, frame: Frame) -> tuple[int, float]:
        """When a frame is ready for the wire, and how many bytes it is then."""
        id_, now = frame.stream, int(self._clock.now)
        vra, cpu = self._vras[id_.source], self._cpus[id_.source]
        if cpu.free_at - now > vra.compress_patience:
            self.uncompressed += 1
            return now, float(frame.nbytes)
        ready = cpu.serve(now, int(frame.nbytes * 8 * SECOND / (vra.compress_rate * vra.vcpus)))
        if id_ not in self._ratios:
            vms = self._layout.streams[id_].vms
            self._ratios[id_] = tuple(self._layout.vm(vm).workload.compress_to for vm in vms)
        return ready, sum(size * ratio for size, ratio in zip(frame.sizes, self._ratios[id_], strict=True))
