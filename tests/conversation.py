"""Golden conversations: commands to a bag (`support.py`), and what every machine then hears, says and does.

A file starts with a comment that says why it is there. Lines that begin with "> " are commands; the indented lines
below are what happened, and are written by `pytest --rewrite-golden`. Who is who: h1 h2 are the protected VRAs (vm1
is on h1), r1 r2 the recovery VRAs.

    > bag protected=2 vms=1 ...    a new bag, sizes in sectors (`support.Shape`); must come first
    > write vm1 lba=8 sectors=8    also: rows=3 for as many writes, one behind the other
    > tick, age, tag NAME          a checkpoint is due, the history is looked through, an operator wants a checkpoint
    > fire h1 flush                a timer of that name runs out (the beginning of its name will do)
    > deliver manager h1           the next message; `deliver all`: everything under way arrives and is done
    > do store r1                  the next effect on the store, mirror, disk or list of a machine; `fail` likewise
    > repeat h1 r1, drop h1 r1     the last message comes twice; the next one is swallowed
    > lose h1 r1, connect h1 r1    the connection goes, is back
    > stop h1, crash h1, start h1, full r1, fits r1, pin 1, unpin 1
    > status                       what the user sees, and where everything stands
"""

from collections.abc import Callable, Sequence

from support import Bag, Shape

from drsim.core.batch import WriteBatch
from drsim.core.effects import (
    Append,
    Arm,
    Effect,
    Forget,
    HoldGuests,
    Keep,
    Promote,
    Publish,
    ReadRegions,
    ReleaseGuests,
    Send,
)
from drsim.core.events import (
    Connected,
    Done,
    Event,
    Failed,
    Fired,
    GuestWrote,
    Lost,
    PinAsked,
    Received,
    TagAsked,
)
from drsim.core.facts import (
    CheckpointListed,
    CheckpointSealed,
    CheckpointSkipped,
    CheckpointsRetired,
    FrameRefused,
    StateChanged,
    SyncEnded,
    SyncStarted,
)
from drsim.core.messages import (
    Aborted,
    Ack,
    Age,
    Await,
    Frame,
    Held,
    Hold,
    JournalLimit,
    Listed,
    Marks,
    Missed,
    Nack,
    Reached,
    Release,
    Released,
    Resync,
    Resynced,
    Sealed,
    Standing,
    StoreState,
    SyncChanged,
    SyncDone,
    Where,
    Withdrawn,
)
from drsim.core.names import Address
from drsim.core.status import project
from drsim.core.units import SECTOR, Ns

QUIET = ("checkpoint", "age")  # timers that are armed again each time; not worth a line


def span(batch: WriteBatch) -> str:
    """Rows as "vm1 8+4": volume, if not the first, behind a slash."""
    columns = (batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist())
    return ", ".join(
        f"vm{vm}{f'/{volume % 10}' if volume % 10 else ''} {lba}+{sectors}"
        for vm, volume, lba, sectors in zip(*columns, strict=True)
    )


def at(position: Sequence[int]) -> str:
    return ",".join(map(str, position))


def frame(f: Frame) -> str:
    kind = "sync frame" if f.sync else "frame"
    return f"{kind} {at(f.after)}..{at(f.upto)}{epoch(f.epoch)} [{span(f.batch)}]"


def epoch(n: int) -> str:
    return f" epoch {n}" if n > 1 else ""


def time(ns: int) -> str:
    return f"{ns // 10**6} ms" if ns >= 10**6 else f"{ns} ns"


def message(m: object) -> str:
    """A message in a few words."""
    match m:
        case Frame():
            return frame(m)
        case Ack():
            return f"ack {at(m.durable)}{epoch(m.epoch)}"
        case Nack():
            return f"nack, expected {at(m.expected)}{epoch(m.epoch)}: {m.reason.value}"
        case Resync():
            return f"resync{epoch(m.epoch)} after {at(m.after)}"
        case Resynced():
            return f"resynced{epoch(m.epoch)}"
        case SyncDone():
            return f"sync done at {at(m.upto)}{epoch(m.epoch)}"
        case Where():
            return "where do we stand?"
        case Standing():
            return f"nothing is beyond {at(m.position)}, epoch {m.epoch}"
        case Marks():
            marks = (f"{n} at {at(cut.position)}{epoch(cut.epoch)}" for n, cut in m.marks.items())
            return f"marks: {', '.join(marks) or 'none'}"
        case Hold():
            return f"hold {m.checkpoint}{' alone' if m.alone else ''}"
        case Held():
            return f"held {m.checkpoint} at {' '.join(at(c.position) + epoch(c.epoch) for c in m.cut.values())}"
        case Release():
            return f"release {m.checkpoint}"
        case Released():
            return f"released {m.checkpoint}"
        case Aborted():
            return f"aborted {m.checkpoint}: {m.reason}"
        case SyncChanged():
            return f"synchronizing: {m.trigger.value}{', waiting' if m.waiting else ''}" if m.syncing else "in sync"
        case Sealed(checkpoint):
            tag = f" {checkpoint.tag!r}" if checkpoint.tag else ""
            return f"sealed {checkpoint.id}{tag} at {' | '.join(at(c.position) for c in checkpoint.cut.values())}"
        case Await():
            return f"await {m.checkpoint} at {at(m.cut.position)}{epoch(m.cut.epoch)}"
        case Reached():
            return f"reached {m.checkpoint}"
        case Missed():
            return f"missed {m.checkpoint}"
        case Listed():
            return f"listed {m.checkpoint}"
        case Withdrawn():
            return "no recovery point"
        case Age():
            return "age everything" if m.checkpoint is None else f"age up to checkpoint {m.checkpoint}"
        case JournalLimit():
            keep = "nothing helps" if m.keep_from is None else f"keep from {m.keep_from}"
            return f"journal limit, {keep}{', sync window' if m.syncing else ''}"
        case StoreState():
            return "store ok" if m.ok else f"store not ok: {m.reason}"
    raise TypeError(m)


def fact(f: object) -> str:
    match f:
        case CheckpointSealed():
            return f"checkpoint {f.checkpoint} sealed"
        case CheckpointListed():
            return f"checkpoint {f.checkpoint} listed"
        case CheckpointSkipped():
            return f"checkpoint {f.checkpoint} skipped: {f.reason}"
        case CheckpointsRetired():
            return f"checkpoints {'all' if f.before is None else f'before {f.before}'} retired: {f.reason}"
        case SyncStarted():
            return f"sync started, {f.dirty_bytes // SECTOR} sectors dirty: {f.trigger.value}"
        case SyncEnded():
            return f"sync ended, {f.sent_bytes // SECTOR} sectors sent"
        case StateChanged():
            return "state " + ", ".join(filter(None, (*project(f.regions), f.cause)))
        case FrameRefused():
            return f"frame refused: {f.reason}"
    raise TypeError(f)


class Conversation:
    """Plays commands; `lines` is what happened since the last one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bag: Bag | None = None
        self.names: dict[Address, str] = {}
        self.last: dict[tuple[Address, Address], object] = {}

    # -- the trace --------------------------------------------------------------------------------------------

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """One step of the kernel."""
        if self.bag is None:
            return
        if isinstance(event, Received):
            self.last[event.sender, address] = event.message
        self.lines.append(f"  {self.name(address):<8} {self.event(event)}")
        said = filter(None, map(self.effect, effects))
        self.lines += [f"  {'':<10}{line}" for line in said]

    def name(self, address: Address) -> str:
        return self.names.get(address, address)

    def event(self, event: Event) -> str:
        match event:
            case GuestWrote(_, batch):
                return f"wrote {span(batch)}"
            case Received(sender, said):
                return f"<- {self.name(sender)}: {message(said)}"
            case Fired(timer):
                return f"timer {timer.split()[0]}"
            case Done(_, Append(f)) if not len(f.batch):
                return f"stored the beginning of epoch {f.epoch}"
            case Done(_, Append(f)):
                return f"stored {at(f.after)}..{at(f.upto)}"
            case Done(_, Promote() as promote):
                return f"mirror is at {at(promote.upto)}"
            case Done(_, ReadRegions(_, batch)):
                return f"has read {span(batch)}"
            case Done(_, effect):
                return f"done: {self.effect(effect)}"
            case Failed(_, effect, error):
                return f"failed, {error.message}: {self.effect(effect)}"
            case Lost(peer):
                return f"lost {self.name(peer)}"
            case Connected(peer):
                return f"connected to {self.name(peer)}"
            case TagAsked(tag):
                return f"tag {tag!r} asked"
            case PinAsked(checkpoint, pinned):
                return f"{'pin' if pinned else 'unpin'} {checkpoint}"
        return type(event).__name__.lower()

    def effect(self, effect: Effect) -> str:
        match effect:
            case Send(to, said):
                return f"-> {self.name(to)}: {message(said)}"
            case Arm(timer, delay):
                return "" if timer in QUIET else f"timer {timer.split()[0]} in {time(delay)}"
            case HoldGuests():
                return "hold guests"
            case ReleaseGuests():
                return "release guests"
            case Append(f) if not len(f.batch):
                return f"store the beginning of epoch {f.epoch}, after {at(f.after)}"
            case Append(f):
                return f"store {at(f.after)}..{at(f.upto)}"
            case Promote():
                return f"mirror up to {at(effect.upto)}, {effect.nbytes // SECTOR} sectors"
            case ReadRegions(_, batch):
                return f"read {span(batch)}"
            case Keep(checkpoint):
                return f"keep checkpoint {checkpoint.id}"
            case Forget(_, before):
                return "forget all checkpoints" if before is None else f"forget checkpoints before {before}"
            case Publish(f):
                return f"note: {fact(f)}"
        raise TypeError(effect)

    # -- commands ---------------------------------------------------------------------------------------------

    def play(self, command: str) -> list[str]:
        """Carry out a command; returns what happened."""
        self.lines = []
        verb, *words = command.split()
        options = {k: int(v) for k, _, v in (w.partition("=") for w in words if "=" in w)}
        plain = [w for w in words if "=" not in w]
        if verb == "bag":
            self._open(options)
        else:
            assert self.bag is not None, "the first command is `bag`"
            self._command(self.bag, verb, plain, options)
        return self.lines

    def _open(self, options: dict[str, int]) -> None:
        bag = Bag(Shape(**options), trace=self)  # type: ignore[arg-type]
        self.names = {a: a.split("/")[1] for a in (*bag.sources, *bag.targets)}
        self.names |= {bag.manager: "manager", bag.catalog_at: "catalog"}
        self.bag = bag

    def _address(self, name: str) -> Address:
        return next(a for a, n in self.names.items() if n == name)

    def _pair(self, words: Sequence[str]) -> tuple[Address, Address]:
        return self._address(words[0]), self._address(words[1])

    def _command(self, bag: Bag, verb: str, words: list[str], options: dict[str, int]) -> None:
        simple: dict[str, Callable[[], None]] = {"tick": bag.tick, "age": bag.age, "status": self._status}
        match verb, words:
            case (("tick" | "age" | "status"), []):
                simple[verb]()
            case "write", [vm]:
                lba, sectors = options["lba"], options["sectors"]
                bag.write(*((int(vm[2:]), 0, lba + k * sectors, sectors) for k in range(options.get("rows", 1))))
            case "tag", [name]:
                bag.tag(name)
            case "fire", [who, name]:
                address = self._address(who)
                bag.fire(*next(t for t in bag.timers if t[0] == address and t[1].startswith(name)))
            case "deliver", ["all"]:
                bag.drain()
            case "deliver", [_, _]:
                bag.deliver(self._pair(words))
            case (("do" | "fail"), [kind, who]):
                address = self._address(who)
                bag.do(next(k for k, q in bag.work.items() if q and k[:2] == (kind, address)), fail=verb == "fail")
            case "repeat", [_, _]:
                pair = self._pair(words)
                bag.post(pair[1], Received(pair[0], self.last[pair]))  # type: ignore[arg-type]
            case "drop", [_, _]:
                self.lines.append(f"  swallowed: {message(bag.queues[self._pair(words)].popleft())}")
            case (("lose" | "connect"), [_, _]):
                (bag.lose if verb == "lose" else bag.connect)(self._pair(words))
            case (("stop" | "crash" | "start"), [who]):
                {"stop": bag.stop, "crash": bag.crash, "start": bag.start}[verb](self._address(who))
            case (("full" | "fits"), [who]):
                (bag.full.add if verb == "full" else bag.full.discard)(self._address(who))
            case (("pin" | "unpin"), [checkpoint]):
                bag.pin(int(checkpoint), verb == "pin")
            case _:
                raise ValueError(f"no such command: {verb} {' '.join(words)}")

    def _status(self) -> None:
        bag = self.bag
        assert bag is not None
        status, sub = project(bag.vpg.regions)
        cause = f" ({bag.vpg.cause})" if bag.vpg.cause else ""
        listed = ", ".join(str(c.id) for c in bag.catalog.listed) or "none"
        self.lines.append(f"  {status}, {sub}{cause}; checkpoints listed: {listed}")
        for spec in bag.streams:
            sender = bag.sender(spec.id)
            journal = sum(j.nbytes for j in bag.receivers[spec.id.target].receivers[spec.id].journals.values())
            parts = (
                f"{self.name(spec.id.source)} {sender.state.value}{epoch(sender.epoch)}",
                f"buffer {sender.used // SECTOR}", f"dirty {sender.bitmap.nbytes // SECTOR}",
                f"{self.name(spec.id.target)} journal {journal // SECTOR} sectors",
            )  # fmt: skip
            self.lines.append(f"  {', '.join(parts)}")


def replay(text: str) -> str:
    """A golden file's text with what happens now below each command."""
    conversation, out = Conversation(), []
    for line in text.splitlines():
        if line.startswith("> "):
            out += [line, *conversation.play(line[2:])]
        elif not line.startswith("  "):
            out.append(line)
    return "\n".join(out) + "\n"
