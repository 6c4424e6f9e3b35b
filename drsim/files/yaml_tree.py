"""YAML text as a tree in which every value knows the file and line, or the option, that it came from.

ruamel.yaml composes the nodes with their marks; the tree keeps those marks through merging, so that an error found
long after reading still names the line to change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from drsim.core.errors import FileError

MOST_BYTES = 4 << 20
"""Longer files are not model files. Our choice: hundreds of times the largest shipped one."""
MOST_ITEMS = 500_000
"""Most values after aliases are written out, against files that unfold without end. Our choice."""
MOST_LEVELS = 40

_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a line of a file, or an option of the command line when `option` is not empty."""

    file: Path
    line: int = 1
    option: str = ""

    def __str__(self) -> str:
        return self.option or f"{shown(self.file)}:{self.line}"


@dataclass(slots=True)
class Item:
    """A value with its place: a scalar, a dict of items or a list of items."""

    value: Any
    place: Place

    def plain(self) -> Any:
        """The value without places, as validation wants it."""
        match self.value:
            case dict():
                return {key: each.plain() for key, each in self.value.items()}
            case list():
                return [each.plain() for each in self.value]
            case _:
                return self.value


@dataclass(slots=True)
class _Reader:
    """One walk over composed nodes. `wrong` collects what is wrong with the text's structure."""

    file: Path
    option: str
    yaml: YAML
    wrong: list[tuple[Place, str]] = field(default_factory=list)
    items: int = 0

    def place(self, node: Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, self.option)

    def item(self, node: Node, level: int = 0) -> Item:
        self.items += 1
        if level > MOST_LEVELS or self.items > MOST_ITEMS:
            raise FileError(
                f"the values nest deeper than {MOST_LEVELS} levels or unfold to more than {MOST_ITEMS} values",
                place=str(self.place(node)),
                hint="look for an alias (*name) inside the value that it stands for",
            )
        match node:
            case MappingNode():
                return Item(self._mapping(node, level), self.place(node))
            case SequenceNode():
                return Item([self.item(each, level + 1) for each in node.value], self.place(node))
            case _:
                return Item(self._scalar(node), self.place(node))

    def _scalar(self, node: Node) -> Any:
        if str(node.tag) not in _PLAIN:
            self.wrong.append((self.place(node), f"the tag {str(node.tag)!r} means nothing here; remove it"))
            return node.value
        if str(node.tag).endswith(":timestamp"):
            return node.value
        try:
            return self.yaml.constructor.construct_object(node)
        except (ValueError, YAMLError):
            self.wrong.append((self.place(node), f"{node.value!r} cannot be read as a value; quote it"))
            return node.value

    def _mapping(self, node: MappingNode, level: int) -> dict[Any, Item]:
        found: dict[Any, Item] = {}
        merged: dict[Any, Item] = {}
        for key_node, value_node in node.value:
            if str(key_node.tag) == _MERGE:
                parts = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                for part in parts:
                    value = self.item(part, level + 1).value
                    if isinstance(value, dict):
                        merged = {**value, **merged}
                    else:
                        self.wrong.append((self.place(key_node), "`<<` needs a mapping"))
                continue
            if not isinstance(key_node, ScalarNode):
                self.wrong.append((self.place(key_node), "a key must be a plain text, not a list or a mapping"))
                continue
            key = self._scalar(key_node)
            key = key if isinstance(key, str) else str(key_node.value)
            if key in found:
                first = found[key].place.line
                self.wrong.append((self.place(key_node), f"{key!r} is given twice, first on line {first}"))
                continue
            child = self.item(value_node, level + 1)
            found[key] = Item(child.value, self.place(key_node))
        return {**merged, **found}


def shown(path: Path) -> str:
    """The path as people want to read it: relative when it lies below the current directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def fail(wrong: list[tuple[Place, str]], *, main: Path) -> FileError:
    """One FileError of all that is wrong: `main` first, then other files, then options, each by line."""
    place, lines = "", []
    unique = list(dict.fromkeys(wrong))
    for place_, text in sorted(unique, key=lambda w: (bool(w[0].option), w[0].file != main, str(w[0].file), w[0].line)):
        place = place or str(place_)
        lines.append(f"{place_}: {text}")
    if len(lines) == 1:
        return FileError(lines[0].removeprefix(f"{place}: "), place=place)
    return FileError(f"{len(lines)} errors\n" + "\n".join(f"  {line}" for line in lines), place=shown(main))


def read_text(path: Path) -> str:
    """The text of a file. Raises FileError when it is missing, a directory, too long, or not text."""
    try:
        if path.is_dir():
            raise FileError("is a directory, not a model file", place=shown(path), hint="name a .yaml file in it")
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise FileError(
                f"has {path.stat().st_size} bytes; a model file is text of at most {MOST_BYTES >> 20} MiB",
                place=shown(path),
                hint="a trace is named inside a model, by a workload's `path`",
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileError("no such file", place=shown(path)) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", place=shown(path)) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(
            "is not UTF-8 text; a model file is YAML",
            place=f"{shown(path)}:{line}",
            hint="a trace or an archive is named inside a model, by a workload's `path`",
        ) from None
    if "\0" in text:
        raise FileError("is a binary file, not text; a model file is YAML", place=shown(path))
    return text


def parse(text: str, *, file: Path, option: str = "") -> Item | None:
    """The tree of a YAML text; None when it holds nothing. Raises FileError with every structural fault found."""
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position or 0) + 1
        raise FileError(
            f"the character {chr(error.character)!r} is not allowed in YAML"
            if isinstance(error.character, int)
            else f"a character is not allowed in YAML: {error.reason}",
            place=str(Place(file, line, option)),
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1 if mark else 1, option)
        raise FileError(*_syntax(error), place=str(place), hint=_syntax_hint(error)) from None
    if node is None:
        return None
    reader = _Reader(file, option, yaml)
    tree = reader.item(node)
    if reader.wrong:
        raise fail(reader.wrong, main=file)
    return tree


def _syntax(error: MarkedYAMLError) -> tuple[str]:
    problem = str(error.problem or error.context or "cannot be understood")
    context = f", {error.context}" if error.context and error.problem else ""
    begun = f" that begins on line {error.context_mark.line + 1}" if context and error.context_mark else ""
    return (f"not valid YAML: {problem}{context}{begun}",)


_HINTS: Mapping[str, str] = {
    "mapping values are not allowed": "quote a value that holds ': ', and check the indentation",
    "cannot start any token": "indent with spaces, not tabs; quote a value that begins with a special character",
    "expected <block end>": "check the indentation of this line against the lines above",
    "undefined alias": "a value that begins with * is an alias; quote it if it is text",
    "another document": "one file holds one model; remove the line '---'",
    "end of stream": "close the quote or the bracket",
}


def _syntax_hint(error: MarkedYAMLError) -> str:
    return next((hint for key, hint in _HINTS.items() if key in str(error.problem)), "")


def walk(item: Item, path: tuple[str | int, ...]) -> Item:
    """The item at `path`, or the last one on the way to it when the path leads further than the tree."""
    for key in path:
        match item.value:
            case dict() if key in item.value:
                item = item.value[key]
            case list() if isinstance(key, int) and -1 < key < len(item.value):
                item = item.value[key]
            case _:
                break
    return item


def items(item: Item, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Item]]:
    """Every item of the tree with its path, parents first."""
    yield path, item
    match item.value:
        case dict():
            for key, each in item.value.items():
                yield from items(each, (*path, key))
        case list():
            for n, each in enumerate(item.value):
                yield from items(each, (*path, n))
