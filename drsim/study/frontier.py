"""Frontier: which points of a study meet its targets, and what the cheapest for each level is."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from drsim.study import style
from drsim.study.design import Plan
from drsim.study.goal import Met, goal
from drsim.study.sampling import Results
from drsim.study.saying import axis

ORDER: tuple[Met, ...] = ("no", "perhaps", "yes")


def meet(results: Results) -> dict[str, dict[int, Met]]:
    """Of each target, which points that were run meet it."""
    there = [n for n in range(len(results.plan.points)) if results.runs[n]]
    return {
        text: {n: wanted.met(results.interval(n, wanted.measure)) for n in there}
        for text in results.plan.study.target
        for wanted in (goal(text),)
    }


def together(met: dict[str, dict[int, Met]]) -> dict[int, Met]:
    """Which points meet all targets: as surely as the least sure of them."""
    points = next(iter(met.values()), {})
    return {n: min((of[n] for of in met.values()), key=ORDER.index) for n in points}


def priced(plan: Plan) -> str | None:
    """The measure that is the cost."""
    return next((name for name, of in plan.study.measures.items() if of == "cost"), None)


def chosen(results: Results) -> int | None:
    """The cheapest point that surely meets all targets."""
    dear = priced(results.plan)
    good = [n for n, each in together(meet(results)).items() if each == "yes"]
    return None if dear is None or not good else min(good, key=lambda n: results.interval(n, dear)[0])


def frontier(results: Results) -> Figure:
    """What each point costs against what the targets are about (else its first measure).

    Joined are the cheapest for each level, of the points that surely meet the other targets. Those that surely meet all
    are blue, and the cheapest of them has a ring.
    """
    plan, dear, met = results.plan, priced(results.plan), meet(results)
    assert dear is not None
    wanted = {goal(text).measure: goal(text).level for text in met}
    shown = list(wanted) or [next(name for name in plan.study.measures if name != dear)]
    every, best = together(met), chosen(results)
    figure = Figure(figsize=(11.04, 3.8), layout="constrained")
    for axes, good in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        others = together({text: of for text, of in met.items() if goal(text).measure != good})
        at = [(results.interval(n, good)[0], results.interval(n, dear)[0], n) for n in range(len(plan.points))]
        line = cheapest([each for each in at if others.get(each[2], "yes") == "yes"])
        axes.plot([x for x, _, _ in line], [y for _, y, _ in line], color=style.SERIES[0], drawstyle="steps-post")
        for x, y, n in at:
            axes.plot(x, y, "o", color=style.SERIES[0] if every.get(n, "yes") == "yes" else style.REST, ms=6)
        if good in wanted:
            axes.axvline(wanted[good], color=style.FAINT, ls="--", lw=1)
        for x, y, n in [each for each in at if each[2] == best] or line:
            axes.annotate(
                plan.points[n].words, (x, y), (9, 9), textcoords="offset points", fontsize=9,
                bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8},
            )  # fmt: skip
            if n == best:
                axes.plot(x, y, "o", mfc="none", mec=style.SERIES[0], ms=13)
        axes.set_xlabel(good)
        axis(axes, plan, good, "x")
        axis(axes, plan, dear, "y")
    figure.axes[0].set_ylabel("a month")
    return figure


def cheapest(at: Sequence[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Of (how bad, how dear, which) those than which none is as good and cheaper: the frontier, best first."""
    best: list[tuple[float, float, int]] = []
    for each in sorted(at):
        if not best or each[1] < best[-1][1]:
            best.append(each)
    return best
