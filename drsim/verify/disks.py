"""Disks: what a recovery VRA's disks hold of one stream, in the explorer. Everything here is durable.

    journal   the rows of each VM in order, and the disk after each of them
    mirror    the rows before `base`, applied

A recovered image at a position is the mirror and the rows up to it, in order.
"""

from bisect import bisect_right
from dataclasses import dataclass

from drsim.core.effects import Promote
from drsim.core.journal import Stored
from drsim.core.messages import Frame, Position
from drsim.core.names import StreamSpec, VmId
from drsim.core.units import SECTOR
from drsim.verify.guests import Guest, Rows, Write, sector_stamps


@dataclass(slots=True)
class VmDisks:
    """One VM's journal and mirror. `writes[i]` is what row i is of the truth, None for a row of a sync."""

    mirror: bytearray
    tip: bytearray
    lsns: list[int]
    states: list[bytes]  # the disk after each row
    rows: list[tuple[int, int, bytes]]  # where in the disk, and what
    writes: list[Write | None]
    last: int = 0  # the last captured write that came as a record in this epoch, 0 for none yet


class StreamDisks:
    """The journals and mirrors of a stream, as the store keeps them."""

    def __init__(self, spec: StreamSpec, guests: dict[VmId, Guest], rows: Rows) -> None:
        self.spec, self._guests, self._rows = spec, guests, rows
        self.epoch = 1
        self.base: Position = (0,) * len(spec.vms)
        self.end: Position = self.base
        self.frames: list[tuple[Position, tuple[int, ...]]] = []  # ends and sizes of the frames not yet aged
        self.vms = {}
        for vm in spec.vms:
            blank = len(guests[vm].disk)
            self.vms[vm] = VmDisks(bytearray(blank), bytearray(blank), [], [], [], [])

    def continues(self, frame: Frame) -> bool:
        """Whether a frame lies where the journals end, or is the first of a later epoch."""
        return frame.epoch > self.epoch or (frame.epoch == self.epoch and frame.after == self.end)

    def append(self, frame: Frame) -> None:
        """Put a frame's rows at the ends of the journals."""
        if frame.epoch > self.epoch:
            for disks in self.vms.values():
                disks.last = 0
        self.epoch, self.end = frame.epoch, frame.upto
        self.frames.append((frame.upto, frame.sizes))
        lsn = dict(zip(self.vms, frame.after, strict=True))
        batch = frame.batch
        if batch.payload is not None:
            self._append_read(frame, lsn)
            return
        for row, lba, sectors in zip(batch.issued.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True):
            write = self._rows.writes[row]
            vm = write.guest.vm
            lsn[vm] += 1
            start = 2 * (write.start + lba - write.lba)
            self._put(vm, lsn[vm], start, start + 2 * sectors, write.data[: 2 * sectors], write)

    def _append_read(self, frame: Frame, lsn: dict[VmId, int]) -> None:
        batch, at = frame.batch, 0
        assert batch.payload is not None
        content = sector_stamps(batch.payload)
        columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
        for number, volume, lba, sectors in zip(*columns, strict=True):
            vm = VmId(number)
            lsn[vm] += 1
            start = 2 * (self._guests[vm].offset[volume] + lba)
            self._put(vm, lsn[vm], start, start + 2 * sectors, content[at : at + 2 * sectors], None)
            at += 2 * sectors

    def _put(self, vm: VmId, lsn: int, start: int, stop: int, data: bytes, write: Write | None) -> None:
        disks = self.vms[vm]
        disks.tip[start:stop] = data
        disks.lsns.append(lsn)
        disks.states.append(bytes(disks.tip))
        disks.rows.append((start, stop, data))
        disks.writes.append(write)

    def promote(self, effect: Promote) -> None:
        """Apply rows up to a position to the mirrors, and forget them."""
        for (_, disks), upto in zip(self.vms.items(), effect.upto, strict=True):
            n = bisect_right(disks.lsns, upto)
            mirror = disks.mirror
            for start, stop, data in disks.rows[:n]:
                mirror[start:stop] = data
            del disks.lsns[:n], disks.states[:n], disks.rows[:n], disks.writes[:n]
        self.base = tuple(map(max, self.base, effect.upto))
        self.frames = [(upto, sizes) for upto, sizes in self.frames if any(map(int.__gt__, upto, self.base))]

    def stored(self) -> Stored:
        """What a recovery VRA is built from after a crash."""
        parts = tuple(
            tuple((upto[n], sizes[n]) for upto, sizes in self.frames if upto[n] > base and sizes[n])
            for n, base in enumerate(self.base)
        )
        return Stored(self.epoch, self.base, self.end, parts)

    def image(self, vm: VmId, upto: int) -> bytes:
        """The disk of a VM at a position."""
        disks = self.vms[vm]
        n = bisect_right(disks.lsns, upto)
        return disks.states[n - 1] if n else bytes(disks.mirror)

    def nbytes(self, vm: VmId) -> int:
        """Bytes of a VM's journaled rows."""
        return sum(stop - start for start, stop, _ in self.vms[vm].rows) // 2 * SECTOR
