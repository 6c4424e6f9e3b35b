"""The `drsim` program: its commands, and what every command does about errors.

Exit codes: 0 fine, 1 the run says no, 2 bad input.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

import drsim
from drsim.cli.experiment import experiment
from drsim.cli.explain import explain
from drsim.cli.fit import fit
from drsim.cli.judge import judge
from drsim.cli.mutants import mutants
from drsim.cli.run import run
from drsim.cli.show import check, schema, show
from drsim.cli.verify import replay, verify
from drsim.core.errors import DrsimError

app = typer.Typer(
    help="Simulate and verify continuous-replication disaster recovery: RPO, journals, WAN, crash consistency.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (run, show, check, schema, fit, judge, verify, replay, explain, mutants, experiment):
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"drsim {drsim.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Simulate and verify continuous-replication disaster recovery: RPO, journals, WAN, crash consistency."""


def main() -> None:
    """Entry point: an error of the user's is a message, not a traceback."""
    try:
        app()
    except DrsimError as error:
        Console(stderr=True, soft_wrap=True).print(f"drsim: {error}", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("drsim: interrupted; nothing was written", markup=False, highlight=False)
        sys.exit(130)
