"""Spares: memory that was used, for what needs memory again.

Memory that has been used costs far less than fresh one, which the kernel has to fill with zeros, page by page. Python
itself knows whether somebody still looks at it: it cannot be resized while somebody does.
"""

from collections import deque


class Spares:
    """At most `most` pieces of memory, which may still be looked at. One thread at a time."""

    def __init__(self, most: int) -> None:
        self._resting: deque[bytearray] = deque(maxlen=most)

    def take(self, size: int) -> bytearray:
        """Memory of this size that nobody looks at: what was used last, which may still be in the cache, or new."""
        for _ in range(len(self._resting)):
            memory = self._resting.pop()
            try:
                memory.pop()
            except BufferError:  # somebody does
                self._resting.appendleft(memory)
                continue
            memory.append(0)
            if len(memory) == size:
                return memory
            self._resting.appendleft(memory)
        return bytearray(size)

    def rest(self, memory: bytearray) -> None:
        """It may be used again as soon as nobody looks at it."""
        self._resting.append(memory)
