"""Expected: what RPO and RTO an operation on a real VPG should have, by simulating it with what was measured there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drsim.sim.run import simulate
from drsim.spec.model import Model
from drsim.study.operation import figures

SECOND = 10**9
SEEDS = 20
"""Disasters that are simulated, at different instants of the checkpoint interval."""
_BEFORE, _AFTER = 60 * SECOND, 120 * SECOND
KINDS = {"create": "create ", "disks": "make disks", "attach": "attach", "power_on": "power on", "boot": "wait for"}
"""Parts of an operation, and how the words of their steps begin."""


@dataclass(frozen=True, slots=True)
class ExpectedVm:
    """A VM as the simulation needs it. `write_rate`: writes of 512 bytes a second."""

    name: str
    size: int
    write_rate: float
    group: int = 0


def durations(steps: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds of each kind of step among those of operations that are over; what never happened is left out."""
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for step in steps:
        for kind, begins in KINDS.items():
            if step["what"].startswith(begins) and step["ended"] is not None and not step["error"]:
                took[kind].append(step["ended"] - step["begun"])
    return {kind: sum(times) / len(times) for kind, times in took.items() if times}


def expected(
    vms: Sequence[ExpectedVm], interval: int, took: Mapping[str, float], *, disaster: bool = True,
    boot_delay: int = 0, seeds: int = SEEDS,
) -> dict[str, Any]:  # fmt: skip
    """Least, middle and most seconds of RPO and RTO over `seeds` instants. `interval`, `boot_delay` in nanoseconds.

    `disaster`: the source is lost, and all is failed over; else it is a test. `took`: of `durations`; what is not in it
    is the model's default (`spec/recovery.py`).
    """
    platform: dict[str, Any] = {name: _ns(took[name]) for name in ("attach", "power_on") if name in took}
    if "create" in took:
        platform["create"] = _ns(took["create"] + took.get("disks", 0.0))
    made = {
        vm.name: {
            "host": "here-1", "datastore": "here", "application": "0s",
            "volumes": [{"name": "system", "size": f"{max(1 << 20, vm.size)} B"}],
            "workload": {"kind": "constant", "rate": max(0.1, vm.write_rate), "size": "512 B"},
            **({"boot": _ns(took["boot"])} if "boot" in took else {}),
        }
        for vm in vms
    }  # fmt: skip
    groups = sorted({vm.group for vm in vms if vm.group})
    runs = []
    for seed in range(seeds):
        at = _BEFORE + seed * interval // seeds
        lost = [{"kind": "site-loss", "site": "here", "at": at}] if disaster else []
        what = {"kind": "failover"} if disaster else {"kind": "test", "lasts": SECOND}
        model = Model.model_validate({
            "sites": {"here": {}, "there": {"hypervisor": platform}},
            "datastores": {"here": {"site": "here"}, "there": {"site": "there"}},
            "hosts": {"here-1": {"site": "here"}, "there-1": {"site": "there"}},
            "links": {"wan": {"between": ["here", "there"], "bandwidth": "10 Gbit/s", "latency": "0.1 ms"}},
            "vms": made,
            "vpgs": {"vpg": {
                "vms": list(made), "recovery": {"hosts": ["there-1"], "datastore": "there"},
                "checkpoint_interval": max(SECOND, interval), "boot_delay": boot_delay,
                "boot_groups": [[vm.name for vm in vms if vm.group == group] for group in groups],
            }},
            "faults": lost,
            "operations": [{**what, "vpg": "vpg", "at": at}],
            "run": {"until": at + _AFTER + boot_delay * len(groups), "seed": seed},
        })  # fmt: skip
        run = simulate(model, stop=lambda world: any(o.report for o in world.recoveries.operations))
        runs.append(figures(run.world.recoveries.operations[0]))
    rpo = (each["asked_s"] - each["taken_s"] for each in runs if each["taken_s"] is not None)
    return {"runs": seeds, "rpo_s": _span(rpo), "rto_s": _span(each["rto_s"] for each in runs)}


def _span(values: Iterable[float | None]) -> list[float]:
    found = sorted(value for value in values if value is not None)
    return [found[0], found[len(found) // 2], found[-1]] if found else []


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)
