"""`drsim live demo`: two real sites on this machine, a disaster, and what was measured beside what the simulation says.

two sites (processes, mutual TLS), VMs on QEMU whose guests write what can be checked
protect, and wait for checkpoints
failover test: nothing is disturbed, and how long the platform takes for each step is measured
disaster: the protected site's process and its VMs are killed (kill -9) within milliseconds
failover: RPO, RTO, and a check of what was recovered
the same estate simulated, with the durations measured in the test, at many instants of disaster
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from drsim.cli.manager import Manager, console
from drsim.core.errors import PlatformError
from drsim.spec.quantity import parse_duration

if TYPE_CHECKING:
    from drsim.study.page import Page

SECOND = 10**9
DISK = 8 << 20
VMS = ("db", "app", "web", "mail", "files", "print", "wiki", "crm", "erp", "mes")


def run(vms: int, interval: str, out: Path | None, *, json_: bool) -> None:
    """The demonstration. Raises PlatformError when QEMU is not there, or something did not work."""
    if shutil.which("qemu-system-x86_64") is None:
        raise PlatformError("qemu-system-x86_64 is not installed", hint="Debian package qemu-system-x86")
    if out is not None:
        from drsim.study.output import refuse_foreign

        refuse_foreign(out)
    names, every = VMS[:vms], parse_duration(interval)
    folder = Path(tempfile.mkdtemp(prefix="drsim-"))
    try:
        with two_sites(folder, names) as (london, leeds):
            measured = _live(folder, london, leeds, names, every)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {
        "vms": vms,
        "interval_s": every / SECOND,
        "measured": measured,
        "simulated": _simulated(measured, names, every),
    }
    if json_:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "summary.json").write_text(json.dumps({"live_demo": found}, indent=2) + "\n")
        (out / "report.html").write_text(_page(found, f"drsim live demo --vms {vms} --interval {interval}").render())
        console().print(f"report: {out / 'report.html'}", highlight=False)


# -- two real sites -------------------------------------------------------------------------------------------


class SiteProcess:
    """A site's process, and the way to its manager. `before`: words that go before its command.

    `module` (the program) and `environment` (variables on top of ours) hold when it is started.
    """

    def __init__(
        self, folder: Path, name: str, *options: str, before: tuple[str, ...] = (), module: str = "drsim.cli.main",
        environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.file, self.folder, self._before = name, folder / f"{name}.yaml", folder / name, before
        self._log, self._options = folder / f"{name}.log", options or ("--armed",)
        self.module, self.environment = module, environment or {}
        self.up()

    def up(self, *options: str) -> None:
        """Start it, and wait until its manager can be asked. Raises PlatformError with what it said."""
        (self.folder / "api.sock").unlink(missing_ok=True)
        words = [*self._before, sys.executable, "-m", self.module, "site", "up", str(self.file)]
        words += options or self._options
        with self._log.open("ab") as log:
            given = {**os.environ, **self.environment}
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=given)
        patience = Patience(60, self)
        while not (self.folder / "api.sock").exists():
            if self.process.poll() is not None or patience.over:
                said = self._log.read_text(errors="replace").strip()
                self.close()
                last = said.splitlines()[-1] if said else "no word"
                raise PlatformError(f"site {self.name} does not come up: {last}")
            time.sleep(0.02)
        self.manager = Manager(self.file)

    @property
    def starved(self) -> float:
        """Seconds for which its main thread was ready to run and the machine ran others; 0 where nobody counts them."""
        with suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / SECOND
        return 0.0

    def kill_all(self) -> None:
        """The site is lost: its VMs and its process, at once."""
        for pid in [int(p.read_text()) for p in self.folder.glob("vms/*/pid")]:
            os.kill(pid, signal.SIGKILL)
        self.kill()

    def kill(self) -> None:
        """Its process dies; its VMs wait for their disks."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End its VMs and its process."""
        for path in self.folder.glob("vms/*/pid"):
            with suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


class Patience:
    """So many seconds in which sites could do what is waited for: those for which they were starved do not count."""

    def __init__(self, seconds: float, *sites: SiteProcess) -> None:
        self._ends = time.monotonic() + seconds
        self._before = [(site, site.process.pid, site.starved) for site in sites]

    @property
    def over(self) -> bool:
        """Whether they had them."""
        starved = [site.starved - (before if site.process.pid == pid else 0.0) for site, pid, before in self._before]
        return time.monotonic() > self._ends + sum(max(0.0, each) for each in starved)


@contextmanager
def two_sites(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[SiteProcess, SiteProcess]]:
    from drsim.real import pki
    from drsim.real.local import guest
    from drsim.real.loopback import free_port

    port = free_port()
    pki.init(folder / "pki", ["london", "leeds"])
    vms = {}
    for name in names:
        guest.image(folder / f"{name}.disk", DISK)
        disks = {"system": {"path": f"{name}.disk", "size": f"{DISK} B"}}
        vms[name] = {"host": "london-1", "memory": "16 MiB", "ready": guest.READY, "disks": disks}
    link = f"127.0.0.1:{port}"
    write_site(folder, "leeds", {"link": {"peer": "london", "listen": link}, "hosts": {"leeds-1": {}}})
    write_site(folder, "london", {"link": {"peer": "leeds", "connect": link}, "hosts": {"london-1": {}}, "vms": vms})
    leeds = SiteProcess(folder, "leeds")
    try:
        london = SiteProcess(folder, "london")
        try:
            yield london, leeds
        finally:
            london.close()
    finally:
        leeds.close()


def write_site(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Its file."""
    whole = {"site": name, "folder": name, "pki": f"pki/{name}", **content}
    (folder / f"{name}.yaml").write_text(json.dumps(whole, indent=1))  # JSON is YAML


def _live(folder: Path, london: SiteProcess, leeds: SiteProcess, names: tuple[str, ...], every: int) -> dict[str, Any]:
    from drsim.real.local import guest
    from drsim.study.expected import durations

    say = console(stderr=True)
    say.print("two sites are up; their VMs start", highlight=False)
    while not london.manager.ask("GET", "/status")["peer"]["connected"]:
        time.sleep(0.02)
    for name in names:
        london.manager.ask("POST", f"/vms/{name}/power", {"on": True})
    london.manager.ask(
        "POST", "/vpgs", {"name": "demo", "vms": names, "target_host": "leeds-1", "interval": every / SECOND}
    )
    say.print("protected; waiting for checkpoints", highlight=False)
    _listed(leeds, 3)
    test = _operate(leeds, {"kind": "failover test", "vpg": "demo"})
    begun = time.monotonic()
    rounds = sum(guest.rounds(folder / f"{name}.disk") for name in names)
    leeds.manager.ask("POST", f"/operations/{test['operation']}/decision", {"verdict": "commit", "note": "demo"})
    test = _over(leeds, test["operation"])
    _listed(leeds, 3)
    rate = (sum(guest.rounds(folder / f"{name}.disk") for name in names) - rounds) / (time.monotonic() - begun)
    say.print("failover test done, production ran on; now the site is lost (kill -9)", highlight=False)
    london.kill_all()
    head = {name: guest.rounds(folder / f"{name}.disk") for name in names}
    report = _operate(leeds, {"kind": "failover", "vpg": "demo", "commit": "commit"})
    disks = sorted((leeds.folder / "recovered").glob("*/volume-*.disk"))
    after = {path.parent.name: guest.rounds(path) for path in disks}
    if sorted(after) != sorted(names) or report["outcome"] != "committed":
        raise PlatformError(f"the failover {report['outcome']}: {'; '.join(report['reasons'] + report['people'])}")
    return {
        "rpo_s": report["rpo_s"], "rto_s": report["rto_s"], "parts_s": report["parts_s"],
        "test_parts_s": durations(test["steps"]),
        "rounds_at_the_disaster": head, "recovered_and_going_on": after, "rounds_per_s": rate,
        "checked": "every recovered disk is a crash-consistent state of its guest",
    }  # fmt: skip


def _listed(site: SiteProcess, more: int) -> None:
    """Wait until so many more checkpoints are listed."""
    path = "/vpgs/demo/checkpoints"
    rows = site.manager.ask("GET", path)
    newest = rows[-1]["checkpoint"] if rows else 0
    while sum(row["checkpoint"] > newest for row in site.manager.ask("GET", path)) < more:
        time.sleep(0.05)


def _operate(site: SiteProcess, wish: dict[str, Any]) -> dict[str, Any]:
    number = site.manager.ask("POST", "/operations", {"wish": wish})["operation"]
    while True:
        found: dict[str, Any] = site.manager.ask("GET", f"/operations/{number}")
        if found["outcome"] or found["waiting"]:
            return found
        time.sleep(0.02)


def _over(site: SiteProcess, number: int) -> dict[str, Any]:
    while not (found := site.manager.ask("GET", f"/operations/{number}"))["outcome"]:
        time.sleep(0.02)
    return dict(found)


# -- and simulated --------------------------------------------------------------------------------------------


def _simulated(measured: dict[str, Any], names: tuple[str, ...], every: int) -> dict[str, Any]:
    """RPO and RTO of the same estate, with the platform's durations as measured in the test."""
    from drsim.study.expected import ExpectedVm, expected

    rate = 2 * measured["rounds_per_s"] / len(names)  # two sectors a round
    return expected([ExpectedVm(name, DISK, rate) for name in names], every, measured["test_parts_s"])


# -- words ----------------------------------------------------------------------------------------------------


def _rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    from drsim.study.style import seconds

    measured, simulated = found["measured"], found["simulated"]

    def span(values: list[float]) -> str:
        low, middle, high = values
        return f"{seconds(middle)} ({seconds(low)} to {seconds(high)})"

    return [
        ("RPO: age of the newest checkpoint", seconds(measured["rpo_s"]), span(simulated["rpo_s"])),
        ("RTO: until the last VM's guest answered", seconds(measured["rto_s"]), span(simulated["rto_s"])),
    ]


def _answer(found: dict[str, Any]) -> str:
    from drsim.study.style import seconds

    measured = found["measured"]
    return (
        f"{found['vms']} VMs were lost with their site and served again {seconds(measured['rto_s'])} after the "
        f"failover was asked for, as of {seconds(measured['rpo_s'])} before; every recovered disk was crash consistent."
    )


def _print(found: dict[str, Any]) -> None:
    console().print(_answer(found), highlight=False)
    for what, real, model in _rows(found):
        console().print(f"  {what}: measured {real}, simulated {model}", highlight=False)


def _page(found: dict[str, Any], command: str) -> "Page":
    from drsim.study.page import Page, Section
    from drsim.study.style import seconds

    parts = [(name, seconds(value)) for name, value in found["measured"]["parts_s"].items() if value >= 0.001]
    heads = found["measured"]["rounds_at_the_disaster"]
    return Page(
        "A site is lost, for real", _answer(found), command,
        [
            Section(
                "Measured and simulated",
                [f"Simulated: the middle of {found['simulated']['runs']} disasters at different instants, and the "
                 "least and most of them. The platform's durations are those of the failover test before."],
                table=(("", "measured", "simulated"), _rows(found)),
            ),
            Section("Where the time went", table=(("part of the RTO", "measured"), parts)),
            Section(
                "The guests",
                ["Each guest writes rounds of two sectors, one after the other, for ever: what a crash may leave of "
                 "them can be told exactly. They go on from the round that they find."],
                table=(
                    ("VM", "rounds on its disk at the disaster", "on the recovered disk, going on"),
                    [(vm, str(n), str(found["measured"]["recovered_and_going_on"][vm])) for vm, n in heads.items()],
                ),
            ),
        ],
        about="Two site processes on one machine, mutual TLS between them, QEMU guests, kill -9.",
    )  # fmt: skip
