"""Commands that look at a model without running it: `show`, `check` and `schema`."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from drsim.core.errors import FileError
from drsim.core.units import SECOND
from drsim.files.models import load_model, model_schema
from drsim.spec.faults import Fault
from drsim.spec.model import Model
from drsim.spec.protect import Vpg
from drsim.spec.quantity import format_bandwidth, format_duration, format_size
from drsim.study.check import Finding, bits_text, decimal_text, rate_text, time_text
from drsim.study.check import check as findings_of
from drsim.study.figures import Figures, Rates, fill_seconds

BAD_INPUT = 2
MOST_VMS = 12
"""VMs of a VPG that `show` lists; the rest is counted."""

ModelArgument = Annotated[str, typer.Argument(help="A model file, or the name of a shipped one, such as two-site.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, such as links.wan.bandwidth='20 Mbit/s'."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COLOUR = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "note": typer.colors.CYAN}


def show(model: ModelArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what a model file says, with the figures that follow from it."""
    loaded, figures = _load(model, set_)
    if as_json:
        typer.echo(json.dumps({"model": loaded.model_dump(mode="json"), "figures": derived(figures)}, indent=2))
        return
    Console(highlight=False).print(_tree(Path(model).stem, figures))


def schema() -> None:
    """Print the JSON schema of model files, for an editor."""
    typer.echo(json.dumps(model_schema(), indent=2))


def check(model: ModelArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Say what in a model cannot work. Exit 0: no error found; 1: an error found; 2: the file is wrong."""
    loaded, figures = _load(model, set_)
    found = findings_of(loaded, figures.rates if figures.known else None)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        _print_findings(found)
    if any(each.severity == "error" for each in found):
        raise typer.Exit(1)


def mean_rates(model: Model) -> Rates:
    """Mean (writes/s, bytes/s) of every expanded VM. Reads the traces that workloads name; raises FileError."""
    from drsim.sim.run import load_traces
    from drsim.sim.workload import mean_rate

    traces = load_traces(model)
    return {name: mean_rate(vm.workload, traces.get(vm.workload)) for name, vm in model.expand()[0].items()}


def _load(reference: str, overrides: list[str] | None) -> tuple[Model, Figures]:
    try:
        model = load_model(reference, overrides=overrides or ())
        return model, Figures(model, mean_rates(model))
    except FileError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(BAD_INPUT) from None


def _print_findings(found: list[Finding]) -> None:
    for each in found:
        severity = typer.style(f"{each.severity:8}", fg=_COLOUR[each.severity], bold=each.severity == "error")
        typer.echo(f"{severity} {each.path}: {each.message}")
        if each.hint:
            typer.echo(f"{'':8}   hint: {each.hint}")
    count = Counter(each.severity for each in found)
    parts = [f"{n} {name}{'' if n == 1 else 's'}" for name in _COLOUR if (n := count[name])]  # type: ignore[index]
    typer.echo(", ".join(parts) or "nothing found")


# -- figures --------------------------------------------------------------------------------------------------------


def derived(f: Figures) -> dict[str, Any]:
    """What `show` derives, for programs: bytes, seconds, bytes a second; None for never."""
    links = {}
    for (name, source), vpgs in f.links.items():
        load, capacity = f.load((name, source)), f.model.links[name].bandwidth / 8
        links[f"{name} from {source}"] = {"vpgs": vpgs, "wire_bytes_per_s": load, "load": load / capacity}
    hosts = {}
    for name, vra in f.vras.items():
        sending, receiving = f.usable(name)
        full = fill_seconds(sending, vra.protects, 0.0)
        hosts[name] = {
            "pool_bytes": f.model.hosts[name].vra.pool_bytes,
            "usable_sending_bytes": sending,
            "usable_receiving_bytes": receiving,
            "protects_bytes_per_s": vra.protects,
            "recovers_bytes_per_s": vra.recovers,
            "protected_volumes": vra.protected_volumes,
            "recovered_volumes": vra.recovered_volumes,
            "buffer_full_after_s": full if math.isfinite(full) else None,
        }
    vpgs_ = {}
    for name, vpg in f.vpgs.items():
        worst = f.worst_rpo(vpg)
        vpgs_[name] = {
            "vms": list(vpg.vms),
            "source": f.source(vpg),
            "target": f.target(vpg),
            "writes_per_s": sum(f.rates[vm][0] for vm in vpg.vms),
            "bytes_per_s": f.raw(vpg),
            "wire_bytes_per_s": f.wire(vpg),
            "journal_bytes_per_day": f.raw(vpg) * 86400,
            "history_s": f.history(vpg),
            "checkpoints": _checkpoints(f, vpg),
            "rpo_s": [worst - vpg.checkpoint_interval / SECOND, worst],
        }
    stores = {name: dataclasses.asdict(store) for name, store in f.stores.items()}
    return {"hosts": hosts, "links": links, "vpgs": vpgs_, "datastores": stores}


def _checkpoints(f: Figures, vpg: Vpg) -> int:
    return int(f.history(vpg) * SECOND) // vpg.checkpoint_interval


# -- the tree -------------------------------------------------------------------------------------------------------


def _tree(name: str, f: Figures) -> Tree:
    model = f.model
    root = Tree(f"[bold]{escape(name)}[/bold]  {escape(model.about)}")
    run = model.run
    root.add(f"run {format_duration(run.until)} from {run.clock}, fidelity {run.fidelity}, seed {run.seed}")
    for name_, site in model.sites.items():
        branch = root.add(f"[bold]site {name_}[/bold] ({site.platform})")
        for store in (s for s, spec in model.datastores.items() if spec.site == name_):
            branch.add(_store_line(f, store))
        for host in (h for h, spec in model.hosts.items() if spec.site == name_):
            _add_host(branch, f, host)
    for name_, link in model.links.items():
        one, other = link.between
        branch = root.add(
            f"[bold]link {name_}[/bold] {one} - {other}: {format_bandwidth(link.bandwidth)}, "
            f"{format_duration(link.latency)} one way, {100 * link.loss:g} % loss"
        )
        for source in (s for n, s in f.links if n == name_):
            load = f.load((name_, source))
            branch.add(f"from {source}: mean load {bits_text(load)}, {100 * load * 8 / link.bandwidth:.3g} %")
        for window in link.throttle:
            branch.add(f"from {window.start} to {window.end} replication gets {format_bandwidth(window.limit)}")
    for name_, vpg in f.vpgs.items():
        _add_vpg(root, f, name_, vpg)
    if model.faults:
        branch = root.add("[bold]faults[/bold]")
        for fault in sorted(model.faults, key=lambda each: each.at):
            branch.add(_fault_line(fault))
    return root


def _store_line(f: Figures, name: str) -> str:
    spec, store = f.model.datastores[name], f.stores[name]
    share = max(store.rate * 8 / spec.bandwidth, store.iops / spec.iops)
    journals = f"; journals come to {decimal_text(store.journals)}" if store.journals else ""
    return (
        f"datastore {name}: {format_size(spec.capacity)}, {spec.iops:g} I/Os a second, "
        f"{format_bandwidth(spec.bandwidth)}; mean load {100 * share:.3g} %{journals}"
    )


def _add_host(branch: Tree, f: Figures, name: str) -> None:
    spec, vra = f.model.hosts[name].vra, f.vras[name]
    sending, receiving = f.usable(name)
    tweaks = f.model.tweaks
    node = branch.add(f"host {name}: VRA with {spec.ram} GiB, {spec.vcpus} vCPU, pool {format_size(spec.pool_bytes)}")
    if vra.protected_volumes:
        full = fill_seconds(sending, vra.protects, 0.0)
        sync = f", which {time_text(full)} of writes fill" if math.isfinite(full) else ""
        node.add(
            f"protects {len(vra.vms)} VMs, {vra.protected_volumes} volumes, {rate_text(vra.protects)}; "
            f"{100 * tweaks.buffer_use_protect:g} % of the pool is {_mib(sending)}{sync}"
        )
    if vra.recovered_volumes:
        node.add(
            f"recovers {vra.recovered_volumes} volumes, {rate_text(vra.recovers)}; "
            f"{100 * tweaks.buffer_use_recover:g} % of the pool is {_mib(receiving)}"
        )


def _mib(nbytes: float) -> str:
    return f"{nbytes / (1 << 20):.0f} MiB"


def _add_vpg(root: Tree, f: Figures, name: str, vpg: Vpg) -> None:
    count = f"{len(vpg.vms)} VM{'' if len(vpg.vms) == 1 else 's'}"
    way = f"{f.source(vpg)} to {f.target(vpg)} over {f.link(vpg)}"
    node = root.add(f"[bold]VPG {name}[/bold] {count}, {way}, {vpg.priority} priority")
    limit = vpg.journal.limit_bytes
    writes, raw, history = sum(f.rates[vm][0] for vm in vpg.vms), f.raw(vpg), f.history(vpg)
    node.add(
        f"writes {rate_text(raw)} in {writes:.3g} writes/s, {bits_text(f.wire(vpg))} on the link; "
        f"journal grows {decimal_text(raw * 86400)} a day"
    )
    node.add(
        f"history {time_text(history)} of {format_duration(vpg.journal.history)}, "
        f"{'no limit' if limit is None else format_size(limit) + ' a VM'}; {_checkpoints(f, vpg)} checkpoints"
    )
    worst, interval = f.worst_rpo(vpg), vpg.checkpoint_interval / SECOND
    node.add(
        f"RPO in health {time_text(worst - interval)} to {time_text(worst)}, alert at {format_duration(vpg.rpo_alert)}"
    )
    for n, vm in enumerate(vpg.vms[:MOST_VMS]):
        target = vpg.recovery.hosts[n % len(vpg.recovery.hosts)]
        spec, (per_s, rate) = f.vms[vm], f.rates[vm]
        disks = f"{len(spec.volumes)} x " if len(spec.volumes) > 1 else ""
        size = format_size(sum(volume.size for volume in spec.volumes))
        node.add(
            f"VM {vm} on {f.host(vm)}, to {target}: {disks}{size}, {spec.workload.kind}, "
            f"{per_s:.3g} writes/s, {rate_text(rate)}"
        )
    if len(vpg.vms) > MOST_VMS:
        node.add(f"and {len(vpg.vms) - MOST_VMS} more")


def _fault_line(fault: Fault) -> str:
    said = fault.model_dump(mode="json", exclude={"kind", "at"}, exclude_none=True)
    return f"at {format_duration(fault.at)} {fault.kind}: " + ", ".join(f"{key} {value}" for key, value in said.items())
