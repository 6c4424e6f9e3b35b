"""Agents in simulated guests: when they are at rest, what they then write, and what checkpoints claim."""

from typing import Any

import numpy as np
import pytest
from estates import SECOND, two_site

from drsim.core.batch import WriteBatch
from drsim.core.names import VmId
from drsim.sim.layout import Layout
from drsim.sim.run import Run, simulate, taps
from drsim.sim.tap import Amount
from drsim.spec.model import Model

TAKES, SLOW = 2 * SECOND, 10 * SECOND + SECOND // 1000  # the agents have 10 s


def model(*, agent: dict[str, Any] | None, vms: int = 2, faults: Any = (), **run: Any) -> Model:
    made = two_site(
        rate=50, vms=vms, hosts=2, vpg={"application_consistent": {"every": "1 min"}}, faults=faults,
        run={"until": "200 s", **run}, tweaks={"freeze_timeout": "20 s"},
    )  # fmt: skip
    app = made.vms["app"]
    return Model.model_validate({**made.model_dump(), "vms": {"app": {**app.model_dump(), "quiesce": agent}}})


def one_is_slow(spec: Model) -> Model:
    """The agent of the second VM needs longer than it is given."""
    app = spec.vms["app"].model_copy(update={"count": 1, "host": "london-1"})
    assert app.quiesce is not None
    slow = app.model_copy(update={"host": "london-2", "quiesce": app.quiesce.model_copy(update={"takes": SLOW})})
    vpg = spec.vpgs["crm"].model_copy(update={"vms": ("app", "slow")})
    return spec.model_copy(update={"vms": {"app": app, "slow": slow}, "vpgs": {"crm": vpg}})


def issues(run: Run, vm: int) -> np.ndarray:
    """When each of a VM's writes that reached the journal was issued."""
    found = [
        frame.batch.issued[frame.batch.vm == vm]
        for stream, store in run.world.journals.items()
        for frame in store.files[stream].frames
    ]
    return np.concatenate(found)


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_tag_lies_between_freeze_and_thaw(fidelity: str) -> None:
    """Asked for at 60, 120 and 180 s, at rest 2 s later for a few milliseconds: that is when each is taken."""
    run = simulate(model(agent={"takes": "2 s"}, fidelity=fidelity), keep_frames=True)
    record = run.record("crm")
    assert list(record.quiesced.values()) == [("app-001", "app-002")] * 3
    at = dict(zip(record.ids, record.taken, strict=True))
    for n, checkpoint in enumerate(record.quiesced, start=1):
        taken = at[checkpoint]
        assert n * 60 * SECOND + TAKES < taken < n * 60 * SECOND + TAKES + SECOND // 100
        assert record.tags[checkpoint] == f"application consistent {n}"
    assert {e[3] for e in run.recorder.events if e[2] == "application consistent"} == {
        f"checkpoint {n}: 2 of 2 VMs at rest" for n in record.quiesced
    }


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_vm_at_rest_writes_nothing_and_then_what_it_would_have_written(fidelity: str) -> None:
    """The second VM's agent is too slow, so the first one stays at rest until its time is over."""
    run = simulate(one_is_slow(model(agent={"takes": "2 s"}, fidelity=fidelity)), keep_frames=True)
    assert list(run.record("crm").quiesced.values()) == [("app",)] * 3
    begin, end = 62 * SECOND, 70 * SECOND  # half of 20 s after it was asked for
    mine, other = issues(run, 0), issues(run, 1)
    assert not np.any((mine > begin) & (mine < end))
    assert np.any((other > begin) & (other < end))
    at_once = mine[(mine >= end) & (mine < end + SECOND // 10)]
    assert len(at_once) >= 50 * 8
    assert len(np.unique(at_once[: 50 * 8])) == 1
    assert np.all(np.diff(mine) >= 0)
    assert abs(len(mine) - len(other)) <= 50 * 5, "nothing is left out"
    assert run.world.agents.rest == {VmId(0): pytest.approx(3 * 8 * SECOND, rel=0.01)}


def test_both_fidelities_give_the_same_journals() -> None:
    spec = model(agent={"takes": "2 s", "fails": "40 %"}, vms=4)
    runs = [
        simulate(spec.model_copy(update={"run": spec.run.model_copy(update={"fidelity": fidelity})}))
        for fidelity in ("slice", "write")
    ]
    assert runs[0].record("crm").quiesced == runs[1].record("crm").quiesced
    assert runs[0].record("crm").quiesced
    assert runs[0].record("crm").taken == runs[1].record("crm").taken


def test_who_has_no_agent_takes_no_part() -> None:
    record = simulate(model(agent=None)).record("crm")
    assert not record.quiesced
    assert [tag for tag in record.tags.values() if tag.startswith("application consistent")]


def test_who_fails_takes_no_part() -> None:
    assert not simulate(model(agent={"fails": "100 %"})).record("crm").quiesced


@pytest.mark.parametrize("kind", ["vra-crash", "vra-restart"])
def test_the_end_of_a_vra_lets_its_guests_go_on(kind: str) -> None:
    """While its own agent has been at rest for two seconds, and the other VRA's is still busy."""
    faults = [{"kind": kind, "at": "64 s", "host": "london-1", "lasts": "30 s"}]
    run = simulate(one_is_slow(model(agent={"takes": "2 s"}, faults=faults, until="100 s")))
    assert run.world.agents.rest[VmId(0)] == pytest.approx(2 * SECOND, abs=SECOND // 100)
    assert not run.world.agents._frozen


def test_what_is_postponed_is_neither_captured_nor_acknowledged() -> None:
    """Truth of a loss: a write that was never issued cannot be lost. Beside a tap that nobody froze."""
    spec = model(agent={}, vms=4)
    layout = Layout(spec)
    tap, other = (next(iter(taps(spec, layout, 1)[0].values())) for _ in range(2))
    first, second = tap.spec.vms
    for each in (tap, other):
        each.pull(10 * SECOND)
    tap.freeze(first)
    batches = [tap.pull(n * SECOND) for n in (11, 20)]
    assert {int(vm) for some in batches for batch in some for vm in np.unique(batch.vm)} == {second}
    other.pull(20 * SECOND)
    missing = other.pulled - tap.pulled
    assert missing == Amount(500, 500 * 8192)
    still = Amount(1, 8192)  # would be on its way to the disk
    assert other.acknowledged(20 * SECOND) - tap.acknowledged(20 * SECOND) == missing - still
    tap.thaw(first, 20 * SECOND)
    assert other.pulled - tap.pulled == missing, "not handed over yet"
    late = WriteBatch.join(tap.pull(20 * SECOND))
    assert (len(late), set(late.vm.tolist()), set(late.issued.tolist())) == (500, {first}, {20 * SECOND})
    assert (tap.pulled, tap.acknowledged(20 * SECOND)) == (other.pulled, other.acknowledged(20 * SECOND))
    assert sum(len(b) for b in tap.pull(21 * SECOND)) == sum(len(b) for b in other.pull(21 * SECOND)) == 100
