"""`drsim run`: simulate a model; print the figures, write tables and a report."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from drsim.core.errors import FileError
from drsim.files.models import load_model
from drsim.files.traces import read_trace
from drsim.sim.fluid.run import FluidRun
from drsim.sim.run import Progress as Tell
from drsim.spec.model import Model
from drsim.spec.workload import Trace, TraceFormat
from drsim.study import fluid
from drsim.study.operation import answer
from drsim.study.output import folder, refuse_foreign, write_tables
from drsim.study.report import answer as words
from drsim.study.report import write_report
from drsim.study.results import summarise
from drsim.study.runner import replicate
from drsim.study.style import percent, rate, seconds, size

Option = typer.Option
FORMATS = ", ".join(get_args(TraceFormat))
COLUMNS = (
    "VPG", "RPO p50", "p95", "max", "worst loss", "journal", "history", "SLA missed",
)  # fmt: skip


def run(
    model: Annotated[str, typer.Argument(help="A model file, or the name of a shipped one (two-site ...).")],
    trace: Annotated[Path | None, Option(help="Replay this block trace on every VM, spread over its length.")] = None,
    format_: Annotated[
        str | None,
        Option("--format", metavar="FORMAT", help=f"The trace's format, if its content does not tell: {FORMATS}."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="PATH=VALUE", help="Change a value: links.wan.bandwidth='20 Mbit/s'."),
    ] = None,
    fidelity: Annotated[
        str | None, Option(help="write: one event a write. slice: columns, for days. fluid: rates, for months.")
    ] = None,
    seed: Annotated[int | None, Option(min=0, help="Seed of all random streams.")] = None,
    until: Annotated[str | None, Option(help="Simulated time, like 6h.")] = None,
    replications: Annotated[int, Option(min=1, max=10_000, help="Runs with seeds SEED, SEED+1 ...")] = 1,
    out: Annotated[Path | None, Option(help="Folder for summary.json, Parquet tables and report.html.")] = None,
    json_: Annotated[bool, Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Simulate a model: RPO, journals, WAN, states and losses, with pictures and a report."""
    overrides = list(set_ or [])
    for name, value in (("fidelity", fidelity), ("seed", seed), ("until", until)):
        if value is not None:
            overrides.append(f"run.{name}={value}")
    spec = load_model(model, overrides=overrides)
    if trace is not None:
        spec = with_trace(spec, trace, format_)
    if out is not None:
        refuse_foreign(out)
    with _bar(shown=not json_) as tell:
        done = replicate(spec, replications, progress=tell)
    name = Path(model).stem if model.endswith((".yaml", ".yml")) else model
    command = shlex.join(["drsim", *sys.argv[1:]])
    first = done.first
    digest = "" if isinstance(first, FluidRun) else first.trace_digest
    summary = summarise(spec, name, done.figures(), trace_digest=digest, command=command)
    if out is not None:
        with folder(out) as where:
            write_tables(where, summary, done.frames())
            if isinstance(first, FluidRun):
                fluid.write_report(where / "report.html", first, summary, words(summary))
            else:
                write_report(where / "report.html", first, summary)
    if json_:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        _print(summary, out)


def with_trace(spec: Model, path: Path, format_: str | None = None) -> Model:
    """The model with every VM replaying a trace, the VMs spread evenly over the trace's length."""
    if not path.exists():
        raise FileError("no such trace", place=str(path), hint="give a block trace, for instance .vscsi or .csv")
    if format_ not in (None, *get_args(TraceFormat)):
        raise FileError(f"no trace format is called {format_!r}", place="--format", hint=f"one of {FORMATS}")
    format_ = cast(TraceFormat | None, format_)
    count = sum(vm.count for vm in spec.vms.values())
    stagger = read_trace(path, format=format_).duration // count
    workload = Trace(path=str(path), format=format_, stagger=stagger)
    vms = {name: vm.model_copy(update={"workload": workload}) for name, vm in spec.vms.items()}
    return spec.model_copy(update={"vms": vms})


@contextmanager
def _bar(*, shown: bool) -> Iterator[Tell | None]:
    """A progress bar on a terminal, nothing when piped."""
    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=1)
        yield lambda now, end: progress.update(task, completed=now / end)


def _print(summary: dict[str, Any], out: Path | None) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    run_ = summary["run"]
    console.print(
        f"{summary['model']['name']}: {seconds(run_['until_s'])} simulated, seed {run_['seed']}, "
        f"{run_['replications']} replication{'s' if run_['replications'] > 1 else ''}, fidelity {run_['fidelity']}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "VPG" else "right", no_wrap=True)
    rows = {**summary["vpgs"], "all": summary["all"]} if len(summary["vpgs"]) > 1 else summary["vpgs"]
    for name, f in rows.items():
        loss = f["worst_loss"]
        table.add_row(
            name,
            *(seconds(f["rpo_s"][q]["value"]) for q in ("p50", "p95", "max")),
            size(loss["bytes"]),
            size(f["journal"]["peak_bytes"]),
            seconds(f["journal"]["history_s"]),
            seconds(f["sla"]["missed_s"]) if f["sla"]["missed_s"] else "never",
        )
    console.print(table)
    for link, w in summary["wan"].items():
        if w["mean_bps"]:
            console.print(
                f"{link}: mean {rate(w['mean_bps'])}, peak {rate(w['peak_bps'])} of {rate(w['bandwidth_bps'])}",
                highlight=False,
            )
    for cause, share in sorted(summary["all"]["sla"]["causes"].items(), key=lambda item: -item[1]):
        console.print(f"SLA missed because of {cause}: {percent(share)}", highlight=False)
    for vpg, lost in (summary["disaster"] or {}).items():
        console.print(
            f"disaster at {seconds(lost['at_s'])}: {vpg} lost {seconds(lost['loss_s'])}, {lost['loss_writes']} writes, "
            f"{size(lost['loss_bytes'])}",
            highlight=False,
        )
    for each in summary["operations"] or ():
        console.print(f"at {seconds(each['asked_s'])}: {answer(each)}", highlight=False)
    if out is not None:
        console.print(f"report: {out / 'report.html'}", highlight=False)
