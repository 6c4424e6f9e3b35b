"""Alerts of a run: as figures, as columns beside the events, as rows and a picture of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator

from drsim.core.alert_table import ALERTS, TABLE, Entity, Severity
from drsim.core.alerts import Raised
from drsim.core.units import SECOND
from drsim.sim.run import Run
from drsim.study import style
from drsim.study.canvas import frame, names, picture
from drsim.study.style import count, plural, seconds

FEW = 4  # entities of one alert that are told one by one
COLOURS = {Severity.WARNING: "#d3ae2c", Severity.ERROR: style.BAD}


@dataclass(frozen=True, slots=True)
class Span:
    """An alert stood from `begin` to `end` (seconds; None: it stands at the end of the run)."""

    alert: str
    entity: Entity
    begin: float
    end: float | None


def spans(run: Run) -> list[Span]:
    """Every time that an alert stood, in the order in which they were raised."""
    watch = run.recorder.watch
    assert watch is not None
    found: list[Span] = []
    open_: dict[tuple[Entity, str], int] = {}
    for change in watch.changes:
        key, at = (change.entity, change.alert), change.time / SECOND
        if isinstance(change, Raised):
            open_[key] = len(found)
            found.append(Span(change.alert, change.entity, at, None))
        else:
            n = open_.pop(key)
            found[n] = Span(change.alert, change.entity, found[n].begin, at)
    return found


def figures(run: Run) -> list[dict[str, Any]]:
    """One item for each alert of each entity, in the order of the first time: how often, how long, whether it stands.

    Times in seconds; "last_s" is None while it stands.
    """
    groups: dict[tuple[str, Entity], list[Span]] = {}
    for span in spans(run):
        groups.setdefault((span.alert, span.entity), []).append(span)
    end = run.end / SECOND
    return [
        {
            "alert": id_,
            "severity": ALERTS[id_].severity.value,
            "words": ALERTS[id_].words,
            "kind": entity.kind.value,
            "entity": entity.name,
            "vpg": entity.vpg,
            "times": len(group),
            "seconds": sum((end if s.end is None else s.end) - s.begin for s in group),
            "first_s": group[0].begin,
            "last_s": group[-1].end,
        }
        for (id_, entity), group in groups.items()
    ]


def merge(parts: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Over replications: each alert of each entity as in the replication in which it stood longest."""
    longest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for item in (item for part in parts for item in part):
        key = item["alert"], item["entity"], item["vpg"]
        before = longest.get(key)
        again = 1 if before is None else before["replications"] + 1
        longest[key] = {**(item if before is None or item["seconds"] > before["seconds"] else before)}
        longest[key]["replications"] = again
    return sorted(longest.values(), key=lambda item: float(item["first_s"]))


def frame_of(run: Run) -> pd.DataFrame:
    """Alerts as events: time_s, vpg, kind, text as other events have them, then alert, severity, entity."""
    watch = run.recorder.watch
    assert watch is not None
    rows = [
        (
            change.time / SECOND, change.entity.vpg,
            "alert raised" if isinstance(change, Raised) else "alert cleared",
            ALERTS[change.alert].words, change.alert, ALERTS[change.alert].severity.value,
            f"{change.entity.kind} {change.entity.name}",
        )
        for change in watch.changes
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["time_s", "vpg", "kind", "text", "alert", "severity", "entity"])


def rows(items: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The rows of the report's table, in words. An alert of more than FEW entities is one row for all of them."""
    by_alert: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        by_alert.setdefault(item["alert"], []).append(item)
    said, crowds = [], set()
    for item in items:
        id_, group = item["alert"], by_alert[item["alert"]]
        if len(group) <= FEW:
            about = f"{item['kind']} {item['entity']}"
            vpg = f"of {item['vpg']}" if item["vpg"] not in ("", item["entity"]) else ""
            said.append(_row([item], about, vpg))
        elif id_ not in crowds:
            crowds.add(id_)
            named = ", ".join(i["entity"] for i in group[:2])
            said.append(_row(group, plural(len(group), item["kind"]), f"{named} …"))
    return said


def _row(items: Sequence[dict[str, Any]], about: str, note: str) -> dict[str, str]:
    """One row for one or more entities: from the first time to the last, and how long it stood for the worst."""
    first, last = min(i["first_s"] for i in items), [i["last_s"] for i in items]
    worst = max(items, key=lambda i: float(i["seconds"]))
    long = seconds(worst["seconds"]) + (f", {count(worst['times'])} times" if worst["times"] > 1 else "")
    return {
        "id": worst["alert"],
        "severity": worst["severity"],
        "words": worst["words"],
        "about": about,
        "note": note,
        "begin": seconds(first) if first else "start",
        "end": "open" if None in last else seconds(max(last)),
        "long": long if len(items) == 1 else f"up to {long}",
    }


@picture
def alerts(run: Run) -> str:
    """One row for each alert that was ever raised: when it stood for anything, errors and warnings by colour."""
    found = spans(run)
    shown = [alert for alert in TABLE if any(span.alert == alert.id for span in found)]
    if not shown:
        return ""
    figure, (axes,) = frame(run, [0.2 * len(shown)], below=0.3)
    end, pixel = run.end / SECOND, run.end / SECOND / 900
    labels = []
    for y, alert in enumerate(shown):
        mine = [s for s in found if s.alert == alert.id]
        bars = [(s.begin, max((end if s.end is None else s.end) - s.begin, pixel)) for s in mine]
        axes.axhline(y, color=style.GRID, lw=0.7, zorder=0.6)
        axes.broken_barh(bars, (y - 0.34, 0.68), color=COLOURS[alert.severity], lw=0, zorder=2)
        many = len({s.entity for s in mine})
        labels.append((float(y), alert.id + (f", {many} {alert.kind}s" if many > 1 else ""), style.INK))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator([]))
    axes.spines["left"].set_visible(False)
    names(axes, labels)
    keys = [Patch(color=COLOURS[severity], label=severity.value) for severity in Severity]
    figure.legend(handles=keys, loc="lower left", bbox_to_anchor=(0.066, 0.0), ncols=2, handlelength=1.2)
    return style.svg(figure, "alerts", f"{plural(len(shown), 'kind')} of alerts over time")
