"""Superset: P12 of one stream, after every step of its protected VRA.

Sectors where the other side differs from the source are dirty, in flight or queued, always; what is being compared
counts as in flight. The question is asked more often than any other, so what it takes is kept: the sectors of a frame
stay the same while it waits in the window, those of the bitmap until it changes. A disk is a number here, 16 bits a
sector (`guests.bits`).
"""

from itertools import chain
from typing import TYPE_CHECKING

from drsim.core.messages import Frame
from drsim.core.names import StreamSpec, VmId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.sender import Sender
from drsim.verify.guests import bits
from drsim.verify.violation import Violation

if TYPE_CHECKING:
    from drsim.verify.explorer import Explorer

Masks = list[tuple[VmId, int]]


class Superset:
    """What one stream's source and replica are compared by."""

    __slots__ = ("_bitmap", "_frames", "_guests", "_id", "_machines", "_pairs", "_regions", "_writes")

    def __init__(self, x: "Explorer", spec: StreamSpec) -> None:
        self._id, self._machines, self._guests, self._regions = spec.id, x.kernel.machines, x.guests, x.estate.regions
        self._pairs = [(x.guests[vm], x.guests[vm].disk, x.disks[spec.id].vms[vm].tip) for vm in spec.vms]
        self._writes = x.rows[spec.id].writes
        self._frames: dict[int, tuple[Frame, Masks]] = {}  # by identity, and the frame with it so that it stays
        self._bitmap: tuple[object, object, dict[VmId, int]] = (None, None, {})

    def check(self) -> None:
        """P12: sectors that differ are dirty, in flight or queued.

        Compares the content that is durable at the other side; not how much more is marked than differs, and no VM
        or volume of whose writes nobody hears at present.
        """
        differ: dict[VmId, int] = {}
        for guest, disk, tip in self._pairs:
            if disk != tip and guest.stream == self._id:
                unlike = int.from_bytes(disk, "little") ^ int.from_bytes(tip, "little")
                differ[guest.vm] = unlike & guest.tapped
        if not differ:
            return
        machine = self._machines[self._id.source]
        assert isinstance(machine, ProtectedVra)
        sender = machine.senders[self._id]
        self._take_away(sender, differ)
        if (extent := sender._comparing) is not None and extent.vm in differ:
            start = self._guests[extent.vm].offset[extent.volume] + extent.lba
            differ[extent.vm] &= ~bits(start, extent.sectors)
        if not any(differ.values()):
            return
        dirty = self._dirty(sender)
        for vm, left in differ.items():
            left &= ~dirty.get(vm, 0)
            if left:
                sector = ((left & -left).bit_length() - 1) // 16
                said = f"VM {vm} sector {sector} differs and nobody will send it ({self._id})"
                raise Violation("P12", said, stream=self._id, vm=vm, sector=sector)

    def _take_away(self, sender: Sender, differ: dict[VmId, int]) -> None:
        """Leave of what differs only what is neither open, queued nor in flight."""
        for part in sender._open.parts:
            for row in part.issued.tolist():
                write = self._writes[row]
                if write.guest.vm in differ:
                    differ[write.guest.vm] &= ~write.mask
        known = self._frames
        for frames in (sender.window, sender._queue):
            if not frames:
                continue
            for frame in frames:
                _, masks = known.get(id(frame)) or self._masks(frame)
                for vm, mask in masks:
                    if vm in differ:
                        differ[vm] &= ~mask

    def _masks(self, frame: Frame) -> tuple[Frame, Masks]:
        """The sectors of a frame's rows."""
        if frame.sync:
            batch = frame.batch
            columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
            masks = [
                (VmId(vm), bits(self._guests[VmId(vm)].offset[volume] + lba, n))
                for vm, volume, lba, n in zip(*columns, strict=True)
            ]
        else:
            writes = [self._writes[row] for row in frame.batch.issued.tolist()]
            masks = [(write.guest.vm, write.mask) for write in writes]
        self._frames[id(frame)] = frame, masks
        return frame, masks

    def _dirty(self, sender: Sender) -> dict[VmId, int]:
        """The sectors of each VM that the bitmap covers."""
        keys, runs = sender.bitmap.regions()
        if self._bitmap[0] is keys and self._bitmap[1] == runs:
            return self._bitmap[2]
        masks: dict[VmId, int] = {}
        for key in chain(keys.tolist(), *(range(*run) for run in runs)):
            vm, mask = self._regions[key]
            masks[vm] = masks.get(vm, 0) | mask
        self._bitmap = keys, runs, masks
        return masks
