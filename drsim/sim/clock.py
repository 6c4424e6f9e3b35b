"""Clock: SimPy's event queue as calls at simulated times, in integer nanoseconds; and what clocks at the sites show."""

from collections.abc import Callable, Mapping
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


class SiteClocks:
    """What the clocks of sites show: each is ahead of the true time by as much, and may jump further ahead."""

    def __init__(self, ahead: Mapping[str, int]) -> None:
        self._steps = {site: [(0, by)] for site, by in ahead.items()}
        self.differ = any(ahead.values())
        """Whether any clock shows another time than the true one."""

    def ahead(self, site: str) -> int:
        """How far a site's clocks are ahead, in nanoseconds."""
        return self._steps[site][-1][1]

    def step(self, site: str, now: int, by: int) -> None:
        """A site's clocks jump ahead."""
        self._steps[site].append((now, self.ahead(site) + by))
        self.differ = True

    def stepped(self, site: str) -> bool:
        """Whether they ever did."""
        return len(self._steps[site]) > 1

    def true(self, site: str, shown: int) -> int:
        """When a site's clocks showed this time."""
        return next((shown - by for since, by in reversed(self._steps[site]) if shown - by >= since), shown)
