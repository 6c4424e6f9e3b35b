"""What policies see of a model's VPG: the writes of its guests, and the link that it has for itself."""

import numpy as np

from drsim.core.units import SECTOR
from drsim.sim.capacity import over_time
from drsim.sim.layout import Layout
from drsim.sim.run import guests
from drsim.sim.workload import Writes
from drsim.spec.model import Model
from drsim.study.policies.base import Capacity, Load, Wan


def load_of(model: Model, vpg: str) -> Load:
    """What the VMs of a VPG write during the run, the same as in a simulation of the model."""
    layout = Layout(model)
    members = {vm for spec in layout.vpg_of[vpg].streams for vm in spec.vms}
    parts: list[Writes] = []
    base = 0
    for vm, guest in guests(model, layout, model.run.seed).items():
        if vm not in members:
            continue
        writes = guest.source.take(model.run.until - 1)
        # All disks of the VPG one behind the other, so that a sector has one number.
        ends = base + np.cumsum([volume.sectors for volume in layout.volumes(vm)])
        starts = np.concatenate(([base], ends[:-1]))
        parts.append(Writes(writes.issued, writes.volume, writes.lba + starts[writes.volume], writes.sectors))
        base = int(ends[-1])
    writes = Writes.join(parts)
    order = np.argsort(writes.issued, kind="stable")
    at, lba, sectors = writes.issued[order], writes.lba[order], writes.sectors[order].astype(np.int64)
    page = model.tweaks.region_bytes // SECTOR
    first, last = lba // page, (lba + sectors - 1) // page
    count = last - first + 1
    row = np.repeat(np.arange(len(at)), count)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return Load(at, sectors * SECTOR, at[row], first[row] + nth, page * SECTOR, model.run.until)


def wan_of(model: Model, vpg: str) -> tuple[Wan, float]:
    """A VPG's link, which it has for itself here, in bytes as guests write them; and wire bytes for each of those.

    All policies get the same compression: the mean of the VPG's VMs, by what they write.
    """
    layout = Layout(model)
    of = layout.vpg_of[vpg]
    name = model.link_between(of.source, of.target)
    assert name is not None, "a validated model has a link for every VPG"
    members = [layout.vm(vm) for spec in of.streams for vm in spec.vms]
    squeeze = float(np.mean([vm.workload.compress_to for vm in members])) if of.spec.compression else 1.0
    times, rates = over_time(model, name, model.run.until)
    return Wan(Capacity(times, rates / squeeze), model.links[name].latency), squeeze
