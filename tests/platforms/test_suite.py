"""The suite itself: a platform that breaks one promise is caught by the check that names it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from platforms.arms import ARMS, open_memory

from drsim.core.errors import DrsimError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import Area, Change, DiskFacts, DiskId, Epoch, Moved, NewVm, Platform, Power, Taken, VmFacts
from drsim.verify.conformance.bench import Bench
from drsim.verify.conformance.checks import CHECKS
from drsim.verify.conformance.memory import (
    MemoryBench,
    MemoryChanges,
    MemoryDisks,
    MemoryHypervisor,
    MemoryInventory,
)
from drsim.verify.conformance.operations import OPERATIONS
from drsim.verify.conformance.table import PORTS, calls, page
from drsim.verify.violation import Violation

ROOT = Path(__file__).parents[2]


class _TakesAnyName(MemoryHypervisor):
    def _create(self, vm: NewVm) -> None:
        there = self.estate.vms.get(vm.name)
        super()._create(replace(vm, owner=vm.owner if there is None else there.owner))


class _CreatesOnce(MemoryHypervisor):
    def _create(self, vm: NewVm) -> None:
        if vm.name in self.estate.vms:
            raise Taken("it exists", place="sim")
        super()._create(vm)


class _DeletesDisks(MemoryHypervisor):
    async def delete(self, name: str, owner: str) -> None:
        there = self.estate.vms.get(name)
        await super().delete(name, owner)
        for disk in () if there is None else there.disks:
            self.estate.disks.pop(disk, None)


class _Steals(MemoryHypervisor):
    async def attach(self, name: str, disk: DiskId) -> None:
        facts = self.estate.disks.get(disk)
        if facts is not None and facts.attached:
            await self.detach(facts.attached, disk)
        await super().attach(name, disk)


class _AddsNics(MemoryHypervisor):
    async def set_networks(self, name: str, nics: Sequence[Nic]) -> None:
        before = self.estate.vm(name).networks
        await super().set_networks(name, nics)
        self.estate.put(name, networks=(*before, *self.estate.vm(name).networks))


class _ForgetsAddresses(MemoryHypervisor):
    async def power_on(self, name: str) -> None:
        await super().power_on(name)
        self.estate.put(name, addresses=())


class _RunsOn(MemoryHypervisor):
    async def power_off(self, name: str) -> None:
        self.estate.vm(name)


class _StaysOff(MemoryHypervisor):
    async def power_on(self, name: str) -> None:
        await super().power_on(name)
        self.estate.put(name, power=Power.OFF)

    async def wait(self, name: str, timeout: float) -> None:
        pass


class _Doubles(MemoryDisks):
    async def create(self, name: str, size: int, store: str, owner: str) -> DiskId:
        made = await super().create(f"{name}{next(self.estate.numbers)}", size, store, owner)
        self.estate.disks[made] = replace(self.estate.disks[made], name=name)
        return made


class _DeletesAnybodys(MemoryDisks):
    async def delete(self, disk: DiskId, owner: str) -> None:
        facts = self.estate.disks.get(disk)
        await super().delete(disk, owner if facts is None else facts.owner)


class _SeesAll(MemoryInventory):
    async def vms(self, owner: str | None = None) -> Sequence[VmFacts]:
        return await super().vms()


class _TellsNoMoves(MemoryInventory):
    async def changes(self) -> AsyncIterator[Change]:
        async for change in super().changes():
            if not isinstance(change, Moved):
                yield change


class _SeesNoDisks(MemoryDisks):
    async def owned(self, owner: str) -> Sequence[DiskFacts]:
        return []


class _Misses(MemoryChanges):
    async def changed(self, epoch: Epoch, disk: DiskId, since: str | None) -> Sequence[Area]:
        return (await super().changed(epoch, disk, since))[:-1]


class _ReadsNow(MemoryChanges):
    async def read(self, epoch: Epoch, disk: DiskId, area: Area) -> bytes:
        return self.estate.path(disk).read_bytes()[area.offset : area.offset + area.length]


class _LetsIn(MemoryBench):
    async def refused(self) -> Platform:
        return self.platform


def _of(**parts: object) -> Callable[[], type[MemoryBench]]:
    return lambda: type("_Bench", (MemoryBench,), parts)


WRONG: dict[str, tuple[Callable[[], type[MemoryBench]], str]] = {
    "a name is taken from its owner": (_of(hypervisor=_TakesAnyName), "create_again"),
    "what was made already is an error": (_of(hypervisor=_CreatesOnce), "lost_answer"),
    "a killed manager finds its VM in the way": (_of(hypervisor=_CreatesOnce), "manager_killed"),
    "deleting a VM deletes its disks": (_of(hypervisor=_DeletesDisks), "attach_and_detach"),
    "a disk is taken from another VM": (_of(hypervisor=_Steals), "attach_and_detach"),
    "network adapters are added again": (_of(hypervisor=_AddsNics), "re_ip"),
    "an address gets lost": (_of(hypervisor=_ForgetsAddresses), "re_ip"),
    "a VM that is off runs on": (_of(hypervisor=_RunsOn), "power"),
    "a VM that is on does not run": (_of(hypervisor=_StaysOff), "recover"),
    "a disk is made twice": (_of(disks=_Doubles), "manager_killed"),
    "a disk is made again by the next manager": (_of(disks=_Doubles), "die_everywhere"),
    "anybody deletes a disk": (_of(disks=_DeletesAnybodys), "disks"),
    "an owner sees all VMs": (_of(inventory=_SeesAll), "create_and_delete"),
    "a move is not told": (_of(inventory=_TellsNoMoves), "vm_moved"),
    "an owner's disks are not found": (_of(disks=_SeesNoDisks), "recover"),
    "a change is not told": (_of(epochs=_Misses), "epochs"),
    "an epoch is read as it is now": (_of(epochs=_ReadsNow), "epochs"),
    "any password will do": (lambda: _LetsIn, "login_refused"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_broken_promise_is_caught(name: str) -> None:
    kind, check = WRONG[name]

    async def run(bench: Bench) -> None:
        await (CHECKS[check](bench) if check in CHECKS else OPERATIONS[check](bench, 1))

    async def with_bench() -> None:
        async with open_memory(kind()) as bench:
            await run(bench)

    with pytest.raises((DrsimError, Violation)):
        asyncio.run(with_bench())


@pytest.mark.slow
def test_the_page_of_platforms_is_up_to_date(rewrite_golden: bool) -> None:
    made, path = page(ARMS), ROOT / "docs/reference/platforms.md"
    if rewrite_golden:
        path.write_text(made)
    assert path.read_text() == made, "run pytest tests/platforms/test_suite.py --rewrite-golden"


def test_every_label_is_of_a_call_that_exists() -> None:
    known = {*calls(), *PORTS}
    for arm in ARMS:
        assert set(arm.labels) <= known
        assert arm.lacks <= set(PORTS)
        assert set(arm.cannot) <= {*CHECKS, *OPERATIONS}
