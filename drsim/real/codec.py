"""Codec of the core's values to plain JSON values and back, driven by their type hints.

A new message, or a new field, needs no line here. Decoding is strict: exactly the declared fields, exactly the
declared types (a bool is no int), and ValueError for anything else; the caller turns that into an error by blame.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from drsim.core.errors import CoreError
from drsim.core.value import field_names


def plain(value: object) -> Any:
    """A value as JSON knows it: values with fields as objects, tuples and sets as lists, dicts as lists of pairs.

    Raises CoreError for a type that has no plain form.
    """
    kind: type = type(value)
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case bytes():
            return value.hex()
        case _ if (names := field_names(kind)) is not None:
            return {name: plain(getattr(value, name)) for name in names}
        case tuple():
            return [plain(v) for v in value]
        case frozenset():
            return sorted(plain(v) for v in value)
        case Mapping():
            return [[plain(k), plain(v)] for k, v in value.items()]
        case _:
            raise CoreError(f"{kind.__name__} has no plain form")


@cache
def hints(cls: type) -> dict[str, Any]:
    """Type of each field of a dataclass or a named tuple, in order."""
    resolved = get_type_hints(cls)
    return {name: resolved[name] for name in field_names(cls) or ()}


def build(cls: type, data: object, **ready: object) -> Any:
    """A dataclass or named tuple from its plain form; fields in `ready` are given and must not be in `data`.

    Raises ValueError when it is not one.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} is no object")
    wanted = hints(cls)
    if data.keys() | ready.keys() != wanted.keys() or data.keys() & ready.keys():
        raise ValueError(f"{cls.__name__} has other fields: {', '.join(sorted(map(str, data)))}")
    return cls(**{name: ready[name] if name in ready else parse(type_, data[name]) for name, type_ in wanted.items()})


def parse(type_: Any, data: Any) -> Any:
    """The value of a declared type from its plain form. Raises ValueError when it is not one."""
    while isinstance(type_, NewType):
        type_ = type_.__supertype__
    if type_ in (int, str, bool, NoneType):
        if type(data) is not type_:
            raise ValueError(f"{data!r:.60} is no {type_.__name__}")
        if type_ is int and not -(1 << 63) <= data < 1 << 63:
            raise ValueError("a number of more than 64 bits")
        return data
    if type_ is bytes:
        return bytes.fromhex(parse(str, data))
    origin = get_origin(type_)
    if origin in (Union, UnionType):
        return _union(get_args(type_), data)
    if origin in (tuple, dict, Mapping, frozenset):
        if not isinstance(data, list):
            raise ValueError(f"{data!r:.60} is no list")
        if origin is frozenset:
            return frozenset(parse(get_args(type_)[0], v) for v in data)
        return (_tuple if origin is tuple else _dict)(get_args(type_), data)
    if isinstance(type_, type) and issubclass(type_, Enum):
        return type_(data)
    if isinstance(type_, type) and field_names(type_) is not None:
        return build(type_, data)
    raise CoreError(f"no codec for {type_}")


def _union(types: Sequence[Any], data: Any) -> Any:
    problems: list[str] = []
    for type_ in types:
        try:
            return parse(type_, data)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; ".join(problems))


def _tuple(types: Sequence[Any], data: list[Any]) -> tuple[Any, ...]:
    if len(types) == 2 and types[1] is Ellipsis:
        return tuple(parse(types[0], v) for v in data)
    if len(types) != len(data):
        raise ValueError(f"{len(data)} items, {len(types)} expected")
    return tuple(parse(t, v) for t, v in zip(types, data, strict=True))


def _dict(types: Sequence[Any], data: list[Any]) -> dict[Any, Any]:
    made = {}
    for item in data:
        key, value = _tuple(types, item if isinstance(item, list) else [])
        made[key] = value
    if len(made) != len(data):
        raise ValueError("a key occurs twice")
    return made
