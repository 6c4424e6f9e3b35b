"""Delimited text tables: fast columns when all is well, and the exact line and reason when not.

A format is a tuple of `Field`s. pandas reads the file and whole columns are checked at once. Only when that fails is
the file walked line by line with the same rules, to name the first line that breaks one.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from drsim.core.errors import FileError

_WHOLE = re.compile(r"-?[0-9]{1,18}$")


@dataclass(frozen=True, slots=True)
class Field:
    """One column: a whole number between `low` and `high`, or one of `words`, or any text (`text`)."""

    name: str
    low: int = 0
    high: int = (1 << 62) - 1
    words: tuple[str, ...] = ()
    text: bool = False

    @property
    def is_number(self) -> bool:
        """Whether the column holds whole numbers."""
        return not (self.text or self.words)

    def wrong(self, value: str) -> str | None:
        """What is wrong with a value of this column; None when nothing is."""
        if self.words:
            return None if value in self.words else f"{self.name} is {value!r}, not one of {', '.join(self.words)}"
        if "\ufffd" in value:
            return f"{self.name} is not UTF-8 text"
        if self.text:
            return None if value else f"{self.name} is empty"
        if not _WHOLE.match(value):
            return f"{self.name} is {value!r}, not a whole number"
        if int(value) < self.low:
            return f"{self.name} is {value}, less than {self.low}"
        if int(value) > self.high:
            return f"{self.name} is {value}, more than {self.high} can be"
        return None


def lines(data: bytes, skip: int = 0) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank, from line `skip` + 1. The first line has number 1."""
    for number, raw in enumerate(data.split(b"\n"), 1):
        if number > skip and (text := raw.decode("utf-8", "replace").strip()):
            yield number, text


def split(line: str, separator: str) -> list[str]:
    """The fields of a line, without surrounding blanks. A blank separator stands for any run of blanks."""
    return line.split() if separator == " " else [part.strip() for part in line.split(separator)]


def line_error(path: Path, number: int, reason: str, form: str) -> FileError:
    """The error about a line."""
    return FileError(
        reason,
        place=f"{path}:line {number}",
        hint=f"the file is read as {form}; repair the line, or name another format in the workload",
    )


def read_table(
    path: Path, data: bytes, fields: Sequence[Field], *, separator: str, form: str, skip: int = 0
) -> pd.DataFrame:
    """The columns of all lines after the first `skip`; blank lines are passed over.

    Raises FileError naming the first line that has another number of fields or breaks the rule of one.
    """
    names = [field.name for field in fields]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = pd.read_csv(
                BytesIO(data),
                header=None,
                names=names,
                index_col=False,
                dtype={f.name: np.int64 if f.is_number else str for f in fields},
                sep=r"\s+" if separator == " " else separator,
                skipinitialspace=True,
                skiprows=skip,
                na_filter=False,
                quoting=3,
                engine="c",
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame({name: [] for name in names})
    except (ValueError, OverflowError, Warning) as error:
        _explain(path, data, fields, separator, form, skip, str(error))
    for field in fields:
        if not _holds(table[field.name], field):
            _explain(path, data, fields, separator, form, skip, f"column {field.name} is not as it should be")
    return table


def _holds(column: Any, field: Field) -> bool:
    if field.words:
        return bool(column.isin(field.words).all())
    if field.text:
        return bool((column != "").all())
    values = column.to_numpy()
    return len(values) == 0 or bool(values.min() >= field.low and values.max() <= field.high)


def _explain(
    path: Path, data: bytes, fields: Sequence[Field], separator: str, form: str, skip: int, otherwise: str
) -> NoReturn:
    """Raise FileError about the first line that breaks a rule."""
    for number, line in lines(data, skip):
        values = split(line, separator)
        if len(values) != len(fields):
            names = ", ".join(field.name for field in fields)
            raise line_error(path, number, f"{len(values)} fields where {len(fields)} belong ({names})", form)
        for field, value in zip(fields, values, strict=True):
            if reason := field.wrong(value):
                raise line_error(path, number, reason, form)
    raise FileError(otherwise, place=str(path), hint=f"the file is read as {form}; name another format")
