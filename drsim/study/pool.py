"""Pool: tasks on any executor, each task's result or why there is none; a worker that dies costs its task only.

Processes come from a server that has imported what they need (`forkserver`), once for all of them and while the study
is still being read: else each would begin with a second or two of imports. Forking ourselves would take our threads'
locks along. Where there is no such server they start from nothing (`spawn`).
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_all_start_methods, get_context
from multiprocessing.context import BaseContext
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


def context() -> BaseContext:
    """How worker processes are started. What they need is being imported from now on."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    found = get_context("forkserver")
    found.set_forkserver_preload(["drsim.study.sampling", "drsim.study.size"])
    forkserver.ensure_running()
    return found


def processes(workers: int | None = None) -> Pool:
    """Processes of this machine; as many as there are cores."""
    count, started = workers or cpu_count() or 1, context()
    return Pool(lambda: ProcessPoolExecutor(count, mp_context=started), count)


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
    work: Callable[[Task], Result], tasks: Iterable[Task], pool: Pool
) -> Iterator[tuple[Task, Result | Died[Task]]]:
    """Each task with its result, as they end; what a task raises is raised. Tasks are asked for when they are due.

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
    work: Callable[[Task], Result], tasks: Iterable[Task], pool: Pool
) -> Generator[tuple[Task, Result], None, list[Task]]:
    left, suspects = iter(tasks), list[Task]()
    due = next(left, None)
    while due is not None:
        with pool.make() as executor:
            running: dict[Future[Result], Task] = {}
            try:
                while due is not None or running:
                    while due is not None and len(running) < pool.workers + 1:  # one waits, so that no worker does
                        running[executor.submit(work, due)] = due
                        due = next(left, None)
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
