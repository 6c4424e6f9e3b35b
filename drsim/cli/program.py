"""Program: what starts first, and loads no more than its command needs: real sites start without the simulation."""

import sys

import typer
from rich.console import Console

from drsim.core.errors import DrsimError

REAL = ("pki", "site", "live")


def guarded(app: typer.Typer) -> None:
    """Run commands: an error of the user's is a message, not a traceback."""
    try:
        app()
    except DrsimError as error:
        Console(stderr=True, soft_wrap=True).print(f"drsim: {error}", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("drsim: interrupted; nothing was written", markup=False, highlight=False)
        sys.exit(130)


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] and sys.argv[1] in REAL:
        from drsim.cli.live import GROUPS

        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        for name, group in GROUPS.items():
            app.add_typer(group, name=name)
    else:
        from drsim.cli.main import app
    guarded(app)


if __name__ == "__main__":
    main()
