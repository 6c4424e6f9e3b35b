"""Faults in model files: what cannot be is said clearly; every kind is in the catalogue, tested and described."""

from pathlib import Path
from typing import Any, get_args

import pytest
from faulty import model
from pydantic import ValidationError

from drsim.sim.faults import describe
from drsim.spec.faults import PLACES, Fault
from drsim.spec.reference import Reference

ROOT = Path(__file__).resolve().parents[2]
KINDS = sorted(each.model_fields["kind"].default for each in get_args(get_args(Fault)[0]))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "link-partition", "link": "wan", "site": "paris", "lasts": "1 s"}, "no site is called 'paris'"),
        ({"kind": "link-partition", "link": "wan", "site": "york", "lasts": "1 s"}, "joins 'london' and 'leeds', not"),
        ({"kind": "half-open", "link": "lan"}, "no link is called 'lan'; did you mean 'wan'?"),
        ({"kind": "half-open", "link": "wan", "lasts": "1 s"}, "faults.0.half-open.lasts"),
        ({"kind": "vra-crash", "host": "leeds-2", "lasts": "1 s"}, "no host is called 'leeds-2'; did you mean"),
        ({"kind": "vra-upgrade", "site": "york", "lasts": "1 s"}, "no host is on site 'york': it has no VRAs"),
        ({"kind": "manager-crash", "site": "leed", "lasts": "1 s"}, "no site is called 'leed'; did you mean 'leeds'?"),
        ({"kind": "datastore-slow", "datastore": "san-2", "lasts": "1 s"}, "say what is slow"),
        ({"kind": "datastore-slow", "datastore": "san-2", "lasts": "1 s", "latency": 0.5}, "datastore-slow.latency"),
        ({"kind": "datastore-enlarged", "datastore": "san-2"}, "say either `by`"),
        ({"kind": "datastore-enlarged", "datastore": "san-2", "by": "1 GiB", "to": "200 TiB"}, "say either `by`"),
        ({"kind": "datastore-enlarged", "datastore": "san-2", "to": "1 GiB"}, "'san-2' has 100 TiB already"),
        ({"kind": "read-errors", "datastore": "san-3", "lasts": "1 s"}, "no datastore is called 'san-3'"),
        ({"kind": "guest-burst", "vm": "db", "lasts": "1 s", "factor": 2}, "no VM is called 'db'"),
        ({"kind": "guest-burst", "vm": "app", "lasts": "1 s", "factor": 0}, "faults.0.guest-burst.factor"),
        ({"kind": "guest-pause", "vm": "app"}, "faults.0.guest-pause.lasts"),
        ({"kind": "clock-step", "site": "london", "by": "0 s"}, "faults.0.clock-step.by"),
        ({"kind": "link-degraded", "link": "wan", "lasts": "1 s"}, "bandwidth, latency, loss or jitter"),
    ],
    ids=lambda each: each["kind"] if isinstance(each, dict) else "",
)  # fmt: skip
def test_impossible_faults_are_refused(fault: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, Reference)) as caught:
        model(fault, sites={"london": {}, "leeds": {}, "york": {}})
    assert words in str(caught.value)


def test_a_link_within_a_site_has_no_directions() -> None:
    campus = {"campus": {"between": ["london", "london"], "bandwidth": "1 Gbit/s"}}
    wan = {"wan": {"between": ["london", "leeds"], "bandwidth": "100 Mbit/s"}}
    fault = {"kind": "link-partition", "link": "campus", "site": "london", "lasts": "1 s"}
    with pytest.raises(ValidationError, match="joins 'london' to itself and has no directions; use link-down"):
        model(fault, links={**campus, **wan})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_catalogue_tested_and_described(kind: str) -> None:
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "models/faults").glob("*.yaml")]
    assert any(f"kind: {kind}\n" in text for text in files), "models/faults/"
    assert f"`{kind}`" in (ROOT / "docs/guides/model-files.md").read_text(encoding="utf-8")
    assert f"`{kind}`" in (ROOT / "models/README.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests/sim").glob("test_fault*.py"))
    assert tests.count(f'"{kind}"') >= 1


def test_every_fault_says_where_and_what_in_few_words() -> None:
    made = {each.model_fields["kind"].default: each for each in get_args(get_args(Fault)[0])}
    for kind, spec in made.items():
        (place,) = [field for field in PLACES if field in spec.model_fields][:1]
        fault = spec.model_construct(kind=kind, at=0, **{place: "here"})
        assert fault.words == f"{kind.replace('-', ' ').replace('vra', 'VRA')} here"
    fault = model({"kind": "clock-step", "site": "london", "by": "2 h"}).faults[0]
    assert (fault.words, describe(fault), getattr(fault, "lasts", None)) == (
        "clock step london",
        "site london, by 2 h",
        0,
    )
