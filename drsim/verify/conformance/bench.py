"""Bench: a platform under test, as the suite needs it: connected, with room, and with ways to make trouble.

An *arm* of the suite is a platform with the other side that it is tested against (a simulator by others, a fake, or the
real thing). It gives a fresh bench for every check; what is on a bench belongs to that check alone.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from drsim.real.ports import DiskId, Platform


class Label(StrEnum):
    """How much a passed check says (DESIGN 5)."""

    REAL = "real"
    SIMULATOR = "simulator by others"
    FAKE = "our fake behind a real client"
    MODEL = "model"
    NEVER = "never run"


class Trouble(StrEnum):
    """What can be done to the next call that changes something."""

    LOST_ANSWER = "carried out, and its answer is lost"
    NOT_DONE = "the connection breaks before it is carried out"
    THROTTLED = "refused as too many"
    EXPIRED = "the session has expired"
    SLOW = "takes a while"


class Bench(Protocol):
    """A platform with two hosts, a datastore, two networks and an appliance that runs."""

    platform: Platform
    host: str
    other_host: str
    store: str
    network: str
    test_network: str
    address: str
    """One that is free in `network`, and its mask."""
    mask: str
    stride: int
    """Of the calls that trouble may hit, each so many-th is; a lost answer hits every one."""

    def trouble(self, trouble: Trouble, times: int = 1, skip: int = 0) -> None:
        """So much trouble for calls that change something, after `skip` of them were left alone."""
        ...

    def changes(self) -> int:
        """How many calls have changed something so far; each is one that trouble could have hit."""
        ...

    async def lose_host(self, name: str) -> None:
        """A host does not answer any more."""
        ...

    async def move_vm(self, name: str, host: str) -> None:
        """Somebody else moves a VM to another host."""
        ...

    async def restart(self) -> Platform:
        """Connect anew, as a manager that was killed and is started again; `platform` is the new one."""
        ...

    async def refused(self) -> Platform:
        """Connect with a wrong password. Has to raise LoginRefused."""
        ...

    async def booted(self, vm: str) -> str:
        """What the guest of a VM that runs has printed; without guests, what QEMU prints that boots its disks.

        The first disk has a boot sector that prints its second sector as text.
        """
        ...

    async def fill(self, disk: DiskId, content: bytes) -> None:
        """Content of a disk, from its beginning, as the appliance writes it when the disk is attached to it."""
        ...

    async def content(self, disk: DiskId, length: int) -> bytes:
        """What a disk holds, from its beginning."""
        ...


class Opens(Protocol):
    """Opens a fresh bench."""

    def __call__(self) -> AbstractAsyncContextManager[Bench]: ...


@dataclass(frozen=True, slots=True)
class Arm:
    """A platform with its other side. `label`: of all calls; `labels`: where it is another, by `port.method` or `port`.

    `lacks`: ports that it has not.
    `cannot`: checks that say nothing here, by name, and why. `every`: of proofs that go through all points at which
    something may go wrong, each so many-th is played, where calls are slow.
    """

    name: str
    bench: Opens
    label: Label
    labels: Mapping[str, Label] = field(default_factory=dict)
    cannot: Mapping[str, str] = field(default_factory=dict)
    every: int = 1
    lacks: frozenset[str] = frozenset({"objects"})
