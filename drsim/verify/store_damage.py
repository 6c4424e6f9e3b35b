"""Damage: what may happen to the files of a real store between two calls. One at a time, so that it can be seen.

    kind          what
    ------------  ---------------------------------------------------------------------------
    flip          one bit of a file is another
    zero          a sector was never written
    cut           the end of a file is gone
    swap          two records, ledger entries, sectors or whole files changed places
    copy          one was written over another
    old           a file is as it was at an earlier time
    gone          a file was deleted
    unreadable    a file cannot be read

What nobody can see from the store's own files is no damage here: two files put back to the same earlier time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from drsim.core.units import SECTOR
from drsim.real import journal_store, ledger, vm_log
from drsim.real.envelope import PRELUDE, Unreadable, prelude
from drsim.verify.store_disk import Disk, Files

MAGIC = {".segment": vm_log.MAGIC, "spec": journal_store.MAGIC}
"""How the pieces of a file begin, by its kind; those of all others as a ledger's."""
UNIT = {".mirror": SECTOR, ".sums": 4}


@dataclass(frozen=True, slots=True)
class Damage:
    """What was done to which file."""

    kind: str
    path: str

    @property
    def what(self) -> str:
        """The kind of file: spec, ledger, promoting, segment, mirror, sums, catalogue."""
        path = PurePath(self.path)
        return "catalogue" if path.suffix == ".json" else path.suffix[1:] or path.name

    @property
    def may_lose_last(self) -> bool:
        """Whether what is left looks as a crash before the last append would leave it."""
        return self.what == "ledger" and self.kind in ("cut", "zero", "old")

    def __str__(self) -> str:
        return f"{self.kind} in {self.path}"


def damage(disk: Disk, kind: str, past: Mapping[str, Sequence[bytes]], a: int, b: int) -> Damage | None:
    """Break a file of the disk in its place; `past`: earlier contents by path. None when it cannot be done here."""
    now = disk.read()
    kinds: dict[str, list[str]] = {}
    for path, data in now.items():
        if data and not path.endswith(".new"):
            kinds.setdefault(Damage(kind, path).what, []).append(path)
    choice = [*sorted(kinds), "ledger"]  # which everything hangs on, so twice
    paths = kinds[choice[a % len(choice)]]
    path = paths[a // len(choice) % len(paths)]
    if kind == "unreadable":
        disk.unreadable = path
        return Damage(kind, path)
    changed = KINDS[kind](now, path, past.get(path, ()), (b * 40503 + a * 977) & 0xFFFF)
    changed = {p: content for p, content in changed.items() if content != now[p]}
    for p, content in changed.items():
        disk.put(p, content)
    return Damage(kind, path) if changed else None


def _flip(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    content = bytearray(now[path])
    at, bit = n % len(content), n // 256 % 8
    start = 0 if path.endswith(".json") else _units(path, now[path])[-1][0] + PRELUDE
    digits = [k for k in range(start, len(content)) if content[k] in b"0123456789"]
    if n % 2 and digits and PurePath(path).suffix in ("", ".json"):  # a number stays one, only another
        at, bit = digits[n // 2 % len(digits)], 0
    content[at] ^= 1 << bit
    return {path: bytes(content)}


def _zero(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    content = now[path]
    at = n % -(-len(content) // SECTOR) * SECTOR
    size = min(SECTOR, len(content) - at)
    return {path: content[:at] + bytes(size) + content[at + size :]}


def _cut(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    content, units = now[path], _units(path, now[path])
    if units and n % 2:  # where a record begins, so that all that is left verifies
        return {path: content[: units[-1 - n // 2 % min(4, len(units))][0]]}
    return {path: content[: n % len(content)]}


def _swap(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    return _exchange(now, path, n, both=True)


def _copy(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    return _exchange(now, path, n, both=False)


def _old(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    other = [content for content in past if content != now[path]]
    return {path: other[-1 - n % len(other)]} if other else {}


def _gone(now: Files, path: str, past: Sequence[bytes], n: int) -> dict[str, bytes | None]:
    return {path: None}


KINDS: dict[str, Callable[[Files, str, Sequence[bytes], int], dict[str, bytes | None]]] = {
    "flip": _flip, "zero": _zero, "cut": _cut, "swap": _swap, "copy": _copy, "old": _old, "gone": _gone,
}  # fmt: skip


def _units(path: str, content: bytes) -> list[tuple[int, int]]:
    """Where the pieces of a file lie that the store writes in one go: (from, up to)."""
    suffix = PurePath(path).suffix
    if suffix in UNIT:
        return [(at, at + UNIT[suffix]) for at in range(0, len(content), UNIT[suffix])]
    found: list[tuple[int, int]] = []
    at = 0
    try:
        while at < len(content):
            size = prelude(MAGIC.get(suffix or PurePath(path).name, ledger.MAGIC), content[at:]).size
            found.append((at, at + size))
            at += size
    except Unreadable:
        pass
    return found


def _exchange(now: Files, path: str, n: int, *, both: bool) -> dict[str, bytes | None]:
    """A piece of a file, and another of the same size in it or in a file of its kind; else the whole files."""
    kin = [p for p in now if PurePath(p).suffix == PurePath(path).suffix]
    twins = [p for p in kin if PurePath(p).parts[2:] == PurePath(path).parts[2:] and p != path]  # of the other stream
    twin = twins[0] if twins else path
    other = (path, twin, kin[n // 4 % len(kin)], twin)[n % 4]
    mine, theirs = _units(path, now[path]), _units(other, now[other])
    for k in range(len(mine)):
        start, stop = mine[(n // 16 + k) % len(mine)]
        here = now[path][start:stop]
        places = [(x, y) for x, y in theirs if y - x == stop - start and now[other][x:y] != here]
        if places:
            x, y = (start, stop) if (start, stop) in places else places[n // 64 % len(places)]
            content = {p: bytearray(now[p]) for p in (path, other)}
            content[path][start:stop] = now[other][x:y]
            if both:
                content[other][x:y] = here
            return {p: bytes(data) for p, data in content.items()}
    return {path: now[other], **({other: now[path]} if both else {})}
