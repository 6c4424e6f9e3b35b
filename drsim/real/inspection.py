"""Inspection: everything at a live site that could refuse a plan, looked at before anything is touched."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drsim.core import convert
from drsim.core.errors import DrsimError
from drsim.core.names import Address, VmId
from drsim.core.recovery.facts import ENOUGH, Facts, Trial
from drsim.core.recovery.plan import Kind, Plan
from drsim.core.status import Lifecycle, Peer, Phase, Regions
from drsim.core.units import SECTOR
from drsim.real.desk import LookAtSource
from drsim.real.platforms import outdated

if TYPE_CHECKING:
    from drsim.real.elsewhere import Elsewhere
    from drsim.real.installation import Installation

NOBODY = Address("")


async def inspect(site: "Installation", plan: Plan, operation: Address = NOBODY) -> Facts:
    """What could refuse a plan. `operation`: whose own VMs do not count."""
    if plan.vpg in site.state.state.turning:
        return _half_way(site, plan)
    known = site.known(plan.vpg)
    reachable, tools = site.site.end is not None and site.site.end.connected, frozenset[VmId]()
    if reachable:
        with suppress(DrsimError):
            tools = frozenset(VmId(vm) for vm in (await site.desk.ask(LookAtSource(vpg=plan.vpg))).vms)
    running = site.recoveries.running
    others = [m for n, m in running.items() if site.recoveries.address(n) != operation and m.plan.vpg == plan.vpg]
    lifecycle = Lifecycle.DELETING if known.deleting is not None else Lifecycle.PROTECTING
    phases = [m.phase for m in others if m.phase is not Phase.NONE]
    regions = Regions(
        lifecycle=Lifecycle.RECOVERED if known.recovered else lifecycle, phase=phases[0] if phases else Phase.NONE,
        peer=Peer.CONNECTED if reachable else Peer.DISCONNECTED,
    )  # fmt: skip
    tests = [m for m in others if m.plan.kind is Kind.TEST]
    trial = Trial.NONE if not tests else Trial.RUNNING if tests[0].waiting else Trial.STARTING
    room = (
        _here(site, operation) if site.elsewhere is None else await _elsewhere(site.elsewhere, _kind(site), operation)
    )
    whole = plan.kind in (Kind.CLONE, Kind.RESTORE) or site.elsewhere is not None
    sizes = {v.id: v.sectors * SECTOR for vm in known.vpg.vms for v in vm.volumes}
    needed = sum(sizes[v] for vm in plan.vms for v in vm.volumes) if whole else 0
    return Facts(
        regions, tuple(c.id for c in site.listed(plan.vpg)), known.generation,
        frozenset(VmId(vm.id) for vm in known.vpg.vms), trial, reachable, tools, room.memory, room.cpus, room.names,
        room.networks, room.free, needed, _unfit(site, plan), room.lacks,
    )  # fmt: skip


def _kind(site: "Installation") -> str:
    return "local" if site.spec.platform is None else site.spec.platform.kind


def _unfit(site: "Installation", plan: Plan) -> tuple[str, ...]:
    """Which VMs cannot run on the site's platform."""
    kind = _kind(site)
    protected = {VmId(vm.id): vm for vm in site.known(plan.vpg).vpg.vms}
    machines = [
        convert.Machine(
            vm.name, kind, tuple(v.sectors * SECTOR for v in protected[vm.vm].volumes), len(vm.networks), vm.cpus,
            vm.memory, protected[vm.vm].firmware, protected[vm.vm].secure_boot, protected[vm.vm].system,
            any(nic.address for nic in vm.nics or ()),
        )
        for vm in plan.vms if vm.vm in protected
    ]  # fmt: skip
    return tuple(
        f"{each.vm} cannot be recovered on {kind}: {each.what}; {each.hint or 'leave it out'}"
        for machine in machines for each in convert.check(machine, kind) if each.weight is convert.Weight.STOPS
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Room:
    """What there is for recovered VMs: of each host, names that others have, networks, bytes of the datastore.

    `lacks`: see Facts.
    """

    memory: dict[str, int]
    cpus: dict[str, int]
    names: frozenset[str]
    networks: frozenset[str]
    free: int
    lacks: tuple[str, ...] = ()


def _here(site: "Installation", operation: Address) -> _Room:
    vms = site.hypervisor.vms()
    used = sum(vm.memory for name, vm in vms.items() if site.hypervisor.pid(name) is not None)
    return _Room(
        {name: max(0, host.memory - used) for name, host in site.spec.hosts.items()},
        {name: host.cpus for name, host in site.spec.hosts.items()},
        frozenset(name for name, vm in vms.items() if vm.owner != operation), frozenset(site.spec.networks),
        shutil.disk_usage(site.folder).free,
    )  # fmt: skip


async def _elsewhere(elsewhere: "Elsewhere", kind: str, operation: Address) -> _Room:
    here, name = elsewhere.platform.inventory, elsewhere.platform.name
    about = await here.about()
    lacks = [f"the account at {name} lacks {right}; grant it, as the platform's guide says" for right in about.missing]
    if wanted := outdated(kind, about.version):
        lacks.append(f"{name} is {about.version}; update it to {wanted} or later")
    hosts = [host for host in await here.hosts() if host.usable]
    stores = {store.name: store.free for store in await here.stores()}
    if elsewhere.store not in stores:
        there = ", ".join(sorted(stores)) or "none"
        lacks.append(f"datastore {elsewhere.store} is not at {name}; bring it back, or name another one of: {there}")
    return _Room(
        {host.name: host.memory for host in hosts}, {host.name: host.cpus for host in hosts},
        frozenset(vm.name for vm in await here.vms() if vm.owner != operation), frozenset(await here.networks()),
        stores.get(elsewhere.store, ENOUGH), tuple(lacks),
    )  # fmt: skip


def _half_way(site: "Installation", plan: Plan) -> Facts:
    """Of a VPG that is neither this way nor the other: it can only be brought to the end."""
    reachable = site.site.end is not None and site.site.end.connected
    busy = [m.phase for m in site.recoveries.running.values() if m.plan.vpg == plan.vpg and m.phase is not Phase.NONE]
    regions = Regions(lifecycle=Lifecycle.RECOVERED, phase=busy[0] if busy else Phase.NONE)
    generation = site.state.state.turning[plan.vpg].generation
    return Facts(regions, (), generation, frozenset(), source_reachable=reachable)
