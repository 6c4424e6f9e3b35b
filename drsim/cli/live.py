"""`drsim pki`, `drsim site` and `drsim live`: real sites, in the words of the simulated ones."""

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from drsim.cli import rehearse as rehearsal
from drsim.cli.estate import of_estate
from drsim.cli.manager import Manager, console, table
from drsim.core.errors import FileError, PlatformError
from drsim.files.sites import load_site
from drsim.spec.quantity import parse_duration, parse_size

Option = typer.Option
SiteArgument = Annotated[Path, Option("--site", envvar="DRSIM_SITE", help="The site's file; or set DRSIM_SITE.")]
Vpg = Annotated[str, typer.Argument(help="Name of the VPG.")]
Vms = Annotated[list[str] | None, Option("--vm", help="Only this VM of it; may be given several times.")]
At = Annotated[str, Option("--checkpoint", help="latest, 'latest tagged', a tag or a number.")]
Commit = Annotated[str, Option(help="commit, rollback or none: what happens when nobody has decided in time.")]
Wait = Annotated[str, Option(help="Until then: 0s, or 300s to 24h.")]
Shutdown = Annotated[str, Option(help="none, graceful or force: what is done to the source's VMs.")]
Network = Annotated[str, Option("--network", help="Of all recovered VMs, by DHCP; else what their re-IP says.")]
Instant = Annotated[bool, Option("--instant", help="Boot at once; journal and mirror are read where they lie.")]
Reverse = Annotated[bool, Option("--reverse", help="After the commit, protect them the other way.")]
Rehearse = Annotated[bool, Option("--rehearse", help="First simulate it, with what was measured here, and compare.")]
DryRun = Annotated[bool, Option("--dry-run", help="Print the plan and what refuses it; change nothing.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
Follow = Annotated[bool, Option("--follow/--no-follow", help="Wait until it is over, or wants a decision.")]
Number = Annotated[int, typer.Argument(help="Number of the operation.")]
SECOND = 10**9

pki = typer.Typer(no_args_is_help=True, help="Certificates by which real sites know each other.", rich_markup_mode=None)
site = typer.Typer(no_args_is_help=True, help="Real sites: run one.", rich_markup_mode=None)
live = typer.Typer(no_args_is_help=True, help="Real sites: look, protect, recover.", rich_markup_mode=None)


@pki.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="Where the authority and the sites' folders are made.")],
    sites: Annotated[list[str], Option("--for", help="A site; give it once for each.")],
) -> None:
    """Make an authority, unless it is there, and a key and certificate for each site."""
    from drsim.real import pki as keys

    keys.init(folder, sites)
    for name in sites:
        typer.echo(f"{folder / name}: copy this folder to site {name}; ca.key stays here")


@site.command("up")
def up(
    file: Annotated[Path, typer.Argument(help="The site's file.")],
    armed: Annotated[bool, Option("--armed", help="Let it change something: protect, power, recover.")] = False,
    transcript: Annotated[
        bool, Option("--transcript", help="Write all that its core is told, for drsim replay.")
    ] = False,
) -> None:
    """Run a real site until it is told to end (Ctrl-C). Its VMs run on."""
    try:
        from drsim.real.serve import serve
    except ImportError as error:
        raise PlatformError(f"real sites need {error.name}", hint="install drsim[live]") from error
    asyncio.run(serve(load_site(file), file.parent, armed=armed, transcript=transcript))


@live.command()
def status(site: SiteArgument, json_: Json = False) -> None:
    """The site, its connection, and its VPGs."""
    found = Manager(site).ask("GET", "/status")
    if json_:
        typer.echo(json.dumps(found, indent=2))
        return
    peer = found["peer"]
    state = "connected" if peer["connected"] else f"not connected {peer['error']}".strip()
    console().print(f"site {found['site']}, peer {peer['site']} {state}", highlight=False)
    for stream, why in found["damaged"].items():
        console().print(f"damaged and set aside: {stream}: {why}", style="red", highlight=False, markup=False)
    for what, why in found["failing"].items():
        console().print(f"fails and is tried again: {what}: {why}", style="red", highlight=False, markup=False)
    for stream, why in found["stores"].items():
        console().print(f"the journal takes no data: {stream}: {why}", style="red", highlight=False, markup=False)
    for disk, why in found["missing"].items():
        console().print(f"disk {disk} is not served: {why}", style="red", highlight=False, markup=False)
    if found["vpgs"]:
        columns = ("vpg", "from", "to", "vms", "status", "sub_status", "rpo_s", "checkpoints", "newest", "generation")
        table(found["vpgs"], *columns)


@live.command()
def vms(site: SiteArgument, json_: Json = False) -> None:
    """All VMs of the site, and whether they run."""
    table(Manager(site).ask("GET", "/vms"), "name", "owner", "memory", "cpus", "disks", "pid", "paused", json_=json_)


@live.command()
def power(
    site: SiteArgument, vm: Annotated[str, typer.Argument(help="Name of the VM.")],
    off: Annotated[bool, Option("--off", help="Pull its plug.")] = False,
) -> None:  # fmt: skip
    """Start a VM of the site and wait for its guest, or pull its plug."""
    found = Manager(site).ask("POST", f"/vms/{vm}/power", {"on": not off})
    typer.echo(f"{vm} runs" if found["pid"] else f"{vm} is off")


@live.command()
def record(
    site: SiteArgument, vm: Annotated[str, typer.Argument(help="Name of the VM.")],
    end: Annotated[bool, Option("--end", help="End the recording.")] = False,
) -> None:  # fmt: skip
    """Record what a VM writes, as a trace for `drsim run --trace`; with --end, stop."""
    found = Manager(site).ask("POST", f"/vms/{vm}/record", {"on": not end})
    typer.echo(f"{found['file']}: {found['writes']} writes" if end else f"recording to {found['file']}")


@live.command()
def protect(
    site: SiteArgument, vpg: Vpg,
    vm: Annotated[list[str] | None, Option("--vm", help="A VM; may be given several times.")] = None,
    to: Annotated[str, Option("--to", help="Host of the other site that would run them.")] = "",
    interval: Annotated[str, Option(help="Between checkpoints.")] = "5s",
    history: Annotated[str, Option(help="How far back checkpoints are kept.")] = "24h",
    rpo_alert: Annotated[str, Option(help="RPO above which the service level is missed.")] = "5min",
    journal: Annotated[str | None, Option(help="Hard limit of each VM's journal.")] = None,
    epochs: Annotated[str | None, Option(help="Between snapshots, of VMs on a platform (1min).")] = None,
) -> None:  # fmt: skip
    """Protect VMs of this site at the other one; without --vm and --to, as the site's estate says."""
    if vm and to:
        seconds = {name: _seconds(text, name) for name, text in
                   (("interval", interval), ("history", history), ("rpo_alert", rpo_alert))}  # fmt: skip
        size = None if journal is None else parse_size(journal)
        body = {"name": vpg, "vms": vm, "target_host": to, "journal_bytes": size, **seconds}
    else:
        body = of_estate(site, vpg)
    if epochs is not None:
        body["epochs"] = _seconds(epochs, "epochs")
    Manager(site).ask("POST", "/vpgs", body)
    typer.echo(f"{vpg} is being protected: drsim live status shows how far")


@live.command()
def unprotect(
    site: SiteArgument, vpg: Vpg,
    keep_disks: Annotated[bool, Option("--keep-disks", help="Leave the mirrors at the other site.")] = False,
) -> None:  # fmt: skip
    """Protect a VPG no more: its journals at the other site are deleted."""
    Manager(site).ask("DELETE", f"/vpgs/{vpg}?keep_disks={str(keep_disks).lower()}")
    typer.echo(f"{vpg} is being deleted")


@live.command()
def checkpoint(site: SiteArgument, vpg: Vpg, tag: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Take a checkpoint now, under a name."""
    Manager(site).ask("POST", f"/vpgs/{vpg}/checkpoints", {"tag": tag})
    typer.echo(f"asked for checkpoint {tag!r}")


@live.command()
def checkpoints(site: SiteArgument, vpg: Vpg, json_: Json = False) -> None:
    """What a VPG can be recovered from, oldest first; ask its recovery site."""
    rows = Manager(site).ask("GET", f"/vpgs/{vpg}/checkpoints")
    table(rows, "checkpoint", "taken", "tag", "note", json_=json_)


@live.command()
def pause(site: SiteArgument, vpg: Vpg) -> None:
    """Pause replication: what is written is remembered, and sent later."""
    Manager(site).ask("POST", f"/vpgs/{vpg}/pause")


@live.command()
def resume(site: SiteArgument, vpg: Vpg) -> None:
    """Let replication go on."""
    Manager(site).ask("POST", f"/vpgs/{vpg}/resume")


@live.command()
def sync(site: SiteArgument, vpg: Vpg) -> None:
    """Compare everything with the other side, and send what differs."""
    Manager(site).ask("POST", f"/vpgs/{vpg}/sync")


@live.command()
def failover(
    site: SiteArgument, vpg: Vpg, vm: Vms = None, at: At = "latest", shutdown: Shutdown = "none",
    commit: Annotated[str, Option(help="commit, rollback or none; has to be said.")] = "", wait: Wait = "0s",
    network: Network = "", instant: Instant = False, reverse: Reverse = False, dry_run: DryRun = False,
    rehearse: Rehearse = False,
    follow: Follow = True, json_: Json = False,
) -> None:  # fmt: skip
    """Recover a VPG in place of its source; ask its recovery site."""
    _say_commit(commit)
    what = {"kind": "failover", "shutdown": shutdown, "commit": commit, "wait": int(_seconds(wait, "wait"))}
    wish = {**what, "vms": vm or [], "checkpoint": at, "instant": instant, "reverse": reverse}
    wish["network"] = network
    _operate(site, vpg, wish, dry_run=dry_run, rehearse=rehearse, follow=follow, json_=json_)


@live.command("test")
def failover_test(
    site: SiteArgument, vpg: Vpg, vm: Vms = None, at: At = "latest", network: Network = "", instant: Instant = False,
    dry_run: DryRun = False, rehearse: Rehearse = False, follow: Follow = True, json_: Json = False,
) -> None:  # fmt: skip
    """Recover a VPG beside its source, which runs on, until `drsim live stop`."""
    wish = {"kind": "failover test", "vms": vm or [], "checkpoint": at, "instant": instant, "network": network}
    _operate(site, vpg, wish, dry_run=dry_run, rehearse=rehearse, follow=follow, json_=json_)


@live.command()
def move(
    site: SiteArgument, vpg: Vpg, vm: Vms = None, shutdown: Shutdown = "graceful", commit: Commit = "commit",
    wait: Wait = "0s", keep_source: Annotated[bool, Option("--keep-source", help="Keep the source's VMs.")] = False,
    network: Network = "", instant: Instant = False, reverse: Reverse = False, dry_run: DryRun = False,
    follow: Follow = True, json_: Json = False,
) -> None:  # fmt: skip
    """Move a VPG in good order: nothing is lost, or everything is back as it was."""
    what = {"kind": "move", "shutdown": shutdown, "commit": commit, "wait": int(_seconds(wait, "wait"))}
    wish = {**what, "vms": vm or [], "keep_source": keep_source, "instant": instant, "reverse": reverse}
    wish["network"] = network
    _operate(site, vpg, wish, dry_run=dry_run, follow=follow, json_=json_)


@live.command()
def reverse(
    site: SiteArgument, vpg: Vpg, dry_run: DryRun = False, follow: Follow = True, json_: Json = False
) -> None:  # fmt: skip
    """Protect a VPG that was failed over the other way; ask the site where it runs. The old disks are compared."""
    _operate(site, vpg, {"kind": "reverse"}, dry_run=dry_run, follow=follow, json_=json_)


@live.command()
def clone(
    site: SiteArgument, vpg: Vpg, vm: Vms = None, at: At = "latest", dry_run: DryRun = False, follow: Follow = True,
    json_: Json = False,
) -> None:  # fmt: skip
    """Clone a VPG's VMs as of a checkpoint, powered off."""
    wish = {"kind": "clone", "vms": vm or [], "checkpoint": at}
    _operate(site, vpg, wish, dry_run=dry_run, follow=follow, json_=json_)


@live.command()
def restore(
    site: SiteArgument, vpg: Vpg, volume: Annotated[str, Option(help="VM/volume.")], at: At = "latest",
    in_place: Annotated[bool, Option("--in-place", help="In its place at the source, where its VM is off.")] = False,
    export: Annotated[bool, Option("--export", help="Copy nothing; serve it over NBD until it is stopped.")] = False,
    commit: Commit = "", wait: Wait = "0s", dry_run: DryRun = False, follow: Follow = True, json_: Json = False,
) -> None:  # fmt: skip
    """Restore a volume as of a checkpoint: as a disk of its own, in its place, or to be looked into."""
    if in_place:
        _say_commit(commit)
    what = {"commit": commit or "none", "wait": int(_seconds(wait, "wait")), "in_place": in_place, "export": export}
    wish = {"kind": "restore", "volume": volume, "checkpoint": at, **what}
    _operate(site, vpg, wish, dry_run=dry_run, follow=follow, json_=json_)


@live.command()
def commit(site: SiteArgument, operation: Number) -> None:
    """Commit an operation that waits for it."""
    _decide(site, operation, "commit", "")


@live.command()
def rollback(site: SiteArgument, operation: Number, note: str = "") -> None:
    """Roll back an operation that waits: everything is as it was."""
    _decide(site, operation, "roll back", note)


@live.command()
def stop(
    site: SiteArgument, operation: Number,
    note: Annotated[str, Option(help="How the test went; it is written on the checkpoint.")] = "",
) -> None:  # fmt: skip
    """Stop a failover test, or looking into a volume."""
    _decide(site, operation, "commit", note)


@live.command()
def cancel(site: SiteArgument, operation: Number) -> None:
    """Stop an operation where it is, and undo it."""
    _decide(site, operation, "cancel", "")


@live.command()
def report(site: SiteArgument, operation: Number, json_: Json = False) -> None:
    """What an operation did, step by step."""
    found = Manager(site).ask("GET", f"/operations/{operation}")
    _report(found, json_=json_, steps=True)


@live.command()
def events(site: SiteArgument, json_: Json = False) -> None:
    """What happened at the site, oldest first."""
    table(Manager(site).ask("GET", "/events"), "fact", "what", json_=json_)


def _say_commit(commit: str) -> None:
    if not commit:
        hint = "commit: at once, or after --wait; rollback: unless somebody commits; none: wait for ever"
        raise FileError("say what happens when nobody decides", place="--commit", hint=hint)


def _seconds(text: str, option: str) -> float:
    try:
        return parse_duration(text) / SECOND
    except ValueError as error:
        raise FileError(str(error), place=f"--{option.replace('_', '-')}", hint="a time, like 5s or 2h30m") from error


def _operate(
    site: Path, vpg: str, wish: dict[str, Any], *, dry_run: bool, follow: bool, json_: bool, rehearse: bool = False
) -> None:  # fmt: skip
    manager = Manager(site)
    expected = rehearsal.rehearse(manager, vpg, wish) if rehearse else None
    if expected is not None and not json_:
        rehearsal.show(expected)
    if expected is not None and dry_run:
        if json_:
            typer.echo(json.dumps(expected, indent=2))
        return
    answer = manager.ask("POST", "/operations", {"wish": {**wish, "vpg": vpg}, "dry_run": dry_run})
    if dry_run:
        _dry(answer, json_=json_)
        return
    number = answer["operation"]
    found = manager.ask("GET", f"/operations/{number}")
    while follow and not found["outcome"] and not found["waiting"]:
        time.sleep(0.05)
        found = manager.ask("GET", f"/operations/{number}")
    _report({**found, "expected": expected} if json_ and expected else found, json_=json_, steps=False)
    if expected is not None and not json_:
        rehearsal.beside(expected, found)
    if found["outcome"] in ("refused", "failed"):
        raise typer.Exit(1)


def _dry(answer: dict[str, Any], *, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(f"{answer['kind']} of {answer['vpg']} would make:")
        for vm in answer["vms"]:
            typer.echo(f"  {vm['vm']} on {vm['host']}, boot group {vm['group']}")
        for reason in answer["refused"]:
            typer.echo(f"refused: {reason}")
    if answer["refused"]:
        raise typer.Exit(1)


def _decide(site: Path, operation: int, verdict: str, note: str) -> None:
    manager = Manager(site)
    manager.ask("POST", f"/operations/{operation}/decision", {"verdict": verdict, "note": note})
    while not (found := manager.ask("GET", f"/operations/{operation}"))["outcome"]:
        time.sleep(0.05)
    _report(found, json_=False, steps=False)


def _report(found: dict[str, Any], *, json_: bool, steps: bool) -> None:
    if json_:
        typer.echo(json.dumps(found, indent=2))
        return
    how = found["outcome"] or ("waits for a decision" if found.get("waiting") else "is under way")
    text = f"operation {found['operation']}: {found['kind']} of {found['vpg']} {how}"
    console().print(text, highlight=False)
    for uri in found.get("exports", ()):
        console().print(f"  {uri}", highlight=False, soft_wrap=True)
    for reason in found.get("reasons", ()):
        console().print(f"  because: {reason}", highlight=False)
    for each in found.get("people", ()):
        console().print(f"  needs a person: {each}", highlight=False)
    if found.get("rto_s") is not None:
        rpo = "" if found["rpo_s"] is None else f"RPO {found['rpo_s']:.2f} s, "
        parts = " + ".join(f"{name} {s:.2f}" for name, s in found["parts_s"].items() if s >= 0.005)
        console().print(f"  {rpo}RTO {found['rto_s']:.2f} s = {parts}", highlight=False)
    if steps:
        first = found["steps"][0]["begun"] if found["steps"] else 0
        for step in found["steps"]:
            took = "" if step["ended"] is None else f"{step['ended'] - step['begun']:.3f} s"
            error = f"  failed: {step['error']}" if step["error"] else ""
            console().print(f"  +{step['begun'] - first:8.3f} s  {step['what']}  {took}{error}", highlight=False)


@live.command()
def demo(
    vms: Annotated[int, Option(min=1, max=10, help="How many VMs.")] = 2,
    interval: Annotated[str, Option(help="Between checkpoints.")] = "2s",
    out: Annotated[Path | None, Option(help="Folder for summary.json and report.html.")] = None,
    json_: Json = False,
) -> None:
    """Protect VMs between two real sites on this machine, lose one site, fail over, and compare with the simulation."""
    from drsim.cli.demo import run

    run(vms, interval, out, json_=json_)
