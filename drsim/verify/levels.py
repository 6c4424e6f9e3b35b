"""Levels: what a recovered group of VMs may be called, from flush epochs to application consistency.

    L0  prefix                  each VM is what some first k of its own writes leave
    L1  flush epoch             each VM is what its disks may hold when the power of all VMs goes at one instant
    L2  consistent cut          L0, and over all VMs together the cut is closed: with a write, all that it could know of
    L3  application-consistent  L2, and the cut lies between freeze and thaw of every VM that took part

L3 implies L2, and L2 implies L0 and L1. Neither of L0 and L1 implies the other: snapshots of single VMs are prefixes
without a common instant, and a disk that loses its cache at one instant is no prefix.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from functools import cached_property

import numpy as np

from drsim.core.units import SECOND
from drsim.verify.anyorder import Lacking, Tangled, inside, lacks, shown
from drsim.verify.oracle import NEVER, Bool, Broken, Int64, Prefixes, Truth, Writes, consistent_cut

ALWAYS = (-NEVER, NEVER)
"""Freeze and thaw of a VM that took no part: any cut lies between."""


class Level(IntEnum):
    """What a recovery point may promise."""

    L0 = 0
    L1 = 1
    L2 = 2
    L3 = 3


class Kind(Enum):
    """What is wrong with a group. INCOMPLETE and UNTOLD are for those who gather what is known of it."""

    INCOMPLETE = "no image"
    FOREIGN = "foreign content"
    TORN = "torn write"
    HOLE = "missing write"
    TANGLED = "impossible order"
    UNTOLD = "no flush recorded"
    UNFLUSHED = "lost a flushed write"
    CUT = "no consistent cut"
    UNFROZEN = "no freeze"
    FREEZE = "not between freeze and thaw"


@dataclass(frozen=True, slots=True)
class Witness:
    """One reason, enough for a person to check it. Writes are (index of the VM in the group, number).

    missing: the write that ought to be there. present: the one because of which. at: (index of the VM, sector).
    """

    kind: Kind
    missing: tuple[int, int] | None = None
    present: tuple[int, int] | None = None
    at: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Image:
    """One recovered VM: its truth, what its sectors hold, and when its application was frozen and thawed, in ns."""

    truth: Truth
    ver: Int64
    frozen: tuple[int, int] | None = None

    @cached_property
    def prefixes(self) -> Prefixes:
        """Which prefixes the image equals."""
        return self.truth.prefixes(self.ver)

    @cached_property
    def latest(self) -> int:
        """When the latest of the writes that it shows was issued; -NEVER if it shows none."""
        return self.truth.latest_visible(self.ver)

    def inside(self, k: int, latest: int) -> Bool:
        """Which writes (bool, index 0 is write 1) belong to it, in a cut that gives it `k` and ends at `latest`."""
        return np.arange(len(self.truth)) < k if self.truth.ordered else inside(self.truth, self.ver, latest)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a group reaches a level, why not, and the cut: how many writes of each VM, latest issue among them."""

    level: Level
    cut: tuple[int, ...]
    latest: int
    witness: Witness | None

    @property
    def ok(self) -> bool:
        return self.witness is None


def judge_group(images: Sequence[Image], level: Level) -> Judgement:
    """Whether images of several VMs, recovered together, reach a level."""
    for i, image in enumerate(images):
        foreign_at = image.prefixes.foreign_at
        if foreign_at >= 0:
            return Judgement(level, (0,) * len(images), -NEVER, Witness(Kind.FOREIGN, at=(i, foreign_at)))
    match level:
        case Level.L0:
            return _alone(images, level)
        case Level.L1:
            return _epoch(images)
        case Level.L2:
            return _together(images, level, [ALWAYS] * len(images))
        case Level.L3:
            found = _together(images, level, [ALWAYS] * len(images))
            if not found.ok:
                return found
            if all(image.frozen is None for image in images):
                return replace(found, witness=Witness(Kind.UNFROZEN))
            return _together(images, level, [image.frozen or ALWAYS for image in images])


def judge_image(image: Image, level: Level) -> Judgement:
    """Whether the image of one VM reaches a level."""
    return judge_group([image], level)


def reached(images: Sequence[Image]) -> tuple[Level, ...]:
    """All levels that a group reaches, lowest first."""
    if judge_group(images, Level.L2).ok:
        more = (Level.L3,) if judge_group(images, Level.L3).ok else ()
        return (Level.L0, Level.L1, Level.L2, *more)
    return tuple(level for level in (Level.L0, Level.L1) if judge_group(images, level).ok)


def _alone(images: Sequence[Image], level: Level) -> Judgement:
    """Each VM for itself: a prefix of its writes."""
    counts, latest, witness = [], -NEVER, None
    for i, image in enumerate(images):
        if image.truth.ordered:
            witness = witness or _hole(i, image)
            counts.append(image.prefixes.lo)
            latest = max(latest, int(image.truth.last_issue[image.prefixes.lo]))
        else:
            witness = witness or _lacking(i, image, image.latest)
            counts.append(int(inside(image.truth, image.ver, image.latest).sum()))
            latest = max(latest, image.latest)
    return Judgement(level, tuple(counts), latest, witness)


def _epoch(images: Sequence[Image]) -> Judgement:
    """All VMs at one instant, each keeping what it had flushed."""
    instant = max((image.latest for image in images), default=-NEVER)
    counts = tuple(int(image.truth.flushed(instant).sum()) for image in images)
    for i, image in enumerate(images):
        found = image.truth.unflushed(image.ver, instant)
        if found is not None:
            witness = Witness(Kind.UNFLUSHED, (i, found[1]), _issued(images, instant, _shown(images)), (i, found[0]))
            return Judgement(Level.L1, counts, instant, witness)
    return Judgement(Level.L1, counts, instant, None)


def _together(images: Sequence[Image], level: Level, spans: Sequence[tuple[int, int]]) -> Judgement:
    """All VMs in one closed cut, with all that was acknowledged before the freeze and nothing issued after the thaw."""
    alone = _alone(images, level)
    if not alone.ok:
        return alone
    for i, image in enumerate(images):
        witness = _outside(i, image, spans[i], image.latest) if spans[i] != ALWAYS else None
        if witness is not None:
            return replace(alone, witness=witness)
    ordered = [i for i, image in enumerate(images) if image.truth.ordered]
    ranges = [_range(images[i], *spans[i]) for i in ordered]
    after = max((_latest(image, spans[i][0]) for i, image in enumerate(images) if i not in ordered), default=-NEVER)
    cut = consistent_cut([images[i].truth for i in ordered], ranges, after=after)
    if isinstance(cut, Broken):
        missing = ordered[cut.missing[0]], cut.missing[1]
        has = (image.inside(0, spans[i][0]) for i, image in enumerate(images))
        present = (ordered[cut.present[0]], cut.present[1]) if cut.present else _issued(images, after, has)
        return replace(alone, witness=Witness(Kind.CUT, missing, present))
    counts, witness = list(alone.cut), None
    for i, k in zip(ordered, cut.writes, strict=True):
        counts[i] = k
    because = _issued(images, cut.latest, (image.inside(counts[i], spans[i][0]) for i, image in enumerate(images)))
    for i, image in enumerate(images):
        if not image.truth.ordered:
            latest = max(cut.latest, spans[i][0])
            counts[i] = int(inside(image.truth, image.ver, latest).sum())
            witness = witness or _lacking(i, image, latest, because=because) or _outside(i, image, spans[i], latest)
    return Judgement(level, tuple(counts), cut.latest, witness)


def _range(image: Image, freeze: int, thaw: int) -> tuple[int, int]:
    """Which prefixes an image equals that lie between freeze and thaw."""
    truth, found = image.truth, image.prefixes
    need = int(truth.first_ack.searchsorted(freeze))
    return max(found.lo, need), min(found.hi, int(truth.last_issue.searchsorted(thaw, "right")) - 1)


def _latest(image: Image, freeze: int) -> int:
    """The latest issue of what the image of a VM of unknown order must have."""
    has = inside(image.truth, image.ver, freeze)
    return int(image.truth.writes.issue[has].max(initial=-NEVER))


# -- witnesses ------------------------------------------------------------------------------------------------------


def _outside(i: int, image: Image, span: tuple[int, int], latest: int) -> Witness | None:
    """A write that VM i lacks although acknowledged before its freeze, or has although issued after its thaw.

    `latest`: latest issue inside the cut, which tells what a VM of unknown order has.
    """
    (freeze, thaw), w, number = span, image.truth.writes, np.arange(1, len(image.truth) + 1)
    if image.truth.ordered:
        has, lacking = number <= image.prefixes.lo, (number > image.prefixes.hi) & (w.ack < freeze)
    else:
        found = lacks(image.truth, image.ver, freeze)
        has = inside(image.truth, image.ver, max(latest, freeze))
        lacking = number == (found.missing if isinstance(found, Lacking) else 0)
    late = number[has & (w.issue > thaw)]
    if len(late):
        return Witness(Kind.FREEZE, present=(i, int(late[0])))
    return Witness(Kind.FREEZE, missing=(i, int(number[lacking][0]))) if lacking.any() else None


def _hole(i: int, image: Image) -> Witness | None:
    """Why the image of VM i is no prefix."""
    found = image.prefixes
    if found.ok:
        return None
    missing = found.hi + 1
    torn = bool((image.ver == missing).any())
    return Witness(Kind.TORN if torn else Kind.HOLE, (i, missing), (i, found.lo), (i, found.missing_at))


def _lacking(i: int, image: Image, latest: int, *, because: tuple[int, int] | None = None) -> Witness | None:
    """Why the image of VM i, of unknown order, is no crash state with something issued at `latest` in the cut."""
    match lacks(image.truth, image.ver, latest):
        case Lacking(missing, sector):
            if (image.ver == missing).any():
                return Witness(Kind.TORN, (i, missing), (i, missing), (i, sector))
            if image.truth.ack[missing] < image.latest:
                own = _issued([image], image.latest, _shown([image]))
                return Witness(Kind.HOLE, (i, missing), (i, own[1]) if own else None, (i, sector))
            return Witness(Kind.CUT, (i, missing), because, (i, sector))
        case Tangled(writes):
            return Witness(Kind.TANGLED, (i, writes[-1]), (i, writes[0]))
        case None:
            return None


def _issued(images: Sequence[Image], instant: int, has: Iterable[Bool]) -> tuple[int, int] | None:
    """A write issued at an instant, among those that each VM has."""
    for i, (image, mine) in enumerate(zip(images, has, strict=True)):
        found = np.flatnonzero(mine & (image.truth.writes.issue == instant))
        if len(found):
            return i, int(found[0]) + 1
    return None


def _shown(images: Sequence[Image]) -> Iterator[Bool]:
    return (shown(image.truth, image.ver) for image in images)


# -- to measure and to try --------------------------------------------------------------------------------------------


def sample_group(*, vms: int, sectors: int, writes: int, most: int = 16, seed: int = 0) -> tuple[Image, ...]:
    """A consistent group, as large as wanted: each VM after the same 80 % of the time in which it writes.

    Every VM makes `writes` writes of 1 to `most` of its `sectors`, up to 10 ms each, in 1000 s.
    """
    rng = np.random.default_rng(seed)
    end, images = 1000 * SECOND, []
    for _ in range(vms):
        issue, start = np.sort(rng.integers(0, end, writes)), rng.integers(0, sectors - most + 1, writes)
        ack = issue + rng.integers(SECOND // 10_000, SECOND // 100, writes)
        truth = Truth(Writes(issue, ack, start, start + rng.integers(1, most + 1, writes)), sectors)
        images.append(Image(truth, truth.after(int(issue.searchsorted(end * 8 // 10)))))
    return tuple(images)
