"""The explorer's world allows whatever the simulation does, step for step; and nothing but events goes into a machine.

Models are small, and everything in them is drawn: guests, links, delays, faults that overlap.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from estates import two_site
from hypothesis import given, settings
from hypothesis import strategies as st

from drsim.core.events import Connected, Done, Fired, Lost, Received
from drsim.core.machine import Machine
from drsim.core.names import Address, VmId, VolumeId, VolumeInfo
from drsim.core.receiver import Receiver
from drsim.core.units import SECOND, SECTOR
from drsim.real.pair import Settings, _add_machines, _specs, protect
from drsim.sim.layout import Layout
from drsim.sim.run import simulate
from drsim.spec.model import Model
from drsim.verify.parity import Recording, Step, chosen, fresh
from drsim.verify.violation import Violation

STEPS = 10**6


def recorded(model: Model, seed: int = 1) -> Recording:
    recording = Recording()
    run = simulate(model, seed=seed, trace=recording)
    assert run.trace_digest == recording.hexdigest
    return recording


def machines(model: Model) -> dict[Address, Machine]:
    return Layout(model).machines(model.tweaks)


def agree(model: Model, seed: int = 1) -> Recording:
    recording = recorded(model, seed)
    assert chosen(machines(model), recording, max_steps=STEPS) == recording.hexdigest
    assert fresh(machines(model), recording, max_steps=STEPS) == recording.hexdigest
    return recording


# -- any model ------------------------------------------------------------------------------------------------


def ms(low: int, high: int) -> st.SearchStrategy[str]:
    """A duration; its numbers are not round, so that things seldom fall together unless they must."""
    return st.integers(low, high).map(lambda n: f"{n} ms")


LASTING = st.fixed_dictionaries({"at": ms(1000, 9000), "lasts": ms(1, 4000)})
FAULTS = st.one_of(
    LASTING.map(lambda f: {"kind": "link-down", "link": "wan", **f}),
    st.tuples(LASTING, ms(100, 2000), ms(100, 2000)).map(
        lambda t: {"kind": "link-flapping", "link": "wan", **t[0], "down": t[1], "up": t[2]}
    ),
    st.tuples(LASTING, ms(0, 3000)).map(lambda t: {"kind": "link-degraded", "link": "wan", **t[0], "latency": t[1]}),
    st.tuples(LASTING, st.sampled_from(["london-1", "london-2", "leeds-1"])).map(
        lambda t: {"kind": "vra-restart", "host": t[1], **t[0]}
    ),
    LASTING.map(lambda f: {"kind": "datastore-full", "datastore": "san-2", **f}),
    st.sampled_from(["london", "leeds"]).map(lambda site: {"kind": "site-loss", "site": site, "at": "8 s"}),
)
LOADS = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["constant", "poisson"]), "rate": st.integers(2, 25)}),
    st.just({"kind": "onoff", "rate": 60, "on": "700 ms", "off": "1900 ms", "pattern": "uniform"}),
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Two VPGs at most on two protected hosts, ten seconds, up to three faults."""
    jitter = draw(st.sampled_from(["0 ms", "3 ms"]))
    changes: dict[str, Any] = {
        "workload": {**draw(LOADS), "size": draw(st.sampled_from(["4 KiB", "4 MiB"]))},
        "vms": draw(st.integers(2, 3)),
        "hosts": 2,
        "link": {
            "bandwidth": draw(st.sampled_from(["100 Mbit/s", "1 Mbit/s", "1 Gbit/s"])),
            "latency": draw(st.sampled_from(["5 ms", "400 ms"])),
            "jitter": jitter,
        },
        "store": {"capacity": draw(st.sampled_from(["100 TB", "30 MB"]))},
        "vra": {"ram": 1},
        "vpg": {
            "checkpoint_interval": "1 s", "compression": draw(st.booleans()), "split": draw(st.sampled_from([9, 2])),
        },
        "run": {"until": "12 s", "fidelity": "write"},
        "tweaks": {"peer_timeout": "500 ms", "retry_pause": "300 ms", "age_interval": "2 s", "window_frames": 4},
        "faults": draw(st.lists(FAULTS, max_size=3)),
    }  # fmt: skip
    model = two_site(**changes)
    sites = {
        name: site.model_copy(update={"lan_jitter": 10**6 * int(jitter != "0 ms")})
        for name, site in model.sites.items()
    }
    return model.model_copy(update={"sites": sites})


@settings(max_examples=max(5, settings.default.max_examples // 8))
@given(models(), st.integers(0, 3))
def test_any_simulated_run_can_be_chosen(model: Model, seed: int) -> None:
    agree(model, seed)


# -- each fault, so that every choice of the table is made ----------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ({"kind": "link-down", "link": "wan", "lasts": "5 s"}, {Lost, Connected, Fired}),
        ({"kind": "vra-restart", "host": "london-1", "lasts": "4 s"}, {Lost, Connected}),
        ({"kind": "vra-restart", "host": "leeds-1", "lasts": "1 ms"}, {Lost, Connected}),
        ({"kind": "datastore-full", "datastore": "san-2", "lasts": "4 s"}, {Done}),
        ({"kind": "site-loss", "site": "london"}, {Lost}),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_each_fault(fault: dict[str, str], kinds: set[type]) -> None:
    model = two_site(
        rate=10, vms=3, hosts=2, run={"until": "14 s", "fidelity": "write"}, vpg={"checkpoint_interval": "2 s"},
        tweaks={"peer_timeout": "1 s"}, faults=[{"at": "4.001 s", **fault}],
    )  # fmt: skip
    recording = agree(model)
    assert kinds <= {type(step.event) for step in recording.steps}


# -- it can fail ----------------------------------------------------------------------------------------------

SMALL = two_site(
    rate=20, vms=2, run={"until": "12 s", "fidelity": "write"}, tweaks={"peer_timeout": "1 s"},
    faults=[{"kind": "link-down", "link": "wan", "at": "3 s", "lasts": "2 s"}],
)  # fmt: skip


def is_message(step: Step) -> bool:
    return isinstance(step.event, Received)


def without(recording: Recording, kind: Callable[[Step], bool]) -> None:
    """The third step of a kind is missing."""
    at = [n for n, step in enumerate(recording.steps) if kind(step)][2]
    del recording.steps[at]


def twice(recording: Recording, kind: Callable[[Step], bool]) -> None:
    """The third step of a kind comes twice."""
    at = [n for n, step in enumerate(recording.steps) if kind(step)][2]
    recording.steps.insert(at, recording.steps[at])


def late(recording: Recording) -> None:
    """A timer runs out a little late."""
    at = next(n for n, step in enumerate(recording.steps) if isinstance(step.event, Fired))
    recording.steps[at] = replace(recording.steps[at], now=recording.steps[at].now + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "seen"),
    [
        (lambda r: without(r, is_message), "before it comes|no target has this"),
        (lambda r: twice(r, is_message), "before it comes|nothing is on its way"),
        (lambda r: twice(r, lambda s: isinstance(s.event, Done)), "no target has this"),
        (lambda r: without(r, lambda s: isinstance(s.event, Done)), "no target has this|on its way"),
        (late, "armed for"),
        (lambda r: twice(r, lambda s: isinstance(s.event, Fired)), "not armed|armed for"),
        (lambda r: without(r, lambda s: isinstance(s.event, Lost | Connected)), "is another one|on its way|before it"),
    ],
)  # fmt: skip
def test_what_could_not_be_chosen_is_seen(spoil: Callable[[Recording], None], seen: str) -> None:
    recording = recorded(SMALL)
    spoil(recording)
    with pytest.raises(Violation, match=seen) as error:
        chosen(machines(SMALL), recording, max_steps=STEPS)
    assert error.value.prop == "P28"


def test_another_core_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = recorded(SMALL)
    monkeypatch.setattr(Receiver, "_ack", lambda self: None)
    with pytest.raises(Violation, match=r"step \d+ is another one\n  then: .*Ack.*\n  now: ") as error:
        fresh(machines(SMALL), recording, max_steps=STEPS)
    assert error.value.prop == "P28"


# -- live -----------------------------------------------------------------------------------------------------


class Shelf:
    """Takes the machines that a live pair is built of."""

    def __init__(self, name: str, machines: dict[Address, Machine]) -> None:
        self.name, self.add = name, machines.__setitem__


async def live(directory: Path, volumes: list[VolumeInfo], hosts: dict[VmId, str], trace: Recording) -> None:
    async with protect(directory, volumes, hosts, settings=SETTINGS, trace=trace) as pair:
        for n in range(6):
            await asyncio.gather(*(pair.write(v.id, 512 * (7 * n + v.id), bytes([n]) * 512 * 9) for v in volumes))
            if n % 2:
                async with asyncio.timeout(60):
                    await pair.checkpoint(f"tag {n}")


SETTINGS = Settings(interval=3600 * SECOND)


def test_p28_the_events_of_a_live_pair_give_the_same_effects_on_fresh_machines(tmp_path: Path) -> None:
    volumes = [VolumeInfo(VolumeId(n), VmId(n), (1 << 20) // SECTOR) for n in range(3)]
    hosts = {VmId(n): f"london-{n // 2}" for n in range(3)}
    recording = Recording()
    asyncio.run(live(tmp_path / "pair", volumes, hosts, recording))
    built: dict[Address, Machine] = {}
    shelves = [Shelf(name, built) for name in (SETTINGS.protected, SETTINGS.recovery)]
    _add_machines(SETTINGS, *shelves, _specs(SETTINGS, volumes, hosts))  # type: ignore[arg-type]
    assert len(recording.steps) > 50
    assert fresh(built, recording, max_steps=STEPS) == recording.hexdigest
