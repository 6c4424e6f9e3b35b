"""Worst: the disaster instant, and the times of a model's faults, that lose most.

One run tells what a disaster would lose at every instant of it, exactly: the loss is largest just before a checkpoint
is listed (`VpgRecord`). So an evaluation is a run, and the search is over when faults happen: a fault is moved to a
random time, or to where another one begins or ends, because what hurts is what comes before the recovery from something
else is over. Every few evaluations begin anew with all faults one behind the other in some order, so that one good
corner does not hide another; the best of all is kept.

`at_random` spends the same budget as somebody would by hand: random times, and one disaster at a random instant of each
run.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from drsim.sim.run import Run, simulate
from drsim.spec.model import Model

Measure = Literal["seconds", "writes", "bytes"]
ANEW = 8  # of so many evaluations one begins anew
SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Worst:
    """A disaster: which VPG loses how much (ns, writes or bytes) at which instant (ns), with faults at these times."""

    loss: int
    vpg: str
    at: int
    faults: tuple[int, ...]


def _lost(run: Run, measure: Measure) -> Iterator[tuple[int, str, int]]:
    """What a disaster just before each listing would lose: how much, of which VPG, when."""
    for vpg in run.layout.vpgs:
        record, teeth = run.record(vpg.name), run.teeth(vpg.name)
        if measure == "seconds":
            rows = zip(teeth.high.tolist(), teeth.end.tolist(), strict=True)
        else:
            column = record.lost_writes if measure == "writes" else record.lost_bytes
            last = record.loss.writes if measure == "writes" else record.loss.nbytes
            rows = zip([*column, last], [*record.listed, run.observed(vpg.name)], strict=True)
        yield from ((int(loss), vpg.name, int(at)) for loss, at in rows)


def moved(model: Model, times: tuple[int, ...]) -> Model:
    """The model with its faults at these times."""
    faults = tuple(fault.model_copy(update={"at": at}) for fault, at in zip(model.faults, times, strict=True))
    return model.model_copy(update={"faults": faults})


def evaluate(model: Model, times: tuple[int, ...], measure: Measure) -> Worst:
    """The worst instant of one run."""
    loss, vpg, at = max(_lost(simulate(moved(model, times)), measure))
    return Worst(loss, vpg, at, times)


def search(
    model: Model, budget: int, *, measure: Measure = "seconds", seed: int = 1,
    progress: Callable[[int, Worst], None] | None = None,
) -> Worst:  # fmt: skip
    """The worst that `budget` runs find; the first is the model as it is."""
    rng, given = random.Random(seed), tuple(fault.at for fault in model.faults)
    best = here = evaluate(model, given, measure)
    chains = _chains(model, rng)
    for n in range(1, budget if given else 1):
        if n % ANEW == 1:
            here = evaluate(model, next(chains), measure)
        else:
            found = evaluate(model, _beside(model, here.faults, rng), measure)
            here = max(here, found, key=lambda worst: worst.loss)
        best = max(best, here, key=lambda worst: worst.loss)
        if progress is not None:
            progress(n, best)
    return best


def at_random(model: Model, budget: int, *, measure: Measure = "seconds", seed: int = 1) -> Worst:
    """The worst of `budget` runs with random times and one random instant each."""
    rng, best = random.Random(seed), Worst(-1, "", 0, ())
    for _ in range(budget):
        times, instant = _anywhere(model, rng), rng.randrange(model.run.until)
        run = simulate(moved(model, times))
        for vpg in run.layout.vpgs:
            rows = [row for row in _lost(run, measure) if row[1] == vpg.name]
            loss, _, listed = next((row for row in rows if row[2] >= instant), rows[-1])
            if measure == "seconds":
                loss -= max(0, listed - instant)
            best = max(best, Worst(loss, vpg.name, instant, times), key=lambda worst: worst.loss)
    return best


def _chains(model: Model, rng: random.Random) -> Iterator[tuple[int, ...]]:
    """All faults one behind the other, each beginning as the one before ends: longest last, then in any order."""
    order = sorted(range(len(model.faults)), key=lambda n: _lasts(model, n))
    while True:
        at, times = model.run.until // 4, dict[int, int]()
        for n in order:
            times[n] = _within(model, n, at)
            at = times[n] + _lasts(model, n)
        yield tuple(times[n] for n in range(len(model.faults)))
        rng.shuffle(order)


def _anywhere(model: Model, rng: random.Random) -> tuple[int, ...]:
    return tuple(_within(model, n, rng.randrange(model.run.until)) for n in range(len(model.faults)))


def _beside(model: Model, times: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    """One fault elsewhere: a little off, or where another one begins or ends."""
    n = rng.randrange(len(times))
    others = [k for k in range(len(times)) if k != n]
    if others and rng.random() < 0.7:
        k = rng.choice(others)
        ends = times[k] + getattr(model.faults[k], "lasts", 0)
        at = rng.choice((times[k], ends, ends + rng.randrange(1, 60) * SECOND, times[k] - _lasts(model, n)))
    else:
        at = times[n] + int(rng.gauss(0, model.run.until / 20))
    return (*times[:n], _within(model, n, at), *times[n + 1 :])


def _lasts(model: Model, n: int) -> int:
    return int(getattr(model.faults[n], "lasts", 0))


def _within(model: Model, n: int, at: int) -> int:
    """A time at which the fault still comes about, and is over before the end if it can be."""
    return max(0, min(at, model.run.until - min(_lasts(model, n), model.run.until // 2) - SECOND))
