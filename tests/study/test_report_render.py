"""The report in a real browser: it renders, and the pictures are there."""

import subprocess
from pathlib import Path

import numpy as np
from estates import two_site
from PIL import Image
from programs import program

from drsim.sim.run import simulate
from drsim.study.report import write_report
from drsim.study.results import figures, summarise

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1180,3200",
)  # fmt: skip


def test_the_report_renders_in_a_browser(tmp_path: Path) -> None:
    browser = program("chromium", "chromium")
    fault = {"kind": "link-down", "link": "wan", "at": "1 min", "lasts": "1 min"}
    run = simulate(two_site(rate=50, vms=2, hosts=2, faults=[fault], run={"until": "4 min"}))
    summary = summarise(run.model, "two-site", [figures(run)], trace_digest="", command="drsim run two-site")
    write_report(tmp_path / "r.html", run, summary)
    shot = tmp_path / "r.png"
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    subprocess.run([*command, f"file://{tmp_path / 'r.html'}"], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    ink = (pixels.sum(axis=2) < 700).mean(axis=1)
    rows = [float(ink[n : n + 400].mean()) for n in range(0, 2800, 400)]
    assert all(share > 0.005 for share in rows), rows  # words and pictures all the way down
    colourful = (pixels.max(axis=2) - pixels.min(axis=2) > 60).sum()
    assert colourful > 5000
