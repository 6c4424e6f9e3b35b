"""Tap: what it has no room for is heard of by place, in its place; and no guest waits."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.core.batch import WriteBatch
from drsim.core.events import GuestWrote, WritesMissed
from drsim.core.names import Address, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.units import SECTOR
from drsim.real import missed
from drsim.real.chunk import Chunk, Pool
from drsim.real.disk import Disk, Run
from drsim.real.missed import Missed, batch_of, rows_of
from drsim.real.sweep import Pace
from drsim.real.tap import Tap

VOLUMES = (VolumeInfo(VolumeId(3), VmId(7), 9001), VolumeInfo(VolumeId(4), VmId(8), 20_000))
SPEC = StreamSpec(StreamId("crm", Address("london/a/vra"), Address("leeds/b/recovery")), (VmId(7), VmId(8)), VOLUMES)


def covered(batch: WriteBatch) -> dict[int, set[int]]:
    """Sectors of each volume."""
    found: dict[int, set[int]] = {}
    for vm, volume, lba, n in zip(
        batch.vm.tolist(), batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True
    ):
        info = next(each for each in VOLUMES if each.id == volume)
        assert vm == info.vm
        assert 0 <= lba < lba + n <= info.sectors
        found.setdefault(volume, set()).update(range(lba, lba + n))
    return found


EXTENTS = st.lists(st.tuples(st.sampled_from(VOLUMES), st.integers(0, 1 << 20), st.integers(1, 300)), max_size=60)


@given(EXTENTS.filter(bool), st.sampled_from([2, 5, 50, 10_000]))
@settings(max_examples=150)
def test_every_missed_write_is_covered_by_few_regions(extents: list[tuple[VolumeInfo, int, int]], most: int) -> None:
    where, wrote = Missed(), dict[int, set[int]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(missed, "MOST", most)
        for volume, at, n in extents:
            lba = at % (volume.sectors - n)
            where.add(Run(volume, (lba * SECTOR,), (bytes(n * SECTOR),), 0))
            wrote.setdefault(volume.id, set()).update(range(lba, lba + n))
        batch = batch_of(where.rows(), {v.id: v for v in VOLUMES})
    assert covered(batch_of(rows_of(batch), {v.id: v for v in VOLUMES})) == covered(batch), "told to another process"
    there = covered(batch)
    assert len(batch) <= most
    assert there.keys() == wrote.keys()
    for volume_id, sectors in wrote.items():
        assert sectors <= there[volume_id]
    if most == 10_000:  # nothing was too many: no more than whole regions
        assert all(n // 8 in {s // 8 for s in wrote[v]} for v, found in there.items() for n in found)


class Crowd(Pool):
    """Says that it is crowded when it is told to."""

    full = False

    @property
    def crowded(self) -> bool:
        return self.full


def test_what_is_missed_is_heard_of_in_its_place_and_nobody_waits(tmp_path: Path) -> None:
    disk, pool = Disk(VOLUMES[0], tmp_path / "disk"), Crowd(4)
    tap = Tap(SPEC, {VOLUMES[0].id: disk}, None, lambda _: None, pool)
    rng, content = random.Random(3), bytearray(VOLUMES[0].sectors * SECTOR)
    told: list[bool] = []
    for _ in range(40):
        pool.full = rng.random() < 0.5
        for _ in range(rng.randrange(1, 4)):
            at, data = rng.randrange(9000) * SECTOR, rng.randbytes(SECTOR)
            content[at : at + SECTOR] = data
            disk.write([(at, data)])
            tap.pass_gate()
        told.append(pool.full)
    heard = tap.pull()
    kinds = [isinstance(event, WritesMissed) for event in heard]
    assert kinds == [kind for n, kind in enumerate(told) if n == 0 or told[n - 1] is not kind]
    replica = bytearray(len(content))
    dirty: set[int] = set()
    for event in heard:
        assert isinstance(event, GuestWrote | WritesMissed)
        if isinstance(event, WritesMissed):
            assert event.batch.payload is None
            dirty |= covered(event.batch)[VOLUMES[0].id]
            continue
        batch = event.batch
        for n, lba in enumerate(batch.lba.tolist()):
            replica[lba * SECTOR : (lba + 1) * SECTOR] = batch.rows(n, n + 1).payload  # type: ignore[index, assignment]
    for lba in dirty:
        replica[lba * SECTOR : (lba + 1) * SECTOR] = content[lba * SECTOR : (lba + 1) * SECTOR]
    assert replica == content
    assert (tmp_path / "disk").read_bytes() == content
    assert not tap.pull()
    disk.close()


def test_a_tap_that_nobody_pulls_keeps_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsim.real.tap.MOST_PENDING", 64 << 10)
    disk, made = Disk(VOLUMES[0], tmp_path / "disk"), []

    class Counted(Pool):
        def chunk(self, least: int) -> Chunk:
            made.append(super().chunk(least))
            return made[-1]

    tap = Tap(SPEC, {VOLUMES[0].id: disk}, None, lambda _: None, Counted(4))
    for n in range(4000):
        disk.write([(n % 1000 * 8 * SECTOR, b"x" * 8 * SECTOR)])
    kept, lost = tap.pull()
    assert isinstance(kept, GuestWrote)
    assert isinstance(lost, WritesMissed)
    assert kept.batch.nbytes <= (64 << 10) + 8 * SECTOR
    assert len(lost.batch) == 1000
    assert len(made) == 1
    disk.close()


def test_a_sweep_waits_for_guests_that_outrun_it_and_for_no_others() -> None:
    pace, now, waited = Pace(), 100.0, []
    for worked, left in (
        (1.0, 9000),
        (0.01, 8000),
        (0.01, 8000),
        (0.01, 7999),
        (0.01, 9000),
        (0.02, 9999),
        (2.0, 9999),
    ):
        now += worked
        pause = pace.pause(now, left)
        now += pause
        waited.append(round(pause, 6))
    assert waited == [0, 0, 0.09, 0, 0.09, 0.18, 0]
    asked: list[int] = []
    pace.paced(lambda: asked.append(1), 5)()
    assert asked == [1]
