"""Operation report: one recovery operation as figures, words, a picture of its steps, and a page (PROTOCOL 7)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from drsim.core.errors import CoreError
from drsim.core.recovery.report import Outcome, Report
from drsim.core.recovery.rto import PARTS, critical_path, rto_parts
from drsim.core.units import SECOND
from drsim.sim.recovery import Underway
from drsim.study import style
from drsim.study.style import plural, seconds, size

ROWS = 40  # steps of a picture, the longest and those on the critical path first
LOSSLESS = (Outcome.REFUSED, Outcome.ROLLED_BACK, Outcome.FAILED, Outcome.CANCELLED)


def finished(operation: Underway) -> Report:
    """The operation's report. Raises CoreError while there is none."""
    if operation.report is None:
        raise CoreError("the operation is not over", place=operation.address, hint="let the run go on for longer")
    return operation.report


def figures(operation: Underway) -> dict[str, Any]:
    """Everything about an operation as plain values: seconds, bytes, words. `rto_s` is None when nothing serves.

    `lost`: None when nothing was recovered in the source's place. Instants are seconds of the run.
    """
    report, spec = finished(operation), operation.spec
    serves = report.service is not None and report.outcome not in LOSSLESS
    lost = None
    if operation.lost is not None and operation.taken is not None:
        lost = {
            "seconds": max(0, operation.cut_off - operation.taken) / SECOND if operation.lost.writes else 0.0,
            "writes": operation.lost.writes,
            "bytes": operation.lost.nbytes,
        }
    return {
        "kind": report.plan.kind.value,
        "vpg": report.plan.vpg,
        "outcome": report.outcome.value,
        "reasons": list(report.reasons),
        "people": list(report.people),
        "checkpoint": report.checkpoint,
        "taken_s": None if operation.taken is None else operation.taken / SECOND,
        "asked_s": operation.asked / SECOND,
        "begun_s": report.begun / SECOND,
        "service_s": report.service / SECOND if serves and report.service is not None else None,
        "ended_s": report.ended / SECOND,
        "rto_s": (report.service - operation.asked) / SECOND if serves and report.service is not None else None,
        "parts_s": {
            name: ns / SECOND for name, ns in rto_parts(report, detect=spec.detect, decide=spec.decide).items()
        },
        "lost": lost,
        "late": {"writes": operation.late.writes, "bytes": operation.late.nbytes} if operation.late.writes else None,
        "scratch_full_s": None if operation.full is None else operation.full / SECOND,
        "vms": list(report.vms),
        "left_out": list(report.left_out),
        "steps": [
            {
                "step": ".".join(map(str, record.step)), "what": str(record.action), "begun_s": record.begun / SECOND,
                "ended_s": None if record.ended is None else record.ended / SECOND, "error": record.error,
            }
            for record in report.steps
        ],
    }  # fmt: skip


def answer(found: dict[str, Any]) -> str:
    """What happened, in a sentence or two."""
    what = f"{found['kind'].capitalize()} of {found['vpg']}: {found['outcome']}"
    if found["outcome"] == Outcome.REFUSED:
        return f"{what}. Nothing was touched."
    said = [what]
    if found["rto_s"] is not None:
        said.append(f"{plural(len(found['vms']), 'VM')} answered {seconds(found['rto_s'])} after it was needed")
    if found["lost"] is not None:
        lost = found["lost"]
        said.append(
            f"{seconds(lost['seconds'])} of work is lost: {plural(lost['writes'], 'write')}, {size(lost['bytes'])}"
            if lost["writes"]
            else "nothing is lost"
        )
    if found["late"] is not None:
        late = found["late"]
        said.append(f"the source went on, and {plural(late['writes'], 'write')} of it is refused and lost as well")
    if found["scratch_full_s"] is not None:
        after = seconds(found["scratch_full_s"] - found["asked_s"])
        said.append(f"after {after} the scratch was full and the test could write no more; protection went on")
    if found["left_out"]:
        said.append(f"{plural(len(found['left_out']), 'VM')} left out")
    return "; ".join(said) + "."


def gantt(report: Report, name: str = "steps") -> str:
    """The steps as bars over time, those of the critical path in colour: an SVG element of this id."""
    path = {part.step.step for part in critical_path(report) if part.step is not None}
    shown = [r for r in report.steps if r.ended is not None and (r.ended > r.begun or r.error or r.step in path)]
    hidden = 0
    if len(shown) > ROWS:
        first = sorted(shown, key=lambda r: (r.step not in path, -((r.ended or 0) - r.begun)))[:ROWS]
        hidden, shown = len(shown) - ROWS, [r for r in shown if r in first]
    with mpl.rc_context(style.SETTINGS):
        tall = 0.55 + 0.2 * max(1, len(shown))
        figure = Figure(figsize=(11.04, tall))
        axes = figure.add_axes((0.27, 0.36 / tall, 0.70, (tall - 0.5) / tall))
        for row, record in enumerate(shown):
            begun, ended = ((t - report.begun) / SECOND for t in (record.begun, record.ended or record.begun))
            colour = style.LOST if record.error else "#2f6db5" if record.step in path else "#b9c2cd"
            axes.barh(row, max(ended - begun, 1e-3), left=begun, height=0.62, color=colour, linewidth=0)
        axes.set_yticks(range(len(shown)), [str(r.action)[:44] for r in shown], fontsize=8)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, max((report.ended - report.begun) / SECOND, 1e-3) * 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 3, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value) if value > 0 else "0"))
        axes.grid(visible=False, axis="y")
        if report.service is not None:
            axes.axvline((report.service - report.begun) / SECOND, color="#17603f", linewidth=1)
        says = f"{len(shown)} steps of the {report.plan.kind} over time" + (
            f", {hidden} shorter ones left out" if hidden else ""
        )
        return style.svg(figure, name, says)


def spread(found: Sequence[dict[str, Any]], name: str = "runs") -> str:
    """RTO, and seconds lost, over several runs of an operation as cumulative distributions: an SVG element."""
    columns = {
        "RTO": sorted(each["rto_s"] for each in found if each["rto_s"] is not None),
        "lost": sorted(each["lost"]["seconds"] for each in found if each["lost"] is not None),
    }
    drawn = {title: values for title, values in columns.items() if values}
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(11.04, 2.4), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
            shares = [(n + 1) / len(values) for n in range(len(values))]
            axes.step(values, shares, where="post", color=style.SERIES[0])
            axes.plot(values, shares, "o", ms=3, color=style.SERIES[0])
            axes.set_ylim(0, 1.04)
            axes.set_title(f"{title}: share of runs within", loc="left", color=style.INK)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value) if value > 0 else "0"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.percent(value)))
        return style.svg(figure, name, f"{' and '.join(drawn)} of {len(found)} runs as distributions")


def page(operation: Underway, model: str, command: str, found_in: Sequence[dict[str, Any]] = ()) -> str:
    """The report of an operation as a self-contained HTML page. `found_in`: the figures of all its runs."""
    environment = Environment(
        loader=PackageLoader("drsim.study", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    report, found = finished(operation), figures(operation)
    good = report.outcome in (Outcome.DONE, Outcome.COMMITTED)
    parts = [(name, seconds(s), s / max(found["parts_s"].values())) for name, s in found["parts_s"].items()]
    touched = report.outcome is not Outcome.REFUSED
    steps = [
        (seconds(s["begun_s"] - found["begun_s"]), seconds((s["ended_s"] or s["begun_s"]) - s["begun_s"]), s["what"],
         s["error"])
        for s in found["steps"]
    ]  # fmt: skip
    return environment.get_template("operation.html.j2").render(
        model=model, command=command, kind=report.plan.kind.value, vpg=report.plan.vpg, answer=answer(found),
        mood="good" if good and not report.people else "warn" if good else "bad",
        reasons=report.reasons, people=report.people, parts=parts, rto=seconds(found["rto_s"]),
        serves=found["rto_s"] is not None, picture=Markup(gantt(report)) if touched else "", touched=touched,
        taken=seconds(found["taken_s"]), checkpoint=found["checkpoint"], asked=seconds(found["asked_s"]),
        lost=found["lost"], lost_s=seconds(found["lost"]["seconds"]) if found["lost"] else "",
        lost_bytes=size(found["lost"]["bytes"]) if found["lost"] else "", vms=report.vms, left_out=report.left_out,
        steps=steps, late=plural(found["late"]["writes"], "write") if found["late"] else "",
        runs=len(found_in), outcomes=outcomes(found_in).capitalize() if found_in else "",
        spread=Markup(spread(found_in)) if any(each["rto_s"] is not None for each in found_in[1:]) else "",
    )  # fmt: skip


def write(where: Path, operation: Underway, model: str, command: str, found: Sequence[dict[str, Any]]) -> None:
    """report.html beside the other results; `found`: the figures of all runs, this one's first."""
    (where / "report.html").write_text(page(operation, model, command, found), encoding="utf-8")


def runbook(report: Report) -> list[tuple[str, str, str]]:
    """The steps of a rehearsed operation as its runbook: when each begins, what, and how long it is expected to take.

    Steps of the same kind that begin together are one line.
    """
    lines: dict[tuple[int, type], list[Any]] = {}
    for record in report.steps:
        lines.setdefault((record.begun, type(record.action)), []).append(record)
    found = []
    for (begun, kind), records in lines.items():
        longest = max((r.ended or r.begun) - r.begun for r in records)
        words = str(records[0].action) if len(records) == 1 else f"{PARTS.get(kind, _words(kind))}: {len(records)} VMs"
        found.append((seconds((begun - report.begun) / SECOND), words, seconds(longest / SECOND) if longest else ""))
    return found


def _words(kind: type) -> str:
    return "".join(f" {c.lower()}" if c.isupper() else c for c in kind.__name__).strip()


def outcomes(found: Sequence[dict[str, Any]]) -> str:
    """How the same operation ended over several runs."""
    counted = Counter(each["outcome"] for each in found)
    return ", ".join(f"{n} {outcome}" for outcome, n in counted.most_common())
