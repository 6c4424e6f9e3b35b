"""Kill: play programs while a mistake is planted, until a property that must see it fails.

Only a `Violation` of one of the mutant's own properties counts. An assertion, an error of the core or another
property may come first on some program; then the next one is played. The verdict is taken with assertions off, in a
process of its own, so that no assertion in the core can take the work from the checkers. The time is that of the
process on one core: a machine that is busy with other work lets no mutant live.

    python -O -m drsim.verify.mutants.kill [--seconds S] [--seed N] [NAME ...]

prints one JSON object a line for each mutant; without names it reads them from standard input, line by line.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import IO

from drsim.core.errors import FileError, PlatformError
from drsim.verify.hunt import HUNTERS
from drsim.verify.mutants import BY_NAME
from drsim.verify.mutants.base import Mutant
from drsim.verify.token import Token
from drsim.verify.violation import Violation

SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Kill:
    """What became of a mutant. `programs` is how many were played, the last of which is `token`.

    `prop` and `message` are what killed it, `also` what was seen first if that was something else; `asserted` says
    whether assertions were on.
    """

    mutant: str
    killed: bool
    prop: str
    message: str
    also: str
    programs: int
    seconds: float
    token: str
    asserted: bool


def kill(mutant: Mutant, *, seconds: float = SECONDS, seed: int = 0) -> Kill:
    """Play programs of the mutant's hunter, from `seed` on, until it is killed or the time (CPU seconds) is over."""
    hunter, began, also, played = HUNTERS[mutant.hunter], time.process_time(), "", 0
    with mutant.patch():
        while True:
            program = hunter.program(seed + played)
            played += 1
            seen: Exception | None = None
            try:
                hunter.play(program)
            except Exception as error:  # the mutant may break the core in other ways, on other programs
                seen = error
            spent = time.process_time() - began
            if isinstance(seen, Violation) and seen.prop in mutant.properties:
                token = str(Token(hunter.name, program))
                return Kill(mutant.name, True, seen.prop, seen.message, also, played, spent, token, asserted=__debug__)
            if seen is not None and not also:
                also = f"{type(seen).__name__}: {seen}"
            if spent >= seconds:
                return Kill(mutant.name, False, "", "", also, played, spent, "", asserted=__debug__)


class _Process:
    """An interpreter without assertions that kills one mutant after another."""

    def __init__(self, seconds: float, seed: int) -> None:
        command = [sys.executable, "-O", "-m", "drsim.verify.mutants.kill", f"--seconds={seconds}", f"--seed={seed}"]
        pipe = subprocess.PIPE
        env = {**os.environ, "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env)

    def kill(self, name: str) -> Kill:
        """Raises PlatformError when the process ends."""
        self._pipe(self._process.stdin).write(f"{name}\n")
        self._pipe(self._process.stdin).flush()
        line = self._pipe(self._process.stdout).readline()
        if not line:
            hint = self._pipe(self._process.stderr).read().strip()[-400:]
            raise PlatformError(f"the process that played mutant {name} has ended", hint=hint)
        return Kill(**json.loads(line))

    def close(self) -> None:
        """Let it end."""
        self._process.kill()
        self._process.communicate()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise PlatformError("a process without pipes")
        return pipe


def kill_apart(
    mutants: Sequence[Mutant], *, seconds: float = SECONDS, seed: int = 0, workers: int = 1
) -> Iterator[Kill]:
    """Kill each mutant in processes without assertions, several at a time; in the order in which they are done."""
    names: SimpleQueue[str] = SimpleQueue()
    for mutant in mutants:
        names.put(mutant.name)
    done: SimpleQueue[Kill] = SimpleQueue()

    def work() -> None:
        process = _Process(seconds, seed)
        try:
            while True:
                done.put(process.kill(names.get_nowait()))
        except Empty:
            pass
        finally:
            process.close()

    with ThreadPoolExecutor(max(1, min(workers, len(mutants)))) as pool:
        futures = [pool.submit(work) for _ in range(max(1, min(workers, len(mutants))))]
        told = 0
        while told < len(mutants):
            try:
                yield done.get(timeout=0.2)
                told += 1
            except Empty:
                for future in [f for f in futures if f.done()]:
                    future.result()
        for future in as_completed(futures):
            future.result()


def named(names: Sequence[str]) -> tuple[Mutant, ...]:
    """Mutants by name or number; all when none is named. Raises FileError for one that is not there."""
    if not names:
        return tuple(BY_NAME.values())
    found = []
    for name in names:
        mine = [m for m in BY_NAME.values() if name in (m.name, *m.numbers)]
        if not mine:
            raise FileError(f"there is no mutant {name!r}", hint="`drsim mutants` shows their names and numbers")
        found += mine
    return tuple(dict.fromkeys(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """The process above."""
    parser = argparse.ArgumentParser(prog="drsim.verify.mutants.kill")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in options.names or map(str.strip, sys.stdin):
        done = kill(BY_NAME[name], seconds=options.seconds, seed=options.seed)
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
