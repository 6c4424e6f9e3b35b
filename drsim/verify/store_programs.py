"""Store programs: byte programs against the real journal store, its catalogue and the wire, on a disk that breaks.

    bytes      what
    ---------  ---------------------------------------------------------------
    0, 1       shape: VMs, sizes of segments and ledgers, a second stream
    2, 3       swarm mask: a bit set takes a class of operations away
    4 ...      three bytes an operation: which (`TABLE`), and two to pick with

The store lives in a directory in memory (`store_disk.py`) and is compared with a truth in plain Python
(`store_truth.py`). Properties (`store_checks.py`):

    P3     an image served is the truth at its cut, sector for sector; a cut that never was is refused
    P8     what was acknowledged is there after a crash; what was under way is there whole, or not at all
    P11    the mirrors hold exactly what was promoted; every checkpoint listed can be rebuilt
    P21    whatever is damaged (`store_damage.py`) is never applied, acknowledged or served: an error, or the truth

Damage is judged and then healed from a backup, so that a program goes on after it. A frame that was under way in a
crash and is lost never comes again as it was: a new epoch begins, as the protocol has it.
"""

import hashlib
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from drsim.core.errors import PlatformError
from drsim.core.messages import Checkpoint, Frame
from drsim.core.names import Address, CheckpointId
from drsim.core.window import reaches
from drsim.real.wire import Letter, decode, encode
from drsim.verify import store_checks as checks
from drsim.verify.store_damage import KINDS
from drsim.verify.store_judge import harm
from drsim.verify.store_run import OTHER, STREAM, Arm, Outcome, Shape, StoreProbes, StoreRun
from drsim.verify.violation import Violation

__all__ = ["LENGTH", "Report", "StoreProbes", "random_store_program", "run_store_program"]

HEAD = 4
OPERATIONS = 40
LENGTH = HEAD + 3 * OPERATIONS
MEMORY = Path("/dev/shm")
"""Where files live in memory, if anywhere."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a clean program did. `digest` is the same for the same program in any process."""

    operations: int
    probes: frozenset[str]
    digest: str


def random_store_program(seed: int) -> bytes:
    """The program of a seed."""
    return random.Random(seed).randbytes(LENGTH)


def run_store_program(program: bytes) -> Report:
    """Play a program. Raises Violation when a property does not hold."""
    program = program.ljust(LENGTH, b"\0")
    mask = program[2] | program[3] << 8
    without = {kind for n, kind in enumerate(MASKED) if mask >> n & 1}
    digest = hashlib.blake2b(digest_size=16)
    with tempfile.TemporaryDirectory(prefix="drsim-", dir=MEMORY if MEMORY.is_dir() else None) as home:
        run = StoreRun(_shape(program), Path(home))
        with run.disk.installed():
            run.open()
            try:
                for at in range(HEAD, LENGTH - 2, 3):
                    name = TABLE[program[at] % len(TABLE)]
                    if name not in without:
                        OPERATIONS_BY_NAME[name](run, program[at + 1], program[at + 2])
                        digest.update(f"{name} {run.stands} {run.store.state.promoted}\n".encode())
                _finish(run)
            finally:
                run.journals.close()
    digest.update(" ".join(sorted(run.probes)).encode())
    return Report(OPERATIONS, frozenset(run.probes), digest.hexdigest())


def _shape(program: bytes) -> Shape:
    a, b = program[:2]
    return Shape(2 - a % 2, (1 << 20, 4000, 1, 900)[a // 2 % 4], (1 << 18, 2048)[b % 2], b // 2 % 2 == 1)


def _finish(run: StoreRun) -> None:
    _reopen(run, 0, 0)
    checks.p11_listed(run)
    checks.p11_mirrors(run)
    checks.p3_exact(run, run.truth.now)


# -- appending --------------------------------------------------------------------------------------------------------


def _append(run: StoreRun, a: int, b: int) -> None:
    frame = run.next_frame(a, b)
    letter = Letter(STREAM.source, STREAM.target, frame)
    raw = encode(letter)
    checks.p21_frame(run, raw, letter)
    _note(run, frame)
    if run.armed is None:
        run.twin(frame)
    try:
        outcome = run.do(lambda: run.journals.append(frame), StoreProbes.CRASH_APPEND)
    except PlatformError as error:
        raise Violation("P8", f"a frame that continues the journal is not taken: {error}") from error
    if outcome is Outcome.FAILED:
        run.settle()
    if outcome is Outcome.DONE or checks.p8_whole_or_nothing(run, frame):
        run.truth.add(frame)
        run.raw.append(raw)
        if outcome is not Outcome.DONE:
            run.probes.add(StoreProbes.SURVIVED)
    else:
        run.fresh = True
        run.probes.add(StoreProbes.LOST if outcome is Outcome.CUT else StoreProbes.UNTOUCHED)
    checks.p8_there(run, rows=outcome is not Outcome.DONE)
    run.remember()
    if any(segment for segment, _ in run.store.state.tails):
        run.probes.add(StoreProbes.ROLLED)


def _note(run: StoreRun, frame: Frame) -> None:
    batch = frame.batch
    if len(set(batch.vm.tolist())) > 1:
        run.probes.add(StoreProbes.TWO_VMS)
    seen: set[tuple[int, int]] = set()
    for volume, lba, sectors in zip(batch.volume.tolist(), batch.lba.tolist(), batch.sectors.tolist(), strict=True):
        extent = {(volume, lba + n) for n in range(sectors)}
        if seen & extent and not extent <= seen:
            run.probes.add(StoreProbes.OVERLAP)
        seen |= extent


def _epoch(run: StoreRun, a: int, b: int) -> None:
    run.fresh = True


# -- promoting, checkpoints -------------------------------------------------------------------------------------------


def _promote(run: StoreRun, a: int, b: int) -> None:
    """As the core does: first the checkpoints before the position leave the list, then its data goes to the mirrors."""
    truth = run.truth
    ahead = [c for c in truth.ends if reaches(c.position, truth.promoting)]
    if not ahead:
        return
    upto = ahead[a % len(ahead)].position
    kept = [c.id for c in truth.listed.values() if reaches(c.cut[STREAM].position, upto)]
    if len(kept) < len(truth.listed):
        _forget_before(run, min(kept, default=None))
        if len(truth.listed) > len(kept):
            return  # something came between
    before, cut_short = truth.promoted, truth.promoted != truth.promoting
    segments = _segments(run)
    try:
        outcome = run.do(lambda: run.journals.promote(STREAM, upto), StoreProbes.CRASH_PROMOTE)
    except PlatformError as error:
        raise Violation("P11", f"rows up to {upto} cannot be promoted: {error}") from error
    if outcome is Outcome.FAILED:
        run.settle()
    state = run.store.state
    allowed = [upto] if outcome is Outcome.DONE else [upto, before]
    if state.promoted not in allowed or state.promoting not in [*allowed, truth.promoting]:
        raise Violation("P11", f"promoted is {state.promoted}, going to {state.promoting}, after {before} and {upto}")
    truth.promoted, truth.promoting = state.promoted, state.promoting
    if outcome is Outcome.DONE and cut_short:
        run.probes.add(StoreProbes.REPEATED)
    if outcome is Outcome.DONE and b % 2:
        run.journals.promote(STREAM, upto)
    if _segments(run) < segments:
        run.probes.add(StoreProbes.DROPPED)
    checks.p8_there(run)
    checks.p11_mirrors(run)
    run.remember()


def _segments(run: StoreRun) -> int:
    return sum(path.endswith(".segment") for path in run.disk.read())


def _keep(run: StoreRun, a: int, b: int) -> None:
    checkpoint = run.checkpoint()
    run.truth.ever[checkpoint.id] = checkpoint
    _list(run, lambda: run.catalog.keep(checkpoint), {**run.truth.listed, checkpoint.id: checkpoint})


def _forget(run: StoreRun, a: int, b: int) -> None:
    if run.truth.listed:
        _forget_before(run, [*run.truth.listed, None][1 + a % len(run.truth.listed)])


def _forget_before(run: StoreRun, first: CheckpointId | None) -> None:
    left = {id_: c for id_, c in run.truth.listed.items() if first is not None and id_ >= first}
    _list(run, lambda: run.catalog.forget(first), left)


def _list(run: StoreRun, wish: Callable[[], None], after: dict[CheckpointId, Checkpoint]) -> None:
    try:
        outcome = run.do(wish, StoreProbes.CRASH_LIST)
    except PlatformError as error:
        raise Violation("P8", f"the list cannot be changed: {error}") from error
    if outcome is Outcome.FAILED:
        run.settle()
    if outcome is Outcome.DONE or run.catalog.checkpoints == after:
        run.truth.listed = after
    checks.p8_there(run, rows=outcome is not Outcome.DONE)
    run.remember()


# -- reading, restarting ----------------------------------------------------------------------------------------------


def _rebuild(run: StoreRun, a: int, b: int) -> None:
    cut = run.truth.cut(a, b)
    if cut not in run.truth.ends and cut.position not in [start for start, _ in run.truth.epochs.values()]:
        run.probes.add(StoreProbes.INSIDE)
    if cut.epoch < run.truth.now.epoch:
        run.probes.add(StoreProbes.ENDED_EPOCH)
    checks.p3_exact(run, cut)


def _never(run: StoreRun, a: int, b: int) -> None:
    cuts = list(run.truth.never())
    checks.p3_refused(run, cuts[a % len(cuts)])


def _reopen(run: StoreRun, a: int, b: int) -> None:
    def again() -> None:
        run.journals.close()
        run.open()

    try:
        if run.do(again, StoreProbes.CRASH_OPEN) is Outcome.FAILED:
            again()
    except PlatformError as error:
        raise Violation("P8", f"the store does not open: {error}") from error
    checks.p8_there(run)


def _arm(kind: str) -> Callable[[StoreRun, int, int], None]:
    def arm(run: StoreRun, a: int, b: int) -> None:
        run.armed = Arm(kind, 1 + a % 24, b)

    return arm


# -- the wire ---------------------------------------------------------------------------------------------------------


def _broken_frame(run: StoreRun, a: int, b: int) -> None:
    fresh = run.fresh
    letter = Letter(STREAM.source, STREAM.target, run.next_frame(a, b))
    run.fresh = fresh
    raw = bytearray(encode(letter))
    at = (a * 257 + b * 40503) % len(raw)
    match b % 4:
        case 0 | 1:
            raw[at] ^= 1 << (a // 32)
        case 2:
            del raw[at:]
        case _:
            other = run.raw[a % len(run.raw)] if run.raw else raw
            raw[at:] = other[at:]
    if bytes(raw) not in run.raw:  # all of another one: that is an old frame, not a broken one
        checks.p21_frame(run, bytes(raw), letter)


def _old_frame(run: StoreRun, a: int, b: int) -> None:
    if run.raw:
        letter = decode(run.raw[a % len(run.raw)])
        assert isinstance(letter, Letter)
        assert isinstance(letter.message, Frame)
        checks.p21_refused(run, letter.message, StoreProbes.REPLAY)


def _strange_frame(run: StoreRun, a: int, b: int) -> None:
    fresh = run.fresh
    frame = replace(run.next_frame(a, b), stream=OTHER)
    run.fresh = fresh
    letter = decode(encode(Letter(Address("west/h2/vra"), STREAM.target, frame)))
    assert isinstance(letter, Letter)
    assert isinstance(letter.message, Frame)
    checks.p21_refused(run, letter.message, StoreProbes.STRANGER)


# -- the table --------------------------------------------------------------------------------------------------------

OPERATIONS_BY_NAME: dict[str, Callable[[StoreRun, int, int], None]] = {
    "append": _append, "epoch": _epoch, "promote": _promote, "keep": _keep, "forget": _forget, "rebuild": _rebuild,
    "never": _never, "reopen": _reopen, "crash": _arm("crash"), "full": _arm("full"), "error": _arm("error"),
    **{kind: partial(harm, kind) for kind in (*KINDS, "unreadable")},
    "broken frame": _broken_frame, "old frame": _old_frame, "strange frame": _strange_frame,
}  # fmt: skip
MASKED = (
    "crash", "full", "error", "epoch", "promote", "reopen", "flip", "zero", "cut", "swap", "copy", "old", "gone",
    "unreadable", "broken frame", "old frame",
)  # fmt: skip
"""Operations that a bit of the swarm mask takes away."""
WEIGHTS = {
    "append": 30, "rebuild": 10, "keep": 8, "promote": 10, "epoch": 3, "reopen": 3, "crash": 14, "never": 3,
    "full": 2, "error": 3, "swap": 3, "copy": 3, "old": 8, "flip": 5, "cut": 3,
}  # fmt: skip
TABLE = [name for name in OPERATIONS_BY_NAME for _ in range(WEIGHTS.get(name, 1))]
"""Weighted; byte 0 is the most harmless operation, so that shrinking to zeros simplifies."""
