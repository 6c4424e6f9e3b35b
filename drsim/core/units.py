"""Units of the core: nanoseconds, log sequence numbers, sectors. Nothing else defines a unit."""

from typing import NewType

Ns = NewType("Ns", int)
"""The one unit of time."""

Lsn = NewType("Lsn", int)
"""Log sequence number: the one order of a VM's writes. The first write of a VM has number 1."""

SECTOR = 512
"""Bytes of the granule of all extents."""

SECOND = 1_000_000_000
