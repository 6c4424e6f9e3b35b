"""JournalView: one volume as of a cut, read straight out of the journal and the mirror; nothing is copied first.

Theory of operation. When it is made, the columns of the VM's records up to the cut are read, not their content: which
row wrote which sectors last. A read looks up the owner of each sector:

    owner                       content comes from
    --------------------------  --------------------------------------------------------------------------------
    a row beyond the mirror     its record, which is read whole and checked; the last few are kept
    a row that was promoted     the mirror
    none                        the mirror

The cut is pinned while this is in use, so that the mirror only ever gets rows that are known here. A row that is being
promoted is still read from its record: the store says that it was promoted when the mirror has it durably, and deletes
its record after that. So what is looked at first, row or mirror, is never half there.

The columns have a checksum of their own in memory, from when their record was last checked: a flipped bit on the disk
cannot hide a row.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from drsim.core.batch import Payload
from drsim.core.units import SECTOR
from drsim.real.files import blame
from drsim.real.mirror import Mirror
from drsim.real.vm_log import Entry, VmLog

KEPT = 16 << 20
"""Bytes of records that are kept after they were read."""

Numbers = npt.NDArray[np.int64]


class JournalView:
    """Rows `after + 1 .. cut` over the mirror. Use from any thread. `promoted`: how far the mirror durably has them."""

    def __init__(
        self, log: VmLog, mirror: Mirror, volume: int, cut: int, after: int, promoted: Callable[[], int]
    ) -> None:
        self._log, self._mirror, self._promoted = log, mirror, promoted
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Payload] = OrderedDict()  # payloads, by the entry's place in `_entries`
        self._entries: list[Entry] = []
        self._volume, self._cut = volume, after
        self._lba = self._sectors = self._number = self._record = self._at = np.zeros(0, np.int64)
        self.extend(cut)

    def extend(self, cut: int) -> None:
        """As of a later cut from now on. Nobody may be reading. Raises PlatformError for columns that do not verify."""
        after = self._cut
        parts: list[tuple[Numbers, ...]] = [(self._lba, self._sectors, self._number, self._record, self._at)]
        with blame(self._log.directory):
            for entry, volumes, lba, sectors in self._log.extents(after, cut) if cut > after else ():
                count = len(sectors)
                number = np.arange(entry.first, entry.first + count)
                at = np.cumsum(sectors) - sectors
                mine = (volumes == self._volume) & (number > after) & (number <= cut)
                if mine.any():
                    record = np.full(count, len(self._entries))
                    self._entries.append(entry)
                    parts.append(tuple(column[mine] for column in (lba, sectors, number, record, at)))
        if len(parts) > 1:
            columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
            self._lba, self._sectors, self._number, self._record, self._at = _last_of_equal(columns)
        self._longest = int(self._sectors.max(initial=1))
        self._cut = cut

    def read(self, lba: int, n: int) -> tuple[bytes, list[int]]:
        """Content of `n` sectors, and which of them do not verify. Raises PlatformError, OSError."""
        owner = self._owners(lba, n)
        content = bytearray(n * SECTOR)
        below = owner < 0
        stretches = _stretches(owner)
        stretches.sort(key=lambda found: self._record[owner[found[0]]] if owner[found[0]] >= 0 else -1)
        for start, stop in stretches:  # record by record: each is read once
            row = int(owner[start])
            data = self._content(row) if row >= 0 else None
            if data is None:
                below[start:stop] = True
            else:
                first = (lba + start - int(self._lba[row])) * SECTOR
                content[start * SECTOR : stop * SECTOR] = data[first : first + (stop - start) * SECTOR]
        if not below.any():
            return bytes(content), []
        read, wrong = self._mirror.read(lba, n)
        for start, stop in _stretches(below):
            if below[start]:
                content[start * SECTOR : stop * SECTOR] = read[start * SECTOR : stop * SECTOR]
        return bytes(content), [each for each in wrong if below[each - lba]]

    def _owners(self, lba: int, n: int) -> Numbers:
        """The row that wrote each sector last; -1: none."""
        owner = np.full(n, -1)
        low = int(np.searchsorted(self._lba, lba - self._longest, "right"))
        high = int(np.searchsorted(self._lba, lba + n))
        found = low + np.flatnonzero(self._lba[low:high] + self._sectors[low:high] > lba)
        if len(found):
            found = found[np.argsort(self._number[found])]
            first = np.maximum(self._lba[found], lba) - lba
            count = np.minimum(self._lba[found] + self._sectors[found], lba + n) - lba - first
            within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            owner[np.repeat(first, count) + within] = np.repeat(found, count)  # of several the last one stays
        return owner

    def _content(self, row: int) -> Payload | None:
        """What a row wrote; None: the mirror has it."""
        if int(self._number[row]) <= self._promoted():
            return None
        record = int(self._record[row])
        with self._lock:
            payload = self._kept.get(record)
            if payload is None:
                try:
                    payload = self._log.payload(self._entries[record])
                except FileNotFoundError:
                    if int(self._number[row]) <= self._promoted():
                        return None
                    raise
                self._kept[record] = payload
                while len(self._kept) > 1 and sum(map(len, self._kept.values())) > KEPT:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(record)
        at = int(self._at[row]) * SECTOR
        return memoryview(payload)[at : at + int(self._sectors[row]) * SECTOR]


def _last_of_equal(columns: Sequence[Numbers]) -> list[Numbers]:
    """Rows by place; of several for the same sectors only the last."""
    lba, sectors, number = columns[:3]
    order = np.lexsort((number, sectors, lba))
    lba, sectors = lba[order], sectors[order]
    last = np.ones(len(order), bool)
    last[:-1] = (lba[1:] != lba[:-1]) | (sectors[1:] != sectors[:-1])
    return [column[order[last]] for column in columns]


def _stretches(values: npt.NDArray[np.generic]) -> list[tuple[int, int]]:
    """Where equal values stand together: first, and one beyond the last."""
    breaks = np.flatnonzero(values[1:] != values[:-1]) + 1
    edges = [0, *breaks.tolist(), len(values)]
    return list(pairwise(edges))
