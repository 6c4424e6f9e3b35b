"""Superset: P12 of one stream, after every step of its protected VRA.

Sectors where the other side differs from the source are dirty, in flight or queued, always; what is being compared
counts as in flight. The question is asked more often than any other, so what it takes is kept: what two disks differ
in while they are the same two objects, the sectors of a frame while it waits in the window, those of the bitmap until
it changes. All disks of a stream are one number here, 16 bits a sector (`guests.bits`), those of one VM behind those of
the other.
"""

from itertools import chain
from typing import TYPE_CHECKING

from drsim.core.batch import WriteBatch
from drsim.core.bitmap import DirtyBitmap
from drsim.core.messages import Frame
from drsim.core.names import StreamSpec, VmId
from drsim.core.sender import Sender
from drsim.core.units import SECTOR
from drsim.verify.disks import VmDisks
from drsim.verify.guests import Guest, bits
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


FIRST = (1 << 40) - 1
"""The bits of a bitmap's key that number the region in its volume (`core/bitmap.py`)."""


class Pair:
    """One VM's disk and what the other side has of it."""

    __slots__ = ("_shift", "differ", "disk", "guest", "tapped", "there", "tip")

    def __init__(self, guest: Guest, there: VmDisks, shift: int) -> None:
        self.guest, self.there, self._shift = guest, there, shift
        self.compare()

    def compare(self) -> None:
        """In what the disk and the tip that are there now differ, of what is tapped."""
        self.disk, self.tip, self.tapped = self.guest.disk, self.there.tip, self.guest.tapped
        unlike = int.from_bytes(self.disk, "little") ^ int.from_bytes(self.tip, "little")
        self.differ = (unlike & self.tapped) << self._shift


class Superset:
    """What one stream's source and replica are compared by."""

    __slots__ = (
        "_bitmap", "_frames", "_id", "_machines", "_pairs", "_region", "_shift", "_volumes", "_writes",
    )  # fmt: skip

    def __init__(self, x: "Explorer", spec: StreamSpec) -> None:
        self._id, self._machines = spec.id, x.kernel.machines
        self._region = 16 * x.shape.tweaks.region_bytes // SECTOR  # bits of one
        self._shift: dict[VmId, int] = {}  # where a VM's disks begin
        self._volumes: dict[int, tuple[int, int]] = {}  # where a volume begins, and all of its bits
        self._pairs = []
        end = 0
        for vm in spec.vms:
            guest = x.guests[vm]
            self._shift[vm] = end
            self._pairs.append(Pair(guest, x.disks[spec.id].vms[vm], end))
            for volume in x.estate.room(vm):
                begin = 16 * guest.offset[volume.id] + end
                self._volumes[volume.id] = begin, bits(0, volume.sectors) << begin
            end += 8 * len(guest.disk)
        self._writes = x.rows[spec.id].writes
        self._frames: dict[int, tuple[Frame, int]] = {}  # by identity, and the frame with it so that it stays
        self._bitmap: tuple[object, object, int] = (None, None, -1)

    def check(self) -> None:
        """P12: sectors that differ are dirty, in flight or queued.

        Compares the content that is durable at the other side; not how much more is marked than differs, and no VM
        or volume of whose writes nobody hears at present.
        """
        differ = 0
        for pair in self._pairs:
            guest = pair.guest
            if guest.disk is not pair.disk or pair.there.tip is not pair.tip or guest.tapped is not pair.tapped:
                pair.compare()
            if pair.differ and guest.stream == self._id:
                differ |= pair.differ
        if differ and (left := self._unexplained(differ)):
            at = (left & -left).bit_length() - 1
            vm = max((vm for vm, shift in self._shift.items() if shift <= at), key=self._shift.__getitem__)
            sector = (at - self._shift[vm]) // 16
            said = f"VM {vm} sector {sector} differs and nobody will send it ({self._id})"
            raise Violation("P12", said, stream=self._id, vm=vm, sector=sector)

    def _unexplained(self, differ: int) -> int:
        """What is left of what differs without what is in flight, queued, open, dirty or being compared."""
        sender: Sender = self._machines[self._id.source].senders[self._id]  # type: ignore[attr-defined]
        known = self._frames
        for frame in chain(sender.window._frames, sender._queue):
            differ &= (known.get(id(frame)) or self._remember(frame))[1]
            if not differ:
                return 0
        for part in sender._open.parts:
            differ &= ~self._of(part)
        if differ:
            differ &= self._clean(sender.bitmap)
        if differ and (extent := sender._comparing) is not None:
            differ &= ~self._mask(extent.volume, extent.lba, extent.sectors)
        return differ

    def _of(self, batch: WriteBatch) -> int:
        """The sectors of captured writes."""
        mask, writes, shift = 0, self._writes, self._shift
        for row in batch.issued.tolist():
            write = writes[row]
            mask |= write.mask << shift[write.guest.vm]
        return mask

    def _mask(self, volume: int, lba: int, sectors: int) -> int:
        """These sectors of a volume."""
        return ((1 << 16 * sectors) - 1) << self._volumes[volume][0] + 16 * lba

    def _remember(self, frame: Frame) -> tuple[Frame, int]:
        """All but the sectors of a frame's rows."""
        batch, mask = frame.batch, 0
        if frame.sync:
            for row in zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True):
                mask |= self._mask(*row)
        else:
            mask = self._of(batch)
        self._frames[id(frame)] = known = frame, ~mask
        return known

    def _clean(self, bitmap: DirtyBitmap) -> int:
        """All but the sectors that the bitmap covers."""
        keys, runs = bitmap.regions()
        if self._bitmap[0] is not keys or self._bitmap[1] != runs:
            mask, region = 0, self._region
            for start, stop in chain(((key, key + 1) for key in keys.tolist()), runs):
                begin, whole = self._volumes[start >> 40]
                mask |= ((1 << (stop - start) * region) - 1) << begin + (start & FIRST) * region & whole
            self._bitmap = keys, runs, ~mask
        return self._bitmap[2]
