"""`drsim mutants`: plant known mistakes, one at a time, and see how soon the property kills each that must see it."""

import json
import os
import time
from dataclasses import asdict
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from drsim.verify.mutants import BY_NAME, EXCUSED
from drsim.verify.mutants.base import Mutant
from drsim.verify.mutants.kill import SECONDS, Kill, kill_apart, named

COLUMNS = ("number", "mutant", "what is broken", "property", "programs", "seconds")


def mutants(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or numbers of mutants; all when none is given.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each may live.")] = SECONDS,
    seed: Annotated[int, typer.Option(min=0, help="Number of the first program.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Plant known mistakes in the core and its ports; the named property must see each, with assertions off.

    Exits with 1 when a mutant survives.
    """
    chosen = named(names or [])
    began = time.monotonic()
    done = _play(chosen, seconds, seed, workers or os.cpu_count() or 1, quiet=json_)
    kills = [done[mutant.name] for mutant in chosen]
    if json_:
        typer.echo(json.dumps(_document(kills, time.monotonic() - began), indent=2))
    else:
        _print(kills, complete=not names)
    if not all(kill.killed for kill in kills):
        raise typer.Exit(1)


def _play(chosen: tuple[Mutant, ...], seconds: float, seed: int, workers: int, *, quiet: bool) -> dict[str, Kill]:
    columns = (TextColumn("planting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    done: dict[str, Kill] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=len(chosen))
        for kill in kill_apart(chosen, seconds=seconds, seed=seed, workers=workers):
            done[kill.mutant] = kill
            bar.update(task, completed=len(done))
    return done


def _document(kills: list[Kill], wall: float) -> dict[str, Any]:
    """What `--json` prints; stable."""
    spent = [kill.seconds for kill in kills if kill.killed]
    return {
        "mutants": [
            {
                **{k: v for k, v in asdict(BY_NAME[kill.mutant]).items() if k != "patch"},
                **{k: v for k, v in asdict(kill).items() if k not in ("mutant", "prop")},
                "property": kill.prop,
            }
            for kill in kills
        ],
        "killed": len(spent),
        "of": len(kills),
        "median_s": round(median(spent), 3) if spent else None,
        "slowest_s": round(max(spent), 3) if spent else None,
        "seconds": round(wall, 1),
        "excused": EXCUSED,
    }


def _print(kills: list[Kill], *, complete: bool) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=140)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        right = column in ("programs", "seconds")
        table.add_column(column, justify="right" if right else "left", no_wrap=column in ("mutant", *COLUMNS[3:]))
    for kill in kills:
        mutant = BY_NAME[kill.mutant]
        table.add_row(
            " ".join(mutant.numbers) or "-",
            mutant.name,
            mutant.breaks,
            kill.prop if kill.killed else f"not {', '.join(mutant.properties)}",
            f"{kill.programs:,}",
            f"{kill.seconds:.2f}",
            style="" if kill.killed else "red",
        )
    console.print(table)
    for kill in kills:
        if not kill.killed:
            console.print(f"{kill.mutant} survives. {f'First seen: {kill.also}' if kill.also else 'Nothing was seen.'}")
    spent = [kill.seconds for kill in kills if kill.killed]
    middle = f", median {median(spent):.2f} s, slowest {max(spent):.1f} s" if spent else ""
    console.print(f"{len(spent)} of {len(kills)} killed{middle}")
