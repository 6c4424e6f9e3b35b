"""Placement: on which hosts VMs run, and which tap has their writes.

Theory of operation. A VM's writes do not depend on who taps them: a VM that changes its tap takes along what was drawn
ahead and is not issued yet (`guest.py`). While nobody taps it, its writes are issued and acknowledged, no stream has
them, and only a synchronization finds them (`differences.py`). What is in flight when a VM changes its tap counts as
acknowledged then.

A VRA hears that a VM left or arrived at once, or when it is up again; the manager hears of it later (`operations.py`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from drsim.core.events import VmArrived, VmLeft
from drsim.core.names import Address, StreamId, StreamSpec, VmId, site_of
from drsim.core.protected_vra import ProtectedVra
from drsim.sim.guest import NONE, Amount, Tap, untapped

if TYPE_CHECKING:
    from drsim.sim.world import World


class Places:
    """The VMs of a world: `hosts` by name, and `loose` ones, which nobody taps. `taps_in`: what counts for each VPG."""

    def __init__(self, world: "World", spares: Mapping[VmId, Tap]) -> None:
        self._world = world
        self.hosts = {id_: str(world.layout.vms[name].host) for name, id_ in world.layout.vm_ids.items()}
        self.loose = dict(spares)
        self._tap_of = {guest.vm: tap for tap in world.taps.values() for guest in tap.guests}
        self.taps_in = {vpg.name: [world.taps[spec.id] for spec in vpg.streams] for vpg in world.layout.vpgs}
        self._past: dict[str, Amount] = {}  # what a VPG's VMs wrote to taps that are gone
        self._unheard: dict[Address, list[VmLeft | VmArrived]] = {}  # for VRAs that are down

    def vra(self, vm: VmId) -> Address | None:
        """The VRA of the host on which a VM runs, if there is one."""
        return self._world.layout.host_vra(self.hosts[vm])

    def vpg_of(self, vm: VmId) -> str | None:
        """The VPG that a VM belongs to."""
        return next((vpg.name for vpg in self._world.layout.vpgs if vm in vpg.members.vms), None)

    def past(self, vpg: str) -> Amount:
        """What a VPG's VMs wrote before their taps ended."""
        return self._past.get(vpg, NONE)

    def move(self, vm: VmId, host: str) -> None:
        """A VM runs on another host from now on."""
        left = self.vra(vm)
        if left is not None:
            self._world.pull(left)
        self.hosts[vm] = host
        if vm in self._tap_of:
            self._loosen(vm)
        if left is not None:
            self._tell(left, VmLeft(vm))
        arrived = self.vra(vm)
        if arrived is not None:
            self._tell(arrived, VmArrived(vm))

    def removed(self, vm: VmId, vpg: str) -> None:
        """A VM belongs to its VPG no more; a VRA that still taps it will be told."""
        self._world.differences.forget(vm)
        if vm in self.loose:
            self._retire(self.loose[vm], vpg)

    # -- what VRAs ask ----------------------------------------------------------------------------------------

    def tap(self, spec: StreamSpec) -> None:
        """A VRA wants what is written to the stream's volumes, as far as their VMs run on its host."""
        world, id_ = self._world, spec.id
        tap = world.taps.get(id_)
        if tap is None:
            tap = world.taps[id_] = Tap(spec, (), begin=world.clock.now)
            world.taps_of.setdefault(id_.source, []).append(tap)
            self.taps_in[id_.vpg].append(tap)
        tap.spec = spec
        wanted = {volume.vm for volume in spec.volumes}
        for vm in [guest.vm for guest in tap.guests if guest.vm not in wanted]:
            self._loosen(vm)
        for vm in sorted(wanted):
            if self.vra(vm) != id_.source:
                self._tell(id_.source, VmLeft(vm))
            elif self._tap_of.get(vm) is not tap:
                self._join(vm, tap)

    def untap(self, stream: StreamId) -> None:
        """A VRA wants nothing of this stream any more."""
        world, tap = self._world, self._world.taps.pop(stream, None)
        if tap is None:
            return
        for vm in [guest.vm for guest in tap.guests]:
            self._loosen(vm)
        world.taps_of[stream.source].remove(tap)
        self._retire(tap, stream.vpg)

    def leave_ended(self, vra: Address) -> None:
        """A VRA is about to be built again: what its VPGs do not have any more is not tapped."""
        layout = self._world.layout
        now = {spec.id for vpg in layout.vpgs for spec in vpg.streams}
        for stream in [s for s in self._world.taps if s.source == vra and s not in now]:
            self.untap(stream)

    def tap_again(self, vra: Address) -> None:
        """A VRA was built again, with the streams of the configuration as it is now."""
        for vpg in self._world.layout.vpgs:
            for spec in vpg.streams if vpg.members.version > 1 else ():
                if spec.id.source == vra:
                    self.tap(spec)

    # -- taps -------------------------------------------------------------------------------------------------

    def pull(self) -> None:
        """Bring the VMs that nobody taps up to now."""
        for vm in self.loose:
            self._pull(vm)

    def _pull(self, vm: VmId) -> None:
        if self._site(vm) not in self._world.dead_sites:
            for batch in self.loose[vm].pull(self._world.clock.now):
                self._world.differences.wrote_astray(vm, batch)

    def _site(self, vm: VmId) -> str:
        return self._world.model.hosts[self.hosts[vm]].site

    def _loosen(self, vm: VmId) -> None:
        """Nobody taps a VM from now on."""
        world, tap = self._world, self._tap_of.pop(vm)
        vpg = self.vpg_of(vm)
        if vpg is not None:
            machine = world.kernel.machines[tap.spec.id.source]
            assert isinstance(machine, ProtectedVra)
            volumes = world.layout.volumes[vm]
            world.differences.strays(vm, volumes, tap.spec.id, machine.senders.get(tap.spec.id))
        feed, late = tap.leave(vm, world.clock.now)
        loose = self.loose[vm] = Tap(untapped(vm), (), begin=world.clock.now)
        loose.join(feed, late)
        if vpg is not None:
            self.taps_in[vpg].append(loose)
            if not tap.feeds:
                self._retire(tap, vpg)  # its VRA may be down for ever, and take part in no checkpoint

    def _join(self, vm: VmId, tap: Tap) -> None:
        """A tap has a VM from now on."""
        world = self._world
        if vm not in self.loose:
            self._loosen(vm)
        self._pull(vm)
        loose = self.loose.pop(vm)
        feed, late = loose.leave(vm, world.clock.now)
        self._retire(loose, tap.spec.id.vpg)
        self._count(tap, tap.spec.id.vpg)
        tap.join(feed, late)
        self._tap_of[vm] = tap
        world.differences.found(vm, tap.spec)
        world.await_write(tap)

    def _count(self, tap: Tap, vpg: str) -> None:
        """A tap has a VM again."""
        if tap not in self.taps_in[vpg]:
            self.taps_in[vpg].append(tap)
            self._past[vpg] = self.past(vpg) - tap.pulled

    def _retire(self, tap: Tap, vpg: str) -> None:
        """A tap has no VM any more, or one that does not count for the VPG any more."""
        if tap in self.taps_in[vpg]:
            self.taps_in[vpg].remove(tap)
            self._past[vpg] = self.past(vpg) + tap.pulled

    # -- what VRAs hear ---------------------------------------------------------------------------------------

    def _tell(self, vra: Address, word: VmLeft | VmArrived) -> None:
        """When this instant's step is over; a VRA that is down hears it when it starts."""
        if site_of(vra) in self._world.dead_sites:
            return
        if vra in self._world.down:
            self._unheard.setdefault(vra, []).append(word)
        else:
            self._world.clock.call(0, lambda: self._deliver(vra, word))

    def _deliver(self, vra: Address, word: VmLeft | VmArrived) -> None:
        if vra in self._world.down:
            self._unheard.setdefault(vra, []).append(word)
        else:
            self._world.post(vra, word)

    def heard(self, vra: Address) -> None:
        """A VRA is up again."""
        for word in self._unheard.pop(vra, ()):
            self._world.post(vra, word)
