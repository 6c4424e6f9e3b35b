"""Scripts that a plan has run at the recovery site."""

import asyncio
import os
import signal
from contextlib import suppress

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Script
from drsim.core.units import SECOND


async def run_script(script: Script) -> None:
    """A script of the plan, with its process group ended when its time is over."""
    process = await asyncio.create_subprocess_shell(
        script.command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(script.timeout / SECOND):
            _, said = await process.communicate()
    except TimeoutError as error:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise PlatformError(f"{script.command} ran for longer than {script.timeout / SECOND:g} s") from error
    if process.returncode:
        words = said.decode(errors="replace").strip().splitlines()
        last = f": {words[-1]}" if words else ""
        raise PlatformError(f"{script.command} ended with code {process.returncode}{last}")
