"""Pictures of one run, as SVG text: RPO, journals, buffers, WAN, states and history over time.

All pictures over time have the same width and margins, so that one instant stands at one place down the page. Faults
are shaded and numbered in each. VPGs keep their colour in all pictures; of many, those with the highest RPO are
coloured and the others are one grey band.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter

from drsim.core.measure import Teeth, mixture_quantiles
from drsim.core.units import SECOND
from drsim.sim.record import Sample
from drsim.sim.run import Run
from drsim.study import style
from drsim.study.canvas import Floats, amounts, capacity, durations, frame, limit, names, picture, short

COLUMNS = 640  # of an envelope: a little more than one a point
BARS = 300  # means of what a link carries
EXACT = 320  # teeth that can be told apart in a picture
LARGE = 20  # times the median or the alert at which an axis becomes logarithmic
ROWS, FOCUS = 20, 4

# -- VPGs: which ones are shown ------------------------------------------------------------------------------------


def chosen(run: Run, most: int = FOCUS) -> tuple[dict[str, str], list[str]]:
    """The VPGs that are shown one by one, with their colours, and the others. All when they are few, else the worst."""
    names = [vpg.name for vpg in run.layout.vpgs]
    if len(names) > most:
        worst = {name: -int(run.teeth(name).high.max(initial=0)) for name in names}
        names = sorted(names, key=lambda name: worst[name])[: most - 1]
    others = [vpg.name for vpg in run.layout.vpgs if vpg.name not in names]
    return dict(zip(names, style.SERIES, strict=False)), others


def _others(names: Sequence[str]) -> str:
    return f"{style.count(len(names))} other {'VPG' if len(names) == 1 else 'VPGs'}"


def envelope(teeth: Teeth, end: int, columns: int = COLUMNS) -> tuple[Floats, Floats, Floats, Floats]:
    """RPO in seconds for each column of [0, end]: middle of the column, lowest, highest, median; exact, not sampled."""
    edges = np.linspace(0, end, columns + 1).astype(np.int64)
    if not len(teeth.start):
        return (np.empty(0),) * 4
    cuts = np.unique(np.concatenate([teeth.start, teeth.end[-1:], edges[edges < teeth.end[-1]]]))
    cuts = cuts[cuts >= teeth.start[0]]
    begin, stop = cuts[:-1], cuts[1:]
    taken = teeth.taken[np.searchsorted(teeth.start, begin, "right") - 1]
    low, high = begin - taken, stop - taken
    column = np.searchsorted(edges, begin, "right") - 1
    first = np.flatnonzero(np.diff(column, prepend=-1))
    middle = [mixture_quantiles(low[a:b], high[a:b], [0.5])[0] for a, b in pairwise([*first.tolist(), len(low)])]
    x = (edges[column[first]] + np.minimum(edges[column[first] + 1], teeth.end[-1])) / 2
    return (
        x / SECOND, np.minimum.reduceat(low, first) / SECOND, np.maximum.reduceat(high, first) / SECOND,
        np.asarray(middle) / SECOND,
    )  # fmt: skip


def _pooled(run: Run) -> Teeth:
    return Teeth.pooled([run.teeth(vpg.name) for vpg in run.layout.vpgs])


def _scale(run: Run, alert: float) -> tuple[float, float, float, bool]:
    """Of an axis of RPO: low end, high end, highest RPO, and whether it is logarithmic; seconds."""
    teeth = _pooled(run)
    if not len(teeth.start):
        return 0.0, 1.0, 0.0, False
    near, median = (v / SECOND for v in teeth.quantiles([0.02, 0.5]))
    highest = float(teeth.high.max()) / SECOND
    log = highest > LARGE * min(median, alert)
    return max(min(near / 1.5, alert * 0.6), highest / 1e5, 1e-4), highest * (1.6 if log else 1.1), highest, log


@picture
def rpo_over_time(run: Run) -> str:
    """RPO of each VPG against its alert; single teeth when there are few, else lowest to highest and median."""
    colours, others = chosen(run)
    alerts = {vpg.name: vpg.spec.rpo_alert / SECOND for vpg in run.layout.vpgs}
    low, high, highest, log = _scale(run, min(alerts.values()))
    rows = len(colours) + bool(others)
    figure, panels = frame(run, [1.75 if rows < 3 else 1.25] * rows)
    for axes, (name, colour) in zip(panels, colours.items(), strict=False):
        top = limit(axes, alerts[name], f"alert {style.seconds(alerts[name])}", high if not log else high / 2.4)
        durations(axes, low, max(top, high), log=log)
        _teeth(axes, run, name, colour)
        worst = float(run.teeth(name).high.max(initial=0)) / SECOND
        names(axes, [(worst, short(name), colour), (worst * 0.99, f"max {style.seconds(worst)}", style.SOFT)][::-1])
    if others:
        axes = panels[-1]
        top = limit(axes, min(alerts[n] for n in others), "lowest alert", high)
        durations(axes, low, max(top, high), log=log)
        bands = [envelope(run.teeth(name), run.end) for name in others]
        x = max((b[0] for b in bands), key=len)
        stacked = np.full((2, len(bands), len(x)), np.nan)
        for n, (_, lowest, highs, _) in enumerate(bands):
            stacked[0, n, : len(lowest)], stacked[1, n, : len(highs)] = lowest, highs
        axes.fill_between(x, np.nanmin(stacked[0], 0), np.nanmax(stacked[1], 0), color=style.REST, lw=0)
        worst = float(np.nanmax(stacked[1]))
        names(axes, [(worst * 0.99, f"max {style.seconds(worst)}", style.SOFT), (worst, _others(others), style.SOFT)])
    return style.svg(figure, "rpo", f"RPO over time, at most {style.seconds(highest)}")


def _teeth(axes: Axes, run: Run, name: str, colour: str) -> None:
    teeth = run.teeth(name)
    alert = run.layout.vpg_of[name].spec.rpo_alert
    for begin, end in teeth.above(alert):
        axes.axvspan(begin / SECOND, end / SECOND, 0, 0.035, color=style.BAD, lw=0, zorder=4)
    if len(teeth.start) <= EXACT:
        x = np.column_stack([teeth.start, teeth.end]).ravel() / SECOND
        axes.plot(x, np.column_stack([teeth.low, teeth.high]).ravel() / SECOND, color=colour, lw=1.2)
        return
    x, low, high, _ = envelope(teeth, run.end)
    axes.fill_between(x, low, high, color=colour, alpha=0.28, lw=0)
    # The median of too few teeth would swing with the place at which a column cuts them.
    x, _, _, middle = envelope(teeth, run.end, min(COLUMNS, len(teeth.start) // 10))
    axes.plot(x, middle, color=colour, lw=1.1)


@picture
def rpo_distribution(run: Run) -> str:
    """The share of all instants at which a disaster finds the RPO at or below a value: each VPG, and all together."""
    colours, others = chosen(run)
    low, high, highest, log = _scale(run, min(v.spec.rpo_alert for v in run.layout.vpgs) / SECOND)
    figure = Figure(figsize=(7.0, 3.1))
    axes = figure.add_axes((0.085, 0.15, 0.80, 0.80))
    shares = np.unique(np.concatenate([np.linspace(0, 1, 201), np.linspace(0.95, 1, 101)]))
    for name in [*others, *reversed(colours)]:
        values = np.asarray(run.teeth(name).quantiles(list(shares))) / SECOND
        axes.plot(values, shares, color=colours.get(name, style.REST), lw=1.3 if name in colours else 0.7)
    pooled = _pooled(run)
    marks = (0.5, 0.95, 0.99)
    for share, value in zip(marks, pooled.quantiles(list(marks)), strict=True):
        axes.plot([value / SECOND], [share], "o", color=style.INK, ms=4, zorder=5)
    if len(run.layout.vpgs) > 1:
        values = np.asarray(pooled.quantiles(list(shares))) / SECOND
        axes.plot(values, shares, color=style.INK, lw=1.8)
    durations(axes, low, high, log=log, which="x", most=8.5)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 0.95, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}".replace("%", " %")))
    axes.tick_params(axis="x", which="both", labelsize=8.5)
    keys = [Patch(color=colour, label=short(name)) for name, colour in colours.items()]
    keys += [Patch(color=style.REST, label=_others(others))] if others else []
    keys += [Patch(color=style.INK, label="all VPGs")] if len(run.layout.vpgs) > 1 else []
    axes.legend(handles=keys, loc="lower right", handlelength=1.1, handleheight=0.5)
    return style.svg(figure, "cdf", f"Distribution of RPO over the disaster instant, at most {style.seconds(highest)}")


# -- samples: journals, buffers, links -----------------------------------------------------------------------------


def _samples(run: Run) -> tuple[list[Sample], Floats]:
    """The samples with their times in seconds; of several at one instant the first, before the run was closed."""
    first = {s.time: s for s in reversed(run.recorder.samples)}
    samples = [first[time] for time in sorted(first)]
    return samples, np.array([s.time for s in samples]) / SECOND


def _reduced(values: Floats, x: Floats) -> tuple[Floats, Floats]:
    """At most COLUMNS samples: of each group the highest."""
    first = np.arange(0, len(x), max(1, -(-len(x) // COLUMNS)))
    return x[first], np.maximum.reduceat(values, first)


Labels = list[tuple[float, str, str]]


def _lines(axes: Axes, x: Floats, lines: dict[str, Floats], colours: dict[str, str], kind: str) -> tuple[float, Labels]:
    """Lines of those that have a colour, the others as a grey band; the highest value, and the names to write."""
    rest = [values for name, values in lines.items() if name not in colours]
    labels: Labels = []
    if rest:
        lowest, highest = np.nanmin(rest, 0), np.nanmax(rest, 0)
        axes.fill_between(x, lowest, highest, color=style.REST, lw=0.8, alpha=0.7)
        labels.append((float(highest[-1]), f"{len(rest)} other {kind}{'s' * (len(rest) > 1)}", style.SOFT))
    drawn: list[Floats] = []
    for name, colour in colours.items():
        at, values = _reduced(lines[name], x)
        # A line that lies on others is dashed, so that they are seen as well.
        same = sum(np.allclose(values, other, rtol=0.01, equal_nan=True) for other in drawn)
        axes.plot(at, values, color=colour, ls=(0, (7, 7 * same)) if same else "-")
        drawn.append(values)
        shown = values[np.isfinite(values)]
        labels.append((float(shown[-1]) if len(shown) else 0.0, short(name), colour))
    return float(np.nanmax(np.concatenate(list(lines.values())), initial=0.0)), labels


@picture
def journal_use(run: Run) -> str:
    """All journals together by VPG, and of each VPG the fullest journal of a VM against its hard limit."""
    (samples, x), (colours, others) = _samples(run), chosen(run)
    total = {n: np.array([s.journal[n] for s in samples], float) for n in (*colours, *others)}
    fullest = {n: np.array([s.journal_largest[n] for s in samples], float) for n in (*colours, *others)}
    figure, (upper, lower) = frame(run, [1.35, 1.35], gap=0.34, titles=["All journals", "Fullest journal of a VM"])
    layers = [np.sum([total[n] for n in others], 0), *(total[n] for n in colours)] if others else list(total.values())
    shades = [style.REST, *colours.values()] if others else list(colours.values())
    reduced = [_reduced(layer, x) for layer in layers]
    upper.stackplot(reduced[0][0], [values for _, values in reduced], colors=shades, lw=0, alpha=0.75)
    tops = np.cumsum([layer[-1] for layer in layers])
    called = [_others(others), *map(short, colours)] if others else list(map(short, colours))
    amounts(upper, float(np.sum(layers, 0).max()) * 1.1, style.size)
    middles = tops - np.array([layer[-1] for layer in layers]) / 2
    names(upper, [(float(y), text, shade if shade != style.REST else style.SOFT)
                  for y, text, shade in zip(middles, called, shades, strict=True)])  # fmt: skip
    top, labels = _lines(lower, x, fullest, colours, "VPG")
    journals = [v.spec.journal for v in run.layout.vpgs if v.spec.journal.limit_bytes is not None]
    show = top * 1.1
    if journals:
        least = min(journals, key=lambda j: j.limit_bytes or 0)
        hard = float(least.limit_bytes or 0)
        show = limit(lower, hard, f"hard limit {style.size(hard)}", show)
        if hard <= 2.5 * top:
            lower.axhline(hard * least.warning, color=style.BAD, lw=0.8, ls=":")
            labels.append((hard * least.warning, f"warning at {least.warning:.0%}".replace("%", " %"), style.BAD))
    amounts(lower, show, style.size)
    names(lower, labels)
    return style.svg(figure, "journal", f"Journal use over time; the fullest journal of a VM reaches {style.size(top)}")


@picture
def buffer_use(run: Run) -> str:
    """What each sending VRA holds in its I/O buffer, against the share of it that may fill."""
    samples, x = _samples(run)
    called = {a: a.split("/")[-2] for a in samples[0].buffers}
    lines = {name: np.array([s.buffers.get(a, 0) for s in samples], float) for a, name in called.items()}
    usable = {called[a]: float(run.world.protected[a].limit) for a in called}
    order = sorted(lines, key=lambda name: -float(lines[name].max()))
    colours = dict(zip(sorted(order[: len(style.SERIES)], key=list(lines).index), style.SERIES, strict=False))
    figure, (axes,) = frame(run, [1.5])
    top, labels = _lines(axes, x, lines, colours, "VRA")
    show = top * 1.1
    for bound in sorted(set(usable.values())):
        show = limit(axes, bound, f"usable {style.size(bound)}", show)
        if bound > 2.5 * show:
            break
    amounts(axes, show, style.size)
    names(axes, labels)
    return style.svg(figure, "buffers", f"VRA buffer use over time, at most {style.size(top)}")


@picture
def wan_use(run: Run) -> str:
    """What each direction of a link carries, by kind, against what it can carry."""
    samples, x = _samples(run)
    samples, x = samples[:: -(-len(x) // BARS)], x[:: -(-len(x) // BARS)]
    used = [k for k, by in samples[-1].wan.items() if by["data"] + by["sync"] > 0] or list(samples[-1].wan)[:1]
    if not used or len(x) < 2:
        return ""
    figure, panels = frame(run, [1.6] * len(used), gap=0.34, titles=used)
    middle, most = (x[1:] + x[:-1]) / 2, 0.0
    for axes, key in zip(panels, used, strict=True):
        sent = {k: np.array([s.wan[key][k] for s in samples]) for k in style.KINDS}
        rates = [np.diff(values) * 8 / np.diff(x) for values in sent.values()]
        axes.stackplot(middle, rates, colors=list(style.KINDS.values()), lw=0, step="mid")
        top = float(np.sum(rates, 0).max())
        link = key.partition(" ")[0]
        bound = float(run.model.links[link].bandwidth)
        show = limit(axes, bound, f"bandwidth {style.rate(bound)}", top * 1.1)
        at = np.linspace(0, run.end / SECOND, 4 * COLUMNS + 1)
        room = capacity(run, link, at)
        if float(room.min()) < bound:
            axes.plot(at, np.minimum(room, show * 2), color=style.BAD, lw=0.8, drawstyle="steps-post")
        amounts(axes, show, style.rate)
        levels = np.cumsum([float(r[-max(1, len(r) // 20) :].mean()) for r in rates])
        names(axes, [(float(y), kind, style.KINDS_INK[kind])
                     for y, kind, r in zip(levels, style.KINDS, rates, strict=True) if r.any()])  # fmt: skip
        most = max(most, top)
    return style.svg(figure, "wan", f"WAN use over time, at most {style.rate(most)}")


# -- states and history --------------------------------------------------------------------------------------------


def status_colours(run: Run) -> dict[str, str]:
    """The colour of every status / sub-status of the run, in the order of STATES."""
    labels = dict.fromkeys(label for v in run.layout.vpgs for _, label in run.record(v.name).statuses)
    colours, used = {}, dict.fromkeys(style.STATES, 1)
    rank = list(style.STATES)
    for label in sorted(labels, key=lambda text: rank.index(h) if (h := text.partition(" / ")[0]) in rank else 99):
        status, _, sub = label.partition(" / ")
        shades = style.STATES.get(status, style.OTHER_STATES)
        at = used.get(status, 0) if sub else 0
        used[status] = used.get(status, 0) + bool(sub)
        colours[label] = shades[min(at, len(shades) - 1)]
    return colours


@picture
def states(run: Run) -> str:
    """One row for each VPG, a colour for each status; VPGs without a problem are left out when rows run out."""
    colours, every = status_colours(run), [vpg.name for vpg in run.layout.vpgs]
    shown, left = every, 0
    if len(every) > ROWS:
        troubled = [n for n in every if any(label != "MeetingSLA" for _, label in run.record(n).statuses)]
        shown = sorted((troubled + [n for n in every if n not in troubled])[:ROWS], key=every.index)
        left = len(every) - len(shown)
    row = 0.26 if len(shown) <= 8 else 0.2
    legend = 0.19 * -(-(len(colours) + 1) // 3) + 0.12
    figure, (axes,) = frame(run, [row * len(shown)], below=legend)
    end, pixel = run.end / SECOND, run.end / SECOND / 900
    healthy = [label for label in colours if label == "MeetingSLA"]
    keys = [Patch(color=colour, label=style.status(label)) for label, colour in colours.items()]
    for y, name in enumerate(shown):
        record, stop = run.record(name), run.observed(name) / SECOND
        changes = [*((t / SECOND, label) for t, label in record.statuses if t < run.observed(name)), (stop, "")]
        spans = [(a, b, label) for (a, label), (b, _) in pairwise(changes) if b > a]
        for a, b, label in sorted(spans, key=lambda s: (s[2] not in healthy, list(colours).index(s[2]))):
            axes.barh(y, max(b - a, 0 if label in healthy else pixel), 0.72, a, color=colours[label], lw=0, zorder=2)
        if stop < end:
            axes.barh(y, end - stop, 0.72, stop, color="white", ec=style.LOST, hatch="////", lw=0.5, zorder=2)
    if any(run.record(n).ended is not None for n in shown):
        keys.append(Patch(fc="white", ec=style.LOST, hatch="////", label="After the disaster"))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator([]))
    axes.spines["left"].set_visible(False)
    labels = [(float(y), short(name), style.INK) for y, name in enumerate(shown)]
    names(axes, labels)
    figure.legend(handles=keys, loc="lower left", bbox_to_anchor=(0.066, 0.0), ncols=3, handlelength=1.2)
    note = f"+{style.count(left)} more {'healthy ' if len(every) > ROWS and left else ''}VPGs"
    if left:
        axes.annotate(note, (1, 0), xycoords="axes fraction", xytext=(24, -9), textcoords="offset points",
                      fontsize=8.5, color=style.SOFT)  # fmt: skip
    return style.svg(figure, "states", f"Status over time of {style.plural(len(every), 'VPG')}")


def reached(run: Run, name: str, at: Floats) -> Floats:
    """How far back in time a VPG can be recovered at instants, in seconds; 0 without any checkpoint."""
    record = run.record(name)
    if not record.ids:
        return np.where(at <= run.observed(name) / SECOND, 0.0, np.nan)
    now = (at * SECOND).astype(np.int64)
    listed, taken, ids = (np.asarray(c, np.int64) for c in (record.listed, record.taken, record.ids))
    retired = np.array([t for t, _, _ in record.retired], np.int64)
    before = np.array([ids[0], *(b for _, b, _ in record.retired)], np.int64)
    first = np.searchsorted(ids, before[np.searchsorted(retired, now, "right")])
    some = first < np.searchsorted(listed, now, "right")
    back = np.where(some, now - taken[np.minimum(first, len(ids) - 1)], 0) / SECOND
    return np.where(now <= run.observed(name), back, np.nan)


def gaps(run: Run, name: str) -> list[tuple[float, float]]:
    """Stretches, in seconds, from which no checkpoint was ever listed, longer than one and a half intervals."""
    interval = run.layout.vpg_of[name].spec.checkpoint_interval
    end = run.observed(name)
    taken = np.array([0, *(t for t in run.record(name).taken if t < end), end], np.int64)
    wide = np.flatnonzero(np.diff(taken) > 1.5 * interval + SECOND)
    return [(taken[n] / SECOND, taken[n + 1] / SECOND) for n in wide]


@picture
def history(run: Run) -> str:
    """How far back each VPG can be recovered, against the history that is configured, and gaps between checkpoints."""
    colours, others = chosen(run)
    x = np.linspace(0, run.end / SECOND, COLUMNS + 1)
    lines = {n: reached(run, n, x) for n in (*colours, *others)}
    rows = len(colours) + bool(others)
    figure, (upper, lower) = frame(
        run, [1.6, 0.19 * rows], gap=0.34, titles=["How far back one can go", "Gaps: no checkpoint of these times"]
    )
    top, labels = _lines(upper, x, lines, colours, "VPG")
    show = max(top * 1.1, 1.0)
    for bound in sorted({v.spec.journal.history / SECOND for v in run.layout.vpgs})[:1]:
        show = limit(upper, bound, f"configured {style.seconds(bound)}", show)
    durations(upper, 0, show, log=False)
    names(upper, labels)
    groups = [*(([n], c) for n, c in colours.items()), *([(others, style.SOFT)] * bool(others))]
    for y, (group, colour) in enumerate(groups):
        spans = [(a, max(b - a, run.end / SECOND / 900)) for name in group for a, b in gaps(run, name)]
        lower.axhline(y, color=style.GRID, lw=4, zorder=0.6)
        lower.broken_barh(spans, (y - 0.33, 0.66), color=colour, lw=0)
    lower.set_ylim(rows - 0.5, -0.5)
    lower.yaxis.set_major_locator(FixedLocator([]))
    lower.spines["left"].set_visible(False)
    called = [*((float(y), short(n), c) for y, (n, c) in enumerate(colours.items()))]
    names(lower, [*called, *([(float(rows - 1), _others(others), style.SOFT)] * bool(others))])
    return style.svg(figure, "history", f"History over time; one can go back {style.seconds(top)} at most")
