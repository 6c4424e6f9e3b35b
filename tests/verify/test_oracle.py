"""The oracle against brute force: tiny groups, every subset, every order, every cut."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, combinations, permutations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsim.core.errors import CoreError
from drsim.verify.levels import Image, Kind, Level, Witness, judge_group, judge_image, reached
from drsim.verify.oracle import (
    FOREIGN,
    NEVER,
    UNSEEN,
    Broken,
    Cut,
    Flushes,
    Truth,
    Writes,
    closed,
    consistent_cut,
)  # fmt: skip

SECTORS, LATE = 6, 12
Numbers = frozenset[int]


@dataclass(frozen=True)
class Vm:
    """A VM as plain Python: rows of (issue, ack, start, stop, fua) and (issue, ack, start, stop)."""

    rows: tuple[tuple[int, int, int, int, bool], ...]
    flushes: tuple[tuple[int, int, int, int], ...]
    ver: tuple[int, ...]
    frozen: tuple[int, int] | None
    ordered: bool

    def image(self) -> Image:
        issue, ack, start, stop, fua = (np.array([r[i] for r in self.rows], np.int64) for i in range(5))
        flushes = Flushes(*(np.array([f[i] for f in self.flushes], np.int64) for i in range(4)))
        writes = Writes(issue, ack, start, stop, fua.astype(bool), flushes)
        return Image(Truth(writes, SECTORS, ordered=self.ordered), np.array(self.ver, np.int64), self.frozen)

    def before(self, w: int, u: int) -> bool:
        return self.rows[w - 1][1] < self.rows[u - 1][0]

    def leaves(self, order: Sequence[int]) -> bool:
        """Whether writes in this order leave the image, as far as it is seen."""
        disk = [0] * SECTORS
        for w in order:
            _, _, start, stop, _ = self.rows[w - 1]
            disk[start:stop] = [w] * (stop - start)
        return all(v in (UNSEEN, d) for v, d in zip(self.ver, disk, strict=True))

    def orders(self) -> Iterator[tuple[int, ...]]:
        """Beginnings of all orders in which the disk may have taken the writes."""
        numbers = range(1, len(self.rows) + 1)
        if self.ordered:
            yield from (tuple(numbers[:k]) for k in range(len(numbers) + 1))
            return
        for some in subsets(numbers):
            if any(self.before(w, u) for u in some for w in numbers if w not in some):
                continue
            for order in permutations(some):
                if not any(self.before(u, w) for i, w in enumerate(order) for u in order[i:]):
                    yield order

    def choices(self) -> set[Numbers]:
        """The sets of writes whose prefix the image may be."""
        return {frozenset(order) for order in self.orders() if self.leaves(order)}

    def between(self, some: Numbers) -> bool:
        """Whether a cut lies between freeze and thaw."""
        if self.frozen is None:
            return True
        freeze, thaw = self.frozen
        return all(w in some or row[1] >= freeze for w, row in enumerate(self.rows, 1)) and all(
            self.rows[w - 1][0] <= thaw for w in some
        )

    def flushed(self, instant: int) -> Numbers:
        found = set()
        for w, (_, ack, start, stop, fua) in enumerate(self.rows, 1):
            if fua and ack < instant:
                found.add(w)
            if any(a <= start and stop <= b and ack < issue and done < instant for issue, done, a, b in self.flushes):
                found.add(w)
        return frozenset(found)

    def may_hold(self, instant: int) -> bool:
        """Whether the image may be what the disk kept when the power went at an instant."""
        issued = [w for w, row in enumerate(self.rows, 1) if row[0] <= instant]
        must = self.flushed(instant)
        legal: list[set[int]] = [set() for _ in range(SECTORS)]
        orders = (
            [tuple(range(1, len(self.rows) + 1))]
            if self.ordered
            else [o for o in self.orders() if len(o) == len(self.rows)]
        )
        for order in orders:
            for some in subsets(issued):
                if must <= set(some):
                    disk = [0] * SECTORS
                    for w in order:
                        if w in some:
                            _, _, start, stop, _ = self.rows[w - 1]
                            disk[start:stop] = [w] * (stop - start)
                    for x, content in enumerate(disk):
                        legal[x].add(content)
        return all(v == UNSEEN or v in legal[x] for x, v in enumerate(self.ver))


def subsets(of: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(of, n) for n in range(len(of) + 1))


def cuts(vms: Sequence[Vm], *, frozen: bool = False) -> list[tuple[Numbers, ...]]:
    """Every closed cut that the images allow."""
    everything = [(i, w) for i, vm in enumerate(vms) for w in range(1, len(vm.rows) + 1)]
    found = []
    for cut in product(*(vm.choices() for vm in vms)):
        if frozen and not all(vm.between(some) for vm, some in zip(vms, cut, strict=True)):
            continue
        inside = max((vms[i].rows[w - 1][0] for i, w in everything if w in cut[i]), default=-1)
        if all(vms[i].rows[w - 1][1] >= inside for i, w in everything if w not in cut[i]):
            found.append(cut)
    return found


@st.composite
def vm(draw: st.DrawFn, ordered: bool, most: int) -> Vm:
    row = st.tuples(
        st.integers(0, LATE), st.integers(0, 5) | st.just(NEVER), st.integers(0, SECTORS), st.integers(0, 3),
        st.integers(0, 5), st.booleans(),
    )  # fmt: skip
    drawn = []
    for issue, lasts, start, length, landed, fua in draw(st.lists(row, max_size=most)):
        ack = NEVER if lasts == NEVER else issue + lasts
        drawn.append((min(issue + landed, ack), (issue, ack, start, min(SECTORS, start + length), fua and length > 0)))
    rows = tuple(r for _, r in sorted(drawn, key=lambda each: each[0]))
    flush = st.tuples(st.integers(0, LATE), st.integers(0, 4), st.sampled_from([(0, SECTORS), (0, 3), (3, SECTORS)]))
    flushes = tuple((issue, issue + lasts, *extent) for issue, lasts, extent in draw(st.lists(flush, max_size=2)))
    n = len(rows)
    disk = [0] * SECTORS
    order = list(range(1, n + 1)) if ordered else draw(st.permutations(range(1, n + 1)))
    for w in order[: draw(st.integers(0, n))]:
        _, _, start, stop, _ = rows[w - 1]
        disk[start:stop] = [w] * (stop - start)
    change = st.tuples(st.integers(0, SECTORS - 1), st.integers(0, n) | st.just(FOREIGN) | st.just(n + 1))
    for x, content in draw(st.just([]) | st.lists(change, max_size=SECTORS)):
        disk[x] = content
    unseen = draw(st.just(0) | st.integers(0, SECTORS))
    disk[:unseen] = [UNSEEN] * unseen
    freeze = draw(st.none() | st.tuples(st.integers(0, LATE), st.integers(0, 5)))
    return Vm(rows, flushes, tuple(disk), None if freeze is None else (freeze[0], sum(freeze)), ordered)


ORDERED = st.lists(vm(ordered=True, most=6), min_size=1, max_size=3)
MIXED = st.lists(vm(ordered=False, most=4) | vm(ordered=True, most=4), min_size=1, max_size=3)


@given(vm(ordered=True, most=6))
def test_prefixes_are_those_of_brute_force(one: Vm) -> None:
    found = one.image().prefixes
    ks = sorted(len(some) for some in one.choices())
    assert (list(range(found.lo, found.hi + 1)) if found.ok else []) == ks


@given(ORDERED)
def test_the_least_closed_cut_is_that_of_brute_force(vms: list[Vm]) -> None:
    images = [one.image() for one in vms]
    if not all(image.prefixes.ok for image in images):
        return
    found = consistent_cut([i.truth for i in images], [(i.prefixes.lo, i.prefixes.hi) for i in images])
    legal = [tuple(map(len, cut)) for cut in cuts(vms)]
    if not legal:
        assert isinstance(found, Broken)
        (j, w), present = found.missing, found.present
        assert present is not None
        assert vms[j].rows[w - 1][1] < vms[present[0]].rows[present[1] - 1][0], "w -> u"
        assert w > images[j].prefixes.hi
    else:
        assert isinstance(found, Cut)
        assert found.writes == tuple(min(each) for each in zip(*legal, strict=True))
        assert found.writes in legal


def check_levels(vms: list[Vm]) -> None:
    images = [one.image() for one in vms]
    legal, frozen = cuts(vms), cuts(vms, frozen=True)
    anyone_frozen = any(one.frozen for one in vms)
    instants = range(-1, LATE + 2)
    truth = {
        Level.L0: all(one.choices() for one in vms),
        Level.L1: any(all(one.may_hold(t) for one in vms) for t in instants),
        Level.L2: bool(legal),
        Level.L3: bool(frozen) and anyone_frozen,
    }
    found = {level: judge_group(images, level) for level in Level}
    assert {level: judged.ok for level, judged in found.items()} == truth
    assert reached(images) == tuple(level for level, holds in truth.items() if holds)
    for level, options in ((Level.L2, legal), (Level.L3, frozen if anyone_frozen else [])):
        if options:
            assert found[level].cut == tuple(min(len(cut[i]) for cut in options) for i in range(len(vms)))
    for judged in found.values():
        if judged.witness is not None:
            check_witness(vms, judged.witness)


def check_witness(vms: list[Vm], witness: Witness) -> None:
    """A witness can be checked by hand."""

    def row(ref: tuple[int, int] | None) -> tuple[int, int, int, int, bool]:
        assert ref is not None
        return vms[ref[0]].rows[ref[1] - 1]

    if witness.at is not None and witness.missing is not None:
        owner, (i, x) = vms[witness.at[0]], witness.at
        assert row(witness.missing)[2] <= x < row(witness.missing)[3]
        shown = owner.ver[x]
        assert shown != witness.missing[1]
        assert not owner.ordered or shown < witness.missing[1]
        assert owner.ordered or not shown or owner.before(shown, witness.missing[1])
        assert i == witness.missing[0]
    match witness.kind:
        case Kind.FOREIGN:
            assert witness.at is not None
            i, x = witness.at
            content = vms[i].ver[x]
            assert (
                content == FOREIGN or content > len(vms[i].rows) or not row((i, content))[2] <= x < row((i, content))[3]
            )
        case Kind.TORN:
            assert witness.missing is not None
            assert witness.missing[1] in vms[witness.missing[0]].ver
        case Kind.HOLE:
            assert witness.missing is not None
            assert witness.present is not None
            assert witness.present[1] in vms[witness.present[0]].ver
            if vms[witness.missing[0]].ordered:
                assert witness.present[1] > witness.missing[1]
            else:
                assert row(witness.missing)[1] < row(witness.present)[0]
        case Kind.CUT:
            assert row(witness.missing)[1] < row(witness.present)[0]
        case Kind.UNFLUSHED:
            assert witness.missing is not None
            assert witness.missing[1] in vms[witness.missing[0]].flushed(row(witness.present)[0])
        case Kind.TANGLED:
            assert witness.missing is not None
            assert witness.present is not None
            assert witness.missing[0] == witness.present[0]
        case Kind.FREEZE:
            ref = witness.missing or witness.present
            assert ref is not None
            frozen = vms[ref[0]].frozen
            if witness.present is None:
                assert frozen is not None
                assert row(ref)[1] < frozen[0]
            elif witness.missing is None:
                assert frozen is not None
                assert row(ref)[0] > frozen[1]
        case Kind.UNFROZEN:
            assert all(one.frozen is None for one in vms)


@given(ORDERED)
def test_levels_of_ordered_groups_are_those_of_brute_force(vms: list[Vm]) -> None:
    check_levels(vms)


@given(MIXED)
def test_levels_are_those_of_brute_force_when_the_order_is_not_known(vms: list[Vm]) -> None:
    check_levels(vms)


def dense(rng: Random, *, ordered: bool) -> Vm:
    """A VM with few instants and few sectors, so that much of it touches: Hypothesis draws too many that do not."""
    late, most = rng.choice([(4, 4), (9, 5)])
    drawn = []
    for _ in range(rng.randint(1, most)):
        issue = rng.randint(0, late)
        ack = NEVER if rng.random() < 0.1 else issue + rng.randint(0, 3)
        start = rng.randint(0, 3)
        row = (issue, ack, start, start + rng.choice([0, 1, 1, 2, 3]), rng.random() < 0.2)
        drawn.append((min(issue + rng.randint(0, 3), ack), row))
    rows = tuple(row for _, row in sorted(drawn, key=lambda each: each[0]))
    flushes = []
    for _ in range(rng.randint(0, 2)):
        issue = rng.randint(0, late)
        flushes.append((issue, issue + rng.randint(0, 2), *rng.choice([(0, SECTORS), (0, 2), (2, SECTORS)])))
    disk, n = [0] * SECTORS, len(rows)
    order = list(range(1, n + 1))
    if not ordered:
        rng.shuffle(order)
    chosen = order[: rng.randint(0, n)]
    if rng.random() < 0.3:
        chosen = [w for w in order if rng.random() < 0.5]
    for w in chosen:
        _, _, start, stop, _ = rows[w - 1]
        disk[start:stop] = [w] * (stop - start)
    if rng.random() < 0.3:
        disk[rng.randrange(SECTORS)] = rng.choice([FOREIGN, 0, *range(n + 2)])
    unseen = rng.choice([0, 0, 1, 2, 3, SECTORS])
    disk[:unseen] = [UNSEEN] * unseen
    freeze = rng.randint(0, late)
    frozen = (freeze, freeze + rng.randint(0, 2)) if rng.random() < 0.5 else None
    return Vm(rows, tuple(flushes), tuple(disk), frozen, ordered)


@pytest.mark.parametrize("part", range(4))
def test_levels_of_dense_groups_are_those_of_brute_force(part: int) -> None:
    for seed in range(part, 2400, 4):
        rng = Random(seed)
        vms = [dense(rng, ordered=rng.random() < 0.6) for _ in range(rng.randint(1, 2))]
        with note(f"seed {seed}: {vms}"):
            check_levels(vms)
            for one in vms:
                check_after(one)


def check_after(one: Vm) -> None:
    for k in range(len(one.rows) + 1):
        ver = one.image().truth.after(k).tolist()
        disk = [0] * SECTORS
        for w in range(1, k + 1):
            _, _, start, stop, _ = one.rows[w - 1]
            disk[start:stop] = [w] * (stop - start)
        assert ver == disk


@contextmanager
def note(text: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(text)
        raise


# -- by hand ----------------------------------------------------------------------------------------------------------


def truth(*rows: tuple[int, int, int, int], sectors: int = SECTORS, ordered: bool = True) -> Truth:
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Truth(Writes(*columns), sectors, ordered=ordered)


def ver(*content: int) -> np.ndarray:
    return np.array(content, np.int64)


def test_a_torn_write_is_told_from_a_missing_one() -> None:
    t = truth((0, 1, 0, 3), (2, 3, 2, 5))
    torn = judge_image(Image(t, ver(1, 1, 2, 0, 0, 0)), Level.L0).witness
    assert torn == Witness(Kind.TORN, (0, 2), (0, 2), (0, 3))
    hole = judge_image(Image(t, ver(0, 0, 2, 2, 2, 0)), Level.L0).witness
    assert hole == Witness(Kind.HOLE, (0, 1), (0, 2), (0, 0))


def test_two_writes_in_flight_may_land_either_way_but_only_one_way() -> None:
    t = truth((0, 9, 0, 2), (0, 9, 0, 2), ordered=False)
    assert judge_image(Image(t, ver(1, 1, 0, 0, 0, 0)), Level.L2).ok
    assert judge_image(Image(t, ver(2, 2, 0, 0, 0, 0)), Level.L2).ok
    woven = judge_image(Image(t, ver(1, 2, 0, 0, 0, 0)), Level.L2).witness
    assert woven is not None
    assert woven.kind is Kind.TANGLED
    assert {woven.missing, woven.present} == {(0, 1), (0, 2)}


def test_an_order_that_only_the_times_of_others_forbid() -> None:
    """1 lands before 3 and 3 before 2, each pair in flight together; but 2 was acknowledged before 1 was issued."""
    t = truth((5, 9, 0, 2), (0, 4, 2, 3), (3, 9, 1, 3), ordered=False)
    found = judge_image(Image(t, ver(1, 3, 2, 0, 0, 0)), Level.L0).witness
    assert found is not None
    assert found.kind is Kind.TANGLED


def test_two_writes_that_touch_in_time_were_in_flight_together() -> None:
    t = truth((0, 5, 0, 2), (5, 9, 0, 2), ordered=False)
    assert judge_image(Image(t, ver(1, 1, 0, 0, 0, 0)), Level.L2).ok
    assert not judge_image(Image(t, ver(1, 2, 0, 0, 0, 0)), Level.L2).ok


def test_of_several_missing_writes_the_first_acknowledged_is_named() -> None:
    t = truth((0, 1, 0, 1), (0, 3, 1, 2), (0, 2, 2, 3), (9, 9, 3, 4), ordered=False)
    found = judge_image(Image(t, ver(1, 0, 0, 4, 0, 0)), Level.L0).witness
    assert found == Witness(Kind.HOLE, (0, 3), (0, 4), (0, 2))


def test_a_cut_is_raised_from_vm_to_vm() -> None:
    """What is seen of the third VM demands a write of the second, and that one a write of the first."""
    vms = [truth((0, 1, 0, 1)), truth((2, 3, 0, 1)), truth((4, 5, 0, 1))]
    assert consistent_cut(vms, [(0, 1), (0, 1), (1, 1)]) == Cut((1, 1, 1), 4)
    slow = [truth((0, 3, 0, 1)), truth((4, 5, 0, 1), (1, 2, 1, 2)), truth((3, 9, 0, 1))]
    assert consistent_cut(slow, [(0, 1), (0, 2), (1, 1)]) == Cut((1, 2, 1), 4)


def test_a_cut_is_closed_when_nothing_outside_was_acknowledged_before_something_inside_was_issued() -> None:
    assert closed(4, 4)
    assert not closed(5, 4)


def test_an_empty_group_and_an_empty_vm_are_consistent() -> None:
    assert judge_group([], Level.L2).ok
    nothing = Image(truth(), ver(0, 0, 0, 0, 0, 0))
    assert reached([nothing]) == (Level.L0, Level.L1, Level.L2)
    assert judge_image(nothing, Level.L2).cut == (0,)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(CoreError, match="before it is issued"):
        truth((5, 4, 0, 1))
    with pytest.raises(CoreError, match="ends at sector 7 of 6"):
        truth((0, 1, 0, 7))
    with pytest.raises(CoreError, match="5 sectors, and its VM 6"):
        truth().prefixes(ver(0, 0, 0, 0, 0))
    with pytest.raises(CoreError, match="different lengths"):
        Writes(ver(1), ver(1, 2), ver(0), ver(1))
    with pytest.raises(CoreError, match="no prefix"):
        consistent_cut([truth()], [(1, 0)])
