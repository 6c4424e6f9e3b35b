"""CatalogStore: the list of checkpoints of one VPG in a small JSON file, replaced in one durable step.

When the disk fails after the new file took its name, nobody knows which of the two a crash would leave. Then the
store takes no more changes until it is opened anew and has read what is there: a checkpoint that was refused and is
listed after all has lost no data by then, because data ages only after a `forget`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from drsim.core.errors import PlatformError
from drsim.core.messages import Checkpoint
from drsim.core.names import CheckpointId
from drsim.real.codec import build, plain
from drsim.real.files import blame, make_directory, replace_file, sync_directory


@dataclass(frozen=True, slots=True)
class _Content:
    checkpoints: tuple[Checkpoint, ...]


class CatalogStore:
    """Checkpoints that can be recovered from, by number, oldest first. Use from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints: dict[CheckpointId, Checkpoint] = {}
        self._texts: dict[CheckpointId, bytes] = {}  # of each: what stays in the list is not written out again
        self.closed = ""
        """Why the store takes no changes until it is opened anew; nothing when it does."""
        with blame(path):
            make_directory(path.parent)
            self._data = self._read()
            if path.exists():
                self._load(self._data)
            sync_directory(path.parent)  # what was read holds from now on, also if it was left in doubt

    def _read(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def _load(self, data: bytes) -> None:
        try:
            raw = json.loads(data)
            if raw["crc32"] != crc32(_text(raw["catalog"])):
                raise ValueError("checksum is wrong")
            content: _Content = build(_Content, raw["catalog"])
        except (ValueError, KeyError, TypeError) as error:
            raise PlatformError(f"the catalogue is corrupt: {error}", place=str(self.path)) from error
        self.checkpoints = {c.id: c for c in content.checkpoints}
        self._texts = {c.id: _text(plain(c)) for c in content.checkpoints}

    def verify(self) -> None:
        """Read the file again: it says what holds. Raises PlatformError."""
        with blame(self.path):
            if not self.closed and self._read() != self._data:
                raise PlatformError("the catalogue's file is not what was written", place=str(self.path))

    def keep(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint, durably. Raises StoreFull or PlatformError: the list is as before, or this is `closed`."""
        self._put({**self.checkpoints, checkpoint.id: checkpoint})

    def forget(self, before: CheckpointId | None) -> None:
        """Remove the checkpoints before this one, None: all, durably. Raises as `keep`."""
        self._put({id_: c for id_, c in self.checkpoints.items() if before is not None and id_ >= before})

    def retain(self, kept: Callable[[Checkpoint], bool]) -> None:
        """Remove all others, durably. Raises as `keep`."""
        self._put({id_: c for id_, c in self.checkpoints.items() if kept(c)})

    def _put(self, checkpoints: dict[CheckpointId, Checkpoint]) -> None:
        texts = {id_: self._texts.get(id_) or _text(plain(c)) for id_, c in checkpoints.items()}
        checksum = crc32(_LIST % b",".join(texts.values()))
        data = b'{"crc32":%d,"catalog":%b}' % (checksum, _LIST % b",\n".join(texts.values()))
        if self.closed:
            message = f"the catalogue is closed to changes: {self.closed}"
            raise PlatformError(message, place=str(self.path), hint="restart it")
        with blame(self.path):
            try:
                replace_file(self.path, data)
            except OSError as error:
                self.closed = f"a change may or may not be there ({error.strerror})"
                if self._read() == self._data:
                    self.closed = ""
                raise
        self.checkpoints, self._texts, self._data = checkpoints, texts, data


_LIST = b'{"checkpoints":[%b]}'


def _text(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
