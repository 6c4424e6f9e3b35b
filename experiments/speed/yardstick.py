"""The yardstick: the same path as a plain SimPy model, one process a write, no core, no batching.

guest -> capture -> WAN link (one server) -> latency -> journal disk (one server) -> latency -> acknowledgement.
It keeps no checkpoints, no order checks and no journal accounting: it does less than drsim for every write.
"""

from collections.abc import Iterator
from typing import Any

import simpy

LATENCY_S, DISK_S = 0.005, 0.001


class Path:
    """One protected host, one link, one journal disk. Rates in bits and bytes per second."""

    def __init__(self, env: simpy.Environment, *, bandwidth: float, disk_bandwidth: float) -> None:
        self.env, self.bandwidth, self.disk_bandwidth = env, bandwidth, disk_bandwidth
        self.link = simpy.Resource(env)
        self.disk = simpy.Resource(env)
        self.done = 0

    def write(self, nbytes: int) -> Iterator[Any]:
        """One write from the guest to its acknowledgement by the recovery side."""
        with self.link.request() as turn:
            yield turn
            yield self.env.timeout(nbytes * 8 / self.bandwidth)
        yield self.env.timeout(LATENCY_S)
        with self.disk.request() as turn:
            yield turn
            yield self.env.timeout(nbytes * 8 / self.disk_bandwidth)
        yield self.env.timeout(DISK_S)
        yield self.env.timeout(LATENCY_S)
        self.done += 1

    def guest(self, rate: float, nbytes: int) -> Iterator[Any]:
        """A guest that writes at a constant rate."""
        while True:
            yield self.env.timeout(1 / rate)
            self.env.process(self.write(nbytes))


def run(*, vms: int, rate: float, nbytes: int, seconds: float, bandwidth: float, disk_bandwidth: float) -> int:
    """Simulate; returns how many writes were acknowledged."""
    env = simpy.Environment()
    path = Path(env, bandwidth=bandwidth, disk_bandwidth=disk_bandwidth)
    for _ in range(vms):
        env.process(path.guest(rate, nbytes))
    env.run(until=seconds)
    return path.done
