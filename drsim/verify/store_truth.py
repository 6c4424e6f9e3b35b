"""Truth of a real store: every row that was acknowledged, in plain Python, and what a volume holds after each of them.

A sector holds its write's *stamp* (which write, which sector of it) over and over, so any wrong sector names the
write that it came from.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from drsim.core.batch import WriteBatch
from drsim.core.messages import Checkpoint, Cut, Frame, Position
from drsim.core.names import CheckpointId, StreamSpec, VmId
from drsim.core.units import SECTOR
from drsim.core.window import reaches

_STAMP = struct.Struct("<QQ")
Image = dict[int, bytes]
"""Content by volume."""


def content(stamp: int, sectors: int) -> bytes:
    """What the write with this stamp puts into its sectors."""
    return b"".join(_STAMP.pack(stamp, n) * (SECTOR // _STAMP.size) for n in range(sectors))


def difference(found: Image, wanted: Image) -> str:
    """The first sector that differs, in words; nothing when none does."""
    for volume, right in wanted.items():
        have = found.get(volume, b"")
        if have == right:
            continue
        if len(have) != len(right):
            return f"volume {volume} has {len(have)} bytes instead of {len(right)}"
        for at in range(0, len(right), SECTOR):
            a, b = have[at : at + SECTOR], right[at : at + SECTOR]
            if a != b:
                return f"sector {at // SECTOR} of volume {volume} holds {_origin(a)} instead of {_origin(b)}"
    return ""


def _origin(sector: bytes) -> str:
    stamp, n = _STAMP.unpack_from(sector)
    if sector != _STAMP.pack(stamp, n) * (SECTOR // _STAMP.size):
        return "a mixture"
    return f"write {stamp}.{n}" if stamp else "nothing"


@dataclass(frozen=True, slots=True)
class Row:
    """One write of a VM: its number, where it goes, and what it writes."""

    number: int
    volume: int
    lba: int
    data: bytes

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Number, volume, lba and sectors, as a store lists its rows."""
        return self.number, self.volume, self.lba, len(self.data) // SECTOR


@dataclass(slots=True)
class Truth:
    """What a store must hold of one stream.

    `epochs`: where each began and has come to. `ends`: of all frames. `before`: where the store stood before the last
    frame. `listed`: checkpoints kept and not forgotten; `ever`: all that were tried to be kept.
    """

    spec: StreamSpec
    rows: dict[VmId, list[Row]]
    epochs: dict[int, tuple[Position, Position]]
    ends: list[Cut]
    before: Cut
    promoted: Position
    promoting: Position
    listed: dict[CheckpointId, Checkpoint] = field(default_factory=dict)
    ever: dict[CheckpointId, Checkpoint] = field(default_factory=dict)

    @staticmethod
    def empty(spec: StreamSpec) -> "Truth":
        """Nothing was ever written."""
        zero = (0,) * len(spec.vms)
        return Truth(spec, {vm: [] for vm in spec.vms}, {1: (zero, zero)}, [], Cut(1, zero), zero, zero)

    def copy(self) -> "Truth":
        """The same, to go on with separately."""
        return replace(
            self, rows={vm: list(rows) for vm, rows in self.rows.items()}, epochs=dict(self.epochs),
            ends=list(self.ends), listed=dict(self.listed), ever=dict(self.ever),
        )  # fmt: skip

    @property
    def now(self) -> Cut:
        """The newest epoch, and where it has come to."""
        epoch = max(self.epochs)
        return Cut(epoch, self.epochs[epoch][1])

    def add(self, frame: Frame) -> None:
        """A frame was acknowledged."""
        self.before = self.now
        start, _ = self.epochs.get(frame.epoch, (frame.after, frame.after))
        self.epochs[frame.epoch] = (start, frame.upto)
        self.ends.append(Cut(frame.epoch, frame.upto))
        for row_vm, row in _rows_of(frame.batch, dict(zip(self.spec.vms, frame.after, strict=True))):
            self.rows[row_vm].append(row)

    def image(self, upto: Position) -> Image:
        """What the volumes hold after the rows of each VM up to a position, the last one of a sector last."""
        made = {int(v.id): bytearray(v.sectors * SECTOR) for v in self.spec.volumes}
        for vm, last in zip(self.spec.vms, upto, strict=True):
            for row in self.rows[vm]:
                if row.number <= last:
                    made[row.volume][row.lba * SECTOR : row.lba * SECTOR + len(row.data)] = row.data
        return {volume: bytes(data) for volume, data in made.items()}

    def held(self, vm: VmId, after: int) -> list[tuple[int, int, int, int]]:
        """Extents of the VM's rows beyond a number, in order."""
        return [row.extent for row in self.rows[vm] if row.number > after]

    def cut(self, a: int, b: int, *, after: Position | None = None) -> Cut:
        """One of the cuts in any epoch, also inside of a frame, of which the mirrors are not past `after`."""
        after = self.promoting if after is None else after
        epochs = [e for e, (_, end) in self.epochs.items() if reaches(end, after)]
        epoch = epochs[-1 - a % len(epochs)]
        start, end = self.epochs[epoch]
        low = tuple(map(max, start, after))
        spread = (b % 16, b // 16)
        return Cut(
            epoch, tuple(h - (h - x + 1) * spread[n % 2] // 16 for n, (x, h) in enumerate(zip(low, end, strict=True)))
        )

    def never(self) -> Iterator[Cut]:
        """Cuts at which the stream never stood, or which the mirrors are past."""
        epoch, end = self.now.epoch, self.now.position
        yield Cut(epoch, tuple(n + 1 for n in end))
        yield Cut(epoch + 1, end)
        if any(self.promoting):
            yield Cut(epoch, tuple(max(0, n - 1) for n in self.promoting))
        for earlier, later in zip(sorted(self.epochs), sorted(self.epochs)[1:], strict=False):
            over, start = self.epochs[earlier][1], self.epochs[later][0]
            if reaches(over, self.promoting):
                for n in range(len(over)):
                    if start[n] > over[n] and self.promoted[n] != over[n] + 1:
                        yield Cut(earlier, (*over[:n], over[n] + 1, *over[n + 1 :]))


def _rows_of(batch: WriteBatch, number: dict[VmId, int]) -> Iterator[tuple[VmId, Row]]:
    data, at = bytes(batch.payload or b""), 0
    columns: Sequence[list[int]] = [c.tolist() for c in (batch.vm, batch.volume, batch.lba, batch.sectors)]
    for vm, volume, lba, sectors in zip(*columns, strict=True):
        number[VmId(vm)] += 1
        yield VmId(vm), Row(number[VmId(vm)], volume, lba, data[at : at + sectors * SECTOR])
        at += sectors * SECTOR
