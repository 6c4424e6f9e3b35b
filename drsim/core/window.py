"""Window: frames sent and not yet acknowledged, bounded by count and bytes."""

from collections import deque
from collections.abc import Iterator
from operator import ge

from drsim.core.messages import Frame, Position


def reaches(position: Position, target: Position) -> bool:
    """Whether every VM of `position` is at or past `target`."""
    if len(position) != len(target):
        raise ValueError("one position is longer than the other")
    return all(map(ge, position, target))


class Window:
    """Frames in flight, oldest first.

    Invariant: a frame leaves only when an acknowledgement covers it, or all leave when the epoch ends.
    """

    __slots__ = ("_frames", "_max_bytes", "_max_frames", "nbytes")

    def __init__(self, *, max_frames: int, max_bytes: int) -> None:
        self._frames: deque[Frame] = deque()
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def has_room(self, nbytes: int) -> bool:
        """Whether a frame of this size may be sent. A frame larger than the limit may go alone."""
        if not self._frames:
            return True
        return len(self._frames) < self._max_frames and self.nbytes + nbytes <= self._max_bytes

    def add(self, frame: Frame) -> None:
        """A frame was sent."""
        self._frames.append(frame)
        self.nbytes += frame.nbytes

    def acknowledge(self, durable: Position) -> int:
        """Free what `durable` covers; returns the bytes freed."""
        freed = 0
        while self._frames and reaches(durable, self._frames[0].upto):
            freed += self._frames.popleft().nbytes
        self.nbytes -= freed
        return freed

    def clear(self) -> list[Frame]:
        """The epoch ends: hand back everything in flight."""
        frames = list(self._frames)
        self._frames.clear()
        self.nbytes = 0
        return frames
