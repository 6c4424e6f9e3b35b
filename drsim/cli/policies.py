"""`drsim policies`: the same writes under this journal and the field's other ways to protect, side by side."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from drsim.cli.recover import only_vpg
from drsim.core.errors import FileError
from drsim.files.models import load_model
from drsim.study import style
from drsim.study.policies import POLICIES
from drsim.study.policies.compare import compare, draw
from drsim.study.policies.estate import load_of, wan_of

Option = typer.Option


def policies(
    model: Annotated[str, typer.Argument(help="A model file, or the name of a shipped one (two-site ...).")],
    vpg: Annotated[str | None, Option(help="Which VPG; needed when there are several.")] = None,
    set_: Annotated[list[str] | None, Option("--set", metavar="PATH=VALUE", help="Change a value.")] = None,
    out: Annotated[Path | None, Option(help="Where the picture goes, like policies.png.")] = None,
    json_: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare ways to protect a VPG: RPO, WAN bytes, storage, points in time. The VPG has its link for itself."""
    spec = load_model(model, overrides=set_ or [])
    name = only_vpg(spec, vpg)
    load, (wan, squeeze) = load_of(spec, name), wan_of(spec, name)
    rows = compare(POLICIES, load, wan, squeeze=squeeze)
    if out is not None:
        try:
            draw(rows, out)
        except OSError as error:
            raise FileError(
                f"cannot write there: {error.strerror}", place=str(out), hint="choose another --out"
            ) from error
    if json_:
        told = {"vpg": name, "writes": len(load.at), "policies": [asdict(row) for row in rows]}
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("policy", no_wrap=True)
    for column in ("RPO median", "95 %", "99 %", "worst", "WAN", "storage", "points", "a write waits"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("after", style="dim")
    for row in rows:
        times = (style.seconds(each) for each in (row.p50, row.p95, row.p99, row.max))
        shown.add_row(
            row.name, *times, style.size(row.wan), style.size(row.storage), style.count(row.points),
            style.seconds(row.wait), row.source.partition(":")[0],
        )  # fmt: skip
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(shown)
