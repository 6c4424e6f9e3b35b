"""StateFile: what a site remembers, in a small file that is replaced in one durable step; and its folder's lock."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

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
        if path.exists():
            with blame(path):
                text = path.read_text()
            try:
                self.state = SiteState.model_validate_json(text)
            except ValidationError as error:
                hint = "nothing was changed"
                raise PlatformError(f"the site's state is corrupt: {error}", place=str(path), hint=hint) from error

    def put(self, **changes: object) -> SiteState:
        """Change fields. Raises PlatformError, and nothing has changed."""
        state = self.state.model_copy(update=changes)
        with blame(self.path):
            replace_file(self.path, state.model_dump_json(indent=1).encode())
        self.state = state
        return state

    def vpg(self, name: str, change: Callable[[VpgState], VpgState | None]) -> None:
        """Change what is remembered of a VPG; None: nothing any more. Raises as `put`."""
        vpgs = dict(self.state.vpgs)
        after = change(vpgs.pop(name))
        if after is not None:
            vpgs[name] = after
        self.put(vpgs=vpgs)
