"""Network: what the streams of a model are, which share what, and max-min fair shares of a link in a tick."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsim.core.units import SECOND, SECTOR
from drsim.sim.capacity import over_time
from drsim.sim.fluid.legs import Leg
from drsim.sim.layout import Layout
from drsim.sim.link import RANK, mathis_bps
from drsim.spec.model import Model

Float = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a link: its capacity from `times` on (bytes/s), and the streams on it by priority.

    `classes`: arrays of streams, highest priority first. `alone`: bytes/s that one stream reaches at the link's loss.
    """

    key: str
    link: str
    times: Int64
    rates: Float
    classes: tuple[Int64, ...]
    streams: Int64
    alone: float

    def bytes_of(self, edges: Int64) -> Float:
        """Bytes that it carries between each two edges, ns."""
        spans = np.append(self.times[1:], max(int(edges[-1]), int(self.times[-1]) + 1)) - self.times
        total = np.concatenate(([0.0], np.cumsum(self.rates * spans))) / SECOND
        ends = np.append(self.times, self.times[-1] + spans[-1])
        return np.diff(np.interp(edges, ends, total))


@dataclass(frozen=True, slots=True)
class Network:
    """Streams in the order of their VPGs, VMs in the order of their streams; each leg of a VPG counts as a VPG here.

    vms: names; load_of: which of the different ones each is. stream_of_vm, vpg_of_stream, vra_of_stream: int64.
    squeeze: wire bytes for each byte of a VM. whole: bytes of each stream's disks. first_vm, first_stream: where each
    stream's VMs, each VPG's streams begin.
    """

    vpgs: tuple[str, ...]
    vms: tuple[str, ...]
    load_of: Int64
    stream_of_vm: Int64
    vpg_of_stream: Int64
    vra_of_stream: Int64
    vras: tuple[str, ...]
    buffer: Float
    tail: Float
    squeeze: Float
    whole: Float
    first_vm: Int64
    first_stream: Int64
    directions: tuple[Direction, ...]

    @staticmethod
    def of(model: Model, layout: Layout, legs: Sequence[Leg]) -> "Network":
        """A model's streams."""
        streams = [(k, leg, spec) for k, leg in enumerate(legs) for spec in leg.vpg.streams]
        vms = tuple(leg.layout.vm_names[vm] for _, leg, spec in streams for vm in spec.vms)
        different = {name: n for n, name in enumerate(dict.fromkeys(vms))}
        stream_of_vm = np.repeat(np.arange(len(streams)), [len(spec.vms) for _, _, spec in streams])
        vpg_of_stream = np.array([k for k, _, _ in streams], np.int64)
        vras = tuple(dict.fromkeys(spec.id.source for _, _, spec in streams))
        vra_of_stream = np.array([vras.index(spec.id.source) for _, _, spec in streams], np.int64)
        pools = np.array([_pool(model, layout, vra) for vra in vras], float)
        # Legs of one VPG take turns.
        users = {(spec.id.source, leg.vpg.name, spec.id.target) for _, leg, spec in streams}
        shares = np.array([sum(user[0] == vra for user in users) for vra in vras])
        squeeze = np.array([
            leg.layout.vm(vm).workload.compress_to if leg.vpg.spec.compression else 1.0
            for _, leg, spec in streams for vm in spec.vms
        ])  # fmt: skip
        whole = [sum(volume.sectors for volume in spec.volumes) * SECTOR for _, _, spec in streams]
        return Network(
            tuple(leg.name for leg in legs), vms, np.array([different[name] for name in vms], np.int64), stream_of_vm,
            vpg_of_stream, vra_of_stream, vras, pools * model.tweaks.buffer_use_protect,
            (pools * model.tweaks.sync_tail / shares)[vra_of_stream], squeeze, np.array(whole, float),
            np.flatnonzero(np.diff(stream_of_vm, prepend=-1)), np.flatnonzero(np.diff(vpg_of_stream, prepend=-1)),
            tuple(_directions(model, legs, vpg_of_stream)),
        )  # fmt: skip


def _pool(model: Model, layout: Layout, vra: str) -> int:
    host = next(host for host in model.hosts if layout.vras(host)[0] == vra)
    return model.hosts[host].vra.pool_bytes


def _directions(model: Model, legs: Sequence[Leg], vpg_of_stream: Int64) -> "list[Direction]":
    users: dict[tuple[str, str, str], list[int]] = {}
    for n, k in enumerate(vpg_of_stream.tolist()):
        vpg = legs[k].vpg
        link = model.link_between(vpg.source, vpg.target)
        assert link is not None, "a validated model has a link for every VPG"
        users.setdefault((link, vpg.source, vpg.target), []).append(n)
    found = []
    for (link, source, target), streams in users.items():
        spec = model.links[link]
        times, rates = over_time(model, link, model.run.until)
        ranks = np.array([RANK[legs[vpg_of_stream[n]].vpg.spec.priority] for n in streams])
        classes = tuple(np.array(streams, np.int64)[ranks == rank] for rank in sorted(set(ranks.tolist())))
        alone = mathis_bps(spec.loss, 2 * spec.latency) / 8
        key = f"{link} {source}>{target}"
        found.append(Direction(key, link, times, rates, classes, np.array(streams, np.int64), alone))
    return found


def fair(demand: Float, capacity: float) -> Float:
    """Max-min fair shares of a capacity: nobody gets more than it asks for, and what is left is shared alike."""
    if demand.sum() <= capacity:
        return demand
    order = np.sort(demand)
    n = len(order)
    # The level at which the smallest k are served whole and the others get alike.
    before = np.concatenate(([0.0], np.cumsum(order)[:-1]))
    levels = (capacity - before) / (n - np.arange(n))
    k = int(np.argmax(order >= levels))
    return np.minimum(demand, max(0.0, float(levels[k])))
