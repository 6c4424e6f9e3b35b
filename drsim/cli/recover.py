"""`drsim failover|test|move|clone|restore`: an operation in a simulated estate. `drsim plan`: its runbook."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from drsim.core.errors import FileError
from drsim.core.recovery.report import Outcome
from drsim.files.models import load_model
from drsim.sim.recovery import Underway
from drsim.sim.run import simulate
from drsim.spec.model import Model
from drsim.spec.operations import RECOVERIES
from drsim.spec.quantity import parse_duration
from drsim.study import operation as study
from drsim.study.output import MARK, folder, refuse_foreign
from drsim.study.stats import Interval, chance, tail
from drsim.study.style import percent, seconds

Option = typer.Option
ModelName = Annotated[str, typer.Argument(help="A model file, or the name of a shipped one (two-site ...).")]
VpgName = Annotated[str | None, Option("--vpg", help="Which VPG; needed when the model has several.")]
Vms = Annotated[list[str] | None, Option("--vm", help="Only this VM of it; may be given several times.")]
At = Annotated[str, Option(help="When it is needed, as time of the run: 2h30m.")]
Checkpoint = Annotated[str, Option(help="latest, 'latest tagged', or at least how old: '30 min'.")]
Detect = Annotated[str, Option(help="Until somebody knows that something is wrong.")]
Decide = Annotated[str, Option(help="Until somebody has decided, after that.")]
Lost = Annotated[bool, Option("--site-lost", help="The protected site is lost at that time.")]
Set = Annotated[list[str] | None, Option("--set", metavar="PATH=VALUE", help="Change a value of the model.")]
Seeds = Annotated[int, Option("--replications", min=1, max=10_000, help="Runs with seeds SEED, SEED+1 ...")]
Seed = Annotated[int | None, Option(min=0, help="Seed of all random streams.")]
Out = Annotated[Path | None, Option(help="Folder for summary.json and report.html.")]
Json = Annotated[bool, Option("--json", help="Print the operation's figures as JSON.")]
Commit = Annotated[str, Option(help="commit, rollback or none: what happens when nobody has decided in time.")]
Wait = Annotated[str, Option(help="Until then: 0s, or 300s to 24h.")]
OnFailure = Annotated[str, Option(help="stop: undo everything when a VM fails. 'go on': leave it out.")]
Instant = Annotated[bool, Option("--instant", help="Boot at once, reading through the journal.")]
KINDS = ("failover", "test", "move", "clone")
OPTIONS = {"vms": "vm", "kind": "operation"}
"""Options that are called otherwise than their field."""
SETTLES = 24 * 3600 * 10**9  # a run goes on for so long after the operation was begun, or until it is over


def failover(
    model: ModelName, vpg: VpgName = None, vm: Vms = None, at: At = "30 min", checkpoint: Checkpoint = "latest",
    detect: Detect = "0s", decide: Decide = "0s", site_lost: Lost = False,
    shutdown: Annotated[str, Option(help="none, graceful or force: what is done to the source's VMs.")] = "none",
    commit: Commit = "commit", wait: Wait = "0s", on_failure: OnFailure = "stop", instant: Instant = False,
    set_: Set = None, seed: Seed = None, replications: Seeds = 1, out: Out = None, json_: Json = False,
) -> None:  # fmt: skip
    """Fail a VPG over to its recovery site in a simulated estate: RTO by its parts, what is lost, every step."""
    what = {"kind": "failover", "shutdown": shutdown, "commit": commit, "wait": wait}
    wish = _wish(what, vm, at, checkpoint, detect, decide, on_failure, instant)
    _carry_out(model, vpg, wish, set_, seed, replications, out, json_=json_, lost=site_lost)


def failover_test(
    model: ModelName, vpg: VpgName = None, vm: Vms = None, at: At = "30 min", checkpoint: Checkpoint = "latest",
    lasts: Annotated[str, Option(help="How long the VMs run before somebody stops the test.")] = "1h",
    note: Annotated[str, Option(help="What is written on the checkpoint.")] = "passed",
    on_failure: OnFailure = "stop", instant: Instant = False, set_: Set = None, seed: Seed = None,
    replications: Seeds = 1, out: Out = None, json_: Json = False,
) -> None:  # fmt: skip
    """Test a failover beside the source, which runs on; everything is gone afterwards."""
    wish = _wish({"kind": "test", "lasts": lasts, "note": note}, vm, at, checkpoint, "0s", "0s", on_failure, instant)
    _carry_out(model, vpg, wish, set_, seed, replications, out, json_=json_)


def move(
    model: ModelName, vpg: VpgName = None, vm: Vms = None, at: At = "30 min",
    shutdown: Annotated[str, Option(help="graceful or force: how the source's VMs are shut down.")] = "graceful",
    commit: Commit = "commit", wait: Wait = "0s",
    keep_source: Annotated[bool, Option("--keep-source", help="Do not delete the source's VMs.")] = False,
    on_failure: OnFailure = "stop", instant: Instant = False, set_: Set = None, seed: Seed = None,
    replications: Seeds = 1, out: Out = None, json_: Json = False,
) -> None:  # fmt: skip
    """Move a VPG to its recovery site in good order: nothing is lost, or everything is back as it was."""
    what = {"kind": "move", "shutdown": shutdown, "commit": commit, "wait": wait, "keep_source": keep_source}
    wish = _wish(what, vm, at, "latest", "0s", "0s", on_failure, instant)
    _carry_out(model, vpg, wish, set_, seed, replications, out, json_=json_)


def clone(
    model: ModelName, vpg: VpgName = None, vm: Vms = None, at: At = "30 min", checkpoint: Checkpoint = "latest",
    on_failure: OnFailure = "stop", set_: Set = None, seed: Seed = None, replications: Seeds = 1, out: Out = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Clone a VPG's VMs as of a checkpoint, powered off; the VPG is not touched."""
    wish = _wish({"kind": "clone"}, vm, at, checkpoint, "0s", "0s", on_failure, False)
    _carry_out(model, vpg, wish, set_, seed, replications, out, json_=json_)


def restore(
    model: ModelName, vm: Annotated[str, Option(help="Which VM has the volume.")],
    volume: Annotated[str, Option(help="Which of its volumes.")], vpg: VpgName = None, at: At = "30 min",
    checkpoint: Checkpoint = "latest", set_: Set = None, seed: Seed = None, replications: Seeds = 1, out: Out = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Restore a volume as of a checkpoint, as a new disk at the recovery site; the VPG is not touched."""
    wish = {"kind": "restore", "vm": vm, "volume": volume, "at": at, "checkpoint": checkpoint}
    _carry_out(model, vpg, wish, set_, seed, replications, out, json_=json_)


def plan(
    model: ModelName, vpg: VpgName = None, vm: Vms = None, at: At = "30 min",
    operation: Annotated[str, Option(help="failover, test, move or clone.")] = "failover", set_: Set = None,
) -> None:  # fmt: skip
    """Print the runbook of a recovery operation: its steps, how long each is expected to take, what refuses it."""
    if operation not in KINDS:
        raise FileError(
            f"no operation is called {operation!r}", place="--operation", hint=f"one of: {', '.join(KINDS)}"
        )
    spec = load_model(model, overrides=list(set_ or []))
    wish = {"kind": operation, "at": at, "vpg": only_vpg(spec, vpg), "vms": list(vm or [])}
    report = study.finished(_run(_with(spec, wish, lost=False), None))
    console = _console()
    console.print(f"{operation} of {wish['vpg']} at {at}, if nothing goes wrong", highlight=False)
    if report.outcome is Outcome.REFUSED:
        for reason in report.reasons:
            console.print(f"refused: {reason}", highlight=False)
        raise typer.Exit(1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("after", "step", "takes"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for row in study.runbook(report):
        table.add_row(*row)
    console.print(table)


def _wish(
    what: dict[str, Any], vm: list[str] | None, at: str, checkpoint: str, detect: str, decide: str, on_failure: str,
    instant: bool,
) -> dict[str, Any]:  # fmt: skip
    return {
        **what, "vms": list(vm or []), "at": at, "checkpoint": checkpoint, "detect": detect, "decide": decide,
        "on_failure": on_failure, "instant": instant,
    }  # fmt: skip


def only_vpg(spec: Model, vpg: str | None) -> str:
    """The VPG that is meant: the one that is named, or the model's only one. Raises FileError."""
    names = list(spec.expand()[1])
    if vpg is None and len(names) > 1:
        raise FileError("the model has several VPGs", place="--vpg", hint=f"name one of: {', '.join(names)}")
    if vpg is not None and vpg not in names:
        raise FileError(f"no VPG is called {vpg!r}", place="--vpg", hint=f"one of: {', '.join(names)}")
    return vpg or names[0]


def _with(spec: Model, wish: dict[str, Any], *, lost: bool) -> Model:
    """The model with this operation, and what else was to be recovered left out; as long as it takes."""
    whole = spec.model_dump()
    vpg = spec.expand()[1][wish["vpg"]]
    host = spec.expand()[0][vpg.vms[0]].host
    try:
        at = parse_duration(wish["at"])
    except ValueError as error:
        raise FileError(str(error), place="--at", hint="a time of the run, like 2h30m") from error
    faults = list(whole["faults"])
    if lost:
        assert isinstance(host, str)
        faults.append({"kind": "site-loss", "site": spec.hosts[host].site, "at": wish["at"]})
    others = [o.model_dump() for o in spec.operations if not isinstance(o, RECOVERIES)]
    run = {**whole["run"], "until": max(at + SETTLES, spec.run.until)}
    try:
        return Model.model_validate({**whole, "operations": [*others, wish], "faults": faults, "run": run})
    except ValidationError as error:
        raise _blamed(error, wish) from error


def _blamed(error: ValidationError, wish: dict[str, Any]) -> FileError:
    """What is wrong with the options, said as the options are called."""
    first = error.errors()[0]
    field = next((str(part) for part in first["loc"] if part in wish), "")
    place = f"--{OPTIONS.get(field, field.replace('_', '-'))}" if field else "the operation"
    text = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    return FileError(f"{text}; it is {wish.get(field, '')!r}" if field else text, place=place, hint="see --help")


def _run(spec: Model, seed: int | None) -> Underway:
    run = simulate(spec, seed=seed, stop=lambda world: any(o.report for o in world.recoveries.operations))
    (found,) = run.world.recoveries.operations
    return found


def _carry_out(
    model: str, vpg: str | None, wish: dict[str, Any], set_: list[str] | None, seed: int | None, replications: int,
    out: Path | None, *, json_: bool, lost: bool = False,
) -> None:  # fmt: skip
    spec = load_model(model, overrides=list(set_ or []))
    name = only_vpg(spec, vpg)
    if out is not None:
        refuse_foreign(out)
    spec = _with(spec, {**wish, "vpg": name}, lost=lost)
    first = spec.run.seed if seed is None else seed
    done = [_run(spec, first + n) for n in range(replications)]
    found = [study.figures(each) for each in done]
    command = shlex.join(["drsim", *sys.argv[1:]])
    if out is not None:
        with folder(out) as where:
            study.write(where, done[0], model, command, found)
            (where / MARK).write_text(json.dumps({"operations": found}, indent=2, allow_nan=False) + "\n")
    if json_:
        typer.echo(json.dumps(found[0] if replications == 1 else found, indent=2, allow_nan=False))
    else:
        _print(found, out)
    if found[0]["outcome"] in (Outcome.REFUSED, Outcome.FAILED):
        raise typer.Exit(1)


def _within(found: Interval) -> str:
    """A quantile, and the upper end of its interval when there are enough runs for one."""
    value, _, high = found
    return seconds(value) if high is None or high == value else f"{seconds(value)} (or {seconds(high)})"


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _print(found: list[dict[str, Any]], out: Path | None) -> None:
    console, first = _console(), found[0]
    console.print(study.answer(first), highlight=False)
    for text in first["reasons"]:
        console.print(f"  because: {text}", highlight=False)
    for text in first["people"]:
        console.print(f"  needs a person: {text}", highlight=False)
    if first["rto_s"] is not None:
        parts = " + ".join(f"{name} {seconds(s)}" for name, s in first["parts_s"].items())
        console.print(f"RTO {seconds(first['rto_s'])} = {parts}", highlight=False)
    if len(found) > 1:
        served = sorted(each["rto_s"] for each in found if each["rto_s"] is not None)
        console.print(f"{len(found)} runs: {study.outcomes(found)}", highlight=False)
        if served:
            half, most = (_within(tail(served, share)) for share in (0.5, 0.95))
            console.print(
                f"RTO of {len(served)}: half within {half}, 95 % within {most}, longest {seconds(served[-1])}",
                highlight=False,
            )
            share, low, high = chance(len(served), len(found))
            if len(served) < len(found) and low is not None and high is not None:
                text = f"in service after all: {percent(share)} (95 %: {percent(low)} to {percent(high)})"
                console.print(text, highlight=False)
    if out is not None:
        console.print(f"report: {out / 'report.html'}", highlight=False)
