"""Real processes: the demo as a user runs it, and sites that are killed again and again while guests write."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from programs import program

from drsim.cli.demo import SiteProcess, two_sites
from drsim.core.errors import FileError, PlatformError
from drsim.real.local import guest

ROUNDS = 5


@pytest.fixture(autouse=True)
def _qemu() -> None:
    program("qemu-system-x86_64", "qemu-system-x86")


def drsim(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drsim.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def insist(site: SiteProcess, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask until the sites see each other again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return site.manager.ask(method, path, body)
        except (PlatformError, FileError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.slow
def test_the_demo_loses_a_site_and_says_what_was_measured_and_simulated(tmp_path: Path) -> None:
    done = drsim("live", "demo", "--interval", "1s", "--out", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "demo" / "summary.json").read_text())["live_demo"]
    assert 0 <= found["measured"]["rpo_s"] < 10
    assert 0 < found["measured"]["rto_s"] < 30
    assert found["simulated"]["rpo_s"][0] <= found["simulated"]["rpo_s"][1] <= 1.2
    assert all(n > 0 for n in found["measured"]["recovered_and_going_on"].values())
    assert "served again" in done.stdout
    assert "<h2>Measured and simulated</h2>" in (tmp_path / "demo" / "report.html").read_text()


@pytest.mark.slow
def test_whoever_is_killed_nothing_listed_is_lost_and_protection_returns(tmp_path: Path) -> None:
    """Seeded rounds of kill -9 of either site, or both, while a guest writes."""
    rng = random.Random(7)
    with two_sites(tmp_path, ("db",)) as (london, leeds):
        insist(london, "POST", "/vms/db/power", {"on": True})
        insist(london, "POST", "/vpgs", {"name": "crm", "vms": ["db"], "target_host": "leeds-1", "interval": 0.3})
        for number in range(ROUNDS):
            before = guest.rounds(tmp_path / "db.disk")
            victims = rng.choice(([london], [leeds], [london, leeds]))
            time.sleep(rng.random() * 0.5)
            for site in victims:
                site.kill()
            time.sleep(rng.random() * 0.3)
            for site in victims:
                site.up()
            tag = f"round {number}"
            insist(london, "POST", "/vpgs/crm/checkpoints", {"tag": tag})
            _until(lambda t=tag: any(c["tag"] == t for c in insist(leeds, "GET", "/vpgs/crm/checkpoints")), london, tag)  # type: ignore[misc]
            wish = {"kind": "restore", "vpg": "crm", "volume": "db/system", "checkpoint": tag}
            operation = insist(leeds, "POST", "/operations", {"wish": wish})["operation"]
            _until(lambda n=operation: insist(leeds, "GET", f"/operations/{n}")["outcome"] == "done", london)  # type: ignore[misc]
            restored = leeds.folder / "recovered" / f"crm-volume-1-{operation}" / "volume-1.disk"
            assert guest.rounds(restored) >= before, "all that was on the disk before the kill"
        assert london.folder.joinpath("vms/db/pid").exists(), "the guest has lived through all of it"
        assert "E" not in london.folder.joinpath("vms/db/serial.log").read_text()


def _until(condition: Any, london: SiteProcess, tag: str = "") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, insist(london, "GET", "/status")
        time.sleep(0.2)
        if tag:  # one that was asked for while the VPG synchronized is not taken
            insist(london, "POST", "/vpgs/crm/checkpoints", {"tag": tag})


@pytest.mark.slow
def test_real_sites_under_seeded_faults(tmp_path: Path) -> None:
    done = drsim("verify", "--live", "--rounds", "6", "--seed", "5", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["rounds"] == 6
    assert sum(fault["judged"] + fault["refused"] for fault in found["faults"].values()) > 6
    assert found["writes"] > 1000
    assert found["transcripts"] >= 2
    assert found["steps"] > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rounds", "3"), "--rounds was given without --live"),
        (("--first-round", "3"), "--first-round was given without --live"),
        (("--live", "--seconds", "3"), "--live was given with an option of the swarm"),
    ],
)
def test_options_of_the_swarm_and_of_real_sites_do_not_mix(words: tuple[str, ...], said: str) -> None:
    done = drsim("verify", *words)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.slow
def test_a_site_that_is_not_armed_changes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    with two_sites(tmp_path, ("db",)) as (london, _):
        transport = httpx.HTTPTransport(uds=str(london.folder / "api.sock"))
        with httpx.Client(transport=transport, base_url="http://site") as client:
            metrics = client.get("/metrics").text
            assert "drsim_peer_connected" in metrics
            assert 'drsim_vra_buffer_used_bytes{vra="london/london-1/vra"} 0.0' in metrics
            assert "/operations/{number}/decision" in client.get("/openapi.json").json()["paths"]
            wrong = client.post("/vpgs", json={"name": "x/../y", "vms": ["db"], "target_host": "leeds-1"})
            assert wrong.status_code == 422
        london.kill()
        london.up("--")
        for path, body in (("/vms/db/power", {"on": True}), ("/vpgs/crm/pause", None)):
            with pytest.raises(FileError, match="the site is not armed") as found:
                london.manager.ask("POST", path, body)
            assert "--armed" in found.value.hint
        status = drsim("live", "status", "--site", str(london.file))
        assert "site london" in status.stdout
        london.kill()
        done = drsim("live", "status", "--site", str(london.file))
        assert done.returncode == 2
        assert "is `drsim site up` running?" in done.stderr
