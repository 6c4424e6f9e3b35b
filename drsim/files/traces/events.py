"""Block traces as lines of unequal shape: fio's iolog (version 2 and 3) and blkparse's default text.

Both are read line by line, about a million lines a second. Sources: fio's HOWTO, section "Trace file format"; the
manual page blkparse(1), sections on default output and on trace actions.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from drsim.core.errors import FileError
from drsim.core.units import SECOND, SECTOR
from drsim.files.traces.block import MAX_LBA, MAX_SECTORS, Requests
from drsim.files.traces.table import Field, line_error, lines

_Row = tuple[int, bool, str, int, int]
"""Time, is it a write, device, start, length."""

_FIO_HEAD = re.compile(r"fio version ([0-9]+) iolog$")
_OFFSET = Field("offset", 0, MAX_LBA * SECTOR)
_LENGTH = Field("length", 1, MAX_SECTORS * SECTOR)
_TIME = Field("time")
_IGNORED = ("add", "open", "close", "sync", "datasync", "trim")

_EVENT = re.compile(
    r"(?P<device>[0-9]+,[0-9]+)\s+[0-9]+\s+[0-9]+\s+(?P<s>[0-9]+)\.(?P<ns>[0-9]{1,9})\s+[0-9]+\s+"
    r"(?P<action>[A-Z]{1,2})\s+(?P<kind>[A-Z]+)(?:\s+(?P<lba>[0-9]+) \+ (?P<sectors>[0-9]+)(?=\s|$))?"
)
_NOTE = re.compile(r"[0-9]+,[0-9]+\s+[0-9]+\s+[0-9]+\s+[0-9]+\.[0-9]+\s+[0-9]+\s+(m|UT|U|P|I|G|M|F|S|A|B|X|R|T)\s")
_SUMMARY = re.compile(r"(CPU ?[0-9]+|Total) ?\(")


def is_fio(line: str) -> bool:
    """Whether a first line is the head of an fio iolog."""
    return _FIO_HEAD.match(line) is not None


def is_blkparse(line: str) -> bool:
    """Whether a line is an event in blkparse's default format."""
    return _EVENT.match(line) is not None or _NOTE.match(line) is not None


def _requests(rows: list[_Row], unit: int, *, in_bytes: bool) -> Requests:
    names = tuple(dict.fromkeys(row[2] for row in rows))
    codes = {name: code for code, name in enumerate(names)}
    time, write, device, start, length = zip(*rows, strict=True) if rows else ((),) * 5
    return Requests(
        np.array(time, np.int64),
        np.array(write, np.bool_),
        np.array([codes[name] for name in device], np.int32),
        names,
        np.array(start, np.int64),
        np.array(length, np.int64),
        unit,
        in_bytes,
    )


def read_fio(path: Path, data: bytes) -> Requests:
    """The requests of an iolog. Raises FileError naming the first line that is wrong.

    Version 2 has no times but `wait` lines (microseconds since the previous wait); version 3 begins each line with a
    time in microseconds. File actions, syncs and trims are passed over.
    """
    numbered = lines(data)
    number, text = next(numbered, (1, ""))
    head = _FIO_HEAD.match(text)
    if head is None:
        raise line_error(path, number, f"the first line is {text[:60]!r}, not 'fio version 2 iolog'", "fio")
    if head[1] not in ("2", "3"):
        raise FileError(
            f"iolog version {head[1]}; drsim reads 2 and 3",
            place=f"{path}:line {number}",
            hint="write it again with fio --write_iolog",
        )
    rows: list[_Row] = []
    clock = 0
    for number, text in numbered:
        parts = text.split()
        if head[1] == "3":
            _check(path, number, "fio", _TIME.wrong(parts[0]))
            clock = int(parts.pop(0))
        clock = _fio_line(path, number, parts, clock, rows)
    return _requests(rows, 1000, in_bytes=True)


def _check(path: Path, number: int, form: str, *reasons: str | None) -> None:
    for reason in reasons:
        if reason:
            raise line_error(path, number, reason, form)


def _fio_line(path: Path, number: int, parts: list[str], clock: int, rows: list[_Row]) -> int:
    """Add the request of a line, if it is one, and return the clock after it in microseconds."""
    match parts:
        case [_, ("add" | "open" | "close" | "sync" | "datasync"), *_] | [_, "trim", _, _]:
            return clock
        case [_, "wait", micros] | [_, "wait", micros, _]:
            _check(path, number, "fio", _TIME.wrong(micros))
            return clock + int(micros)
        case [device, ("read" | "write") as action, offset, length]:
            _check(path, number, "fio", _OFFSET.wrong(offset), _LENGTH.wrong(length))
            rows.append((clock, action == "write", device, int(offset), int(length)))
            return clock
        case [_, ("read" | "write" | "trim" | "wait") as action, *rest]:
            raise line_error(path, number, f"{action} with {len(rest)} numbers; offset and length belong there", "fio")
        case [_, action, *_]:
            known = ", ".join(("read", "write", "wait", *_IGNORED))
            raise line_error(path, number, f"unknown action {action!r}, not one of {known}", "fio")
        case _:
            raise line_error(path, number, "a line without an action", "fio")


def read_blkparse(path: Path, data: bytes) -> Requests:
    """The requests of blkparse's text: what was queued (Q), else issued (D), else completed (C).

    The first of these actions that has a write is taken, so that no request counts twice. Flushes carry no data and
    are passed over; so is the summary at the end. Raises FileError naming the first line that is no event.
    """
    by_action: dict[str, list[_Row]] = {"Q": [], "D": [], "C": []}
    for number, text in lines(data):
        event = _EVENT.match(text)
        if event is None:
            if _SUMMARY.match(text):
                break
            if _NOTE.match(text) is None:
                raise line_error(path, number, f"not an event: {text[:60]!r}", "blkparse")
            continue
        rows = by_action.get(event["action"])
        if rows is None or not any(letter in event["kind"] for letter in "RW") or "D" in event["kind"]:
            continue
        if event["lba"] is None or ("F" in event["kind"] and event["sectors"] == "0"):
            if "F" not in event["kind"] and event["action"] == "Q":
                raise line_error(path, number, "a request without 'sector + count'", "blkparse")
            continue
        _check(path, number, "blkparse", *(rule(event[name]) for name, rule in _BLKPARSE_RULES))
        nanoseconds = int(event["s"]) * SECOND + int(event["ns"].ljust(9, "0"))
        rows.append((nanoseconds, "W" in event["kind"], event["device"], int(event["lba"]), int(event["sectors"])))
    for rows in by_action.values():
        if any(row[1] for row in rows):
            return _requests(rows, 1, in_bytes=False)
    return _requests(by_action["Q"] or by_action["D"] or by_action["C"], 1, in_bytes=False)


_BLKPARSE_RULES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("lba", Field("sector", 0, MAX_LBA).wrong),
    ("sectors", Field("sector count", 1, MAX_SECTORS).wrong),
)
