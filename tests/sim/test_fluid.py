"""Fluid: held to `slice` by the tolerances of DESIGN 3, its parts to their definitions, and it refuses the rest."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estates import SECOND, two_site
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.errors import FileError
from drsim.core.measure import joined
from drsim.files.models import load_model
from drsim.sim.fluid.legs import turned
from drsim.sim.fluid.load import Load, Part, parts
from drsim.sim.fluid.network import fair
from drsim.sim.fluid.record import Journals, Rpo
from drsim.sim.fluid.run import simulate_fluid
from drsim.sim.layout import Layout
from drsim.sim.run import guests, simulate
from drsim.sim.streams import Streams
from drsim.spec.model import Model
from drsim.study.fluid import figures as fluid_figures
from drsim.study.fluid import missed
from drsim.study.results import figures, measures, missed_intervals

ROOT = Path(__file__).parents[2]
ONE_VM = ROOT / "experiments" / "one-vm.yaml"
PAIR = {
    "hosts": {"prod-host-2": {"use": "hosts/standard", "site": "prod"}},
    "vms": {
        "web": {
            "host": "prod-host-2", "datastore": "prod-store", "volumes": [{"name": "data", "size": "10 GiB"}],
            "workload": {
                "kind": "onoff", "rate": 150, "size": "8 KiB", "on": "10 min", "off": "10 min", "pattern": "uniform",
                "working_set": "10 GiB",
            },
        }
    },
    "vpgs": {
        "app": {"priority": "high"},
        "web": {
            "vms": ["web"], "priority": "low", "recovery": {"hosts": ["dr-host"], "datastore": "dr-store"},
            "compression": False, "journal": {"use": "journals/default"},
        },
    },
}  # fmt: skip


def written(tmp_path: Path, **changes: Any) -> Path:
    from ruamel.yaml import YAML

    path = tmp_path / "model.yaml"
    with path.open("w") as file:
        YAML().dump({"about": "A test.", "extends": str(ONE_VM), **changes}, file)
    return path


def fault(kind: str, at: str, lasts: str, **what: Any) -> dict[str, Any]:
    where = {} if "vm" in what else {"link": "wan"}
    return {"faults": [{"kind": kind, "at": at, "lasts": lasts, **where, **what}]}


SMALL_SET = {"vms": {"db": {"workload": {"working_set": "1 GiB"}}}}
WINDOW = {"start": "00:30", "end": "01:30", "limit": "5 Mbit/s"}
SCENARIOS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "steady": ({}, ["run.until=1 h", "run.slice=100 ms"]),
    "cut": ({**SMALL_SET, **fault("link-down", "20 min", "40 min")}, ["run.until=2 h"]),
    "drained slowly": (
        {"links": {"wan": {"bandwidth": "8 Mbit/s"}}, **fault("link-down", "10 min", "10 min")}, ["run.until=70 min"],
    ),
    "burst": (fault("guest-burst", "15 min", "12 min", vm="db", factor=10), ["run.until=75 min"]),
    "throttled": ({"links": {"wan": {"throttle": [WINDOW]}}}, ["run.until=3 h"]),
    "degraded": (fault("link-degraded", "20 min", "30 min", bandwidth="4 Mbit/s"), ["run.until=2 h"]),
    "priorities": ({**PAIR, "links": {"wan": {"bandwidth": "14 Mbit/s"}}}, ["run.until=2 h"]),
    "limited journal": ({"vpgs": {"app": {"journal": {"hard_limit": "8 GiB", "history": "6 h"}}}}, ["run.until=5 h"]),
    "preseeded": (
        {"vpgs": {"app": {"sync": "preseeded", "preseed_differs": 0.05}},
         "links": {"wan": {"bandwidth": "400 Mbit/s"}}}, ["run.until=10 min"],
    ),
    "bitmap given up": (
        {**fault("link-down", "5 min", "5 min"), "tweaks": {"bitmap_regions": 20_000},
         "links": {"wan": {"bandwidth": "100 Mbit/s"}}}, ["run.until=25 min"],
    ),
    "copied first": (
        {"vpgs": {"app": {"sync": "initial"}}, "links": {"wan": {"bandwidth": "200 Mbit/s"}}}, ["run.until=1 h"],
    ),
}  # fmt: skip


def agree(fluid: dict[str, Any], sliced: dict[str, Any]) -> None:
    """Figures of a VPG: its journal's peak within 2 %, RPO p50 and p95 within 10 % (or half a slice)."""
    assert fluid["journal"]["peak_bytes"] == pytest.approx(sliced["journal"]["peak_bytes"], rel=0.02)
    for share in ("p50", "p95"):
        assert fluid["rpo_s"][share] == pytest.approx(sliced["rpo_s"][share], rel=0.10, abs=0.6), share


@pytest.mark.parametrize("name", SCENARIOS)
def test_fluid_agrees_with_slice(name: str, tmp_path: Path) -> None:
    """WAN bytes and journal peak within 2 %, RPO p50 and p95 within 10 % (or an interval), breaches within a tick."""
    changes, overrides = SCENARIOS[name]
    model = load_model(written(tmp_path, **changes), overrides=overrides)
    fluid, run = simulate_fluid(model), simulate(model)
    mine, theirs = fluid_figures(fluid), figures(run)
    for n, vpg in enumerate(fluid.network.vpgs):
        agree(mine["vpgs"][vpg], theirs["vpgs"][vpg])
        if name == "copied first":  # nothing can be missed before the first checkpoint would have been due
            continue
        found = missed(fluid, n)
        expected = joined([(x, y + 60 * SECOND) for x, y in missed_intervals(run, run.layout.vpg_of[vpg])])
        assert len(found) == len(expected), (found, expected)
        for (x, y), (begin, end) in zip(found, expected, strict=True):
            assert x == pytest.approx(begin, abs=90 * SECOND)
            assert y == pytest.approx(end - 60 * SECOND, abs=max(90 * SECOND, 0.03 * (end - begin)))
    for link, wan in mine["wan"].items():
        sent = {kind: theirs["wan"][link]["bytes"][kind] for kind in ("data", "sync")}
        assert sum(wan["bytes"].values()) == pytest.approx(sum(sent.values()), rel=0.02)
        assert wan["bytes"]["sync"] == pytest.approx(sent["sync"], rel=0.08, abs=1e6)


BACK = {
    "links": {"wan": {"bandwidth": "40 Mbit/s"}},
    "vms": {"db": {"workload": {"working_set": "4 GiB"}, "volumes": [{"name": "data", "size": "12 GiB"}]}},
    **fault("link-down", "5 min", "6 min"),
    "operations": [
        {"kind": "failover", "at": "8 min", "vpg": "app", "decide": "2 min", "reverse": True},
        {"kind": "move", "at": "19 min", "vpg": "app", "reverse": True},
    ],
}  # fmt: skip


def test_failback_agrees_with_slice_leg_by_leg(tmp_path: Path) -> None:
    """A failover while the link is down, protection the other way, a move home: `slice` plays leg after leg.

    It takes the operations and what they lost from the core's workflow, and compares disks by digests.
    """
    model = load_model(written(tmp_path, **BACK), overrides=["run.until=27 min"])
    fluid = simulate_fluid(model)
    mine = fluid_figures(fluid)
    assert [leg.vpg.source for leg in fluid.legs] == ["prod", "dr", "prod"]
    differs, begins, reference = 0.0, 0, model
    sent = {"prod>dr": 0.0, "dr>prod": 0.0}
    for n, leg in enumerate(fluid.legs):
        each = model.operations[n : n + 1]
        operations = tuple(o.model_copy(update={"at": o.at - begins, "reverse": False}) for o in each)
        spec = reference.vpgs["app"].model_copy(update={"preseed_differs": differs})
        reference = reference.model_copy(
            update={"operations": operations, "vpgs": {"app": spec},
                    "run": model.run.model_copy(update={"until": model.run.until - begins})}
        )  # fmt: skip
        run = simulate(reference)
        theirs, found, name = figures(run), measures(run), fluid.network.vpgs[n]
        agree(mine["vpgs"][name], theirs["vpgs"]["app"])
        for way in sent:
            sent[way] += sum(theirs["wan"][f"wan {way}"]["bytes"][kind] for kind in ("data", "sync"))
        if n:
            (sync,) = [s for s in fluid.syncs if fluid.network.vpg_of_stream[s.stream] == n]
            assert sync.ended - leg.begins == pytest.approx(found["vpgs.app.sync.first_ended_s"] * SECOND, rel=0.05)
            assert sync.sent == pytest.approx(found["vpgs.app.sync.sent_bytes"], rel=0.08)
        expected = missed_intervals(run, run.layout.vpg_of["app"])
        assert len(missed(fluid, n)) == len(expected)
        for (x, y), (begin, end) in zip(missed(fluid, n), expected, strict=True):
            assert x - leg.begins == pytest.approx(begin, abs=30 * SECOND)
            assert y - leg.begins == pytest.approx(end, abs=30 * SECOND)
        if leg.before is None:
            break
        (operation,) = run.world.recoveries.operations
        report = operation.report
        assert report is not None
        assert report.service is not None
        assert operation.lost is not None
        assert leg.before.service == pytest.approx(begins + report.service, abs=2 * SECOND)
        assert leg.before.over == pytest.approx(begins + report.ended, abs=5 * SECOND)
        written_since = operation.lost.nbytes + (report.ended - report.service) / SECOND * 819_200
        differs = -np.expm1(-written_since / (4 << 30)) * 4 / 12
        begins, reference = fluid.legs[n + 1].begins, turned(leg)
    for way, nbytes in sent.items():
        assert sum(mine["wan"][f"wan {way}"]["bytes"].values()) == pytest.approx(nbytes, rel=0.02)


def test_what_a_failback_cannot_be_is_refused(tmp_path: Path) -> None:
    failover = {"kind": "failover", "at": "5 min", "vpg": "app"}
    for operations, words in (
        ([failover, {**failover, "at": "20 min"}], "not protected any more when this failover begins"),
        ([{**failover, "reverse": True}, {**failover, "at": "6 min"}], "not protected yet, the other way"),
        ([{**failover, "commit": "rollback"}], "operations that commit, and this one ends as rolled back"),
        ([{**failover, "vms": ["db"]}], "whole VPGs"),
    ):
        with pytest.raises(FileError, match=words):
            simulate_fluid(load_model(written(tmp_path, operations=operations)))
    with pytest.raises(FileError, match="does not protect the other way"):
        simulate(load_model(written(tmp_path, operations=[{**failover, "reverse": True}])))
    with pytest.raises(FileError, match="cannot be reversed"):
        load_model(written(tmp_path, operations=[{**failover, "kind": "move", "keep_source": True, "reverse": True}]))


def test_a_vm_in_several_vpgs_writes_to_each() -> None:
    run = simulate_fluid(load_model("one-to-many", overrides=["run.until=10 min"]))
    written_to = dict(zip(zip(run.network.vpg_of_stream[run.network.stream_of_vm], run.network.vms, strict=True),
                          run.raw, strict=True))  # fmt: skip
    for vm in set(run.network.vms):
        assert len({nbytes for (_, name), nbytes in written_to.items() if name == vm}) == 1
    assert len(run.network.vms) > len(set(run.network.vms))


def test_what_it_cannot_show_is_refused() -> None:
    model = two_site(run={"fidelity": "fluid"}).model_dump()
    crash = {"kind": "vra-crash", "host": "london-1", "at": "1 min", "lasts": "1 min"}
    for change, words in (
        ({"faults": [crash]}, "does not know the fault 'vra-crash'"),
        ({"operations": [{"kind": "test", "at": "5 min", "vpg": "crm"}]}, "the operation 'test'"),
    ):
        with pytest.raises(FileError, match=words) as error:
            simulate_fluid(Model.model_validate({**model, **change}))
        assert "--fidelity slice" in str(error.value)


def test_measures_have_the_names_of_other_runs() -> None:
    model = two_site(rate=20, run={"until": "10 min"})
    mine, theirs = measures(simulate_fluid(model)), measures(simulate(model))
    assert {"vpgs.crm.rpo_s.p99", "all.sla.missed_s", "vpgs.crm.journal.peak_bytes"} <= set(mine) & set(theirs)
    assert not {name for name in mine if name not in theirs and not re.search(r"\.(status_share|leg)\.", name)}


def test_a_vm_more_and_another_link_change_no_other(tmp_path: Path) -> None:
    few, many = load_model("hundred-vms"), load_model("hundred-vms", overrides=["vms.small.count=60"])
    blocks = []
    for model in (few, many):
        vms = {name: vm for name, vm in Layout(model).vms.items() if name.startswith("busy")}
        load = Load(vms, 5 * SECOND, Streams(7), {}, (), dict.fromkeys(vms, ""))
        blocks.append(np.concatenate([load.block(0, 100), load.block(100, 400)]))
    assert (blocks[0] == blocks[1]).all()
    assert blocks[0].mean() == pytest.approx(539137 * 5, rel=0.5)


@pytest.mark.parametrize("tick", [1, 5, 60])
def test_the_fitted_rate_has_its_mean_and_its_bursts_at_every_tick(tick: int) -> None:
    vm = load_model("hundred-vms", overrides=["vms.busy.workload.bursts=[{scale: 10 s, sigma: 0.5}]"]).vms["busy"]
    load = Load({"a": vm}, tick * SECOND, Streams(1), {}, (), {"a": "a"})
    found = load.block(0, 400_000 // tick)[:, 0]
    assert found.mean() == pytest.approx(load.rates[0] * tick, rel=0.02)
    per_minute = found[: len(found) // (60 // tick) * (60 // tick)].reshape(-1, 60 // tick).mean(1)
    assert per_minute.std() / per_minute.mean() == pytest.approx(np.sqrt(np.expm1(0.25) / 6), rel=0.1)


def test_bytes_and_dirty_pages_of_the_fitted_kind_are_those_of_its_writes() -> None:
    """An hour of marks against pages that the writes of the same workload touch."""
    model = load_model("hundred-vms", overrides=["run.until=1 h"])
    layout = Layout(model)
    name = "median-001"
    writes = guests(model, layout, 3)[layout.vm_ids[name]].source.take(3600 * SECOND)
    region = model.tweaks.region_bytes
    first, last = writes.lba * 512 // region, ((writes.lba + writes.sectors) * 512 - 1) // region
    pages = {(v, p) for v, a, b in zip(writes.volume, first, last, strict=True) for p in range(a, b + 1)}
    total, marked = float(writes.sectors.sum()) * 512, 0.0
    for part in parts(layout.vms[name], region, None):
        marked -= part.nbytes * np.expm1(-part.share * part.touched * total / part.nbytes)
    assert marked == pytest.approx(len(pages) * region, rel=0.1)


# -- parts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(0.1, 300))
def test_shares_are_max_min_fair(demand: list[float], capacity: float) -> None:
    """Nobody gets more than wanted, all is used, and who got less than wanted got no less than anybody."""
    wanted = np.array(demand)
    got = fair(wanted, capacity)
    assert (got <= wanted + 1e-9).all()
    assert got.sum() == pytest.approx(min(wanted.sum(), capacity), abs=1e-6)
    unmet = got < wanted - 1e-6
    assert all(got[n] >= got.max() - 1e-6 for n in np.flatnonzero(unmet))


def test_rpo_is_folded_as_the_mixture_that_it_is() -> None:
    rpo = Rpo(np.array([5.0]), np.array([300.0]), np.array([0.1]))
    rpo.calm(0, 900 * SECOND, np.array([True]))
    low = np.linspace(100, 395, 20)[:, None]
    rpo.add(5.0, low, low + 5, np.ones((20, 1), bool))
    rpo.finish(1000 * SECOND)
    assert rpo.quantiles((0.45, 0.95, 1.0)) == [pytest.approx(2.6, rel=0.02), pytest.approx(250, rel=0.05), 400.0]
    assert rpo.mean() == pytest.approx((900 * 2.6 + 100 * 250) / 1000, rel=0.01)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 20), st.integers(100, 5000))
def test_a_journal_keeps_its_history_and_never_more_than_its_limit(added: list[int], hours: int, limit: int) -> None:
    journals = Journals(1, len(added) * SECOND, SECOND)
    for n, nbytes in enumerate(added):
        journals.add(n * SECOND, SECOND, np.array([[nbytes]], float))
    spans = [(0, len(added) * SECOND)]
    kept, _, short = journals.kept(np.array([hours * SECOND]), np.array([float(limit)]), np.zeros(1, np.int64), spans)
    for n in range(len(added)):
        whole = sum(added[max(0, n + 1 - hours) : n + 1])
        assert kept[n, 0] <= min(whole, limit) + 1e-3
        assert short[n, 0] == (whole > limit)
        if whole <= limit:
            assert kept[n, 0] == whole


def test_a_sequential_part_gets_dirty_until_all_of_it_is() -> None:
    model = two_site(workload={"kind": "constant", "rate": 10, "size": "4 KiB", "pattern": "sequential"})
    (part,) = parts(next(iter(model.vms.values())), 4096, None)
    assert part == Part(part.nbytes, 1.0, 1.0, True)
