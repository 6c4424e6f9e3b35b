"""Checks of a platform in trouble, and of what only some platforms have: changes and objects."""

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import Area, DiskId, Epoch, NotFound, Power, Unavailable, Untrusted
from drsim.verify.conformance.bench import Bench, Trouble
from drsim.verify.conformance.claims import (
    OWNER,
    SIZE,
    NotConforming,
    a_disk,
    a_vm,
    check,
    demand,
    expect,
    left_behind,
)  # fmt: skip

NEEDS = {"epochs": "changes", "objects": "objects"}
"""Checks that say nothing of platforms that lack a port."""


# -- trouble ----------------------------------------------------------------------------------------------------------


async def make(bench: Bench) -> None:
    """What is done under trouble: a VM with a disk that runs, asked for as a manager would that knows nothing."""
    here = bench.platform
    await a_vm(bench)
    disk = await here.disks.create("drsim-web-000001", SIZE, bench.store, OWNER)
    await here.hypervisor.attach("web", disk)
    await here.hypervisor.set_networks("web", [Nic(bench.network)])
    await here.hypervisor.power_on("web")


async def unmake(bench: Bench) -> None:
    """The way back."""
    here = bench.platform
    await here.hypervisor.power_off("web")
    for disk in await here.disks.owned(OWNER):
        await here.hypervisor.detach("web", disk.id)
    await here.hypervisor.delete("web", OWNER)
    for disk in await here.disks.owned(OWNER):
        await here.disks.delete(disk.id, OWNER)


async def made_once(bench: Bench, when: str) -> None:
    """What `make` makes is there, once. Raises NotConforming."""
    here = bench.platform
    vms, disks = await here.inventory.vms(OWNER), await here.disks.owned(OWNER)
    demand([vm.name for vm in vms] == ["web"], f"{when}: there is one VM, not {[vm.name for vm in vms]}")
    demand(len(disks) == 1, f"{when}: there is one disk, not {[disk.name for disk in disks]}")
    demand(vms[0].disks == (disks[0].id,), f"{when}: the disk is attached once: {vms[0].disks}")
    demand(vms[0].power is Power.ON, f"{when}: the VM runs")
    demand(vms[0].networks == (bench.network,), f"{when}: it is in its network once: {vms[0].networks}")


async def _troubled(bench: Bench, trouble: Trouble, every: int) -> None:
    before = bench.changes()
    await make(bench)
    calls = bench.changes() - before
    await unmake(bench)
    back = bench.changes() - before - calls
    for skip in range(0, calls, every):
        bench.trouble(trouble, 1, skip)
        await make(bench)
        await made_once(bench, f"trouble at change {skip + 1} of {calls}")
        bench.trouble(trouble, 1, skip % back)
        await unmake(bench)
        demand(not (left := await left_behind(bench, OWNER)), f"trouble at the way back leaves {left}")
    bench.trouble(trouble, 0)


@check
async def lost_answer(bench: Bench) -> None:
    """Whichever answer is lost, what was asked for is there once."""
    await _troubled(bench, Trouble.LOST_ANSWER, 1)


@check
async def connection_broken(bench: Bench) -> None:
    """Whichever call is not carried out, it is asked for again."""
    await _troubled(bench, Trouble.NOT_DONE, bench.stride)


@check
async def throttled(bench: Bench) -> None:
    """Refused as too many, whichever call, it waits and asks again."""
    await _troubled(bench, Trouble.THROTTLED, bench.stride)


@check
async def session_expired(bench: Bench) -> None:
    """Whenever the session expires, the adapter logs in again."""
    await _troubled(bench, Trouble.EXPIRED, bench.stride)


@check
async def slow(bench: Bench) -> None:
    """Calls that take a while are waited for."""
    bench.trouble(Trouble.SLOW, 3)
    await make(bench)
    await made_once(bench, "slow calls")


@check
async def given_up(bench: Bench) -> None:
    """A platform that says "not now" for ever is Unavailable in the end, and nothing is half said."""
    bench.trouble(Trouble.THROTTLED, 1_000_000)
    await expect(Unavailable, a_vm(bench), "for ever throttled")
    bench.trouble(Trouble.THROTTLED, 0)
    await make(bench)
    await made_once(bench, "after that")


@check
async def manager_killed(bench: Bench) -> None:
    """A manager that dies after any change and starts anew, finds what it made; nothing is doubled."""
    before = bench.changes()
    await make(bench)
    calls = bench.changes() - before
    await unmake(bench)
    for skip in range(0, calls, bench.stride):
        bench.trouble(Trouble.NOT_DONE, 1_000_000, skip)
        await expect(PlatformError, make(bench), "it does not get further")
        bench.trouble(Trouble.NOT_DONE, 0)
        await bench.restart()
        await make(bench)
        await made_once(bench, f"killed before change {skip + 1} of {calls}")
        await unmake(bench)
    demand(not (left := await left_behind(bench, OWNER)), f"left behind: {left}")


# -- changes ----------------------------------------------------------------------------------------------------------


@check
async def epochs(bench: Bench) -> None:
    """What changed between two snapshots is told, a superset, as it was at the second; an unknown mark is Untrusted."""
    here, changes = bench.platform, bench.platform.changes
    if changes is None:
        raise NotConforming("the platform has no changes; say so in what the arm lacks")
    await a_vm(bench)
    was = b"".join(bytes([n % 251 + 1]) * 4096 for n in range(SIZE // 4096))
    disk = await a_disk(bench, content=was)
    await here.hypervisor.attach("web", disk)
    one = await changes.begin("web", OWNER)
    demand(await _read(bench, one, disk, None) == was, "the first epoch has everything")
    await changes.end(one)
    now = bytearray(was)
    now[8192:8704] = b"n" * 512
    now[SIZE - 512 :] = b"e" * 512
    await bench.fill(disk, bytes(now))
    two = await changes.begin("web", OWNER)
    areas = await changes.changed(two, disk, dict(one.marks)[disk])
    demand(bool(areas) and list(areas) == sorted(areas, key=lambda area: area.offset), "areas are told in order")
    for at in (8192, SIZE - 512):
        covered = any(area.offset <= at and at + 512 <= area.offset + area.length for area in areas)
        demand(covered, f"what was written at {at} is told")
    await bench.fill(disk, bytes(SIZE))
    demand(await _read(bench, two, disk, dict(one.marks)[disk], bytes(was)) == bytes(now), "it is as at the snapshot")
    await changes.end(two)
    three = await changes.begin("web", OWNER)
    await expect(Untrusted, changes.changed(three, disk, "no-such-mark"), "a mark that means nothing")
    await changes.end(three)
    for _ in range(2):
        await changes.forget("web", OWNER)
    await changes.end(await changes.begin("web", OWNER))


async def _read(bench: Bench, epoch: Epoch, disk: DiskId, since: str | None, base: bytes = bytes(SIZE)) -> bytes:
    changes, data = bench.platform.changes, bytearray(base)
    assert changes is not None
    for area in await changes.changed(epoch, disk, since):
        part = Area(area.offset, min(area.length, SIZE - area.offset))
        if part.length > 0:
            data[part.offset : part.offset + part.length] = await changes.read(epoch, disk, part)
    return bytes(data)


# -- objects ----------------------------------------------------------------------------------------------------------


@check
async def objects(bench: Bench) -> None:
    """An object is written once, whoever asks again, and read in parts; keys come in order."""
    store = bench.platform.objects
    if store is None:
        raise NotConforming("the platform has no objects; say so in what the arm lacks")
    for key in ("suite/b", "suite/a", "other"):
        demand(await store.put(key, f"content of {key}".encode()), f"{key} was not there")
    demand(not await store.put("suite/a", b"something else"), "what is there is not written again")
    demand(await store.get("suite/a") == b"content of suite/a", "and holds what it held")
    demand(await store.get("suite/a", 8, 2) == b"of", "a part of it is read")
    demand(list(await store.keys("suite/")) == ["suite/a", "suite/b"], "keys come in order")
    await store.delete("suite/a")
    await store.delete("suite/a")
    await expect(NotFound, store.get("suite/a"), "what is deleted is not there")
    demand(list(await store.keys("suite/")) == ["suite/b"], "nor listed")
