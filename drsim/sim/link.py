"""WAN links: one direction of a link as a shared fluid, streams as queues on it.

Theory of operation. Each stream has a queue of frames on the link and at most one of them moves. The moving frames
share the capacity: higher priorities first, equal ones max-min fair, each stream bounded by what one TCP connection
reaches at the link's loss (Mathis et al., "The macroscopic behavior of the TCP congestion avoidance algorithm", 1997:
MSS / RTT * sqrt(3/2) / sqrt(p)). Between two changes of the set of moving streams or of the capacity all rates are
constant, so the next completion is known exactly, and that is the only event.

A frame arrives one latency after its last byte left, plus jitter; frames of a stream never overtake each other.
Control messages are small: they take latency and jitter, are counted, and are not delayed by data, which throttle
windows do not slow either (products.md 1.6: "throttle: data only"). While the link is down everything waits where it
is, as TCP does; `drop` empties it when the connections are given up.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import ceil, inf, sqrt

import numpy as np

from drsim.core.units import SECOND
from drsim.sim.clock import Clock
from drsim.spec.faults import LinkDegraded
from drsim.spec.model import Link
from drsim.spec.protect import DAY, Throttle, clock

MSS_BITS = 1460 * 8  # Ethernet's 1500 bytes less 40 of headers
RANK = {"high": 0, "medium": 1, "low": 2}


def mathis_bps(loss: float, round_trip_ns: int) -> float:
    """Bits per second that one TCP connection reaches at a packet loss; infinite without loss."""
    if loss <= 0:
        return inf
    return MSS_BITS / max(round_trip_ns / SECOND, 1e-6) * sqrt(1.5 / loss)


def fair_shares(capacity: float, caps: list[float]) -> list[float]:
    """Max-min fair shares of a capacity among flows with an upper bound each, in the order given."""
    shares = [0.0] * len(caps)
    left, waiting = capacity, len(caps)
    for n in sorted(range(len(caps)), key=lambda n: (caps[n], n)):
        shares[n] = min(caps[n], left / waiting)
        left -= shares[n]
        waiting -= 1
    return shares


@dataclass(slots=True)
class _Job:
    bits: float
    kind: str
    deliver: Callable[[], None]


@dataclass(slots=True)
class _Flow:
    rank: int
    jobs: deque[_Job] = field(default_factory=deque)
    rate: float = 0.0  # bits per nanosecond
    arrives: int = 0  # when the youngest delivery arrives


class Direction:
    """One direction of a link. `sent` counts bytes by kind: data, sync, control.

    `mattered` counts by kind of fault the messages that were handed to it while it was ill.
    """

    def __init__(
        self, clock_: Clock, link: Link, *, start_of_day: int, rng: np.random.Generator,
        mattered: Counter[str] | None = None,
    ) -> None:  # fmt: skip
        self._clock, self._link, self._rng = clock_, link, rng
        self._start_of_day, self.framing = start_of_day, link.framing
        self.bandwidth, self.latency, self.loss, self.jitter = link.bandwidth, link.latency, link.loss, link.jitter
        self.mattered: Counter[str] = Counter() if mattered is None else mattered
        self._ills: list[str] = []  # kinds of the faults that it suffers now
        self._degraded: list[LinkDegraded] = []
        self.up = True
        self.sent = {"data": 0.0, "sync": 0.0, "control": 0.0}
        self._flows: dict[Hashable, _Flow] = {}
        self._since = 0
        self._version = 0
        self._capacity, self._cap = self.capacity, mathis_bps(self.loss, 2 * self.latency)
        self._control_arrives = 0
        self._stuck: deque[Callable[[], None]] = deque()
        if link.throttle:
            self._next_window()

    # -- capacity ---------------------------------------------------------------------------------------------

    def _next_window(self) -> None:
        """Come back at the next edge of a throttle window."""
        day = (self._clock.now + self._start_of_day) % DAY
        edges = [clock(edge) for t in self._link.throttle for edge in (t.start, t.end)]
        delay = min((edge - day - 1) % DAY + 1 for edge in edges)
        self._clock.call(delay, self._at_window)

    def _at_window(self) -> None:
        self.changed()
        self._next_window()

    def _throttled(self, window: Throttle) -> bool:
        day = (self._clock.now + self._start_of_day) % DAY
        start, end = clock(window.start), clock(window.end)
        return start <= day < end if start <= end else day >= start or day < end

    @property
    def capacity(self) -> float:
        """Bits per second that replication data gets now."""
        if not self.up:
            return 0.0
        return float(min([self.bandwidth, *(w.limit for w in self._link.throttle if self._throttled(w))]))

    def changed(self) -> None:
        """Capacity, latency or loss changed: share anew. Call after setting them; time up to now is accounted first."""
        self._advance()
        self._capacity, self._cap = self.capacity, mathis_bps(self.loss, 2 * self.latency)
        self._share()

    # -- data -------------------------------------------------------------------------------------------------

    def carry(self, stream: Hashable, priority: str, nbytes: float, kind: str, deliver: Callable[[], None]) -> None:
        """Carry a frame of this many bytes on the wire; `deliver` is called when it has arrived."""
        if self._ills:
            self.mattered.update(self._ills)
        flow = self._flows.get(stream)
        if flow is None:
            flow = self._flows[stream] = _Flow(RANK[priority])
        job = _Job(nbytes * 8.0, kind, deliver)
        if flow.jobs:
            flow.jobs.append(job)
            return
        self._advance()
        flow.jobs.append(job)
        self._share()

    def _advance(self) -> None:
        """Move everything from the last change up to now."""
        now = self._clock.now
        passed, self._since = now - self._since, now
        if not passed:
            return
        for flow in self._flows.values():
            if flow.jobs and flow.rate:
                job = flow.jobs[0]
                moved = min(job.bits, flow.rate * passed)
                job.bits -= moved
                self.sent[job.kind] += moved / 8

    def _share(self) -> None:
        moving = [flow for flow in self._flows.values() if flow.jobs]
        left, cap = self._capacity, self._cap
        if len(moving) == 1:
            moving[0].rate = min(left, cap) / SECOND
            self._schedule(moving)
            return
        for rank in sorted({flow.rank for flow in moving}):
            flows = [flow for flow in moving if flow.rank == rank]
            for flow, share in zip(flows, fair_shares(left, [cap] * len(flows)), strict=True):
                flow.rate = share / SECOND
                left -= share
            left = max(0.0, left)
        self._schedule(moving)

    def _schedule(self, moving: list[_Flow]) -> None:
        self._version += 1
        version = self._version
        delay = min((flow.jobs[0].bits / flow.rate for flow in moving if flow.rate > 1e-12), default=inf)
        if delay < inf:
            self._clock.call(ceil(delay), lambda: self._complete(version))

    def _complete(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        emptied = False
        for flow in list(self._flows.values()):
            while flow.jobs and flow.jobs[0].bits < 1e-3:
                self._depart(flow, flow.jobs.popleft())
                emptied = emptied or not flow.jobs
        if emptied:
            self._share()
        else:
            self._schedule([flow for flow in self._flows.values() if flow.jobs])

    def _delay(self) -> int:
        return self.latency + (int(self._rng.exponential(self.jitter)) if self.jitter else 0)

    def _depart(self, flow: _Flow, job: _Job) -> None:
        flow.arrives = max(flow.arrives, self._clock.now + self._delay())
        self._clock.call_at(flow.arrives, job.deliver)

    # -- control ----------------------------------------------------------------------------------------------

    def control(self, nbytes: int, deliver: Callable[[], None]) -> None:
        """Carry a small message, in order."""
        if self._ills:
            self.mattered.update(self._ills)
        self._control(nbytes, deliver)

    def _control(self, nbytes: int, deliver: Callable[[], None]) -> None:
        if not self.up:
            self._stuck.append(lambda: self._control(nbytes, deliver))
            return
        self.sent["control"] += nbytes
        self._control_arrives = max(self._control_arrives, self._clock.now + self._delay())
        self._clock.call_at(self._control_arrives, deliver)

    # -- faults -----------------------------------------------------------------------------------------------

    def suffers(self, kind: str) -> None:
        """A fault of this kind begins here."""
        self._ills.append(kind)

    def recovers(self, kind: str) -> None:
        """It ends."""
        self._ills.remove(kind)

    def degrade(self, fault: LinkDegraded) -> None:
        """Slower, longer or lossier while the fault lasts; of several, the last that says something counts."""
        self._degraded.append(fault)
        self._reckon()
        self._clock.call(fault.lasts, lambda: self._restore(fault))

    def _restore(self, fault: LinkDegraded) -> None:
        self._degraded.remove(fault)
        self._reckon()

    def _reckon(self) -> None:
        link = self._link
        self.bandwidth, self.latency, self.loss, self.jitter = link.bandwidth, link.latency, link.loss, link.jitter
        for fault in self._degraded:
            self.bandwidth = self.bandwidth if fault.bandwidth is None else fault.bandwidth
            self.latency = self.latency if fault.latency is None else fault.latency
            self.loss = self.loss if fault.loss is None else fault.loss
            self.jitter = self.jitter if fault.jitter is None else fault.jitter
        self.changed()

    def set_up(self, up: bool) -> None:
        """Take the link down or up. What waits on it goes on when it is up again."""
        self.up = up
        self.changed()
        while self.up and self._stuck:
            self._stuck.popleft()()

    def drop(self, stream: Hashable | None = None) -> None:
        """The connection of a stream (None: all connections) is given up: what has not left is gone."""
        self._advance()
        if stream is None:
            self._flows.clear()
            self._stuck.clear()
        else:
            self._flows.pop(stream, None)
        self._share()

    def measure(self) -> dict[str, float]:
        """Bytes sent by kind up to now."""
        self._advance()
        return dict(self.sent)
