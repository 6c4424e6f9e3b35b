"""Netns: two network namespaces with an emulated WAN between them (`emulator.py`), and processes inside them."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from drsim.core.errors import PlatformError
from drsim.verify.emulator import ADDRESSES, Settings


def lacking() -> str:
    """What this machine lacks for it; nothing: it has all."""
    if os.geteuid() != 0:
        return "root, to make network namespaces"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun"
    if not any((Path(folder) / "ip").exists() for folder in os.environ.get("PATH", "").split(":")):
        return "ip (Debian package iproute2)"
    made = subprocess.run(["ip", "netns", "add", f"drsim-{os.getpid()}"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", f"drsim-{os.getpid()}"], capture_output=True, check=False)
    return f"network namespaces ({made.stderr.strip()})" if made.returncode else ""


class EmulatedWan:
    """Two namespaces and the WAN between them. Use as a context. `settings` hold for both directions."""

    addresses = ADDRESSES

    def __init__(self, settings: Settings, *, seed: int = 1) -> None:
        self.settings, self._seed = settings, seed
        self.namespaces = f"drsim-a{os.getpid()}", f"drsim-b{os.getpid()}"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "EmulatedWan":
        if why := lacking():
            raise PlatformError(f"an emulated WAN needs {why}")
        try:
            for name in self.namespaces:
                _ip("netns", "add", name)
            words = [sys.executable, "-m", "drsim.verify.emulator", *self.namespaces, str(self._seed)]
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._answer()
            self.change(**{name: getattr(self.settings, name) for name in Settings.__slots__})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def inside(namespace: str) -> tuple[str, ...]:
        """Words that go before a command, so that it runs there."""
        return ("ip", "netns", "exec", namespace)

    def change(self, **wish: float) -> dict[str, dict[str, int]]:
        """Change settings by name, or none; gives the counters: `forth` and `back`, packets and IP bytes."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def counters(self) -> dict[str, dict[str, int]]:
        """What was carried, and what was not."""
        return self.change()

    def _answer(self) -> dict[str, dict[str, int]]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PlatformError("the emulated WAN has ended", hint="what it said is above")
        found: dict[str, dict[str, int]] = json.loads(line)
        return found

    def close(self) -> None:
        """End it; the namespaces are gone when their last process is."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        for name in self.namespaces:
            with suppress(PlatformError):
                _ip("netns", "del", name)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PlatformError(f"ip {' '.join(words)}: {done.stderr.strip()}")
