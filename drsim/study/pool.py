"""Pool: tasks on any executor, each task's result or why there is none; a worker that dies costs its task only."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from os import cpu_count
from typing import Any, Generic, TypeVar

from drsim.core.errors import FileError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Died(Generic[Task]):
    """A task whose worker died twice."""

    task: Task


@dataclass(frozen=True, slots=True)
class Pool:
    """How to get workers: what makes an executor of so many, and what is raised when one of them has died."""

    make: Callable[[], Executor]
    workers: int
    died: tuple[type[BaseException], ...] = (BrokenExecutor,)


def processes(workers: int | None = None) -> Pool:
    """Processes of this machine; as many as there are cores."""
    count = workers or cpu_count() or 1
    return Pool(lambda: ProcessPoolExecutor(count, mp_context=get_context("spawn")), count)


@contextmanager
def cluster(address: str) -> Iterator[Pool]:
    """The workers of a Dask cluster. Raises FileError when Dask is not installed or no scheduler answers."""
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise FileError(
            "a cluster needs Dask, which is not installed", place="--scheduler",
            hint="pip install 'drsim[cluster]', or leave --scheduler out for processes of this machine",
        ) from error  # fmt: skip
    connect: Callable[..., Any] = Client
    try:
        client = connect(address, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise FileError(
            f"no Dask scheduler answers at {address}", place="--scheduler",
            hint="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
        ) from error  # fmt: skip
    with client:
        count = len(client.scheduler_info()["workers"])
        if not count:
            raise FileError(
                f"the Dask scheduler at {address} has no workers", place="--scheduler",
                hint=f"start some with `dask worker {address}`",
            )  # fmt: skip
        yield Pool(client.get_executor, count, (BrokenExecutor, KilledWorker))


def run(
    work: Callable[[Task], Result], tasks: Sequence[Task], pool: Pool
) -> Iterator[tuple[Task, Result | Died[Task]]]:
    """Each task with its result, as they end; what a task raises is raised.

    Tasks that were under way when a worker died are tried once more, each with a worker of its own.
    """
    suspects = yield from _together(work, tasks, pool)
    for task in suspects:
        with pool.make() as executor:
            try:
                result: Result | Died[Task] = executor.submit(work, task).result()
            except pool.died:
                result = Died(task)
        yield task, result


def _together(
    work: Callable[[Task], Result], tasks: Sequence[Task], pool: Pool
) -> Generator[tuple[Task, Result], None, list[Task]]:
    left, suspects = list(tasks), list[Task]()
    while left:
        with pool.make() as executor:
            running: dict[Future[Result], Task] = {}
            try:
                while left or running:
                    while left and len(running) < pool.workers + 1:  # one waits, so that no worker does
                        future = executor.submit(work, left[0])
                        running[future] = left.pop(0)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except pool.died:
                suspects += running.values()
            except BaseException:
                for future in running:
                    future.cancel()
                raise
    return suspects
