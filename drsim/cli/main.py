"""The `drsim` program: its commands, and what every command does about errors.

A command's module is loaded when the command is called, and no other: real sites start without the simulation, and a
simulation without what verifies it.

Exit codes: 0 fine, 1 the run says no, 2 bad input.
"""

import sys
from collections.abc import Iterable
from importlib import import_module
from types import MappingProxyType
from typing import Annotated

import typer
from rich.console import Console

import drsim
from drsim.core.errors import DrsimError

COMMANDS = MappingProxyType({
    "run": "run:run", "show": "show:show", "check": "show:check", "schema": "show:schema", "fit": "fit:fit",
    "judge": "judge:judge", "verify": "verify:verify", "replay": "verify:replay", "explain": "explain:explain",
    "mutants": "mutants:mutants", "experiment": "experiment:experiment", "study": "study:study", "size": "size:size",
    "planner": "size:planner", "policies": "policies:policies", "calibrate": "calibrate:calibrate",
    "worst": "worst:worst", "test": "recover:failover_test", "failover": "recover:failover", "move": "recover:move",
    "clone": "recover:clone", "restore": "recover:restore", "plan": "recover:plan", "scrub": "scrub:scrub",
    "doctor": "doctor:doctor",
})  # fmt: skip
"""Where each command is: a module of `drsim.cli`, and its function."""
GROUPS = MappingProxyType({
    "pki": "live:pki", "site": "live:site", "vra": "vra:vra", "live": "live:live", "journal": "journal:journal",
})  # fmt: skip
"""Where each group of commands is."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"drsim {drsim.__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Simulate and verify continuous-replication disaster recovery: RPO, journals, WAN, crash consistency."""


def program(names: Iterable[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """The program with these commands and groups."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )  # fmt: skip
    app.callback()(options)
    for name in names:
        module, _, what = (COMMANDS.get(name) or GROUPS[name]).partition(":")
        found = getattr(import_module(f"drsim.cli.{module}"), what)
        if name in COMMANDS:
            app.command(name)(found)
        else:
            app.add_typer(found, name=name)
    return app


def main() -> None:
    """Entry point: an error of the user's is a message, not a traceback."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        (program([first]) if first in COMMANDS or first in GROUPS else program())()
    except DrsimError as error:
        Console(stderr=True, soft_wrap=True).print(f"drsim: {error}", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("drsim: interrupted; nothing was written", markup=False, highlight=False)
        sys.exit(130)


if __name__ == "__main__":
    main()
