"""`drsim study`: run a study on this machine or a cluster; a report that people act on."""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from drsim.core.errors import FileError
from drsim.files.merge import near
from drsim.files.yaml_tree import shown
from drsim.study import study_report as report
from drsim.study.design import FILE, called, read, shown_value
from drsim.study.output import MARK, refuse_foreign
from drsim.study.pool import cluster, processes
from drsim.study.sampling import RUNS, Results, Tell, sample
from drsim.study.saying import cell
from drsim.study.style import count, seconds

Option = typer.Option
ROOT = Path("experiments")


def study(
    name: Annotated[str, typer.Argument(help="A study's name in experiments/, or its folder.")],
    quick: Annotated[bool, Option("--quick", help="Fewer points and runs, as the study says.")] = False,
    workers: Annotated[int | None, Option(min=1, help="Processes; as many as there are cores.")] = None,
    scheduler: Annotated[str | None, Option(metavar="ADDRESS", help="A Dask scheduler, like tcp://HOST:8786.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on where an earlier try ended; needs --out.")] = False,
    out: Annotated[Path | None, Option(help="Folder for summary.json, runs.parquet and report.html.")] = None,
    json_: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run a what-if study: every combination of its factors, several times, with intervals and comparisons."""
    folder = find(name)
    here = processes(workers) if scheduler is None else None  # they prepare themselves while the study is read
    plan = read(folder, quick=quick)
    if resume and out is None:
        raise FileError("there is nothing to go on with", place="--resume", hint="name the --out of the earlier try")
    if out is not None and not (resume and (out / RUNS).exists()):
        refuse_foreign(out)
    command = shlex.join(["drsim", *sys.argv[1:]])
    with cluster(str(scheduler)) if here is None else nullcontext(here) as pool, _bar(shown=not json_) as tell:
        results = sample(plan, pool, kept=out, resume=resume, tell=tell)
    told = report.plain(results, command)
    if out is not None:
        _write(results, out, command)
    if json_:
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
    else:
        _print(results, out)
    if results.lost:
        raise typer.Exit(1)


def find(name: str) -> Path:
    """The folder of a study: a path, or a name in experiments/. Raises FileError."""
    for folder in (Path(name), ROOT / name):
        if (folder / FILE).is_file():
            return folder
    known = sorted(path.parent.name for path in ROOT.glob(f"*/{FILE}"))
    raise FileError(
        f"no study is called {name!r}{near(name, known)}", place=shown(ROOT), hint=f"a study is a folder with {FILE}"
    )


def _write(results: Results, out: Path, command: str) -> None:
    try:
        report.write_runs(results, out / "runs.parquet")
        (out / "report.html").write_text(report.page(results, command).render(), encoding="utf-8")
        told = json.dumps(report.plain(results, command), indent=2, allow_nan=False)
        (out / MARK).write_text(told + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write there: {error.strerror}", place=str(out), hint="choose another --out") from error


@contextmanager
def _bar(*, shown: bool) -> Iterator[Tell | None]:
    """Runs done and time left on a terminal, nothing when piped."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("runs", total=1, left="")

        def tell(done: int, known: int, left: float) -> None:
            text = f"{count(done)} of {count(known)} runs, {seconds(left)} left"
            progress.update(task, completed=done / known, left=text)

        yield tell


def _print(results: Results, out: Path | None) -> None:
    plan = results.plan
    console = Console()
    width = max(100, shutil.get_terminal_size().columns)
    console = console if console.is_terminal else Console(width=max(140, width))
    console.print(f"[bold]{plan.name}[/bold]  {plan.study.question}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for factor in plan.study.factors:
        table.add_column(called(factor))
    for name in plan.study.measures:
        table.add_column(name, justify="right")
    table.add_column("runs", justify="right")
    for n, point in enumerate(plan.points):
        cells = (cell(plan, name, results.interval(n, name)) for name in plan.study.measures)
        table.add_row(*(shown_value(v) for v in point.values.values()), *cells, str(len(results.runs[n])))
    console.print(table)
    console.print(report.answer(results), highlight=False)
    for at, seed in results.lost:
        console.print(f"missing: {plan.points[at].words}, seed {seed}: its worker died twice", highlight=False)
    if out is not None:
        console.print(f"report: {out / 'report.html'}", highlight=False)
