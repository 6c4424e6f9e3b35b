"""`drsim fit`: fit the workload generator to real disks and say how well it fits."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from drsim.study.calibrate import catalogue, fit_all
from drsim.study.output import write_file


def fit(
    traces: Annotated[Path, typer.Argument(help="A folder with the recorded traces.")],
    out: Annotated[Path | None, typer.Option(help="Write the fitted workloads as catalogue files here.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generated samples that are compared.")] = 0,
) -> None:
    """Fit the workload generator to recorded disks; prints real against generated."""
    fitted, rows = fit_all(traces, seed)
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
    if out is not None:
        for name, text in catalogue(fitted, rows).items():
            write_file(out / f"{name}.yaml", text)
