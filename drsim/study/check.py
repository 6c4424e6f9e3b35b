"""Checks of a model before it runs: what cannot work, what will not last, and what is worth knowing, with figures.

Every rule is arithmetic on mean rates (`drsim.study.figures`). A clean check is no proof: bursts, losses and
coincidences are what the simulation is for.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from drsim.core.units import SECOND
from drsim.spec.faults import LinkDegraded, LinkDown, LinkFlapping, SiteLoss
from drsim.spec.model import MIB, Model
from drsim.spec.protect import GIB
from drsim.spec.quantity import format_bandwidth, format_duration, format_size
from drsim.spec.workload import Fitted, Plain
from drsim.study.figures import (
    Figures,
    Outage,
    Rates,
    burst,
    day,
    day_backlog,
    fill_seconds,
    mathis,
    reached_history,
)

Severity = Literal["error", "warning", "note"]
RANKS = ("high", "medium", "low")
LEAST_WAN = 5_000_000
"""Bits a second that the field asks for (products.md 1.6)."""
MOST_VOLUMES = 1500
"""Per VRA (products.md 1.6)."""
AWS_LINUX, AWS_WINDOWS = 40, 26
"""Volumes of one VM recovered to AWS (products.md 1.7)."""
VCD_STEPS = (10, 15, 20, 25, 30, 35, 40, 45, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000)
"""Journal sizes of a vCD service profile, in GB of 1024 MB (products.md 1.4)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found: where in the model, what with figures, and what to do about it."""

    severity: Severity
    path: str
    message: str
    hint: str


def check(model: Model, rates: Rates | None) -> list[Finding]:
    """What is wrong with a model, worst first. `rates` maps expanded VM names to mean (writes/s, bytes/s).

    Without rates only the rules that need none are tried, and a note says so.
    """
    figures = Figures(model, rates)
    found = [each for rule in (*_ALWAYS, *(_WITH_RATES if figures.known else ())) for each in rule(figures)]
    if not figures.known:
        found.append(Finding("note", "vms", "no write rates are known: loads and histories are not checked", ""))
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(dict.fromkeys(found), key=lambda f: order[f.severity])


def time_text(seconds: float) -> str:
    """A duration to three digits: "30 min", "226 s"."""
    if math.isinf(seconds):
        return "for ever"
    for unit, factor in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * factor * (2 if unit == "min" else 1):
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def rate_text(nbytes: float) -> str:
    """Bytes a second: "28.4 MB/s"."""
    return f"{decimal_text(nbytes)}/s"


def bits_text(nbytes: float) -> str:
    """A rate of bytes as bits a second: "55.2 Mbit/s"."""
    return format_bandwidth(round(nbytes * 8))


def decimal_text(nbytes: float) -> str:
    """Bytes in powers of 1000, as traffic is counted: "172.8 GB"."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.4g} {unit}"
    return f"{nbytes:.3g} B"


def _size(nbytes: float) -> str:
    """Bytes in powers of 1024, as buffers and journals are set: "2.21 GiB"."""
    return f"{nbytes / GIB:.3g} GiB" if nbytes >= GIB else f"{nbytes / MIB:.3g} MiB"


# -- rules that need no rates ---------------------------------------------------------------------------------------


def _references(f: Figures) -> Iterator[Finding]:
    protected = {vm for vpg in f.model.vpgs.values() for vm in vpg.vms}
    for name, vm in f.model.vms.items():
        sites = {f.model.hosts[h].site for h in ((vm.host,) if isinstance(vm.host, str) else vm.host)}
        store = f.model.datastores[vm.datastore].site
        if sites != {store}:
            text = f"the disks lie at site {store!r}, the VM runs at {', '.join(sorted(sites))}"
            yield Finding("error", f"vms.{name}.datastore", text, "name a datastore of the VM's own site")
        if name not in protected:
            yield Finding("note", f"vms.{name}", "is in no VPG and not protected", "add it to a VPG")
    used = {f.link(vpg) for vpg in f.vpgs.values()}
    for name in f.model.links:
        if name not in used:
            yield Finding("note", f"links.{name}", "carries no VPG", "the first link between two sites is used")
    for name, vpg in f.model.vpgs.items():
        hosts = {h for vm in vpg.vms for h in _hosts(f.model, vm)} & set(vpg.recovery.hosts)
        if hosts:
            text = f"{', '.join(sorted(hosts))} both protects and recovers it; losing that host loses both"
            yield Finding("warning", f"vpgs.{name}.recovery.hosts", text, "recover to other hosts")


def _hosts(model: Model, vm: str) -> tuple[str, ...]:
    host = model.vms[vm].host
    return (host,) if isinstance(host, str) else host


def _workloads(f: Figures) -> Iterator[Finding]:
    for name, vm in f.model.vms.items():
        load, disk = vm.workload, sum(volume.size for volume in vm.volumes)
        place = f"vms.{name}.workload"
        if isinstance(load, Fitted):
            total = sum(each.share for each in load.sizes)
            if abs(total - 1) > 0.01:
                text = f"the shares of the write sizes add up to {100 * total:.4g} %, not 100 %"
                yield Finding("error", f"{place}.sizes", text, "make them add up")
        wanted = load.working_set if isinstance(load, Plain | Fitted) else None
        if wanted is not None and wanted > disk:
            text = f"the working set of {format_size(wanted)} is larger than the disks, {format_size(disk)}"
            yield Finding("warning", f"{place}.working_set", text, "make the disks larger or the set smaller")


def _small_links(f: Figures) -> Iterator[Finding]:
    for name, link in f.model.links.items():
        if link.bandwidth < LEAST_WAN:
            text = f"{format_bandwidth(link.bandwidth)} is less than the 5 Mbit/s that the field asks for"
            yield Finding("warning", f"links.{name}.bandwidth", text, "see products.md 1.6")


def _volumes(f: Figures) -> Iterator[Finding]:
    for host, vra in f.vras.items():
        count = vra.protected_volumes + vra.recovered_volumes
        if count > MOST_VOLUMES:
            mine = f"protects {vra.protected_volumes} and recovers {vra.recovered_volumes} volumes"
            text = f"its VRA {mine}, together {count}; the most is {MOST_VOLUMES}"
            yield Finding("error", f"hosts.{host}", text, "deal the VMs over more hosts")


def _platforms(f: Figures) -> Iterator[Finding]:
    for name, vpg in f.model.vpgs.items():
        platform = f.model.sites[f.model.hosts[vpg.recovery.hosts[0]].site].platform
        if platform == "aws":
            for vm in vpg.vms:
                count = len(f.model.vms[vm].volumes)
                if count > AWS_WINDOWS:
                    linux = count > AWS_LINUX
                    text = f"{count} volumes; recovery to AWS takes {AWS_LINUX} of a Linux VM, {AWS_WINDOWS} of Windows"
                    yield Finding("error" if linux else "note", f"vms.{vm}.volumes", text, "see products.md 1.7")
        limit = vpg.journal.limit_bytes
        if platform == "vcd" and limit is not None and limit not in {step * GIB for step in VCD_STEPS}:
            higher = next((step for step in VCD_STEPS if step * GIB >= limit), VCD_STEPS[-1])
            text = f"{_size(limit)} is no step of a vCD service profile (10, 15, 20 ... 750, 1000 GiB)"
            place = f"vpgs.{name}.journal.hard_limit"
            yield Finding("warning", place, text, f"the profile would make it {higher} GiB")


def _alerts(f: Figures) -> Iterator[Finding]:
    for name, vpg in f.vpgs.items():
        worst = f.worst_rpo(vpg)
        if vpg.rpo_alert / SECOND < worst:
            text = (
                f"{format_duration(vpg.rpo_alert)} is less than the RPO in health, up to {worst:.4g} s "
                f"(checkpoint interval {format_duration(vpg.checkpoint_interval)} and latency): it alerts for ever"
            )
            yield Finding("warning", f"vpgs.{name}.rpo_alert", text, "raise the alert or shorten the interval")


def _timeline(f: Figures) -> Iterator[Finding]:
    until = f.model.run.until
    sources = {f.source(vpg) for vpg in f.vpgs.values()}
    for n, fault in enumerate(f.model.faults):
        if fault.at >= until:
            text = f"begins at {format_duration(fault.at)}, but the run ends at {format_duration(until)}"
            yield Finding("warning", f"faults.{n}.at", text, "run longer: run.until")
        elif isinstance(fault, SiteLoss) and fault.site in sources:
            text = (
                f"the protected site {fault.site!r} stops at {format_duration(fault.at)}: nothing is written or "
                "replicated after it; what is lost is the RPO of that instant"
            )
            yield Finding("note", f"faults.{n}", text, "")


# -- rules that need rates ------------------------------------------------------------------------------------------


def _links(f: Figures) -> Iterator[Finding]:
    for (name, source), vpgs in f.links.items():
        link, load = f.model.links[name], f.load((name, source))
        if load > link.bandwidth / 8:
            text = (
                f"{format_bandwidth(link.bandwidth)} is less than the mean of what crosses it from {source!r}, "
                f"{bits_text(load)} after compression: the RPO grows without end"
            )
            yield Finding("error", f"links.{name}.bandwidth", text, "more bandwidth, or fewer VMs on the link")
            yield from _starved(f, name, vpgs, link.bandwidth / 8)
            continue
        backlog, capacity = day_backlog(link, load)
        windows = [part for part in day(link) if part[2] < load]
        if load > capacity:
            text = f"over a day the throttle leaves {bits_text(capacity)}, less than the mean load of {bits_text(load)}"
            yield Finding("error", f"links.{name}.throttle", text, "shorter windows or higher limits")
        elif windows:
            left = min(rate for _, _, rate in windows)
            text = (
                f"a throttle window leaves {bits_text(left)}, less than the mean load of {bits_text(load)}: up to "
                f"{_size(backlog)} wait, the RPO grows in the window"
            )
            yield Finding("warning", f"links.{name}.throttle", text, "a higher limit keeps the RPO")
        yield from _starved(f, name, vpgs, link.bandwidth / 8)


def _starved(f: Figures, name: str, vpgs: list[str], capacity: float) -> Iterator[Finding]:
    by_rank = {rank: sum(f.wire(f.vpgs[v]) for v in vpgs if f.vpgs[v].priority == rank) for rank in RANKS}
    left = min(capacity, *(rate for _, _, rate in day(f.model.links[name])))
    for rank in RANKS:
        higher = [each for each in RANKS[: RANKS.index(rank)] if by_rank[each]]
        if by_rank[rank] > max(0.0, left) and higher:
            text = (
                f"{' and '.join(higher)} priority leaves {bits_text(max(0.0, left))} at the tightest, "
                f"{rank} priority needs {bits_text(by_rank[rank])}"
            )
            yield Finding("note", f"links.{name}", text, "VPGs of that priority fall behind first")
        left -= by_rank[rank]


def _streams(f: Figures) -> Iterator[Finding]:
    for (vpg, host, target), wire in f.streams.items():
        name = f.link(f.vpgs[vpg])
        link = f.model.links[name]
        bound = mathis(link.loss, link.latency)
        where = f"the stream of VPG {vpg!r} from {host} to {target} needs {bits_text(wire)}"
        if bound < wire:
            text = f"one TCP stream reaches {bits_text(bound)} at {100 * link.loss:g} % loss; {where}"
            yield Finding("error", f"links.{name}.loss", text, "less loss or latency, or more streams: more hosts")
        window = f.model.tweaks.window_bytes / max(2 * link.latency / SECOND, 1e-6)
        if window < f.stream_raw((vpg, host, target)):
            text = f"a window of {format_size(f.model.tweaks.window_bytes)} carries {bits_text(window)}; {where}"
            yield Finding("error", "tweaks.window_bytes", text, "a larger window")


def _journals(f: Figures) -> Iterator[Finding]:
    for name, vpg in f.vpgs.items():
        limit, history = vpg.journal.limit_bytes, vpg.journal.history / SECOND
        if limit is None:
            continue
        vm = max(vpg.vms, key=lambda each: f.rates[each][1])
        rate = f.rates[vm][1]
        need, reached = rate * history, reached_history(limit, rate)
        what = f"VM {vm!r} writes {rate_text(rate)}: {time_text(history)} of history need {_size(need)}"
        place = f"vpgs.{name}.journal.hard_limit"
        if reached < history:
            text = f"{what}, the limit is {_size(limit)}; the history reaches back only {time_text(reached)}"
            yield Finding("error", place, text, "a higher limit or a shorter history")
        elif need > limit * vpg.journal.warning:
            text = f"{what}, more than the warning threshold ({100 * vpg.journal.warning:g} % of {_size(limit)})"
            yield Finding("warning", place, text, "the journal will warn all the time")


def _drains(f: Figures) -> Iterator[Finding]:
    for name, vpg in f.vpgs.items():
        worst, history = None, f.history(vpg)
        for outage in f.outages(vpg):
            total = outage.seconds + f.drain(vpg, outage)[1]
            if worst is None or total > worst[1]:
                worst = outage, total
        if worst is None or worst[1] < history:
            continue
        outage, _ = worst
        dirty, drain = f.drain(vpg, outage)
        rest = f"and {time_text(drain)} to ship" if math.isfinite(drain) else "and no bandwidth is left to ship"
        text = (
            f"the history runs out: no new checkpoint for {time_text(outage.seconds)} (faults.{outage.index}) {rest} "
            f"{_size(dirty)} of dirty data, but the history is {time_text(history)}"
        )
        yield Finding("error", f"vpgs.{name}.journal.history", text, "a longer history, or more bandwidth to spare")


def _buffer(f: Figures, host: str) -> str:
    return f"the VRA buffers {_size(f.usable(host)[0])} ({f.model.hosts[host].vra.ram} GiB of RAM)"


def _bursts(f: Figures) -> Iterator[Finding]:
    vpg_of = {vm: vpg for vpg in f.vpgs.values() for vm in vpg.vms}
    for host, vra in f.vras.items():
        worst: tuple[float, str] | None = None
        for vm in vra.vms:
            rate = f.rates[vm][1]
            peak, length = burst(f.vms[vm], rate)
            direction = f.link(vpg_of[vm]), f.source(vpg_of[vm])
            spare = f.model.links[direction[0]].bandwidth / 8 - f.load(direction) + vra.wire
            full = fill_seconds(f.usable(host)[0], vra.protects - rate + peak, max(0.0, spare) / f.squeeze(host))
            if full < length and (worst is None or full < worst[0]):
                text = f"a burst of VM {vm!r}, {rate_text(peak)} for {time_text(length)}, fills it in {time_text(full)}"
                worst = full, text
        if worst is not None:
            text = f"{_buffer(f, host)}; {worst[1]}, then bitmap sync"
            yield Finding("warning", f"hosts.{host}.vra.ram", text, "more RAM or bandwidth")


def _until_given_up(f: Figures, outage: Outage) -> float:
    """Seconds that a sender goes on buffering in an outage: then it is over, or the peer is given up."""
    timeout = f.model.tweaks.peer_timeout / SECOND
    match outage.fault:
        case LinkDegraded():
            return outage.seconds
        case LinkFlapping(down=down):
            return outage.seconds if down / SECOND < timeout else timeout
        case LinkDown():
            return min(outage.seconds, timeout)
        case _:
            return 0.0


def _buffers(f: Figures) -> Iterator[Finding]:
    for host, vra in f.vras.items():
        full_after: dict[int, tuple[float, float]] = {}
        for vpg in f.vpgs.values():
            if not set(vpg.vms) & set(vra.vms):
                continue
            load = f.load((f.link(vpg), f.source(vpg)))
            for outage in f.outages(vpg):
                share = outage.left * vra.wire / load if load else 0.0
                full = fill_seconds(f.usable(host)[0], vra.protects, share / f.squeeze(host))
                if full < _until_given_up(f, outage):
                    full_after[outage.index] = full, outage.seconds
        if full_after:
            index, (full, lasts) = min(full_after.items(), key=lambda each: each[1][0])
            more = f" (and {len(full_after) - 1} more)" if len(full_after) > 1 else ""
            text = (
                f"{_buffer(f, host)}; in faults.{index}{more}, which lasts {time_text(lasts)}, it is full after "
                f"{time_text(full)}, then bitmap sync"
            )
            hint = "no checkpoint until the sync is done; more RAM rides out longer outages"
            yield Finding("warning", f"hosts.{host}.vra.ram", text, hint)


def _compression(f: Figures) -> Iterator[Finding]:
    for host, vra in f.vras.items():
        spec = f.model.hosts[host].vra
        able = spec.compress_rate * spec.vcpus / 8
        if vra.protects > able:
            have = f"its VMs write {rate_text(vra.protects)}, its VRA compresses {rate_text(able)}"
            text = f"{have}: some frames go uncompressed"
            yield Finding("warning", f"hosts.{host}.vra.vcpus", text, "more vCPUs, or the VMs over more hosts")


def _stores(f: Figures) -> Iterator[Finding]:
    for name, store in f.stores.items():
        spec, place = f.model.datastores[name], f"datastores.{name}"
        if store.rate * 8 > spec.bandwidth:
            text = (
                f"{format_bandwidth(spec.bandwidth)} is less than the mean of guest writes, journal appends and "
                f"aging (read and write again), {bits_text(store.rate)}"
            )
            yield Finding("error", f"{place}.bandwidth", text, "a faster store, or two")
        if store.iops > spec.iops:
            text = f"{spec.iops:g} I/Os a second are fewer than the mean need of {store.iops:.4g}"
            yield Finding("error", f"{place}.iops", text, "a faster store, or two")
        most = store.limits + store.scratch
        if store.journals > spec.capacity:
            text = f"{_size(spec.capacity)} are less than the {_size(store.journals)} that full journals hold"
            yield Finding("error", f"{place}.capacity", text, "a larger store or shorter histories")
        elif most > spec.capacity:
            text = (
                f"journals may grow to {_size(store.limits)} and the scratch of a test of all VMs to "
                f"{_size(store.scratch)}, together {_size(most)} of {_size(spec.capacity)}"
            )
            yield Finding("warning", f"{place}.capacity", text, "the limits are independent (products.md 1.4)")


Rule = Callable[[Figures], Iterator[Finding]]
_ALWAYS: tuple[Rule, ...] = (_references, _workloads, _small_links, _volumes, _platforms, _alerts, _timeline)
_WITH_RATES: tuple[Rule, ...] = (
    _links, _streams, _journals, _drains, _bursts, _buffers, _compression, _stores,
)  # fmt: skip
