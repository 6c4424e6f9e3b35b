"""Boot: a disk that says what it is when it starts, and QEMU to start it: the bytes behind a platform's words.

The boot sector reads the sector behind it, prints its text on the serial console and halts:

    start: xor ax,ax; mov ds,es,ss,ax; mov sp,7C00; read LBA 1 of the boot drive to 7E00 (int 13h); on an error: "E"
    next:  lodsb; at a zero: halt for ever; wait until the port is free; out 3F8,al; jmp next
"""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from drsim.core.errors import PlatformError
from drsim.core.units import SECTOR

CODE = bytes.fromhex(
    "31c08ed88ec08ed0bc007cb80102b9020030f6bb007ecd13be007e7304c7044500ac84c0741288c4bafd03eca82074f8baf80388e0eeebe9f4ebfd"
)
QEMU = "qemu-system-x86_64"
_SECONDS = 60.0


def speaking(text: str, size: int) -> bytes:
    """A disk of `size` bytes that prints a text and a line feed."""
    said = (text + "\n").encode()
    if len(said) >= SECTOR:
        raise ValueError(f"{text!r} does not fit into a sector")
    head = CODE.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + said
    return head.ljust(size, b"\0")


async def boot(disk: Path, kind: str = "raw") -> str:
    """Start a disk, whose format is `kind`, in QEMU and give the line that it prints. It is not written to.

    Raises PlatformError when it prints none.
    """
    if shutil.which(QEMU) is None:
        raise PlatformError(f"{QEMU} is not installed", hint="it is in the package qemu-system-x86")
    drive = f"file.filename={str(disk).replace(',', ',,')},file.driver=file,driver={kind},if=virtio,snapshot=on"
    options = ["-machine", "pc", "-accel", "tcg", "-m", "16", "-display", "none", "-nodefaults", "-no-reboot"]
    qemu = await asyncio.create_subprocess_exec(
        QEMU, *options, "-serial", "stdio", "-drive", drive,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert qemu.stdout is not None
    assert qemu.stderr is not None
    try:
        async with asyncio.timeout(_SECONDS):
            line = await qemu.stdout.readline()
            if not line:
                why = (await qemu.stderr.read()).decode(errors="replace").strip()
                raise PlatformError(f"QEMU ends: {why}", place=str(disk))
    except TimeoutError as error:
        raise PlatformError(f"the disk prints nothing within {_SECONDS:g} s", place=str(disk)) from error
    finally:
        with suppress(ProcessLookupError):
            qemu.kill()
        await qemu.wait()
    return line.decode(errors="replace").strip()
