"""Runs that begin out of sync: how long it takes, what is sent and compared; and what stands for content meanwhile."""

import random

import numpy as np
import pytest
from estates import MIB, SECOND, two_site
from support import writes

from drsim.core.facts import CheckpointListed, Fact, SyncEnded, SyncStarted
from drsim.core.messages import Trigger
from drsim.core.names import Address, Extent, StreamId, StreamSpec, VmId, VolumeId, VolumeInfo
from drsim.core.sender import Sender
from drsim.core.status import Sync
from drsim.core.units import SECTOR, Ns
from drsim.sim.differences import Differences
from drsim.sim.record import Recorder
from drsim.sim.run import Run, simulate
from drsim.spec.model import Model
from drsim.spec.protect import Volume
from drsim.spec.tweaks import Tweaks

SIZE, REGION = 256 * MIB, 4096
BANDWIDTH = 100e6 / 8


def model(sync: str, *, fidelity: str = "slice", size: int = SIZE, rate: float = 20, vms: int = 1) -> Model:
    made = two_site(
        rate=rate, size="8 KiB", vms=vms, vpg={"sync": sync, "preseed_differs": 0.05},
        run={"until": "80 s", "fidelity": fidelity, "slice": "1 s"},
    )  # fmt: skip
    vm = made.vms["app"].model_copy(update={"volumes": (Volume(size=size),)})
    return made.model_copy(update={"vms": {"app": vm}})


def played(model: Model, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, list[tuple[int, Fact]]]:
    """A run, and all its facts with their times."""
    facts: list[tuple[int, Fact]] = []
    publish = Recorder.publish

    def noted(self: Recorder, now: Ns, fact: Fact) -> None:
        facts.append((now, fact))
        publish(self, now, fact)

    monkeypatch.setattr(Recorder, "publish", noted)
    return simulate(model), facts


def the(facts: list[tuple[int, Fact]], kind: type) -> list[tuple[int, Fact]]:
    return [(time, fact) for time, fact in facts if isinstance(fact, kind)]


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_an_initial_sync_takes_the_size_over_the_bandwidth(fidelity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, facts = played(model("initial", fidelity=fidelity), monkeypatch)
    ((began, start),) = the(facts, SyncStarted)
    ((ended, end),) = the(facts, SyncEnded)
    assert (began, start.sync, start.trigger) == (0, Sync.INITIAL, Trigger.CONFIGURATION)  # type: ignore[attr-defined]
    assert (end.sync, end.compared_bytes) == (Sync.INITIAL, 0)  # type: ignore[attr-defined]
    assert SIZE <= end.sent_bytes <= 1.03 * SIZE  # type: ignore[attr-defined]
    assert (ended - began) / SECOND == pytest.approx(SIZE / BANDWIDTH, rel=0.04)


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_preseeded_copy_is_compared_as_a_whole_and_what_differs_is_sent(
    fidelity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, facts = played(model("preseeded", fidelity=fidelity), monkeypatch)
    ((_, start),) = the(facts, SyncStarted)
    ((ended, end),) = the(facts, SyncEnded)
    assert (start.sync, start.dirty_bytes, end.compared_bytes) == (Sync.INITIAL, SIZE, SIZE)  # type: ignore[attr-defined]
    written = 20 * 8192 * ended / SECOND  # nearly each write touches regions of its own
    assert 0.04 * SIZE < end.sent_bytes < 0.06 * SIZE + 2 * written  # type: ignore[attr-defined]
    assert ended / SECOND < 0.5 * SIZE / BANDWIDTH


@pytest.mark.parametrize("sync", ["initial", "preseeded"])
def test_no_checkpoint_before_it_is_over_and_one_soon_after(sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, facts = played(model(sync), monkeypatch)
    ((ended, _),) = the(facts, SyncEnded)
    record = run.record("crm")
    assert the(facts, CheckpointListed)[0][0] > ended
    assert ended < record.taken[0] <= ended + 6 * SECOND
    assert len(record.taken) >= (80 * SECOND - ended) // (5 * SECOND) - 1


def test_in_sync_from_the_beginning_nothing_is_compared_or_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    _, facts = played(model("done"), monkeypatch)
    assert the(facts, SyncStarted) == []


def test_initial_syncs_of_two_vms_share_the_wan(monkeypatch: pytest.MonkeyPatch) -> None:
    _, facts = played(model("initial", size=SIZE // 2, vms=2), monkeypatch)
    ended = the(facts, SyncEnded)
    assert sum(fact.sent_bytes for _, fact in ended) == pytest.approx(SIZE, rel=0.03)  # type: ignore[attr-defined]
    assert max(time for time, _ in ended) / SECOND == pytest.approx(SIZE / BANDWIDTH, rel=0.04)


@pytest.mark.parametrize("sync", ["initial", "preseeded"])
def test_write_and_slice_send_the_same_and_journal_the_same_after_it(
    sync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no guest writing while it lasts, the syncs are equal to the byte; then the journals are."""
    runs = []
    for fidelity in ("write", "slice"):
        run, facts = played(model(sync, fidelity=fidelity, rate=0.01), monkeypatch)
        ((_, end),) = the(facts, SyncEnded)
        runs.append((run.journal_digest(), end))
    assert runs[0] == runs[1]


# -- Differences --------------------------------------------------------------------------------------------------

STREAM = StreamId("crm", Address("west/h"), Address("east/r"))
SECTORS = {3: 22, 4: 64}
SPEC = StreamSpec(
    STREAM, (VmId(1), VmId(2)), tuple(VolumeInfo(VolumeId(v), VmId(v - 2), n) for v, n in SECTORS.items())
)
TINY_REGION = 4


def new(share: float = 0.0) -> tuple[Differences, Sender]:
    tweaks = Tweaks().model_copy(update={"region_bytes": TINY_REGION * SECTOR})
    made = Differences(TINY_REGION * SECTOR)
    if share:
        made.preseed(STREAM, share)
    return made, Sender(SPEC, tweaks, tail_bytes=0)


def differing(made: Differences, volume: int) -> set[int]:
    """Regions that a comparison of a whole volume finds."""
    extent = Extent(VmId(volume - 2), VolumeId(volume), 0, SECTORS[volume])
    here, there = (made.digests(STREAM, extent, source=source) for source in (True, False))
    assert len(here) == len(there) == -(-SECTORS[volume] // TINY_REGION)
    return {n for n, (a, b) in enumerate(zip(here, there, strict=True)) if a != b}


@pytest.mark.parametrize("seed", range(30))
def test_differences_against_a_set_of_regions(seed: int) -> None:
    rng = random.Random(seed)
    made, sender = new()
    naive: set[tuple[int, int]] = set()
    unacknowledged: set[tuple[int, int]] = set()
    noted = False
    for _ in range(40):
        volume = rng.choice(list(SECTORS))
        lba = rng.randrange(SECTORS[volume])
        n = rng.randint(1, min(9, SECTORS[volume] - lba))
        regions = {(volume, r) for r in range(lba // TINY_REGION, (lba + n - 1) // TINY_REGION + 1)}
        match rng.randrange(6):
            case 0:
                made.note(SPEC, sender)
                naive |= unacknowledged
                noted = True
            case 1 if rng.random() < 0.3:
                made.settled(STREAM)
                naive.clear()
                noted = False
            case 2:
                sender.bitmap.mark(writes((volume - 2, volume, lba, n)))
                unacknowledged |= regions
            case 3:
                sender.capture(writes((volume - 2, volume, lba, n)), 1 << 30)
                unacknowledged |= regions
            case _:
                made.wrote(STREAM, writes((volume - 2, volume, lba, n)))
                naive |= regions if noted else set()
        for each in SECTORS:
            assert differing(made, each) == {r for v, r in naive if v == each}


def test_part_of_a_volume_is_digested_as_in_the_whole() -> None:
    made, sender = new()
    made.note(SPEC, sender)
    made.wrote(STREAM, writes((2, 4, 9, 1), (2, 4, 40, 8)))
    whole = made.digests(STREAM, Extent(VmId(2), VolumeId(4), 0, 64), source=True)
    for first in range(16):
        for last in range(first + 1, 17):
            extent = Extent(VmId(2), VolumeId(4), 4 * first, 4 * (last - first))
            assert made.digests(STREAM, extent, source=True) == whole[first:last]


def test_a_preseeded_copy_differs_in_its_share_the_same_each_time_and_no_more_once_settled() -> None:
    made = Differences(REGION)
    made.preseed(STREAM, 0.05)
    extent = Extent(VmId(1), VolumeId(3), 0, 100_000 * REGION // SECTOR)
    found = made.digests(STREAM, extent, source=True)
    assert np.frombuffer(found, np.uint8).mean() == pytest.approx(0.05, rel=0.05)
    assert made.digests(STREAM, extent, source=True) == found
    assert not any(made.digests(STREAM, extent, source=False))
    runs = np.diff(np.flatnonzero(np.frombuffer(found, np.uint8)))
    assert (runs == 1).mean() < 0.1, "scattered, not in one place"
    made.settled(STREAM)
    assert not any(made.digests(STREAM, extent, source=True))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_or_everything_of_a_copy_differs(share: float) -> None:
    made, _ = new(share)
    assert len(differing(made, 4)) == 16 * share
