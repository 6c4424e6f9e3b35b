"""DirtyBitmap against a set of sectors."""

import random

import pytest
from support import writes

from drsim.core.bitmap import DirtyBitmap
from drsim.core.names import VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR, Ns

SIZES = ((3, 1, 22), (4, 1, 9), (8, 2, 64))
VOLUMES = tuple(VolumeInfo(VolumeId(id_), VmId(vm), sectors) for id_, vm, sectors in SIZES)
REGION = 4


def of(*rows: tuple[int, int, int, int], region: int = REGION) -> DirtyBitmap:
    bitmap = DirtyBitmap(region * SECTOR, VOLUMES)
    bitmap.mark(writes(*rows))
    return bitmap


def taken(bitmap: DirtyBitmap, nbytes: int = 1 << 30) -> list[tuple[int, int, int, int]]:
    batch = bitmap.take(nbytes, Ns(5))
    assert set(batch.issued.tolist()) == {5}
    return list(zip(*(c.tolist() for c in (batch.vm, batch.volume, batch.lba, batch.sectors)), strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_against_a_set_of_sectors(seed: int) -> None:
    rng = random.Random(seed)
    region = rng.choice([1, 4, 16])
    bitmap = DirtyBitmap(region * SECTOR, VOLUMES)
    naive: set[tuple[int, int]] = set()
    cursor = (0, 0)
    size = {v.id: v.sectors for v in VOLUMES}
    owner = {v.id: v.vm for v in VOLUMES}
    for step in range(40):
        if step == 20:
            bitmap.fill()
            naive = {(v.id, r) for v in VOLUMES for r in range(-(-v.sectors // region))}
            cursor = (0, 0)
        if rng.random() < (0.7 if step < 20 else 0.3):
            found = []
            for _ in range(rng.randint(0, 4)):
                volume = rng.choice(VOLUMES)
                sectors = rng.randint(1, min(20, volume.sectors))
                lba = rng.randint(0, volume.sectors - sectors)
                found.append((volume.vm, volume.id, lba, sectors))
                first, last = lba // region, (lba + sectors - 1) // region
                naive |= {(volume.id, r) for r in range(first, last + 1)}
            bitmap.mark(writes(*found))
        elif naive:
            most = rng.randint(0, 5)
            rows = taken(bitmap, most * region * SECTOR)
            ahead = sorted(key for key in naive if key >= cursor) or sorted(naive)
            expected = ahead[: max(1, most)]
            cursor = (expected[-1][0], expected[-1][1] + 1)
            naive -= set(expected)
            assert {(v, s) for _, v, lba, n in rows for s in range(lba, lba + n)} == {
                (v, s) for v, r in expected for s in range(r * region, min((r + 1) * region, size[VolumeId(v)]))
            }
            assert all(vm == owner[VolumeId(v)] for vm, v, _, _ in rows)
        assert len(bitmap) == len(naive)
        assert bitmap.nbytes == len(naive) * region * SECTOR
        for volume in VOLUMES:
            covered = {s for s in range(volume.sectors) if bitmap.covers(volume.id, s)}
            assert covered == {s for s in range(volume.sectors) if (volume.id, s // region) in naive}


def test_the_last_region_ends_with_the_volume() -> None:
    assert taken(of((1, 3, 21, 1))) == [(1, 3, 20, 2)]
    assert taken(of((1, 4, 0, 9))) == [(1, 4, 0, 9)]


def test_neighbours_become_one_row_but_never_across_volumes() -> None:
    assert taken(of((1, 3, 20, 1), (1, 4, 0, 1), (1, 4, 7, 2))) == [(1, 3, 20, 2), (1, 4, 0, 9)]
    assert taken(of((1, 3, 0, 1), (1, 3, 12, 1))) == [(1, 3, 0, 4), (1, 3, 12, 4)]


def test_a_span_over_many_regions_and_a_short_one_in_one_batch() -> None:
    bitmap = of((2, 8, 3, 50), (1, 3, 5, 1))
    assert len(bitmap) == 14 + 1
    assert taken(bitmap) == [(1, 3, 4, 4), (2, 8, 0, 56)]


def test_at_least_one_region_is_taken() -> None:
    bitmap = of((2, 8, 0, 64))
    assert taken(bitmap, 1) == [(2, 8, 0, 4)]
    assert len(bitmap) == 15


def test_the_sweep_goes_round() -> None:
    """A region that is written again and again does not keep the others waiting."""
    bitmap = of((2, 8, 0, 16))
    found = []
    for _ in range(5):
        found += taken(bitmap, REGION * SECTOR)
        bitmap.mark(writes((2, 8, 0, 1)))
    assert [lba for _, _, lba, _ in found] == [0, 4, 8, 12, 0]


def test_a_full_bitmap_is_swept_in_order_and_what_is_written_again_comes_next_round() -> None:
    bitmap = DirtyBitmap(REGION * SECTOR, VOLUMES)
    bitmap.fill()
    assert len(bitmap) == 6 + 3 + 16
    assert taken(bitmap, 4 * REGION * SECTOR) == [(1, 3, 0, 16)]
    bitmap.mark(writes((1, 3, 0, 1), (2, 8, 60, 4)))
    assert len(bitmap) == 2 + 3 + 16 + 1, "what is still to come is not counted twice"
    assert taken(bitmap, 4 * REGION * SECTOR) == [(1, 3, 16, 6), (1, 4, 0, 8)]
    assert taken(bitmap) == [(1, 4, 8, 1), (2, 8, 0, 64)]
    assert taken(bitmap) == [(1, 3, 0, 4)]
    assert len(bitmap) == 0


def test_what_became_dirty_as_a_whole_waits_no_longer_than_one_round() -> None:
    """In whatever order it did: regions written again are not sent a second time before it."""
    bitmap = of()
    bitmap.fill()
    bitmap.fill([VolumeId(3), VolumeId(8)])
    sent = [row[:3] for _ in range(9) for row in taken(bitmap, 0)]
    bitmap.mark(writes(*((vm, volume, lba, 1) for vm, volume, lba in sent)))
    rest = [row[:3] for _ in range(16) for row in taken(bitmap, 0)]
    assert not set(rest) & set(sent)


def test_a_full_bitmap_of_a_large_disk_takes_no_room() -> None:
    bitmap = DirtyBitmap(SECTOR, [VolumeInfo(VolumeId(1), VmId(1), 1 << 40)])
    bitmap.fill()
    bitmap.mark(writes((1, 1, 5, 90)))
    for n in range(9):
        assert taken(bitmap, 100 * SECTOR) == [(1, 1, 100 * n, 100)]
    assert len(bitmap) == (1 << 40) - 900
    assert not bitmap.covers(1, 899)
    assert bitmap.covers(1, 900)
    assert bitmap.covers(1, (1 << 40) - 1)
    assert len(bitmap._keys) < 1000


def test_many_marks_stay_small() -> None:
    bitmap = DirtyBitmap(SECTOR, VOLUMES)
    for n in range(3000):
        bitmap.mark(writes(*((2, 8, (n + k) % 60, 4) for k in range(4))))
        assert bitmap._pending_rows <= 8192
    assert len(bitmap) == 63
    bitmap.mark(writes())
    assert not bitmap._pending
