"""`drsim judge`: which recovery points of any replication system are consistent, from what was recorded of it."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from drsim.core.errors import FileError
from drsim.core.units import SECOND
from drsim.study.output import write_file
from drsim.study.style import plural, seconds
from drsim.verify.history import read_history
from drsim.verify.judge import Verdict, document
from drsim.verify.judge import judge as judged
from drsim.verify.levels import Level
from drsim.verify.words import clock, epoch

MOST_VMS = 3
"""VMs of a point whose cut is shown; the rest is counted."""


def judge(
    history: Annotated[Path, typer.Argument(help="What was recorded: JSON lines or Parquet.")],
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL", help="What every point must reach: L0, L1, L2 or L3. Otherwise what it claims, or L2."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Write a small example history to HISTORY, to try this on.")
    ] = False,
) -> None:
    """Say which recovery points of a recorded history are consistent. Exit 0: all; 1: some are not; 2: bad input."""
    if example:
        _write_example(history)
        return
    if level is not None and level.upper() not in Level.__members__:
        raise FileError(f"no level is called {level!r}", place="--level", hint=f"one of {', '.join(Level.__members__)}")
    recorded = read_history(history)
    verdicts = judged(recorded, None if level is None else Level[level.upper()])
    if json_:
        typer.echo(json.dumps(document(verdicts), indent=2, allow_nan=False))
    else:
        _print(verdicts, epoch(recorded))
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)


def _write_example(path: Path) -> None:
    if path.exists():
        raise FileError("there is a file already", place=str(path), hint="choose another name for the example")
    write_file(path, (files("drsim.verify") / "example.jsonl").read_text(encoding="utf-8"))
    typer.echo(f"{path}: three recovery points of two VMs. Next: drsim judge {path}")


def _print(verdicts: tuple[Verdict, ...], zero: int) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("point", "time", "must", "verdict", "reached", "writes in it", "loss"):
        table.add_column(column, overflow="fold")
    for v in verdicts:
        table.add_row(
            v.name,
            "-" if v.time is None else clock(v.time, zero),
            v.level.name,
            "consistent" if v.ok else "NOT consistent",
            " ".join(level.name for level in v.reached) or "none",
            _cut(v),
            _loss(v),
            style="" if v.ok else "red",
        )
    console.print(table)
    for v in verdicts:
        if not v.ok:
            console.print(f"{v.name}: {v.reason}.", soft_wrap=True)
        if v.ahead_ns:
            console.print(
                f"{v.name}: it has writes issued up to {seconds(v.ahead_ns / SECOND)} after its time.", soft_wrap=True
            )
    if zero:
        console.print("Times are told from the first write on.")
    good = sum(v.ok for v in verdicts)
    console.print(f"{good} of {len(verdicts)} recovery points reach the level that they must.")


def _cut(v: Verdict) -> str:
    if v.cut is None:
        return "-"
    parts = [f"{vm}: {k} of {n}" for vm, (k, n) in v.cut.items()]
    more = [f"and {plural(len(parts) - MOST_VMS, 'VM')}"] if len(parts) > MOST_VMS else []
    return ", ".join(parts[:MOST_VMS] + more)


def _loss(v: Verdict) -> str:
    if v.loss is None:
        return "-"
    return f"{seconds(v.loss.ns / SECOND)}, {plural(v.loss.writes, 'write')}" if v.loss.writes else "none"
