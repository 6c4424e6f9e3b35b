"""Recorder: an explorer that remembers a run for telling it: what was chosen, what came of it, and when.

A *step* is one choice of the adversary, or of the healing. Within it machines take steps; each is a *moment*, one
tick of the story's clock. The truth (writes, acknowledgements), messages, holds and breakdowns are kept as spans of
moments, for the time diagram. Words are found when the story is told, because a write in flight has no number yet.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from drsim.core.effects import Append, Effect, Forget, HoldGuests, Keep, Promote, Publish, ReleaseGuests, ThawGuests
from drsim.core.errors import DrsimError
from drsim.core.events import Event
from drsim.core.facts import CheckpointListed, CheckpointSealed, Fact, FrameRefused, StateChanged
from drsim.core.kernel import Sink
from drsim.core.messages import Frame, Held, Message
from drsim.core.names import Address, CheckpointId
from drsim.verify.bags import Key, Link, Unanswered
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer
from drsim.verify.guests import Write
from drsim.verify.plain import Words
from drsim.verify.spans import Carried, Point, Say, Span, Step, Wrote


class Recorder(Explorer):
    """See the module."""

    def __init__(self, shape: Shape, *, trace: Sink | None = None) -> None:
        self.steps: list[Step] = []
        self.writes: list[Wrote] = []
        self.carried: list[Carried] = []
        self.spans: list[Span] = []
        self.points: list[Point] = []
        self.held_at: dict[tuple[str, CheckpointId], dict[Address, int]] = {}  # when each VRA said what is in a cut
        self.moment = 0
        self.last: Address | None = None  # the machine that took the last step
        self._flying: dict[tuple[Link, int], deque[Carried]] = {}
        self._step: Step | None = None
        self._latest: list[Say] = []  # the choice within a folded step, and what came of it
        self._wrote: dict[int, Wrote] = {}
        self._marks: dict[str, set[tuple[Address, str]]] = {}  # what was seen last of the choices that take no step
        super().__init__(shape, trace=trace)
        self.words = Words(self)

    # -- steps ------------------------------------------------------------------------------------------------

    @contextmanager
    def _choice(self, say: Say, *, folded: bool = False, quiet: bool = False) -> Iterator[None]:
        """What happens inside came of this choice; within another choice it is a part of that one.

        A choice that made no machine take a step changed nothing and is not told, unless it is a `quiet` one.
        """
        if self._step is not None:
            self._latest = [say]
            yield
            return
        self._look_around()
        self._step = step = Step(say, self.moment + 1, self.healing, folded)
        self._latest = []
        try:
            yield
        except Exception:
            step.then += [say for say in self._latest if folded]  # the last words are never left out
            raise
        finally:
            self._step = None
            if quiet or self.moment >= step.first:
                self.moment = step.last = max(self.moment, step.first)
                self.steps.append(step)

    def _look_around(self) -> None:
        """Some choices only change what the world does from now on; they are seen here."""
        for name, now in (("store", self.full), ("clogged", self.clogged), ("half-open", self.half_open)):
            before = self._marks.get(name, set[tuple[Address, str]]())
            for item in sorted(now ^ before):
                self._saw(partial(self.words.mark, name, item, there=item in now))
            self._marks[name] = set(now)

    def _saw(self, say: Say) -> None:
        """The world does otherwise from now on: a step that no machine takes."""
        self.moment += 1
        self.steps.append(Step(say, self.moment, self.healing, last=self.moment))

    def _then(self, say: Say, *, notable: bool = False) -> None:
        self._latest.append(say)
        if self._step is not None and (notable or not self._step.folded):
            self._step.then.append(say)

    # -- what machines do -------------------------------------------------------------------------------------

    def wrote(self, write: Write) -> Wrote:
        """When a write was issued, landed and acknowledged."""
        return self._wrote[id(write)]

    def post(self, address: Address, event: Event) -> None:
        self.moment += 1
        self.last = address
        super().post(address, event)

    def send(self, sender: Address, to: Address, message: Message) -> None:
        carried = Carried(sender, to, message, self.moment)
        if isinstance(message, Held):
            self.held_at.setdefault((message.vpg, message.checkpoint), {})[sender] = self.moment
        self._then(lambda: self.words.sends(sender, message))
        self.carried.append(carried)
        link = sender, to
        before = len(self.queues.get(link, ()))
        super().send(sender, to, message)
        if len(self.queues.get(link, ())) > before:
            self._flying.setdefault((link, id(message)), deque()).append(carried)
        else:
            carried.lost = self.moment

    def deliver(self, link: Link) -> None:
        message = self.queues[link][0]
        self._landed(link, message).arrived = self.moment + 1
        super().deliver(link)

    def _landed(self, link: Link, message: Message) -> Carried:
        """The span of a message that is no longer under way."""
        if not self._flying.get((link, id(message))):
            self._appears(link, message, self.moment)
        return self._flying[link, id(message)].popleft()

    def _appears(self, link: Link, message: Message, sent: int) -> Carried:
        """A message is under way that nobody sent like this: doubled, cut in two or joined."""
        carried = Carried(*link, message, sent)
        self.carried.append(carried)
        self._flying.setdefault((link, id(message)), deque()).append(carried)
        return carried

    def _instead(self, link: Link, before: Sequence[Message], after: Sequence[Message]) -> None:
        """Messages in a queue have taken the place of others."""
        gone = [self._landed(link, message) for message in before]
        for message in after:
            self._appears(link, message, gone[0].sent)
        for carried in gone:
            self.carried.remove(carried)

    def sever(self, link: Link) -> None:
        for way in (link, link[::-1]):
            for message in self.queues.get(way, ()):
                self._landed(way, message).lost = self.moment + 1
        self.spans.append(Span("lost", link, self.moment + 1))
        super().sever(link)

    def _end(self, kind: str, of: object) -> None:
        for span in self.spans:
            if span.kind == kind and span.of == of and span.last is None:
                span.last = self.moment

    def told(self, address: Address, effect: Unanswered) -> None:
        match effect:
            case HoldGuests(vpg, _):
                self.spans.append(Span(f"hold {vpg}", address, self.moment))
                self._then(lambda: f"{self.words.place(address)} holds its guests")
            case ReleaseGuests(vpg, _):
                self._end(f"hold {vpg}", address)
                self._then(lambda: f"{self.words.place(address)} lets its guests go on")
            case ThawGuests(_, number):
                self._then(lambda: f"{self.words.place(address)} ends freeze {number} of its guests")
            case Publish(StateChanged()):
                pass
            case Publish(fact):
                notable = not isinstance(fact, FrameRefused)
                self._then(lambda: self.words.fact(fact), notable=notable)
                self._mark_fact(address, fact)
        super().told(address, effect)

    def _mark_fact(self, address: Address, fact: Fact) -> None:
        if isinstance(fact, CheckpointSealed | CheckpointListed):
            word = "sealed" if isinstance(fact, CheckpointSealed) else "listed"
            self.points.append(Point(self.moment, address, word, lambda: f"{fact.checkpoint} {word}"))

    def perform(self, address: Address, effect: Effect) -> object:
        at, words = self.moment + 1, self.words
        match effect:
            case Append(frame):
                self.points.append(Point(at, frame.stream.target, "journal", lambda: words.content(frame)))
            case Promote(stream):
                self.points.append(Point(at, stream.target, "age", lambda: "to the mirror"))
            case Keep() | Forget():
                pass
        return super().perform(address, effect)

    def _done(self, writes: Iterable[Write]) -> None:
        writes = list(writes)
        for write in writes:
            wrote = self._wrote[id(write)]
            wrote.acked = max(self.moment, wrote.landed or 0)
            if wrote.landed != self.moment:
                self._then(partial("{} is acknowledged".format, self.words.write(write)), notable=True)
        super()._done(writes)

    # -- guests -----------------------------------------------------------------------------------------------

    def write(self, writes: Sequence[Write]) -> None:
        with self._choice(lambda: self._wrote_so(writes)):
            self._note(writes)
            for write in writes:
                self._wrote[id(write)].landed = self.moment + 1
            super().write(writes)

    def issue(self, write: Write) -> None:
        with self._choice(lambda: self.words.issued(write)):
            self._note([write])
            super().issue(write)

    def land(self, write: Write) -> None:
        with self._choice(lambda: f"{self.words.write(write)} landed; {self._acked_so(write)}"):
            self._wrote[id(write)].landed = self.moment + 1
            super().land(write)

    def _wrote_so(self, writes: Sequence[Write]) -> str:
        done = {self._acked_so(write) for write in writes}
        if len(done) == 1:
            return f"{', '.join(map(self.words.wrote, writes))}; {'all ' if len(writes) > 1 else ''}{done.pop()}"
        return "; ".join(f"{self.words.wrote(write)}, {self._acked_so(write)}" for write in writes)

    def _acked_so(self, write: Write) -> str:
        wrote = self._wrote[id(write)]
        return "acknowledged" if wrote.acked == wrote.landed else "not acknowledged yet"

    def _note(self, writes: Sequence[Write]) -> None:
        for write in writes:
            wrote = self._wrote[id(write)] = Wrote(write, self.moment + 1)
            self.writes.append(wrote)

    # -- what may happen --------------------------------------------------------------------------------------

    def arrive(self, link: Link, count: int = 1) -> None:
        messages = list(self.queues.get(link, ()))[:count]
        with self._choice(lambda: self.words.got(link[1], messages)):
            super().arrive(link, count)

    def finish(self, key: Key, *, fail: bool = False) -> None:
        effect = self.work[key][0][1]
        with self._choice(lambda: self.words.done(key[1], effect, fail=fail)):
            super().finish(key, fail=fail)

    def do(self, key: Key, error: DrsimError | None = None) -> None:
        effect = self.work[key][0][1]
        if self._step is not None and self._step.folded and isinstance(effect, Append) and error is None:
            self._then(lambda: self.words.done(key[1], effect, fail=False), notable=True)
        super().do(key, error)

    def expire(self, address: Address, timer: str) -> None:
        with self._choice(lambda: self.words.expired(address, timer)):
            super().expire(address, timer)

    def drain(self, rounds: int = 200) -> None:
        with self._choice(lambda: "everything under way arrived and was done", folded=True):
            super().drain(rounds)

    def tick(self, vpg: str) -> None:
        with self._choice(lambda: f"a checkpoint{self.words.of(vpg)} was due"):
            super().tick(vpg)

    def age(self, vpg: str) -> None:
        with self._choice(lambda: f"the history{self.words.of(vpg)} was looked through"):
            super().age(vpg)

    def tag(self, vpg: str, name: str, *, quiesce: bool = False) -> None:
        rest = " and applications at rest" if quiesce else ""
        with self._choice(lambda: f"an operator asked for a checkpoint{self.words.of(vpg)} with a tag{rest}"):
            super().tag(vpg, name, quiesce=quiesce)

    def pin(self, vpg: str, checkpoint: CheckpointId, pinned: bool) -> None:
        word = "pinned" if pinned else "let go"
        with self._choice(lambda: f"an operation {word} checkpoint {checkpoint}{self.words.of(vpg)}"):
            super().pin(vpg, checkpoint, pinned)

    # -- faults -----------------------------------------------------------------------------------------------

    def break_link(self, link: Link) -> None:
        with self._choice(lambda: f"the connection {self.words.link(link)} was lost"):
            super().break_link(link)

    def renew(self, link: Link) -> None:
        with self._choice(lambda: f"the connection {self.words.link(link)} came back"):
            super().renew(link)

    def connect(self, link: Link) -> None:
        super().connect(link)
        if link not in self.cut:
            self._end("lost", link)

    def drop(self, link: Link) -> None:
        message = self.queues[link][0]
        with self._choice(
            lambda: f"{self.words.message(message)} was lost on its way to {self.words.place(link[1])}", quiet=True
        ):
            self._landed(link, message).lost = self.moment + 1
            super().drop(link)

    def again(self, link: Link) -> None:
        message = self.queues[link][0]
        with self._choice(
            lambda: f"{self.words.message(message)} will come twice to {self.words.place(link[1])}", quiet=True
        ):
            self._appears(link, message, self.moment + 1)
            super().again(link)

    def overtake(self, link: Link) -> None:
        a, b = list(self.queues[link])[:2]
        with self._choice(lambda: f"{self.words.message(b)} overtook {self.words.message(a)}", quiet=True):
            super().overtake(link)

    def overlap(self, link: Link) -> None:
        b = self.queues[link][1]
        with self._choice(lambda: f"{self.words.message(b)} will bring what is in the one before it again", quiet=True):
            super().overlap(link)
            self._instead(link, [b], [self.queues[link][1]])

    def prefer(self, link: Link, at: int) -> None:
        a, b = self.queues[link][0], self.queues[link][at]
        with self._choice(lambda: f"{self.words.message(b)} overtook {self.words.message(a)}", quiet=True):
            super().prefer(link, at)

    def cut_frame(self, link: Link, at: int) -> None:
        frame = self.queues[link][0]
        with self._choice(lambda: f"{self.words.message(frame)} was cut in two", quiet=True):
            super().cut_frame(link, at)
            self._instead(link, [frame], list(self.queues[link])[:2])

    def join_frames(self, link: Link) -> None:
        a, b = list(self.queues[link])[:2]
        with self._choice(lambda: f"{self.words.message(a)} and {self.words.message(b)} were joined", quiet=True):
            super().join_frames(link)
            self._instead(link, [a, b], [self.queues[link][0]])

    def replay(self, frame: Frame) -> None:
        link = (frame.stream.source, frame.stream.target)
        with self._choice(lambda: f"{self.words.place(link[1])} got {self.words.message(frame)} again"):
            if link[1] not in self.down:
                self.carried.append(Carried(*link, frame, self.moment, arrived=self.moment + 1))
            super().replay(frame)

    def step_clock(self, site: str, by: int) -> None:
        with self._choice(lambda: f"the clocks of site {site} jumped ahead by {by}", quiet=True):
            super().step_clock(site, by)

    def halt(self, address: Address, unanswered: int) -> None:
        if address not in self.down:
            with self._choice(lambda: f"{self.words.place(address)} went down in good order"):
                self.spans.append(Span("down", address, self.moment + 1))
                super().halt(address, unanswered)

    def crash(self, address: Address, unanswered: int) -> None:
        if address not in self.down:
            with self._choice(lambda: f"{self.words.place(address)} died"):
                self.spans.append(Span("down", address, self.moment + 1))
                super().crash(address, unanswered)

    def boot(self, address: Address) -> None:
        if address in self.down:
            with self._choice(lambda: f"{self.words.place(address)} came up"):
                super().boot(address)
                self._end("down", address)
