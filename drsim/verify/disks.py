"""Disks: what a recovery VRA's disks hold of one stream, in the explorer. Everything here is durable.

    journal   the rows of each VM in order, and the disk after each of them
    mirror    the rows before `base`, applied

A recovered image at a position is the mirror and the rows up to it, in order.
"""

from bisect import bisect_right
from dataclasses import dataclass, field

from drsim.core.effects import Promote
from drsim.core.journal import Stored
from drsim.core.messages import Cut, Frame, Position
from drsim.core.names import StreamSpec, VmId
from drsim.core.units import SECTOR
from drsim.verify.guests import Guest, Rows, Write, sector_stamps


@dataclass(slots=True)
class VmDisks:
    """One VM's journal and mirror. `writes[i]` is what row i is of the truth, None for a row of a sync.

    `end`: how far frames went, whichever stream they came on; an epoch may begin beyond the last row.

    `tip`: the disk after the last row. `base`: what the mirror has; `parts`: the ends and sizes of the frames beyond it
    that had rows of the VM.
    """

    mirror: bytearray
    tip: bytes
    lsns: list[int]
    states: list[bytes]  # the disk after each row
    rows: list[tuple[int, int, bytes]]  # where in the disk, and what
    writes: list[Write | None]
    base: int = 0
    end: int = 0
    parts: list[tuple[int, int]] = field(default_factory=list)
    last: int = 0  # the last captured write that came as a record in this epoch, 0 for none yet
    newest: int = 0  # the same, in any epoch


class StreamDisks:
    """The journals and mirrors of a stream, as the store keeps them."""

    def __init__(
        self, spec: StreamSpec, guests: dict[VmId, Guest], rows: Rows, follows: "StreamDisks | None" = None
    ) -> None:
        self.spec, self._guests, self._rows = spec, guests, rows
        self.epoch = 1 if spec.id.part == 1 else 0
        self.end: Position = (0,) * len(spec.vms)
        self.vms: dict[VmId, VmDisks] = {}
        for vm in spec.vms:
            blank = bytes(len(guests[vm].disk))
            fresh = VmDisks(bytearray(blank), blank, [], [], [], [])
            self.vms[vm] = follows.vms[vm] if follows is not None and vm in follows.vms else fresh

    def continues(self, frame: Frame) -> bool:
        """Whether a frame lies where the journals end, or is the first of a later epoch."""
        return frame.epoch > self.epoch or (frame.epoch == self.epoch and frame.after == self.end)

    def append(self, frame: Frame) -> None:
        """Put a frame's rows at the ends of the journals."""
        if frame.epoch > self.epoch:
            for disks in self.vms.values():
                disks.last = 0
        self.epoch, self.end = frame.epoch, frame.upto
        for disks, upto, nbytes in zip(self.vms.values(), frame.upto, frame.sizes, strict=True):
            disks.end = max(disks.end, upto)
            if nbytes:
                disks.parts.append((upto, nbytes))
        lsn = dict(zip(self.vms, frame.after, strict=True))
        batch = frame.batch
        if batch.columns.payload is not None:
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
        disks.tip = disks.tip[:start] + data + disks.tip[stop:]
        disks.lsns.append(lsn)
        disks.states.append(disks.tip)
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
            disks.base = max(disks.base, upto)
            disks.parts = [part for part in disks.parts if part[0] > disks.base]

    def cut_through(self, cut: Cut) -> list[tuple[VmId, int]]:
        """The VMs that a cut goes through, and where: all but those whose volumes had left the stream."""
        places = zip(self.vms, cut.position, strict=True)
        if not cut.without:
            return list(places)
        ever = (*self.spec.volumes, *self.spec.left)
        vms = {volume.vm for volume in ever if volume.id not in cut.without}
        return [(vm, k) for vm, k in places if vm in vms]

    def discard(self, vms: tuple[VmId, ...], *, keep_disks: bool = False) -> None:
        """Journals and mirrors of these VMs are deleted; or the mirrors stay, with what the journals had."""
        for vm in vms:
            disk = self.vms[vm].tip if keep_disks else bytes(len(self.vms[vm].tip))
            self.vms[vm].__init__(bytearray(disk), disk, [], [], [], [], end=self.vms[vm].end)  # type: ignore[misc]

    def close(self) -> None:
        """Nothing of the stream is there any more: whoever opens it again begins anew."""
        self.epoch, self.end = 0, (0,) * len(self.spec.vms)

    def stored(self) -> Stored:
        """What a recovery VRA is built from after a crash."""
        every = self.vms.values()
        return Stored(self.epoch, tuple(d.base for d in every), self.end, tuple(tuple(d.parts) for d in every))

    def image(self, vm: VmId, upto: int) -> bytes:
        """The disk of a VM at a position."""
        disks = self.vms[vm]
        n = bisect_right(disks.lsns, upto)
        return disks.states[n - 1] if n else bytes(disks.mirror)

    def nbytes(self, vm: VmId) -> int:
        """Bytes of a VM's journaled rows."""
        return sum(stop - start for start, stop, _ in self.vms[vm].rows) // 2 * SECTOR
