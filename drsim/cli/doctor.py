"""`drsim doctor`: can sites on platforms do what recovery will ask of them?"""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from drsim.cli.manager import console
from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_sites
from drsim.real.doctor import Examination, Line, conversions
from drsim.spec.sites import Sites


def doctor(
    file: Annotated[Path, typer.Argument(metavar="SITES", help="A file with sites and their platforms.")],
    site: Annotated[list[str] | None, typer.Option("--site", help="Only this one; may be given several times.")] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Make one small VM with a disk at each site, and take it away again.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at every site: reachable, certificate, login, privileges, version, clock, room, names, the appliance.

    Each line that is not right says what an administrator does. Nothing is changed without --self-test. Exit code 1
    when something is not right.
    """
    sites = load_sites(file)
    unknown = [name for name in site or () if name not in sites.sites]
    if unknown:
        raise FileError(f"no site is called {unknown[0]}", place=str(file), hint=f"sites: {', '.join(sites.sites)}")
    try:
        lines = asyncio.run(_examine(sites, site or list(sites.sites), file.parent, self_test))
    except ImportError as error:
        raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
    if json_:
        typer.echo(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        for line in lines:
            mark = {True: "ok  ", False: "FAIL", None: "note"}[line.fine]
            console().print(f"{mark}  {line.site:12}  {line.check:12}  {line.what}", markup=False, highlight=False)
            if line.fine is False and line.hint:
                console().print(f"{'':34}{line.hint}", markup=False, highlight=False)
    raise typer.Exit(1 if any(line.fine is False for line in lines) else 0)


async def _examine(sites: Sites, names: list[str], base: Path, self_test: bool) -> list[Line]:
    examined = {name: Examination(name, sites.sites[name], base) for name in names}
    try:
        await asyncio.gather(*(each.run(self_test=self_test) for each in examined.values()))
        lines = [line for each in examined.values() for line in each.lines]
        for one in examined.values():
            for name in one.site.recovers_to:
                if one.platform is not None and name in examined:
                    lines += await conversions(one, examined[name])
        return lines
    finally:
        await asyncio.gather(*(each.close() for each in examined.values()))
