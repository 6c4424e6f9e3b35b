"""Bags: a world with neither clock nor resources. What may happen next lies in bags, and a caller picks from them.

Theory of operation. Effects are performed as the core's contract allows and no better: messages keep their order for
each pair of addresses only, effects keep theirs on one target only, a connection or a component may go at any step,
an effect may be performed without its answer arriving, an armed timer may run out at any step.

    bag       key                         holds
    --------  --------------------------  ------------------------------------------
    queues    (from, to)                  messages on their way, oldest first
    work      (kind, address, what)       effects begun and not yet answered
    timers    (address, name)             armed timers, with the time they were for

Whatever is drawn is posted to the machine at that address, and what the machine wants next goes into the bags.
A subclass performs effects (`perform`) and hears of those that need no answer (`told`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from operator import attrgetter
from typing import Any

from drsim.core.effects import (
    Append,
    Arm,
    Capture,
    Discard,
    Effect,
    EffectId,
    Forget,
    FreezeGuests,
    HoldGuests,
    Keep,
    Promote,
    Publish,
    ReadDigests,
    ReadRegions,
    ReleaseGuests,
    Send,
    TapVolumes,
    ThawGuests,
    UntapVolumes,
)  # fmt: skip
from drsim.core.errors import DrsimError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, Received, Started, Stopped
from drsim.core.kernel import Kernel, Sink
from drsim.core.machine import Machine
from drsim.core.messages import Message
from drsim.core.names import Address

Link = tuple[Address, Address]
Key = tuple[str, Address, object]
TARGETS: dict[type, tuple[str, Callable[[Effect], object]]] = {
    Append: ("store", attrgetter("frame.stream")),
    Promote: ("mirror", attrgetter("stream")),
    ReadRegions: ("disk", attrgetter("stream")),
    ReadDigests: ("store", attrgetter("stream")),
    Keep: ("list", attrgetter("checkpoint.vpg")),
    Discard: ("mirror", attrgetter("stream")),
    Forget: ("list", attrgetter("vpg")),
    FreezeGuests: ("guests", attrgetter("vpg")),
}
"""What an effect that is answered works on: effects on one target are performed in order."""
Unanswered = HoldGuests | ReleaseGuests | ThawGuests | TapVolumes | Capture | UntapVolumes | Publish


class Bags:
    """Machines, and between them nothing but bags."""

    def __init__(self, machines: Mapping[Address, Machine], *, max_steps: int, trace: Sink | None = None) -> None:
        self.now = 0
        self.kernel = Kernel(max_steps=max_steps, trace=trace)
        for address, machine in machines.items():
            self.kernel.add(address, machine)
        self.queues: dict[Link, deque[Message]] = {}
        self.work: dict[Key, deque[tuple[EffectId, Effect]]] = {}
        self.timers: dict[tuple[Address, str], int] = {}
        self.down: set[Address] = set()
        self.cut: set[Link] = set()  # connections that both ends know to be lost; both directions
        self.half_open: set[Link] = set()  # connections that swallow everything, unnoticed; one direction of each
        self.skew: dict[Address, int] = {}  # how far a machine's clock is from ours
        self.stepped: Callable[[Address, Event], None] | None = None
        """Told of each step of a machine, when its effects are in the bags."""
        self.watched: Mapping[type, Callable[[Address, Any], None]] = {}
        """Who is told of messages of a type, before they go on their way."""

    # -- what a subclass does ---------------------------------------------------------------------------------

    def perform(self, address: Address, effect: Effect) -> object:
        """Perform a machine's effect on a target; its value, or a DrsimError when it fails."""
        raise NotImplementedError

    def told(self, address: Address, effect: Unanswered) -> None:
        """An effect that needs no answer."""

    def swallowed(self) -> None:
        """A message vanished on a connection that is half open."""

    # -- one step ---------------------------------------------------------------------------------------------

    def post(self, address: Address, event: Event) -> None:
        """An event reaches a machine, and its effects go into the bags."""
        now = self.now + self.skew.get(address, 0) if self.skew else self.now
        n, effects = self.kernel.step(now, address, event)  # type: ignore[arg-type]
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self.send(address, effect.to, effect.message)  # type: ignore[union-attr]
            elif (on := TARGETS.get(kind)) is not None:
                self._begin((on[0], address, on[1](effect)), EffectId(address, n), effect)
            elif kind is Arm:
                self.timers[address, effect.timer] = self.now + effect.delay  # type: ignore[union-attr]
            else:
                self.told(address, effect)  # type: ignore[arg-type]
            n += 1
        if self.stepped is not None:
            self.stepped(address, event)

    def send(self, sender: Address, to: Address, message: Message) -> None:
        """A message goes on its way, if there is one."""
        watcher = self.watched.get(type(message))
        if watcher is not None:
            watcher(sender, message)
        link = sender, to
        if self.half_open and (link in self.half_open or (to, sender) in self.half_open):
            self.swallowed()
            return
        if self.cut and (link in self.cut or (to, sender) in self.cut):
            return
        if to in self.down:
            return
        queue = self.queues.get(link)
        if queue is None:
            queue = self.queues[link] = deque()
        queue.append(message)

    def _begin(self, key: Key, id_: EffectId, effect: Effect) -> None:
        work = self.work.get(key)
        if work is None:
            work = self.work[key] = deque()
        work.append((id_, effect))

    # -- drawing from the bags --------------------------------------------------------------------------------

    @property
    def busy(self) -> list[Key]:
        """On which targets effects are begun and not yet answered."""
        return list(compress(self.work, self.work.values()))

    def deliver(self, link: Link) -> None:
        """The next message from one address to another arrives."""
        message = self.queues[link].popleft()
        self.post(link[1], Received(link[0], message))

    def do(self, key: Key, error: DrsimError | None = None) -> None:
        """The next effect on a target is performed and answered; with `error` it fails, and leaves no trace."""
        id_, effect = self.work[key].popleft()
        value = self.perform(id_.address, effect) if error is None else error
        event = Failed(id_, effect, value) if isinstance(value, DrsimError) else Done(id_, effect, value)
        self.post(id_.address, event)

    def fire(self, address: Address, timer: str) -> None:
        """A timer runs out."""
        del self.timers[address, timer]
        self.post(address, Fired(timer))

    # -- connections and components ---------------------------------------------------------------------------

    def sever(self, link: Link) -> None:
        """A connection is gone with all that was on it. Nobody has noticed yet."""
        self.cut.add(link)
        for direction in (link, link[::-1]):
            if direction in self.queues:
                self.queues[direction].clear()

    def lose(self, link: Link) -> None:
        """A connection is gone with all that was on it, and both ends notice."""
        if link in self.cut:
            return
        self.sever(link)
        for near, far in (link, link[::-1]):
            if near not in self.down:
                self.post(near, Lost(far))

    def connect(self, link: Link) -> None:
        """A connection can be used again."""
        if link not in self.cut or self.down.intersection(link):
            return
        self.cut.discard(link)
        for near, far in (link, link[::-1]):
            self.post(near, Connected(far))

    def stop(self, address: Address, links: Iterable[Link], *, unanswered: int = 0) -> None:
        """A component goes down in good order; its first `unanswered` effects on each target are still performed.

        With any unanswered its last words within the site arrive as well.
        """
        self.post(address, Stopped())
        if unanswered:
            site = address.partition("/")[0]
            for link in [k for k, q in self.queues.items() if q and k[0] == address and k[1].startswith(f"{site}/")]:
                while self.queues[link]:
                    self.deliver(link)
        self.end_life(address, links, unanswered=unanswered)

    def end_life(self, address: Address, links: Iterable[Link], *, unanswered: int = 0) -> None:
        """A component is gone: nothing reaches it; its timers, running effects and connections are gone."""
        self.down.add(address)
        for key, work in self.work.items():
            if key[1] == address:
                for _, effect in list(work)[:unanswered]:
                    self.perform(address, effect)
                work.clear()
        for timer in [t for t in self.timers if t[0] == address]:
            del self.timers[timer]
        for link in links:
            if address in link:
                self.lose(link)

    def start(self, address: Address, links: Iterable[Link]) -> None:
        """A component comes up again; its connections do, one by one."""
        self.down.discard(address)
        self.post(address, Started())
        for link in links:
            if address in link:
                if self.down.intersection(link):
                    self.post(address, Lost(link[link[0] == address]))
                else:
                    self.connect(link)
