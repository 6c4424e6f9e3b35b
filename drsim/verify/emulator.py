"""Emulator: a WAN of our own between two network namespaces, in user space: rate, delay, loss, queue, outage.

Theory of operation. Each namespace gets one end of a TUN device; this process holds the other ends and carries packets
from one to the other. Each direction is a pipe:

    packet -> outage? dropped -> random loss? dropped -> queue full? dropped -> served at the rate -> delay -> delivered

The queue is bounded in bytes and drops its tail, as a router's does. A packet that is dropped was not carried; whoever
sent it finds out as TCP does. What was carried is counted as IP packets, headers and retransmissions included.

It is a process of its own, with real-time priority where that is allowed, so that what it adds is small beside the
delays it emulates. It reads one JSON object a line: settings to change (`Settings`, seconds and bits per second), and
answers each with its counters; end of file ends it, and with it the devices.

Needs root and /dev/net/tun. The kernel's `netem` would do; it is not everywhere, and it does not count what we want.
"""

import fcntl
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
ADDRESSES = ("10.99.0.1", "10.99.0.2")
"""Of the two ends."""
MTU = 1500
CONGESTION = "cubic"
"""TCP's congestion control inside, said because the kernel's default differs from machine to machine."""
_MOST_READ = 64  # packets of one end before the other is looked at
_PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """Of both directions. rate: bits/s, 0 for no limit. delay: one way, seconds. queue: seconds at the rate."""

    rate: float = 0.0
    delay: float = 0.0
    loss: float = 0.0
    queue: float = 0.1
    up: bool = True


class Pipe:
    """One direction. `carried`: packets and bytes delivered; `lost`, `overflowed`, `cut`: packets that were not."""

    def __init__(self, rng: random.Random) -> None:
        self.settings = Settings()
        self.packets = self.carried = self.lost = self.overflowed = self.cut = 0
        self._rng, self._free = rng, 0.0
        self._waiting: deque[tuple[float, bytes]] = deque()

    def put(self, packet: bytes, now: float) -> None:
        """A packet enters."""
        s = self.settings
        if not s.up:
            self.cut += 1
            return
        if s.loss and self._rng.random() < s.loss:
            self.lost += 1
            return
        free = max(self._free, now)
        if s.rate:
            if free - now > s.queue:
                self.overflowed += 1
                return
            free += len(packet) * 8 / s.rate
        self._free = free
        leaves = free + s.delay
        if self._waiting:
            leaves = max(leaves, self._waiting[-1][0])
        self._waiting.append((leaves, packet))

    def due(self, now: float) -> list[bytes]:
        """What arrives by now, in order."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(self._waiting.popleft()[1])
        self.packets += len(found)
        self.carried += sum(map(len, found))
        return found

    @property
    def next(self) -> float | None:
        """When the next packet arrives."""
        return self._waiting[0][0] if self._waiting else None

    def change(self, settings: Settings) -> None:
        """From now on; a cut loses what is on the way."""
        self.settings = settings
        if not settings.up:
            self.cut += len(self._waiting)
            self._waiting.clear()
            self._free = 0.0

    def counters(self) -> dict[str, int]:
        return {
            "packets": self.packets, "bytes": self.carried, "lost": self.lost, "overflowed": self.overflowed,
            "cut": self.cut,
        }  # fmt: skip


def open_tun(namespace: str, name: str, here: str, there: str) -> int:
    """A TUN device in a namespace; gives our end of it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    inside = ("ip", "-n", namespace)
    for words in (
        ("ip", "link", "set", name, "netns", namespace),
        (*inside, "link", "set", "lo", "up"),
        (*inside, "link", "set", name, "mtu", str(MTU), "txqueuelen", "10000", "up"),
        (*inside, "addr", "add", here, "dev", name),
        (*inside, "route", "add", there, "dev", name, "src", here, "congctl", CONGESTION),
    ):
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return fd


def carry(fds: tuple[int, int], seed: int) -> None:
    """Carry packets until the standard input ends."""
    rng = random.Random(seed)
    pipes = Pipe(rng), Pipe(rng)
    into = {fds[0]: (pipes[0], fds[1]), fds[1]: (pipes[1], fds[0])}
    said = b""
    while True:
        now = time.monotonic()
        for pipe, out in into.values():
            for packet in pipe.due(now):
                with suppress(OSError):  # as on a real wire: what the end does not take is gone
                    os.write(out, packet)
        coming = [pipe.next for pipe in pipes if pipe.next is not None]
        wait = max(0.0, min(coming) - time.monotonic()) if coming else 0.5
        ready, _, _ = select.select([*fds, 0], [], [], wait)
        now = time.monotonic()
        for fd in ready:
            if fd == 0:
                data = os.read(0, 65536)
                if not data:
                    return
                said += data
                continue
            with suppress(BlockingIOError):
                for _ in range(_MOST_READ):
                    into[fd][0].put(os.read(fd, 65535), now)
        while b"\n" in said:
            line, said = said.split(b"\n", 1)
            _obey(line, pipes)


def _obey(line: bytes, pipes: tuple[Pipe, Pipe]) -> None:
    wish: dict[str, Any] = json.loads(line)
    if wish:
        for pipe in pipes:
            pipe.change(replace(pipe.settings, **wish))
    told = {"forth": pipes[0].counters(), "back": pipes[1].counters()}
    os.write(1, json.dumps(told).encode() + b"\n")


def main() -> None:
    """NAMESPACE NAMESPACE SEED."""
    one, other, seed = sys.argv[1:]
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
    name = f"w{os.getpid()}"
    here, there = ADDRESSES
    fds = open_tun(one, f"{name}a", here, there), open_tun(other, f"{name}b", there, here)
    os.write(1, b"{}\n")
    carry(fds, int(seed))


if __name__ == "__main__":
    main()
