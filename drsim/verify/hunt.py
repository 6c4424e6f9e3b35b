"""Hunt: the kinds of programs that look for violations, behind one interface.

A *hunter* turns a seed into a program (bytes) and plays it. The swarm, the shrinker, the tokens, the mutants and the
Hypothesis strategies know nothing else of it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from drsim.core.kernel import Sink
from drsim.core.trace import TraceDigest, text
from drsim.verify.epoch_programs import LENGTH as EPOCHS_LENGTH
from drsim.verify.epoch_programs import random_epochs, run_epochs, weighed_epochs
from drsim.verify.figures import LENGTH as FIGURES_LENGTH
from drsim.verify.figures import play as play_figures
from drsim.verify.figures import random_figures
from drsim.verify.probes import reached
from drsim.verify.program import HEAD, LENGTH, random_program, run, weighed
from drsim.verify.recovery_programs import LENGTH as RECOVERY_LENGTH
from drsim.verify.recovery_programs import random_recovery, rehearsal_of
from drsim.verify.reverse import LENGTH as REVERSE_LENGTH
from drsim.verify.reverse import random_reverse, run_reverse
from drsim.verify.store_programs import HEAD as STORE_HEAD
from drsim.verify.store_programs import LENGTH as STORE_LENGTH
from drsim.verify.store_programs import random_store_program, run_store_program
from drsim.verify.twins import run_twins
from drsim.verify.violation import Violation


@dataclass(frozen=True, slots=True)
class Played:
    """What a program did: events that a machine of the core handled, probes reached, coarse states (hashes)."""

    steps: int = 0
    probes: frozenset[str] = frozenset()
    states: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Hunter:
    """One kind of program. `length` in bytes; the first `head` are configuration, the rest `unit` an operation.

    `share` of a swarm's batches, which are of `batch` programs; `digest` plays a program and identifies its steps;
    `trace` tells them, where it is the core that takes them; `weighed` makes a program of random bytes.
    """

    name: str
    length: int
    head: int
    unit: int
    program: Callable[[int], bytes]
    play: Callable[[bytes], Played]
    digest: Callable[[bytes], str]
    share: int = 1
    batch: int = 50
    trace: Callable[[bytes, Sink], None] | None = None
    weighed: Callable[[bytes], bytes] = bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a program failed: the property (or "core" when the core itself raised), and what was seen."""

    prop: str
    message: str


def _explore(program: bytes) -> Played:
    x = run(program)
    return Played(x.kernel.steps, frozenset(x.probes | reached(x)), frozenset(x.states))


def _traced(run: Callable[..., object]) -> Callable[[bytes, Sink], None]:
    """Tells what the core does when `run` plays a program."""

    def trace(program: bytes, sink: Sink) -> None:
        with suppress(Exception):  # its steps up to there are what was asked for
            run(program, trace=sink)

    return trace


def _steps(trace: Callable[[bytes, Sink], None]) -> Callable[[bytes], str]:
    """Identifies the steps that a program is told to take."""

    def digest(program: bytes) -> str:
        sink = TraceDigest()
        trace(program, sink)
        return sink.hexdigest

    return digest


_trace, _trace_epochs, _trace_reverse = _traced(run), _traced(run_epochs), _traced(run_reverse)
_explored = _steps(_trace)


def _twins(program: bytes) -> Played:
    run_twins(program)
    return Played()


def _store(program: bytes) -> Played:
    return Played(probes=frozenset(map(str, run_store_program(program).probes)))


def _stored(program: bytes) -> str:
    return run_store_program(program).digest


def _figures(program: bytes) -> Played:
    play_figures(program)
    return Played()


def _figured(program: bytes) -> str:
    return play_figures(program).trace_digest


def _epochs(program: bytes) -> Played:
    x = run_epochs(program)
    return Played(x.kernel.steps, frozenset(x.probes | reached(x)), frozenset(x.states))


def _recovery(program: bytes) -> Played:
    rehearsal = rehearsal_of(program)
    report = rehearsal.play()
    return Played(rehearsal.performed, frozenset({f"{report.plan.kind}: {report.outcome}"}))


def _recovered(program: bytes) -> str:
    rehearsal = rehearsal_of(program)
    with suppress(Violation):
        rehearsal.play()
    return sha256(text(rehearsal.history).encode()).hexdigest()[:32]


def _reverse(program: bytes) -> Played:
    runs = run_reverse(program)
    steps = sum(x.kernel.steps for x in runs)
    return Played(steps, frozenset(name for x in runs for name in x.probes | reached(x)))


HUNTERS = {
    "explorer": Hunter(
        "explorer", LENGTH, HEAD, 3, random_program, _explore, _explored, share=12, batch=50, trace=_trace,
        weighed=weighed
    ),
    "twins": Hunter(
        "twins", LENGTH, HEAD, 3, random_program, _twins, _explored, share=1, batch=25, trace=_trace, weighed=weighed
    ),
    "figures": Hunter(
        "figures", FIGURES_LENGTH, FIGURES_LENGTH, 1, random_figures, _figures, _figured, share=1, batch=10
    ),
    "reverse": Hunter(
        "reverse", REVERSE_LENGTH, HEAD, 3, random_reverse, _reverse, _steps(_trace_reverse), share=1, batch=25,
        trace=_trace_reverse, weighed=weighed
    ),
    "epochs": Hunter(
        "epochs", EPOCHS_LENGTH, HEAD, 3, random_epochs, _epochs, _steps(_trace_epochs), share=1, batch=50,
        trace=_trace_epochs, weighed=weighed_epochs
    ),
    "recovery": Hunter(
        "recovery", RECOVERY_LENGTH, RECOVERY_LENGTH, 1, random_recovery, _recovery, _recovered, share=1, batch=50
    ),
    "store": Hunter(
        "store", STORE_LENGTH, STORE_HEAD, 3, random_store_program, _store, _stored, share=1, batch=25
    ),
}  # fmt: skip


def watch(hunter: Hunter, program: bytes) -> tuple[Verdict | None, Played]:
    """Play a program: why it failed, or None, and what it did."""
    try:
        return None, hunter.play(program)
    except Violation as violation:
        return Verdict(violation.prop, violation.message), Played()
    except Exception as error:  # whatever the core raises is a finding
        return Verdict("core", f"{type(error).__name__}: {error}"), Played()


def judge(hunter: Hunter, program: bytes) -> Verdict | None:
    """Play a program: why it failed, or None."""
    return watch(hunter, program)[0]
