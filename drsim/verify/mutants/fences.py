"""Mutants of generations: a source that was fenced and is not refused, or never gets on again."""

from drsim.core.catalog import Catalog
from drsim.core.effects import Effect
from drsim.core.machine import Machine
from drsim.core.messages import Checkpoint, Lineage, Trigger
from drsim.core.names import Address
from drsim.core.receiver import Receiver
from drsim.core.recovery_vra import RecoveryVra
from drsim.core.sender import Sender, SendState
from drsim.verify.estate import Earlier, Estate
from drsim.verify.mutants.base import Patch, mutant, patched


@mutant("B39", by=("P16",), cites="patroni #3321")
def back_from_the_dead() -> Patch:
    """A recovery VRA takes what a source of an earlier generation sends."""

    def mutated(self: Receiver, generation: int) -> None:
        """Nothing changes."""

    return patched(Receiver, "fence", mutated)


@mutant(by=("P16",))
def sealed_by_the_dead() -> Patch:
    """A checkpoint that a fenced source has sealed is listed."""
    take = Catalog._sealed

    def mutated(self: Catalog, checkpoint: Checkpoint) -> list[Effect]:
        lineage, self.lineage = self.lineage, Lineage(self.vpg, checkpoint.generation)
        effects = take(self, checkpoint)
        self.lineage = lineage
        return effects

    return patched(Catalog, "_sealed", mutated)


@mutant(by=("P16",))
def fence_forgotten_in_a_crash() -> Patch:
    """A recovery VRA that is built again believes that all its VPGs are in their first generation."""
    build = Estate.build

    def mutated(self: Estate, address: Address, earlier: Earlier | None = None) -> Machine:
        machine = build(self, address, earlier)
        for receiver in machine.receivers.values() if isinstance(machine, RecoveryVra) else ():
            receiver.generation = 1
        return machine

    return patched(Estate, "build", mutated)


@mutant(by=("P20",))
def refused_for_ever() -> Patch:
    """A source that goes on in a later generation still waits for the answer to a refusal of an earlier one."""

    def mutated(self: Sender, generation: int, *, fenced: bool) -> list[Effect]:
        if generation <= self.generation:
            return []
        self.generation, self.fenced = generation, fenced
        if self.state is SendState.ASKING:
            return self._ask() if self.connected else []
        return self._restart() if self.state is SendState.WAITING else self.fold(Trigger.CONFIGURATION)

    return patched(Sender, "adopt", mutated)
