"""Lane: one worker thread per target, in order; results come back to the event loop in the same order.

Effects on one target are performed in order, on different targets in any order: one lane per target is that contract.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """What work came to: a value, or the error it raised."""

    def __init__(self, value: T | None, error: BaseException | None) -> None:
        self._value, self.error = value, error

    @property
    def value(self) -> T:
        """The value. Raises the error."""
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]


class Lane:
    """A queue of work and its thread. Use from the event loop's thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Do `work` in the thread after all that was submitted before; then call `done` in the event loop.

        Callbacks come in the order of the work, and nothing that a later piece of work did is known before.
        """

        def report(future: Future[T]) -> None:
            error = future.exception()
            outcome = Outcome(None if error else future.result(), error)
            self._loop.call_soon_threadsafe(done, outcome)

        self._executor.submit(work).add_done_callback(report)

    async def call(self, work: Callable[[], T]) -> T:
        """Do `work` in its turn and wait for its value. Raises what it raises."""
        waiter: asyncio.Future[Outcome[T]] = self._loop.create_future()

        def done(outcome: Outcome[T]) -> None:
            if not waiter.done():
                waiter.set_result(outcome)

        self.submit(work, done)
        return (await waiter).value

    async def close(self) -> None:
        """Finish all work; every `done` has been called when this returns."""
        await self._loop.run_in_executor(None, self._executor.shutdown)
