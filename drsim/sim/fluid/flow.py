"""Flow: what the streams of a network do tick by tick: queues, bitmaps, sweeps, and how old what has arrived is.

Theory of operation. A stream is

    sending   what is written is numbered and queued; a byte is as old as it waited
    apart     its link is down for longer than the peer timeout: what is written, and was queued, is only marked
    sweeping  what is marked is sent, and what nobody is sure of compared (`compare.py`); what is written is marked
    tail      little is left of the sweep: what is written is numbered again, queued, and goes first
    catching  the sweep is over: the next checkpoint lies where it ended, and arrives when what was queued then has
    idle      its leg (`legs.py`) has not begun, or is over

A stream that has marked more than its bitmap has memory for gives it up, and compares everything instead.

`known` is the newest instant of a VPG that could be recovered: while all its streams send, the age of the oldest byte
that waits in any of them; otherwise it stands still. Ticks in which every stream sends and nothing waits are done a
block at a time; only the others are stepped through.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drsim.core.units import SECOND
from drsim.sim.fluid.compare import Scan
from drsim.sim.fluid.load import Part
from drsim.sim.fluid.network import Network, fair
from drsim.spec.tweaks import Tweaks

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
EMPTY = 1.0
"""Bytes of a queue that count as none."""


SENDING, APART, SWEEPING, TAIL, CATCHING, IDLE = range(6)


class Step(NamedTuple):
    """One tick that was stepped through. known: int64[VPGs], ns. frozen: bool[VPGs], those that get no checkpoint now.

    sent, synced, queued: float64[streams], raw bytes of data and of sweeps in the tick, and those that wait after it.
    digests: float64[streams], bytes of comparisons.
    """

    known: Int64
    frozen: NDArray[np.bool_]
    sent: Float
    synced: Float
    digests: Float
    queued: Float


class Sync(NamedTuple):
    """A sync of a stream that ended at this time, ns, and the raw bytes that it sent."""

    stream: int
    ended: int
    sent: float


class Dirty:
    """What is marked of each stream: bytes of each part of its VMs' disks."""

    def __init__(self, network: Network, parts: list[list[Part]]) -> None:
        """parts: of each VM, in the network's order."""
        flat = [(vm, part) for vm, each in enumerate(parts) for part in each]
        self._vm = np.array([vm for vm, _ in flat], np.int64)
        self._size = np.array([part.nbytes for _, part in flat])
        self._share = np.array([part.share * part.touched for _, part in flat])
        self._sequential = np.array([part.sequential for _, part in flat], bool)
        self._stream = network.stream_of_vm[self._vm]
        self._first = np.flatnonzero(np.diff(self._stream, prepend=-1))
        self._marked = np.zeros(len(flat))

    def write(self, by_vm: Float, which: NDArray[np.bool_]) -> None:
        """Mark what VMs have written, float64[VMs] bytes, of these streams."""
        rows = which[self._stream]
        n = (self._share[rows] * by_vm[self._vm[rows]]) / self._size[rows]
        left = 1 - self._marked[rows] / self._size[rows]
        grown = np.where(self._sequential[rows], np.minimum(left, n), -left * np.expm1(-n))
        self._marked[rows] += grown * self._size[rows]

    def clear(self, which: NDArray[np.bool_]) -> None:
        """Nothing of these streams is marked any more."""
        self._marked[which[self._stream]] = 0

    @property
    def nbytes(self) -> Float:
        """float64[streams]."""
        return np.add.reduceat(self._marked, self._first)

    def send(self, nbytes: Float) -> None:
        """So much of each stream was sent."""
        have = self.nbytes
        keep = np.where(have > 0, 1 - np.minimum(1, nbytes / np.maximum(have, 1e-9)), 0)
        self._marked *= keep[self._stream]


class Flow:
    """The streams of a network over time. `latency`: ns on the way, of each VPG."""

    def __init__(
        self, network: Network, parts: list[list[Part]], rates: Float, *, tick: int, latency: Int64, tweaks: Tweaks,
        scan: Scan, outages: list[list[tuple[int, int]]],
    ) -> None:  # fmt: skip
        """rates: usual bytes/s of each VM. outages: of each direction, when its link carries nothing, ns."""
        streams = len(network.vpg_of_stream)
        self._net, self._tick, self._latency = network, tick, latency
        self.dirty = Dirty(network, parts)
        self._usual, self._frame, self._scan = rates, float(tweaks.sync_bytes), scan
        self._bitmap = float(tweaks.bitmap_regions) * tweaks.region_bytes
        self.mode = np.full(streams, SENDING)
        self.arrived, self.served = np.zeros(streams), np.zeros(streams)
        self._until = np.zeros(streams)  # of those that catch up: what must have been served
        self._copy = np.zeros(streams)  # of whole disks, or found to differ; not yet sent
        self._doubt, self._differs = np.zeros(streams), np.zeros(streams)  # not yet compared; the share that differs
        self._growth = np.zeros(streams)  # of what is marked, in a tick
        self._swept, self.syncs = np.zeros(streams), list[Sync]()
        self.known = np.zeros(len(network.vpgs), np.int64)
        self._history = np.zeros((64, streams))  # what had arrived at the end of each tick stepped through
        self._times = np.zeros(64, np.int64)
        self._rows = 1
        self._at = np.zeros(streams, np.int64)  # the last row that was served whole
        self.squeeze = np.add.reduceat(network.squeeze * rates, network.first_vm) / np.maximum(
            np.add.reduceat(rates, network.first_vm), 1e-9
        )
        self._outages = [
            (begin + tweaks.peer_timeout, end, direction.streams)
            for direction, spans in zip(network.directions, outages, strict=True)
            for begin, end in spans
            if end - begin > tweaks.peer_timeout
        ]

    # -- legs -----------------------------------------------------------------------------------------------------

    def idle(self, which: NDArray[np.bool_]) -> None:
        """These streams do nothing, and know nothing."""
        self.mode[which] = IDLE
        self.dirty.clear(which)
        for kept in (self._copy, self._doubt, self._swept):
            kept[which] = 0
        self.arrived[which] = self.served[which]
        self._history[: self._rows, which] = np.minimum(self._history[: self._rows, which], self.served[which])

    def copy(self, which: NDArray[np.bool_]) -> None:
        """The other side of these streams has nothing."""
        self._copy[which], self.mode[which] = self._net.whole[which], SWEEPING

    def compare(self, which: NDArray[np.bool_], differs: Float) -> None:
        """Nobody knows what the other side of these streams has: everything is compared, and a share of it differs."""
        self._doubt[which], self._differs[which] = self._net.whole[which], differs[which]
        self.mode[which] = SWEEPING

    # -- in health ------------------------------------------------------------------------------------------------

    @property
    def calm(self) -> bool:
        """Whether every stream that is there sends, and nothing waits."""
        return bool(
            ((self.mode == SENDING) | (self.mode == IDLE)).all() and (self.arrived - self.served <= EMPTY).all()
        )

    def busy(self, first: int, wire: Float, capacities: Float) -> NDArray[np.bool_]:
        """Of these ticks, float64[ticks, streams] wire bytes, those that would leave something waiting."""
        busy = np.zeros(len(wire), bool)
        for direction, capacity in zip(self._net.directions, capacities, strict=True):
            mine = wire[:, direction.streams]
            busy |= mine.sum(1) > capacity
            if np.isfinite(direction.alone):
                busy |= (mine > direction.alone * self._tick / SECOND).any(1)
        for begin, end, _ in self._outages:
            low, high = begin // self._tick - first, -(-end // self._tick) - first
            busy[max(0, low) : max(0, high)] = True
        return busy

    def rest(self, now: int) -> None:
        """All was calm until now."""
        self.known[:] = now - self._latency
        self._begin(now)

    def _begin(self, now: int) -> None:
        self.arrived[:] = self.served[:] = 0
        self._history[0], self._times[0] = 0, now
        self._rows = 1
        self._at[:] = 0

    # -- a tick ---------------------------------------------------------------------------------------------------

    def step(self, begin: int, by_vm: Float, capacities: Float) -> Step:
        """One tick from `begin` on: bytes of each VM (float64[VMs]), bytes that each direction carries."""
        net, now = self._net, begin + self._tick
        written = np.add.reduceat(by_vm, net.first_vm)
        self._change(begin, now)
        marking = (self.mode == APART) | (self.mode == SWEEPING)
        if marking.any():
            before = self.dirty.nbytes
            self.dirty.write(by_vm, marking)
            self._growth = self.dirty.nbytes - before
            self._outgrown()
        self.arrived += np.where(marking, 0, written)
        self._remember(now)
        sent, synced, digests = self._send(capacities)
        self._advance(now)
        self._overflow(now)
        frozen = np.bincount(net.vpg_of_stream, (self.mode != SENDING) & (self.mode != IDLE), len(net.vpgs)) > 0
        ages = np.minimum.reduceat(self._served_time(now), net.first_stream) - self._latency
        self.known = np.where(frozen, self.known, np.maximum(self.known, ages))
        return Step(self.known, frozen, sent, synced, digests, self.arrived - self.served)

    def _change(self, begin: int, now: int) -> None:
        """Links that were lost or are back in this tick."""
        for low, high, streams in self._outages:
            if begin <= low < now or (low <= begin < high):
                lost = np.zeros(len(self.mode), bool)
                lost[streams] = (self.mode[streams] != APART) & (self.mode[streams] != IDLE)
                if lost.any():
                    self._fold(lost)
                    self.mode[lost] = APART
            if begin < high <= now:
                back = streams[self.mode[streams] == APART]
                self.mode[back] = SWEEPING

    def _outgrown(self) -> None:
        """Bitmaps that have no memory for another region: everything is compared instead (products.md T6)."""
        marked = self.dirty.nbytes
        which = marked > self._bitmap
        if which.any():
            unsure = np.minimum(1, (marked + self._copy + self._doubt * self._differs) / self._net.whole)
            self._doubt[which], self._differs[which] = self._net.whole[which], unsure[which]
            self._copy[which] = 0
            self.dirty.clear(which)

    def _fold(self, which: NDArray[np.bool_]) -> None:
        """What waits in these streams is marked instead."""
        waiting = np.where(which, self.arrived - self.served, 0)
        total = np.add.reduceat(self._usual, self._net.first_vm)
        share = self._usual / np.maximum(total, 1e-9)[self._net.stream_of_vm]
        self.dirty.write(waiting[self._net.stream_of_vm] * share, which)
        self.arrived[which] = self.served[which]
        self._history[: self._rows, which] = np.minimum(self._history[: self._rows, which], self.served[which])

    def _send(self, capacities: Float) -> tuple[Float, Float, Float]:
        """Serve the queues and sweeps: raw bytes of data and of syncs, and bytes of digests."""
        queued = np.maximum(0, self.arrived - self.served)
        sweeps = (self.mode == SWEEPING) | (self.mode == TAIL)
        digests = self._compare(sweeps & (self._doubt > 0), queued, capacities)
        if digests.any():
            capacities = capacities - [digests[direction.streams].sum() for direction in self._net.directions]
        marked = np.where(sweeps, self.dirty.nbytes + self._copy, 0)
        wanted = np.where(self.mode == APART, 0, (queued + marked) * self.squeeze)
        raw = self._shares(wanted, capacities) / self.squeeze
        # What is numbered goes first, but one frame of the sweep always stands in the queue (`core.sender._sweep`).
        turn = raw * self._frame / (queued + self._frame)
        synced = np.minimum(np.maximum(raw - queued, turn), np.minimum(raw, marked))
        copied = np.minimum(synced, self._copy)
        self._copy -= copied
        self.dirty.send(synced - copied)
        self._swept += synced
        sent = raw - synced
        self.served += sent
        return sent, synced, digests

    def _shares(self, wanted: Float, capacities: Float) -> Float:
        """Of what streams want of their links in this tick, wire bytes, what they get."""
        got = np.zeros(len(wanted))
        for direction, capacity in zip(self._net.directions, capacities.tolist(), strict=True):
            limit = direction.alone * self._tick / SECOND
            for streams in direction.classes:
                got[streams] = fair(np.minimum(wanted[streams], limit), capacity)
                capacity -= float(got[streams].sum())
        return got

    def _compare(self, which: NDArray[np.bool_], queued: Float, capacities: Float) -> Float:
        """What these streams find out in this tick, if the link gives them what it can; bytes of digests."""
        if not which.any():
            return np.zeros(len(which))
        seconds, known = self._tick / SECOND, self.dirty.nbytes + self._copy
        most = self._scan.fastest * seconds * self._differs
        wanted = np.where(self.mode == APART, 0, queued + np.where(which, known + most, 0)) * self.squeeze
        got = self._shares(wanted, capacities)
        spare = np.zeros(len(got))  # of each stream's link
        for direction, capacity in zip(self._net.directions, capacities.tolist(), strict=True):
            spare[direction.streams] = capacity - got[direction.streams].sum()
        growth = np.where(self.mode == SWEEPING, self._growth / seconds, 0)
        rate = np.maximum((got + spare) / self.squeeze - queued, 0) / seconds
        speed = self._scan.speed(which, self._differs, growth, rate, self.squeeze)
        # No stretch is begun while more is known than fits one.
        left = np.maximum(0, seconds - np.maximum(0, known - self._scan.stretch) / np.maximum(rate, 1e-9))
        done = np.where(which, np.minimum(self._doubt, speed * left), 0)
        self._doubt -= done
        self._copy += done * self._differs
        return self._scan.digests(done)

    def _advance(self, now: int) -> None:
        """Sweeps that are nearly over, or over; streams that have caught up."""
        left = self.dirty.nbytes + self._copy + self._doubt
        self.mode[(self.mode == SWEEPING) & (left <= self._net.tail)] = TAIL
        over = (self.mode == TAIL) & (left <= EMPTY)
        self.mode[over] = CATCHING
        self._until[over] = self.arrived[over]
        for stream in np.flatnonzero(over).tolist():
            self.syncs.append(Sync(stream, now, float(self._swept[stream])))
        self._swept[over] = 0
        caught = (self.mode == CATCHING) & (self.served >= self._until - EMPTY)
        self.mode[caught] = SENDING

    def _overflow(self, now: int) -> None:
        """VRAs whose buffer is full: their fullest streams mark what waits, until it fits."""
        net = self._net
        queued = self.arrived - self.served
        for vra in np.flatnonzero(np.bincount(net.vra_of_stream, queued, len(net.vras)) > net.buffer):
            mine = np.flatnonzero(net.vra_of_stream == vra)
            for stream in mine[np.argsort(-queued[mine])]:
                if queued[mine].sum() <= net.buffer[vra]:
                    break
                which = np.zeros(len(queued), bool)
                which[stream] = True
                self._fold(which)
                self.mode[stream] = SWEEPING
                queued[stream] = 0

    # -- ages -----------------------------------------------------------------------------------------------------

    def _remember(self, now: int) -> None:
        if self._rows == len(self._times):
            first = int(self._at.min())
            if first > len(self._times) // 2:  # nobody looks at the older half any more
                self._history[: self._rows - first] = self._history[first : self._rows]
                self._times[: self._rows - first] = self._times[first : self._rows]
                self._rows -= first
                self._at -= first
            else:
                self._history = np.concatenate([self._history, np.zeros_like(self._history)])
                self._times = np.concatenate([self._times, np.zeros_like(self._times)])
        self._history[self._rows], self._times[self._rows] = self.arrived, now
        self._rows += 1

    def _served_time(self, now: int) -> Int64:
        """Until when each stream's writes have been served, ns."""
        streams = np.arange(len(self._at))
        while True:
            after = np.minimum(self._at + 1, self._rows - 1)
            more = (after > self._at) & (self._history[after, streams] <= self.served + EMPTY)
            if not more.any():
                break
            self._at[more] += 1
        after = np.minimum(self._at + 1, self._rows - 1)
        low, high = self._history[self._at, streams], self._history[after, streams]
        part = np.clip((self.served - low) / np.maximum(high - low, 1e-9), 0, 1)
        times = self._times[self._at] + (part * (self._times[after] - self._times[self._at])).astype(np.int64)
        return np.where(self._at == self._rows - 1, now, times)
