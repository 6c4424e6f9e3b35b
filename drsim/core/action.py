"""Action: something that a workflow asks of a platform or a manager, and awaits the result of.

An action is a frozen dataclass of plain values, so that any world can carry it out and any history can hold it. It may
be asked for again with the same key, (operation, step): whoever carries it out answers what it answered before, or
finds out how far it came, and does nothing twice. Errors that go away by themselves are retried by whoever carries it
out; what is answered as `Failed` is final.
"""

from collections.abc import Generator
from typing import Generic, TypeVar, cast

T = TypeVar("T", covariant=True)

Step = tuple[int, ...]
"""Which await of a workflow: its number in its branch, behind the number of the branch. The same on every replay."""


class Action(Generic[T]):
    """Base of all actions; awaiting one gives its result, of type T, or raises the DrsimError of its failure."""

    __slots__ = ()

    def __await__(self) -> Generator["Action[T]", object, T]:
        return cast(T, (yield self))

    def __str__(self) -> str:
        """For people: what is done."""
        raise NotImplementedError
