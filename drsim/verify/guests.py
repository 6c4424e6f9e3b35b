"""Guests: the truth at the guests' boundary. What each VM wrote, where it landed, when it was issued and acknowledged.

The content of a sector is the *stamp* of its last write, the count of that write in its VM's capture order, as two
bytes; zero before the first, and after a discard. So a disk is a short byte string, and the disk after every captured
write can be kept: whether a recovered image is a past state of the VM is one comparison of bytes, exact and with no
hash.

A write in flight has been issued and has not landed. The tap passes it to the disk, which decides the order of
overlapping ones, and captures in that order (PROTOCOL 2.1).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from drsim.core.batch import Columns, WriteBatch
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeInfo
from drsim.core.units import SECTOR

NEVER = 1 << 60
ROOM = 12  # rows of one block of columns: few, so that frames are joined from several


@dataclass(slots=True, eq=False)
class Write:
    """One guest write. `start` and `stop` are sectors of the VM's one sector space; `index` its place in L."""

    guest: "Guest"
    volume: int
    lba: int
    sectors: int
    start: int
    stop: int
    issued: int
    discard: bool = False
    opens: bool | None = None  # a transaction of its application; False: it closes one, None: neither
    index: int = 0  # from 1, once captured
    heard: bool = False  # handed to the VRA: it lies in what is tapped
    data: bytes = b""
    mask: int = 0  # its `bits`
    row: int = -1  # number among its stream's captured writes


def bits(start: int, sectors: int) -> int:
    """16 ones for each of these sectors, at their place in a disk read as a little-endian number."""
    return ((1 << (16 * sectors)) - 1) << (16 * start)


class Guest:
    """One VM: its disks as one sector space, its writes in capture order, and its disk after each of them.

    `volumes`: what it has, out of the `room` that there may come to be. `host`: the VRA of the host that it runs on,
    None without one. `stream`: the one that its writes go to, None while nobody hears of them; `tapped`: those within
    these `bits`.
    """

    __slots__ = ("acked", "disk", "host", "images", "in_flight", "issued", "offset", "open", "stream", "tapped", "vm",
                 "volumes", "writes")  # fmt: skip

    def __init__(
        self, vm: VmId, volumes: tuple[VolumeInfo, ...], room: tuple[VolumeInfo, ...], host: Address,
        stream: StreamId | None,
    ) -> None:  # fmt: skip
        self.vm, self.volumes = vm, volumes
        self.host: Address | None = host
        self.stream = stream
        self.offset: dict[int, int] = {}
        total = 0
        for volume in room:
            self.offset[volume.id] = total
            total += volume.sectors
        self.tapped = self.space(volumes)
        self.disk = bytes(2 * total)  # as it landed
        self.images = [self.disk]  # as it was captured: apply(L, k) for every k
        self.open = [False]  # whether a transaction is open then
        self.issued: list[int] = []
        self.acked: list[int] = []
        self.writes: list[Write] = []
        self.in_flight: list[Write] = []

    def space(self, volumes: Iterable[VolumeInfo]) -> int:
        """The bits of these volumes."""
        return sum(bits(self.offset[volume.id], volume.sectors) for volume in volumes)

    def issue(self, now: int, index: int, lba: int, sectors: int, *, discard: bool = False) -> Write:
        """The guest issues a write to its volume number `index`."""
        volume = self.volumes[index]
        assert 0 <= lba < lba + sectors <= volume.sectors
        start = self.offset[volume.id] + lba
        return Write(self, volume.id, lba, sectors, start, start + sectors, now, discard, mask=bits(start, sectors))

    def land(self, write: Write) -> None:
        """The local disk has it, over whatever landed before. Its stamp is its place in the landing order.

        A write that brings its content keeps it.
        """
        self.issued.append(write.issued)
        self.acked.append(NEVER)
        self.writes.append(write)
        write.index = len(self.writes)
        if not write.data:
            write.data = (0 if write.discard else write.index).to_bytes(2, "little") * write.sectors
        disk = self.disk  # another object than before: nothing is changed of what somebody may have kept
        self.disk = disk[: 2 * write.start] + write.data + disk[2 * write.stop :]

    def capture(self, write: Write) -> None:
        """The tap has it: the next of L."""
        write.heard = not write.mask & ~self.tapped
        image = self.images[-1]
        self.images.append(image[: 2 * write.start] + write.data + image[2 * write.stop :])
        self.open.append(self.open[-1] if write.opens is None else write.opens)

    @property
    def captured(self) -> int:
        """How many writes of this VM have been captured."""
        return len(self.images) - 1


@dataclass(slots=True)
class Rows:
    """The captured writes of one stream: the columns that the core sees, and what stands behind each row.

    The `issued` column carries the row's number, which the core passes on unread.
    """

    spec: StreamSpec
    writes: list[Write] = field(default_factory=list)
    _columns: Columns | None = None
    _at: int = 0
    _end: int = 0

    def batch(self, writes: list[Write]) -> WriteBatch:
        """These writes as the next rows."""
        if self._columns is None or self._at + len(writes) > ROOM:
            ints, longs = np.empty((3, ROOM), np.int32), np.empty((2, ROOM), np.int64)
            self._columns = Columns(ints[0], ints[1], longs[0], ints[2], longs[1], np.zeros(ROOM + 1, np.int64))
            self._at = self._end = 0
        columns, at, nbytes = self._columns, self._at, self._end
        vm, volume, lba, sectors = columns.vm, columns.volume, columns.lba, columns.sectors
        issued, end = columns.issued, columns.end
        for write in writes:
            write.row = len(self.writes)
            self.writes.append(write)
            vm[at], volume[at], lba[at], sectors[at] = write.guest.vm, write.volume, write.lba, write.sectors
            issued[at] = write.row
            at += 1
            end[at] = nbytes = nbytes + write.sectors * SECTOR
        batch = WriteBatch(columns, self._at, at)
        self._at, self._end = at, nbytes
        return batch


def digests(content: bytes | bytearray, sectors: int) -> bytes:
    """Digests of regions of so many sectors. Here the content itself is short enough: equal exactly when it is."""
    size = 2 * sectors
    return bytes(content).ljust(-(-len(content) // size) * size, b"\xff")


def sector_bytes(content: bytes) -> bytearray:
    """Two bytes a sector as whole sectors, for a payload that the core carries."""
    whole = bytearray(len(content) // 2 * SECTOR)
    whole[0::SECTOR], whole[1::SECTOR] = content[0::2], content[1::2]
    return whole


def sector_stamps(payload: bytes | bytearray | memoryview) -> bytes:
    """The two bytes of each sector of a payload."""
    whole = memoryview(payload)
    stamps = bytearray(len(whole) // SECTOR * 2)
    stamps[0::2], stamps[1::2] = whole[0::SECTOR], whole[1::SECTOR]
    return bytes(stamps)
