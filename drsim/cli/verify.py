"""`drsim verify` and `drsim replay`: look for violations with a swarm of programs, and play one again."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import drsim
from drsim.core.errors import FileError, PlatformError
from drsim.core.trace import TraceLines
from drsim.verify.complaint import complaint, demand
from drsim.verify.hunt import HUNTERS, watch
from drsim.verify.probes import EPOCH_PROBES, PROBES
from drsim.verify.properties import PROPERTIES
from drsim.verify.store_programs import StoreProbes
from drsim.verify.swarm import Tally, operations, swarm
from drsim.verify.token import decode
from drsim.verify.violation import Violation

ENOUGH = {"explorer": 5000, "epochs": 1000, "store": 500}
"""Programs after which every probe of their kind should have been hit."""
ALL_PROBES = {
    **dict.fromkeys(PROBES, "explorer"),
    **dict.fromkeys(EPOCH_PROBES, "epochs"),
    **{probe.value: "store" for probe in StoreProbes},
}
console = Console(soft_wrap=True)


def verify(
    seconds: Annotated[float | None, typer.Option(help="How long to look; 10 when nothing is said.", min=0.1)] = None,
    programs: Annotated[int | None, typer.Option(help="How many programs to play instead.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Number of the first program.", min=0)] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; as many as there are cores.", min=1)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to play on instead.")] = None,
    save: Annotated[Path | None, typer.Option(help="A directory for the tokens of what is found.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Real sites on this machine instead, under faults.")] = False,
    rounds: Annotated[
        int | None, typer.Option(help="Of --live: how many faults; 20 when nothing is said.", min=1)
    ] = None,
    first_round: Annotated[
        int | None, typer.Option(help="Of --live: number of the first round; each has its own seed.", min=0)
    ] = None,
    every_step: Annotated[
        int | None,
        typer.Option(help="Of --live, instead of faults: kill the manager at every Nth step of each operation.", min=1),
    ] = None,
) -> None:
    """Let a swarm of byte programs attack the core, and check every property after every step.

    A step is one event handled by a machine of the core, with the oracle on. Exits with 1 when a property was
    violated, or when a probe was never hit in a run that is long enough to hit all; with 130 when it was interrupted.
    """
    if live:
        if seconds or programs or workers or scheduler or save:
            hint = "it takes --rounds, --first-round, --every-step, --seed and --json"
            raise FileError("--live was given with an option of the swarm", hint=hint)
        if every_step is not None:
            _verify_steps(every_step, as_json=as_json)
            return
        _verify_live(rounds or 20, first_round or 0, seed, as_json=as_json)
        return
    for option, given in (("--rounds", rounds), ("--first-round", first_round), ("--every-step", every_step)):
        if given is not None:
            raise FileError(f"{option} was given without --live", hint="--programs or --seconds end a swarm")
    if seconds is not None and programs is not None:
        raise FileError("--seconds and --programs were both given", hint="one of them ends the run")
    if seconds is None and programs is None:
        seconds = 10.0
    if save is not None:
        _make(save)
    workers = workers or os.cpu_count() or 1
    began = time.monotonic()
    with _executor(workers, scheduler) as executor, _progress(seconds, programs, quiet=as_json) as show:
        tally = swarm(executor, workers=workers, seed=seed, seconds=seconds, programs=programs, progress=show)
    figures = _figures(tally, time.monotonic() - began, workers, seed)
    if save is not None:
        for found in tally.found:
            (save / f"{found.verdict.prop.lower()}-{found.kind}-{found.seed}.token").write_text(found.token + "\n")
    if as_json:
        print(json.dumps(figures, indent=2))  # noqa: T201
    else:
        _report(tally, figures)
    if tally.found or figures["probes_missed"]:
        raise typer.Exit(1)
    if tally.interrupted:
        raise typer.Exit(130)


def _verify_live(rounds: int, first: int, seed: int, *, as_json: bool) -> None:
    try:
        from drsim.cli.siege import besiege
    except ImportError as error:
        raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
    folder = Path(tempfile.mkdtemp(prefix="drsim-live-"))
    errors = Console(stderr=True)
    columns = (TextColumn("besieging"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=as_json or not errors.is_terminal) as bar:
        task = bar.add_task("", total=rounds)

        def over(said: str) -> None:
            bar.advance(task)
            errors.print(said, highlight=False)

        try:
            tally = besiege(folder, rounds=rounds, seed=seed, first=first, progress=over)
        except Violation as violation:
            bar.stop()
            _violated(violation.prop, violation.message)
            console.print(f"  kept  {folder}: logs, transcripts (drsim replay), history (drsim judge)", highlight=False)
            again = f"drsim verify --live --seed {seed} --rounds {rounds} --first-round {first}"
            console.print(f"  again  {again}", highlight=False)
            raise typer.Exit(1) from None
    shutil.rmtree(folder)
    if as_json:
        print(json.dumps(tally.figures(), indent=2))  # noqa: T201
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("fault", "rounds", "checkpoints judged", "refused", "slowest return"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for fault, row in sorted(tally.figures()["faults"].items()):
        table.add_row(fault, *(str(row[key]) for key in ("rounds", "judged", "refused")), f"{row['slowest_s']:.1f} s")
    console.print(table, highlight=False)
    console.print(
        f"{tally.writes:,} writes; {tally.transcripts} transcripts played again, {tally.steps:,} steps", highlight=False
    )
    console.print("no violation", style="bold green")


def _verify_steps(stride: int, *, as_json: bool) -> None:
    try:
        from drsim.cli.everystep import every_step
    except ImportError as error:
        raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
    if shutil.which("qemu-system-x86_64") is None:
        raise PlatformError("qemu-system-x86_64 is not installed", hint="Debian package qemu-system-x86")
    folder = Path(tempfile.mkdtemp(prefix="drsim-live-"))
    errors = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=errors, transient=True) as bar:
        task = bar.add_task("", total=None)
        try:
            killed = every_step(
                folder / "estate", stride=stride,
                progress=lambda name, n: bar.update(task, description=f"{name}, killed at step {n}"),
            )  # fmt: skip
        except Violation as violation:
            bar.stop()
            _violated(violation.prop, violation.message)
            console.print(f"  kept  {folder}: logs, histories, disks", highlight=False)
            raise typer.Exit(1) from None
    shutil.rmtree(folder)
    if as_json:
        print(json.dumps(killed, indent=2))  # noqa: T201
        return
    for name, steps in killed.items():
        console.print(f"{name}: killed at {steps} steps", highlight=False)
    console.print("no violation", style="bold green")


def _make(directory: Path) -> None:
    """Before anything is looked for: what is found must not be lost for want of a place."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {error.strerror}", place=str(directory), hint="choose another one") from error


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    if scheduler is None:
        deaf = (signal.SIGINT, signal.SIG_IGN)  # an interrupt is ours to answer; theirs is to finish the batch
        with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, deaf) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise FileError("--scheduler needs Dask", hint="install drsim with its extra: drsim[cluster]") from error
    connect: Any = Client  # it has no types
    try:
        client = connect(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise FileError(f"no scheduler at {scheduler}: {error}", hint="for example tcp://10.0.0.5:8786") from error
    with client, client.get_executor() as pool:
        yield pool


@contextmanager
def _progress(seconds: float | None, programs: int | None, *, quiet: bool) -> Iterator[Any]:
    """A bar on a terminal's error output, nothing elsewhere."""
    columns = (TextColumn("verifying"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[said]}"))
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task("", total=programs or seconds, said="")
        began = time.monotonic()

        def show(tally: Tally) -> None:
            done = tally.programs if programs else time.monotonic() - began
            bar.update(task, completed=done, said=f"{tally.programs:,} programs, {tally.steps:,} steps")

        yield show


def _figures(tally: Tally, wall: float, workers: int, seed: int) -> dict[str, Any]:
    """What `--json` prints; stable.

    `steps_per_s` is by the clock on the wall, `steps_per_s_per_core` by the time that processors spent on programs
    whose steps are counted. `kinds` are programs of each kind, `played_twice` programs played in another process as
    well, `properties` those that were checked, `probes_missed`
    names that such a long run should have reached (none are named beside a violation, which ends a run early).
    """
    expected = {name for name, kind in ALL_PROBES.items() if tally.kinds[kind] >= ENOUGH[kind]}
    missed = sorted(expected - tally.probes.keys())
    return {
        "programs": tally.programs,
        "kinds": dict(tally.kinds),
        "steps": tally.steps,
        "steps_per_s": round(tally.steps / wall) if wall else 0,
        "steps_per_s_per_core": round(tally.steps / tally.seconds) if tally.seconds else 0,
        "seconds": round(wall, 2),
        "workers": workers,
        "first_seed": seed,
        "distinct_states": len(tally.states),
        "played_twice": tally.replayed,
        "interrupted": tally.interrupted,
        "properties": sorted(PROPERTIES, key=lambda p: int(p[1:])),
        "probes_hit": len(tally.probes.keys() & ALL_PROBES.keys()),
        "probes": len(ALL_PROBES),
        "probes_missed": [] if tally.found else missed,
        "violations": [
            {
                "property": found.verdict.prop,
                "message": found.verdict.message,
                "kind": found.kind,
                "seed": found.seed,
                "operations": found.operations,
                "token": found.token,
            }
            for found in tally.found
        ],
    }


def _report(tally: Tally, figures: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in figures["kinds"].items())
    table.add_row("programs", f"{figures['programs']:,}  ({kinds})")
    table.add_row("steps", f"{figures['steps']:,}  ({figures['steps_per_s_per_core']:,} per second and core)")
    table.add_row("distinct states", f"{figures['distinct_states']:,}")
    table.add_row("played twice", f"{figures['played_twice']:,}  (in another process, with another hash seed)")
    table.add_row("properties", f"{len(PROPERTIES)}  ({', '.join(figures['properties'])})")
    table.add_row("probes hit", f"{figures['probes_hit']} of {figures['probes']}")
    console.print(table, highlight=False)
    for found in tally.found:
        console.print()
        console.print(complaint(found), style="red", markup=False, highlight=False)
    if figures["probes_missed"]:
        console.print("\nnever reached, so nothing was proved there:", style="bold red")
        for name in figures["probes_missed"]:
            console.print(f"  {name}", highlight=False)
    elif not tally.found:
        so_far = "interrupted; no violation so far" if tally.interrupted else "no violation"
        console.print(f"\n{so_far}", style="bold yellow" if tally.interrupted else "bold green")


def replay(
    token: Annotated[str, typer.Argument(help="A reproduction token (dr1. ...), or the transcript of a live site.")],
    trace: Annotated[bool, typer.Option("--trace", help="Print every step of the core.")] = False,
) -> None:
    """Play it: the same steps, in any process. Exits with 1 when a property is violated, or the core fails."""
    if not token.startswith("dr1.") and Path(token).exists():
        _replay_transcript(Path(token), trace=trace)
        return
    it = decode(token)
    hunter = HUNTERS[it.kind]
    if trace and hunter.trace is None:
        raise FileError(f"programs of kind {it.kind!r} have no trace", hint="explorer and twins programs have")
    if trace and hunter.trace is not None:
        lines = TraceLines()
        hunter.trace(it.program, lines)
        _print(lines)
    verdict, played = watch(hunter, it.program)
    said = f"{it.kind} program of {operations(it.kind, it.program)} operations, written by drsim {it.version}"
    if it.version != drsim.__version__:
        said += f"; this is {drsim.__version__}, which may take other steps"
    console.print(said, highlight=False)
    if verdict is None or hunter.trace is not None:
        console.print(f"digest {hunter.digest(it.program)}", highlight=False)
    if verdict is None:
        console.print(f"no violation in {played.steps:,} steps", style="bold green", highlight=False)
        return
    _violated(verdict.prop, verdict.message)
    raise typer.Exit(1)


def _replay_transcript(path: Path, *, trace: bool) -> None:
    from drsim.verify.transcripts import replay as play

    lines = TraceLines() if trace else None
    try:
        played = play(path, lines)
    except Violation as violation:
        _violated(violation.prop, violation.message)
        raise typer.Exit(1) from None
    finally:
        if lines is not None:
            _print(lines)
    said = f"site {played.site}, drsim {played.version}: {played.machines} machines, {played.steps:,} steps"
    console.print(said, highlight=False)
    if played.broke:
        console.print(
            f"the core fails in the last step\n  {played.broke}", style="bold red", markup=False, highlight=False
        )
        raise typer.Exit(1)
    console.print("the same effects in every step", style="bold green", highlight=False)


def _violated(prop: str, seen: str) -> None:
    console.print(f"{prop} does not hold: {demand(prop)}", style="bold red", highlight=False)
    console.print(f"  seen  {seen}", markup=False, highlight=False)


def _print(lines: TraceLines) -> None:
    for line in lines.lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
