"""`drsim vra`: a VRA as a program of its own."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from drsim.core.errors import FileError
from drsim.files.merge import near
from drsim.files.sites import load_site
from drsim.real.vra import Vra

vra = typer.Typer(no_args_is_help=True, help="VRAs as programs of their own: run one.", rich_markup_mode=None)


@vra.callback()
def _group() -> None:
    pass  # a group of one command stays a group


@vra.command("up")
def up(
    file: Annotated[Path, typer.Argument(help="The site's file, which says `processes: apart`.")],
    host: Annotated[str, typer.Argument(help="Whose disks it serves and taps.")],
) -> None:
    """Serve and tap the disks of a host until it is told to end (Ctrl-C). The site comes and goes beside it."""
    spec = load_site(file)
    if host not in spec.hosts:
        raise FileError(f"site {spec.site} has no host {host!r}{near(host, spec.hosts)}", place=str(file))
    if spec.processes != "apart":
        hint = "write `processes: apart` into it, and start the site again"
        raise FileError("the site serves its disks itself", place=str(file), hint=hint)
    folder = (file.parent / spec.folder).absolute()
    made = Vra(folder, host, spec.hosts[host].pool, lambda what: typer.echo(f"{host}: {what}"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        made.run()
    except KeyboardInterrupt:
        typer.echo(f"{host}: told to end")
