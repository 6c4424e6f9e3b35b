"""Chains of copies: a level makes a copy of the one before it every so often, holds it, and takes time to bring it on.

The recovery-point model of Keeton and Merchant (DSN 2004; products.md 3.1), in closed form and as a walk through time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from drsim.core.units import SECOND
from drsim.study.policies.base import Int64, Load, Policy, Protection, Wan

HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Level:
    """A copy every `every`, held for `hold`, brought on in `brings`, the first one made at `first`; all ns."""

    every: int
    hold: int = 0
    brings: int = 0
    first: int = 0


def worst_loss(chain: Sequence[Level]) -> int:
    """Most that is lost, ns, when only the last level is left: what its newest copy may be old at most."""
    return sum(level.hold + level.brings for level in chain) + chain[-1].every


def copies(chain: Sequence[Level], end: int) -> tuple[Int64, Int64]:
    """The last level's copies as (shows, ready): each level copies what the one before it has ready at that instant."""
    shows = ready = np.zeros(0, np.int64)
    for n, level in enumerate(chain):
        made = np.arange(level.first, end, level.every, dtype=np.int64)
        if n:
            newest = np.searchsorted(ready, made, side="right") - 1
            made, newest = made[newest >= 0], newest[newest >= 0]
            shows = shows[newest]
        else:
            shows = made
        ready = made + level.hold + level.brings
    return shows, ready


def aligned(chain: Sequence[Level]) -> list[Level]:
    """The chain with each level's first copy made just when the one before it is there."""
    first, made = 0, []
    for level in chain:
        made.append(Level(level.every, level.hold, level.brings, first))
        first += level.hold + level.brings
    return made


@dataclass(frozen=True, slots=True)
class NightlyBackup(Policy):
    """Every night what has changed since the last one; two weeks are kept."""

    name: ClassVar[str] = "nightly backup"
    source: ClassVar[str] = "tape chains: products.md 3.1"
    every: int = 24 * HOUR
    kept: int = 14

    def protect(self, load: Load, wan: Wan) -> Protection:
        """See `Policy`."""
        made = np.arange(0, load.end, self.every, dtype=np.int64)
        nbytes = np.array([0, *(load.unique(a, b) for a, b in pairwise(made.tolist()))])
        ready = wan.capacity.sent(made, nbytes) + wan.latency
        return Protection.of_points(
            made, ready, load, sent=float(nbytes.sum()), storage=float(nbytes[-self.kept :].sum()),
            points=min(self.kept, len(made)),
        )  # fmt: skip
