"""Holds: the gates of the guests on a site's hosts, closed for checkpoints, and for how long.

Theory of operation (PROTOCOL 3). The gates are closed before a VRA hears of a hold, so that nothing is acknowledged
that will not be in its answer; if it does not hold after all, they open again.

    close    when the manager has said it: the hosts of a site close their gates at the same time
    closed   before the VRA hears of it: wait until they are, as long as the budget allows
    keep     the VRA holds
    open     the VRA lets go, or it does not hold
"""

import time
from collections import deque
from collections.abc import Mapping

from drsim.core.messages import Hold
from drsim.core.names import Address, StreamId
from drsim.real.host_tap import HostTap
from drsim.real.tap import Tap

Guests = tuple[Address, str]
"""Those of a VPG on a VRA's host."""


class Holds:
    """See the module. `taps`: of the site. `budget` in seconds, from when the first VRA was asked for a checkpoint."""

    def __init__(self, taps: Mapping[StreamId, Tap | HostTap], budget: float) -> None:
        self.seconds: deque[float] = deque(maxlen=1000)
        """How long the guests of one VPG on one host had to wait, of the last ones."""
        self._taps, self._budget = taps, budget
        self._began: dict[Guests, float] = {}
        self._until: dict[str, tuple[int, float]] = {}  # of each VPG's last checkpoint
        self._kept: set[Guests] = set()

    def taps_of(self, vra: Address, vpg: str | None = None) -> list[Tap | HostTap]:
        """The taps on a VRA's host, of one VPG or of all."""
        return [tap for id_, tap in self._taps.items() if id_.source == vra and vpg in (None, id_.vpg)]

    def close(self, vra: Address, hold: Hold) -> float:
        """Begin to close the gates, unless that is done; until when they may be closed (`time.monotonic`)."""
        now, taps = time.monotonic(), self.taps_of(vra, hold.vpg)
        if taps:  # else nobody waits
            self._began.setdefault((vra, hold.vpg), now)
        known = self._until.get(hold.vpg)
        if known is None or known[0] != hold.checkpoint:
            known = self._until[hold.vpg] = hold.checkpoint, now + self._budget
        for tap in taps:
            tap.hold()
        return known[1]

    def closed(self, vra: Address, hold: Hold) -> bool:
        """Whether they are closed within the budget."""
        until = self.close(vra, hold)
        return all(tap.holds(until) for tap in self.taps_of(vra, hold.vpg))

    def keep(self, vra: Address, vpg: str) -> None:
        """The VRA holds these guests."""
        self._kept.add((vra, vpg))

    def settle(self, vra: Address, vpg: str) -> None:
        """The VRA has heard of a hold: the gates open if it does not hold."""
        if (vra, vpg) not in self._kept:
            self.open(vra, vpg)

    def open(self, vra: Address, vpg: str) -> None:
        """Acknowledge what was withheld."""
        self._kept.discard((vra, vpg))
        for tap in self.taps_of(vra, vpg):
            tap.release()
        if (began := self._began.pop((vra, vpg), None)) is not None:
            self.seconds.append(time.monotonic() - began)
