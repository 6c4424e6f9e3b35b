"""Transcript: everything that the core of a live site was told, as a file that `drsim replay` plays again (P28).

One JSON record a line, in a gzip stream; what a killed process had not flushed is missing at the end.

    ["site", name, version, max_steps]                 the first record
    ["made", address, function, positional, named]     a machine, and what it was made of
    ["told", now, address, event]                      it is told this
    ["gave", effects]                                  and gives these effects, as text (`core/trace.py`)

A step that gives nothing, not even an empty list, is the one in which the site failed or was killed.
A value is written with its class, by name: an object `{"is": class, field: value, ...}`. What guests wrote is not in
it, only where and when. An effect that an event answers is left out: the machine itself has asked for it.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np

import drsim
from drsim.core.batch import WriteBatch
from drsim.core.effects import Effect
from drsim.core.errors import DrsimError, FileError
from drsim.core.events import Done, Event, Failed
from drsim.core.machine import Machine
from drsim.core.names import Address
from drsim.core.trace import text
from drsim.core.units import Ns
from drsim.core.value import field_names
from drsim.real.files import blame, make_directory
from drsim.spec.base import Spec

FLUSH = 0.5
"""Seconds after which a step is on its way to the file."""
_HOME = ("drsim.core.", "drsim.spec.", "drsim.real.history")
"""Where the classes are that may be in a transcript."""


class Transcript:
    """Writes one, as a sink of the site's kernel. Raises PlatformError when it cannot be begun.

    It is beside the site's work: when its disk is full or fails, it ends, and the site goes on.
    """

    def __init__(self, path: Path, site: str, *, max_steps: int) -> None:
        self.path = path
        with blame(path):
            make_directory(path.parent)
            self._file = cast(TextIO, gzip.open(path, "xt", compresslevel=1, encoding="utf-8"))  # noqa: SIM115
        self._flushed, self._over = 0.0, False
        self._put("site", site, drsim.__version__, max_steps)

    def made(
        self, address: Address, make: Callable[..., Machine], args: Sequence[Any], named: Mapping[str, Any]
    ) -> None:
        """A machine is about to be made."""
        self._put("made", address, _name(make), [plain(each) for each in args], {k: plain(v) for k, v in named.items()})

    def told(self, now: Ns, address: Address, event: Event) -> None:
        """A step is about to be taken."""
        if isinstance(event, Done | Failed):
            event = replace(event, effect=cast(Effect, None))
        self._put("told", now, address, plain(event))

    def record(self, now: Ns, address: Address, event: Event, effects: Sequence[Effect]) -> None:
        """It was taken (`kernel.Sink`)."""
        self._put("gave", [text(effect) for effect in effects])

    def _put(self, *record: object) -> None:
        if self._over:
            return
        try:
            self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
            if time.monotonic() - self._flushed > FLUSH:
                self._file.flush()
                self._flushed = time.monotonic()
        except OSError:
            self.close()

    def close(self) -> None:
        """Nothing more is written."""
        self._over = True
        with suppress(OSError):
            self._file.close()


def read(path: Path) -> Iterator[list[Any]]:
    """The records of a transcript, oldest first. Raises FileError for a file that is none."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return  # torn by a kill
                record = json.loads(line)
                if not isinstance(record, list) or (number == 1) != (record[:1] == ["site"]):
                    raise ValueError("no record of a transcript")
                yield record
    except EOFError:
        return  # the site was killed
    except (OSError, ValueError) as error:
        hint = "`drsim site up --transcript` writes them"
        raise FileError(f"this is no transcript: {error}", place=f"{path}:{number}", hint=hint) from error


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def plain(value: object) -> Any:
    """A value as JSON. Raises TypeError for one that has no place in a transcript."""
    kind: type = type(value)
    match value:
        case Enum():
            return {"enum": [_name(kind), value.value]}
        case None | bool() | int() | float() | str():
            return value
        case np.integer():
            return int(value)
        case bytes():
            return {"bytes": value.hex()}
        case WriteBatch():
            return {"batch": [c.tolist() for c in (value.vm, value.volume, value.lba, value.sectors, value.issued)]}
        case Spec():
            return {"spec": [_name(kind), value.model_dump(mode="json")]}
        case DrsimError():  # as the core knows it: the ports have errors of their own below the core's
            known = next(each for each in kind.__mro__ if each.__module__.startswith(_HOME))
            return {"error": [_name(known), value.message, value.place, value.hint]}
        case _ if (names := field_names(kind)) is not None:
            return {"is": _name(kind)} | {name: plain(getattr(value, name)) for name in names}
        case tuple():
            return [plain(each) for each in value]
        case list():
            return {"list": [plain(each) for each in value]}
        case frozenset() | set():
            return {"set": sorted((plain(each) for each in value), key=json.dumps)}
        case Mapping():
            return {"dict": [[plain(k), plain(v)] for k, v in value.items()]}
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a transcript")


def named(name: str) -> Any:
    """The class of this name. Raises ValueError when it is none of ours."""
    module, _, what = name.partition(":")
    if not module.startswith(_HOME):
        raise ValueError(f"{name!r:.80} has no place in a transcript")
    try:
        found: Any = import_module(module)
        for part in what.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {name!r:.80}") from error
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"{name!r:.80} is no class")
    return found


def value_of(data: Any) -> Any:
    """The value that `plain` made this of. Raises ValueError."""
    match data:
        case list():
            return tuple(value_of(each) for each in data)
        case {"is": name, **content}:
            return named(name)(**{str(field): value_of(each) for field, each in content.items()})
        case {"enum": [name, value]}:
            return named(name)(value)
        case {"spec": [name, fields]}:
            return named(name).model_validate(fields)
        case {"error": [name, message, place, hint]}:
            return named(name)(message, place=place, hint=hint)
        case {"bytes": digits}:
            return bytes.fromhex(digits)
        case {"batch": columns}:
            return WriteBatch.of(*columns)
        case {"list": values}:
            return [value_of(each) for each in values]
        case {"set": values}:
            return frozenset(value_of(each) for each in values)
        case {"dict": pairs}:
            return {value_of(key): value_of(each) for key, each in pairs}
        case dict():
            raise ValueError(f"no value: {data!r:.80}")
        case _:
            return data
