"""`drsim scrub`: does everything still verify that a real site keeps?"""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from drsim.cli.manager import Manager, console, table
from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_site


def scrub(
    file: Annotated[Path, typer.Argument(metavar="SITE", help="The site's file.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read everything again that a recovery may need, journals, mirrors and lists, and say what does not verify.

    A site that runs scrubs itself, between other work. Exit code 1 when something is wrong.
    """
    found = _scrubbed(file)
    if json_:
        typer.echo(json.dumps(found, indent=2))
    else:
        if found["flaws"]:
            table(found["flaws"], "place", "what", "hint")
        streams, catalogs = found["streams"], found["catalogs"]
        verdict = f"{len(found['flaws'])} wrong" if found["flaws"] else "everything verifies"
        console().print(f"{streams} journal streams, {catalogs} lists of checkpoints: {verdict}")
    raise typer.Exit(1 if found["flaws"] else 0)


def _scrubbed(file: Path) -> dict[str, Any]:
    try:
        from drsim.real.scrub import scrub_folder
        from drsim.real.state import FolderLock
    except ImportError as error:
        raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
    folder = file.parent / load_site(file).folder
    if not folder.exists():
        raise FileError("this site has never run", place=str(folder), hint="is it the right file?")
    try:
        lock = FolderLock(folder)
    except PlatformError:  # it runs
        found: dict[str, Any] = Manager(file).ask("POST", "/scrub", seconds=None)
        return found
    with closing(lock):
        return scrub_folder(folder).plain()
