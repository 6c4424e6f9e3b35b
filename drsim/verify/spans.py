"""Spans: what a recorder remembers of a run, in moments of its clock."""

from collections.abc import Callable
from dataclasses import dataclass, field

from drsim.core.messages import Message
from drsim.core.names import Address
from drsim.verify.bags import Link
from drsim.verify.guests import Write

Say = Callable[[], str]


@dataclass(slots=True)
class Step:
    """One choice. `then` is what came of it; `folded`: so much came of it that only what is notable is in `then`."""

    say: Say
    first: int
    healing: bool
    folded: bool = False
    last: int = 0
    then: list[Say] = field(default_factory=list)


@dataclass(slots=True)
class Wrote:
    """A guest's write: when it was issued, landed and acknowledged."""

    write: Write
    issued: int
    landed: int | None = None
    acked: int | None = None


@dataclass(slots=True, eq=False)
class Carried:
    """A message: when it was sent, and when it arrived or was lost."""

    sender: Address
    to: Address
    message: Message
    sent: int
    arrived: int | None = None
    lost: int | None = None


@dataclass(slots=True)
class Span:
    """Something that lasts: a hold, a broken connection, a component that is down. `of` is who."""

    kind: str
    of: Address | Link
    first: int
    last: int | None = None


@dataclass(slots=True)
class Point:
    """Something at one machine at one moment."""

    at: int
    address: Address
    kind: str
    say: Say
