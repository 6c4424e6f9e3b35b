"""Capacity: what one direction of a link carries over a whole run, from its bandwidth, throttle windows and faults."""

import numpy as np
from numpy.typing import NDArray

from drsim.spec.faults import DataPlaneDown, LinkDegraded, LinkDown, LinkFlapping, LinkPartition
from drsim.spec.model import Model
from drsim.spec.protect import DAY, clock

Int64 = NDArray[np.int64]
Float = NDArray[np.float64]


def over_time(model: Model, link: str, until: int) -> tuple[Int64, Float]:
    """Times in ns, ascending from 0, and the bytes/s that replication data gets from each on.

    A partition of either direction stops data: without acknowledgements no more is sent than fits a window.
    """
    spec = model.links[link]
    spans: list[tuple[int, int, float]] = []  # from, to, bits/s at most
    midnight = -clock(model.run.clock)
    for window in spec.throttle:
        start, end = clock(window.start), clock(window.end)
        for day in range(midnight - DAY, until, DAY):
            over = end if end > start else end + DAY
            spans.append((day + start, day + over, float(window.limit)))
    for fault in model.faults:
        match fault:
            case LinkDown() | LinkPartition() | DataPlaneDown() if fault.link == link:
                spans.append((fault.at, fault.at + fault.lasts, 0.0))
            case LinkDegraded(bandwidth=int(bandwidth)) if fault.link == link:
                spans.append((fault.at, fault.at + fault.lasts, float(bandwidth)))
            case LinkFlapping() if fault.link == link:
                period, over = fault.down + fault.up, fault.at + fault.lasts
                spans += [(t, min(t + fault.down, over), 0.0) for t in range(fault.at, over, period)]
            case _:
                pass
    edges = sorted({0, *(t for begin, end, _ in spans for t in (begin, end) if 0 < t < until)})
    times = np.array(edges, np.int64)
    bits = np.full(len(edges), float(spec.bandwidth))
    for begin, end, limit in spans:
        inside = (times >= begin) & (times < end)
        bits[inside] = np.minimum(bits[inside], limit)
    return times, bits / 8
