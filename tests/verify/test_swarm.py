"""A swarm plays the programs that it was asked for, the same ones however they are spread, and says what it saw."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drsim.core.errors import PlatformError
from drsim.verify import swarm as swarms
from drsim.verify.hunt import HUNTERS, Hunter, Played, Verdict, judge
from drsim.verify.mutants import BY_NAME
from drsim.verify.program import random_program, run
from drsim.verify.swarm import SHARES, Found, Tally, batches, operations, play_batch, swarm
from drsim.verify.token import decode
from drsim.verify.violation import Violation


class AtOnce(Executor):
    """Does everything in this process when it is asked for; `instead` may do something else first."""

    def __init__(self, instead: Callable[[int], None] = lambda _: None) -> None:
        self.asked: list[tuple[str, int, int, bool]] = []
        self.instead = instead

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.instead(len(self.asked))
        self.asked.append((*args, kwargs["count"], kwargs["twice"]))
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def toy(name: str, *, fails: Callable[[int], str] = lambda n: "", batch: int = 5, share: int = 1) -> Hunter:
    """Programs that are their own number in four bytes. `fails` names the property that a number violates, if any."""

    def play(program: bytes) -> Played:
        n = int.from_bytes(program[:4], "big")
        if prop := fails(n):
            raise Violation(prop, f"program {n}")
        return Played(3, frozenset({f"last digit {n % 10}"}), frozenset({n % 7}))

    return Hunter(name, 4, 4, 1, lambda n: n.to_bytes(4, "big"), play, bytes.hex, share=share, batch=batch)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts other kinds of programs in place of drsim's."""

    def put(*hunters: Hunter) -> None:
        kinds = {h.name: h for h in hunters}
        monkeypatch.setattr(swarms, "HUNTERS", kinds)
        monkeypatch.setattr(swarms, "SHARES", {name: h.share for name, h in kinds.items()})
        monkeypatch.setattr(swarms, "_elsewhere", lambda kind, seed, count: Tally(replayed=count))
        monkeypatch.setattr(swarms, "_no_collection", nullcontext)  # looking through pytest's memory is slow

    return put


# -- which programs ---------------------------------------------------------------------------------------------------


def test_kinds_get_their_shares_of_the_batches() -> None:
    whole = sum(SHARES.values())
    assert Counter(kind for kind, _ in islice(batches(0), 4 * whole)) == {k: 4 * n for k, n in SHARES.items()}
    assert max(SHARES, key=lambda kind: SHARES[kind]) == "explorer"


def test_no_seed_is_played_twice_and_none_is_left_out() -> None:
    """What two processes need not agree on, because the numbers are given out here."""
    first: dict[str, int] = dict.fromkeys(HUNTERS, 1000)
    for kind, seed in islice(batches(1000), 100):
        assert seed == first[kind]
        first[kind] += HUNTERS[kind].batch


def test_as_many_programs_as_were_asked_for(toys: Callable[..., None]) -> None:
    toys(toy("a", share=3), toy("b", batch=4))
    tally = swarm(AtOnce(), workers=2, programs=33)
    assert (tally.programs, tally.steps) == (33, 99)
    assert tally.kinds.total() == 33
    assert tally.kinds["a"] > 2 * tally.kinds["b"] > 0
    assert tally.states == set(range(7))
    assert tally.probes.total() == 33


def test_as_long_as_was_asked_for(toys: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    toys(toy("a"))
    clock = iter(range(1000))
    monkeypatch.setattr(swarms, "time", SimpleNamespace(monotonic=lambda: next(clock), process_time=lambda: 0.0))
    seen: list[int] = []
    tally = swarm(AtOnce(), workers=1, seconds=20, progress=lambda t: seen.append(t.programs))
    assert 10 < tally.programs < 200
    assert seen == sorted(seen)
    assert seen[-1] == tally.programs


def test_the_same_programs_on_any_executor() -> None:
    def figures(tally: Tally) -> tuple[Any, ...]:
        return tally.programs, tally.steps, tally.kinds, tally.probes, tally.states, tally.found

    here = swarm(AtOnce(), workers=1, programs=60, seed=40)
    with ThreadPoolExecutor(3) as pool:
        there = swarm(pool, workers=3, programs=60, seed=40)
    assert figures(here) == figures(there)
    assert here.steps == sum(run(random_program(n)).kernel.steps for n in range(40, 100))
    assert len(here.states) > 200
    assert not here.found
    assert figures(swarm(AtOnce(), workers=1, programs=60, seed=41))[1] != here.steps


def test_each_kind_is_played_elsewhere_now_and_then(toys: Callable[..., None]) -> None:
    """About one program in twenty, and within the first minute some of each kind (P27)."""
    toys(*(toy(kind, share=hunter.share) for kind, hunter in HUNTERS.items()))
    pool = AtOnce()
    tally = swarm(pool, workers=1, programs=5 * 17 * sum(SHARES.values()))
    again = [kind for kind, _, _, twice in pool.asked if twice]
    assert {kind for kind, _, _, twice in pool.asked[: sum(SHARES.values())] if twice} == set(HUNTERS)
    assert Counter(again) == SHARES
    assert 0.04 < tally.replayed / tally.programs < 0.07


def test_states_are_the_same_in_another_process() -> None:
    """They are counted over processes, so their names must not depend on hashes."""
    code = "from drsim.verify.program import *\n"
    code += "for n in range(5): print(*sorted(run(random_program(n)).states))"
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    here = [state for n in range(5) for state in sorted(run(random_program(n)).states)]
    assert [int(word) for word in there.split()] == here
    assert len(set(here)) > 10


# -- what fails -------------------------------------------------------------------------------------------------------


def test_a_failure_ends_it_and_is_told_once(toys: Callable[..., None]) -> None:
    toys(toy("explorer", fails=lambda n: {57: "P3", 58: "P5", 59: "P3"}.get(n, "")))
    pool = AtOnce()
    tally = swarm(pool, workers=1, seconds=600)
    assert [(f.verdict.prop, f.seed) for f in tally.found] == [("P3", 57), ("P5", 58)]
    assert tally.programs < 70, "what was handed out is played to its end, and no more"


def test_tallies_add_up_and_keep_the_first_of_each_failure() -> None:
    def found(prop: str, seed: int, kind: str = "explorer") -> Found:
        return Found(Verdict(prop, ""), kind, seed, "", 0)

    whole = Tally(2, 20, 0.5, Counter(a=2), Counter(p=1), {1}, [found("P1", 1)], 0)
    whole += Tally(3, 30, 0.25, Counter(a=1, b=2), Counter(p=1, q=1), {1, 2}, [found("P1", 9), found("P2", 9)], 3)
    whole += Tally(found=[found("P1", 3, "store")], interrupted=True)
    assert (whole.programs, whole.steps, whole.seconds, whole.replayed) == (5, 50, 0.75, 3)
    assert (whole.kinds, whole.probes, whole.states) == (Counter(a=3, b=2), Counter(p=2, q=1), {1, 2})
    assert [(f.verdict.prop, f.seed) for f in whole.found] == [("P1", 1), ("P2", 9), ("P1", 3)]
    assert whole.interrupted


def test_a_planted_mistake_is_found_shrunk_and_can_be_played_again() -> None:
    mutant = BY_NAME["sealed-without-confirmation"]  # which the first batch finds: others play in processes without it
    with mutant.patch():
        tally = swarm(AtOnce(), workers=1, seconds=600)
        found = next(f for f in tally.found if f.verdict.prop in mutant.properties)
        token = decode(found.token)
        assert judge(HUNTERS[token.kind], token.program) == found.verdict
    assert judge(HUNTERS[token.kind], token.program) is None
    assert operations(token.kind, token.program) == found.operations <= 20


def test_what_the_core_raises_is_a_failure_too(toys: Callable[..., None]) -> None:
    def broken(program: bytes) -> Played:
        raise IndexError("no such row")

    toys(replace(toy("explorer"), play=broken))
    (found,) = swarm(AtOnce(), workers=1, programs=5).found
    assert found.verdict == Verdict("core", "IndexError: no such row")


# -- in another process -----------------------------------------------------------------------------------------------


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Every interpreter that is started from here begins with this code."""
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_batch_is_played_again_with_another_hash_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "seed"
    code = f"import os; open({str(note)!r}, 'w').write(os.environ['PYTHONHASHSEED'] + ' ' + str(hash('a')))"
    elsewhere(tmp_path, monkeypatch, code)
    tally = play_batch("explorer", 3, count=2, twice=True)
    assert (tally.programs, tally.replayed, tally.found) == (2, 2, [])
    assert note.read_text().split()[0] == "4"
    assert note.read_text().split()[1] != str(hash("a"))


def test_a_program_that_takes_other_steps_there_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import random; real = random.Random.randbytes; random.Random.randbytes = lambda s, n: bytes(n)"
    elsewhere(tmp_path, monkeypatch, code)
    (found,) = play_batch("explorer", 3, count=2, twice=True).found
    assert (found.verdict.prop, found.seed, found.operations) == ("P27", 3, 120)
    assert decode(found.token).program == random_program(3)


def test_an_interpreter_that_ends_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, monkeypatch, "import sys; print('the disk is full', file=sys.stderr); sys.exit(3)")
    with pytest.raises(PlatformError) as error:
        play_batch("explorer", 3, count=1, twice=True)
    assert "the disk is full" in error.value.hint


# -- what ends it -----------------------------------------------------------------------------------------------------


def test_an_interrupt_leaves_what_was_done(toys: Callable[..., None]) -> None:
    def interrupt(asked: int) -> None:
        if asked == 6:
            raise KeyboardInterrupt

    toys(toy("a"))
    tally = swarm(AtOnce(interrupt), workers=2, seconds=600)
    assert tally.interrupted
    assert tally.programs == 20, "four batches came back before the fifth and the sixth were handed out"


def test_a_dead_worker_is_told(toys: Callable[..., None]) -> None:
    def die(asked: int) -> None:
        raise BrokenExecutor

    toys(toy("a"))
    with pytest.raises(PlatformError, match="worker has died"):
        swarm(AtOnce(die), workers=1, programs=5)
