"""Clock: SimPy's event queue as calls at simulated times, in integer nanoseconds."""

from collections.abc import Callable
from typing import Any

import simpy

from drsim.core.units import Ns


class Clock:
    """Simulated time. Calls at equal times run in the order in which they were asked for."""

    def __init__(self) -> None:
        self.env = simpy.Environment()

    @property
    def now(self) -> Ns:
        return Ns(int(self.env.now))

    def call(self, delay: int, act: Callable[[], Any]) -> None:
        """Call `act` after `delay` nanoseconds."""
        event = self.env.timeout(delay)
        assert event.callbacks is not None
        event.callbacks.append(lambda _: act())

    def call_at(self, time: int, act: Callable[[], Any]) -> None:
        """Call `act` at a time, or now if that has passed."""
        self.call(max(0, time - int(self.env.now)), act)


class FifoServer:
    """One server that works first come, first served: a CPU, a disk.

    Departures follow Lindley's recursion: start = max(arrival, end of the job before).
    """

    __slots__ = ("free_at",)

    def __init__(self) -> None:
        self.free_at = 0

    def serve(self, now: int, service_ns: int) -> int:
        """When a job that arrives now and takes this long is done."""
        self.free_at = max(now, self.free_at) + service_ns
        return self.free_at
