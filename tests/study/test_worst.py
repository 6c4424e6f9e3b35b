"""The search for the worst disaster: what one run tells, and that looking for it finds more than chance."""

from typing import Any

import pytest
from estates import SECOND, two_site

from drsim.spec.model import Model
from drsim.study.worst import Measure, at_random, evaluate, moved, search


def model(*faults: dict[str, Any], until: str = "20 min") -> Model:
    made = two_site(rate=20, run={"until": until, "slice": "5 s"}).model_dump()
    return Model.model_validate({**made, "faults": faults})


CUT = {"kind": "link-down", "link": "wan", "at": "2 min", "lasts": "60 s"}
SLOW = {"kind": "link-degraded", "link": "wan", "at": "10 min", "lasts": "2 min", "bandwidth": "1 Mbit/s"}


def test_the_worst_instant_of_a_run_is_exact() -> None:
    """The end of the outage and of the sync after it."""
    found = evaluate(model(CUT), (120 * SECOND,), "seconds")
    assert found.vpg == "crm"
    assert 60 * SECOND < found.loss < 75 * SECOND
    assert 180 * SECOND < found.at < 200 * SECOND


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["seconds", "writes", "bytes"])
def test_searching_beats_chance_at_equal_budget(measure: Measure) -> None:
    spec = model(CUT, {**CUT, "at": "14 min"}, SLOW)
    given = evaluate(spec, tuple(fault.at for fault in spec.faults), measure)
    found = [search(spec, 8, measure=measure, seed=seed) for seed in range(3)]
    drawn = [at_random(spec, 8, measure=measure, seed=seed) for seed in range(3)]
    assert all(each.loss >= given.loss for each in found)
    assert sum(each.loss for each in found) > 1.3 * sum(each.loss for each in drawn)
    assert evaluate(spec, found[0].faults, measure) == found[0], "what is told can be played again"


def test_without_faults_one_run_is_enough() -> None:
    found = search(model(), 50)
    assert found == evaluate(model(), (), "seconds")


def test_faults_stay_within_the_run() -> None:
    spec = model(CUT, SLOW, until="5 min")
    found = search(spec, 12, seed=3)
    assert all(0 <= at < spec.run.until for at in found.faults)
    assert [fault.at for fault in moved(spec, found.faults).faults] == list(found.faults)
