"""`drsim explain`: what the program of a token did, step by step, and why it is wrong; as text and as a picture."""

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from drsim.core.errors import FileError
from drsim.study.output import write_file
from drsim.verify.pictures import draw
from drsim.verify.swarm import operations
from drsim.verify.tale import tell
from drsim.verify.token import decode

WIDTH = 110


def explain(
    token: Annotated[str, typer.Argument(help="A reproduction token: dr1. ...")],
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a time diagram of the run.")] = None,
) -> None:
    """Tell the story of a token: what happened, step by step, and which property does not hold, and why.

    Exits with 0 whether or not a property is violated; `drsim replay` says that by its exit code.
    """
    it = decode(token)
    tale = tell(it.kind, it.program)
    if svg is not None and tale.story is None:
        raise FileError(f"a {it.kind} program has no time diagram", place="--svg", hint="leave it out for the story")
    count = operations(it.kind, it.program)
    said = f"{it.kind} program of {count} operations, written by drsim {it.version}. {tale.cast}"
    typer.echo(textwrap.fill(said, WIDTH) + "\n")
    margin = len(str(len(tale.lines))) + 2
    for n, line in enumerate(tale.lines, 1):
        if n == tale.healing + 1:
            typer.echo("\nFrom here on nothing breaks any more, and what is down or cut comes back.\n")
        head = f"{n}.".ljust(margin)
        typer.echo(textwrap.fill(line, WIDTH, initial_indent=head, subsequent_indent=" " * margin))
    typer.echo()
    colour = typer.colors.GREEN if tale.holds else typer.colors.RED
    typer.secho(textwrap.fill(tale.verdict, WIDTH), fg=colour)
    if svg is not None and tale.story is not None:
        write_file(svg, draw(tale.story))
        typer.echo(f"\n{svg}: the time diagram")
