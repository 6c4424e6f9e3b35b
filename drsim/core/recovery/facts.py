"""Facts about a VPG and its recovery site at one moment, and all reasons why a plan is refused on them.

`drsim plan` and every operation ask the same function, before anything is touched.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from drsim.core.errors import DrsimError
from drsim.core.names import CheckpointId, VmId
from drsim.core.recovery.plan import Commit, Kind, Nic, Plan, PlannedVm, Shutdown
from drsim.core.status import Lifecycle, Peer, Phase, Regions
from drsim.core.units import SECOND

ENOUGH = 1 << 62  # bytes, where nobody says how many there are
LEAST_WAIT, MOST_WAIT = 300 * SECOND, 86_400 * SECOND  # products.md 1.5


class Trial(StrEnum):
    """How far a failover test of a VPG is."""

    NONE = "none"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is there. `listed`: checkpoints, oldest first. `generation`: the VPG's.

    `memory`, `cpus`: free on each recovery host, in bytes and cores. `names`: VMs at the recovery site. `free_bytes`,
    `needed_bytes`: of the recovery datastore, and what the plan would take of it at most.
    """

    regions: Regions
    listed: tuple[CheckpointId, ...]
    generation: int
    members: frozenset[VmId]
    test: Trial = Trial.NONE
    source_reachable: bool = True
    tools: frozenset[VmId] = frozenset()
    """VMs whose guests can be asked to shut down."""
    memory: Mapping[str, int] = field(default_factory=dict)
    cpus: Mapping[str, int] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    free_bytes: int = ENOUGH
    needed_bytes: int = 0
    unfit: tuple[str, ...] = ()
    """VMs of the plan that the recovery site's platform cannot run, each with why (`core/convert.py`)."""
    lacks: tuple[str, ...] = ()
    """What the recovery site's platform, or the account there, lacks for any recovery, each with what to do."""


class Refused(DrsimError):
    """The operation cannot be; `reasons` is all of it, each with what to do."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


def refusals(plan: Plan, facts: Facts) -> tuple[str, ...]:
    """Why the plan cannot be carried out now, each with what to do; empty when it can."""
    if plan.kind is Kind.REVERSE:
        return tuple(_of_reverse(plan, facts))
    return (*_of_state(plan, facts), *_of_checkpoint(plan, facts), *_of_vms(plan, facts), *_of_options(plan, facts))


def _of_state(plan: Plan, facts: Facts) -> Iterator[str]:
    regions = facts.regions
    if regions.lifecycle is Lifecycle.DELETING:
        yield f"VPG {plan.vpg} is being deleted; nothing of it can be recovered"
    elif regions.lifecycle is Lifecycle.CREATING:
        yield f"VPG {plan.vpg} has not been protected yet; wait for its initial synchronization"
    elif regions.lifecycle is Lifecycle.RECOVERED:
        yield f"VPG {plan.vpg} has been recovered already; protect what runs now first"
    if regions.phase is not Phase.NONE:
        yield f"another operation is under way on VPG {plan.vpg} ({regions.phase.value}); end it first"
    if facts.test is Trial.RUNNING and plan.kind in (Kind.TEST, Kind.MOVE):
        yield f"a failover test of VPG {plan.vpg} is running; stop it first"
    elif facts.test in (Trial.STARTING, Trial.STOPPING):  # while it runs, a failover is allowed (T17)
        yield f"a failover test of VPG {plan.vpg} is {facts.test.value}; wait until it has"
    if plan.kind is Kind.MOVE:
        if not facts.source_reachable or regions.peer is not Peer.CONNECTED:
            yield "a move needs both sites; use a failover if the source is lost"
    elif plan.shutdown is not Shutdown.NONE and not facts.source_reachable:
        yield "the source cannot be reached to shut its VMs down; use the shutdown policy none"
    elif plan.in_place and not facts.source_reachable:
        yield "the source cannot be reached; restore the volume beside, and copy it later"


def _of_reverse(plan: Plan, facts: Facts) -> Iterator[str]:
    if facts.regions.lifecycle is not Lifecycle.RECOVERED:
        yield f"VPG {plan.vpg} has not been recovered; there is nothing to protect the other way"
    if facts.regions.phase is not Phase.NONE:
        yield f"another operation is under way on VPG {plan.vpg} ({facts.regions.phase.value}); end it first"
    if not facts.source_reachable:
        yield f"the old source of VPG {plan.vpg} cannot be reached; it has to take the data"


def _of_checkpoint(plan: Plan, facts: Facts) -> Iterator[str]:
    if not facts.listed:
        yield f"VPG {plan.vpg} has no checkpoint; there is nothing to recover from"
    elif plan.checkpoint is not None and plan.checkpoint not in facts.listed:
        span = f"{facts.listed[0]} to {facts.listed[-1]}"
        yield f"checkpoint {plan.checkpoint} is not listed any more, or never was; choose one of {span}"


def _of_vms(plan: Plan, facts: Facts) -> Iterator[str]:
    if not plan.vms and plan.kind is not Kind.RESTORE:
        yield "no VM is to be recovered; name one at least"
    for vm in plan.vms:
        if vm.vm not in facts.members:
            yield f"VM {vm.name} is not in VPG {plan.vpg}; leave it out"
        if vm.name in facts.names:
            yield f"a VM called {vm.name} exists at the recovery site; rename it, or give another name"
        yield from _of_networks(vm, facts)
    for name, count in Counter(vm.name for vm in plan.vms).items():
        if count > 1:
            yield f"{count} VMs are to be called {name}; give each a name of its own"
    yield from facts.unfit
    yield from facts.lacks
    if plan.kind not in (Kind.CLONE, Kind.RESTORE):
        yield from _of_capacity(plan, facts)
    if facts.needed_bytes > facts.free_bytes:
        short = (facts.needed_bytes - facts.free_bytes) / (1 << 30)
        yield f"the recovery datastore lacks {short:.1f} GiB; free some, or recover fewer VMs"


def _of_networks(vm: PlannedVm, facts: Facts) -> Iterator[str]:
    for nic in vm.nics or ():
        if nic.network not in facts.networks:
            known = ", ".join(sorted(facts.networks)) or "none"
            yield f"network {nic.network} of {vm.name} is not at the recovery site; map it to one of: {known}"
        yield from _of_address(vm.name, nic)


def _of_address(name: str, nic: Nic) -> Iterator[str]:
    if nic.address is None:
        return
    try:
        subnet = nic.subnet
        if nic.gateway is not None and ipaddress.ip_address(nic.gateway) not in subnet:
            yield f"gateway {nic.gateway} of {name} is outside {subnet}; correct one of them"
        for server in nic.dns:
            ipaddress.ip_address(server)
    except ValueError as error:
        yield f"an address of {name} is wrong: {error}"


def _of_capacity(plan: Plan, facts: Facts) -> Iterator[str]:
    memory, cpus = Counter[str](), Counter[str]()
    for vm in plan.vms:
        memory[vm.host] += vm.memory
        cpus[vm.host] += vm.cpus
    for host in sorted(memory):
        if host not in facts.memory:
            yield f"recovery host {host} is not there; choose another one"
            continue
        if memory[host] > facts.memory[host]:
            short = (memory[host] - facts.memory[host]) / (1 << 30)
            yield f"host {host} lacks {short:.1f} GiB of memory; choose another one, or recover fewer VMs"
        if cpus[host] > facts.cpus.get(host, cpus[host]):
            yield f"host {host} lacks {cpus[host] - facts.cpus[host]} CPUs; choose another one, or recover fewer VMs"


def _of_options(plan: Plan, facts: Facts) -> Iterator[str]:
    decides = (plan.kind in (Kind.LIVE, Kind.MOVE) or plan.in_place) and plan.commit is not Commit.NONE
    if decides and plan.wait and not LEAST_WAIT <= plan.wait <= MOST_WAIT:
        yield "the wait before the commit policy is 300 s to 86400 s, or 0 for at once"
    if plan.kind is Kind.MOVE and plan.keep_source and plan.reverse:
        yield "a move that keeps the source cannot be reversed (T27); choose one of the two"
    if len(plan.delays) > max(0, len(plan.groups) - 1):
        yield f"there are {len(plan.delays)} delays for {len(plan.groups)} boot groups; give one less than groups"
    asks = plan.shutdown is Shutdown.GRACEFUL if plan.kind is Kind.LIVE else plan.shutdown is not Shutdown.FORCE
    if plan.kind in (Kind.LIVE, Kind.MOVE) and asks:
        for vm in plan.vms:
            if facts.source_reachable and vm.vm not in facts.tools:
                yield f"VM {vm.name} has no guest tools and cannot be shut down in good order; use force (T19)"
    if plan.kind is Kind.RESTORE and plan.volume is None:
        yield "name the volume that is to be restored"
