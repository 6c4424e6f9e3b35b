"""Patience: asks a platform again while it says "not now", within limits. All adapters call their platforms so."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar

from drsim.core.errors import PlatformError
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


@dataclass
class Login:
    """A login to a platform, renewed by whoever first notices that the platform has forgotten it.

    `come_in`: logs in, once. `judge`: what an error of a call means; `blamed`: the error as one of the ports', given
    what was done and where; `trouble`: those that calls raise.
    """

    come_in: Callable[[], Awaitable[None]]
    judge: Callable[[Exception], Verdict]
    blamed: Callable[[Exception, str, str], PlatformError]
    trouble: tuple[type[Exception], ...]
    place: str
    limits: Limits
    number: int = 0
    """How many times it has been renewed."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def patient(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do a piece of work that looks first, within the limits. Raises PlatformError."""
        seen = self.number

        async def attempt() -> T:
            nonlocal seen
            seen = self.number
            return await work()

        return await self._patiently(what, attempt, lambda: self.renew(seen))

    async def renew(self, seen: int) -> None:
        """Log in, unless somebody has since it was `seen`. Raises LoginRefused, Unavailable, PlatformError."""
        async with self._lock:
            if self.number == seen:
                await self._patiently("log in", self.come_in)
                self.number += 1

    async def _patiently(
        self, what: str, work: Callable[[], Awaitable[T]], log_in: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        try:
            return await patiently(work, self.judge, what=what, place=self.place, limits=self.limits, log_in=log_in)
        except self.trouble as error:
            raise self.blamed(error, what, self.place) from error
