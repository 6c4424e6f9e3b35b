"""Judging damage: a file is broken, the store goes on with it or is opened anew, then everything is healed.

What is asked of a damaged store is what a site would ask: images, a frame, a promotion, where it stands.
"""

from drsim.verify import store_checks as checks
from drsim.verify.store_damage import Damage, damage
from drsim.verify.store_run import STREAM, StoreProbes, StoreRun


def harm(kind: str, run: StoreRun, a: int, b: int) -> None:
    """Break one file, judge what the store makes of it, and put back all files and the truth."""
    run.armed = None
    run.disk.begin()
    backup, truth, fresh = run.disk.read(), run.truth, run.fresh
    run.truth, run.seen = truth.copy(), False
    run.damage = damage(run.disk, kind, run.past, a, b)
    if run.damage is not None:
        try:
            if b % 4 > 1:
                _use(run, a, b)
                if run.seen:
                    run.probes.add(StoreProbes.LIVE)
            run.journals.close()
            _reopen(run, a, b)
            run.probes.add(_seen(run.damage) if run.seen else StoreProbes.HARMLESS)
        finally:
            run.damage = None
            run.disk.begin()
        run.disk.restore(backup)
        run.open()
    run.truth, run.fresh = truth, fresh


def _reopen(run: StoreRun, a: int, b: int) -> None:
    left = run.disk.read()
    if run.tolerate(run.open):
        _judge(run, a, b)
        run.journals.close()
    else:
        checks.p21_evidence(run, left)


def _use(run: StoreRun, a: int, b: int) -> None:
    """A store that is open goes on after the damage."""
    checks.p21_served(run, run.truth.cut(a, b))
    if b % 4 == 2:
        frame = run.next_frame(a, b)
        if run.tolerate(lambda: run.journals.append(frame)):
            run.truth.add(frame)
    else:
        run.tolerate(lambda: run.journals.promote(STREAM, run.truth.now.position))
        run.truth.promoted, run.truth.promoting = run.store.state.promoted, run.store.state.promoting
    checks.p21_served(run, run.truth.now)


def _judge(run: StoreRun, a: int, b: int) -> None:
    """A damaged store that opens says where it stands, serves cuts, takes a frame, and goes on aging."""
    checks.p21_stands(run)
    believed = run.store.state.promoting
    for n in range(3):
        checks.p21_served(run, run.truth.cut(a + n, b + 37 * n, after=believed))
    if run.stands == run.truth.now:
        frame = run.next_frame(b, a)
        if run.tolerate(lambda: run.journals.append(frame)):
            run.truth.add(frame)
        checks.p21_served(run, run.truth.now)
        run.tolerate(lambda: run.journals.promote(STREAM, run.truth.now.position))
        run.truth.promoted, run.truth.promoting = run.store.state.promoted, run.store.state.promoting
        checks.p21_served(run, run.truth.now)


def _seen(found: Damage) -> StoreProbes:
    match found.kind, found.what:
        case "old", "ledger" | "promoting":
            return StoreProbes.STALE_LEDGER
        case "old", "segment":
            return StoreProbes.STALE_SEGMENT
        case "old", "mirror" | "sums":
            return StoreProbes.STALE_MIRROR
        case "old", _:
            return StoreProbes.STALE_LIST
        case "swap" | "copy", "segment":
            return StoreProbes.RECORD
        case "swap" | "copy", "ledger" | "promoting":
            return StoreProbes.ENTRY
        case "swap" | "copy", _:
            return StoreProbes.SECTOR
        case kind, _:
            return BY_KIND[kind]


BY_KIND = {
    "flip": StoreProbes.FLIP, "zero": StoreProbes.ZERO, "cut": StoreProbes.CUT, "gone": StoreProbes.GONE,
    "unreadable": StoreProbes.UNREADABLE,
}  # fmt: skip
