"""Mutants of what holds for the whole: determinism, nothing but events, figures that are the truth."""

from array import array
from typing import Any

from drsim.core.effects import Effect
from drsim.core.names import CheckpointId
from drsim.core.protected_vra import ProtectedVra
from drsim.core.quiesce import Tag
from drsim.core.units import Ns
from drsim.core.vpg import Vpg
from drsim.sim.link import Direction
from drsim.sim.record import Recorder
from drsim.verify import twins
from drsim.verify.mutants.base import Patch, mutant, patched, several


@mutant("54", by=("P27",), hunter="twins")
def streams_in_a_set() -> Patch:
    """A VRA goes through its streams in the order of a set, so the hash seed decides whose frame goes first."""
    init = ProtectedVra.__init__

    def mutated(self: ProtectedVra, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self.senders = {id_: self.senders[id_] for id_ in set(self.senders)}

    there = "from drsim.verify import mutants, twins\nwith mutants.BY_NAME['streams-in-a-set'].patch(): twins.main()"
    return several(patched(ProtectedVra, "__init__", mutated), patched(twins, "ELSEWHERE", ["-c", there]))


@mutant(by=("P28", "P27"), hunter="twins")
def numbers_shared_by_the_process() -> Patch:
    """Checkpoints are numbered by a counter that belongs to the process, not to the machine."""
    begin = Vpg._begin
    counter = [0]

    def mutated(self: Vpg, now: Ns, tag: Tag) -> list[Effect]:
        counter[0] += 1
        self._count = max(self._count, counter[0] % 500)
        return begin(self, now, tag)

    return patched(Vpg, "_begin", mutated)


@mutant("53", by=("P22",), hunter="figures")
def folded_bytes_counted_twice() -> Patch:
    """What was queued for a connection that is given up counts as sent, and again when it comes as dirty regions."""
    drop = Direction.drop

    def mutated(self: Direction, stream: Any = None) -> None:
        self._advance()
        for id_, flow in self._flows.items():
            if stream is None or id_ == stream:
                for job in flow.jobs:
                    self.sent[job.kind] += job.bits / 8
        drop(self, stream)

    return patched(Direction, "drop", mutated)


@mutant(by=("P6",), hunter="figures")
def rpo_counts_from_the_listing() -> Patch:
    """The RPO of a run counts from when checkpoints were listed, not from when they were taken."""
    listed = Recorder._listed

    def mutated(self: Recorder, now: Ns, vpg: str, checkpoint: CheckpointId, taken: Ns, tag: str) -> None:
        listed(self, now, vpg, checkpoint, now, tag)

    return patched(Recorder, "_listed", mutated)


@mutant(by=("P6", "P22"), hunter="figures")
def sampled_rpo_of_the_oldest() -> Patch:
    """The RPO that is sampled counts from the checkpoint before the newest."""
    take = Recorder._take

    def mutated(self: Recorder, now: int) -> None:
        kept = {name: record.taken for name, record in self.vpgs.items()}
        for name, record in self.vpgs.items():
            record.taken = array("q", kept[name][:-1] or kept[name])
        take(self, now)
        for name, record in self.vpgs.items():
            record.taken = kept[name]

    return patched(Recorder, "_take", mutated)
