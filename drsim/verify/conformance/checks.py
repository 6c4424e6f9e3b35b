"""Checks of a platform's ports: promises of `drsim/real/ports.py`, one check each, on a fresh bench.

A check raises NotConforming, in words. Those of trouble and of changes are in `trouble.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from drsim.core.errors import PlatformError
from drsim.core.recovery.plan import Nic
from drsim.real.ports import Change, DiskId, Gone, HostChanged, LoginRefused, Moved, NewVm, NotFound, Power, Taken
from drsim.verify.conformance.bench import Bench
from drsim.verify.conformance.boot import speaking
from drsim.verify.conformance.claims import (
    CHECKS,
    MEMORY,
    OTHER,
    OWNER,
    PATIENCE,
    SIZE,
    NotConforming,
    a_disk,
    a_vm,
    check,
    demand,
    expect,
    facts,
    left_behind,
)  # fmt: skip
from drsim.verify.conformance.trouble import NEEDS

__all__ = ["CHECKS", "NEEDS"]
TRIES = 6


# -- looking ----------------------------------------------------------------------------------------------------------


@check
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


@check
async def login_refused(bench: Bench) -> None:
    """A wrong password is refused with words, and without the password."""
    try:
        await bench.refused()
    except LoginRefused as error:
        demand("wrong-secret" not in str(error), "no secret is in the error")
    else:
        raise NotConforming("a wrong password is accepted")


# -- VMs --------------------------------------------------------------------------------------------------------------


@check
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


@check
async def create_again(bench: Bench) -> None:
    """Asked again by its owner, nothing is made twice; asked by another one, it is Taken and stays as it was."""
    await a_vm(bench)
    await a_vm(bench)
    demand(len(await bench.platform.inventory.vms(OWNER)) == 1, "there is one VM")
    await expect(Taken, a_vm(bench, owner=OTHER), "the name is taken")
    await expect(Taken, a_vm(bench, name=bench.platform.appliance), "the appliance's name is taken")
    await bench.platform.hypervisor.delete("web", OTHER)
    demand((await facts(bench)).owner == OWNER, "nobody else deletes it")


@check
async def unknown_host(bench: Bench) -> None:
    """A host or datastore that is not there is named, and nothing is made."""
    await expect(NotFound, a_vm(bench, host="no-such-host"), "a host that is not there")
    vm = NewVm("web", OWNER, bench.host, "no-such-store", cpus=1, memory=MEMORY)
    await expect(NotFound, bench.platform.hypervisor.create(vm), "a datastore that is not there")
    demand(not await left_behind(bench, OWNER), "nothing was made")


@check
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


@asynccontextmanager
async def _listening(bench: Bench) -> AsyncIterator[asyncio.Queue[Change]]:
    """What the platform tells, while somebody listens."""
    told: asyncio.Queue[Change] = asyncio.Queue()

    async def listen() -> None:
        async for change in bench.platform.inventory.changes():
            told.put_nowait(change)

    listener = asyncio.create_task(listen())
    try:
        await asyncio.sleep(0.05)
        yield told
    finally:
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener


async def _hears(told: asyncio.Queue[Change], wanted: Change, seconds: float) -> bool:
    """Whether this is told in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await told.get() != wanted:
                pass
            return True
    return False


@check
async def vm_moved(bench: Bench) -> None:
    """A VM that somebody moves is told, and where it is now (vMotion); one that goes is told, too."""
    await a_vm(bench)
    await bench.platform.hypervisor.set_networks("web", [Nic(bench.network)])
    async with _listening(bench) as told:
        for n in range(TRIES):  # who listens has to have seen where it was
            host = (bench.other_host, bench.host)[n % 2]
            await bench.move_vm("web", host)
            if await _hears(told, Moved("web", host), PATIENCE / 20):
                break
        else:
            raise NotConforming("nobody was told that a VM has moved")
        demand((await facts(bench)).host == host, f"it is on {host}: {await facts(bench)}")
        await bench.platform.hypervisor.delete("web", OWNER)
        demand(await _hears(told, Gone("web"), PATIENCE), "somebody is told that a VM has gone")


@check
async def host_gone(bench: Bench) -> None:
    """A host that is lost is told and takes no VM; the other one does."""
    async with _listening(bench) as told:
        await bench.lose_host(bench.host)
        demand(
            await _hears(told, HostChanged(bench.host, usable=False), PATIENCE), "somebody is told that a host is lost"
        )
    hosts = {host.name: host for host in await bench.platform.inventory.hosts()}
    demand(not hosts[bench.host].usable and hosts[bench.other_host].usable, "the other host is usable")
    await expect(PlatformError, a_vm(bench), "a lost host takes no VM")
    await a_vm(bench, host=bench.other_host)


# -- disks ------------------------------------------------------------------------------------------------------------


@check
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


@check
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


@check
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


@check
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


@check
async def unknown_network(bench: Bench) -> None:
    """A network that is not there is named; a test network is another one than production."""
    await a_vm(bench)
    await expect(
        NotFound, bench.platform.hypervisor.set_networks("web", [Nic("no-such-network")]), "an unknown network"
    )
    await bench.platform.hypervisor.set_networks("web", [Nic(bench.test_network)])
    demand((await facts(bench)).networks == (bench.test_network,), "it is in the test network")
