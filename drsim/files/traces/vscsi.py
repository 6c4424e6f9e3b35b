"""vSCSI version 1: binary records of 32 bytes, as VMware's vscsiStats and the CloudPhysics collection write them.

Little-endian: u32 serial, u32 length in bytes, u32 segments, u16 SCSI operation, u16 version (high byte 1), u64 first
sector, u64 time in microseconds. Source: the reader of the public libCacheSim repository describes the same layout.
"""

from pathlib import Path

import numpy as np

from drsim.core.errors import FileError
from drsim.core.units import SECTOR
from drsim.files.traces.block import MAX_LBA, MAX_SECTORS, Bool, Requests

RECORD = np.dtype(
    [
        ("serial", "<u4"),
        ("length", "<u4"),
        ("segments", "<u4"),
        ("op", "<u2"),
        ("version", "<u2"),
        ("lba", "<u8"),
        ("time", "<u8"),
    ]
)
READS = (0x08, 0x28, 0xA8, 0x88)
"""SCSI READ (6), (10), (12), (16)."""
WRITES = (0x0A, 0x2A, 0xAA, 0x8A, 0x2E, 0xAE, 0x8E)
"""SCSI WRITE (6), (10), (12), (16), and WRITE AND VERIFY (10), (12), (16)."""


def looks_like(data: bytes) -> bool:
    """Whether the data begin with a record of version 1 or 2 and hold bytes that no text has."""
    return len(data) >= 16 and data[15] in (1, 2) and data[14] == 0 and b"\0" in data[:14]


def read(path: Path, data: bytes) -> Requests:
    """The requests of a vSCSI file. Raises FileError naming the first record that is wrong."""
    whole, rest = divmod(len(data), RECORD.itemsize)
    if rest:
        raise FileError(
            f"the file ends inside a record: {rest} of {RECORD.itemsize} bytes",
            place=f"{path}:record {whole + 1}",
            hint="the copy is incomplete; fetch the trace again",
        )
    records = np.frombuffer(data, RECORD)
    write: Bool = np.isin(records["op"], WRITES)
    length, lba = records["length"].astype(np.int64), records["lba"]
    checks = (
        (records["version"] >> 8 != 1, "version", "has version {0}, not 1 (stored as {1:#06x})"),
        (~(write | np.isin(records["op"], READS)), "op", "has operation {1:#x}, neither a read nor a write"),
        (length == 0, "length", "has length zero"),
        (length > MAX_SECTORS * SECTOR, "length", "has length {1}, more than 1 GiB"),
        (lba > MAX_LBA, "lba", "begins at sector {1}, beyond any disk (8 PiB)"),
        (records["time"] >= 1 << 62, "time", "has time {1}, which cannot be microseconds"),
    )
    wrong = [(int(np.argmax(bad)), name, text) for bad, name, text in checks if bad.any()]
    if wrong:
        at, name, text = min(wrong, key=lambda each: each[0])
        value = int(records[name][at])
        raise FileError(
            f"the record {text.format(value >> 8, value)}",
            place=f"{path}:record {at + 1}",
            hint="drsim reads vSCSI version 1; the file is damaged, of version 2, or not a vSCSI trace",
        )
    return Requests(
        records["time"].astype(np.int64),
        write,
        np.zeros(whole, np.int32),
        ("disk",),
        lba.astype(np.int64),
        -(-length // SECTOR),
        unit=1000,
        in_bytes=False,
    )
