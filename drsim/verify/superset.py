"""Superset: P12 of one stream, after every step of its protected VRA.

Sectors where the other side differs from the source are dirty, in flight or queued, always; what is being compared
counts as in flight. The question is asked more often than any other, so what it takes is kept: the sectors of a frame
stay the same while it waits in the window, those of the bitmap until it changes. All disks of a stream are one number
here, 16 bits a sector (`guests.bits`), those of one VM behind those of the other.
"""

from itertools import chain
from typing import TYPE_CHECKING

from drsim.core.bitmap import DirtyBitmap
from drsim.core.messages import Frame
from drsim.core.names import StreamSpec, VmId, VolumeId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.sender import Sender
from drsim.verify.guests import Write, bits
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer


class Superset:
    """What one stream's source and replica are compared by."""

    __slots__ = ("_bitmap", "_frames", "_guests", "_id", "_machines", "_pairs", "_regions", "_shift", "_writes")

    def __init__(self, x: "Explorer", spec: StreamSpec) -> None:
        self._id, self._machines, self._guests, self._regions = spec.id, x.kernel.machines, x.guests, x.estate.regions
        self._shift: dict[VmId, int] = {}  # where a VM's disks begin
        self._pairs = []
        end = 0
        for vm in spec.vms:
            guest = x.guests[vm]
            self._shift[vm] = end
            self._pairs.append((guest, guest.disk, x.disks[spec.id].vms[vm], end))
            end += 8 * len(guest.disk)
        self._writes = x.rows[spec.id].writes
        self._frames: dict[int, tuple[Frame, int]] = {}  # by identity, and the frame with it so that it stays
        self._bitmap: tuple[object, object, int] = (None, None, 0)

    def check(self) -> None:
        """P12: sectors that differ are dirty, in flight or queued.

        Compares the content that is durable at the other side; not how much more is marked than differs, and no VM
        or volume of whose writes nobody hears at present.
        """
        differ = 0
        for guest, disk, there, shift in self._pairs:
            if disk != there.tip and guest.stream == self._id:
                unlike = int.from_bytes(disk, "little") ^ int.from_bytes(there.tip, "little")
                differ |= (unlike & guest.tapped) << shift
        if not differ:
            return
        machine = self._machines[self._id.source]
        assert isinstance(machine, ProtectedVra)
        sender = machine.senders[self._id]
        left = self._not_under_way(sender, differ)
        if left:
            left &= ~self._dirty(sender.bitmap)
        if left:
            at = (left & -left).bit_length() - 1
            vm = max((vm for vm, shift in self._shift.items() if shift <= at), key=self._shift.__getitem__)
            sector = (at - self._shift[vm]) // 16
            said = f"VM {vm} sector {sector} differs and nobody will send it ({self._id})"
            raise Violation("P12", said, stream=self._id, vm=vm, sector=sector)

    def _not_under_way(self, sender: Sender, differ: int) -> int:
        """What is left of what differs without what is open, queued, in flight or being compared."""
        known = self._frames
        for frame in chain(sender.window, sender._queue):
            differ &= ~(known.get(id(frame)) or self._remember(frame))[1]
        for part in sender._open.parts:
            for row in part.issued.tolist():
                differ &= ~self._of(self._writes[row])
        if (extent := sender._comparing) is not None:
            differ &= ~self._mask(extent.vm, extent.volume, extent.lba, extent.sectors)
        return differ

    def _of(self, write: Write) -> int:
        return write.mask << self._shift[write.guest.vm]

    def _mask(self, vm: VmId, volume: VolumeId, lba: int, sectors: int) -> int:
        return bits(self._guests[vm].offset[volume] + lba, sectors) << self._shift[vm]

    def _remember(self, frame: Frame) -> tuple[Frame, int]:
        """The sectors of a frame's rows."""
        batch, mask = frame.batch, 0
        if frame.sync:
            columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
            for row in zip(*columns, strict=True):
                mask |= self._mask(*row)
        else:
            for number in batch.issued.tolist():
                mask |= self._of(self._writes[number])
        self._frames[id(frame)] = frame, mask
        return frame, mask

    def _dirty(self, bitmap: DirtyBitmap) -> int:
        """The sectors that the bitmap covers."""
        keys, runs = bitmap.regions()
        if self._bitmap[0] is not keys or self._bitmap[1] != runs:
            mask = 0
            for key in chain(keys.tolist(), *(range(*run) for run in runs)):
                vm, covered = self._regions[key]
                mask |= covered << self._shift[vm]
            self._bitmap = keys, runs, mask
        return self._bitmap[2]
