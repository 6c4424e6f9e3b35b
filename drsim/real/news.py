"""News and timers: what wakes who waits in an event loop."""

import asyncio
from collections.abc import Callable, Hashable

from drsim.core.units import SECOND


class News:
    """Wakes who waits for something to have happened. May be shared by sites."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """Something happened."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is looked at now and at every `wake`."""
        while not condition():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)


class Timers:
    """Alarms, each of a name; one that is set again replaces the earlier one."""

    def __init__(self) -> None:
        self._handles: dict[Hashable, asyncio.TimerHandle] = {}

    def arm(self, name: Hashable, delay: int, fire: Callable[[], None]) -> None:
        """Call `fire` after `delay` nanoseconds."""
        earlier = self._handles.pop(name, None)
        if earlier is not None:
            earlier.cancel()

        def fired() -> None:
            del self._handles[name]
            fire()

        self._handles[name] = asyncio.get_running_loop().call_later(delay / SECOND, fired)

    def cancel(self) -> None:
        """None of them fires."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
