"""What tests of several rooms share: batches by hand, writes of an explorer's guests, tweaks that are small enough."""

from collections.abc import Sequence

from drsim.core.batch import WriteBatch
from drsim.core.names import VmId
from drsim.verify.estate import TINY
from drsim.verify.explorer import Explorer

__all__ = ["TINY", "write", "writes"]


def writes(*rows: tuple[int, int, int, int], issued: Sequence[int] | None = None) -> WriteBatch:
    """A batch of rows (vm, volume, lba, sectors)."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return WriteBatch.of(*columns, issued if issued is not None else range(len(rows)))


def write(x: Explorer, *rows: tuple[int, int, int, int]) -> bool:
    """Guests of one stream write rows (vm, number of the volume, lba, sectors); true when all were acknowledged."""
    made = [x.new_write(VmId(vm), index, lba, sectors) for vm, index, lba, sectors in rows]
    assert len({each.guest.stream for each in made}) == 1
    x.write(made)
    return all(map(x.checks.is_acknowledged, made))
