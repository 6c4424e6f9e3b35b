"""Figures: short simulated runs whose reported figures must be the truth (P6, P22). Twelve bytes choose the model.

Compares what a run leaves behind for reports with what was counted beside it: bytes on the WAN by kind with the
bytes handed to each link less those that never left, the RPO over time with what the checkpoints hold of the
acknowledged writes. Not compared: what the study layer makes of these figures, which its own tests do.

byte  chooses
----  ----------------------------------------------------------------
0     writes per second and how many VMs
1     their size
2     hosts, so whether checkpoints hold
3     bandwidth of the link
4     compression
5     fidelity
6 - 9 a fault: which, when, how long, how bad
10    throttle window
11    seed of the random streams
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drsim.core.effects import Effect, Publish, Send
from drsim.core.events import Event
from drsim.core.facts import CheckpointListed, CheckpointsRetired
from drsim.core.messages import Hold
from drsim.core.names import Address, CheckpointId
from drsim.core.trace import TraceDigest
from drsim.core.units import SECOND, Ns
from drsim.sim.faults import Injector
from drsim.sim.layout import Layout
from drsim.sim.link import Direction
from drsim.sim.record import Recorder, VpgRecord
from drsim.sim.run import Run, taps
from drsim.sim.streams import Streams
from drsim.sim.world import World
from drsim.spec.model import Model
from drsim.spec.protect import clock as clock_time
from drsim.verify.violation import Violation

LENGTH = 12
LASTS = 60  # seconds of a run
VPG = "crm"


def random_figures(seed: int) -> bytes:
    """The program of a seed."""
    return random.Random(seed).randbytes(LENGTH)


def model_of(program: bytes) -> Model:
    """The model of a program. Zeros are one quiet VM on a fast link without a fault."""
    a, b, c, d, e, f, *_ = program
    hosts = 1 + c % 2
    link: dict[str, Any] = {
        "between": ["london", "leeds"], "bandwidth": ("100 Mbit/s", "2 Mbit/s", "1 Mbit/s")[d % 3],
        "latency": f"{1 + d // 3} ms",
    }  # fmt: skip
    if program[10] % 4 == 1:
        link["throttle"] = [{"start": "00:00", "end": "00:01", "limit": "300 kbit/s"}]
    load = {"kind": ("constant", "poisson")[a % 2], "rate": 5 + a // 8, "size": ("8 KiB", "512 B", "64 KiB")[b % 3]}
    return Model.model_validate(
        {
            "sites": {"london": {}, "leeds": {}},
            "datastores": {"san-1": {"site": "london"}, "san-2": {"site": "leeds"}},
            "hosts": {
                **{f"london-{n + 1}": {"site": "london", "vra": {"ram": 1}} for n in range(hosts)},
                "leeds-1": {"site": "leeds"},
            },
            "links": {"wan": link},
            "vms": {
                "app": {
                    "host": [f"london-{n + 1}" for n in range(hosts)], "datastore": "san-1", "count": 1 + a // 2 % 3,
                    "workload": load,
                }
            },
            "vpgs": {
                VPG: {
                    "vms": ["app"], "compression": bool(e % 2), "recovery": {"hosts": ["leeds-1"], "datastore": "san-2"}
                }
            },
            "run": {"until": f"{LASTS} s", "fidelity": ("slice", "write")[f % 4 == 3]},
            "tweaks": {"peer_timeout": "4 s"},
            "faults": _faults(*program[6:10]),
        }
    )  # fmt: skip


def _faults(which: int, when: int, lasts: int, how: int) -> list[dict[str, Any]]:
    span = {"at": f"{5 + when % 30} s", "lasts": f"{1 + lasts % 25} s"}
    match which % 6:
        case 1 | 2:
            return [{"kind": "link-down", "link": "wan", **span}]
        case 3:
            return [{"kind": "link-flapping", "link": "wan", "down": f"{1 + how % 9} s", "up": "3 s", **span}]
        case 4:
            return [{"kind": "vra-restart", "host": ("london-1", "leeds-1")[how % 2], **span}]
        case 5:
            return [{"kind": "datastore-full", "datastore": "san-2", **span}]
        case _:
            return []


class Counted(Direction):
    """A direction of a link beside which bytes are counted: those handed over, and those given up unsent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.handed = dict.fromkeys(self.sent, 0.0)
        self.unsent = dict.fromkeys(self.sent, 0.0)

    def carry(self, stream: Any, priority: str, nbytes: float, kind: str, deliver: Callable[[], None]) -> None:
        """Count and carry."""
        self.handed[kind] += nbytes
        super().carry(stream, priority, nbytes, kind, deliver)

    def drop(self, stream: Any = None) -> None:
        """Count what is given up, and give it up."""
        self._advance()
        for kind, nbytes in self.left(stream).items():
            self.unsent[kind] += nbytes
        super().drop(stream)

    def left(self, stream: Any = None) -> dict[str, float]:
        """Bytes that have not left yet, of one stream or of all."""
        left = dict.fromkeys(self.sent, 0.0)
        for id_, flow in self._flows.items():
            if stream is None or id_ == stream:
                for job in flow.jobs:
                    left[job.kind] += job.bits / 8
        return left


@dataclass(slots=True)
class Truth:
    """Beside a run: when checkpoints were taken and listed, and how much was acknowledged when they were taken."""

    taken: dict[CheckpointId, int] = field(default_factory=dict)
    acknowledged: dict[CheckpointId, int] = field(default_factory=dict)
    newest: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])  # since when, the newest's time


class Watch(TraceDigest):
    """A sink that keeps the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.truth = Truth()
        self.world: World | None = None

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """Add a step."""
        super().record(now, address, event, effects)
        truth, world = self.truth, self.world
        if world is None:
            return
        for effect in effects:
            match effect:
                case Send(_, Hold(_, checkpoint)) if checkpoint not in truth.taken:
                    truth.taken[checkpoint] = now
                    truth.acknowledged[checkpoint] = world.acknowledged(VPG).writes
                case Publish(CheckpointListed(_, checkpoint)):
                    held = world.included[VPG, checkpoint].writes
                    if held < truth.acknowledged[checkpoint]:
                        more = truth.acknowledged[checkpoint] - held
                        raise Violation(
                            "P6", f"{more} writes acknowledged before checkpoint {checkpoint} are not in it"
                        )
                    truth.newest.append((now, truth.taken[checkpoint]))
                case Publish(CheckpointsRetired(before=None)):
                    truth.newest.append((now, 0))


def play(program: bytes) -> Run:
    """Run the model of a program. Raises Violation when a figure is not the truth."""
    model, seed, watch = model_of(program), program[11], Watch()
    layout, recorder, until = Layout(model), Recorder(SECOND), model.run.until
    tapped, _ = taps(model, layout, seed)
    world = World(model, layout, tapped, recorder, seed=seed, trace=watch)
    rng, start = Streams(seed), clock_time(model.run.clock)
    links = {
        (name, end): Counted(world.clock, link, start_of_day=start, rng=rng.rng(f"link/{name}/{n}"))
        for name, link in model.links.items()
        for n, end in enumerate(link.between)
    }
    world.links.update(links)
    watch.world = world
    recorder.attach(world)
    Injector(world, recorder).schedule(model.faults)
    world.start()
    world.run_until(until)
    recorder.finish(until)
    run = Run(model, seed, until, layout, recorder, world, watch.hexdigest)
    wan(run, links)
    rpo(run, watch.truth)
    return run


def wan(run: Run, links: dict[tuple[str, str], Counted]) -> None:
    """P22: bytes on each link are those handed to it, less those that have not left and never will."""
    for (name, end), direction in links.items():
        other = run.model.links[name].between[run.model.links[name].between[0] == end]
        reported = run.recorder.samples[-1].wan[f"{name} {end}>{other}"]
        left = direction.left()
        for kind in ("data", "sync"):
            handed = direction.handed[kind]
            truth = handed - direction.unsent[kind] - left[kind]
            if abs(reported[kind] - truth) > 1e-3 + 1e-9 * handed:
                said = f"{name} from {end}: {reported[kind]:.0f} bytes of {kind} are reported, {truth:.0f} were sent"
                raise Violation("P22", said)


def rpo(run: Run, truth: Truth) -> None:
    """P6, P22: checkpoints are reported with the times at which they were taken, and the RPO counts from the newest."""
    record = run.record(VPG)
    _checkpoints(record, truth)
    teeth = run.teeth(VPG)
    for start, end, taken in zip(teeth.start.tolist(), teeth.end.tolist(), teeth.taken.tolist(), strict=True):
        _counts_from("over time", (start + end) // 2, taken, truth)
    changes = {since for since, _ in truth.newest}
    for sample in run.recorder.samples:
        if sample.time not in changes:
            _counts_from("as sampled", sample.time, sample.time - sample.rpo[VPG], truth)


def _checkpoints(record: VpgRecord, truth: Truth) -> None:
    for checkpoint, taken in zip(record.ids, record.taken, strict=True):
        real = truth.taken[CheckpointId(checkpoint)]
        if taken != real:
            prop = "P6" if taken > real else "P22"
            raise Violation(prop, f"checkpoint {checkpoint} is reported as of {taken}, it was taken at {real}")


def _counts_from(what: str, now: int, taken: int, truth: Truth) -> None:
    newest = 0
    for since, of in truth.newest:
        if since <= now:
            newest = of if of == 0 else max(newest, of)
    if taken != newest:
        prop = "P6" if taken > newest else "P22"
        raise Violation(prop, f"the RPO {what} counts from {taken} at {now}, the newest is of {newest}")
