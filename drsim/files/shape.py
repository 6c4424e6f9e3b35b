"""The shape of a model file: which fields a spec has, what lies behind a path, which numbers a field allows.

Read from the spec classes themselves, so messages and the JSON schema cannot disagree with what is accepted.
"""

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as at
from pydantic import PlainSerializer
from pydantic.fields import FieldInfo

from drsim.files.yaml_tree import Item
from drsim.spec.base import Spec
from drsim.spec.quantity import Ratio, format_bandwidth, format_duration, format_size


@dataclass(frozen=True, slots=True)
class Shape:
    """An annotation with what stands in its `Annotated[...]`."""

    annotation: Any
    metadata: tuple[Any, ...] = ()

    @classmethod
    def of(cls, annotation: Any, metadata: Iterable[Any] = ()) -> "Shape":
        """Annotated layers opened, outermost metadata last."""
        found = tuple(metadata)
        while get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            found = (*more, *found)
        return cls(annotation, found)

    @classmethod
    def of_field(cls, info: FieldInfo) -> "Shape":
        """The shape of a pydantic field."""
        return cls.of(info.annotation, info.metadata)

    def choices(self) -> tuple["Shape", ...]:
        """The members of a union without None, or the shape itself."""
        if get_origin(self.annotation) not in (Union, types.UnionType):
            return (self,)
        parts = [Shape.of(each) for each in get_args(self.annotation) if each is not type(None)]
        # `Annotated[X, Field(gt=0)] | None` keeps its bounds inside; a union's own metadata is for discriminators.
        return tuple(each for part in parts for each in part.choices())

    def spec(self, item: Item | None = None) -> type[Spec] | None:
        """The spec class here; among several, the one that the item's `kind` chooses."""
        found = [
            each.annotation
            for each in self.choices()
            if isinstance(each.annotation, type) and issubclass(each.annotation, Spec)
        ]
        if len(found) < 2:
            return found[0] if found else None
        wanted = kind_of(item)
        return next((each for each in found if wanted in kinds(each)), None)

    def child(self, key: str | int, item: Item | None = None) -> "Shape | None":
        """The shape of an entry: a spec's field, a dict's value, a list's element. None when there is no such field."""
        spec = self.spec(item)
        if spec is not None:
            info = spec.model_fields.get(str(key))
            return Shape.of_field(info) if info is not None else None
        for each in self.choices():
            origin, args = get_origin(each.annotation), get_args(each.annotation)
            if origin is dict:
                return Shape.of(args[1])
            if origin is tuple and isinstance(key, int):
                if len(args) == 2 and args[1] is Ellipsis:
                    return Shape.of(args[0])
                return Shape.of(args[key]) if key < len(args) else None
        return None

    @property
    def is_dict(self) -> bool:
        """Whether entries are named by the user."""
        return any(get_origin(each.annotation) is dict for each in self.choices())

    @property
    def is_list(self) -> bool:
        """Whether entries are numbered."""
        return any(get_origin(each.annotation) is tuple for each in self.choices())

    @property
    def holds_entries(self) -> bool:
        """Whether anything lies below: a spec, a dict or a list, not a plain value."""
        specs = (isinstance(each.annotation, type) and issubclass(each.annotation, Spec) for each in self.choices())
        return self.is_dict or self.is_list or any(specs)


def kind_of(item: Item | None) -> Any:
    """The `kind` that a mapping says, None when it says none."""
    if item is None or not isinstance(item.value, dict) or "kind" not in item.value:
        return None
    return item.value["kind"].value


def kinds(spec: type[Spec]) -> tuple[Any, ...]:
    """The values of a spec's `kind` field."""
    info = spec.model_fields.get("kind")
    return get_args(info.annotation) if info is not None and get_origin(info.annotation) is Literal else ()


def reach(shape: Shape, path: tuple[str | int, ...], item: Item | None) -> Shape | None:
    """The shape at a path, with the items on the way choosing among kinds."""
    here: Shape | None = shape
    for key in path:
        if here is None:
            return None
        here = here.child(key, item)
        value = item.value if item is not None else None
        if isinstance(value, dict):
            item = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and -1 < key < len(value):
            item = value[key]
        else:
            item = None
    return here


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value}"


_SERIALIZER: Mapping[Any, Callable[[Any], str]] = {
    format_duration: lambda ns: format_duration(ns) if ns else "0",
    format_size: format_size,
    format_bandwidth: format_bandwidth,
}
_RATIO = get_args(Ratio)[1]


def quantity(shape: Shape) -> Callable[[Any], str] | None:
    """How to print a value of this shape with its unit; None when it is no quantity."""
    for each in shape.metadata:
        if isinstance(each, PlainSerializer):
            return _SERIALIZER.get(each.func)
        if each is _RATIO:
            return lambda share: f"{100 * share:g} %"
    return None


def legal(shape: Shape) -> str:
    """The numbers that a field allows, in its unit: "between 1 h and 30 d"; empty when it has no bounds."""
    low = high = step = ""
    text = quantity(shape) or _plain
    for each in _bounds(shape.metadata):
        match each:
            case at.Ge():
                low = f"at least {text(each.ge)}"
            case at.Gt():
                low = f"more than {text(each.gt)}"
            case at.Le():
                high = f"at most {text(each.le)}"
            case at.Lt():
                high = f"less than {text(each.lt)}"
            case at.MultipleOf():
                step = f"a multiple of {text(each.multiple_of)}"
    if low.startswith("at least") and high.startswith("at most"):
        low, high = f"between {low.removeprefix('at least ')} and {high.removeprefix('at most ')}", ""
    return ", ".join(part for part in (" and ".join(p for p in (low, high) if p), step) if part)


def _bounds(metadata: Iterable[Any]) -> Iterable[Any]:
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from each.metadata
        else:
            yield each
