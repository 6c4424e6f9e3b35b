"""What validation found, in words: field path, what is wrong, what is allowed, what is closest."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from drsim.files.merge import MODEL, near
from drsim.files.shape import Shape, kinds, legal, reach
from drsim.files.yaml_tree import Item, Place, walk
from drsim.spec.base import Spec
from drsim.spec.reference import Reference

Path = tuple[str | int, ...]

_KIND_OF_VALUE = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_MEANT = re.compile(r"unknown field '.*?'; did you mean '(.*?)'\?")
"""A field under a wrong name is not reported missing under the right one."""
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"}


@dataclass(frozen=True, slots=True)
class _Found:
    """One validation error with its path in the file. `expected` says what would have been right, when it is a kind."""

    path: Path
    text: str
    branch: bool
    expected: str = ""


def explain(error: ValidationError, tree: Item) -> list[tuple[Place, str]]:
    """Every error as (place, "path: sentence")."""
    found: list[_Found] = []
    for each in error.errors(include_url=False):
        found.extend(_explained(each, tree))
    joined = list(_joined(found))
    meant = {(*path[:-1], match[1]) for path, text in joined if (match := _MEANT.match(text))}
    return [
        (walk(tree, path).place, f"{dotted(path)}: {text}" if path else text)
        for path, text in joined
        if not (path in meant and text.startswith("is missing"))
    ]


def dotted(path: Path) -> str:
    """A path as `--set` takes it: links.wan.bandwidth, faults.0.lasts."""
    return ".".join(map(str, path))


def _joined(found: Iterable[_Found]) -> Iterable[tuple[Path, str]]:
    """The errors of one value's alternatives as one sentence; an alternative that got further speaks alone."""
    by_path: dict[Path, list[_Found]] = {}
    for each in found:
        by_path.setdefault(each.path, []).append(each)
    for path, same in by_path.items():
        if same[0].branch and any(other[: len(path)] == path and len(other) > len(path) for other in by_path):
            continue
        expected = list(dict.fromkeys(each.expected for each in same if each.expected))
        texts = list(dict.fromkeys(each.text for each in same if not each.expected))
        if texts:
            yield path, ", or ".join([texts[0], *texts[1:], *(each.removeprefix("the word ") for each in expected)])
        else:
            given = same[0].text
            yield path, f"expected {' or '.join(expected)}, {given}"


def _explained(error: ErrorDetails, tree: Item) -> Iterable[_Found]:
    context: Mapping[str, Any] = error.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Reference):
        for each in (cause, *cause.others):
            yield _Found(each.path, str(each), branch=False)
        return
    path, branch = _real_path(error["loc"], tree, keep_last=error["type"] == "missing")
    yield _one(error, context, path, tree, branch)


def _real_path(loc: Path, tree: Item, *, keep_last: bool) -> tuple[Path, bool]:
    """The location without the validator's own markers, and whether it lies in one of a value's alternatives."""
    path: list[str | int] = []
    branch, here = False, tree
    for n, key in enumerate(loc):
        value = here.value
        if isinstance(value, dict) and key in value:
            here = value[str(key)]
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            here = value[key]
        elif not (keep_last and n == len(loc) - 1):
            kind = value.get("kind") if isinstance(value, dict) else None
            branch = branch or (key != "[key]" and (kind is None or kind.value != key))
            continue
        path.append(key)
    return tuple(path), branch


def _one(error: ErrorDetails, context: Mapping[str, Any], path: Path, tree: Item, branch: bool) -> _Found:
    kind = error["type"]
    given = _given(error["input"])
    if "[key]" in error["loc"]:
        return _Found(path, _bad_name(str(error["input"])), branch)
    if kind in _KIND_OF_VALUE:
        return _Found(path, given, branch, _KIND_OF_VALUE[kind])
    if kind == "literal_error":
        return _literal(error, path, branch)
    if kind in _BOUNDS:
        shape = _branch_shape(reach(MODEL, path, tree), error)
        allowed = legal(shape) if shape is not None else ""
        return _Found(path, f"{_bare(error['input'])} is out of range; it must be {allowed or error['msg']}", branch)
    if kind == "value_error":
        return _Found(path, error["msg"].removeprefix("Value error, "), branch)
    special = _SPECIAL.get(kind)
    if special is None:
        text = error["msg"].replace("Input should", "it should").replace("Value error, ", "")
        return _Found(path, f"{text[:1].lower()}{text[1:]}, {given}", branch)
    path, text = special(error, context, path, tree)
    return _Found(path, text, branch)


def _given(value: object) -> str:
    if value is None:
        return "but nothing is given"
    if isinstance(value, dict):
        return "not a mapping"
    if isinstance(value, list | tuple):
        return "not a list"
    return f"not {_bare(value)}"


def _bare(value: object) -> str:
    text = f"{value}" if isinstance(value, str) else f"{value!r}"
    text = {"True": "true", "False": "false", "None": "nothing"}.get(text, text)
    text = text if len(text) <= 60 else text[:57] + "..."
    return repr(text) if isinstance(value, str) else text


def _bad_name(text: str) -> str:
    return (
        f"{_bare(text)} is not a name: write 1 to 80 letters, digits, dots, dashes and underscores, "
        "the first a letter or digit"
    )


def _branch_shape(shape: Shape | None, error: ErrorDetails) -> Shape | None:
    """Of a value with alternatives, the one that has bounds."""
    if shape is None:
        return None
    return next((each for each in (shape, *shape.choices()) if legal(each)), shape)


def _literal(error: ErrorDetails, path: Path, branch: bool) -> _Found:
    words = re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    if len(words) == 1:
        return _Found(path, _given(error["input"]), branch, f"the word {words[0]!r}")
    given = error["input"]
    return _Found(path, f"{_bare(given)} is not allowed{near(str(given), words, what='allowed')}", branch)


def _missing(_: ErrorDetails, __: Mapping[str, Any], path: Path, tree: Item) -> tuple[Path, str]:
    *above, last = path
    if isinstance(last, int):
        have = len(walk(tree, tuple(above)).value)
        return tuple(above), f"needs {last + 1} entries, has {have}"
    shape = reach(MODEL, tuple(above), tree)
    spec = shape.spec(walk(tree, tuple(above))) if shape is not None else None
    info = spec.model_fields.get(last) if spec is not None else None
    about = re.split(r"[.;:(]", info.description or "")[0].strip() if info is not None else ""
    allowed = legal(Shape.of_field(info)) if info is not None else ""
    more = f"it must be {allowed}" if allowed else about[:1].lower() + about[1:]
    return path, f"is missing{f'; {more}' if allowed else f' ({more})' if more else ''}"


def _extra(_: ErrorDetails, __: Mapping[str, Any], path: Path, tree: Item) -> tuple[Path, str]:
    above, last = path[:-1], str(path[-1])
    shape = reach(MODEL, above, tree)
    spec = shape.spec(walk(tree, above)) if shape is not None else None
    fields: Mapping[str, Any] = spec.model_fields if spec is not None else {}
    for name, info in fields.items():
        inner = Shape.of_field(info).spec()
        if inner is not None and last in inner.model_fields:
            return path, f"unknown field {last!r} here; write it inside `{name}:`"
    return path, f"unknown field {last!r}{near(last, fields, what='allowed', most=20)}"


def _all_kinds(shape: Shape | None) -> list[str]:
    specs = [each.annotation for each in shape.choices()] if shape is not None else []
    return [str(k) for each in specs if isinstance(each, type) and issubclass(each, Spec) for k in kinds(each)]


def _tag_invalid(_: ErrorDetails, context: Mapping[str, Any], path: Path, tree: Item) -> tuple[Path, str]:
    tag = str(context.get("tag"))
    return (*path, "kind"), f"no kind {tag!r}{near(tag, _all_kinds(reach(MODEL, path, tree)), what='allowed')}"


def _tag_missing(_: ErrorDetails, __: Mapping[str, Any], path: Path, tree: Item) -> tuple[Path, str]:
    known = ", ".join(_all_kinds(reach(MODEL, path, tree)))
    return (*path, "kind"), f"is missing; write `kind:` and one of {known}, or take a catalogue entry by `use:`"


def _too_short(_: ErrorDetails, context: Mapping[str, Any], path: Path, __: Item) -> tuple[Path, str]:
    least, have = context["min_length"], context["actual_length"]
    return path, f"needs at least {least} {'entry' if least == 1 else 'entries'}, has {have}"


def _too_long(error: ErrorDetails, context: Mapping[str, Any], path: Path, _: Item) -> tuple[Path, str]:
    value = error["input"]
    have = len(value) if isinstance(value, list | tuple | dict) else context["actual_length"]
    return path, f"has {have} entries, at most {context['max_length']} are allowed"


def _pattern(error: ErrorDetails, context: Mapping[str, Any], path: Path, _: Item) -> tuple[Path, str]:
    if "[0-5]" in str(context.get("pattern")):
        return path, f"{_bare(error['input'])} is not a clock time; write it like '08:30', from '00:00' to '23:59'"
    return path, _bad_name(str(error["input"]))


_Special = Callable[[ErrorDetails, Mapping[str, Any], Path, Item], tuple[Path, str]]
_SPECIAL: Mapping[str, _Special] = {
    "missing": _missing,
    "extra_forbidden": _extra,
    "union_tag_invalid": _tag_invalid,
    "union_tag_not_found": _tag_missing,
    "too_short": _too_short,
    "too_long": _too_long,
    "string_pattern_mismatch": _pattern,
}
