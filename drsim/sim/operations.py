"""Operations: what people and the platform do on a model's timeline, and who is told of it when.

    who               what                                    who hears of it
    ----------------  --------------------------------------  ----------------------------------------------------
    an operator       force sync, pause, resume               the manager, at once
    an operator       adds or removes a VM, changes its       the manager, at once
                      recovery host or a journal, deletes
                      a VPG
    the platform      moves a VM (vMotion), starts it on      both VRAs, at once; its managers when the site's
                      another host when its own is lost       inventory says so (`Site.inventory_delay`)
    the platform      adds, grows, removes a disk             its managers, when the inventory says so
    the platform      detaches, removes, attaches a disk      the VRA, at once

A manager that is down is asked again a second later.
"""

from collections.abc import Callable
from functools import partial
from typing import assert_never

from drsim.core.events import DeleteAsked, PauseAsked, SyncAsked
from drsim.core.membership import Membership
from drsim.core.messages import Start
from drsim.core.names import VmId, site_of
from drsim.core.units import SECOND
from drsim.sim.connections import Connections
from drsim.sim.layout import retention
from drsim.sim.record import Recorder
from drsim.sim.world import World
from drsim.spec.faults import Fault, HostLoss
from drsim.spec.operations import (
    RECOVERIES,
    AddVm,
    AddVolume,
    AttachVolume,
    ChangeJournal,
    Clone,
    DeleteVpg,
    DetachVolume,
    Failover,
    FailoverTest,
    ForceSync,
    GrowVolume,
    Move,
    Operation,
    Pause,
    RecoveryOperation,
    RemoveVm,
    RemoveVolume,
    Restore,
    Resume,
    Retarget,
    VMotion,
)  # fmt: skip
from drsim.spec.protect import Vpg
from drsim.spec.timeline import changed

AGAIN = SECOND


class Operator:
    """Carries out a timeline of operations."""

    def __init__(self, world: World, recorder: Recorder, connections: Connections) -> None:
        self._world, self._recorder, self._connections = world, recorder, connections

    def schedule(self, operations: tuple[Operation, ...], faults: tuple[Fault, ...] = ()) -> None:
        """Put every operation on the clock, and the restarts of VMs whose host is lost."""
        for operation in operations:
            later = operation.detect + operation.decide if isinstance(operation, RECOVERIES) else 0
            self._world.clock.call_at(operation.at + later, partial(self._begin, operation))
        for fault in faults:
            if isinstance(fault, HostLoss) and fault.restart is not None and fault.restart.after < fault.lasts:
                restart = partial(self._restart, fault.host, fault.restart.on)
                self._world.clock.call_at(fault.at + fault.restart.after, restart)

    def _begin(self, operation: Operation) -> None:
        world, ids = self._world, self._world.layout.vm_ids
        said = operation.model_dump(mode="json", exclude={"kind", "at"}, exclude_defaults=True)
        self._recorder.note(world.clock.now, operation.kind, ", ".join(f"{k} {v}" for k, v in said.items()))
        match operation:
            case VMotion(vm=vm, to=to):
                self._move(ids[vm], to)
            case AddVm(vm=vm, vpg=vpg):
                self._change(vpg, partial(self._added, vpg, ids[vm]))
            case RemoveVm(vm=vm, vpg=vpg):
                self._remove(ids[vm], vpg)
            case Failover() | FailoverTest() | Move() | Clone() | Restore():
                self._recover(operation)
            case AddVolume() | GrowVolume() | RemoveVolume():
                self._reshape(operation)
            case DetachVolume(vm=vm, volume=name):
                world.places.lose(world.layout.volume(ids[vm], name))
            case AttachVolume(vm=vm, volume=name):
                world.places.find(world.layout.volume(ids[vm], name))
            case ChangeJournal(vpg=vpg):
                self._when_up(vpg, partial(self._keep, operation))
            case Retarget(vm=vm, vpg=named, to=to):
                self._retarget(ids[vm], named, to)
            case DeleteVpg(vpg=vpg, keep_disks=keep):
                self._when_up(vpg, partial(self._delete, vpg, keep_disks=keep))
            case ForceSync(vpg=vpg, vms=vms, full=full):
                volumes = tuple(volume.id for vm in vms for volume in world.layout.volumes(ids[vm]))
                self._ask(vpg, SyncAsked(full, volumes))
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

        def do() -> None:
            known = self._world.layout.vpg_of[vpg]
            members = change(known.members) if known.deleting is None else None
            if members is not None:
                self._configure(vpg, members)

        self._when_up(vpg, do)

    def _configure(self, vpg: str, members: Membership, spec: Vpg | None = None) -> None:
        world = self._world
        known = set(self._connections.all())
        world.configure(vpg, members, spec)
        self._connections.appeared([pair for pair in self._connections.all() if pair not in known])
        told = members.configured
        assert told is not None
        world.post(world.layout.vpg_of[vpg].manager, told)

    def _added(self, vpg: str, vm: VmId, members: Membership) -> Membership | None:
        layout, host = self._world.layout, self._world.places.vra(vm)
        known = layout.vpg_of[vpg]
        volumes, limit = layout.volumes(vm), known.spec.journal.limit_bytes
        if host is None:  # as if it had been moved there
            self._recorder.note(self._world.clock.now, "add-vm", "refused: its host has no VRA")
            return None
        return members.added(vpg, volumes, host, layout.recovery_vra(known, vm), limit, Start.INITIAL)

    def _one_of(self, vm: VmId, named: str | None) -> str | None:
        """The VPG of a VM that is meant, if it is in it."""
        return next((vpg for vpg in self._world.places.vpgs_of(vm) if named in (None, vpg)), None)

    def _remove(self, vm: VmId, named: str | None) -> None:
        vpg = self._one_of(vm, named)
        if vpg is None:
            return

        def remove() -> None:
            self._configure(vpg, self._world.layout.vpg_of[vpg].members.removed(vm))
            self._world.places.removed(vm, vpg)

        self._when_up(vpg, remove)

    def _delete(self, vpg: str, *, keep_disks: bool) -> None:
        world = self._world
        world.layout.delete(vpg, keep_disks=keep_disks)
        self._recorder.deleted(world.clock.now, vpg)
        world.post(world.layout.vpg_of[vpg].manager, DeleteAsked(keep_disks))

    def _recover(self, operation: RecoveryOperation) -> None:
        """At the recovery site, when its manager is up."""
        catalog = self._world.layout.vpg_of[operation.vpg].catalog
        if catalog not in self._world.down:
            self._world.recoveries.begin(operation)
        elif site_of(catalog) not in self._world.dead_sites:
            self._world.clock.call(AGAIN, lambda: self._recover(operation))

    # -- disks and journals -----------------------------------------------------------------------------------

    def _reshape(self, operation: AddVolume | GrowVolume | RemoveVolume) -> None:
        """A VM has other disks; its managers learn of it."""
        world = self._world
        layout, vm = world.layout, world.layout.vm_ids[operation.vm]
        if isinstance(operation, RemoveVolume):
            world.places.lose(layout.remove(vm, operation.volume))
        else:
            layout.size(vm, operation.volume, operation.size)
        world.places.reshaped(vm)

        def reshaped(members: Membership) -> Membership | None:
            now = members.reshaped(vm, layout.volumes(vm))
            return None if now.streams == members.streams else now

        def learn() -> None:
            for vpg in world.places.vpgs_of(vm):
                self._change(vpg, reshaped)

        world.clock.call(world.model.sites[world.model.site_of(layout.vm(vm))].inventory_delay, learn)

    def _keep(self, operation: ChangeJournal) -> None:
        known = self._world.layout.vpg_of[operation.vpg]
        if known.deleting is None:
            journal = changed(known.spec.journal, operation)
            spec = known.spec.model_copy(update={"journal": journal})
            self._configure(known.name, known.members.keeping(retention(journal), journal.limit_bytes), spec)
            self._recorder.promised(self._world.layout.vpg_of[known.name])

    def _retarget(self, vm: VmId, named: str | None, to: str) -> None:
        layout, vpg = self._world.layout, self._one_of(vm, named)
        if vpg is not None:
            limit = layout.vpg_of[vpg].spec.journal.limit_bytes
            target = layout.vras(to)[1]
            self._change(vpg, lambda members: members.retargeted(vm, layout.volumes(vm), target, limit))

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
        """The managers learn where a VM runs, if it is one of their own and elsewhere than they thought."""
        for vpg in self._world.places.vpgs_of(vm):
            self._change(vpg, partial(self._relocated, vpg, vm))

    def _relocated(self, vpg: str, vm: VmId, members: Membership) -> Membership | None:
        layout, places = self._world.layout, self._world.places
        where = {v.vm: spec.id.source for spec in members.streams for v in spec.volumes}
        hosts = {each: places.vra(each) if each == vm else where.get(each) for each in members.vms}
        volumes = {each: layout.volumes(each) for each in members.vms}
        return members.relocated(hosts, volumes, layout.vpg_of[vpg].spec.journal.limit_bytes)
