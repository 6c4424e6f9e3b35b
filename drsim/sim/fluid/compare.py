"""Compare: how fast streams find out, stretch by stretch, which regions differ from what the other side holds.

Theory of operation. One stretch is compared at a time (`core.sender`): the source reads it and sends digests, the other
side reads it and answers. What differed in the stretch before is read and shipped meanwhile. So a stretch takes

    the longer of      reading it at the source, which the reading of what is to be shipped holds up
      and              shipping what is in the window already, because digests queue behind that
    then               the digests on the link, the other side's reading, a round trip
    but no less than   shipping what differs in it

and no stretch is begun while more is known to differ than fits one. Datastores that many streams scan are shared alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drsim.core.units import SECOND
from drsim.sim.fluid.legs import Leg
from drsim.sim.store import AGE_CHUNK
from drsim.spec.model import Datastore, Model

Float = NDArray[np.float64]
DIGEST = 16
"""Bytes of a region's digest (`core.messages.Compare`)."""


class Scan:
    """The comparisons of a network's streams. `stretch`: bytes compared at a time."""

    def __init__(self, model: Model, legs: Sequence[Leg]) -> None:
        tweaks = model.tweaks
        self.stretch, self._region = float(tweaks.compare_bytes), tweaks.region_bytes
        self._frame, self._window = float(tweaks.sync_bytes), float(tweaks.window_bytes)
        names = list(model.datastores)
        ends, trips = [], []
        for leg in legs:
            link = model.link_between(leg.vpg.source, leg.vpg.target)
            assert link is not None
            for spec in leg.vpg.streams:
                source = leg.layout.vm(spec.vms[0]).datastore
                ends.append((names.index(source), names.index(leg.vpg.spec.recovery.datastore)))
                trips.append(2 * (model.links[link].latency + model.links[link].jitter) / SECOND)
        stores = list(model.datastores.values())
        self._from, self._to = np.array(ends, np.int64).T
        self._reads = np.array([self._reading(store) for store in stores])
        self._iops = np.array([store.iops for store in stores])
        self._trip = np.array(trips)

    def _reading(self, store: Datastore) -> float:
        """Seconds to read a stretch."""
        return self.stretch * 8 / store.bandwidth + self.stretch / AGE_CHUNK * store.latency / SECOND

    @property
    def fastest(self) -> Float:
        """Bytes/s that each stream compares at most, alone and when nothing differs."""
        return np.asarray(self.stretch / (self._reads[self._from] + self._reads[self._to] + self._trip))

    def digests(self, nbytes: Float) -> Float:
        """Bytes on the link for this much compared."""
        return nbytes / self._region * DIGEST

    def speed(self, which: NDArray[np.bool_], differs: Float, growth: Float, rate: Float, squeeze: Float) -> Float:
        """Bytes/s that these streams compare. Of what they compare `differs` differs, guests mark `growth` bytes/s

        beside it, and the link takes `rate` (raw bytes/s) of each. All float64[streams].
        """
        rate = np.maximum(rate, 1.0)
        found = self.stretch * differs
        reads = np.minimum(self._frame, found) * (1 - differs) / self._region / self._iops[self._from]
        digests = self.stretch / self._region * DIGEST / (rate * squeeze)
        slow, period = np.ones(len(self._reads)), np.zeros(len(rate))
        for _ in range(4):  # what guests mark meanwhile, and how stores are shared, depends on it
            ship = (found + growth * period) / rate
            queued = np.minimum(ship, self._window / rate)
            source, target = (slow * self._reads)[self._from], (slow * self._reads)[self._to]
            period = np.maximum(source + reads, reads + queued) + digests + target + self._trip
            period = np.maximum(period, ship)
            busy = np.zeros(len(self._reads))
            np.add.at(busy, self._from[which], (self._reads[self._from] / period)[which])
            np.add.at(busy, self._to[which], (self._reads[self._to] / period)[which])
            slow = np.maximum(1.0, busy)
        return self.stretch / period
