"""Placement: on which hosts VMs run, and which taps have their writes.

Theory of operation. A VM may be in several VPGs. Each that has it, or ever will, has one feed of its writes, and that
is in one tap at a time (`tap.py`). The writes do not depend on who taps them: a VM that changes its tap takes along
what was drawn ahead and is not issued yet. While nobody taps it for a VPG, its writes are issued and acknowledged, no
stream of this VPG has them, and only a synchronization finds them (`differences.py`). What is in flight when a VM
changes its tap counts as acknowledged then.

A VRA hears that a VM left or arrived, or that a disk is missing or found, at once, or when it is up again; the manager
hears of it later (`operations.py`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from drsim.core.events import VmArrived, VmLeft, VolumeFound, VolumeLost
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo, site_of
from drsim.core.protected_vra import ProtectedVra
from drsim.sim.differences import Membered
from drsim.sim.tap import NONE, Amount, Tap, untapped

if TYPE_CHECKING:
    from drsim.sim.world import World


Word = VmLeft | VmArrived | VolumeLost | VolumeFound
"""What the platform tells a VRA."""


class Places:
    """The VMs of a world: `hosts` by name, and `loose` ones, which nobody taps. `taps_in`: what counts for each VPG.

    `missing`: disks that are not there.
    """

    def __init__(self, world: "World", spares: Mapping[Membered, Tap]) -> None:
        self._world = world
        self.hosts = {id_: str(world.layout.vms[name].host) for name, id_ in world.layout.vm_ids.items()}
        self.loose = dict(spares)
        self._tap_of = {(id_.vpg, guest.vm): tap for id_, tap in world.taps.items() for guest in tap.guests}
        self.taps_in = {vpg.name: [world.taps[spec.id] for spec in vpg.streams] for vpg in world.layout.vpgs}
        self._past: dict[str, Amount] = {}  # what a VPG's VMs wrote to taps that are gone
        self._unheard: dict[Address, list[Word]] = {}  # for VRAs that are down
        self.missing: set[VolumeId] = set()

    def vra(self, vm: VmId) -> Address | None:
        """The VRA of the host on which a VM runs, if there is one."""
        return self._world.layout.host_vra(self.hosts[vm])

    def vpgs_of(self, vm: VmId) -> list[str]:
        """The VPGs that a VM belongs to."""
        return [vpg.name for vpg in self._world.layout.vpgs if vm in vpg.members.vms]

    def taps_of(self, vm: VmId) -> list[Tap]:
        """Where a VM's feeds are, brought up to now."""
        here = self.vra(vm)
        if here is not None:
            self._world.pull(here)
        for member in self.loose:
            if member[1] == vm:
                self._pull(member)
        return [tap for taps in (self._tap_of, self.loose) for (_, each), tap in taps.items() if each == vm]

    def past(self, vpg: str) -> Amount:
        """What a VPG's VMs wrote before their taps ended."""
        return self._past.get(vpg, NONE)

    def move(self, vm: VmId, host: str) -> None:
        """A VM runs on another host from now on; whoever had it at rest there has not any more."""
        left = self.vra(vm)
        self._world.agents.go_on(vm)
        if left is not None:
            self._world.pull(left)
        self.hosts[vm] = host
        for member in [member for member in self._tap_of if member[1] == vm]:
            self._loosen(member)
        if left is not None:
            self._tell(left, VmLeft(vm))
        arrived = self.vra(vm)
        if arrived is not None:
            self._tell(arrived, VmArrived(vm))

    def stop(self, vm: VmId) -> None:
        """A VM was shut down: it writes nothing, and nothing of it is done later."""
        self._world.agents.go_on(vm)
        for tap in self.taps_of(vm):
            tap.freeze(vm)

    def run(self, vm: VmId) -> None:
        """It runs again; nobody does again what could not be done meanwhile."""
        for tap in self.taps_of(vm):
            tap.resume(vm)

    def lose(self, volume: VolumeInfo) -> None:
        """A disk is not there. Its VM goes on without it, whoever had it at rest."""
        vm, here = volume.vm, self.vra(volume.vm)
        self._world.agents.go_on(vm)
        self.missing.add(volume.id)
        if here is not None:
            self._world.pull(here)
            self._tell(here, VolumeLost(volume.id))

    def find(self, volume: VolumeInfo) -> None:
        """It is there again."""
        here = self.vra(volume.vm)
        self.missing.discard(volume.id)
        if here is not None:
            self._tell(here, VolumeFound(volume.id))

    def reshaped(self, vm: VmId) -> None:
        """A VM has other disks, which no VRA has been told of."""
        for vpg in self.vpgs_of(vm):
            self._world.differences.reshaped_astray((vpg, vm), self._world.layout.volumes(vm))

    def removed(self, vm: VmId, vpg: str) -> None:
        """A VM belongs to this VPG no more; a VRA that still taps it will be told."""
        self._world.differences.forget((vpg, vm))
        if (vpg, vm) in self.loose:
            self._retire(self.loose[vpg, vm], vpg)

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
            self._loosen((id_.vpg, vm))
        for vm in sorted(wanted):
            if self.vra(vm) != id_.source:
                self._tell(id_.source, VmLeft(vm))
            elif self._tap_of.get((id_.vpg, vm)) is not tap:
                self._join((id_.vpg, vm), tap)
        world.differences.reshaped(spec)
        self._tell_missing(spec)

    def _tell_missing(self, spec: StreamSpec) -> None:
        """A VRA that taps a disk that is not there hears of it."""
        for volume in spec.volumes:
            if volume.id in self.missing and self.vra(volume.vm) == spec.id.source:
                self._tell(spec.id.source, VolumeLost(volume.id))

    def untap(self, stream: StreamId) -> None:
        """A VRA wants nothing of this stream any more."""
        world, tap = self._world, self._world.taps.pop(stream, None)
        if tap is None:
            return
        for vm in [guest.vm for guest in tap.guests]:
            self._loosen((stream.vpg, vm))
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
            for spec in vpg.streams:
                if spec.id.source == vra:
                    (self.tap if vpg.members.version > 1 else self._tell_missing)(spec)

    # -- taps -------------------------------------------------------------------------------------------------

    def pull(self) -> None:
        """Bring the VMs that nobody taps up to now."""
        for member in self.loose:
            self._pull(member)

    def _pull(self, member: Membered) -> None:
        if self._site(member[1]) not in self._world.dead_sites:
            for batch in self.loose[member].pull(self._world.clock.now):
                self._world.differences.wrote_astray(member, batch)

    def _site(self, vm: VmId) -> str:
        return self._world.model.hosts[self.hosts[vm]].site

    def _loosen(self, member: Membered) -> None:
        """Nobody taps a VM for this VPG from now on."""
        (vpg, vm), world, tap = member, self._world, self._tap_of.pop(member)
        inside = vm in world.layout.vpg_of[vpg].members.vms
        if inside:
            machine = world.kernel.machines[tap.spec.id.source]
            assert isinstance(machine, ProtectedVra)
            volumes = world.layout.volumes(vm)
            world.differences.strays(vm, volumes, tap.spec.id, machine.senders.get(tap.spec.id))
        loose = self.loose[member] = Tap(untapped(vm), (), begin=world.clock.now)
        loose.join(*tap.leave(vm))
        if inside:
            self.taps_in[vpg].append(loose)
            if not tap.feeds:
                self._retire(tap, vpg)  # its VRA may be down for ever, and take part in no checkpoint

    def _join(self, member: Membered, tap: Tap) -> None:
        """A tap has a VM from now on."""
        (vpg, vm), world = member, self._world
        if member not in self.loose:
            self._loosen(member)
        self._pull(member)
        loose = self.loose.pop(member)
        left = loose.leave(vm)
        self._retire(loose, vpg)
        self._count(tap, vpg)
        tap.join(*left)
        self._tap_of[member] = tap
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

    def _tell(self, vra: Address, word: Word) -> None:
        """When this instant's step is over; a VRA that is down hears it when it starts."""
        if site_of(vra) in self._world.dead_sites:
            return
        if vra in self._world.down:
            self._unheard.setdefault(vra, []).append(word)
        else:
            self._world.clock.call(0, lambda: self._deliver(vra, word))

    def _deliver(self, vra: Address, word: Word) -> None:
        if vra in self._world.down:
            self._unheard.setdefault(vra, []).append(word)
        else:
            self._world.post(vra, word)

    def heard(self, vra: Address) -> None:
        """A VRA is up again."""
        for word in self._unheard.pop(vra, ()):
            self._world.post(vra, word)
