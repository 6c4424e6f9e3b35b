"""Thrift: which frames are sent compressed: those for whose saved bytes the link would have taken longer.

Only frames that wait are tried. Where it did not pay it is tried again after some more: content and links change.
"""

import time

from drsim.core.batch import Payload
from drsim.real.envelope import prelude
from drsim.real.wire import MAGIC, Letter, pieces

SMALL = 4096
"""Bytes of a frame that is never compressed."""
SPARED = 16
"""Frames that are not tried after one for which it did not pay."""
SMOOTHED = 0.1
"""Weight of the newest frame in what is known of the link."""


class Thrift:
    """Of one end. `rate`: what the link is limited to, in bytes per second."""

    def __init__(self, rate: float | None, *, compress: bool) -> None:
        self._least, self._compress = 1 / rate if rate else 0.0, compress
        self._pace = 0.0  # seconds that a byte takes
        self._spared = 0  # frames that will not be tried

    def took(self, size: int, seconds: float) -> None:
        """The link took so long for a frame."""
        if size > SMALL:
            self._pace += SMOOTHED * (seconds / size - self._pace)

    def encoded(self, letter: Letter, size: int, *, waiting: bool) -> list[Payload]:
        """A message with `size` bytes of content in pieces. `waiting`: behind others."""
        if not self._compress or not waiting or size < SMALL:
            return pieces(letter)
        self._spared = max(0, self._spared - 1)
        if self._spared:
            return pieces(letter)
        began = time.perf_counter()
        data = pieces(letter, compress=True)
        saved = (size - sum(map(len, data))) * max(self._pace, self._least)
        if not prelude(MAGIC, data[0]).compressed or time.perf_counter() - began > saved:
            self._spared = SPARED
        return data
