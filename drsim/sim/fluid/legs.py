"""Legs: what protects each VPG when: from its site to the other one, after a failover back from there, and so on.

Theory of operation. A failover or move ends a leg when the source stops counting. If it is reversed, the next leg
begins when it has committed and promoted: the same VPG, its VMs on the hosts that recovered them, onto the disks that
they left behind. Nobody trusts those, so every region is compared (`compare.py`), and what differs is sent: what the
failover lost, and what was written until the leg begins.

How long an operation takes is not estimated: the core's workflow carries it out in a small simulation of that VPG
alone, with guests that hardly write. What the journal adds, which has to be laid out and promoted, is added by its
size. So operations of several VPGs do not wait for each other, and on the way back VMs get their old addresses without
a re-IP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from drsim.core.errors import FileError
from drsim.core.recovery.report import Outcome, Report
from drsim.core.units import SECOND
from drsim.sim.layout import Layout, VpgLayout
from drsim.sim.run import simulate
from drsim.sim.store import AGE_CHUNK, AGE_IO
from drsim.spec.model import Model
from drsim.spec.operations import Failover, Move
from drsim.spec.protect import Recovery
from drsim.spec.workload import Constant

REHEARSED_AT = 60 * SECOND
LONGEST = 7 * 86400 * SECOND
"""How long an operation may take, with everything that people wait for."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A failover or move of a VPG, in ns: when it began, when the source stopped counting, when the recovered VMs

    answered, and when all was committed and promoted. `lost`: whether what had not arrived is lost; not by a move.
    """

    kind: str
    vpg: str
    begun: int
    cut: int
    service: int
    over: int
    lost: bool
    reverse: bool


@dataclass(frozen=True, slots=True)
class Leg:
    """A VPG in one direction, from `begins` until `ends` (ns, of ticks). `layout`: of its own model.

    `after`, `before`: the operations between which it lies.
    """

    name: str
    vpg: VpgLayout
    layout: Layout
    begins: int
    ends: int
    after: Turn | None = None
    before: Turn | None = None


def legs_of(model: Model, layout: Layout, rates: Mapping[str, float], *, until: int, seed: int) -> list[Leg]:
    """The legs of all VPGs, those of one in order. rates: bytes/s of each VM. Raises FileError."""
    tick, found = model.run.tick, list[Leg]()
    for vpg in layout.vpgs:
        leg: Leg | None = Leg(vpg.name, vpg, layout, 0, until)
        number = 1
        for n, operation in sorted(enumerate(model.operations), key=lambda each: each[1].at):
            if not isinstance(operation, Failover | Move) or operation.vpg != vpg.name:
                continue
            begun = operation.at + operation.detect + operation.decide
            if begun >= until:
                break
            if leg is None or begun <= leg.begins:
                why = "any more" if leg is None else "yet, the other way"
                raise FileError(
                    f"VPG {vpg.name!r} is not protected {why} when this {operation.kind} begins",
                    place=f"operations.{n}",
                    hint="a VPG comes back when it was failed over with `reverse: true`, and once that is over",
                )  # fmt: skip
            turn = _turn(leg, operation, begun, rates, place=f"operations.{n}", seed=seed)
            found.append(replace(leg, ends=min(until, turn.cut // tick * tick), before=turn))
            number, begins = number + 1, -(-turn.over // tick) * tick
            leg = None
            if operation.reverse and begins < until:
                there = Layout(turned(found[-1]))
                leg = Leg(f"{vpg.name} (leg {number})", there.vpgs[0], there, begins, until, after=turn)
        if leg is not None:
            found.append(leg)
    return found


def turned(leg: Leg) -> Model:
    """A model of a leg's VPG alone, the other way round."""
    spec = leg.vpg.spec
    vms = {name: leg.layout.vms[name] for name in spec.vms}
    hosts = tuple(dict.fromkeys(str(vm.host) for vm in vms.values()))
    back = Recovery(hosts=hosts, datastore=next(iter(vms.values())).datastore)
    there = spec.recovery
    moved = {
        name: vm.model_copy(update={"host": there.hosts[n % len(there.hosts)], "datastore": there.datastore,
                                    "nics": None})
        for n, (name, vm) in enumerate(vms.items())
    }  # fmt: skip
    journal = spec.journal
    if leg.layout.model.sites[leg.vpg.source].platform == "aws":  # which has no limit of journals
        journal = journal.model_copy(update={"hard_limit": "unlimited"})
    vpg = spec.model_copy(update={"recovery": back, "journal": journal, "sync": "preseeded"})
    return leg.layout.model.model_copy(
        update={"vms": moved, "vpgs": {leg.vpg.name: vpg}, "faults": (), "operations": ()}
    )


def _turn(
    leg: Leg, operation: Failover | Move, begun: int, rates: Mapping[str, float], *, place: str, seed: int
) -> Turn:
    cut_off, report = _rehearsed(leg, operation, place, seed)
    assert report.service is not None
    journal = leg.vpg.spec.journal
    kept = min(begun - leg.begins, journal.history) / SECOND
    limit = float("inf") if journal.limit_bytes is None else journal.limit_bytes
    sizes = [min(limit, rates[vm] * kept) for vm in leg.vpg.spec.vms]
    store = leg.layout.model.datastores[leg.vpg.spec.recovery.datastore]
    chunks = max(sizes) / AGE_CHUNK * store.latency
    speed = store.bandwidth / 8
    laid_out = 0 if operation.instant else int(sum(sizes) * SECOND / speed + chunks)
    promoted = int(sum(sizes) * 2 * SECOND / min(speed, store.iops * AGE_IO) + chunks)
    return Turn(
        operation.kind, leg.vpg.name, begun, begun + cut_off - report.begun,
        begun + report.service - report.begun + laid_out, begun + report.ended - report.begun + laid_out + promoted,
        isinstance(operation, Failover), operation.reverse,
    )  # fmt: skip


def _rehearsed(leg: Leg, operation: Failover | Move, place: str, seed: int) -> tuple[int, Report]:
    """When the source of an operation stopped counting, and its report, with next to nothing in the journals."""
    model, spec = leg.layout.model, leg.vpg.spec
    idle = Constant(rate=1.0, size=4096)
    vms = {name: leg.layout.vms[name].model_copy(update={"workload": idle}) for name in spec.vms}
    alone = {"at": REHEARSED_AT, "detect": 0, "decide": 0, "reverse": False}
    small = model.model_copy(
        update={
            "vms": vms, "vpgs": {leg.vpg.name: spec.model_copy(update={"sync": "done"})}, "faults": (),
            "operations": (operation.model_copy(update=alone),),
            "run": model.run.model_copy(update={"until": LONGEST, "fidelity": "slice", "slice": SECOND}),
        }
    )  # fmt: skip
    run = simulate(small, seed=seed, stop=lambda world: any(o.report for o in world.recoveries.operations))
    (found,) = run.world.recoveries.operations
    report = found.report
    if report is None or report.outcome is not Outcome.COMMITTED or report.service is None:
        ended = "does not end within a week" if report is None else f"ends as {report.outcome.value}"
        why = "; ".join(report.reasons) if report is not None else ""
        raise FileError(
            f"fidelity fluid knows operations that commit, and this one {ended}{': ' if why else ''}{why}", place=place,
            hint="run it with --fidelity slice",
        )  # fmt: skip
    return found.cut_off, report
