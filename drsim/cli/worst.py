"""`drsim worst`: search the disaster instant, and the times of a model's faults, that lose most."""

import json
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from drsim.core.errors import FileError
from drsim.core.units import SECOND
from drsim.files.models import load_model
from drsim.study.canvas import fault_words
from drsim.study.style import count, seconds, size
from drsim.study.worst import Measure, Worst, at_random, evaluate, search

Option = typer.Option


def worst(
    model: Annotated[str, typer.Argument(help="A model file, or the name of a shipped one (two-site ...).")],
    budget: Annotated[int, Option(min=1, max=100_000, help="How many runs.")] = 40,
    by: Annotated[str, Option(help="What is lost: seconds, writes or bytes.")] = "seconds",
    until: Annotated[str | None, Option(help="Simulated time, like 6h.")] = None,
    set_: Annotated[list[str] | None, Option("--set", metavar="PATH=VALUE", help="Change a value.")] = None,
    seed: Annotated[int, Option(min=0, help="Of the search.")] = 1,
    compare: Annotated[bool, Option("--compare", help="Spend the same on random times and instants as well.")] = False,
    json_: Annotated[bool, Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search when a disaster, and the model's faults before it, would lose most: a lower bound of the worst case."""
    if by not in get_args(Measure):
        raise FileError(f"{by!r} cannot be lost", place="--by", hint=f"one of: {', '.join(get_args(Measure))}")
    overrides = [*(set_ or []), *([f"run.until={until}"] if until is not None else [])]
    spec, measure = load_model(model, overrides=overrides), cast(Measure, by)
    given = evaluate(spec, tuple(fault.at for fault in spec.faults), measure)
    found = search(spec, budget, measure=measure, seed=seed)
    drawn = at_random(spec, budget, measure=measure, seed=seed) if compare else None
    if json_:
        told = {"by": by, "budget": budget, "given": _figures(given), "worst": _figures(found)}
        told |= {"random": None if drawn is None else _figures(drawn)}
        typer.echo(json.dumps(told, indent=2))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(f"as the model is: {_words(given, measure)}", highlight=False)
    console.print(f"worst of {budget} runs: {_words(found, measure)}", highlight=False)
    for fault, at in sorted(zip(spec.faults, found.faults, strict=True), key=lambda each: each[1]):
        console.print(f"  {fault_words(fault)} at {seconds(at / SECOND)}", highlight=False)
    if drawn is not None:
        console.print(f"{budget} random disasters: {_words(drawn, measure)}", highlight=False)


def _words(found: Worst, measure: Measure) -> str:
    amount = {
        "seconds": seconds(found.loss / SECOND), "writes": f"{count(found.loss)} writes", "bytes": size(found.loss),
    }[measure]  # fmt: skip
    return f"{found.vpg} loses {amount} at {seconds(found.at / SECOND)}"


def _figures(found: Worst) -> dict[str, object]:
    return {"loss": found.loss, "vpg": found.vpg, "at_ns": found.at, "faults_at_ns": list(found.faults)}
