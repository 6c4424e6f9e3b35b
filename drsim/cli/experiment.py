"""`drsim experiment`: run experiments, judge their figures, draw their pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from drsim.core.errors import FileError
from drsim.study import experiment as study
from drsim.study.panels import picture
from drsim.study.style import words

Option = typer.Option
ROOT = Path("experiments")
README, PICTURE = "README.md", "picture.png"


def experiment(
    name: Annotated[str | None, typer.Argument(help="An experiment's name or folder; all when not said.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    out: Annotated[
        Path | None,
        Option(help="Folder for the pictures; without it each goes beside its README, whose table is made new."),
    ] = None,
    measures: Annotated[bool, Option("--measures", help="Print every measure that expect.yaml may name.")] = False,
) -> None:
    """Run experiments and judge their figures. Exit 0: all hold; 1: one is out of tolerance; 2: a file is wrong."""
    folders = [study.find(name, ROOT)] if name else list(study.experiments(ROOT).values())
    read = [study.read(folder) for folder in folders]
    told: list[dict[str, Any]] = []
    held = True
    for each in read:
        outcome = study.run(each)
        held = held and outcome.holds
        if not measures:
            _keep(outcome, out)
        if as_json:
            told.append(_plain(outcome, measures=measures))
        elif measures:
            for arm, found in outcome.taken.items():
                for key, number in found.items():
                    typer.echo(f"{arm}\t{key}\t{words(key, number)}")
        else:
            _print(outcome)
    if as_json:
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
    elif not measures and len(read) > 1:
        typer.echo(f"{len(read)} experiments: {'all figures hold' if held else 'some figures are out of tolerance'}")
    if not held:
        raise typer.Exit(1)


def _keep(outcome: study.Outcome, out: Path | None) -> None:
    """The picture, and the README's table unless `out` is somewhere else."""
    each, folder = outcome.experiment, outcome.experiment.folder
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            picture(outcome, out / f"{each.name}.png")
            return
        picture(outcome, folder / PICTURE)
        readme = folder / README
        if readme.exists():
            readme.write_text(study.with_table(readme.read_text(encoding="utf-8"), outcome), encoding="utf-8")
    except OSError as error:
        place = str(out or folder)
        raise FileError(f"cannot write there: {error.strerror}", place=place, hint="choose another --out") from error


def _plain(outcome: study.Outcome, *, measures: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "experiment": outcome.experiment.name,
        "question": outcome.experiment.expectation.question,
        "holds": outcome.holds,
        "figures": [{**asdict(verdict), "holds": verdict.holds} for verdict in outcome.verdicts],
    }
    if measures:
        told["measures"] = outcome.taken
    return told


def _print(outcome: study.Outcome) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    each = outcome.experiment
    console.print(f"[bold]{each.name}[/bold]  {each.expectation.question}", highlight=False)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("figure", max_width=58)
    for column in ("expected", "measured", "off"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    shown.add_column("from", style="dim", max_width=40)
    for verdict in outcome.verdicts:
        what, expected, measured, off, source = study.row(verdict, arms=len(outcome.taken) > 1)
        said = "[green]holds[/green]" if verdict.holds else "[bold red]OUT[/bold red]"
        shown.add_row(what, expected, measured, off, said, source)
    console.print(shown)
    console.print()
