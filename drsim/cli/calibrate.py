"""`drsim calibrate`: workload and platform parameters from a churn table or a run's own tables."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from drsim.study.recordings import fit_churn, fit_run

Option = typer.Option


def calibrate(
    source: Annotated[Path, typer.Argument(help="A churn table (CSV: time_s, bytes, vm, writes), or a run's folder.")],
    seed: Annotated[int, Option(min=0, help="Of what the fit generates.")] = 0,
    json_: Annotated[bool, Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Fit workloads to a churn table, or platform parameters to a run; prints the values and how far they miss."""
    found = fit_run(source) if source.is_dir() else fit_churn(source, seed=seed)
    if json_:
        rows = [{"what": row.what, "recorded": row.recorded, "fitted": row.fitted} for row in found.rows]
        typer.echo(json.dumps({"values": found.values, "rows": rows}, indent=2))
        return
    console = Console(soft_wrap=True)
    for name, value in found.values.items():
        console.print(
            f"{name}: {json.dumps(value) if isinstance(value, dict) else value}", highlight=False, markup=False
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    for column in ("recorded", "fitted", "error"):
        table.add_column(column, justify="right")
    for row in found.rows:
        table.add_row(row.what, f"{row.recorded:.4g}", f"{row.fitted:.4g}", f"{row.error:+.1%}".replace("%", " %"))
    Console(width=110).print(table, highlight=False)
