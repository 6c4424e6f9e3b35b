"""Prices: what a design costs a month, from a price book: link, storage, recovery site, outages and lost data.

All in one currency of the reader's; nothing is charged that the book does not name.
"""

from typing import Annotated

from pydantic import Field

from drsim.spec.base import Spec
from drsim.spec.model import Model

MONTH_S = 30 * 86400.0
Price = Annotated[float, Field(ge=0)]


class Prices(Spec):
    """A price book."""

    wan: Price = 0.0
    """Of a Mbit/s of every link, a month."""
    storage: Price = 0.0
    """Of a TB of journals and mirror disks at the recovery site, a month."""
    vra: Price = 0.0
    """Of a VRA, a month."""
    vm: Price = 0.0
    """Of protecting a VM, a month (licences, recovery hosts)."""
    missed: Price = 0.0
    """Penalty of an hour in which a VPG misses its service level."""
    disasters: Price = 0.0
    """How many disasters a year are expected."""
    lost: Price = 0.0
    """What an hour of a VPG's lost work costs, in a disaster at a random instant."""
    outage: Price = 0.0
    """What an hour of a VPG's outage costs in a disaster."""
    recovery: Annotated[float, Field(ge=0)] = 1.0
    """Hours that a recovery takes (drsim failover tells), where no run says: runs with failovers do."""


def cost(prices: Prices, model: Model, found: dict[str, float]) -> float:
    """A month's cost of a model, of which these are the measures."""
    vms, vpgs = model.expand()
    disks = sum(volume.size for vpg in vpgs.values() for vm in vpg.vms for volume in vms[vm].volumes)
    vras = sum(host.vra.installed for host in model.hosts.values())
    share = MONTH_S / (model.run.until / 1e9)
    fixed = (
        prices.wan * sum(link.bandwidth for link in model.links.values()) / 1e6
        + prices.storage * (disks + found["all.journal.peak_bytes"]) / 1e12
        + prices.vra * vras
        + prices.vm * len(vms)
    )
    missed = prices.missed * found["all.sla.missed_s"] / 3600 * share
    recovery = found.get("all.rto_s.mean", prices.recovery * 3600) / 3600
    hours = prices.lost * found["all.rpo_s.mean"] / 3600 + prices.outage * recovery
    return fixed + missed + prices.disasters / 12 * len(vpgs) * hours
