"""Converts disks between formats with qemu-img; the new one is as large as its platform wants it."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

from drsim.core.convert import KINDS, rounded
from drsim.core.errors import PlatformError
from drsim.real.files import blame

FORMATS = ("raw", "vmdk", "vhdx", "qcow2")


async def size_of(path: Path, form: str) -> int:
    """Bytes that the guest sees. Raises PlatformError."""
    found: dict[str, Any] = json.loads(await _run("info", "--output=json", "-f", _known(form), str(path)))
    return int(found["virtual-size"])


async def convert(source: Path, of: str, target: Path, to: str, *, size: int | None = None) -> None:
    """Write a disk anew as `target`, which is there whole or not at all. `size`: of the new one; None: the same.

    What is added is zeroes. Raises PlatformError.
    """
    have = await size_of(source, of)
    wanted = have if size is None else size
    if wanted < have:
        raise PlatformError(f"the disk has {have} bytes and would lose some with {wanted}", place=str(source))
    part = target.with_name(target.name + ".part")
    try:
        await _run("create", "-q", "-f", _known(to), str(part), str(wanted))
        await _run("convert", "-n", "--target-is-zero", "-f", of, "-O", to, str(source), str(part))
        with blame(target):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


async def convert_for(source: Path, of: str, target: Path, kind: str) -> int:
    """The same in the format and size of a platform; gives the new size."""
    size = rounded(await size_of(source, of), kind)
    await convert(source, of, target, KINDS[kind].format, size=size)
    return size


async def differs(one: Path, form: str, other: Path, other_form: str) -> bool:
    """Whether two disks differ in what the guest sees; one may be longer by zeroes. Raises PlatformError."""
    code, said = await _qemu_img("compare", "-f", form, "-F", other_form, str(one), str(other))
    if code > 1:
        raise PlatformError(f"qemu-img compare: {said.strip()}", place=str(one))
    return code == 1


def _known(form: str) -> str:
    if form not in FORMATS:
        raise PlatformError(f"no disk format is called {form!r}", hint=f"one of: {', '.join(FORMATS)}")
    return form


async def _run(*arguments: str) -> str:
    code, said = await _qemu_img(*arguments)
    if code:
        raise PlatformError(f"qemu-img {arguments[0]}: {said.strip()}", place=arguments[-1])
    return said


async def _qemu_img(*arguments: str) -> tuple[int, str]:
    program = shutil.which("qemu-img")
    if program is None:
        raise PlatformError("qemu-img is not installed", hint="Debian package qemu-utils")
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode(errors="replace")
