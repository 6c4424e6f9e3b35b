"""Experiments: a question, the models that answer it, and figures that must come out, each with where it comes from.

An experiment is a folder with `expect.yaml`, the model it names and a README. What is no run of a model is measured by
a function of `measure.py` beside it, which returns measures by name; its `draw(path)` makes the picture then.
`expect.yaml` says for each figure its
measure by name (`results.measures`), what is expected as a formula over given quantities, and how near it must be.
Two checks need no line in it: the causes of missed service levels add up to all that was missed, and each of them is
one that the experiment expects, so that no miss goes unexplained.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from drsim.core.errors import FileError
from drsim.files.explain import dotted
from drsim.files.merge import near
from drsim.files.models import load_model
from drsim.files.yaml_tree import Item, Place, fail, parse, read_text, shown, walk
from drsim.sim.fluid.run import FluidRun
from drsim.sim.run import Run
from drsim.spec.base import Spec
from drsim.spec.model import Model
from drsim.spec.quantity import FROM_FILE, Ratio
from drsim.study import style
from drsim.study.design import read as read_study
from drsim.study.formula import value
from drsim.study.pool import processes
from drsim.study.results import measures
from drsim.study.runner import play
from drsim.study.sampling import Results, sample
from drsim.study.study_report import named

FILE, PROGRAM = "expect.yaml", "measure.py"
BEGIN, END = "<!-- figures: drsim experiment -->", "<!-- end of figures -->"
Shown = Literal["rpo", "wan", "journal", "buffer", "history"]
ROUNDING = 1e-6
"""Relative; an exact expectation still passes through floating point."""


class Arm(Spec):
    """One run of an experiment."""

    measured: str | None = None
    """A function of measure.py that returns the measures, in place of a run."""
    study: bool = False
    """Whether the quick runs of study.yaml beside it are measured (`study_report.named`), in place of a run."""

    @property
    def modelled(self) -> bool:
        """Whether it is a run of a model."""
        return self.measured is None and not self.study

    model: str = "model.yaml"
    """The model file, beside expect.yaml, or a shipped name."""
    set: tuple[str, ...] = ()
    """Changes to it, as `drsim run --set` takes them."""
    drawn: bool = True
    """Whether the picture shows it."""


class Figure(Spec):
    """One figure that must come out."""

    what: str
    """What it is, for people."""
    measure: str
    """Its name in `drsim.study.results.measures`."""
    arm: str | None = None
    """The arm it is taken from; the first one when not said."""
    expected: str | float
    """A quantity with its unit, a number, or a formula over `given`."""
    tolerance: Annotated[Ratio, Field(ge=0, le=1)] | None = None
    """How far off it may be, as a share of what is expected."""
    within: str | None = None
    """How far off it may be, as a quantity; exact when neither is said."""
    source: str
    """Where the expectation comes from: a closed form, a setting, a published figure."""

    @model_validator(mode="after")
    def _one_tolerance(self) -> "Figure":
        if self.tolerance is not None and self.within is not None:
            raise ValueError("say `tolerance` (a share) or `within` (a quantity), not both")
        return self


class Expectation(Spec):
    """What `expect.yaml` holds."""

    question: str
    """The question, one sentence."""
    arms: Annotated[dict[str, Arm], Field(min_length=1)] = {"run": Arm()}
    """The runs, by name."""
    given: dict[str, str | float] = {}
    """Quantities and formulas by name; later ones may use earlier ones."""
    figures: Annotated[tuple[Figure, ...], Field(min_length=1)]
    """What must come out."""
    picture: Annotated[tuple[Shown, ...], Field(min_length=1)] = ("rpo", "wan")
    """The panels of the README's picture."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment that was read and found sound: formulas have values, models validate."""

    name: str
    folder: Path
    tree: Item
    expectation: Expectation
    given: Mapping[str, float]
    models: Mapping[str, Model]
    program: ModuleType | None
    """measure.py, when an arm is measured by it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure judged; `expected` and `measured` in seconds, bytes, bits a second, shares or counts."""

    what: str
    arm: str
    measure: str
    expected: float
    measured: float
    allowed: float
    source: str

    @property
    def holds(self) -> bool:
        """Whether the measured figure is near enough."""
        return abs(self.measured - self.expected) <= self.allowed + ROUNDING * abs(self.expected)

    @property
    def off(self) -> float | None:
        """How far off as a share of what is expected; None when nothing is expected."""
        return self.measured / self.expected - 1 if self.expected else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """An experiment with its runs and verdicts."""

    experiment: Experiment
    runs: Mapping[str, Run | FluidRun]
    taken: Mapping[str, Mapping[str, float]]
    """The measures of each arm."""
    studied: Results | None
    """What a study of it has found."""
    verdicts: Sequence[Verdict]

    @property
    def holds(self) -> bool:
        """Whether every figure does."""
        return all(verdict.holds for verdict in self.verdicts)


# -- reading ------------------------------------------------------------------------------------------------------


def experiments(root: Path) -> dict[str, Path]:
    """The experiments of a folder by name. Raises FileError when there is none."""
    found = {path.parent.name: path.parent for path in sorted(root.glob(f"*/{FILE}"))}
    if not found:
        raise FileError(
            f"no experiment here: no folder in it has {FILE}", place=shown(root),
            hint="run it in drsim's checkout, or name an experiment's folder",
        )  # fmt: skip
    return found


def find(reference: str, root: Path) -> Path:
    """The folder of an experiment: a path, or a name in `root`. Raises FileError."""
    path = Path(reference)
    if (path / FILE).is_file():
        return path
    if path.is_dir():
        raise FileError(f"has no {FILE}, so it is no experiment", place=shown(path))
    known = experiments(root)
    if reference not in known:
        raise FileError(f"no experiment is called {reference!r}{near(reference, known)}", place=shown(root))
    return known[reference]


def read(folder: Path) -> Experiment:
    """Read and check an experiment without running it. Raises FileError that names file and line of each error."""
    path = folder / FILE
    tree = parse(read_text(path), file=path)
    if tree is None or not isinstance(tree.value, dict):
        raise FileError("an experiment is a mapping (`question:`, `figures:` ...)", place=shown(path))
    try:
        expectation = Expectation.model_validate(tree.plain(), context=FROM_FILE)
    except ValidationError as error:
        raise fail(list(_explained(error, tree)), main=path) from None
    wrong: list[tuple[Place, str]] = []
    given: dict[str, float] = {}
    for name, text in expectation.given.items():
        given[name] = _number(text, given, tree, ("given", name), wrong)
    for n, figure in enumerate(expectation.figures):
        _number(figure.expected, given, tree, ("figures", n, "expected"), wrong)
        _number(figure.within or 0, given, tree, ("figures", n, "within"), wrong)
        if figure.arm is not None and figure.arm not in expectation.arms:
            at = ("figures", n, "arm")
            text = f"{dotted(at)}: no arm is called {figure.arm!r}{near(figure.arm, expectation.arms)}"
            wrong.append((walk(tree, at).place, text))
    if wrong:
        raise fail(wrong, main=path)
    models = {name: _model(folder, arm) for name, arm in expectation.arms.items() if arm.modelled}
    measured = {name: arm.measured for name, arm in expectation.arms.items() if arm.measured is not None}
    program = _program(folder / PROGRAM) if measured else None
    for name, function in measured.items():
        if not callable(getattr(program, function, None)):
            where = ("arms", name, "measured")
            text = f"{dotted(where)}: {PROGRAM} has no function {function!r}"
            raise fail([(walk(tree, where).place, text)], main=path)
    return Experiment(folder.resolve().name, folder, tree, expectation, given, models, program)


def _program(path: Path) -> ModuleType:
    """An experiment's own measurements. Raises FileError."""
    spec = spec_from_file_location(f"drsim_experiment_{path.parent.name.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise FileError(f"an arm is `measured`, but there is no {PROGRAM}", place=shown(path.parent)) from None
    return module


def _model(folder: Path, arm: Arm) -> Model:
    beside = folder / arm.model
    return load_model(beside if beside.is_file() or arm.model.endswith(".yaml") else arm.model, overrides=arm.set)


def _number(
    text: str | float, names: Mapping[str, float], tree: Item, at: tuple[str | int, ...],
    wrong: list[tuple[Place, str]],
) -> float:  # fmt: skip
    try:
        return value(text, names)
    except ValueError as error:
        wrong.append((walk(tree, at).place, f"{dotted(at)}: {error}"))
        return math.nan


_SPECS: Mapping[str, type[Spec]] = {"figures": Figure, "arms": Arm}


def _explained(error: ValidationError, tree: Item) -> Iterator[tuple[Place, str]]:
    for each in error.errors(include_url=False):
        at = tuple(part for part in each["loc"] if not (isinstance(part, str) and part in ("str", "float")))
        match each["type"]:
            case "extra_forbidden":
                fields = (_SPECS[str(at[0])] if len(at) > 1 else Expectation).model_fields
                text = f"unknown field{near(str(at[-1]), fields, what='allowed')}"
            case "missing":
                text = "is missing"
            case _:
                text = each["msg"].removeprefix("Value error, ").removeprefix("Input ")
        yield walk(tree, at).place, f"{dotted(at)}: {text}"


# -- running and judging --------------------------------------------------------------------------------------------


def run(experiment: Experiment, *, simulated: Callable[[Model], Run | FluidRun] = play) -> Outcome:
    """Run every arm and judge every figure. Raises FileError for a measure that the run does not have."""
    runs = {name: simulated(model) for name, model in experiment.models.items()}
    studied = None
    if any(arm.study for arm in experiment.expectation.arms.values()):
        studied = sample(read_study(experiment.folder, quick=True), processes())

    def measured(name: str, arm: Arm) -> Mapping[str, float]:
        if studied is not None and arm.study:
            return named(studied)
        found: Mapping[str, float] = (
            measures(runs[name]) if arm.measured is None else getattr(experiment.program, arm.measured)()
        )
        return found

    taken = {name: measured(name, arm) for name, arm in experiment.expectation.arms.items()}
    return Outcome(experiment, runs, taken, studied, [*_judged(experiment, taken), *_attributed(experiment, taken)])


def _judged(experiment: Experiment, taken: Mapping[str, Mapping[str, float]]) -> Iterator[Verdict]:
    expectation, given = experiment.expectation, experiment.given
    for n, figure in enumerate(expectation.figures):
        arm = figure.arm or next(iter(expectation.arms))
        measured = taken[arm].get(figure.measure)
        if measured is None:
            if ".causes_s." not in figure.measure and ".status_s." not in figure.measure:
                raise _unknown(experiment, n, figure.measure, taken[arm])
            measured = 0.0  # a cause or a status that never was
        expected = value(figure.expected, given)
        allowed = value(figure.within or 0, given) + (figure.tolerance or 0) * abs(expected)
        yield Verdict(figure.what, arm, figure.measure, expected, measured, allowed, figure.source)


def _unknown(experiment: Experiment, n: int, name: str, taken: Mapping[str, float]) -> FileError:
    place = walk(experiment.tree, ("figures", n, "measure")).place
    text = f"figures.{n}.measure: the run has no measure {name!r}{near(name, taken, what='some of them', most=6)}"
    return FileError(text, place=str(place), hint="drsim experiment NAME --measures lists all of them")


def _attributed(experiment: Experiment, taken: Mapping[str, Mapping[str, float]]) -> Iterator[Verdict]:
    """For each drawn arm and VPG: its causes add up to all that was missed, and each is expected."""
    named = {(figure.arm or next(iter(taken)), figure.measure) for figure in experiment.expectation.figures}
    for arm, found in taken.items():
        for name, missed in found.items():
            vpg = name.removesuffix(".sla.missed_s")
            spec = experiment.expectation.arms[arm]
            if vpg in (name, "all") or not (spec.drawn and spec.modelled):
                continue
            causes = {key: s for key, s in found.items() if key.startswith(f"{vpg}.causes_s.")}
            of = vpg.removeprefix("vpgs.")
            text = f"SLA missed by {of}, all causes together"
            yield Verdict(text, arm, name, missed, sum(causes.values()), 1e-6, "what was missed")
            for key, seconds in causes.items():
                if (arm, key) not in named:
                    cause = key.rpartition(".causes_s.")[2]
                    yield Verdict(f"missed because of {cause}: not expected", arm, key, 0, seconds, 0, "no line for it")


# -- words ------------------------------------------------------------------------------------------------------------


def row(verdict: Verdict, *, arms: bool) -> tuple[str, str, str, str, str]:
    """A verdict as people read it: what, expected, measured, how far off, source."""
    what = f"{verdict.what} ({verdict.arm})" if arms else verdict.what
    off = "" if verdict.off is None else f"{100 * verdict.off:+.1f} %".replace("-", "−").replace("+0.0", "0.0")
    off = off.replace("−0.0", "0.0")
    return (
        what, style.words(verdict.measure, verdict.expected), style.words(verdict.measure, verdict.measured), off,
        verdict.source,
    )  # fmt: skip


def table(outcome: Outcome) -> str:
    """The README's table of figures, in Markdown."""
    arms = len(outcome.taken) > 1
    lines = ["| figure | expected | measured | off | from |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(row(verdict, arms=arms))} |" for verdict in outcome.verdicts]
    return "\n".join(lines)


def with_table(readme: str, outcome: Outcome) -> str:
    """A README's text with its table of figures made new. Raises FileError when it has no place for one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        place = shown(outcome.experiment.folder / "README.md")
        raise FileError(f"has no place for the figures: lines {BEGIN!r} and {END!r}", place=place)
    return f"{before}{BEGIN}\n\n{table(outcome)}\n\n{END}{after}"
