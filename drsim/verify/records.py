"""Records: the rows of a history file, JSON lines or Parquet. docs/reference/history-format.md explains them.

Reading checks each row by itself; what rows say together is checked in `history.py`.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from drsim.core.errors import FileError
from drsim.verify.oracle import NEVER

Name = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]
Time = Annotated[int, Field(ge=0, lt=NEVER)]
Count = Annotated[int, Field(ge=1, lt=NEVER)]
Lba = Annotated[int, Field(ge=0, lt=1 << 53)]
Length = Annotated[int, Field(ge=1, lt=1 << 53)]
Run = Annotated[tuple[Lba, Length, Annotated[int, Field(ge=0, lt=NEVER)] | None], Strict(False)]


class Record(BaseModel):
    """One row."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Header(Record):
    """What holds for the whole file. Optional, and the first row."""

    kind: Literal["history"]
    version: Literal[1] = 1
    run: Annotated[int, Field(ge=0)] | None = None


class Write(Record):
    """A guest wrote. Without `ack` it was never acknowledged."""

    kind: Literal["write"]
    vm: Name
    disk: Name = 0
    id: Count | None = None
    lba: Lba
    sectors: Length
    issue: Time
    ack: Time | None = None
    order: Annotated[int, Field(ge=0, lt=NEVER)] | None = None
    fua: bool = False


class Flush(Record):
    """A guest flushed one disk, or all of its disks."""

    kind: Literal["flush"]
    vm: Name
    disk: Name | None = None
    issue: Time
    ack: Time | None = None


class Checkpoint(Record):
    """The system under test says: all these VMs can be recovered together, as they were at `time`."""

    kind: Literal["checkpoint"]
    name: Name
    time: Time | None = None
    level: Literal["L0", "L1", "L2", "L3"] | None = None
    vms: Annotated[tuple[Name, ...], Strict(False)] | None = None


class Freeze(Record):
    """The application of a VM stood still for a checkpoint."""

    kind: Literal["freeze"]
    checkpoint: Name
    vm: Name
    freeze: Time
    thaw: Time


class Image(Record):
    """What one disk held after the recovery of a checkpoint: runs of (lba, sectors, write), or a raw file."""

    kind: Literal["image"]
    checkpoint: Name
    vm: Name
    disk: Name = 0
    runs: Annotated[tuple[Run, ...], Strict(False)] | None = None
    file: Annotated[str, Field(min_length=1)] | None = None


KINDS: dict[str, type[Record]] = {
    "history": Header, "write": Write, "flush": Flush, "checkpoint": Checkpoint, "freeze": Freeze, "image": Image,
}  # fmt: skip
_ROW: TypeAdapter[Header | Write | Flush | Checkpoint | Freeze | Image] = TypeAdapter(
    Annotated[Header | Write | Flush | Checkpoint | Freeze | Image, Field(discriminator="kind")]
)
Row = tuple[int, Header | Write | Flush | Checkpoint | Freeze | Image]
"""Where a record stands in its file, counted from 1, and the record."""


class Records:
    """The records of a history file, JSON lines or Parquet by its first bytes. Raises FileError with place and hint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.parquet = file.read(4) == b"PAR1"
        except OSError as error:
            raise FileError(f"cannot read the history: {error.strerror}", place=str(path)) from error

    def place(self, number: int) -> str:
        """Where record `number` stands, for a message."""
        return f"{self.path}: row {number}" if self.parquet else f"{self.path}:{number}"

    def __iter__(self) -> Iterator[Row]:
        for number, said in _rows(self.path) if self.parquet else _lines(self.path):
            try:
                yield number, _ROW.validate_json(said) if isinstance(said, bytes) else _ROW.validate_python(said)
            except ValidationError as error:
                raise _wrong(error, self.place(number)) from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, ValueError) as error:
        raise FileError(f"not a Parquet file that can be read: {error}", place=str(path)) from error
    number = 0
    for batch in table.to_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, {name: value for name, value in row.items() if value is not None}


# -- what is wrong with a row ------------------------------------------------------------------------------------------


def _wrong(error: ValidationError, place: str) -> FileError:
    """The first mistake in a row, in the terms of the file."""
    first = error.errors(include_url=False)[0]
    kind, *fields = [str(part) for part in first["loc"]] or [""]
    a = f"an {kind}" if kind == "image" else f"a {kind}"
    match first["type"]:
        case "json_invalid":
            return FileError("not JSON", place=place, hint=f"one JSON object a line, such as {EXAMPLE}")
        case "union_tag_not_found":
            return FileError("a record has no kind", place=place, hint=f"kind is one of {', '.join(KINDS)}")
        case "union_tag_invalid":
            tag = first.get("ctx", {}).get("tag")
            return FileError(f"no record is of kind {tag!r}", place=place, hint=f"kind is one of {', '.join(KINDS)}")
        case _ if not fields and not kind:
            return FileError("not a JSON object", place=place, hint=f"one JSON object a line, such as {EXAMPLE}")
        case "extra_forbidden":
            known = list(KINDS[kind].model_fields)
            close = get_close_matches(fields[0], known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            return FileError(f"{a} has no field {fields[0]!r}", place=place, hint=hint)
        case "missing" if len(fields) == 1:
            return FileError(f"{a} needs the field {fields[0]!r}", place=place, hint=NEEDED.get(fields[0], ""))
    if fields[0] == "runs" and len(fields) > 1:
        said = "a number is missing" if first["type"] == "missing" else _said(first)
        hint = "a run is [lba, sectors, write]: whole numbers; write 0 is initial content, null is unknown content"
        return FileError(f"run {int(fields[1]) + 1} of {a}: {said}", place=place, hint=hint)
    return FileError(f"{fields[0]} of {a}: {_said(first)}", place=place, hint=_hint(first, fields[0]))


EXAMPLE = '{"kind": "write", "vm": 1, "lba": 0, "sectors": 8, "issue": 100, "ack": 200}'
NEEDED = {
    "issue": "when the guest issued it, in whole nanoseconds",
    "lba": "the first 512-byte sector, from the start of the disk",
    "sectors": "how many sectors of 512 bytes",
}


def _said(first: ErrorDetails) -> str:
    text = first["msg"].removeprefix("Input should be ").replace("a valid integer", "a whole number")
    return f"{first['input']!r} is not {text}" if len(repr(first["input"])) < 40 else f"should be {text}"


def _hint(first: ErrorDetails, name: str) -> str:
    if isinstance(first["input"], float):
        return (
            "times, lbas and ids are whole numbers; pandas turns a column with gaps into floats: "
            "astype('Int64') before to_parquet"
        )
    if name in ("issue", "ack", "time", "freeze", "thaw"):
        return "whole nanoseconds, from any moment on that is the same for all VMs"
    return ""
