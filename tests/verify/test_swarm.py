"""Swarms: what is played is counted once, whoever plays it; what fails comes back shrunk, with a token."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from drsim.verify.hunt import HUNTERS
from drsim.verify.mutants import BY_NAME
from drsim.verify.probes import PROBES
from drsim.verify.swarm import Tally, batches, play_batch, swarm
from drsim.verify.token import decode

ROOT = Path(__file__).parents[2]


def test_kinds_get_their_shares() -> None:
    wanted = sum(hunter.share for hunter in HUNTERS.values())
    kinds = [kind for kind, _ in islice(batches(0), 3 * wanted)]
    assert {kind: kinds.count(kind) for kind in HUNTERS} == {k: 3 * h.share for k, h in HUNTERS.items()}


def test_no_seed_is_played_twice() -> None:
    taken: set[tuple[str, int]] = set()
    for kind, first in islice(batches(7), 60):
        mine = {(kind, seed) for seed in range(first, first + HUNTERS[kind].batch)}
        assert not taken & mine
        taken |= mine
    assert min(seed for _, seed in taken) == 7


def test_parts_add_up_to_the_whole() -> None:
    whole, parts = play_batch("explorer", 0, count=20), Tally()
    for first in range(0, 20, 5):
        parts += play_batch("explorer", first, count=5)
    for figure in ("programs", "steps", "kinds", "probes", "states"):
        assert getattr(parts, figure) == getattr(whole, figure), figure


def _played(limit: dict[str, Any], mutant: str = "") -> Tally:
    with ThreadPoolExecutor(1) as pool:
        if not mutant:
            return swarm(pool, workers=1, **limit)
        with BY_NAME[mutant].patch():
            return swarm(pool, workers=1, **limit)


def test_as_many_programs_as_were_asked_for() -> None:
    assert _played({"programs": 70}).programs == 70


def test_another_process_plays_the_same() -> None:
    tally = play_batch("explorer", 0, count=3, twice=True)
    assert (tally.replayed, tally.found) == (3, [])


def test_what_another_process_plays_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsim.core.trace.brief", lambda event: type(event).__name__)
    (found,) = play_batch("explorer", 0, count=3, twice=True).found
    assert (found.verdict.prop, found.seed) == ("P27", 0)


def test_a_failure_ends_it_and_comes_with_a_token() -> None:
    tally = _played({"programs": 500}, "naive-marker")
    assert [found.verdict.prop for found in tally.found] == ["P4"]
    found = tally.found[0]
    assert found.operations <= 20
    with BY_NAME["naive-marker"].patch(), pytest.raises(Exception, match="checkpoint"):
        HUNTERS["explorer"].play(decode(found.token).program)
    HUNTERS["explorer"].play(decode(found.token).program)


def test_every_probe_has_a_name_in_the_list() -> None:
    said = re.compile(r'probes\.add\((f?)"([^"]+)"\)')
    files: Callable[[str], list[Path]] = lambda pattern: sorted((ROOT / "drsim" / "verify").glob(pattern))  # noqa: E731
    names = [found for path in files("*.py") for found in said.findall(path.read_text())]
    assert len(names) > 15
    for made, name in names:
        if made:
            head, _, tail = name.partition("{")
            tail = tail.partition("}")[2]
            assert any(p.startswith(head) and p.endswith(tail) for p in PROBES), name
        else:
            assert name in PROBES, name


def test_the_probes_of_a_small_swarm_are_known() -> None:
    assert not play_batch("explorer", 0, count=60).probes.keys() - PROBES.keys()
