"""Report: one self-contained HTML page of a run: the answer in words, figures, pictures, tables."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from drsim.core.recovery.report import Outcome
from drsim.core.units import SECOND
from drsim.sim.run import Run
from drsim.spec.faults import PLACES, LinkDegraded, LinkFlapping, SiteLoss
from drsim.study import alerts, operation, plots
from drsim.study.canvas import fault_words, faults
from drsim.study.style import count, percent, plural, rate, seconds, size, status

EVENTS = 200
AGAIN_S = 120.0  # events that repeat within this time are one row
Summary = Mapping[str, Any]

GLOSSARY = (
    ("RPO", "Recovery point objective, measured: at each instant, the age of the newest checkpoint that could be "
     "recovered. A disaster at that instant costs the work since then."),
    ("Service level", "RPO at or below its alert, and a history as long as configured."),
    ("Checkpoint", "A point in time, normally one every 5 s, to which all VMs of a VPG can be recovered together, "
     "consistent with each other. Listed: it has arrived and can be used. Voided: it was due and was given up."),
    ("History", "How far back the listed checkpoints reach."),
    ("Journal", "Where the recovery site keeps a VM's latest writes, from which checkpoints are recovered."),
    ("Bitmap sync", "Catching up after writes could not be sent: only places changed meanwhile are read and shipped. "
     "No checkpoint is taken until it ends."),
    ("Alert", "What an operator would have been told, under the identifiers of the field and in words of our own. It "
     "stands while its reason does: nobody raises or clears it by hand."),
    ("VPG", "Virtual protection group: VMs that are protected and recovered together."),
    ("VRA", "Virtual replication appliance: the component on each host that sends or receives writes."),
)  # fmt: skip


# -- words --------------------------------------------------------------------------------------------------------


def figure(value: Mapping[str, Any]) -> str:
    """A figure with its confidence interval, when it has one: "4.9 s (4.8 s to 5 s)"."""
    text = seconds(value["value"])
    if value["low"] is None or value["high"] is None:
        return text
    low, high = seconds(max(0.0, value["low"])), seconds(value["high"])
    return text if low == high else f"{text} ({low} to {high})"


def shares(parts: Mapping[str, float]) -> list[tuple[str, float, str]]:
    """Parts of a whole, largest first, with percentages of one decimal that add up to 100 (largest remainder)."""
    ordered = sorted(parts.items(), key=lambda part: (-part[1], part[0]))
    total = sum(parts.values())
    if total <= 0:
        return []
    exact = [share / total * 1000 for _, share in ordered]
    tenths = [int(x) for x in exact]
    by_rest = sorted(range(len(exact)), key=lambda n: tenths[n] - exact[n])
    for n in by_rest[: 1000 - sum(tenths)]:
        tenths[n] += 1
    return [
        (name, share / total, f"{n / 10:.1f} %".replace(".0 %", " %"))
        for (name, share), n in zip(ordered, tenths, strict=True)
    ]


def _listing(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _service(summary: Summary) -> str:
    sla, vpgs = summary["all"]["sla"], summary["vpgs"]
    alerts = sorted({v["rpo_alert_s"] for v in vpgs.values()})
    within = seconds(alerts[0]) if len(alerts) == 1 else f"{seconds(alerts[0])} to {seconds(alerts[-1])}"
    level = f"The service level, an RPO within {within} and the configured history, was"
    if not sla["missed_s"]:
        return f"{level} met all the time."
    causes = shares(sla["causes"])
    said = [f"{text} because of {name}" for name, _, text in causes[:3]]
    if len(causes) > 3:
        said.append("the rest for other reasons")
    when = f"{seconds(sla['missed_s'])}, {percent(sla['missed_share'])} of the time"
    if len(vpgs) > 1:
        when = f"{seconds(sla['missed_s'])} in all, {percent(sla['missed_share'])} of the time of {len(vpgs)} VPGs"
    return f"{level} missed for {when}: {_listing(said)}."


def _disaster(summary: Summary) -> str:
    lost = summary["disaster"]
    if not lost:
        worst = summary["all"]["worst_loss"]
        return (
            f"A disaster at the worst instant would have cost {seconds(worst['seconds'])} of work, up to "
            f"{plural(worst['writes'], 'write')} and {size(worst['bytes'])} of one VPG."
        )
    name, worst = max(lost.items(), key=lambda item: float(item[1]["loss_s"]))
    return (
        f"The disaster at {seconds(worst['at_s'])} cost {name} {seconds(worst['loss_s'])} of work, "
        f"{plural(worst['loss_writes'], 'write')} and {size(worst['loss_bytes'])}"
        + (f", the most of {len(lost)} VPGs." if len(lost) > 1 else ".")
    )


def answer(summary: Summary) -> str:
    """The result of a run in a few plain sentences."""
    every = summary["all"]
    rpo = {name: seconds(value["value"]) for name, value in every["rpo_s"].items()}
    if not every["checkpoints"]["listed"]:
        return " ".join(
            [
                "No checkpoint ever reached the recovery site: at no time could anything have been recovered.",
                _service(summary), _disaster(summary),
            ]
        )  # fmt: skip
    reached = f"At the end the listed checkpoints spanned {seconds(every['journal']['history_s'])}"
    configured, until = every["journal"]["configured_history_s"], summary["run"]["until_s"]
    if until < configured:
        reached += f"; {seconds(configured)} are configured, and the run is {seconds(until)} long."
    else:
        reached += f" of the {seconds(configured)} configured."
    return " ".join(
        [
            f"RPO was at most {rpo['p50']} for half of the time and {rpo['p95']} for 95 % of it; "
            f"it was {rpo['max']} at worst.",
            _service(summary), _disaster(summary), reached,
        ]
    )  # fmt: skip


def _headline(summary: Summary) -> dict[str, str]:
    missed = summary["all"]["sla"]["missed_s"]
    if not summary["all"]["checkpoints"]["listed"]:
        return {"tone": "bad", "text": "Nothing could have been recovered"}
    if summary["disaster"]:
        worst = max(float(lost["loss_s"]) for lost in summary["disaster"].values())
        return {"tone": "bad", "text": f"The disaster cost {seconds(worst)} of work"}
    if missed:
        return {"tone": "warn", "text": f"Service level missed for {seconds(missed)}"}
    return {"tone": "good", "text": "Service level met all the time"}


def tiles(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """The key figures: what, how much, and a line below."""
    every = summary["all"]
    rpo, worst, journal, points = every["rpo_s"], every["worst_loss"], every["journal"], every["checkpoints"]
    below = {
        "p50": "or less, half of the time", "p95": "or less, 95 % of the time", "p99": "or less, 99 % of the time",
        "max": f"alert at {seconds(every['rpo_alert_s'])}",
    }  # fmt: skip
    for name, note in below.items():
        low, high = rpo[name]["low"], rpo[name]["high"]
        sure = note if low is None else f"95 % confidence: {seconds(max(0.0, low))} to {seconds(high)}"
        yield f"RPO {name}", seconds(rpo[name]["value"]), sure
    yield "Worst loss", seconds(worst["seconds"]), f"{plural(worst['writes'], 'write')}, {size(worst['bytes'])} at most"
    together = "all VPGs; " if len(summary["vpgs"]) > 1 else ""
    yield "Journal peak", size(journal["peak_bytes"]), f"{together}checkpoints span {seconds(journal['history_s'])}"
    busiest = max(summary["wan"].values(), key=lambda w: float(w["mean_bps"]), default=None)
    if busiest is not None:
        note = f"peak {rate(busiest['peak_bps'])} of {rate(busiest['bandwidth_bps'])}"
        yield "WAN mean", rate(busiest["mean_bps"]), note
    reasons = [name for name, _, _ in shares(points["skipped"])][:2]
    voided = f"{count(sum(points['skipped'].values()))} voided"
    yield "Checkpoints listed", count(points["listed"]), voided + (f": {_listing(reasons)}" if reasons else "")


# -- tables -------------------------------------------------------------------------------------------------------


def vpg_rows(run: Run, summary: Summary) -> list[dict[str, Any]]:
    """Figures of each VPG, and of all."""
    rows = []
    named = [*summary["vpgs"].items()]
    if len(named) > 1:
        named.append(("all", summary["all"]))
    for name, f in named:
        layout = run.layout.vpg_of.get(name) if f is not summary["all"] else None
        journal, worst, limit = f["journal"], f["worst_loss"], f["journal"]["limit_bytes"]
        rows.append({
            "name": name if layout else "All VPGs",
            "vms": len(layout.spec.vms) if layout else len(run.layout.vms),
            "rpo": [figure(f["rpo_s"][q]) for q in ("p50", "p95", "p99", "max")],
            "alert": seconds(f["rpo_alert_s"]) if layout else "",
            "loss": (count(worst["writes"]), size(worst["bytes"])),
            "journal": size(journal["peak_bytes"]),
            "fullest": size(journal["largest_vm_peak_bytes"]),
            "limit": f"of {size(limit)}" if limit else "",
            "history": seconds(journal["history_s"]),
            "listed": count(f["checkpoints"]["listed"]),
            "voided": count(sum(f["checkpoints"]["skipped"].values())),
            "missed": seconds(f["sla"]["missed_s"]) if f["sla"]["missed_s"] else "–",
            "share": percent(f["sla"]["missed_share"]) if f["sla"]["missed_s"] else "",
        })  # fmt: skip
    return rows


def _words(kind: str, text: str) -> str:
    if kind == "state":
        label, _, cause = text.partition(" (")
        return f"{status(label)}{f', because of {cause[:-1]}' if cause else ''}"
    return re.sub(r"(\d+) bytes", lambda found: size(float(found[1])), text)


def events(run: Run) -> tuple[list[tuple[str, str, str, str]], int]:
    """The first events in words: time, VPG, what, details; and how many rows there are in all.

    An event that repeats within AGAIN_S is one row that says how often; a state that does not change is not said again.
    """
    rows: list[tuple[int, str, str, str]] = []
    again: dict[int, tuple[int, float]] = {}
    last: dict[tuple[str, str], int] = {}
    for time, vpg, kind, text in run.recorder.events:
        before = last.get((vpg, kind))
        if before is not None and vpg and rows[before][3] == text:
            times, until = again.get(before, (1, rows[before][0] / SECOND))
            if kind == "state":
                continue
            if time / SECOND - until <= AGAIN_S:
                again[before] = times + 1, time / SECOND
                continue
        last[vpg, kind] = len(rows)
        rows.append((time, vpg, kind, text))
    said = []
    for n, (time, vpg, kind, text) in enumerate(rows[:EVENTS]):
        times, until = again.get(n, (1, 0.0))
        more = f", {count(times)} times until {seconds(until)}" if times > 1 else ""
        at = seconds(time / SECOND) if time else "start"
        said.append((at, vpg, kind.replace("-", " "), _words(kind, text) + more))
    return said, len(rows)


def fault_rows(run: Run) -> Iterator[tuple[int, str, str, str, str]]:
    """The faults by the numbers that the pictures use: number, what, when, how long, how much."""
    for n, begin, _, fault in faults(run):
        said = []
        match fault:
            case SiteLoss():
                yield n, fault_words(fault), seconds(begin), "for ever", ""
                continue
            case LinkFlapping():
                said = [f"down {seconds(fault.down / SECOND)}, up {seconds(fault.up / SECOND)}, again and again"]
            case LinkDegraded():
                said += [rate(fault.bandwidth)] if fault.bandwidth is not None else []
                said += [f"latency {seconds(fault.latency / SECOND)}"] if fault.latency is not None else []
                said += [f"loss {percent(fault.loss)}"] if fault.loss is not None else []
                said += [f"jitter {seconds(fault.jitter / SECOND)}"] if fault.jitter is not None else []
            case _:
                place = next((field for field in PLACES if hasattr(fault, field)), "")  # which the words have said
                given = fault.model_dump(mode="json", exclude={"kind", "at", "lasts", place}, exclude_defaults=True)
                said += [f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in given.items()]
        lasts = seconds(fault.lasts / SECOND) if fault.lasts else ""
        yield n, fault_words(fault), seconds(begin), lasts, ", ".join(said)


def operation_rows(run: Run) -> Iterator[tuple[str, str, tuple[str, ...], Markup]]:
    """The recovery operations: when, what came of each, why or what is left to people, and a picture of its steps."""
    for n, each in enumerate(run.world.recoveries.operations):
        if each.report is not None:
            found = operation.figures(each)
            drawn = "" if each.report.outcome is Outcome.REFUSED else operation.gantt(each.report, f"steps-{n}")
            said = (*each.report.reasons, *each.report.people)
            yield seconds(found["asked_s"]), operation.answer(found), said, Markup(drawn)


def model_rows(run: Run) -> list[tuple[str, str]]:
    """The model in a few lines."""
    model, layout = run.model, run.layout
    volumes = [v.size for vm in layout.vms.values() for v in vm.volumes]
    journals = {v.spec.journal: None for v in layout.vpgs}
    intervals = _listing([seconds(n / SECOND) for n in sorted({v.spec.checkpoint_interval for v in layout.vpgs})])
    links = [
        f"{name}: {' – '.join(link.between)}, {rate(link.bandwidth)}, {seconds(link.latency / SECOND)} one way"
        + (f", loss {percent(link.loss)}" if link.loss else "") + (", throttled by the clock" if link.throttle else "")
        for name, link in model.links.items()
    ]  # fmt: skip
    kept = [
        f"{seconds(j.history / SECOND)} of history, "
        + ("no limit" if j.limit_bytes is None else f"at most {size(j.limit_bytes)} a VM")
        for j in journals
    ]
    return [
        ("Sites", ", ".join(f"{name} ({site.platform})" for name, site in model.sites.items())),
        ("Hosts", ", ".join(f"{sum(h.site == s for h in model.hosts.values())} on {s}" for s in model.sites)),
        ("Links", "; ".join(links) or "none"),
        ("Protected", f"{plural(len(layout.vms), 'VM')} with {plural(len(volumes), 'disk')}, {size(sum(volumes))}, "
         f"in {plural(len(layout.vpgs), 'VPG')}"),
        ("Checkpoints", f"every {intervals}"),
        ("Journals", "; ".join(dict.fromkeys(kept))),
    ]  # fmt: skip


# -- the page -----------------------------------------------------------------------------------------------------


PICTURES = (
    plots.states, alerts.alerts, plots.rpo_over_time, plots.rpo_distribution, plots.history, plots.journal_use,
    plots.wan_use, plots.buffer_use,
)  # fmt: skip
SHARES = (("half of the time", "p50"), ("95 % of the time", "p95"), ("99 % of the time", "p99"), ("at worst", "max"))


def render(run: Run, summary: Summary) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("drsim.study", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    rows, total = events(run)
    every = summary["all"]
    missed, skipped = every["sla"]["missed_s"], every["checkpoints"]["skipped"]
    return environment.get_template("report.html.j2").render(
        summary=summary,
        model=summary["model"],
        ran=summary["run"],
        until=seconds(summary["run"]["until_s"]),
        slice=seconds(summary["run"]["slice_s"]),
        answer=answer(summary),
        headline=_headline(summary),
        tiles=list(tiles(summary)),
        picture={draw.__name__: Markup(draw(run)) for draw in PICTURES},
        faults=list(fault_rows(run)),
        alerts=alerts.rows(summary["alerts"]),
        vpgs=vpg_rows(run, summary),
        quantiles=[(words, figure(every["rpo_s"][name])) for words, name in SHARES],
        missed=seconds(missed),
        causes=[(*cause, seconds(cause[1] * missed)) for cause in shares(every["sla"]["causes"])],
        voided=[(*reason, count(skipped[reason[0]])) for reason in shares(skipped)],
        events=rows,
        more=max(0, total - len(rows)),
        operations=list(operation_rows(run)),
        about_model=model_rows(run),
        glossary=GLOSSARY,
        plural=plural,
    )


def write_report(path: Path, run: Run, summary: dict[str, Any]) -> None:
    """Write the page. `run` is the first replication, which the pictures show; `summary` is of all."""
    path.write_text(render(run, summary), encoding="utf-8")
