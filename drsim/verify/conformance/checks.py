"""Checks of a platform's ports: every promise of `drsim/real/ports.py`, one check each, on a fresh bench.

A check raises NotConforming, in words. What a check needs to exist it makes itself, and all of it under owners of the
suite, so that on a real platform nothing else is touched and `left_behind` finds what was forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from drsim.core.errors import DrsimError, PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import (
    Area,
    DiskId,
    Epoch,
    HostChanged,
    LoginRefused,
    NewVm,
    NotFound,
    Power,
    Taken,
    Unavailable,
    Untrusted,
    VmFacts,
)  # fmt: skip
from drsim.verify.conformance.bench import Bench, Trouble
from drsim.verify.conformance.boot import speaking

OWNER, OTHER = "suite/operation/1", "suite/operation/2"
MEMORY, SIZE = 512 << 20, 1 << 20
"""Bytes of a VM and of a disk; a platform may give more."""
PATIENCE = 60.0
"""Seconds for what a platform tells by itself."""
Check = Callable[[Bench], Awaitable[None]]
CHECKS: dict[str, Check] = {}
"""All checks of the ports, by name, in order."""
NEEDS = {"epochs": "changes", "objects": "objects"}
"""Checks that say nothing of platforms that lack a port."""


class NotConforming(DrsimError):
    """A platform breaks a promise of its ports."""


def _check(work: Check) -> Check:
    CHECKS[work.__name__] = work
    return work


def demand(holds: bool, otherwise: str) -> None:
    """Raises NotConforming."""
    if not holds:
        raise NotConforming(otherwise)


async def expect(kind: type[PlatformError], work: Awaitable[object], otherwise: str) -> None:
    """Work that has to fail in this way. Raises NotConforming when it does not."""
    try:
        await work
    except kind:
        return
    except PlatformError as error:
        raise NotConforming(f"{otherwise}: {type(error).__name__}, not {kind.__name__}: {error.message}") from error
    raise NotConforming(otherwise)


async def a_vm(bench: Bench, name: str = "web", owner: str = OWNER, host: str = "") -> None:
    """Make one."""
    await bench.platform.hypervisor.create(
        NewVm(name, owner, host or bench.host, bench.store, cpus=1, memory=MEMORY, ready="")
    )


async def a_disk(bench: Bench, name: str = "drsim-web-000001", owner: str = OWNER, content: bytes = b"") -> DiskId:
    """Make one, and lay something out on it through the appliance."""
    here = bench.platform
    disk = await here.disks.create(name, SIZE, bench.store, owner)
    if content:
        await here.hypervisor.attach(here.appliance, disk)
        (await here.locator.locate(here.appliance, disk)).open("r+b").close()
        await bench.fill(disk, content)
        await here.hypervisor.detach(here.appliance, disk)
    return disk


async def facts(bench: Bench, name: str = "web") -> VmFacts:
    """What there is of a VM."""
    return await bench.platform.inventory.vm(name)


async def left_behind(bench: Bench, *owners: str) -> str:
    """VMs and disks that owners have, in words; empty: none."""
    here, found = bench.platform, []
    for owner in owners:
        found += [f"VM {vm.name} of {owner}" for vm in await here.inventory.vms(owner)]
        found += [f"disk {disk.name} of {owner}" for disk in await here.disks.owned(owner)]
    return ", ".join(found)


# -- looking ----------------------------------------------------------------------------------------------------------


@_check
async def inventory(bench: Bench) -> None:
    """Product, version, clock, hosts with room, the datastore, the networks, the appliance."""
    here = bench.platform.inventory
    about = await here.about()
    demand(bool(about.product and about.version), "a product and its version are named")
    demand(about.clock > 0, "the platform's clock is read")
    hosts = {host.name: host for host in await here.hosts()}
    for name in (bench.host, bench.other_host):
        demand(name in hosts, f"host {name} is listed")
        demand(hosts[name].usable and hosts[name].memory > 0 and hosts[name].cpus > 0, f"host {name} has room")
    stores = {store.name: store for store in await here.stores()}
    demand(bench.store in stores, "the datastore is listed")
    demand(0 < stores[bench.store].free <= stores[bench.store].capacity, "its free space lies within its capacity")
    networks = await here.networks()
    demand({bench.network, bench.test_network} <= set(networks), "both networks are listed")
    appliance = await here.vm(bench.platform.appliance)
    demand(appliance.power is Power.ON, "the appliance runs")
    await expect(NotFound, here.vm("nobody"), "a VM that is not there is NotFound")


@_check
async def login_refused(bench: Bench) -> None:
    """A wrong password is refused with words, and without the password."""
    try:
        await bench.refused()
    except LoginRefused as error:
        demand("wrong-secret" not in str(error), "no secret is in the error")
    else:
        raise NotConforming("a wrong password is accepted")


# -- VMs --------------------------------------------------------------------------------------------------------------


@_check
async def create_and_delete(bench: Bench) -> None:
    """A VM is what it was asked to be, belongs to its owner, and goes."""
    await a_vm(bench)
    vm = await facts(bench)
    demand(vm.owner == OWNER and vm.power is Power.OFF, f"it is off and its owner's: {vm}")
    demand(vm.cpus >= 1 and vm.memory >= MEMORY, f"it has its cores and memory: {vm}")
    demand(vm.host == bench.host, f"it is on its host: {vm}")
    demand([each.name for each in await bench.platform.inventory.vms(OWNER)] == ["web"], "it is found by its owner")
    demand(not await bench.platform.inventory.vms(OTHER), "nobody else has it")
    await bench.platform.hypervisor.delete("web", OWNER)
    await expect(NotFound, facts(bench), "it is gone")
    await bench.platform.hypervisor.delete("web", OWNER)


@_check
async def create_again(bench: Bench) -> None:
    """Asked again by its owner, nothing is made twice; asked by another one, it is Taken and stays as it was."""
    await a_vm(bench)
    await a_vm(bench)
    demand(len(await bench.platform.inventory.vms(OWNER)) == 1, "there is one VM")
    await expect(Taken, a_vm(bench, owner=OTHER), "the name is taken")
    await expect(Taken, a_vm(bench, name=bench.platform.appliance), "the appliance's name is taken")
    await bench.platform.hypervisor.delete("web", OTHER)
    demand((await facts(bench)).owner == OWNER, "nobody else deletes it")


@_check
async def unknown_host(bench: Bench) -> None:
    """A host or datastore that is not there is named, and nothing is made."""
    await expect(NotFound, a_vm(bench, host="no-such-host"), "a host that is not there")
    vm = NewVm("web", OWNER, bench.host, "no-such-store", cpus=1, memory=MEMORY)
    await expect(NotFound, bench.platform.hypervisor.create(vm), "a datastore that is not there")
    demand(not await left_behind(bench, OWNER), "nothing was made")


@_check
async def power(bench: Bench) -> None:
    """On and off, asked twice each; a VM that is not there is NotFound."""
    here = bench.platform.hypervisor
    await a_vm(bench)
    await here.attach("web", await a_disk(bench, content=speaking("up", SIZE)))
    for _ in range(2):
        await here.power_on("web")
        demand((await facts(bench)).power is Power.ON, "it runs")
    await here.wait("web", PATIENCE)
    for _ in range(2):
        await here.power_off("web")
        demand((await facts(bench)).power is Power.OFF, "it does not")
    demand(await here.shut_down("web", 1), "one that is off has shut down")
    await expect(NotFound, here.power_on("nobody"), "a VM that is not there")
    await here.power_on("web")
    await here.delete("web", OWNER)
    await expect(NotFound, facts(bench), "one that runs is deleted as well")


@_check
async def host_gone(bench: Bench) -> None:
    """A host that is lost is told and takes no VM; the other one does."""
    told: asyncio.Queue[object] = asyncio.Queue()

    async def listen() -> None:
        async for change in bench.platform.inventory.changes():
            told.put_nowait(change)

    listener = asyncio.create_task(listen())
    try:
        await asyncio.sleep(0.05)
        await bench.lose_host(bench.host)
        async with asyncio.timeout(PATIENCE):
            while (change := await told.get()) != HostChanged(bench.host, usable=False):
                demand(change is not None, "changes are told")
    except TimeoutError:
        raise NotConforming("nobody was told that a host is lost") from None
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
    hosts = {host.name: host for host in await bench.platform.inventory.hosts()}
    demand(not hosts[bench.host].usable and hosts[bench.other_host].usable, "the other host is usable")
    await expect(PlatformError, a_vm(bench), "a lost host takes no VM")
    await a_vm(bench, host=bench.other_host)


# -- disks ------------------------------------------------------------------------------------------------------------


@_check
async def disks(bench: Bench) -> None:
    """A disk is as large as asked, is found by its owner and by name, and goes when its owner says so."""
    here = bench.platform.disks
    disk = await here.create("one", SIZE, bench.store, OWNER)
    demand(await here.create("one", SIZE, bench.store, OWNER) == disk, "asked again, it is the same disk")
    found = await here.disk(disk)
    demand((found.name, found.owner, found.attached) == ("one", OWNER, ""), f"it says whose it is: {found}")
    demand(found.size >= SIZE, f"it has its size: {found}")
    other = await here.create("one", SIZE, bench.store, OTHER)
    demand(other != disk, "another owner's is another one")
    demand([each.id for each in await here.owned(OWNER)] == [disk], "an owner's disks are found")
    await here.delete(disk, OTHER)
    demand((await here.disk(disk)).id == disk, "nobody else deletes it")
    for _ in range(2):
        await here.delete(disk, OWNER)
    await expect(NotFound, here.disk(disk), "it is gone")
    await expect(NotFound, here.create("one", SIZE, "no-such-store", OWNER), "a datastore that is not there")


@_check
async def attach_and_detach(bench: Bench) -> None:
    """In order, once, to one VM; deleting a VM leaves its disks; a disk that is attached is not deleted."""
    here = bench.platform
    await a_vm(bench)
    await a_vm(bench, "app")
    first, second = await a_disk(bench, "one"), await a_disk(bench, "two")
    for disk in (first, second, first):
        await here.hypervisor.attach("web", disk)
    demand((await facts(bench)).disks == (first, second), "they are attached in order, once")
    demand((await here.disks.disk(first)).attached == "web", "a disk says to whom it is attached")
    await expect(Taken, here.hypervisor.attach("app", first), "a disk of another VM is Taken")
    await expect(Taken, here.disks.delete(first, OWNER), "a disk that is attached is Taken")
    demand((await facts(bench)).disks == (first, second), "and is left where it is")
    for _ in range(2):
        await here.hypervisor.detach("web", first)
    demand((await facts(bench)).disks == (second,), "the other one stays")
    await here.hypervisor.detach("nobody", first)
    await here.hypervisor.attach("app", first)
    await here.hypervisor.delete("web", OWNER)
    await here.hypervisor.delete("app", OWNER)
    demand({disk.id for disk in await here.disks.owned(OWNER)} == {first, second}, "disks outlive their VM")
    demand(not (await here.disks.disk(first)).attached, "and are attached to nobody")
    await a_vm(bench)
    await expect(NotFound, here.hypervisor.attach("web", DiskId("no-such-disk")), "a disk that is not there")


@_check
async def appliance(bench: Bench) -> None:
    """A disk is attached to the running appliance, found there, written, and taken to another VM with its content."""
    here, said = bench.platform, speaking("written by the appliance", SIZE)
    disk = await here.disks.create("one", SIZE, bench.store, OWNER)
    await expect(NotFound, here.locator.locate(here.appliance, disk), "a disk that is not attached is not located")
    await here.hypervisor.attach(here.appliance, disk)
    path = await here.locator.locate(here.appliance, disk)
    demand(path.exists(), f"it is at {path}")
    await bench.fill(disk, said)
    await here.hypervisor.detach(here.appliance, disk)
    demand(await bench.content(disk, SIZE) == said, "it holds what was written")
    await a_vm(bench)
    await here.hypervisor.attach("web", disk)
    await here.hypervisor.power_on("web")
    text = await bench.booted("web")
    demand(text == "written by the appliance", f"it boots, and prints {text!r}")


# -- networks ---------------------------------------------------------------------------------------------------------


@_check
async def re_ip(bench: Bench) -> None:
    """A VM gets its network and address before it starts, and asking again changes nothing."""
    here, nics = bench.platform, [Nic(bench.network, bench.address, bench.mask)]
    await a_vm(bench)
    await here.hypervisor.attach("web", await a_disk(bench, content=speaking("up", SIZE)))
    for _ in range(2):
        await here.hypervisor.set_networks("web", nics)
    demand((await facts(bench)).networks == (bench.network,), "it is in its network, once")
    await here.hypervisor.power_on("web")
    await here.hypervisor.wait("web", PATIENCE)
    demand(bench.address in (await facts(bench)).addresses, f"it has its address: {await facts(bench)}")


@_check
async def unknown_network(bench: Bench) -> None:
    """A network that is not there is named; a test network is another one than production."""
    await a_vm(bench)
    await expect(
        NotFound, bench.platform.hypervisor.set_networks("web", [Nic("no-such-network")]), "an unknown network"
    )
    await bench.platform.hypervisor.set_networks("web", [Nic(bench.test_network)])
    demand((await facts(bench)).networks == (bench.test_network,), "it is in the test network")


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


async def _troubled(bench: Bench, trouble: Trouble) -> None:
    before = bench.changes()
    await make(bench)
    calls = bench.changes() - before
    await unmake(bench)
    back = bench.changes() - before - calls
    for skip in range(calls):
        bench.trouble(trouble, 1, skip)
        await make(bench)
        await made_once(bench, f"trouble at change {skip + 1} of {calls}")
        bench.trouble(trouble, 1, skip % back)
        await unmake(bench)
        demand(not (left := await left_behind(bench, OWNER)), f"trouble at the way back leaves {left}")
    bench.trouble(trouble, 0)


@_check
async def lost_answer(bench: Bench) -> None:
    """Whichever answer is lost, what was asked for is there once."""
    await _troubled(bench, Trouble.LOST_ANSWER)


@_check
async def connection_broken(bench: Bench) -> None:
    """Whichever call is not carried out, it is asked for again."""
    await _troubled(bench, Trouble.NOT_DONE)


@_check
async def throttled(bench: Bench) -> None:
    """Refused as too many, whichever call, it waits and asks again."""
    await _troubled(bench, Trouble.THROTTLED)


@_check
async def session_expired(bench: Bench) -> None:
    """Whenever the session expires, the adapter logs in again."""
    await _troubled(bench, Trouble.EXPIRED)


@_check
async def slow(bench: Bench) -> None:
    """Calls that take a while are waited for."""
    bench.trouble(Trouble.SLOW, 3)
    await make(bench)
    await made_once(bench, "slow calls")


@_check
async def given_up(bench: Bench) -> None:
    """A platform that says "not now" for ever is Unavailable in the end, and nothing is half said."""
    bench.trouble(Trouble.THROTTLED, 1_000_000)
    await expect(Unavailable, a_vm(bench), "for ever throttled")
    bench.trouble(Trouble.THROTTLED, 0)
    await make(bench)
    await made_once(bench, "after that")


@_check
async def manager_killed(bench: Bench) -> None:
    """A manager that dies after any change and starts anew, finds what it made; nothing is doubled."""
    before = bench.changes()
    await make(bench)
    calls = bench.changes() - before
    await unmake(bench)
    for skip in range(calls):
        bench.trouble(Trouble.NOT_DONE, 1_000_000, skip)
        await expect(PlatformError, make(bench), "it does not get further")
        bench.trouble(Trouble.NOT_DONE, 0)
        await bench.restart()
        await make(bench)
        await made_once(bench, f"killed before change {skip + 1} of {calls}")
        await unmake(bench)
    demand(not (left := await left_behind(bench, OWNER)), f"left behind: {left}")


# -- changes ----------------------------------------------------------------------------------------------------------


@_check
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


@_check
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
