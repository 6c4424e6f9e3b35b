"""The `drsim` program: its commands, and what every command does about errors.

Exit codes: 0 fine, 1 the run says no, 2 bad input.
"""

from collections.abc import Callable
from typing import Annotated

import typer

import drsim
from drsim.cli.calibrate import calibrate
from drsim.cli.experiment import experiment
from drsim.cli.explain import explain
from drsim.cli.fit import fit
from drsim.cli.judge import judge
from drsim.cli.live import GROUPS
from drsim.cli.mutants import mutants
from drsim.cli.policies import policies
from drsim.cli.program import guarded
from drsim.cli.recover import clone, failover, failover_test, move, plan, restore
from drsim.cli.run import run
from drsim.cli.show import check, schema, show
from drsim.cli.size import planner, size
from drsim.cli.study import study
from drsim.cli.verify import replay, verify
from drsim.cli.worst import worst

app = typer.Typer(
    help="Simulate and verify continuous-replication disaster recovery: RPO, journals, WAN, crash consistency.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
commands: tuple[Callable[..., None], ...] = (
    run, show, check, schema, fit, judge, verify, replay, explain, mutants, experiment, study, size, planner, policies,
    calibrate, worst,
)  # fmt: skip
for command in commands:
    app.command()(command)
app.command("test")(failover_test)
for operation in (failover, move, clone, restore, plan):
    app.command()(operation)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


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
    """Entry point of all commands; see `program.py`."""
    guarded(app)
