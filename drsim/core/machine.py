"""The one interface of the core: a machine takes an event and answers with effects."""

from collections.abc import Sequence
from typing import Protocol

from drsim.core.effects import Effect
from drsim.core.events import Event
from drsim.core.units import Ns


class Machine(Protocol):
    """A part of the core. No clock, no I/O, no randomness: the same events give the same effects."""

    def handle(self, now: Ns, event: Event) -> Sequence[Effect]:
        """React to one event at `now`. Raises PeerError for a message that cannot be."""
        ...
