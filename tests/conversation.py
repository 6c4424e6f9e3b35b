"""Golden conversations: commands to an explorer, and what every machine then hears, says and does.

A file starts with a comment that says why it is there. Lines that begin with "> " are commands; the indented lines
below are what happened, and are written by `pytest --rewrite-golden`. A comment further down begins a chapter. Who is
who: h1 h2 are the protected VRAs (vm1 is on h1), r1 r2 the recovery VRAs; of several VPGs erp's managers are
manager-erp and catalog-erp. The explorer checks its properties all along, and in the end faults stop and all is well
again soon (`heal.py`), which is not told.

    > estate protected=2 ...       an estate of that `Shape`, sizes in sectors; must come first. Also: volumes=22,9
                                   start=preseeded tweaks=tight
    > write vm1 lba=8 sectors=8    also: rows=3 for as many writes, one behind the other
    > tick, age, tag NAME          a checkpoint is due, the history is looked through, an operator wants a checkpoint
    > tag NAME quiesce=1           the same with applications at rest
    > pause, resume, force         an operator pauses replication, resumes it, wants everything compared
    > force full=1                 or everything sent
    > disk vm1, lack vm1, found    a VM gets another volume (`estate room=8`), its first one is missing, is back
    > retarget vm1 r2              a VM is to be recovered by another VRA
    > add vm100                    a VM that is in no VPG (`estate spares=1`) joins; also: start=preseeded
    > remove vm1                   a VM leaves its VPG
    > move vm1 h2, move vm1 away   it runs on another host, or on one without a VRA
    > inventory                    the managers learn where their VMs run
    > delete                       the VPG is deleted; also: keep=1
    > fire h1 flush                a timer of that name runs out (the beginning of its name will do)
    > deliver manager h1           the next message; `deliver all`: everything under way arrives and is done
    > do store r1                  the next effect on the store, mirror, disk or list of a machine; `fail` likewise
    > repeat h1 r1, drop h1 r1     the last frame comes again; the next message is swallowed
    > lose h1 r1, connect h1 r1    the connection goes, is back
    > stop h1, crash h1, start h1, full r1, fits r1, pin 1, unpin 1
    > status                       what the user sees, and where everything stands

Where it matters which VPG, its name may follow: `tick erp`. `replay` gives the text with what happens now, `scene` the
same conversation as data, to be drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from support import write
from terse import effect, epoch, event, fact, message

from drsim.core.effects import Append, Effect, Promote, Publish, ReadDigests, ReadRegions
from drsim.core.events import (
    Done,
    Event,
    Failed,
    FenceAsked,
    Fired,
    GuestWrote,
    PauseAsked,
    PinAsked,
    Received,
    Reconfigured,
    Started,
    SyncAsked,
    TagAsked,
)
from drsim.core.facts import FrameRefused, StateChanged
from drsim.core.messages import Compare, Compared, Frame, Resync, Resynced, Start, SyncDone
from drsim.core.names import Address, CheckpointId, VmId
from drsim.core.status import project
from drsim.core.units import SECTOR, Ns
from drsim.verify.bags import Link
from drsim.verify.estate import TIGHT, TINY, Shape
from drsim.verify.heal import heal
from drsim.verify.membership import added, relocate, removed, reshaped, retargeted
from drsim.verify.recorder import Recorder
from drsim.verify.sequence import Kind, Lifeline, Saying, Scene


class Conversation:
    """Plays commands; `lines` is what happened since the last one, `notes` what was not a message since the first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[Saying] = []
        self.x: Recorder | None = None
        self.names: dict[Address, str] = {}
        self.last: dict[Link, Frame] = {}
        self.shown: dict[str, str] = {}  # the state that each manager shows

    # -- the trace --------------------------------------------------------------------------------------------

    def record(self, now: Ns, address: Address, heard: Event, effects: Sequence[Effect]) -> None:
        """One step of the kernel."""
        if self.x is None:
            return
        if isinstance(heard, Received) and isinstance(heard.message, Frame):
            self.last[heard.sender, address] = heard.message
        self.lines.append(f"  {self.name(address):<8} {event(heard, self.name)}")
        said = filter(None, (effect(each, self.name) for each in effects))
        self.lines += [f"  {'':<10}{line}" for line in said]
        self._note(self.x, address, heard, effects)

    def name(self, address: Address) -> str:
        return self.names.get(address, address)

    # -- as data ----------------------------------------------------------------------------------------------

    def _note(self, x: Recorder, address: Address, heard: Event, effects: Sequence[Effect]) -> None:
        """What a machine did by itself, and what it made known."""
        who = self.name(address)
        match heard:
            case GuestWrote():
                self.notes.append(Saying(x.moment, who, who, event(heard, self.name), Kind.WRITE))
            case Fired(timer):
                self.notes.append(Saying(x.moment, who, who, x.words.expired(address, timer)))
            case Started():
                self.notes.append(Saying(x.moment, who, who, "up again", Kind.UP))
            case Done(_, Append() | Promote() | ReadRegions() | ReadDigests()) | Failed():
                self.notes.append(Saying(x.moment, who, who, event(heard, self.name)))
            case TagAsked() | PinAsked() | PauseAsked() | FenceAsked() | SyncAsked() | Reconfigured():
                self.notes.append(Saying(x.moment, who, who, event(heard, self.name)))
        for each in effects:
            if isinstance(each, Publish) and not isinstance(each.fact, FrameRefused):
                said = fact(each.fact)
                if isinstance(each.fact, StateChanged) and self.shown.get(who) == said:
                    continue  # what changed is not shown
                if isinstance(each.fact, StateChanged):
                    self.shown[who] = said
                self.notes.append(Saying(x.moment, who, who, said, Kind.STATE))

    def _messages(self, x: Recorder) -> Iterator[Saying]:
        """All that arrived, or were lost on their way; not what was sent where there was no connection."""
        for carried in x.carried:
            time = carried.arrived or carried.lost
            if time is not None and carried.lost != carried.sent:
                sync = isinstance(carried.message, Resync | Resynced | SyncDone | Compare | Compared)
                kind = Kind.SYNC if sync else Kind.CONTROL
                if isinstance(carried.message, Frame):
                    kind = Kind.SYNC if carried.message.sync else Kind.DATA
                sender, to = self.name(carried.sender), self.name(carried.to)
                lost = carried.arrived is None
                yield Saying(time, sender, to, message(carried.message), kind, carried.sent, lost)

    def _spans(self, x: Recorder) -> Iterator[Saying]:
        """What lasts for a while; not connections that are lost because one of their ends is."""
        down = [(s.of, s.first, s.last or x.moment) for s in x.spans if s.kind == "down"]
        for span in x.spans:
            ends = span.of if isinstance(span.of, tuple) else (span.of, span.of)
            if span.kind == "lost":
                if any(of in ends and first <= span.first <= last for of, first, last in down):
                    continue
                begins, finishes, words = Kind.APART, Kind.TOGETHER, ("connection lost", "connection back")
            elif span.kind == "down":
                begins, finishes, words = Kind.DOWN, None, ("down", "")
            elif span.last == span.first:
                continue
            else:
                begins, finishes, words = Kind.HOLD, Kind.RELEASE, ("guests held", "")
            near, far = map(self.name, ends)
            yield Saying(span.first, near, far, words[0], begins)
            if finishes and span.last is not None:
                yield Saying(span.last, near, far, words[1], finishes)

    def scene(self, title: str) -> Scene:
        """All that was said and done so far."""
        x = self.x
        assert x is not None
        sayings = chain(self._messages(x), self._spans(x), self.notes)
        lifelines = [
            Lifeline(name, ROLES[address.split("/")[-1]] if address.endswith("vra") else ROLES[address.split("/")[1]],
                     "protected site" if address.startswith("west/") else "recovery site")
            for address, name in self.names.items()
        ]  # fmt: skip
        return Scene(title, tuple(lifelines), tuple(sorted(sayings, key=_order)))

    # -- commands ---------------------------------------------------------------------------------------------

    def begin(self, chapter: str) -> None:
        """What follows is a chapter of its own."""
        if self.x is not None:
            self.notes.append(Saying(self.x.moment, "", "", chapter, Kind.CHAPTER))

    def play(self, command: str) -> list[str]:
        """Carry out a command; returns what happened."""
        self.lines = []
        verb, *words = command.split()
        options = {k: v for k, _, v in (w.partition("=") for w in words if "=" in w)}
        plain = [w for w in words if "=" not in w]
        if verb == "estate":
            self._open(options)
        else:
            assert self.x is not None, "the first command is `estate`"
            vpg = plain.pop() if plain and plain[-1] in self.x.estate.vpg_of else self.x.estate.vpgs[0].name
            self._command(self.x, verb, plain, options, vpg)
        return self.lines

    def _open(self, options: dict[str, str]) -> None:
        x = Recorder(Shape(**{key: VALUES.get(key, int)(value) for key, value in options.items()}), trace=self)
        estate = x.estate
        suffix = {vpg.name: f"-{vpg.name}" if len(estate.vpgs) > 1 else "" for vpg in estate.vpgs}
        self.names = {a: a.split("/")[1] for a in estate.sources}
        self.names |= {address: f"manager{suffix[vpg]}" for vpg, address in estate.managers.items()}
        self.names |= {address: f"catalog{suffix[vpg]}" for vpg, address in estate.catalogs.items()}
        self.names |= {a: a.split("/")[1] for a in estate.targets}
        self.x = x

    def _address(self, name: str) -> Address:
        return next(a for a, n in self.names.items() if n == name)

    def _link(self, words: Sequence[str]) -> Link:
        return self._address(words[0]), self._address(words[1])

    def _command(self, x: Recorder, verb: str, words: list[str], options: dict[str, str], vpg: str) -> None:
        match verb, words:
            case "status", []:
                self._status(x)
            case (("tick" | "age"), []):
                (x.tick if verb == "tick" else x.age)(vpg)
            case "tag", [name]:
                x.tag(vpg, name, quiesce="quiesce" in options)
            case (("pin" | "unpin"), [checkpoint]):
                x.pin(vpg, CheckpointId(int(checkpoint)), verb == "pin")
            case (("pause" | "resume"), []):
                x.pause(vpg, verb == "pause")
            case (("fence" | "unfence"), []):
                x.fence(x.estate.vpg_of[vpg], fenced=verb == "fence")
            case "force", []:
                x.force(vpg, full="full" in options)
            case "lack", [vm]:
                x.lose_volume(x.guests[VmId(int(vm[2:]))].volumes[0])
            case "found", []:
                x.find_volumes()
            case (("add" | "remove" | "move" | "inventory" | "delete" | "disk" | "retarget"), _):
                self._change(x, verb, words, options, vpg)
            case "write", [vm]:
                lba, sectors, rows = (int(options.get(key, 1)) for key in ("lba", "sectors", "rows"))
                write(x, *((int(vm[2:]), 0, lba + k * sectors, sectors) for k in range(rows)))
            case "fire", [who, name]:
                address = self._address(who)
                x.expire(*next(t for t in x.timers if t[0] == address and t[1].startswith(name)))
            case "deliver", ["all"]:
                x.drain()
            case (("do" | "fail"), [kind, who]):
                address = self._address(who)
                x.finish(
                    next(k for k, work in x.work.items() if work and k[:2] == (kind, address)), fail=verb == "fail"
                )
            case (("full" | "fits"), [who]):
                (x.full.add if verb == "full" else x.full.discard)((self._address(who), vpg))
                x.moment += 1
                said = "the store is full" if verb == "full" else "the store has room again"
                self.notes.append(Saying(x.moment, who, who, said))
            case _:
                self._fault(x, verb, words)

    def _change(self, x: Recorder, verb: str, words: list[str], options: dict[str, str], name: str) -> None:
        vpg = x.estate.vpg_of[name]
        match verb, words:
            case "add", [vm]:
                guest = x.guests[VmId(int(vm[2:]))]
                assert guest.host is not None
                x.configure(
                    added(vpg, guest.vm, guest.volumes, guest.host, x.estate, Start(options.get("start", "initial")))
                )
            case "remove", [vm]:
                x.configure(removed(vpg, VmId(int(vm[2:]))))
            case "move", [vm, host]:
                x.move(VmId(int(vm[2:])), None if host == "away" else self._address(host))
            case "disk", [vm]:
                guest = x.guests[VmId(int(vm[2:]))]
                guest.volumes = (*guest.volumes, x.estate.room(guest.vm)[-1])
                x.configure(reshaped(vpg, guest.vm, guest.volumes))
            case "retarget", [vm, host]:
                guest = x.guests[VmId(int(vm[2:]))]
                changed = retargeted(vpg, guest.vm, guest.volumes, self._address(host), x.estate)
                assert changed is not None
                x.configure(changed)
            case "inventory", []:
                while relocate(x):
                    pass
            case "delete", []:
                x.delete(vpg, keep_disks="keep" in options)
            case _:
                raise ValueError(f"no such command: {verb} {' '.join(words)}")

    def _fault(self, x: Recorder, verb: str, words: list[str]) -> None:
        match verb, words:
            case (("deliver" | "drop" | "repeat" | "lose" | "connect"), [_, _]):
                link = self._link(words)
                match verb:
                    case "deliver":
                        x.arrive(link)
                    case "drop":
                        self.lines.append(f"  swallowed: {message(x.queues[link][0])}")
                        x.drop(link)
                    case "repeat":
                        x.replay(self.last[link])
                    case _:
                        (x.break_link if verb == "lose" else x.renew)(link)
            case (("stop" | "crash"), [who]):
                (x.halt if verb == "stop" else x.crash)(self._address(who), 0)
            case "start", [who]:
                x.boot(self._address(who))
            case _:
                raise ValueError(f"no such command: {verb} {' '.join(words)}")

    def _status(self, x: Recorder) -> None:
        for vpg in x.estate.vpgs:
            manager = x.vpg(vpg.name)
            of = f"{vpg.name}: " if len(x.estate.vpgs) > 1 else ""
            status, sub = project(manager.regions)
            cause = f" ({manager.cause})" if manager.cause else ""
            listed = ", ".join(str(c.id) for c in x.catalog(vpg.name).listed) or "none"
            self.lines.append(f"  {of}{status}, {sub}{cause}; checkpoints listed: {listed}")
            for spec in [spec for spec in vpg.streams if x.has(spec.id)]:
                sender, receiver = x.sender(spec.id), x.receiver(spec.id)
                journal = sum(j.nbytes for j in receiver.journals.values())
                parts = (
                    f"{self.name(spec.id.source)} {sender.state.value}{epoch(sender.epoch)}",
                    f"buffer {sender.used // SECTOR}", f"dirty {sender.bitmap.nbytes // SECTOR}",
                    f"{self.name(spec.id.target)} journal {journal // SECTOR} sectors",
                )  # fmt: skip
                self.lines.append(f"  {', '.join(parts)}")


VALUES: dict[str, Callable[[str], Any]] = {
    "start": Start,
    "tweaks": {"tiny": TINY, "tight": TIGHT}.__getitem__,
    "volumes": lambda value: tuple(map(int, value.split(","))),
}
"""What is made of those parts of a shape that are no number."""
ROLES = {
    "vra": "protected VRA", "recovery-vra": "recovery VRA", "vpg": "protected manager", "catalog": "catalogue",
}  # fmt: skip
RANKS = {
    Kind.APART: 0, Kind.TOGETHER: 0, Kind.DOWN: 0, Kind.DATA: 1, Kind.SYNC: 1, Kind.CONTROL: 1, Kind.STATE: 4,
    Kind.CHAPTER: 6,
}  # fmt: skip
"""Of what happened at one moment: what others did, what came, what it made the machine do. What was lost goes last."""


def _order(saying: Saying) -> tuple[int, int]:
    return saying.time, 5 if saying.lost else RANKS.get(saying.kind, 3)


def replay(text: str) -> str:
    """A golden file's text with what happens now below each command."""
    conversation, out = Conversation(), []
    for line in text.splitlines():
        if line.startswith("> "):
            out += [line, *conversation.play(line[2:])]
        elif not line.startswith("  "):
            out.append(line)
    if conversation.x is not None:
        heal(conversation.x)
    return "\n".join(out) + "\n"


def scene(text: str, title: str) -> Scene:
    """A golden file's conversation as data: what was said and done, by whom, when, in the words of the file.

    Each comment after the first command begins a chapter. `drsim.verify.sequence.draw` draws it.
    """
    conversation, comment = Conversation(), ""
    for line in text.splitlines():
        if line.startswith("# "):
            comment = f"{comment} {line[2:]}".strip()
        elif line.startswith("> "):
            if comment:
                conversation.begin(comment)
            comment = ""
            conversation.play(line[2:])
    return conversation.scene(title)
