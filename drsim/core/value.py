"""Value: what is never changed once it is made.

That nobody changes it is for the type checker to see, not for the run: a frozen dataclass sets its fields around its
own lock, one by one, and making events, effects and messages took a tenth of the explorer's time.
"""

from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass that is compared, and found in dicts, by its content."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass_transform(frozen_default=True, eq_default=False)
def bulk(cls: type[T]) -> type[T]:
    """A dataclass with too much content for that: each is equal to itself alone."""
    return dataclass(slots=True, eq=False)(cls)


@cache
def field_names(cls: type) -> tuple[str, ...] | None:
    """The fields of a dataclass or a named tuple, in order; None for any other type."""
    if is_dataclass(cls):
        return tuple(f.name for f in fields(cls))
    return getattr(cls, "_fields", None) if issubclass(cls, tuple) else None
