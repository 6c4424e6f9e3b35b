"""One VM in up to three VPGs to different sites: every write is issued once and is in each of the journals."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estates import MIB, SECOND

from drsim.core.batch import WriteBatch
from drsim.core.catalog import Catalog
from drsim.core.names import Address, CheckpointId, VmId
from drsim.sim.layout import Layout
from drsim.sim.run import Run, simulate, taps
from drsim.sim.tap import Amount, Tap
from drsim.sim.world import World
from drsim.spec.model import Model
from drsim.verify.judge import judge

MS = SECOND // 1000
NEAR, FAR, AWAY = WAYS = ("near", "far", "away")
POISSON = {"kind": "poisson", "rate": 20.0, "size": "8 KiB", "pattern": "uniform"}


def model(
    *, ways: tuple[str, ...] = WAYS, hosts: int = 2, until: str = "60 s", fidelity: str = "slice",
    load: dict[str, Any] | None = None, vpg: dict[str, Any] | None = None, quiesce: dict[str, Any] | None = None,
    jitter: str = "0 ms", **more: Any,
) -> Model:  # fmt: skip
    """Two VMs "app" in a VPG for each way, to their own site and to two others, and one VM "web" in one VPG."""
    app = {
        "host": ["london-1", f"london-{hosts}"], "datastore": "san", "count": 2, "workload": load or POISSON,
        "volumes": [{"size": "16 MiB"}], "quiesce": quiesce,
    }  # fmt: skip
    to = {
        NEAR: {"hosts": ["london-9"], "datastore": "san-near"},
        FAR: {"hosts": ["leeds-1"], "datastore": "san-far"},
        AWAY: {"hosts": ["york-1"], "datastore": "san-away"},
    }
    whole: dict[str, Any] = {
        "sites": {
            "london": {"lan_latency": "1 ms", "lan_jitter": jitter}, "leeds": {"lan_jitter": "0 ms"},
            "york": {"lan_jitter": "0 ms"},
        },
        "datastores": {
            "san": {"site": "london"}, "san-near": {"site": "london"}, "san-far": {"site": "leeds"},
            "san-away": {"site": "york"},
        },
        "hosts": {
            **{f"london-{n}": {"site": "london"} for n in (1, 2, 3, 9)}, "leeds-1": {"site": "leeds"},
            "york-1": {"site": "york"},
        },
        "links": {
            "lan": {"between": ["london", "london"], "bandwidth": "1 Gbit/s", "latency": "1 ms"},
            "wan-1": {"between": ["london", "leeds"], "bandwidth": "100 Mbit/s", "latency": "5 ms"},
            "wan-2": {"between": ["london", "york"], "bandwidth": "20 Mbit/s", "latency": "20 ms"},
        },
        "vms": {"app": app, "web": {**app, "count": 1, "host": "london-1"}},
        "vpgs": {
            **{way: {"vms": ["app"], "recovery": to[way], "compression": False, **(vpg or {})} for way in ways},
            "web": {"vms": ["web"], "recovery": to[FAR]},
        },
        "run": {"until": until, "fidelity": fidelity},
        **more,
    }  # fmt: skip
    return Model.model_validate(whole)


def journaled(run: Run, vpg: str, vm: str = "app-001") -> list[tuple[int, ...]]:
    """Every write of a VM that a VPG's journals had, of all its streams: when issued, where, how long."""
    frames = [
        frame
        for stream, spec in run.layout.streams.items()
        if stream.vpg == vpg and run.layout.vm_ids[vm] in spec.vms
        for frame in run.world.journals[stream].files[stream].frames
        if not frame.sync
    ]
    rows = []
    for frame in frames:
        batch = frame.batch
        columns = (batch.vm, batch.issued, batch.volume, batch.lba, batch.sectors)
        rows += [row for vm_, *row in zip(*(c.tolist() for c in columns), strict=True) if vm_ == run.layout.vm_ids[vm]]
    return [tuple(row) for row in rows]


def listed(run: Run, vpg: str) -> Catalog:
    machine = run.world.kernel.machines[run.layout.vpg_of[vpg].catalog]
    assert isinstance(machine, Catalog)
    return machine


def healthy(run: Run, vpg: str) -> bool:
    record = run.record(vpg)
    in_sync = not any(sender.syncing for sender in run.world.senders(vpg))
    return in_sync and record.statuses[-1][1] == "MeetingSLA" and run.end - record.listed[-1] < 6 * SECOND


def same(one: Run, other: Run, vpg: str) -> bool:
    """Whether a VPG did not notice what makes two runs different."""
    a, b = one.record(vpg), other.record(vpg)
    return (a.ids, a.taken, a.listed, a.lost_writes, a.loss) == (b.ids, b.taken, b.listed, b.lost_writes, b.loss)


# -- the data path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_three_journals_hold_the_same_writes(fidelity: str) -> None:
    """The same as if the VM were in one VPG; they lag behind each other by the way only."""
    run = simulate(model(fidelity=fidelity), keep_frames=True)
    alone = simulate(model(ways=(FAR,), fidelity=fidelity), keep_frames=True)
    for vm in ("app-001", "app-002"):
        expected = journaled(alone, FAR, vm)
        assert len(expected) > 1000
        assert len(set(expected)) == len(expected), "each once"
        for way in WAYS:
            found = journaled(run, way, vm)
            assert found == (journaled(run, NEAR, vm))[: len(found)]
            assert len(found) >= len(expected) - 50
            assert found[: len(expected)] == expected[: len(found)]
    assert journaled(run, "web", "web") == journaled(alone, "web", "web")
    assert all(healthy(run, way) for way in (*WAYS, "web"))


def test_each_stream_has_its_own_numbers() -> None:
    """A VM that joins a second VPG later is numbered from 1 there."""
    late = [{"kind": "add-vm", "at": "30 s", "vm": "web", "vpg": AWAY}]
    run = simulate(model(operations=late), keep_frames=True)
    web = run.layout.vm_ids["web"]
    (first,) = [s for s in run.layout.vpg_of["web"].streams if web in s.vms]
    (second,) = [s for s in run.layout.vpg_of[AWAY].streams if web in s.vms]
    ends = [run.world.sender(spec.id).cut().position for spec in (first, second)]
    assert ends[1][0] < ends[0][0] * 0.6


def test_write_and_slice_agree() -> None:
    """On what is journaled and where the cuts lie; the last seconds are quiet, so that all has arrived."""
    load = {**POISSON, "kind": "onoff", "on": "50 s", "off": "100 s"}
    a, b = (simulate(model(fidelity=fidelity, load=load)) for fidelity in ("write", "slice"))
    assert a.journal_digest() == b.journal_digest()
    for way in WAYS:
        cuts = [{c.id: {s: cut.position for s, cut in c.cut.items()} for c in listed(r, way).listed} for r in (a, b)]
        assert cuts[0] == cuts[1]
        assert len(cuts[0]) >= 10
    digests = {stream.vpg: set[str]() for stream in a.journal_digest()}
    for stream, digest in a.journal_digest().items():
        digests[stream.vpg].add(digest)
    assert digests[NEAR] == digests[FAR] == digests[AWAY] != digests["web"]


def test_a_run_is_the_same_whichever_vpg_is_named_first() -> None:
    one, other = (simulate(model(ways=ways), keep_frames=True) for ways in (WAYS, WAYS[::-1]))
    assert [journaled(one, way) for way in WAYS] == [journaled(other, way) for way in WAYS]


# -- acknowledgements and checkpoints -------------------------------------------------------------------------------


def two_taps(ways: tuple[str, ...] = (NEAR, FAR)) -> list[Tap]:
    """Of two VPGs with the same two VMs on one host, 200 writes a second each."""
    spec = model(ways=ways, hosts=1, load={"kind": "constant", "rate": 200, "size": "8 KiB"})
    found, _ = taps(spec, Layout(spec), 1)
    return [tap for id_, tap in found.items() if id_.vpg != "web"]


def test_a_hold_of_one_vpg_holds_the_acknowledgements_of_all() -> None:
    """Two writes every 5 ms, on disk 1.05 ms later."""
    near, far = two_taps()

    def seen(at: int) -> tuple[int, int]:
        for tap in (near, far):
            tap.pull(at)
        return near.acknowledged(at).writes, far.acknowledged(at).writes

    assert seen(SECOND) == (398, 398)
    near.hold(SECOND)
    assert seen(SECOND + 50 * MS) == (398, 398)
    far.hold(SECOND + 50 * MS)
    near.release()
    assert seen(SECOND + 90 * MS) == (418, 418), "held by the other one now"
    far.release()
    assert seen(SECOND + 90 * MS) == (434, 434)
    assert near.acknowledged(SECOND + 90 * MS) == Amount(434, 434 * 8192)


def test_a_hold_holds_only_the_vms_of_its_vpg() -> None:
    spec = model(ways=(NEAR, FAR), hosts=1, load={"kind": "constant", "rate": 200, "size": "8 KiB"})
    whole = spec.model_dump()
    whole["vpgs"]["web"] = {**whole["vpgs"]["web"], "vms": ["web", "app"]}
    del whole["vpgs"][FAR]
    found, _ = taps(Model.model_validate(whole), Layout(Model.model_validate(whole)), 1)
    near, web = (next(tap for id_, tap in found.items() if id_.vpg == name) for name in (NEAR, "web"))
    for tap in (near, web):
        tap.pull(2 * SECOND)
    near.hold(SECOND)
    assert near.acknowledged(2 * SECOND).writes == 398
    assert web.acknowledged(2 * SECOND).writes == 398 + 399, "one VM goes on"


def test_a_hold_of_its_only_vpg_holds_a_vm() -> None:
    (near,) = two_taps((NEAR,))
    near.hold(SECOND)
    near.pull(SECOND + 90 * MS)
    assert near.acknowledged(SECOND + 90 * MS).writes == 398
    near.release()
    assert near.acknowledged(SECOND + 90 * MS).writes == 434


def test_a_vm_at_rest_that_changes_its_tap_is_counted_and_issued_as_ever() -> None:
    """Its writes of 1 s to 3 s are issued when it goes on, at 3 s, in one tap as in the other."""
    near, far = two_taps()
    (first, second), later = far.spec.vms, Tap(far.spec, (), begin=2 * SECOND)
    for at in (1, 2):
        for tap in (near, far):
            tap.pull(at * SECOND)
            if at == 1:
                tap.freeze(first)
    later.join(*far.leave(first))
    batches = {tap: list[WriteBatch]() for tap in (near, far, later)}
    for at in (3, 4):
        for tap in batches:
            batches[tap] += tap.pull(at * SECOND)
        assert near.pulled == far.pulled + later.pulled
        assert near.acknowledged(at * SECOND) == far.acknowledged(at * SECOND) + later.acknowledged(at * SECOND)
        if at == 3:
            for tap in (near, later):
                tap.thaw(first, 3 * SECOND)
                assert near.pulled == far.pulled + later.pulled, "not issued yet"
            for tap in (near, later):
                batches[tap] += tap.pull(3 * SECOND)
            assert near.pulled == far.pulled + later.pulled

    def issued(tap: Tap, vm: VmId) -> list[tuple[int, ...]]:
        batch = WriteBatch.join(batches[tap])
        mine = batch.vm == vm
        return list(zip(batch.issued[mine].tolist(), batch.lba[mine].tolist(), strict=True))

    assert issued(near, first) == issued(later, first)
    assert issued(near, second) == issued(far, second)
    assert [at for at, _ in issued(later, first)].count(3 * SECOND) == 400


def test_what_is_at_rest_and_held_is_counted_once() -> None:
    near, far = two_taps()
    first = near.spec.vms[0]
    for tap in (near, far):
        tap.pull(SECOND)
        tap.freeze(first)
    near.hold(SECOND + 100 * MS)
    for tap in (near, far):
        tap.pull(SECOND + 200 * MS)
    assert near.acknowledged(SECOND + 200 * MS) == far.acknowledged(SECOND + 200 * MS)
    near.release()
    assert near.acknowledged(SECOND + 200 * MS) == far.acknowledged(SECOND + 200 * MS)


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Address, str]]:
    """Begin, end, VRA and VPG of every hold."""
    found: list[tuple[int, int, Address, str]] = []
    release: Callable[..., None] = World._release

    def noted(self: World, vra: Address, vpg: str) -> None:
        found.append((self._held_since[vra, vpg], self.clock.now, vra, vpg))
        release(self, vra, vpg)

    monkeypatch.setattr(World, "_release", noted)
    return found


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_vpgs_with_the_same_vms_are_told_the_same_acknowledgements(
    fidelity: str, holds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every instant: when a hold begins, in it, and when it ends."""
    counts: list[list[Amount]] = []
    held = World._hold

    def noted(self: World, vra: Address, vpg: str, checkpoint: CheckpointId) -> None:
        held(self, vra, vpg, checkpoint)
        for after in (0, MS, 2 * MS, 3 * MS, 500 * MS):
            self.clock.call(after, lambda: counts.append([self.acknowledged(way) for way in WAYS]))

    monkeypatch.setattr(World, "_hold", noted)
    run = simulate(model(fidelity=fidelity, load={**POISSON, "rate": 2000}, until="20 s", jitter="2 ms"))
    assert len(counts) >= 5 * 3 * 2 * 3
    assert all(one == other for near, *rest in counts for one in (near,) for other in rest)
    assert max(end - begin for begin, end, _, _ in holds) > 2 * MS
    moved = sum(a[0] != b[0] for a, b in pairwise(counts))
    assert moved > 20
    assert run.record(NEAR).loss.writes <= run.record(AWAY).loss.writes


def acknowledged(issued: int, vra: Address, holds: list[tuple[int, int, Address, str]]) -> int:
    """When the guest is told of a write of 8 KiB: its disk has it and no VPG holds the guest."""
    at = issued + SECOND // 20_000 + MS
    for begin, end, where, vpg in sorted(holds):
        if where == vra and vpg in WAYS and begin <= at < end:
            at = end
    return at


def test_every_checkpoint_is_a_consistent_cut(holds: list[tuple[int, int, Address, str]], tmp_path: Path) -> None:
    """The judge of foreign histories says so of what each VPG's journals hold, given what the guests saw."""
    load = {**POISSON, "rate": 100, "working_set": "4 MiB"}
    run = simulate(model(load=load, until="28 s", jitter="1 ms"), keep_frames=True)
    overlap = [(a, b) for a, b in pairwise(sorted(holds)) if b[0] < a[1] and a[3] != b[3]]
    assert overlap, "VPGs hold at the same time"
    names = {run.layout.vm_ids[name]: name for name in ("app-001", "app-002")}
    for way in WAYS:
        rows: list[dict[str, Any]] = []
        logs: dict[VmId, list[tuple[int, ...]]] = {}
        for stream, spec in run.layout.streams.items():
            if stream.vpg == way:
                for vm in spec.vms:
                    log = logs[vm] = journaled(run, way, names[vm])
                    rows += [
                        {"kind": "write", "vm": names[vm], "lba": lba, "sectors": sectors, "issue": issued,
                         "ack": acknowledged(issued, stream.source, holds), "order": n}
                        for n, (issued, _, lba, sectors) in enumerate(log, 1)
                    ]  # fmt: skip
        points = listed(run, way).listed
        assert len(points) >= 3
        for point in points:
            rows.append({"kind": "checkpoint", "name": point.id, "time": point.taken, "level": "L2"})
            for stream, cut in point.cut.items():
                for vm, upto in zip(run.layout.streams[stream].vms, cut.position, strict=True):
                    rows.append(image(point.id, names[vm], logs[vm][:upto]))
        path = tmp_path / f"{way}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        verdicts = judge(path)
        assert [verdict.reason for verdict in verdicts if not verdict.ok] == []
        assert sum(verdict.cut is not None for verdict in verdicts) == len(points)
        for verdict in verdicts:
            assert verdict.loss is not None
            assert verdict.loss.writes == 0, "acknowledged before it was taken and not in it"


def image(checkpoint: int, vm: str, prefix: list[tuple[int, ...]]) -> dict[str, Any]:
    """What a disk of 16 MiB holds after these writes."""
    disk = np.zeros(16 * MIB // 512, np.int64)
    for n, (_, _, lba, sectors) in enumerate(prefix, 1):
        disk[lba : lba + sectors] = n
    runs = [[lba, 8, int(disk[lba])] for lba in range(0, len(disk), 8) if disk[lba]]
    return {"kind": "image", "checkpoint": checkpoint, "vm": vm, "runs": runs}


# -- trouble of one VPG is its own ----------------------------------------------------------------------------------

OWN: dict[str, dict[str, Any]] = {
    "link": {"faults": [{"kind": "link-down", "link": "wan-2", "at": "21 s", "lasts": "60 s"}]},
    "store": {"faults": [{"kind": "datastore-full", "datastore": "san-away", "at": "21 s", "lasts": "60 s"}]},
    "recovery VRA": {"faults": [{"kind": "vra-crash", "host": "york-1", "at": "21 s", "lasts": "30 s"}]},
    "pause": {
        "operations": [{"kind": "pause", "at": "21 s", "vpg": AWAY}, {"kind": "resume", "at": "70 s", "vpg": AWAY}]
    },
    "force sync": {"operations": [{"kind": "force-sync", "at": "21 s", "vpg": AWAY}]},
    "remove": {"operations": [{"kind": "remove-vm", "at": "21 s", "vm": "app-001", "vpg": AWAY}]},
}


@pytest.mark.parametrize("case", OWN)
@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_trouble_of_one_vpg_does_not_disturb_the_others(case: str, fidelity: str) -> None:
    plain, run = (simulate(model(until="130 s", fidelity=fidelity, **more)) for more in ({}, OWN[case]))
    for way in (NEAR, FAR, "web"):
        assert same(plain, run, way)
        assert healthy(run, way)
    assert healthy(run, AWAY)
    began = {of for _, of, kind, _ in run.recorder.events if kind == "sync started"}
    if case in ("link", "pause", "force sync"):
        assert began == {AWAY}
    else:
        assert began <= {AWAY}
        assert not same(plain, run, AWAY)


def test_a_lost_site_costs_what_each_way_has_not_got() -> None:
    """The link to one site is down when the protected site is lost."""
    faults = [
        {"kind": "link-down", "link": "wan-2", "at": "40 s", "lasts": "1 h"},
        {"kind": "site-loss", "site": "london", "at": "60 s"},
    ]
    run = simulate(model(until="70 s", faults=faults))
    near, far, away = (run.record(way).loss.writes for way in WAYS)
    assert 0 < near <= far < 2 * 20 * 6
    assert 2 * 20 * 19 < away < 2 * 20 * 27


# -- who belongs to what --------------------------------------------------------------------------------------------


def syncs(run: Run, vpg: str) -> list[str]:
    return [text.partition(";")[0] for _, of, kind, text in run.recorder.events if (of, kind) == (vpg, "sync started")]


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_vmotion_moves_the_vm_in_all_its_vpgs(fidelity: str) -> None:
    move = [{"kind": "vmotion", "at": "21 s", "vm": "app-001", "to": "london-3"}]
    run = simulate(model(until="130 s", fidelity=fidelity, operations=move), keep_frames=True)
    vm = run.layout.vm_ids["app-001"]
    after: list[list[tuple[int, ...]]] = []
    for way in WAYS:
        (mine,) = [spec for spec in run.layout.vpg_of[way].streams if vm in [v.vm for v in spec.volumes]]
        assert mine.id.source == run.layout.vras("london-3")[0]
        assert len(syncs(run, way)) >= 1
        assert healthy(run, way)
        assert not run.record(way).withdrawn
        assert not [row for row in journaled(run, way) if 21 < row[0] / SECOND < 26], "no VRA taps it"
        sent = [int(text.split()[0]) for _, of, kind, text in run.recorder.events if (of, kind) == (way, "sync ended")]
        assert max(sent) >= 5 * 20 * 8192, "what it wrote until its manager knew"
        after.append([row for row in journaled(run, way) if 60 * SECOND < row[0] < 125 * SECOND])
    assert after[0] == after[1] == after[2]
    assert len(after[0]) > 1000
    assert {id_.source for id_ in run.world.taps} >= {run.layout.vras("london-3")[0]}
    assert not syncs(run, "web")


def test_leaving_one_vpg_leaves_the_others() -> None:
    leave = [{"kind": "remove-vm", "at": "21 s", "vm": "app-001", "vpg": FAR}]
    run = simulate(model(operations=leave), keep_frames=True)
    gone = run.layout.vm_ids["app-001"]
    assert gone not in run.layout.vpg_of[FAR].members.vms
    assert all(gone in run.layout.vpg_of[way].members.vms for way in (NEAR, AWAY))
    assert max(row[0] for row in journaled(run, FAR)) < 22 * SECOND
    for way in (NEAR, AWAY):
        assert max(row[0] for row in journaled(run, way)) > 58 * SECOND
    assert max(row[0] for row in journaled(run, FAR, "app-002")) > 58 * SECOND


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_joining_another_vpg_later_changes_nothing_for_the_first(fidelity: str) -> None:
    """Writes were drawn ahead for the first one then; both have the same ones from there on."""
    join = [{"kind": "add-vm", "at": "21 s", "vm": "web", "vpg": AWAY}]
    plain, run = (
        simulate(model(until="100 s", fidelity=fidelity, **more), keep_frames=True)
        for more in ({}, {"operations": join})
    )
    assert journaled(run, "web", "web") == journaled(plain, "web", "web")
    assert same(plain, run, "web")
    assert healthy(run, AWAY)
    one, other = (
        [row for row in journaled(run, vpg, "web") if 60 * SECOND < row[0] < 95 * SECOND] for vpg in ("web", AWAY)
    )
    assert one == other
    assert len(one) > 500


def test_leaving_and_coming_back() -> None:
    there_and_back = [
        {"kind": "remove-vm", "at": "21 s", "vm": "app-001", "vpg": FAR},
        {"kind": "vmotion", "at": "30 s", "vm": "app-001", "to": "london-3"},
        {"kind": "add-vm", "at": "41 s", "vm": "app-001", "vpg": FAR},
    ]
    run = simulate(model(until="130 s", operations=there_and_back), keep_frames=True)
    rows = [[row for row in journaled(run, way) if 80 * SECOND < row[0] < 125 * SECOND] for way in WAYS]
    assert rows[0] == rows[1] == rows[2]
    assert len(rows[0]) > 500
    assert all(healthy(run, way) for way in WAYS)


def test_the_end_of_a_protecting_vra_concerns_all_its_vpgs() -> None:
    crash = [{"kind": "vra-crash", "host": "london-1", "at": "21 s", "lasts": "20 s"}]
    run = simulate(model(until="130 s", faults=crash), keep_frames=True)
    assert all(healthy(run, way) and syncs(run, way) for way in (*WAYS, "web"))
    rows = [[row for row in journaled(run, way) if 90 * SECOND < row[0] < 125 * SECOND] for way in WAYS]
    assert rows[0] == rows[1] == rows[2]


# -- applications at rest -------------------------------------------------------------------------------------------


def at_rest(run: Run, begin: float, end: float) -> bool:
    """Whether a VM issued nothing in between."""
    rows = journaled(run, NEAR)
    return not any(begin < row[0] / SECOND < end for row in rows)


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_vm_is_at_rest_until_the_last_vpg_lets_it_go(fidelity: str) -> None:
    """Every VPG freezes both VMs at 60 s; the agent of one needs 2 s, of the other more than it is given."""
    spec = model(
        until="100 s", fidelity=fidelity, quiesce={"takes": "2 s"}, vpg={"application_consistent": {"every": "1 min"}}
    )
    run = simulate(spec, keep_frames=True)
    for way in WAYS:
        record = run.record(way)
        assert list(record.quiesced.values()) == [("app-001", "app-002")]
        taken = dict(zip(record.ids, record.taken, strict=True))[next(iter(record.quiesced))]
        assert at_rest(run, 62, taken / SECOND)
    rows = [journaled(run, way) for way in WAYS]
    assert rows[0][: len(rows[2])] == rows[1][: len(rows[2])] == rows[2]
    alone = simulate(Model.model_validate({**spec.model_dump(), "vpgs": {FAR: spec.vpgs[FAR]}}))
    assert 0 < alone.world.agents.rest[VmId(0)] <= run.world.agents.rest[VmId(0)] < 2 * SECOND
    assert not run.world.agents._frozen


def freezes(spec: Model, every: dict[str, str]) -> Model:
    """With each VPG freezing as often as is said."""
    whole = spec.model_dump()
    for name, time in every.items():
        whole["vpgs"][name]["application_consistent"] = {"every": time}
    return Model.model_validate(whole)


def one_is_slow(spec: Model, ways: tuple[str, ...] = WAYS) -> Model:
    """A VM of these VPGs needs longer to come to rest than it is given; the other VPGs have the quick one alone."""
    whole = spec.model_dump()
    app = whole["vms"].pop("app")
    quick, slow = (
        {**app, "count": 1, "host": f"london-{n}", "quiesce": {"takes": f"{t} s"}} for n, t in ((1, 2), (2, 11))
    )
    whole["vms"] |= {"app-001": quick, "app-002": slow}
    for way in WAYS:
        whole["vpgs"][way]["vms"] = ["app-001", "app-002"] if way in ways else ["app-001"]
    return Model.model_validate({**whole, "operations": [each.model_dump() for each in spec.operations]})


LONG = {"tweaks": {"freeze_timeout": "20 s"}, "quiesce": {"takes": "2 s"}}


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_vpg_that_is_done_does_not_wake_a_vm_that_another_one_has_at_rest(fidelity: str) -> None:
    """Two VPGs freeze a VM at 60 s: one is done when it is at rest, at 62 s, the other one waits until 70 s."""
    spec = one_is_slow(model(until="90 s", fidelity=fidelity, **LONG), (NEAR,))
    run = simulate(freezes(spec, {NEAR: "1 min", FAR: "1 min"}), keep_frames=True)
    assert [list(run.record(way).quiesced.values()) for way in (NEAR, FAR)] == [[("app-001",)]] * 2
    assert at_rest(run, 62.1, 69.9)
    assert run.world.agents.rest[run.layout.vm_ids["app-001"]] == pytest.approx(8 * SECOND, rel=0.01)


OPERATIONS = {
    "at rest": [{"kind": "vmotion", "at": "65 s", "vm": "app-001", "to": "london-3"}],
    "before": [{"kind": "vmotion", "at": "61 s", "vm": "app-001", "to": "london-3"}],
}


@pytest.mark.parametrize(("case", "rest"), [("at rest", 3), ("before", 0)])
def test_a_vm_that_leaves_its_host_is_at_rest_no_more(case: str, rest: int) -> None:
    """One that left before it was at rest does not come to rest; nobody would thaw it. At 75 s they are asked again."""
    made = one_is_slow(model(until="74 s", **LONG)).model_dump()
    run = simulate(freezes(Model.model_validate({**made, "operations": OPERATIONS[case]}), {NEAR: "1 min"}))
    assert run.world.agents.rest.get(run.layout.vm_ids["app-001"], 0) == pytest.approx(rest * SECOND, rel=0.01)
    assert not run.world.agents._at_rest


@pytest.mark.parametrize("fidelity", ["slice", "write"])
def test_a_vpg_that_changes_does_not_wake_a_vm_that_another_one_has_at_rest(fidelity: str) -> None:
    """It is at rest from 62 to 70 s; at 65 s it leaves another VPG and joins it again."""
    again = [
        {"kind": "remove-vm", "at": "65 s", "vm": "app-001", "vpg": FAR},
        {"kind": "add-vm", "at": "66 s", "vm": "app-001", "vpg": FAR},
    ]
    spec = one_is_slow(model(until="150 s", fidelity=fidelity, operations=again, **LONG))
    run = simulate(freezes(spec, {NEAR: "1 min"}), keep_frames=True)
    assert next(iter(run.record(NEAR).quiesced.values())) == ("app-001",)
    assert at_rest(run, 62.1, 69.9)
    for way in (FAR, AWAY):
        assert not [row for row in journaled(run, way) if 62.1 < row[0] / SECOND < 69.9]
    late = [[row for row in journaled(run, way) if 69.9 < row[0] / SECOND < 71] for way in WAYS]
    assert late[0] == late[2]
    assert len([row for row in late[0] if row[0] == late[0][0][0]]) > 100, "all at once"
    rows = [[row for row in journaled(run, way) if 100 * SECOND < row[0] < 119 * SECOND] for way in WAYS]
    assert rows[0] == rows[1] == rows[2]


# -- models ---------------------------------------------------------------------------------------------------------


def wrong(**more: Any) -> str:
    with pytest.raises(ValueError, match="VPG") as error:
        model(**more)
    return str(error.value)


def more_vpgs(**vpgs: dict[str, Any]) -> str:
    spec = model().model_dump()
    spec["sites"]["hull"] = spec["sites"]["york"]
    spec["hosts"]["hull-1"] = {"site": "hull"}
    spec["datastores"]["san-hull"] = {"site": "hull"}
    spec["links"]["wan-3"] = {**spec["links"]["wan-2"], "between": ["london", "hull"]}
    for name, vpg in vpgs.items():
        spec["vpgs"][name] = {**spec["vpgs"][AWAY], **vpg}
    with pytest.raises(ValueError, match="VPG") as error:
        Model.model_validate(spec)
    return str(error.value)


def test_a_fourth_vpg_is_refused() -> None:
    said = more_vpgs(fourth={"recovery": {"hosts": ["hull-1"], "datastore": "san-hull"}})
    assert "VM 'app' is in 3 VPGs already (near, far, away), and no VM can be in more" in said


def test_two_vpgs_to_one_site_are_refused() -> None:
    spec = model(ways=(FAR,)).model_dump()
    spec["vpgs"]["again"] = spec["vpgs"][FAR]
    with pytest.raises(ValueError, match="VM 'app' is already in VPG 'far', which recovers to site 'leeds' too"):
        Model.model_validate(spec)


def test_operations_say_which_vpg() -> None:
    remove = {"kind": "remove-vm", "at": "5 s", "vm": "app-001"}
    assert "VM 'app-001' is in several VPGs then; say which it leaves: `vpg: near`" in wrong(operations=[remove])
    assert "VM 'app-001' is not in VPG 'web' then, but in near, far, away" in wrong(
        operations=[{**remove, "vpg": "web"}]
    )
    twice = [{**remove, "vpg": NEAR}, {**remove, "at": "6 s", "vpg": NEAR}]
    assert "VM 'app-001' is not in VPG 'near' then" in wrong(operations=twice)
    assert model(operations=[{"kind": "remove-vm", "at": "5 s", "vm": "web"}])


def test_operations_cannot_break_the_rules_of_one_to_many() -> None:
    add = {"kind": "add-vm", "at": "5 s", "vm": "web"}
    assert "VM 'web' is already in VPG 'web', which recovers to site 'leeds' too; name another site then" in wrong(
        operations=[{**add, "vpg": FAR}]
    )
    assert "VM 'app-001' is already in VPG 'near' then" in wrong(operations=[{**add, "vm": "app-001", "vpg": NEAR}])
    moved = [{"kind": "remove-vm", "at": "4 s", "vm": "web"}, {**add, "vpg": FAR}]
    assert model(operations=moved)
