"""StateFile: what a site remembers, in a small file that is replaced in one durable step; and its folder's lock.

The file has a first line with the checksum of the rest (CRC-32, of the bytes), which is JSON.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from drsim.core.errors import PlatformError
from drsim.real.files import blame, make_directory, replace_file
from drsim.spec.live import SiteState, VpgState


class FolderLock:
    """A folder that is this process's alone, until `close` or its death."""

    def __init__(self, folder: Path) -> None:
        with blame(folder):
            make_directory(folder)
            self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._fd)
                hint = "end it first, or give this site another folder"
                raise PlatformError("another process works in this folder", place=str(folder), hint=hint) from error

    def close(self) -> None:
        """Let it go."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class StateFile:
    """The state of a site. `state` is what holds; each change is durable when it returns."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, SiteState()
        self._data = self._read()
        if path.exists():
            try:
                said, _, text = self._data.partition(b"\n")
                if int(said, 16) != crc32(text):
                    raise ValueError("the checksum is wrong")
                self.state = SiteState.model_validate_json(text)
            except ValueError as error:
                hint = "nothing was changed; bring the file back from a copy, or begin with an empty folder"
                raise PlatformError(f"the site's state is corrupt: {error}", place=str(path), hint=hint) from error

    def _read(self) -> bytes:
        with blame(self.path):
            return self.path.read_bytes() if self.path.exists() else b""

    def verify(self) -> None:
        """Read the file again: it says what holds. Raises PlatformError."""
        if self._read() != self._data:
            raise PlatformError("the site's state is not what was written", place=str(self.path))

    def put(self, **changes: object) -> SiteState:
        """Change fields. Raises PlatformError, and nothing has changed."""
        state = self.state.model_copy(update=changes)
        text = state.model_dump_json(indent=1).encode()
        data = b"%08x\n%b" % (crc32(text), text)
        with blame(self.path):
            replace_file(self.path, data)
        self.state, self._data = state, data
        return state

    def vpg(self, name: str, change: Callable[[VpgState], VpgState | None]) -> None:
        """Change what is remembered of a VPG; None: nothing any more. Raises as `put`."""
        vpgs = dict(self.state.vpgs)
        after = change(vpgs.pop(name))
        if after is not None:
            vpgs[name] = after
        self.put(vpgs=vpgs)
