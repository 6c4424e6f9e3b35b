"""Runner: replications of a model, on this process or several, folded as they finish."""

from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd

from drsim.sim.fluid.run import FluidRun, simulate_fluid
from drsim.sim.run import Progress, Run, simulate
from drsim.spec.model import Model
from drsim.study.pool import context
from drsim.study.results import Replication, figures, frames


@dataclass(frozen=True, slots=True)
class Replications:
    """The first run itself, for pictures, and what is kept of all, in the order of their seeds."""

    first: Run | FluidRun
    parts: list[Replication]

    def figures(self) -> list[dict[str, Any]]:
        """The figures of all replications."""
        return [part.figures for part in self.parts]

    def frames(self) -> dict[str, pd.DataFrame]:
        """The frames of all replications, one below the other."""
        names = self.parts[0].frames
        return {name: pd.concat([p.frames[name] for p in self.parts], ignore_index=True) for name in names}


def play(model: Model, *, seed: int | None = None, progress: Progress | None = None) -> Run | FluidRun:
    """Run a model with the fidelity that it asks for. Raises DrsimError."""
    engine = simulate_fluid if model.run.fidelity == "fluid" else simulate
    return engine(model, seed=seed, progress=progress)


def _fold(run: Run | FluidRun, n: int) -> Replication:
    return Replication(run.seed, figures(run), frames(run, n))


def _one(model: Model, seed: int, n: int) -> Replication:
    return _fold(play(model, seed=seed), n)


def replicate(
    model: Model, count: int, *, progress: Progress | None = None, executor: Callable[[], Executor] | None = None
) -> Replications:
    """Run a model `count` times with seeds seed, seed + 1 ...: the first here, the others on the executor.

    `executor` makes any `concurrent.futures` executor; processes by default. Results do not depend on it.
    """
    seed = model.run.seed
    if count == 1:
        first = play(model, progress=progress)
        return Replications(first, [_fold(first, 0)])
    make = executor or (lambda: ProcessPoolExecutor(mp_context=context()))
    with make() as pool:
        futures = [pool.submit(_one, model, seed + n, n) for n in range(1, count)]
        try:
            first = play(model, progress=progress)
            return Replications(first, [_fold(first, 0), *(future.result() for future in futures)])
        except BaseException:
            for future in futures:
                future.cancel()
            raise
