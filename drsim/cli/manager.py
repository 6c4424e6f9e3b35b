"""Manager: a real site's manager as its commands ask it, and how they show what it says."""

import json
import ssl
import time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_any_site
from drsim.files.yaml_tree import read_text
from drsim.spec.live import SiteFile


class Manager:
    """The manager of a site: over its socket, or from elsewhere over TLS, with its token."""

    def __init__(self, file: Path) -> None:
        try:
            import httpx

            from drsim.real.serve import socket_of
        except ImportError as error:
            raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
        spec = load_any_site(file)
        self._http: Any = httpx
        self._options: dict[str, Any]
        self._extensions: dict[str, Any] = {}
        if isinstance(spec, SiteFile):
            self._place, self._socket = str(socket_of(spec, file.parent)), True
            self._options = {"base_url": "http://site"}
        else:
            self._place, self._socket = spec.connect, False
            token = read_text(file.parent / spec.token).strip()
            self._options = {
                "base_url": f"https://{spec.connect}", "headers": {"Authorization": f"Bearer {token}"},
                "verify": _trusting(file.parent / spec.ca),
            }  # fmt: skip
            self._extensions = {"sni_hostname": spec.site}  # the certificate has to be this site's

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = 120) -> Any:
        """An answer, waited for so long (None: for ever). Raises what the site says, or that it does not answer."""
        hint = "is `drsim site up` running?"
        if self._socket and not Path(self._place).exists():
            raise PlatformError("the site does not answer: it has no socket", place=self._place, hint=hint)
        # There is no TLS on a socket: reading the authorities that this machine trusts takes thirty milliseconds.
        transport = self._http.HTTPTransport(uds=self._place, verify=False) if self._socket else None
        try:
            with self._http.Client(**self._options, transport=transport, timeout=seconds) as client:
                answer = client.request(method, path, json=body, extensions=self._extensions)
        except self._http.TransportError as error:
            raise PlatformError(f"the site does not answer: {error}", place=self._place, hint=hint) from error
        try:
            content = answer.json()
        except ValueError as error:
            said = f"the site fails: {answer.status_code} {answer.text[:200]}"
            raise PlatformError(said, place=self._place, hint="its log says more") from error
        if answer.is_success:
            return content
        if "error" not in content:
            first = content["detail"][0]
            where = ".".join(str(part) for part in first["loc"][1:])
            raise FileError(f"{where}: {first['msg']}", place=method + " " + path)
        raise FileError(content["error"], place=content["place"], hint=content["hint"])


def _trusting(ca: Path) -> ssl.SSLContext:
    """Whom this authority has signed, over TLS 1.3, and nobody else."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        hint = "copy ca.pem from the folder in which `drsim pki init` was run"
        raise FileError(f"the authority's certificate cannot be read: {error}", place=str(ca), hint=hint) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


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
