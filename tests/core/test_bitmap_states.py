"""The dirty bitmap against Python sets of regions, in any order of marks, sweeps and comparisons."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import writes

from drsim.core.bitmap import DirtyBitmap
from drsim.core.names import Extent, VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR, Ns

REGION = 4
SECTORS = {3: 22, 4: 9, 8: 30}
OWNER = {3: 1, 4: 1, 8: 2}
VOLUMES = tuple(VolumeInfo(VolumeId(v), VmId(OWNER[v]), size) for v, size in SECTORS.items())
EVERYTHING = {(v, r) for v, size in SECTORS.items() for r in range(-(-size // REGION))}

Region = tuple[int, int]


def regions(volume: int, lba: int, sectors: int) -> list[Region]:
    return [(volume, r) for r in range(lba // REGION, (lba + sectors - 1) // REGION + 1)]


def whole_regions(volume: int, lba: int, sectors: int) -> list[Region]:
    assert lba % REGION == 0, "whole regions"
    assert (lba + sectors) % REGION == 0 or lba + sectors == SECTORS[volume], "whole regions"
    return regions(volume, lba, sectors)


def within(volumes: list[int] | None) -> set[Region]:
    return {region for region in EVERYTHING if volumes is None or region[0] in volumes}


def spans_of(bitmap: DirtyBitmap) -> set[Region]:
    """Which regions lie in spans: an optimization, not a promise, so it is asked and not predicted."""
    _, spans = bitmap.regions()
    return {(key >> 40, key & (1 << 40) - 1) for start, stop in spans for key in range(start, stop)}


class BitmapStates(RuleBasedStateMachine):
    """Sets of (volume, region): `known` to be dirty, `filled` those of them that became so with their whole volume,
    `unsure`, and `comparing` those whose comparison is under way. `sent_while_waiting`: what was sent since a region
    became known to be dirty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bitmap = DirtyBitmap(REGION * SECTOR, VOLUMES)
        self.known: set[Region] = set()
        self.filled: set[Region] = set()
        self.unsure: set[Region] = set()
        self.comparing: Extent | None = None
        self.sent_while_waiting: dict[Region, list[Region]] = {}

    # -- what happens -----------------------------------------------------------------------------------------

    @rule(volume=st.sampled_from(list(SECTORS)), at=st.integers(0, 29), sectors=st.integers(1, 12))
    def write(self, volume: int, at: int, sectors: int) -> None:
        lba = at % SECTORS[volume]
        sectors = min(sectors, SECTORS[volume] - lba)
        self.bitmap.mark(writes((OWNER[volume], volume, lba, sectors)))
        self.mark(regions(volume, lba, sectors))

    @rule(volumes=st.none() | st.lists(st.sampled_from(list(SECTORS)), unique=True))
    def nothing_is_there(self, volumes: list[int] | None) -> None:
        """An epoch has ended before: no comparison is under way."""
        self.comparison_comes_to_nothing()
        found = within(volumes)
        self.bitmap.fill(None if volumes is None else [VolumeId(v) for v in volumes])
        if found:
            self.sent_while_waiting.clear()  # the sweep begins anew
            self.sent_while_waiting.update((region, []) for region in self.known | found)
        self.unsure -= found
        self.filled |= found
        self.known |= found

    @rule(volumes=st.none() | st.lists(st.sampled_from(list(SECTORS)), unique=True))
    def memory_lost(self, volumes: list[int] | None) -> None:
        """What is to be sent whole stays so."""
        self.comparison_comes_to_nothing()
        self.bitmap.distrust(None if volumes is None else [VolumeId(v) for v in volumes])
        forgotten = within(volumes) - self.filled
        self.unsure |= forgotten
        for region in forgotten & self.known:
            self.known.remove(region)
            del self.sent_while_waiting[region]

    @precondition(lambda self: self.known)
    @rule(most=st.integers(0, 4))
    def sweep(self, most: int) -> None:
        assert self.bitmap.known
        batch = self.bitmap.take(most * REGION * SECTOR, Ns(5))
        rows = [c.tolist() for c in (batch.vm, batch.volume, batch.lba, batch.sectors)]
        taken: list[Region] = []
        for vm, volume, lba, sectors in zip(*rows, strict=True):
            assert vm == OWNER[volume]
            taken += whole_regions(volume, lba, sectors)
        assert 1 <= len(taken) <= max(1, most)
        assert set(taken) <= self.known, "what is clean is not sent, what is unsure is compared before"
        # The first regions of a span are taken out of it, whether they are sent now or later.
        for region in taken:
            self.known.remove(region)  # KeyError: sent twice in one batch
            self.filled.discard(region)
            self.sent_while_waiting.pop(region)
        for sent in self.sent_while_waiting.values():
            sent += taken
        self.filled &= spans_of(self.bitmap)

    @precondition(lambda self: self.unsure and self.comparing is None)
    @rule(most=st.integers(0, 4))
    def comparison_begins(self, most: int) -> None:
        extent = self.bitmap.take_unsure(most * REGION * SECTOR)
        assert extent.vm == OWNER[extent.volume]
        taken = whole_regions(extent.volume, extent.lba, extent.sectors)
        assert 1 <= len(taken) <= max(1, most)
        assert set(taken) <= self.unsure, "each once"
        self.unsure.difference_update(taken)
        self.comparing = extent

    @precondition(lambda self: self.comparing is not None)
    @rule(seed=st.integers(0, 1 << 16))
    def comparison_ends(self, seed: int) -> None:
        extent, self.comparing = self.comparing, None
        assert extent is not None
        compared = regions(extent.volume, extent.lba, extent.sectors)
        differs = bytes(seed >> n & 1 for n in range(len(compared)))
        self.bitmap.settle(extent, differs)
        self.mark([region for region, differ in zip(compared, differs, strict=True) if differ])

    @precondition(lambda self: self.comparing is not None)
    @rule()
    def comparison_comes_to_nothing(self) -> None:
        """What was written of it meanwhile is compared with the rest."""
        extent, self.comparing = self.comparing, None
        if extent is None:
            return
        self.bitmap.put_back(extent)
        for region in regions(extent.volume, extent.lba, extent.sectors):
            self.unsure.add(region)
            self.known.discard(region)
            self.sent_while_waiting.pop(region, None)

    def mark(self, found: list[Region]) -> None:
        for region in found:
            if region not in self.unsure:
                self.known.add(region)
                self.sent_while_waiting.setdefault(region, [])

    @property
    def dirty(self) -> set[Region]:
        return self.known | self.unsure

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
    def it_knows_what_is_to_be_compared_and_what_to_be_sent(self) -> None:
        assert self.bitmap.unsure == bool(self.unsure)
        assert self.bitmap.known == bool(self.known)

    @invariant()
    def memory_is_for_what_is_known_and_not_in_a_span(self) -> None:
        alone = len(self.known - self.filled)
        for room in (0, alone - 1, alone, len(EVERYTHING)):
            assert self.bitmap.outgrown(room) == (alone > room)

    @invariant()
    def nobody_is_sent_twice_while_another_waits(self) -> None:
        for region, sent in self.sent_while_waiting.items():
            assert len(sent) == len(set(sent)), f"{region} waits, others were sent again: {sent}"


TestBitmapStates = BitmapStates.TestCase
