"""Block traces as delimited text: MSR Cambridge, Alibaba, Tencent, and SSDsim or MQSim.

Each format is one row of `FORMATS`: its columns, its clock's unit, and where its devices are named. Sources: the
traces' own descriptions (SNIA IOTTA for MSR Cambridge, the readme files of the Alibaba and Tencent collections, the
SSDsim and MQSim sources).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from drsim.core.units import SECOND, SECTOR
from drsim.files.traces.block import MAX_LBA, MAX_SECTORS, Bool, Int32, Requests
from drsim.files.traces.table import Field, read_table, split

_BYTE_AT = Field("offset", 0, MAX_LBA * SECTOR)
_BYTES = Field("length", 1, MAX_SECTORS * SECTOR)
_SECTOR_AT = Field("offset", 0, MAX_LBA)
_SECTORS = Field("length", 1, MAX_SECTORS)


@dataclass(frozen=True, slots=True)
class Delimited:
    """A format: `unit` is nanoseconds per step of the time column, `writes` the words or numbers that mean a write."""

    fields: tuple[Field, ...]
    separator: str
    unit: int
    in_bytes: bool
    device: tuple[str, ...]
    op: str
    writes: tuple[str | int, ...]


FORMATS: Mapping[str, Delimited] = {
    "msr": Delimited(
        (
            Field("timestamp"),
            Field("host", text=True),
            Field("disk"),
            Field("type", words=("Read", "Write", "read", "write")),
            _BYTE_AT,
            _BYTES,
            Field("response time"),
        ),
        separator=",",
        unit=100,
        in_bytes=True,
        device=("host", "disk"),
        op="type",
        writes=("Write", "write"),
    ),
    "alibaba": Delimited(
        (Field("device", text=True), Field("opcode", words=("R", "W")), _BYTE_AT, _BYTES, Field("timestamp")),
        separator=",",
        unit=1000,
        in_bytes=True,
        device=("device",),
        op="opcode",
        writes=("W",),
    ),
    "tencent": Delimited(
        (Field("timestamp"), _SECTOR_AT, _SECTORS, Field("iotype", 0, 1), Field("volume", text=True)),
        separator=",",
        unit=SECOND,
        in_bytes=False,
        device=("volume",),
        op="iotype",
        writes=(1,),
    ),
    "ssdsim": Delimited(
        (Field("timestamp"), Field("device", text=True), _SECTOR_AT, _SECTORS, Field("op", 0, 1)),
        separator=" ",
        unit=1,
        in_bytes=False,
        device=("device",),
        op="op",
        writes=(0,),
    ),
}


def looks_like(line: str, form: str) -> bool:
    """Whether a line has the fields of a format."""
    fields = FORMATS[form].fields
    values = split(line, FORMATS[form].separator)
    return len(values) == len(fields) and all(f.wrong(v) is None for f, v in zip(fields, values, strict=True))


def is_header(line: str, form: str) -> bool:
    """Whether a line names columns: as many fields as the format has, and no number among them."""
    values = split(line, FORMATS[form].separator)
    return len(values) == len(FORMATS[form].fields) and not any(char.isdigit() for v in values for char in v[:1])


def read(path: Path, data: bytes, form: str) -> Requests:
    """The requests of a delimited file. Raises FileError naming the first line that is wrong."""
    f = FORMATS[form]
    head = data[: data.find(b"\n") + 1 or len(data)].decode("utf-8", "replace")
    table = read_table(path, data, f.fields, separator=f.separator, form=form, skip=int(is_header(head, form)))
    device, devices = _devices(table, f.device)
    write: Bool = np.asarray(table[f.op].isin(f.writes).to_numpy(), np.bool_)
    return Requests(
        np.asarray(table["timestamp"], np.int64),
        write,
        device,
        devices,
        np.asarray(table["offset"], np.int64),
        np.asarray(table["length"], np.int64),
        f.unit,
        f.in_bytes,
        f.unit,
    )


def _devices(table: pd.DataFrame, columns: tuple[str, ...]) -> tuple[Int32, tuple[str, ...]]:
    """Codes of each row's device, and the names in the order of their first appearance."""
    codes, first = pd.factorize(table[columns[0]])
    names = [str(name) for name in first]
    if len(columns) == 1:
        return np.asarray(codes, np.int32), tuple(names)
    other, second = pd.factorize(table[columns[1]])
    both, pairs = pd.factorize(codes * max(1, len(second)) + other)
    disks = [str(disk) for disk in second]
    named = tuple(f"{names[pair // len(disks)]}.{disks[pair % len(disks)]}" for pair in np.asarray(pairs).tolist())
    return np.asarray(both, np.int32), named
