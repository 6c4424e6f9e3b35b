"""Mutant: a mistake planted in a machine or a port, the case it is taken from, and the properties that must see it.

A mutant replaces a method by one that has the mistake, for as long as its context lasts. The core knows nothing of
it: there is no flag, and what is planted is what somebody could have written.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

Patch = AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class Mutant:
    """`numbers` in the project's two lists of bugs, none for one of our own; `cites` the real case, or "design".

    Any of `properties` must see it when programs of `hunter` (hunt.py) are played while `patch()` lasts.
    """

    name: str
    numbers: tuple[str, ...]
    cites: str
    breaks: str
    properties: tuple[str, ...]
    patch: Callable[[], Patch]
    hunter: str = "explorer"


def mutant(
    *numbers: str, by: tuple[str, ...], cites: str = "design", hunter: str = "explorer"
) -> Callable[[Callable[[], Patch]], Mutant]:
    """Make a mutant of a function that returns the patch: its name and the first line of its docstring are used."""

    def made(patch: Callable[[], Patch]) -> Mutant:
        breaks = (patch.__doc__ or "").partition("\n")[0]
        return Mutant(patch.__name__.replace("_", "-"), numbers, cites, breaks, by, patch, hunter)

    return made


@contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """An attribute of a class or a module is another one for a while."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def several(*patches: Patch) -> Iterator[None]:
    """A mistake in more than one place."""
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield
