"""Any order: is an image legal when only the times of the writes are known, not the order in which the disk took them?

Theory of operation. A log kept inside a guest knows when writes were issued and acknowledged. Two that were in flight
together may have landed either way round. An image is then a crash state if *some* order that the times allow has a
prefix that leaves it. The set of writes in that prefix must hold what the image shows and, with u, every w -> u; more
writes only add demands, so the least such set decides:

    S = what the image shows, and every write acknowledged before `latest`, the latest issue among the shown ones

Let u be what sector x shows. Every other w of S that covers x landed before u. So

    u -> w, or x shows what was there before any write     w is missing from x
    w -> u                                                 nothing to ask
    in flight together                                     w landed before u: a demand on the order

An order that meets all demands is a choice of one instant for each write, between its issue and its acknowledgement,
which never falls from w to u; the earliest choice is found along the demands, which must not form a circle.

Source: linear extensions of an interval order are the choices of one point from each interval (Fishburn). Compared
with brute force over all orders in tests/verify/test_oracle.py.
"""

from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import numpy as np

from drsim.verify.oracle import NEVER, Bool, Int64, Truth


class Lacking(NamedTuple):
    """Write `missing` belongs to the image, and `sector` does not show it or anything later."""

    missing: int
    sector: int


class Tangled(NamedTuple):
    """Writes that were in flight together, each of which would have to land before the next one and the last before
    the first; or, of two, the first before the second, which the times of others forbid."""

    writes: tuple[int, ...]


def shown(truth: Truth, ver: Int64) -> Bool:
    """Which writes (bool, index 0 is write 1) some sector of an image shows."""
    found = np.zeros(len(truth) + 1, np.bool_)
    found[truth.known(ver)[0]] = True
    return found[1:]


def inside(truth: Truth, ver: Int64, latest: int) -> Bool:
    """The least set of writes that an image with something issued at `latest` must have."""
    return shown(truth, ver) | (truth.writes.ack < latest)


def lacks(truth: Truth, ver: Int64, latest: int) -> Lacking | Tangled | None:
    """Why an image is no crash state, None if it is one. `latest`: latest issue inside the group's cut, ns.

    Foreign content passes here: ask `Truth.known`.
    """
    clean, _ = truth.known(ver)
    wanted = np.append([False], inside(truth, ver, latest))[truth.owner]
    at, write = truth.sector[wanted], truth.owner[wanted].astype(np.int64)
    top = clean[at]
    other = (write != top) & (ver[at] == top)
    at, write, top = at[other], write[other], top[other]
    stale = np.flatnonzero(truth.ack[top] < truth.issue[write])
    if len(stale):
        first = stale[truth.ack[write[stale]].argmin()]
        return Lacking(int(write[first]), int(at[first]))
    together = truth.ack[write] >= truth.issue[top]
    demands = np.unique(np.stack([write[together], top[together]], axis=1), axis=0)
    return _tangle(truth, demands)


def _tangle(truth: Truth, demands: Int64) -> Tangled | None:
    before: dict[int, list[int]] = {}
    for w, u in demands.tolist():
        before.setdefault(u, []).append(w)
    instant: dict[int, int] = {}
    try:
        for u in TopologicalSorter(before).static_order():
            landed = max(((instant[w], w) for w in before.get(u, ())), default=(-NEVER, 0))
            instant[u] = max(int(truth.issue[u]), landed[0])
            if instant[u] > truth.ack[u]:
                return Tangled((landed[1], u))
    except CycleError as error:
        return Tangled(tuple(reversed(error.args[1][1:])))
    return None
