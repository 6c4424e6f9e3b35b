"""Interleave: runs a litmus test in every order of its choices, and gathers what may come of it.

Theory of operation. A depth-first search over "what next". Machines cannot be copied, so a run is made again from its
choices: each run begins anew, repeats the choices up to where it parts from the run before, and goes on to the end.

Orders that differ only in choices that have nothing to do with each other (`bench.py`: footprints) need one run, not
all. The search keeps *sleep sets* for that: once a choice has been tried somewhere, it is not tried again below its
later siblings until one of them has touched what it touches. No outcome is lost (Godefroid's theorem), because an
order that is left out gives what another gives that was run.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from drsim.core.errors import CoreError
from drsim.verify.estate import Shape
from drsim.verify.explorer import Explorer, Tap
from drsim.verify.litmus.bench import ALL, Bench, Choice, Footprint, Step

MOST_RUNS = 3000
NONE = "none"


def _what(bench: Bench) -> Iterable[str]:
    """The outcomes of a run that is over: all that each checkpoint ever held while it was listed, and the notes."""
    for number in range(1, bench.asked + 1):
        prefix = f"{number}: " if bench.asked > 1 else ""
        yield from (prefix + bench.holds(images) for id_, images in bench.x.seen if id_ == number)
        if number not in bench.listed:
            yield prefix + NONE
    yield from bench.notes


@dataclass(frozen=True)
class Litmus:
    """A litmus test. Outcomes: {a, b} for what a checkpoint holds, "none" where there is none, or the words of a note.

    forbidden: no consistent cut of what the guests did. broken: outcomes that some consistent cut would give, and
    that are forbidden all the same; `why` says by what. Every other consistent outcome is allowed, and can be reached.
    """

    name: str
    picture: str
    why: str
    actors: tuple[tuple[Step, ...], ...]
    allowed: tuple[str, ...]
    forbidden: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    free: frozenset[str] = frozenset(("hold", "held"))
    shape: Shape = field(default_factory=lambda: Shape(volumes=(8,), pool=200))
    outcomes: Callable[[Bench], Iterable[str]] = _what
    end: Callable[[Bench], None] = lambda _: None
    most: int = MOST_RUNS


@dataclass
class Seen:
    """What the runs of a test came to. `outcomes`: each with the choices of the first run that gave it."""

    runs: int = 0
    left_out: int = 0
    exhaustive: bool = True
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    consistent: dict[str, bool] = field(default_factory=dict)  # by the oracle, of every set of writes, in any run
    disagreements: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Node:
    enabled: list[Choice]
    sleep: dict[Choice, Footprint]
    done: dict[Choice, Footprint] = field(default_factory=dict)
    chosen: Choice | None = None

    def next(self) -> Choice | None:
        return next((c for c in self.enabled if c not in self.sleep and c not in self.done), None)


def _apart(a: Footprint, b: Footprint) -> bool:
    return ALL not in a and ALL not in b and a.isdisjoint(b)


def every_order(test: Litmus, *, tap: Callable[[Explorer], Tap] = Tap, reduced: bool = True) -> Seen:
    """Run a test in every order of its choices, or in its first `most` ones. `reduced`: leave out equal orders."""
    seen, path = Seen(), list[_Node]()
    known: dict[tuple[object, ...], dict[str, bool]] = {}
    while True:
        if seen.runs >= test.most:
            seen.exhaustive = False
            break
        bench = Bench(test.shape, test.free, tap)
        actors = [list(steps) for steps in test.actors]
        story = [bench.take(node.chosen, actors)[0] for node in path if node.chosen is not None]
        complete = _go_on(bench, actors, path, story, reduced=reduced)
        if complete:
            seen.runs += 1
            test.end(bench)
            _note(test, bench, story, seen, known)
        else:
            seen.left_out += 1
        if not _step_back(path):
            break
    return seen


def _go_on(bench: Bench, actors: list[list[Step]], path: list[_Node], story: list[str], *, reduced: bool) -> bool:
    """Take the last node's next choice and go on to the end. False: this order need not be run."""
    sleep: dict[Choice, Footprint] = {}
    node = path.pop() if path else None
    while True:
        if node is None:
            node = _Node(list(bench.choices(actors)), sleep)
        choice = node.next()
        if choice is None:
            return not node.enabled
        text, footprint = bench.take(choice, actors)
        story.append(text)
        if reduced:
            sleep = {c: f for c, f in (node.sleep | node.done).items() if _apart(f, footprint)}
        node.done[choice], node.chosen = footprint, choice
        path.append(node)
        node = None


def _step_back(path: list[_Node]) -> bool:
    """Go back to the last node that has a choice left; it is the path's last then, with nothing chosen."""
    while path:
        node = path[-1]
        node.chosen = None
        if node.next() is not None:
            return True
        path.pop()
    return False


def _note(
    test: Litmus, bench: Bench, story: list[str], seen: Seen, known: dict[tuple[object, ...], dict[str, bool]]
) -> None:
    for outcome in test.outcomes(bench):
        seen.outcomes.setdefault(outcome, story)
    for id_, images in bench.x.seen:
        says, held = bench.consistent(images), bench.holds(images)
        if says == (held in {o.partition(": ")[2] or o for o in test.forbidden}):
            word = "consistent" if says else "inconsistent"
            seen.disagreements.append(f"checkpoint {id_} holds {held}, which the oracle calls {word}")
    order = _order(bench)
    if order not in known:
        known[order] = bench.imaginable()
        for said, ok in known[order].items():
            seen.consistent[said] = seen.consistent.get(said, False) or ok


def _order(bench: Bench) -> tuple[object, ...]:
    """In which order the guests' writes were issued and acknowledged, and which landed over which."""
    instants = []
    for name, write in bench.writes.items():
        if write.index:
            acked = write.guest.acked[write.index - 1]
            instants += [(write.issued, 1, name, write.index), (acked, 0, name, write.index)]
    return tuple((kind, name, index) for _, kind, name, index in sorted(instants))


def faults(test: Litmus, seen: Seen) -> list[str]:
    """What is wrong with the runs of a test, or with its table: outcomes forbidden, unknown or never reached."""
    found = list(dict.fromkeys(seen.disagreements))
    bad = {*test.forbidden, *test.broken}
    for outcome, story in seen.outcomes.items():
        if outcome in bad:
            found.append(f"{outcome} is forbidden; it came of: {'; '.join(story)}")
        elif outcome not in test.allowed:
            found.append(f"{outcome} is not in the table; it came of: {'; '.join(story)}")
    found += [f"{outcome} is allowed and was never reached" for outcome in test.allowed if outcome not in seen.outcomes]
    sets = {o.rpartition(": ")[2] for o in (*test.allowed, *test.broken)}
    for said, ok in seen.consistent.items():
        if ok and said not in sets:
            found.append(f"{said} is a consistent cut and not in the table")
        if not ok and said in sets:
            found.append(f"{said} is in the table, and never a consistent cut")
    return found


def check(test: Litmus, *, tap: Callable[[Explorer], Tap] = Tap) -> Seen:
    """Run a test. Raises CoreError with all that is wrong."""
    seen = every_order(test, tap=tap)
    wrong = faults(test, seen)
    if wrong:
        raise CoreError("; ".join(wrong[:5]), place=f"litmus test {test.name!r}")
    return seen
