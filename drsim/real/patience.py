"""Patience: asks a platform again while it says "not now", within limits. All adapters call their platforms so."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TypeVar

from drsim.real.ports import Limits, Unavailable

T = TypeVar("T")


class Verdict(Enum):
    """What an error means: ask again later, log in first and ask again, or give up and raise it."""

    AGAIN = auto()
    LOG_IN = auto()
    GIVE_UP = auto()


async def patiently(
    call: Callable[[], Awaitable[T]],
    judge: Callable[[Exception], Verdict],
    *,
    what: str,
    place: str,
    limits: Limits,
    log_in: Callable[[], Awaitable[None]] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """What `call` gives. `what`: the call in words. Raises Unavailable when it never came; what GIVE_UP meant as it is.

    `call` must be safe to repeat: it looks before it makes anything.
    """
    waits = limits.waits()
    while True:
        try:
            async with asyncio.timeout(limits.call):
                return await call()
        except Exception as error:
            late = isinstance(error, TimeoutError)
            verdict = Verdict.AGAIN if late else judge(error)
            wait = next(waits, None)
            if verdict is Verdict.GIVE_UP:
                raise
            if wait is None:
                why = f"no answer within {limits.call:g} s" if late else str(error)
                hint = "is the platform reachable, and not overloaded?"
                message = f"{what}: given up after {limits.attempts} attempts: {why}"
                raise Unavailable(message, place=place, hint=hint) from error
            await sleep(wait)
            if verdict is Verdict.LOG_IN and log_in is not None:
                await log_in()
