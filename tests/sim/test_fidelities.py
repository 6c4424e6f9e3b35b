"""The links between fidelities: same writes, same cuts, same journals; times agree within a slice, and converge."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from estates import SECOND, two_site

from drsim.core.batch import content_digest
from drsim.sim.run import Run, simulate
from drsim.spec.model import Model

LOAD = {"kind": "onoff", "rate": 400.0, "size": "8 KiB", "on": "7 s", "off": "9 s", "pattern": "uniform"}
UNTIL = 90


def model(fidelity: str, slice_: str = "1 s", *, bandwidth: str = "60 Mbit/s") -> Model:
    return two_site(
        workload=LOAD, vms=4, hosts=2, link={"bandwidth": bandwidth},
        run={"until": f"{UNTIL} s", "fidelity": fidelity, "slice": slice_}, tweaks={"frame_bytes": "128 KiB"},
    )  # fmt: skip


def cuts(run: Run) -> dict[int, dict[str, tuple[int, ...]]]:
    """The cut of every listed checkpoint, by number."""
    (vpg,) = run.layout.vpgs
    catalog = run.world.kernel.machines[vpg.catalog]
    return {c.id: {str(s): cut.position for s, cut in c.cut.items()} for c in catalog.listed}  # type: ignore[attr-defined]


def journal_digests(run: Run) -> dict[int, dict[str, int]]:
    """For every listed checkpoint, the digest of each stream's journal up to its cut."""
    found: dict[int, dict[str, int]] = {}
    for checkpoint, cut in cuts(run).items():
        found[checkpoint] = {}
        for stream, store in run.world.journals.items():
            total, at = 0, (0,) * len(run.layout.streams[stream].vms)
            for frame in store.files[stream].frames:
                if at == cut[str(stream)]:
                    break
                slot = np.searchsorted(run.layout.streams[stream].vms, frame.batch.vm)
                lsn = np.asarray(frame.after)[slot] + 1 + frame.batch.ranks()
                total, at = (total + content_digest(frame.batch, lsn)) % 2**64, frame.upto
            assert at == cut[str(stream)], "a cut lies at the end of a frame"
            found[checkpoint][str(stream)] = total
    return found


@pytest.mark.slow
@pytest.mark.parametrize("bandwidth", ["100 Mbit/s", "60 Mbit/s"])
def test_write_and_slice_give_the_same_journals_and_cuts(bandwidth: str) -> None:
    exact = simulate(model("write", bandwidth=bandwidth), keep_frames=True)
    sliced = simulate(model("slice", bandwidth=bandwidth), keep_frames=True)
    shared = cuts(exact).keys() & cuts(sliced).keys()
    assert len(shared) >= UNTIL // 5 - 3
    for figure in (cuts, journal_digests):
        a, b = figure(exact), figure(sliced)
        assert {c: a[c] for c in shared} == {c: b[c] for c in shared}


def differences(exact: Run, sliced: Run) -> tuple[float, float, float]:
    """Largest differences: when a checkpoint was listed (s), buffer in seconds of its fill rate, WAN seconds."""
    a, b = exact.record("crm"), sliced.record("crm")
    listed_a, listed_b = (dict(zip(r.ids, r.listed, strict=True)) for r in (a, b))
    shared = listed_a.keys() & listed_b.keys()
    times = max(abs(listed_a[c] - listed_b[c]) for c in shared) / SECOND
    rate = 4 * 400 * 8192  # bytes per second that the guests write in a burst
    pairs = list(zip(exact.recorder.samples, sliced.recorder.samples, strict=True))
    buffers = max(abs(sum(x.buffers.values()) - sum(y.buffers.values())) for x, y in pairs) / rate
    wan = max(abs(x.wan["wan london>leeds"]["data"] - y.wan["wan london>leeds"]["data"]) for x, y in pairs) / rate
    return times, buffers, wan


def test_times_agree_within_a_slice_and_converge_as_slices_shrink() -> None:
    exact = simulate(model("write"))
    lengths = [1.6, 0.8, 0.4, 0.1]
    found = [differences(exact, simulate(model("slice", f"{round(length * 1000)} ms"))) for length in lengths]
    frames = 2 * 2 * 131072 / (4 * 400 * 8192)  # a frame is acknowledged whole: one under way on each stream
    for length, (times, buffers, wan) in zip(lengths, found, strict=True):
        assert times <= length
        assert buffers <= length + frames
        assert wan <= length + frames
    for column in zip(*found, strict=True):
        assert all(b <= a + 1e-9 for a, b in pairwise(column)), column
        assert column[-1] < column[0] / 4


PROGRAM = """
import sys
from itertools import pairwise
sys.path.insert(0, {tests!r})
from test_fidelities import model
from drsim.sim.run import simulate
run = simulate(model("slice"))
print(run.trace_digest, sorted(run.journal_digest().values()))
"""


def test_two_processes_with_different_hash_seeds_give_the_same_trace() -> None:
    here = os.path.dirname(__file__)
    outputs = set()
    for seed in ("0", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(here)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(tests=here)], env=env, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop()) > 40


def test_another_seed_gives_another_trace() -> None:
    assert simulate(model("slice")).trace_digest != simulate(model("slice"), seed=2).trace_digest


def test_adding_a_vm_or_a_fault_shifts_no_other_stream() -> None:
    def lbas(vms: int, **more: object) -> list[int]:
        run = simulate(
            two_site(
                workload={"kind": "poisson", "rate": 50.0, "pattern": "uniform"},
                vms=vms,
                run={"until": "20 s"},
                **more,  # type: ignore[arg-type]
            ),
            keep_frames=True,
        )
        (store,) = set(run.world.journals.values())
        (file,) = store.files.values()
        return [x for f in file.frames for x in f.batch.lba[f.batch.vm == 0].tolist()]

    alone = lbas(2)
    assert len(alone) > 500
    assert lbas(3)[: len(alone)] == alone
    fault = {"kind": "link-degraded", "link": "wan", "at": "5 s", "lasts": "5 s", "loss": "1 %"}
    assert lbas(2, faults=[fault])[: len(alone)] == alone[: len(lbas(2, faults=[fault]))]
