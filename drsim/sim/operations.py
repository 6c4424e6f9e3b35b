"""Operations: what people and the platform do on a model's timeline, and who is told of it when.

    who               what                                    who hears of it
    ----------------  --------------------------------------  ----------------------------------------------------
    an operator       force sync, pause, resume               the manager, at once
    an operator       adds or removes a VM                    the manager, at once
    the platform      moves a VM (vMotion), starts it on      both VRAs, at once; the manager when the site's
                      another host when its own is lost       inventory says so (`Site.inventory_delay`)

A manager that is down is asked again a second later.
"""

from collections.abc import Callable
from functools import partial
from typing import assert_never

from drsim.core.events import PauseAsked, SyncAsked
from drsim.core.membership import Membership
from drsim.core.messages import Start
from drsim.core.names import VmId, site_of
from drsim.core.units import SECOND
from drsim.sim.connections import Connections
from drsim.sim.record import Recorder
from drsim.sim.world import World
from drsim.spec.faults import Fault, HostLoss
from drsim.spec.operations import AddVm, ForceSync, Operation, Pause, RemoveVm, Resume, VMotion

AGAIN = SECOND


class Operator:
    """Carries out a timeline of operations."""

    def __init__(self, world: World, recorder: Recorder, connections: Connections) -> None:
        self._world, self._recorder, self._connections = world, recorder, connections

    def schedule(self, operations: tuple[Operation, ...], faults: tuple[Fault, ...] = ()) -> None:
        """Put every operation on the clock, and the restarts of VMs whose host is lost."""
        for operation in operations:
            self._world.clock.call_at(operation.at, partial(self._begin, operation))
        for fault in faults:
            if isinstance(fault, HostLoss) and fault.restart is not None and fault.restart.after < fault.lasts:
                restart = partial(self._restart, fault.host, fault.restart.on)
                self._world.clock.call_at(fault.at + fault.restart.after, restart)

    def _begin(self, operation: Operation) -> None:
        world, ids = self._world, self._world.layout.vm_ids
        said = operation.model_dump(mode="json", exclude={"kind", "at"})
        self._recorder.note(world.clock.now, operation.kind, ", ".join(f"{k} {v}" for k, v in said.items()))
        match operation:
            case VMotion(vm=vm, to=to):
                self._move(ids[vm], to)
            case AddVm(vm=vm, vpg=vpg):
                self._change(vpg, partial(self._added, vpg, ids[vm]))
            case RemoveVm(vm=vm):
                self._remove(ids[vm])
            case ForceSync(vpg=vpg):
                self._ask(vpg, SyncAsked())
            case Pause(vpg=vpg):
                self._ask(vpg, PauseAsked(True))
            case Resume(vpg=vpg):
                self._ask(vpg, PauseAsked(False))
            case _:
                assert_never(operation)

    def _ask(self, vpg: str, wish: SyncAsked | PauseAsked) -> None:
        self._when_up(vpg, lambda: self._world.post(self._world.layout.vpg_of[vpg].manager, wish))

    def _when_up(self, vpg: str, do: Callable[[], None]) -> None:
        manager = self._world.layout.vpg_of[vpg].manager
        if manager not in self._world.down:
            do()
        elif site_of(manager) not in self._world.dead_sites:
            self._world.clock.call(AGAIN, lambda: self._when_up(vpg, do))

    # -- who belongs to a VPG ---------------------------------------------------------------------------------

    def _change(self, vpg: str, change: Callable[[Membership], Membership | None]) -> None:
        """A VPG consists of something else, if it does: one VM after another."""
        self._when_up(vpg, lambda: self._configure(vpg, change))

    def _configure(self, vpg: str, change: Callable[[Membership], Membership | None]) -> None:
        world = self._world
        members = change(world.layout.vpg_of[vpg].members)
        if members is None:
            return
        known = set(self._connections.all())
        world.configure(vpg, members)
        self._connections.appeared([pair for pair in self._connections.all() if pair not in known])
        told = members.configured
        assert told is not None
        world.post(world.layout.vpg_of[vpg].manager, told)

    def _added(self, vpg: str, vm: VmId, members: Membership) -> Membership | None:
        layout, host = self._world.layout, self._world.places.vra(vm)
        known = layout.vpg_of[vpg]
        volumes, limit = layout.volumes[vm], known.spec.journal.limit_bytes
        if host is None:  # as if it had been moved there
            self._recorder.note(self._world.clock.now, "add-vm", "refused: its host has no VRA")
            return None
        return members.added(vpg, volumes, host, layout.recovery_vra(known, vm), limit, Start.INITIAL)

    def _remove(self, vm: VmId) -> None:
        vpg = self._world.places.vpg_of(vm)
        if vpg is None:
            return

        def without(members: Membership) -> Membership:
            return members.removed(vm)

        def remove() -> None:
            self._configure(vpg, without)
            self._world.places.removed(vm, vpg)

        self._when_up(vpg, remove)

    # -- where VMs run ----------------------------------------------------------------------------------------

    def _move(self, vm: VmId, host: str) -> None:
        world = self._world
        spec = world.model.hosts[host]
        if spec.site in world.dead_sites or world.places.hosts[vm] == host:
            return
        world.places.move(vm, host)
        world.clock.call(world.model.sites[spec.site].inventory_delay, lambda: self._relocate(vm))

    def _restart(self, host: str, on: str) -> None:
        """The VMs of a lost host start on another one."""
        places = self._world.places
        for vm in [vm for vm, where in places.hosts.items() if where == host]:
            self._move(vm, on)

    def _relocate(self, vm: VmId) -> None:
        """The manager learns where a VM runs, if it is one of its own and elsewhere than it thought."""
        vpg = self._world.places.vpg_of(vm)
        if vpg is not None:
            self._change(vpg, partial(self._relocated, vpg, vm))

    def _relocated(self, vpg: str, vm: VmId, members: Membership) -> Membership | None:
        layout, places = self._world.layout, self._world.places
        where = {v.vm: spec.id.source for spec in members.streams for v in spec.volumes}
        hosts = {each: places.vra(each) if each == vm else where.get(each) for each in members.vms}
        return members.relocated(hosts, layout.volumes, layout.vpg_of[vpg].spec.journal.limit_bytes)
