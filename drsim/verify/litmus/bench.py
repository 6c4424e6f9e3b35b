"""Bench: the real core on the explorer, for a litmus test. Writes have names; an image is the set of those it holds.

A step of a test is one thing that somebody does; what the core then sends and begins lies in bags. The bags that a
test calls *free* are drawn from by the interleaver, one choice at a time; all others are emptied after each choice.

    bag         what lies in it
    ----------  -----------------------------------------------------------------
    hold, held  from the manager to the protected VRAs, and back
    data, acks  from the protected VRAs to the recovery VRAs, and back
    seal, tell  from the manager to the catalogue, and back
    await, reach  from the catalogue to the recovery VRAs, and back
    store, mirror, disk, list   effects begun there
    holds, deadline  of VRAs and of the manager for a checkpoint, while it is under way
    flush       of VRAs for frames

Every choice leaves its *footprint*: the machines that took a step; the guests, if one issued a write or was told that
one is done; the recovery VRAs, if a checkpoint was listed or left the list, because its images are looked at there. Two
choices whose footprints have nothing in common give the same in either order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from drsim.core.effects import Effect, Forget, Keep
from drsim.core.events import Event
from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.vpg import DEADLINE
from drsim.verify.bags import Key, Link
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer, Tap
from drsim.verify.guests import Write
from drsim.verify.levels import Image, Level, judge_group
from drsim.verify.oracle import NEVER, Truth, Writes

GUESTS, ALL = "guests", "*"
Footprint = frozenset[str]


@dataclass(frozen=True, slots=True)
class Act:
    """The next step of an actor."""

    actor: int


@dataclass(frozen=True, slots=True)
class Arrive:
    """The next message of a queue."""

    link: Link


@dataclass(frozen=True, slots=True)
class Finish:
    """The next effect on a target."""

    key: Key


@dataclass(frozen=True, slots=True)
class Expire:
    """An armed timer."""

    address: Address
    timer: str


Choice = Act | Arrive | Finish | Expire


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that somebody does in a test, as soon as `when` says that it may. `when` stays true once it is."""

    text: str
    act: Callable[["Bench"], None]
    when: Callable[["Bench"], bool] = lambda _: True


class _Watching(Explorer):
    """Notes which machines take a step, and what checkpoints hold from when they are listed on."""

    def __init__(self, shape: Shape, tap: Callable[[Explorer], Tap]) -> None:
        self.touched: set[str] = set()
        self.seen: list[tuple[CheckpointId, dict[VmId, bytes]]] = []
        self._now: dict[CheckpointId, dict[VmId, bytes]] = {}
        super().__init__(shape, tap=tap, checking=False)

    def post(self, address: Address, event: Event) -> None:
        self.touched.add(address)
        super().post(address, event)

    def perform(self, address: Address, effect: Effect) -> object:
        value = super().perform(address, effect)
        if isinstance(effect, Keep | Forget):
            self.touched.update(self.estate.targets)
            self.look()
        return value

    def look(self) -> None:
        """Note the images of every listed checkpoint, if they are others than before."""
        (vpg,) = self.estate.vpgs
        for id_ in self.kept[vpg.name]:
            images = self.images(id_)
            if images != self._now.get(id_):
                self._now[id_] = images
                self.seen.append((id_, images))

    def _done(self, writes: Iterable[Write]) -> None:
        writes = list(writes)
        if writes:
            self.touched.add(GUESTS)
        super()._done(writes)

    def images(self, id_: CheckpointId) -> dict[VmId, bytes]:
        """What would be recovered from a listed checkpoint, for each VM."""
        (vpg,) = self.estate.vpgs
        cuts = self.kept[vpg.name][id_].cut
        return {
            vm: self.disks[stream].image(vm, upto)
            for stream, cut in cuts.items()
            for vm, upto in zip(self.disks[stream].vms, cut.position, strict=True)
        }


class Bench:
    """One run of a litmus test."""

    def __init__(self, shape: Shape, free: frozenset[str], tap: Callable[[Explorer], Tap] = Tap) -> None:
        self.x = _Watching(shape, tap)
        (self.vpg,) = self.x.estate.vpgs
        self.free = free
        self.writes: dict[str, Write] = {}
        self.notes: list[str] = []
        self.asked = 0
        self._bags: dict[Link, str] = {}
        for stream in self.vpg.streams:
            self._both(stream.id.source, stream.id.target, "data", "acks")
        for source in self.vpg.sources:
            self._both(self.vpg.manager, source, "hold", "held")
        for target in self.vpg.targets:
            self._both(self.vpg.catalog, target, "await", "reach")
        self._both(self.vpg.manager, self.vpg.catalog, "seal", "tell")
        self.settle()

    def _both(self, a: Address, b: Address, there: str, back: str) -> None:
        self._bags[a, b], self._bags[b, a] = there, back

    # -- what steps do ----------------------------------------------------------------------------------------

    def new(self, name: str, vm: int, at: int, n: int, *, volume: int = 0, discard: bool = False) -> Write:
        """A guest makes a write of `n` sectors, known by a letter from now on."""
        write = self.x.new_write(VmId(vm), volume, at, n, discard=discard)
        self.writes[name] = write
        self.x.touched.add(GUESTS)
        return write

    def is_acked(self, name: str) -> bool:
        """Whether the guest knows that a write is done."""
        return name in self.writes and self.x.checks.is_acknowledged(self.writes[name])

    def is_held(self, vm: int) -> bool:
        """Whether a VM's acknowledgements are withheld."""
        return (self.x.guests[VmId(vm)].host, self.vpg.name) in self.x.held

    def same_as_disk(self, vm: int) -> bool:
        """Whether the newest checkpoint's image of a VM is what its disk holds."""
        return bool(self.listed) and self.x.images(self.listed[-1])[VmId(vm)] == self.x.guests[VmId(vm)].disk

    def counts_as_lost(self, name: str) -> bool:
        """Whether the RPO that the manager reports counts a write among those that a disaster would take."""
        claim, write = self.x.vpg(self.vpg.name).newest, self.writes[name]
        return claim is None or claim <= write.guest.acked[write.index - 1]

    @property
    def in_sync(self) -> bool:
        """Whether every stream is, and the manager knows it."""
        return not any(self.x.sender(s.id).syncing for s in self.vpg.streams) and not self.x.vpg(self.vpg.name)._syncing

    @property
    def listed(self) -> list[CheckpointId]:
        """The checkpoints that can be recovered."""
        return list(self.x.kept[self.vpg.name])

    def tick(self) -> None:
        """A checkpoint is due."""
        self.asked += 1
        self.x.tick(self.vpg.name)

    # -- choices ----------------------------------------------------------------------------------------------

    def choices(self, actors: list[list[Step]]) -> Iterator[Choice]:
        """What may happen next; `actors` is what is left of each one's steps."""
        x, free = self.x, self.free
        for n, steps in enumerate(actors):
            if steps and steps[0].when(self):
                yield Act(n)
        for link, queue in x.queues.items():
            if queue and self._bags[link] in free and link not in x.clogged:
                yield Arrive(link)
        for key, work in x.work.items():
            if work and key[0] in free:
                yield Finish(key)
        for address, timer in x.timers:
            if self._matters(address, timer):
                yield Expire(address, timer)

    def _matters(self, address: Address, timer: str) -> bool:
        x = self.x
        kind = timer.partition(" ")[0]
        if kind == "flush":
            ours = (s.id for s in self.vpg.streams if timer == f"flush {s.id}")
            return "flush" in self.free and any(x.sender(id_)._open.rows for id_ in ours)
        if kind == "hold":
            return "holds" in self.free and (address, self.vpg.name) in x.held
        return kind == DEADLINE and kind in self.free and x.vpg(self.vpg.name).attempt is not None

    def take(self, choice: Choice, actors: list[list[Step]]) -> tuple[str, Footprint]:
        """Make a choice, then empty what is not free. What it was, in words, and its footprint."""
        x = self.x
        x.touched.clear()
        match choice:
            case Act(n):
                step = actors[n].pop(0)
                text = step.text
                step.act(self)
            case Arrive((sender, to)):
                text = f"{to} gets {type(x.queues[sender, to][0]).__name__} from {sender}"
                x.arrive((sender, to))
            case Finish(key):
                text = f"{key[0]} of {key[1]} is done"
                x.finish(key)
            case Expire(address, timer):
                text = f"{timer} of {address} runs out"
                x.expire(address, timer)
        touched = frozenset(x.touched) or frozenset((ALL,))
        x.look()
        touched |= self.settle()
        x.look()
        return text, touched

    def settle(self) -> Footprint:
        """Everything that is not free arrives and is done."""
        x = self.x
        x.touched.clear()
        while True:
            links = [k for k, q in x.queues.items() if q and self._bags[k] not in self.free and k not in x.clogged]
            keys: list[Key] = [k for k, w in x.work.items() if w and k[0] not in self.free]
            if not links and not keys:
                return frozenset(x.touched)
            for link in links:
                x.arrive(link)
            for key in keys:
                if x.work[key]:
                    x.finish(key)

    # -- what came of it --------------------------------------------------------------------------------------

    def holds(self, images: dict[VmId, bytes]) -> str:
        """The writes of which images hold something, a half before one of which they do not hold all that they could.

        A write that later ones in the image hide altogether is not seen, and neither is a discard: it holds nothing.
        """
        return named(
            f"½{name}" if _torn(images[write.guest.vm], write) else name
            for name, write in self.writes.items()
            if _shown(images[write.guest.vm], write)
        )

    def consistent(self, images: dict[VmId, bytes]) -> bool:
        """The oracle: whether images are a consistent cut of prefixes of what the guests did."""
        group = [
            Image(truth, np.frombuffer(images[vm], "<u2").astype(np.int64))
            for vm, truth in self._truths.items()
        ]  # fmt: skip
        return judge_group(group, Level.L2).ok

    @property
    def _truths(self) -> dict[VmId, Truth]:
        truths = {}
        for vm, guest in self.x.guests.items():
            acks = [NEVER if a >= 1 << 60 else a for a in guest.acked]
            extents = np.array([(w.start, w.stop) for w in guest.writes], np.int64).reshape(-1, 2)
            issue, ack = np.array(guest.issued, np.int64), np.array(acks, np.int64)
            truths[vm] = Truth(Writes(issue, ack, extents[:, 0], extents[:, 1]), len(guest.disk) // 2)
        return truths

    def imaginable(self) -> dict[str, bool]:
        """Every set of writes that images could hold, and whether the oracle calls such images consistent."""
        landed = [(name, write) for name, write in self.writes.items() if write.index]
        found: dict[str, bool] = {}
        for chosen in range(1 << len(landed)):
            images = {vm: bytearray(len(guest.disk)) for vm, guest in self.x.guests.items()}
            inside = [write for n, (_, write) in enumerate(landed) if chosen >> n & 1]
            for write in sorted(inside, key=lambda w: w.index):
                images[write.guest.vm][2 * write.start : 2 * write.stop] = write.data
            done = {vm: bytes(image) for vm, image in images.items()}
            said = self.holds(done)
            found[said] = found.get(said, False) or self.consistent(done)
        return found


def named(names: Iterator[str] | list[str]) -> str:
    """An outcome: {a, b}."""
    return "{" + ", ".join(sorted(names, key=lambda name: name.lstrip("½"))) + "}"


def _stamps(image: bytes, write: Write) -> list[int]:
    return [int.from_bytes(image[2 * at : 2 * at + 2], "little") for at in range(write.start, write.stop)]


def _shown(image: bytes, write: Write) -> bool:
    return write.index > 0 and write.index in _stamps(image, write)


def _torn(image: bytes, write: Write) -> bool:
    return any(stamp < write.index for stamp in _stamps(image, write))
