"""Goal: what a study's points must meet, and which of them do: surely, perhaps, or not."""

import re
from dataclasses import dataclass
from typing import Literal

from drsim.study.formula import quantity
from drsim.study.stats import Interval

Met = Literal["yes", "perhaps", "no"]
NAMED = 6  # points that a sentence names


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to hold of a measure."""

    measure: str
    at_most: bool
    level: float
    text: str

    def met(self, found: Interval) -> Met:
        """Whether a value meets it: surely or surely not when its whole interval is on one side."""
        value, low, high = found
        ends = (value if low is None else low, value if high is None else high)
        good = [end <= self.level if self.at_most else end >= self.level for end in ends]
        return "yes" if all(good) else "perhaps" if any(good) else "no"


def goal(text: str) -> Goal:
    """Read 'RPO p99 <= 15 s'. Raises ValueError."""
    match = re.fullmatch(r"\s*(.+?)\s*(<=|>=)\s*(.+?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no target; write it like 'RPO p99 <= 15 s'")
    level = quantity(match[3])
    if level is None:
        try:
            level = float(match[3])
        except ValueError:
            raise ValueError(f"{match[3]!r} is no quantity; write 15 s, 0.1 %, 20 GB") from None
    return Goal(match[1], match[2] == "<=", level, f"{match[1]} {match[2]} {match[3]}")


def sentence(wanted: str, met: list[tuple[str, Met]]) -> str:
    """Which points meet what is wanted."""

    def named(words: list[str]) -> str:
        more = len(words) - NAMED
        return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")

    of = {which: [words for words, each in met if each == which] for which in ("yes", "perhaps", "no")}
    told = [f"met with {named(of['yes'])}" if of["yes"] else "surely met by none"]
    told += [f"perhaps with {named(of['perhaps'])}"] if of["perhaps"] else []
    told += [f"not with {named(of['no'])}"] if of["no"] else []
    return f"{wanted} is {', '.join(told)}"
