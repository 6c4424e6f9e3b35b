"""The report: one page that needs nothing else, is the same for the same run, and survives extremes."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from estates import two_site

from drsim.sim.run import Run, simulate
from drsim.study.report import answer, events, write_report
from drsim.study.results import figures, summarise

OUTAGE = {"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "1 min"}


def page(run: Run, path: Path) -> str:
    summary = summarise(run.model, "name <&>", [figures(run)], trace_digest=run.trace_digest, command="drsim run")
    write_report(path, run, summary)
    return path.read_text()


def outage(**more: object) -> Run:
    return simulate(
        two_site(rate=50, vms=3, hosts=2, faults=[OUTAGE], vpg={"rpo_alert": "20 s"}, run={"until": "4 min"}, **more)  # type: ignore[arg-type]
    )


def test_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    text = page(outage(), tmp_path / "r.html")
    assert "<script" not in text
    targets = [a or b for a, b in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', text)]
    assert all(target.startswith("#") for target in targets)
    assert "name &lt;&amp;&gt;" in text
    for heading in (
        "RPO over time",
        "Use of the WAN",
        "State of protection",
        "Journals",
        "Checkpoint history",
        "Events",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert "recovery VRA communication problem" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(pictures) == 7
    ids: list[str] = []
    for svg in pictures:
        ET.fromstring(svg)
        ids += re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))


def test_same_run_same_bytes(tmp_path: Path) -> None:
    assert page(outage(), tmp_path / "a.html") == page(outage(), tmp_path / "b.html")


def test_causes_in_the_page_add_up(tmp_path: Path) -> None:
    run = outage()
    summary = summarise(run.model, "m", [figures(run)], trace_digest="", command="")
    assert "100 % because of recovery VRA communication problem" in answer(run, summary)
    rows, total = events(run)
    assert total >= len(rows) > 4
    assert any(kind == "sync started" and "MB dirty" in words for _, _, kind, words in rows)


@pytest.mark.parametrize(
    "options",
    [
        {"run": {"until": "10 s"}},
        {"run": {"until": "1 s"}},
        {"run": {"until": "2 min"}, "faults": [{"kind": "site-loss", "site": "london", "at": "1 s"}]},
        {"run": {"until": "2 min"}, "faults": [{"kind": "site-loss", "site": "leeds", "at": "1 min"}]},
        {"run": {"until": "10 min"}, "rate": 2000, "link": {"bandwidth": "1 Mbit/s"}},
        {"run": {"until": "30 s"}, "vms": 40, "vpg": {"split": 1}, "rate": 5},
    ],
    ids=["10 s", "no checkpoint", "site lost at once", "no recovery site", "hopeless link", "40 VPGs"],
)
def test_extremes_have_a_page_too(options: dict[str, object], tmp_path: Path) -> None:
    text = page(simulate(two_site(**options)), tmp_path / "r.html")  # type: ignore[arg-type]
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert text.rstrip().endswith("</html>")
