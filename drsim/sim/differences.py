"""Differences: what the other side of a stream lacks, region by region, while the machines find out by digests.

The simulation keeps no content. So the digest of a region is one byte, and says only whether the region differs:
1 at the source when it does, 0 otherwise and at the recovery side. What differs is noted from when a stream stops
knowing it: what its bitmap and its frames stood for then, and all that is written until it is in sync again. That is
never too little, and too much only by regions that were sent twice in one synchronization.
"""

from collections.abc import Sequence

import numpy as np

from drsim.core.batch import Int64, WriteBatch
from drsim.core.bitmap import DirtyBitmap
from drsim.core.names import Extent, StreamId, StreamSpec, VmId, VolumeInfo
from drsim.core.sender import Sender
from drsim.core.units import SECTOR

Membered = tuple[str, VmId]
"""A VM as a VPG's: it may be in several."""


class Differences:
    """Of all streams of a world. `region_bytes` as in the machines' bitmaps."""

    def __init__(self, region_bytes: int) -> None:
        self._region_bytes = region_bytes
        self._noted: dict[StreamId, DirtyBitmap] = {}
        self._shares: dict[StreamId, float] = {}
        self._astray: dict[Membered, DirtyBitmap] = {}  # of VMs that a VPG has and nobody taps for it
        self._copied: dict[Membered, float] = {}  # share that differs of what was brought there, of the same

    def note(self, spec: StreamSpec, sender: Sender) -> None:
        """A sender is about to lose track, or has begun a sync: keep what it knows of now."""
        noted = self._noted.setdefault(spec.id, DirtyBitmap(self._region_bytes, spec.volumes))
        for batch in sender.unacknowledged():
            noted.mark(batch)
        noted.add(sender.bitmap)

    def preseed(self, stream: StreamId, share: float) -> None:
        """The other side has a copy from elsewhere, of which this share of the regions differs."""
        self._shares[stream] = share

    def wrote(self, stream: StreamId, batch: WriteBatch) -> None:
        """Guests wrote."""
        if stream in self._noted:
            self._noted[stream].mark(batch)

    def strays(self, vm: VmId, volumes: Sequence[VolumeInfo], stream: StreamId, sender: Sender | None) -> None:
        """Nobody taps a VM for this VPG any more: keep what its stream knew to be different of its volumes.

        `sender`: None when it has ended before; then everything since is in the notes.
        """
        known = DirtyBitmap(self._region_bytes, () if sender is None else sender.spec.volumes)
        if sender is not None:
            for batch in sender.unacknowledged():
                known.mark(batch)
            known.add(sender.bitmap)
        astray = self._astray[stream.vpg, vm] = DirtyBitmap(self._region_bytes, volumes)
        astray.add(known)
        if stream in self._noted:
            astray.add(self._noted[stream])
        self._copied[stream.vpg, vm] = self._shares.get(stream, 0.0)

    def wrote_astray(self, member: Membered, batch: WriteBatch) -> None:
        """A VM that nobody taps for this VPG wrote."""
        if member in self._astray:
            self._astray[member].mark(batch)

    def found(self, vm: VmId, spec: StreamSpec) -> None:
        """A VM is tapped again, in this stream: what it lacks is noted there until the stream is in sync."""
        astray = self._astray.pop((spec.id.vpg, vm), None)
        if astray is not None:
            noted = self._noted.setdefault(spec.id, DirtyBitmap(self._region_bytes, spec.volumes))
            noted.add(astray)
        if share := self._copied.pop((spec.id.vpg, vm), 0.0):
            self._shares[spec.id] = max(share, self._shares.get(spec.id, 0.0))

    def forget(self, member: Membered) -> None:
        """A VM belongs to this VPG no more."""
        self._astray.pop(member, None)
        self._copied.pop(member, None)

    def reshaped(self, spec: StreamSpec) -> None:
        """A stream has other volumes now: of what is new in them the other side has nothing."""
        if spec.id in self._noted:
            self._noted[spec.id].reshape(spec.volumes)

    def reshaped_astray(self, member: Membered, volumes: Sequence[VolumeInfo]) -> None:
        """A VM has other volumes now. While nobody taps it for this VPG, nothing of the new ones is elsewhere."""
        if member in self._astray:
            self._astray[member].reshape(volumes)

    def settled(self, stream: StreamId) -> None:
        """Both sides are the same again, but for what is on its way."""
        self._noted.pop(stream, None)
        self._shares.pop(stream, None)

    def digests(self, stream: StreamId, extent: Extent, *, source: bool) -> bytes:
        """A byte for each region of a stretch."""
        regions = -(-extent.sectors * SECTOR // self._region_bytes)
        if not source:
            return bytes(regions)
        first = extent.volume << 40 | extent.lba * SECTOR // self._region_bytes
        differs = np.zeros(regions, np.bool_)
        if stream in self._noted:
            differs |= self._noted[stream].within(first, first + regions)
        if share := self._shares.get(stream):
            differs |= _scattered(np.arange(first, first + regions)) < share
        return differs.tobytes()


def _scattered(keys: Int64) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """A number in [0, 1) for each region, the same in every run: the top of its key times 2^64 / golden ratio."""
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
