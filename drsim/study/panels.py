"""Panels: an experiment's picture, the same few measures over time for each of its arms, as one PNG.

What `plots` draws for the report of one run is too much here: an experiment shows what its question is about.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from drsim.core.units import SECOND
from drsim.sim.run import Run
from drsim.study import style
from drsim.study.canvas import Floats, amounts, durations, frame, limit, names, short
from drsim.study.experiment import Outcome
from drsim.study.frontier import frontier, priced
from drsim.study.plots import gaps, reached
from drsim.study.study_report import figure

DPI = 96
POINTS = 800

Panel = Callable[[Axes, Run], None]


def _vpgs(run: Run) -> dict[str, str]:
    """VPGs with their colours; an experiment has few."""
    return dict(zip([vpg.name for vpg in run.layout.vpgs], style.SERIES, strict=False))


def _rpo(axes: Axes, run: Run) -> None:
    alert, top = min(vpg.spec.rpo_alert for vpg in run.layout.vpgs) / SECOND, 0.0
    labels = []
    for name, colour in _vpgs(run).items():
        teeth = run.teeth(name)
        x = np.column_stack([teeth.start, teeth.end]).ravel() / SECOND
        axes.plot(x, np.column_stack([teeth.low, teeth.high]).ravel() / SECOND, color=colour, lw=1.1)
        worst = float(teeth.high.max(initial=0)) / SECOND
        for begin, end in teeth.above(run.layout.vpg_of[name].spec.rpo_alert):
            axes.axvspan(begin / SECOND, end / SECOND, 0, 0.035, color=style.BAD, lw=0, zorder=4)
        labels += [(worst * 0.9, f"max {style.seconds(worst)}", style.SOFT), (worst, short(name), colour)]
        top = max(top, worst)
    durations(axes, 0, limit(axes, alert, f"alert {style.seconds(alert)}", top * 1.1), log=False)
    names(axes, labels)


def _series(run: Run) -> tuple[Floats, list[int]]:
    """Times of the samples in seconds, and which samples: the last one of an instant."""
    times = np.array([s.time for s in run.recorder.samples])
    keep = np.flatnonzero(np.diff(times, append=times[-1] + 1) > 0)
    return times[keep] / SECOND, keep.tolist()


def _wan(axes: Axes, run: Run) -> None:
    samples, (x, keep) = run.recorder.samples, _series(run)
    key = max(samples[-1].wan, key=lambda each: sum(samples[-1].wan[each].values()))
    step = max(1, len(x) // 300)
    keep, x = keep[::step], x[::step]
    rates = [
        np.diff([samples[n].wan[key][kind] for n in keep]) * 8 / np.diff(x) for kind in style.KINDS
    ]  # fmt: skip
    axes.stackplot((x[1:] + x[:-1]) / 2, rates, colors=list(style.KINDS.values()), lw=0, step="mid")
    bound = float(run.model.links[key.partition(" ")[0]].bandwidth)
    top = float(np.sum(rates, 0).max())
    amounts(axes, limit(axes, bound, f"bandwidth {style.rate(bound)}", top * 1.1), style.rate)
    peaks = [(float(r.max()) / 2, kind, style.KINDS_INK[kind]) for kind, r in zip(style.KINDS, rates, strict=True)]
    names(axes, [peak for peak in peaks if peak[0] > top / 100])


def _journal(axes: Axes, run: Run) -> None:
    x, keep = _series(run)
    top, labels = 0.0, []
    for name, colour in _vpgs(run).items():
        y = np.array([run.recorder.samples[n].journal_largest[name] for n in keep], float)
        axes.plot(x, y, color=colour)
        labels.append((float(y[-1]), short(name), colour))
        top = max(top, float(y.max()))
    limits = [v.spec.journal.limit_bytes for v in run.layout.vpgs if v.spec.journal.limit_bytes is not None]
    show = top * 1.1
    if limits:
        show = limit(axes, float(min(limits)), f"hard limit {style.size(min(limits))}", show)
    amounts(axes, show, style.size)
    names(axes, labels)


def _buffer(axes: Axes, run: Run) -> None:
    x, keep = _series(run)
    top, labels = 0.0, []
    lines = {a: np.array([run.recorder.samples[n].buffers.get(a, 0) for n in keep], float)
             for a in run.world.protected}  # fmt: skip
    lines = {address: y for address, y in lines.items() if y.any()}
    for (address, y), colour in zip(lines.items(), style.SERIES, strict=False):
        axes.plot(x, y, color=colour)
        labels.append((float(y.max()) / 2, short(address.split("/")[-2]), colour))
        top = max(top, float(y.max()))
    usable = min(float(run.world.protected[address].limit) for address in lines)
    amounts(axes, limit(axes, usable, f"usable {style.size(usable)}", top * 1.1), style.size)
    names(axes, labels)


def _history(axes: Axes, run: Run) -> None:
    x = np.linspace(0, run.end / SECOND, POINTS + 1)
    top, labels = 1.0, []
    for name, colour in _vpgs(run).items():
        y = reached(run, name, x)
        axes.plot(x, y, color=colour)
        labels.append((float(np.nan_to_num(y)[-1]), short(name), colour))
        top = max(top, float(np.nanmax(y)))
        spans = [(a, b - a) for a, b in gaps(run, name)]
        axes.broken_barh(spans, (0, top * 0.035), color=colour, lw=0)
    bound = min(v.spec.journal.history for v in run.layout.vpgs) / SECOND
    durations(axes, 0, limit(axes, bound, f"configured {style.seconds(bound)}", top * 1.1), log=False)
    names(axes, labels)


PANELS: Mapping[str, tuple[str, Panel]] = {
    "rpo": ("RPO", _rpo),
    "wan": ("WAN", _wan),
    "journal": ("Fullest journal of a VM", _journal),
    "buffer": ("VRA buffer", _buffer),
    "history": ("How far back one can go; bars: no checkpoint of these times", _history),
}
"""What a picture can show: its title and how it is drawn."""


def draw(runs: Mapping[str, Run], shown: Sequence[str], out: Path) -> None:
    """Write the picture of an experiment: for each arm the panels named in `shown`. Times are the longest arm's."""
    rows = [(arm, key) for key in shown for arm in runs]
    titles = [PANELS[key][0] + (f" · {arm}" if len(runs) > 1 else "") for arm, key in rows]
    longest = max(runs.values(), key=lambda run: run.end)
    with mpl.rc_context(style.SETTINGS):
        figure, panels = frame(longest, [1.3] * len(rows), gap=0.34, titles=titles)
        for axes, (arm, key) in zip(panels, rows, strict=True):
            PANELS[key][1](axes, runs[arm])
            axes.set_xlim(0, longest.end / SECOND)
        figure.savefig(out, dpi=DPI, format="png", metadata={"Software": None})


def picture(outcome: Outcome, out: Path) -> None:
    """Write an experiment's picture: what its own program draws, or the panels that it names, for its drawn arms."""
    experiment = outcome.experiment
    if experiment.program is not None:
        experiment.program.draw(out)
        return
    if outcome.studied is not None:
        with mpl.rc_context(style.SETTINGS):
            chart = figure if priced(outcome.studied.plan) is None else frontier
            chart(outcome.studied).savefig(out, dpi=DPI * 0.8, format="png", metadata={"Software": None})
        return
    arms = experiment.expectation.arms
    drawn = {arm: run for arm, run in outcome.runs.items() if arms[arm].drawn and isinstance(run, Run)}
    draw(drawn, experiment.expectation.picture, out)
