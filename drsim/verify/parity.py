"""Parity: the steps of a run, taken again. On fresh machines (P28), and on bags: what happened could be chosen.

Theory of operation. A `Recording` is a sink of the kernel: it keeps each step as (now, address, event) and as a line
of text that has the effects too. Taken again there are two questions.

`fresh`: the same events, given to machines as they were built, give the same effects. So nothing but events goes into
a machine. It works for the recording of any world.

`chosen`: the same steps, as *choices* on bags (`bags.py`) that start empty and fill with the effects of the machines
themselves. Every event must be there to be drawn:

    event            is this choice
    ---------------  ------------------------------------------------------------------------------------------
    Received         the first message of its stream between the two addresses arrives; it is this very message
    Done, Failed     the first effect on its target is answered, by this id; the value is taken over
    Fired            the timer is armed, for this very instant
    Lost             the first of two ends: all that was on the connection is gone, and nothing is sent on it
    Connected        the first of two ends: the connection can be used again
    Stopped          the last words, then timers and running effects are gone
    GuestWrote ...   chosen by someone outside

So the explorer's world allows whatever the recorded world did: no message came out of order, twice, out of nothing or
over a lost connection, none was left out on a connection that stayed. Streams between the same two VRAs may overtake
each other, because each has its own priority on the WAN; messages of no stream keep their order. Not compared: times,
but for timers; what the simulation's stores hold, which its own tests compare.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drsim.core.effects import Effect, EffectId
from drsim.core.events import (
    Connected,
    Done,
    Event,
    Failed,
    FenceAsked,
    Fired,
    GuestWrote,
    Lost,
    PinAsked,
    Received,
    Started,
    Stopped,
    TagAsked,
)  # fmt: skip
from drsim.core.kernel import Kernel, Sink
from drsim.core.machine import Machine
from drsim.core.messages import DataMessage, Message
from drsim.core.names import Address, StreamId
from drsim.core.trace import TraceDigest, line, text
from drsim.core.units import Ns
from drsim.verify.bags import Bags, Key, Link, Unanswered
from drsim.verify.violation import Violation


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a kernel; `line` has its effects."""

    now: Ns
    address: Address
    event: Event
    line: str


class Recording(TraceDigest):
    """A sink that keeps every step. Use it where a `TraceDigest` is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """Keep a step."""
        super().record(now, address, event, effects)
        self.steps.append(Step(now, address, event, line(now, address, event, effects)))


def fresh(machines: Mapping[Address, Machine], recording: Recording, *, max_steps: int) -> str:
    """Give recorded events to fresh machines; the digest. Raises Violation P28 at the first other effect."""
    witness = _Witness()
    kernel = Kernel(max_steps=max_steps, trace=witness)
    for address, machine in machines.items():
        kernel.add(address, machine)
    running: dict[EffectId, Effect] = {}
    for n, step in enumerate(recording.steps):
        try:
            event = _own(step.event, running)
        except _NotThere as error:
            raise Violation("P28", f"step {n}: {error}\n  {step.line}") from None
        running.update(kernel.post(step.now, step.address, event))
        witness.compare(n, step)
    return witness.hexdigest


def _own(event: Event, running: dict[EffectId, Effect]) -> Event:
    """The event with the fresh machine's own effect: a machine may know what it asked for by identity."""
    match event:
        case Done(id_) | Failed(id_):
            if id_ not in running:
                raise _NotThere(f"nobody asked for {id_}, or it was answered before")
            return replace(event, effect=running.pop(id_))
        case _:
            return event


def chosen(machines: Mapping[Address, Machine], recording: Recording, *, max_steps: int) -> str:
    """Make recorded steps as choices on bags of fresh machines; the digest.

    Raises Violation P28 at the first step that cannot be chosen, or that has other effects.
    """
    witness = _Witness()
    bags = _Chooser(machines, max_steps=max_steps, trace=witness)
    for n, step in enumerate(recording.steps):
        try:
            bags.choose(step)
        except _NotThere as error:
            raise Violation("P28", f"step {n} cannot be chosen: {error}\n  {step.line}") from None
        witness.compare(n, step)
    return witness.hexdigest


class _Witness(TraceDigest):
    """Sees each step, to compare it with the recorded one."""

    def __init__(self) -> None:
        super().__init__()
        self._line = ""

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        super().record(now, address, event, effects)
        self._line = line(now, address, event, effects)

    def compare(self, n: int, step: Step) -> None:
        if self._line != step.line:
            raise Violation("P28", f"step {n} is another one\n  then: {step.line}\n  now:  {self._line}")


class _NotThere(Exception):
    """What a step needs does not lie in the bags."""


class _Chooser(Bags):
    """Bags in which the choices are recorded steps."""

    def __init__(self, machines: Mapping[Address, Machine], *, max_steps: int, trace: Sink) -> None:
        super().__init__(machines, max_steps=max_steps, trace=trace)
        self._value: object = None

    def perform(self, address: Address, effect: Effect) -> object:
        """What the recorded world's target answered."""
        return self._value

    def told(self, address: Address, effect: Unanswered) -> None:
        """The guests and the observers are no part of this."""

    def send(self, sender: Address, to: Address, message: Message) -> None:
        """A message goes on its way, unless the connection is lost. That the other end is down is no excuse."""
        if self._link(sender, to) not in self.cut:
            self.queues.setdefault((sender, to), deque()).append(message)

    def choose(self, step: Step) -> None:
        """Make one recorded choice. Raises _NotThere."""
        self.now, address = step.now, step.address
        match step.event:
            case Received(sender, message):
                self._bring_forward((sender, address), message)
                self.deliver((sender, address))
            case Done(id_, effect, value):
                self._value = value
                self.do(self._first(id_, effect))
            case Failed(id_, effect, error):
                self.do(self._first(id_, effect), error)
            case Fired(timer):
                due = self.timers.get((address, timer))
                if due != step.now:
                    raise _NotThere(f"the timer is {'not armed' if due is None else f'armed for {due}'}")
                self.fire(address, timer)
            case Lost(peer) as event:
                self.sever(self._link(address, peer))
                self.post(address, event)
            case Connected(peer) as event:
                self.cut.discard(self._link(address, peer))
                self.post(address, event)
            case Stopped() as event:
                self.post(address, event)
                self.end_life(address, ())
            case Started() as event:
                self.down.discard(address)
                self.post(address, event)
            case GuestWrote() | TagAsked() | PinAsked() | FenceAsked() as event:
                self.post(address, event)

    def _bring_forward(self, link: Link, message: Message) -> None:
        """Its stream overtakes the others."""
        queue = self.queues.get(link, deque())
        lane = [n for n, other in enumerate(queue) if _stream(other) == _stream(message)]
        if not lane:
            raise _NotThere(f"nothing is on its way from {link[0]}")
        if text(queue[lane[0]]) != text(message):
            raise _NotThere(f"before it comes {text(queue[lane[0]])}")
        queue.appendleft(queue[lane[0]])
        del queue[lane[0] + 1]

    def _first(self, id_: object, effect: Effect) -> Key:
        for key, work in self.work.items():
            if work and work[0][0] == id_:
                if text(work[0][1]) != text(effect):
                    raise _NotThere(f"that id is {text(work[0][1])}")
                return key
        raise _NotThere("no target has this to answer next")

    @staticmethod
    def _link(one: Address, other: Address) -> Link:
        return (one, other) if one < other else (other, one)


def _stream(message: Message) -> StreamId | None:
    """The stream whose order a message keeps."""
    return message.stream if isinstance(message, DataMessage) else None
