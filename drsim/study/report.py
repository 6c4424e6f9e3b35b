"""The report: one self-contained HTML page of a run, with its figures, pictures, causes and events."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from drsim.core.units import SECOND
from drsim.sim.run import Run
from drsim.study import plots, style
from drsim.study.canvas import fault_words, faults

MOST_EVENTS, MOST_VPGS = 200, 50

PICTURES = (
    ("RPO over time", plots.rpo_over_time,
     "How old the newest checkpoint that can be recovered is, at every instant. It grows until the next checkpoint is "
     "listed. The dashed line is the alert."),
    ("RPO over the disaster instant", plots.rpo_distribution,
     "If the disaster strikes at an instant chosen at random: the share of instants at which RPO is at most this."),
    ("State of protection", plots.states, "What the managers show, status and sub-status, over time."),
    ("Use of the WAN", plots.wan_use, "Replication data, synchronization and control traffic against the bandwidth."),
    ("Buffers of the VRAs", plots.buffer_use,
     "Writes captured and not yet durable at the recovery site, against what the VRA may use before it falls back to "
     "bitmap sync."),
    ("Journals", plots.journal_use, "What the journals of each VPG hold, against the hard limit and its warning."),
    ("Checkpoint history", plots.history,
     "How far back one can recover, and where no checkpoints were taken."),
)  # fmt: skip

GLOSSARY = (
    ("RPO", "recovery point objective; here the age of the newest recovery point, had the disaster struck now"),
    ("checkpoint", "a cut through all writes of a VPG that is consistent over its VMs; a point to recover to"),
    ("history", "the time between the oldest and the newest checkpoint that are listed"),
    ("bitmap sync", "after an outage or a full buffer only what changed is sent; no checkpoints meanwhile"),
    ("VPG, VRA", "virtual protection group; the replication appliance of a host"),
    ("SLA missed", "RPO above its alert, or a history shorter than configured"),
)


def answer(run: Run, summary: dict[str, Any]) -> str:
    """The run in a few plain sentences."""
    every = summary["all"]
    rpo, loss, sla = every["rpo_s"], every["worst_loss"], every["sla"]
    said = [
        f"RPO was at most {style.seconds(rpo['p95']['value'])} for 95 % of the time and "
        f"{style.seconds(rpo['max']['value'])} at worst; a disaster at the worst instant would have lost "
        f"{style.count(loss['writes'])} acknowledged writes, {style.size(loss['bytes'])}."
    ]
    for vpg, lost in (summary["disaster"] or {}).items():
        said.append(
            f"The site of {vpg} was lost after {style.seconds(lost['at_s'])}: {style.seconds(lost['loss_s'])} of work, "
            f"{style.count(lost['loss_writes'])} writes, {style.size(lost['loss_bytes'])} are gone."
        )
    if not sla["missed_s"]:
        said.append("The service level was met all the time.")
    else:
        causes = sorted(sla["causes"].items(), key=lambda item: -item[1])
        because = ", ".join(f"{style.percent(share)} because of {cause}" for cause, share in causes)
        each = " of VPG time" if len(summary["vpgs"]) > 1 else ""
        said.append(f"The service level was missed for {style.seconds(sla['missed_s'])}{each}: {because}.")
    busiest = max(summary["wan"].values(), key=lambda w: w["mean_bps"] / w["bandwidth_bps"], default=None)
    if busiest is not None:
        share = busiest["mean_bps"] / busiest["bandwidth_bps"]
        said.append(
            f"The WAN carried {style.rate(busiest['mean_bps'])} on average ({style.percent(share)} of its bandwidth)."
        )
    return " ".join(said)


def tiles(summary: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key figures: name, value, what stands below it."""
    every = summary["all"]
    rpo, loss, journal = every["rpo_s"], every["worst_loss"], every["journal"]
    for name in ("p50", "p95", "p99", "max"):
        q = rpo[name]
        band = "" if q["low"] is None else f"{style.seconds(max(0.0, q['low']))} to {style.seconds(q['high'])} (95 %)"
        yield f"RPO {name}", style.seconds(q["value"]), band
    yield "worst loss", style.size(loss["bytes"]), f"{style.count(loss['writes'])} writes"
    largest = style.size(journal["largest_vm_peak_bytes"])
    yield "journal peak", style.size(journal["peak_bytes"]), f"largest VM {largest}"
    yield (
        "history reached",
        style.seconds(journal["history_s"]),
        f"of {style.seconds(journal['configured_history_s'])} configured",
    )
    for link, w in summary["wan"].items():
        if w["mean_bps"] == max(x["mean_bps"] for x in summary["wan"].values()):
            yield "WAN mean", style.rate(w["mean_bps"]), f"{link}, peak {style.rate(w['peak_bps'])}"
            break
    checkpoints = every["checkpoints"]
    skipped = sum(checkpoints["skipped"].values())
    yield "checkpoints", style.count(checkpoints["listed"]), f"{style.count(skipped)} due but not taken"
    yield "SLA missed", style.percent(every["sla"]["missed_share"]), style.seconds(every["sla"]["missed_s"])


def _bytes_in(text: str) -> str:
    """Numbers of bytes in an event's text, as people say them."""
    words = text.split(" ")
    for n, word in enumerate(words[1:], 1):
        if word == "bytes" and words[n - 1].isdigit():
            words[n - 1 : n + 1] = [style.size(int(words[n - 1])), ""]
    return " ".join(word for word in words if word)


def events(run: Run) -> tuple[list[tuple[str, str, str, str]], int]:
    """The first events: time, VPG, what, details; and how many there are in all."""
    shown = [e for e in run.recorder.events if e[2] != "frame refused"]
    rows = []
    for time, vpg, kind, text in shown[:MOST_EVENTS]:
        label, bracket, cause = text.partition(" (")
        words = style.status(label) + bracket + cause if kind == "state" else _bytes_in(text)
        rows.append((style.seconds(time / SECOND) if time else "start", vpg, kind.replace("-", " "), words))
    return rows, len(shown)


def model_rows(run: Run) -> Iterator[tuple[str, str]]:
    """What was simulated, in a few lines."""
    model = run.model
    yield "sites", ", ".join(f"{name} ({site.platform})" for name, site in model.sites.items())
    for name, link in model.links.items():
        loss = f", loss {style.percent(link.loss)}" if link.loss else ""
        latency = style.seconds(link.latency / SECOND)
        yield f"link {name}", f"{' to '.join(link.between)}: {style.rate(link.bandwidth)}, {latency} one way{loss}"
    yield "VMs", f"{len(run.layout.vms)} on {len({s.source for s in run.layout.streams})} protected hosts"
    shown = run.layout.vpgs[:12]
    for vpg in shown:
        journal = vpg.spec.journal
        limit = "no limit" if journal.limit_bytes is None else f"{style.size(journal.limit_bytes)} a VM at most"
        history = style.seconds(journal.history / SECOND)
        yield f"VPG {vpg.name}", f"{style.plural(len(vpg.spec.vms), 'VM')}, history {history}, {limit}"
    if len(run.layout.vpgs) > len(shown):
        yield "", f"and {len(run.layout.vpgs) - len(shown)} more VPGs"
    for number, begin, end, fault in faults(run):
        yield f"fault {number}", f"{fault_words(fault)}, at {style.seconds(begin)} for {style.seconds(end - begin)}"


def write_report(path: Path, run: Run, summary: dict[str, Any]) -> None:
    """Write the page. `run` is the first replication, which the pictures show; `summary` is of all."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "seconds": style.seconds, "size": style.size, "rate": style.rate, "percent": style.percent,
        "count": style.count, "status": style.status,
    }  # fmt: skip
    template = resources.files("drsim.study").joinpath("report.html.j2").read_text()
    rows, total = events(run)
    text = environment.from_string(template).render(
        summary=summary,
        answer=answer(run, summary),
        tiles=list(tiles(summary)),
        pictures=[(title, Markup(draw(run)), says) for title, draw, says in PICTURES],
        vpgs=list(summary["vpgs"].items())[:MOST_VPGS],
        causes=sorted(summary["all"]["sla"]["causes"].items(), key=lambda item: -item[1]),
        skipped=sorted(summary["all"]["checkpoints"]["skipped"].items(), key=lambda item: -item[1]),
        shares=sorted(summary["all"]["status_share"].items(), key=lambda item: -item[1]),
        events=rows,
        events_total=total,
        model=list(model_rows(run)),
        glossary=GLOSSARY,
        fonts=style.FONTS,
    )
    path.write_text(text, encoding="utf-8")
