"""Kernel: dispatches events by address, runs each step to completion, numbers effects, writes one trace record a step.

It is the only dispatcher, in all worlds. It holds no queue and no clock: a world posts an event and performs the
effects that come back.
"""

from collections.abc import Sequence
from typing import Protocol

from drsim.core.effects import Effect, EffectId
from drsim.core.errors import CoreError
from drsim.core.events import Event
from drsim.core.machine import Machine
from drsim.core.names import Address
from drsim.core.units import Ns

Issued = tuple[EffectId, Effect]


class Sink(Protocol):
    """Takes one record a step."""

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """Keep, digest or ignore it."""
        ...


class Kernel:
    """The machines of one world (or of one process of it), by address."""

    def __init__(self, *, max_steps: int, trace: Sink | None = None) -> None:
        self.machines: dict[Address, Machine] = {}
        self.steps = 0
        self._issued: dict[Address, int] = {}
        self._clocks: dict[Address, Ns] = {}  # sites need not agree on the time
        self._trace = trace
        self._now, self._last, self._max_steps = Ns(-1), 0, max_steps

    def add(self, address: Address, machine: Machine) -> None:
        """Put a machine at an address. Raises CoreError when the address is taken."""
        if address in self.machines:
            raise CoreError("two machines at one address", place=address)
        self.machines[address] = machine
        self._issued[address] = 0
        self._clocks[address] = Ns(-1)

    def replace(self, address: Address, machine: Machine) -> None:
        """A machine died; this one was rebuilt from what is durable. Effect ids go on, so none comes twice."""
        if address not in self.machines:
            raise CoreError("no machine to replace", place=address)
        self.machines[address] = machine
        self._clocks[address] = Ns(-1)

    def post(self, now: Ns, address: Address, event: Event) -> list[Issued]:
        """One step: the machine at `address` handles `event`. Raises CoreError on a livelock."""
        first, effects = self.step(now, address, event)
        return [(EffectId(address, n), effect) for n, effect in enumerate(effects, first)]

    def step(self, now: Ns, address: Address, event: Event) -> tuple[int, Sequence[Effect]]:
        """The same for who has no use for most ids: the number of the first effect, and the effects."""
        if now != self._now:
            self._now, self._last = now, self.steps + self._max_steps
        assert now >= self._clocks[address], "time does not go back"
        self._clocks[address] = now
        if self.steps >= self._last:
            raise CoreError(f"more than {self._max_steps} steps at one instant", place=address)
        self.steps += 1
        effects = self.machines[address].handle(now, event)
        if self._trace is not None:
            self._trace.record(now, address, event, effects)
        first = self._issued[address]
        if effects:
            self._issued[address] = first + len(effects)
        return first, effects
