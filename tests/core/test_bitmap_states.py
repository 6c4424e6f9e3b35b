"""The dirty bitmap against a Python set of regions, in any order of marks and sweeps."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import writes

from drsim.core.bitmap import DirtyBitmap
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR, Ns

REGION = 4
SECTORS = {3: 22, 4: 9, 8: 30}
OWNER = {3: 1, 4: 1, 8: 2}
VOLUMES = tuple(VolumeInfo(VolumeId(v), VmId(OWNER[v]), size) for v, size in SECTORS.items())
EVERYTHING = {(v, r) for v, size in SECTORS.items() for r in range(-(-size // REGION))}

Region = tuple[int, int]


def regions(volume: int, lba: int, sectors: int) -> list[Region]:
    return [(volume, r) for r in range(lba // REGION, (lba + sectors - 1) // REGION + 1)]


class BitmapStates(RuleBasedStateMachine):
    """`dirty` is a set of (volume, region); `sent_while_waiting` what was sent since a dirty region became so."""

    def __init__(self) -> None:
        super().__init__()
        self.bitmap = DirtyBitmap(REGION * SECTOR, VOLUMES)
        self.dirty: set[Region] = set()
        self.sent_while_waiting: dict[Region, list[Region]] = {}

    # -- what happens -----------------------------------------------------------------------------------------

    @rule(volume=st.sampled_from(list(SECTORS)), at=st.integers(0, 29), sectors=st.integers(1, 12))
    def write(self, volume: int, at: int, sectors: int) -> None:
        lba = at % SECTORS[volume]
        sectors = min(sectors, SECTORS[volume] - lba)
        self.bitmap.mark(writes((OWNER[volume], volume, lba, sectors)))
        self.mark(regions(volume, lba, sectors))

    @rule()
    def memory_lost(self) -> None:
        self.bitmap.fill()
        self.sent_while_waiting.clear()  # the sweep begins anew
        self.mark(sorted(EVERYTHING))

    @precondition(lambda self: self.dirty)
    @rule(most=st.integers(0, 4))
    def sweep(self, most: int) -> None:
        batch = self.bitmap.take(most * REGION * SECTOR, Ns(5))
        rows = [c.tolist() for c in (batch.vm, batch.volume, batch.lba, batch.sectors)]
        taken: list[Region] = []
        for vm, volume, lba, sectors in zip(*rows, strict=True):
            assert vm == OWNER[volume]
            assert lba % REGION == 0, "whole regions"
            assert (lba + sectors) % REGION == 0 or lba + sectors == SECTORS[volume], "whole regions"
            taken += regions(volume, lba, sectors)
        assert 1 <= len(taken) <= max(1, most)
        assert set(taken) <= self.dirty, "what is clean is not sent"
        for region in taken:
            self.dirty.remove(region)  # KeyError: sent twice in one batch
            self.sent_while_waiting.pop(region)
        for sent in self.sent_while_waiting.values():
            sent += taken

    def mark(self, found: list[Region]) -> None:
        for region in found:
            self.dirty.add(region)
            self.sent_while_waiting.setdefault(region, [])

    # -- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def it_counts_the_set(self) -> None:
        assert len(self.bitmap) == len(self.dirty)
        assert self.bitmap.nbytes == len(self.dirty) * REGION * SECTOR

    @invariant()
    def it_covers_exactly_the_set(self) -> None:
        covered = {(v, s // REGION) for v, size in SECTORS.items() for s in range(size) if self.bitmap.covers(v, s)}
        assert covered == self.dirty

    @invariant()
    def nobody_is_sent_twice_while_another_waits(self) -> None:
        for region, sent in self.sent_while_waiting.items():
            assert len(sent) == len(set(sent)), f"{region} waits, others were sent again: {sent}"


TestBitmapStates = BitmapStates.TestCase
