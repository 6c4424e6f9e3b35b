"""Alerts of whole runs: raised by what happens, cleared when it is over, in the figures, the events and the report."""

from pathlib import Path
from typing import Any

import pytest
from estates import two_site

from drsim.core.alert_table import ALERTS, Kind
from drsim.sim.run import Run, simulate
from drsim.study import alerts
from drsim.study.alerts import Span, spans
from drsim.study.report import write_report
from drsim.study.results import figures, frames, summarise

OUTAGE = {"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "1 min"}


def run_of(*faults: dict[str, Any], until: str = "5 min", **more: Any) -> Run:
    vpg = {"rpo_alert": "20 s", **more.pop("vpg", {})}
    return simulate(two_site(**{"rate": 50, "vms": 2, **more}, faults=list(faults), vpg=vpg, run={"until": until}))


def stood(run: Run) -> dict[str, list[tuple[str, float, float | None]]]:
    """Of each alert: about what, from when, until when."""
    found: dict[str, list[tuple[str, float, float | None]]] = {}
    for span in spans(run):
        end = None if span.end is None else round(span.end)
        found.setdefault(span.alert, []).append((span.entity.name, round(span.begin), end))
    return found


def test_a_quiet_run_has_none() -> None:
    assert not spans(run_of())


def test_a_link_that_is_down() -> None:
    """Lost after the peer timeout of 10 s; the VRAs meet again at once, the RPO is good after the sync."""
    found = stood(run_of(OUTAGE))
    assert found["ZVM0003"] == [("london – leeds", 70, 120)]
    assert found["VRA0005"] == [("london/london-1", 70, 120)]
    ((vra, begin, end),) = found["VRA0025"]
    assert (vra, begin) == ("london/london-1", 70)
    assert end is not None
    assert 120 <= end < 130
    ((_, begin, end),) = found["VPG0009"]
    assert 75 <= begin <= 85
    assert end is not None
    assert 120 < end <= 130
    assert {"VPG0010"} <= found.keys() <= {"ZVM0003", "VRA0005", "VRA0025", "VPG0009", "VPG0010", "DRV0001"}


@pytest.mark.parametrize(("host", "site"), [("london-1", "london"), ("leeds-1", "leeds")])
def test_a_vra_that_is_off(host: str, site: str) -> None:
    found = stood(run_of({"kind": "vra-restart", "host": host, "at": "1 min", "lasts": "1 min"}))
    assert found["VRA0028"] == [(f"{site}/{host}", 60, 120)]
    assert found["ZVM0002"] == [(site, 60, 120)]
    assert ("VRA0005" in found) == (site == "leeds"), "a VRA that is off cannot say whom it reaches"


def test_a_datastore_that_is_full() -> None:
    found = stood(run_of({"kind": "datastore-full", "datastore": "san-2", "at": "1 min", "lasts": "1 min"}))
    for alert, entity in (("VRA0006", "leeds/leeds-1"), ("VPG0005", "crm"), ("STR0002", "san-2"), ("STR0004", "san-2")):
        ((name, begin, end),) = found[alert]
        assert (name, begin) == (entity, 60)
        assert end is not None, alert
        assert 120 <= end <= 122, alert


def test_a_site_that_is_lost_takes_its_alerts_along() -> None:
    run = run_of(
        {"kind": "vra-restart", "host": "london-1", "at": "1 min", "lasts": "2 min"},
        {"kind": "site-loss", "site": "london", "at": "90 s"},
    )
    found = stood(run)
    assert run.recorder.watch is not None
    left = {entity.kind for entity, _ in run.recorder.watch.alerts.raised}
    assert Kind.LINK in left
    assert not left & {Kind.VRA, Kind.SITE}
    ((_, begin, end),) = found["ZVM0003"]
    assert 100 <= begin <= 160
    assert end is None
    ((_, begin, end),) = found["VRA0028"]
    assert begin == 60
    assert end is not None
    assert 90 <= end <= 150


def test_a_journal_at_its_limit_is_one_alert() -> None:
    """8 GiB at 40 MB/s each are warned of at three quarters, and stay at the limit by early aging."""
    run = run_of(
        until="12 min", vms=1, rate=160, size="256 KiB", link={"bandwidth": "1 Gbit/s"},
        vpg={"journal": {"history": "1 h", "hard_limit": "8 GiB"}},
    )  # fmt: skip
    found = stood(run)
    assert set(found) >= {"VRA0040", "VRA0039"}
    ((name, low, open_),) = found["VRA0040"]
    assert (name, open_) == ("app", None)
    ((_, full, open_),) = found["VRA0039"]
    assert low < full
    assert open_ is None
    share = 160 * 2**18 / 2**33
    assert 0.75 / share <= low <= 0.75 / share + 61
    assert found.keys() >= {"VPG0003", "VPG0037"}, "the history is cut short, and the alert says why"


@pytest.fixture(scope="module")
def bad_run() -> Run:
    return run_of(OUTAGE, until="100 s")


def test_events_and_figures_hold_the_same(bad_run: Run) -> None:
    table = frames(bad_run)["events"]
    assert table.time_s.is_monotonic_increasing
    said = table[table.alert != ""]
    assert set(said.kind) == {"alert raised"}, "it ends amid the outage"
    assert (table[table.alert == ""][["severity", "entity"]] == "").all().all()
    items = figures(bad_run)["alerts"]
    assert [i["alert"] for i in items] == list(said.alert)
    assert all(i["last_s"] is None and i["seconds"] == pytest.approx(100 - i["first_s"]) for i in items)
    assert list(said.severity) == [ALERTS[i].severity for i in said.alert]
    assert set(said[said.alert == "VPG0009"].vpg) == {"crm"}


def test_an_alert_that_comes_again_is_one_item_with_its_sum(bad_run: Run) -> None:
    faults = [{**OUTAGE, "at": at, "lasts": "30 s"} for at in ("1 min", "2 min")]
    run = run_of(*faults, until="4 min")
    (item,) = [i for i in figures(run)["alerts"] if i["alert"] == "ZVM0003"]
    assert (item["times"], round(item["seconds"]), round(item["first_s"]), round(item["last_s"])) == (2, 40, 70, 150)
    (row,) = alerts.rows([item])
    assert (row["long"], row["end"]) == ("40 s, 2 times", "2 min 30 s")
    (short,) = [i for i in figures(bad_run)["alerts"] if i["alert"] == "ZVM0003"]
    (merged,) = alerts.merge([[short], [item], []])
    assert merged == {**item, "replications": 2}


def test_an_alert_of_many_entities_is_one_row(bad_run: Run) -> None:
    (item,) = [i for i in figures(bad_run)["alerts"] if i["alert"] == "VPG0009"]
    closed = {**item, "first_s": 5.0, "seconds": 50.0, "last_s": 55.0}
    few = [{**closed, "entity": f"crm-{n}"} for n in range(alerts.FEW)]
    assert [r["about"] for r in alerts.rows(few)] == [f"VPG crm-{n}" for n in range(alerts.FEW)]
    (row,) = alerts.rows([item, *few])
    assert (row["about"], row["note"]) == ("5 VPGs", "crm, crm-0 …")
    assert (row["begin"], row["end"], row["long"]) == ("5 s", "open", "up to 50 s")


def test_open_ones_are_marked_in_the_report(bad_run: Run, tmp_path: Path) -> None:
    def page(run: Run) -> str:
        summary = summarise(run.model, "x", [figures(run)], trace_digest="", command="drsim run")
        write_report(tmp_path / "r.html", run, summary)
        return (tmp_path / "r.html").read_text()

    text = page(bad_run)
    assert text.count("<strong>still open</strong>") == len(spans(bad_run)) > 3
    assert ALERTS["ZVM0003"].words in text
    assert "None was raised." in page(run_of(until="30 s"))


def test_spans_are_in_order_and_whole(bad_run: Run) -> None:
    found = spans(bad_run)
    assert found == sorted(found, key=lambda s: s.begin)
    assert all(isinstance(s, Span) and (s.end is None or s.end > s.begin) for s in found)
