"""What must hold of a real store, one function a property. Each raises Violation, with its name, when it does not."""

from drsim.core.errors import DrsimError, PeerError, PlatformError
from drsim.core.messages import Cut, Frame
from drsim.real.wire import Wired, decode
from drsim.verify.store_disk import Files
from drsim.verify.store_run import STREAM, StoreProbes, StoreRun
from drsim.verify.store_truth import difference
from drsim.verify.violation import Violation


def p3_exact(run: StoreRun, cut: Cut) -> None:
    """An image served is the truth at its cut, sector for sector. Does not compare which rows it was made of."""
    try:
        image = run.image(cut)
    except PlatformError as error:
        raise Violation("P3", f"the cut {_at(cut)} cannot be rebuilt: {error}") from error
    wrong = difference(image, run.truth.image(cut.position))
    if wrong:
        raise Violation("P3", f"the image at {_at(cut)} is wrong: {wrong}")


def p3_refused(run: StoreRun, cut: Cut) -> None:
    """A cut that never was is not rounded to one that was."""
    try:
        run.image(cut)
    except PlatformError:
        run.probes.add(StoreProbes.NEVER)
    else:
        raise Violation("P3", f"an image is served at {_at(cut)}, where the stream never stood")


def p8_there(run: StoreRun, *, rows: bool = True) -> None:
    """What was acknowledged is there, and nothing else; `rows`: also row by row. Does not compare content: see P3."""
    if run.stands != run.truth.now:
        raise Violation("P8", f"the store stands at {_at(run.stands)}, {_at(run.truth.now)} was acknowledged")
    for slot, vm in enumerate(run.spec.vms if rows else ()):
        try:
            found = list(run.store.rows(vm))
        except PlatformError as error:
            raise Violation("P8", f"rows of VM {vm} cannot be read: {error}") from error
        held = run.truth.held(vm, run.store.state.promoted[slot])
        if found != held:
            raise Violation("P8", f"the journal of VM {vm} holds {found} instead of {held}")
    if run.catalog.checkpoints != run.truth.listed:
        have, wanted = list(run.catalog.checkpoints), list(run.truth.listed)
        raise Violation("P8", f"checkpoints {have} are listed instead of {wanted}")


def p8_whole_or_nothing(run: StoreRun, frame: Frame) -> bool:
    """A frame that was under way in a crash is there, or where it was not; says which."""
    if run.stands == Cut(frame.epoch, frame.upto):
        return True
    if run.stands == run.truth.now:
        return False
    where = f"{_at(run.stands)}, neither before nor after the frame to {_at(Cut(frame.epoch, frame.upto))}"
    raise Violation("P8", f"after a power cut the store stands at {where}")


def p11_mirrors(run: StoreRun) -> None:
    """The mirrors hold what was promoted and nothing else, unless a promotion is under way."""
    state, truth = run.store.state, run.truth
    if (state.promoted, state.promoting) != (truth.promoted, truth.promoting):
        found = f"{state.promoted} (going to {state.promoting})"
        raise Violation("P11", f"promoted is {found} instead of {truth.promoted} (going to {truth.promoting})")
    if state.promoted != state.promoting:
        return
    names = {v.id: run.store.directory / f"volume-{v.id}.mirror" for v in run.spec.volumes}
    wrong = difference({v: path.read_bytes() for v, path in names.items()}, truth.image(truth.promoted))
    if wrong:
        raise Violation("P11", f"the mirrors after {truth.promoted} are wrong: {wrong}")


def p11_listed(run: StoreRun) -> None:
    """Every checkpoint listed can be rebuilt, and to what it was when it was taken."""
    for checkpoint in run.catalog.checkpoints.values():
        cut = checkpoint.cut[STREAM]
        try:
            wrong = difference(run.image(cut), run.truth.image(cut.position))
        except PlatformError as error:
            wrong = str(error)
        if wrong:
            raise Violation("P11", f"checkpoint {checkpoint.id} at {_at(cut)} is listed: {wrong}")


def p21_served(run: StoreRun, cut: Cut) -> None:
    """Of a damaged store an image is right, or there is none."""
    images: list[dict[int, bytes]] = []
    if run.tolerate(lambda: images.append(run.image(cut))):
        wrong = difference(images[0], run.truth.image(cut.position))
        if wrong:
            raise Violation("P21", f"{run.damage}: a wrong image is served at {_at(cut)}: {wrong}")


def p21_stands(run: StoreRun) -> None:
    """A damaged store that opens holds what was acknowledged; one whose last ledger entry is lost may say less.

    Does not compare a list of checkpoints that is older than it should be, only what it leads to.
    """
    damage, truth = run.damage, run.truth
    assert damage is not None
    if run.stands == truth.before and run.stands != truth.now and damage.may_lose_last:
        run.probes.add(StoreProbes.LAST)
        run.seen = True
    elif run.stands != truth.now:
        where = f"at {_at(run.stands)}, {_at(truth.now)} was acknowledged"
        raise Violation("P21", f"{damage}: the store opens and stands {where}")
    for id_, checkpoint in run.catalog.checkpoints.items():
        if truth.ever.get(id_) != checkpoint:
            raise Violation("P21", f"{damage}: the list has {checkpoint}, which never was")
        known = run.seen
        p21_served(run, checkpoint.cut[STREAM])
        if run.seen and not known and damage.what == "catalogue":
            run.probes.add(StoreProbes.STALE_LIST)
    if damage.what == "catalogue" and damage.kind not in ("old", "gone") and run.catalog.checkpoints != truth.listed:
        raise Violation("P21", f"{damage}: the list has lost {truth.listed.keys() - run.catalog.checkpoints.keys()}")


def p21_evidence(run: StoreRun, before: Files) -> None:
    """A damaged store that does not open leaves the files of its journals as they were, also where they are torn.

    Does not compare other streams: their stores open, and go on.
    """
    assert run.damage is not None
    after, stream = run.disk.read(), run.damage.path.rpartition("/")[0].removesuffix("/vm-0").removesuffix("/vm-1")
    changed = [p for p in before if p.startswith(stream) and p.endswith(".segment") and after.get(p) != before[p]]
    if changed:
        raise Violation("P21", f"{run.damage}: the store does not open, and has changed {changed}")


def p21_frame(run: StoreRun, raw: bytes, sent: Wired) -> None:
    """A frame that was changed on the wire is refused, or was not changed."""
    try:
        found = decode(raw)
    except PeerError:
        run.probes.add(StoreProbes.FRAME)
        return
    except Exception as error:
        raise Violation("P21", f"a broken frame ends in {type(error).__name__}") from error
    if found != sent:
        raise Violation("P21", "a broken frame is taken")


def p21_refused(run: StoreRun, frame: Frame, probe: StoreProbes) -> None:
    """A frame that does not belong where it arrives is not applied."""
    before = run.stands
    try:
        run.store.append(frame)
    except DrsimError:
        run.probes.add(probe)
    if run.stands != before:
        raise Violation("P21", f"applied although it does not belong here: {probe} does not hold")


def _at(cut: Cut) -> str:
    return f"{cut.position} in epoch {cut.epoch}"
