"""Steps: what somebody does in a litmus test, when it may be done, and the estates on which it is done."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from drsim.core.facts import CheckpointSealed
from drsim.core.messages import Frame
from drsim.core.names import Address, recovery_vra_address, vpg_address, vra_address
from drsim.verify.estate import TINY, Shape
from drsim.verify.litmus.bench import Bench, Step

H1, H2 = vra_address("west", "h1"), vra_address("west", "h2")
R1 = recovery_vra_address("east", "r1")
MANAGER = vpg_address("west", "crm")
WAN = (H1, R1)
When = Callable[[Bench], bool]
ONE = Shape(protected=1, volumes=(16,), pool=200)
TWO = Shape(protected=2, volumes=(16,), pool=200)
REGIONS = replace(
    ONE,
    volumes=(24,),
    tweaks=TINY.model_copy(update={"region_bytes": 4 << 10, "sync_bytes": 4 << 10, "sync_tail": 0.0}),
)
"""A region of 8 sectors, one to a frame of a sync."""


def bags(*names: str) -> frozenset[str]:
    """These bags are drawn from in every order."""
    return frozenset(names)


# -- when ---------------------------------------------------------------------------------------------------------


def always(bench: Bench) -> bool:
    """At any time."""
    return True


def acked(*names: str) -> When:
    """Guests know that these writes are done."""
    return lambda bench: all(bench.is_acked(name) for name in names)


def in_sync(*names: str) -> When:
    """Nothing synchronizes, and these writes are done."""
    return lambda bench: bench.in_sync and acked(*names)(bench)


def lists(checkpoint: int) -> When:
    """A checkpoint can be recovered."""
    return lambda bench: checkpoint in bench.listed


def sealed(bench: Bench) -> bool:
    """A checkpoint has been sealed."""
    return any(isinstance(fact, CheckpointSealed) for fact in bench.x.facts)


def under_way(bench: Bench) -> bool:
    """A frame is on its way from host 1."""
    return bool(bench.x.queues.get(WAN)) and isinstance(bench.x.queues[WAN][0], Frame)


def came(bench: Bench) -> bool:
    """A frame has arrived."""
    return bool(bench.x.frames)


# -- what ---------------------------------------------------------------------------------------------------------


def write(
    name: str, vm: int = 1, at: int = 0, n: int = 2, *, volume: int = 0, after: Iterable[str] = (),
    discard: bool = False, when: When | None = None,
) -> Step:  # fmt: skip
    """A guest writes; `after`: it knows that these are done."""

    def act(bench: Bench) -> None:
        bench.x.write([bench.new(name, vm, at, n, volume=volume, discard=discard)])

    return Step(f"VM {vm} writes {name}", act, when or acked(*after))


def issue(name: str, vm: int = 1, at: int = 0, n: int = 2) -> Step:
    """A guest issues a write, which stays in flight."""
    return Step(f"VM {vm} issues {name}", lambda bench: bench.x.issue(bench.new(name, vm, at, n)))


def land(name: str) -> Step:
    """A write in flight lands."""
    return Step(f"{name} lands", lambda b: b.x.land(b.writes[name]), lambda b: name in b.writes)


def tick(*after: str, when: When | None = None) -> Step:
    """A checkpoint is due; `after`: when these writes are acknowledged."""
    return Step("a checkpoint is due", Bench.tick, when or acked(*after))


def do(text: str, act: Callable[[Bench], object], when: When = always) -> Step:
    """Anything else."""

    def run(bench: Bench) -> None:
        act(bench)

    return Step(text, run, when)


def lose(when: When = always) -> Step:
    """The connection between host 1's VRA and the recovery VRA is gone."""
    return do("the link is lost", lambda b: b.x.break_link(WAN), when)


def renew() -> Step:
    """It can be used again."""
    return do("the link is back", lambda b: b.x.renew(WAN))


def die(who: Address, name: str) -> Step:
    """A component dies."""
    return do(f"the {name} dies", lambda b: b.x.crash(who, 0))


def start(who: Address) -> Step:
    """It comes up again."""
    return do("it starts", lambda b: b.x.boot(who))


def old_generation(bench: Bench) -> None:
    """The first frame again, as if numbered where the stream stands now, by a side that has lost the right to write."""
    frame = bench.x.frames[0]
    at = bench.x.receiver(frame.stream).accepted
    upto = tuple(end + u - a for end, a, u in zip(at, frame.after, frame.upto, strict=True))
    bench.x.replay(replace(frame, generation=0, after=at, upto=upto))


def pass_time(bench: Bench) -> None:
    """More than the history is long."""
    bench.x.now += 100
