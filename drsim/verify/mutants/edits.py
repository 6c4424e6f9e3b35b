"""Mutants of edits: volumes that come, grow or go missing, journals that change, VMs with another recovery VRA."""

from collections.abc import Sequence
from dataclasses import replace

from drsim.core.bitmap import DirtyBitmap
from drsim.core.catalog import Catalog
from drsim.core.effects import Effect
from drsim.core.events import Event
from drsim.core.messages import Configure, Start
from drsim.core.names import StreamId, StreamSpec, VolumeId, VolumeInfo
from drsim.core.protected_vra import ProtectedVra
from drsim.core.receiver import Receiver
from drsim.core.sender import Sender
from drsim.core.units import Ns
from drsim.verify.mutants.base import Patch, mutant, patched


@mutant(by=("P12",))
def new_volume_counts_as_equal() -> Patch:
    """A volume that comes to a stream is not sent: only what is written from then on."""
    reshape = DirtyBitmap.reshape

    def mutated(self: DirtyBitmap, volumes: Sequence[VolumeInfo]) -> None:
        new = [v for v in volumes if v.id not in self._volumes]
        reshape(self, volumes)
        self._take_out([self._span(v.id) for v in new])

    return patched(DirtyBitmap, "reshape", mutated)


@mutant(by=("P12",))
def grown_volume_counts_as_equal() -> Patch:
    """What a volume has grown by is not sent."""
    return patched(DirtyBitmap, "_spread", lambda self, start, stop: None)


@mutant(by=("P12",))
def grown_from_the_next_region() -> Patch:
    """Of a volume that grew, the region that its old end lies in is not sent again."""
    spread = DirtyBitmap._spread

    def mutated(self: DirtyBitmap, start: int, stop: int) -> None:
        if start + 1 < stop:
            spread(self, start + 1, stop)

    return patched(DirtyBitmap, "_spread", mutated)


@mutant(by=("P12",))
def volume_that_is_back_is_trusted() -> Patch:
    """A volume that was missing is not compared when it is back."""

    def mutated(self: Sender, volume: VolumeId) -> list[Effect]:
        self.missing.discard(volume)
        return self._go_on()

    return patched(Sender, "found_volume", mutated)


@mutant(by=("P23",))
def retargeted_vm_joins_like_a_new_one() -> Patch:
    """Checkpoints go on without a VM that gets another recovery VRA."""
    configure = ProtectedVra._configure

    def mutated(self: ProtectedVra, message: Configure) -> list[Effect]:
        starts: dict[StreamId, Start] = {
            s: Start.INITIAL if start is Start.RETARGETED else start for s, start in message.starts.items()
        }
        return configure(self, replace(message, starts=starts))

    return patched(ProtectedVra, "_configure", mutated)


@mutant(by=("P11",))
def fail_safe_history_goes_with_the_rest() -> Patch:
    """A full journal takes the fail-safe history as well."""
    shrink = Catalog._shrink

    def mutated(self: Catalog) -> list[Effect]:
        kept, self.retention = self.retention, replace(self.retention, fail_safe=Ns(0))
        effects = shrink(self)
        self.retention = kept
        return effects

    return patched(Catalog, "_shrink", mutated)


@mutant(by=("P20",))
def retention_is_not_told() -> Patch:
    """The catalogue goes on with the history that it was built with."""
    handle = Catalog.handle

    def mutated(self: Catalog, now: Ns, event: Event) -> list[Effect]:
        kept, effects = self.retention, handle(self, now, event)
        self.retention = kept
        return effects

    return patched(Catalog, "handle", mutated)


@mutant(by=("P22",))
def limit_of_the_first_day() -> Patch:
    """A recovery VRA does not take over another limit of its journals."""
    adopt = Receiver._adopt

    def mutated(self: Receiver, spec: StreamSpec) -> None:
        limits = [journal.limit for _, journal in self.owned]
        adopt(self, spec)
        for (_, journal), limit in zip(self.owned, limits, strict=True):
            journal.limit = limit

    return patched(Receiver, "_adopt", mutated)
