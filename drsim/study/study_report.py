"""Study report: a study's results as tables, comparisons, pictures, and a page that a reader acts on."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from drsim.core.errors import FileError
from drsim.study import style
from drsim.study.design import Plan, called, parts, shown_value
from drsim.study.frontier import chosen, frontier, meet, priced, together
from drsim.study.goal import goal, sentence
from drsim.study.page import Page, Section
from drsim.study.sampling import Results
from drsim.study.saying import axis, cell, said
from drsim.study.sensitivity import Effect, Method, bars, effects
from drsim.study.stats import Comparison, compare

SERIES = 6  # values of a second factor that can be lines; more are a heat map
TABLE = 200  # rows of a page's table
LEGENDS = {
    "morris": ("Bar: mean size of what one step of the factor changes, with its 95 % interval. Mark: how much that "
               "depends on the others.",),
    "saltelli": ("Blue: share of the variance that the factor explains alone. Grey: with the others.",),
}  # fmt: skip


def comparisons(results: Results) -> list[tuple[str, str, str, Comparison]]:
    """Of each factor alone, neighbours: (what changes, measure, from-to, how much), where runs share their seeds."""
    plan, found = results.plan, []
    if len(plan.study.factors) != 1 or len(plan.points) > SERIES:
        return []
    (factor,) = plan.study.factors
    for n, m in pairwise(range(len(plan.points))):
        shared = sorted(set(results.runs[n]) & set(results.runs[m]))
        if len(shared) < 2:
            continue
        for name in plan.study.measures:
            a, b = ([results.runs[k][seed].values[name] for seed in shared] for k in (n, m))
            change = f"{shown_value(plan.points[n].values[factor])} → {shown_value(plan.points[m].values[factor])}"
            found.append((factor, name, change, compare(a, b)))
    return found


def answer(results: Results) -> str:
    """What came out, in a few sentences: of each measure where it is least and most."""
    plan = results.plan
    told = _goal(results)
    if plan.study.design.kind in ("morris", "saltelli"):
        for name in plan.study.measures:
            most, *others = (called(effect.factor) for effect in sensitivities(results, name))
            told.append(f"{name} depends most on {most}{', then on ' + ', '.join(others) if others else ''}")
    for name in plan.study.measures if plan.study.design.kind not in ("morris", "saltelli") else ():
        found = [(results.interval(n, name)[0], n) for n in range(len(plan.points)) if results.runs[n]]
        if not found:
            continue
        (low, a), (high, b) = min(found), max(found)
        if said(plan, name, low) == said(plan, name, high):
            told.append(f"{name} is {said(plan, name, low)} everywhere")
        else:
            least, most = plan.points[a].words, plan.points[b].words
            told.append(f"{name} is {said(plan, name, low)} with {least} and {said(plan, name, high)} with {most}")
    told += [
        f"{change} changes {name} by {_signed(plan, name, c)}, {'for sure' if c.sure else 'which may be chance'}"
        for _, name, change, c in sorted(comparisons(results), key=lambda each: not each[3].sure)[:1]
    ]
    return ". ".join(each[:1].upper() + each[1:] for each in told) + "."


def _goal(results: Results) -> list[str]:
    """Which points meet each target, which meet all, and of those that surely do the cheapest, if things cost."""
    plan, met = results.plan, meet(results)
    if not met:
        return []
    words = [point.words for point in plan.points]
    told = [sentence(goal(text).text, [(words[n], of[n]) for n in of]) for text, of in met.items()]
    every = together(met)
    if len(met) > 1:
        told.append(sentence("all of it", [(words[n], each) for n, each in every.items()]))
    if (best := chosen(results)) is not None:
        dear = priced(plan)
        assert dear is not None
        told.append(
            f"the cheapest of those is {words[best]}, at {said(plan, dear, results.interval(best, dear)[0])} a month"
        )
    return told


def _signed(plan: Plan, name: str, found: Comparison) -> str:
    def one(number: float) -> str:
        return ("−" if number < 0 else "+") + said(plan, name, abs(number))

    return f"{one(found.difference)} ({one(found.low)} to {one(found.high)})"


# -- pictures ---------------------------------------------------------------------------------------------------------


def figure(results: Results) -> Figure:
    """A panel for each measure: a line over the first factor, lines or a heat map with a second one, else dots.

    Of a sensitivity design the effects of its factors.
    """
    plan = results.plan
    names, factors = list(plan.study.measures), list(plan.study.factors)
    made = Figure(figsize=(11.04, 2.9 * len(names)), layout="constrained")
    sampled = plan.study.design.kind in ("latin-hypercube", "sobol")
    for axes, name in zip(made.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        if plan.study.design.kind in ("morris", "saltelli"):
            found = sensitivities(results, name)
            bars(axes, found, plan.study.design.kind, [called(effect.factor) for effect in found])
            if plan.study.design.kind == "morris":
                axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _, name=name: said(plan, name, v)))
        elif sampled or len(factors) > 2 or plan.study.design.kind == "one-at-a-time":
            _dots(axes, results, name)
        elif len(factors) == 2 and len({p.values[factors[1]] for p in plan.points}) > SERIES:
            _heat(made, axes, results, name)
        else:
            _curves(axes, results, name)
        axes.set_title(name, loc="left", color=style.INK)
    return made


def sensitivities(results: Results, name: str) -> list[Effect]:
    """The factors' effects on a measure, the largest first. Raises FileError when a point has no run."""
    plan = results.plan
    design = plan.study.design
    if results.lost or design.kind not in ("morris", "saltelli"):
        raise FileError("a sensitivity needs all runs of its design", place="design", hint="run it again with --resume")
    method: Method = "morris" if design.kind == "morris" else "saltelli"
    values = [results.interval(n, name)[0] for n in range(len(plan.points))]
    return effects(method, list(plan.study.factors), parts(plan.study), values)


def _curves(axes: Axes, results: Results, name: str) -> None:
    plan = results.plan
    first, *rest = plan.study.factors
    groups: dict[str, list[int]] = {}
    for n, point in enumerate(plan.points):
        groups.setdefault(shown_value(point.values[rest[0]]) if rest else "", []).append(n)
    ticks = [shown_value(v) for v in dict.fromkeys(point.values[first] for point in plan.points)]
    numbers = list(dict.fromkeys(point.numbers[first] for point in plan.points))
    plain = all(map(math.isfinite, numbers))
    bands: list[tuple[list[float], list[tuple[float, float]], str]] = []
    for (label, members), colour in zip(groups.items(), style.SERIES, strict=False):
        x = [
            plan.points[n].numbers[first] if plain else ticks.index(shown_value(plan.points[n].values[first]))
            for n in members
        ]
        found = [results.interval(n, name) for n in members]
        axes.plot(
            x, [f[0] for f in found], "o-", color=colour, ms=4, label=f"{called(rest[0])} {label}" if rest else None
        )
        ends = [
            (value if low is None else max(low, 0.0), value if high is None else high) for value, low, high in found
        ]
        axes.plot(x, [high for _, high in ends], ls="")  # the axis reaches up to the bands, and down to the values
        bands.append((x, ends, colour))
    if plain and min(numbers) > 0 and max(numbers) > 20 * min(numbers):
        axes.set_xscale("log")
    axes.set_xticks(numbers if plain else range(len(ticks)), ticks)
    axes.minorticks_off()
    axes.set_xlabel(called(first))
    axis(axes, plan, name, "y")
    for at, ends, colour in bands:
        axes.fill_between(at, [low for low, _ in ends], [high for _, high in ends], color=colour, alpha=0.2, lw=0)
    if rest:
        axes.legend(loc="best")


def _heat(made: Figure, axes: Axes, results: Results, name: str) -> None:
    plan = results.plan
    across, up = plan.study.factors
    columns, rows = (list(dict.fromkeys(point.values[f] for point in plan.points)) for f in (across, up))
    grid = np.full((len(rows), len(columns)), np.nan)
    for n, point in enumerate(plan.points):
        grid[rows.index(point.values[up]), columns.index(point.values[across])] = results.interval(n, name)[0]
    shown = axes.imshow(grid, aspect="auto", origin="lower", cmap="cividis")
    axes.set_xticks(range(len(columns)), [shown_value(c) for c in columns])
    axes.set_yticks(range(len(rows)), [shown_value(r) for r in rows])
    axes.set(xlabel=called(across), ylabel=called(up))
    axes.grid(visible=False)
    bar = made.colorbar(shown, ax=axes)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: said(plan, name, value)))


def _dots(axes: Axes, results: Results, name: str) -> None:
    plan = results.plan
    found = sorted((results.interval(n, name), n) for n in range(len(plan.points)) if results.runs[n])[:40]
    for y, ((value, low, high), _) in enumerate(found):
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=style.REST, lw=3, solid_capstyle="butt")
        axes.plot([value], [y], "o", color=style.SERIES[0], ms=4)
    axes.set_yticks(range(len(found)), [plan.points[n].words for _, n in found], fontsize=7)
    axis(axes, plan, name, "x")


# -- output -----------------------------------------------------------------------------------------------------------


def page(results: Results, command: str) -> Page:
    """The study for people."""
    plan = results.plan
    names, factors = list(plan.study.measures), list(plan.study.factors)
    rows = [
        [*(shown_value(point.values[f]) for f in factors),
         *(cell(plan, name, results.interval(n, name)) for name in names), str(len(results.runs[n]))]
        for n, point in enumerate(plan.points)
    ]  # fmt: skip
    with mpl.rc_context(style.SETTINGS):
        drawn = style.svg(figure(results), "study", f"{', '.join(names)} over {', '.join(map(called, factors))}")
    sections = [
        Section("In a picture", LEGENDS.get(plan.study.design.kind, ()), drawn),
        *_frontier(results),
        Section("In figures", text=(_confidence(plan),), table=([*map(called, factors), *names, "runs"], rows[:TABLE])),
    ]
    if compared := comparisons(results):
        lines = [
            [change, name, _signed(plan, name, c), "yes" if c.sure else "no",
             "–" if not math.isfinite(c.gain) else f"{c.gain:.1f}"]
            for _, name, change, c in compared
        ]  # fmt: skip
        text = (
            "Runs of both sides share their random numbers, so only what the change does is left. The last column says "
            "how many times wider the interval would be with independent runs."
        )
        header = ("change", "measure", "difference (95 %)", "for sure", "common numbers gain")
        sections.append(Section("Does it matter?", text=(text,), table=(header, lines)))
    if results.lost:
        said_ = ", ".join(f"{plan.points[p].words} (seed {s})" for p, s in results.lost)
        sections.append(Section("Not there", text=(f"Workers died twice in these runs, which are missing: {said_}.",)))
    sections.append(Section("Assumptions", text=_assumptions(plan)))
    about = f"{len(plan.points)} points, {sum(map(len, results.runs))} runs of {plan.models[0].run.fidelity}."
    return Page(plan.study.question, answer(results), command, sections, about, good=not results.lost)


def _frontier(results: Results) -> list[Section]:
    if priced(results.plan) is None or len(results.plan.study.measures) < 2:
        return []
    with mpl.rc_context(style.SETTINGS):
        drawn = style.svg(frontier(results), "frontier", "cost against what is wanted")
    said_ = "Points above and right of the line are dearer than needed."
    if results.plan.study.target:
        said_ += (
            " The line is of those that surely meet the other targets; blue points surely meet every target (dashed), "
            "and the ring is the cheapest of them."
        )
    return [Section("The cheapest for each level", (said_,), drawn)]


def _confidence(plan: Plan) -> str:
    if plan.study.state == "steady":
        return "Means over one long run without its warm-up (MSER-5), with 95 % intervals by batch means."
    how = "bootstrap" if plan.study.interval == "bootstrap" else "Student-t"
    return f"Means over replications with 95 % {how} intervals."


def _assumptions(plan: Plan) -> Sequence[str]:
    model = plan.models[0]
    said_ = [
        f"Model {plan.study.model}{' with ' + ', '.join(plan.study.set) if plan.study.set else ''}: {model.about}",
        f"{style.seconds(model.run.until / 1e9)} simulated in each run, fidelity {model.run.fidelity}.",
    ]
    if plan.quick:
        said_.append("Made with --quick: fewer points and runs than the study asks for.")
    return said_


def named(results: Results) -> dict[str, float]:
    """Every figure under a name: "20 Mbit/s.all.rpo_s.p99" of a point, "sure.off → on.RPO p95" of a comparison."""
    plan, found = results.plan, dict[str, float]()
    for n, point in enumerate(plan.points):
        for name, of in plan.study.measures.items():
            found[f"{point.words}.{of}"] = results.interval(n, name)[0]
    for _, name, change, c in comparisons(results):
        of = plan.study.measures[name]
        found |= {f"{change}.{of}.difference": c.difference, f"sure.{change}.{name}": float(c.sure)}
        if math.isfinite(c.gain):
            found[f"times.{change}.{name}"] = c.gain
    if plan.study.design.kind in ("morris", "saltelli"):
        for name, of in plan.study.measures.items():
            for rank, effect in enumerate(sensitivities(results, name), 1):
                found |= {f"rank.{called(effect.factor)}.{name}": rank, f"{called(effect.factor)}.{of}": effect.first}
    return found


def frame(results: Results, point: int) -> pd.DataFrame:
    """A point's runs: its number and factors, the seed, and the measures."""
    plan = results.plan
    rows = [
        {"point": point, **{k: str(v) for k, v in plan.points[point].values.items()}, "seed": seed, **measured.values}
        for seed, measured in sorted(results.runs[point].items())
    ]
    columns = ["point", *plan.study.factors, "seed", *plan.study.measures]
    return pd.DataFrame(rows, columns=columns).astype({"point": "int64", "seed": "int64"})


def write_runs(results: Results, path: Path) -> None:
    """All runs as Parquet, a row group for each point that has any."""
    tables = [pa.Table.from_pandas(frame(results, n), preserve_index=False)
              for n in range(len(results.plan.points)) if results.runs[n]]  # fmt: skip
    if tables:
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)


def plain(results: Results, command: str) -> dict[str, Any]:
    """The study as plain values."""
    plan = results.plan
    return {
        "question": plan.study.question, "answer": answer(results), "command": command, "quick": plan.quick,
        "points": [
            {
                "factors": dict(point.values), "runs": len(results.runs[n]),
                "measures": {
                    name: dict(zip(("value", "low", "high"), results.interval(n, name), strict=True))
                    for name in plan.study.measures if results.runs[n]
                },
            }
            for n, point in enumerate(plan.points)
        ],
        "comparisons": [
            {"factor": factor, "measure": name, "change": change, "difference": c.difference, "low": c.low,
             "high": c.high, "sure": c.sure, "gain": c.gain if math.isfinite(c.gain) else None}
            for factor, name, change, c in comparisons(results)
        ],
        "lost": [{"point": point, "seed": seed} for point, seed in results.lost],
    }  # fmt: skip
