"""A guest of our own for demonstrations and proofs: a boot sector that writes what can be checked, for ever.

It needs no operating system, boots in a fraction of a second and depends on nothing. Its n-th round writes two sectors
full of the number n, each when the one before has been acknowledged:

    sector 2 + n % 64    the ring
    sector 1             the head

and then prints a dot on the serial console ("R" once when it begins, "E" for a disk error). So at every crash-
consistent point the ring holds the 64 numbers up to the head's, or one round more. It goes on from the head it finds.

The code, in 16-bit x86:

    start: xor ax,ax; mov ds,es,ss,ax; mov sp,7C00; mov [7B00],dl    the boot drive
           put 'R'; lba := 1; int13(42h); ebx := [8000]              the head
    again: inc ebx; fill 8000..81FF with ebx
           lba := 2 + (bx and 63); int13(43h); lba := 1; int13(43h)
           put '.'; int 15h, 86h: wait 20 ms; jmp again
    int13: packet at 7B10 := one sector at 0:8000; on an error put 'E'
"""

import struct
from pathlib import Path

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR

CODE = bytes.fromhex(
    "31c08ed88ec08ed0bc007c8816007bb052e87a0066c706187b0100000066c7061c7b00000000b442e83e00668b1e0080"
    "6643bf0080b980006689d866f3ab89d883e03f83c002a3187bb443e81b00c706187b0100b443e81000b02ee83000b486"
    "31c9ba204ecd15ebc766c706107b1000010066c706147b0080000030c08a16007bbe107b6653cd13665b7306b045baf803eec3"
)
RING = 64
LEAST = (2 + RING) * SECTOR
"""Bytes that its disk has at least."""
READY = "."
"""What it prints when its first round is on the disk."""


def image(path: Path, size: int) -> None:
    """Write a disk of `size` bytes with the guest on it. Raises FileExistsError."""
    with path.open("xb") as file:
        file.truncate(size)
        file.write(CODE.ljust(SECTOR - 2, b"\0") + b"\x55\xaa")


def rounds(disk: Path) -> int:
    """How many rounds a disk holds. Raises PlatformError when no order of crash-consistent writes can have left it."""
    with disk.open("rb") as file:
        data = file.read(LEAST)
    sectors = [data[at : at + SECTOR] for at in range(SECTOR, LEAST, SECTOR)]
    numbers: list[int] = [struct.unpack_from("<I", sector)[0] for sector in sectors]
    torn = [lba for lba, (n, sector) in enumerate(zip(numbers, sectors, strict=True), 1) if sector != _filled(n)]
    if torn:
        raise PlatformError(f"sector {torn[0]} is torn", place=str(disk))
    head, *ring = numbers
    for n in range(max(1, head - RING + 1), head + 1):
        ahead = n == head - RING + 1 and ring[n % RING] == head + 1
        if ring[n % RING] != n and not ahead:
            message = f"the head is at {head}, and round {n} holds {ring[n % RING]}"
            raise PlatformError(message, place=str(disk))
    return head


def _filled(n: int) -> bytes:
    return struct.pack("<I", n) * (SECTOR // 4)
