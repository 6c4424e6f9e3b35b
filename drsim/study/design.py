"""Study files: a question, a model, factors with their values, a design over them, replications, measures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator
from scipy.stats import qmc

from drsim.core.errors import FileError
from drsim.files.explain import dotted
from drsim.files.merge import near
from drsim.files.models import load_model
from drsim.files.yaml_tree import Item, fail, parse, read_text, shown, walk
from drsim.spec.base import Spec
from drsim.spec.model import Model
from drsim.spec.quantity import FROM_FILE
from drsim.study.formula import quantity
from drsim.study.goal import goal
from drsim.study.prices import Prices
from drsim.study.sensitivity import rows

FILE = "study.yaml"
Value = str | float | int | bool


class Range(Spec):
    """A factor between two ends, for designs that choose its values themselves."""

    low: Value = Field(alias="from")
    """The lowest: a quantity like "20 Mbit/s", or a number."""
    high: Value = Field(alias="to")
    """The highest."""
    scale: Literal["linear", "log"] = "linear"
    """How values lie between them."""
    steps: Annotated[int, Field(ge=2, le=1000)] = 5
    """How many a grid takes."""
    whole: bool = False
    """Only whole numbers."""


class Design(Spec):
    """Which combinations are run."""

    kind: Literal["grid", "one-at-a-time", "latin-hypercube", "sobol", "morris", "saltelli"] = "grid"
    """All of them; each factor alone around the first values; points that fill the space; or a sensitivity design."""
    points: Annotated[int, Field(ge=1, le=100_000)] = 16
    """How many; of morris trajectories, of saltelli base points, each of as many runs as there are factors and more."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Of these."""


class Replications(Spec):
    """How often each point is run, with seeds that all points share (common random numbers)."""

    at_least: Annotated[int, Field(ge=1, le=100_000)] = 5
    """So often at first."""
    at_most: Annotated[int, Field(ge=1, le=100_000)] = 5
    """And again and again up to so often, until `half_width` is reached."""
    half_width: str | float | None = None
    """Half the 95 % interval of the measure `of`, as a quantity; all points go on until each has it."""
    of: str | None = None
    """The measure that this is about; the first one when not said."""

    @model_validator(mode="after")
    def _more(self) -> "Replications":
        if self.half_width is not None and self.at_most <= self.at_least:
            raise ValueError("half_width needs `at_most` above `at_least`, so that there are runs to add")
        return self


class Quick(Spec):
    """What `--quick` changes."""

    set: tuple[str, ...] = ()
    """Changes to the model."""
    replications: Annotated[int, Field(ge=1)] = 2
    """How often each point is run."""
    points: Annotated[int, Field(ge=1)] = 4
    """How many, of designs that fill the space; how many of each factor at most, of the others."""


class Study(Spec):
    """What `study.yaml` holds."""

    question: str
    """The question, one sentence."""
    model: str = "model.yaml"
    """The model file, beside study.yaml, or a shipped name."""
    set: tuple[str, ...] = ()
    """Changes to it, as `drsim run --set` takes them."""
    factors: Annotated[dict[str, tuple[Value, ...] | Range], Field(min_length=1)]
    """Model paths, like links.wan.bandwidth, and their values."""
    design: Design = Design()
    """Which combinations are run."""
    replications: Replications = Replications()
    """How often each."""
    measures: Annotated[dict[str, str], Field(min_length=1)]
    """What is measured: our word for it, and its name among the run's measures; `cost` with prices."""
    target: tuple[str, ...] = ()
    """What a point must meet, like "RPO p99 <= 15 s", in our word for the measure; one or a list. The answer
    says which do."""
    prices: Prices | None = None
    """What things cost, for the measure `cost` and the frontier."""
    interval: Literal["t", "bootstrap"] = "t"
    """How intervals over replications are made: Student's, or by bootstrap for skewed measures."""
    state: Literal["terminating", "steady"] = "terminating"
    """Whether a run has a begin and an end that matter, or is a piece of a state that goes on for ever."""
    quick: Quick = Quick()
    """What `--quick` changes."""
    limit: str = "2 h"
    """A study that would take longer is refused, with what it would take."""

    @field_validator("target", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _targets_are_measured(self) -> "Study":
        for named in (goal(each).measure for each in self.target):
            if named not in self.measures:
                raise ValueError(f"target: {named!r} is not among the measures{near(named, self.measures)}")
        return self


def called(factor: str) -> str:
    """A model path as people call it: links.wan.bandwidth is "wan bandwidth", vras.dr "VRAs at dr"."""
    head, *rest = factor.split(".")
    if head == "vras":
        return f"VRAs at {'.'.join(rest)}"
    if rest and rest[0].isdigit():
        return " ".join([head.removesuffix("s"), str(int(rest[0]) + 1), *rest[1:]]).replace("_", " ")
    return " ".join(rest).replace("_", " ") or factor


def shown_value(value: Value) -> str:
    """A value for people: on, off, 20 Mbit/s."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of factors: its values as the model's changes, and as numbers for pictures."""

    values: Mapping[str, Value]
    numbers: Mapping[str, float]

    @property
    def words(self) -> str:
        """The values, for people; with the factors' names when there are several."""
        if len(self.values) == 1:
            return shown_value(next(iter(self.values.values())))
        return ", ".join(f"{called(name)} {shown_value(value)}" for name, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Plan:
    """A study that was read and found sound. `models`: of each point."""

    name: str
    folder: Path
    study: Study
    points: Sequence[Point]
    models: Sequence[Model]
    quick: bool


def read(folder: Path, *, quick: bool = False) -> Plan:
    """Read and check a study. Raises FileError that names file and line of each error."""
    path = folder / FILE
    tree = parse(read_text(path), file=path)
    if tree is None or not isinstance(tree.value, dict):
        raise FileError("a study is a mapping (`question:`, `factors:` ...)", place=shown(path))
    try:
        study = Study.model_validate(tree.plain(), context=FROM_FILE)
    except ValidationError as error:
        raise fail([_explained(each, tree) for each in error.errors(include_url=False)], main=path) from None
    if quick:
        again = Replications(at_least=study.replications.at_least, at_most=study.replications.at_least)
        fewer = again.model_copy(update={"at_least": min(again.at_least, study.quick.replications),
                                         "at_most": min(again.at_most, study.quick.replications)})  # fmt: skip
        design = study.design.model_copy(update={"points": min(study.design.points, study.quick.points)})
        study = study.model_copy(update={"replications": fewer, "design": design})
    made = points(study, most=study.quick.points if quick else None)
    changes = (*study.set, *(study.quick.set if quick else ()))
    model = folder / study.model
    named = model if model.is_file() or study.model.endswith(".yaml") else study.model
    models = [changed(named, changes, point.values) for point in made]
    return Plan(folder.resolve().name, folder, study, made, models, quick)


def changed(model: str | Path, overrides: Sequence[str], values: Mapping[str, Value]) -> Model:
    """A model with these values; `vras.SITE` is how many VRAs a site has. Raises FileError."""
    plain = [f"{name}={value}" for name, value in values.items() if not name.startswith("vras.")]
    made = load_model(model, overrides=[*overrides, *plain])
    for name, value in values.items():
        if name.startswith("vras."):
            made = with_vras(made, name.removeprefix("vras."), int(number(value)))
    return made


def with_vras(model: Model, site: str, count: int) -> Model:
    """The model with so many hosts, each with a VRA, on a site: copies of its first one, over which VMs are dealt."""
    hosts = {name: host for name, host in model.hosts.items() if host.site == site}
    if not hosts:
        raise FileError(f"no host is on site {site!r}{near(site, model.sites)}", place=f"vras.{site}")
    first = next(iter(hosts.values()))
    names = [*hosts, *(f"{site}-vra-{n}" for n in range(len(hosts) + 1, count + 1))][:count]
    dumped = model.model_dump()
    dumped["hosts"] = {k: v for k, v in dumped["hosts"].items() if k not in hosts} | {
        name: (hosts.get(name) or first).model_dump() for name in names
    }
    for vm, spec in model.vms.items():
        if model.site_of(spec) == site:
            dumped["vms"][vm]["host"] = names if spec.count > 1 else names[0]
    for vpg, protected in model.vpgs.items():
        if model.hosts[protected.recovery.hosts[0]].site == site:
            dumped["vpgs"][vpg]["recovery"]["hosts"] = names
    return Model.model_validate(dumped)


def _explained(error: Any, tree: Item) -> Any:
    known: dict[str, type[Spec]] = {"design": Design, "replications": Replications, "quick": Quick, "factors": Range}
    at = tuple(part for part in error["loc"] if part not in ("Range", "tuple[union[str,float,int,bool],...]"))
    match error["type"]:
        case "extra_forbidden":
            spec = known.get(str(at[0]), Study) if len(at) > 1 else Study
            text = f"unknown field{near(str(at[-1]), spec.model_fields, what='allowed')}"
        case "missing":
            text = "is missing"
        case _:
            text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return walk(tree, at).place, f"{dotted(at)}: {text}"


# -- designs ----------------------------------------------------------------------------------------------------------


def points(study: Study, *, most: int | None = None) -> list[Point]:
    """The combinations that a study runs; of each factor of a grid at most `most` values, the ends among them.

    Raises FileError for a design that needs ranges and has none.
    """
    design, factors = study.design, study.factors
    if design.kind not in ("grid", "one-at-a-time"):
        ranges: dict[str, Range] = {}
        for name, factor in factors.items():
            if not isinstance(factor, Range):
                text = f"a {design.kind} design chooses values itself and needs a range"
                raise FileError(text, place=f"factors.{name}", hint="write it as {from: ..., to: ...}")
            ranges[name] = factor
        return [
            _point({name: between(ranges[name], float(u)) for name, u in zip(ranges, row, strict=True)})
            for row in parts(study)
        ]
    values = {name: _thinned(_values(factor), most) for name, factor in factors.items()}
    if design.kind == "grid":
        return [_point(dict(zip(values, row, strict=True))) for row in product(*values.values())]
    first = {name: each[0] for name, each in values.items()}
    return [_point(first), *(_point({**first, name: v}) for name, each in values.items() for v in each[1:])]


def parts(study: Study) -> NDArray[np.float64]:
    """Of a design that chooses values itself the rows: float64[points, factors], parts of each range."""
    design, names = study.design, list(study.factors)
    match design.kind:
        case "sobol":
            count = 1 << max(0, (design.points - 1).bit_length())
            return np.asarray(qmc.Sobol(len(names), rng=design.seed).random(count))
        case "latin-hypercube":
            return np.asarray(qmc.LatinHypercube(len(names), rng=design.seed).random(design.points))
        case "morris" | "saltelli" as method:
            return rows(method, names, design.points, design.seed)
        case _:
            raise ValueError(f"a {design.kind} design has no rows")


def _values(factor: tuple[Value, ...] | Range) -> Sequence[Value]:
    if not isinstance(factor, Range):
        return factor
    return [between(factor, n / (factor.steps - 1)) for n in range(factor.steps)]


def _thinned(values: Sequence[Value], most: int | None) -> Sequence[Value]:
    if most is None or len(values) <= most:
        return values
    if most == 1:
        return values[:1]
    return [values[round(n * (len(values) - 1) / (most - 1))] for n in range(most)]


def number(value: Value) -> float:
    """A value as a number: seconds, bytes, bytes a second, shares. NaN for words."""
    if isinstance(value, str):
        found = quantity(value)
        return math.nan if found is None else found
    return float(value)


def between(factor: Range, part: float) -> Value:
    """The value at a part (0 to 1) of a range, in the unit of its low end."""
    low, high = number(factor.low), number(factor.high)
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        raise FileError(f"from {factor.low} to {factor.high} is no range", place="factors", hint="low end first")
    if factor.scale == "log":
        if low <= 0:
            raise FileError(f"a logarithmic range cannot begin at {factor.low}", place="factors")
        value = low * (high / low) ** part
    else:
        value = low + (high - low) * part
    if not isinstance(factor.low, str):
        return round(value) if factor.whole else float(value)
    unit = factor.low.lstrip("0123456789.+-eE ").strip()
    one = number(f"1 {unit}")
    count = value / one
    return f"{round(count) if factor.whole else format(count, '.6g')} {unit}"


def _point(values: Mapping[str, Value]) -> Point:
    return Point(values, {name: number(value) for name, value in values.items()})
