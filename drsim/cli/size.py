"""`drsim size`: how much of something a target needs. `drsim planner`: what a churn profile needs."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from drsim.core.errors import FileError
from drsim.files.models import load_model
from drsim.spec.quantity import parse_bandwidth, parse_duration, parse_size
from drsim.study import planner as study
from drsim.study.pool import processes
from drsim.study.size import Task, spread, target
from drsim.study.size import size as sized
from drsim.study.style import count, percent, rate, seconds
from drsim.study.style import size as amount

Option = typer.Option
Set = Annotated[list[str] | None, Option("--set", metavar="PATH=VALUE", help="Change a value of the model.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]


def size(
    model: Annotated[str, typer.Argument(help="A model file, or the name of a shipped one (two-site ...).")],
    vary: Annotated[
        list[str],
        Option(metavar="PATH[=LOW..HIGH]", help="What is varied: links.wan.bandwidth, or vras.SITE; several together."),
    ],
    until: Annotated[str, Option(help="The target: 'rpo_p99 <= 15 s'; any measure of a run, <= or >=.")],
    seeds: Annotated[int, Option(min=1, max=1000, help="Independent answers, for the interval.")] = 5,
    fidelity: Annotated[str, Option(help="fluid, slice or write.")] = "fluid",
    workers: Annotated[int | None, Option(min=1, help="Processes; as many as there are cores.")] = None,
    set_: Set = None, json_: Json = False,
) -> None:  # fmt: skip
    """Search the least of something with which a target is met, with the interval of the answer."""
    overrides = (*(set_ or ()), f"run.fidelity={fidelity}")
    pool = processes(workers)  # they prepare themselves while the model is read
    spec, wanted = load_model(model, overrides=overrides), target(until)
    ranges = {}
    for text in vary:
        path, _, span = text.partition("=")
        ranges[path.strip()] = spread(model, overrides, path.strip(), span or None)
    found = sized(Task(model, overrides, ranges, wanted, spec.run.seed), seeds, pool)
    if json_:
        told = {
            "target": until, "runs": found.runs, "least": found.up,
            "values": {
                name: {"value": found.value(name), "number": value, "low": low, "high": high}
                for name, (value, low, high) in found.values.items()
            },
        }  # fmt: skip
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
        return
    console = Console(soft_wrap=True)
    for name, (value, low, high) in found.values.items():
        what = "at least" if found.up else "at most"
        text = f"{name}: {what} {_rounded(found.value(name))} for {until}"
        if low is not None and high is not None and value:
            text += (
                f" (95 %: −{percent(1 - low / value)}, +{percent(high / value - 1)}; {seeds} seeds, {found.runs} runs)"
            )
        console.print(text, highlight=False)


def _rounded(value: Any) -> str:
    head, _, unit = str(value).partition(" ")
    try:
        return f"{float(head):.4g} {unit}".strip()
    except ValueError:
        return str(value)


def planner(
    source: Annotated[str, typer.Argument(help="A model, or a churn profile: CSV with time_s,bytes and perhaps vm.")],
    rpo: Annotated[str, Option(help="The objective.")] = "15 min",
    bandwidth: Annotated[str | None, Option(help="A link to judge: violations, peaks, the RPO that it gives.")] = None,
    history: Annotated[str, Option(help="Journal history.")] = "24 h",
    limit: Annotated[str | None, Option(help="Journal limit to judge, of all VMs together.")] = None,
    disks: Annotated[str | None, Option(help="Size of all disks, for the initial sync; a model knows it.")] = None,
    growth: Annotated[float, Option(min=0, help="More churn than profiled, as a share: 0.3.")] = 0.0,
    compress: Annotated[float, Option(min=0.01, max=1, help="Wire bytes for each byte written.")] = 1.0,
    set_: Set = None, json_: Json = False,
) -> None:  # fmt: skip
    """What a churn profile needs: WAN for an objective 100 % and 90 % of the time, journal, violations."""
    profile = study.profile_of(source, tuple(set_ or ())).grown(growth)
    if disks is not None:
        profile = profile.with_disks(_parsed(parse_size, disks, "--disks"))
    plan = study.plan(
        profile, rpo=_parsed(parse_duration, rpo, "--rpo") / 1e9,
        history=_parsed(parse_duration, history, "--history") / 1e9, squeeze=compress,
        bandwidth=None if bandwidth is None else _parsed(parse_bandwidth, bandwidth, "--bandwidth") / 8,
        limit=None if limit is None else _parsed(parse_size, limit, "--limit"),
    )  # fmt: skip
    if json_:
        typer.echo(json.dumps(study.plain(plan), indent=2, allow_nan=False))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for what, value in (
        ("profile", f"{seconds(plan.span)} of {count(plan.vms)} VMs"),
        ("WAN mean, busiest minute", f"{rate(plan.mean * 8)}, {rate(plan.peak * 8)}"),
        (f"WAN for {rpo} all the time", rate(plan.always * 8)),
        (f"WAN for {rpo} 90 % of the time", rate(plan.mostly * 8)),
        (f"journal of {history}", f"{amount(plan.journal)} at most"),
        *_judged(plan, bandwidth, limit),
    ):  # fmt: skip
        table.add_row(what, value)
    Console(width=110).print(table, highlight=False)


def _judged(plan: study.Planned, bandwidth: str | None, limit: str | None) -> list[tuple[str, str]]:
    rows = []
    if plan.given is not None:
        g = plan.given
        rows += [
            (f"with {bandwidth}: RPO half of the time", seconds(g.p50)),
            (f"with {bandwidth}: RPO 95 % of it, at worst", f"{seconds(g.p95)}, {seconds(g.worst)}"),
            (f"with {bandwidth}: violations", f"{g.violations:.2g} a day, worst day {seconds(g.peak_day)}"),
            (f"with {bandwidth}: initial sync", "never: it writes more" if g.initial is None else seconds(g.initial)),
        ]  # fmt: skip
    if plan.short is not None:
        rows.append((f"journal within {limit}", f"history falls short {percent(plan.short)} of the time"))
    return rows


def _parsed(parse: Any, text: str, place: str) -> float:
    try:
        return float(parse(text))
    except ValueError as error:
        raise FileError(str(error), place=place) from error
