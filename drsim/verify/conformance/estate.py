"""Estate: what there is on a platform in memory, and the wire to it, which may be troubled."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from drsim.core.recovery.plan import Nic
from drsim.real.patience import Verdict, patiently
from drsim.real.ports import Change, DiskFacts, DiskId, HostFacts, Limits, NotFound, VmFacts
from drsim.verify.conformance.bench import Trouble

T = TypeVar("T")
LIMITS = Limits(call=5.0, attempts=4, first=0.001, most=0.01)


class Said(Exception):
    """What a platform's wire says."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.value)
        self.trouble = trouble


class Wire:
    """Counts calls that change something, and troubles those that it was told to."""

    def __init__(self) -> None:
        self.changes, self._trouble, self._times, self._skip = 0, Trouble.SLOW, 0, 0

    def expect(self, trouble: Trouble, times: int, skip: int) -> None:
        """So much trouble, after `skip` calls."""
        self._trouble, self._times, self._skip = trouble, times, skip

    async def change(self, work: Callable[[], T]) -> T:
        """One call. Raises Said."""
        self.changes += 1
        if self._skip or not self._times:
            self._skip = max(0, self._skip - 1)
            return work()
        self._times -= 1
        match self._trouble:
            case Trouble.SLOW:
                await asyncio.sleep(0.01)
                return work()
            case Trouble.LOST_ANSWER:
                work()
        raise Said(self._trouble)


@dataclass(slots=True)
class Estate:
    """What there is, whoever is connected."""

    folder: Path
    hosts: dict[str, HostFacts]
    networks: tuple[str, ...]
    vms: dict[str, VmFacts] = field(default_factory=dict)
    nics: dict[str, tuple[Nic, ...]] = field(default_factory=dict)
    disks: dict[DiskId, DiskFacts] = field(default_factory=dict)
    snapshots: dict[str, dict[DiskId, Path]] = field(default_factory=dict)
    marks: dict[str, Path] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    listeners: "list[asyncio.Queue[Change]]" = field(default_factory=list)

    def tell(self, change: Change) -> None:
        """Everybody who listens hears of it."""
        for queue in self.listeners:
            queue.put_nowait(change)

    def vm(self, name: str) -> VmFacts:
        """Raises NotFound."""
        if name not in self.vms:
            raise NotFound(f"no VM is called {name}", place="sim")
        return self.vms[name]

    def put(self, name: str, **changes: object) -> None:
        """Change a VM."""
        self.vms[name] = replace(self.vm(name), **changes)  # type: ignore[arg-type]

    def path(self, disk: DiskId) -> Path:
        """Its content."""
        return self.folder / disk


class Part:
    """What all ports have: the estate, and a way to change it."""

    def __init__(self, estate: Estate, wire: Wire) -> None:
        self.estate, self._wire = estate, wire

    async def _change(self, what: str, work: Callable[[], T]) -> T:
        def judge(error: Exception) -> Verdict:
            if not isinstance(error, Said):
                return Verdict.GIVE_UP
            return Verdict.LOG_IN if error.trouble is Trouble.EXPIRED else Verdict.AGAIN

        return await patiently(lambda: self._wire.change(work), judge, what=what, place="sim", limits=LIMITS)
