"""Recorder: the write stream of a live VM as a block trace that `drsim run --trace` reads.

One line for each write, in capture order: disk, W, byte offset, bytes, microseconds since the recording began. That is
the layout of the Alibaba block traces, which many tools read. Content is not recorded.
"""

import threading
from pathlib import Path

from drsim.core.errors import FileError, PlatformError
from drsim.real.clock import now_ns
from drsim.real.disk import Disk, Run
from drsim.real.files import blame, make_directory


class Recorder:
    """Listens to some disks, until `close`. Raises PlatformError when the file is there already."""

    def __init__(self, path: Path, disks: dict[str, Disk]) -> None:
        self.path, self.writes = path, 0
        with blame(path):
            make_directory(path.parent)
            if path.exists():
                raise PlatformError("a recording is there already", place=str(path), hint="move it away")
            self._file = path.open("w")
        self._began, self._lock = now_ns(), threading.Lock()
        self._disks = disks
        self._ids = {disk.info.id: n for n, disk in enumerate(disks.values())}
        for disk in disks.values():
            with disk.lock:
                disk.listeners = (*disk.listeners, self)

    def capture(self, run: Run) -> None:
        """See disk.Listener."""
        at, id_ = (run.issued - self._began) // 1000, self._ids[run.volume.id]
        rows = zip(run.offsets, run.parts, strict=True)
        text = "".join(f"{id_},W,{offset},{len(part)},{at}\n" for offset, part in rows)
        with self._lock:
            self._file.write(text)
            self.writes += len(run.offsets)

    def pass_gate(self) -> None:
        """See disk.Listener."""

    def close(self) -> None:
        """The recording is over."""
        for disk in self._disks.values():
            with disk.lock:
                disk.listeners = tuple(each for each in disk.listeners if each is not self)
        with self._lock, blame(self.path):
            self._file.close()


class Recorders:
    """The recordings that are under way, of VMs by name, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, Recorder] = {}

    def record(self, vm: str, disks: dict[str, Disk], *, on: bool) -> tuple[Path, int]:
        """Begin one, or end it; gives the file, and how many writes are in it. Raises FileError, PlatformError."""
        if on and vm not in self._running:
            self._running[vm] = Recorder(self.folder / f"{vm}.csv", disks)
        elif not on and vm not in self._running:
            raise FileError(f"VM {vm} is not being recorded", place=str(self.folder))
        recorder = self._running[vm]
        if not on:
            self._running.pop(vm).close()
        return recorder.path, recorder.writes

    def close(self) -> None:
        """End all of them."""
        for recorder in self._running.values():
            recorder.close()
