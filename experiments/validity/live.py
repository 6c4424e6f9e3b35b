"""One live run: two sites in two network namespaces, a WAN of ours between them, guests that keep to a schedule."""

import json
import os
import re
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from scenarios import GUEST_DISK, SOURCE_HOST, TARGET_HOST, TWEAKS, VPG, Parameters, Scenario, model

from drsim.cli.demo import SiteProcess, write_site
from drsim.core.errors import FileError, PlatformError
from drsim.core.units import SECOND, SECTOR
from drsim.real import nbd, pki
from drsim.real.local import guest
from drsim.sim.layout import Layout
from drsim.sim.run import guests as schedule
from drsim.verify.guests_live import connected
from drsim.verify.netns import EmulatedWan

PORT = 7400
SAMPLE = 0.2
LEAD = 1.0
ENOUGH, MOST = 7, 60
"""So many failovers that had the machine for themselves are wanted, of so many at most."""
QUIET = 0.05
"""Share of the machine that other work may have had."""
REST, LOOK = 0.5, 0.02
MEMORY = "/dev/shm"
"""Where sites keep their files in these runs: on a disk in memory, which nothing else on the machine slows down."""
USED = re.compile(r'^drsim_vra_buffer_used_bytes{vra="[^"]*"} (\S+)$', re.MULTILINE)


class Player(threading.Thread):
    """One VM's guest: its writes at their times, whatever happens, as an open loop; answers are taken beside."""

    def __init__(self, disks: Path, vm: str, writes: Any, seed: int) -> None:
        super().__init__(daemon=True)
        self._disks, self._vm, self._writes = disks, vm, writes
        self._noise = np.random.default_rng(seed).bytes(8 << 20)
        self.late = 0.0
        self.error = ""

    def begin(self, zero: float) -> None:
        self._zero = zero
        self.start()

    def run(self) -> None:
        with connected(self._disks, f"{self._vm}/data") as client:
            client.settimeout(None)
            answers = threading.Thread(target=self._answers, args=(client,), daemon=True)
            answers.start()
            w = self._writes
            columns = (w.issued.tolist(), w.lba.tolist(), w.sectors.tolist())
            for n, (issued, lba, sectors) in enumerate(zip(*columns, strict=True)):
                wait = self._zero + issued / SECOND - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                self.late = max(self.late, -wait)
                size = sectors * SECTOR
                at = n * 7919 * 64 % (len(self._noise) - size)
                head = nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.WRITE, n, lba * SECTOR, size)
                client.sendall(head + self._noise[at : at + size])
            answers.join(30)

    def _answers(self, client: socket.socket) -> None:
        left = len(self._writes.issued) * nbd.SIMPLE_REPLY.size
        with suppress(OSError):
            while left > 0 and (data := client.recv(1 << 16)):
                left -= len(data)
        if left > 0:
            self.error = f"{left // nbd.SIMPLE_REPLY.size} writes were not answered"


class Watcher(threading.Thread):
    """Polls the sites: buffers, and what they publish, which goes when a process dies."""

    def __init__(self, london: SiteProcess, leeds: SiteProcess) -> None:
        super().__init__(daemon=True)
        self._sites = {"london": london, "leeds": leeds}
        self.buffers: list[tuple[float, float]] = []
        self.facts: dict[tuple[str, float, str], str] = {}
        self.over = threading.Event()

    def run(self) -> None:
        due = 0.0
        while not self.over.wait(SAMPLE):
            with suppress(httpx.TransportError):
                self.buffers.append((time.time(), _buffer(self._sites["london"])))
            if time.monotonic() > due:
                due = time.monotonic() + 2
                self.collect()

    def collect(self) -> None:
        for name, site in self._sites.items():
            with suppress(PlatformError, FileError):
                for row in site.manager.ask("GET", "/events"):
                    self.facts[name, row["at"], row["what"]] = row["fact"]


def _buffer(site: SiteProcess) -> float:
    """Bytes in its VRAs' buffers."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(site.folder / "api.sock"))) as client:
        return sum(float(used) for used in USED.findall(client.get("http://site/metrics").text))


def go_first() -> None:
    """All that this process starts runs before whatever else the machine does, as on machines of its own."""
    with suppress(OSError):
        os.setsid()  # the kernel shares its time among sessions, and then within each
        put_first("self")


def put_first(pid: str) -> None:
    """The session of a process runs before others."""
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-15")


def measure(scenario: Scenario, folder: Path, seed: int = 1) -> dict[str, Any]:
    """Run it; gives what was seen, times in seconds since its begin."""
    with ExitStack() as stack:
        wan = stack.enter_context(EmulatedWan(scenario.wan, seed=seed))
        wan.change(rate=0.0, delay=0.0, loss=0.0)  # until the run begins
        london, leeds = _sites(scenario, folder, wan, stack)
        writes = {} if scenario.guests else _schedule(scenario, seed)
        players = [Player(london.folder / "nbd.sock", vm, writes[vm], n) for n, vm in enumerate(writes)]
        if scenario.guests:
            for vm in scenario.vms:
                london.manager.ask("POST", f"/vms/{vm}/power", {"on": True})
        new = {"name": VPG, "vms": list(scenario.vms), "target_host": TARGET_HOST, "interval": 1.0}
        london.manager.ask("POST", "/vpgs", new)
        _wait_listed(leeds)
        watcher = Watcher(london, leeds)
        watcher.start()
        wan.change(rate=scenario.rate, delay=scenario.delay, loss=scenario.loss)
        time.sleep(1.0)
        zero, clock = time.monotonic() + LEAD, time.time() + LEAD
        for player in players:
            player.begin(zero)
        time.sleep(max(0.0, zero - time.monotonic()))
        before, written = wan.counters(), _written(scenario, folder)
        seen: dict[str, Any] = {}
        _happen(scenario, wan, london, leeds, zero, seen, clock)
        time.sleep(max(0.0, zero + scenario.seconds - time.monotonic()))
        after = wan.counters()
        if "written" in seen:
            seen["written"] -= written
        watcher.collect()
        watcher.over.set()
        watcher.join()
        for player in players:
            player.join(10)
        seen["wan_bytes"] = after["forth"]["bytes"] - before["forth"]["bytes"]
        seen["packets"] = {way: {k: after[way][k] - before[way][k] for k in after[way]} for way in after}
        seen["late_s"] = max((player.late for player in players), default=0.0)
        seen["errors"] = [player.error for player in players if player.error]
        seen["buffer_peak"] = max((used for at, used in watcher.buffers if at > clock), default=0)
        seen["zero"] = clock
        seen["facts"] = sorted([at - clock, site, fact, what] for (site, at, what), fact in watcher.facts.items())
    return seen


def _sites(
    scenario: Scenario, folder: Path, wan: EmulatedWan, stack: ExitStack
) -> tuple[SiteProcess, SiteProcess]:  # fmt: skip
    pki.init(folder / "pki", ["london", "leeds"])
    size = GUEST_DISK if scenario.guests else scenario.volume
    vms = {}
    for vm in scenario.vms:
        disks = {"data": {"path": f"{vm}.disk", "size": f"{size} B"}}
        vms[vm] = {"host": SOURCE_HOST, "disks": disks}
        if scenario.guests:
            guest.image(folder / f"{vm}.disk", GUEST_DISK)
            vms[vm] |= {"memory": "16 MiB", "ready": guest.READY}
    here, there = wan.namespaces
    link = {"compress": False}
    place = f"{wan.addresses[1]}:{PORT}"
    write_site(folder, "leeds", {
        "link": {"peer": "london", "listen": place, **link}, "hosts": {TARGET_HOST: {}}, "tweaks": TWEAKS,
    })  # fmt: skip
    write_site(folder, "london", {
        "link": {"peer": "leeds", "connect": place, **link}, "hosts": {SOURCE_HOST: {}}, "vms": vms, "tweaks": TWEAKS,
    })  # fmt: skip
    leeds = SiteProcess(folder, "leeds", "--armed", before=wan.inside(there))
    stack.callback(leeds.close)
    london = SiteProcess(folder, "london", "--armed", before=wan.inside(here))
    stack.callback(london.close)
    while not london.manager.ask("GET", "/status")["peer"]["connected"]:
        time.sleep(0.05)
    return london, leeds


def _schedule(scenario: Scenario, seed: int) -> dict[str, Any]:
    """What each VM writes when: what the simulation draws for it."""
    made = model(scenario, Parameters(), seed=seed)
    layout = Layout(made)
    found = schedule(made, layout, seed)
    until = (scenario.seconds - scenario.rest) * SECOND
    return {name: found[layout.vm_ids[name]].source.take(until) for name in scenario.vms}


def _wait_listed(leeds: SiteProcess) -> None:
    deadline = time.monotonic() + 120
    while len(leeds.manager.ask("GET", f"/vpgs/{VPG}/checkpoints")) < 2:
        if time.monotonic() > deadline:
            raise PlatformError("no checkpoint is listed")
        time.sleep(0.1)


def _happen(
    scenario: Scenario, wan: EmulatedWan, london: SiteProcess, leeds: SiteProcess, zero: float, seen: dict[str, Any],
    clock: float,
) -> None:  # fmt: skip
    """What goes wrong, when it does."""

    def until(at: float) -> None:
        time.sleep(max(0.0, zero + at - time.monotonic()))

    if scenario.down is not None:
        at, lasts = scenario.down
        until(at)
        wan.change(up=False)
        until(at + lasts)
        wan.change(up=True)
        seen["back_s"] = time.monotonic() - zero
        seen["met_s"] = _met(london, zero)
    if scenario.killed is not None:
        at, away = scenario.killed
        until(at)
        leeds.kill()
        seen["killed_s"] = time.monotonic() - zero
        until(at + away)
        leeds.up()
        seen["met_s"] = _met(london, zero)
    if scenario.ends is not None:
        until(scenario.ends)
        london.kill_all()
        seen["written"] = _written(scenario, leeds.folder.parent)
        seen["failovers"] = _failovers(leeds)


def _met(site: SiteProcess, zero: float) -> float:
    """When the sites are connected again."""
    while True:
        with suppress(PlatformError, FileError):
            if site.manager.ask("GET", "/status")["peer"]["connected"]:
                return time.monotonic() - zero
        time.sleep(0.02)


def _written(scenario: Scenario, folder: Path) -> int:
    """Writes of all guests on QEMU until now: two in each round."""
    return sum(2 * guest.rounds(folder / f"{vm}.disk") for vm in scenario.vms) if scenario.guests else 0


def _failovers(leeds: SiteProcess) -> list[dict[str, Any]]:
    """Failovers that are rolled back when all VMs answer, until enough of them had the machine for themselves.

    Of each: the parts of its RTO, and the share of the machine that other work had meanwhile.
    """
    found: list[dict[str, Any]] = []
    while len(found) < MOST and sum(each["others"] <= QUIET for each in found) < ENOUGH:
        time.sleep(REST)
        begun, before = time.monotonic(), _others(leeds)
        wish = {"kind": "failover", "vpg": VPG, "commit": "none"}
        number = leeds.manager.ask("POST", "/operations", {"wish": wish})["operation"]
        while not (report := leeds.manager.ask("GET", f"/operations/{number}"))["waiting"]:
            if report["outcome"]:
                raise PlatformError(f"a failover {report['outcome']}: {report['reasons']}")
            time.sleep(LOOK)
        others = (_others(leeds) - before) / (time.monotonic() - begun) / (os.cpu_count() or 1)
        leeds.manager.ask("POST", f"/operations/{number}/decision", {"verdict": "roll back"})
        while not (report := leeds.manager.ask("GET", f"/operations/{number}"))["outcome"]:
            time.sleep(LOOK)
        found.append({"parts_s": report["parts_s"], "others": round(max(0.0, others), 3)})
    return found


def _others(leeds: SiteProcess) -> float:
    """Seconds of processors that others than us, the site and its VMs have had until now."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    ours = [os.getpid(), leeds.process.pid, *(int(path.read_text()) for path in leeds.folder.glob("vms/*/pid"))]
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK") - sum(map(_ran, ours))


def _ran(pid: int) -> float:
    """Seconds of processors that a process has had."""
    ran = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            ran += int(path.read_text().split()[0])
    return ran / SECOND


def main() -> None:
    import sys
    import tempfile

    go_first()

    from scenarios import CALIBRATION, PREDICTED

    for name in sys.argv[1:]:
        scenario = (CALIBRATION | PREDICTED)[name]
        with tempfile.TemporaryDirectory(prefix="drsim-", dir=MEMORY) as folder:
            Path(f"/tmp/validity-{name.replace(' ', '-')}.json").write_text(json.dumps(measure(scenario, Path(folder))))


if __name__ == "__main__":
    main()
