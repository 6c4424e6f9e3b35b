"""`drsim journal`: a site's journals in its platform's object store."""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from drsim.cli.manager import console
from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_site
from drsim.spec.live import SiteFile

journal = typer.Typer(
    no_args_is_help=True, help="Journals that a site copies to its platform's object store.", rich_markup_mode=None
)


@journal.callback()
def _group() -> None:
    """A group, though it has one command."""


@journal.command("fetch")
def fetch(file: Annotated[Path, typer.Argument(metavar="SITE", help="The site's file.")]) -> None:
    """Make a site's journals and lists of checkpoints anew from their copy in the object store."""
    try:
        from drsim.real.state import FolderLock
    except ImportError as error:
        raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
    spec = load_site(file)
    if spec.platform is None:
        raise FileError("the site is on no platform that keeps objects", place=str(file), hint="give it a platform")
    folder = file.parent / spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    with closing(FolderLock(folder)):
        found = asyncio.run(_fetched(spec, file.parent, folder))
    for vpg, count in sorted(found.items()):
        console().print(f"{vpg}: {count} checkpoints", highlight=False)


async def _fetched(spec: SiteFile, base: Path, folder: Path) -> dict[str, int]:
    from drsim.real.journal_copy import fetch as fetched
    from drsim.real.platforms import connect

    platform = await connect(spec.platform, base)
    try:
        if platform.objects is None:
            raise PlatformError("it keeps no objects", place=platform.name, hint="a bucket is named in the site's file")
        return await fetched(platform.objects, folder)
    finally:
        await platform.close()
