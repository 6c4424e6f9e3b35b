"""Putting a model together: `extends`, catalogue entries taken by `use`, and `--set` overrides."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import drsim
from drsim.core.errors import FileError
from drsim.files.shape import Shape, kind_of
from drsim.files.yaml_tree import Item, Place, fail, parse, read_text, shown
from drsim.spec.model import Model

MODEL = Shape(Model)
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+")


def shipped_root() -> Path:
    """The shipped models: in an installed wheel inside the package, in a source checkout beside it."""
    package = Path(drsim.__file__).parent
    for root in (package / "models", package.parent / "models"):
        if (root / "estates").is_dir():
            return root
    raise FileError(
        "drsim's shipped models are missing", place=str(package / "models"), hint="install drsim again, from its wheel"
    )


def near(name: str, known: Iterable[str], *, what: str = "there is", most: int = 12) -> str:
    """The tail of an error message: what a wrong name may have meant, and what is allowed."""
    names = sorted(known)
    match = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    meant = f"; did you mean {match[0]!r}?" if match else ""
    tail = " ..." if len(names) > most else ""
    return f"{meant} ({what}: {', '.join(names[:most]) or 'none'}{tail})"


def estate_path(reference: str | Path, *, beside: Path | None = None) -> Path:
    """The file of a model: a path, or a shipped name. Raises FileError with the shipped names and the closest."""
    text = str(reference)
    path = Path(text) if beside is None else beside / text
    looks_like_path = isinstance(reference, Path) or text.endswith((".yaml", ".yml")) or path.exists()
    names = {each.stem: each for each in sorted((shipped_root() / "estates").glob("*.yaml"))}
    if text in names and not (beside is None and path.is_file()):
        return names[text]
    if looks_like_path:
        if not path.exists():
            stem = path.stem if path.stem in names else ""
            hint = f"the shipped model of that name is asked for as {stem!r}" if stem else ""
            raise FileError("no such file", place=shown(path), hint=hint)
        return path
    raise FileError(f"no model is called {text!r}{near(text, names, what='shipped')}", hint="or give a path to a file")


@dataclass(slots=True)
class Assembly:
    """One load: what is wrong so far, with every place."""

    main: Path
    wrong: list[tuple[Place, str]] = field(default_factory=list)
    lacking: set[Place] = field(default_factory=set)
    """Where a `use` failed, so that what its values would have said is not reported missing too."""

    def read(self, path: Path) -> Item:
        """A model file's tree, empty when the file cannot hold one. Raises FileError on bad syntax."""
        tree = parse(read_text(path), file=path)
        if tree is None:
            raise FileError("is empty; a model has at least sites, hosts, vms and vpgs", place=shown(path))
        if not isinstance(tree.value, dict):
            what = "a list" if isinstance(tree.value, list) else f"only {tree.value!r}"
            raise FileError(f"holds {what}; a model is a mapping (`sites:`, `hosts:` ...)", place=str(tree.place))
        return tree

    def extended(self, path: Path, seen: tuple[Path, ...] = ()) -> Item:
        """A model with `use` carried out, laid over the model that it extends."""
        tree = self.resolved(self.read(path))
        base = tree.value.pop("extends", None)
        if base is None:
            return tree
        if not isinstance(base.value, str):
            self.wrong.append((base.place, "extends: expected the name of a shipped model or a path"))
            return tree
        try:
            below = estate_path(base.value, beside=path.parent)
        except FileError as error:
            message = error.message if base.value in error.message else f"{error.message}: {base.value}"
            self.wrong.append((base.place, f"extends: {message}"))
            return tree
        chain = (*seen, path.resolve())
        if below.resolve() in chain:
            self.wrong.append((base.place, f"extends: {base.value!r} leads back to this file"))
            return tree
        under = self.extended(below, chain)
        if "about" in under.value and "about" not in tree.value:
            del under.value["about"]
        return overlaid(under, tree)

    def resolved(self, item: Item, seen: tuple[Path, ...] = ()) -> Item:
        """The item with every `use` in it replaced by the catalogue's values under the mapping's own."""
        if isinstance(item.value, list):
            return Item([self.resolved(each, seen) for each in item.value], item.place)
        if not isinstance(item.value, dict):
            return item
        own = {key: self.resolved(each, seen) for key, each in item.value.items() if key != "use"}
        mine = Item(own, item.place)
        if "use" not in item.value:
            return mine
        values = self._catalogue(item.value["use"], seen)
        if values is None:
            self.lacking.add(item.place)
            return mine
        return overlaid(values, mine)

    def _catalogue(self, use: Item, seen: tuple[Path, ...]) -> Item | None:
        if not isinstance(use.value, str):
            self.wrong.append((use.place, "use: expected the name of a catalogue entry, like links/mpls-100"))
            return None
        path = self._catalogue_path(use)
        if path is None:
            return None
        if path.resolve() in seen:
            self.wrong.append((use.place, f"use: {use.value!r} leads back to itself"))
            return None
        tree = parse(read_text(path), file=path)
        content = tree.value if tree is not None else None
        if not isinstance(content, dict) or not isinstance(content.get("values", Item(None, use.place)).value, dict):
            place = tree.place if tree is not None else Place(path)
            self.wrong.append((place, "a catalogue file is a mapping with `about` (a text) and `values` (a mapping)"))
            return None
        for key, each in content.items():
            if key not in ("about", "values"):
                text = f"{key}: unknown field of a catalogue file{near(key, ('about', 'values'), what='allowed')}"
                self.wrong.append((each.place, text))
        return self.resolved(content["values"], (*seen, path.resolve()))

    def _catalogue_path(self, use: Item) -> Path | None:
        name, here = use.value, use.place.file.parent
        if name.endswith((".yaml", ".yml")):
            path: Path = here / name
            if path.is_file():
                return path
            self.wrong.append((use.place, f"use: no such file: {shown(path)}"))
            return None
        roots = list(dict.fromkeys((here / "models", self.main.parent / "models", shipped_root())))
        if _REFERENCE.fullmatch(name) and ".." not in name.split("/"):
            for root in roots:
                if (root / f"{name}.yaml").is_file():
                    return root / f"{name}.yaml"
        known = {
            each.relative_to(root).with_suffix("").as_posix()
            for root in roots
            for each in root.glob("*/*.yaml")
            if each.parent.name != "estates"
        }
        folder = name.split("/")[0] + "/"
        same = {each for each in known if each.startswith(folder)}
        self.wrong.append((use.place, f"use: no catalogue entry {name!r}{near(name, same or known)}"))
        return None

    def override(self, tree: Item, text: str) -> None:
        """Carry out `links.wan.bandwidth=20 Mbit/s` on the tree."""
        name, equals, value_text = text.partition("=")
        option = f"--set {text if len(text) <= 80 else text[:77] + '...'}"
        place = Place(self.main, 1, option)
        if not equals or not name.strip():
            self.wrong.append((place, "write it as path=value, like links.wan.bandwidth='20 Mbit/s'"))
            return
        try:
            value = parse(value_text, file=self.main, option=option)
        except FileError as error:
            self.wrong.append((place, f"the value is {error.message}"))
            return
        if value is None:
            self.wrong.append((place, "gives no value; write path=value"))
            return
        problem = _assign(tree, name.strip().split("."), self.resolved(value), place)
        if problem:
            self.wrong.append((place, problem))

    def stop(self) -> None:
        """Raise what is wrong, if anything is."""
        if self.wrong:
            raise fail(self.wrong, main=self.main)


def overlaid(base: Item, over: Item) -> Item:
    """`over` laid over `base`, mapping by mapping; a mapping of another `kind`, a list or a scalar replaces."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if "kind" in over.value and "kind" in base.value and kind_of(over) != kind_of(base):
        return over
    merged = dict(base.value)
    for key, each in over.value.items():
        merged[key] = overlaid(merged[key], each) if key in merged else each
    return Item(merged, over.place)


def _assign(tree: Item, keys: Sequence[str], value: Item, place: Place) -> str:
    """Set the value at a dotted path, making mappings on the way. Returns what is wrong, or an empty text."""
    here, shape, done = tree, MODEL, ""
    at, keys = 0, list(keys)
    made: list[tuple[Item, Any, Item]] = []  # entries that the file leaves to defaults; put in when all is well
    while at < len(keys):
        key, used = _key(here, keys[at:])
        at += used
        last = at == len(keys)
        problem = _unknown(here, shape, key, done, new=last and (isinstance(value.value, dict) or shape.is_list))
        if problem:
            return problem
        index: Any = int(key) if isinstance(here.value, list) else key
        below = shape.child(index, here)
        done = f"{done}.{key}" if done else key
        if last:
            if isinstance(here.value, list) and index == len(here.value):
                here.value.append(value)
            else:
                here.value[index] = value
            for container, name, entry in made:
                container.value[name] = entry
            return ""
        if below is None or not below.holds_entries:
            return f"{done} holds a plain value; nothing lies below it"
        found = here.value.get(index) if isinstance(here.value, dict) else here.value[index]
        if found is None or found.value is None:
            found = Item([] if below.is_list else {}, place)
            made.append((here, index, found))
        here, shape = found, below
    return ""


def _key(here: Item, rest: Sequence[str]) -> tuple[str, int]:
    """The next key, and how many parts it takes: names may hold dots, so the longest that exists wins."""
    if isinstance(here.value, dict):
        for count in range(len(rest), 1, -1):
            if ".".join(rest[:count]) in here.value:
                return ".".join(rest[:count]), count
    return rest[0], 1


def _unknown(here: Item, shape: Shape, key: str, done: str, *, new: bool) -> str:
    """What is wrong with going from `here` to `key`; empty when nothing is."""
    inside = f" of {done}" if done else ""
    if isinstance(here.value, list):
        count = len(here.value)
        room = new and shape.child(count, here) is not None
        if key.isdecimal() and int(key) < count + room:
            return ""
        if not count:
            return f"{done} has no entries in the file; set the whole list: {done}=[...]"
        return f"{done} has no entry {key!r}; its {count} entries are numbered 0 to {count - 1}"
    if not isinstance(here.value, dict):
        return f"{done} holds {here.value!r}; nothing lies below it"
    if shape.is_dict:
        if key in here.value or new:
            return ""
        return f"{done} has no {key!r}{near(key, here.value)}"
    spec = shape.spec(here)
    if spec is None or key in spec.model_fields:
        return ""
    return f"unknown field {key!r}{inside}{near(key, spec.model_fields, what='allowed')}"
