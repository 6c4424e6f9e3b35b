"""Site: the real world of one site. Performs the core's effects with asyncio, sockets and files, and posts events.

Theory of operation. All machines of a site live in one event loop's thread. Events wait in one queue and are handled
one after another, each step to completion; effects are performed at once after their step. What blocks runs in a
lane (`lane.py`), one for each target, and comes back as an event.

    effect                        performed by
    ----------------------------  -----------------------------------------------------------------------------
    Send                          the queue, for an address of this site; the connection, for another
    Arm                           the event loop's timers
    HoldGuests, ReleaseGuests     the gates of the taps; closed before a VRA hears of the hold (below)
    FreezeGuests, ThawGuests      nobody: there are no agents in the guests yet, so no VM takes part
    TapVolumes, UntapVolumes      the taps of the disks that are here; Capture too
    Append, Promote, Discard      the journal store, in the stream's lane
    ReadRegions                   the tap, in the stream's lane; answered through the tap's queue
    ReadDigests                   likewise, or the journal store, as above
    Keep, Forget                  the catalogue store, in the VPG's lane
    Publish                       the observers

Guests are pulled: before a VRA hears of anything, it hears of all that its taps have captured. Before it hears of a
hold the gates are closed as well (`holds.py`). It does not hear of one whose gates a host's process has not closed
within the budget.

Time is the machine's (`clock.py`); two sites on two machines need clocks that agree, as NTP keeps them.

A mistake (an exception out of a machine, an effect that cannot be performed here) stops the site: nothing more is
handled, guests get an error, and `check`, `wait` and leaving the site's context raise it. It never goes on silently.
"""

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, assert_never

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
    Perform,
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
from drsim.core.errors import CoreError, DrsimError, PeerError
from drsim.core.events import Connected, Done, Event, Failed, Fired, Lost, Received, Started, Stopped, VolumeLost
from drsim.core.facts import Fact
from drsim.core.kernel import Kernel, Sink
from drsim.core.machine import Machine
from drsim.core.messages import Hold, Message
from drsim.core.names import Address, StreamId, StreamSpec, VolumeId, site_of
from drsim.core.protected_vra import ProtectedVra
from drsim.core.units import SECOND, Ns
from drsim.real.catalog_store import CatalogStore
from drsim.real.clock import now_ns
from drsim.real.disk import Disk
from drsim.real.holds import Holds
from drsim.real.host import HostLink
from drsim.real.host_tap import HostDisk, HostTap
from drsim.real.journal_store import JournalStore
from drsim.real.journaling import Journaling
from drsim.real.lane import Lane, Outcome
from drsim.real.news import News, Timers
from drsim.real.sweep import Pace
from drsim.real.tap import Tap, waking
from drsim.real.transport import Connector, Listener
from drsim.spec.tweaks import Tweaks

if TYPE_CHECKING:
    from drsim.real.distrust import Distrust

Observer = Callable[[Ns, Fact], None]


class Site:
    """One site: its machines, and what they work with. Use as an async context; start it with `start`."""

    def __init__(
        self, name: str, directory: Path, *, tweaks: Tweaks, news: "News | None" = None, trace: Sink | None = None
    ) -> None:
        self.name, self.directory, self.tweaks = name, directory, tweaks
        self.news = news or News()
        self.kernel = Kernel(max_steps=tweaks.max_steps, trace=trace)
        self.observers: list[Observer] = []
        self.disks: dict[VolumeId, Disk | HostDisk] = {}
        self.hosts: dict[Address, HostLink] = {}
        """Of VRAs whose disks a process of their own serves."""
        self.taps: dict[StreamId, Tap | HostTap] = {}
        self.journals: JournalStore | None = None
        self.catalogs: dict[str, CatalogStore] = {}
        self.end: Connector | Listener | None = None
        self.desk: Callable[[str], Awaitable[str]] | None = None
        """Answers the peer's manager."""
        self.perform: Callable[[EffectId, Perform], None] | None = None
        """Carries out what workflows ask for, and posts the answer."""
        self.distrust: Distrust | None = None
        self.listeners: list[Callable[[Ns, Address, Event], None]] = []
        """Are told what a machine is about to be told."""
        self.peers: list[tuple[Address, Address]] = []
        """Which machines here (first) talk to which there (second): who is told of loss and return."""
        self.failure: BaseException | None = None
        self._events: deque[tuple[Address, Event | None]] = deque()
        self._handling = False
        self._started = self._closed = False
        self._removed: set[Address] = set()
        self.holds = Holds(self.taps, tweaks.hold_budget / SECOND)
        self._paces: defaultdict[StreamId, Pace] = defaultdict(Pace)
        self._timers = Timers()
        self._lanes: dict[str, Lane] = {}
        self._journaling = Journaling(self)

    # -- building ---------------------------------------------------------------------------------------------

    def add(self, address: Address, machine: Machine) -> None:
        """Put a machine on the site."""
        self._removed.discard(address)
        self.kernel.add(address, machine)

    def remove(self, address: Address) -> None:
        """Take a machine off the site; what is still on its way to it is dropped."""
        if self.kernel.machines.pop(address, None) is not None:
            self._removed.add(address)

    def tap(self, spec: StreamSpec) -> Tap | HostTap:
        """Tap the volumes of a stream, in place of those that it had before. Those that are not here are left out."""
        self.untap(spec.id)
        vra = spec.id.source
        made: Tap | HostTap
        if vra in self.hosts:
            made = self.hosts[vra].tap(spec, lambda _: self._captured(vra))
        else:
            disks: dict[int, Disk] = {v.id: d for v in spec.volumes if isinstance(d := self.disks.get(v.id), Disk)}
            made = Tap(spec, disks, self.lane(f"disk {vra}"), waking(lambda: self._captured(vra)))
        self.taps[spec.id] = made
        return made

    def untap(self, stream: StreamId) -> None:
        """Tap a stream no more; its VRA has heard of everything before."""
        tap = self.taps.pop(stream, None)
        if tap is not None:
            tap.close()

    def lane(self, target: str) -> Lane:
        """The lane of a target."""
        lane = self._lanes.get(target)
        if lane is None:
            lane = self._lanes[target] = Lane(target)
        return lane

    def start(self) -> None:
        """Every machine starts. The connection should be up."""
        self._started = True
        for address in self.kernel.machines:
            self.post(address, Started())
        if self.end is not None and not self.end.connected:
            self.down()

    # -- events -----------------------------------------------------------------------------------------------

    def post(self, address: Address, event: Event) -> None:
        """Handle an event, after those that wait. Never raises: a mistake stops the site."""
        if self.failure is not None or self._closed:
            return
        self._events.append((address, event))
        self._handle()

    def _captured(self, vra: Address) -> None:
        """A VRA's taps have something to pull."""
        if self._started and self.failure is None and not self._closed:
            self._events.append((vra, None))
            self._handle()

    def _handle(self) -> None:
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self._deliver(*self._events.popleft())
        except Exception as error:
            self.failed(error)
        finally:
            self._handling = False

    def _deliver(self, to: Address, event: Event | None) -> None:
        """One event to its machine, after all that the machine's guests did before; None: only that."""
        if to in self._removed:
            return
        taps = self.holds.taps_of(to) if self.taps else []
        hold = event.message if taps and isinstance(event, Received) and isinstance(event.message, Hold) else None
        if hold is not None and not self.holds.closed(to, hold):
            event = None  # void: it is too late for an answer, and what is not heard is not answered
        for heard in [heard for tap in taps for heard in tap.pull()]:
            self._step(to, heard)
        if event is not None:
            self._step(to, event)
        if hold is not None:
            self.holds.settle(to, hold.vpg)

    def _step(self, to: Address, event: Event) -> None:
        now = Ns(now_ns())
        for listen in self.listeners:
            listen(now, to, event)
        for id_, effect in self.kernel.post(now, to, event):
            self._perform(id_, effect)

    def failed(self, error: BaseException) -> None:
        """Our own mistake: stop."""
        if self.failure is not None:
            return
        self.failure = error
        self._events.clear()
        self._timers.cancel()
        for tap in self.taps.values():
            tap.release(error)
        self.news.wake()

    def begin(self, address: Address) -> None:
        """Start a machine that was added to a running site."""
        self.post(address, Started())
        if self.end is not None and not self.end.connected:
            for here, there in self.peers:
                if here == address:
                    self.post(here, Lost(there))

    def arrived(self, sender: Address, to: Address, message: Message) -> None:
        """The connection brought a message; one for a machine that is not here any more is dropped.

        Raises PeerError for one that the peer cannot have sent, or to another site: the connection ends.
        """
        if site_of(to) != self.name or site_of(sender) == self.name:
            raise PeerError(f"a message from {sender} for {to}", place=self.name)
        if to in self.kernel.machines:
            self.post(to, Received(sender, message))

    async def asked(self, text: str) -> str:
        """The peer's manager asks."""
        if self.desk is None:
            raise CoreError("nobody answers here", place=self.name)
        return await self.desk(text)

    def up(self, lost: tuple[str, ...] = ()) -> None:
        """The connection is up again; the first one, before the start, needs no word: everything is compared then."""
        if self._started:
            if self.distrust is not None:
                self.distrust.heard(lost)
            for here, there in self.peers:
                self.post(here, Connected(there))

    def down(self) -> None:
        """The connection is gone."""
        if self._started:
            for here, there in self.peers:
                self.post(here, Lost(there))

    # -- effects ----------------------------------------------------------------------------------------------

    def _perform(self, id_: EffectId, effect: Effect) -> None:
        here = id_.address
        match effect:
            case Send(to, message):
                self._send(here, to, message)
            case Arm(timer, delay):
                self._timers.arm((here, timer), delay, lambda: self.post(here, Fired(timer)))
            case HoldGuests(vpg, _):
                self.holds.keep(here, vpg)
            case ReleaseGuests(vpg, _):
                self.holds.open(here, vpg)
            case FreezeGuests():
                self.post(here, Done(id_, effect, ()))  # there are no agents in the guests yet: nobody takes part
            case ThawGuests():
                pass  # nobody is frozen
            case ReadRegions(stream) | ReadDigests(stream) if here == stream.source:
                self._read(id_, effect, self.taps[stream])
            case ReadRegions():
                raise CoreError("the disks of a stream are read at its source only", place=here)
            case Append() | Promote() | ReadDigests() | Discard():
                self._journaling.perform(id_, effect)
            case Publish(fact):
                for observer in tuple(self.observers):
                    observer(Ns(now_ns()), fact)
                self.news.wake()
            case Perform():
                if self.perform is None:
                    raise CoreError("nobody carries out recovery here", place=here)
                self.perform(id_, effect)
            case TapVolumes(spec):
                self.tap(spec)
                for volume in spec.volumes:
                    if volume.id not in self.disks:
                        self.post(here, VolumeLost(volume.id))
            case Capture(stream, content):
                self.taps[stream].want(content=content)
            case UntapVolumes(stream):
                self.untap(stream)
            case Keep(checkpoint):
                catalog = self.catalogs[checkpoint.vpg]
                self.work(id_, effect, f"catalog {checkpoint.vpg}", lambda: catalog.keep(checkpoint))
            case Forget(vpg, before):
                catalog = self.catalogs[vpg]
                self.work(id_, effect, f"catalog {vpg}", lambda: catalog.forget(before))
            case _:
                assert_never(effect)

    def _read(self, id_: EffectId, effect: ReadRegions | ReadDigests, tap: Tap | HostTap) -> None:
        work, lane = (lambda: tap.answer(id_, effect, self.tweaks.region_bytes)), self.lane(f"disk {effect.stream}")
        vra = self.kernel.machines[id_.address]
        if isinstance(effect, ReadRegions) and isinstance(vra, ProtectedVra):
            work = self._paces[effect.stream].paced(work, vra.senders[effect.stream].bitmap.nbytes)
        lane.submit(work, lambda outcome: None if outcome.error is None else self.failed(outcome.error))

    def _send(self, sender: Address, to: Address, message: Message) -> None:
        if site_of(to) == self.name:
            self._events.append((to, Received(sender, message)))
            if isinstance(message, Hold):
                self.holds.close(to, message)
        elif self.end is not None:
            self.end.send(sender, to, message)

    def work(self, id_: EffectId, effect: Effect, target: str, work: Callable[[], object]) -> None:
        """Do work in a target's lane; answer the effect with `Done`, or `Failed` for an error that has a blame."""

        self.lane(target).submit(work, lambda outcome: self.answer(id_, effect, outcome))

    def answer(self, id_: EffectId, effect: Effect, outcome: Outcome[object]) -> None:
        """`Done`, or `Failed` for an error that has a blame; a mistake stops the site."""
        match outcome.error:
            case None:
                self.post(id_.address, Done(id_, effect, outcome.value))
            case DrsimError() as error:
                self.post(id_.address, Failed(id_, effect, error))
            case error:
                self.failed(error)

    # -- waiting ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what stopped the site, if anything did."""
        if self.failure is not None:
            raise self.failure

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is looked at whenever a fact is published. Raises what stops the site."""

        def holds() -> bool:
            self.check()
            return condition()

        await self.news.wait(holds)

    # -- life -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Site":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if error is None:
            self.check()

    async def close(self) -> None:
        """Stop the machines in good order, then the connection, the lanes and the files; guests are released."""
        if self._started:
            for address in self.kernel.machines:
                self.post(address, Stopped())
        self._closed = True
        self._timers.cancel()
        if self.end is not None:
            await self.end.close()
        for lane in self._lanes.values():
            await lane.close()
        stopped = self.failure or CoreError("closed", place=self.name)
        for tap in self.taps.values():
            tap.release(stopped)
        for disk in self.disks.values():
            disk.close()
        if self.journals is not None:
            self.journals.close()
        self.news.wake()
