"""One scenario in both worlds: SimPy time with modelled disks, and asyncio with loopback TCP and files.

The very same machines run in both; the journals' content and the checkpoints' cuts must be the same.
"""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from estates import SECOND, two_site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drsim.core.events import TagAsked
from drsim.real.replay import Content, Cuts, Step, replay
from drsim.sim.guest import GuestVm, Writer
from drsim.sim.layout import Layout
from drsim.sim.record import Recorder
from drsim.sim.tap import Tap
from drsim.sim.workload import Writes
from drsim.sim.world import World

STEP = SECOND // 100


class Scripted:
    """The writes of one VM out of a script, one step every 10 ms."""

    def __init__(self, script: list[Step], vm: int) -> None:
        rows = [(n * STEP, s[3], s[4]) for n, s in enumerate(script, 1) if s[0] == "write" and s[1] == vm]  # type: ignore[misc]
        self.issued, self.lba, self.sectors = (np.array([r[k] for r in rows], np.int64) for k in range(3))
        self.after = -1

    def take(self, until: int) -> Writes:
        keep = (self.issued > self.after) & (self.issued <= until)
        self.after = until
        n = int(keep.sum())
        return Writes(self.issued[keep], np.zeros(n, np.int32), self.lba[keep], self.sectors[keep].astype(np.int32))


def simulated(script: list[Step], fidelity: str) -> tuple[Cuts, Content]:
    """What `replay` gives, in the simulation world."""
    model = two_site(
        vms=2, vpg={"checkpoint_interval": "1 h"}, run={"fidelity": fidelity, "until": "1 h", "slice": "50 ms"}
    )
    layout = Layout(model)
    (spec,) = layout.streams.values()
    store = model.datastores["san-1"]
    writers = [
        Writer(GuestVm(vm, (volume.id,), store, Scripted(script, vm), rate=50.0, compress_to=1.0))
        for vm, volume in zip(spec.vms, spec.volumes, strict=True)
    ]
    recorder = Recorder(3600 * SECOND)
    world = World(model, layout, {spec.id: Tap(spec, writers)}, recorder, seed=1, keep_frames=True)
    recorder.attach(world)
    world.start()
    (vpg,) = layout.vpgs
    for n, step in enumerate(script, 1):
        world.run_until(n * STEP)
        if step[0] == "checkpoint":
            world.post(vpg.manager, TagAsked(str(step[1])))
    world.run_until((len(script) + 200) * STEP)
    catalog = world.kernel.machines[vpg.catalog]
    cuts: Cuts = {
        c.tag: {str(s): (cut.epoch, cut.position) for s, cut in c.cut.items()}
        for c in catalog.listed  # type: ignore[attr-defined]
    }
    content: Content = {vm: [] for vm in spec.vms}
    for frame in world.journals[spec.id].files[spec.id].frames:
        for vm, volume, lba, sectors in zip(
            *(column.tolist() for column in (frame.batch.vm, frame.batch.volume, frame.batch.lba, frame.batch.sectors)),
            strict=True,
        ):
            content[vm].append((len(content[vm]) + 1, volume, lba, sectors))
    return cuts, content


writes = st.integers(0, 1).flatmap(
    lambda vm: st.tuples(st.just("write"), st.just(vm), st.just(vm), st.integers(0, 2040), st.integers(1, 8))
)
scripts = st.lists(st.one_of(writes, writes, writes, st.just(("checkpoint", ""))), min_size=1, max_size=30)


def tagged(script: list[Step]) -> list[Step]:
    return [("checkpoint", f"c{n}") if s[0] == "checkpoint" else s for n, s in enumerate(script)]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts.map(tagged))
def test_one_scenario_two_worlds(script: list[Step], tmp_path_factory: pytest.TempPathFactory) -> None:
    real = asyncio.run(replay(script, tmp_path_factory.mktemp("real")))
    assert simulated(script, "write") == real
    assert simulated(script, "slice") == real


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    script: list[Step] = [("write", 0, 0, 0, 8), ("checkpoint", "a"), ("write", 1, 1, 8, 8)]
    cuts, content = asyncio.run(replay(script, tmp_path / "real"))
    stream = "crm:london/london-1/vra>leeds/leeds-1/recovery-vra"
    assert cuts == {"a": {stream: (1, (1, 0))}}
    assert content == {0: [(1, 0, 0, 8)], 1: [(1, 1, 8, 8)]}
    assert simulated([*script, ("write", 0, 0, 0, 8)], "slice") != (cuts, content)
