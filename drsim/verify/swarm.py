"""Swarm: many programs, each of another estate with other faults left out, on any executor.

Programs are numbered by seeds: seed n of a kind is the same program everywhere, so a swarm can be repeated and
spread over processes or machines, and what it finds is independent of both. Seeds are handed out in batches; a batch
comes back as a `Tally`, and tallies add up.

One batch in seventeen of each kind is played again by an interpreter with another hash seed, and must give the same
digests (P27); which one is such that each kind has its turn in the first round of shares.
"""

import gc
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from drsim.core.errors import PlatformError
from drsim.verify.hunt import HUNTERS, Hunter, Verdict, judge, watch
from drsim.verify.shrink import shrink
from drsim.verify.token import Token

TWICE = 17  # of each kind, every so many batches one is played again elsewhere
SHARES = {name: hunter.share for name, hunter in HUNTERS.items()}


@dataclass(slots=True)
class Found:
    """A program that failed: why, its seed, and a token; `operations` is how many are left after shrinking."""

    verdict: Verdict
    kind: str
    seed: int
    token: str
    operations: int


@dataclass(slots=True)
class Tally:
    """What some programs did. `steps` are events that a machine of the core handled; `seconds` on one core each."""

    programs: int = 0
    steps: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    states: set[int] = field(default_factory=set)
    found: list[Found] = field(default_factory=list)
    replayed: int = 0
    interrupted: bool = False

    def __iadd__(self, other: "Tally") -> "Tally":
        self.programs += other.programs
        self.steps += other.steps
        self.seconds += other.seconds
        self.kinds += other.kinds
        self.probes += other.probes
        self.states |= other.states
        known = {(f.kind, f.verdict.prop) for f in self.found}
        self.found += [f for f in other.found if (f.kind, f.verdict.prop) not in known]
        self.replayed += other.replayed
        self.interrupted |= other.interrupted
        return self


def batches(seed: int) -> Iterator[tuple[str, int]]:
    """Kinds and first seeds of batches without end: kinds in proportion to their shares of the time."""
    next_seed = dict.fromkeys(SHARES, seed)
    debt = dict.fromkeys(SHARES, 0)
    while True:
        for kind, share in SHARES.items():
            debt[kind] += share
        kind = max(debt, key=lambda k: debt[k])
        debt[kind] -= sum(SHARES.values())
        yield kind, next_seed[kind]
        next_seed[kind] += HUNTERS[kind].batch


def play_batch(kind: str, seed: int, *, count: int | None = None, twice: bool = False) -> Tally:
    """Play the programs of some seeds. The first failure of each property is shrunk."""
    hunter, tally = HUNTERS[kind], Tally()
    count = hunter.batch if count is None else count
    with _no_collection():
        _play(hunter, range(seed, seed + count), tally)
    if twice and not tally.found:
        tally += _elsewhere(kind, seed, count)
    return tally


@contextmanager
def _no_collection() -> Iterator[None]:
    """A program is over long before looking for cycles in it would pay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.collect()


def _play(hunter: Hunter, seeds: Iterable[int], tally: Tally) -> None:
    for n in seeds:
        program = hunter.program(n)
        began = time.process_time()
        verdict, played = watch(hunter, program)
        if played.steps:
            tally.seconds += time.process_time() - began
        tally.programs += 1
        tally.kinds[hunter.name] += 1
        tally.steps += played.steps
        tally.probes.update(played.probes)
        tally.states |= played.states
        if verdict is not None and verdict.prop not in {f.verdict.prop for f in tally.found}:
            tally.found.append(report(hunter.name, n, program, verdict))


def operations(kind: str, program: bytes) -> int:
    """How many operations a program has."""
    return (len(program) - HUNTERS[kind].head) // HUNTERS[kind].unit


def report(kind: str, seed: int, program: bytes, verdict: Verdict) -> Found:
    """A failure, shrunk."""
    hunter = HUNTERS[kind]
    small = shrink(hunter, program, verdict.prop)
    verdict = judge(hunter, small) or verdict
    return Found(verdict, kind, seed, str(Token(kind, small)), operations(kind, small))


def _elsewhere(kind: str, seed: int, count: int) -> Tally:
    """The same programs in another process with another hash seed."""
    here = [HUNTERS[kind].digest(HUNTERS[kind].program(n)) for n in range(seed, seed + count)]
    code = (
        f"from drsim.verify.hunt import HUNTERS; h = HUNTERS[{kind!r}]; "
        f"print(*(h.digest(h.program(n)) for n in range({seed}, {seed + count})))"
    )
    env = {**os.environ, "PYTHONHASHSEED": str(seed % 4294967295 + 1)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    there = done.stdout.split()
    tally = Tally(replayed=count)
    for n, (a, b) in enumerate(zip(here, there, strict=False)):
        if a != b:
            program = HUNTERS[kind].program(seed + n)
            verdict = Verdict("P27", "played again with another hash seed, the program took other steps")
            tally.found.append(Found(verdict, kind, seed + n, str(Token(kind, program)), operations(kind, program)))
            break
    if len(there) != count:
        raise PlatformError("a program could not be played in another process", hint=done.stderr.strip()[-400:])
    return tally


def swarm(
    executor: Executor, *, workers: int, seed: int = 0, seconds: float | None = None, programs: int | None = None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:  # fmt: skip
    """Play programs for some seconds, or that many, or until one of them fails. Returns what was done.

    An interrupt ends it early; the tally says so. Raises PlatformError when a worker dies.
    """
    tally, began = Tally(), time.monotonic()
    source, handed, rounds = batches(seed), 0, Counter[str]()
    running: set[Future[Tally]] = set()

    def wanted() -> bool:
        if tally.found or (seconds is not None and time.monotonic() - began >= seconds):
            return False
        return programs is None or handed < programs

    try:
        while running or wanted():
            while wanted() and len(running) < 2 * workers:
                kind, first = next(source)
                count = HUNTERS[kind].batch if programs is None else min(HUNTERS[kind].batch, programs - handed)
                rounds[kind] += 1
                twice = rounds[kind] % TWICE == SHARES[kind] % TWICE
                running.add(executor.submit(play_batch, kind, first, count=count, twice=twice))
                handed += count
            done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                tally += future.result()
            progress(tally)
            if not wanted() and seconds is not None:
                for future in running:
                    future.cancel()
                running = {f for f in running if not f.cancelled()}
    except BrokenExecutor as error:
        raise PlatformError("a worker has died", hint="is there memory for that many? see --workers") from error
    except KeyboardInterrupt:
        tally.interrupted = True
        for future in running:
            future.cancel()
    return tally
