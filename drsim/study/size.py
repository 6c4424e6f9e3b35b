"""Size: the least (or most) of something with which a target is met, by bisection, with the interval of the answer.

Each seed has an answer of its own: the value at which its run just meets the target. All values of a seed see the same
random numbers, so a seed's runs differ by the value only, and the seeds' answers are independent: their mean has a
Student-t interval.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drsim.core.errors import FileError
from drsim.files.merge import near
from drsim.files.models import load_model
from drsim.spec.model import Model
from drsim.study.design import Range, Value, between, changed, number
from drsim.study.formula import quantity
from drsim.study.pool import Died, Pool
from drsim.study.pool import run as run_all
from drsim.study.results import measures
from drsim.study.runner import play
from drsim.study.stats import Interval, interval
from drsim.study.style import words

SHORT = {
    "rpo_p50": "all.rpo_s.p50", "rpo_p95": "all.rpo_s.p95", "rpo_p99": "all.rpo_s.p99", "rpo_max": "all.rpo_s.max",
    "rpo_mean": "all.rpo_s.mean", "missed": "all.sla.missed_share", "history": "all.journal.history_s",
}  # fmt: skip
"""What people call some measures."""
WIDE = 64
"""A range that is not given goes from a 64th of the model's value to 64 times it, within what a model may have."""
PRECISION = 0.01
"""Relative; of quantities."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to hold of a measure."""

    measure: str
    at_most: bool
    level: float
    text: str

    def met(self, found: Mapping[str, float]) -> bool:
        """Whether it holds. Raises FileError when there is no such measure."""
        if self.measure not in found:
            raise FileError(
                f"the run has no measure {self.measure!r}{near(self.measure, found, most=6)}", place="--until"
            )
        value = found[self.measure]
        return value <= self.level if self.at_most else value >= self.level


def target(text: str) -> Target:
    """Read 'rpo_p99 <= 15 s'. Raises FileError."""
    match = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*(.+?)\s*", text)
    level = quantity(match[3]) if match else None
    if match is None:
        raise FileError(f"{text!r} is no target", place="--until", hint="write it like 'rpo_p99 <= 15 s'")
    if level is None:
        try:
            level = float(match[3])
        except ValueError:
            raise FileError(f"{match[3]!r} is no quantity", place="--until", hint="15 s, 0.1 %, 20 GB") from None
    return Target(SHORT.get(match[1], match[1]), match[2] == "<=", level, text)


@dataclass(frozen=True, slots=True)
class Task:
    """One seed's search: how much of what is varied, along a common scale from 0 to 1."""

    model: str
    overrides: tuple[str, ...]
    varied: Mapping[str, Range]
    target: Target
    seed: int


@dataclass(frozen=True, slots=True)
class Found:
    """A seed's answer, a part (0 to 1) of the ranges; or the bound that stopped it, with the measure at both ends."""

    part: float | None
    up: bool
    ends: tuple[float, float]
    runs: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Of everything varied the value that is needed, with its interval in its own unit, and the target."""

    target: Target
    up: bool
    values: Mapping[str, Interval]
    parts: Sequence[float]
    varied: Mapping[str, Range]
    runs: int

    def value(self, name: str) -> Value:
        """What is needed of something, in the unit of its range; the mean of the seeds' answers."""
        return between(self.varied[name], sum(self.parts) / len(self.parts))


def search(task: Task) -> Found:
    """A seed's search. Raises DrsimError."""
    seen: dict[float, float] = {}

    def good(part: float) -> bool:
        found = measures(play(varied(task, part), seed=task.seed))
        met = task.target.met(found)
        seen[part] = found[task.target.measure]
        return met

    low, high = good(0.0), good(1.0)
    ends = seen[0.0], seen[1.0]
    if low == high:
        return Found(0.0 if low else None, True, ends, 2)
    a, b = 0.0, 1.0
    while b - a > _precision(task.varied):
        middle = (a + b) / 2
        if good(middle) == high:
            b = middle
        else:
            a = middle
    return Found(b if high else a, high, ends, len(seen))


def varied(task: Task, part: float) -> Model:
    """The model with everything that is varied at a part of its range."""
    values = {name: between(factor, part) for name, factor in task.varied.items()}
    return changed(task.model, task.overrides, values)


def _precision(ranges: Mapping[str, Range]) -> float:
    """How fine the common scale is cut: one per cent of a value, or one of what is counted."""
    finest = 1.0
    for factor in ranges.values():
        low, high = number(factor.low), number(factor.high)
        if factor.whole:
            finest = min(finest, 0.5 / max(1.0, high - low))
        else:
            finest = min(finest, math.log1p(PRECISION) / math.log(high / low))
    return finest


def spread(source: str, overrides: tuple[str, ...], path: str, text: str | None = None) -> Range:
    """The range of what is varied: 'from..to', or a 64th of the model's value to 64 times it. Raises FileError."""
    if text is not None:
        low, _, high = text.partition("..")
        if not high or not math.isfinite(number(_plain(low))) or not math.isfinite(number(_plain(high))):
            raise FileError(f"{text!r} is no range", place=f"--vary {path}", hint="write it like '10 Mbit/s..1 Gbit/s'")
        return _range(low.strip(), high.strip())
    if path.startswith("vras."):
        return _range("1", "64")
    at: object = load_model(source, overrides=overrides).model_dump(mode="json")
    for key in path.split("."):
        if not isinstance(at, dict) or key not in at:
            known = list(at) if isinstance(at, dict) else []
            raise FileError(f"the model has no {path!r}{near(key, known)}", place="--vary")
        at = at[key]
    value = number(at) if isinstance(at, str | int | float) and not isinstance(at, bool) else math.nan
    if not math.isfinite(value) or value <= 0:
        raise FileError(
            f"{path} is {at}, from which no range follows", place="--vary", hint=f"--vary '{path}=LOW..HIGH'"
        )
    ends = []
    for sign in (-1, 1):  # as far as the model's own bounds allow
        for power in range(int(math.log2(WIDE)), -1, -1):
            text = _scaled(at, 2.0 ** (sign * power))
            try:
                load_model(source, overrides=(*overrides, f"{path}={text}"))
            except FileError:
                continue
            ends.append(text)
            break
    return _range(*ends)


def _scaled(value: object, times: float) -> str:
    """So many times a value, in its own unit."""
    if isinstance(value, int):
        return str(max(1, round(value * times)))
    amount, unit = re.fullmatch(r"\s*([\d.]+)\s*(.*)", str(value)).groups()  # type: ignore[union-attr]
    return f"{float(amount) * times:.6g} {unit}".strip()


def _plain(text: str) -> Value:
    try:
        return int(text)
    except ValueError:
        return text.strip()


def _range(low: str, high: str) -> Range:
    a, b = _plain(low), _plain(high)
    whole = isinstance(a, int) and isinstance(b, int)
    return Range.model_validate({"from": a, "to": b, "scale": "linear" if whole else "log", "whole": whole})


def size(task: Task, seeds: int, pool: Pool) -> Answer:
    """The search with several seeds. Raises FileError when no value meets the target, with the bounds."""
    tasks = [replace(task, seed=task.seed + n) for n in range(seeds)]
    found: list[Found] = []
    for each, result in run_all(search, tasks, pool):
        if isinstance(result, Died):
            raise FileError(
                f"the worker of seed {each.seed} died twice", place="size", hint="fewer --workers, or a smaller model"
            )
        found.append(result)
    stopped = next((each for each in found if each.part is None), None)
    if stopped is not None:
        low, high = (words(task.target.measure, end) for end in stopped.ends)
        said = [f"{name} from {factor.low} to {factor.high}" for name, factor in task.varied.items()]
        raise FileError(
            f"nothing meets {task.target.text!r}: it is {low} at the lower bound and {high} at the upper one",
            place=f"--vary {', '.join(said)}", hint="widen the range, or vary something else that matters",
        )  # fmt: skip
    parts = [each.part for each in found if each.part is not None]
    values = {name: interval([number(between(factor, part)) for part in parts]) for name, factor in task.varied.items()}
    return Answer(task.target, found[0].up, values, parts, task.varied, sum(each.runs for each in found))
