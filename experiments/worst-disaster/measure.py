"""The worst disaster: what a search finds, and what random disasters find with as many runs."""

from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from drsim.files.models import load_model
from drsim.study import style
from drsim.study.worst import Worst, at_random, evaluate, search

MODEL = Path(__file__).parent / "model.yaml"
BUDGET, SEEDS = 10, (1, 2)


@cache
def _found() -> tuple[Worst, list[Worst], list[Worst]]:
    model = load_model(MODEL)
    given = evaluate(model, tuple(fault.at for fault in model.faults), "seconds")
    searched = [search(model, BUDGET, seed=seed) for seed in SEEDS]
    return given, searched, [at_random(model, BUDGET, seed=seed) for seed in SEEDS]


def compared() -> dict[str, float]:
    """Seconds lost: as the model is, and the least that a search and the most that chance found."""
    given, searched, drawn = _found()
    least, most = min(each.loss for each in searched), max(each.loss for each in drawn)
    return {
        "given.lost_s": given.loss / 1e9, "searched.least.lost_s": least / 1e9, "drawn.most.lost_s": most / 1e9,
        "searched_over_drawn": sum(each.loss for each in searched) / sum(each.loss for each in drawn),
        "beaten": sum(a.loss > b.loss for a, b in zip(searched, drawn, strict=True)),
    }  # fmt: skip


def draw(path: Path) -> None:
    """When the faults are in the worst case and as the model is, and how much each try found."""
    model, (given, searched, drawn) = load_model(MODEL), _found()
    worst = max(searched, key=lambda each: each.loss)
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(9, 4.8), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=(1.1, 1))
        rows = (("as the model is", given), ("the worst that was found", worst))
        for y, (_, found) in enumerate(rows):
            for fault, at, colour in zip(model.faults, found.faults, style.SERIES, strict=False):
                above.broken_barh([(at / 6e10, getattr(fault, "lasts", 0) / 6e10)], (y - 0.3, 0.6), color=colour, lw=0)
            above.plot([found.at / 6e10], [y], "x", color=style.BAD, mew=2)
            text = f"{style.seconds(found.loss / 1e9)} lost"
            above.annotate(
                text, (found.at / 6e10, y), (0, 16), textcoords="offset points", color=style.BAD, ha="center"
            )
        above.set_yticks(range(2), [name for name, _ in rows])
        above.set(xlim=(0, model.run.until / 6e10), ylim=(1.7, -0.9), xlabel="minutes of the run; × is the disaster")
        for fault, colour in zip(model.faults, style.SERIES, strict=False):
            above.plot([], [], "s", color=colour, label=fault.words)
        above.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=4)
        for y, (found, colour) in enumerate(((searched, style.SERIES[0]), (drawn, style.REST))):
            values = [each.loss / 6e10 for each in found]
            below.plot(values, [y] * len(values), "o", color=colour, ms=9)
        below.set_yticks((0, 1), ("search", "chance"))
        below.set(xlim=(0, None), ylim=(1.6, -0.6), xlabel=f"minutes lost, the worst of {BUDGET} runs each")
        figure.savefig(path, dpi=96, format="png", metadata={"Software": None})
