"""Manager: a real site's manager as its commands ask it, and how they show what it says."""

import json
import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_site


class Manager:
    """The manager of a site, over its socket."""

    def __init__(self, file: Path) -> None:
        try:
            import httpx

            from drsim.real.serve import socket_of
        except ImportError as error:
            raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
        spec = load_site(file)
        self._path, self._http = socket_of(spec, file.parent), httpx

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = 120) -> Any:
        """An answer, waited for so long (None: for ever). Raises what the site says, or that it does not answer."""
        hint = "is `drsim site up` running?"
        if not self._path.exists():
            raise PlatformError("the site does not answer: it has no socket", place=str(self._path), hint=hint)
        transport = self._http.HTTPTransport(uds=str(self._path))
        try:
            with self._http.Client(transport=transport, base_url="http://site", timeout=seconds) as client:
                answer = client.request(method, path, json=body)
        except self._http.TransportError as error:
            raise PlatformError(f"the site does not answer: {error}", place=str(self._path), hint=hint) from error
        content = answer.json()
        if answer.is_success:
            return content
        if "error" not in content:
            first = content["detail"][0]
            where = ".".join(str(part) for part in first["loc"][1:])
            raise FileError(f"{where}: {first['msg']}", place=method + " " + path)
        raise FileError(content["error"], place=content["place"], hint=content["hint"])


def console(*, stderr: bool = False) -> Console:
    """Where tables go: as wide as the terminal, or 120 columns."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(width=120, stderr=stderr)


def table(rows: list[dict[str, Any]], *columns: str, json_: bool = False) -> None:
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.replace("_", " "))
    for row in rows:
        made.add_row(*(_cell(column, row.get(column)) for column in columns))
    console().print(made)


def _cell(column: str, value: Any) -> str:
    match value:
        case None:
            return "-"
        case list():
            return " ".join(map(str, value))
        case float() if column in ("taken", "newest", "begun"):
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        case float():
            return f"{value:.2f}"
        case _:
            return str(value)
