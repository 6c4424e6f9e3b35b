"""The report: one page that needs nothing else, is the same for the same run, and survives extremes."""

import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estates import two_site

from drsim.core.measure import Teeth
from drsim.core.units import SECOND
from drsim.sim.run import Run, simulate
from drsim.study import plots
from drsim.study.report import answer, events, fault_rows, figure, shares, write_report
from drsim.study.results import figures, summarise
from drsim.study.style import count, percent, rate, seconds, size, status

OUTAGE = {"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "1 min"}


def summary_of(run: Run, name: str = "name <&>") -> dict[str, Any]:
    return summarise(run.model, name, [figures(run)], trace_digest=run.trace_digest, command="drsim run")


def page(run: Run, path: Path) -> str:
    write_report(path, run, summary_of(run))
    return path.read_text()


def outage(**more: Any) -> Run:
    return simulate(
        two_site(rate=50, vms=3, hosts=2, faults=[OUTAGE], vpg={"rpo_alert": "20 s"}, run={"until": "4 min"}, **more)
    )


def test_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    text = page(outage(), tmp_path / "r.html")
    assert "<script" not in text
    assert "@import" not in text
    targets = [a or b for a, b in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', text)]
    assert all(target.startswith("#") for target in targets)
    assert set(re.findall(r"https?://[^\s\"<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "name &lt;&amp;&gt;" in text
    for heading in (
        "What happened", "Alerts", "RPO", "History", "Journals", "WAN", "VRA buffers", "VPGs",
        "Why the service level was missed", "Why checkpoints were voided", "Events", "The model", "Terms",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert "recovery VRA communication problem" in text
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 8
    ids: list[str] = []
    for svg in pictures:
        ET.fromstring(svg)
        ids += re.findall(r'\bid="([^"]+)"', svg)
        used = re.findall(r'(?:url\(|href=")#([^")]+)', svg)
        assert set(used) <= set(ids)
    assert len(ids) == len(set(ids))


def test_same_run_same_bytes(tmp_path: Path) -> None:
    assert page(outage(), tmp_path / "a.html") == page(outage(), tmp_path / "b.html")


def test_the_answer_names_the_cause_and_events_are_in_words() -> None:
    run = outage()
    said = answer(summary_of(run))
    assert "100 % because of recovery VRA communication problem" in said
    assert "was missed for" in said
    rows, total = events(run)
    assert total >= len(rows) > 4
    assert any(kind == "sync started" and re.search(r"; \d.* [kM]B dirty", words) for _, _, kind, words in rows)
    assert any(words.startswith("RPO not meeting SLA") for _, _, kind, words in rows if kind == "state")
    assert list(fault_rows(run)) == [(1, "wan down", "60 s", "60 s", "")]


def test_events_that_repeat_are_one_row() -> None:
    run = outage()
    run.recorder.events[:] = [(n * SECOND, "crm", "frame refused", "store full") for n in range(500)]
    run.recorder.events.append((700 * SECOND, "crm", "frame refused", "store full"))
    rows, total = events(run)
    assert total == 2
    assert rows[0] == ("start", "crm", "frame refused", "store full, 500 times until 8 min 19 s")


def test_shares_add_up() -> None:
    rows = shares({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert [text for _, _, text in rows] == ["33.4 %", "33.3 %", "33.3 %"]
    assert shares({}) == []


def test_confidence_is_said_when_there_is_one() -> None:
    assert figure({"value": 4.9, "low": None, "high": None}) == "4.9 s"
    assert figure({"value": 4.9, "low": 4.7, "high": 5.1}) == "4.9 s (4.7 s to 5.1 s)"


def test_envelope_is_exact() -> None:
    teeth = Teeth.of([5 * SECOND, 10 * SECOND], [4 * SECOND, 9 * SECOND], 0, 12 * SECOND)
    x, low, high, middle = plots.envelope(teeth, 12 * SECOND, 3)
    assert x.tolist() == [2, 6, 10]
    assert low.tolist() == [0, 1, 1]
    assert high.tolist() == [4, 5, 6]
    assert np.all((low <= middle) & (middle <= high))


def test_history_falls_when_checkpoints_are_withdrawn() -> None:
    run = outage()
    record = run.record("crm")
    at = record.listed[-1] / SECOND + 1
    before = float(plots.reached(run, "crm", np.array([at]))[0])
    assert before == pytest.approx(at - record.taken[0] / SECOND)
    record.retired.append((record.listed[-1] + 1, record.ids[-1] + 1, "journal limit"))
    assert plots.reached(run, "crm", np.array([at]))[0] == 0
    assert len(plots.gaps(run, "crm")) == 1


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (seconds(0.14), "0.14 s"), (seconds(0.0123), "12 ms"), (seconds(4.94), "4.9 s"), (seconds(200), "3 min 20 s"),
        (seconds(3600), "1 h"), (seconds(3 * 86400 + 4 * 3600), "3 d 4 h"), (seconds(float("nan")), "–"),
        (size(16.4e6), "16.4 MB"), (size(999_999), "1 MB"), (size(0), "0 B"), (rate(15.5e6), "15.5 Mbit/s"),
        (count(10988), "10\u202f988"), (percent(0.068), "6.8 %"), (percent(0.9999), "> 99.9 %"),
        (status("RpoNotMeetingSLA / DisconnectedFromPeer"), "RPO not meeting SLA: disconnected from peer"),
    ],
)  # fmt: skip
def test_quantities_are_human(said: str, meant: str) -> None:
    assert said == meant


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
def test_extremes_have_a_page_too(options: dict[str, Any], tmp_path: Path) -> None:
    run = simulate(two_site(**options))
    begin = time.perf_counter()
    text = page(run, tmp_path / "r.html")
    assert time.perf_counter() - begin < 15  # about half a second; shared machines stall
    assert not re.search(r"\bnan\b|\binf\b", re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL))
    assert text.rstrip().endswith("</html>")
